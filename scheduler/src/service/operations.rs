//! Operations as messages, and the calls that need no stream.

use std::sync::Arc;

use proto::messages::{pack, pack_rev2, timestamp};
use proto::wire::longrunning::operations_server::Operations;
use proto::wire::longrunning::{
    CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest,
    ListOperationsResponse, Operation, WaitOperationRequest, operation,
};
use proto::wire::protobuf::Empty;
use proto::wire::rev2::{ExecuteOperationMetadata, ExecutedActionMetadata};
use proto::wire::scheduler_extension::Waiting;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::authorizers::Authorizers;
use super::dispatcher::Dispatcher;
use crate::error::Error;
use crate::queue::View;

/// The message of an operation: REv2 metadata always, why it waits if it does,
/// the ExecuteResponse once it is done.
#[must_use]
pub fn message(name: Uuid, view: &View, waiting: Option<&Waiting>) -> Operation {
    // The outcome holds the metadata in full.
    let partial = view.response.is_none().then(|| ExecutedActionMetadata {
        worker: view
            .worker
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        queued_timestamp: Some(timestamp(view.queued)),
        auxiliary_metadata: waiting.map(pack).into_iter().collect(),
        ..Default::default()
    });
    let metadata = ExecuteOperationMetadata {
        stage: view.stage.to_wire(),
        action_digest: Some(view.action.to_wire()),
        digest_function: view.action.function().to_wire(),
        partial_execution_metadata: partial,
        ..Default::default()
    };
    let response = view.response.as_deref();
    Operation {
        name: name.to_string(),
        metadata: Some(pack_rev2("ExecuteOperationMetadata", &metadata)),
        done: response.is_some(),
        result: response
            .map(|response| operation::Result::Response(pack_rev2("ExecuteResponse", response))),
    }
}

/// The name in a request. Names are plain UUIDs: proxies put prefixes before them
/// and take those off again.
///
/// # Errors
/// It is no name that this scheduler gives.
pub fn parse_name(name: &str) -> Result<Uuid, Error> {
    Uuid::try_parse(name).map_err(|_| Error::UnknownOperation(name.chars().take(100).collect()))
}

/// The google.longrunning service.
pub struct OperationsService(pub Arc<Dispatcher>, pub Arc<Authorizers>);

#[tonic::async_trait]
impl Operations for OperationsService {
    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        let name = parse_name(&request.get_ref().name)?;
        self.1.follow(request.extensions(), &self.0, name).await?;
        let view = self.0.view(name)?;
        let waiting = self.0.waiting(name, &view);
        Ok(Response::new(message(name, &view, waiting.as_ref())))
    }

    async fn cancel_operation(
        &self,
        request: Request<CancelOperationRequest>,
    ) -> Result<Response<Empty>, Status> {
        let name = parse_name(&request.get_ref().name)?;
        self.1.follow(request.extensions(), &self.0, name).await?;
        self.0.cancel(name)?;
        Ok(Response::new(Empty {}))
    }

    async fn list_operations(
        &self,
        _: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        Err(Status::unimplemented("clients cannot list operations"))
    }

    async fn delete_operation(
        &self,
        _: Request<DeleteOperationRequest>,
    ) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented(
            "operations are deleted when nobody waits for them; cancel to end one",
        ))
    }

    async fn wait_operation(
        &self,
        _: Request<WaitOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        Err(Status::unimplemented(
            "use build.bazel.remote.execution.v2.Execution/WaitExecution",
        ))
    }
}
