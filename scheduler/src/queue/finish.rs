//! What becomes of a task whose worker says that it is done.

use proto::wire::rev2::ExecuteResponse;
use tonic::Code;

use super::event::{Outcome, What};
use super::log::about;
use super::platform_queue::PlatformId;
use super::queue::Queue;
use super::retry::{Ended, Verdict};
use super::size_class;
use super::task::{Progress, TaskId};
use super::time::Now;
use super::worker::WorkerKey;

impl Queue {
    /// Takes the outcome of the task that a worker has: ends the task, or has it
    /// tried once more: on a larger worker, if it failed on a small one, and
    /// elsewhere, if the worker failed.
    pub(super) fn finish(&mut self, now: Now, key: WorkerKey, response: ExecuteResponse) {
        let status = response.status.as_ref();
        let code = status.map_or(Code::Ok, |status| Code::from_i32(status.code));
        let since = self.workers.get(&key).and_then(|worker| worker.task);
        if let Some(assigned) = since {
            about!(DEBUG, self, assigned.task, ?code, "executed");
        }
        let Some(id) = self.release(now, key, code == Code::Ok) else {
            return;
        };
        if let Some((task, assigned)) = self.tasks.get(&id).zip(since) {
            let (result, code) = Outcome::of(&response);
            let what = What::Executed {
                took: now.instant.saturating_duration_since(assigned.since),
                code,
                result,
                retries: task.attempts.count(),
            };
            self.happened(task.platform, what);
        }
        let platform = self.tasks.get(&id).map(|task| task.platform);
        let task = self.tasks.get(&id);
        let may_move = task.is_some_and(|task| task.job.brief.is_some());
        let larger = platform.filter(|_| may_move);
        let larger = larger.and_then(|platform| self.platforms.larger(platform));
        if let Some(larger) = larger
            && size_class::has_failed(&response)
        {
            self.move_to(now, id, larger);
        } else if code == Code::Internal && self.settings.retry_internal_errors {
            self.try_again(now, id, key, response);
        } else {
            self.complete(now, id, response);
        }
    }

    /// A worker failed, which says nothing of the action.
    fn try_again(&mut self, now: Now, id: TaskId, key: WorkerKey, mut response: ExecuteResponse) {
        let worker = self.workers.get(&key).map(|worker| worker.id.clone());
        let Some((task, worker)) = self.tasks.get_mut(&id).zip(worker) else {
            return;
        };
        let limit = self.settings.maximum_attempts;
        let failed = worker.clone();
        match task.attempts.add(worker, Ended::Failed, limit) {
            Verdict::Retry => {
                let platform = task.platform;
                self.happened(platform, What::Retried);
                about!(WARN, self, id, %failed, "worker failed, trying again");
                self.requeue(now, id);
            }
            Verdict::GiveUp(reason) => {
                about!(WARN, self, id, %failed, reason, "giving up");
                if let Some(status) = &mut response.status {
                    status.message = format!("{}; {reason}", status.message);
                }
                self.complete(now, id, response);
            }
        }
    }

    /// Queues a task that no worker has in another queue.
    fn move_to(&mut self, now: Now, id: TaskId, platform: PlatformId) {
        self.place(id, platform);
        self.enqueue(now, id);
    }

    /// Has a task belong to a queue, without standing in it.
    pub(super) fn place(&mut self, id: TaskId, platform: PlatformId) {
        let Some(mut task) = self.tasks.remove(&id) else {
            return;
        };
        self.unseat(&mut task);
        task.progress = Progress::CacheCheck;
        task.platform = platform;
        let names = task.operations.clone();
        self.tasks.insert(id, task);
        let queue = self.platforms.get(platform).map(|queue| queue.name.clone());
        for name in names {
            let Some(operation) = self.operations.get_mut(&name) else {
                continue;
            };
            if let Some(queue) = &queue {
                operation.queue = queue.clone();
            }
            let (lineage, level) = (operation.lineage.clone(), operation.level);
            self.seat(id, &lineage, level);
        }
    }
}
