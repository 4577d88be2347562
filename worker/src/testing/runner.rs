//! A runner without any sandbox.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use proto::wire::runner::runner_server::Runner;
use proto::wire::runner::{CheckReadinessRequest, RunRequest, RunResponse};
use proto::wire::runner_extension::runner_extension_server::RunnerExtension;
use proto::wire::runner_extension::{self as extension, DescribeResponse, ReclaimRequest};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

/// How a runner treats commands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manners {
    /// The user that commands run as; the test's own when absent.
    pub(crate) uid: Option<u32>,
    /// Answers this to the worker's probe of the seal: INVALID_ARGUMENT always,
    /// what may pass once.
    pub(crate) refuses: Option<Code>,
    /// Says that it has uids of its own, and takes standard output and error
    /// where they are there already.
    pub(crate) own_uids: bool,
    /// Refuses the first command of an action, as if it were stopping.
    pub(crate) stopping: bool,
    /// Does not offer hayloft.runner.v1.
    pub(crate) plain: bool,
}

/// Runs commands as plain processes in the build directory.
#[derive(Clone)]
pub(crate) struct FakeRunner {
    pub(crate) build_directory: PathBuf,
    pub(crate) manners: Manners,
    /// Whether the probe was refused before.
    pub(crate) refused: Arc<AtomicBool>,
}

impl FakeRunner {
    /// Leaves beside the build directory what came with a command.
    fn note(&self, headers: &MetadataMap) {
        if let Some(parent) = headers.get("traceparent") {
            let metadata = headers.get_bin("build.bazel.remote.execution.v2.requestmetadata-bin");
            let metadata = metadata.and_then(|value| value.to_bytes().ok());
            let subject = daemon::Subject::received(headers);
            let told = format!("{parent:?} {metadata:?} {subject:?}");
            std::fs::write(self.build_directory.with_file_name("called"), told).unwrap();
        }
    }

    async fn execute(
        &self,
        request: RunRequest,
        timeout: Option<Duration>,
    ) -> Result<Option<ExitStatus>, Status> {
        if let Some(code) = self.manners.refuses
            && request.arguments == ["./probe"]
            && (code == Code::InvalidArgument || !self.refused.swap(true, Ordering::SeqCst))
        {
            return Err(Status::new(code, "cannot find executable"));
        }
        if self.manners.stopping
            && request.arguments != ["./probe"]
            && !self.refused.swap(true, Ordering::SeqCst)
        {
            let mut status = Status::unavailable("stopping");
            let metadata = status.metadata_mut();
            metadata.insert(proto::status::NOT_BEGUN, "1".parse().unwrap());
            return Err(status);
        }
        let path = |relative: &str| self.build_directory.join(relative);
        let failed = |error: std::io::Error| Status::invalid_argument(error.to_string());
        let create = |relative: &str| match self.manners.own_uids {
            true => File::create(path(relative)).map_err(failed),
            false => File::create_new(path(relative)).map_err(failed),
        };
        let stdout = create(&request.stdout_path)?;
        let stderr = create(&request.stderr_path)?;
        let (program, arguments) = request
            .arguments
            .split_first()
            .ok_or_else(|| Status::invalid_argument("no arguments"))?;
        let root = path(&request.input_root_directory);
        let mut command = tokio::process::Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(&request.environment_variables)
            .env("TMPDIR", path(&request.temporary_directory))
            .env("LOGS", path(&request.server_logs_directory))
            .current_dir(root.join(&request.working_directory))
            .stdin(std::process::Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .kill_on_drop(true);
        if let Some(uid) = self.manners.uid {
            command.uid(uid).gid(uid);
        }
        // Another test of this process may be forking while a program is open
        // for writing. Only here: the worker itself never forks.
        let mut child = loop {
            match command.spawn() {
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {}
                other => break other.map_err(failed)?,
            }
        };
        let end = child.wait();
        match timeout {
            None => end.await.map(Some),
            Some(timeout) => tokio::time::timeout(timeout, end)
                .await
                .map_or(Ok(None), |ended| ended.map(Some)),
        }
        .map_err(failed)
    }
}

#[tonic::async_trait]
impl Runner for FakeRunner {
    async fn check_readiness(
        &self,
        request: Request<CheckReadinessRequest>,
    ) -> Result<Response<()>, Status> {
        let path = request.into_inner().path;
        if let Err(error) = self.build_directory.join(&path).symlink_metadata() {
            return Err(Status::internal(format!("{path}: {error}")));
        }
        if self.build_directory.with_file_name("unready").exists() {
            return Err(Status::unavailable("a mount is missing"));
        }
        Ok(Response::new(()))
    }

    async fn run(&self, request: Request<RunRequest>) -> Result<Response<RunResponse>, Status> {
        self.note(request.metadata());
        let status = self.execute(request.into_inner(), None).await?;
        Ok(Response::new(RunResponse {
            exit_code: status.and_then(|status| status.code()).unwrap_or(-1).into(),
            resource_usage: Vec::new(),
        }))
    }
}

#[tonic::async_trait]
impl RunnerExtension for FakeRunner {
    async fn describe(&self, _: Request<()>) -> Result<Response<DescribeResponse>, Status> {
        if self.manners.plain {
            return Err(Status::unimplemented("plain"));
        }
        Ok(Response::new(DescribeResponse {
            own_uids: self.manners.own_uids,
            ..Default::default()
        }))
    }

    async fn run(
        &self,
        request: Request<extension::RunRequest>,
    ) -> Result<Response<extension::RunResponse>, Status> {
        self.note(request.metadata());
        let request = request.into_inner();
        let timeout = request.timeout.as_ref().and_then(proto::messages::span);
        let plain = RunRequest {
            arguments: request.arguments,
            environment_variables: request.environment_variables,
            working_directory: request.working_directory,
            stdout_path: request.stdout_path,
            stderr_path: request.stderr_path,
            input_root_directory: request.input_root_directory,
            temporary_directory: request.temporary_directory,
            server_logs_directory: request.server_logs_directory,
        };
        let status = self.execute(plain, timeout).await?;
        let reason = match status {
            Some(_) => extension::termination::Reason::Exited,
            None => extension::termination::Reason::TimedOut,
        };
        let signal = status.and_then(|status| status.signal());
        let signal = signal.and_then(|signal| Signal::try_from(signal).ok());
        let name = signal.map_or("", Signal::as_str).trim_start_matches("SIG");
        let usage = proto::wire::resourceusage::PosixResourceUsage {
            termination_signal: name.into(),
            ..Default::default()
        };
        let exit_code = status.map_or(137, |status| status.code().unwrap_or(-1));
        Ok(Response::new(extension::RunResponse {
            exit_code: exit_code.into(),
            resource_usage: vec![proto::messages::pack(&usage)],
            termination: Some(extension::Termination {
                reason: reason.into(),
                ..Default::default()
            }),
        }))
    }

    async fn reclaim(&self, request: Request<ReclaimRequest>) -> Result<Response<()>, Status> {
        let path = self.build_directory.join(request.into_inner().path);
        let status = tokio::process::Command::new("chmod")
            .args(["-R", "0777"])
            .arg(path)
            .status()
            .await?;
        if status.success() {
            Ok(Response::new(()))
        } else {
            Err(Status::internal("chmod failed"))
        }
    }
}
