//! `hayloft queue`: queues, and operations in them.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, Result};
use proto::messages::{span, system_time};
use proto::wire::buildqueuestate::list_operations_request::StartAfter;
use proto::wire::buildqueuestate::operation_state::Stage as State;
use proto::wire::buildqueuestate::{
    GetOperationRequest, ListOperationsRequest, OperationState, SizeClassQueueState,
};
use proto::wire::protobuf::Timestamp;
use proto::wire::rev2::execution_stage::Value as WireStage;
use serde_json::{Value, json};
use tonic::Code;

use super::names::{QueueName, invocations};
use super::pages::{Found, Page, follow};
use super::{Operator, Queue, said};
use crate::cli;
use crate::cli::operators::Stage;
use crate::up;

/// Lists queues and operations, or tells of one operation.
///
/// # Errors
/// The scheduler cannot be asked, or does not know the operation.
pub fn run(arguments: &cli::Queue) -> Result<ExitCode> {
    daemon::start_quiet();
    up::runtime()?.block_on(async {
        let mut operator = Operator::connect(&arguments.scheduler)?;
        match &arguments.operation {
            Some(name) => one(&mut operator, name).await?,
            None => list(&mut operator, arguments).await?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn one(operator: &mut Operator, name: &str) -> Result<()> {
    let request = GetOperationRequest {
        operation_name: name.into(),
    };
    let answer = operator.client.get_operation(request).await;
    let answer = answer.map_err(|status| said("cannot tell", &status))?;
    let mut state = answer.into_inner().operation.context("it says nothing")?;
    state.name = name.into();
    operator.print(|| operation_json(&state), || describe(&state));
    Ok(())
}

async fn list(operator: &mut Operator, arguments: &cli::Queue) -> Result<()> {
    let queues = operator.queues(&arguments.selection).await?;
    let stages = match &arguments.stage {
        Some(stage) => vec![*stage],
        None => vec![Stage::Executing, Stage::Queued],
    };
    let mut operations = Vec::new();
    for stage in stages {
        let found = operations_of(operator, arguments, stage).await?;
        operations.push((stage, found));
    }
    operator.print(
        || {
            let all = operations.iter().flat_map(|(_, found)| &found.entries);
            json!({
                "queues": queues.iter().map(queue_json).collect::<Vec<_>>(),
                "operations": all.map(operation_json).collect::<Vec<_>>(),
                "more_operations": operations.iter().any(|(_, found)| found.more),
            })
        },
        || {
            let mut text = String::new();
            for queue in &queues {
                let _ = writeln!(text, "{}: {}", queue.name, standing(&queue.state));
            }
            for (stage, found) in &operations {
                if !found.entries.is_empty() {
                    let _ = writeln!(text, "\n{}:", name_of(*stage));
                }
                for operation in &found.entries {
                    let _ = writeln!(text, "  {}", line(operation));
                }
                if found.more {
                    let _ = writeln!(text, "  … and more (--limit)");
                }
            }
            text
        },
    );
    Ok(())
}

async fn operations_of(
    operator: &mut Operator,
    arguments: &cli::Queue,
    stage: Stage,
) -> Result<Found<OperationState>> {
    let filter_stage = match stage {
        Stage::Queued => WireStage::Queued,
        Stage::Executing => WireStage::Executing,
        Stage::Completed => WireStage::Completed,
    };
    let client = &operator.client;
    let ask = async |last: Option<&OperationState>, page_size: u32| {
        let request = ListOperationsRequest {
            page_size,
            start_after: last.map(|last| StartAfter {
                operation_name: last.name.clone(),
            }),
            filter_invocation_id: None,
            filter_stage: filter_stage.into(),
        };
        let page = client.clone().list_operations(request).await?.into_inner();
        Ok(Page {
            entries: page.operations,
            info: page.pagination_info,
        })
    };
    let selected =
        |operation: &OperationState| queue_of(operation).is_selected(&arguments.selection);
    follow(arguments.limit, ask, selected).await
}

fn queue_of(operation: &OperationState) -> QueueName {
    let invocation = operation.invocation_name.as_ref();
    QueueName::of(invocation.and_then(|it| it.size_class_queue_name.clone()))
}

fn name_of(stage: Stage) -> &'static str {
    match stage {
        Stage::Queued => "queued",
        Stage::Executing => "executing",
        Stage::Completed => "completed",
    }
}

/// What an operation's stage is called. An operation whose result is looked up in the
/// action cache has none.
fn stage_of(operation: &OperationState) -> &'static str {
    match &operation.stage {
        Some(State::Queued(())) => name_of(Stage::Queued),
        Some(State::Executing(())) => name_of(Stage::Executing),
        Some(State::Completed(_)) => name_of(Stage::Completed),
        None => "unknown",
    }
}

/// How long ago something was.
fn age(since: &Option<Timestamp>) -> Option<f64> {
    let since = system_time(since.as_ref()?)?;
    let age = SystemTime::now().duration_since(since);
    Some(age.unwrap_or_default().as_secs_f64())
}

fn digest(operation: &OperationState) -> Option<String> {
    let digest = operation.action_digest.as_ref()?;
    Some(format!("{}-{}", digest.hash, digest.size_bytes))
}

/// An operation in one line.
pub(super) fn line(operation: &OperationState) -> String {
    let mut line = format!(
        "{}  {}",
        operation.name,
        digest(operation).unwrap_or_default()
    );
    if let Some(age) = age(&operation.queued_timestamp) {
        let _ = write!(line, "  came {age:.1} s ago");
    }
    if !operation.target_id.is_empty() {
        let _ = write!(line, "  {}", operation.target_id);
    }
    line
}

fn describe(operation: &OperationState) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        if !value.is_empty() {
            let _ = writeln!(text, "{name:<12} {value}");
        }
    };
    row("Operation", operation.name.clone());
    row("Stage", stage_of(operation).into());
    row("Action", digest(operation).unwrap_or_default());
    row("Queue", queue_of(operation).to_string());
    row("Instance", operation.instance_name_suffix.clone());
    row("Target", operation.target_id.clone());
    row("Invocation", invocations_of(operation).join(" / "));
    row("Priority", operation.priority.to_string());
    if let Some(age) = age(&operation.queued_timestamp) {
        row("Came", format!("{age:.1} s ago"));
    }
    if let Some(expected) = operation.expected_duration.as_ref().and_then(span) {
        row("Expected", format!("{:.1} s", expected.as_secs_f64()));
    }
    if let Some((code, message, exit_code)) = outcome(operation) {
        let ended = match code {
            Code::Ok => format!("exit code {exit_code}"),
            code => format!("{code:?}: {message}"),
        };
        row("Outcome", ended);
    }
    text
}

fn invocations_of(operation: &OperationState) -> Vec<String> {
    let name = operation.invocation_name.as_ref();
    name.map(|name| invocations(&name.ids)).unwrap_or_default()
}

/// How an operation ended, if it did.
fn outcome(operation: &OperationState) -> Option<(Code, &str, i32)> {
    let Some(State::Completed(response)) = &operation.stage else {
        return None;
    };
    let status = response.status.as_ref();
    let code = status.map_or(Code::Ok, |status| Code::from_i32(status.code));
    let message = status.map_or("", |status| status.message.as_str());
    let exit_code = response
        .result
        .as_ref()
        .map_or(0, |result| result.exit_code);
    Some((code, message, exit_code))
}

/// An operation as JSON.
pub(super) fn operation_json(operation: &OperationState) -> Value {
    json!({
        "name": operation.name,
        "stage": stage_of(operation),
        "action": digest(operation),
        "queue": queue_of(operation).to_json(),
        "instance_name_suffix": operation.instance_name_suffix,
        "target_id": operation.target_id,
        "invocation": invocations_of(operation),
        "priority": operation.priority,
        "age_seconds": age(&operation.queued_timestamp),
        "expected_seconds": operation
            .expected_duration
            .as_ref()
            .and_then(span)
            .map(|expected| expected.as_secs_f64()),
        "outcome": outcome(operation).map(|(code, message, exit_code)| json!({
            "code": format!("{code:?}"),
            "message": message,
            "exit_code": exit_code,
        })),
    })
}

/// What is in a queue: queued operations, and workers that execute and that idle.
fn counts(state: &SizeClassQueueState) -> [u64; 3] {
    let root = state.root_invocation.unwrap_or_default();
    let queued = root.queued_operations_count.unwrap_or_default();
    [
        u64::from(queued.direct) + u64::from(queued.indirect),
        root.executing_workers_count.into(),
        root.idle_workers_count.into(),
    ]
}

pub(super) fn queued(queue: &Queue) -> u64 {
    let [queued, ..] = counts(&queue.state);
    queued
}

fn standing(state: &SizeClassQueueState) -> String {
    let [queued, executing, idle] = counts(state);
    let mut text = format!(
        "{queued} queued; {} workers, {executing} executing, {idle} idle",
        state.workers_count
    );
    if state.drains_count > 0 {
        let _ = write!(text, "; {} drains", state.drains_count);
    }
    text
}

fn queue_json(queue: &Queue) -> Value {
    let [queued, executing, idle] = counts(&queue.state);
    let mut json = queue.name.to_json();
    json["queued"] = queued.into();
    json["workers"] = queue.state.workers_count.into();
    json["executing_workers"] = executing.into();
    json["idle_workers"] = idle.into();
    json["drains"] = queue.state.drains_count.into();
    json
}
