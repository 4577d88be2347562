//! What can fail: starting the runner ([`StartError`]), and one call to it ([`Error`]).

use std::path::PathBuf;

use sandbox::{Failure, Limit, MessageError};
use tonic::Status;
use tonic::metadata::MetadataValue;

/// Why the runner does not start, or stopped without being told to.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A value of the configuration makes no sense.
    #[error("{key} {reason}")]
    Config {
        /// The key.
        key: String,
        /// What is wrong with its value.
        reason: String,
    },
    /// A socket cannot be listened on.
    #[error(transparent)]
    Listen(#[from] daemon::Error),
    /// A unix socket cannot be opened to the worker.
    #[error("cannot make {path} connectable: {source}")]
    Permissions {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The sandbox cannot be had, or failed as a whole.
    #[error(transparent)]
    Sandbox(#[from] sandbox::Error),
    /// What is to be done around commands cannot be.
    #[error("the attendant does not serve: {0}")]
    Attendant(#[source] std::io::Error),
    /// The service half cannot start.
    #[error("cannot start serving: {0}")]
    Serve(#[source] std::io::Error),
}

/// Why a call fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request is wrong in itself.
    #[error("{field}: {reason}")]
    Field {
        /// The field's name in the protocol.
        field: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The request cannot be put into a message to the launcher.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The command or its working directory is missing or not executable.
    #[error("cannot execute the command: {0}")]
    Command(Failure),
    /// A path of the request is not there, not acceptable, or exists already.
    #[error("{0}")]
    Request(Failure),
    /// A path that readiness depends on is not there.
    #[error("not ready: {0}")]
    NotReady(Failure),
    /// A path of the host that must be there is not.
    #[error("not ready: {}", .0.message())]
    Pathname(Status),
    /// The cleaner failed.
    #[error("cleaning failed: {}", .0.message())]
    Clean(Status),
    /// The installer of temporary directories failed.
    #[error("the installer of temporary directories failed: {}", .0.message())]
    Installer(Status),
    /// The sandbox failed.
    #[error("the sandbox failed: {0}")]
    Sandbox(Failure),
    /// The command met a limit, and the protocol has no other way of telling.
    #[error("the command met its limit of {0}")]
    Exceeded(Limit),
    /// The launcher ended the command though nobody asked for it here.
    #[error("the command was killed: the runner is stopping")]
    Killed,
    /// The runner takes no more commands.
    #[error("the runner is stopping")]
    Stopping,
    /// The launcher half is gone, and every command with it.
    #[error("the runner's launcher half is gone")]
    LauncherGone,
    /// The socket to the launcher failed.
    #[error("talking to the launcher failed: {0}")]
    LauncherIo(#[source] std::io::Error),
    /// The launcher answered with something else than was asked for.
    #[error("the launcher's answer is not one to the request")]
    Answer,
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Field { .. } | Error::Message(_) | Error::Command(_) | Error::Request(_) => {
                Self::invalid_argument(message)
            }
            Error::NotReady(_) | Error::Killed | Error::LauncherGone => Self::unavailable(message),
            Error::Stopping => {
                let mut status = Self::unavailable(message);
                let metadata = status.metadata_mut();
                metadata.insert(proto::status::NOT_BEGUN, MetadataValue::from_static("1"));
                status
            }
            Error::Pathname(status) | Error::Clean(status) | Error::Installer(status) => {
                Self::new(status.code(), message)
            }
            Error::Exceeded(_) => Self::resource_exhausted(message),
            Error::Sandbox(_) | Error::LauncherIo(_) | Error::Answer => Self::internal(message),
        }
    }
}
