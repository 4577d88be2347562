//! Platform queues: where tasks of one platform wait for workers of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::{InstanceName, PlatformKey};

use super::drain::Drains;
use super::invocation::Invocations;
use super::matching;
use super::worker::{WorkerId, WorkerKey};

/// Names a platform queue, for as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlatformId(pub(super) u64);

/// What a platform queue serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueName {
    /// The prefix of the instance names.
    pub prefix: InstanceName,
    /// The platform, without the properties that matching ignores.
    pub platform: PlatformKey,
    /// The size class of its workers; 0 where there are none.
    pub size_class: u32,
}

/// The tasks and workers of one platform and instance name prefix.
///
/// A *predeclared* queue exists always. Any other comes with its first worker
/// and goes when it has had none for a while; `expires` is set while it has none.
#[derive(Debug)]
pub(super) struct PlatformQueue {
    pub(super) name: Arc<QueueName>,
    pub(super) predeclared: bool,
    /// Whose the tasks are, in which order they go, and who is idle.
    pub(super) invocations: Invocations,
    /// How long a worker stays with an invocation: see `Stay`.
    pub(super) stickiness_limits: Vec<Duration>,
    pub(super) workers: BTreeMap<WorkerId, WorkerKey>,
    pub(super) drains: Drains,
    pub(super) expires: Option<Instant>,
}

/// A platform queue that exists from the start and for ever: actions wait in it
/// for workers to come.
#[derive(Clone, Debug)]
pub struct Predeclared {
    /// The prefix of the instance names it serves.
    pub prefix: InstanceName,
    /// The platform it serves.
    pub platform: PlatformKey,
    /// How long its workers stay with an invocation to which others are equal,
    /// for each level of the tree, the outermost first. Levels beyond: not at all.
    pub stickiness_limits: Vec<Duration>,
}

/// All platform queues.
#[derive(Debug, Default)]
pub(super) struct PlatformQueues {
    /// How many tasks of one invocation may be executing.
    maximum_executing: Option<u32>,
    queues: HashMap<PlatformId, PlatformQueue>,
    names: HashMap<Arc<QueueName>, PlatformId>,
    last: u64,
}

impl PlatformQueues {
    /// None. At most `maximum_executing` tasks of an invocation execute in each.
    pub(super) fn new(maximum_executing: Option<u32>) -> Self {
        Self {
            maximum_executing,
            ..Self::default()
        }
    }

    /// The queue for actions of a platform: of those for exactly this platform,
    /// the one with the longest prefix of the instance name.
    pub(super) fn find(
        &self,
        instance: &InstanceName,
        platform: &PlatformKey,
    ) -> Option<PlatformId> {
        instance
            .prefixes()
            .find_map(|prefix| self.named(&prefix, platform, 0))
    }

    /// The queue of exactly this name.
    pub(super) fn named(
        &self,
        prefix: &InstanceName,
        platform: &PlatformKey,
        size_class: u32,
    ) -> Option<PlatformId> {
        let name = QueueName {
            prefix: prefix.clone(),
            platform: platform.clone(),
            size_class,
        };
        self.names.get(&name).copied()
    }

    /// The queue of exactly this prefix and platform, made if there is none.
    pub(super) fn open(
        &mut self,
        prefix: &InstanceName,
        platform: &PlatformKey,
        predeclared: bool,
    ) -> PlatformId {
        let name = Arc::new(QueueName {
            prefix: prefix.clone(),
            platform: platform.clone(),
            size_class: 0,
        });
        if let Some(found) = self.names.get(&name) {
            return *found;
        }
        self.last += 1;
        let id = PlatformId(self.last);
        self.names.insert(name.clone(), id);
        self.queues.insert(
            id,
            PlatformQueue {
                name,
                predeclared,
                invocations: Invocations::new(self.maximum_executing),
                stickiness_limits: Vec::new(),
                workers: BTreeMap::new(),
                drains: Drains::default(),
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
        self.names.remove(&queue.name);
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
            self.iter()
                .map(|queue| (&queue.name.prefix, &queue.name.platform)),
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
