//! Which of several invocations is served next.

use super::aging::Level;

/// How much an invocation has relative to what it is due: the lowest is served
/// next. Buildbarn's rule (bb-remote-execution, in_memory_build_queue.go): the
/// number of workers it would then have, times two for each 100 points of the
/// effective priority of its most urgent operation. So of two equal invocations
/// each gets half of the workers, and one that is 100 points more urgent twice as
/// many as the other.
///
/// The logarithm is kept, in fractions of a point, exact enough to tell apart
/// invocations of up to millions of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Score(i64);

/// So many points double the weight.
const DOUBLING: f64 = 100.0;

/// The parts of a point. A level stays below 2^41.
const FRACTION: u32 = 20;

impl Score {
    pub(super) fn new(executing: u32, level: Level) -> Self {
        let points = f64::from(executing).ln_1p() / std::f64::consts::LN_2 * DOUBLING;
        #[expect(clippy::cast_possible_truncation, reason = "at most 3200 points")]
        let workers = (points * f64::from(1u32 << FRACTION)).round() as i64;
        Self((level.points() << FRACTION) + workers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn score(executing: u32, priority: i32) -> Score {
        let now = Instant::now();
        Score::new(executing, Level::new(priority, None, now, now))
    }

    #[test]
    fn a_hundred_points_are_worth_twice_the_workers() {
        assert_eq!(score(0, 100), score(1, 0));
        assert_eq!(score(3, 0), score(1, 100));
        assert!(score(2, 0) < score(1, 100));
        assert!(score(4, 0) > score(1, 100));
    }

    #[test]
    fn one_worker_more_always_counts_and_no_priority_overflows() {
        for executing in [0, 1, 100, 1_000_000] {
            for priority in [i32::MIN, 0, i32::MAX] {
                assert!(score(executing, priority) < score(executing + 1, priority));
            }
        }
        assert!(score(u32::MAX, i32::MIN) < score(0, i32::MAX));
    }
}
