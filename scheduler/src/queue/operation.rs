//! What a client sees of its execution.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use proto::Digest;
use proto::wire::rev2::{ExecuteResponse, execution_stage};

use super::aging::Level;
use super::invocation::Lineage;
use super::platform_queue::QueueName;
use super::task::{Job, TaskId};
use super::worker::WorkerId;

/// One client's Execute: a view of a task, with a name and a priority of its own.
///
/// It is *attached* to its task until that completes or the operation is
/// cancelled, and *done* from then on. Independently of that, clients wait for it
/// or none does; after a grace period in which none did it is removed, so a
/// client whose connection broke can come back with WaitExecution.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) job: Arc<Job>,
    /// Where it is or was queued.
    pub(super) queue: Arc<QueueName>,
    /// When it came.
    pub(super) queued: SystemTime,
    /// As the client gave it.
    pub(super) priority: i32,
    /// Whose it is.
    pub(super) lineage: Lineage,
    pub(super) level: Level,
    pub(super) state: State,
    /// How many clients wait for it: at first one.
    pub(super) waiters: usize,
    pub(super) expires: Option<Instant>,
}

#[derive(Clone, Debug)]
pub(super) enum State {
    /// Its task is unfinished.
    Attached(TaskId),
    /// It is over.
    Done(Arc<Ended>),
}

/// How a task ended: shared by its operations.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) response: Arc<ExecuteResponse>,
    pub(super) at: Instant,
}

/// The stage of an operation, as REv2 names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The action cache is being asked.
    CacheCheck,
    /// It waits for a worker.
    Queued,
    /// A worker has it.
    Executing,
    /// There is a response.
    Completed,
}

impl Stage {
    /// The REv2 `ExecutionStage.Value`.
    #[must_use]
    pub const fn to_wire(self) -> i32 {
        (match self {
            Self::CacheCheck => execution_stage::Value::CacheCheck,
            Self::Queued => execution_stage::Value::Queued,
            Self::Executing => execution_stage::Value::Executing,
            Self::Completed => execution_stage::Value::Completed,
        }) as i32
    }
}

impl Stage {
    /// The stage of a REv2 `ExecutionStage.Value`; none for UNKNOWN.
    ///
    /// # Errors
    /// It is none of REv2's.
    pub fn from_wire(value: i32) -> Result<Option<Self>, String> {
        match execution_stage::Value::try_from(value) {
            Ok(execution_stage::Value::Unknown) => Ok(None),
            Ok(execution_stage::Value::CacheCheck) => Ok(Some(Self::CacheCheck)),
            Ok(execution_stage::Value::Queued) => Ok(Some(Self::Queued)),
            Ok(execution_stage::Value::Executing) => Ok(Some(Self::Executing)),
            Ok(execution_stage::Value::Completed) => Ok(Some(Self::Completed)),
            Err(_) => Err(format!("execution stage {value} is unknown")),
        }
    }
}

/// What there is to tell a client about its operation now.
#[derive(Clone, Debug)]
pub struct View {
    /// The stage.
    pub stage: Stage,
    /// The action.
    pub action: Digest,
    /// When the operation came.
    pub queued: SystemTime,
    /// The worker that has it.
    pub worker: Option<WorkerId>,
    /// The outcome, when completed.
    pub response: Option<Arc<ExecuteResponse>>,
}

impl Operation {
    /// One more client waits. Returns the removal that is thereby called off.
    pub(super) fn join(&mut self) -> Option<Instant> {
        self.waiters += 1;
        self.expires.take()
    }

    /// A client stops waiting. Returns when to remove the operation, if that
    /// was the last one.
    pub(super) fn leave(&mut self, now: Instant, grace: Duration) -> Option<Instant> {
        self.waiters = self.waiters.saturating_sub(1);
        if self.waiters > 0 || self.expires.is_some() {
            return None;
        }
        self.expires = Some(now + grace);
        self.expires
    }
}

#[cfg(test)]
mod tests {
    use super::super::task::tests::job;
    use super::*;
    use proto::{InstanceName, PlatformKey};

    #[test]
    fn removal_is_due_a_grace_period_after_the_last_waiter_left() {
        let grace = Duration::from_secs(60);
        let start = Instant::now();
        let mut operation = Operation {
            job: Arc::new(job("", b"")),
            queue: Arc::new(QueueName {
                prefix: InstanceName::empty(),
                platform: PlatformKey::from_properties([]),
                size_class: 0,
            }),
            queued: SystemTime::UNIX_EPOCH,
            priority: 0,
            lineage: [].into(),
            level: Level::new(0, None, start, start),
            state: State::Attached(TaskId(0)),
            waiters: 1,
            expires: None,
        };
        assert_eq!(operation.join(), None);
        assert_eq!(operation.leave(start, grace), None);
        assert_eq!(operation.leave(start, grace), Some(start + grace));
        assert_eq!(operation.join(), Some(start + grace));
        let later = start + grace;
        assert_eq!(operation.leave(later, grace), Some(later + grace));
    }
}
