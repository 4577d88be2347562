//! Execution and Operations, passed on to the scheduler.

use daemon::{Channel, Shutdown};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use proto::wire::longrunning::operations_client::OperationsClient;
use proto::wire::longrunning::operations_server::{Operations, OperationsServer};
use proto::wire::longrunning::{
    CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest,
    ListOperationsResponse, Operation, WaitOperationRequest,
};
use proto::wire::protobuf::Empty;
use proto::wire::rev2::execution_client::ExecutionClient;
use proto::wire::rev2::execution_server::{Execution, ExecutionServer};
use proto::wire::rev2::{ExecuteRequest, WaitExecutionRequest};
use tonic::metadata::BinaryMetadataKey;
use tonic::{Request, Response, Status, Streaming};

use super::MAXIMUM_MESSAGE;
use crate::client::classify;

/// Who a call is made for (REv2 RequestMetadata). The scheduler shares its workers
/// fairly by it.
const REQUEST_METADATA: &str = "build.bazel.remote.execution.v2.requestmetadata-bin";

/// Passes execution on to a scheduler: messages and operation names as they are,
/// streams as they come. A client that goes away ends the call to the scheduler.
#[derive(Clone)]
pub struct ExecutionForwarder {
    shutdown: Shutdown,
    execution: ExecutionClient<Channel>,
    operations: OperationsClient<Channel>,
}

impl ExecutionForwarder {
    /// Both services, ready to be added to an endpoint. At `shutdown` the streams
    /// that are open end with UNAVAILABLE: they can last for hours, and the client
    /// finds its operations again with WaitExecution.
    #[must_use]
    pub fn servers(
        scheduler: Channel,
        shutdown: Shutdown,
    ) -> (ExecutionServer<Self>, OperationsServer<Self>) {
        let forwarder = Self {
            shutdown,
            // Results can carry standard output and files inline.
            execution: ExecutionClient::new(scheduler.clone())
                .max_decoding_message_size(MAXIMUM_MESSAGE),
            operations: OperationsClient::new(scheduler).max_decoding_message_size(MAXIMUM_MESSAGE),
        };
        (
            ExecutionServer::new(forwarder.clone()),
            OperationsServer::new(forwarder),
        )
    }
}

/// The trace that a call is part of (W3C Trace Context).
const TRACE_CONTEXT: [&str; 2] = ["traceparent", "tracestate"];

/// A client's message in a request of ours. Of its metadata only what says who it
/// is for and which trace it is part of goes along.
pub(super) fn forwarded<T>(request: Request<T>) -> Request<T> {
    let (received, _, message) = request.into_parts();
    let mut forwarded = Request::new(message);
    let metadata = forwarded.metadata_mut();
    let key = BinaryMetadataKey::from_static(REQUEST_METADATA);
    if let Some(value) = received.get_bin(&key) {
        metadata.insert_bin(key, value.clone());
    }
    for key in TRACE_CONTEXT {
        if let Some(value) = received.get(key) {
            metadata.insert(key, value.clone());
        }
    }
    forwarded
}

type OperationStream = BoxStream<'static, Result<Operation, Status>>;

impl ExecutionForwarder {
    fn operations(
        &self,
        called: Result<Response<Streaming<Operation>>, Status>,
    ) -> Result<Response<OperationStream>, Status> {
        let stream = called.map_err(classify)?.into_inner();
        let told = self.shutdown.clone();
        let cancelled = async move { told.cancelled().await };
        let shutdown = self.shutdown.clone();
        let last = futures::stream::once(async move { shutdown.is_cancelled() })
            .filter(|told| std::future::ready(*told))
            .map(|_| Err(Status::unavailable("the front is shutting down")));
        let stream = stream
            .map(|operation| operation.map_err(classify))
            .take_until(cancelled)
            .chain(last);
        Ok(Response::new(stream.boxed()))
    }
}

#[tonic::async_trait]
impl Execution for ExecutionForwarder {
    type ExecuteStream = OperationStream;

    async fn execute(
        &self,
        request: Request<ExecuteRequest>,
    ) -> Result<Response<OperationStream>, Status> {
        let mut execution = self.execution.clone();
        self.operations(execution.execute(forwarded(request)).await)
    }

    type WaitExecutionStream = OperationStream;

    async fn wait_execution(
        &self,
        request: Request<WaitExecutionRequest>,
    ) -> Result<Response<OperationStream>, Status> {
        let mut execution = self.execution.clone();
        self.operations(execution.wait_execution(forwarded(request)).await)
    }
}

#[tonic::async_trait]
impl Operations for ExecutionForwarder {
    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        let mut operations = self.operations.clone();
        let listed = operations.list_operations(forwarded(request)).await;
        listed.map_err(classify)
    }

    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        let mut operations = self.operations.clone();
        let got = operations.get_operation(forwarded(request)).await;
        got.map_err(classify)
    }

    async fn delete_operation(
        &self,
        request: Request<DeleteOperationRequest>,
    ) -> Result<Response<Empty>, Status> {
        let mut operations = self.operations.clone();
        let deleted = operations.delete_operation(forwarded(request)).await;
        deleted.map_err(classify)
    }

    async fn cancel_operation(
        &self,
        request: Request<CancelOperationRequest>,
    ) -> Result<Response<Empty>, Status> {
        let mut operations = self.operations.clone();
        let cancelled = operations.cancel_operation(forwarded(request)).await;
        cancelled.map_err(classify)
    }

    async fn wait_operation(
        &self,
        request: Request<WaitOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        let mut operations = self.operations.clone();
        let waited = operations.wait_operation(forwarded(request)).await;
        waited.map_err(classify)
    }
}
