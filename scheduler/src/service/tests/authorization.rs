//! Who may call what.

use daemon::Authorizer;
use proto::wire::buildqueuestate::build_queue_state_client::BuildQueueStateClient;
use proto::wire::buildqueuestate::{
    AddOrRemoveDrainRequest, KillOperationsRequest, PlatformQueueName, SizeClassQueueName,
    TerminateWorkersRequest, kill_operations_request,
};
use proto::wire::longrunning::operations_client::OperationsClient;
use proto::wire::longrunning::{CancelOperationRequest, GetOperationRequest};
use proto::wire::remoteworker::{CurrentState, current_state};
use proto::wire::rev2::capabilities_client::CapabilitiesClient;
use proto::wire::rev2::{GetCapabilitiesRequest, WaitExecutionRequest};
use proto::wire::rpc;
use tonic::Code;

use super::*;

fn only(prefix: &str) -> Authorizer {
    let rules = serde_json::json!({
        "instance_name_prefix": {"allowed_instance_name_prefixes": [prefix]}
    });
    serde_json::from_value(rules).unwrap()
}

fn code<T>(answer: Result<T, Status>) -> Code {
    answer.err().map_or(Code::Ok, |status| status.code())
}

#[tokio::test]
async fn clients_execute_where_they_may_and_are_told_so() {
    let authorizers = Authorizers {
        execute: only("ours"),
        ..Authorizers::default()
    };
    let farm = Farm::guarded(Settings::default(), authorizers).await;
    let action = farm.action("x");
    let named = |instance: &str| ExecuteRequest {
        instance_name: instance.into(),
        ..request(action)
    };
    for (instance, allowed) in [
        ("ours", true),
        ("ours/too", true),
        ("oursnot", false),
        ("", false),
    ] {
        let called = Client::execute(farm.connect(), named(instance)).await;
        let expected = if allowed {
            Code::Ok
        } else {
            Code::PermissionDenied
        };
        assert_eq!(code(called), expected, "{instance}");
        let mut client = CapabilitiesClient::new(farm.connect());
        let asked = GetCapabilitiesRequest {
            instance_name: instance.into(),
        };
        let told = client.get_capabilities(asked).await.unwrap().into_inner();
        assert_eq!(told.execution_capabilities.is_some(), allowed, "{instance}");
    }
    let refused = Client::execute(farm.connect(), named("theirs"))
        .await
        .err()
        .unwrap();
    assert!(refused.message().contains("execute"), "{refused}");
    assert!(refused.message().contains("theirs"), "{refused}");
}

#[tokio::test]
async fn an_operation_is_followed_by_those_alone_who_could_have_begun_it() {
    let rules = serde_json::json!({"rules": [{"principals": ["user:0"]}]});
    let own = nix::unistd::geteuid().as_raw();
    let rules = serde_json::to_string(&rules).unwrap();
    let authorizers = |user: u32| Authorizers {
        execute: serde_json::from_str(&rules.replace("user:0", &format!("user:{user}"))).unwrap(),
        ..Authorizers::default()
    };
    let ours = Farm::guarded(Settings::default(), authorizers(own)).await;
    let mut client = ours.execute(ours.action("x")).await;
    client.stage().await;
    let name = client.name.clone();
    let wait = WaitExecutionRequest { name: name.clone() };
    let mut execution = ExecutionClient::new(ours.connect());
    assert_eq!(code(execution.wait_execution(wait).await), Code::Ok);
    let mut operations = OperationsClient::new(ours.connect());
    let get = GetOperationRequest { name: name.clone() };
    assert_eq!(code(operations.get_operation(get).await), Code::Ok);

    let theirs = Farm::guarded(Settings::default(), authorizers(own + 1)).await;
    let begun = Client::execute(theirs.connect(), request(theirs.action("x"))).await;
    assert_eq!(code(begun), Code::PermissionDenied);
    // Of what there is not nobody is told anything.
    let mut operations = OperationsClient::new(theirs.connect());
    let cancel = CancelOperationRequest { name };
    assert_eq!(
        code(operations.cancel_operation(cancel).await),
        Code::NotFound
    );
}

#[tokio::test]
async fn workers_serve_the_prefixes_they_may() {
    let authorizers = Authorizers {
        synchronize: only("ours"),
        ..Authorizers::default()
    };
    let farm = Farm::guarded(Settings::default(), authorizers).await;
    let mut worker = farm.worker("w");
    worker.request.current_state = Some(CurrentState {
        worker_state: Some(current_state::WorkerState::Idle(())),
    });
    for (prefix, expected) in [
        ("theirs", Code::PermissionDenied),
        ("", Code::PermissionDenied),
    ] {
        worker.request.instance_name_prefix = prefix.into();
        let called = worker.client.synchronize(worker.request.clone()).await;
        assert_eq!(code(called), expected, "{prefix}");
    }
    worker.request.instance_name_prefix = "ours/linux".into();
    worker.request.prefer_being_idle = true;
    let called = worker.client.synchronize(worker.request.clone()).await;
    assert_eq!(code(called), Code::Ok);
}

#[tokio::test]
async fn operators_drain_and_kill_where_they_may() {
    let authorizers = Authorizers {
        modify_drains: only("theirs"),
        kill_operations: only("theirs"),
        ..Authorizers::default()
    };
    let farm = Farm::guarded(Settings::default(), authorizers).await;
    let mut client = farm.execute(farm.action("x")).await;
    client.stage().await;
    let mut operator = BuildQueueStateClient::new(farm.connect());
    let queue = SizeClassQueueName {
        platform_queue_name: Some(PlatformQueueName {
            instance_name_prefix: String::new(),
            platform: Some(platform("linux")),
        }),
        size_class: 0,
    };
    let drain = AddOrRemoveDrainRequest {
        size_class_queue_name: Some(queue.clone()),
        ..Default::default()
    };
    let added = operator.add_drain(drain.clone()).await;
    assert_eq!(code(added), Code::PermissionDenied);
    assert_eq!(
        code(operator.remove_drain(drain).await),
        Code::PermissionDenied
    );
    let all = TerminateWorkersRequest::default();
    assert_eq!(
        code(operator.terminate_workers(all).await),
        Code::PermissionDenied
    );
    use kill_operations_request::filter::Type;
    for filter in [
        Type::OperationName(client.name.clone()),
        Type::SizeClassQueueWithoutWorkers(queue),
    ] {
        let kill = KillOperationsRequest {
            filter: Some(kill_operations_request::Filter {
                r#type: Some(filter),
            }),
            status: Some(rpc::Status {
                code: Code::Aborted as i32,
                ..Default::default()
            }),
        };
        let killed = operator.kill_operations(kill).await;
        assert_eq!(code(killed), Code::PermissionDenied);
    }
}
