//! What the cache holds: keys, sizes, pins and the order of eviction.
//!
//! An entry is made when somebody asks for a file, whether it is there or not, and
//! is named by a small number from then on. Its content goes
//! `absent → present` (fetched), `unverified → present` (hashed),
//! `unverified → absent` (damaged), `present → absent` (vanished, or evicted).
//! Who works on one of these changes has it *busy*; everybody else waits. An entry
//! with pins or busy stays; one without both leaves when it is evicted, or at once
//! where its content is absent.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::key::Key;
use super::order::{Order, ReplacementPolicy};

/// Names an entry while it has pins or is busy.
pub(super) type Id = u32;

/// Whether an entry's file is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// It is not.
    Absent,
    /// It is from before the worker started and must be hashed first.
    Unverified,
    /// It is, and is good.
    Present,
}

/// The outcome of wanting to work on an entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Claimed {
    /// There is nothing to do.
    Present,
    /// Somebody else is at it.
    Busy,
    /// It is the caller's to fetch.
    ToFetch,
    /// It is the caller's to hash.
    ToVerify,
}

struct Entry {
    key: Key,
    /// Blocks on disk, in bytes; while the file is being fetched, an estimate.
    bytes: u64,
    pins: u32,
    content: Content,
    /// Which work has it busy; [`NO_WORK`] where none has.
    work: Work,
}

/// Names one caller's work on entries, so that a late end of work that was given
/// up is told from that of the work after it.
pub(super) type Work = u32;

const NO_WORK: Work = 0;

/// The files of the cache. About 150 bytes of memory for each.
pub(super) struct Index {
    hasher: RandomState,
    ids: HashTable<Id>,
    entries: Vec<Entry>,
    /// Entries that are nobody's.
    free: Vec<Id>,
    order: Order,
    bytes: u64,
    count: u64,
    pinned: u64,
    works: Work,
}

impl Index {
    pub(super) fn new(policy: ReplacementPolicy) -> Self {
        Self {
            hasher: RandomState::new(),
            ids: HashTable::new(),
            entries: Vec::new(),
            free: Vec::new(),
            order: Order::new(policy),
            bytes: 0,
            count: 0,
            pinned: 0,
            works: NO_WORK,
        }
    }

    /// A name for one caller's work.
    pub(super) fn begin_work(&mut self) -> Work {
        self.works = self.works.wrapping_add(1).max(NO_WORK + 1);
        self.works
    }

    fn entry(&mut self, id: Id) -> &mut Entry {
        &mut self.entries[id as usize]
    }

    /// The key of an entry.
    pub(super) fn key(&self, id: Id) -> Key {
        self.entries[id as usize].key
    }

    /// The entry of a file, if there is one.
    pub(super) fn find(&self, key: &Key) -> Option<Id> {
        let hash = self.hasher.hash_one(key);
        let same = |id: &Id| self.entries[*id as usize].key == *key;
        self.ids.find(hash, same).copied()
    }

    fn add(&mut self, key: Key, content: Content) -> Id {
        let entry = Entry {
            key,
            bytes: 0,
            pins: 0,
            content,
            work: NO_WORK,
        };
        let id = match self.free.pop() {
            Some(id) => {
                *self.entry(id) = entry;
                id
            }
            None => {
                self.entries.push(entry);
                // 2^32 entries would take 600 GB of memory.
                Id::try_from(self.entries.len() - 1).unwrap_or(Id::MAX)
            }
        };
        let hash = self.hasher.hash_one(key);
        let (hasher, entries) = (&self.hasher, &self.entries);
        let again = |id: &Id| hasher.hash_one(entries[*id as usize].key);
        self.ids.insert_unique(hash, id, again);
        id
    }

    fn forget(&mut self, id: Id) {
        let hash = self.hasher.hash_one(self.key(id));
        if let Ok(found) = self.ids.find_entry(hash, |other| *other == id) {
            found.remove();
        }
        self.order.remove(id);
        self.free.push(id);
    }

    /// Adds a pin to the entry of a file, which is made where there is none. Says
    /// whether the file is there.
    pub(super) fn pin(&mut self, key: &Key) -> (Id, bool) {
        let id = match self.find(key) {
            Some(id) => id,
            None => self.add(*key, Content::Absent),
        };
        let entry = self.entry(id);
        entry.pins += 1;
        let (first, present) = (entry.pins == 1, entry.content == Content::Present);
        if first {
            self.pinned += 1;
            self.order.used(id);
        }
        (id, present)
    }

    /// Takes one pin away.
    pub(super) fn unpin(&mut self, id: Id) {
        let entry = self.entry(id);
        entry.pins -= 1;
        if entry.pins == 0 {
            self.pinned -= 1;
        }
        self.settle(id);
    }

    /// Sees to an entry that may have lost its last pin or stopped being busy.
    fn settle(&mut self, id: Id) {
        let entry = self.entry(id);
        if entry.pins > 0 || entry.work != NO_WORK {
            return;
        }
        match entry.content {
            Content::Absent => self.forget(id),
            Content::Unverified | Content::Present => self.order.idle(id),
        }
    }

    /// Takes over the work on an entry with pins, where there is any and nobody is
    /// at it.
    pub(super) fn claim(&mut self, id: Id, work: Work) -> Claimed {
        let entry = self.entry(id);
        if entry.work != NO_WORK {
            return Claimed::Busy;
        }
        let claimed = match entry.content {
            Content::Present => return Claimed::Present,
            Content::Unverified => Claimed::ToVerify,
            Content::Absent => Claimed::ToFetch,
        };
        entry.work = work;
        if claimed == Claimed::ToFetch {
            self.expect(id);
        }
        claimed
    }

    /// Counts a file that is going to be there.
    fn expect(&mut self, id: Id) {
        let entry = self.entry(id);
        entry.bytes = entry.key.digest.size().next_multiple_of(4096);
        let bytes = entry.bytes;
        self.bytes += bytes;
        self.count += 1;
    }

    /// Counts a file no longer.
    fn lose(&mut self, id: Id) {
        let entry = self.entry(id);
        let bytes = std::mem::take(&mut entry.bytes);
        entry.content = Content::Absent;
        self.bytes -= bytes;
        self.count -= 1;
    }

    /// Whether this work has an entry busy.
    pub(super) fn is_at(&self, id: Id, work: Work) -> bool {
        self.entries[id as usize].work == work
    }

    /// The caller, who has the entry busy, put its complete and verified file in
    /// place, or found the one there good.
    pub(super) fn publish(&mut self, id: Id, bytes: u64) {
        let entry = self.entry(id);
        let (fetched, before) = (entry.content == Content::Absent, entry.bytes);
        entry.bytes = bytes;
        entry.content = Content::Present;
        entry.work = NO_WORK;
        self.bytes = self.bytes - before + bytes;
        if fetched {
            self.order.came(id);
        }
        self.settle(id);
    }

    /// The caller, who has the entry busy, found its file damaged; it goes on with
    /// fetching it.
    pub(super) fn spoilt(&mut self, id: Id) {
        self.lose(id);
        self.order.remove(id);
        self.expect(id);
    }

    /// This work on an entry is over, whether it was published or not.
    pub(super) fn release(&mut self, id: Id, work: Work) {
        let entry = self.entry(id);
        if entry.work != work {
            return;
        }
        entry.work = NO_WORK;
        if entry.content == Content::Absent {
            self.lose(id);
        }
        self.settle(id);
    }

    /// Whether nobody is working on an entry with pins.
    pub(super) fn is_settled(&self, id: Id) -> bool {
        self.is_at(id, NO_WORK)
    }

    /// Whether a file is there and nobody is at it.
    pub(super) fn is_present(&self, id: Id) -> bool {
        self.is_settled(id) && self.entries[id as usize].content == Content::Present
    }

    /// A file that is there and has pins was found to be no more.
    pub(super) fn vanished(&mut self, id: Id) {
        if self.is_present(id) {
            self.lose(id);
            self.order.remove(id);
        }
    }

    /// A file found when the worker started, used later than those added before.
    pub(super) fn found(&mut self, key: Key, bytes: u64, verified: bool) {
        let content = match verified {
            true => Content::Present,
            false => Content::Unverified,
        };
        let id = self.add(key, content);
        self.entry(id).bytes = bytes;
        self.bytes += bytes;
        self.count += 1;
        self.order.came(id);
        self.order.idle(id);
    }

    /// Forgets the file without pins whose turn it is, and says what it occupied.
    pub(super) fn evict(&mut self) -> Option<(Key, u64)> {
        loop {
            let id = self.order.take()?;
            let entry = self.entry(id);
            if entry.pins > 0 || entry.work != NO_WORK {
                // First in, first out: it comes back when it is idle.
                continue;
            }
            let (key, bytes) = (entry.key, entry.bytes);
            self.lose(id);
            self.forget(id);
            return Some((key, bytes));
        }
    }

    /// One file, if any, that must be hashed yet, with a pin for the caller, who
    /// has it busy.
    pub(super) fn next_unverified(&mut self, from: &mut Id, work: Work) -> Option<Id> {
        while let Some(entry) = self.entries.get_mut(*from as usize) {
            let id = *from;
            *from += 1;
            // Entries that are nobody's are absent.
            if entry.content == Content::Unverified && entry.work == NO_WORK {
                entry.work = work;
                entry.pins += 1;
                let first = entry.pins == 1;
                if first {
                    self.pinned += 1;
                    self.order.used(id);
                }
                return Some(id);
            }
        }
        None
    }

    /// How many files there are, and will be when those under way are there.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// What they occupy on disk, those under way by estimate.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many entries have pins.
    pub(super) fn pinned(&self) -> u64 {
        self.pinned
    }

    /// How many verified files have pins. One that is being verified has one, too.
    pub(super) fn in_use(&self) -> usize {
        let entries = self.entries.iter();
        let used = entries.filter(|entry| entry.pins > 0 && entry.content == Content::Present);
        used.count()
    }

    /// The verified files, those that leave next first, those in use last.
    pub(super) fn verified(&self) -> Vec<Key> {
        let listed = self.order.listed_ids();
        let ids = 0..Id::try_from(self.entries.len()).unwrap_or(Id::MAX);
        let others = ids.filter(|id| !self.order.listed(*id));
        listed
            .chain(others)
            .map(|id| &self.entries[id as usize])
            .filter(|entry| entry.content == Content::Present)
            .map(|entry| entry.key)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Tenant;
    use proto::{Digest, DigestFunction};

    fn key(n: u8) -> Key {
        Key {
            tenant: Tenant::SHARED,
            digest: Digest::of(DigestFunction::Sha256, &[n]),
            executable: false,
        }
    }

    fn index() -> Index {
        Index::new(ReplacementPolicy::LeastRecentlyUsed)
    }

    fn fetch(index: &mut Index, n: u8) -> Id {
        let (id, present) = index.pin(&key(n));
        assert!(!present);
        assert_eq!(index.claim(id, 1), Claimed::ToFetch);
        index.publish(id, 10);
        id
    }

    fn evicted(index: &mut Index) -> Option<Key> {
        index.evict().map(|(key, _)| key)
    }

    #[test]
    fn pinned_files_are_not_evicted_and_the_last_pin_makes_them_the_newest() {
        let mut index = index();
        for n in 0..3 {
            let id = fetch(&mut index, n);
            index.unpin(id);
        }
        let (id, present) = index.pin(&key(0));
        assert!(present);
        assert_eq!(index.pin(&key(0)), (id, true));
        assert_eq!(index.pinned(), 1);
        index.unpin(id);
        assert_eq!(evicted(&mut index), Some(key(1)));
        index.unpin(id);
        assert_eq!(evicted(&mut index), Some(key(2)));
        assert_eq!(evicted(&mut index), Some(key(0)));
        assert_eq!(evicted(&mut index), None);
        assert_eq!((index.count(), index.bytes(), index.pinned()), (0, 0, 0));
    }

    #[test]
    fn first_in_first_out_passes_over_what_is_in_use() {
        let mut index = Index::new(ReplacementPolicy::FirstInFirstOut);
        let ids: Vec<Id> = (0..3).map(|n| fetch(&mut index, n)).collect();
        index.unpin(ids[1]);
        assert_eq!(evicted(&mut index), Some(key(1)));
        assert_eq!(evicted(&mut index), None);
        index.unpin(ids[2]);
        index.unpin(ids[0]);
        assert_eq!(evicted(&mut index), Some(key(0)));
        assert_eq!(evicted(&mut index), Some(key(2)));
        assert_eq!((index.count(), index.bytes()), (0, 0));
    }

    #[test]
    fn what_is_being_fetched_counts_and_is_one_callers() {
        let mut index = index();
        let (id, _) = index.pin(&key(1));
        assert_eq!(index.claim(id, 1), Claimed::ToFetch);
        assert_eq!((index.count(), index.bytes()), (1, 4096));
        assert_eq!(index.pin(&key(1)), (id, false));
        assert_eq!(index.claim(id, 1), Claimed::Busy);
        assert!(!index.is_settled(id));
        // The first gives up; whoever is not at it cannot.
        index.release(id, 9);
        assert_eq!(index.claim(id, 1), Claimed::Busy);
        index.release(id, 1);
        index.unpin(id);
        assert_eq!((index.count(), index.bytes()), (0, 0));
        assert_eq!(index.claim(id, 1), Claimed::ToFetch);
        index.publish(id, 10);
        assert_eq!((index.count(), index.bytes()), (1, 10));
        index.unpin(id);
        assert_eq!(evicted(&mut index), Some(key(1)));
    }

    #[test]
    fn what_never_came_leaves_nothing_behind() {
        let mut index = index();
        for n in 0..5 {
            let (id, _) = index.pin(&key(n));
            assert_eq!(id, 0);
            assert_eq!(index.claim(id, 1), Claimed::ToFetch);
            // The pin may go before the work is given up.
            index.unpin(id);
            index.release(id, 1);
            assert_eq!(index.find(&key(n)), None);
        }
        assert_eq!((index.count(), index.bytes()), (0, 0));
    }

    #[test]
    fn files_found_are_hashed_by_one_and_fetched_where_damaged() {
        let mut index = index();
        index.found(key(1), 10, false);
        index.found(key(2), 10, true);
        assert_eq!(index.verified(), [key(2)]);
        let (id, present) = index.pin(&key(1));
        assert!(!present);
        assert_eq!(index.claim(id, 1), Claimed::ToVerify);
        assert_eq!(index.claim(id, 1), Claimed::Busy);
        index.publish(id, 10);
        index.unpin(id);
        assert_eq!(index.verified(), [key(2), key(1)]);

        index.found(key(3), 10, false);
        let mut from = 0;
        let third = index.next_unverified(&mut from, 2).unwrap();
        assert_eq!(index.next_unverified(&mut from, 2), None);
        index.spoilt(third);
        assert_eq!((index.count(), index.bytes()), (3, 20 + 4096));
        index.release(third, 2);
        index.unpin(third);
        assert_eq!((index.count(), index.bytes()), (2, 20));
        assert_eq!(index.find(&key(3)), None);
    }

    #[test]
    fn a_file_that_vanished_while_pinned_is_fetched_anew() {
        let mut index = index();
        let id = fetch(&mut index, 1);
        index.vanished(id);
        assert_eq!((index.count(), index.bytes()), (0, 0));
        assert_eq!(index.claim(id, 1), Claimed::ToFetch);
        // Of what is on its way nothing can vanish.
        index.vanished(id);
        index.publish(id, 10);
        index.unpin(id);
        assert_eq!(evicted(&mut index), Some(key(1)));
        assert_eq!((index.count(), index.bytes()), (0, 0));
    }
}
