//! `hayloft workers`: who there is to execute, and what each does.

use std::fmt::Write;
use std::process::ExitCode;

use anyhow::Result;
use proto::wire::buildqueuestate::list_workers_request::{Filter, StartAfter, filter};
use proto::wire::buildqueuestate::{ListWorkersRequest, WorkerState};
use serde_json::{Value, json};

use super::Operator;
use super::names::{QueueName, pairs};
use super::pages::{Page, follow};
use super::queue::{line, operation_json};
use crate::cli;
use crate::up;

/// Lists workers.
///
/// # Errors
/// The scheduler cannot be asked.
pub fn run(arguments: &cli::Workers) -> Result<ExitCode> {
    daemon::start_quiet();
    up::runtime()?.block_on(async {
        let mut operator = Operator::connect(&arguments.scheduler)?;
        let mut queues = Vec::new();
        for queue in operator.queues(&arguments.selection).await? {
            let workers = workers_of(&operator, &queue.name).await?;
            queues.push((queue.name, workers));
        }
        operator.print(
            || {
                queues
                    .iter()
                    .flat_map(|(name, workers)| workers.iter().map(|it| show(name, it)))
                    .collect()
            },
            || {
                queues
                    .iter()
                    .map(|(name, workers)| describe(name, workers))
                    .collect()
            },
        );
        Ok(ExitCode::SUCCESS)
    })
}

async fn workers_of(operator: &Operator, queue: &QueueName) -> Result<Vec<WorkerState>> {
    let client = &operator.client;
    let ask = async |last: Option<&WorkerState>, page_size: u32| {
        let request = ListWorkersRequest {
            filter: Some(Filter {
                r#type: Some(filter::Type::All(queue.to_wire())),
            }),
            page_size,
            start_after: last.map(|last| StartAfter {
                worker_id: last.id.clone(),
            }),
        };
        let page = client.clone().list_workers(request).await?.into_inner();
        Ok(Page {
            entries: page.workers,
            info: page.pagination_info,
        })
    };
    Ok(follow(usize::MAX, ask, |_| true).await?.entries)
}

fn describe(queue: &QueueName, workers: &[WorkerState]) -> String {
    let mut text = format!("{queue}:\n");
    for worker in workers {
        let drained = if worker.drained { ", drained" } else { "" };
        let _ = match &worker.current_operation {
            None => writeln!(text, "  {}  idle{drained}", pairs(&worker.id)),
            Some(operation) => writeln!(
                text,
                "  {}  executing{drained}: {}",
                pairs(&worker.id),
                line(operation)
            ),
        };
    }
    text
}

fn show(queue: &QueueName, worker: &WorkerState) -> Value {
    json!({
        "queue": queue.to_json(),
        "id": worker.id,
        "drained": worker.drained,
        "operation": worker.current_operation.as_ref().map(operation_json),
    })
}
