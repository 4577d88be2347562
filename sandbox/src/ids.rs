//! Host ids of sandboxes.

use std::collections::VecDeque;

use crate::policy::HostIds;

/// Gives out host ids; of a range, each to one sandbox alive at a time, and the one
/// that was given back longest ago: what a command left at its id meets another
/// command of that id as late as can be.
#[derive(Debug)]
pub(crate) enum Ids {
    Range { free: VecDeque<u32> },
    Same(u32),
}

impl Ids {
    /// `own` is the runner's uid.
    pub(crate) fn new(host_ids: HostIds, own: u32) -> Self {
        match host_ids {
            HostIds::Range { start, count } => Self::Range {
                free: (start..start.saturating_add(count)).collect(),
            },
            HostIds::SameUser => Self::Same(own),
        }
    }

    /// Whether there is one to take.
    pub(crate) fn any(&self) -> bool {
        match self {
            Self::Range { free } => !free.is_empty(),
            Self::Same(_) => true,
        }
    }

    pub(crate) fn take(&mut self) -> Option<u32> {
        match self {
            Self::Range { free } => free.pop_front(),
            Self::Same(own) => Some(*own),
        }
    }

    /// The sandbox that had it is dead and reaped.
    pub(crate) fn give_back(&mut self, id: u32) {
        match self {
            Self::Range { free } => free.push_back(id),
            Self::Same(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_id_is_given_out_twice() {
        let range = HostIds::Range {
            start: 100,
            count: 2,
        };
        let mut ids = Ids::new(range, 0);
        assert_eq!(
            (ids.take(), ids.take(), ids.take()),
            (Some(100), Some(101), None)
        );
        ids.give_back(101);
        ids.give_back(100);
        assert_eq!(
            (ids.take(), ids.take(), ids.take()),
            (Some(101), Some(100), None)
        );
    }
}
