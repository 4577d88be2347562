//! What operators are told over the wire.

use proto::wire::buildqueuestate::build_queue_state_client::BuildQueueStateClient;
use proto::wire::buildqueuestate::{
    AddOrRemoveDrainRequest, GetOperationRequest, InvocationName, KillOperationsRequest,
    ListDrainsRequest, ListInvocationChildrenRequest, ListQueuedOperationsRequest,
    ListWorkersRequest, PlatformQueueName, SizeClassQueueName, TerminateWorkersRequest,
    kill_operations_request, list_workers_request,
};
use proto::wire::rpc;
use proto::wire::scheduler_extension::explanation_client::ExplanationClient;
use proto::wire::scheduler_extension::{ExplainRequest, Waiting};
use tonic::Code;

use super::*;

pub(super) fn queue() -> Option<SizeClassQueueName> {
    Some(SizeClassQueueName {
        platform_queue_name: Some(PlatformQueueName {
            instance_name_prefix: String::new(),
            platform: Some(platform("linux")),
        }),
        size_class: 0,
    })
}

pub(super) fn root() -> Option<InvocationName> {
    Some(InvocationName {
        size_class_queue_name: queue(),
        ids: Vec::new(),
    })
}

#[tokio::test]
async fn an_operator_follows_an_action_through_its_invocation() {
    let farm = Farm::start(Settings::default()).await;
    let mut client = farm.execute(farm.action("x")).await;
    client.stage().await;
    let mut operator = BuildQueueStateClient::new(farm.connect());
    let queues = operator
        .list_platform_queues(())
        .await
        .unwrap()
        .into_inner();
    let class = &queues.platform_queues[0].size_class_queues[0];
    let queued = class
        .root_invocation
        .as_ref()
        .unwrap()
        .queued_operations_count;
    assert_eq!(queued.unwrap().indirect, 1);

    let children = ListInvocationChildrenRequest {
        invocation_name: root(),
        filter: 2,
    };
    let children = operator.list_invocation_children(children).await.unwrap();
    let id = children.into_inner().children.remove(0).id.unwrap();
    let invocation_name = Some(InvocationName {
        ids: vec![id],
        ..root().unwrap()
    });
    let listed = ListQueuedOperationsRequest {
        invocation_name,
        page_size: 10,
        start_after: None,
    };
    let listed = operator
        .list_queued_operations(listed)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.queued_operations[0].name, client.name);
    let one = GetOperationRequest {
        operation_name: client.name.clone(),
    };
    let one = operator
        .get_operation(one)
        .await
        .unwrap()
        .into_inner()
        .operation
        .unwrap();
    assert_eq!(one.name, "", "it is known");
    assert_eq!(one.stage, listed.queued_operations[0].stage);

    let kill = KillOperationsRequest {
        filter: Some(kill_operations_request::Filter {
            r#type: Some(kill_operations_request::filter::Type::OperationName(
                client.name.clone(),
            )),
        }),
        status: Some(rpc::Status {
            code: Code::Aborted as i32,
            message: "enough".into(),
            ..Default::default()
        }),
    };
    operator.kill_operations(kill).await.unwrap();
    assert_eq!(client.response().await.status.unwrap().message, "enough");
}

#[tokio::test]
async fn workers_are_drained_and_terminated_once_their_actions_are_done() {
    let farm = Farm::start(Settings::default()).await;
    let mut operator = BuildQueueStateClient::new(farm.connect());
    let action = farm.action("x");
    let mut client = farm.execute(action).await;
    let mut worker = farm.worker("a");
    worker.take().await;
    let drain = AddOrRemoveDrainRequest {
        size_class_queue_name: queue(),
        worker_id_pattern: HashMap::from([("host".into(), "a".into())]),
    };
    operator.add_drain(drain.clone()).await.unwrap();
    let filter = list_workers_request::filter::Type::All(queue().unwrap());
    let list = ListWorkersRequest {
        filter: Some(list_workers_request::Filter {
            r#type: Some(filter),
        }),
        page_size: 10,
        start_after: None,
    };
    let workers = operator
        .list_workers(list)
        .await
        .unwrap()
        .into_inner()
        .workers;
    assert!(workers[0].drained && workers[0].current_operation.is_some());
    let drains = ListDrainsRequest {
        size_class_queue_name: queue(),
    };
    let drains = operator
        .list_drains(drains)
        .await
        .unwrap()
        .into_inner()
        .drains;
    assert_eq!(drains[0].worker_id_pattern, drain.worker_id_pattern);
    operator.remove_drain(drain).await.unwrap();

    let mut other = operator.clone();
    let ended = tokio::spawn(async move {
        let all = TerminateWorkersRequest::default();
        other.terminate_workers(all).await.unwrap();
    });
    let idle = TerminateWorkersRequest {
        worker_id_pattern: HashMap::from([("host".into(), "nobody".into())]),
    };
    operator.terminate_workers(idle).await.unwrap();
    assert!(!ended.is_finished(), "it executes yet");
    worker.complete(action, 0).await;
    ended.await.unwrap();
    client.response().await;
}

#[tokio::test]
async fn clients_and_operators_hear_why_an_action_waits_and_who_executes_it() {
    let farm = Farm::start(Settings::default()).await;
    let action = farm.action("x");
    let mut client = farm.execute(action).await;
    let told = client.next().await.unwrap().partial.unwrap();
    assert!(told.queued_timestamp.is_some());
    let name = "hayloft.scheduler.v1.Waiting";
    let waiting: Waiting = unpack(&told.auxiliary_metadata[0], name).unwrap();
    assert!(
        waiting.explanation.starts_with("no worker"),
        "{}",
        waiting.explanation
    );

    let mut operator = ExplanationClient::new(farm.connect());
    let request = ExplainRequest {
        operation_name: client.name.clone(),
    };
    let explained = operator
        .explain(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(explained, waiting);

    let mut worker = farm.worker("a");
    worker.take().await;
    let told = client.next().await.unwrap().partial.unwrap();
    assert_eq!(told.worker, "{host=a}");
    assert!(told.auxiliary_metadata.is_empty());
    let status = operator.explain(request).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    worker.complete(action, 0).await;
    client.response().await;
}
