//! Platform queues: where tasks of one platform wait for workers of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::{InstanceName, PlatformKey};

use super::drain::Drains;
use super::invocation::Invocations;
use super::limits::Limits;
use super::map::Map;
use super::matching;
use super::worker::{WorkerId, WorkerKey};
use crate::error::Error;

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
    /// The classes of size that its workers come in, ascending; of none, workers
    /// are of class 0.
    pub size_classes: Vec<u32>,
    /// How long its workers stay with an invocation to which others are equal,
    /// for each level of the tree, the outermost first. Levels beyond: not at all.
    pub stickiness_limits: Vec<Duration>,
}

/// The queues of one platform and prefix: one for each size class.
#[derive(Debug, Default)]
struct Classes {
    /// The largest class that is predeclared, if any is.
    declared: Option<u32>,
    stickiness_limits: Vec<Duration>,
    queues: BTreeMap<u32, PlatformId>,
}

/// All platform queues.
#[derive(Debug, Default)]
pub(super) struct PlatformQueues {
    limits: Limits,
    queues: Map<PlatformId, PlatformQueue>,
    names: Map<PlatformKey, BTreeMap<InstanceName, Classes>>,
    last: u64,
}

impl PlatformQueues {
    /// None. Invocations have no more in each of them than these limits allow.
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// The queue for actions of a platform: of those for exactly this platform,
    /// the one with the longest prefix of the instance name, and of its size
    /// classes the smallest.
    pub(super) fn find(
        &self,
        instance: &InstanceName,
        platform: &PlatformKey,
    ) -> Option<PlatformId> {
        let names = self.names.get(platform)?;
        instance.prefixes().find_map(|prefix| {
            let classes = names.get(&prefix)?;
            classes.queues.values().next().copied()
        })
    }

    /// The queue of exactly this name.
    pub(super) fn named(&self, name: &QueueName) -> Option<PlatformId> {
        let classes = self.names.get(&name.platform)?.get(&name.prefix)?;
        classes.queues.get(&name.size_class).copied()
    }

    /// The queue for the same platform and prefix of the largest size class, if
    /// that is another.
    pub(super) fn larger(&self, id: PlatformId) -> Option<PlatformId> {
        let name = &self.get(id)?.name;
        let classes = self.names.get(&name.platform)?.get(&name.prefix)?;
        let largest = classes.queues.values().next_back().copied();
        largest.filter(|largest| *largest != id)
    }

    /// Makes the queues that exist from the start. `platform` is that without what
    /// matching ignores.
    pub(super) fn declare(&mut self, declared: &Predeclared, platform: &PlatformKey) {
        let names = self.names.entry(platform.clone()).or_default();
        let classes = names.entry(declared.prefix.clone()).or_default();
        let none = [0];
        let sizes = if declared.size_classes.is_empty() {
            &none[..]
        } else {
            &declared.size_classes
        };
        // With properties ignored, several declarations may mean the same queue.
        classes.declared = classes.declared.max(sizes.iter().copied().max());
        classes
            .stickiness_limits
            .clone_from(&declared.stickiness_limits);
        let known = classes.queues.keys().copied().collect::<Vec<_>>();
        for size in sizes.iter().filter(|size| !known.contains(size)) {
            self.make(&declared.prefix, platform, *size, true);
        }
    }

    /// The queue that workers of this prefix, platform and size class serve, made
    /// if there is none.
    ///
    /// # Errors
    /// Workers of this size class do not fit: actions that fail on a smaller one
    /// are tried again on the largest, which therefore has to be predeclared.
    pub(super) fn open(
        &mut self,
        prefix: &InstanceName,
        platform: &PlatformKey,
        size_class: u32,
    ) -> Result<PlatformId, Error> {
        let invalid = |reason| Err(Error::invalid("size_class", reason));
        if let Some(classes) = self.names.get(platform).and_then(|names| names.get(prefix)) {
            if let Some(id) = classes.queues.get(&size_class) {
                return Ok(*id);
            }
            match classes.declared {
                None => {
                    return invalid(format!(
                        "size class {size_class} differs from that of other workers, and none is predeclared"
                    ));
                }
                Some(0) => return invalid(format!("size class {size_class} is not declared")),
                Some(_) if size_class == 0 => {
                    return invalid("is missing, though size classes are declared".to_string());
                }
                Some(largest) if size_class > largest => {
                    return invalid(format!(
                        "size class {size_class} exceeds the largest declared, {largest}"
                    ));
                }
                Some(_) => {}
            }
        }
        Ok(self.make(prefix, platform, size_class, false))
    }

    fn make(
        &mut self,
        prefix: &InstanceName,
        platform: &PlatformKey,
        size_class: u32,
        predeclared: bool,
    ) -> PlatformId {
        self.last += 1;
        let id = PlatformId(self.last);
        let names = self.names.entry(platform.clone()).or_default();
        let classes = names.entry(prefix.clone()).or_default();
        classes.queues.insert(size_class, id);
        let name = Arc::new(QueueName {
            prefix: prefix.clone(),
            platform: platform.clone(),
            size_class,
        });
        self.queues.insert(
            id,
            PlatformQueue {
                name,
                predeclared,
                invocations: Invocations::new(self.limits),
                stickiness_limits: classes.stickiness_limits.clone(),
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
        let QueueName {
            platform,
            prefix,
            size_class,
        } = &*queue.name;
        if let Some(names) = self.names.get_mut(platform) {
            if let Some(classes) = names.get_mut(prefix) {
                classes.queues.remove(size_class);
                if classes.queues.is_empty() {
                    names.remove(prefix);
                }
            }
            if names.is_empty() {
                self.names.remove(platform);
            }
        }
        Some(queue)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &PlatformQueue> {
        self.queues.values()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = PlatformId> {
        self.queues.keys().copied()
    }

    /// See [`matching::nearest`].
    pub(super) fn nearest(&self, instance: &InstanceName, platform: &PlatformKey) -> String {
        matching::nearest(
            instance,
            platform,
            self.names
                .iter()
                .flat_map(|(platform, names)| names.keys().map(move |prefix| (prefix, platform))),
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
        let mut open = |prefix, platform| queues.open(&name(prefix), &os(platform), 0).unwrap();
        let root = open("", "linux");
        let deep = open("a/b", "linux");
        let windows = open("a/b/c", "windows");
        assert_eq!(open("a/b", "linux"), deep);
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
        let id = queues.open(&name("a"), &os("linux"), 0).unwrap();
        assert!(queues.remove(id).is_some());
        assert_eq!(queues.find(&name("a"), &os("linux")), None);
        assert!(queues.get(id).is_none());
        let other = queues.open(&name("a"), &os("linux"), 3).unwrap();
        assert_ne!(
            other, id,
            "a queue not predeclared is of its first worker's class"
        );
    }

    #[test]
    fn classes_up_to_the_largest_declared_are_made_as_workers_come() {
        let mut queues = PlatformQueues::default();
        let declared = Predeclared {
            prefix: name("a"),
            platform: os("linux"),
            size_classes: vec![2, 8],
            stickiness_limits: vec![Duration::from_secs(1)],
        };
        queues.declare(&declared, &os("linux"));
        queues.declare(&declared, &os("linux"));
        assert_eq!(queues.iter().count(), 2);
        let mut open = |class| queues.open(&name("a"), &os("linux"), class);
        let (two, eight) = (open(2).unwrap(), open(8).unwrap());
        for wrong in [0, 9] {
            let refused = open(wrong).unwrap_err();
            assert!(matches!(
                refused,
                Error::Invalid {
                    field: "size_class",
                    ..
                }
            ));
        }
        let find = |queues: &PlatformQueues| queues.find(&name("a"), &os("linux"));
        assert_eq!(find(&queues), Some(two), "the smallest is tried first");
        assert_eq!(queues.larger(two), Some(eight));
        assert_eq!(queues.larger(eight), None);
        let one = queues.open(&name("a"), &os("linux"), 1).unwrap();
        assert_eq!(find(&queues), Some(one));
        assert_eq!(
            queues.get(one).map(|queue| queue.stickiness_limits.len()),
            Some(1)
        );
        assert!(queues.remove(one).is_some());
        assert_eq!(find(&queues), Some(two));

        let undeclared = queues.open(&name("b"), &os("linux"), 3).unwrap();
        assert_eq!(
            queues.open(&name("b"), &os("linux"), 3).unwrap(),
            undeclared
        );
        assert!(queues.open(&name("b"), &os("linux"), 4).is_err());
    }
}
