//! Parsed messages kept in memory, bounded by what they weigh.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::Digest;

/// Locks a mutex. A thread that panicked while it held one of the worker's locks
/// left the data as consistent as any early return would: the locks guard
/// bookkeeping whose every step is complete in itself.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Values by digest, least recently used out first.
pub(crate) struct Memory<V> {
    maximum: u64,
    state: Mutex<State<V>>,
}

struct State<V> {
    entries: HashMap<Digest, Entry<V>>,
    order: BTreeMap<u64, Digest>,
    clock: u64,
    weight: u64,
}

struct Entry<V> {
    value: Arc<V>,
    weight: u64,
    used: u64,
}

impl<V> Memory<V> {
    /// One that holds values of this weight altogether, in bytes.
    pub(crate) fn new(maximum: u64) -> Self {
        Self {
            maximum,
            state: Mutex::new(State {
                entries: HashMap::new(),
                order: BTreeMap::new(),
                clock: 0,
                weight: 0,
            }),
        }
    }

    /// The value of a digest, which counts as just used.
    pub(crate) fn get(&self, digest: &Digest) -> Option<Arc<V>> {
        let state = &mut *lock(&self.state);
        let entry = state.entries.get_mut(digest)?;
        state.order.remove(&entry.used);
        state.clock += 1;
        entry.used = state.clock;
        state.order.insert(entry.used, *digest);
        Some(Arc::clone(&entry.value))
    }

    /// Keeps a value. One heavier than the whole memory is not kept.
    pub(crate) fn put(&self, digest: Digest, value: Arc<V>, weight: u64) {
        if weight > self.maximum {
            return;
        }
        let state = &mut *lock(&self.state);
        if state.entries.contains_key(&digest) {
            return;
        }
        while state.weight + weight > self.maximum {
            let Some((_, oldest)) = state.order.pop_first() else {
                break;
            };
            if let Some(entry) = state.entries.remove(&oldest) {
                state.weight -= entry.weight;
            }
        }
        state.clock += 1;
        let used = state.clock;
        state.order.insert(used, digest);
        state.weight += weight;
        state.entries.insert(
            digest,
            Entry {
                value,
                weight,
                used,
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::DigestFunction;

    #[test]
    fn what_was_not_used_for_longest_makes_room() {
        let digest = |n: u8| Digest::of(DigestFunction::Sha256, &[n]);
        let memory = Memory::new(10);
        for n in 0..2 {
            memory.put(digest(n), Arc::new(n), 5);
        }
        assert!(memory.get(&digest(0)).is_some());
        memory.put(digest(2), Arc::new(2), 5);
        assert!(memory.get(&digest(1)).is_none());
        assert!(memory.get(&digest(0)).is_some());
        memory.put(digest(3), Arc::new(3), 11);
        assert!(memory.get(&digest(3)).is_none());
        assert_eq!(memory.get(&digest(2)).as_deref(), Some(&2));
    }
}
