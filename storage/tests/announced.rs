//! What the client makes of what a storage announces, and of one that is away.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Server, Subject, blob, root};
use proto::wire::rev2::capabilities_server::{Capabilities, CapabilitiesServer};
use proto::wire::rev2::{CacheCapabilities, GetCapabilitiesRequest, ServerCapabilities};
use storage::serve::CasService;
use storage::{BlobStore, RemoteStorage};
use tokio::sync::Barrier;
use tonic::service::RoutesBuilder;
use tonic::{Code, Request, Response, Status};

/// Answers when as many ask as the barrier is for; the first few times that it is
/// away.
struct Announcement {
    together: Barrier,
    asked: Arc<AtomicUsize>,
    away: usize,
}

#[tonic::async_trait]
impl Capabilities for Announcement {
    async fn get_capabilities(
        &self,
        _: Request<GetCapabilitiesRequest>,
    ) -> Result<Response<ServerCapabilities>, Status> {
        self.together.wait().await;
        if self.asked.fetch_add(1, Ordering::SeqCst) < self.away {
            return Err(Status::unavailable("away"));
        }
        Ok(Response::new(ServerCapabilities::default()))
    }
}

/// Announces batches that are larger than are taken, until it is replaced.
struct Replaced(Arc<AtomicUsize>);

#[tonic::async_trait]
impl Capabilities for Replaced {
    async fn get_capabilities(
        &self,
        _: Request<GetCapabilitiesRequest>,
    ) -> Result<Response<ServerCapabilities>, Status> {
        let first = self.0.fetch_add(1, Ordering::SeqCst) == 0;
        let batch = if first { 4 << 20 } else { 1 << 20 };
        Ok(Response::new(ServerCapabilities {
            cache_capabilities: Some(CacheCapabilities {
                max_batch_total_size_bytes: batch,
                ..Default::default()
            }),
            ..Default::default()
        }))
    }
}

#[tokio::test]
async fn a_server_that_refuses_is_asked_again_what_it_can() {
    let subject = Subject::embedded().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let mut routes = RoutesBuilder::default();
    routes
        .add_service(CasService::server(subject.blobs.clone(), Arc::default()))
        .add_service(CapabilitiesServer::new(Replaced(asked.clone())));
    let server = Server::start(routes.routes()).await;
    let client = RemoteStorage::new(server.channel.clone());
    // More than a batch may carry, less than it was said to.
    let blobs: Vec<_> = (0..8).map(|seed| blob(seed, 499_000)).collect();
    let refused = client.write_batch(root(), blobs.clone()).await;
    let refused = Status::from(refused.unwrap_err());
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    for written in client.write_batch(root(), blobs).await.unwrap() {
        written.unwrap();
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

async fn storage(together: usize, away: usize) -> (Subject, Server, Arc<AtomicUsize>) {
    let subject = Subject::embedded().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let mut routes = RoutesBuilder::default();
    routes
        .add_service(CasService::server(subject.blobs.clone(), Arc::default()))
        .add_service(CapabilitiesServer::new(Announcement {
            together: Barrier::new(together),
            asked: asked.clone(),
            away,
        }));
    let server = Server::start(routes.routes()).await;
    (subject, server, asked)
}

#[tokio::test]
async fn callers_do_not_wait_for_each_others_question() {
    let (subject, server, _) = storage(2, 0).await;
    let digest = [subject.put(b"x").await];
    let client = RemoteStorage::new(server.channel.clone());
    // Answered only when both ask.
    let (one, two) = tokio::join!(
        client.read_batch(root(), &digest),
        client.read_batch(root(), &digest),
    );
    for read in [one, two] {
        assert_eq!(read.unwrap().remove(0).unwrap(), "x");
    }
}

#[tokio::test]
async fn what_is_not_announced_is_assumed_and_asked_again() {
    let (subject, server, asked) = storage(1, 2).await;
    let digest = [subject.put(b"x").await];
    let client = RemoteStorage::new(server.channel.clone());
    for times in [1, 2, 3, 3] {
        let read = client.read_batch(root(), &digest).await;
        assert_eq!(read.unwrap().remove(0).unwrap(), "x");
        assert_eq!(asked.load(Ordering::SeqCst), times);
    }
}
