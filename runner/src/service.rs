//! `buildbarn.runner.Runner`.

use daemon::Subject;
use proto::wire::runner::runner_server::Runner;
use proto::wire::runner::{CheckReadinessRequest, RunRequest, RunResponse};
use sandbox::End;
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use crate::error::Error;
use crate::upkeep::Upkeep;
use crate::{request, result};

/// Runs commands as Buildbarn's workers ask for it.
///
/// Cancelling a call, its deadline (`grpc-timeout`) and the loss of its
/// connection drop its future, which kills the command.
#[derive(Clone, Debug)]
pub(crate) struct RunnerService {
    pub(crate) upkeep: Upkeep,
    pub(crate) set_tmpdir: bool,
}

#[tonic::async_trait]
impl Runner for RunnerService {
    async fn check_readiness(
        &self,
        request: Request<CheckReadinessRequest>,
    ) -> Result<Response<()>, Status> {
        let path = request::path("path", &request.into_inner().path)?;
        self.upkeep.check_readiness(path).await?;
        Ok(Response::new(()))
    }

    async fn run(&self, request: Request<RunRequest>) -> Result<Response<RunResponse>, Status> {
        let span = Subject::received(request.metadata()).span();
        let request = request::without_timeout(request.into_inner());
        let request = request::validate(request, self.set_tmpdir)?;
        let done = self.upkeep.run(&request).instrument(span).await?;
        if let Some(limit) = done.exceeded {
            // Buildbarn's answer has no place for it, and a mere exit code would be a lie.
            return Err(Error::Exceeded(limit).into());
        }
        debug_assert!(done.end != End::TimedOut, "there was no timeout");
        Ok(Response::new(RunResponse {
            exit_code: result::exit_code(done.end)?,
            resource_usage: result::resource_usage(&done),
        }))
    }
}
