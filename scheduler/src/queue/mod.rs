//! The queue: which action runs where and when, as a state machine.
//!
//! Nothing in here does I/O, asks for the time or makes up a random number:
//! methods of [`Queue`] are told the time, and leave behind [`Effect`]s that the
//! services carry out. So each rule can be tested by itself and the whole with
//! random schedules.
//!
//! A client's Execute ([`submit`]) becomes an *operation*, attached to a *task*, the unit of
//! work; identical actions in flight share one ([`dedup`]). A task goes to the
//! *platform queue* of its platform ([`platform_queue`], [`matching`]) and waits
//! there in each *invocation* that wants it ([`seats`], [`invocation`]), within
//! which [`order`] holds. When a *worker* Synchronizes ([`synchronize`]), it is
//! given ([`assign`]) a task of the invocation that is due most ([`fairness`],
//! [`aging`], [`stickiness`]) and has not all it may ([`limits`]); a task that
//! comes when workers are idle goes to one near ([`locality`]). If the worker is
//! lost, [`retry`] decides; if it is done, [`finish`] and [`size_class`]. What workers
//! execute when the scheduler starts it takes over ([`adopt`]).
//!
//! An operator sees how it all stands ([`state`], [`list`], [`explain`], [`log`]), and can keep workers
//! from work ([`drain`]) and end actions ([`kill`]).

mod adopt;
mod aging;
mod assign;
mod brief;
mod dedup;
mod drain;
mod event;
mod explain;
mod fairness;
mod finish;
mod invocation;
mod kill;
mod limits;
mod list;
mod locality;
pub(crate) mod log;
mod map;
mod matching;
mod operation;
mod order;
mod platform_queue;
#[expect(
    clippy::module_inception,
    reason = "a file bears the name of its concept"
)]
mod queue;
mod retry;
mod seats;
mod settings;
mod size_class;
mod state;
mod stickiness;
mod submit;
mod synchronize;
mod task;
#[cfg(test)]
mod tests;
mod time;
mod timeout;
mod turnover;
mod worker;

pub use adopt::{After, Claim, MAXIMUM_CLAIMED};
pub use brief::Brief;
pub use drain::Pattern;
pub use event::{Event, Flight, Outcome as ExecutionOutcome, What};
pub use invocation::InvocationKey;
pub use limits::Limits;
pub use list::{Children, InvocationPath, Page, QueuedAfter, Workers};
pub use matching::Ignored;
pub use operation::{Stage, View};
pub use platform_queue::{Predeclared, QueueName};
pub use queue::{Effect, Queue, Random};
pub use settings::Settings;
pub use submit::{Submission, Submitted};
pub use synchronize::{Outcome, Report, Synchronization};
pub use task::{Job, TaskId};
pub use time::Now;
pub use timeout::{TimeoutError, Timeouts};
pub use turnover::Turnover;
pub use worker::{Desired, Reply, WorkerId, WorkerKey};
