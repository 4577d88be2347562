//! `hayloft kill`: actions that are to end, whoever waits for them.

use std::process::ExitCode;

use anyhow::Result;
use proto::wire::buildqueuestate::KillOperationsRequest;
use proto::wire::buildqueuestate::kill_operations_request::{Filter, filter::Type};
use proto::wire::rpc;
use serde_json::json;

use super::{Operator, queue, said};
use crate::cli;
use crate::up;

/// Ends operations, by name or because nobody will execute them.
///
/// # Errors
/// The scheduler cannot be asked, refuses, or does not know an operation; those named
/// before it are ended.
pub fn run(arguments: &cli::Kill) -> Result<ExitCode> {
    daemon::start_quiet();
    up::runtime()?.block_on(async {
        let mut operator = Operator::connect(&arguments.scheduler)?;
        if arguments.queued_without_workers {
            kill_queued(&mut operator, arguments).await?;
        } else {
            for name in &arguments.operations {
                let filter = Type::OperationName(name.clone());
                kill(&mut operator, arguments, name, filter).await?;
            }
            let operations = &arguments.operations;
            operator.print(
                || json!({"killed": operations}),
                || format!("Ended {} operations.\n", operations.len()),
            );
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn kill_queued(operator: &mut Operator, arguments: &cli::Kill) -> Result<()> {
    let mut queues = operator.some_queues(&arguments.selection).await?;
    queues.retain(|it| it.state.workers_count == 0 && queue::queued(it) > 0);
    for queue in &queues {
        let filter = Type::SizeClassQueueWithoutWorkers(queue.name.to_wire());
        kill(operator, arguments, &queue.name.to_string(), filter).await?;
    }
    let names = queues.iter().map(|queue| queue.name.to_json());
    operator.print(
        || json!({"queues": names.collect::<Vec<_>>()}),
        || format!("Ended what was queued in {} queues.\n", queues.len()),
    );
    Ok(())
}

async fn kill(
    operator: &mut Operator,
    arguments: &cli::Kill,
    what: &str,
    filter: Type,
) -> Result<()> {
    let request = KillOperationsRequest {
        filter: Some(Filter {
            r#type: Some(filter),
        }),
        status: Some(rpc::Status {
            code: arguments.code.into(),
            message: arguments.message.clone(),
            details: Vec::new(),
        }),
    };
    let killed = operator.client.kill_operations(request).await;
    killed.map_err(|status| said(&format!("cannot end {what}"), &status))?;
    Ok(())
}
