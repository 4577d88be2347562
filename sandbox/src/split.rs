//! Cutting the process in two.

use std::io;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::ExitCode;

use thiserror::Error;

use crate::client::Client;
use crate::plan::{Plan, Refusal};
use crate::policy::Policy;
use crate::probe::Probe;

/// What [`split`] needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// What is wanted of sandboxes.
    pub policy: Policy,
    /// The absolute directory that all paths of requests are relative to.
    pub build_directory: PathBuf,
    /// How many sandboxes are kept ready ahead of commands; at least 1.
    pub pool_size: usize,
    /// What the service half becomes.
    pub service: ServiceHalf,
}

/// What the service half becomes.
#[derive(Debug, Clone)]
pub struct ServiceHalf {
    /// The uid and gid it takes when the process is root; not 0 then, and not
    /// of the range commands run at. A process that is not root stays who it is.
    pub uid: u32,
    /// See `uid`.
    pub gid: u32,
    /// Descriptors it keeps besides 0, 1, 2 and the socket: its listeners.
    /// It can open no file or directory any more, nor bind a unix socket: what
    /// it needs is to be read or bound before [`split`].
    pub keep: Vec<RawFd>,
}

/// Why the two halves could not be set up, or ended.
#[derive(Debug, Error)]
pub enum Error {
    /// What the policy wants cannot be had here.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// [`split`] forks, which a process with threads must not.
    #[error("the process has {0} threads; it must be split while it has one")]
    Threads(usize),
    /// The configuration makes no sense.
    #[error("{0}")]
    Config(&'static str),
    /// The host could not be probed.
    #[error("probing the host failed: {0}")]
    Probe(#[source] io::Error),
    /// A step of the start failed.
    #[error("cannot {step}: {source}")]
    Start {
        /// What was being done.
        step: String,
        /// Why it failed.
        source: io::Error,
    },
    /// No sandbox could be made, though the probe found everything there.
    #[error("the first sandbox failed to {step}: {source}")]
    FirstSandbox {
        /// What was being done.
        step: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The launcher's event loop failed.
    #[error("the launcher failed to {step}: {source}")]
    Launcher {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// Cuts the process in two. Call it while the process has a single thread.
///
/// The host is probed and the plan made first, so that a refusal is returned
/// before anything happened. Then the process forks:
///
/// - The **child** becomes the service half: [`ServiceHalf`]'s ids, no
///   capability, `no_new_privs`, dead when the launcher dies, not dumpable, no
///   access to the file system, no new programs, no signals to others; only the
///   listed descriptors. It runs `service` once the first sandbox is ready and
///   leaves with the exit code that returns: `split` does not return in it.
/// - The **parent** becomes the launcher and serves the child until it ends;
///   then every sandbox is killed and reaped, and the child's exit code is
///   returned (128 + n when signal n ended it). SIGTERM or SIGINT to the
///   launcher is passed on as SIGTERM once, for the service half to finish what
///   runs and leave; a second one ends everything at once.
///
/// The launcher leaves its mount namespace: after `split` returns, the host's
/// files are out of reach.
///
/// # Errors
/// See [`Error`]. When one is returned, neither child nor sandbox is left.
pub fn split(config: Config, service: impl FnOnce(Client) -> ExitCode) -> Result<ExitCode, Error> {
    let probe = Probe::run().map_err(Error::Probe)?;
    let _plan = Plan::new(&config.policy, &probe)?;
    let _ = service;
    Err(Error::Config("in progress"))
}
