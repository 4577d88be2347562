//! A client of a farm: runs actions and gives their outcome.
//!
//! Blobs go through the project's own client library. Execute is called here, so
//! that a test sees each answer as it came: nothing is tried again, no error is
//! turned into words.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use proto::messages::unpack;
use proto::wire::longrunning::operations_client::OperationsClient;
use proto::wire::longrunning::{CancelOperationRequest, Operation, operation};
use proto::wire::rev2;
use proto::wire::rev2::execution_client::ExecutionClient;
use proto::wire::rev2::execution_stage::Value as Stage;
use proto::{Digest, DigestFunction, InstanceName};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use crate::action::Action;
use crate::wait::PATIENCE;

/// Blobs above this size are streamed.
const BATCHED: usize = 1 << 20;

/// A connection to a farm. Calls block, from any number of threads.
#[derive(Clone)]
pub struct Client {
    runtime: Arc<Runtime>,
    inner: hayloft::client::Client,
}

/// How an action ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What Execute said, be it the call's own status or the response's.
    pub status: Status,
    /// The result; empty where there is none.
    pub result: rev2::ActionResult,
    /// Whether the result is an earlier one.
    pub cached: bool,
    /// The response's message.
    pub message: String,
    /// The runner's logs of it.
    pub logs: BTreeMap<String, rev2::LogFile>,
    /// What the action printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
    /// The stages it went through.
    pub stages: Vec<Stage>,
}

impl Outcome {
    /// Itself, of an action that ran and ended with 0.
    ///
    /// # Panics
    /// It did not.
    #[must_use]
    pub fn success(self) -> Self {
        self.exited(0)
    }

    /// Itself, of an action that ran and ended with this code.
    ///
    /// # Panics
    /// It did not.
    #[must_use]
    pub fn exited(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Code::Ok, "{self:#?}");
        assert_eq!(self.result.exit_code, code, "{self:#?}");
        self
    }

    /// Itself, of an action that failed with this status.
    ///
    /// # Panics
    /// It did not, or the message lacks one of the words.
    #[must_use]
    pub fn refused(self, code: Code, words: &[&str]) -> Self {
        assert_eq!(self.status.code(), code, "{self:#?}");
        for word in words {
            assert!(
                self.status.message().contains(word),
                "{word:?} is not in {:?}",
                self.status.message()
            );
        }
        self
    }

    /// The digest of an output file.
    ///
    /// # Panics
    /// There is no such output.
    #[must_use]
    pub fn output(&self, path: &str) -> &rev2::OutputFile {
        self.result
            .output_files
            .iter()
            .find(|file| file.path == path)
            .unwrap_or_else(|| panic!("no output {path:?} in {self:#?}"))
    }

    /// What a probe printed: the result of each thing it tried, `OK` or the name
    /// of an errno.
    ///
    /// # Panics
    /// It printed something else.
    #[must_use]
    pub fn attempts(&self) -> BTreeMap<String, String> {
        attempts(&self.stdout)
    }
}

/// Parses what a probe prints.
///
/// # Panics
/// It is something else.
#[must_use]
pub fn attempts(stdout: &str) -> BTreeMap<String, String> {
    stdout
        .lines()
        .map(|line| {
            let (name, result) = line
                .rsplit_once(": ")
                .unwrap_or_else(|| panic!("the probe printed {line:?}"));
            (name.to_owned(), result.to_owned())
        })
        .collect()
}

/// An action under way.
pub struct Running {
    client: Client,
    task: JoinHandle<Outcome>,
    operation: watch::Receiver<Option<String>>,
}

impl Running {
    /// Waits for its end.
    ///
    /// # Panics
    /// It does not come.
    #[must_use]
    pub fn wait(self) -> Outcome {
        self.client
            .runtime
            .block_on(async { tokio::time::timeout(PATIENCE, self.task).await })
            .expect("the action ends")
            .expect("its task ends well")
    }

    /// Cancels its operation and waits for its end.
    ///
    /// # Panics
    /// It cannot be cancelled.
    #[must_use]
    pub fn cancel(mut self) -> Outcome {
        self.client.runtime.block_on(async {
            let wait = self.operation.wait_for(Option::is_some);
            let name = tokio::time::timeout(PATIENCE, wait)
                .await
                .expect("the operation has a name in time")
                .expect("the operation has a name")
                .clone()
                .expect("a name");
            OperationsClient::new(self.client.inner.channel())
                .cancel_operation(CancelOperationRequest { name })
                .await
                .expect("the operation can be cancelled");
        });
        self.wait()
    }
}

impl Client {
    /// A client of the farm at `grpc://HOST:PORT`, about the empty instance name.
    ///
    /// # Panics
    /// That is no address.
    #[must_use]
    pub fn connect(endpoint: &str) -> Self {
        Self::of_instance(endpoint, "")
    }

    /// A client of the farm at `grpc://HOST:PORT`, about an instance name.
    ///
    /// # Panics
    /// That is no address, or no instance name.
    #[must_use]
    pub fn of_instance(endpoint: &str, instance: &str) -> Self {
        let instance = InstanceName::new(instance).expect("an instance name");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let address = endpoint.parse().expect("the endpoint is an address");
        let inner = runtime
            .block_on(async { hayloft::client::Client::connect(&address, instance) })
            .expect("a client");
        Self {
            runtime: Arc::new(runtime),
            inner,
        }
    }

    /// The project's own client, for calls within [`Self::block_on`].
    #[must_use]
    pub fn inner(&self) -> &hayloft::client::Client {
        &self.inner
    }

    /// Waits for a call.
    pub fn block_on<T>(&self, call: impl Future<Output = T>) -> T {
        self.runtime.block_on(call)
    }

    /// Uploads an action and runs it.
    #[must_use]
    pub fn run(&self, action: &Action) -> Outcome {
        self.start(action).wait()
    }

    /// Uploads an action and sets it going.
    #[must_use]
    pub fn start(&self, action: &Action) -> Running {
        let (digest, blobs) = action.blobs();
        self.upload(blobs);
        self.start_digest(digest, action.skip_cache_lookup)
    }

    /// Runs the action of a digest, whatever it is the digest of.
    #[must_use]
    pub fn run_digest(&self, digest: Digest) -> Outcome {
        self.start_digest(digest, false).wait()
    }

    /// As [`Self::run_digest`], for callers that are asynchronous themselves.
    pub async fn run_async(&self, action: Digest) -> Outcome {
        let (name, _) = watch::channel(None);
        execute(self.inner.clone(), request(action, false), name).await
    }

    fn start_digest(&self, action: Digest, skip_cache_lookup: bool) -> Running {
        self.start_request(request(action, skip_cache_lookup))
    }

    /// Calls Execute.
    #[must_use]
    pub fn start_request(&self, request: rev2::ExecuteRequest) -> Running {
        let (sender, operation) = watch::channel(None);
        let inner = self.inner.clone();
        Running {
            client: self.clone(),
            task: self.runtime.spawn(execute(inner, request, sender)),
            operation,
        }
    }

    /// Uploads the blobs that the farm lacks.
    ///
    /// # Panics
    /// It does not take them.
    pub fn upload(&self, blobs: Vec<(Digest, Bytes)>) {
        let store = self.inner.blobs();
        let instance = self.inner.instance();
        let digests: Vec<_> = blobs.iter().map(|(digest, _)| *digest).collect();
        self.block_on(async {
            let missing = store
                .find_missing(instance, &digests)
                .await
                .expect("the farm says what it lacks");
            let (small, large): (Vec<_>, Vec<_>) = blobs
                .into_iter()
                .filter(|(digest, _)| missing.contains(digest))
                .partition(|(_, bytes)| bytes.len() <= BATCHED);
            for (digest, bytes) in large {
                let pieces: Vec<_> = bytes.chunks(BATCHED).map(Bytes::copy_from_slice).collect();
                let pieces = futures::stream::iter(pieces.into_iter().map(Ok));
                store
                    .write(instance, digest, pieces.boxed())
                    .await
                    .expect("the farm takes a large blob");
            }
            self.inner
                .upload(small)
                .await
                .expect("the farm takes blobs");
        });
    }

    /// Fetches a blob.
    ///
    /// # Panics
    /// The farm does not have it.
    #[must_use]
    pub fn fetch(&self, digest: &rev2::Digest) -> Bytes {
        let digest = Digest::from_wire(DigestFunction::Sha256, Some(digest)).expect("a digest");
        self.block_on(self.inner.fetch(digest))
            .expect("the farm has the blob")
    }

    /// Writes every output of a result below a folder.
    ///
    /// # Panics
    /// It cannot.
    pub fn download(&self, outcome: &Outcome, folder: &Path) {
        self.block_on(self.inner.download(&outcome.result, folder))
            .expect("the outputs come");
    }
}

fn request(action: Digest, skip_cache_lookup: bool) -> rev2::ExecuteRequest {
    rev2::ExecuteRequest {
        action_digest: Some(action.to_wire()),
        digest_function: action.function().to_wire(),
        skip_cache_lookup,
        ..Default::default()
    }
}

async fn execute(
    client: hayloft::client::Client,
    mut request: rev2::ExecuteRequest,
    name: watch::Sender<Option<String>>,
) -> Outcome {
    if request.instance_name.is_empty() {
        request.instance_name = client.instance().to_string();
    }
    let mut stages = Vec::new();
    let end = follow(&client, request, &name, &mut stages).await;
    let (response, status) = match end {
        Ok(mut response) => {
            let status = response.status.take();
            let status = status.map_or_else(|| Status::ok(""), |s| proto::status::from_wire(&s));
            (response, status)
        }
        Err(status) => (rev2::ExecuteResponse::default(), status),
    };
    let result = response.result.unwrap_or_default();
    let mut streams = Vec::new();
    for (raw, digest) in [
        (&result.stdout_raw, &result.stdout_digest),
        (&result.stderr_raw, &result.stderr_digest),
    ] {
        let bytes = client.fetch_stream(raw, digest.as_ref()).await;
        let bytes = bytes.expect("the farm has what the action printed");
        streams.push(String::from_utf8_lossy(&bytes).into_owned());
    }
    let stderr = streams.pop().unwrap_or_default();
    Outcome {
        status,
        result,
        cached: response.cached_result,
        message: response.message,
        logs: response.server_logs.into_iter().collect(),
        stdout: streams.pop().unwrap_or_default(),
        stderr,
        stages,
    }
}

async fn follow(
    client: &hayloft::client::Client,
    request: rev2::ExecuteRequest,
    name: &watch::Sender<Option<String>>,
    stages: &mut Vec<Stage>,
) -> Result<rev2::ExecuteResponse, Status> {
    let mut operations = ExecutionClient::new(client.channel())
        .execute(request)
        .await?
        .into_inner();
    while let Some(operation) = operations.message().await? {
        name.send_replace(Some(operation.name.clone()));
        stages.extend(stage(&operation));
        if operation.done {
            return response(operation);
        }
    }
    Err(Status::unknown("the stream ended before the operation"))
}

fn stage(operation: &Operation) -> Option<Stage> {
    const METADATA: &str = "build.bazel.remote.execution.v2.ExecuteOperationMetadata";
    let metadata: rev2::ExecuteOperationMetadata = unpack(operation.metadata.as_ref()?, METADATA)?;
    Some(metadata.stage())
}

fn response(operation: Operation) -> Result<rev2::ExecuteResponse, Status> {
    match operation.result {
        Some(operation::Result::Response(any)) => {
            unpack(&any, "build.bazel.remote.execution.v2.ExecuteResponse")
                .ok_or_else(|| Status::unknown("the response is no ExecuteResponse"))
        }
        Some(operation::Result::Error(status)) => Err(proto::status::from_wire(&status)),
        None => Err(Status::unknown("the operation is done without a result")),
    }
}
