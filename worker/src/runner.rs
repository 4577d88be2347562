//! The runner as a peer: one connection to it, and what it can do.
//!
//! A [`Runner`] is bound to one connection. When that is lost another program
//! may answer on the same address, so nothing found out about the old one holds:
//! [`Runner::is_lost`] says so at once, and a new [`Runner`] is made and probed.

use std::collections::HashMap;
use std::time::Duration;

use daemon::{Channel, Lost, Subject, Upstream, was_not_sent};
use proto::wire::protobuf::Any;
use proto::wire::runner::runner_client::RunnerClient;
use proto::wire::runner::{self, CheckReadinessRequest};
use proto::wire::runner_extension::runner_extension_client::RunnerExtensionClient;
use proto::wire::runner_extension::{self as extension, DescribeResponse, ReclaimRequest};
use tonic::{Code, Request, Status};

use crate::Error;
use crate::promises::Ids;

/// How long after an action's timeout our own runner may take to answer before
/// it is taken for stuck.
const GRACE: Duration = Duration::from_secs(60);
/// How long a runner may take to answer what needs no command.
const ANSWER: Duration = Duration::from_secs(30);
/// How long it may take to open up or remove what a large action left.
const RECLAIM: Duration = Duration::from_secs(600);

/// One command for a runner.
pub(crate) struct Command {
    /// The program and its arguments.
    pub(crate) arguments: Vec<String>,
    /// The whole environment.
    pub(crate) environment: HashMap<String, String>,
    /// Relative to the input root.
    pub(crate) working_directory: String,
    /// The build directory's name.
    pub(crate) build: String,
    /// None: no limit.
    pub(crate) timeout: Option<Duration>,
    /// Limits other than the runner's own, by name.
    pub(crate) limits: HashMap<String, u64>,
    /// Only for a runner that announces it.
    pub(crate) ids: Ids,
    /// What the input root lies over; only for a runner that announces it.
    pub(crate) overlay: Option<extension::Overlay>,
    /// The action that it is of, for the runner's log.
    pub(crate) subject: Subject,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) exit_code: i64,
    pub(crate) resource_usage: Vec<Any>,
    /// The runner killed it when its time was over.
    pub(crate) timed_out: bool,
    /// The limit that it failed for, and how much that allowed.
    pub(crate) exceeded: Option<(String, u64)>,
    /// As the runner measured it, where it does.
    pub(crate) wall_time: Option<Duration>,
}

/// A connected runner.
pub(crate) struct Runner {
    upstream: Upstream,
    channel: Channel,
    lost: Lost,
    /// What our own runner says of itself; none for any other.
    description: Option<DescribeResponse>,
}

impl Runner {
    /// Connects and asks the runner what it is.
    ///
    /// # Errors
    /// It cannot be reached, or fails.
    pub(crate) async fn connect(upstream: &Upstream) -> Result<Self, Error> {
        let (channel, lost) = upstream.connect_once().await.map_err(|error| match error {
            error @ daemon::Error::Unreachable { .. } => {
                Error::Runner(Status::unavailable(error.to_string()))
            }
            error => error.into(),
        })?;
        let mut client = RunnerExtensionClient::new(channel.clone());
        let description = match within(ANSWER, client.describe(())).await {
            Ok(response) => Some(response),
            Err(status) if status.code() == Code::Unimplemented => None,
            Err(status) => return Err(Error::Runner(status)),
        };
        Ok(Self {
            upstream: upstream.clone(),
            channel,
            lost,
            description,
        })
    }

    /// Where it is.
    pub(crate) fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// What our own runner says of itself.
    pub(crate) fn description(&self) -> Option<&DescribeResponse> {
        self.description.as_ref()
    }

    /// Whether the connection is gone, and this runner with it.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.is_lost()
    }

    /// Whether a call failed because the runner is away, rather than because of
    /// what was asked: a status with a source was not sent by it.
    pub(crate) fn is_away(status: &Status) -> bool {
        status.code() == Code::Unavailable || std::error::Error::source(status).is_some()
    }

    /// Whether a command failed before anything of it was done: the runner was stopping,
    /// or gone.
    pub(crate) fn has_not_begun(status: &Status) -> bool {
        let refused = status.metadata().contains_key(proto::status::NOT_BEGUN);
        refused || was_not_sent(status)
    }

    /// Asks whether it can run commands, and whether it sees this path below the
    /// build directory.
    ///
    /// # Errors
    /// It cannot, does not, or is away.
    pub(crate) async fn check_readiness(&self, path: String) -> Result<(), Error> {
        let mut client = RunnerClient::new(self.channel.clone());
        let call = client.check_readiness(CheckReadinessRequest { path });
        within(ANSWER, call).await.map_err(Error::Runner)
    }

    /// Runs a command to its end. Dropping the future kills it.
    ///
    /// # Errors
    /// What the runner answers: INVALID_ARGUMENT when the command cannot be
    /// executed. UNAVAILABLE when it is lost. A timeout is
    /// no error. What [`Self::has_not_begun`] says of the failure may be tried again.
    pub(crate) async fn run(&self, command: Command) -> Result<Ran, Status> {
        let ran = if self.description.is_some() {
            self.run_extended(command).await
        } else {
            self.run_plain(command).await
        };
        ran.map_err(|status| {
            if Self::is_away(&status) && !Self::has_not_begun(&status) {
                let reason = status.message();
                Status::unavailable(format!("lost while the command ran: {reason}"))
            } else {
                status
            }
        })
    }

    async fn run_extended(&self, command: Command) -> Result<Ran, Status> {
        let in_build = |name: &str| format!("{}/{name}", command.build);
        let request = extension::RunRequest {
            stdout_path: in_build("stdout"),
            stderr_path: in_build("stderr"),
            input_root_directory: in_build("root"),
            temporary_directory: in_build("tmp"),
            server_logs_directory: in_build("server_logs"),
            arguments: command.arguments,
            environment_variables: command.environment,
            working_directory: command.working_directory,
            timeout: command.timeout.map(proto::messages::duration),
            limits: command.limits,
            user_id: command.ids.user,
            group_id: command.ids.group,
            overlay: command.overlay,
        };
        let mut client =
            RunnerExtensionClient::new(self.channel.clone()).max_decoding_message_size(64 << 20);
        let mut request = Request::new(request);
        command.subject.add_to(request.metadata_mut());
        let call = client.run(request);
        let response = match command.timeout {
            None => call.await?,
            Some(timeout) => tokio::time::timeout(timeout.saturating_add(GRACE), call)
                .await
                .map_err(|_| {
                    Status::internal(format!(
                        "no answer {GRACE:?} after the command's timeout of {timeout:?}"
                    ))
                })??,
        };
        let response = response.into_inner();
        let termination = response.termination.unwrap_or_default();
        Ok(Ran {
            exit_code: response.exit_code,
            resource_usage: response.resource_usage,
            timed_out: termination.reason() == extension::termination::Reason::TimedOut,
            exceeded: (termination.reason() == extension::termination::Reason::LimitExceeded)
                .then(|| (termination.limit.clone(), termination.limit_value)),
            wall_time: termination
                .wall_time
                .as_ref()
                .and_then(proto::messages::span),
        })
    }

    /// With the plain protocol the call's deadline is what kills the command.
    async fn run_plain(&self, command: Command) -> Result<Ran, Status> {
        let in_build = |name: &str| format!("{}/{name}", command.build);
        let mut request = Request::new(runner::RunRequest {
            stdout_path: in_build("stdout"),
            stderr_path: in_build("stderr"),
            input_root_directory: in_build("root"),
            temporary_directory: in_build("tmp"),
            server_logs_directory: in_build("server_logs"),
            arguments: command.arguments,
            environment_variables: command.environment,
            working_directory: command.working_directory,
        });
        if let Some(timeout) = command.timeout {
            request.set_timeout(timeout);
        }
        let start = tokio::time::Instant::now();
        let mut client =
            RunnerClient::new(self.channel.clone()).max_decoding_message_size(64 << 20);
        match client.run(request).await {
            Ok(response) => {
                let response = response.into_inner();
                Ok(Ran {
                    exit_code: response.exit_code,
                    resource_usage: response.resource_usage,
                    timed_out: false,
                    exceeded: None,
                    wall_time: None,
                })
            }
            // The client's own deadline shows as CANCELLED.
            Err(status)
                if command
                    .timeout
                    .is_some_and(|timeout| start.elapsed() >= timeout)
                    && matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled) =>
            {
                Ok(Ran {
                    exit_code: 0,
                    resource_usage: Vec::new(),
                    timed_out: true,
                    exceeded: None,
                    wall_time: command.timeout,
                })
            }
            Err(status) => Err(status),
        }
    }

    /// Makes what actions left below a path of the build directory readable and
    /// removable.
    ///
    /// # Errors
    /// The runner is not ours, or fails.
    pub(crate) async fn reclaim(&self, path: &str) -> Result<(), Error> {
        if self.description.is_none() {
            return Err(Error::Runner(Status::unimplemented(
                "the runner does not offer hayloft.runner.v1",
            )));
        }
        let mut client = RunnerExtensionClient::new(self.channel.clone());
        let path = path.into();
        within(RECLAIM, client.reclaim(ReclaimRequest { path }))
            .await
            .map_err(Error::Runner)
    }
}

/// The answer to a call, if it comes in time.
async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    tokio::time::timeout(limit, call)
        .await
        .unwrap_or_else(|_| Err(Status::unavailable("the runner does not answer")))
        .map(tonic::Response::into_inner)
}
