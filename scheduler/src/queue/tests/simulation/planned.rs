//! What is to happen when.

use std::cmp::Reverse;
use std::time::Instant;

use super::Event;

/// An event and when it happens; equal times in the order they were planned.
pub(super) struct Planned(pub(super) Instant, pub(super) u64, pub(super) Event);

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Planned {}
impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Planned {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (Reverse(self.0), Reverse(self.1)).cmp(&(Reverse(other.0), Reverse(other.1)))
    }
}
