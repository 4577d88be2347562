//! The queue: which action runs where and when, as a state machine.
//!
//! Nothing in here does I/O, asks for the time or makes up a random number:
//! methods of [`Queue`] are told the time, and leave behind [`Effect`]s that the
//! services carry out. So each rule can be tested by itself and the whole with
//! random schedules.
//!
//! A client's Execute ([`submit`]) becomes an *operation*, attached to a *task*, the unit of
//! work; identical actions in flight share one ([`dedup`]). A task goes to the
//! *platform queue* of its platform ([`platform_queue`], [`matching`]), waits in
//! [`order`], and is handed to a *worker* that Synchronizes ([`synchronize`]). If
//! the worker is lost, [`retry`] decides.

mod dedup;
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
mod settings;
mod submit;
mod synchronize;
mod task;
#[cfg(test)]
mod tests;
mod time;
mod timeout;
mod worker;

pub use matching::Ignored;
pub use operation::{Stage, View};
pub use queue::{Effect, Queue, Random};
pub use settings::Settings;
pub use submit::{Submission, Submitted};
pub use synchronize::{Outcome, Report, Synchronization};
pub use task::{Job, TaskId};
pub use time::Now;
pub use timeout::{TimeoutError, Timeouts};
pub use worker::{Desired, Reply, WorkerId, WorkerKey};
