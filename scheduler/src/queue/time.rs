//! Time as the queue sees it: handed in, never asked for.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use uuid::Uuid;

use super::platform_queue::PlatformId;
use super::worker::WorkerKey;

/// The moment of a call. Rules compare `instant`, which never steps back;
/// `wall` only travels in messages.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The monotonic clock.
    pub instant: Instant,
    /// The calendar's clock.
    pub wall: SystemTime,
}

impl Now {
    /// The calendar's time after `span`; the present one where that overflows.
    pub(super) fn wall_after(&self, span: Duration) -> SystemTime {
        self.wall.checked_add(span).unwrap_or(self.wall)
    }
}

impl Now {
    /// The calendar's time when the monotonic clock will be at `instant`.
    pub(super) fn wall_at(&self, instant: Instant) -> SystemTime {
        self.wall_after(instant.saturating_duration_since(self.instant))
    }

    /// Where the monotonic clock was at the calendar's time `wall`, as far as that
    /// clock has not been set since.
    pub(super) fn instant_at(&self, wall: SystemTime) -> Instant {
        let ago = self.wall.duration_since(wall).unwrap_or_default();
        self.instant.checked_sub(ago).unwrap_or(self.instant)
    }
}

/// What happens when a deadline passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// An operation nobody waits for is removed.
    Operation(Uuid),
    /// An idle worker's long poll is answered.
    Poll(WorkerKey),
    /// A worker that has gone silent is forgotten.
    Worker(WorkerKey),
    /// A platform queue without workers is removed.
    Platform(PlatformId),
    /// Workers have had time to report what they execute.
    Recovery,
}

/// Every deadline, soonest first. Whoever sets one remembers its moment and so
/// can take it back.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(Instant, Timer)>);

impl Timers {
    pub(super) fn set(&mut self, at: Instant, timer: Timer) {
        self.0.insert((at, timer));
    }

    pub(super) fn clear(&mut self, at: Option<Instant>, timer: Timer) {
        if let Some(at) = at {
            self.0.remove(&(at, timer));
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        self.0.pop_first().map(|(_, timer)| timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_come_due_in_order_and_not_after_being_taken_back() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let timer = |n| Timer::Worker(WorkerKey(n));
        let mut timers = Timers::default();
        timers.set(at(3), timer(3));
        timers.set(at(1), timer(1));
        timers.set(at(2), timer(2));
        timers.clear(Some(at(2)), timer(2));
        assert_eq!(timers.pop_due(at(0)), None);
        assert_eq!(timers.next(), Some(at(1)));
        assert_eq!(timers.pop_due(at(5)), Some(timer(1)));
        assert_eq!(timers.pop_due(at(5)), Some(timer(3)));
        assert_eq!(timers.pop_due(at(5)), None);
    }
}
