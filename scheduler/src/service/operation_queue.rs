//! Synchronize, as workers call it.

use std::sync::Arc;

use proto::wire::remoteworker::operation_queue_server::OperationQueue;
use proto::wire::remoteworker::{
    CurrentState, DesiredState, SynchronizeRequest, SynchronizeResponse, current_state,
    desired_state,
};
use proto::{Digest, DigestFunction, InstanceName, PlatformKey, messages};
use tonic::{Request, Response, Status};

use super::dispatcher::Dispatcher;
use crate::error::Error;
use crate::queue::{Desired, Job, Reply, Report, Synchronization};

/// How many bytes the names and values of a worker's id may have in all.
pub(super) const MAXIMUM_ID: usize = 16 << 10;

/// The OperationQueue service.
pub struct OperationQueueService(pub Arc<Dispatcher>);

#[tonic::async_trait]
impl OperationQueue for OperationQueueService {
    async fn synchronize(
        &self,
        request: Request<SynchronizeRequest>,
    ) -> Result<Response<SynchronizeResponse>, Status> {
        let call = parse(request.into_inner())?;
        let reply = self.0.synchronize(call).await?;
        Ok(Response::new(message(&reply)))
    }
}

fn parse(request: SynchronizeRequest) -> Result<Synchronization, Error> {
    let id_size: usize = request
        .worker_id
        .iter()
        .map(|(k, v)| k.len() + v.len())
        .sum();
    if id_size > MAXIMUM_ID {
        return Err(Error::invalid(
            "worker_id",
            format!("{id_size} bytes exceed the {MAXIMUM_ID} allowed"),
        ));
    }
    Ok(Synchronization {
        worker: request.worker_id.into_iter().collect(),
        prefix: InstanceName::new(&request.instance_name_prefix)
            .map_err(|error| Error::invalid("instance_name_prefix", error))?,
        platform: PlatformKey::from_wire(request.platform.as_ref())
            .map_err(|error| Error::invalid("platform", error))?,
        size_class: request.size_class,
        report: report(request.current_state)?,
        prefer_being_idle: request.prefer_being_idle,
    })
}

fn report(state: Option<CurrentState>) -> Result<Report, Error> {
    use current_state::executing::ExecutionState;
    let missing = |field| Error::invalid(field, "is missing");
    let executing = match state.and_then(|state| state.worker_state) {
        None => return Err(missing("current_state.worker_state")),
        Some(current_state::WorkerState::Idle(())) => return Ok(Report::Idle),
        Some(current_state::WorkerState::Executing(executing)) => executing,
    };
    let wire = executing.action_digest.as_ref();
    // The message has no digest function. The hash's length gives it.
    let digest = DigestFunction::from_wire(0, wire.map_or("", |digest| &digest.hash))
        .and_then(|function| Digest::from_wire(function, wire))
        .map_err(|error| Error::invalid("current_state.executing.action_digest", error))?;
    match executing.execution_state {
        None => Err(missing("current_state.executing.execution_state")),
        Some(ExecutionState::Completed(response)) => {
            Ok(Report::Completed(digest, Box::new(response)))
        }
        Some(
            ExecutionState::Started(())
            | ExecutionState::FetchingInputs(())
            | ExecutionState::Running(())
            | ExecutionState::UploadingOutputs(()),
        ) => Ok(Report::Executing(digest)),
    }
}

fn message(reply: &Reply) -> SynchronizeResponse {
    let worker_state = match &reply.desired {
        Desired::Unchanged => None,
        Desired::Idle => Some(desired_state::WorkerState::Idle(())),
        Desired::Execute(job) => Some(desired_state::WorkerState::Executing(execute(job))),
    };
    SynchronizeResponse {
        next_synchronization_at: Some(messages::timestamp(reply.next)),
        desired_state: worker_state.map(|state| DesiredState {
            worker_state: Some(state),
        }),
    }
}

fn execute(job: &Job) -> desired_state::Executing {
    desired_state::Executing {
        action_digest: Some(job.digest.to_wire()),
        action: Some(job.action.clone()),
        queued_timestamp: Some(messages::timestamp(job.queued)),
        auxiliary_metadata: job.metadata.clone(),
        instance_name_suffix: job.instance_suffix.to_string(),
        w3c_trace_context: job.trace.clone(),
        digest_function: job.digest.function().to_wire(),
    }
}
