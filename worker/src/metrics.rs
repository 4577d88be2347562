//! What executing actions counts: the stages' durations and what commands used,
//! under the names of Buildbarn's worker (bb-remote-execution,
//! `pkg/builder/metrics_build_executor.go`), taken from each result's metadata.

use std::collections::BTreeMap;

use daemon::Metrics;
use daemon::metrics::{Counter, Family, Gauge, Histogram};
use prometheus_client::encoding::EncodeLabelSet;
use proto::messages;
use proto::wire::action::Facts;
use proto::wire::protobuf::{Any, Duration, Timestamp};
use proto::wire::resourceusage::PosixResourceUsage;
use proto::wire::rev2::{ExecuteResponse, ExecutedActionMetadata};
use tonic::Code;

/// How an action ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    result: &'static str,
    grpc_code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageEnded {
    result: &'static str,
    grpc_code: String,
    stage: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// Counters and histograms of actions. Clones share one state.
#[derive(Clone)]
pub(crate) struct ActionMetrics {
    stages: Histograms<StageEnded>,
    virtual_duration: Histograms<Ended>,
    /// Of `POSIXResourceUsage`, by Buildbarn's name.
    usage: BTreeMap<&'static str, Histograms<Ended>>,
    uploaded_blobs: Counter,
    uploaded_bytes: Counter,
    executing: Gauge,
}

/// One action under way; counted until this is dropped.
pub(crate) struct Executing(Gauge);

impl Drop for Executing {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Three to a decade, from 10 to the power of `from` to 10 to that of `to`:
/// Buildbarn's buckets.
fn decades(from: i32, to: i32) -> Histogram {
    Histogram::new((from * 3..=to * 3).map(|third| 10_f64.powf(f64::from(third) / 3.0)))
}

/// A millisecond to 1,000 seconds.
fn seconds() -> Histogram {
    decades(-3, 3)
}

fn count() -> Histogram {
    decades(0, 9)
}

/// A kibibyte to 128 GiB.
fn memory() -> Histogram {
    Histogram::new((0..28).map(|power| 1024.0 * 2_f64.powi(power)))
}

/// A number: Buildbarn's name for it, what it is, and its buckets.
type Number = (&'static str, &'static str, fn() -> Histogram);

/// The numbers of a `POSIXResourceUsage` that Linux fills in.
const USAGE: [Number; 9] = [
    (
        "user_time",
        "Time that commands spent in userspace, in seconds",
        seconds,
    ),
    (
        "system_time",
        "Time that commands spent in the kernel, in seconds",
        seconds,
    ),
    (
        "maximum_resident_set_size",
        "Largest resident set of commands, in bytes",
        memory,
    ),
    ("page_reclaims", "Page reclaims of commands", count),
    ("page_faults", "Page faults of commands", count),
    (
        "block_input_operations",
        "Block input operations of commands",
        count,
    ),
    (
        "block_output_operations",
        "Block output operations of commands",
        count,
    ),
    (
        "voluntary_context_switches",
        "Voluntary context switches of commands",
        count,
    ),
    (
        "involuntary_context_switches",
        "Involuntary context switches of commands",
        count,
    ),
];

impl Default for ActionMetrics {
    fn default() -> Self {
        let usage = USAGE.map(|(name, _, buckets)| (name, Family::new_with_constructor(buckets)));
        Self {
            stages: Family::new_with_constructor(seconds),
            virtual_duration: Family::new_with_constructor(seconds),
            usage: usage.into(),
            uploaded_blobs: Counter::default(),
            uploaded_bytes: Counter::default(),
            executing: Gauge::default(),
        }
    }
}

impl ActionMetrics {
    /// Registers all of it.
    pub(crate) fn register(&self, metrics: &Metrics) {
        let prefix = "buildbarn_builder_build_executor";
        metrics.register(
            &format!("{prefix}_duration_seconds"),
            "Time that the stages of actions took, in seconds",
            self.stages.clone(),
        );
        metrics.register(
            &format!("{prefix}_virtual_execution_duration"),
            "Time that commands ran, in seconds",
            self.virtual_duration.clone(),
        );
        for (name, help, _) in USAGE {
            let histogram = self.usage[name].clone();
            metrics.register(&format!("{prefix}_posix_{name}"), help, histogram);
        }
        metrics.register(
            "hayloft_worker_uploaded_blobs",
            "Blobs of actions that the storage had not",
            self.uploaded_blobs.clone(),
        );
        metrics.register(
            "hayloft_worker_uploaded_bytes",
            "Their sizes",
            self.uploaded_bytes.clone(),
        );
        metrics.register(
            "hayloft_worker_executing_actions",
            "Actions being executed, from fetching inputs to storing the result",
            self.executing.clone(),
        );
    }

    /// Counts an action as being executed.
    pub(crate) fn executing(&self) -> Executing {
        self.executing.inc();
        Executing(self.executing.clone())
    }

    /// Takes in what a response says of its action.
    pub(crate) fn observe(&self, response: &ExecuteResponse) {
        let (result, grpc_code) = outcome(response);
        let ended = Ended { result, grpc_code };
        let metadata = response.result.as_ref();
        let Some(metadata) = metadata.and_then(|result| result.execution_metadata.as_ref()) else {
            return;
        };
        self.stages(metadata, &ended);
        let virtual_duration = metadata.virtual_execution_duration.as_ref();
        if let Some(ran) = virtual_duration.and_then(messages::span) {
            let histogram = self.virtual_duration.get_or_create(&ended);
            histogram.observe(ran.as_secs_f64());
        }
        for any in &metadata.auxiliary_metadata {
            self.auxiliary(any, &ended);
        }
    }

    fn stages(&self, metadata: &ExecutedActionMetadata, ended: &Ended) {
        let stages = [
            (
                "FetchingInputs",
                &metadata.input_fetch_start_timestamp,
                &metadata.input_fetch_completed_timestamp,
            ),
            (
                "Running",
                &metadata.execution_start_timestamp,
                &metadata.execution_completed_timestamp,
            ),
            (
                "UploadingOutputs",
                &metadata.output_upload_start_timestamp,
                &metadata.output_upload_completed_timestamp,
            ),
        ];
        for (stage, start, end) in stages {
            let Some(took) = between(start.as_ref(), end.as_ref()) else {
                continue;
            };
            let labels = StageEnded {
                result: ended.result,
                grpc_code: ended.grpc_code.clone(),
                stage,
            };
            self.stages.get_or_create(&labels).observe(took);
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "buckets are coarser")]
    fn auxiliary(&self, any: &Any, ended: &Ended) {
        let name = "buildbarn.resourceusage.POSIXResourceUsage";
        if let Some(used) = messages::unpack::<PosixResourceUsage>(any, name) {
            let time = |time: &Option<Duration>| {
                let span = time.as_ref().and_then(messages::span);
                span.unwrap_or_default().as_secs_f64()
            };
            let numbers = [
                ("user_time", time(&used.user_time)),
                ("system_time", time(&used.system_time)),
                (
                    "maximum_resident_set_size",
                    used.maximum_resident_set_size as f64,
                ),
                ("page_reclaims", used.page_reclaims as f64),
                ("page_faults", used.page_faults as f64),
                ("block_input_operations", used.block_input_operations as f64),
                (
                    "block_output_operations",
                    used.block_output_operations as f64,
                ),
                (
                    "voluntary_context_switches",
                    used.voluntary_context_switches as f64,
                ),
                (
                    "involuntary_context_switches",
                    used.involuntary_context_switches as f64,
                ),
            ];
            for (name, number) in numbers {
                self.usage[name].get_or_create(ended).observe(number);
            }
        } else if let Some(facts) = messages::unpack::<Facts>(any, "hayloft.action.v1.Facts") {
            self.uploaded_blobs.inc_by(facts.blobs_uploaded);
            self.uploaded_bytes.inc_by(facts.bytes_uploaded);
        }
    }
}

/// Seconds from one moment to another.
fn between(start: Option<&Timestamp>, end: Option<&Timestamp>) -> Option<f64> {
    let start = messages::system_time(start?)?;
    let end = messages::system_time(end?)?;
    Some(end.duration_since(start).unwrap_or_default().as_secs_f64())
}

/// The values of Buildbarn's labels `result` and `grpc_code`.
fn outcome(response: &ExecuteResponse) -> (&'static str, String) {
    let code = response.status.as_ref().map_or(0, |status| status.code);
    let code = Code::from_i32(code);
    let result = match (code, &response.result) {
        (Code::Ok, None) => "ActionResultMissing",
        (Code::Ok, Some(result)) if result.exit_code == 0 => "Success",
        (Code::Ok, Some(_)) => "NonZeroExitCode",
        _ => "Failure",
    };
    // As Go spells them.
    let code = match code {
        Code::Ok => "OK".into(),
        Code::Cancelled => "Canceled".into(),
        other => format!("{other:?}"),
    };
    (result, code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::wire::rev2::ActionResult;
    use proto::wire::rpc;

    #[test]
    fn what_a_result_says_is_read_under_buildbarns_names() {
        let at = |seconds, nanos| Some(Timestamp { seconds, nanos });
        let usage = PosixResourceUsage {
            user_time: Some(Duration {
                seconds: 2,
                nanos: 0,
            }),
            ..Default::default()
        };
        let facts = Facts {
            blobs_uploaded: 3,
            bytes_uploaded: 40,
            ..Default::default()
        };
        let metadata = ExecutedActionMetadata {
            execution_start_timestamp: at(100, 0),
            execution_completed_timestamp: at(100, 500_000_000),
            auxiliary_metadata: vec![messages::pack(&usage), messages::pack(&facts)],
            ..Default::default()
        };
        let response = |code: i32, exit_code| ExecuteResponse {
            result: Some(ActionResult {
                exit_code,
                execution_metadata: Some(metadata.clone()),
                ..Default::default()
            }),
            status: Some(rpc::Status {
                code,
                ..Default::default()
            }),
            ..Default::default()
        };
        let actions = ActionMetrics::default();
        let registry = Metrics::default();
        actions.register(&registry);
        actions.observe(&response(0, 0));
        actions.observe(&response(0, 1));
        actions.observe(&response(1, 0));
        let executing = actions.executing();
        let text = registry.to_text();
        for line in [
            "buildbarn_builder_build_executor_duration_seconds_sum{result=\"Success\",grpc_code=\"OK\",stage=\"Running\"} 0.5",
            "buildbarn_builder_build_executor_duration_seconds_count{result=\"NonZeroExitCode\",grpc_code=\"OK\",stage=\"Running\"} 1",
            "buildbarn_builder_build_executor_posix_user_time_sum{result=\"Failure\",grpc_code=\"Canceled\"} 2.0",
            "hayloft_worker_uploaded_bytes_total 120",
            "hayloft_worker_executing_actions 1",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(!text.contains("FetchingInputs"));
        drop(executing);
        assert!(
            registry
                .to_text()
                .contains("hayloft_worker_executing_actions 0")
        );
    }
}
