//! What the client makes of what a storage announces, and of one that is away.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Server, Subject, root};
use proto::wire::rev2::capabilities_server::{Capabilities, CapabilitiesServer};
use proto::wire::rev2::{GetCapabilitiesRequest, ServerCapabilities};
use storage::serve::CasService;
use storage::{BlobStore, RemoteStorage};
use tokio::sync::Barrier;
use tonic::service::RoutesBuilder;
use tonic::{Request, Response, Status};

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
