//! Platform queues: where tasks of one platform wait for workers of it.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use proto::{InstanceName, PlatformKey};

use super::matching;
use super::order::Order;
use super::worker::{WorkerId, WorkerKey};

/// Names a platform queue, for as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlatformId(pub(super) u64);

/// The tasks and workers of one platform and instance name prefix.
///
/// A *predeclared* queue exists always. Any other comes with its first worker
/// and goes when it has had none for a while; `expires` is set while it has none.
#[derive(Debug)]
pub(super) struct PlatformQueue {
    pub(super) prefix: InstanceName,
    /// Without the properties that matching ignores.
    pub(super) platform: PlatformKey,
    pub(super) predeclared: bool,
    pub(super) order: Order,
    pub(super) workers: HashMap<WorkerId, WorkerKey>,
    /// Workers whose Synchronize is blocked, the one that waits longest first,
    /// so that work spreads over all of them.
    pub(super) idle: BTreeMap<u64, WorkerKey>,
    pub(super) expires: Option<Instant>,
}

/// All platform queues.
#[derive(Debug, Default)]
pub(super) struct PlatformQueues {
    queues: HashMap<PlatformId, PlatformQueue>,
    names: HashMap<(PlatformKey, InstanceName), PlatformId>,
    last: u64,
}

impl PlatformQueues {
    /// The queue for actions of a platform: of those for exactly this platform,
    /// the one with the longest prefix of the instance name.
    pub(super) fn find(
        &self,
        instance: &InstanceName,
        platform: &PlatformKey,
    ) -> Option<PlatformId> {
        instance
            .prefixes()
            .find_map(|prefix| self.names.get(&(platform.clone(), prefix)).copied())
    }

    /// The queue of exactly this prefix and platform, made if there is none.
    pub(super) fn open(
        &mut self,
        prefix: &InstanceName,
        platform: &PlatformKey,
        predeclared: bool,
    ) -> PlatformId {
        let name = (platform.clone(), prefix.clone());
        if let Some(found) = self.names.get(&name) {
            return *found;
        }
        self.last += 1;
        let id = PlatformId(self.last);
        self.names.insert(name, id);
        self.queues.insert(
            id,
            PlatformQueue {
                prefix: prefix.clone(),
                platform: platform.clone(),
                predeclared,
                order: Order::default(),
                workers: HashMap::new(),
                idle: BTreeMap::new(),
                expires: None,
            },
        );
        id
    }

    pub(super) fn get(&self, id: PlatformId) -> Option<&PlatformQueue> {
        self.queues.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: PlatformId) -> Option<&mut PlatformQueue> {
        self.queues.get_mut(&id)
    }

    pub(super) fn remove(&mut self, id: PlatformId) -> Option<PlatformQueue> {
        let queue = self.queues.remove(&id)?;
        self.names
            .remove(&(queue.platform.clone(), queue.prefix.clone()));
        Some(queue)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &PlatformQueue> {
        self.queues.values()
    }

    /// See [`matching::nearest`].
    pub(super) fn nearest(&self, instance: &InstanceName, platform: &PlatformKey) -> String {
        matching::nearest(
            instance,
            platform,
            self.iter().map(|queue| (&queue.prefix, &queue.platform)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> InstanceName {
        InstanceName::new(name).unwrap()
    }

    fn os(value: &str) -> PlatformKey {
        PlatformKey::from_properties([("os".to_string(), value.to_string())])
    }

    #[test]
    fn the_longest_prefix_among_queues_of_exactly_the_platform_wins() {
        let mut queues = PlatformQueues::default();
        let root = queues.open(&name(""), &os("linux"), false);
        let deep = queues.open(&name("a/b"), &os("linux"), false);
        let windows = queues.open(&name("a/b/c"), &os("windows"), false);
        assert_eq!(queues.open(&name("a/b"), &os("linux"), false), deep);
        let find = |instance: &str, platform| queues.find(&name(instance), &os(platform));
        assert_eq!(find("a/b/c", "linux"), Some(deep));
        assert_eq!(find("a/bc", "linux"), Some(root));
        assert_eq!(find("", "linux"), Some(root));
        assert_eq!(find("a/b/c", "windows"), Some(windows));
        assert_eq!(find("a/b", "windows"), None);
        assert_eq!(find("a/b", "plan9"), None);
    }

    #[test]
    fn a_removed_queue_is_found_no_more() {
        let mut queues = PlatformQueues::default();
        let id = queues.open(&name("a"), &os("linux"), false);
        assert!(queues.remove(id).is_some());
        assert_eq!(queues.find(&name("a"), &os("linux")), None);
        assert!(queues.get(id).is_none());
    }
}
