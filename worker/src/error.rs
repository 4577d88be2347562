//! What can go wrong with an action or with the worker, and the status it becomes.

use nix::errno::Errno;
use proto::Digest;
use proto::digest::DigestError;
use proto::instance_name::InstanceNameError;
use proto::path::PathError;
use tonic::{Code, Status};

/// What the list of missing blobs in a status may take, in bytes: gRPC clients
/// take messages of 4 MiB. It is enough for 30,000 blobs; the client hears of the
/// others when it has uploaded these.
const MAXIMUM_MISSING: usize = 3 << 20;

/// How many of these blobs a status lists.
fn listed(blobs: &[Digest]) -> usize {
    // "MISSING", "blobs/HASH/SIZE" with up to 19 digits, and what frames them.
    let taken = |digest: &Digest| 2 * digest.hash_bytes().len() + 41;
    let most = blobs.iter().map(taken).max().unwrap_or(1);
    MAXIMUM_MISSING / most
}

/// A failure of an action or of the worker itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A peer's address cannot be used.
    #[error(transparent)]
    Address(#[from] daemon::Error),
    /// Another process has the cache directory.
    #[error("cache directory {0} is in use by another process")]
    CacheInUse(String),
    /// The configuration contradicts itself.
    #[error("configuration: {key}: {reason}")]
    Configuration {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A blob is not the message it should be.
    #[error("{what} {digest} cannot be decoded: {source}")]
    Decode {
        /// What it should be.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// Where decoding failed.
        source: prost::DecodeError,
    },
    /// A file that an action made cannot be opened by the worker, after the runner
    /// was asked to help: its mode is in the way, or its owner.
    #[error("{path}: the action left it so that the worker cannot read it: {source}")]
    Denied {
        /// Its path below the build directory.
        path: String,
        /// What the kernel said.
        source: Errno,
    },
    /// A message's digest names no blob.
    #[error("{field}: {source}")]
    Digest {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        source: DigestError,
    },
    /// A Directory message violates REv2.
    #[error("directory {directory}: entry {entry:?}: {reason}")]
    Directory {
        /// The message's digest.
        directory: Digest,
        /// The entry's name, shortened when overlong.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of the worker's own failed.
    #[error("{operation} {path}: {source}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: String,
        /// What the kernel said.
        source: Errno,
    },
    /// An input has the name of a directory that must exist.
    #[error(
        "{path:?} must be a directory for the outputs below it, but the input root has a file or symbolic link there"
    )]
    InTheWay {
        /// The path in the input root.
        path: String,
    },
    /// The scheduler named no valid instance.
    #[error("instance name suffix: {0}")]
    InstanceName(#[from] InstanceNameError),
    /// Work on a thread of its own was lost.
    #[error("internal task failed: {0}")]
    Internal(String),
    /// Something of the action is larger than the worker allows.
    #[error("{what} exceeds the limit of {limit}")]
    Limit {
        /// What.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// A platform property asks for what it may not.
    #[error("platform property {name}: {value:?} is not a number up to {most}")]
    Property {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
        /// The most it may be.
        most: u64,
    },
    /// A platform property promises what the runner does not give.
    #[error("platform property {name}: {value:?}: {reason}")]
    Promise {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
        /// What is given instead.
        reason: String,
    },
    /// Blobs that the action needs are not in the storage.
    #[error("{} blobs are missing", .blobs.len())]
    Missing {
        /// What they are.
        what: &'static str,
        /// All of them.
        blobs: Vec<Digest>,
    },
    /// The action's message lacks something or contradicts itself.
    #[error("{0}")]
    Malformed(&'static str),
    /// A disk has too little room for actions.
    #[error("{path} has {free} {what} free, less than the {needed} that are to be free")]
    NoRoom {
        /// A directory on it.
        path: String,
        /// Of what there is too little: bytes or inodes.
        what: &'static str,
        /// How many are free.
        free: u64,
        /// How many are to be.
        needed: u64,
    },
    /// An output cannot be reported.
    #[error("output {path:?}: {reason}")]
    Output {
        /// Its path, as the client gave it.
        path: String,
        /// Why not.
        reason: &'static str,
    },
    /// An output is neither a file, nor a directory, nor a symbolic link.
    #[error("output {path:?} is {what}: neither a file, nor a directory, nor a symbolic link")]
    OutputOther {
        /// Its path, as the client gave it.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// An output makes all of them larger than the worker allows.
    #[error(
        "output {path:?} of {size} bytes: all outputs of an action may have {limit} bytes (maximum_output_size_bytes)"
    )]
    OutputSize {
        /// Its path in the input root.
        path: String,
        /// How large it is.
        size: u64,
        /// How large all may be.
        limit: u64,
    },
    /// An output is not what the client declared it to be.
    #[error("output {path:?} was declared as a {declared} but is a {found}")]
    OutputKind {
        /// Its path, as the client gave it.
        path: String,
        /// What it should be.
        declared: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A path in the command is invalid.
    #[error("{field}: {source}")]
    Path {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        source: PathError,
    },
    /// The runner never began with the command: it is stopping, or away.
    #[error("runner: {}", .0.message())]
    NotBegun(Status),
    /// The runner refused, failed or is away.
    #[error("runner: {}", .0.message())]
    Runner(Status),
    /// The storage failed.
    #[error("{what}: {source}")]
    Storage {
        /// What was being done.
        what: &'static str,
        /// How it failed.
        source: storage::Error,
    },
    /// Tests say that the machine is broken.
    #[error(
        "worker is out of service: {failures} tests in a row reported a failure of their infrastructure"
    )]
    TestInfrastructure {
        /// How many.
        failures: u32,
    },
    /// The action's own timeout.
    #[error("command did not end within its timeout of {0:?}")]
    Timeout(std::time::Duration),
}

impl Error {
    /// For `map_err`: a failed operation on one of the worker's files.
    pub(crate) fn file(
        operation: &'static str,
        path: impl Into<String>,
    ) -> impl FnOnce(Errno) -> Self {
        let path = path.into();
        move |source| Self::File {
            operation,
            path,
            source,
        }
    }

    /// For `map_err`: a failed call to the storage.
    pub(crate) fn storage(what: &'static str) -> impl FnOnce(storage::Error) -> Self {
        move |source| Self::Storage { what, source }
    }
}

impl From<tokio::task::JoinError> for Error {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Missing { what, blobs } => {
                return match blobs.get(..listed(blobs)) {
                    Some(first) if first.len() < blobs.len() => {
                        let what = format!("{what} (the first of {})", blobs.len());
                        proto::status::missing_blobs(&what, first)
                    }
                    _ => proto::status::missing_blobs(what, blobs),
                };
            }
            Error::Runner(status) | Error::NotBegun(status) => {
                // Not passing, as UNAVAILABLE would say: this worker cannot bring
                // the action to an end, and the scheduler may have another do it.
                let code = match status.code() {
                    Code::Unavailable => Code::Internal,
                    code => code,
                };
                return Self::with_details(
                    code,
                    error.to_string(),
                    status.details().to_vec().into(),
                );
            }
            Error::Storage { source, .. } => match source {
                // Blobs that vanish between being found and being read, or
                // whose bytes are wrong: the action may be tried again, and
                // nothing about the request is at fault.
                storage::Error::NotFound(_)
                | storage::Error::Corrupt { .. }
                | storage::Error::Size { .. }
                | storage::Error::OutOfRange { .. } => Code::Internal,
                storage::Error::Remote(status) => status.code(),
                storage::Error::Full { .. } => Code::ResourceExhausted,
                _ => Code::Internal,
            },
            Error::Decode { .. }
            // Another worker would find the same.
            | Error::Denied { .. }
            | Error::Digest { .. }
            | Error::Directory { .. }
            | Error::InTheWay { .. }
            | Error::InstanceName(_)
            | Error::Malformed(_)
            | Error::Output { .. }
            | Error::OutputOther { .. }
            | Error::Path { .. }
            | Error::Property { .. } => Code::InvalidArgument,
            // REv2, ActionResult.output_files and output_directories.
            Error::OutputKind { .. } | Error::Promise { .. } => Code::FailedPrecondition,
            Error::Limit { .. }
            | Error::NoRoom { .. }
            | Error::OutputSize { .. }
            | Error::File {
                source: Errno::ENOSPC | Errno::EDQUOT,
                ..
            } => Code::ResourceExhausted,
            Error::Timeout(_) => Code::DeadlineExceeded,
            Error::TestInfrastructure { .. } => Code::Unavailable,
            Error::Address(_)
            | Error::CacheInUse(_)
            | Error::Configuration { .. }
            | Error::File { .. }
            | Error::Internal(_) => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_an_exhausted_resource_and_other_file_errors_are_ours() {
        let status = |errno| Status::from(Error::file("write", "x")(errno));
        assert_eq!(status(Errno::ENOSPC).code(), Code::ResourceExhausted);
        assert_eq!(status(Errno::EIO).code(), Code::Internal);
        assert_eq!(status(Errno::EIO).message(), "write x: EIO: I/O error");
    }

    #[test]
    fn no_more_missing_blobs_are_listed_than_peers_take() {
        use tonic_types::StatusExt as _;
        let largest = i64::MAX.unsigned_abs();
        let hash = "f".repeat(64);
        let digest = Digest::new(proto::DigestFunction::Sha256, &hash, largest).unwrap();
        for (count, all) in [(2, true), (10_001, true), (29_000, true), (100_000, false)] {
            let status = Status::from(Error::Missing {
                what: "input file",
                blobs: vec![digest; count],
            });
            assert!(status.details().len() <= MAXIMUM_MISSING + 1024);
            let details = status.get_details_precondition_failure().unwrap();
            assert_eq!(details.violations.len() == count, all, "{count}");
            assert!(details.violations.len() >= count.min(29_000));
            let told = status.message().contains("the first of 100000");
            assert_eq!(told, !all, "{}", status.message());
        }
    }

    #[test]
    fn a_runner_status_keeps_its_code_unless_the_runner_is_away() {
        let status = Status::from(Error::Runner(Status::unavailable("lost")));
        assert_eq!(status.code(), Code::Internal);
        let status = Status::from(Error::Runner(Status::invalid_argument("no such file")));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "runner: no such file");
    }

    #[test]
    fn what_an_action_closes_off_is_refused_and_not_tried_again() {
        let status = Status::from(Error::Denied {
            path: "root/out".into(),
            source: Errno::EACCES,
        });
        assert_eq!(status.code(), Code::InvalidArgument);
    }
}
