//! The aggregate: what all rules act upon, and the ways of a task through it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::wire::rev2;
use tonic::{Code, Status};
use uuid::Uuid;

use super::adopt::Recovery;
use super::dedup::Dedup;
use super::event::{Event, What};
use super::invocation::{Lineage, ROOT};
use super::log::about;
use super::map::Map;
use super::operation::{Ended, Operation, State, View};
use super::platform_queue::{PlatformId, PlatformQueues, Predeclared};
use super::settings::Settings;
use super::task::{Progress, Task, TaskId};
use super::time::{Now, Timer, Timers};
use super::worker::{Reply, Worker, WorkerKey};

/// Where random numbers come from: the names of operations, the spread of polls.
pub type Random = Box<dyn FnMut() -> u128 + Send>;

/// Something to be done outside, in the order given.
#[derive(Debug)]
pub enum Effect {
    /// Tell the clients that wait for this operation.
    Updated(Uuid, View),
    /// Forget this operation. Nobody waits for it.
    Removed(Uuid),
    /// Answer the Synchronize of this worker that is being held.
    Answer(WorkerKey, Reply),
    /// Tell those who wait for workers to end: one of them has no task any more.
    Freed,
    /// Count this.
    Happened(Event),
}

/// The queue. See the module for what it is made of.
pub struct Queue {
    pub(super) settings: Settings,
    pub(super) started: Instant,
    pub(super) random: Random,
    last_id: u64,
    pub(super) platforms: PlatformQueues,
    pub(super) workers: Map<WorkerKey, Worker>,
    // What maps hold is in boxes, as a map has up to twice the room that it needs.
    pub(super) tasks: Map<TaskId, Box<Task>>,
    pub(super) operations: Map<Uuid, Box<Operation>>,
    pub(super) dedup: Dedup,
    pub(super) recovery: Recovery,
    pub(super) timers: Timers,
    /// Queues where fewer execute than before, so that more may be handed out.
    pub(super) freed: BTreeSet<PlatformId>,
    pub(super) effects: Vec<Effect>,
}

impl Queue {
    /// An empty queue that starts now. The predeclared platform queues exist
    /// from the start and for ever: actions wait in them for workers to come.
    #[must_use]
    pub fn new(settings: Settings, predeclared: &[Predeclared], random: Random, now: Now) -> Self {
        let mut platforms = PlatformQueues::new(settings.limits);
        for declared in predeclared {
            let platform = settings.ignored.key(&declared.platform);
            platforms.declare(declared, &platform);
        }
        let mut timers = Timers::default();
        let recovery = Recovery::begin(settings.recovery, now, &mut timers);
        Self {
            settings,
            recovery,
            timers,
            started: now.instant,
            random,
            last_id: 0,
            platforms,
            workers: Map::default(),
            tasks: Map::default(),
            operations: Map::default(),
            dedup: Dedup::default(),
            freed: BTreeSet::new(),
            effects: Vec::new(),
        }
    }

    /// Lets every deadline up to now pass. The other methods do so first thing.
    pub fn advance(&mut self, now: Now) {
        while let Some(timer) = self.timers.pop_due(now.instant) {
            match timer {
                Timer::Operation(name) => self.remove_operation(now, name),
                Timer::Poll(worker) => self.end_poll(now, worker),
                Timer::Worker(worker) => self.lose_worker(now, worker),
                Timer::Platform(platform) => self.remove_platform(now, platform),
                Timer::Recovery => self.end_recovery(now),
            }
        }
        self.use_freed(now);
    }

    /// When [`Queue::advance`] has something to do next.
    #[must_use]
    pub fn next_timer(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Whether any worker has a task.
    #[must_use]
    pub fn is_executing(&self) -> bool {
        self.workers.values().any(|worker| worker.task.is_some())
    }

    /// Takes what the calls since the last time have left to be done.
    pub fn take_effects(&mut self) -> impl Iterator<Item = Effect> + '_ {
        self.effects.drain(..)
    }

    /// Ends a task: all operations attached to it get this response.
    pub(super) fn complete(&mut self, now: Now, id: TaskId, response: rev2::ExecuteResponse) {
        let code = response.status.as_ref().map_or(0, |status| status.code);
        about!(DEBUG, self, id, code, "completed");
        let Some(task) = self.discard(id) else {
            return;
        };
        let ended = Arc::new(Ended {
            response: Arc::new(response),
            at: now.instant,
        });
        for name in task.operations {
            if let Some(operation) = self.operations.get_mut(&name) {
                operation.state = State::Done(ended.clone());
                self.notify(name);
            }
        }
    }

    /// Takes a task out of everything that refers to it, its operations excepted.
    /// A worker that executes it hears so when it calls next.
    fn discard(&mut self, id: TaskId) -> Option<Box<Task>> {
        let mut task = self.tasks.remove(&id)?;
        self.dedup.remove(&task.job, id);
        if let Progress::Executing(key) = task.progress
            && let Some(worker) = self.workers.get_mut(&key)
            && worker.task.is_some_and(|assigned| assigned.task == id)
            && let Some(queue) = self.platforms.get_mut(worker.platform)
        {
            worker.task = None;
            let tree = &mut queue.invocations;
            tree.unpin(worker.stay.leave());
            tree.add_idle(ROOT);
            if worker.terminating {
                self.effects.push(Effect::Freed);
            }
        }
        self.unseat(&mut task);
        Some(task)
    }

    /// Takes an operation off its task. A task that nobody wants any more ends.
    pub(super) fn detach(&mut self, name: Uuid, id: TaskId, lineage: &Lineage) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        task.operations.retain(|other| *other != name);
        if task.operations.is_empty() {
            self.discard(id);
        } else {
            self.reseat(id, lineage);
        }
    }

    fn remove_operation(&mut self, now: Now, name: Uuid) {
        if let Some(operation) = self.operations.get(&name)
            && let State::Attached(task) = operation.state
        {
            about!(INFO, self, task, "nobody waits any more");
        }
        let Some(operation) = self.operations.remove(&name) else {
            return;
        };
        match operation.state {
            State::Attached(task) => self.detach(name, task, &operation.lineage),
            State::Done(ended) => {
                // Its last operation takes the task's outcome along.
                if let Some(ended) = Arc::into_inner(ended) {
                    let completed = now.instant.saturating_duration_since(ended.at);
                    self.effects.push(Effect::Happened(Event {
                        queue: operation.queue,
                        what: What::Forgotten { completed },
                    }));
                }
            }
        }
        self.effects.push(Effect::Removed(name));
    }

    /// No worker has come back to a platform queue for too long.
    fn remove_platform(&mut self, now: Now, id: PlatformId) {
        let Some(queue) = self.platforms.remove(id) else {
            return;
        };
        for invocation in queue.invocations.iter() {
            for place in invocation.order.iter() {
                self.complete(now, place.task, no_workers_left());
            }
        }
    }

    pub(super) fn notify(&mut self, name: Uuid) {
        if let Some(view) = self.view(name) {
            self.effects.push(Effect::Updated(name, view));
        }
    }

    pub(super) fn notify_all(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        let operations = std::mem::take(&mut task.operations);
        for name in &operations {
            self.notify(*name);
        }
        if let Some(task) = self.tasks.get_mut(&id) {
            task.operations = operations;
        }
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// A random span from half of `longest` up to it.
    pub(super) fn jitter(&mut self, longest: Duration) -> Duration {
        #[expect(clippy::cast_possible_truncation, reason = "any 32 of the bits do")]
        let fraction = f64::from((self.random)() as u32) / f64::from(u32::MAX);
        longest.mul_f64(0.5 + fraction / 2.0)
    }
}

/// The response of an action that ended without a result.
pub(super) fn failure(code: Code, message: impl Into<String>) -> rev2::ExecuteResponse {
    rev2::ExecuteResponse {
        status: Some(proto::status::to_wire(&Status::new(code, message))),
        ..Default::default()
    }
}

pub(super) fn no_workers_left() -> rev2::ExecuteResponse {
    failure(
        Code::Unavailable,
        "workers for the action's platform disappeared while it was queued",
    )
}
