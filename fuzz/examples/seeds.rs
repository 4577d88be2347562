//! Writes the seeds of the corpora that hold messages: run it after a target's input
//! has changed its form.

use std::collections::HashMap;
use std::path::Path;

use fuzz::{SCHEDULER_METHODS, STORAGE_METHODS, frame};
use prost::Message;
use proto::wire::buildqueuestate as state;
use proto::wire::bytestream::{QueryWriteStatusRequest, ReadRequest, WriteRequest};
use proto::wire::longrunning::{CancelOperationRequest, GetOperationRequest};
use proto::wire::remoteworker::{CurrentState, SynchronizeRequest, current_state};
use proto::wire::rev2::{self, platform::Property};
use proto::wire::scheduler_extension::ExplainRequest;
use proto::wire::{protobuf, rpc, runner_extension};
use proto::{Digest, DigestFunction};

fn main() -> std::io::Result<()> {
    let corpora = [
        ("names", names()),
        ("runner_messages", runner_messages()),
        ("scheduler_calls", scheduler_calls()),
        ("storage_calls", storage_calls()),
    ];
    for (name, seeds) in corpora {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(name);
        std::fs::create_dir_all(&folder)?;
        for (seed, bytes) in seeds {
            std::fs::write(folder.join(seed), bytes)?;
        }
    }
    Ok(())
}

type Seeds = Vec<(&'static str, Vec<u8>)>;

fn digest(bytes: &[u8]) -> Digest {
    Digest::of(DigestFunction::Sha256, bytes)
}

fn names() -> Seeds {
    let hash = digest(b"x").hash();
    let upload = "uploads/00000000-0000-4000-8000-000000000001";
    let blake = Digest::of(DigestFunction::Blake3, b"x").hash();
    vec![
        ("instance", b"a/b/c".to_vec()),
        ("path", b"some/dir/../file".to_vec()),
        ("platform", b"ISA=x86-64/OSFamily=linux".to_vec()),
        ("digest", format!("{hash}/1").into()),
        ("read", format!("main/blobs/{hash}/1").into()),
        (
            "read_packed",
            format!("compressed-blobs/zstd/blake3/{blake}/1").into(),
        ),
        ("write", format!("a/b/{upload}/blobs/{hash}/1/extra").into()),
        (
            "write_packed",
            format!("{upload}/compressed-blobs/zstd/{hash}/1").into(),
        ),
    ]
}

fn runner_messages() -> Seeds {
    let request = runner_extension::RunRequest {
        arguments: vec!["/bin/sh".into(), "-c".into(), "true".into()],
        environment_variables: HashMap::from([("A".into(), "b".into())]),
        working_directory: "sub/dir".into(),
        stdout_path: "a/stdout".into(),
        stderr_path: "a/stderr".into(),
        input_root_directory: "a/root".into(),
        temporary_directory: "a/tmp".into(),
        server_logs_directory: "a/server_logs".into(),
        timeout: Some(protobuf::Duration {
            seconds: 60,
            nanos: 0,
        }),
        ..Default::default()
    };
    let with_limits = runner_extension::RunRequest {
        limits: HashMap::from([("disk_bytes".into(), 1 << 20)]),
        overlay: Some(runner_extension::Overlay {
            lower_directories: vec!["layers/1".into()],
            scratch_directory: "a/scratch".into(),
        }),
        ..request.clone()
    };
    let nothing = runner_extension::RunRequest::default();
    let with = |first: u8, request: runner_extension::RunRequest| {
        [&[first][..], &request.encode_to_vec()].concat()
    };
    vec![
        ("plain", with(0, request)),
        ("overlay", with(1, with_limits)),
        ("nothing", with(0, nothing)),
    ]
}

fn platform() -> rev2::Platform {
    rev2::Platform {
        properties: vec![Property {
            name: "os".into(),
            value: "linux".into(),
        }],
    }
}

fn scheduler_calls() -> Seeds {
    let action = rev2::Action {
        command_digest: Some(digest(b"command").to_wire()),
        input_root_digest: Some(digest(b"root").to_wire()),
        platform: Some(platform()),
        ..Default::default()
    }
    .encode_to_vec();
    let wanted = Some(digest(&action).to_wire());
    let call = |name: &str, message: Vec<u8>| {
        let method = SCHEDULER_METHODS
            .iter()
            .position(|path| path.ends_with(name));
        let method = u8::try_from(method.expect("a method")).expect("few methods");
        [&[method][..], &message].concat()
    };
    let execute = call(
        "/Execute",
        rev2::ExecuteRequest {
            action_digest: wanted.clone(),
            ..Default::default()
        }
        .encode_to_vec(),
    );
    let synchronize = |state| {
        let request = SynchronizeRequest {
            worker_id: HashMap::from([("host".into(), "w".into())]),
            platform: Some(platform()),
            current_state: Some(CurrentState {
                worker_state: Some(state),
            }),
            ..Default::default()
        };
        call("/Synchronize", request.encode_to_vec())
    };
    let idle = synchronize(current_state::WorkerState::Idle(()));
    let executing = |state| {
        let executing = current_state::Executing {
            action_digest: wanted.clone(),
            execution_state: Some(state),
        };
        synchronize(current_state::WorkerState::Executing(executing))
    };
    let running = executing(current_state::executing::ExecutionState::Running(()));
    let completed = executing(current_state::executing::ExecutionState::Completed(
        rev2::ExecuteResponse {
            result: Some(rev2::ActionResult::default()),
            ..Default::default()
        },
    ));
    // Names are counted up.
    let name = "01000000-0000-4000-8000-000000000000".to_owned();
    let named = state::SizeClassQueueName {
        platform_queue_name: Some(state::PlatformQueueName {
            instance_name_prefix: String::new(),
            platform: Some(platform()),
        }),
        size_class: 0,
    };
    let queue = Some(named.clone());
    let invocation = Some(state::InvocationName {
        size_class_queue_name: queue.clone(),
        ids: Vec::new(),
    });
    let drain = state::AddOrRemoveDrainRequest {
        size_class_queue_name: queue.clone(),
        worker_id_pattern: HashMap::from([("host".into(), "w".into())]),
    }
    .encode_to_vec();
    let kill = |filter| {
        let request = state::KillOperationsRequest {
            filter: Some(state::kill_operations_request::Filter {
                r#type: Some(filter),
            }),
            status: Some(rpc::Status {
                code: 10,
                ..Default::default()
            }),
        };
        call("/KillOperations", request.encode_to_vec())
    };
    use state::kill_operations_request::filter::Type;
    let lists = vec![
        call(
            "BuildQueueState/ListOperations",
            state::ListOperationsRequest {
                page_size: 2,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        call("/ListPlatformQueues", Vec::new()),
        call(
            "/ListInvocationChildren",
            state::ListInvocationChildrenRequest {
                invocation_name: invocation.clone(),
                filter: 2,
            }
            .encode_to_vec(),
        ),
        call(
            "/ListQueuedOperations",
            state::ListQueuedOperationsRequest {
                invocation_name: invocation,
                page_size: 1,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        call(
            "/ListWorkers",
            state::ListWorkersRequest {
                filter: Some(state::list_workers_request::Filter {
                    r#type: queue
                        .clone()
                        .map(state::list_workers_request::filter::Type::All),
                }),
                page_size: 1,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
    ];
    let wait = rev2::WaitExecutionRequest { name: name.clone() }.encode_to_vec();
    let get = GetOperationRequest { name: name.clone() }.encode_to_vec();
    let cancel = CancelOperationRequest { name: name.clone() }.encode_to_vec();
    let asked = state::GetOperationRequest {
        operation_name: name.clone(),
    };
    let explain = ExplainRequest {
        operation_name: name.clone(),
    };
    let pattern = state::TerminateWorkersRequest {
        worker_id_pattern: HashMap::from([("host".into(), "w".into())]),
    };
    let framed = |calls: Vec<Vec<u8>>| {
        let pieces = std::iter::once(&action[..]).chain(calls.iter().map(Vec::as_slice));
        frame(&pieces.collect::<Vec<_>>())
    };
    let all_lists = [vec![execute.clone(), execute.clone()], lists].concat();
    vec![
        ("lists", framed(all_lists)),
        (
            "completed",
            framed(vec![
                execute.clone(),
                idle.clone(),
                running.clone(),
                completed,
            ]),
        ),
        (
            "asked",
            framed(vec![
                execute.clone(),
                call("/WaitExecution", wait),
                call("longrunning.Operations/GetOperation", get),
                call("BuildQueueState/GetOperation", asked.encode_to_vec()),
                call("/Explain", explain.encode_to_vec()),
                call("/CancelOperation", cancel),
                call("/GetCapabilities", Vec::new()),
            ]),
        ),
        (
            "drained",
            framed(vec![
                idle.clone(),
                call("/AddDrain", drain.clone()),
                execute.clone(),
                idle.clone(),
                call("/RemoveDrain", drain),
                idle.clone(),
                call("/TerminateWorkers", pattern.encode_to_vec()),
                running,
            ]),
        ),
        (
            "killed",
            framed(vec![
                execute.clone(),
                kill(Type::OperationName(name)),
                execute,
                kill(Type::SizeClassQueueWithoutWorkers(named)),
                idle,
            ]),
        ),
    ]
}

fn storage_calls() -> Seeds {
    let method = |name: &str| {
        let method = STORAGE_METHODS.iter().position(|path| path.ends_with(name));
        u8::try_from(method.expect("a method")).expect("few methods")
    };
    let call = |name: &str, pieces: &[&[u8]]| [&[method(name)][..], &frame(pieces)].concat();
    let blob = b"some bytes to be stored";
    let hash = digest(blob).hash();
    let size = blob.len();
    let upload = "uploads/00000000-0000-4000-8000-000000000001";
    let name = format!("main/{upload}/blobs/{hash}/{size}");
    let packed = zstd::bulk::compress(blob, 3).expect("it is packed");
    let packed_name = format!("main/{upload}/compressed-blobs/zstd/{hash}/{size}");
    // What says that it is small, and is not.
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).expect("it is packed");
    let again = WriteRequest {
        resource_name: name.clone(),
        write_offset: 4,
        finish_write: true,
        data: blob[4..].to_vec(),
    };
    let again = [&[0xff][..], &again.encode_to_vec()].concat();
    let find = rev2::FindMissingBlobsRequest {
        instance_name: "main".into(),
        blob_digests: vec![digest(blob).to_wire()],
        ..Default::default()
    };
    let update = |data: &[u8], compressor| rev2::BatchUpdateBlobsRequest {
        instance_name: "main".into(),
        requests: vec![rev2::batch_update_blobs_request::Request {
            digest: Some(digest(blob).to_wire()),
            data: data.to_vec(),
            compressor,
        }],
        ..Default::default()
    };
    let zstd = rev2::compressor::Value::Zstd as i32;
    let read = rev2::BatchReadBlobsRequest {
        instance_name: "main".into(),
        digests: vec![digest(blob).to_wire(); 3],
        acceptable_compressors: vec![zstd],
        ..Default::default()
    };
    let tree = rev2::GetTreeRequest {
        instance_name: "main".into(),
        root_digest: Some(digest(b"").to_wire()),
        page_size: 1,
        ..Default::default()
    };
    let result = rev2::UpdateActionResultRequest {
        instance_name: "main".into(),
        action_digest: Some(digest(b"action").to_wire()),
        action_result: Some(rev2::ActionResult::default()),
        ..Default::default()
    };
    let asked = rev2::GetActionResultRequest {
        instance_name: "main".into(),
        action_digest: Some(digest(b"action").to_wire()),
        inline_stdout: true,
        ..Default::default()
    };
    let stream = ReadRequest {
        resource_name: format!("main/blobs/{hash}/{size}"),
        read_offset: 3,
        read_limit: 5,
    };
    let stream_packed = ReadRequest {
        resource_name: format!("main/compressed-blobs/zstd/{hash}/{size}"),
        ..Default::default()
    };
    let status = QueryWriteStatusRequest {
        resource_name: name.clone(),
    };
    let (name, packed_name) = (name.as_bytes(), packed_name.as_bytes());
    vec![
        ("write", call("/Write", &[name, &blob[..7], &blob[7..]])),
        ("write_again", call("/Write", &[name, &blob[..4], &again])),
        ("write_packed", call("/Write", &[packed_name, &packed])),
        ("write_bomb", call("/Write", &[packed_name, &bomb])),
        ("read", call("/Read", &[&stream.encode_to_vec()])),
        (
            "read_packed",
            call("/Read", &[&stream_packed.encode_to_vec()]),
        ),
        (
            "status",
            call("/QueryWriteStatus", &[&status.encode_to_vec()]),
        ),
        ("find", call("/FindMissingBlobs", &[&find.encode_to_vec()])),
        (
            "update",
            call("/BatchUpdateBlobs", &[&update(blob, 0).encode_to_vec()]),
        ),
        (
            "update_packed",
            call(
                "/BatchUpdateBlobs",
                &[&update(&packed, zstd).encode_to_vec()],
            ),
        ),
        (
            "update_bomb",
            call("/BatchUpdateBlobs", &[&update(&bomb, zstd).encode_to_vec()]),
        ),
        (
            "batch_read",
            call("/BatchReadBlobs", &[&read.encode_to_vec()]),
        ),
        ("tree", call("/GetTree", &[&tree.encode_to_vec()])),
        (
            "result",
            call("/UpdateActionResult", &[&result.encode_to_vec()]),
        ),
        ("asked", call("/GetActionResult", &[&asked.encode_to_vec()])),
        ("capabilities", call("/GetCapabilities", &[&[]])),
    ]
}
