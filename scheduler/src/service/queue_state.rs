//! The handles of operators: Buildbarn's BuildQueueState, and our Explanation.

use std::collections::HashMap;
use std::sync::Arc;

use proto::messages::{span, system_time};
use proto::wire::buildqueuestate::build_queue_state_server::BuildQueueState;
use proto::wire::buildqueuestate::{
    AddOrRemoveDrainRequest, GetOperationRequest, GetOperationResponse, InvocationName,
    KillOperationsRequest, ListDrainsRequest, ListDrainsResponse, ListInvocationChildrenRequest,
    ListInvocationChildrenResponse, ListOperationsRequest, ListOperationsResponse,
    ListPlatformQueuesResponse, ListQueuedOperationsRequest, ListQueuedOperationsResponse,
    ListWorkersRequest, ListWorkersResponse, SizeClassQueueName, TerminateWorkersRequest,
    kill_operations_request, list_invocation_children_request, list_queued_operations_request,
    list_workers_request,
};
use proto::wire::rpc;
use proto::wire::scheduler_extension::explanation_server::Explanation;
use proto::wire::scheduler_extension::{ExplainRequest, Waiting};
use proto::{InstanceName, PlatformKey};
use tonic::{Request, Response, Status};

use super::authorizers::Authorizers;
use super::dispatcher::Dispatcher;
use super::operation_queue::MAXIMUM_ID;
use super::operations;
use crate::error::Error;
use crate::queue::{Children, InvocationPath, Pattern, QueueName, QueuedAfter, Stage, Workers};

/// The largest page, whatever is asked for: the queue stands still while it is made.
const MAXIMUM_PAGE: usize = 1000;

/// The BuildQueueState service, and Explanation.
#[derive(Clone)]
pub struct QueueStateService(pub Arc<Dispatcher>, pub Arc<Authorizers>);

#[tonic::async_trait]
impl BuildQueueState for QueueStateService {
    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<GetOperationResponse>, Status> {
        let name = operations::parse_name(&request.get_ref().operation_name)?;
        let mut operation = self
            .0
            .operate(|queue, now| queue.get_operation(now, name))?;
        operation.name = String::new();
        Ok(Response::new(GetOperationResponse {
            operation: Some(operation),
        }))
    }

    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        let request = request.into_inner();
        let size = page_size(request.page_size)?;
        let after = request.start_after.map(|after| after.operation_name);
        let after = after
            .map(|name| operations::parse_name(&name))
            .transpose()?;
        let invocation = request.filter_invocation_id.map(Into::into);
        let stage = Stage::from_wire(request.filter_stage)
            .map_err(|reason| Error::invalid("filter_stage", reason))?;
        let (operations, info) = self.0.operate(|queue, now| {
            queue.list_operations(now, size, after, invocation.as_ref(), stage)
        });
        Ok(Response::new(ListOperationsResponse {
            operations,
            pagination_info: Some(info),
        }))
    }

    async fn kill_operations(
        &self,
        request: Request<KillOperationsRequest>,
    ) -> Result<Response<()>, Status> {
        use kill_operations_request::filter::Type;
        let (_, caller, request) = request.into_parts();
        let status = killing_status(request.status)?;
        match request.filter.and_then(|filter| filter.r#type) {
            None => return Err(Error::invalid("filter.type", "is missing").into()),
            Some(Type::OperationName(name)) => {
                let name = operations::parse_name(&name)?;
                self.1.kill(&caller, &self.0, name).await?;
                self.0.operate(|queue, now| queue.kill(now, name, status))?;
            }
            Some(Type::SizeClassQueueWithoutWorkers(name)) => {
                let name = queue_name("filter.size_class_queue_without_workers", Some(name))?;
                self.1.kill_queue(&caller, &name).await?;
                tracing::info!(queue = ?name, code = status.code, "killed what is queued");
                self.0
                    .operate(|queue, now| queue.kill_queue(now, &name, &status))?;
            }
        }
        Ok(Response::new(()))
    }

    async fn list_platform_queues(
        &self,
        _: Request<()>,
    ) -> Result<Response<ListPlatformQueuesResponse>, Status> {
        let platform_queues = self.0.operate(|queue, now| queue.list_platform_queues(now));
        Ok(Response::new(ListPlatformQueuesResponse {
            platform_queues,
        }))
    }

    async fn list_invocation_children(
        &self,
        request: Request<ListInvocationChildrenRequest>,
    ) -> Result<Response<ListInvocationChildrenResponse>, Status> {
        use list_invocation_children_request::Filter;
        let request = request.into_inner();
        let path = invocation("invocation_name", request.invocation_name)?;
        let which = match Filter::try_from(request.filter) {
            Ok(Filter::All) => Children::All,
            Ok(Filter::Active) => Children::Active,
            Ok(Filter::Queued) => Children::Queued,
            Err(error) => return Err(Error::invalid("filter", error).into()),
        };
        let children = self
            .0
            .operate(|queue, now| queue.list_invocation_children(now, &path, which))?;
        Ok(Response::new(ListInvocationChildrenResponse { children }))
    }

    async fn list_queued_operations(
        &self,
        request: Request<ListQueuedOperationsRequest>,
    ) -> Result<Response<ListQueuedOperationsResponse>, Status> {
        let request = request.into_inner();
        let path = invocation("invocation_name", request.invocation_name)?;
        let size = page_size(request.page_size)?;
        let after = request.start_after.as_ref().map(queued_after).transpose()?;
        let (queued_operations, info) = self
            .0
            .operate(|queue, now| queue.list_queued_operations(now, &path, size, after))?;
        Ok(Response::new(ListQueuedOperationsResponse {
            queued_operations,
            pagination_info: Some(info),
        }))
    }

    async fn list_workers(
        &self,
        request: Request<ListWorkersRequest>,
    ) -> Result<Response<ListWorkersResponse>, Status> {
        use list_workers_request::filter::Type;
        let request = request.into_inner();
        let which = match request.filter.and_then(|filter| filter.r#type) {
            None => return Err(Error::invalid("filter.type", "is missing").into()),
            Some(Type::All(name)) => Workers::All(queue_name("filter.all", Some(name))?),
            Some(Type::Executing(name)) => {
                Workers::Executing(invocation("filter.executing", Some(name))?)
            }
            Some(Type::IdleSynchronizing(name)) => {
                Workers::Waiting(invocation("filter.idle_synchronizing", Some(name))?)
            }
        };
        let size = page_size(request.page_size)?;
        let after = request.start_after.map(|after| after.worker_id);
        let after = after.map(pattern).transpose()?;
        let (workers, info) = self
            .0
            .operate(|queue, now| queue.list_workers(now, &which, size, after.as_ref()))?;
        Ok(Response::new(ListWorkersResponse {
            workers,
            pagination_info: Some(info),
        }))
    }

    async fn terminate_workers(
        &self,
        request: Request<TerminateWorkersRequest>,
    ) -> Result<Response<()>, Status> {
        let (_, caller, request) = request.into_parts();
        let pattern = pattern(request.worker_id_pattern)?;
        self.1.terminate(&caller).await?;
        tracing::info!(?pattern, "terminating workers");
        self.0.terminate_workers(&pattern).await?;
        Ok(Response::new(()))
    }

    async fn list_drains(
        &self,
        request: Request<ListDrainsRequest>,
    ) -> Result<Response<ListDrainsResponse>, Status> {
        let name = request.into_inner().size_class_queue_name;
        let name = queue_name("size_class_queue_name", name)?;
        let drains = self.0.operate(|queue, now| queue.list_drains(now, &name))?;
        Ok(Response::new(ListDrainsResponse { drains }))
    }

    async fn add_drain(
        &self,
        request: Request<AddOrRemoveDrainRequest>,
    ) -> Result<Response<()>, Status> {
        let (_, caller, request) = request.into_parts();
        let (name, pattern) = drain(request)?;
        self.1.modify_drains(&caller, &name).await?;
        tracing::info!(queue = ?name, ?pattern, "drain added");
        self.0
            .operate(|queue, now| queue.add_drain(now, &name, pattern))?;
        Ok(Response::new(()))
    }

    async fn remove_drain(
        &self,
        request: Request<AddOrRemoveDrainRequest>,
    ) -> Result<Response<()>, Status> {
        let (_, caller, request) = request.into_parts();
        let (name, pattern) = drain(request)?;
        self.1.modify_drains(&caller, &name).await?;
        tracing::info!(queue = ?name, ?pattern, "drain removed");
        self.0
            .operate(|queue, now| queue.remove_drain(now, &name, &pattern))?;
        Ok(Response::new(()))
    }
}

#[tonic::async_trait]
impl Explanation for QueueStateService {
    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<Waiting>, Status> {
        let name = operations::parse_name(&request.get_ref().operation_name)?;
        let waiting = self.0.operate(|queue, now| queue.explain(now, name))?;
        Ok(Response::new(waiting))
    }
}

/// The status that operations are ended with, as their clients will have it.
fn killing_status(status: Option<rpc::Status>) -> Result<rpc::Status, Error> {
    let mut status = status
        .filter(|status| status.code != 0)
        .ok_or_else(|| Error::invalid("status", "is missing, or says that all went well"))?;
    if !(1..=16).contains(&status.code) {
        let reason = format!("{} is no code of gRPC's", status.code);
        return Err(Error::invalid("status.code", reason));
    }
    let cut = Status::new(status.code.into(), std::mem::take(&mut status.message));
    status.message = proto::status::bounded(&cut).message().to_owned();
    let details = status.details.iter();
    let size: usize = details
        .map(|any| any.type_url.len() + any.value.len())
        .sum();
    if size > proto::status::MAXIMUM_DETAILS {
        let most = proto::status::MAXIMUM_DETAILS;
        let reason = format!("{size} bytes exceed the {most} allowed");
        return Err(Error::invalid("status.details", reason));
    }
    Ok(status)
}

fn drain(request: AddOrRemoveDrainRequest) -> Result<(QueueName, Pattern), Error> {
    let name = queue_name("size_class_queue_name", request.size_class_queue_name)?;
    Ok((name, pattern(request.worker_id_pattern)?))
}

fn page_size(size: u32) -> Result<usize, Error> {
    if size == 0 {
        return Err(Error::invalid("page_size", "is zero"));
    }
    Ok(usize::try_from(size).map_or(MAXIMUM_PAGE, |size| size.min(MAXIMUM_PAGE)))
}

fn pattern(pairs: HashMap<String, String>) -> Result<Pattern, Error> {
    let size: usize = pairs
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if size > MAXIMUM_ID {
        let reason = format!("{size} bytes exceed the {MAXIMUM_ID} allowed");
        return Err(Error::invalid("worker_id_pattern", reason));
    }
    Ok(pairs.into_iter().collect())
}

fn queue_name(field: &'static str, name: Option<SizeClassQueueName>) -> Result<QueueName, Error> {
    let missing = || Error::invalid(field, "is missing, or its platform_queue_name is");
    let name = name.ok_or_else(missing)?;
    let platform = name.platform_queue_name.ok_or_else(missing)?;
    Ok(QueueName {
        prefix: InstanceName::new(&platform.instance_name_prefix)
            .map_err(|error| Error::invalid(field, error))?,
        platform: PlatformKey::from_wire(platform.platform.as_ref())
            .map_err(|error| Error::invalid(field, error))?,
        size_class: name.size_class,
    })
}

fn invocation(field: &'static str, name: Option<InvocationName>) -> Result<InvocationPath, Error> {
    let name = name.ok_or_else(|| Error::invalid(field, "is missing"))?;
    Ok(InvocationPath {
        queue: queue_name(field, name.size_class_queue_name)?,
        keys: name.ids.into_iter().map(Into::into).collect(),
    })
}

fn queued_after(after: &list_queued_operations_request::StartAfter) -> Result<QueuedAfter, Error> {
    let queued = after.queued_timestamp.as_ref().and_then(system_time);
    let expected = after.expected_duration.as_ref().map(span);
    Ok(QueuedAfter {
        priority: after.priority,
        queued: queued.ok_or_else(|| {
            Error::invalid("start_after.queued_timestamp", "is missing or malformed")
        })?,
        expected: expected
            .unwrap_or(Some(std::time::Duration::ZERO))
            .ok_or_else(|| {
                Error::invalid("start_after.expected_duration", "is negative or malformed")
            })?,
    })
}
