//! The roles of a farm, each the program of its own crate.

use std::os::unix::process::parent_id;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Subcommand;
use nix::sys::signal::Signal;

/// The variable in which a supervisor tells the roles it starts who it is.
pub const SUPERVISOR: &str = "HAYLOFT_SUPERVISOR";

/// One role of a farm, as its own process.
#[derive(Clone, Debug, Subcommand)]
pub enum Role {
    /// Embedded storage and the endpoint for clients.
    Storage {
        /// The configuration file.
        config: PathBuf,
    },
    /// As `bb_scheduler`.
    Scheduler {
        /// The configuration file.
        config: PathBuf,
    },
    /// As `bb_worker`.
    Worker {
        /// The configuration file.
        config: PathBuf,
    },
    /// As `bb_runner`.
    Runner {
        /// The configuration file.
        config: PathBuf,
    },
}

/// Runs one role until it is told to stop.
#[must_use]
pub fn run(role: &Role) -> ExitCode {
    daemon::start();
    let outcome = die_with_supervisor().and_then(|()| match role {
        // The runner splits into its two halves while there is one thread.
        Role::Runner { config } => Ok(runner::run(daemon::config::load(config)?)),
        Role::Storage { config } => {
            let config = daemon::config::load(config)?;
            daemon::run(async |shutdown| Ok(storage::program::run(config, shutdown).await?))
                .map(|()| ExitCode::SUCCESS)
        }
        Role::Scheduler { config } => {
            let config = daemon::config::load(config)?;
            daemon::run(async |shutdown| Ok(scheduler::run(config, shutdown).await?))
                .map(|()| ExitCode::SUCCESS)
        }
        Role::Worker { config } => {
            let config = daemon::config::load(config)?;
            daemon::run(async |shutdown| Ok(worker::run(config, shutdown).await?))
                .map(|()| ExitCode::SUCCESS)
        }
    });
    outcome.unwrap_or_else(|error| {
        tracing::error!("{error:#}");
        ExitCode::FAILURE
    })
}

/// Asks the kernel to kill this process when its supervisor dies, however that
/// happens, so that no role outlives its farm (`PR_SET_PDEATHSIG`). Roles started
/// by hand have no supervisor and live on their own.
fn die_with_supervisor() -> Result<()> {
    let Some(supervisor) = std::env::var(SUPERVISOR).ok() else {
        return Ok(());
    };
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("cannot follow the supervisor")?;
    // It may have died before the request was made.
    anyhow::ensure!(
        supervisor == parent_id().to_string(),
        "the supervisor is gone"
    );
    Ok(())
}
