//! Which idle worker gets a task: one that has worked for the same invocation.
//!
//! Such a worker has the tools and inputs of that build in its caches. So an idle
//! worker is kept with the invocation that it worked for last. A task is given to
//! one of its own invocation; else to one of the invocation around that, and so
//! on up to the root. Inside of a foreign invocation the choice goes down again
//! to where the smallest part of the workers is busy, as it is needed least
//! there, and among equals to the one that has been idle longest.

use std::collections::{BTreeMap, BTreeSet};

use super::invocation::{InvocationId, Invocations, ROOT};
use super::worker::WorkerKey;

/// The idle workers of an invocation.
#[derive(Debug, Default)]
pub(super) struct Idle {
    /// Those of it and of its descendants, whether or not their calls are held.
    pub(super) workers: u32,
    /// Those of it and of its descendants that can be given a task now.
    pub(super) waiting: u32,
    /// Those that are directly its own, the one that waits longest first.
    own: BTreeMap<u64, WorkerKey>,
    /// Children that have any.
    children: BTreeSet<IdleChild>,
}

/// The place of a child that has idle workers waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct IdleChild {
    /// The part of its workers that is busy, in parts of 2^32.
    utilisation: u64,
    /// When the one of its workers that waits longest began to.
    since: u64,
    id: InvocationId,
}

impl Idle {
    pub(super) fn as_child(&self, id: InvocationId, executing: u32) -> Option<IdleChild> {
        let own = self.own.first_key_value().map(|(since, _)| *since);
        let below = self.children.first().map(|child| child.since);
        let since = own.or(below)?;
        let workers = u64::from(executing) + u64::from(self.workers);
        Some(IdleChild {
            utilisation: (u64::from(executing) << 32) / workers.max(1),
            since,
            id,
        })
    }

    pub(super) fn replace_child(&mut self, was: Option<IdleChild>, is: Option<IdleChild>) {
        if was != is {
            was.inspect(|was| {
                self.children.remove(was);
            });
            self.children.extend(is);
        }
    }
}

impl Invocations {
    /// A worker of this invocation has no task any more, or is new.
    pub(super) fn add_idle(&mut self, id: InvocationId) {
        self.change_idle(id, |idle| idle.workers += 1);
    }

    /// A worker of this invocation gets a task, or goes.
    pub(super) fn remove_idle(&mut self, id: InvocationId) {
        self.change_idle(id, |idle| idle.workers = idle.workers.saturating_sub(1));
    }

    /// An idle worker can be given a task from now on.
    pub(super) fn wait(&mut self, id: InvocationId, since: u64, worker: WorkerKey) {
        self.get_mut(id).idle.own.insert(since, worker);
        self.change_idle(id, |idle| idle.waiting += 1);
    }

    /// It can no more. Nothing happens if it could not anyway.
    pub(super) fn unwait(&mut self, id: InvocationId, since: u64) {
        if self.get_mut(id).idle.own.remove(&since).is_some() {
            self.change_idle(id, |idle| idle.waiting = idle.waiting.saturating_sub(1));
        }
    }

    /// The worker to give a task of these invocations to.
    pub(super) fn idle_worker(
        &self,
        ids: impl IntoIterator<Item = InvocationId>,
    ) -> Option<WorkerKey> {
        if self.get(ROOT).idle.waiting == 0 {
            return None;
        }
        let mut around: Vec<_> = ids.into_iter().collect();
        while !around.is_empty() {
            let found = around.iter().find(|id| self.get(**id).idle.waiting > 0);
            if let Some(id) = found {
                return self.descend(*id);
            }
            around = around
                .iter()
                .filter_map(|id| self.get(*id).parent)
                .collect();
            around.dedup();
        }
        None
    }

    fn descend(&self, mut id: InvocationId) -> Option<WorkerKey> {
        loop {
            let idle = &self.get(id).idle;
            if let Some((_, worker)) = idle.own.first_key_value() {
                return Some(*worker);
            }
            id = idle.children.first()?.id;
        }
    }

    fn change_idle(&mut self, id: InvocationId, change: impl Fn(&mut Idle)) {
        let waited = self.get(ROOT).idle.waiting > 0;
        let mut next = Some(id);
        while let Some(id) = next {
            change(&mut self.get_mut(id).idle);
            next = self.get(id).parent;
        }
        // Where nobody can be given a task, nobody is known to parents.
        if waited || self.get(ROOT).idle.waiting > 0 {
            self.refresh(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::invocation::Lineage;
    use super::super::tests::key;
    use super::*;

    fn lineage(names: &[&str]) -> Lineage {
        names.iter().map(|name| key(name)).collect()
    }

    /// A tree of three invocations, a worker in each of those given.
    fn tree(workers: &[(usize, u64)]) -> (Invocations, [InvocationId; 3]) {
        let mut tree = Invocations::new(Default::default());
        let names: [&[&str]; 3] = [&["a", "x"], &["a", "y"], &["b", "z"]];
        let ids = names.map(|names| tree.open(&lineage(names)));
        for (index, since) in workers {
            tree.add_idle(ids[*index]);
            tree.wait(ids[*index], *since, WorkerKey(*since));
        }
        (tree, ids)
    }

    #[test]
    fn the_nearest_worker_is_chosen_however_long_others_are_idle() {
        let (mut tree, [x, y, z]) = tree(&[(2, 1), (1, 2), (0, 3)]);
        assert_eq!(tree.idle_worker([x]), Some(WorkerKey(3)));
        tree.unwait(x, 3);
        assert_eq!(
            tree.idle_worker([x]),
            Some(WorkerKey(2)),
            "of the same parent"
        );
        tree.unwait(y, 2);
        assert_eq!(tree.idle_worker([x]), Some(WorkerKey(1)), "of any");
        tree.unwait(z, 1);
        tree.unwait(z, 1);
        assert_eq!(tree.idle_worker([x]), None);
        assert_eq!(tree.get(ROOT).idle.waiting, 0);
    }

    #[test]
    fn a_stranger_takes_from_where_the_least_part_is_busy_then_the_longest_idle() {
        let (mut tree, [x, y, z]) = tree(&[(0, 1), (1, 2), (2, 3)]);
        assert_eq!(tree.idle_worker([ROOT]), Some(WorkerKey(1)));
        tree.start(&[x]);
        assert_eq!(
            tree.idle_worker([ROOT]),
            Some(WorkerKey(3)),
            "b has none busy"
        );
        tree.start(&[z]);
        assert_eq!(
            tree.idle_worker([ROOT]),
            Some(WorkerKey(2)),
            "a third is less than half"
        );
        assert_eq!(tree.idle_worker([y]), Some(WorkerKey(2)));
    }
}
