//! `bb_runner CONFIG`; see the library. Called `bb_runner_installer`, the program puts
//! itself into a directory.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use runner::Config;
use runner::install::{self, Installed, install};

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

/// Puts the runner into a directory, for a container of another userland to run it.
#[derive(Parser)]
#[command(name = install::NAME, version)]
struct InstallerArguments {
    /// Where `bb_runner` is to be, and `installed` when it is there.
    #[arg(default_value = install::DIRECTORY)]
    directory: PathBuf,
}

fn main() -> ExitCode {
    let name = std::env::args_os().next();
    if name.is_some_and(|name| Path::new(&name).file_name() == Some(install::NAME.as_ref())) {
        return installer(&InstallerArguments::parse().directory);
    }
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

fn installer(directory: &Path) -> ExitCode {
    let runner = directory.join("bb_runner");
    let said = match install(Path::new("/proc/self/exe"), directory) {
        Ok(Installed::New) => "installed",
        Ok(Installed::Replaced) => "replaced, and what runs goes on with the old one",
        Ok(Installed::Kept) => "there already",
        Err(error) => {
            eprintln!("{}: {error}", install::NAME);
            return ExitCode::FAILURE;
        }
    };
    println!("{} {}: {said}", runner.display(), env!("CARGO_PKG_VERSION"));
    ExitCode::SUCCESS
}

fn check(config: Config) -> anyhow::Result<ExitCode> {
    let config = config.effective(nix::unistd::geteuid().is_root())?;
    println!("{}", serde_json::to_string_pretty(&config)?);
    Ok(ExitCode::SUCCESS)
}
