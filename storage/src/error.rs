//! What can go wrong with storage, and the gRPC status it becomes.
//!
//! Messages say all there is, the kernel's word included; what is in the message is
//! not given as a source as well, lest chains of errors print it twice.

use std::io;
use std::path::PathBuf;

use proto::{Digest, status};
use tonic::{Code, Status};

/// A failure of a store or of the way to one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The blob is not there.
    #[error("blob {0} is not in the content addressable storage")]
    NotFound(Digest),
    /// A read begins beyond the blob's end.
    #[error("offset {offset} is beyond the end of blob {digest}")]
    OutOfRange {
        /// The blob.
        digest: Digest,
        /// Where the read was to begin.
        offset: u64,
    },
    /// Bytes are not those the digest names.
    #[error("bytes do not match their digest: expected {expected}, got {actual}")]
    Corrupt {
        /// What was asked for or announced.
        expected: Digest,
        /// What the bytes have.
        actual: Digest,
    },
    /// The bytes ended early or ran on beyond the size in the digest.
    #[error("blob {digest} has {actual} bytes")]
    Size {
        /// The blob, with the size expected.
        digest: Digest,
        /// How many bytes came.
        actual: u64,
    },
    /// What should be a blob, packed with zstd, is not.
    #[error("blob {digest}: zstd: {reason}")]
    Compressed {
        /// The blob.
        digest: Digest,
        /// What is wrong with it.
        reason: String,
    },
    /// The store may not grow further.
    #[error("no room for blob {digest}: the store is limited to {limit} bytes")]
    Full {
        /// The blob.
        digest: Digest,
        /// The limit, in bytes.
        limit: u64,
    },
    /// A file of the embedded store failed.
    #[error("{operation} {path}: {reason}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said.
        reason: io::Error,
    },
    /// Another process owns the embedded store's directory.
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
    /// The process is ending.
    #[error("the storage is shutting down")]
    Stopping,
    /// What was to be stored could not be read from where it comes.
    #[error("{}", .0.message())]
    Source(Status),
    /// The stream in which bytes came broke off; whoever sent them may come back.
    #[error("{}", .0.message())]
    Broken(Status),
    /// The embedded database failed.
    #[error("action cache database: {0}")]
    Database(String),
    /// A remote storage answered with an error.
    #[error("storage: {0}")]
    Remote(Status),
    /// The daemon around the store failed.
    #[error(transparent)]
    Daemon(#[from] daemon::Error),
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::NotFound(_) => Code::NotFound,
            Error::OutOfRange { .. } => Code::OutOfRange,
            Error::Corrupt { .. } | Error::Size { .. } | Error::Compressed { .. } => {
                Code::InvalidArgument
            }
            Error::Full { .. } => Code::ResourceExhausted,
            Error::File { reason, .. } if reason.kind() == io::ErrorKind::StorageFull => {
                Code::ResourceExhausted
            }
            Error::File { .. } | Error::Database(_) | Error::InUse(_) | Error::Daemon(_) => {
                Code::Internal
            }
            Error::Stopping => Code::Unavailable,
            Error::Remote(status) | Error::Source(status) | Error::Broken(status) => {
                return status::bounded(status);
            }
        };
        status::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_message_says_no_source_repeats() {
        let error = Error::File {
            operation: "read",
            path: "/a".into(),
            reason: io::Error::other("the reason"),
        };
        assert_eq!(error.to_string(), "read /a: the reason");
        assert!(std::error::Error::source(&error).is_none());
    }

    #[test]
    fn no_status_is_longer_than_headers_hold() {
        let long = "x".repeat(1 << 20);
        for error in [
            Error::Remote(Status::internal(long.as_str())),
            Error::Source(Status::internal(long.as_str())),
            Error::Database(long.clone()),
        ] {
            let status = Status::from(error);
            assert_eq!(status.code(), Code::Internal);
            assert!(status.message().len() <= status::MAXIMUM_MESSAGE);
        }
    }
}
