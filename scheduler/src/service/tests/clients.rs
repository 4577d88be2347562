//! What clients see.

use execution_stage::Value as Stage;
use proto::messages::pack_rev2;
use proto::wire::longrunning::operations_client::OperationsClient;
use proto::wire::longrunning::{CancelOperationRequest, GetOperationRequest};
use proto::wire::rev2::capabilities_client::CapabilitiesClient;
use proto::wire::rev2::{
    ExecutionPolicy, GetCapabilitiesRequest, RequestMetadata, WaitExecutionRequest,
};
use tonic::{Code, Request};

use super::*;

#[tokio::test]
async fn an_action_is_queued_executed_and_its_result_streamed() {
    let farm = Farm::start(Settings::default()).await;
    let action = farm.action("x");
    let mut call = Request::new(ExecuteRequest {
        instance_name: "a/b".into(),
        inline_stdout: true,
        // A hint, of which no more is kept than makes sense.
        inline_output_files: vec!["out".into(), "x".repeat(64 << 10)],
        ..request(action)
    });
    let metadata = RequestMetadata {
        tool_invocation_id: "invocation".into(),
        ..Default::default()
    };
    let header = tonic::metadata::MetadataValue::from_bytes(&metadata.encode_to_vec());
    let headers = call.metadata_mut();
    headers.insert_bin(
        "build.bazel.remote.execution.v2.requestmetadata-bin",
        header,
    );
    headers.insert("traceparent", "00-1-2-3".parse().unwrap());
    let mut client = Client::execute(farm.connect(), call).await.unwrap();
    assert_eq!(client.stage().await, Stage::Queued);
    uuid::Uuid::try_parse(&client.name).unwrap();

    let mut worker = farm.worker("w");
    let given = worker.take().await;
    assert_eq!(client.stage().await, Stage::Executing);
    assert_eq!(given.action_digest, Some(action.to_wire()));
    assert_eq!(given.digest_function, DigestFunction::Sha256.to_wire());
    assert_eq!(given.instance_name_suffix, "a/b");
    let inline = proto::wire::action::Inline {
        stdout: true,
        stderr: false,
        output_files: vec!["out".into()],
    };
    assert_eq!(
        given.auxiliary_metadata[..2],
        [
            pack_rev2("RequestMetadata", &metadata),
            proto::messages::pack(&inline)
        ]
    );
    assert_eq!(given.w3c_trace_context["traceparent"], "00-1-2-3");
    assert!(given.queued_timestamp.is_some());
    let given = given.action.unwrap();
    assert_eq!(given.timeout.map(|timeout| timeout.seconds), Some(1800));
    assert_eq!(given.platform, Some(platform("linux")));

    worker.complete(action, 7).await;
    let response = client.response().await;
    assert_eq!(response.result.unwrap().exit_code, 7);
}

#[tokio::test]
async fn an_action_that_comes_while_a_worker_idles_is_executing_from_its_first_message() {
    let farm = Farm::start(Settings::default()).await;
    let mut worker = farm.worker("w");
    let taken = tokio::spawn(async move { worker.take().await });
    farm.until(|| farm.dispatcher.held() == 1).await;
    let action = farm.action("x");
    let mut client = farm.execute(action).await;
    assert_eq!(client.stage().await, Stage::Executing);
    assert_eq!(taken.await.unwrap().action_digest, Some(action.to_wire()));
}

#[tokio::test]
async fn one_execution_serves_all_who_want_it_and_those_who_come_back_for_it() {
    let farm = Farm::start(Settings::default()).await;
    let action = farm.action("x");
    let (mut first, mut second) = (farm.execute(action).await, farm.execute(action).await);
    first.next().await.unwrap();
    second.next().await.unwrap();
    assert_ne!(first.name, second.name);
    let name = first.name.clone();
    drop(first);
    let mut worker = farm.worker("w");
    worker.take().await;
    let mut execution = ExecutionClient::new(farm.connect());
    let wait = WaitExecutionRequest { name: name.clone() };
    let stream = execution.wait_execution(wait).await.unwrap().into_inner();
    let mut returned = Client { stream, name };
    assert_eq!(returned.stage().await, Stage::Executing);
    worker.complete(action, 3).await;
    for client in [&mut second, &mut returned] {
        assert_eq!(client.response().await.result.unwrap().exit_code, 3);
    }
    let wait = WaitExecutionRequest {
        name: returned.name,
    };
    let stream = execution.wait_execution(wait).await.unwrap().into_inner();
    let mut late = Client {
        stream,
        name: String::new(),
    };
    assert_eq!(
        late.stage().await,
        Stage::Completed,
        "kept for those who come late"
    );
}

#[tokio::test]
async fn more_urgent_actions_are_executed_first() {
    let farm = Farm::start(Settings::default()).await;
    let mut clients = Vec::new();
    for (content, priority) in [("b", 0), ("c", i32::MAX), ("a", i32::MIN)] {
        let request = ExecuteRequest {
            execution_policy: Some(ExecutionPolicy { priority }),
            ..request(farm.action(content))
        };
        clients.push(Client::execute(farm.connect(), request).await.unwrap());
    }
    let mut worker = farm.worker("w");
    for content in ["a", "b", "c"] {
        let action = farm.action(content);
        assert_eq!(worker.take().await.action_digest, Some(action.to_wire()));
        worker.complete(action, 0).await;
    }
}

#[tokio::test]
async fn a_cancelled_operation_is_done_and_its_worker_told_to_stop() {
    let farm = Farm::start(Settings::default()).await;
    let action = farm.action("x");
    let mut client = farm.execute(action).await;
    client.next().await.unwrap();
    let mut worker = farm.worker("w");
    worker.take().await;
    let mut operations = OperationsClient::new(farm.connect());
    let name = client.name.clone();
    let get = GetOperationRequest { name: name.clone() };
    let operation = operations
        .get_operation(get.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(told(&operation).stage, Stage::Executing);
    let cancel = CancelOperationRequest { name };
    operations.cancel_operation(cancel).await.unwrap();
    let status = client.response().await.status.unwrap();
    assert_eq!(Code::from_i32(status.code), Code::Cancelled);
    let running = current_state::executing::ExecutionState::Running(());
    assert!(is_idle(&worker.report(action, running).await));
    let operation = operations.get_operation(get).await.unwrap().into_inner();
    assert!(operation.done);
}

#[tokio::test]
async fn an_action_whose_clients_are_gone_ends_after_the_grace_period() {
    let farm = Farm::start(Settings {
        operation_expiry: Duration::ZERO,
        ..Settings::default()
    })
    .await;
    let action = farm.action("x");
    let mut client = farm.execute(action).await;
    client.next().await.unwrap();
    let mut worker = farm.worker("w");
    worker.take().await;
    let name = client.name.parse().unwrap();
    drop(client);
    farm.until(|| farm.dispatcher.view(name).is_err()).await;
    let running = current_state::executing::ExecutionState::Running(());
    assert!(is_idle(&worker.report(action, running).await));
}

fn checking() -> Settings {
    Settings {
        check_action_cache: true,
        ..Settings::default()
    }
}

#[tokio::test]
async fn a_result_in_the_action_cache_needs_no_worker() {
    let farm = Farm::start(checking()).await;
    let action = farm.action("x");
    let result = ActionResult {
        stdout_raw: b"cached".to_vec(),
        ..Default::default()
    };
    let results = || farm.memory.results.lock().unwrap();
    results().insert(action, result.clone());
    let response = farm.execute(action).await.response().await;
    assert!(response.cached_result);
    assert_eq!(response.result, Some(result));

    let waived = ExecuteRequest {
        skip_cache_lookup: true,
        ..request(action)
    };
    let mut client = Client::execute(farm.connect(), waived).await.unwrap();
    assert_eq!(client.stage().await, Stage::Queued);
}

#[tokio::test]
async fn without_a_result_in_the_action_cache_the_action_is_executed() {
    let farm = Farm::start(checking()).await;
    let action = farm.action("x");
    let mut client = farm.execute(action).await;
    let mut worker = farm.worker("w");
    worker.take().await;
    worker.complete(action, 0).await;
    assert!(!client.response().await.cached_result);
}

#[tokio::test]
async fn streams_and_calls_end_as_unavailable_when_the_scheduler_stops() {
    let farm = Farm::start(Settings::default()).await;
    let mut client = farm.execute(farm.action("x")).await;
    client.next().await.unwrap();
    let mut other = farm.worker("other");
    other.request.platform = Some(platform("windows"));
    let held = tokio::spawn(async move { other.call(current_state::WorkerState::Idle(())).await });
    farm.until(|| farm.dispatcher.held() == 1).await;
    farm.shutdown.cancel();
    let status = client.stream.next().await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(is_idle(&held.await.unwrap().unwrap()));
}

#[tokio::test]
async fn capabilities_are_those_of_execution() {
    let farm = Farm::start(Settings::default()).await;
    let mut client = CapabilitiesClient::new(farm.connect());
    let answer = client
        .get_capabilities(GetCapabilitiesRequest::default())
        .await;
    let answer = answer.unwrap().into_inner();
    let version = |version: Option<proto::wire::semver::SemVer>| {
        version.map(|version| (version.major, version.minor))
    };
    assert_eq!(version(answer.low_api_version), Some((2, 0)));
    assert_eq!(version(answer.high_api_version), Some((2, 11)));
    let execution = answer.execution_capabilities.unwrap();
    assert!(execution.exec_enabled);
    assert_eq!(execution.digest_functions.len(), DigestFunction::ALL.len());
    let range = execution
        .execution_priority_capabilities
        .unwrap()
        .priorities[0];
    assert_eq!(
        (range.min_priority, range.max_priority),
        (i32::MIN, i32::MAX)
    );
}

#[tokio::test]
async fn storage_is_asked_on_behalf_of_the_client() {
    let settings = Settings {
        check_action_cache: true,
        ..Settings::default()
    };
    let farm = Farm::start(settings).await;
    let action = farm.action("x");
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut call = Request::new(request(action));
    let headers = call.metadata_mut();
    headers.insert("traceparent", parent.parse().unwrap());
    let name = "build.bazel.remote.execution.v2.requestmetadata-bin";
    let metadata = tonic::metadata::MetadataValue::from_bytes(b"\x1a\x01t");
    headers.insert_bin(name, metadata.clone());
    let mut client = Client::execute(farm.connect(), call).await.unwrap();
    while client.stage().await != Stage::Queued {}
    let contexts = farm.memory.contexts.lock().unwrap();
    assert_eq!(
        contexts.len(),
        2,
        "the Action is read, its result looked up"
    );
    for context in contexts.iter() {
        assert_eq!(context.get("traceparent").unwrap(), parent);
        assert_eq!(context.get_bin(name), Some(&metadata));
    }
}
