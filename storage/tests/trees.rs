//! Trees in one call, where there is such a call.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use axum::http::{Request, Response};
use common::{Server, Subject, root, sha256};
use futures::TryStreamExt;
use prost::Message;
use proto::Digest;
use proto::wire::rev2::{Directory, DirectoryNode};
use storage::{BlobStore, RemoteStorage};
use tonic::service::Routes;

/// Stores a tree of several levels, with one message in two places.
async fn store(subject: &Subject) -> Vec<Digest> {
    let mut all = vec![subject.put(b"").await];
    for level in 0..4 {
        let children = [all[all.len() - 1], all[0]];
        let directory = Directory {
            directories: children
                .iter()
                .enumerate()
                .map(|(n, child)| DirectoryNode {
                    name: format!("{level}-{n}"),
                    digest: Some(child.to_wire()),
                })
                .collect(),
            ..Default::default()
        };
        all.push(subject.put(&directory.encode_to_vec()).await);
    }
    all
}

#[tokio::test]
async fn a_tree_comes_in_one_call() {
    let subject = Subject::over_grpc().await;
    let all = store(&subject).await;
    let top = all[all.len() - 1];
    let messages = subject.blobs.read_tree(root(), top).await.unwrap();
    let messages: Vec<_> = messages.unwrap().try_collect().await.unwrap();
    let found: BTreeSet<Digest> = messages.iter().map(|bytes| sha256(bytes)).collect();
    assert_eq!(found, all.into_iter().collect());
    assert_eq!(messages.len(), found.len());
    let absent = sha256(b"absent");
    assert!(
        subject
            .blobs
            .read_tree(root(), absent)
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn a_storage_without_trees_is_asked_once() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    // As a server answers that has no such method.
    let answer = move |request: Request<Body>| {
        assert!(request.uri().path().ends_with("/GetTree"));
        counted.fetch_add(1, Ordering::SeqCst);
        std::future::ready(
            Response::builder()
                .header("content-type", "application/grpc")
                .header("grpc-status", "12")
                .body(Body::empty())
                .unwrap(),
        )
    };
    let router = axum::Router::new().fallback(answer);
    let server = Server::start(Routes::from(router)).await;
    let client = RemoteStorage::new(server.channel.clone());
    // Clones are the same storage.
    for client in [client.clone(), client.clone(), client] {
        let tree = client.read_tree(root(), sha256(b"x")).await.unwrap();
        assert!(tree.is_none());
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }
}
