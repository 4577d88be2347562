//! What the cache counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Buildbarn's name for this cache (bb-remote-execution, cmd/bb_worker).
const BUILDBARN_NAME: &str = "HardlinkingFileFetcher";

/// Counters since the worker started, and what is there now.
#[derive(Default)]
pub(super) struct Metrics {
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
    pub(super) files: Gauge,
    pub(super) bytes: Gauge,
    /// bb-storage, pkg/eviction: the same operations under Buildbarn's names.
    operations: Family<Operation, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    name: &'static str,
    operation: &'static str,
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let files = registry.sub_registry_with_prefix("hayloft_worker_file_cache");
        let mut counter = |name: &str, help: &str, counter: &Counter| {
            files.register(name, help, counter.clone());
        };
        counter("hits", "Input files that were in the cache", &self.hits);
        counter("hit_bytes", "Their sizes", &self.hit_bytes);
        counter(
            "misses",
            "Input files that were not, or not yet, in the cache",
            &self.misses,
        );
        counter("fetched", "Files fetched from storage", &self.fetched);
        counter("fetched_bytes", "Their sizes", &self.fetched_bytes);
        counter("evicted", "Files that made room", &self.evicted);
        counter("evicted_bytes", "Their sizes on disk", &self.evicted_bytes);
        counter(
            "vanished",
            "Files found gone from the disk, and fetched anew",
            &self.vanished,
        );
        counter(
            "altered",
            "Files found altered on the disk, and fetched anew",
            &self.altered,
        );
        counter(
            "renewed",
            "Files that had as many links as their file system allows",
            &self.renewed,
        );
        let gauge = Gauge::clone;
        files.register("files", "Files in the cache", gauge(&self.files));
        let bytes = gauge(&self.bytes);
        files.register_with_unit("size", "What they occupy on disk", Unit::Bytes, bytes);
        registry.register(
            "buildbarn_eviction_set_operations",
            "Total number of operations against eviction sets",
            self.operations.clone(),
        );
    }

    /// Counts an operation under Buildbarn's names.
    pub(super) fn operation(&self, operation: &'static str, count: u64) {
        let name = BUILDBARN_NAME;
        self.operations
            .get_or_create(&Operation { name, operation })
            .inc_by(count);
    }
}
