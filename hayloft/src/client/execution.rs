//! Running an action and following it to its end.
//!
//! A stream of operations may break while the action goes on: the client then
//! waits for the same operation (WaitExecution), and asks for the action anew
//! where the scheduler no longer knows it. A farm that is away for a moment is
//! asked again, a few times.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use proto::Digest;
use proto::messages::unpack;
use proto::wire::longrunning::operations_client::OperationsClient;
use proto::wire::longrunning::{CancelOperationRequest, Operation, operation};
use proto::wire::rev2;
use proto::wire::rev2::execution_client::ExecutionClient;
use proto::wire::rev2::execution_stage::Value as Stage;
use tonic::{Code, Status, Streaming};

use super::Client;

/// How often a farm that is away is asked again before its error is the answer.
const ATTEMPTS: u32 = 8;

/// Where an action is.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The operation's name at the farm.
    pub operation: String,
    /// Its stage.
    pub stage: Stage,
}

impl Client {
    /// Executes an action and gives its response, whatever its status is.
    /// `progress` hears each change of stage.
    ///
    /// # Errors
    /// The farm does not take the action, or stays away.
    pub async fn execute(
        &self,
        action: Digest,
        skip_cache_lookup: bool,
        mut progress: impl FnMut(&Progress),
    ) -> Result<rev2::ExecuteResponse> {
        let mut execution = ExecutionClient::new(self.channel());
        let mut name = None;
        let mut attempt = 0;
        loop {
            let stream = match &name {
                Some(name) => {
                    let request = rev2::WaitExecutionRequest {
                        name: String::clone(name),
                    };
                    execution.wait_execution(request).await
                }
                None => {
                    let request = rev2::ExecuteRequest {
                        instance_name: self.instance().to_string(),
                        action_digest: Some(action.to_wire()),
                        digest_function: action.function().to_wire(),
                        skip_cache_lookup,
                        ..Default::default()
                    };
                    execution.execute(request).await
                }
            };
            let broken = match stream {
                Ok(stream) => match follow(stream.into_inner(), &mut name, &mut progress).await {
                    Ok(operation) => return response(operation),
                    Err(status) => status,
                },
                Err(status) => status,
            };
            match broken.code() {
                // The scheduler was started anew: it must be asked anew.
                Code::NotFound if name.is_some() => name = None,
                Code::Unavailable | Code::Cancelled | Code::Unknown if attempt < ATTEMPTS => {
                    tokio::time::sleep(Duration::from_millis(50) * 2_u32.pow(attempt)).await;
                }
                _ => bail!(describe_status(&broken)),
            }
            attempt += 1;
        }
    }

    /// Cancels an operation.
    ///
    /// # Errors
    /// The farm does not know it, or does not cancel.
    pub async fn cancel(&self, operation: &str) -> Result<()> {
        OperationsClient::new(self.channel())
            .cancel_operation(CancelOperationRequest {
                name: operation.into(),
            })
            .await
            .context("cannot cancel")?;
        Ok(())
    }
}

/// Follows a stream to the operation that is done.
async fn follow(
    mut stream: Streaming<Operation>,
    name: &mut Option<String>,
    progress: &mut impl FnMut(&Progress),
) -> Result<Operation, Status> {
    while let Some(operation) = stream.message().await? {
        *name = Some(operation.name.clone());
        let metadata = operation.metadata.as_ref().and_then(|any| {
            unpack::<rev2::ExecuteOperationMetadata>(
                any,
                "build.bazel.remote.execution.v2.ExecuteOperationMetadata",
            )
        });
        progress(&Progress {
            operation: operation.name.clone(),
            stage: metadata.map_or(Stage::Unknown, |metadata| metadata.stage()),
        });
        if operation.done {
            return Ok(operation);
        }
    }
    Err(Status::unavailable("the stream of operations ended early"))
}

fn response(operation: Operation) -> Result<rev2::ExecuteResponse> {
    match operation.result {
        Some(operation::Result::Response(any)) => {
            unpack(&any, "build.bazel.remote.execution.v2.ExecuteResponse")
                .context("the operation's response is not an ExecuteResponse")
        }
        Some(operation::Result::Error(status)) => Ok(rev2::ExecuteResponse {
            status: Some(status),
            ..Default::default()
        }),
        None => bail!("the operation is done without a result"),
    }
}

/// A status in words, with its code as gRPC spells it.
#[must_use]
pub fn describe_status(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}
