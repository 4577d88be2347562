//! Taking over what workers execute already.
//!
//! A scheduler that starts knows of no operation, while workers may be executing
//! for one that ended before. So a worker that is new here may bring an execution
//! along, with what there is to know of it: a [`Claim`]. It becomes a task like any
//! other, or that of a client that has asked for the same again meanwhile, and
//! clients find their operations by the names they had. Nothing that may be shared
//! is executed twice.
//!
//! For that the workers have to be heard first. After an unclean end the queue is
//! therefore *recovering* for a while: clients' actions are taken in and queued, but
//! none is handed out. It ends when as many workers have called as there should be,
//! or when its time is up.
//!
//! A worker is new to this scheduler but once, and what it brings along later counts
//! for nothing: else what is cancelled here would be taken over again.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proto::wire::rev2::ExecuteResponse;
use proto::{Digest, InstanceName};
use smallvec::SmallVec;
use tonic::Code;
use uuid::Uuid;

use super::aging::Level;
use super::event::What;
use super::invocation::Lineage;
use super::log::about;
use super::operation::{Operation, State};
use super::platform_queue::PlatformId;
use super::queue::{Queue, failure};
use super::retry::Attempts;
use super::size_class;
use super::task::{Job, Progress, Task, TaskId};
use super::time::{Now, Timer, Timers};
use super::worker::WorkerKey;

/// How many operations of a task its worker is told of.
pub const MAXIMUM_CLAIMED: usize = 64;

/// What a worker can tell of an execution beyond the action's digest, as it was
/// told itself.
#[derive(Clone, Debug)]
pub struct Claim {
    /// What follows the worker's prefix in the instance name.
    pub suffix: InstanceName,
    /// The operations that waited for it.
    pub operations: Vec<Uuid>,
    /// When the task was queued.
    pub queued: SystemTime,
    /// The action is not to be shared.
    pub do_not_cache: bool,
}

/// After which end a scheduler starts, so that it has to wait for workers.
#[derive(Clone, Copy, Debug)]
pub struct After {
    /// In which time every worker that is still there will have called.
    pub longest: Duration,
    /// How many workers there should be, if that is known.
    pub workers: Option<usize>,
}

/// Whether workers are being waited for.
#[derive(Debug)]
pub(super) struct Recovery(Option<After>);

impl Recovery {
    pub(super) fn begin(after: Option<After>, now: Now, timers: &mut Timers) -> Self {
        if let Some(after) = after {
            timers.set(now.instant + after.longest, Timer::Recovery);
        }
        Self(after)
    }

    pub(super) fn is_on(&self) -> bool {
        self.0.is_some()
    }
}

/// The operations of a task that its worker is to know of.
pub(super) fn claimed(task: &Task) -> Vec<Uuid> {
    task.operations
        .iter()
        .copied()
        .take(MAXIMUM_CLAIMED)
        .collect()
}

/// The response to an adopted action whose worker gives it up, before a client has
/// brought the action itself.
pub(super) fn lost() -> ExecuteResponse {
    failure(
        Code::Unavailable,
        "the scheduler was restarted while the action was executing, and then its worker was lost",
    )
}

impl Queue {
    /// Ends the recovery if as many workers have called as were expected.
    pub(super) fn note_recovered(&mut self, now: Now) {
        let expected = self.recovery.0.and_then(|after| after.workers);
        if expected.is_some_and(|expected| self.workers.len() >= expected) {
            self.timers.clear(
                self.recovery.0.map(|after| self.started + after.longest),
                Timer::Recovery,
            );
            self.end_recovery(now);
        }
    }

    /// Hands out what may be from now on.
    pub(super) fn end_recovery(&mut self, now: Now) {
        self.recovery = Recovery(None);
        let all: Vec<_> = self.platforms.ids().collect();
        self.match_idle(now, all);
        tracing::info!(
            workers = self.workers.len(),
            tasks = self.tasks.len(),
            "recovered"
        );
    }

    /// Takes over what a worker executes. It does not where another worker has the
    /// same, or where nobody can be waiting for it.
    pub(super) fn adopt(&mut self, now: Now, key: WorkerKey, digest: Digest, claim: &Claim) {
        let Some(worker) = self.workers.get(&key).filter(|w| w.task.is_none()) else {
            return;
        };
        let platform = worker.platform;
        let Some(queue) = self.platforms.get(platform) else {
            return;
        };
        let job = Arc::new(Job {
            instance: queue.name.prefix.join(&claim.suffix),
            instance_suffix: claim.suffix.clone(),
            digest,
            brief: None,
            do_not_cache: claim.do_not_cache,
            queued: claim.queued,
        });
        let wanted = self.dedup.find(&job);
        let known = |name: &Uuid| self.operations.contains_key(name);
        let names: Vec<_> = claim
            .operations
            .iter()
            .filter(|name| !known(name))
            .collect();
        let id = match wanted {
            Some(id) => {
                let progress = self.tasks.get(&id).map(|task| task.progress);
                if matches!(progress, None | Some(Progress::Executing(_))) {
                    return;
                }
                id
            }
            None if names.is_empty() => return,
            None => self.make_adopted(&job, platform),
        };
        // Where it stood in a queue it stands no more.
        self.place(id, platform);
        for name in names {
            self.attach(now, *name, id, &job);
        }
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        // The worker's result will say when it was queued first.
        task.job = Arc::new(Job {
            brief: task.job.brief.clone(),
            ..(*job).clone()
        });
        let seats = task.invocations();
        let Some(queue) = self.platforms.get(platform) else {
            return;
        };
        let invocation = queue.invocations.common(&seats);
        // What to do the worker knows already.
        let _ = self.assign(now, id, invocation, key);
        self.happened(platform, What::Adopted);
        about!(INFO, self, id, "adopted what a worker executes");
    }

    fn make_adopted(&mut self, job: &Arc<Job>, platform: PlatformId) -> TaskId {
        let id = TaskId(self.next_id());
        self.dedup.insert(job, id);
        let timeout = self.settings.timeouts.default;
        let task = Task {
            job: job.clone(),
            platform,
            seats: SmallVec::new(),
            expected: Reverse(size_class::expected(timeout)),
            progress: Progress::CacheCheck,
            operations: SmallVec::new(),
            attempts: Attempts::default(),
        };
        self.tasks.insert(id, Box::new(task));
        id
    }

    /// Makes an operation of a client that has not come back yet. Whose it was the
    /// worker does not tell, so it counts for no invocation.
    fn attach(&mut self, now: Now, name: Uuid, id: TaskId, job: &Arc<Job>) {
        let expires = now.instant + self.settings.operation_expiry;
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        let Some(queue) = self.platforms.get(task.platform) else {
            return;
        };
        task.operations.push(name);
        let interval = self.settings.aging_interval;
        let level = Level::new(0, interval, self.started, now.instant);
        let lineage: Lineage = Arc::new([]);
        let operation = Operation {
            job: job.clone(),
            queue: queue.name.clone(),
            queued: job.queued,
            priority: 0,
            lineage: lineage.clone(),
            level,
            state: State::Attached(id),
            waiters: 0,
            expires: Some(expires),
        };
        self.operations.insert(name, Box::new(operation));
        self.timers.set(expires, Timer::Operation(name));
        self.seat(id, &lineage, level);
    }
}
