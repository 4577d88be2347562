//! The front before a scheduler.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{Server, Subject, sha256};
use daemon::{Channel, Shutdown};
use futures::StreamExt;
use futures::stream::BoxStream;
use proto::wire::longrunning::operations_client::OperationsClient;
use proto::wire::longrunning::{CancelOperationRequest, Operation};
use proto::wire::rev2::capabilities_client::CapabilitiesClient;
use proto::wire::rev2::capabilities_server::{Capabilities, CapabilitiesServer};
use proto::wire::rev2::execution_client::ExecutionClient;
use proto::wire::rev2::execution_server::{Execution, ExecutionServer};
use proto::wire::rev2::{
    ExecuteRequest, ExecutionCapabilities, GetCapabilitiesRequest, ServerCapabilities,
    WaitExecutionRequest,
};
use proto::wire::semver::SemVer;
use storage::Front;
use tokio::sync::mpsc;
use tonic::metadata::MetadataValue;
use tonic::service::RoutesBuilder;
use tonic::{Code, Request, Response, Status};

const METADATA: &str = "build.bazel.remote.execution.v2.requestmetadata-bin";

/// Answers an Execute with one operation named after what came with it, then
/// stays silent, and says when the caller is gone.
#[derive(Clone)]
struct Scheduler {
    gone: mpsc::UnboundedSender<()>,
}

struct Gone(mpsc::UnboundedSender<()>);

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[tonic::async_trait]
impl Execution for Scheduler {
    type ExecuteStream = BoxStream<'static, Result<Operation, Status>>;
    async fn execute(
        &self,
        request: Request<ExecuteRequest>,
    ) -> Result<Response<Self::ExecuteStream>, Status> {
        let metadata = request.metadata().get_bin(METADATA).unwrap();
        let metadata = String::from_utf8(metadata.to_bytes().unwrap().to_vec()).unwrap();
        assert!(request.metadata().get("authorization").is_none());
        let trace = ["traceparent", "tracestate"]
            .map(|key| {
                request
                    .metadata()
                    .get(key)
                    .map_or("", |v| v.to_str().unwrap())
            })
            .join("/");
        let name = format!("{}|{metadata}|{trace}", request.get_ref().instance_name);
        let operation = Operation {
            name,
            ..Default::default()
        };
        let gone = Gone(self.gone.clone());
        let silent = futures::stream::once(async move {
            let _gone = gone;
            std::future::pending().await
        });
        let stream = futures::stream::iter([Ok(operation)]).chain(silent);
        Ok(Response::new(stream.boxed()))
    }
    type WaitExecutionStream = Self::ExecuteStream;
    async fn wait_execution(
        &self,
        request: Request<WaitExecutionRequest>,
    ) -> Result<Response<Self::ExecuteStream>, Status> {
        Err(Status::not_found(request.into_inner().name))
    }
}

#[tonic::async_trait]
impl Capabilities for Scheduler {
    async fn get_capabilities(
        &self,
        _: Request<GetCapabilitiesRequest>,
    ) -> Result<Response<ServerCapabilities>, Status> {
        Ok(Response::new(ServerCapabilities {
            execution_capabilities: Some(ExecutionCapabilities {
                exec_enabled: true,
                ..Default::default()
            }),
            low_api_version: Some(SemVer {
                major: 2,
                ..Default::default()
            }),
            ..Default::default()
        }))
    }
}

async fn front(scheduler: Channel, shutdown: Shutdown) -> (Subject, Server) {
    let subject = Subject::embedded().await;
    let front = Front {
        blobs: subject.blobs.clone(),
        actions: subject.actions.clone(),
        scheduler: Some(scheduler),
        action_cache_updates: storage::Updates::Never,
        authorizers: storage::Authorizers::default(),
        holder: None,
        shutdown,
    };
    let server = Server::start(front.routes()).await;
    (subject, server)
}

async fn farm(shutdown: Shutdown) -> (Subject, Server, Server, mpsc::UnboundedReceiver<()>) {
    let (gone, told) = mpsc::unbounded_channel();
    let scheduler = Scheduler { gone };
    let mut routes = RoutesBuilder::default();
    routes
        .add_service(ExecutionServer::new(scheduler.clone()))
        .add_service(CapabilitiesServer::new(scheduler));
    let scheduler = Server::start(routes.routes()).await;
    let (subject, front) = front(scheduler.channel.clone(), shutdown).await;
    (subject, scheduler, front, told)
}

#[tokio::test]
async fn execution_is_passed_on_and_ends_with_the_client() {
    let (_subject, _scheduler, front, mut gone) = farm(Shutdown::new()).await;
    let mut client = ExecutionClient::new(front.channel.clone());
    let mut request = Request::new(ExecuteRequest {
        instance_name: "some/instance".into(),
        action_digest: Some(sha256(b"action").to_wire()),
        ..Default::default()
    });
    let metadata = request.metadata_mut();
    metadata.insert_bin(METADATA, MetadataValue::from_bytes(b"who"));
    metadata.insert("authorization", "secret".parse().unwrap());
    metadata.insert("traceparent", "00-1-2-01".parse().unwrap());
    metadata.insert("tracestate", "vendor=x".parse().unwrap());
    let mut operations = client.execute(request).await.unwrap().into_inner();
    let first = operations.message().await.unwrap().unwrap();
    assert_eq!(first.name, "some/instance|who|00-1-2-01/vendor=x");
    assert!(gone.try_recv().is_err());
    drop(operations);
    gone.recv().await.unwrap();

    let wait = WaitExecutionRequest {
        name: "operation".into(),
    };
    let status = client.wait_execution(wait).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(status.message(), "operation");
    // What the scheduler does not have is answered in its name.
    let cancel = CancelOperationRequest {
        name: "operation".into(),
    };
    let mut operations = OperationsClient::new(front.channel.clone());
    let status = operations.cancel_operation(cancel).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test]
async fn capabilities_are_the_storages_and_the_schedulers() {
    let (_subject, _scheduler, front, _gone) = farm(Shutdown::new()).await;
    let mut client = CapabilitiesClient::new(front.channel.clone());
    let merged = client
        .get_capabilities(GetCapabilitiesRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(merged.execution_capabilities.unwrap().exec_enabled);
    let cache = merged.cache_capabilities.unwrap();
    assert!(
        !cache
            .action_cache_update_capabilities
            .unwrap()
            .update_enabled
    );
    assert_eq!(merged.low_api_version.unwrap().major, 2);
}

#[tokio::test]
async fn a_scheduler_that_is_away_is_unavailable_and_storage_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = daemon::Address::Unix(folder.path().join("nobody"));
    let (_subject, front) = front(daemon::connect(&nobody).unwrap(), Shutdown::new()).await;
    let mut capabilities = CapabilitiesClient::new(front.channel.clone());
    let status = capabilities
        .get_capabilities(GetCapabilitiesRequest::default())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let mut execution = ExecutionClient::new(front.channel.clone());
    let status = execution
        .execute(ExecuteRequest::default())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let subject: Arc<dyn storage::BlobStore> =
        Arc::new(storage::RemoteStorage::new(front.channel.clone()));
    // Asking for what a batch may carry asks the scheduler too; finding does not.
    let missing = subject
        .find_missing(common::root(), &[sha256(b"x")])
        .await
        .unwrap();
    assert_eq!(missing, [sha256(b"x")]);
}

#[tokio::test]
async fn a_front_that_stops_tells_those_who_wait() {
    let shutdown = Shutdown::new();
    let (_subject, _scheduler, front, mut gone) = farm(shutdown.clone()).await;
    let mut client = ExecutionClient::new(front.channel.clone());
    let mut request = Request::new(ExecuteRequest::default());
    let metadata = request.metadata_mut();
    metadata.insert_bin(METADATA, MetadataValue::from_bytes(b"who"));
    let mut operations = client.execute(request).await.unwrap().into_inner();
    operations.message().await.unwrap().unwrap();
    shutdown.cancel();
    let status = operations.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    gone.recv().await.unwrap();
}
