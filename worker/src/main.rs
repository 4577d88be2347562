//! `bb_worker CONFIG`: the worker by itself.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;
use daemon::Shutdown;

/// Fetches inputs, has a runner run commands, stores outputs.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The configuration: TOML, or JSON where the name ends in .json.
    config: PathBuf,
}

fn main() -> anyhow::Result<()> {
    daemon::start();
    let arguments = Arguments::parse();
    let config = daemon::config::load(&arguments.config)?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start threads")?
        .block_on(async { worker::run(config, Shutdown::on_signals()?).await })?;
    Ok(())
}
