//! Who the roles of a farm run as.
//!
//! A farm that root starts gives each role and each slot a user of its own, so
//! that no action's user owns the worker's cache and no role reads another's
//! files. The roles of a farm that a plain user starts run as that user. If the user
//! has subordinate ids (`subuid(5)`), each slot has a user of those; otherwise actions
//! run as the user too, and the worker copies inputs instead of hardlinking them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

/// The users of farms lie where systemd's table of uids says nobody else's do
/// (`uids-gids.md`: 1,879,048,192 to 2,147,483,647 are unused).
const FIRST: u32 = 1_900_000_000;
/// How many users one farm has.
const PER_FARM: u32 = 10_000;
const FARMS: u32 = 20_000;
/// Within a farm's users, where those of the slots begin.
const FIRST_SLOT: u32 = 100;
/// How many users there must be besides those of the slots: those of the sandboxes that
/// a runner keeps ready by default, and of as many on their way out.
const SPARE: u32 = 8;

/// The users of one farm; the group of each has the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identities {
    /// The first of the farm's users; none when all roles run as the user who started
    /// it.
    base: Option<u32>,
    /// The users that run actions, and how many there are.
    slots: Option<(u32, u32)>,
}

impl Identities {
    /// Chooses the users of the farm whose state is at `path`: those it had
    /// before (`worker` owned its files), else some that other farms on this
    /// machine are unlikely to have.
    ///
    /// `slots`: how many actions will run at a time. Call it while the process has one
    /// thread: a plain user's subordinate ids are tried, by a child.
    #[must_use]
    pub fn choose(path: &Path, worker: Option<u32>, slots: u16) -> Self {
        if !nix::unistd::geteuid().is_root() {
            return Self {
                base: None,
                slots: subordinate(slots),
            };
        }
        Self::of(path, worker)
    }

    /// Those of a farm that root starts.
    fn of(path: &Path, worker: Option<u32>) -> Self {
        let kept = worker.filter(|uid| (FIRST..FIRST + FARMS * PER_FARM).contains(uid));
        let base = kept.unwrap_or_else(|| {
            let mut hasher = DefaultHasher::new();
            path.hash(&mut hasher);
            let farm = u32::try_from(hasher.finish() % u64::from(FARMS)).unwrap_or(0);
            FIRST + farm * PER_FARM
        });
        Self {
            base: Some(base),
            slots: Some((base + FIRST_SLOT, PER_FARM - FIRST_SLOT)),
        }
    }

    /// The worker's user.
    #[must_use]
    pub fn worker(&self) -> Option<u32> {
        self.base
    }

    /// The storage's user.
    #[must_use]
    pub fn storage(&self) -> Option<u32> {
        self.base.map(|base| base + 1)
    }

    /// The scheduler's user.
    #[must_use]
    pub fn scheduler(&self) -> Option<u32> {
        self.base.map(|base| base + 2)
    }

    /// The user of the runner's service half.
    #[must_use]
    pub fn service(&self) -> Option<u32> {
        self.base.map(|base| base + 3)
    }

    /// The first of the users that run actions, and how many there are.
    #[must_use]
    pub fn slots(&self) -> Option<(u32, u32)> {
        self.slots
    }
}

/// The subordinate ids of the user who asks, if they can be used and are enough.
fn subordinate(slots: u16) -> Option<(u32, u32)> {
    // Sandboxes that wait for an action have one each, too.
    let needed = u32::from(slots) + SPARE;
    let probe = sandbox::Probe::run().ok()?;
    if probe.missing(sandbox::Feature::SubordinateIds).is_some() {
        return None;
    }
    let largest = probe.subordinate.iter().max_by_key(|range| range.count)?;
    if largest.count < needed {
        tracing::warn!(
            "{} subordinate ids are too few for {slots} slots, which takes {needed}: actions run \
             as this user, with copied inputs",
            largest.count
        );
        return None;
    }
    Some((largest.start, largest.count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_kept_apart_and_within_what_is_unused() {
        for path in ["/a", "/b", "/root/.local/share/hayloft"] {
            let base = Identities::of(Path::new(path), None);
            let (first, count) = base.slots().unwrap();
            let roles = [
                base.worker().unwrap(),
                base.storage().unwrap(),
                base.scheduler().unwrap(),
                base.service().unwrap(),
            ];
            assert!(roles.iter().all(|role| (FIRST..first).contains(role)));
            assert!(first + count <= 2_147_483_647);
            assert!(roles.windows(2).all(|pair| pair[0] != pair[1]));
        }
    }
}
