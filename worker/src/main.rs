//! `bb_worker CONFIG`: the worker by itself.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::Parser;

/// Fetches inputs, has a runner run commands, stores outputs.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Only check the configuration and print what it amounts to, as JSON.
    #[arg(long)]
    check: bool,
    /// The configuration: TOML, or JSON where the name ends in .json.
    config: PathBuf,
}

fn main() -> anyhow::Result<()> {
    daemon::start();
    let arguments = Arguments::parse();
    let config: worker::Config = daemon::config::load(&arguments.config)?;
    if arguments.check {
        config.check()?;
        return Ok(daemon::config::print(&config)?);
    }
    daemon::run(async |shutdown| Ok(worker::run(config, shutdown).await?))
}
