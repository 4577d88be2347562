//! What happens in the queue, for those who count.

use std::sync::Arc;
use std::time::Duration;

use proto::wire::rev2::ExecuteResponse;
use tonic::Code;

use super::platform_queue::{PlatformId, QueueName};
use super::queue::{Effect, Queue};

/// Something that happened in a platform queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The queue.
    pub queue: Arc<QueueName>,
    /// What.
    pub what: What,
}

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// An operation came.
    Submitted(Flight),
    /// A task may be executed from now on.
    Scheduled {
        /// Whether a worker that was idle got it at once; else it is queued.
        at_once: bool,
        /// REv2's, of the action.
        do_not_cache: bool,
    },
    /// A worker was given a task.
    Started {
        /// How long after it came.
        queued: Duration,
    },
    /// A worker that asked for a task got the next of its queue.
    Taken {
        /// At how many levels of the tree, the outermost first, it stayed with an
        /// invocation as its queue's limits of stickiness let it.
        retained: u32,
    },
    /// A worker brought a task to an end.
    Executed {
        /// How long after it was given.
        took: Duration,
        /// With which status.
        code: Code,
        /// How that is to be called.
        result: Outcome,
        /// How many attempts at the task came to nothing before.
        retries: u32,
    },
    /// What a worker executed for an earlier scheduler is a task of this one.
    Adopted,
    /// The last operation of a task that is over has been removed.
    Forgotten {
        /// How long after the task's end.
        completed: Duration,
    },
    /// An operator has a worker terminate.
    WorkerTerminating,
    /// A task is queued once more, since its worker was lost or failed.
    Retried,
    /// A worker called for the first time.
    WorkerCame,
    /// A worker went silent.
    WorkerLeft {
        /// Whether it had a task.
        executing: bool,
    },
}

/// Whether an operation's action was in flight already, as Buildbarn's metrics tell it
/// apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flight {
    /// It was not.
    New,
    /// It was, for the same invocation too.
    SameInvocation,
    /// It was, for others alone.
    OtherInvocation,
}

/// How an execution went, as Buildbarn's metrics tell it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command's exit code was zero.
    Success,
    /// It was another.
    NonZeroExitCode,
    /// The status was OK, but there was no result.
    ActionResultMissing,
    /// The status was not OK.
    Failure,
}

impl Outcome {
    pub(super) fn of(response: &ExecuteResponse) -> (Self, Code) {
        let status = response.status.as_ref();
        let code = status.map_or(Code::Ok, |status| Code::from_i32(status.code));
        let outcome = match &response.result {
            _ if code != Code::Ok => Self::Failure,
            None => Self::ActionResultMissing,
            Some(result) if result.exit_code == 0 => Self::Success,
            Some(_) => Self::NonZeroExitCode,
        };
        (outcome, code)
    }
}

impl Queue {
    /// Tells that something happened.
    pub(super) fn happened(&mut self, platform: PlatformId, what: What) {
        if let Some(queue) = self.platforms.get(platform) {
            let queue = queue.name.clone();
            self.effects.push(Effect::Happened(Event { queue, what }));
        }
    }
}
