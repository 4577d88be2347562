//! Fields of requests, validated: where they enter the program.

use proto::wire::rev2;
use proto::{Digest, DigestFunction, InstanceName, status};
use tonic::{Code, Status};

use crate::error::Error;

/// The instance name of a request.
pub(super) fn instance(name: &str) -> Result<InstanceName, Status> {
    InstanceName::new(name).map_err(Status::from)
}

/// A digest of a request. `function` is the request's, 0 where the client is older
/// than REv2.3. Messages name the field.
pub(super) fn digest(
    field: &str,
    function: i32,
    digest: Option<&rev2::Digest>,
) -> Result<Digest, Status> {
    digest
        .ok_or(proto::digest::DigestError::Missing)
        .and_then(|wire| DigestFunction::from_wire(function, &wire.hash))
        .and_then(|function| Digest::from_wire(function, digest))
        .map_err(|error| status::invalid_argument(format!("{field}: {error}")))
}

/// The digests of a repeated field.
pub(super) fn digests(
    field: &str,
    function: i32,
    digests: &[rev2::Digest],
) -> Result<Vec<Digest>, Status> {
    digests
        .iter()
        .enumerate()
        .map(|(at, wire)| {
            digest(field, function, Some(wire)).map_err(|error| {
                status::invalid_argument(format!("{} (number {at})", error.message()))
            })
        })
        .collect()
}

/// The status of a blob that could not be read. Of one that was found damaged,
/// the client can do nothing but store it again: to it the blob is not there.
pub(super) fn unreadable(error: Error) -> Status {
    match error {
        Error::Corrupt { expected, .. }
        | Error::Size {
            digest: expected, ..
        } => Status::new(
            Code::NotFound,
            format!("blob {expected} was found damaged in the storage"),
        ),
        error => error.into(),
    }
}
