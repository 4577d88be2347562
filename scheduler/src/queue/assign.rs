//! Bringing tasks and workers together.

use tonic::Code;

use super::adopt::{self, claimed};
use super::event::What;
use super::invocation::{InvocationId, ROOT};
use super::log::about;
use super::platform_queue::PlatformId;
use super::queue::{Effect, Queue, failure, no_workers_left};
use super::retry::{Ended, Verdict};
use super::task::{Progress, TaskId};
use super::time::Now;
use super::worker::{Assigned, Desired, Reply, WorkerId, WorkerKey};

impl Queue {
    /// Hands a task to an idle worker, or lets it wait in its invocations and tells
    /// its clients.
    pub(super) fn enqueue(&mut self, now: Now, id: TaskId) {
        self.enqueue_new(now, id);
        if self.tasks.get(&id).map(|task| task.progress) == Some(Progress::Queued) {
            self.notify_all(id);
        }
    }

    /// The same where no client can have heard of it yet that it does not wait.
    pub(super) fn enqueue_new(&mut self, now: Now, id: TaskId) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        let Some(queue) = self.platforms.get_mut(task.platform) else {
            // Removed for want of workers while the action cache was asked.
            self.complete(now, id, no_workers_left());
            return;
        };
        let tree = &mut queue.invocations;
        let mut seats = task.invocations();
        seats.retain(|id| tree.held_by(*id).is_none());
        // Whatever may be handed out already goes by its turn.
        if let Some(invocation) = seats.first().copied().filter(|_| !tree.is_ready())
            && !self.recovery.is_on()
            && let Some(worker) = tree.idle_worker(seats)
        {
            let (platform, do_not_cache) = (task.platform, task.job.do_not_cache);
            self.happened(
                platform,
                What::Scheduled {
                    at_once: true,
                    do_not_cache,
                },
            );
            self.give(now, id, invocation, worker);
            return;
        }
        let (platform, do_not_cache) = (task.platform, task.job.do_not_cache);
        task.progress = Progress::Queued;
        for seat in &task.seats {
            tree.queue(seat.invocation, seat.place);
        }
        self.happened(
            platform,
            What::Scheduled {
                at_once: false,
                do_not_cache,
            },
        );
        self.match_idle(now, [platform]);
    }

    /// Hands out what may be to workers that are idle. There is both only when an
    /// invocation was at its limit until now, or a worker drained.
    pub(super) fn match_idle(&mut self, now: Now, platforms: impl IntoIterator<Item = PlatformId>) {
        if self.recovery.is_on() {
            return;
        }
        for platform in platforms {
            while let Some(queue) = self.platforms.get(platform)
                && queue.invocations.get(ROOT).idle.waiting > 0
                && let Some((invocation, id)) = queue.invocations.next(|_| None)
                && let Some(task) = self.tasks.get(&id)
                && let Some(worker) = queue.invocations.idle_worker(task.invocations())
            {
                self.unqueue(id);
                self.give(now, id, invocation, worker);
            }
        }
    }

    /// Lets workers profit from what calls since the last time have set free.
    pub(super) fn use_freed(&mut self, now: Now) {
        let freed = std::mem::take(&mut self.freed);
        self.match_idle(now, freed);
    }

    fn give(&mut self, now: Now, id: TaskId, invocation: InvocationId, worker: WorkerKey) {
        self.unblock(now, worker);
        if let Some(reply) = self.assign(now, id, invocation, worker) {
            self.effects.push(Effect::Answer(worker, reply));
        }
    }

    /// Takes a task that is about to start out of the queues where it stands.
    fn unqueue(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get(&id) else {
            return;
        };
        if let Some(queue) = self.platforms.get_mut(task.platform) {
            for seat in &task.seats {
                queue.invocations.take(seat.invocation, seat.place);
            }
        }
    }

    /// Gives an idle worker the next task of its queue.
    pub(super) fn next(&mut self, now: Now, key: WorkerKey) -> Option<Reply> {
        let worker = self.workers.get(&key)?;
        if worker.is_drained() || self.recovery.is_on() {
            return None;
        }
        let queue = self.platforms.get(worker.platform)?;
        let limits = &queue.stickiness_limits;
        let preferred = |depth| worker.stay.preferred(depth, limits, now.instant);
        let (invocation, id) = queue.invocations.next(preferred)?;
        let path = match limits.is_empty() {
            true => Vec::new(),
            false => queue.invocations.path(invocation),
        };
        let stayed = path.iter().enumerate().take_while(|(depth, id)| {
            worker.stay.preferred(*depth, limits, now.instant) == Some(**id)
        });
        let retained = u32::try_from(stayed.count()).unwrap_or(u32::MAX);
        let platform = worker.platform;
        self.happened(platform, What::Taken { retained });
        self.unqueue(id);
        self.assign(now, id, invocation, key)
    }

    /// Gives a task that stands in no queue to a worker that has none, on behalf
    /// of an invocation. The reply is for that worker.
    pub(super) fn assign(
        &mut self,
        now: Now,
        id: TaskId,
        invocation: InvocationId,
        key: WorkerKey,
    ) -> Option<Reply> {
        let (task, worker) = (self.tasks.get_mut(&id)?, self.workers.get_mut(&key)?);
        let tree = &mut self.platforms.get_mut(task.platform)?.invocations;
        let platform = task.platform;
        let queued = now.wall.duration_since(task.job.queued).unwrap_or_default();
        task.progress = Progress::Executing(key);
        tree.start(&task.invocations());
        worker.task = Some(Assigned {
            task: id,
            sends: 1,
            since: now.instant,
        });
        tree.remove_idle(worker.stay.at());
        worker.stay(tree, invocation, now.instant);
        self.happened(platform, What::Started { queued });
        about!(DEBUG, self, id, "started");
        self.notify_all(id);
        self.order(now, id)
    }

    /// The word to a worker to execute a task.
    pub(super) fn order(&self, now: Now, id: TaskId) -> Option<Reply> {
        let task = self.tasks.get(&id)?;
        Some(Reply {
            next: now.wall_after(self.settings.report_interval(self.workers.len())),
            desired: Desired::Execute(task.job.clone()),
            operations: claimed(task),
        })
    }

    /// The word to a worker to go on with what it does.
    pub(super) fn go_on(&self, now: Now, id: Option<TaskId>) -> Reply {
        let task = id.and_then(|id| self.tasks.get(&id));
        Reply {
            next: now.wall_after(self.settings.report_interval(self.workers.len())),
            desired: Desired::Unchanged,
            operations: task.map(|task| claimed(task)).unwrap_or_default(),
        }
    }

    /// Takes its task from a worker, which is idle from now on, at an invocation:
    /// that which all have in common for whom it worked, or, if the work came to
    /// nothing, the root.
    pub(super) fn release(&mut self, now: Now, key: WorkerKey, finished: bool) -> Option<TaskId> {
        let worker = self.workers.get_mut(&key)?;
        let id = worker.task.take()?.task;
        let tree = &mut self.platforms.get_mut(worker.platform)?.invocations;
        let at = self.tasks.get(&id).filter(|_| finished);
        let at = at.map_or(ROOT, |task| tree.common(&task.invocations()));
        worker.stay(tree, at, now.instant);
        tree.add_idle(at);
        if worker.terminating {
            self.effects.push(Effect::Freed);
        }
        Some(id)
    }

    /// Takes back a task that is with no worker any more, and queues it again.
    pub(super) fn requeue(&mut self, now: Now, id: TaskId) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        if task.job.brief.is_none() {
            self.complete(now, id, adopt::lost());
            return;
        }
        if let Progress::Executing(_) = task.progress
            && let Some(queue) = self.platforms.get_mut(task.platform)
        {
            queue.invocations.stop(&task.invocations());
            task.progress = Progress::CacheCheck;
            self.freed.insert(task.platform);
        }
        self.enqueue(now, id);
        self.use_freed(now);
    }

    /// A worker that had this task is gone, or has forgotten it.
    pub(super) fn retry(&mut self, now: Now, id: TaskId, worker: WorkerId) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        let limit = self.settings.maximum_attempts;
        let lost = worker.clone();
        match task.attempts.add(worker, Ended::Lost, limit) {
            Verdict::Retry => {
                let platform = task.platform;
                self.happened(platform, What::Retried);
                about!(WARN, self, id, %lost, "worker lost, trying again");
                self.requeue(now, id);
            }
            Verdict::GiveUp(message) => {
                about!(WARN, self, id, %lost, message, "giving up");
                self.complete(now, id, failure(Code::Unavailable, message));
                self.use_freed(now);
            }
        }
    }
}
