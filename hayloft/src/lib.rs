//! Hayloft on one machine: `hayloft up` is a whole farm, `hayloft run` a client
//! of any, `hayloft action` tells what a farm knows of an action, `hayloft queue` and
//! its like are for operators, `hayloft doctor` tells what isolation this host can give.
//!
//! The program executes itself anew in each role of the farm ([`role`]), so that
//! one binary is all there is to build and to install. [`main`] is a function of
//! the library so that tests can wrap the same program in a binary of their own.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

pub mod action;
pub mod cli;
pub mod client;
pub mod doctor;
pub mod operators;
pub mod report;
pub mod role;
pub mod run;
mod seccomp_profile;
pub mod stages;
pub mod store;
pub mod up;

/// Runs the program with the process's own arguments.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    let outcome = match arguments.command {
        cli::Command::Role(role) => return role::run(&role),
        cli::Command::Up(options) => up::run(&options),
        cli::Command::Run(options) => run::run(&options),
        cli::Command::Action(options) => action::run(&options),
        cli::Command::Queue(options) => operators::queue::run(&options),
        cli::Command::Workers(options) => operators::workers::run(&options),
        cli::Command::Drain(options) => operators::drain::run(&options),
        cli::Command::Kill(options) => operators::kill::run(&options),
        cli::Command::Doctor(options) => doctor::run(&options),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("hayloft: {error:#}");
        ExitCode::FAILURE
    })
}
