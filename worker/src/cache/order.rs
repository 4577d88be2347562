//! In which order files leave the cache.

use serde::{Deserialize, Serialize};

use super::index::Id;

/// Which of the files that no action uses makes room. Named as Buildbarn's
/// (bb-storage, pkg/proto/configuration/eviction).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ReplacementPolicy {
    /// The one that has been in the cache for longest.
    FirstInFirstOut,
    /// The one that was not used for longest.
    #[default]
    LeastRecentlyUsed,
    /// Any.
    RandomReplacement,
}

/// No file.
const NONE: Id = Id::MAX;

/// The files that may leave, in order. Each operation takes the same short time
/// however many there are.
pub(super) struct Order {
    policy: ReplacementPolicy,
    /// By id. For a random choice, `before` is the place in `bag`.
    links: Vec<Link>,
    first: Id,
    last: Id,
    bag: Vec<Id>,
}

#[derive(Clone, Copy)]
struct Link {
    before: Id,
    after: Id,
    listed: bool,
}

impl Order {
    pub(super) fn new(policy: ReplacementPolicy) -> Self {
        Self {
            policy,
            links: Vec::new(),
            first: NONE,
            last: NONE,
            bag: Vec::new(),
        }
    }

    /// A file was put into the cache. It is in use.
    pub(super) fn came(&mut self, id: Id) {
        if self.policy == ReplacementPolicy::FirstInFirstOut {
            self.append(id);
        }
    }

    /// The first action uses a file.
    pub(super) fn used(&mut self, id: Id) {
        // First in, first out: it keeps its place, and is passed over.
        if self.policy != ReplacementPolicy::FirstInFirstOut {
            self.remove(id);
        }
    }

    /// No action uses a file any more.
    pub(super) fn idle(&mut self, id: Id) {
        match self.policy {
            ReplacementPolicy::FirstInFirstOut => {
                // It was passed over, so it is older than all that are listed.
                if !self.listed(id) {
                    self.prepend(id);
                }
            }
            ReplacementPolicy::LeastRecentlyUsed => self.append(id),
            ReplacementPolicy::RandomReplacement => {
                let place = Id::try_from(self.bag.len()).unwrap_or(NONE);
                self.bag.push(id);
                *self.link(id) = Link {
                    before: place,
                    after: NONE,
                    listed: true,
                };
            }
        }
    }

    /// Takes out the next to leave. With first in, first out it may be in use:
    /// then it is to be passed over.
    pub(super) fn take(&mut self) -> Option<Id> {
        let id = if self.policy == ReplacementPolicy::RandomReplacement {
            if self.bag.is_empty() {
                return None;
            }
            self.bag[rand::random_range(0..self.bag.len())]
        } else {
            self.first
        };
        if id == NONE {
            return None;
        }
        self.remove(id);
        Some(id)
    }

    /// Forgets a file, listed or not.
    pub(super) fn remove(&mut self, id: Id) {
        let link = *self.link(id);
        if !link.listed {
            return;
        }
        self.link(id).listed = false;
        if self.policy == ReplacementPolicy::RandomReplacement {
            self.bag.swap_remove(link.before as usize);
            if let Some(moved) = self.bag.get(link.before as usize).copied() {
                self.link(moved).before = link.before;
            }
            return;
        }
        match link.before {
            NONE => self.first = link.after,
            before => self.link(before).after = link.after,
        }
        match link.after {
            NONE => self.last = link.before,
            after => self.link(after).before = link.before,
        }
    }

    /// Those that may leave, the next one first; in no order where it is random.
    pub(super) fn listed_ids(&self) -> impl Iterator<Item = Id> + '_ {
        let mut at = self.first;
        let chain = std::iter::from_fn(move || {
            let id = (at != NONE).then_some(at)?;
            at = self.links[id as usize].after;
            Some(id)
        });
        chain.chain(self.bag.iter().copied())
    }

    pub(super) fn listed(&self, id: Id) -> bool {
        self.links.get(id as usize).is_some_and(|link| link.listed)
    }

    fn append(&mut self, id: Id) {
        let last = self.last;
        *self.link(id) = Link {
            before: last,
            after: NONE,
            listed: true,
        };
        match last {
            NONE => self.first = id,
            last => self.link(last).after = id,
        }
        self.last = id;
    }

    fn prepend(&mut self, id: Id) {
        let first = self.first;
        *self.link(id) = Link {
            before: NONE,
            after: first,
            listed: true,
        };
        match first {
            NONE => self.last = id,
            first => self.link(first).before = id,
        }
        self.first = id;
    }

    fn link(&mut self, id: Id) -> &mut Link {
        let place = id as usize;
        if self.links.len() <= place {
            let none = Link {
                before: NONE,
                after: NONE,
                listed: false,
            };
            self.links.resize(place + 1, none);
        }
        &mut self.links[place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(policy: ReplacementPolicy) -> Order {
        let mut order = Order::new(policy);
        for id in 0..4 {
            order.came(id);
            order.idle(id);
        }
        order
    }

    fn rest(mut order: Order) -> Vec<Id> {
        let listed: Vec<Id> = order.listed_ids().collect();
        let mut taken: Vec<Id> = std::iter::from_fn(|| order.take()).collect();
        assert_eq!(listed.len(), taken.len());
        if order.policy == ReplacementPolicy::RandomReplacement {
            taken.sort_unstable();
        } else {
            assert_eq!(listed, taken);
        }
        taken
    }

    #[test]
    fn use_postpones_leaving_only_where_it_counts() {
        use ReplacementPolicy::{FirstInFirstOut, LeastRecentlyUsed, RandomReplacement};
        for (policy, expected) in [
            (FirstInFirstOut, [0, 1, 2, 3]),
            (LeastRecentlyUsed, [0, 2, 3, 1]),
            (RandomReplacement, [0, 1, 2, 3]),
        ] {
            let mut order = filled(policy);
            order.used(1);
            order.idle(1);
            assert_eq!(rest(order), expected, "{policy:?}");
        }
    }

    #[test]
    fn a_file_that_was_passed_over_is_the_next_to_leave() {
        let mut order = filled(ReplacementPolicy::FirstInFirstOut);
        order.used(0);
        assert_eq!(order.take(), Some(0));
        assert_eq!(order.take(), Some(1));
        order.idle(0);
        assert_eq!(rest(order), [0, 2, 3]);
    }

    #[test]
    fn files_leave_the_middle_of_every_order() {
        for policy in [
            ReplacementPolicy::FirstInFirstOut,
            ReplacementPolicy::LeastRecentlyUsed,
            ReplacementPolicy::RandomReplacement,
        ] {
            let mut order = filled(policy);
            order.remove(1);
            order.remove(1);
            order.remove(3);
            order.remove(9);
            assert_eq!(rest(order), [0, 2], "{policy:?}");
        }
    }

    #[test]
    fn a_random_choice_reaches_every_file() {
        let first = || filled(ReplacementPolicy::RandomReplacement).take();
        let mut seen = [false; 4];
        // That one of four is never first in so many is less likely than 1e-36.
        for _ in 0..300 {
            seen[first().unwrap() as usize] = true;
        }
        assert_eq!(seen, [true; 4]);
    }
}
