//! Requests that are wrong, and what they are told.

use proto::wire::protobuf;
use proto::wire::rev2::{self, WaitExecutionRequest};
use proto::wire::worker_extension::Execution;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::*;
use crate::queue::Ignored;

async fn refused(farm: &Farm, request: ExecuteRequest) -> Status {
    match Client::execute(farm.connect(), request).await {
        Err(status) => status,
        Ok(_) => panic!("was accepted"),
    }
}

/// As many as fit into an Action that may be read here.
fn many_properties() -> Platform {
    let property = |number| Property {
        name: format!("{number:06}"),
        value: String::new(),
    };
    Platform {
        properties: (0..30_000).map(property).collect(),
    }
}

#[tokio::test]
async fn wrong_requests_are_refused_with_the_code_and_the_name_of_the_thing() {
    let farm = Farm::start(Settings {
        no_workers_timeout: Duration::ZERO,
        ..Settings::default()
    })
    .await;
    let good = farm.action("x");
    let timeout = |seconds| {
        let timeout = Some(protobuf::Duration { seconds, nanos: 0 });
        farm.store(Action {
            timeout,
            platform: Some(platform("linux")),
            ..action_of("x")
        })
    };
    let unsorted = Platform {
        properties: ["b", "a"]
            .into_iter()
            .flat_map(|os| platform(os).properties)
            .collect(),
    };
    let digest = |hash: &str, size_bytes| {
        Some(rev2::Digest {
            hash: hash.into(),
            size_bytes,
        })
    };
    let with_digest = |action_digest| ExecuteRequest {
        action_digest,
        ..Default::default()
    };
    let with_action = |action| request(farm.store(action));
    let garbage = farm.memory.put(b"\xff\xff no message");
    let missing = digest_of(b"nowhere");

    let cases = [
        (
            ExecuteRequest {
                instance_name: "a//b".into(),
                ..request(good)
            },
            Code::InvalidArgument,
            "instance_name: instance name \"a//b\"".to_string(),
        ),
        (
            ExecuteRequest {
                digest_function: 99,
                ..request(good)
            },
            Code::InvalidArgument,
            "digest_function: digest function 99".into(),
        ),
        (
            with_digest(None),
            Code::InvalidArgument,
            "action_digest: digest is missing".into(),
        ),
        (
            with_digest(digest("abc", 1)),
            Code::InvalidArgument,
            "hash \"abc\"".into(),
        ),
        (
            with_digest(digest(&"Z".repeat(64), 1)),
            Code::InvalidArgument,
            "action_digest: \"ZZZ".into(),
        ),
        (
            with_digest(digest(&good.hash(), -1)),
            Code::InvalidArgument,
            "negative size -1".into(),
        ),
        (
            with_digest(digest(&good.hash(), 2 << 20)),
            Code::ResourceExhausted,
            "maximum size of 1048576".into(),
        ),
        (
            request(missing),
            Code::FailedPrecondition,
            format!("action {missing}"),
        ),
        (
            request(garbage),
            Code::InvalidArgument,
            format!("action {garbage} cannot be decoded"),
        ),
        (
            with_action(Action {
                command_digest: None,
                ..action_of("x")
            }),
            Code::InvalidArgument,
            "action.command_digest".into(),
        ),
        (
            with_action(Action {
                input_root_digest: digest("..", 0),
                ..action_of("x")
            }),
            Code::InvalidArgument,
            "action.input_root_digest".into(),
        ),
        (
            with_action(action_of("no such command")),
            Code::FailedPrecondition,
            format!("command {}", digest_of(b"no such command")),
        ),
        (
            with_action(Action {
                platform: Some(unsorted),
                ..action_of("x")
            }),
            Code::InvalidArgument,
            "action.platform: platform property \"os\"=\"a\" is not in sorted order".into(),
        ),
        (
            with_action(Action {
                platform: Some(platform("plan9")),
                ..action_of("x")
            }),
            Code::FailedPrecondition,
            "has os=\"linux\", not \"plan9\"".into(),
        ),
        (
            with_action(Action {
                platform: Some(many_properties()),
                ..action_of("x")
            }),
            Code::InvalidArgument,
            "action.platform: platform has 30000 properties".into(),
        ),
        (
            request(timeout(-1)),
            Code::InvalidArgument,
            "timeout of -1 s".into(),
        ),
        (
            request(timeout(7201)),
            Code::InvalidArgument,
            "maximum of 7200 s".into(),
        ),
    ];
    for (request, code, text) in cases {
        let status = refused(&farm, request).await;
        assert_eq!(status.code(), code, "{text}: {status}");
        assert!(status.message().contains(&text), "{text}: {status}");
    }
    assert!(farm.dispatcher.is_empty(), "something was left behind");
}

#[tokio::test]
async fn missing_blobs_are_listed_so_that_clients_upload_them() {
    let farm = Farm::start(Settings::default()).await;
    let missing = digest_of(b"nowhere");
    let status = refused(&farm, request(missing)).await;
    let violations = status
        .get_details_precondition_failure()
        .unwrap()
        .violations;
    assert_eq!(violations[0].r#type, "MISSING");
    let subject = format!("blobs/{}/{}", missing.hash(), missing.size());
    assert_eq!(violations[0].subject, subject);
}

#[tokio::test]
async fn soon_after_the_start_a_platform_without_workers_is_refused_for_now() {
    let farm = Farm::start(Settings::default()).await;
    let action = Action {
        platform: Some(platform("plan9")),
        ..action_of("x")
    };
    let status = refused(&farm, request(farm.store(action))).await;
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test]
async fn unknown_operations_are_not_found() {
    let farm = Farm::start(Settings::default()).await;
    let mut client = ExecutionClient::new(farm.connect());
    for name in ["", "nonsense", "00000000-0000-4000-8000-000000000000"] {
        let wait = WaitExecutionRequest { name: name.into() };
        let status = client.wait_execution(wait).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{name}");
    }
}

#[tokio::test]
async fn workers_calls_that_are_wrong_are_refused() {
    let farm = Farm::start(Settings::default()).await;
    let good = SynchronizeRequest {
        current_state: Some(CurrentState {
            worker_state: Some(current_state::WorkerState::Idle(())),
        }),
        ..farm.worker("a").request
    };
    let executing = |action_digest, execution_state| {
        let executing = current_state::Executing {
            action_digest,
            execution_state,
        };
        Some(CurrentState {
            worker_state: Some(current_state::WorkerState::Executing(executing)),
        })
    };
    let started = Some(current_state::executing::ExecutionState::Started(()));
    let digest = Some(digest_of(b"x").to_wire());
    let cases = [
        (
            SynchronizeRequest {
                current_state: None,
                ..good.clone()
            },
            "current_state",
        ),
        (
            SynchronizeRequest {
                current_state: executing(None, started),
                ..good.clone()
            },
            "action_digest",
        ),
        (
            SynchronizeRequest {
                current_state: executing(digest, None),
                ..good.clone()
            },
            "execution_state",
        ),
        (
            SynchronizeRequest {
                size_class: 1,
                ..good.clone()
            },
            "size_class",
        ),
        (
            SynchronizeRequest {
                instance_name_prefix: "/".into(),
                ..good.clone()
            },
            "instance_name_prefix",
        ),
        (
            SynchronizeRequest {
                platform: Some(many_properties()),
                ..good.clone()
            },
            "platform: platform has 30000 properties",
        ),
        (
            SynchronizeRequest {
                worker_id: HashMap::from([("id".to_string(), "x".repeat(1 << 20))]),
                ..good.clone()
            },
            "worker_id",
        ),
        (
            SynchronizeRequest {
                platform: Some(Platform {
                    properties: vec![platform("a").properties.remove(0); 2],
                }),
                ..good
            },
            "platform",
        ),
    ];
    let mut client = OperationQueueClient::new(farm.connect());
    for (request, field) in cases {
        let status = client.synchronize(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status}");
        assert!(status.message().contains(field), "{field}: {status}");
    }
}

#[tokio::test]
async fn what_a_worker_tells_besides_is_checked_like_its_call() {
    let farm = Farm::start(Settings::default()).await;
    let mut client = OperationQueueClient::new(farm.connect());
    let request = SynchronizeRequest {
        worker_id: HashMap::from([("host".to_string(), "w".to_string())]),
        platform: Some(platform("linux")),
        current_state: Some(CurrentState {
            worker_state: Some(current_state::WorkerState::Executing(
                current_state::Executing {
                    action_digest: Some(digest_of(b"x").to_wire()),
                    execution_state: Some(current_state::executing::ExecutionState::Started(())),
                },
            )),
        }),
        ..Default::default()
    };
    let good = Execution {
        queued_timestamp: Some(protobuf::Timestamp::default()),
        ..Default::default()
    };
    let claims = [
        (
            Execution {
                instance_name_suffix: "a//b".into(),
                ..good.clone()
            },
            "instance_name_suffix",
        ),
        (
            Execution {
                operation_names: vec!["no name".into()],
                ..good.clone()
            },
            "operation_names",
        ),
        (
            Execution {
                operation_names: vec![uuid::Uuid::nil().to_string(); 65],
                ..good.clone()
            },
            "operation_names",
        ),
        (
            Execution {
                queued_timestamp: Some(protobuf::Timestamp {
                    seconds: -1,
                    nanos: 0,
                }),
                ..good.clone()
            },
            "queued_timestamp",
        ),
        (
            Execution {
                digest_function: 99,
                ..good
            },
            "action_digest",
        ),
    ];
    let claims = claims.map(|(claim, field)| (claim.encode_to_vec(), field));
    let garbage = (b"\xff\xff no message".to_vec(), "hayloft-execution-bin");
    for (bytes, field) in claims.into_iter().chain([garbage]) {
        let mut request = tonic::Request::new(request.clone());
        let value = tonic::metadata::MetadataValue::from_bytes(&bytes);
        let headers = request.metadata_mut();
        headers.insert_bin("hayloft-execution-bin", value);
        let status = client.synchronize(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status}");
        assert!(status.message().contains(field), "{field}: {status}");
    }
}

#[tokio::test]
async fn an_action_and_a_command_have_limits_of_their_own() {
    let memory = Arc::new(Memory::default());
    let command = Command {
        arguments: vec!["x".repeat(500)],
        ..Default::default()
    };
    let command = memory.put(&command.encode_to_vec());
    let action = Action {
        command_digest: Some(command.to_wire()),
        ..action_of("")
    };
    let action = memory.put(&action.encode_to_vec());
    let load = async |action_size, command_size| {
        let sizes = Sizes {
            action: action_size,
            command: command_size,
        };
        let actions = Actions::new(memory.clone(), sizes, &Ignored::default());
        let loaded = actions.load(&InstanceName::empty(), action).await;
        loaded.map_err(|error| Status::from(error).message().to_owned())
    };
    load(action.size(), command.size()).await.unwrap();
    let large = load(action.size() - 1, command.size()).await.unwrap_err();
    assert!(large.starts_with("action"), "{large}");
    let large = load(action.size(), command.size() - 1).await.unwrap_err();
    assert!(large.starts_with("command"), "{large}");
}
