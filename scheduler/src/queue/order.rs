//! Which queued task of one invocation goes next.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use super::aging::Level;
use super::explain::COUNTED;
use super::task::TaskId;

/// A task's place: the most urgent first; then, as a build is over when its last
/// action is, the one that is expected to take longest; then the order of
/// arrival.
///
/// A task keeps its arrival for life. Put back after its worker was lost, it
/// therefore stands before all that are as urgent and long and came later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) level: Level,
    pub(super) expected: Reverse<Duration>,
    /// The task's own, which counts up with each that arrives.
    pub(super) task: TaskId,
}

/// The tasks queued directly in one invocation, the next one first.
#[derive(Debug, Default)]
pub(super) struct Order(BTreeSet<Place>);

impl Order {
    pub(super) fn insert(&mut self, place: Place) {
        self.0.insert(place);
    }

    pub(super) fn remove(&mut self, place: Place) {
        self.0.remove(&place);
    }

    pub(super) fn first(&self) -> Option<Place> {
        self.0.first().copied()
    }

    /// How many go before this place, as far as is counted.
    pub(super) fn ahead(&self, place: Place) -> usize {
        self.0.range(..place).take(COUNTED).count()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Place> {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Instant;

    fn place(priority: i32, seconds: u64, arrival: u64) -> Place {
        let now = Instant::now();
        Place {
            level: Level::new(priority, None, now, now),
            expected: Reverse(Duration::from_secs(seconds)),
            task: TaskId(arrival),
        }
    }

    fn sorted(places: impl IntoIterator<Item = Place>) -> Vec<u64> {
        let mut order = Order::default();
        for place in places {
            order.insert(place);
        }
        order.iter().map(|place| place.task.0).collect()
    }

    #[test]
    fn the_whole_range_of_priorities_is_ordered_and_equals_are_first_come_first_served() {
        let priorities = [0, i32::MAX, 0, i32::MIN, -1];
        let places = (0..).zip(priorities).map(|(i, p)| place(p, 1, i));
        assert_eq!(sorted(places), [3, 4, 0, 2, 1]);
    }

    #[test]
    fn of_equally_urgent_ones_the_longest_goes_first() {
        let places = [place(0, 1, 0), place(0, 9, 1), place(-1, 1, 2)];
        assert_eq!(sorted(places), [2, 1, 0]);
    }

    proptest! {
        #[test]
        fn the_order_is_a_stable_sort_by_priority(priorities in prop::collection::vec(any::<i32>(), 0..50)) {
            let places = (0..).zip(&priorities).map(|(i, p)| place(*p, 1, i));
            let mut expected: Vec<_> = (0..).zip(&priorities).collect();
            expected.sort_by_key(|(_, priority)| **priority);
            prop_assert_eq!(sorted(places), expected.into_iter().map(|(arrival, _)| arrival).collect::<Vec<u64>>());
        }
    }
}
