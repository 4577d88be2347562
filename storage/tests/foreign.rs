//! What clients must not be able to do by what they say.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Server, Subject, sha256};
use prost::Message;
use proto::wire::bytestream::WriteRequest;
use proto::wire::bytestream::byte_stream_client::ByteStreamClient;
use proto::wire::rev2::content_addressable_storage_client::ContentAddressableStorageClient;
use proto::wire::rev2::{Directory, DirectoryNode, FindMissingBlobsRequest, GetTreeRequest};
use storage::serve::MAXIMUM_BATCH;
use storage::{Authorizers, internal_routes};
use tonic::Code;

async fn served() -> (Subject, Server) {
    let subject = Subject::embedded().await;
    let routes = internal_routes(
        subject.blobs.clone(),
        subject.actions.clone(),
        Authorizers::default(),
    );
    let server = Server::start(routes).await;
    (subject, server)
}

#[tokio::test]
async fn no_blob_too_large_for_a_directory_is_read_for_a_tree() {
    let (subject, server) = served().await;
    let large = vec![0; MAXIMUM_BATCH as usize + 1];
    let digest = subject.put(&large).await;
    let root = Directory {
        directories: vec![DirectoryNode {
            name: "large".into(),
            digest: Some(digest.to_wire()),
        }],
        ..Default::default()
    };
    let root = subject.put(&root.encode_to_vec()).await;
    for root in [digest, root] {
        let mut cas = ContentAddressableStorageClient::new(server.channel.clone());
        let request = GetTreeRequest {
            root_digest: Some(root.to_wire()),
            ..Default::default()
        };
        let refused = match cas.get_tree(request).await {
            Ok(stream) => stream.into_inner().message().await.unwrap_err(),
            Err(refused) => refused,
        };
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(&digest.to_string()), "{refused}");
    }
}

/// A message travels as a header, and headers that are too long cost the whole
/// connection.
#[tokio::test]
async fn overlong_names_cost_nobody_the_connection() {
    let (_subject, server) = served().await;
    let mut cas = ContentAddressableStorageClient::new(server.channel.clone());
    let alive = FindMissingBlobsRequest {
        blob_digests: vec![sha256(b"").to_wire()],
        ..Default::default()
    };
    let long = "é".repeat(100_000);
    let name = format!("uploads/u/blobs/{}/5", sha256(b"12345").hash());
    let upload = [name, long.clone()].map(|resource_name| WriteRequest {
        resource_name,
        data: b"1".to_vec(),
        ..Default::default()
    });
    let upload = futures::stream::iter(upload);
    let mut bytes = ByteStreamClient::new(server.channel.clone());
    let refused = bytes.write(upload).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().len() < 3000);
    let refused = cas
        .find_missing_blobs(FindMissingBlobsRequest {
            instance_name: format!("{}//", "é".repeat(2000)),
            ..Default::default()
        })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    cas.find_missing_blobs(alive).await.unwrap();
}
