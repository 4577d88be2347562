//! What is printed: for programs what became of a command, the one JSON object of
//! `hayloft run --json`; for people what does not harm their terminal.

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

/// A line without what a terminal would act upon: names in it are foreign.
#[must_use]
pub fn for_terminals(line: &str) -> String {
    line.replace(char::is_control, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_command_a_terminal() {
        assert_eq!(
            for_terminals("grün \u{1b}[2J\u{9b}x\r"),
            "grün \u{fffd}[2J\u{fffd}x\u{fffd}"
        );
    }
}
