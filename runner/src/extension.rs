//! `hayloft.runner.v1.RunnerExtension`: what Buildbarn's protocol has no place for.

use daemon::Subject;
use proto::wire::runner_extension::describe_response::Root as WireRoot;
use proto::wire::runner_extension::runner_extension_server::RunnerExtension;
use proto::wire::runner_extension::{
    DescribeResponse, Protection, ReclaimRequest, RunRequest, RunResponse,
};
use sandbox::Limits;
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use crate::config::Root;
use crate::launcher::Launcher;
use crate::upkeep::Upkeep;
use crate::{request, result};

/// Says what the sandbox is, runs commands that have a timeout, and cleans what
/// they left.
#[derive(Clone, Debug)]
pub(crate) struct ExtensionService {
    pub(crate) launcher: Launcher,
    pub(crate) upkeep: Upkeep,
    pub(crate) set_tmpdir: bool,
    pub(crate) root: Root,
    /// The user and group that commands see themselves as.
    pub(crate) user_id: u32,
    /// What commands have where their requests say nothing else.
    pub(crate) limits: Limits,
}

#[tonic::async_trait]
impl RunnerExtension for ExtensionService {
    async fn describe(&self, _: Request<()>) -> Result<Response<DescribeResponse>, Status> {
        let protections = self.launcher.protections();
        let holds = |wanted| {
            let mut held = protections.iter().filter(|one| one.held);
            held.any(|held| held.protection == wanted)
        };
        let root = match self.root {
            Root::Host => WireRoot::Host,
            Root::Input => WireRoot::Input,
        };
        Ok(Response::new(DescribeResponse {
            root: root.into(),
            maximum_layers: match self.launcher.overlays() {
                true => u32::try_from(sandbox::MOST_LAYERS).unwrap_or(u32::MAX),
                false => 0,
            },
            user_id: Some(self.user_id),
            // A user namespace of the command's own is what gives it others.
            any_ids: holds(sandbox::Protection::UserNamespace),
            own_uids: holds(sandbox::Protection::OwnUid),
            protections: protections
                .iter()
                .map(|held| Protection {
                    name: held.protection.name().to_owned(),
                    held: held.held,
                    detail: held.why.clone(),
                })
                .collect(),
        }))
    }

    async fn run(&self, request: Request<RunRequest>) -> Result<Response<RunResponse>, Status> {
        let span = Subject::received(request.metadata()).span();
        let request = request.into_inner();
        if request.overlay.is_some() && !self.launcher.overlays() {
            return Err(Status::unimplemented("overlay: this host cannot make any"));
        }
        let request = request::validate(request, self.set_tmpdir, self.user_id)?;
        let done = self.upkeep.run(&request, None).instrument(span).await?;
        let limits = self.limits.overridden(&request.limits);
        Ok(Response::new(RunResponse {
            exit_code: result::exit_code(done.end)?,
            resource_usage: result::resource_usage(&done),
            termination: Some(result::termination(&done, &limits)),
        }))
    }

    async fn reclaim(&self, request: Request<ReclaimRequest>) -> Result<Response<()>, Status> {
        let path = request::path("path", &request.into_inner().path)?;
        let changed = self.launcher.reclaim(path).await?;
        tracing::debug!(changed, "reclaimed");
        Ok(Response::new(()))
    }
}
