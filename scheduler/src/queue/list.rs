//! The lists of BuildQueueState, page by page.
//!
//! Each list has an order of its own that does not change, and a page begins
//! after an entry that need not be there any more. So going from page to page
//! shows everything that stays, whatever comes and goes meanwhile.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proto::InstanceName;
use proto::wire::buildqueuestate::{
    DrainState, InvocationChildState, OperationState, PaginationInfo, PlatformQueueState,
    WorkerState,
};
use uuid::Uuid;

use super::aging::Level;
use super::drain::Pattern;
use super::invocation::{InvocationId, InvocationKey};
use super::operation::Stage;
use super::platform_queue::{PlatformId, PlatformQueue, QueueName};
use super::queue::Queue;
use super::state::{count, platform_queue_name};
use super::task::Progress;
use super::time::Now;
use super::turnover::Turnover;
use super::worker::Worker;
use crate::error::Error;

/// An invocation of a queue, the outermost first; of none at all, the root.
#[derive(Clone, Debug)]
pub struct InvocationPath {
    /// The queue.
    pub queue: QueueName,
    /// The invocation.
    pub keys: Vec<InvocationKey>,
}

/// Which children of an invocation to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Children {
    /// All.
    All,
    /// Those with something queued or executing.
    Active,
    /// Those with something queued.
    Queued,
}

/// Which workers to list.
#[derive(Clone, Debug)]
pub enum Workers {
    /// All of a queue.
    All(QueueName),
    /// Those that execute for an invocation or one within it.
    Executing(InvocationPath),
    /// Those that are idle, worked for that last, and could be given a task.
    Waiting(InvocationPath),
}

/// A place in the queue of an invocation.
#[derive(Clone, Copy, Debug)]
pub struct QueuedAfter {
    /// As the client gave it.
    pub priority: i32,
    /// When the operation came.
    pub queued: SystemTime,
    /// How long it is expected to take.
    pub expected: Duration,
}

/// One page of a list.
pub type Page<T> = (Vec<T>, PaginationInfo);

/// The page that follows those entries for which `before` holds.
fn page<E, T>(
    entries: impl Iterator<Item = E>,
    size: usize,
    before: impl Fn(&E) -> bool,
    show: impl Fn(E) -> T,
) -> Page<T> {
    let (mut start, mut total, mut shown) = (0, 0, Vec::new());
    for entry in entries {
        total += 1;
        if before(&entry) {
            start += 1;
        } else if shown.len() < size {
            shown.push(show(entry));
        }
    }
    let info = PaginationInfo {
        start_index: count(start),
        total_entries: count(total),
    };
    (shown, info)
}

impl Queue {
    /// One operation.
    ///
    /// # Errors
    /// [`Error::UnknownOperation`].
    pub fn get_operation(&mut self, now: Now, name: Uuid) -> Result<OperationState, Error> {
        self.advance(now);
        let operation = self.operations.get(&name);
        let operation = operation.ok_or_else(|| Error::UnknownOperation(name.to_string()))?;
        Ok(self.operation_state(now, name, operation))
    }

    /// How many invocations of each queue came and went, by level: 0 is the root.
    pub fn turnovers(&self) -> Vec<(Arc<QueueName>, Vec<Turnover>)> {
        let queues = self.platforms.ids().filter_map(|id| self.platforms.get(id));
        let each = queues.map(|queue| {
            let turnovers = queue.invocations.turnovers();
            (queue.name.clone(), turnovers.to_vec())
        });
        each.collect()
    }

    /// By how many workers the outermost invocations differ that have something
    /// queued, of each queue: by one at most where they are equally urgent and
    /// workers go where it is their turn.
    pub fn spreads(&self) -> Vec<(Arc<QueueName>, u32)> {
        let queues = self.platforms.ids().filter_map(|id| self.platforms.get(id));
        let each = queues.map(|queue| (queue.name.clone(), queue.invocations.spread()));
        each.collect()
    }

    /// The instance name that an operation's action is of.
    pub fn instance_of(&self, name: Uuid) -> Option<InstanceName> {
        let operation = self.operations.get(&name)?;
        Some(operation.job.instance.clone())
    }

    /// Operations by name, those of one invocation of any level or of one stage
    /// alone if so asked.
    pub fn list_operations(
        &mut self,
        now: Now,
        size: usize,
        after: Option<Uuid>,
        invocation: Option<&InvocationKey>,
        stage: Option<Stage>,
    ) -> Page<OperationState> {
        self.advance(now);
        let wanted = self.operations.iter().filter(|(name, operation)| {
            invocation.is_none_or(|key| operation.lineage.contains(key))
                && stage.is_none_or(|stage| self.view(**name).is_some_and(|v| v.stage == stage))
        });
        let mut names: Vec<_> = wanted.map(|(name, _)| *name).collect();
        names.sort_unstable();
        let before = |name: &Uuid| after.is_some_and(|after| *name <= after);
        let (names, info) = page(names.into_iter(), size, before, |name| name);
        let states = names
            .into_iter()
            .filter_map(|name| Some(self.operation_state(now, name, self.operations.get(&name)?)));
        (states.collect(), info)
    }

    /// All platform queues, by prefix and platform, each with those of its size
    /// classes.
    pub fn list_platform_queues(&mut self, now: Now) -> Vec<PlatformQueueState> {
        self.advance(now);
        let mut queues: Vec<_> = self.platforms.iter().collect();
        queues.sort_unstable_by_key(|queue| &queue.name);
        queues
            .chunk_by(|a, b| a.name.prefix == b.name.prefix && a.name.platform == b.name.platform)
            .map(|classes| PlatformQueueState {
                name: classes
                    .first()
                    .map(|queue| platform_queue_name(&queue.name)),
                size_class_queues: classes.iter().map(|queue| queue.state(now)).collect(),
            })
            .collect()
    }

    /// For each queue in which operations wait, how long the one does that has waited
    /// longest. Looks at every task, so it is not to be asked often.
    pub fn oldest_queued(&self, now: Now) -> Vec<(Arc<QueueName>, Duration)> {
        let mut oldest: BTreeMap<PlatformId, SystemTime> = BTreeMap::new();
        for task in self.tasks.values() {
            if task.progress == Progress::Queued {
                let since = oldest.entry(task.platform).or_insert(task.job.queued);
                *since = task.job.queued.min(*since);
            }
        }
        let age = |since| now.wall.duration_since(since).unwrap_or_default();
        oldest
            .into_iter()
            .filter_map(|(id, since)| Some((self.platforms.get(id)?.name.clone(), age(since))))
            .collect()
    }

    /// The children of an invocation, by key.
    ///
    /// # Errors
    /// [`Error::UnknownQueue`], [`Error::UnknownInvocation`].
    pub fn list_invocation_children(
        &mut self,
        now: Now,
        path: &InvocationPath,
        which: Children,
    ) -> Result<Vec<InvocationChildState>, Error> {
        self.advance(now);
        let (queue, id) = self.invocation(path)?;
        let tree = &queue.invocations;
        let mut children: Vec<_> = tree.get(id).children.iter().collect();
        children.sort_unstable_by_key(|(key, _)| *key);
        let wanted = children.into_iter().filter(|(_, child)| match which {
            Children::All => true,
            Children::Active => tree.get(**child).is_active(),
            Children::Queued => tree.get(**child).has_queued(),
        });
        let states = wanted.map(|(key, child)| InvocationChildState {
            id: Some(key.into()),
            state: Some(tree.state(*child)),
        });
        Ok(states.collect())
    }

    /// What is queued directly in an invocation, in the order in which it will be
    /// handed out.
    ///
    /// # Errors
    /// [`Error::UnknownQueue`], [`Error::UnknownInvocation`].
    pub fn list_queued_operations(
        &mut self,
        now: Now,
        path: &InvocationPath,
        size: usize,
        after: Option<QueuedAfter>,
    ) -> Result<Page<OperationState>, Error> {
        self.advance(now);
        let (queue, id) = self.invocation(path)?;
        let after = after.map(|after| {
            let came = now.instant_at(after.queued);
            let interval = self.settings.aging_interval;
            let level = Level::new(after.priority, interval, self.started, came);
            (level, Reverse(after.expected), after.queued)
        });
        // Of operations of one invocation that want the same, the most urgent.
        let operations = queue.invocations.get(id).order.iter().filter_map(|place| {
            let names = self.tasks.get(&place.task)?.operations.iter();
            let all = names.filter_map(|name| Some((*name, &**self.operations.get(name)?)));
            let own = all.filter(|(_, operation)| *operation.lineage == *path.keys);
            let (name, operation) = own.min_by_key(|(_, operation)| operation.level)?;
            Some((place, name, operation))
        });
        let before =
            |(place, _, operation): &(super::order::Place, _, &super::operation::Operation)| {
                after.is_some_and(|after| (place.level, place.expected, operation.queued) <= after)
            };
        Ok(page(operations, size, before, |(_, name, operation)| {
            self.operation_state(now, name, operation)
        }))
    }

    /// Workers by id.
    ///
    /// # Errors
    /// [`Error::UnknownQueue`], [`Error::UnknownInvocation`].
    pub fn list_workers(
        &mut self,
        now: Now,
        which: &Workers,
        size: usize,
        after: Option<&Pattern>,
    ) -> Result<Page<WorkerState>, Error> {
        self.advance(now);
        let (queue, within) = match which {
            Workers::All(name) => {
                let unknown = Error::UnknownInvocation;
                let id = self.queue_named(name)?;
                (self.platforms.get(id).ok_or(unknown)?, None)
            }
            Workers::Executing(path) | Workers::Waiting(path) => {
                let (queue, id) = self.invocation(path)?;
                (queue, Some(id))
            }
        };
        let tree = &queue.invocations;
        let is_within = |id| within.is_none_or(|around| tree.chain(id).any(|id| id == around));
        let is_wanted = |worker: &Worker| match which {
            Workers::All(_) => true,
            Workers::Executing(_) => worker
                .task
                .and_then(|assigned| self.tasks.get(&assigned.task))
                .is_some_and(|task| task.invocations().into_iter().any(is_within)),
            Workers::Waiting(_) => {
                worker.blocked.is_some() && !worker.is_drained() && is_within(worker.stay.at())
            }
        };
        let workers = queue.workers.values();
        let workers = workers.filter_map(|key| self.workers.get(key));
        let before = |worker: &&Worker| after.is_some_and(|after| *worker.id.0 <= *after);
        let wanted = workers.filter(|worker| is_wanted(worker));
        Ok(page(wanted, size, before, |worker| {
            self.worker_state(now, worker)
        }))
    }

    /// The drains of a queue, by pattern.
    ///
    /// # Errors
    /// [`Error::UnknownQueue`].
    pub fn list_drains(&mut self, now: Now, name: &QueueName) -> Result<Vec<DrainState>, Error> {
        self.advance(now);
        let queue = self.platforms.get(self.queue_named(name)?);
        Ok(queue.map(|queue| queue.drains.state()).unwrap_or_default())
    }

    fn invocation(&self, path: &InvocationPath) -> Result<(&PlatformQueue, InvocationId), Error> {
        let queue = self.platforms.get(self.queue_named(&path.queue)?);
        let queue = queue.ok_or(Error::UnknownInvocation)?;
        let id = queue.invocations.find(&path.keys);
        Ok((queue, id.ok_or(Error::UnknownInvocation)?))
    }
}
