//! `bb_runner CONFIG`; see the library.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use runner::Config;

/// Runs commands in sandboxes, for a worker.
#[derive(Parser)]
#[command(name = "bb_runner", version)]
struct Arguments {
    /// Only check the configuration and print what it amounts to, as JSON.
    #[arg(long)]
    check: bool,
    /// Only print what would be done to make sandboxes here, step by step, and which
    /// protection each step gives.
    #[arg(long, conflicts_with = "check")]
    print_plan: bool,
    /// The configuration file: TOML, or JSON where its name ends in .json.
    config: PathBuf,
}

fn main() -> ExitCode {
    daemon::start();
    let arguments = Arguments::parse();
    let outcome = daemon::config::load::<Config>(&arguments.config)
        .map_err(anyhow::Error::from)
        .and_then(|config| {
            if arguments.check {
                check(config)
            } else if arguments.print_plan {
                print!("{}", runner::plan(config)?);
                Ok(ExitCode::SUCCESS)
            } else {
                Ok(runner::run(config))
            }
        });
    outcome.unwrap_or_else(|error| {
        tracing::error!("{error:#}");
        ExitCode::FAILURE
    })
}

fn check(config: Config) -> anyhow::Result<ExitCode> {
    let config = config.effective(nix::unistd::geteuid().is_root())?;
    println!("{}", serde_json::to_string_pretty(&config)?);
    Ok(ExitCode::SUCCESS)
}
