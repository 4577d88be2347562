//! `hayloft drain`: workers that are to take no more work, and finish what they have.

use std::collections::HashMap;
use std::fmt::Write;
use std::process::ExitCode;

use anyhow::{Result, bail};
use proto::wire::buildqueuestate::{
    AddOrRemoveDrainRequest, ListDrainsRequest, TerminateWorkersRequest,
};
use serde_json::json;

use super::names::pairs;
use super::{Operator, said};
use crate::cli;
use crate::up;

/// Adds or removes a drain in each queue selected, has workers terminate, or lists the
/// drains there are.
///
/// # Errors
/// The scheduler cannot be asked, refuses, or has no such queue.
pub fn run(arguments: &cli::Drain) -> Result<ExitCode> {
    daemon::start_quiet();
    let names_workers = arguments.all_workers || !arguments.pattern.is_empty();
    if !names_workers && (arguments.remove || arguments.terminate) {
        bail!("say which workers: KEY=VALUE of their id, or --all-workers");
    }
    up::runtime()?.block_on(async {
        let mut operator = Operator::connect(&arguments.scheduler)?;
        if !names_workers {
            list(&mut operator, arguments).await?;
        } else if arguments.terminate {
            terminate(&mut operator, arguments).await?;
        } else {
            change(&mut operator, arguments).await?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn pattern(arguments: &cli::Drain) -> HashMap<String, String> {
    arguments.pattern.iter().cloned().collect()
}

async fn change(operator: &mut Operator, arguments: &cli::Drain) -> Result<()> {
    let pattern = pattern(arguments);
    let queues = operator.some_queues(&arguments.selection).await?;
    for queue in &queues {
        let request = AddOrRemoveDrainRequest {
            size_class_queue_name: Some(queue.name.to_wire()),
            worker_id_pattern: pattern.clone(),
        };
        let done = if arguments.remove {
            operator.client.remove_drain(request).await
        } else {
            operator.client.add_drain(request).await
        };
        done.map_err(|status| {
            said(
                &format!("cannot change the drains of {}", queue.name),
                &status,
            )
        })?;
    }
    let names = queues.iter().map(|queue| queue.name.to_json());
    operator.print(
        || json!({"pattern": pattern, "drained": !arguments.remove, "queues": names.collect::<Vec<_>>()}),
        || {
            let how = if arguments.remove { "take" } else { "take no more" };
            let count = queues.len();
            format!("Workers {} of {count} queues {how} work.\n", pairs(&pattern))
        },
    );
    Ok(())
}

async fn terminate(operator: &mut Operator, arguments: &cli::Drain) -> Result<()> {
    let pattern = pattern(arguments);
    let request = TerminateWorkersRequest {
        worker_id_pattern: pattern.clone(),
    };
    // It is answered when the last of their actions is done.
    let done = operator.client.terminate_workers(request).await;
    done.map_err(|status| said("cannot terminate them", &status))?;
    operator.print(
        || json!({"pattern": pattern, "terminated": true}),
        || {
            format!(
                "Workers {} have no work, and take no more.\n",
                pairs(&pattern)
            )
        },
    );
    Ok(())
}

async fn list(operator: &mut Operator, arguments: &cli::Drain) -> Result<()> {
    let mut drains = Vec::new();
    for queue in operator.queues(&arguments.selection).await? {
        let request = ListDrainsRequest {
            size_class_queue_name: Some(queue.name.to_wire()),
        };
        let answer = operator.client.list_drains(request).await;
        let answer = answer.map_err(|status| said("cannot list the drains", &status))?;
        let each = answer.into_inner().drains.into_iter();
        drains.extend(each.map(|drain| (queue.name.clone(), drain.worker_id_pattern)));
    }
    operator.print(
        || {
            let each = drains.iter();
            each.map(|(queue, pattern)| json!({"queue": queue.to_json(), "pattern": pattern}))
                .collect()
        },
        || {
            let mut text = String::new();
            for (queue, pattern) in &drains {
                let _ = writeln!(text, "{queue}: {}", pairs(pattern));
            }
            text
        },
    );
    Ok(())
}
