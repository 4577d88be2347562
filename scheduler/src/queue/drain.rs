//! Keeping work from workers, so that they can be taken away.
//!
//! A *drain* of a queue is a pattern: workers that match it, those to come too,
//! are given nothing more until it is removed. What they execute they finish.
//! A worker that is *terminating* is given nothing more for good, and who has it
//! terminate waits until it has no task.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::event::What;
use super::platform_queue::{PlatformId, QueueName};
use super::queue::Queue;
use super::time::Now;
use super::worker::{WorkerId, WorkerKey};
use crate::error::Error;

/// Pairs, all of which must be among those of a worker's id for it to match.
pub type Pattern = BTreeMap<String, String>;

/// The most drains of one queue: each worker is held against all of them.
const MAXIMUM_DRAINS: usize = 1000;

/// The drains of one queue, and since when they are.
#[derive(Debug, Default)]
pub(super) struct Drains(pub(super) BTreeMap<Pattern, SystemTime>);

impl Drains {
    pub(super) fn matches(&self, worker: &WorkerId) -> bool {
        self.0.keys().any(|pattern| worker.matches(pattern))
    }
}

impl WorkerId {
    fn matches(&self, pattern: &Pattern) -> bool {
        let mut pairs = pattern.iter();
        pairs.all(|(name, value)| self.0.get(name) == Some(value))
    }
}

impl Queue {
    /// Adds a drain; one that is there stays as it is.
    ///
    /// # Errors
    /// [`Error::UnknownQueue`], [`Error::TooManyDrains`].
    pub fn add_drain(&mut self, now: Now, name: &QueueName, pattern: Pattern) -> Result<(), Error> {
        self.advance(now);
        let id = self.queue_named(name)?;
        if let Some(queue) = self.platforms.get_mut(id) {
            let drains = &mut queue.drains.0;
            if drains.len() >= MAXIMUM_DRAINS && !drains.contains_key(&pattern) {
                return Err(Error::TooManyDrains(MAXIMUM_DRAINS));
            }
            drains.entry(pattern).or_insert(now.wall);
        }
        self.apply_drains(now, id);
        Ok(())
    }

    /// Removes a drain, if it is there.
    ///
    /// # Errors
    /// [`Error::UnknownQueue`].
    pub fn remove_drain(
        &mut self,
        now: Now,
        name: &QueueName,
        pattern: &Pattern,
    ) -> Result<(), Error> {
        self.advance(now);
        let id = self.queue_named(name)?;
        if let Some(queue) = self.platforms.get_mut(id) {
            queue.drains.0.remove(pattern);
        }
        self.apply_drains(now, id);
        Ok(())
    }

    /// Has all workers of any queue that match terminate. Returns those that have
    /// a task yet: see [`Queue::are_free`].
    pub fn terminate(&mut self, now: Now, pattern: &Pattern) -> Vec<WorkerKey> {
        self.advance(now);
        let (mut busy, mut terminating) = (Vec::new(), Vec::new());
        for (key, worker) in &mut self.workers {
            if !worker.id.matches(pattern) {
                continue;
            }
            if !worker.terminating {
                terminating.push(worker.platform);
            }
            worker.terminating = true;
            if worker.task.is_some() {
                busy.push(*key);
            }
            if let Some(queue) = self.platforms.get_mut(worker.platform)
                && let Some(blocked) = &worker.blocked
            {
                queue.invocations.unwait(worker.stay.at(), blocked.since);
            }
        }
        for platform in terminating {
            self.happened(platform, What::WorkerTerminating);
        }
        busy
    }

    /// Whether none of these workers has a task.
    #[must_use]
    pub fn are_free(&self, workers: &[WorkerKey]) -> bool {
        let mut workers = workers.iter().filter_map(|key| self.workers.get(key));
        workers.all(|worker| worker.task.is_none())
    }

    /// The queue of this name.
    pub(super) fn queue_named(&self, name: &QueueName) -> Result<PlatformId, Error> {
        let known = QueueName {
            platform: self.settings.ignored.key(&name.platform),
            ..name.clone()
        };
        self.platforms
            .named(&known)
            .ok_or_else(|| Error::UnknownQueue {
                prefix: name.prefix.to_string(),
                platform: name.platform.to_string(),
                size_class: name.size_class,
            })
    }

    /// Brings the workers of a queue in line with its drains.
    fn apply_drains(&mut self, now: Now, id: PlatformId) {
        let Some(queue) = self.platforms.get_mut(id) else {
            return;
        };
        for key in queue.workers.values() {
            let Some(worker) = self.workers.get_mut(key) else {
                continue;
            };
            let was = worker.is_drained();
            worker.drained = queue.drains.matches(&worker.id);
            let Some(blocked) = worker.blocked.filter(|_| was != worker.is_drained()) else {
                continue;
            };
            let at = worker.stay.at();
            if worker.is_drained() {
                queue.invocations.unwait(at, blocked.since);
            } else {
                queue.invocations.wait(at, blocked.since, *key);
            }
        }
        self.match_idle(now, [id]);
    }
}
