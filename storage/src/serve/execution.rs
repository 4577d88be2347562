//! Execution and Operations, passed on to the scheduler.

use std::sync::Arc;

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
use proto::{Digest, DigestFunction, InstanceName};
use tonic::metadata::BinaryMetadataKey;
use tonic::{Request, Response, Status, Streaming};

use super::MAXIMUM_MESSAGE;
use super::field::instance;
use super::holdings::{Holding, Holdings};
use crate::authorizers::{Authorizers, Call};
use crate::client::classify;
use crate::hold::Holder;

/// Who a call is made for (REv2 RequestMetadata). The scheduler shares its workers
/// fairly by it.
const REQUEST_METADATA: &str = "build.bazel.remote.execution.v2.requestmetadata-bin";

/// Passes execution on to a scheduler: messages and operation names as they are,
/// streams as they come. A client that goes away ends the call to the scheduler.
#[derive(Clone)]
pub struct ExecutionForwarder {
    shutdown: Shutdown,
    holder: Option<Holder>,
    holdings: Holdings,
    authorizers: Arc<Authorizers>,
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
        holder: Option<Holder>,
        authorizers: Arc<Authorizers>,
        shutdown: Shutdown,
    ) -> (ExecutionServer<Self>, OperationsServer<Self>) {
        let forwarder = Self {
            shutdown,
            holder,
            holdings: Holdings::default(),
            authorizers,
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
    fn hold(&self, request: &ExecuteRequest) -> Holding {
        let walk = self.holder.clone().and_then(|holder| {
            // Whatever is wrong with these, the scheduler will say it.
            let instance = InstanceName::new(&request.instance_name).ok()?;
            let wire = request.action_digest.as_ref()?;
            let function = DigestFunction::from_wire(request.digest_function, &wire.hash).ok()?;
            let action = Digest::from_wire(function, Some(wire)).ok()?;
            Some(async move { holder.hold(&instance, action).await })
        });
        match walk {
            Some(walk) => self.holdings.begin(walk),
            None => self.holdings.nothing(),
        }
    }

    fn operations(
        &self,
        called: Result<Response<Streaming<Operation>>, Status>,
        mut holding: Holding,
    ) -> Result<Response<OperationStream>, Status> {
        if called.is_err() {
            holding.end();
        }
        let stream = called.map_err(classify)?.into_inner();
        let told = self.shutdown.clone();
        let cancelled = async move { told.cancelled().await };
        let shutdown = self.shutdown.clone();
        let last = futures::stream::once(async move { shutdown.is_cancelled() })
            .filter(|told| std::future::ready(*told))
            .map(|_| Err(Status::unavailable("the front is shutting down")));
        let stream = stream
            .map(move |operation| {
                holding.hear(&operation);
                operation.map_err(classify)
            })
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
        let instance = instance(&request.get_ref().instance_name)?;
        let caller = request.extensions();
        self.authorizers
            .check(Call::Execute, caller, &instance)
            .await?;
        let mut execution = self.execution.clone();
        let holding = self.hold(request.get_ref());
        self.operations(execution.execute(forwarded(request)).await, holding)
    }

    type WaitExecutionStream = OperationStream;

    async fn wait_execution(
        &self,
        request: Request<WaitExecutionRequest>,
    ) -> Result<Response<OperationStream>, Status> {
        self.authorizers.follow(request.extensions()).await?;
        let holding = self.holdings.again(&request.get_ref().name);
        let mut execution = self.execution.clone();
        let waiting = execution.wait_execution(forwarded(request)).await;
        self.operations(waiting, holding)
    }
}

#[tonic::async_trait]
impl Operations for ExecutionForwarder {
    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        self.authorizers.follow(request.extensions()).await?;
        let mut operations = self.operations.clone();
        let listed = operations.list_operations(forwarded(request)).await;
        listed.map_err(classify)
    }

    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        self.authorizers.follow(request.extensions()).await?;
        let mut operations = self.operations.clone();
        let got = operations.get_operation(forwarded(request)).await;
        got.map_err(classify)
    }

    async fn delete_operation(
        &self,
        request: Request<DeleteOperationRequest>,
    ) -> Result<Response<Empty>, Status> {
        self.authorizers.follow(request.extensions()).await?;
        let mut operations = self.operations.clone();
        let deleted = operations.delete_operation(forwarded(request)).await;
        deleted.map_err(classify)
    }

    async fn cancel_operation(
        &self,
        request: Request<CancelOperationRequest>,
    ) -> Result<Response<Empty>, Status> {
        self.authorizers.follow(request.extensions()).await?;
        let mut operations = self.operations.clone();
        let cancelled = operations.cancel_operation(forwarded(request)).await;
        cancelled.map_err(classify)
    }

    async fn wait_operation(
        &self,
        request: Request<WaitOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        self.authorizers.follow(request.extensions()).await?;
        let mut operations = self.operations.clone();
        let waited = operations.wait_operation(forwarded(request)).await;
        waited.map_err(classify)
    }
}
