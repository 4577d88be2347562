//! The services over real connections: clients and workers made by hand, a
//! storage in memory.

mod authorization;
mod bad_input;
mod bad_operators;
mod clients;
mod front;
mod log;
mod metrics;
mod operators;
mod route;
mod upstream_worker;
mod workers;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use daemon::{Address, CallContext, Channel, Diagnostics, Shutdown};
use futures::StreamExt as _;
use prost::Message;
use proto::messages::unpack;
use proto::wire::buildqueuestate::build_queue_state_server::BuildQueueStateServer;
use proto::wire::longrunning::{Operation, operation};
use proto::wire::remoteworker::operation_queue_client::OperationQueueClient;
use proto::wire::remoteworker::operation_queue_server::OperationQueueServer;
use proto::wire::remoteworker::{
    CurrentState, SynchronizeRequest, SynchronizeResponse, current_state, desired_state,
};
use proto::wire::rev2::execution_client::ExecutionClient;
use proto::wire::rev2::{
    Action, ActionResult, Command, ExecuteOperationMetadata, ExecuteRequest, ExecuteResponse,
    ExecutedActionMetadata, Platform, execution_stage, platform::Property,
};
use proto::wire::scheduler_extension::explanation_server::ExplanationServer;
use proto::{Digest, DigestFunction, InstanceName, PlatformKey};
use storage::{ActionCache, BlobStore, ByteStream};
use tonic::metadata::MetadataMap;
use tonic::{Status, Streaming};

use super::operation_queue::OperationQueueService;
use super::queue_state::QueueStateService;
use super::{Actions, Authorizers, Dispatcher, Sizes};
use crate::queue::{Now, Predeclared, Queue, Settings};
use crate::service::invocation::KeyExtractor;
use crate::service::route::{Router, Rules, Which};

/// A storage in memory.
#[derive(Default)]
struct Memory {
    blobs: Mutex<HashMap<Digest, Bytes>>,
    results: Mutex<HashMap<Digest, ActionResult>>,
    /// For whom it was asked.
    contexts: Mutex<Vec<MetadataMap>>,
}

impl Memory {
    fn put(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(DigestFunction::Sha256, bytes);
        let bytes = Bytes::copy_from_slice(bytes);
        self.blobs.lock().unwrap().insert(digest, bytes);
        digest
    }

    fn note_context(&self) {
        let mut headers = MetadataMap::new();
        CallContext::current().add_to(&mut headers);
        self.contexts.lock().unwrap().push(headers);
    }
}

#[async_trait]
impl BlobStore for Memory {
    async fn find_missing(
        &self,
        _: &InstanceName,
        _: &[Digest],
    ) -> Result<Vec<Digest>, storage::Error> {
        unimplemented!("the scheduler only reads")
    }

    async fn read(
        &self,
        _: &InstanceName,
        _: Digest,
        _: u64,
        _: Option<u64>,
    ) -> Result<ByteStream, storage::Error> {
        unimplemented!("the scheduler reads whole messages")
    }

    async fn read_batch(
        &self,
        _: &InstanceName,
        digests: &[Digest],
    ) -> Result<Vec<Result<Bytes, storage::Error>>, storage::Error> {
        self.note_context();
        let blobs = self.blobs.lock().unwrap();
        let mut answers = Vec::new();
        for digest in digests {
            let found = blobs.get(digest).cloned();
            answers.push(found.ok_or(storage::Error::NotFound(*digest)));
        }
        Ok(answers)
    }

    async fn write(
        &self,
        _: &InstanceName,
        _: Digest,
        _: ByteStream,
    ) -> Result<(), storage::Error> {
        unimplemented!("the scheduler only reads")
    }

    async fn write_batch(
        &self,
        _: &InstanceName,
        _: Vec<(Digest, Bytes)>,
    ) -> Result<Vec<Result<(), storage::Error>>, storage::Error> {
        unimplemented!("the scheduler only reads")
    }
}

#[async_trait]
impl ActionCache for Memory {
    async fn get(
        &self,
        _: &InstanceName,
        action: Digest,
    ) -> Result<Option<ActionResult>, storage::Error> {
        self.note_context();
        Ok(self.results.lock().unwrap().get(&action).cloned())
    }

    async fn update(
        &self,
        _: &InstanceName,
        _: Digest,
        _: ActionResult,
    ) -> Result<(), storage::Error> {
        unimplemented!("workers write results")
    }
}

/// A scheduler that serves both sides on a unix socket.
struct Farm {
    memory: Arc<Memory>,
    shutdown: Shutdown,
    address: Address,
    dispatcher: Arc<Dispatcher>,
    _folder: tempfile::TempDir,
}

impl Farm {
    /// Its one predeclared platform queue is `os=linux` of all instance names.
    async fn start(settings: Settings) -> Self {
        Self::guarded(settings, Authorizers::default()).await
    }

    /// As [`start`](Self::start), for those whom the rules let in.
    async fn guarded(settings: Settings, authorizers: Authorizers) -> Self {
        let authorizers = Arc::new(authorizers);
        let folder = tempfile::tempdir().unwrap();
        let address = Address::Unix(folder.path().join("socket"));
        let memory = Arc::new(Memory::default());
        let shutdown = Shutdown::new();
        let now = Now {
            instant: std::time::Instant::now(),
            wall: SystemTime::now(),
        };
        let sizes = Sizes {
            action: 1 << 20,
            command: 1 << 20,
        };
        let actions = Actions::new(memory.clone(), sizes, &settings.ignored);
        let cache = memory.clone() as Arc<dyn ActionCache>;
        let cache = settings.check_action_cache.then_some(cache);
        let linux = PlatformKey::from_wire(Some(&platform("linux"))).unwrap();
        let predeclared = [Predeclared {
            prefix: InstanceName::empty(),
            platform: linux,
            size_classes: Vec::new(),
            stickiness_limits: Vec::new(),
        }];
        let queue = Queue::new(settings, &predeclared, Box::new(rand::random), now);
        let dispatcher = Dispatcher::new(queue, shutdown.clone());
        let router = Router::Rules(Rules {
            platform: Which::Its,
            extractors: vec![KeyExtractor::ToolInvocationId],
            timeouts: Settings::default().timeouts,
        });
        let listener = daemon::listen(&address).await.unwrap();
        let routes = crate::client_routes(
            dispatcher.clone(),
            actions,
            cache,
            router,
            authorizers.clone(),
        );
        let workers = OperationQueueServer::new(OperationQueueService(
            dispatcher.clone(),
            authorizers.clone(),
        ));
        let operators = QueueStateService(dispatcher.clone(), authorizers);
        let routes = routes
            .add_service(workers)
            .add_service(BuildQueueStateServer::new(operators.clone()))
            .add_service(ExplanationServer::new(operators));
        tokio::spawn(daemon::serve(listener, routes, Diagnostics::new(&shutdown)));
        let driven = dispatcher.clone();
        tokio::spawn(async move { driven.drive().await });
        Self {
            memory,
            shutdown,
            address,
            dispatcher,
            _folder: folder,
        }
    }

    /// A connection of its own.
    fn connect(&self) -> Channel {
        daemon::connect(&self.address).unwrap()
    }

    /// Stores an action that `content` makes unique, for `os=linux`.
    fn action(&self, content: &str) -> Digest {
        self.store(Action {
            platform: Some(platform("linux")),
            ..action_of(content)
        })
    }

    fn store(&self, action: Action) -> Digest {
        self.memory.put(&action.encode_to_vec())
    }

    async fn execute(&self, action: Digest) -> Client {
        Client::execute(self.connect(), request(action))
            .await
            .unwrap()
    }

    fn worker(&self, name: &str) -> Worker {
        Worker {
            client: OperationQueueClient::new(self.connect()),
            request: SynchronizeRequest {
                worker_id: HashMap::from([("host".to_string(), name.to_string())]),
                platform: Some(platform("linux")),
                ..Default::default()
            },
            told: None,
        }
    }

    /// Waits until the queue is in a state, looking as often as it changes hands.
    async fn until(&self, reached: impl Fn() -> bool) {
        let wait = async {
            while !reached() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .unwrap();
    }
}

fn platform(os: &str) -> Platform {
    Platform {
        properties: vec![Property {
            name: "os".into(),
            value: os.into(),
        }],
    }
}

fn digest_of(bytes: &[u8]) -> Digest {
    Digest::of(DigestFunction::Sha256, bytes)
}

/// An action without a platform, its command in no storage.
fn action_of(content: &str) -> Action {
    Action {
        command_digest: Some(digest_of(content.as_bytes()).to_wire()),
        input_root_digest: Some(digest_of(b"").to_wire()),
        ..Default::default()
    }
}

fn request(action: Digest) -> ExecuteRequest {
    ExecuteRequest {
        action_digest: Some(action.to_wire()),
        ..Default::default()
    }
}

/// One client's stream.
struct Client {
    stream: Streaming<Operation>,
    name: String,
}

/// What an operation says.
struct Told {
    stage: execution_stage::Value,
    partial: Option<ExecutedActionMetadata>,
    response: Option<ExecuteResponse>,
}

impl Client {
    async fn execute(
        channel: Channel,
        request: impl tonic::IntoRequest<ExecuteRequest>,
    ) -> Result<Self, Status> {
        let stream = ExecutionClient::new(channel).execute(request).await?;
        Ok(Self {
            stream: stream.into_inner(),
            name: String::new(),
        })
    }

    async fn next(&mut self) -> Option<Told> {
        let operation = self.stream.next().await?.unwrap();
        self.name.clone_from(&operation.name);
        Some(told(&operation))
    }

    async fn stage(&mut self) -> execution_stage::Value {
        self.next().await.unwrap().stage
    }

    /// The outcome, and that the stream ends with it.
    async fn response(&mut self) -> ExecuteResponse {
        loop {
            if let Some(response) = self.next().await.unwrap().response {
                assert!(self.next().await.is_none());
                return response;
            }
        }
    }
}

fn told(operation: &Operation) -> Told {
    let name = |name| format!("build.bazel.remote.execution.v2.{name}");
    let metadata = operation.metadata.as_ref().unwrap();
    let metadata: ExecuteOperationMetadata =
        unpack(metadata, &name("ExecuteOperationMetadata")).unwrap();
    assert!(metadata.action_digest.is_some());
    assert_eq!(metadata.digest_function, DigestFunction::Sha256.to_wire());
    let response = match &operation.result {
        Some(operation::Result::Response(any)) => unpack(any, &name("ExecuteResponse")),
        Some(operation::Result::Error(error)) => panic!("{error:?}"),
        None => None,
    };
    assert_eq!(operation.done, response.is_some());
    let stage = execution_stage::Value::try_from(metadata.stage).unwrap();
    assert_eq!(operation.done, stage == execution_stage::Value::Completed);
    let partial = metadata.partial_execution_metadata;
    assert_eq!(partial.is_none(), operation.done);
    Told {
        stage,
        partial,
        response,
    }
}

/// A worker made by hand.
struct Worker {
    client: OperationQueueClient<Channel>,
    request: SynchronizeRequest,
    /// What it says besides: `hayloft.worker.v1`.
    told: Option<Vec<u8>>,
}

impl Worker {
    /// Has it tell of an execution beside each call.
    fn tells(&mut self, execution: &proto::wire::worker_extension::Execution) {
        self.told = Some(execution.encode_to_vec());
    }

    async fn call(
        &mut self,
        state: current_state::WorkerState,
    ) -> Result<SynchronizeResponse, Status> {
        let mut request = tonic::Request::new(SynchronizeRequest {
            current_state: Some(CurrentState {
                worker_state: Some(state),
            }),
            ..self.request.clone()
        });
        if let Some(told) = &self.told {
            let value = tonic::metadata::MetadataValue::from_bytes(told);
            let headers = request.metadata_mut();
            headers.insert_bin("hayloft-execution-bin", value);
        }
        Ok(self.client.synchronize(request).await?.into_inner())
    }

    async fn report(
        &mut self,
        action: Digest,
        state: current_state::executing::ExecutionState,
    ) -> SynchronizeResponse {
        let executing = current_state::Executing {
            action_digest: Some(action.to_wire()),
            execution_state: Some(state),
        };
        self.call(current_state::WorkerState::Executing(executing))
            .await
            .unwrap()
    }

    /// Waits for an action to execute.
    async fn take(&mut self) -> desired_state::Executing {
        let response = self
            .call(current_state::WorkerState::Idle(()))
            .await
            .unwrap();
        executing(response)
    }

    /// Reports an action completed, with this exit code, and wants no other.
    async fn complete(&mut self, action: Digest, exit_code: i32) {
        let response = ExecuteResponse {
            result: Some(ActionResult {
                exit_code,
                ..Default::default()
            }),
            ..Default::default()
        };
        self.request.prefer_being_idle = true;
        let state = current_state::executing::ExecutionState::Completed(response);
        assert!(is_idle(&self.report(action, state).await));
        self.request.prefer_being_idle = false;
    }
}

fn executing(response: SynchronizeResponse) -> desired_state::Executing {
    assert!(response.next_synchronization_at.is_some());
    match response.desired_state.unwrap().worker_state.unwrap() {
        desired_state::WorkerState::Executing(executing) => executing,
        desired_state::WorkerState::Idle(()) => panic!("told to be idle"),
    }
}

fn is_idle(response: &SynchronizeResponse) -> bool {
    let state = response.desired_state.as_ref();
    state.and_then(|state| state.worker_state.as_ref())
        == Some(&desired_state::WorkerState::Idle(()))
}
