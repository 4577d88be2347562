//! `hayloft up`: a whole farm on one machine.
//!
//! This process is the supervisor. It makes the state directory ([`state`]), who
//! runs as whom ([`identity`]), the listening sockets and configurations
//! ([`farm`]), and keeps one process for each role ([`child`]) until it is told
//! to stop.

use std::process::ExitCode;
use std::thread::available_parallelism;

use anyhow::{Context, Result};

pub mod child;
pub mod farm;
pub mod identity;
pub mod state;

pub use farm::{Farm, Listen, Options};

use crate::cli;

/// Runs a farm until SIGINT or SIGTERM.
///
/// # Errors
/// It cannot start; the message says what is in the way.
pub fn run(arguments: &cli::Up) -> Result<ExitCode> {
    daemon::start();
    let directory = match &arguments.dir {
        Some(directory) => directory.clone(),
        None => state::default_directory()?,
    };
    let options = Options {
        directory,
        listen: Listen::Tcp(arguments.listen.clone()),
        reuse: !arguments.no_reuse,
        slots: arguments.slots.unwrap_or_else(default_slots),
        platform: arguments.platform.clone(),
        root: arguments.root,
        limits: arguments.limits.clone(),
        cgroup: arguments.cgroup.clone(),
        action_cache_updates: arguments
            .allow_action_cache_updates
            .clone()
            .unwrap_or_default(),
        diagnostics: arguments.diagnostics,
        log: "info",
    };
    runtime()?.block_on(async {
        let shutdown = daemon::Shutdown::on_signals()?;
        let farm = Farm::start(&options)?;
        let ready = tokio::select! {
            ready = farm.ready() => ready,
            () = shutdown.cancelled() => Ok(()),
        };
        if ready.is_ok() && !shutdown.is_cancelled() {
            announce(&farm, &options);
            shutdown.cancelled().await;
        }
        farm.stop().await;
        ready.map(|()| ExitCode::SUCCESS)
    })
}

/// As many slots as there are processors.
#[must_use]
pub fn default_slots() -> u16 {
    available_parallelism().map_or(1, |count| u16::try_from(count.get()).unwrap_or(u16::MAX))
}

/// The supervisor's event loop. One thread: the kernel ties children that ask to
/// die with their parent to the thread that started them.
///
/// # Errors
/// The kernel refuses what an event loop needs.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")
}

/// Tells whoever started the farm how to use it. Nobody may be listening any
/// more; the farm runs all the same.
fn announce(farm: &Farm, options: &Options) {
    use std::io::Write;
    let address = farm.address();
    let directory = options.directory.display();
    let mut text = format!(
        "Hayloft takes actions at {address}\nState is in {directory}\n\n\
         In .bazelrc:\n    build --remote_executor={address}\n"
    );
    for (name, value) in &options.platform {
        text += &format!("    build --remote_default_exec_properties={name}={value}\n");
    }
    let mut stdout = std::io::stdout().lock();
    if let Err(error) = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        tracing::debug!(%error, "cannot announce the farm");
    }
}
