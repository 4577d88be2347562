//! What the embedded store holds: which blobs, how lately each was used, how much
//! they take, and the bytes of the smallest of them.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use lru::LruCache;
use proto::Digest;

/// How old the recency on disk (a file's mtime) may grow before a use of the blob
/// renews it. It only orders eviction after a restart.
const RENEW_AFTER: Duration = Duration::from_secs(3600);

/// What a blob takes on disk: whole blocks.
const BLOCK: u64 = 4096;

/// Blobs larger than this are not kept in memory.
pub(super) const HOT_BLOB: u64 = 16 << 10;

/// What an entry in memory takes beside its bytes, roughly.
const HOT_OVERHEAD: u64 = 256;

/// In memory only: the caller keeps the files in step with it.
pub(super) struct Index {
    /// For each blob on disk, when its file last said it was used.
    blobs: LruCache<Digest, SystemTime>,
    size: u64,
    /// What blobs being written take meanwhile.
    reserved: u64,
    limit: u64,
    /// A subset of `blobs`, verified.
    hot: LruCache<Digest, Bytes>,
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
pub(super) fn cost(digest: &Digest) -> u64 {
    blocks(digest.size().max(1))
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
    pub(super) fn contains(&self, digest: &Digest) -> bool {
        self.blobs.contains(digest)
    }

    /// Makes the blob, if it is there, the one used last.
    pub(super) fn touch(&mut self, digest: &Digest, now: SystemTime) -> Use {
        match self.blobs.get_mut(digest) {
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
    pub(super) fn hot(&mut self, digest: &Digest) -> Option<Bytes> {
        self.hot.get(digest).cloned()
    }

    /// Keeps a blob's bytes in memory, unless it is large or gone meanwhile.
    pub(super) fn keep(&mut self, digest: Digest, bytes: Bytes) {
        if digest.size() > HOT_BLOB || !self.blobs.contains(&digest) {
            return;
        }
        self.hot_size += hot_cost(&bytes);
        if let Some(earlier) = self.hot.put(digest, bytes) {
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
    pub(super) fn insert(&mut self, digest: Digest, told: SystemTime) -> Vec<Digest> {
        if self.blobs.put(digest, told).is_none() {
            self.size += cost(&digest);
        }
        self.evict()
    }

    /// Counts bytes that are about to be written. Answers with the blobs that must
    /// go for them; with nothing when even that would not make the room, since
    /// what is being written takes all of it.
    pub(super) fn reserve(&mut self, bytes: u64) -> Option<Vec<Digest>> {
        let reserved = self.reserved.checked_add(bytes)?;
        if reserved > self.limit {
            return None;
        }
        self.reserved = reserved;
        Some(self.evict())
    }

    /// Takes back what was reserved: the bytes are a blob's now, or are gone.
    pub(super) fn release(&mut self, bytes: u64) {
        self.reserved -= bytes;
    }

    fn evict(&mut self) -> Vec<Digest> {
        let mut gone = Vec::new();
        while self.size + self.reserved > self.limit {
            let Some((oldest, _)) = self.blobs.pop_lru() else {
                break;
            };
            self.forget(&oldest);
            gone.push(oldest);
        }
        gone
    }

    /// Takes a blob out.
    pub(super) fn remove(&mut self, digest: &Digest) {
        if self.blobs.pop(digest).is_some() {
            self.forget(digest);
        }
    }

    fn forget(&mut self, digest: &Digest) {
        self.size -= cost(digest);
        if let Some(bytes) = self.hot.pop(digest) {
            self.hot_size -= hot_cost(&bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::DigestFunction;

    fn blob(number: u32) -> (Digest, Bytes) {
        let bytes = Bytes::from(vec![number as u8; number as usize * 100]);
        (Digest::of(DigestFunction::Sha256, &bytes), bytes)
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
        let (digest, _) = blob(1);
        index.insert(digest, start);
        let later = start + RENEW_AFTER;
        assert_eq!(
            index.touch(&digest, later - Duration::from_secs(1)),
            Use::Present
        );
        assert_eq!(index.touch(&digest, later), Use::Renew);
        assert_eq!(index.touch(&digest, later), Use::Present);
        // A clock that went back renews nothing and breaks nothing.
        assert_eq!(index.touch(&digest, start), Use::Present);
    }

    proptest! {
        /// Whatever happens: sizes are the sums of what is held, limits hold, and
        /// only blobs that are there have bytes in memory.
        #[test]
        fn sums_and_limits_hold(steps in prop::collection::vec((0..6u8, 1..60u32), 0..300)) {
            let mut index = Index::new(20 * BLOCK, 10_000);
            let mut reserved = Vec::new();
            for (step, number) in steps {
                let (digest, bytes) = blob(number);
                match step {
                    0 => { index.insert(digest, SystemTime::UNIX_EPOCH); }
                    1 => index.keep(digest, bytes),
                    2 => index.remove(&digest),
                    3 => {
                        let bytes = u64::from(number) * 1000;
                        let held: u64 = reserved.iter().sum();
                        let got = index.reserve(bytes).is_some();
                        prop_assert_eq!(got, held + bytes <= index.limit);
                        if got {
                            reserved.push(bytes);
                        }
                    }
                    4 => {
                        if let Some(bytes) = reserved.pop() {
                            index.release(bytes);
                        }
                    }
                    _ => { index.touch(&digest, SystemTime::UNIX_EPOCH); }
                }
                let size: u64 = index.blobs.iter().map(|(digest, _)| cost(digest)).sum();
                prop_assert_eq!(size, index.size);
                prop_assert_eq!(reserved.iter().sum::<u64>(), index.reserved);
                prop_assert!(size + index.reserved <= index.limit);
                let hot: u64 = index.hot.iter().map(|(_, bytes)| hot_cost(bytes)).sum();
                prop_assert_eq!(hot, index.hot_size);
                prop_assert!(hot <= index.hot_limit);
                let held = index.hot.iter().all(|(digest, _)| index.blobs.contains(digest));
                prop_assert!(held);
            }
        }
    }
}
