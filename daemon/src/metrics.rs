//! Metrics: what a program counts, for Prometheus to read at `/metrics`.
//!
//! A part of a program has its metrics in a struct of its own, whose fields are
//! the metric types of `prometheus-client` ([`Counter`], [`Gauge`], [`Histogram`],
//! [`Family`] of each by labels). They count whether or not anybody reads them, so
//! tests need no registry. Where the program is put together (`run`), they are
//! registered once with the program's [`Metrics`]:
//!
//! ```
//! use daemon::metrics::{Counter, Metrics};
//!
//! #[derive(Clone, Debug, Default)]
//! struct CacheMetrics {
//!     hits: Counter,
//! }
//!
//! impl CacheMetrics {
//!     fn register(&self, metrics: &Metrics) {
//!         // Read as `hayloft_cache_hits_total`: counters get `_total` by themselves.
//!         metrics.register("hayloft_cache_hits", "Files found in the cache", self.hits.clone());
//!     }
//! }
//!
//! let metrics = Metrics::default();
//! let cache = CacheMetrics::default();
//! cache.register(&metrics);
//! cache.hits.inc();
//! assert!(metrics.to_text().contains("hayloft_cache_hits_total 1"));
//! ```
//!
//! Metrics that mean what Buildbarn's do bear its names; others begin with
//! `hayloft_`. What is cheaper to ask for than to keep count of (the length of a
//! queue, the bytes of a store) is a [`Collector`], asked at each reading
//! ([`Metrics::collect`]), or, as a single number, [`Metrics::gauge`].
//!
//! Values of labels are from a set that the program bounds: never a digest, a
//! name that a client chose, or an operation.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::family::Family;
pub use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
pub use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};
use tonic::Code;

/// The metrics of one program. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    /// Adds a metric, or a family of them. `name` is without the `_total` of
    /// counters, `help` a sentence without its full stop. Each name is registered
    /// once: readers refuse text that has one twice.
    pub fn register(&self, name: &str, help: &str, metric: impl Metric) {
        self.registry().register(name, help, metric);
    }

    /// Adds metrics that are made anew at each reading. The collector is called
    /// while the registry is locked: it must not register anything.
    pub fn collect(&self, collector: impl Collector) {
        self.registry().register_collector(Box::new(collector));
    }

    /// Adds a gauge that is asked for its value at each reading.
    pub fn gauge<F>(&self, name: &'static str, help: &'static str, value: F)
    where
        F: Fn() -> f64 + Send + Sync + 'static,
    {
        self.collect(Asked { name, help, value });
    }

    /// All metrics, in the text form of OpenMetrics 1.0.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail; a collector that does ends the text early,
        // which its reader notices by the missing end mark.
        if prometheus_client::encoding::text::encode(&mut text, &self.registry()).is_err() {
            tracing::error!("a metric cannot be written");
        }
        text
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Asked<F> {
    name: &'static str,
    help: &'static str,
    value: F,
}

impl<F> fmt::Debug for Asked<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl<F: Fn() -> f64 + Send + Sync + 'static> Collector for Asked<F> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        write(
            encoder,
            self.name,
            self.help,
            &ConstGauge::new((self.value)()),
        )
    }
}

/// Writes one metric, for a [`Collector`].
///
/// # Errors
/// What is written to does not take it.
pub fn write(
    mut encoder: DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> fmt::Result {
    let kind = metric.metric_type();
    metric.encode(encoder.encode_descriptor(name, help, None, kind)?)
}

/// A status code as labels have it: as gRPC for Go prints it.
#[must_use]
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_gauge_is_asked_at_each_reading() {
        let metrics = Metrics::default();
        let length = Arc::new(AtomicU32::new(3));
        let asked = Arc::clone(&length);
        metrics.gauge("queue_length", "How many wait", move || {
            f64::from(asked.load(Ordering::Relaxed))
        });
        assert!(metrics.to_text().contains("\nqueue_length 3.0\n"));
        length.store(4, Ordering::Relaxed);
        let text = metrics.clone().to_text();
        assert!(text.contains("\nqueue_length 4.0\n"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
