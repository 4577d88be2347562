//! Which size of worker an action is tried on.
//!
//! Nothing is known of an action beforehand, so it is tried on the smallest size
//! class, and if it fails there, whatever the reason, once more on the largest: it
//! may have lacked memory or time (Buildbarn's fallback analyser). What fails on
//! the largest has failed. Neither the choice nor the time allowed depends on
//! earlier executions; a choice that learns from those would be made here.

use std::time::Duration;

use proto::wire::rev2::ExecuteResponse;

/// Whether a worker could not do what was asked: another outcome than a result
/// with exit code 0.
pub(super) fn has_failed(response: &ExecuteResponse) -> bool {
    let status = response.status.as_ref();
    let result = response.result.as_ref();
    status.is_some_and(|status| status.code != 0)
        || result.is_none_or(|result| result.exit_code != 0)
}

/// How long an action is expected to take: as long as it may.
pub(super) fn expected(timeout: Duration) -> Duration {
    timeout
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::wire::rev2::ActionResult;
    use proto::wire::rpc::Status;

    #[test]
    fn only_a_result_with_exit_code_zero_is_a_success() {
        let response = |code, exit_code: Option<i32>| ExecuteResponse {
            status: Some(Status {
                code,
                ..Default::default()
            }),
            result: exit_code.map(|exit_code| ActionResult {
                exit_code,
                ..Default::default()
            }),
            ..Default::default()
        };
        assert!(!has_failed(&response(0, Some(0))));
        assert!(has_failed(&response(0, Some(1))));
        assert!(has_failed(&response(0, None)));
        assert!(has_failed(&response(4, Some(0))), "its time was up");
    }
}
