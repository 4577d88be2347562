//! The workers' side: what Synchronize does in each state of a worker.
//!
//! | worker says | it has that task | it has another task | it has none |
//! |---|---|---|---|
//! | idle | – | send it again | next task, else hold |
//! | executing | go on | send its task | next task, else idle |
//! | completed | complete, then as idle | send its task | next task, else hold |
//!
//! The scheduler's word on which task a worker has decides. The wire names
//! executions by the action's digest alone, so that is what "that task" means; a
//! result that says when its task was queued is held against that too.
//! A worker that prefers being idle is given nothing: if it has a task that it
//! does not execute, that task goes elsewhere.

use std::sync::Arc;

use proto::messages::timestamp;
use proto::wire::rev2::ExecuteResponse;
use proto::{Digest, InstanceName, PlatformKey};
use tonic::Code;

use super::adopt::{self, Claim};
use super::event::What;
use super::invocation::ROOT;
use super::log::about;
use super::platform_queue::PlatformId;
use super::queue::{Effect, Queue, failure};
use super::stickiness::Stay;
use super::task::Job;
use super::time::{Now, Timer};
use super::worker::{Assigned, Blocked, Desired, Reply, Worker, WorkerId, WorkerKey};
use crate::error::Error;

/// What a worker says.
#[derive(Clone, Debug)]
pub struct Synchronization {
    /// Who it is.
    pub worker: WorkerId,
    /// Which instance names it serves.
    pub prefix: InstanceName,
    /// Which platform it is.
    pub platform: PlatformKey,
    /// Of which size it is; 0 where there are no size classes.
    pub size_class: u32,
    /// What it does.
    pub report: Report,
    /// It takes no work now.
    pub prefer_being_idle: bool,
    /// Whose that is which it executes or has executed, as far as it tells.
    pub claim: Option<Claim>,
}

/// What a worker does.
#[derive(Clone, Debug)]
pub enum Report {
    /// Nothing.
    Idle,
    /// It executes the action of this digest.
    Executing(Digest),
    /// It has executed it.
    Completed(Digest, Box<ExecuteResponse>),
}

/// What to do with a Synchronize.
#[derive(Debug)]
pub enum Outcome {
    /// Answer it.
    Reply(Reply),
    /// Hold it, until [`Effect::Answer`] for this worker.
    Hold(WorkerKey),
}

impl Queue {
    /// A worker says what it does and hears what it should do.
    ///
    /// # Errors
    /// [`Error::DuplicateWorker`]; [`Error::Invalid`] where its size class does not
    /// fit in its queue.
    pub fn synchronize(&mut self, now: Now, call: Synchronization) -> Result<Outcome, Error> {
        self.advance(now);
        let (key, is_new) = self.worker(&call)?;
        // Until its call returns, a worker cannot have gone silent.
        let expires = self.workers.get_mut(&key).and_then(|w| w.expires.take());
        self.timers.clear(expires, Timer::Worker(key));

        if let Some(claim) = &call.claim
            && let Report::Executing(digest) | Report::Completed(digest, _) = &call.report
            && (is_new || self.recovery.is_on())
        {
            self.adopt(now, key, *digest, claim);
        }
        self.note_recovered(now);
        let assigned = self.workers.get(&key).and_then(|worker| worker.task);
        // Workers of another make do not tell the digest's function.
        let has = |digest: &Digest| {
            let task = assigned.and_then(|assigned| self.tasks.get(&assigned.task));
            task.is_some_and(|task| task.job.digest.is_written_as(digest))
        };
        let may_hold = match call.report {
            Report::Executing(digest) if has(&digest) => {
                self.arm_expiry(now, key);
                let reply = self.go_on(now, assigned.map(|assigned| assigned.task));
                return Ok(Outcome::Reply(reply));
            }
            Report::Executing(_)
                if self.recovery.is_on() && call.claim.is_none() && assigned.is_none() =>
            {
                // Whose it is will be known when it is done.
                self.arm_expiry(now, key);
                return Ok(Outcome::Reply(self.go_on(now, None)));
            }
            Report::Executing(_) => false,
            Report::Completed(digest, response)
                if has(&digest) && !self.is_stale(assigned, &response) =>
            {
                self.finish(now, key, *response);
                true
            }
            Report::Completed(..) | Report::Idle => true,
        };
        let outcome = if call.prefer_being_idle {
            self.give_back(now, key);
            Outcome::Reply(idle(now))
        } else if let Some(reply) = self.resend(now, key).or_else(|| self.next(now, key)) {
            Outcome::Reply(reply)
        } else if may_hold {
            self.hold(now, key);
            self.use_freed(now);
            return Ok(Outcome::Hold(key));
        } else {
            Outcome::Reply(idle(now))
        };
        self.arm_expiry(now, key);
        self.use_freed(now);
        Ok(outcome)
    }

    /// Whether a result is not that of the worker's present task, though the action
    /// is the same: one that the worker repeats because the answer to its report was
    /// lost, after a further task of that action has been handed to it. Workers that
    /// echo when their task was queued tell the two apart (ours and Buildbarn's do).
    fn is_stale(&self, assigned: Option<Assigned>, response: &ExecuteResponse) -> bool {
        let task = assigned.and_then(|assigned| self.tasks.get(&assigned.task));
        let metadata = response
            .result
            .as_ref()
            .and_then(|result| result.execution_metadata.as_ref());
        let echoed = metadata.and_then(|metadata| metadata.queued_timestamp.as_ref());
        match (task, echoed) {
            (Some(task), Some(echoed)) => *echoed != timestamp(task.job.queued),
            _ => false,
        }
    }

    /// The call of a worker that was being held has ended without an answer.
    pub fn abandon(&mut self, now: Now, key: WorkerKey) {
        self.advance(now);
        self.unblock(now, key);
    }

    /// An answer that told a worker to execute this job never left, as its call
    /// was gone. The task goes elsewhere, with nobody to blame, unless the worker
    /// has called again meanwhile and been sent it.
    pub fn undelivered(&mut self, now: Now, key: WorkerKey, job: &Arc<Job>) {
        self.advance(now);
        let Some(worker) = self.workers.get_mut(&key) else {
            return;
        };
        if let Some(Assigned { task, sends: 1, .. }) = worker.task
            && self
                .tasks
                .get(&task)
                .is_some_and(|t| Arc::ptr_eq(&t.job, job))
        {
            self.release(now, key, false);
            self.requeue(now, task);
        }
    }

    /// Answers every call that is being held, so that the scheduler can stop.
    pub fn release_all(&mut self, now: Now) {
        let held: Vec<_> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.blocked.is_some())
            .map(|(key, _)| *key)
            .collect();
        for worker in held {
            self.end_poll(now, worker);
        }
    }

    /// The worker that calls, made known if it is new, and whether it is.
    fn worker(&mut self, call: &Synchronization) -> Result<(WorkerKey, bool), Error> {
        let platform = self.settings.ignored.key(&call.platform);
        let platform = self
            .platforms
            .open(&call.prefix, &platform, call.size_class)?;
        let known = self
            .platforms
            .get(platform)
            .and_then(|queue| queue.workers.get(&call.worker).copied());
        if let Some(key) = known {
            let held = self.workers.get(&key).is_some_and(|w| w.blocked.is_some());
            return if held {
                Err(Error::DuplicateWorker(call.worker.to_string()))
            } else {
                Ok((key, false))
            };
        }
        let key = WorkerKey(self.next_id());
        let drained = self
            .platforms
            .get(platform)
            .is_some_and(|queue| queue.drains.matches(&call.worker));
        self.workers.insert(
            key,
            Worker {
                id: call.worker.clone(),
                platform,
                task: None,
                blocked: None,
                expires: None,
                drained,
                terminating: false,
                stay: Stay::default(),
            },
        );
        if let Some(queue) = self.platforms.get_mut(platform) {
            queue.invocations.add_idle(ROOT);
            queue.invocations.pin(ROOT);
            queue.workers.insert(call.worker.clone(), key);
            self.timers
                .clear(queue.expires.take(), Timer::Platform(platform));
        }
        self.happened(platform, What::WorkerCame);
        Ok((key, true))
    }

    /// Sends a worker the task it has once more: it does something else, so the
    /// earlier answer was lost, or the worker started anew. An action may be what
    /// crashes it, so this has a limit.
    fn resend(&mut self, now: Now, key: WorkerKey) -> Option<Reply> {
        let worker = self.workers.get_mut(&key)?;
        let assigned = worker.task.as_mut()?;
        if assigned.sends >= self.settings.maximum_sends {
            let message = format!(
                "action was sent to worker {} {} times without being executed; it may crash the worker",
                worker.id, assigned.sends
            );
            let task = assigned.task;
            about!(WARN, self, task, message, "giving up");
            self.complete(now, task, failure(Code::Internal, message));
            return None;
        }
        let id = assigned.task;
        if self.tasks.get(&id)?.job.brief.is_none() {
            self.complete(now, id, adopt::lost());
            return None;
        }
        assigned.sends += 1;
        self.order(now, id)
    }

    /// Holds the call of an idle worker.
    fn hold(&mut self, now: Now, key: WorkerKey) {
        let since = self.next_id();
        let until = now.instant + self.jitter(self.settings.idle_poll);
        let Some(worker) = self.workers.get_mut(&key) else {
            return;
        };
        worker.blocked = Some(Blocked { since, until });
        if let Some(queue) = self.platforms.get_mut(worker.platform)
            && !worker.is_drained()
        {
            queue.invocations.wait(worker.stay.at(), since, key);
        }
        self.timers.set(until, Timer::Poll(key));
    }

    /// Ends the holding of a worker's call, which is about to be answered or is
    /// gone. From now on the worker may go silent.
    pub(super) fn unblock(&mut self, now: Now, key: WorkerKey) {
        let Some(worker) = self.workers.get_mut(&key) else {
            return;
        };
        let Some(blocked) = worker.blocked.take() else {
            return;
        };
        if let Some(queue) = self.platforms.get_mut(worker.platform) {
            queue.invocations.unwait(worker.stay.at(), blocked.since);
        }
        self.timers.clear(Some(blocked.until), Timer::Poll(key));
        self.arm_expiry(now, key);
    }

    /// Nothing came up for a worker while its call was held.
    pub(super) fn end_poll(&mut self, now: Now, key: WorkerKey) {
        self.unblock(now, key);
        self.effects.push(Effect::Answer(key, idle(now)));
    }

    /// Forgets a worker that has gone silent. Its task goes elsewhere.
    pub(super) fn lose_worker(&mut self, now: Now, key: WorkerKey) {
        let Some(worker) = self.workers.remove(&key) else {
            return;
        };
        tracing::warn!(worker = %worker.id, executing = worker.task.is_some(), "worker disappeared");
        let executing = worker.task.is_some();
        self.happened(worker.platform, What::WorkerLeft { executing });
        if let Some(queue) = self.platforms.get_mut(worker.platform) {
            queue.workers.remove(&worker.id);
            if worker.task.is_none() {
                queue.invocations.remove_idle(worker.stay.at());
            }
            queue.invocations.unpin(worker.stay.at());
        }
        if worker.terminating {
            self.effects.push(Effect::Freed);
        }
        if let Some(assigned) = worker.task {
            self.retry(now, assigned.task, worker.id);
        }
        self.expire_platform(now, worker.platform);
    }

    fn expire_platform(&mut self, now: Now, id: PlatformId) {
        let Some(queue) = self.platforms.get_mut(id) else {
            return;
        };
        if queue.workers.is_empty() && !queue.predeclared {
            let at = now.instant + self.settings.no_workers_timeout;
            queue.expires = Some(at);
            self.timers.set(at, Timer::Platform(id));
        }
    }

    /// Takes back the task of a worker that will not execute it.
    fn give_back(&mut self, now: Now, key: WorkerKey) {
        let Some(task) = self.release(now, key, false) else {
            return;
        };
        if let Some(worker) = self.workers.get(&key) {
            self.retry(now, task, worker.id.clone());
        }
    }

    fn arm_expiry(&mut self, now: Now, key: WorkerKey) {
        let at = now.instant + self.settings.worker_expiry;
        if let Some(worker) = self.workers.get_mut(&key) {
            worker.expires = Some(at);
            self.timers.set(at, Timer::Worker(key));
        }
    }
}

/// Nothing to do; call again at once.
fn idle(now: Now) -> Reply {
    Reply {
        next: now.wall,
        desired: Desired::Idle,
        operations: Vec::new(),
    }
}
