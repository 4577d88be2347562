//! The roles of a farm, each the program of its own crate.

use std::os::unix::process::parent_id;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use nix::sys::signal::Signal;

use crate::store::{self, Look};

/// The variable in which a supervisor tells the roles it starts who it is.
pub const SUPERVISOR: &str = "HAYLOFT_SUPERVISOR";

/// One role of a farm, as its own process.
#[derive(Clone, Debug, Subcommand)]
pub enum Role {
    /// Embedded storage and the endpoint for clients; or look at a store.
    #[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
    Storage {
        /// Where and how.
        #[command(flatten)]
        file: Option<File>,
        /// What to do instead of serving.
        #[command(subcommand)]
        look: Option<Look>,
    },
    /// As `bb_scheduler`.
    Scheduler {
        /// Where and how.
        #[command(flatten)]
        file: File,
    },
    /// As `bb_worker`.
    Worker {
        /// Where and how.
        #[command(flatten)]
        file: File,
    },
    /// As `bb_runner`.
    Runner {
        /// Where and how.
        #[command(flatten)]
        file: File,
    },
}

/// What a role is told on the command line.
#[derive(Args, Clone, Debug)]
pub struct File {
    /// Only check the configuration and print what it amounts to, as JSON.
    #[arg(long)]
    check: bool,
    /// The configuration file: TOML, or JSON where its name ends in .json.
    config: PathBuf,
}

/// Runs one role until it is told to stop.
#[must_use]
pub fn run(role: &Role) -> ExitCode {
    if let Role::Storage {
        look: Some(look), ..
    } = role
    {
        return store::run(look).unwrap_or_else(|error| {
            eprintln!("hayloft: {error:#}");
            ExitCode::FAILURE
        });
    }
    daemon::start();
    let outcome = die_with_supervisor().and_then(|()| match role {
        // The runner splits into its two halves while there is one thread.
        Role::Runner { file } => {
            let config: runner::Config = daemon::config::load(&file.config)?;
            if file.check {
                let as_root = nix::unistd::geteuid().is_root();
                return print(&config.effective(as_root)?);
            }
            Ok(runner::run(config))
        }
        Role::Storage { file, .. } => {
            let file = file.as_ref().context("a configuration is needed")?;
            let config: storage::config::Config = daemon::config::load(&file.config)?;
            if file.check {
                return print(&config);
            }
            daemon::run(async |shutdown| Ok(storage::program::run(config, shutdown).await?))
                .map(|()| ExitCode::SUCCESS)
        }
        Role::Scheduler { file } => {
            let config: scheduler::Config = daemon::config::load(&file.config)?;
            if file.check {
                config.check()?;
                return print(&config);
            }
            daemon::run(async |shutdown| Ok(scheduler::run(config, shutdown).await?))
                .map(|()| ExitCode::SUCCESS)
        }
        Role::Worker { file } => {
            let config: worker::Config = daemon::config::load(&file.config)?;
            if file.check {
                config.check()?;
                return print(&config);
            }
            daemon::run(async |shutdown| Ok(worker::run(config, shutdown).await?))
                .map(|()| ExitCode::SUCCESS)
        }
    });
    outcome.unwrap_or_else(|error| {
        tracing::error!("{error:#}");
        ExitCode::FAILURE
    })
}

fn print(config: &impl serde::Serialize) -> Result<ExitCode> {
    daemon::config::print(config)?;
    Ok(ExitCode::SUCCESS)
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
