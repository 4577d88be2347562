//! Who may make which call in which instance name.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Server, Subject, sha256};
use daemon::{Address, Channel, Shutdown};
use proto::wire::bytestream::byte_stream_client::ByteStreamClient;
use proto::wire::bytestream::{QueryWriteStatusRequest, ReadRequest, WriteRequest};
use proto::wire::longrunning::operations_client::OperationsClient;
use proto::wire::longrunning::{CancelOperationRequest, GetOperationRequest};
use proto::wire::rev2::action_cache_client::ActionCacheClient;
use proto::wire::rev2::capabilities_client::CapabilitiesClient;
use proto::wire::rev2::content_addressable_storage_client::ContentAddressableStorageClient;
use proto::wire::rev2::execution_client::ExecutionClient;
use proto::wire::rev2::{
    ActionResult, BatchReadBlobsRequest, BatchUpdateBlobsRequest, ExecuteRequest,
    FindMissingBlobsRequest, GetActionResultRequest, GetCapabilitiesRequest, GetTreeRequest,
    UpdateActionResultRequest, WaitExecutionRequest,
};
use serde_json::{Value, json};
use storage::{Front, Updates, internal_routes};
use tonic::{Code, Status};

/// Every kind of call, in the configuration's words.
const KINDS: [&str; 6] = [
    "get_blobs",
    "find_missing_blobs",
    "put_blobs",
    "get_action_results",
    "put_action_results",
    "execute",
];

/// A front whose scheduler is away: what would be passed on is UNAVAILABLE.
async fn front(rules: Value) -> (Subject, Server, tempfile::TempDir) {
    let subject = Subject::embedded().await;
    let folder = tempfile::tempdir().unwrap();
    let nobody = Address::Unix(folder.path().join("nobody"));
    let front = Front {
        blobs: subject.blobs.clone(),
        actions: subject.actions.clone(),
        scheduler: Some(daemon::connect(&nobody).unwrap()),
        action_cache_updates: Updates::Always,
        authorizers: serde_json::from_value(rules).unwrap(),
        holder: None,
        shutdown: Shutdown::new(),
    };
    let server = Server::start(front.routes()).await;
    (subject, server, folder)
}

fn code<T>(answer: Result<T, Status>) -> Code {
    answer.err().map_or(Code::Ok, |status| status.code())
}

/// Makes every call that is of an instance name, each with its kind and its outcome.
async fn calls(channel: &Channel, instance: &str) -> Vec<(&'static str, &'static str, Code)> {
    let mut cas = ContentAddressableStorageClient::new(channel.clone());
    let mut bytes = ByteStreamClient::new(channel.clone());
    let mut cache = ActionCacheClient::new(channel.clone());
    let mut execution = ExecutionClient::new(channel.clone());
    let instance_name = instance.to_owned();
    let prefix = match instance {
        "" => String::new(),
        name => format!("{name}/"),
    };
    let empty = sha256(b"");
    let digest = Some(empty.to_wire());
    let blob = format!("blobs/{}/0", empty.hash());
    let upload = format!("{prefix}uploads/u/{blob}");
    let mut outcomes = Vec::new();
    let mut note = |kind, call, code| outcomes.push((kind, call, code));

    let asked = cas.find_missing_blobs(FindMissingBlobsRequest {
        instance_name: instance_name.clone(),
        ..Default::default()
    });
    note("find_missing_blobs", "FindMissingBlobs", code(asked.await));
    let read = cas.batch_read_blobs(BatchReadBlobsRequest {
        instance_name: instance_name.clone(),
        ..Default::default()
    });
    note("get_blobs", "BatchReadBlobs", code(read.await));
    let tree = cas.get_tree(GetTreeRequest {
        instance_name: instance_name.clone(),
        root_digest: digest.clone(),
        ..Default::default()
    });
    note("get_blobs", "GetTree", code(tree.await));
    let read = bytes.read(ReadRequest {
        resource_name: format!("{prefix}{blob}"),
        ..Default::default()
    });
    note("get_blobs", "Read", code(read.await));
    let written = cas.batch_update_blobs(BatchUpdateBlobsRequest {
        instance_name: instance_name.clone(),
        ..Default::default()
    });
    note("put_blobs", "BatchUpdateBlobs", code(written.await));
    let written = bytes.write(futures::stream::iter([WriteRequest {
        resource_name: upload.clone(),
        finish_write: true,
        ..Default::default()
    }]));
    note("put_blobs", "Write", code(written.await));
    let status = bytes.query_write_status(QueryWriteStatusRequest {
        resource_name: upload,
    });
    note("put_blobs", "QueryWriteStatus", code(status.await));
    let updated = cache.update_action_result(UpdateActionResultRequest {
        instance_name: instance_name.clone(),
        action_digest: digest.clone(),
        action_result: Some(ActionResult::default()),
        ..Default::default()
    });
    note(
        "put_action_results",
        "UpdateActionResult",
        code(updated.await),
    );
    let got = cache.get_action_result(GetActionResultRequest {
        instance_name: instance_name.clone(),
        action_digest: digest.clone(),
        ..Default::default()
    });
    note("get_action_results", "GetActionResult", code(got.await));
    let executed = execution.execute(ExecuteRequest {
        instance_name,
        action_digest: digest,
        ..Default::default()
    });
    note("execute", "Execute", code(executed.await));
    outcomes
}

#[tokio::test]
async fn each_kind_of_call_is_allowed_by_its_own_rules_and_in_its_instance_names() {
    for allowed in KINDS {
        let only_ours = json!({
            "instance_name_prefix": {"allowed_instance_name_prefixes": ["ours"]}
        });
        let mut rules = json!({});
        for kind in KINDS {
            rules[kind] = json!({"deny": {}});
        }
        rules[allowed] = only_ours;
        let (_subject, server, _folder) = front(rules).await;
        for (instance, ours) in [
            ("ours", true),
            ("ours/too", true),
            ("oursnot", false),
            ("", false),
        ] {
            for (kind, call, code) in calls(&server.channel, instance).await {
                if !ours || kind != allowed {
                    assert_eq!(code, Code::PermissionDenied, "{call} in {instance:?}");
                } else {
                    // No entry, and no scheduler: past the rules in any case.
                    let expected = match call {
                        "GetActionResult" => Code::NotFound,
                        "Execute" => Code::Unavailable,
                        _ => Code::Ok,
                    };
                    assert_eq!(code, expected, "{call} in {instance:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn rules_tell_callers_apart_also_where_workers_are_served() {
    let own = nix::unistd::geteuid().as_raw();
    for (user, allowed) in [(own, true), (own + 1, false)] {
        let subject = Subject::embedded().await;
        let only = json!({"rules": [{"principals": [format!("user:{user}")]}]});
        let rules = json!({"put_action_results": only, "get_blobs": only});
        let routes = internal_routes(
            subject.blobs.clone(),
            subject.actions.clone(),
            serde_json::from_value(rules).unwrap(),
        );
        let server = Server::start(routes).await;
        for (kind, call, code) in calls(&server.channel, "any").await {
            let guarded = ["put_action_results", "get_blobs"].contains(&kind);
            let refused = code == Code::PermissionDenied;
            assert_eq!(refused, guarded && !allowed, "{call}: {code}");
        }
        let mut client = CapabilitiesClient::new(server.channel.clone());
        let asked = client.get_capabilities(GetCapabilitiesRequest::default());
        let cache = asked.await.unwrap().into_inner().cache_capabilities;
        let updates = cache.unwrap().action_cache_update_capabilities.unwrap();
        assert_eq!(updates.update_enabled, allowed);
    }
}

#[tokio::test]
async fn who_may_not_execute_follows_no_operations_and_is_not_told_that_one_can() {
    for (rules, expected) in [
        (json!({"execute": {"deny": {}}}), Code::PermissionDenied),
        (json!({"execute": {"rules": []}}), Code::PermissionDenied),
        (
            json!({"execute": {"rules": [{"principals": ["certificate:ci"]}]}}),
            Code::PermissionDenied,
        ),
        (
            json!({"execute": {"rules": [{"instance_name_prefixes": ["ours"]}]}}),
            Code::Unavailable,
        ),
    ] {
        let (_subject, server, _folder) = front(rules).await;
        let name = "9a8ffa4b-6b0e-4a36-b4c6-0a0a0a0a0a0a".to_owned();
        let mut execution = ExecutionClient::new(server.channel.clone());
        let wait = WaitExecutionRequest { name: name.clone() };
        assert_eq!(code(execution.wait_execution(wait).await), expected);
        let mut operations = OperationsClient::new(server.channel.clone());
        let get = GetOperationRequest { name: name.clone() };
        assert_eq!(code(operations.get_operation(get).await), expected);
        let cancel = CancelOperationRequest { name };
        assert_eq!(code(operations.cancel_operation(cancel).await), expected);

        // The scheduler, which is away, is asked for those alone who may.
        let mut client = CapabilitiesClient::new(server.channel.clone());
        let asked = |instance: &str| GetCapabilitiesRequest {
            instance_name: instance.into(),
        };
        let told = client.get_capabilities(asked("theirs")).await.unwrap();
        assert!(told.into_inner().execution_capabilities.is_none());
        let ours = code(client.get_capabilities(asked("ours")).await);
        let may = expected == Code::Unavailable;
        assert_eq!(ours, if may { Code::Unavailable } else { Code::Ok });
    }
}
