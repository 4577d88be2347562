//! What became of a command, for programs: the one JSON object that `hayloft run --json`
//! prints.

use proto::Digest;
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
        "seconds": crate::stages::json(&metadata),
    })
}
