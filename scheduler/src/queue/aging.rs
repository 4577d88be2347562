//! Waiting makes urgent.

use std::time::{Duration, Instant};

/// How urgent an operation is, lower being more so, in the points of REv2's
/// priority: the priority it was given, less one point for each interval that it
/// has waited.
///
/// All that wait gain at the same pace, so which of two is the more urgent never
/// changes, and nothing need be sorted anew as time passes. What is kept is
/// therefore not the effective priority itself but the one it would have had when
/// the scheduler started: the priority given, plus one point for each interval
/// that had passed until the operation came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Level(i64);

impl Level {
    /// The level of an operation of `priority` that comes now. Without an
    /// interval, or with none of any length, nothing ages.
    pub(super) fn new(
        priority: i32,
        interval: Option<Duration>,
        started: Instant,
        now: Instant,
    ) -> Self {
        let passed = now.saturating_duration_since(started).as_nanos();
        let intervals = match interval.map(|interval| interval.as_nanos()) {
            None | Some(0) => 0,
            Some(interval) => passed / interval,
        };
        // So that points, in `fairness`, still leave room for fractions.
        let intervals = i64::try_from(intervals).unwrap_or(i64::MAX).min(1 << 40);
        Self(i64::from(priority) + intervals)
    }

    /// In points.
    pub(super) fn points(self) -> i64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_gains_one_point_per_interval_on_those_that_come_later() {
        let start = Instant::now();
        let minute = Some(Duration::from_secs(60));
        let at = |seconds| start + Duration::from_secs(seconds);
        let old = Level::new(5, minute, start, start);
        assert!(old > Level::new(4, minute, start, at(59)));
        assert_eq!(old, Level::new(4, minute, start, at(60)));
        assert!(old < Level::new(4, minute, start, at(120)));
        let least = Level::new(i32::MIN, minute, start, at(1 << 33));
        assert!(least < Level::new(i32::MAX, minute, start, start));
    }

    #[test]
    fn without_an_interval_nothing_ages() {
        let start = Instant::now();
        let later = start + Duration::from_secs(100_000);
        for interval in [None, Some(Duration::ZERO)] {
            let level = Level::new(7, interval, start, later);
            assert_eq!(level, Level::new(7, interval, start, start));
        }
    }
}
