//! Synchronize, as workers call it.

use std::sync::Arc;

use prost::Message as _;
use proto::wire::remoteworker::operation_queue_server::OperationQueue;
use proto::wire::remoteworker::{
    CurrentState, DesiredState, SynchronizeRequest, SynchronizeResponse, current_state,
    desired_state,
};
use proto::wire::worker_extension::Execution;
use proto::{Digest, DigestFunction, InstanceName, PlatformKey, messages};
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

use super::authorizers::Authorizers;
use super::claim;
use super::dispatcher::Dispatcher;
use crate::error::Error;
use crate::queue::{Brief, Claim, Desired, Job, Reply, Report, Synchronization};

/// How many bytes the names and values of a worker's id may have in all.
pub(super) const MAXIMUM_ID: usize = 16 << 10;

/// The OperationQueue service.
pub struct OperationQueueService(pub Arc<Dispatcher>, pub Arc<Authorizers>);

#[tonic::async_trait]
impl OperationQueue for OperationQueueService {
    async fn synchronize(
        &self,
        request: Request<SynchronizeRequest>,
    ) -> Result<Response<SynchronizeResponse>, Status> {
        let told = claim::of_request(request.metadata())?;
        let is_ours = told.is_some();
        let (_, caller, request) = request.into_parts();
        let call = parse(request, told)?;
        self.1.synchronize(&caller, &call.prefix).await?;
        let reply = self.0.synchronize(call).await?;
        let mut response = Response::new(message(&reply, is_ours));
        if is_ours && let Some(execution) = claim::of_reply(&reply) {
            let value = MetadataValue::from_bytes(&execution.encode_to_vec());
            response.metadata_mut().insert_bin(claim::METADATA, value);
        }
        Ok(response)
    }
}

fn parse(request: SynchronizeRequest, told: Option<Execution>) -> Result<Synchronization, Error> {
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
    let (report, claim) = report(request.current_state, told)?;
    Ok(Synchronization {
        claim,
        worker: request.worker_id.into_iter().collect(),
        prefix: InstanceName::new(&request.instance_name_prefix)
            .map_err(|error| Error::invalid("instance_name_prefix", error))?,
        platform: PlatformKey::from_wire(request.platform.as_ref())
            .map_err(|error| Error::invalid("platform", error))?,
        size_class: request.size_class,
        report,
        prefer_being_idle: request.prefer_being_idle,
    })
}

fn report(
    state: Option<CurrentState>,
    told: Option<Execution>,
) -> Result<(Report, Option<Claim>), Error> {
    use current_state::executing::ExecutionState;
    let missing = |field| Error::invalid(field, "is missing");
    let executing = match state.and_then(|state| state.worker_state) {
        None => return Err(missing("current_state.worker_state")),
        Some(current_state::WorkerState::Idle(())) => return Ok((Report::Idle, None)),
        Some(current_state::WorkerState::Executing(executing)) => executing,
    };
    let wire = executing.action_digest.as_ref();
    let told = told
        .or_else(|| claim::of_result(&executing))
        .unwrap_or_default();
    // The message has no digest function. Where the worker does not tell it besides,
    // the hash's length gives it.
    let digest =
        DigestFunction::from_wire(told.digest_function, wire.map_or("", |digest| &digest.hash))
            .and_then(|function| Digest::from_wire(function, wire))
            .map_err(|error| Error::invalid("current_state.executing.action_digest", error))?;
    let claim = claim::from_wire(&told)?;
    let report = match executing.execution_state {
        None => return Err(missing("current_state.executing.execution_state")),
        Some(ExecutionState::Completed(response)) => Report::Completed(digest, Box::new(response)),
        Some(
            ExecutionState::Started(())
            | ExecutionState::FetchingInputs(())
            | ExecutionState::Running(())
            | ExecutionState::UploadingOutputs(()),
        ) => Report::Executing(digest),
    };
    Ok((report, claim))
}

fn message(reply: &Reply, is_ours: bool) -> SynchronizeResponse {
    let worker_state = match &reply.desired {
        Desired::Unchanged => None,
        Desired::Idle => Some(desired_state::WorkerState::Idle(())),
        Desired::Execute(job) => {
            let mut executing = execute(job);
            if !is_ours && let Some(execution) = claim::of_reply(reply) {
                executing
                    .auxiliary_metadata
                    .push(messages::pack(&execution));
            }
            Some(desired_state::WorkerState::Executing(executing))
        }
    };
    SynchronizeResponse {
        next_synchronization_at: Some(messages::timestamp(reply.next)),
        desired_state: worker_state.map(|state| DesiredState {
            worker_state: Some(state),
        }),
    }
}

fn execute(job: &Job) -> desired_state::Executing {
    let told = job.brief.as_ref().map(Brief::open).unwrap_or_default();
    desired_state::Executing {
        action_digest: Some(job.digest.to_wire()),
        queued_timestamp: Some(messages::timestamp(job.queued)),
        instance_name_suffix: job.instance_suffix.to_string(),
        digest_function: job.digest.function().to_wire(),
        ..told
    }
}
