//! `bb_scheduler CONFIG`: the scheduler by itself.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Takes actions from clients and hands them to workers.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Only check the configuration and print what it amounts to, as JSON.
    #[arg(long)]
    check: bool,
    /// The configuration: TOML, or JSON where the name ends in .json.
    config: PathBuf,
}

fn main() -> ExitCode {
    daemon::start();
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let config: scheduler::Config = daemon::config::load(&arguments.config)?;
    if arguments.check {
        config.check()?;
        return Ok(daemon::config::print(&config)?);
    }
    daemon::run(async |shutdown| Ok(scheduler::run(config, shutdown).await?))
}
