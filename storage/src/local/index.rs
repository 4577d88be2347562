//! What the embedded store holds: which blobs, how lately each was used, how much
//! they take, and the bytes of the smallest of them.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use lru::LruCache;

use super::key::Key;

/// How old the recency on disk (a file's mtime) may grow before a use of the blob
/// renews it. It only orders eviction after a restart.
const RENEW_AFTER: Duration = Duration::from_secs(3600);

/// What a blob takes on disk: whole blocks.
const BLOCK: u64 = 4096;

/// Blobs larger than this are not kept in memory.
pub(super) const HOT_BLOB: u64 = 16 << 10;

/// How many holds there may be; each takes some hundred bytes.
const HOLDS: usize = 1_000_000;

/// What an entry in memory takes beside its bytes, roughly.
const HOT_OVERHEAD: u64 = 256;

/// In memory only: the caller keeps the files in step with it.
pub(super) struct Index {
    /// For each blob on disk, when its file last said it was used.
    blobs: LruCache<Key, SystemTime>,
    size: u64,
    /// What blobs being written take meanwhile.
    reserved: u64,
    /// Blobs whose files are being made where they stay.
    claimed: HashSet<Key>,
    /// Blobs that may not go, whether they are there or not, and how many hold each.
    held: HashMap<Key, u32>,
    held_size: u64,
    /// All holds together.
    holds: usize,
    evicted: u64,
    limit: u64,
    /// A subset of `blobs`, verified.
    hot: LruCache<Key, Bytes>,
    hot_size: u64,
    hot_limit: u64,
}

/// What a use of a blob found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// It is not there.
    Absent,
    /// It is there.
    Present,
    /// It is there, and its file should be told that it was used.
    Renew,
}

/// What a blob counts for against the limit.
pub(super) fn cost(key: &Key) -> u64 {
    blocks(key.digest.size().max(1))
}

/// What so many bytes of a file take.
pub(super) fn blocks(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX)
}

fn hot_cost(bytes: &Bytes) -> u64 {
    bytes.len() as u64 + HOT_OVERHEAD
}

impl Index {
    pub(super) fn new(limit: u64, hot_limit: u64) -> Self {
        Self {
            blobs: LruCache::unbounded(),
            size: 0,
            reserved: 0,
            claimed: HashSet::new(),
            held: HashMap::new(),
            held_size: 0,
            holds: 0,
            evicted: 0,
            limit,
            hot: LruCache::unbounded(),
            hot_size: 0,
            hot_limit,
        }
    }

    /// What all blobs count for.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Whether the blob is there, without using it.
    pub(super) fn contains(&self, key: &Key) -> bool {
        self.blobs.contains(key)
    }

    /// Claims a blob that is absent for one who is to write it; false if another has.
    pub(super) fn claim(&mut self, key: Key) -> bool {
        self.claimed.insert(key)
    }

    /// Ends a claim.
    pub(super) fn disclaim(&mut self, key: &Key) {
        self.claimed.remove(key);
    }

    /// Whether somebody is writing the blob where it stays.
    pub(super) fn is_claimed(&self, key: &Key) -> bool {
        self.claimed.contains(key)
    }

    /// Whether the blob's file is not to be removed: it is there, or is being made.
    pub(super) fn is_in_use(&self, key: &Key) -> bool {
        self.contains(key) || self.is_claimed(key)
    }

    /// Makes the blob, if it is there, the one used last.
    pub(super) fn touch(&mut self, key: &Key, now: SystemTime) -> Use {
        match self.blobs.get_mut(key) {
            None => Use::Absent,
            Some(told) => {
                if now
                    .duration_since(*told)
                    .is_ok_and(|age| age >= RENEW_AFTER)
                {
                    *told = now;
                    Use::Renew
                } else {
                    Use::Present
                }
            }
        }
    }

    /// The blob's bytes, when they are in memory.
    pub(super) fn hot(&mut self, key: &Key) -> Option<Bytes> {
        self.hot.get(key).cloned()
    }

    /// Keeps a blob's bytes in memory, unless it is large or gone meanwhile.
    pub(super) fn keep(&mut self, key: Key, bytes: Bytes) {
        if key.digest.size() > HOT_BLOB || !self.blobs.contains(&key) {
            return;
        }
        self.hot_size += hot_cost(&bytes);
        if let Some(earlier) = self.hot.put(key, bytes) {
            self.hot_size -= hot_cost(&earlier);
        }
        while self.hot_size > self.hot_limit {
            let Some((_, bytes)) = self.hot.pop_lru() else {
                break;
            };
            self.hot_size -= hot_cost(&bytes);
        }
    }

    /// Adds a blob as the one used last. Answers with those that must go for it.
    pub(super) fn insert(&mut self, key: Key, told: SystemTime) -> Vec<Key> {
        if self.blobs.put(key, told).is_none() {
            self.size += cost(&key);
        }
        self.evict()
    }

    /// Counts bytes that are about to be written. Gives the blobs that must go for
    /// them, and whether there is room then: what is being written and what is held
    /// may take all of it.
    pub(super) fn reserve(&mut self, bytes: u64) -> (Vec<Key>, bool) {
        let reserved = self.reserved.saturating_add(bytes);
        if reserved > self.limit {
            return (Vec::new(), false);
        }
        self.reserved = reserved;
        let gone = self.evict();
        let granted = self.size + self.reserved <= self.limit;
        if !granted {
            self.reserved -= bytes;
        }
        (gone, granted)
    }

    /// Takes back what was reserved: the bytes are a blob's now, or are gone.
    pub(super) fn release(&mut self, bytes: u64) {
        self.reserved -= bytes;
    }

    /// Takes out what was used longest ago until the rest fits. Blobs that are held
    /// are in use, and so become the ones used last instead.
    fn evict(&mut self) -> Vec<Key> {
        let mut gone = Vec::new();
        let mut passed_over = 0;
        while self.size + self.reserved > self.limit && passed_over <= self.held.len() {
            let Some((oldest, told)) = self.blobs.pop_lru() else {
                break;
            };
            if self.held.contains_key(&oldest) {
                self.blobs.put(oldest, told);
                passed_over += 1;
                continue;
            }
            self.forget(&oldest);
            gone.push(oldest);
        }
        self.evicted += gone.len() as u64;
        gone
    }

    /// Takes out what was not used since a moment. The order is that of use, and a
    /// file is told of uses once an hour; so of each some hour may be missing.
    pub(super) fn expire(&mut self, since: SystemTime) -> Vec<Key> {
        let mut gone = Vec::new();
        while let Some((oldest, told)) = self.blobs.peek_lru() {
            let oldest = *oldest;
            if *told + RENEW_AFTER >= since || self.held.contains_key(&oldest) {
                break;
            }
            self.remove(&oldest);
            gone.push(oldest);
        }
        self.evicted += gone.len() as u64;
        gone
    }

    /// Keeps blobs from going; what is not there is kept once it comes. Half of the
    /// store can be held, so that nobody who holds stops all others from writing, and
    /// so many blobs that what notes it does not fill the memory. Gives what is held
    /// by this.
    pub(super) fn hold(&mut self, keys: &[Key]) -> Vec<Key> {
        let mut held = Vec::with_capacity(keys.len());
        for key in keys {
            if self.holds >= HOLDS {
                break;
            }
            let holds = self.held.entry(*key).or_default();
            if *holds == 0 {
                if self.held_size + cost(key) > self.limit / 2 {
                    self.held.remove(key);
                    continue;
                }
                self.held_size += cost(key);
            }
            *holds += 1;
            self.holds += 1;
            held.push(*key);
        }
        held
    }

    /// Takes one hold back. Nothing has to go for that: within its limit the store
    /// always is.
    pub(super) fn let_go(&mut self, keys: &[Key]) {
        for key in keys {
            if let Some(holds) = self.held.get_mut(key) {
                *holds -= 1;
                self.holds -= 1;
                if *holds == 0 {
                    self.held.remove(key);
                    self.held_size -= cost(key);
                }
            }
        }
    }

    /// How many blobs there are, and how many went for others or for their age.
    pub(super) fn counts(&self) -> (usize, u64) {
        (self.blobs.len(), self.evicted)
    }

    /// Takes a blob out.
    pub(super) fn remove(&mut self, key: &Key) {
        if self.blobs.pop(key).is_some() {
            self.forget(key);
        }
    }

    fn forget(&mut self, key: &Key) {
        self.size -= cost(key);
        if let Some(bytes) = self.hot.pop(key) {
            self.hot_size -= hot_cost(&bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::{Digest, DigestFunction, InstanceName};

    use super::super::key::Tenant;

    fn blob(number: u32) -> (Key, Bytes) {
        let bytes = Bytes::from(vec![number as u8; number as usize * 100]);
        let tenant = Tenant::of(&InstanceName::empty());
        let digest = Digest::of(DigestFunction::Sha256, &bytes);
        (tenant.key(digest), bytes)
    }

    #[test]
    fn the_blob_used_longest_ago_goes_first() {
        let now = SystemTime::UNIX_EPOCH;
        let mut index = Index::new(2 * BLOCK, 0);
        let [a, b, c] = [1, 2, 3].map(|n| blob(n).0);
        assert!(index.insert(a, now).is_empty());
        assert!(index.insert(b, now).is_empty());
        assert_eq!(index.touch(&a, now), Use::Present);
        assert_eq!(index.insert(c, now), [b]);
        assert!(index.contains(&a) && index.contains(&c));
        assert_eq!(index.touch(&b, now), Use::Absent);
    }

    #[test]
    fn files_are_told_of_uses_once_an_hour() {
        let start = SystemTime::UNIX_EPOCH;
        let mut index = Index::new(BLOCK, 0);
        let (key, _) = blob(1);
        index.insert(key, start);
        let later = start + RENEW_AFTER;
        assert_eq!(
            index.touch(&key, later - Duration::from_secs(1)),
            Use::Present
        );
        assert_eq!(index.touch(&key, later), Use::Renew);
        assert_eq!(index.touch(&key, later), Use::Present);
        // A clock that went back renews nothing and breaks nothing.
        assert_eq!(index.touch(&key, start), Use::Present);
    }

    #[test]
    fn what_is_held_does_not_go_until_it_is_let_go() {
        let now = SystemTime::UNIX_EPOCH;
        let mut index = Index::new(4 * BLOCK, 0);
        let keys: Vec<Key> = (1..8).map(|n| blob(n).0).collect();
        let held = index.hold(&keys[..3]);
        // Half of the store and no more.
        assert_eq!(held, keys[..2]);
        for key in &keys[..4] {
            index.insert(*key, now);
        }
        assert_eq!(index.insert(keys[4], now), [keys[2]]);
        assert_eq!(index.insert(keys[5], now), [keys[3]]);
        // Two are held, and two uploads take the rest.
        let (gone, granted) = index.reserve(2 * BLOCK);
        assert_eq!((gone.len(), granted), (2, true));
        assert_eq!(index.reserve(1), (Vec::new(), false));
        index.release(2 * BLOCK);
        index.let_go(&held);
        assert!(index.held.is_empty());
        let (gone, granted) = index.reserve(3 * BLOCK);
        assert_eq!((gone.len(), granted), (1, true));
    }

    #[test]
    fn what_nobody_used_since_then_expires() {
        let start = SystemTime::UNIX_EPOCH;
        let mut index = Index::new(10 * BLOCK, 0);
        let [old, held, young] = [1, 2, 3].map(|n| blob(n).0);
        index.insert(old, start);
        index.insert(held, start);
        index.insert(young, start + RENEW_AFTER);
        let kept = index.hold(&[held]);
        let since = start + RENEW_AFTER;
        assert!(index.expire(since).is_empty());
        let since = since + Duration::from_secs(1);
        assert_eq!(index.expire(since), [old]);
        index.let_go(&kept);
        assert_eq!(index.expire(since), [held]);
        assert!(index.contains(&young));
    }

    proptest! {
        /// Whatever happens: sizes are the sums of what is held, limits hold, and
        /// only blobs that are there have bytes in memory.
        #[test]
        fn sums_and_limits_hold(steps in prop::collection::vec((0..8u8, 1..60u32), 0..300)) {
            let mut index = Index::new(20 * BLOCK, 10_000);
            let mut reserved = Vec::new();
            let mut holds = Vec::new();
            for (step, number) in steps {
                let (key, bytes) = blob(number);
                match step {
                    // As a blob that was written: it takes what was reserved for it.
                    0 => if index.reserve(cost(&key)).1 {
                        index.release(cost(&key));
                        index.insert(key, SystemTime::UNIX_EPOCH);
                    }
                    1 => index.keep(key, bytes),
                    2 => index.remove(&key),
                    3 => {
                        let bytes = u64::from(number) * 1000;
                        let held: u64 = reserved.iter().sum();
                        let (_, got) = index.reserve(bytes);
                        let kept: u64 = index.held.keys().map(cost).sum();
                        prop_assert!(got || held + bytes + kept > index.limit);
                        prop_assert!(!got || held + bytes <= index.limit);
                        if got {
                            reserved.push(bytes);
                        }
                    }
                    4 => {
                        if let Some(bytes) = reserved.pop() {
                            index.release(bytes);
                        }
                    }
                    5 => holds.push(index.hold(&[key])),
                    6 => {
                        if let Some(keys) = holds.pop() {
                            index.let_go(&keys);
                        }
                    }
                    _ => { index.touch(&key, SystemTime::UNIX_EPOCH); }
                }
                let size: u64 = index.blobs.iter().map(|(key, _)| cost(key)).sum();
                prop_assert_eq!(size, index.size);
                prop_assert_eq!(reserved.iter().sum::<u64>(), index.reserved);
                prop_assert!(size + index.reserved <= index.limit);
                let kept: u64 = index.held.keys().map(cost).sum();
                prop_assert_eq!(kept, index.held_size);
                prop_assert!(kept <= index.limit / 2);
                let hot: u64 = index.hot.iter().map(|(_, bytes)| hot_cost(bytes)).sum();
                prop_assert_eq!(hot, index.hot_size);
                prop_assert!(hot <= index.hot_limit);
                let held = index.hot.iter().all(|(key, _)| index.blobs.contains(key));
                prop_assert!(held);
            }
        }
    }
}
