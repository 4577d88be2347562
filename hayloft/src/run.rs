//! `hayloft run`: one command, executed remotely.
//!
//! Exits with the command's own code; with 124 when it ran out of time, as
//! `timeout(1)` does, and with 125 when the farm could not run it.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use proto::InstanceName;
use proto::wire::rev2;
use proto::wire::rev2::execution_stage::Value as Stage;
use tonic::Code;

use crate::cli;
use crate::client::inputs::Inputs;
use crate::client::{Client, Spec};
use crate::up::{self, Farm, Listen};

const TIMED_OUT: u8 = 124;
const NOT_RUN: u8 = 125;

/// Runs the command.
///
/// # Errors
/// The inputs cannot be read, the farm cannot be reached or started, or the
/// outputs cannot be written.
pub fn run(arguments: &cli::Run) -> Result<ExitCode> {
    daemon::start_quiet();
    up::runtime()?.block_on(async {
        let shutdown = daemon::Shutdown::on_signals()?;
        if let Some(remote) = &arguments.remote {
            return execute(arguments, remote, &shutdown).await;
        }
        // A farm for this one command leaves nothing behind.
        let folder = tempfile::Builder::new().prefix("hayloft-").tempdir()?;
        let farm = Farm::start(&up::Options {
            directory: folder.path().into(),
            listen: Listen::Private,
            slots: 1,
            platform: Vec::new(),
            root: arguments.root,
            log: "error",
        })?;
        let outcome = match farm.ready().await {
            Ok(()) => execute(arguments, farm.address(), &shutdown).await,
            Err(error) => Err(error.context("cannot start a farm for the command")),
        };
        farm.stop().await;
        outcome
    })
}

async fn execute(
    arguments: &cli::Run,
    remote: &daemon::Address,
    shutdown: &daemon::Shutdown,
) -> Result<ExitCode> {
    let client = Client::connect(remote, InstanceName::new(&arguments.instance)?)?;
    let progress = Display::new();
    progress.say("reading inputs");
    let inputs = match &arguments.input {
        Some(folder) => Inputs::read(folder)?,
        None => Inputs::empty(),
    };
    let root = inputs.root();
    progress.say("uploading inputs");
    inputs
        .upload(&client)
        .await
        .with_context(|| format!("cannot upload the inputs to {remote}"))?;
    let action = client.upload_action(&spec(arguments), root).await?;
    let mut operation = None;
    let execution = client.execute(action, arguments.no_cache, |update| {
        operation = Some(update.operation.clone());
        progress.say(match update.stage {
            Stage::CacheCheck => "looking for an earlier result",
            Stage::Queued => "waiting for a worker",
            Stage::Executing => "running",
            Stage::Completed | Stage::Unknown => "done",
        });
    });
    let response = tokio::select! {
        response = execution => Some(response?),
        () = shutdown.cancelled() => None,
    };
    progress.clear();
    let Some(response) = response else {
        if let Some(operation) = operation {
            client.cancel(&operation).await?;
        }
        return Ok(ExitCode::from(130));
    };
    finish(&client, &response).await
}

fn spec(arguments: &cli::Run) -> Spec {
    let mut environment = arguments.env.clone();
    // An action's environment is what it says and nothing else; without a PATH
    // hardly any command would be found.
    if !environment.iter().any(|(name, _)| name == "PATH") {
        environment.push(("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into()));
    }
    Spec {
        arguments: arguments.command.clone(),
        environment,
        outputs: arguments.output.clone(),
        platform: arguments.platform.clone(),
        timeout: arguments.timeout.map(Duration::from_secs),
        do_not_cache: arguments.no_cache,
    }
}

/// Shows what the action printed, fetches its outputs and gives its exit code.
async fn finish(client: &Client, response: &rev2::ExecuteResponse) -> Result<ExitCode> {
    let result = response.result.clone().unwrap_or_default();
    let stdout = client
        .fetch_stream(&result.stdout_raw, result.stdout_digest.as_ref())
        .await?;
    let stderr = client
        .fetch_stream(&result.stderr_raw, result.stderr_digest.as_ref())
        .await?;
    // A reader that has gone away wants no more; that is no failure of the action.
    let _ = std::io::stdout().write_all(&stdout);
    let _ = std::io::stderr().write_all(&stderr);
    client.download(&result, Path::new(".")).await?;
    let Some(status) = response.status.as_ref().filter(|status| status.code != 0) else {
        return Ok(ExitCode::from(u8::try_from(result.exit_code & 0xff)?));
    };
    let status = proto::status::from_wire(status);
    eprintln!(
        "hayloft: {}",
        crate::client::execution::describe_status(&status)
    );
    Ok(ExitCode::from(match status.code() {
        Code::DeadlineExceeded => TIMED_OUT,
        _ => NOT_RUN,
    }))
}

/// What is going on, for a person at a terminal; nothing in a pipe.
struct Display(Option<ProgressBar>);

impl Display {
    fn new() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(Some(bar))
    }

    fn say(&self, what: &'static str) {
        if let Some(bar) = &self.0 {
            bar.set_message(what);
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
