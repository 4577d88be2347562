//! The service half.

use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use daemon::listener::Socket;
use daemon::{Diagnostics, Listener, Shutdown};
use proto::wire::runner::runner_server::RunnerServer;
use proto::wire::runner_extension::runner_extension_server::RunnerExtensionServer;
use sandbox::{Client, Need, Protection};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tonic::service::Routes;

use crate::attendant::Attendant;
use crate::config::Config;
use crate::error::StartError;
use crate::extension::ExtensionService;
use crate::launcher::Launcher;
use crate::service::RunnerService;
use crate::upkeep::Upkeep;

/// Most bytes of a request: what the launcher takes, and some for the framing.
const REQUEST_BYTES: usize = (sandbox::RUN_BYTES as usize) + (64 << 10);

/// Serves until told to stop or until the launcher is gone.
///
/// One thread does it all: there is little to compute, and no other thread has to
/// be woken between a request and its sandbox.
pub(crate) fn run(
    client: Client,
    sockets: Vec<Socket>,
    diagnostics: Vec<Socket>,
    attendant: Option<UnixStream>,
    config: &Config,
) -> Result<ExitCode, StartError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::Serve)?
        .block_on(serve(client, sockets, diagnostics, attendant, config))
}

async fn serve(
    client: Client,
    sockets: Vec<Socket>,
    diagnostics_sockets: Vec<Socket>,
    attendant: Option<UnixStream>,
    config: &Config,
) -> Result<ExitCode, StartError> {
    let concurrent = config.maximum_concurrent.unwrap_or(1);
    let launcher = Launcher::new(client, concurrent).map_err(StartError::Serve)?;
    let attendant = match attendant {
        Some(stream) => Some(
            Attendant::new(stream)
                .await
                .map_err(StartError::Attendant)?,
        ),
        None => None,
    };
    let upkeep = Upkeep::new(launcher.clone(), attendant, &config.duties());
    for held in launcher.protections().iter().filter(|held| !held.held) {
        let (protection, why) = (held.protection, &held.why);
        tracing::warn!(%protection, why, remedy = held.remedy, "commands run without a protection");
    }
    for limit in launcher.unenforced() {
        tracing::warn!(%limit, "a limit is not enforced: there is no control group for it");
    }
    let shutdown = stop_on_signal(launcher.clone()).map_err(StartError::Serve)?;
    let diagnostics = Diagnostics::new(&shutdown);
    diagnostics.serve_on(&config.global, diagnostics_sockets)?;
    let policy = config.policy()?;
    // Without a user namespace commands see who they are.
    let user_id = match policy.need(Protection::UserNamespace) {
        Need::Off => nix::unistd::geteuid().as_raw(),
        _ => policy.inner_id,
    };
    let runner = RunnerServer::new(RunnerService {
        launcher: launcher.clone(),
        upkeep: upkeep.clone(),
        set_tmpdir: config.set_tmpdir_environment_variable,
        user_id,
    });
    let extension = RunnerExtensionServer::new(ExtensionService {
        launcher: launcher.clone(),
        upkeep: upkeep.clone(),
        set_tmpdir: config.set_tmpdir_environment_variable,
        root: config.root,
        user_id,
        limits: config.limits.checked().unwrap_or_default(),
    });
    let routes = Routes::new(runner.max_decoding_message_size(REQUEST_BYTES))
        .add_service(extension.max_decoding_message_size(REQUEST_BYTES));
    let mut servers = JoinSet::new();
    for socket in sockets {
        let listener = Listener::try_from(socket).map_err(StartError::Serve)?;
        tracing::info!("serving on {}", listener.local_address());
        // A worker that stops finishes its actions first, however long they take.
        let served = daemon::serve_to_the_end(listener, routes.clone(), diagnostics.clone());
        servers.spawn(served);
    }
    diagnostics.ready(true);
    loop {
        tokio::select! {
            () = launcher.gone() => return Ok(ExitCode::FAILURE),
            () = upkeep.gone() => return Ok(ExitCode::FAILURE),
            ended = servers.join_next() => match ended {
                Some(Ok(outcome)) => outcome?,
                Some(Err(panic)) => return Err(StartError::Serve(panic.into())),
                None => {
                    upkeep.finish().await;
                    return Ok(ExitCode::SUCCESS);
                }
            },
        }
    }
}

/// What SIGTERM, which the launcher passes on once, triggers: commands under way
/// are finished, others refused. Further ones mean nothing here, since it is the
/// launcher that a second one tells to end everything; nor does SIGINT, which a
/// terminal sends to both halves.
fn stop_on_signal(launcher: Launcher) -> std::io::Result<Shutdown> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = Shutdown::new();
    let told = shutdown.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {
                    tracing::info!("stopping");
                    launcher.stop();
                    told.cancel();
                }
            }
        }
    });
    Ok(shutdown)
}
