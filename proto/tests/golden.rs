//! Golden bytes of Buildbarn's protocols: what each message of
//! `buildbarn.remoteworker` and `buildbarn.runner` looks like on the wire, put
//! together by hand from the field numbers and types in Buildbarn's
//! `pkg/proto/remoteworker/remoteworker.proto` and `pkg/proto/runner/runner.proto`.
//!
//! A field is its key (number × 8 + wire type: 0 a varint, 2 a length and as many
//! bytes) and its value. No encoder makes these bytes: a field that is given
//! another number or type here fails, whatever encoder and decoder agree on.

use prost::Message;
use proto::wire::remoteworker::{
    CurrentState, DesiredState, SynchronizeRequest, SynchronizeResponse, current_state,
    desired_state,
};
use proto::wire::runner::{CheckReadinessRequest, RunRequest, RunResponse};
use proto::wire::{protobuf, rev2};

use current_state::WorkerState as Current;
use current_state::executing::ExecutionState;
use desired_state::WorkerState as Desired;

/// Both ways: the bytes mean the message, and the message is written so.
fn golden<M: Message + Default + PartialEq + std::fmt::Debug>(
    name: &str,
    bytes: &[u8],
    message: &M,
) {
    assert_eq!(M::decode(bytes).as_ref(), Ok(message), "{name}");
    assert_eq!(message.encode_to_vec(), bytes, "{name}");
}

fn digest() -> Option<rev2::Digest> {
    Some(rev2::Digest {
        hash: "ab".into(),
        size_bytes: 300,
    })
}

fn platform() -> Option<rev2::Platform> {
    Some(rev2::Platform {
        properties: vec![rev2::platform::Property {
            name: "os".into(),
            value: "x".into(),
        }],
    })
}

fn pair(key: &str, value: &str) -> std::collections::HashMap<String, String> {
    [(key.to_string(), value.to_string())].into()
}

#[test]
fn synchronize_requests() {
    golden("empty", b"", &SynchronizeRequest::default());
    golden(
        "all but the state",
        b"\x0a\x06\x0a\x01k\x12\x01v\
          \x12\x02pr\
          \x1a\x09\x0a\x07\x0a\x02os\x12\x01x\
          \x28\x96\x01\
          \x30\x01",
        &SynchronizeRequest {
            worker_id: pair("k", "v"),
            instance_name_prefix: "pr".into(),
            platform: platform(),
            current_state: None,
            size_class: 150,
            prefer_being_idle: true,
        },
    );
    let state = |state| SynchronizeRequest {
        current_state: Some(CurrentState {
            worker_state: Some(state),
        }),
        ..Default::default()
    };
    golden(
        "no state in the state",
        b"\x22\x00",
        &SynchronizeRequest {
            current_state: Some(CurrentState { worker_state: None }),
            ..Default::default()
        },
    );
    golden("idle", b"\x22\x02\x0a\x00", &state(Current::Idle(())));
    let executing = |execution_state| {
        state(Current::Executing(current_state::Executing {
            action_digest: digest(),
            execution_state,
        }))
    };
    golden(
        "executing without a stage",
        b"\x22\x0b\x12\x09\x0a\x07\x0a\x02ab\x10\xac\x02",
        &executing(None),
    );
    golden(
        "started",
        b"\x22\x0d\x12\x0b\x0a\x07\x0a\x02ab\x10\xac\x02\x12\x00",
        &executing(Some(ExecutionState::Started(()))),
    );
    golden(
        "fetching inputs",
        b"\x22\x0d\x12\x0b\x0a\x07\x0a\x02ab\x10\xac\x02\x1a\x00",
        &executing(Some(ExecutionState::FetchingInputs(()))),
    );
    golden(
        "running",
        b"\x22\x0d\x12\x0b\x0a\x07\x0a\x02ab\x10\xac\x02\x22\x00",
        &executing(Some(ExecutionState::Running(()))),
    );
    golden(
        "uploading outputs",
        b"\x22\x0d\x12\x0b\x0a\x07\x0a\x02ab\x10\xac\x02\x2a\x00",
        &executing(Some(ExecutionState::UploadingOutputs(()))),
    );
    golden(
        "completed",
        b"\x22\x13\x12\x11\x0a\x07\x0a\x02ab\x10\xac\x02\x32\x06\x0a\x02\x20\x07\x10\x01",
        &executing(Some(ExecutionState::Completed(rev2::ExecuteResponse {
            result: Some(rev2::ActionResult {
                exit_code: 7,
                ..Default::default()
            }),
            cached_result: true,
            ..Default::default()
        }))),
    );
}

#[test]
fn synchronize_responses() {
    golden("empty", b"", &SynchronizeResponse::default());
    golden(
        "when to call again",
        b"\x0a\x04\x08\x05\x10\x03",
        &SynchronizeResponse {
            next_synchronization_at: Some(protobuf::Timestamp {
                seconds: 5,
                nanos: 3,
            }),
            desired_state: None,
        },
    );
    let desired = |worker_state| SynchronizeResponse {
        next_synchronization_at: None,
        desired_state: Some(DesiredState { worker_state }),
    };
    golden("no state in the state", b"\x12\x00", &desired(None));
    golden(
        "idle",
        b"\x12\x02\x0a\x00",
        &desired(Some(Desired::Idle(()))),
    );
    golden(
        "executing",
        b"\x12\x3a\x12\x38\
          \x0a\x07\x0a\x02ab\x10\xac\x02\
          \x12\x06\x32\x02\x08\x0a\x38\x01\
          \x22\x02\x08\x05\
          \x32\x08\x0a\x03t/x\x12\x01z\
          \x3a\x02sx\
          \x42\x11\x0a\x0btraceparent\x12\x0200\
          \x48\x01",
        &desired(Some(Desired::Executing(desired_state::Executing {
            action_digest: digest(),
            action: Some(rev2::Action {
                timeout: Some(protobuf::Duration {
                    seconds: 10,
                    nanos: 0,
                }),
                do_not_cache: true,
                ..Default::default()
            }),
            queued_timestamp: Some(protobuf::Timestamp {
                seconds: 5,
                nanos: 0,
            }),
            auxiliary_metadata: vec![protobuf::Any {
                type_url: "t/x".into(),
                value: b"z".to_vec(),
            }],
            instance_name_suffix: "sx".into(),
            w3c_trace_context: pair("traceparent", "00"),
            digest_function: rev2::digest_function::Value::Sha256 as i32,
        }))),
    );
}

#[test]
fn fields_that_buildbarn_gave_up_are_skipped() {
    // CurrentState.Executing 7 (a bool), DesiredState.Executing 3 and 5.
    let request = SynchronizeRequest::decode(&b"\x22\x04\x12\x02\x38\x01"[..]).unwrap();
    let executing = Current::Executing(current_state::Executing::default());
    assert_eq!(request.current_state.unwrap().worker_state, Some(executing));
    let response = SynchronizeResponse::decode(&b"\x12\x0a\x12\x08\x1a\x03\x0a\x01a\x2a\x01c"[..]);
    let executing = Desired::Executing(desired_state::Executing::default());
    let desired = response.unwrap().desired_state.unwrap();
    assert_eq!(desired.worker_state, Some(executing));
}

#[test]
fn runner_messages() {
    golden("any runner", b"", &CheckReadinessRequest::default());
    golden(
        "readiness of a path",
        b"\x0a\x03a/b",
        &CheckReadinessRequest { path: "a/b".into() },
    );
    golden(
        "run",
        b"\x0a\x02cc\x0a\x00\x0a\x02-c\
          \x12\x06\x0a\x01k\x12\x01v\
          \x1a\x01w\x22\x01o\x2a\x01e\x32\x01r\x3a\x01t\x42\x01l",
        &RunRequest {
            arguments: vec!["cc".into(), String::new(), "-c".into()],
            environment_variables: pair("k", "v"),
            working_directory: "w".into(),
            stdout_path: "o".into(),
            stderr_path: "e".into(),
            input_root_directory: "r".into(),
            temporary_directory: "t".into(),
            server_logs_directory: "l".into(),
        },
    );
    golden(
        "an exit code and what was used",
        b"\x08\x89\x01\x12\x08\x0a\x03t/x\x12\x01z",
        &RunResponse {
            exit_code: 137,
            resource_usage: vec![protobuf::Any {
                type_url: "t/x".into(),
                value: b"z".to_vec(),
            }],
        },
    );
    golden(
        "an exit code of Windows, beyond 32 bits",
        b"\x08\x80\x80\x80\x80\x10",
        &RunResponse {
            exit_code: 1 << 32,
            resource_usage: Vec::new(),
        },
    );
    golden(
        "a negative exit code",
        b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        &RunResponse {
            exit_code: -1,
            resource_usage: Vec::new(),
        },
    );
}
