//! Operators' requests that are wrong, and what they are told.

use proto::wire::buildqueuestate::build_queue_state_client::BuildQueueStateClient;
use proto::wire::buildqueuestate::{
    AddOrRemoveDrainRequest, GetOperationRequest, InvocationName, KillOperationsRequest,
    ListDrainsRequest, ListInvocationChildrenRequest, ListOperationsRequest,
    ListQueuedOperationsRequest, ListWorkersRequest, PlatformQueueName, SizeClassQueueName,
    TerminateWorkersRequest, kill_operations_request, list_operations_request,
    list_queued_operations_request, list_workers_request,
};
use proto::wire::scheduler_extension::ExplainRequest;
use proto::wire::scheduler_extension::explanation_client::ExplanationClient;
use proto::wire::{protobuf, rpc};
use tonic::Code;

use super::operators::{queue, root};
use super::*;

type Operator = BuildQueueStateClient<Channel>;

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, field: &str) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().contains(field), "{field}: {status}");
}

/// Names of queues that are none, and what of them is told.
fn wrong_queues() -> Vec<(Option<SizeClassQueueName>, &'static str)> {
    let named = |instance: &str, platform| {
        Some(SizeClassQueueName {
            platform_queue_name: Some(PlatformQueueName {
                instance_name_prefix: instance.into(),
                platform: Some(platform),
            }),
            size_class: 0,
        })
    };
    let property = |name: String, value: String| Property { name, value };
    let many = (0..100_000).map(|n| property(format!("{n:06}"), String::new()));
    let many = Platform {
        properties: many.collect(),
    };
    let huge = Platform {
        properties: vec![property("os".into(), "x".repeat(1 << 20))],
    };
    vec![
        (None, "is missing"),
        (Some(SizeClassQueueName::default()), "is missing"),
        (named("a//b", platform("linux")), "instance name"),
        (named("", many), "100000 properties"),
        (named("", huge), "65536 allowed"),
    ]
}

/// Each call that names a queue, with that name.
async fn name(operator: &mut Operator, queue: Option<SizeClassQueueName>) -> [Status; 7] {
    use kill_operations_request::filter::Type;
    let invocation_name = Some(InvocationName {
        size_class_queue_name: queue.clone(),
        ids: Vec::new(),
    });
    let drain = AddOrRemoveDrainRequest {
        size_class_queue_name: queue.clone(),
        ..Default::default()
    };
    let all = list_workers_request::filter::Type::All;
    let without_workers = Type::SizeClassQueueWithoutWorkers;
    let kill = KillOperationsRequest {
        filter: Some(kill_operations_request::Filter {
            r#type: Some(without_workers(queue.clone().unwrap_or_default())),
        }),
        status: Some(rpc::Status {
            code: Code::Aborted as i32,
            ..Default::default()
        }),
    };
    let workers = ListWorkersRequest {
        filter: Some(list_workers_request::Filter {
            r#type: Some(all(queue.clone().unwrap_or_default())),
        }),
        page_size: 1,
        ..Default::default()
    };
    let children = ListInvocationChildrenRequest {
        invocation_name: invocation_name.clone(),
        filter: 0,
    };
    let queued = ListQueuedOperationsRequest {
        invocation_name,
        page_size: 1,
        ..Default::default()
    };
    let drains = ListDrainsRequest {
        size_class_queue_name: queue,
    };
    [
        operator.list_drains(drains).await.unwrap_err(),
        operator.add_drain(drain.clone()).await.unwrap_err(),
        operator.remove_drain(drain).await.unwrap_err(),
        operator.kill_operations(kill).await.unwrap_err(),
        operator.list_workers(workers).await.unwrap_err(),
        operator
            .list_invocation_children(children)
            .await
            .unwrap_err(),
        operator.list_queued_operations(queued).await.unwrap_err(),
    ]
}

#[tokio::test]
async fn wrong_names_of_queues_are_refused_by_every_call() {
    let farm = Farm::start(Settings::default()).await;
    let mut operator = BuildQueueStateClient::new(farm.connect());
    for (queue, text) in wrong_queues() {
        for status in name(&mut operator, queue).await {
            refused(Err::<(), _>(status), Code::InvalidArgument, text);
        }
    }
    let unknown = Some(SizeClassQueueName {
        size_class: 7,
        ..queue().unwrap()
    });
    for status in name(&mut operator, unknown).await {
        refused(Err::<(), _>(status), Code::NotFound, "size class 7");
    }
}

#[tokio::test]
async fn wrong_lists_are_refused_and_the_field_named() {
    let farm = Farm::start(Settings::default()).await;
    let mut operator = BuildQueueStateClient::new(farm.connect());
    let wrong = Code::InvalidArgument;
    let list = ListOperationsRequest::default();
    refused(operator.list_operations(list).await, wrong, "page_size");
    let list = ListOperationsRequest {
        page_size: 1,
        filter_stage: 77,
        ..Default::default()
    };
    refused(operator.list_operations(list).await, wrong, "filter_stage");
    let list = ListOperationsRequest {
        page_size: 1,
        start_after: Some(list_operations_request::StartAfter {
            operation_name: "x".repeat(1 << 20),
        }),
        ..Default::default()
    };
    refused(operator.list_operations(list).await, Code::NotFound, "xxx");

    let workers = ListWorkersRequest::default();
    refused(operator.list_workers(workers).await, wrong, "filter.type");
    let all = list_workers_request::filter::Type::All(queue().unwrap());
    let workers = ListWorkersRequest {
        filter: Some(list_workers_request::Filter { r#type: Some(all) }),
        ..Default::default()
    };
    refused(
        operator.list_workers(workers.clone()).await,
        wrong,
        "page_size",
    );
    let workers = ListWorkersRequest {
        page_size: 1,
        start_after: Some(list_workers_request::StartAfter {
            worker_id: HashMap::from([("host".into(), "x".repeat(1 << 20))]),
        }),
        ..workers
    };
    refused(operator.list_workers(workers).await, wrong, "16384 allowed");

    let children = ListInvocationChildrenRequest {
        invocation_name: root(),
        filter: 9,
    };
    let listed = operator.list_invocation_children(children).await;
    refused(listed, wrong, "filter");
    let unknown = InvocationName {
        ids: vec![protobuf::Any::default(); 1000],
        ..root().unwrap()
    };
    let children = ListInvocationChildrenRequest {
        invocation_name: Some(unknown),
        filter: 0,
    };
    let listed = operator.list_invocation_children(children).await;
    refused(listed, Code::NotFound, "no such invocation");

    let after = |seconds, duration| ListQueuedOperationsRequest {
        invocation_name: root(),
        page_size: 1,
        start_after: Some(list_queued_operations_request::StartAfter {
            priority: 0,
            queued_timestamp: Some(protobuf::Timestamp { seconds, nanos: 0 }),
            expected_duration: Some(protobuf::Duration {
                seconds: duration,
                nanos: 0,
            }),
        }),
    };
    for (request, field) in [
        (after(-1, 0), "queued_timestamp"),
        (after(0, i64::MIN), "expected_duration"),
    ] {
        let listed = operator.list_queued_operations(request).await;
        refused(listed, wrong, field);
    }
}

#[tokio::test]
async fn wrong_kills_and_patterns_are_refused_and_the_field_named() {
    use kill_operations_request::filter::Type;
    let farm = Farm::start(Settings::default()).await;
    let mut client = farm.execute(farm.action("x")).await;
    client.stage().await;
    let mut operator = BuildQueueStateClient::new(farm.connect());
    let wrong = Code::InvalidArgument;
    let status = |code| rpc::Status {
        code,
        ..Default::default()
    };
    let kill = |name: &str, status| KillOperationsRequest {
        filter: Some(kill_operations_request::Filter {
            r#type: Some(Type::OperationName(name.into())),
        }),
        status,
    };
    let huge = rpc::Status {
        details: vec![protobuf::Any {
            type_url: String::new(),
            value: vec![0; 1 << 20],
        }],
        ..status(10)
    };
    for (request, field) in [
        (KillOperationsRequest::default(), "status"),
        (kill(&client.name, Some(status(0))), "status"),
        (kill(&client.name, Some(status(77))), "status.code"),
        (kill(&client.name, Some(huge)), "status.details"),
        (
            KillOperationsRequest {
                filter: None,
                ..kill("", Some(status(10)))
            },
            "filter.type",
        ),
    ] {
        refused(operator.kill_operations(request).await, wrong, field);
    }
    let unknown = kill(&"x".repeat(1 << 20), Some(status(10)));
    refused(
        operator.kill_operations(unknown).await,
        Code::NotFound,
        "xxx",
    );
    let long = rpc::Status {
        message: "y".repeat(1 << 20),
        ..status(10)
    };
    let killed = kill(&client.name, Some(long));
    operator.kill_operations(killed).await.unwrap();
    let told = client.response().await.status.unwrap();
    assert_eq!(told.code, 10);
    assert!(told.message.len() < 4096, "{}", told.message.len());

    let pattern = HashMap::from([("host".to_string(), "x".repeat(1 << 20))]);
    let terminated = operator
        .terminate_workers(TerminateWorkersRequest {
            worker_id_pattern: pattern.clone(),
        })
        .await;
    refused(terminated, wrong, "worker_id_pattern");
    let drain = AddOrRemoveDrainRequest {
        size_class_queue_name: queue(),
        worker_id_pattern: pattern,
    };
    let added = operator.add_drain(drain.clone()).await;
    refused(added, wrong, "worker_id_pattern");
    let removed = operator.remove_drain(drain).await;
    refused(removed, wrong, "worker_id_pattern");

    for name in ["", "nonsense", "00000000-0000-4000-8000-000000000000"] {
        let operation_name = name.to_string();
        let asked = operator.get_operation(GetOperationRequest {
            operation_name: operation_name.clone(),
        });
        refused(asked.await, Code::NotFound, name);
        let mut explanation = ExplanationClient::new(farm.connect());
        let asked = explanation.explain(ExplainRequest { operation_name });
        refused(asked.await, Code::NotFound, name);
    }
}

#[tokio::test]
async fn drains_are_so_many_and_no_more() {
    let farm = Farm::start(Settings::default()).await;
    let mut operator = BuildQueueStateClient::new(farm.connect());
    let drain = |number: usize| AddOrRemoveDrainRequest {
        size_class_queue_name: queue(),
        worker_id_pattern: HashMap::from([("host".into(), number.to_string())]),
    };
    for number in 0..1000 {
        operator.add_drain(drain(number)).await.unwrap();
    }
    // One that is there is no further one.
    operator.add_drain(drain(5)).await.unwrap();
    let added = operator.add_drain(drain(1000)).await;
    refused(added, Code::ResourceExhausted, "1000 drains");
    operator.remove_drain(drain(5)).await.unwrap();
    operator.add_drain(drain(1000)).await.unwrap();
}
