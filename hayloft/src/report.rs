//! What became of a command, for programs: the one JSON object that `hayloft run --json`
//! prints.

use proto::Digest;
use proto::messages::system_time;
use proto::wire::protobuf::Timestamp;
use proto::wire::rev2;
use serde_json::{Value, json};
use tonic::Status;

/// The object. `status` is there where the command could not be run to its end; what
/// is not text in its output is replaced (U+FFFD).
#[must_use]
pub fn report(
    action: Digest,
    response: &rev2::ExecuteResponse,
    status: Option<&Status>,
    [stdout, stderr]: [&[u8]; 2],
) -> Value {
    let result = response.result.clone().unwrap_or_default();
    let metadata = result.execution_metadata.unwrap_or_default();
    json!({
        "action": format!("{}/{}", action.hash(), action.size()),
        "status": status.map(|status| json!({
            "code": format!("{:?}", status.code()),
            "message": status.message(),
        })),
        "message": response.message,
        "cached": response.cached_result,
        "exit_code": result.exit_code,
        "stdout": String::from_utf8_lossy(stdout),
        "stderr": String::from_utf8_lossy(stderr),
        "worker": metadata.worker,
        "seconds": {
            "queued": seconds(&metadata.queued_timestamp, &metadata.worker_start_timestamp),
            "fetching_inputs": seconds(
                &metadata.input_fetch_start_timestamp,
                &metadata.input_fetch_completed_timestamp,
            ),
            "running": seconds(
                &metadata.execution_start_timestamp,
                &metadata.execution_completed_timestamp,
            ),
            "uploading_outputs": seconds(
                &metadata.output_upload_start_timestamp,
                &metadata.output_upload_completed_timestamp,
            ),
        },
    })
}

/// Between two moments; none where one is not known.
fn seconds(from: &Option<Timestamp>, to: &Option<Timestamp>) -> Option<f64> {
    let [from, to] = [from, to].map(|moment| system_time(moment.as_ref()?));
    let lasted = to?.duration_since(from?).ok()?;
    Some(lasted.as_secs_f64())
}
