//! How long a worker stays with an invocation that others are equal to.

use std::time::{Duration, Instant};

use super::invocation::{InvocationId, Invocations, ROOT};

/// Where a worker works, and since when without a break: for each level of the
/// tree, the outermost first.
///
/// While the time at a level is within the limit of that level, the worker goes
/// on with the same invocation as long as none is due more than that one. It
/// then finds more of its inputs in its cache. Without limits the worker goes to
/// whichever was served least recently.
#[derive(Debug, Default)]
pub(super) struct Stay(Vec<(InvocationId, Instant)>);

impl Stay {
    /// The invocation that is left last, which whoever keeps this has pinned.
    pub(super) fn at(&self) -> InvocationId {
        self.0.last().map_or(ROOT, |(id, _)| *id)
    }

    /// Goes to none, and returns where it was.
    pub(super) fn leave(&mut self) -> InvocationId {
        let at = self.at();
        self.0.clear();
        at
    }

    /// Goes to another invocation. Levels that both share go on.
    pub(super) fn move_to(&mut self, tree: &Invocations, id: InvocationId, now: Instant) {
        let path = tree.path(id);
        let shared = self.0.iter().zip(&path).take_while(|((a, _), b)| a == *b);
        let shared = shared.count();
        self.0.truncate(shared);
        self.0
            .extend(path.into_iter().skip(shared).map(|id| (id, now)));
    }

    /// The invocation to go on with at a level.
    pub(super) fn preferred(
        &self,
        depth: usize,
        limits: &[Duration],
        now: Instant,
    ) -> Option<InvocationId> {
        let ((id, since), limit) = (self.0.get(depth)?, limits.get(depth)?);
        (now.saturating_duration_since(*since) < *limit).then_some(*id)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::key;
    use super::*;

    #[test]
    fn a_level_that_is_shared_goes_on_and_a_new_one_begins_anew() {
        let mut tree = Invocations::new(Default::default());
        let x = tree.open(&[key("a"), key("x")].into());
        let y = tree.open(&[key("a"), key("y")].into());
        let a = tree.path(x)[0];
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let limits = [Duration::from_secs(10), Duration::from_secs(10)];
        let mut stay = Stay::default();
        assert_eq!(stay.at(), ROOT);
        stay.move_to(&tree, x, at(0));
        stay.move_to(&tree, y, at(6));
        assert_eq!(stay.at(), y);
        assert_eq!(stay.preferred(0, &limits, at(9)), Some(a));
        assert_eq!(stay.preferred(0, &limits, at(10)), None);
        assert_eq!(stay.preferred(1, &limits, at(10)), Some(y));
        assert_eq!(
            stay.preferred(1, &limits[..1], at(10)),
            None,
            "no limit, no staying"
        );
        stay.move_to(&tree, ROOT, at(10));
        assert_eq!(stay.at(), ROOT);
    }
}
