//! Workers: the places where tasks run.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use uuid::Uuid;

use super::invocation::{InvocationId, Invocations};
use super::platform_queue::PlatformId;
use super::stickiness::Stay;
use super::task::{Job, TaskId};

/// Names a worker within one queue, for as long as the worker is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerKey(pub(super) u64);

/// What a worker calls itself: opaque pairs, unique within its platform queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub(super) Arc<BTreeMap<String, String>>);

impl FromIterator<(String, String)> for WorkerId {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self(Arc::new(pairs.into_iter().collect()))
    }
}

/// `name=value` pairs, comma-separated, in braces.
impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, (name, value)) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{name}={value}")?;
        }
        f.write_str("}")
    }
}

/// A worker, from its first Synchronize until it has been silent too long.
///
/// Two things vary apart from each other. A Synchronize of the worker is
/// *blocked* here, which only happens while it has no task, or it is not; then
/// `expires` says when the worker is forgotten unless it calls again. And it has
/// a *task* or none: what the scheduler handed out and neither heard completed
/// nor took back, which is not always what the worker is doing. Each Synchronize
/// brings the two in line.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) id: WorkerId,
    pub(super) platform: PlatformId,
    pub(super) task: Option<Assigned>,
    pub(super) blocked: Option<Blocked>,
    pub(super) expires: Option<Instant>,
    /// A drain of its queue matches it.
    pub(super) drained: bool,
    /// An operator has it end for good.
    pub(super) terminating: bool,
    /// The invocation it works for, or worked for last: pinned.
    pub(super) stay: Stay,
}

impl Worker {
    /// Goes to work for another invocation.
    pub(super) fn stay(&mut self, tree: &mut Invocations, id: InvocationId, now: Instant) {
        let left = self.stay.at();
        tree.pin(id);
        self.stay.move_to(tree, id, now);
        tree.unpin(left);
    }

    /// It is given no new task.
    pub(super) fn is_drained(&self) -> bool {
        self.drained || self.terminating
    }
}

/// The task a worker has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Assigned {
    pub(super) task: TaskId,
    /// How often it was sent to this worker.
    pub(super) sends: u32,
    /// Since when it has it.
    pub(super) since: Instant,
}

/// A Synchronize that waits for an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocked {
    /// Its place among the idle workers of the platform queue.
    pub(super) since: u64,
    /// When it is answered even if there is nothing to do.
    pub(super) until: Instant,
}

/// The answer to a Synchronize.
#[derive(Clone, Debug)]
pub struct Reply {
    /// When the worker should call again, at the latest.
    pub next: SystemTime,
    /// What it should do.
    pub desired: Desired,
    /// Some of the operations that wait for what it executes: see [`Claim`](super::Claim).
    pub operations: Vec<Uuid>,
}

/// What a worker should do.
#[derive(Clone, Debug)]
pub enum Desired {
    /// Go on with what it does.
    Unchanged,
    /// Nothing.
    Idle,
    /// Execute this.
    Execute(Arc<Job>),
}
