//! Measurements of Hayloft, each as a ratio to a floor measured in the same run:
//! machines differ and are shared, ratios hold.
//!
//! `cargo run --release -p bench -- noop` measures what an action costs beyond the
//! process it runs; `help` tells of the others.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod dispatch;
mod empty_calls;
mod farm;
mod fetch;
mod floor;
mod launch;
mod memory;
mod noop;
mod outputs;
mod plot;
mod queue;
mod roots;
mod statistics;
mod storage;

#[derive(Parser)]
#[command(name = "hayloft-bench")]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// No-op actions through a whole farm, beside plain fork and exec.
    Noop(noop::Options),
    /// Filling the worker's file cache, beside reading and hashing the same bytes.
    Fetch(fetch::Options),
    /// Making input roots, beside a loop of links.
    Roots(roots::Options),
    /// What a worker's memory grows to with many large input roots.
    Memory(memory::Options),
    /// Programs in sandboxes, beside posix_spawn and bubblewrap.
    Launch(launch::Options),
    /// The embedded store, beside files and empty calls.
    #[command(name = "store")]
    Storage(storage::Options),
    /// The scheduler's queue by itself, beside one BTreeMap.
    Queue(queue::Options),
    /// Storing an action's outputs, beside writing and hashing as much.
    Outputs(outputs::Options),
    /// The scheduler through gRPC, with simulated workers, beside empty calls.
    Dispatch(dispatch::Options),
}

fn main() -> ExitCode {
    // The farm under measurement is this very program in other roles.
    if farm::is_role() {
        return hayloft::main();
    }
    if std::env::args().nth(1).as_deref() == Some(launch::launcher::ROLE) {
        return launch::launcher::main().unwrap_or_else(|error| {
            eprintln!("hayloft-bench: {error:#}");
            ExitCode::FAILURE
        });
    }
    let outcome = match Arguments::parse().bench {
        Bench::Noop(options) => noop::run(&options),
        Bench::Fetch(options) => fetch::run(&options),
        Bench::Roots(options) => roots::run(&options),
        Bench::Memory(options) => memory::run(&options),
        Bench::Launch(options) => launch::run(&options),
        Bench::Storage(options) => storage::run(&options),
        Bench::Queue(options) => queue::run(&options),
        Bench::Outputs(options) => outputs::run(&options),
        Bench::Dispatch(options) => dispatch::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hayloft-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
