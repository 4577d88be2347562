//! `hayloft run`: one command, executed remotely.
//!
//! Exits with the command's own code; with 124 when it ran out of time, as
//! `timeout(1)` does, with 125 when it could not be run or its outputs not be
//! fetched, and with 130 when it was interrupted: the operation is cancelled, and a
//! farm of its own stopped and removed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use prost::Message;
use proto::wire::rev2;
use proto::wire::rev2::execution_stage::Value as Stage;
use proto::{Digest, InstanceName};
use tonic::{Code, Status};

use crate::cli;
use crate::client::inputs::Inputs;
use crate::client::{Client, Spec};
use crate::up::{self, Farm, Listen};

const TIMED_OUT: u8 = 124;
const NOT_RUN: u8 = 125;

/// As a shell reports a command that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// How long a farm may take to hear that an operation is cancelled.
const CANCELLING: Duration = Duration::from_secs(5);

/// Runs the command. What goes wrong is printed, and makes the exit code 125.
///
/// # Errors
/// There are no means even to begin.
pub fn run(arguments: &cli::Run) -> Result<ExitCode> {
    daemon::start_quiet();
    let runtime = up::runtime()?;
    let outcome = runtime.block_on(async {
        let shutdown = daemon::Shutdown::on_signals()?;
        match arguments.remote.clone() {
            Some(remote) => {
                let remote = arguments.credentials.to(remote);
                execute(arguments, &remote, &shutdown).await
            }
            None => on_own_farm(arguments, &shutdown).await,
        }
    });
    // Whoever interrupts does not wait for the reading of inputs to end.
    runtime.shutdown_background();
    Ok(outcome.unwrap_or_else(|error| {
        eprintln!("hayloft: {error:#}");
        ExitCode::from(NOT_RUN)
    }))
}

/// Runs the command on a farm for it alone, which leaves nothing behind.
async fn on_own_farm(arguments: &cli::Run, shutdown: &daemon::Shutdown) -> Result<ExitCode> {
    let folder = tempfile::Builder::new().prefix("hayloft-").tempdir()?;
    let farm = Farm::start(&up::Options {
        directory: folder.path().into(),
        listen: Listen::Private,
        slots: 1,
        reuse: true,
        platform: Vec::new(),
        action_cache_updates: Vec::new(),
        limits: Vec::new(),
        cgroup: None,
        root: arguments.root,
        diagnostics: None,
        log: "error",
    })?;
    let ready = tokio::select! {
        ready = farm.ready() => Some(ready),
        () = shutdown.cancelled() => None,
    };
    let outcome = match ready {
        Some(Ok(())) => execute(arguments, &farm.address().clone().into(), shutdown).await,
        Some(Err(error)) => Err(error.context("cannot start a farm for the command")),
        None => Ok(ExitCode::from(INTERRUPTED)),
    };
    farm.stop().await;
    outcome
}

/// Runs the command, unless and until it is interrupted.
async fn execute(
    arguments: &cli::Run,
    remote: &daemon::Upstream,
    shutdown: &daemon::Shutdown,
) -> Result<ExitCode> {
    let client = Client::connect(remote, InstanceName::new(&arguments.instance)?)?;
    let progress = Display::new();
    // While there is one to cancel.
    let operation = RefCell::new(None);
    let perform = perform(arguments, remote, &client, &progress, &operation);
    tokio::select! {
        outcome = about_itself().scope(perform) => {
            progress.clear();
            return outcome;
        }
        () = shutdown.cancelled() => progress.clear(),
    }
    if let Some(operation) = operation.take() {
        match tokio::time::timeout(CANCELLING, client.cancel(&operation)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => eprintln!("hayloft: {error:#}"),
            Err(_) => eprintln!("hayloft: cannot cancel: the farm does not answer"),
        }
    }
    Ok(ExitCode::from(INTERRUPTED))
}

/// What the farm is told of whoever asks: each run is an invocation of its own.
fn about_itself() -> daemon::CallContext {
    let metadata = rev2::RequestMetadata {
        tool_details: Some(rev2::ToolDetails {
            tool_name: "hayloft".into(),
            tool_version: env!("CARGO_PKG_VERSION").into(),
        }),
        tool_invocation_id: uuid::Uuid::new_v4().to_string(),
        ..Default::default()
    };
    daemon::CallContext::new(Some(&metadata.encode_to_vec()), &HashMap::new())
}

async fn perform(
    arguments: &cli::Run,
    remote: &daemon::Upstream,
    client: &Client,
    progress: &Display,
    operation: &RefCell<Option<String>>,
) -> Result<ExitCode> {
    progress.say("reading inputs");
    let inputs = match arguments.input.clone() {
        // On another thread: this one hears signals.
        Some(folder) => tokio::task::spawn_blocking(move || Inputs::read(&folder)).await??,
        None => Inputs::empty(),
    };
    let root = inputs.root();
    progress.say("uploading inputs");
    inputs
        .upload(client)
        .await
        .with_context(|| format!("cannot upload the inputs to {remote}"))?;
    let action = client.upload_action(&spec(arguments), root).await?;
    let earlier = match arguments.no_cache {
        true => Earlier::None,
        false => earlier(client, action).await,
    };
    if let Earlier::Complete(result) = earlier {
        let response = rev2::ExecuteResponse {
            result: Some(*result),
            cached_result: true,
            ..Default::default()
        };
        progress.clear();
        return finish(client, &response, arguments.json.then_some(action)).await;
    }
    let skip_cache_lookup = arguments.no_cache || matches!(earlier, Earlier::Incomplete);
    let response = client
        .execute(action, skip_cache_lookup, |update| {
            operation.replace(Some(update.operation.clone()));
            progress.say(match update.stage {
                Stage::CacheCheck => "looking for an earlier result",
                Stage::Queued => "waiting for a worker",
                Stage::Executing => "running",
                Stage::Completed | Stage::Unknown => "done",
            });
        })
        .await?;
    operation.take();
    progress.clear();
    finish(client, &response, arguments.json.then_some(action)).await
}

/// What the action cache has.
enum Earlier {
    /// No result, or nobody answers.
    None,
    /// A result whose blobs are gone: storages need not look after them.
    Incomplete,
    /// One that can be had.
    Complete(Box<rev2::ActionResult>),
}

/// Looks for an earlier result: servers need not do so when they are asked to execute,
/// and Buildbarn's do not.
async fn earlier(client: &Client, action: Digest) -> Earlier {
    let Ok(Some(result)) = client.cached(action).await else {
        return Earlier::None;
    };
    let files = result.output_files.iter().map(|file| &file.digest);
    let trees = result.output_directories.iter().map(|it| &it.tree_digest);
    let printed = [&result.stdout_digest, &result.stderr_digest];
    let named: Result<Vec<_>, _> = files
        .chain(trees)
        .chain(printed)
        .flatten()
        .map(|digest| Digest::from_wire(action.function(), Some(digest)))
        .collect();
    let missing = match named {
        Ok(named) => client.blobs().find_missing(client.instance(), &named).await,
        Err(_) => return Earlier::Incomplete,
    };
    match missing {
        Ok(missing) if missing.is_empty() => Earlier::Complete(Box::new(result)),
        _ => Earlier::Incomplete,
    }
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
/// `report`: the action, where what became of it is to be printed as JSON.
async fn finish(
    client: &Client,
    response: &rev2::ExecuteResponse,
    report: Option<Digest>,
) -> Result<ExitCode> {
    let result = response.result.clone().unwrap_or_default();
    let Some(status) = response.status.as_ref().filter(|status| status.code != 0) else {
        fetch(client, response, None, report).await?;
        return Ok(ExitCode::from(u8::try_from(result.exit_code & 0xff)?));
    };
    // First of all: nothing that goes wrong with the outputs may hide it.
    let status = proto::status::from_wire(status);
    eprintln!(
        "hayloft: {}",
        crate::client::execution::describe_status(&status)
    );
    for line in response.message.lines() {
        eprintln!("hayloft: {line}");
    }
    if let Err(error) = fetch(client, response, Some(&status), report).await {
        eprintln!("hayloft: {error:#}");
    }
    Ok(ExitCode::from(match status.code() {
        Code::DeadlineExceeded => TIMED_OUT,
        _ => NOT_RUN,
    }))
}

async fn fetch(
    client: &Client,
    response: &rev2::ExecuteResponse,
    status: Option<&Status>,
    report: Option<Digest>,
) -> Result<()> {
    let result = &response.result.clone().unwrap_or_default();
    let stdout = client
        .fetch_stream(&result.stdout_raw, result.stdout_digest.as_ref())
        .await?;
    let stderr = client
        .fetch_stream(&result.stderr_raw, result.stderr_digest.as_ref())
        .await?;
    // A reader that has gone away wants no more; that is no failure of the action.
    if let Some(action) = report {
        let report = crate::report::report(action, response, status, [&stdout, &stderr]);
        let _ = writeln!(std::io::stdout(), "{report}");
    } else {
        let _ = std::io::stdout().write_all(&stdout);
        let _ = std::io::stderr().write_all(&stderr);
    }
    client.download(result, Path::new(".")).await
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
