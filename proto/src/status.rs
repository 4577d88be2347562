//! Statuses: of a length that a peer takes, with the details that REv2 clients
//! act on.
//!
//! gRPC sends a status's message and details as header fields, percent-encoded and
//! in base64. HTTP/2 peers take 16 KiB of headers by default; what exceeds that can
//! cost the whole connection, with all the calls of others that share it. So
//! whatever repeats a foreign string goes through [`new`], and a status that came
//! from elsewhere through [`bounded`].

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, PreconditionViolation, StatusExt as _};

use crate::digest::{Digest, DigestError};
use crate::instance_name::InstanceNameError;
use crate::path::PathError;
use crate::platform::PlatformError;
use crate::resource_name::ResourceNameError;
use crate::wire::rpc;

/// How long a status's message may be, in bytes. Encoded it takes up to three
/// times as much.
pub const MAXIMUM_MESSAGE: usize = 2 << 10;

/// How long a status's encoded details may be, in bytes, where they are sent as a
/// header. In messages ([`to_wire`]) they may be of any length.
pub const MAXIMUM_DETAILS: usize = 4 << 10;

/// The trailing metadata by which a runner says of a command that it was refused before
/// anything of it was done, so that another may be asked at once.
pub const NOT_BEGUN: &str = "hayloft-not-begun";

/// What ends a message that was cut.
const ELLIPSIS: &str = "…";

/// A status whose message is cut at [`MAXIMUM_MESSAGE`], at the boundary of a
/// character.
#[must_use]
pub fn new(code: Code, message: impl Into<String>) -> Status {
    let mut message = message.into();
    if message.len() > MAXIMUM_MESSAGE {
        let mut end = MAXIMUM_MESSAGE - ELLIPSIS.len();
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push_str(ELLIPSIS);
    }
    Status::new(code, message)
}

/// [`new`], of INVALID_ARGUMENT.
#[must_use]
pub fn invalid_argument(message: impl Into<String>) -> Status {
    new(Code::InvalidArgument, message)
}

/// A status that came from elsewhere, made fit to be sent on as headers: its
/// message is cut, details above [`MAXIMUM_DETAILS`] and all metadata are left out.
#[must_use]
pub fn bounded(status: &Status) -> Status {
    let details = status.details();
    let cut = new(status.code(), status.message());
    if details.is_empty() || details.len() > MAXIMUM_DETAILS {
        return cut;
    }
    Status::with_details(cut.code(), cut.message(), details.to_vec().into())
}

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
                invalid_argument(error.to_string())
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
    fn overlong_messages_are_cut_at_a_character() {
        assert_eq!(invalid_argument("short").message(), "short");
        let exact = "x".repeat(MAXIMUM_MESSAGE);
        assert_eq!(invalid_argument(exact.as_str()).message(), exact);
        for first in ["", "x", "xx"] {
            let cut = invalid_argument(first.to_string() + &"é".repeat(MAXIMUM_MESSAGE));
            let kept = cut.message().strip_suffix(ELLIPSIS).unwrap();
            assert!(kept.trim_start_matches('x').chars().all(|c| c == 'é'));
            assert!((MAXIMUM_MESSAGE - 4..=MAXIMUM_MESSAGE).contains(&cut.message().len()));
        }
    }

    #[test]
    fn the_statuses_of_others_are_cut_to_what_headers_hold() {
        let blobs = |count: u32| -> Vec<Digest> {
            (0..count)
                .map(|n| Digest::of(DigestFunction::Sha256, &n.to_be_bytes()))
                .collect()
        };
        let few = bounded(&missing_blobs("root", &blobs(2)));
        let violations = few.get_details_precondition_failure().unwrap().violations;
        assert_eq!(violations.len(), 2);
        let long = bounded(&missing_blobs(&"é".repeat(9000), &blobs(2)));
        assert!(long.message().len() <= MAXIMUM_MESSAGE);
        let many = missing_blobs("root", &blobs(1000));
        assert!(many.details().len() > MAXIMUM_DETAILS);
        let many = bounded(&many);
        assert_eq!(many.code(), Code::FailedPrecondition);
        assert!(many.details().is_empty() && many.message().contains("1000 blobs"));
        let mut status = Status::not_found("x");
        status.metadata_mut().insert("k", "v".parse().unwrap());
        assert!(bounded(&status).metadata().is_empty());
    }

    #[test]
    fn every_error_of_a_foreign_string_is_short() {
        let long = "é/\0".repeat(1 << 20);
        let wire = crate::wire::rev2::Platform {
            properties: ["b", "a"]
                .map(|name| crate::wire::rev2::platform::Property {
                    name: name.to_string() + &long,
                    value: long.clone(),
                })
                .to_vec(),
        };
        let statuses: [Status; 4] = [
            crate::PlatformKey::from_wire(Some(&wire))
                .unwrap_err()
                .into(),
            crate::Component::new(&long).unwrap_err().into(),
            crate::InstanceName::new(&long).unwrap_err().into(),
            crate::ResourceName::parse_read(&long).unwrap_err().into(),
        ];
        for status in statuses {
            assert!(status.message().len() <= MAXIMUM_MESSAGE);
        }
    }

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
