//! `buildbarn.runner.Runner`.

use std::convert::Infallible;

use daemon::Subject;
use proto::wire::runner::runner_server::Runner;
use proto::wire::runner::{CheckReadinessRequest, RunRequest, RunResponse};
use sandbox::End;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use crate::error::Error;
use crate::launcher::Launcher;
use crate::upkeep::Upkeep;
use crate::{request, result};

/// Runs commands as Buildbarn's workers ask for it.
///
/// Cancelling a call, its deadline (`grpc-timeout`) and the loss of its
/// connection drop its future, which kills the command.
///
/// Those workers cannot ask for what commands left to be opened up (`Reclaim` of
/// `hayloft.runner.v1`), and where they are another user than the commands could neither
/// read nor remove all of it. So it is done after each of their commands.
#[derive(Clone, Debug)]
pub(crate) struct RunnerService {
    pub(crate) launcher: Launcher,
    pub(crate) upkeep: Upkeep,
    pub(crate) set_tmpdir: bool,
    /// The user and group that commands see themselves as.
    pub(crate) user_id: u32,
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
        let request = request::validate(request, self.set_tmpdir, self.user_id)?;
        let (alive, dead) = oneshot::channel();
        // Apart from this call: a worker collects outputs after a timeout, too.
        let reclaimed = tokio::spawn(reclaim(self.launcher.clone(), left(&request), dead));
        let done = self
            .upkeep
            .run(&request, Some(alive))
            .instrument(span)
            .await;
        // It fails only by a panic, and then there is nothing to wait for.
        let _ = reclaimed.await;
        let done = done?;
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

/// The directories in which a command may have left something.
fn left(request: &sandbox::RunRequest) -> Vec<Vec<u8>> {
    let all = [
        &request.input_root_directory,
        &request.temporary_directory,
        &request.server_logs_directory,
    ];
    let named = all.into_iter().filter(|path| !path.is_empty());
    named.cloned().collect()
}

/// Opens up directories when their command is dead.
async fn reclaim(
    launcher: Launcher,
    directories: Vec<Vec<u8>>,
    dead: oneshot::Receiver<Infallible>,
) {
    // It ends without a value: there is none.
    let _ = dead.await;
    for directory in directories {
        if let Err(error) = launcher.reclaim(directory).await {
            // The worker says what it can do without.
            tracing::debug!(%error, "cannot reclaim");
        }
    }
}
