//! `bb_runner`: runs one command per request in one sandbox per command.
//!
//! [`run`] binds the listening sockets, then cuts the process in two
//! ([`sandbox::split`]). The *launcher* half makes the sandboxes; the *service*
//! half, here, speaks gRPC and has no rights at all: a request is validated
//! (`request`), sent to the launcher (`launcher`), and its outcome told in the
//! protocol's words (`result`). Two services share the socket: Buildbarn's own
//! (`service`) and what it has no place for (`extension`). What is to be done around
//! commands (`upkeep`) a third process does (`attendant`), where anything is.

#![forbid(unsafe_code)]

mod attendant;
mod config;
mod error;
mod extension;
pub mod install;
mod launcher;
mod limits;
mod request;
mod result;
mod serve;
mod service;
mod upkeep;

use std::fs::Permissions;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;

use daemon::endpoint::Protocol;
use daemon::listener::Socket;
use daemon::{Address, Endpoint};

pub use config::{Config, Importance, Root, UidRange};
pub use error::{Error, StartError};
pub use limits::CommandLimits;
pub use request::validate;

/// Runs a runner until it is told to stop (SIGTERM or SIGINT: commands under way
/// are finished, a second one kills them). Call it while the process has one
/// thread: it forks.
///
/// Either half's end, however it comes, ends the other one and every command.
#[must_use]
pub fn run(config: Config) -> ExitCode {
    start(config).unwrap_or_else(|error| {
        tracing::error!("{error}");
        ExitCode::FAILURE
    })
}

/// What a runner of this configuration would do on this host, step by step, with
/// the protection that each step gives. Nothing is started. Call it while the process
/// has one thread: it forks.
///
/// # Errors
/// The configuration makes no sense, or the host cannot give what it requires.
pub fn plan(config: Config) -> Result<sandbox::Plan, StartError> {
    let config = config.effective(nix::unistd::geteuid().is_root())?;
    let probe = sandbox::Probe::run().map_err(sandbox::Error::Probe)?;
    let plan = sandbox::Plan::new(&config.policy()?, &probe);
    Ok(plan.map_err(sandbox::Error::Refused)?)
}

fn start(config: Config) -> Result<ExitCode, StartError> {
    let config = config.effective(nix::unistd::geteuid().is_root())?;
    let mut sockets = Vec::new();
    for endpoint in &config.grpc_servers {
        sockets.extend(bind(endpoint)?);
    }
    let diagnostics = config.global.bind()?;
    let duties = config.duties();
    let attendant = match duties.any() {
        true => Some(sandbox::attend(|stream| duties.attend(stream))?),
        false => None,
    };
    let sockets_kept = sockets.iter().chain(&diagnostics).map(AsFd::as_fd);
    let attendants = attendant.iter().map(AsFd::as_fd);
    let keep = sockets_kept.chain(attendants);
    let sandbox = config.sandbox(keep.map(|fd| fd.as_raw_fd()).collect())?;
    let code = sandbox::split(sandbox, |client| {
        serve::run(client, sockets, diagnostics, attendant, &config).unwrap_or_else(|error| {
            tracing::error!("{error}");
            ExitCode::FAILURE
        })
    })?;
    Ok(code)
}

/// Binds sockets that the worker, another user, can connect to. Their directory
/// says who reaches them.
fn bind(endpoint: &Endpoint) -> Result<Vec<Socket>, StartError> {
    let sockets = endpoint.bind(Protocol::Grpc)?;
    for address in endpoint.addresses() {
        if let Address::Unix(path) = address {
            std::fs::set_permissions(&path, Permissions::from_mode(0o666))
                .map_err(|source| StartError::Permissions { path, source })?;
        }
    }
    Ok(sockets)
}
