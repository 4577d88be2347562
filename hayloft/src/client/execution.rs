//! Running an action and following it to its end.
//!
//! A stream of operations may break while the action goes on: the client then
//! waits for the same operation (WaitExecution), and asks for the action anew
//! where the scheduler no longer knows it. A farm that is away for a moment is
//! asked again, a few times; whatever it says starts that count anew.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use proto::Digest;
use proto::messages::unpack;
use proto::wire::longrunning::operations_client::OperationsClient;
use proto::wire::longrunning::{CancelOperationRequest, Operation, operation};
use proto::wire::rev2;
use proto::wire::rev2::action_cache_client::ActionCacheClient;
use proto::wire::rev2::execution_client::ExecutionClient;
use proto::wire::rev2::execution_stage::Value as Stage;
use tonic::{Code, Status, Streaming};

use super::Client;

/// How often a farm that is away is asked again before its error is the answer.
const ATTEMPTS: u32 = 8;

/// The largest message that is taken: the result of an action with very many outputs
/// is more than gRPC's 4 MiB.
const MAXIMUM_MESSAGE: usize = 64 << 20;

/// Where an action is.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The operation's name at the farm.
    pub operation: String,
    /// Its stage.
    pub stage: Stage,
}

impl Client {
    /// The result of an action that the farm's action cache has; none where it has
    /// none.
    ///
    /// # Errors
    /// The action cache cannot be asked.
    pub async fn cached(&self, action: Digest) -> Result<Option<rev2::ActionResult>> {
        let request = rev2::GetActionResultRequest {
            instance_name: self.instance().to_string(),
            action_digest: Some(action.to_wire()),
            digest_function: action.function().to_wire(),
            ..Default::default()
        };
        let found = ActionCacheClient::new(self.channel())
            .max_decoding_message_size(MAXIMUM_MESSAGE)
            .get_action_result(request)
            .await;
        match found {
            Ok(result) => Ok(Some(result.into_inner())),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => bail!(describe_status(&status)),
        }
    }

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
        let mut execution =
            ExecutionClient::new(self.channel()).max_decoding_message_size(MAXIMUM_MESSAGE);
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
            let mut heard = |update: &Progress| {
                // The farm is there: what breaks from here on is another break.
                attempt = 0;
                progress(update);
            };
            let broken = match stream {
                Ok(stream) => match follow(stream.into_inner(), &mut name, &mut heard).await {
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
    /// The farm does not know it, or does not cancel: Buildbarn's has no call for that.
    pub async fn cancel(&self, operation: &str) -> Result<()> {
        let cancelled = OperationsClient::new(self.channel())
            .cancel_operation(CancelOperationRequest {
                name: operation.into(),
            })
            .await;
        match cancelled {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::Unimplemented => {
                bail!("this farm cannot cancel: it may go on until it notices that nobody waits")
            }
            Err(status) => Err(status).context("cannot cancel"),
        }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use daemon::{Address, Diagnostics};
    use futures::StreamExt;
    use futures::stream::BoxStream;
    use proto::messages::pack_rev2;
    use proto::wire::rev2::execution_server::{Execution, ExecutionServer};
    use proto::{DigestFunction, InstanceName};
    use tonic::service::Routes;
    use tonic::{Request, Response};

    use super::*;

    /// Breaks each stream after one message, more often than attempts are made.
    struct Fragile(Arc<AtomicU32>);

    impl Fragile {
        fn stream(&self) -> BoxStream<'static, Result<Operation, Status>> {
            let done = self.0.fetch_add(1, Ordering::SeqCst) > ATTEMPTS + 1;
            let response = pack_rev2("ExecuteResponse", &rev2::ExecuteResponse::default());
            let operation = Operation {
                name: "name".into(),
                done,
                result: done.then_some(operation::Result::Response(response)),
                ..Default::default()
            };
            let broken = Status::unavailable("broken");
            futures::stream::iter([Ok(operation), Err(broken)]).boxed()
        }
    }

    #[tonic::async_trait]
    impl Execution for Fragile {
        type ExecuteStream = BoxStream<'static, Result<Operation, Status>>;
        async fn execute(
            &self,
            _: Request<rev2::ExecuteRequest>,
        ) -> Result<Response<Self::ExecuteStream>, Status> {
            Ok(Response::new(self.stream()))
        }
        type WaitExecutionStream = Self::ExecuteStream;
        async fn wait_execution(
            &self,
            _: Request<rev2::WaitExecutionRequest>,
        ) -> Result<Response<Self::ExecuteStream>, Status> {
            Ok(Response::new(self.stream()))
        }
    }

    #[tokio::test]
    async fn streams_that_break_after_a_message_are_followed_on() {
        let folder = tempfile::tempdir().unwrap();
        let address = Address::Unix(folder.path().join("socket"));
        let listener = daemon::listen(&address).await.unwrap();
        let asked = Arc::new(AtomicU32::new(0));
        let routes = Routes::new(ExecutionServer::new(Fragile(asked.clone())));
        let server = tokio::spawn(daemon::serve(listener, routes, Diagnostics::default()));
        let client = Client::connect(&address.into(), InstanceName::empty()).unwrap();
        let action = Digest::of(DigestFunction::Sha256, b"action");
        client.execute(action, false, |_| {}).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), ATTEMPTS + 3);
        let refused = client.cancel("name").await.unwrap_err().to_string();
        assert!(refused.contains("this farm cannot cancel"), "{refused}");
        server.abort();
    }
}
