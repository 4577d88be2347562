//! Execute and WaitExecution.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use daemon::{CallContext, Subject};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use prost::Message as _;
use proto::wire::action::Inline;
use proto::wire::longrunning::Operation;
use proto::wire::protobuf;
use proto::wire::rev2::execution_server::Execution;
use proto::wire::rev2::{self, ExecuteRequest, RequestMetadata, WaitExecutionRequest};
use proto::{Digest, DigestFunction, InstanceName, messages};
use storage::ActionCache;
use tokio_util::task::AbortOnDropHandle;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::action::Actions;
use super::authorizers::Authorizers;
use super::dispatcher::{Dispatcher, Updates};
use super::invocation::Caller;
use super::operations;
use super::route::Router;
use crate::error::Error;
use crate::queue::log::line;
use crate::queue::{Submission, TaskId};

/// How often a stream on which nothing happens says so, as proxies cut silent
/// connections (Buildbarn's interval).
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// How long the action cache may take to answer before an action is executed
/// without its answer.
const CACHE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where clients tell about themselves (REv2 RequestMetadata).
const REQUEST_METADATA: &str = "build.bazel.remote.execution.v2.requestmetadata-bin";

/// The Execution service.
pub struct ExecutionService {
    /// The queue.
    pub dispatcher: Arc<Dispatcher>,
    /// Where actions are read from.
    pub actions: Actions,
    /// Asked before an action is queued, where there is one.
    pub action_cache: Option<Arc<dyn ActionCache>>,
    /// What says where actions go and whose they are.
    pub router: Router,
    /// Who may execute.
    pub authorizers: Arc<Authorizers>,
}

#[tonic::async_trait]
impl Execution for ExecutionService {
    type ExecuteStream = BoxStream<'static, Result<Operation, Status>>;
    type WaitExecutionStream = Self::ExecuteStream;

    async fn execute(
        &self,
        request: Request<ExecuteRequest>,
    ) -> Result<Response<Self::ExecuteStream>, Status> {
        let context = CallContext::received(request.metadata());
        let metadata = request_metadata(request.metadata());
        let trace = trace_context(request.metadata());
        let (_, caller, request) = request.into_parts();
        let instance = InstanceName::new(&request.instance_name)
            .map_err(|error| Error::invalid("instance_name", error))?;
        self.authorizers.execute(&caller, &instance).await?;
        let digest = action_digest(&request)?;
        let inline = inline(
            request.inline_stdout,
            request.inline_stderr,
            request.inline_output_files,
        );
        // Both are asked for at once: an answer takes longer to come than to make.
        let executed = self.dispatcher.executed();
        let subject = subject(digest, &context, metadata.as_ref());
        let ask = || self.look_up(&instance, digest, &context, &subject);
        let cached = (!request.skip_cache_lookup).then(ask);
        let caller = Caller {
            metadata,
            principal: daemon::Principal::of(&caller).to_string(),
            instance: instance.clone(),
        };
        let routing = async {
            let (action, platform) = self.actions.load(&instance, digest).await?;
            self.router.route(digest, action, platform, &caller).await
        };
        let route = context.clone().scope(routing).await?;
        let (updates, look_up) = self.dispatcher.submit(Submission {
            instance: instance.clone(),
            digest,
            action: route.action,
            platform: route.platform,
            timeouts: Some(route.timeouts),
            priority: request.execution_policy.map_or(0, |policy| policy.priority),
            skip_cache_lookup: request.skip_cache_lookup,
            invocation: route.invocation,
            metadata: caller
                .metadata
                .map(|metadata| messages::pack_rev2("RequestMetadata", &metadata))
                .into_iter()
                .chain(inline)
                .collect(),
            trace,
        })?;
        if let Some(task) = look_up {
            // From here on the same action joins this task. An execution of it that
            // ended before may have been too late for the answer.
            let answer = if self.dispatcher.executed() == executed {
                cached.flatten()
            } else {
                ask()
            };
            self.tell(task, answer);
        }
        Ok(Response::new(operations_of(updates)))
    }

    async fn wait_execution(
        &self,
        request: Request<WaitExecutionRequest>,
    ) -> Result<Response<Self::WaitExecutionStream>, Status> {
        let name = operations::parse_name(&request.get_ref().name)?;
        let caller = request.extensions();
        self.authorizers
            .follow(caller, &self.dispatcher, name)
            .await?;
        Ok(Response::new(operations_of(self.dispatcher.join(name)?)))
    }
}

impl ExecutionService {
    /// Asks the action cache; dropped, it asks no longer. `None` where there is none.
    fn look_up(
        &self,
        instance: &InstanceName,
        action: Digest,
        context: &CallContext,
        subject: &Subject,
    ) -> Option<LookUp> {
        let (cache, instance) = (self.action_cache.clone()?, instance.clone());
        let (context, subject) = (context.clone(), subject.clone());
        Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let asking = context.scope(cache.get(&instance, action));
            let answer = tokio::time::timeout(CACHE_TIMEOUT, asking).await;
            match answer {
                Ok(Ok(result)) => result,
                Ok(Err(error)) => {
                    line!(WARN, subject, %error, "action cache failed, executing");
                    None
                }
                Err(_) => {
                    line!(WARN, subject, "action cache does not answer, executing");
                    None
                }
            }
        })))
    }

    /// Waits for the answer apart from this call: others may have joined the task by
    /// the time this client goes away.
    fn tell(&self, task: TaskId, answer: Option<LookUp>) {
        let dispatcher = self.dispatcher.clone();
        tokio::spawn(async move {
            let result = match answer {
                Some(answer) => answer.await.ok().flatten(),
                None => None,
            };
            dispatcher.cache_checked(task, result);
        });
    }
}

/// An action cache's answer to come.
type LookUp = AbortOnDropHandle<Option<rev2::ActionResult>>;

/// What lines of the log say before there is an operation.
fn subject(action: Digest, context: &CallContext, metadata: Option<&RequestMetadata>) -> Subject {
    let invocation = metadata.map(|metadata| metadata.tool_invocation_id.clone());
    Subject {
        action: action.to_string(),
        invocation: invocation.unwrap_or_default(),
        trace: context.trace_id().unwrap_or_default().to_owned(),
        ..Subject::default()
    }
}

fn action_digest(request: &ExecuteRequest) -> Result<Digest, Error> {
    let wire = request.action_digest.as_ref();
    let hash = wire.map_or("", |digest| &digest.hash);
    if wire.is_none() {
        return Err(Error::invalid("action_digest", "digest is missing"));
    }
    let function = DigestFunction::from_wire(request.digest_function, hash)
        .map_err(|error| Error::invalid("digest_function", error))?;
    Digest::from_wire(function, wire).map_err(|error| Error::invalid("action_digest", error))
}

/// What the names of files that a client wants inline may make together, in bytes:
/// they are kept until the action has been executed.
const INLINE: usize = 64 << 10;

/// What a client wants to find in the result itself, for the worker. A hint (REv2): of
/// too many files those beyond are left out.
fn inline(stdout: bool, stderr: bool, mut output_files: Vec<String>) -> Option<protobuf::Any> {
    let mut left = INLINE;
    let fitting = output_files.iter().map_while(|name| {
        left = left.checked_sub(name.len() + size_of::<String>())?;
        Some(())
    });
    let fitting = fitting.count();
    output_files.truncate(fitting);
    let inline = Inline {
        stdout,
        stderr,
        output_files,
    };
    (inline != Inline::default()).then(|| messages::pack(&inline))
}

/// What the client tells about itself. It is for the worker and for people, so
/// what cannot be decoded is left out rather than refused.
fn request_metadata(headers: &MetadataMap) -> Option<RequestMetadata> {
    headers
        .get_bin(REQUEST_METADATA)
        .and_then(|value| value.to_bytes().ok())
        .and_then(|bytes| RequestMetadata::decode(bytes).ok())
}

/// The W3C trace context headers.
fn trace_context(headers: &MetadataMap) -> HashMap<String, String> {
    ["traceparent", "tracestate"]
        .into_iter()
        .filter_map(|name| {
            let value = headers.get(name)?.to_str().ok()?;
            Some((name.to_string(), value.to_string()))
        })
        .collect()
}

/// Where a stream stands.
enum Next {
    First,
    Further,
    End,
}

/// The stream of one client: how the operation stands, at once, then whenever
/// that changes and every [`KEEP_ALIVE`], until it is done.
fn operations_of(updates: Updates) -> BoxStream<'static, Result<Operation, Status>> {
    stream::unfold((updates, Next::First), async |(mut updates, next)| {
        match next {
            Next::End => return None,
            Next::First => {}
            Next::Further => {
                let shutdown = updates.shutdown().clone();
                let stopped = tokio::select! {
                    biased;
                    changed = updates.views.changed() => changed.is_err(),
                    () = shutdown.cancelled() => true,
                    () = tokio::time::sleep(KEEP_ALIVE) => false,
                };
                if stopped {
                    // Clients try again on UNAVAILABLE.
                    let status = Status::from(Error::ShuttingDown);
                    return Some((Err(status), (updates, Next::End)));
                }
            }
        }
        let view = updates.views.borrow_and_update().clone();
        let waiting = updates.waiting(&view);
        let operation = operations::message(updates.name, &view, waiting.as_ref());
        let next = if operation.done {
            Next::End
        } else {
            Next::Further
        };
        Some((Ok(operation), (updates, next)))
    })
    .boxed()
}
