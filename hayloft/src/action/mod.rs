//! `hayloft action`: what a farm knows of an action.
//!
//! An action's digest leads to what ran ([`known`] reads it from the CAS) and, as long
//! as the action cache has its result, to what became of it. What failed is in no
//! action cache: workers keep it as a HistoricalExecuteResponse
//! (`buildbarn.cas`), whose digest is in their message.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use proto::InstanceName;

mod json;
mod known;
mod name;
mod text;

pub use name::{Name, NameError};

use crate::cli;
use crate::client::Client;
use crate::up;

/// How many inputs and outputs are listed unless all are asked for.
const SOME: usize = 50;

/// And then, so that no tree fills the memory.
const ALL: usize = 1_000_000;

/// Prints what is known of an action.
///
/// # Errors
/// The farm cannot be asked, or does not have the blob.
pub fn run(arguments: &cli::Action) -> Result<ExitCode> {
    daemon::start_quiet();
    let farm = arguments.credentials.to(arguments.remote.clone());
    let limit = if arguments.all { ALL } else { SOME };
    let printed = up::runtime()?.block_on(async {
        let client = Client::connect(&farm, InstanceName::new(&arguments.instance)?)?;
        let known = known::Known::of(&client, arguments.digest.0, limit).await?;
        anyhow::Ok(if arguments.json {
            format!("{:#}\n", json::report(&known)).into_bytes()
        } else {
            text::describe(&known)
        })
    })?;
    // A reader that has gone away wants no more.
    let _ = std::io::stdout().write_all(&printed);
    Ok(ExitCode::SUCCESS)
}
