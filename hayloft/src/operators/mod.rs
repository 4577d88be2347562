//! `hayloft queue`, `workers`, `drain` and `kill`: an operator's handles on a scheduler,
//! by Buildbarn's protocol for that (`buildbarn.buildqueuestate`) and nothing beyond
//! it, so that they work with Buildbarn's scheduler too.

use std::io::Write;

use anyhow::{Context, Result, bail};
use daemon::{Address, Channel};
use proto::wire::buildqueuestate::SizeClassQueueState;
use proto::wire::buildqueuestate::build_queue_state_client::BuildQueueStateClient;
use serde_json::Value;
use tonic::Status;

pub mod drain;
pub mod kill;
pub mod names;
pub mod pages;
pub mod queue;
pub mod workers;

use crate::cli::operators::{Scheduler, Selection};
use crate::client::execution::describe_status;
use crate::report::for_terminals;
use crate::up;
use names::QueueName;

/// Pages hold results of operations that are done.
const MAXIMUM_MESSAGE: usize = 64 << 20;

/// A connection to a scheduler.
pub struct Operator {
    client: BuildQueueStateClient<Channel>,
    /// Whether answers are to be JSON.
    json: bool,
}

/// A queue and how it stands.
pub struct Queue {
    /// Its name.
    pub name: QueueName,
    /// How it stands.
    pub state: SizeClassQueueState,
}

impl Operator {
    /// Prepares a connection.
    ///
    /// # Errors
    /// It is not said where the scheduler is, or that cannot be connected to.
    pub fn connect(scheduler: &Scheduler) -> Result<Self> {
        let upstream = match &scheduler.address {
            Some(address) => scheduler.credentials.to(address.clone()),
            None => {
                let directory = up::state::default_directory()?;
                let socket = up::farm::operators_socket(&directory);
                if !socket.exists() {
                    bail!(
                        "no farm runs on {}: say where the scheduler is (--scheduler)",
                        directory.display()
                    );
                }
                Address::Unix(socket).into()
            }
        };
        let client = BuildQueueStateClient::new(upstream.connect()?);
        Ok(Self {
            client: client.max_decoding_message_size(MAXIMUM_MESSAGE),
            json: scheduler.json,
        })
    }

    /// The queues that are selected, in the scheduler's order.
    ///
    /// # Errors
    /// The scheduler cannot be asked.
    pub async fn queues(&mut self, selection: &Selection) -> Result<Vec<Queue>> {
        let answer = self.client.list_platform_queues(()).await;
        let answer = answer.map_err(|status| said("cannot list the queues", &status))?;
        let mut queues = Vec::new();
        for platform in answer.into_inner().platform_queues {
            let name = platform.name.context("a queue has no name")?;
            for state in platform.size_class_queues {
                queues.push(Queue {
                    name: QueueName::new(name.clone(), state.size_class),
                    state,
                });
            }
        }
        queues.retain(|queue| queue.name.is_selected(selection));
        Ok(queues)
    }

    /// As [`Self::queues`], and there is one at least.
    ///
    /// # Errors
    /// As there, or none is selected.
    pub async fn some_queues(&mut self, selection: &Selection) -> Result<Vec<Queue>> {
        let queues = self.queues(selection).await?;
        if queues.is_empty() {
            bail!("the scheduler has no such queue");
        }
        Ok(queues)
    }

    /// Prints an answer in the form that is asked for.
    fn print(&self, json: impl FnOnce() -> Value, text: impl FnOnce() -> String) {
        let answer = match self.json {
            true => format!("{:#}\n", json()),
            // Clients choose the names of much of what is in it.
            false => text()
                .lines()
                .map(|line| for_terminals(line) + "\n")
                .collect(),
        };
        // A reader that has gone away wants no more.
        let _ = std::io::stdout().write_all(answer.as_bytes());
    }
}

/// What the scheduler said, as an error.
fn said(what: &str, status: &Status) -> anyhow::Error {
    anyhow::anyhow!("{what}: {}", describe_status(status))
}
