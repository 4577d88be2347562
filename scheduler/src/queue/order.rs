//! Which queued task goes next.

use std::collections::BTreeMap;

use super::task::TaskId;

/// A task's place. REv2 priority first, over the whole range of int32, lower
/// values being more urgent; then the order of arrival.
///
/// A task keeps its arrival for life. Put back after its worker was lost, it
/// therefore stands before every task of its priority that had to wait longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// As the client gave it.
    pub priority: i32,
    /// Counts up with each task that arrives.
    pub arrival: u64,
}

/// The queued tasks of one platform queue, most urgent first.
#[derive(Debug, Default)]
pub(super) struct Order(BTreeMap<Place, TaskId>);

impl Order {
    pub(super) fn insert(&mut self, place: Place, task: TaskId) {
        self.0.insert(place, task);
    }

    pub(super) fn remove(&mut self, place: Place) {
        self.0.remove(&place);
    }

    pub(super) fn pop(&mut self) -> Option<TaskId> {
        self.0.pop_first().map(|(_, task)| task)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_whole_range_of_priorities_is_ordered_and_equals_are_first_come_first_served() {
        let mut order = Order::default();
        let arrivals = [0, i32::MAX, 0, i32::MIN, -1];
        for (arrival, priority) in (0..).zip(arrivals) {
            order.insert(Place { priority, arrival }, TaskId(arrival));
        }
        let popped: Vec<_> = std::iter::from_fn(|| order.pop()).map(|t| t.0).collect();
        assert_eq!(popped, [3, 4, 0, 2, 1]);
    }

    proptest! {
        #[test]
        fn pops_are_a_stable_sort_by_priority(priorities in prop::collection::vec(any::<i32>(), 0..50)) {
            let mut order = Order::default();
            for (arrival, priority) in (0..).zip(&priorities) {
                order.insert(Place { priority: *priority, arrival }, TaskId(arrival));
            }
            let mut expected: Vec<_> = (0..).zip(&priorities).collect();
            expected.sort_by_key(|(_, priority)| **priority);
            let popped: Vec<_> = std::iter::from_fn(|| order.pop()).map(|t| t.0).collect();
            prop_assert_eq!(popped, expected.into_iter().map(|(arrival, _)| arrival).collect::<Vec<u64>>());
        }
    }
}
