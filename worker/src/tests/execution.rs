//! Commands, their ends and their results.

use std::time::Duration;

use prost::Message;
use proto::Digest;
use proto::messages;
use proto::wire::cas::HistoricalExecuteResponse;
use proto::wire::rev2;
use tonic::Code;

use crate::testing::{Farm, Input, Manners, digest};

pub(super) fn code(response: &rev2::ExecuteResponse) -> Code {
    Code::from_i32(response.status.as_ref().unwrap().code)
}

fn stdout(farm: &Farm, result: &rev2::ActionResult) -> String {
    let wanted = Digest::from_wire(proto::DigestFunction::Sha256, result.stdout_digest.as_ref());
    String::from_utf8(farm.storage.get(&wanted.unwrap()).unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn a_command_that_succeeds_is_cached_with_its_outputs() {
    let mut farm = Farm::new(Manners::default()).await;
    let input = Input::script("cat in; ./tool.sh > out; echo problem >&2")
        .file(&farm.storage, "in", b"hello ")
        .file(&farm.storage, "tool.sh", b"#!/bin/sh\necho tool")
        .outputs(&["out", "absent"]);
    let task = input.store(&farm.storage);
    let action = digest(&task.action.as_ref().unwrap().encode_to_vec());
    let response = farm.execute_task(task).await;
    assert_eq!(code(&response), Code::Ok, "{response:?}");
    let result = response.result.unwrap();
    assert_eq!(result.exit_code, 0);
    assert_eq!(stdout(&farm, &result), "hello ");
    assert_eq!(result.stderr_digest, Some(digest(b"problem\n").to_wire()));
    assert_eq!(result.output_files.len(), 1);
    assert_eq!(result.output_files[0].path, "out");
    assert_eq!(
        result.output_files[0].digest,
        Some(digest(b"tool\n").to_wire())
    );
    assert!(farm.storage.get(&digest(b"tool\n")).is_some());
    let metadata = result.execution_metadata.clone().unwrap();
    assert_eq!(metadata.worker, r#"{"node":"test"}"#);
    let moments = [
        metadata.queued_timestamp,
        metadata.worker_start_timestamp,
        metadata.input_fetch_start_timestamp,
        metadata.input_fetch_completed_timestamp,
        metadata.execution_start_timestamp,
        metadata.execution_completed_timestamp,
        metadata.output_upload_start_timestamp,
        metadata.output_upload_completed_timestamp,
        metadata.worker_completed_timestamp,
    ]
    .map(|moment| messages::system_time(&moment.unwrap()).unwrap());
    assert!(moments.is_sorted(), "{moments:?}");
    assert!(
        metadata
            .auxiliary_metadata
            .iter()
            .any(|any| any.type_url.ends_with("POSIXResourceUsage"))
    );
    assert_eq!(farm.storage.results.lock().unwrap()[&action], result);
    let link = format!("http://browser/main/blobs/sha256/action/{action}/");
    assert!(response.message.ends_with(&link), "{}", response.message);
    farm.end().await;
}

#[tokio::test]
async fn a_command_that_fails_or_must_not_be_cached_is_kept_for_the_browser_only() {
    let mut farm = Farm::new(Manners::default()).await;
    let failing = farm.execute(Input::script("exit 7")).await;
    assert_eq!(code(&failing), Code::Ok);
    let result = failing.result.clone().unwrap();
    assert_eq!(result.exit_code, 7);
    assert_eq!((result.stdout_digest, result.stderr_digest), (None, None));
    let mut uncached = Input::script("true");
    uncached.action.do_not_cache = true;
    let uncached = farm.execute(uncached).await;
    assert_eq!(code(&uncached), Code::Ok);
    assert!(farm.storage.results.lock().unwrap().is_empty());
    for response in [failing, uncached] {
        let (_, end) = response
            .message
            .split_once("historical_execute_response/")
            .unwrap();
        let (hash, size) = end.trim_end_matches('/').rsplit_once('-').unwrap();
        let size = size.parse().unwrap();
        let digest = Digest::new(proto::DigestFunction::Sha256, hash, size).unwrap();
        let stored = farm.storage.get(&digest).unwrap();
        let stored = HistoricalExecuteResponse::decode(stored).unwrap();
        assert_eq!(stored.execute_response.unwrap().result, response.result);
    }
    farm.end().await;
}

async fn timing_out(manners: Manners) {
    let mut farm = Farm::new(manners).await;
    let script = "echo log; echo partial > out; while :; do :; done";
    let mut input = Input::script(script).outputs(&["out"]);
    input.action.timeout = Some(messages::duration(Duration::from_millis(500)));
    let response = farm.execute(input).await;
    assert_eq!(code(&response), Code::DeadlineExceeded, "{response:?}");
    let result = response.result.unwrap();
    assert_eq!(stdout(&farm, &result), "log\n");
    assert_eq!(result.output_files.len(), 1);
    assert!(farm.storage.get(&digest(b"partial\n")).is_some());
    assert!(farm.storage.results.lock().unwrap().is_empty());
    farm.end().await;
}

#[tokio::test]
async fn what_a_command_wrote_before_its_timeout_comes_back() {
    timing_out(Manners::default()).await;
}

#[tokio::test]
async fn with_a_plain_runner_the_deadline_of_the_call_is_the_timeout() {
    let plain = true;
    timing_out(Manners {
        plain,
        ..Manners::default()
    })
    .await;
}

#[tokio::test]
async fn a_command_that_cannot_be_executed_is_the_clients_fault() {
    let mut farm = Farm::new(Manners::default()).await;
    let mut input = Input::script("");
    input.command.arguments = vec!["./absent".into()];
    let response = farm.execute(input).await;
    assert_eq!(code(&response), Code::InvalidArgument);
    let mut input = Input::script("");
    input.command.arguments.clear();
    let response = farm.execute(input).await;
    assert_eq!(code(&response), Code::InvalidArgument);
    let mut input = Input::script("true");
    input.action.timeout = Some(proto::wire::protobuf::Duration {
        seconds: -1,
        nanos: 0,
    });
    let response = farm.execute(input).await;
    assert_eq!(code(&response), Code::InvalidArgument);
    farm.end().await;
}

#[tokio::test]
async fn the_environment_is_the_workers_below_the_commands() {
    let mut farm = Farm::new(Manners::default()).await;
    let mut input = Input::script("echo $FROM $BOTH $OWN; pwd > where");
    input.command.working_directory = "a/b".into();
    let variable = |name: &str, value: &str| rev2::command::EnvironmentVariable {
        name: name.into(),
        value: value.into(),
    };
    input.command.environment_variables =
        vec![variable("BOTH", "action"), variable("OWN", "action")];
    let response = farm.execute(input.outputs(&["where", "../x/y"])).await;
    assert_eq!(code(&response), Code::Ok);
    let result = response.result.unwrap();
    assert_eq!(stdout(&farm, &result), "worker action action\n");
    assert_eq!(result.output_files[0].path, "where");
    farm.end().await;
}

#[tokio::test]
async fn outputs_that_cannot_be_stored_are_not_named() {
    let mut farm = Farm::new(Manners::default()).await;
    let task = Input::script("echo x > out; echo y")
        .outputs(&["out"])
        .store(&farm.storage);
    let full = std::sync::atomic::Ordering::SeqCst;
    farm.storage.full.store(true, full);
    let response = farm.execute_task(task).await;
    assert_eq!(code(&response), Code::ResourceExhausted);
    let result = response.result.unwrap();
    assert!(result.output_files.is_empty());
    assert_eq!(result.stdout_digest, None);
    assert!(farm.storage.results.lock().unwrap().is_empty());
    farm.end().await;
}

#[tokio::test]
async fn the_runners_own_logs_are_attached() {
    let mut farm = Farm::new(Manners::default()).await;
    let input = Input::script("mkdir $LOGS/deep; echo dump > $LOGS/deep/core");
    let response = farm.execute(input).await;
    let log = &response.server_logs["deep/core"];
    assert_eq!(log.digest, Some(digest(b"dump\n").to_wire()));
    assert!(farm.storage.get(&digest(b"dump\n")).is_some());
    farm.end().await;
}
