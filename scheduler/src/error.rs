//! What can go wrong in the scheduler, and the gRPC status it becomes.

use std::path::PathBuf;

use proto::Digest;
use tonic::Status;

use crate::queue::TimeoutError;

/// A failure of a call, or to start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value of the configuration makes no sense.
    #[error("configuration: {key}: {reason}")]
    Config {
        /// Which.
        key: &'static str,
        /// Why.
        reason: String,
    },
    /// The state directory cannot be used.
    #[error("state_directory: {}: {source}", .path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The Action is not in the storage.
    #[error("action {0} is not in the content addressable storage")]
    ActionMissing(Digest),
    /// The Command is not in the storage.
    #[error("command {0} is not in the content addressable storage")]
    CommandMissing(Digest),
    /// A blob is not the message it should be.
    #[error("{what} {digest} cannot be decoded: {reason}")]
    Undecodable {
        /// Which message.
        what: &'static str,
        /// The blob.
        digest: Digest,
        /// What the decoder said.
        reason: String,
    },
    /// A message is larger than allowed.
    #[error("{what} {digest} exceeds the maximum size of {limit} bytes")]
    TooLarge {
        /// Which message.
        what: &'static str,
        /// The blob.
        digest: Digest,
        /// The limit, in bytes.
        limit: u64,
    },
    /// Part of a request is malformed.
    #[error("{field}: {reason}")]
    Invalid {
        /// Where in the request.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The action router refuses an action, or cannot be asked.
    #[error("action router: {}", .0.message())]
    Router(Box<Status>),
    /// What the action router answers is no answer.
    #[error("action router gave an answer that cannot be used: {0}")]
    RouterAnswer(String),
    /// The action's timeout is not allowed.
    #[error(transparent)]
    Timeout(#[from] TimeoutError),
    /// No queue serves the platform.
    #[error("no workers exist for platform {platform} and instance name {instance:?}; {nearest}")]
    NoWorkers {
        /// What the action asks for.
        platform: String,
        /// The action's instance name.
        instance: String,
        /// Which queues come nearest, and in what they differ.
        nearest: String,
        /// The scheduler started so recently that workers may not have come yet.
        just_started: bool,
    },
    /// The invocation or tenant has as many actions queued as it may.
    #[error("{limit} actions are queued already, the most that {setting} allows")]
    TooManyQueued {
        /// How many that is.
        limit: u32,
        /// What says so.
        setting: &'static str,
    },
    /// The queue has as many drains as it may.
    #[error("the queue has {0} drains already, the most that are allowed")]
    TooManyDrains(usize),
    /// Nobody knows the operation, or no longer.
    #[error("operation {0:?} does not exist")]
    UnknownOperation(String),
    /// The operation is not queued.
    #[error("operation does not wait for a worker")]
    NotWaiting,
    /// There is no such platform queue.
    #[error(
        "no queue of size class {size_class} exists for instance name prefix {prefix:?} and platform {platform}"
    )]
    UnknownQueue {
        /// The prefix of its instance names.
        prefix: String,
        /// Its platform.
        platform: String,
        /// Its size class.
        size_class: u32,
    },
    /// The queue has no such invocation, or no longer.
    #[error("the queue has no such invocation")]
    UnknownInvocation,
    /// What is meant for queues without workers is asked of one that has some.
    #[error("the queue has {0} workers")]
    QueueHasWorkers(usize),
    /// A worker calls while an earlier call of its is still being held.
    #[error("another call of worker {0} is being held already; worker ids must be unique")]
    DuplicateWorker(String),
    /// The scheduler is told to stop.
    #[error("scheduler is shutting down")]
    ShuttingDown,
    /// The storage failed.
    #[error(transparent)]
    Storage(Box<storage::Error>),
    /// The daemon failed.
    #[error(transparent)]
    Daemon(#[from] daemon::Error),
}

impl Error {
    /// A malformed part of a request.
    pub(crate) fn invalid(field: &'static str, reason: impl ToString) -> Self {
        Self::Invalid {
            field,
            reason: reason.to_string(),
        }
    }
}

impl From<storage::Error> for Error {
    fn from(error: storage::Error) -> Self {
        Self::Storage(Box::new(error))
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        let status = match error {
            Error::ActionMissing(digest) => proto::status::missing_blobs("action", &[digest]),
            Error::CommandMissing(digest) => proto::status::missing_blobs("command", &[digest]),
            Error::Undecodable { .. } | Error::Invalid { .. } | Error::Timeout(_) => {
                Self::invalid_argument(message)
            }
            Error::TooLarge { .. }
            | Error::TooManyQueued { .. }
            | Error::TooManyDrains(_)
            | Error::DuplicateWorker(_) => Self::resource_exhausted(message),
            Error::NoWorkers {
                just_started: true, ..
            }
            | Error::ShuttingDown => Self::unavailable(message),
            Error::NoWorkers { .. } => Self::failed_precondition(message),
            Error::QueueHasWorkers(_) | Error::NotWaiting => Self::failed_precondition(message),
            Error::UnknownOperation(_) | Error::UnknownQueue { .. } | Error::UnknownInvocation => {
                Self::not_found(message)
            }
            Error::Storage(error) => (*error).into(),
            Error::Router(status) => Self::new(status.code(), message),
            Error::RouterAnswer(_) => Self::internal(message),
            Error::Config { .. } | Error::State { .. } | Error::Daemon(_) => {
                Self::internal(message)
            }
        };
        // Messages repeat what clients sent, and travel as headers.
        proto::status::bounded(&status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_sent_does_not_make_a_status_longer_than_headers_may_be() {
        let error = Error::NoWorkers {
            just_started: false,
            instance: String::new(),
            platform: "x".repeat(100_000),
            nearest: String::new(),
        };
        let status = Status::from(error);
        assert_eq!(status.code(), tonic::Code::FailedPrecondition);
        assert!(status.message().len() < 4096, "{}", status.message().len());
    }
}
