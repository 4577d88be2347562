//! What workers of this project are told of an execution, and tell again, beyond
//! `buildbarn.remoteworker`: `hayloft.worker.v1`. See [`crate::queue::Claim`].

use prost::Message as _;
use proto::InstanceName;
use proto::messages::{system_time, timestamp, unpack};
use proto::wire::remoteworker::current_state::{Executing, executing::ExecutionState};
use proto::wire::worker_extension::Execution;
use tonic::metadata::MetadataMap;
use uuid::Uuid;

use crate::error::Error;
use crate::queue::{Claim, Desired, MAXIMUM_CLAIMED, Reply};

/// Where it travels.
pub(super) const METADATA: &str = "hayloft-execution-bin";

/// What a worker says besides its request; none if it is not one of ours.
///
/// # Errors
/// It cannot be decoded.
pub(super) fn of_request(headers: &MetadataMap) -> Result<Option<Execution>, Error> {
    let invalid = |reason: String| Error::invalid(METADATA, reason);
    let Some(value) = headers.get_bin(METADATA) else {
        return Ok(None);
    };
    let bytes = value
        .to_bytes()
        .map_err(|error| invalid(error.to_string()))?;
    let execution = Execution::decode(bytes).map_err(|error| invalid(error.to_string()))?;
    Ok(Some(execution))
}

/// What a worker of another make brings back with a result.
pub(super) fn of_result(executing: &Executing) -> Option<Execution> {
    let Some(ExecutionState::Completed(response)) = &executing.execution_state else {
        return None;
    };
    let metadata = response.result.as_ref()?.execution_metadata.as_ref()?;
    let mut all = metadata.auxiliary_metadata.iter();
    all.find_map(|any| unpack(any, "hayloft.worker.v1.Execution"))
}

/// What to tell a worker besides a reply.
pub(super) fn of_reply(reply: &Reply) -> Option<Execution> {
    let operation_names = reply.operations.iter().map(Uuid::to_string).collect();
    match &reply.desired {
        Desired::Execute(job) => Some(Execution {
            instance_name_suffix: job.instance_suffix.to_string(),
            digest_function: job.digest.function().to_wire(),
            operation_names,
            queued_timestamp: Some(timestamp(job.queued)),
            do_not_cache: job.do_not_cache,
        }),
        // The rest it was told before.
        Desired::Unchanged => Some(Execution {
            operation_names,
            ..Execution::default()
        }),
        Desired::Idle => None,
    }
}

/// The claim in what a worker says; none if it says nothing of that sort.
///
/// # Errors
/// A part of it is malformed.
pub(super) fn from_wire(execution: &Execution) -> Result<Option<Claim>, Error> {
    let Some(queued) = &execution.queued_timestamp else {
        return Ok(None);
    };
    let many = execution.operation_names.len();
    if many > MAXIMUM_CLAIMED {
        return Err(Error::invalid(
            "hayloft-execution-bin.operation_names",
            format!("{many} exceed the {MAXIMUM_CLAIMED} allowed"),
        ));
    }
    let names = execution.operation_names.iter();
    let operations = names
        .map(|name| Uuid::try_parse(name))
        .collect::<Result<_, _>>();
    Ok(Some(Claim {
        suffix: InstanceName::new(&execution.instance_name_suffix)
            .map_err(|error| Error::invalid("hayloft-execution-bin.instance_name_suffix", error))?,
        operations: operations
            .map_err(|error| Error::invalid("hayloft-execution-bin.operation_names", error))?,
        queued: system_time(queued).ok_or_else(|| {
            Error::invalid("hayloft-execution-bin.queued_timestamp", "is out of range")
        })?,
        do_not_cache: execution.do_not_cache,
    }))
}
