//! Units of work.

use std::cmp::Reverse;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proto::{Digest, InstanceName};
use smallvec::SmallVec;
use uuid::Uuid;

use super::brief::Brief;
use super::platform_queue::PlatformId;
use super::retry::Attempts;
use super::seats::Seat;
use super::worker::WorkerKey;

/// Names a task within one queue, for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(pub(super) u64);

/// So many operations share one task. A client that wants the action beyond them
/// begins another, which counts as queued: to join and to leave costs the more the
/// more there are.
pub(super) const SHARED: usize = 1000;

/// What a worker is given to do.
#[derive(Clone, Debug)]
pub struct Job {
    /// The action's instance name, in full.
    pub instance: InstanceName,
    /// What of it follows the prefix of the worker's queue.
    pub instance_suffix: InstanceName,
    /// The action as the client stored it.
    pub digest: Digest,
    /// What else its worker is told. None of an adopted one that no client has asked
    /// for since: it cannot be handed out again.
    pub brief: Option<Brief>,
    /// As the action says: it is not to be shared.
    pub do_not_cache: bool,
    /// When the task came into being.
    pub queued: SystemTime,
}

/// Jobs are equal that are the same action of the same instance, whatever else is known
/// of them.
impl PartialEq for Job {
    fn eq(&self, other: &Self) -> bool {
        (self.digest, &self.instance) == (other.digest, &other.instance)
    }
}

impl Eq for Job {}

impl Hash for Job {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.digest, &self.instance).hash(state);
    }
}

/// How far a task has come.
///
/// ```text
/// CacheCheck ─(miss, or a client that wants no look-up joins)─► Queued ⇄ Executing
/// ```
///
/// An Executing task goes back to Queued when its worker is lost. From each stage
/// it may complete, which removes it: what clients see afterwards is kept in
/// their operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Its result is being looked up in the action cache.
    CacheCheck,
    /// It stands in its invocations' queues.
    Queued,
    /// A worker has it.
    Executing(WorkerKey),
}

/// One execution to be had, whoever and however many want it. It lives while it
/// is unfinished and at least one operation is attached.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) job: Arc<Job>,
    pub(super) platform: PlatformId,
    /// Most often there is one.
    pub(super) seats: SmallVec<[Seat; 1]>,
    /// How long it is expected to take.
    pub(super) expected: Reverse<Duration>,
    pub(super) progress: Progress,
    pub(super) operations: SmallVec<[Uuid; 1]>,
    pub(super) attempts: Attempts,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proto::DigestFunction;
    use proto::wire::remoteworker::desired_state::Executing;

    /// A job whose digest is that of `content`.
    pub(in super::super) fn job(instance: &str, content: &[u8]) -> Job {
        Job {
            instance: InstanceName::new(instance).unwrap(),
            instance_suffix: InstanceName::empty(),
            digest: Digest::of(DigestFunction::Sha256, content),
            brief: Some(Brief::new(&Executing::default())),
            do_not_cache: false,
            queued: SystemTime::UNIX_EPOCH,
        }
    }
}
