//! The services as clients see them: what is refused, with which code, and that the
//! message names the thing.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::{MIB, Server, Subject, blob, sha256};
use daemon::Channel;
use futures::StreamExt;
use prost::Message;
use proto::wire::bytestream::byte_stream_client::ByteStreamClient;
use proto::wire::bytestream::{QueryWriteStatusRequest, ReadRequest, WriteRequest};
use proto::wire::rev2;
use proto::wire::rev2::action_cache_client::ActionCacheClient;
use proto::wire::rev2::capabilities_client::CapabilitiesClient;
use proto::wire::rev2::content_addressable_storage_client::ContentAddressableStorageClient;
use proto::wire::rev2::{
    ActionResult, BatchReadBlobsRequest, BatchUpdateBlobsRequest, Directory, DirectoryNode,
    FindMissingBlobsRequest, GetActionResultRequest, GetCapabilitiesRequest, GetTreeRequest,
    OutputFile, UpdateActionResultRequest, batch_update_blobs_request,
};
use storage::serve::MAXIMUM_BATCH;
use storage::{Authorizers, BlobStore, Error, Front, RemoteStorage};
use tonic::{Code, Status};

/// The front without a scheduler.
async fn front() -> (Subject, Server) {
    let subject = Subject::embedded().await;
    let front = Front {
        blobs: subject.blobs.clone(),
        actions: subject.actions.clone(),
        scheduler: None,
        action_cache_updates: storage::Updates::Never,
        authorizers: storage::Authorizers::default(),
        holder: None,
        shutdown: daemon::Shutdown::new(),
    };
    let server = Server::start(front.routes()).await;
    (subject, server)
}

fn cas(server: &Server) -> ContentAddressableStorageClient<Channel> {
    ContentAddressableStorageClient::new(server.channel.clone()).max_decoding_message_size(16 << 20)
}

fn refused<T>(answer: Result<T, Status>, code: Code, named: &str) {
    let Err(status) = answer else {
        panic!("not refused: {named}");
    };
    assert_eq!(status.code(), code, "{status}");
    assert!(
        status.message().contains(named),
        "{named:?} is not in {:?}",
        status.message()
    );
}

fn message(offset: i64, data: &[u8], finish: bool) -> WriteRequest {
    WriteRequest {
        write_offset: offset,
        data: data.to_vec(),
        finish_write: finish,
        ..Default::default()
    }
}

async fn upload(
    server: &Server,
    name: &str,
    mut messages: Vec<WriteRequest>,
) -> Result<i64, Status> {
    if let Some(first) = messages.first_mut() {
        first.resource_name = name.into();
    }
    let mut client = ByteStreamClient::new(server.channel.clone());
    let written = client.write(futures::stream::iter(messages)).await?;
    Ok(written.into_inner().committed_size)
}

#[tokio::test]
async fn uploads_that_break_the_rules_are_refused() {
    let (subject, server) = front().await;
    let (digest, bytes) = blob(1, 1000);
    let name = format!("uploads/u/blobs/{}/1000", digest.hash());
    let (a, b) = bytes.split_at(400);
    let mut flipped = b.to_vec();
    flipped[3] ^= 1;
    let invalid = Code::InvalidArgument;
    let other = WriteRequest {
        resource_name: "uploads/v/blobs".into(),
        ..message(400, b, true)
    };
    let cases = [
        (vec![], "no message"),
        (vec![message(0, a, false)], "finish_write"),
        (vec![message(1, a, true)], "write_offset is 1, expected 0"),
        (vec![message(-1, a, true)], "write_offset is -1"),
        (
            vec![message(0, a, false), message(399, b, true)],
            "write_offset is 399, expected 400",
        ),
        (vec![message(0, a, false), other], "uploads/v/blobs"),
        (vec![message(0, a, true)], "has 400 bytes"),
        (
            vec![message(0, a, false), message(400, &flipped, true)],
            "do not match",
        ),
        (
            vec![message(0, &bytes, false), message(1000, a, true)],
            "has 1400 bytes",
        ),
    ];
    for (number, (messages, named)) in cases.into_iter().enumerate() {
        // Each an upload of its own: what broke off would be gone on with.
        let name = name.replace("uploads/u", &format!("uploads/{number}"));
        refused(upload(&server, &name, messages).await, invalid, named);
        assert!(!subject.has(digest).await);
    }
    let hash = digest.hash();
    for (name, named) in [
        (String::new(), "resource name"),
        (format!("blobs/{hash}/1000"), "blobs/"),
        (format!("uploads/u/blobs/{hash}/-5"), "-5"),
        (format!("uploads/u/blobs/{}/1000", &hash[1..]), &hash[1..]),
        (
            format!("uploads/u/blobs/{}/1000", hash.to_uppercase()),
            &hash.to_uppercase(),
        ),
        (
            format!("uploads/u/compressed-blobs/zstd/{hash}/1000"),
            "zstd",
        ),
        (
            format!("uploads/u/compressed-blobs/brotli/{hash}/1000"),
            "brotli",
        ),
    ] {
        let answer = upload(&server, &name, vec![message(0, &bytes, true)]).await;
        refused(answer, invalid, named);
    }
    // And the right one passes.
    let messages = vec![message(0, a, false), message(400, b, true)];
    assert_eq!(upload(&server, &name, messages).await.unwrap(), 1000);
    assert!(subject.has(digest).await);
}

#[tokio::test]
async fn an_upload_of_what_is_there_is_answered_at_once() {
    let (subject, server) = front().await;
    let (digest, bytes) = blob(1, 500);
    subject.put(&bytes).await;
    let name = format!("uploads/u/blobs/{}/500", digest.hash());
    // The first message of an upload that never goes on.
    let first = WriteRequest {
        resource_name: name.clone(),
        ..message(0, &bytes[..10], false)
    };
    let endless = futures::stream::iter([first]).chain(futures::stream::pending());
    let mut client = ByteStreamClient::new(server.channel.clone());
    let written = client.write(endless).await.unwrap();
    assert_eq!(written.into_inner().committed_size, 500);

    let status = |resource_name| QueryWriteStatusRequest { resource_name };
    let there = client.query_write_status(status(name)).await.unwrap();
    assert!(there.get_ref().complete);
    assert_eq!(there.get_ref().committed_size, 500);
    let absent = format!("uploads/u/blobs/{}/7", blob(2, 7).0.hash());
    let absent = client.query_write_status(status(absent)).await.unwrap();
    assert!(!absent.get_ref().complete);
    assert_eq!(absent.get_ref().committed_size, 0);
}

#[tokio::test]
async fn reads_have_an_offset_and_a_limit() {
    let (subject, server) = front().await;
    let (digest, bytes) = blob(1, 2 << 20);
    subject.put(&bytes).await;
    let mut client = ByteStreamClient::new(server.channel.clone());
    let mut read = async |resource_name: &str, read_offset, read_limit| {
        let request = ReadRequest {
            resource_name: resource_name.into(),
            read_offset,
            read_limit,
        };
        let mut stream = client.read(request).await?.into_inner();
        let mut whole = Vec::new();
        while let Some(message) = stream.message().await? {
            assert!(message.data.len() <= 1 << 20);
            whole.extend(message.data);
        }
        Ok::<_, Status>(whole)
    };
    let name = format!("blobs/{}/{}", digest.hash(), 2 << 20);
    let strange = read(&format!("some/instance/{name}"), 0, 0).await;
    refused(strange, Code::NotFound, &digest.to_string());
    assert!(read(&name, 0, 0).await.unwrap() == bytes);
    assert!(read(&name, 5, 0).await.unwrap() == bytes[5..]);
    assert!(read(&name, 5, 1_500_000).await.unwrap() == bytes[5..1_500_005]);
    refused(
        read(&name, (2 << 20) + 1, 0).await,
        Code::OutOfRange,
        "2097153",
    );
    refused(read(&name, -1, 0).await, Code::OutOfRange, "-1");
    refused(
        read(&name, 0, -1).await,
        Code::InvalidArgument,
        "read_limit",
    );
    let absent = blob(2, 77).0;
    let name = format!("blobs/{}/77", absent.hash());
    refused(read(&name, 0, 0).await, Code::NotFound, &absent.to_string());
    for (bad, named) in [
        ("", "\"\""),
        ("blobs", "blobs"),
        ("blobs/00/1", "\"00\""),
        (&format!("uploads/u/{name}"), "\"uploads\""),
    ] {
        refused(read(bad, 0, 0).await, Code::InvalidArgument, named);
    }
}

fn spoiled() -> Vec<(rev2::Digest, &'static str)> {
    let right = sha256(b"x").to_wire();
    let with = |hash: &str, size_bytes| rev2::Digest {
        hash: hash.into(),
        size_bytes,
    };
    vec![
        (with("", 1), "\"\""),
        (with("0123", 1), "0123"),
        (with(&right.hash.to_uppercase(), 1), "is not a sha256 hash"),
        (with(&right.hash, -1), "negative size -1"),
        (with(&right.hash.replace(&right.hash[..1], "/"), 1), "/"),
    ]
}

#[tokio::test]
async fn bad_digests_are_refused_by_name() {
    let (_subject, server) = front().await;
    let mut cas = cas(&server);
    let mut actions = ActionCacheClient::new(server.channel.clone());
    for (bad, named) in spoiled() {
        let answer = cas
            .find_missing_blobs(FindMissingBlobsRequest {
                blob_digests: vec![sha256(b"right").to_wire(), bad.clone()],
                ..Default::default()
            })
            .await;
        refused(answer, Code::InvalidArgument, named);
        let answer = cas
            .batch_read_blobs(BatchReadBlobsRequest {
                digests: vec![bad.clone()],
                ..Default::default()
            })
            .await;
        refused(answer, Code::InvalidArgument, named);
        let answer = cas
            .batch_update_blobs(BatchUpdateBlobsRequest {
                requests: vec![batch_update_blobs_request::Request {
                    digest: Some(bad.clone()),
                    data: b"x".to_vec(),
                    ..Default::default()
                }],
                ..Default::default()
            })
            .await;
        refused(answer, Code::InvalidArgument, named);
        let tree = GetTreeRequest {
            root_digest: Some(bad.clone()),
            ..Default::default()
        };
        refused(cas.get_tree(tree).await, Code::InvalidArgument, named);
        let get = GetActionResultRequest {
            action_digest: Some(bad),
            ..Default::default()
        };
        let answer = actions.get_action_result(get).await;
        refused(answer, Code::InvalidArgument, named);
    }
    let missing = actions
        .get_action_result(GetActionResultRequest::default())
        .await;
    refused(missing, Code::InvalidArgument, "action_digest");
    // VSO is a function that is not computed here.
    let answer = cas
        .find_missing_blobs(FindMissingBlobsRequest {
            blob_digests: vec![sha256(b"x").to_wire()],
            digest_function: rev2::digest_function::Value::Vso as i32,
            ..Default::default()
        })
        .await;
    refused(answer, Code::InvalidArgument, "digest function 4");
    let answer = cas
        .find_missing_blobs(FindMissingBlobsRequest {
            instance_name: "a/blobs".into(),
            ..Default::default()
        })
        .await;
    refused(answer, Code::InvalidArgument, "a/blobs");
}

#[tokio::test]
async fn a_batch_has_one_status_for_each_blob() {
    let (_subject, server) = front().await;
    let mut cas = cas(&server);
    let request = |digest: rev2::Digest, data: &[u8]| batch_update_blobs_request::Request {
        digest: Some(digest),
        data: data.to_vec(),
        ..Default::default()
    };
    let answer = cas
        .batch_update_blobs(BatchUpdateBlobsRequest {
            requests: vec![
                request(sha256(b"right").to_wire(), b"right"),
                request(sha256(b"right one").to_wire(), b"wrong one"),
                request(sha256(b"longer").to_wire(), b"long"),
            ],
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    let codes = |statuses: Vec<Option<proto::wire::rpc::Status>>| {
        statuses
            .into_iter()
            .map(|status| Code::from_i32(status.unwrap().code))
            .collect::<Vec<_>>()
    };
    let statuses = answer.responses.into_iter().map(|r| r.status).collect();
    assert_eq!(
        codes(statuses),
        [Code::Ok, Code::InvalidArgument, Code::InvalidArgument]
    );
    let answer = cas
        .batch_read_blobs(BatchReadBlobsRequest {
            digests: vec![sha256(b"absent").to_wire(), sha256(b"right").to_wire()],
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.responses[1].data, b"right");
    let statuses = answer.responses.into_iter().map(|r| r.status).collect();
    assert_eq!(codes(statuses), [Code::NotFound, Code::Ok]);
}

#[tokio::test]
async fn a_batch_over_the_announced_size_is_refused() {
    let (subject, server) = front().await;
    let mut cas = cas(&server);
    let announced = CapabilitiesClient::new(server.channel.clone())
        .get_capabilities(GetCapabilitiesRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(announced.execution_capabilities.is_none());
    let limit = announced
        .cache_capabilities
        .unwrap()
        .max_batch_total_size_bytes;
    assert_eq!(limit, MAXIMUM_BATCH as i64);
    for (size, fits) in [(limit as usize, true), (limit as usize + 1, false)] {
        let (digest, bytes) = blob(size as u64, size);
        let read = BatchReadBlobsRequest {
            digests: vec![digest.to_wire()],
            ..Default::default()
        };
        let update = BatchUpdateBlobsRequest {
            requests: vec![batch_update_blobs_request::Request {
                digest: Some(digest.to_wire()),
                data: bytes.to_vec(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let updated = cas.batch_update_blobs(update).await;
        if fits {
            updated.unwrap();
            let read = cas.batch_read_blobs(read).await.unwrap().into_inner();
            assert!(read.responses[0].data == bytes);
        } else {
            refused(updated, Code::InvalidArgument, &size.to_string());
            subject.put(&bytes).await;
            let read = cas.batch_read_blobs(read).await;
            refused(read, Code::InvalidArgument, &size.to_string());
        }
    }
}

#[tokio::test]
async fn clients_cannot_write_the_action_cache_unless_allowed() {
    let (subject, server) = front().await;
    let update = |result: Option<ActionResult>| UpdateActionResultRequest {
        action_digest: Some(sha256(b"action").to_wire()),
        action_result: result,
        ..Default::default()
    };
    let mut client = ActionCacheClient::new(server.channel.clone());
    let answer = client
        .update_action_result(update(Some(ActionResult::default())))
        .await;
    refused(answer, Code::PermissionDenied, "action cache");

    let server = Server::start(storage::internal_routes(
        subject.blobs.clone(),
        subject.actions.clone(),
        Authorizers::default(),
    ))
    .await;
    let mut client = ActionCacheClient::new(server.channel.clone());
    let without = ActionResult {
        output_files: vec![OutputFile::default()],
        ..Default::default()
    };
    let answer = client.update_action_result(update(Some(without))).await;
    refused(answer, Code::InvalidArgument, "digest is missing");
    let answer = client.update_action_result(update(None)).await;
    refused(answer, Code::InvalidArgument, "action_result");
    let result = ActionResult {
        exit_code: 3,
        ..Default::default()
    };
    let answer = client.update_action_result(update(Some(result.clone())));
    assert_eq!(answer.await.unwrap().into_inner(), result);
    let get = GetActionResultRequest {
        action_digest: Some(sha256(b"action").to_wire()),
        ..Default::default()
    };
    let got = client.get_action_result(get).await.unwrap();
    assert_eq!(got.into_inner(), result);
}

#[tokio::test]
async fn a_tree_comes_level_by_level_and_each_directory_once() {
    let (subject, server) = front().await;
    let node = |name: &str, directory: &Directory| DirectoryNode {
        name: name.into(),
        digest: Some(sha256(&directory.encode_to_vec()).to_wire()),
    };
    let leaf = Directory::default();
    // The empty directory is the empty blob.
    let left = Directory {
        directories: vec![node("l", &leaf)],
        ..Default::default()
    };
    let gone = Directory {
        directories: vec![node("gone", &left)],
        ..Default::default()
    };
    let root = Directory {
        directories: vec![node("a", &left), node("b", &left), node("c", &gone)],
        ..Default::default()
    };
    for stored in [&left, &root] {
        subject.put(&stored.encode_to_vec()).await;
    }
    let request = |root: &Directory, page_size| GetTreeRequest {
        root_digest: Some(sha256(&root.encode_to_vec()).to_wire()),
        page_size,
        ..Default::default()
    };
    for page in [0, 1] {
        let mut stream = cas(&server)
            .get_tree(request(&root, page))
            .await
            .unwrap()
            .into_inner();
        let mut directories = Vec::new();
        while let Some(message) = stream.message().await.unwrap() {
            assert!(page == 0 || message.directories.len() <= 1);
            directories.extend(message.directories);
        }
        assert_eq!(directories, [root.clone(), left.clone(), leaf.clone()]);
    }
    let absent = cas(&server).get_tree(request(&gone, 0)).await;
    refused(absent, Code::NotFound, "blob");
    let negative = cas(&server).get_tree(request(&root, -1)).await;
    refused(negative, Code::InvalidArgument, "page_size");
    let bytes = subject.put(&[0xff; 30]).await;
    let mut no_directory = cas(&server)
        .get_tree(GetTreeRequest {
            root_digest: Some(bytes.to_wire()),
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    let answer = no_directory.message().await;
    refused(answer, Code::InvalidArgument, &bytes.to_string());
}

/// A storage that gives other bytes than asked for.
struct Lying(Arc<dyn BlobStore>);

#[async_trait::async_trait]
impl BlobStore for Lying {
    async fn find_missing(
        &self,
        _: &proto::InstanceName,
        _: &[proto::Digest],
    ) -> Result<Vec<proto::Digest>, Error> {
        Ok(Vec::new())
    }
    async fn read(
        &self,
        _: &proto::InstanceName,
        digest: proto::Digest,
        _: u64,
        _: Option<u64>,
    ) -> Result<storage::ByteStream, Error> {
        let bytes = Bytes::from(vec![0; digest.size() as usize]);
        Ok(common::stream(&bytes, 64 << 10))
    }
    async fn read_batch(
        &self,
        _: &proto::InstanceName,
        digests: &[proto::Digest],
    ) -> Result<Vec<Result<Bytes, Error>>, Error> {
        let zeros = |digest: &proto::Digest| Ok(Bytes::from(vec![0; digest.size() as usize]));
        Ok(digests.iter().map(zeros).collect())
    }
    async fn write(
        &self,
        instance: &proto::InstanceName,
        digest: proto::Digest,
        bytes: storage::ByteStream,
    ) -> Result<(), Error> {
        self.0.write(instance, digest, bytes).await
    }
    async fn write_batch(
        &self,
        instance: &proto::InstanceName,
        blobs: Vec<(proto::Digest, Bytes)>,
    ) -> Result<Vec<Result<(), Error>>, Error> {
        self.0.write_batch(instance, blobs).await
    }
}

#[tokio::test]
async fn the_client_does_not_believe_a_storage_that_lies() {
    let subject = Subject::embedded().await;
    let lying = Arc::new(Lying(subject.blobs.clone()));
    let server = Server::start(storage::internal_routes(
        lying,
        subject.actions.clone(),
        Authorizers::default(),
    ))
    .await;
    let client = RemoteStorage::new(server.channel.clone());
    for size in [100, 5 * MIB] {
        let digest = blob(1, size as usize).0;
        let read = client.read_batch(common::root(), &[digest]).await.unwrap();
        assert!(matches!(&read[0], Err(Error::Corrupt { expected, .. }) if *expected == digest));
        let read = client.read(common::root(), digest, 0, None).await.unwrap();
        let gathered = common::gather(read).await;
        assert!(matches!(gathered, Err(Error::Corrupt { expected, .. }) if expected == digest));
    }
}
