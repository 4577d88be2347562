//! Statuses with the details that REv2 clients act on.

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, PreconditionViolation, StatusExt as _};

use crate::digest::{Digest, DigestError};
use crate::instance_name::InstanceNameError;
use crate::path::PathError;
use crate::platform::PlatformError;
use crate::resource_name::ResourceNameError;
use crate::wire::rpc;

/// FAILED_PRECONDITION that lists every missing blob, as REv2 Execution asks:
/// type MISSING, subject `blobs/HASH/SIZE`. Clients upload those and try again.
#[must_use]
pub fn missing_blobs(what: &str, missing: &[Digest]) -> Status {
    let violations = missing
        .iter()
        .map(|digest| {
            PreconditionViolation::new(
                "MISSING",
                format!("blobs/{}/{}", digest.hash(), digest.size()),
                "",
            )
        })
        .collect::<Vec<_>>();
    let message = match missing {
        [one] => format!("{what} {one} is not in the content addressable storage"),
        _ => format!(
            "{what}: {} blobs are not in the content addressable storage",
            missing.len()
        ),
    };
    Status::with_error_details(
        Code::FailedPrecondition,
        message,
        ErrorDetails::with_precondition_failure(violations),
    )
}

/// The `google.rpc.Status` message of a status, as operations and execute
/// responses carry it, details included.
#[must_use]
pub fn to_wire(status: &Status) -> rpc::Status {
    use prost::Message as _;
    // The details of a gRPC status are an encoded google.rpc.Status of their own.
    let details = rpc::Status::decode(status.details())
        .map(|inner| inner.details)
        .unwrap_or_default();
    rpc::Status {
        code: status.code() as i32,
        message: status.message().to_string(),
        details,
    }
}

/// The gRPC status that says what a `google.rpc.Status` message says.
#[must_use]
pub fn from_wire(status: &rpc::Status) -> Status {
    use prost::Message as _;
    Status::with_details(
        Code::from_i32(status.code),
        status.message.clone(),
        status.encode_to_vec().into(),
    )
}

macro_rules! invalid_argument {
    ($($error:ty),*) => {$(
        impl From<$error> for Status {
            fn from(error: $error) -> Self {
                Self::invalid_argument(error.to_string())
            }
        }
    )*};
}

invalid_argument!(
    DigestError,
    InstanceNameError,
    PathError,
    PlatformError,
    ResourceNameError
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::DigestFunction;

    #[test]
    fn every_missing_blob_is_listed() {
        let blobs = [b"a".as_slice(), b"bc"].map(|b| Digest::of(DigestFunction::Sha256, b));
        let status = missing_blobs("input root", &blobs);
        assert_eq!(status.code(), Code::FailedPrecondition);
        let details = status.get_details_precondition_failure().unwrap();
        assert_eq!(details.violations.len(), 2);
        assert_eq!(details.violations[1].r#type, "MISSING");
        assert_eq!(
            details.violations[1].subject,
            format!("blobs/{}/2", blobs[1].hash())
        );
    }

    #[test]
    fn details_survive_the_way_through_a_message() {
        let status = missing_blobs("action", &[Digest::of(DigestFunction::Sha256, b"x")]);
        let back = from_wire(&to_wire(&status));
        assert_eq!(back.code(), status.code());
        assert_eq!(back.message(), status.message());
        assert!(back.get_details_precondition_failure().is_some());
    }
}
