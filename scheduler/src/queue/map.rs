//! The maps of the queue.

/// A map with a hash that is quicker than the standard library's. It is seeded at
/// random, and what is hashed are numbers and digests of ours, or names of which a
/// client has no more than its limits allow.
pub(super) type Map<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;
