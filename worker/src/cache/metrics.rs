//! What the cache counts.

use std::sync::{Arc, Weak};

use daemon::Metrics;
use daemon::metrics::{Counter, Family};

use super::file_cache::FileCache;

/// Buildbarn's name for this cache (bb-remote-execution, cmd/bb_worker).
const BUILDBARN_NAME: (&str, &str) = ("name", "HardlinkingFileFetcher");

/// Counters since the worker started.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) hits: Counter,
    pub(super) hit_bytes: Counter,
    pub(super) misses: Counter,
    pub(super) fetched: Counter,
    pub(super) fetched_bytes: Counter,
    pub(super) evicted: Counter,
    pub(super) evicted_bytes: Counter,
    pub(super) vanished: Counter,
    pub(super) altered: Counter,
    pub(super) renewed: Counter,
    /// bb-storage, pkg/eviction: the same operations under Buildbarn's names.
    operations: Family<[(&'static str, &'static str); 2], Counter>,
}

impl Counters {
    /// Counts an operation under Buildbarn's names.
    pub(super) fn operation(&self, operation: &'static str, count: u64) {
        let labels = [BUILDBARN_NAME, ("operation", operation)];
        self.operations.get_or_create(&labels).inc_by(count);
    }
}

impl FileCache {
    /// Registers what the cache counts, and what it holds.
    pub fn register(self: &Arc<Self>, metrics: &Metrics) {
        let counters = &self.counters;
        for (name, help, counter) in [
            ("hits", "Input files that were in the cache", &counters.hits),
            ("hit_bytes", "Their sizes", &counters.hit_bytes),
            (
                "misses",
                "Input files that were not, or not yet, in the cache",
                &counters.misses,
            ),
            ("fetched", "Files fetched from storage", &counters.fetched),
            ("fetched_bytes", "Their sizes", &counters.fetched_bytes),
            ("evicted", "Files that made room", &counters.evicted),
            (
                "evicted_bytes",
                "Their sizes on disk",
                &counters.evicted_bytes,
            ),
            (
                "vanished",
                "Files found gone from the disk, and fetched anew",
                &counters.vanished,
            ),
            (
                "altered",
                "Files found altered on the disk, and fetched anew",
                &counters.altered,
            ),
            (
                "renewed",
                "Files that had as many links as their file system allows",
                &counters.renewed,
            ),
        ] {
            let name = format!("hayloft_worker_file_cache_{name}");
            metrics.register(&name, help, counter.clone());
        }
        metrics.register(
            "buildbarn_eviction_set_operations",
            "Total number of operations against eviction sets",
            counters.operations.clone(),
        );
        let cache = Arc::downgrade(self);
        metrics.gauge(
            "hayloft_worker_file_cache_files",
            "Files in the cache, and on their way",
            move || of(&cache, |held| held.files),
        );
        let cache = Arc::downgrade(self);
        metrics.gauge(
            "hayloft_worker_file_cache_bytes",
            "What they occupy on disk",
            move || of(&cache, |held| held.bytes),
        );
        let cache = Arc::downgrade(self);
        metrics.gauge(
            "hayloft_worker_file_cache_pinned_files",
            "Files that actions use",
            move || of(&cache, |held| held.pinned),
        );
    }
}

/// What a cache holds at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Files, those on their way included.
    pub files: u64,
    /// What they occupy on disk, in bytes; those on their way by estimate.
    pub bytes: u64,
    /// Files that actions use.
    pub pinned: u64,
}

#[allow(clippy::cast_precision_loss)]
fn of(cache: &Weak<FileCache>, number: impl Fn(Held) -> u64) -> f64 {
    cache
        .upgrade()
        .map_or(0.0, |cache| number(cache.held()) as f64)
}
