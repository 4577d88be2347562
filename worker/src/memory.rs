//! Parsed messages kept in memory, bounded by what they weigh.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Locks a mutex. A thread that panicked while it held one of the worker's locks
/// left the data as consistent as any early return would: the locks guard
/// bookkeeping whose every step is complete in itself.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Values by what names them, least recently used out first.
pub(crate) struct Memory<K, V> {
    maximum: u64,
    state: Mutex<State<K, V>>,
}

struct State<K, V> {
    entries: HashMap<K, Entry<V>>,
    order: BTreeMap<u64, K>,
    clock: u64,
    weight: u64,
}

struct Entry<V> {
    value: Arc<V>,
    weight: u64,
    used: u64,
}

impl<K: Copy + Eq + Hash, V> Memory<K, V> {
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

    /// The value of this name, which counts as just used.
    pub(crate) fn get(&self, key: &K) -> Option<Arc<V>> {
        let state = &mut *lock(&self.state);
        let entry = state.entries.get_mut(key)?;
        state.order.remove(&entry.used);
        state.clock += 1;
        entry.used = state.clock;
        state.order.insert(entry.used, *key);
        Some(Arc::clone(&entry.value))
    }

    /// Keeps a value. One heavier than the whole memory is not kept.
    pub(crate) fn put(&self, key: K, value: Arc<V>, weight: u64) {
        if weight > self.maximum {
            return;
        }
        let state = &mut *lock(&self.state);
        if state.entries.contains_key(&key) {
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
        state.order.insert(used, key);
        state.weight += weight;
        state.entries.insert(
            key,
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
    #[test]
    fn what_was_not_used_for_longest_makes_room() {
        let memory = Memory::new(10);
        for n in 0..2_u8 {
            memory.put(n, Arc::new(n), 5);
        }
        assert!(memory.get(&0).is_some());
        memory.put(2, Arc::new(2), 5);
        assert!(memory.get(&1).is_none());
        assert!(memory.get(&0).is_some());
        memory.put(3, Arc::new(3), 11);
        assert!(memory.get(&3).is_none());
        assert_eq!(memory.get(&2).as_deref(), Some(&2));
    }
}
