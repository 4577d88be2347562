//! How long each stage of an action took, and what it used.

use proto::messages::{span, system_time, unpack};
use proto::wire::protobuf::Timestamp;
use proto::wire::resourceusage::PosixResourceUsage;
use proto::wire::rev2::{ExecutedActionMetadata, RequestMetadata};
use serde_json::{Map, Value, json};

/// The stages in their order, each with its name and how many seconds it took; none
/// where that is not known.
#[must_use]
pub fn seconds(metadata: &ExecutedActionMetadata) -> [(&'static str, Option<f64>); 4] {
    let lasted = |from: &Option<Timestamp>, to: &Option<Timestamp>| {
        let [from, to] = [from, to].map(|moment| system_time(moment.as_ref()?));
        let lasted = to?.duration_since(from?).ok()?;
        Some(lasted.as_secs_f64())
    };
    [
        (
            "queued",
            lasted(&metadata.queued_timestamp, &metadata.worker_start_timestamp),
        ),
        (
            "fetching_inputs",
            lasted(
                &metadata.input_fetch_start_timestamp,
                &metadata.input_fetch_completed_timestamp,
            ),
        ),
        (
            "running",
            lasted(
                &metadata.execution_start_timestamp,
                &metadata.execution_completed_timestamp,
            ),
        ),
        (
            "uploading_outputs",
            lasted(
                &metadata.output_upload_start_timestamp,
                &metadata.output_upload_completed_timestamp,
            ),
        ),
    ]
}

/// The same as JSON.
#[must_use]
pub fn json(metadata: &ExecutedActionMetadata) -> Value {
    let stages = seconds(metadata).into_iter();
    let stages = stages.map(|(name, seconds)| (name.into(), json!(seconds)));
    Value::Object(stages.collect::<Map<_, _>>())
}

/// What the runner told that the command used; none where it told nothing.
#[must_use]
pub fn usage(metadata: &ExecutedActionMetadata) -> Option<PosixResourceUsage> {
    let name = "buildbarn.resourceusage.POSIXResourceUsage";
    let mut all = metadata.auxiliary_metadata.iter();
    all.find_map(|any| unpack(any, name))
}

/// Its numbers that people ask for, as JSON.
#[must_use]
pub fn usage_json(usage: &PosixResourceUsage) -> Value {
    let seconds = |duration: &Option<_>| Some(span(duration.as_ref()?)?.as_secs_f64());
    json!({
        "user_seconds": seconds(&usage.user_time),
        "system_seconds": seconds(&usage.system_time),
        "maximum_resident_set_bytes": usage.maximum_resident_set_size,
        "termination_signal": usage.termination_signal,
    })
}

/// What the client told about itself, where the worker passed it on.
#[must_use]
pub fn client(metadata: &ExecutedActionMetadata) -> Option<RequestMetadata> {
    let name = "build.bazel.remote.execution.v2.RequestMetadata";
    let mut all = metadata.auxiliary_metadata.iter();
    all.find_map(|any| unpack(any, name))
}
