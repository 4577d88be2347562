//! Identical actions in flight are executed once.

use std::sync::Arc;

use super::map::Map;
use super::task::{Job, TaskId};

/// The tasks that a further Execute of the same action may join: same instance
/// name, same digest and digest function. Actions marked `do_not_cache` are never
/// in here (REv2 Action: in-flight requests for them may not be merged).
#[derive(Debug, Default)]
pub(super) struct Dedup(Map<Arc<Job>, TaskId>);

impl Dedup {
    pub(super) fn find(&self, job: &Job) -> Option<TaskId> {
        if job.do_not_cache {
            return None;
        }
        self.0.get(job).copied()
    }

    pub(super) fn insert(&mut self, job: &Arc<Job>, task: TaskId) {
        if !job.do_not_cache {
            self.0.insert(job.clone(), task);
        }
    }

    /// Takes a task out, if it is the one that would be found.
    pub(super) fn remove(&mut self, job: &Job, task: TaskId) {
        if self.0.get(job) == Some(&task) {
            self.0.remove(job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::task::tests::job;
    use super::*;
    use proto::{Digest, DigestFunction};

    #[test]
    fn only_the_same_action_of_the_same_instance_and_function_is_found() {
        let mut dedup = Dedup::default();
        let first = Arc::new(job("a", b"x"));
        dedup.insert(&first, TaskId(1));
        assert_eq!(dedup.find(&job("a", b"x")), Some(TaskId(1)));
        assert_eq!(dedup.find(&job("b", b"x")), None);
        assert_eq!(dedup.find(&job("a", b"y")), None);
        let mut other = job("a", b"x");
        other.digest = Digest::of(DigestFunction::Sha1, b"x");
        assert_eq!(dedup.find(&other), None);
        dedup.remove(&first, TaskId(1));
        assert_eq!(dedup.find(&first), None);
    }

    #[test]
    fn a_task_takes_out_no_other() {
        let mut dedup = Dedup::default();
        let same = Arc::new(job("a", b"x"));
        dedup.insert(&same, TaskId(1));
        dedup.insert(&same, TaskId(2));
        dedup.remove(&same, TaskId(1));
        assert_eq!(dedup.find(&same), Some(TaskId(2)));
        dedup.remove(&same, TaskId(2));
        assert_eq!(dedup.find(&same), None);
    }

    #[test]
    fn actions_that_are_not_to_be_cached_are_never_joined() {
        let mut dedup = Dedup::default();
        let mut uncached = job("a", b"x");
        uncached.do_not_cache = true;
        let uncached = Arc::new(uncached);
        dedup.insert(&uncached, TaskId(1));
        assert_eq!(dedup.find(&uncached), None);
    }
}
