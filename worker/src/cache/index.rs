//! What the cache holds: keys, sizes, pins and the order of eviction.

use std::collections::{BTreeMap, HashMap};

use proto::{Digest, DigestFunction};

/// What a cached file is: a blob, and whether it is executable, since the mode
/// is the inode's. A tenant, where tenants must not learn what others hold,
/// would be a third field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The blob.
    pub digest: Digest,
    /// Whether its mode is 0555 rather than 0444.
    pub executable: bool,
}

impl Key {
    /// Its name in the cache directory, as Buildbarn's worker spells it: the
    /// function's number, hash and size, separated by `-`, and at the end `+x`
    /// where it is executable and `-x` where it is not.
    #[must_use]
    pub fn file_name(&self) -> String {
        let sign = if self.executable { '+' } else { '-' };
        format!(
            "{}-{}{sign}x",
            self.digest.function().to_wire(),
            self.digest
        )
    }

    /// The inverse of [`Self::file_name`].
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (rest, executable) = match name.strip_suffix("+x") {
            Some(rest) => (rest, true),
            None => (name.strip_suffix("-x")?, false),
        };
        let (function, rest) = rest.split_once('-')?;
        let (hash, size) = rest.split_once('-')?;
        let function = DigestFunction::ALL
            .into_iter()
            .find(|known| known.to_wire().to_string() == function)?;
        let digest = Digest::new(function, hash, size.parse().ok()?).ok()?;
        let key = Self { digest, executable };
        // Other spellings of a number would give one file two names.
        (key.file_name() == name).then_some(key)
    }

    /// The mode of its file.
    #[must_use]
    pub fn mode(&self) -> u32 {
        if self.executable { 0o555 } else { 0o444 }
    }
}

/// What asking the index for a file finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    /// It is there, and now has one more pin.
    Pinned,
    /// It is there from before the worker started and must be hashed first.
    Unverified,
    /// It is not there.
    Absent,
}

/// The files of the cache. Entries without pins are in the order of their last
/// use; eviction takes the oldest of them.
#[derive(Default)]
pub(super) struct Index {
    entries: HashMap<Key, Entry>,
    idle: BTreeMap<u64, Key>,
    clock: u64,
    bytes: u64,
}

struct Entry {
    bytes: u64,
    pins: u32,
    /// The place in `idle` while there are no pins.
    used: u64,
    verified: bool,
}

impl Index {
    /// Pins a file that is there and verified.
    pub(super) fn pin(&mut self, key: &Key) -> Lookup {
        match self.entries.get_mut(key) {
            None => Lookup::Absent,
            Some(entry) if !entry.verified => Lookup::Unverified,
            Some(entry) => {
                if entry.pins == 0 {
                    self.idle.remove(&entry.used);
                }
                entry.pins += 1;
                Lookup::Pinned
            }
        }
    }

    /// Takes one pin away.
    pub(super) fn unpin(&mut self, key: &Key) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.pins -= 1;
            if entry.pins == 0 {
                self.clock += 1;
                entry.used = self.clock;
                self.idle.insert(entry.used, *key);
            }
        }
    }

    /// A complete file of this many bytes on disk is in place under its name; it
    /// is verified and has one more pin. It may replace one that was there.
    pub(super) fn publish(&mut self, key: Key, bytes: u64) {
        let entry = self.entries.entry(key).or_insert(Entry {
            bytes: 0,
            pins: 0,
            used: 0,
            verified: true,
        });
        self.bytes = self.bytes - entry.bytes + bytes;
        if entry.pins == 0 {
            self.idle.remove(&entry.used);
        }
        entry.bytes = bytes;
        entry.pins += 1;
        entry.verified = true;
    }

    /// A file found when the worker started, used later than those added before.
    pub(super) fn found(&mut self, key: Key, bytes: u64, verified: bool) {
        self.clock += 1;
        let entry = Entry {
            bytes,
            pins: 0,
            used: self.clock,
            verified,
        };
        self.idle.insert(self.clock, key);
        self.bytes += bytes;
        self.entries.insert(key, entry);
    }

    /// Forgets a file without pins.
    pub(super) fn forget(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.idle.remove(&entry.used);
            self.bytes -= entry.bytes;
        }
    }

    /// Forgets the file without pins that was not used for longest.
    pub(super) fn evict(&mut self) -> Option<Key> {
        let (_, key) = self.idle.pop_first()?;
        if let Some(entry) = self.entries.remove(&key) {
            self.bytes -= entry.bytes;
        }
        Some(key)
    }

    /// How many files there are.
    pub(super) fn count(&self) -> u64 {
        self.entries.len() as u64
    }

    /// What they occupy on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many have pins.
    #[cfg(test)]
    pub(super) fn pinned(&self) -> u64 {
        (self.entries.len() - self.idle.len()) as u64
    }

    /// The verified files, those not used for longest first.
    pub(super) fn verified(&self) -> Vec<Key> {
        let pinned = self.entries.iter().filter(|(_, entry)| entry.pins > 0);
        let idle = self.idle.values();
        idle.filter(|key| self.entries.get(key).is_some_and(|entry| entry.verified))
            .chain(pinned.map(|(key, _)| key))
            .copied()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> Key {
        Key {
            digest: Digest::of(DigestFunction::Sha256, &[n]),
            executable: false,
        }
    }

    #[test]
    fn names_are_those_of_buildbarn_and_round_trip() {
        let mut one = key(1);
        let hash = one.digest.hash();
        assert_eq!(one.file_name(), format!("1-{hash}-1-x"));
        assert_eq!(Key::parse(&one.file_name()), Some(one));
        one.executable = true;
        assert_eq!(one.file_name(), format!("1-{hash}-1+x"));
        assert_eq!(Key::parse(&one.file_name()), Some(one));
        for bad in [
            String::new(),
            format!("1-{hash}-1"),
            format!("1-{hash}-01-x"),
            format!("9-{hash}-1-x"),
            format!("3-{hash}-1-x"),
            format!("1-{}-1-x", hash.to_uppercase()),
        ] {
            assert_eq!(Key::parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn pinned_files_are_not_evicted_and_the_last_pin_makes_them_the_newest() {
        let mut index = Index::default();
        for n in 0..3 {
            index.publish(key(n), 10);
            index.unpin(&key(n));
        }
        assert_eq!(index.pin(&key(0)), Lookup::Pinned);
        assert_eq!(index.pin(&key(0)), Lookup::Pinned);
        assert_eq!(index.pinned(), 1);
        index.unpin(&key(0));
        assert_eq!(index.evict(), Some(key(1)));
        index.unpin(&key(0));
        assert_eq!(index.evict(), Some(key(2)));
        assert_eq!(index.evict(), Some(key(0)));
        assert_eq!(index.evict(), None);
        assert_eq!((index.count(), index.bytes()), (0, 0));
    }

    #[test]
    fn a_file_that_is_replaced_while_pinned_keeps_its_pins() {
        let mut index = Index::default();
        index.publish(key(1), 10);
        index.publish(key(1), 30);
        assert_eq!(index.bytes(), 30);
        index.unpin(&key(1));
        assert_eq!(index.evict(), None);
        index.unpin(&key(1));
        assert_eq!(index.evict(), Some(key(1)));
    }

    #[test]
    fn files_found_unverified_are_not_handed_out() {
        let mut index = Index::default();
        index.found(key(1), 10, false);
        index.found(key(2), 10, true);
        assert_eq!(index.pin(&key(1)), Lookup::Unverified);
        assert_eq!(index.pin(&key(2)), Lookup::Pinned);
        assert_eq!(index.verified(), [key(2)]);
        index.forget(&key(1));
        assert_eq!(index.pin(&key(1)), Lookup::Absent);
    }
}
