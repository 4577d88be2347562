//! What the scheduler does a second through gRPC on loopback: clients Execute, and
//! simulated workers complete at once, against the empty unary calls that the same
//! server answers in the same run.
//!
//! An action is two calls and a stream of three messages: its Execute, and the
//! Synchronize that reports it and brings the next one. It is read from a storage in
//! memory, and is not to be cached, so that none is joined to another.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;
use daemon::{Address, Channel, Diagnostics, Shutdown};
use proto::wire::remoteworker::current_state::{self, executing::ExecutionState};
use proto::wire::remoteworker::operation_queue_client::OperationQueueClient;
use proto::wire::remoteworker::{CurrentState, SynchronizeRequest, desired_state};
use proto::wire::rev2::execution_client::ExecutionClient;
use proto::wire::rev2::{self, Action, ActionResult, ExecuteRequest, ExecuteResponse};
use proto::wire::runner::runner_client::RunnerClient;
use proto::wire::runner::runner_server::{Runner, RunnerServer};
use proto::wire::runner::{CheckReadinessRequest, RunRequest, RunResponse};
use proto::{Digest, DigestFunction, InstanceName};
use scheduler::queue::{Ignored, Now, Queue, Settings};
use scheduler::service::invocation::KeyExtractor;
use scheduler::service::route::{Router, Rules, Which};
use scheduler::service::{Actions, Authorizers, Dispatcher, Sizes};
use storage::{BlobStore, ByteStream};
use tonic::{Request, Response, Status};

use crate::statistics::rate;

/// How much to measure.
#[derive(Args)]
pub struct Options {
    /// Actions, and empty calls, in each round.
    #[arg(long, default_value_t = 20_000)]
    actions: usize,
    /// Rounds of each; they alternate.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Clients, each with one action at a time.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Workers.
    #[arg(long, default_value_t = 64)]
    workers: usize,
    /// Connections of the clients, and of the workers.
    #[arg(long, default_value_t = 4)]
    connections: usize,
}

/// A storage that holds one blob.
struct One(Digest, Bytes);

#[tonic::async_trait]
impl BlobStore for One {
    async fn find_missing(
        &self,
        _: &InstanceName,
        digests: &[Digest],
    ) -> Result<Vec<Digest>, storage::Error> {
        let missing = digests.iter().filter(|digest| **digest != self.0);
        Ok(missing.copied().collect())
    }

    async fn read(
        &self,
        _: &InstanceName,
        digest: Digest,
        _: u64,
        _: Option<u64>,
    ) -> Result<ByteStream, storage::Error> {
        Err(storage::Error::NotFound(digest))
    }

    async fn read_batch(
        &self,
        _: &InstanceName,
        digests: &[Digest],
    ) -> Result<Vec<Result<Bytes, storage::Error>>, storage::Error> {
        let read = digests.iter().map(|digest| {
            let held = (*digest == self.0).then(|| self.1.clone());
            held.ok_or(storage::Error::NotFound(*digest))
        });
        Ok(read.collect())
    }

    async fn write(
        &self,
        _: &InstanceName,
        digest: Digest,
        _: ByteStream,
    ) -> Result<(), storage::Error> {
        Err(storage::Error::NotFound(digest))
    }

    async fn write_batch(
        &self,
        _: &InstanceName,
        _: Vec<(Digest, Bytes)>,
    ) -> Result<Vec<Result<(), storage::Error>>, storage::Error> {
        Ok(Vec::new())
    }
}

/// Answers empty calls.
struct Empty;

#[tonic::async_trait]
impl Runner for Empty {
    async fn check_readiness(
        &self,
        _: Request<CheckReadinessRequest>,
    ) -> Result<Response<()>, Status> {
        Ok(Response::new(()))
    }

    async fn run(&self, _: Request<RunRequest>) -> Result<Response<RunResponse>, Status> {
        Err(Status::unimplemented("it answers empty calls alone"))
    }
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(measure(options))
}

async fn measure(options: &Options) -> Result<()> {
    let action = Action {
        do_not_cache: true,
        command_digest: Some(Digest::of(DigestFunction::Sha256, b"command").to_wire()),
        input_root_digest: Some(Digest::of(DigestFunction::Sha256, b"root").to_wire()),
        ..Default::default()
    };
    let bytes = Bytes::from(prost::Message::encode_to_vec(&action));
    let digest = Digest::of(DigestFunction::Sha256, &bytes);
    let shutdown = Shutdown::new();
    let addresses = serve(Arc::new(One(digest, bytes)), &shutdown).await?;
    let [clients, workers] = addresses;
    let connect = |address: &Address| -> Result<Vec<Channel>> {
        let channels = (0..options.connections.max(1)).map(|_| daemon::connect(address));
        Ok(channels.collect::<Result<_, _>>()?)
    };
    let worker_channels = connect(&workers)?;
    for index in 0..options.workers {
        let channel = worker_channels[index % worker_channels.len()].clone();
        tokio::spawn(work(channel, index));
    }
    let channels = connect(&clients)?;
    println!("{:>12} {:>12} {:>7}", "actions/s", "empty/s", "ratio");
    for _ in 0..options.rounds {
        let empty = all(options, &channels, call_empty);
        let empty = rate(options.actions, empty.await?);
        let executed = all(options, &channels, move |channel: Channel| {
            execute(channel, digest)
        });
        let executed = rate(options.actions, executed.await?);
        println!("{executed:>12.0} {empty:>12.0} {:>7.3}", executed / empty);
    }
    shutdown.cancel();
    Ok(())
}

/// Starts a scheduler; gives where clients and where workers reach it.
async fn serve(store: Arc<One>, shutdown: &Shutdown) -> Result<[Address; 2]> {
    let now = Now {
        instant: tokio::time::Instant::now().into_std(),
        wall: SystemTime::now(),
    };
    let settings = Settings {
        no_workers_timeout: Duration::from_secs(60),
        ignored: Ignored::All,
        ..Settings::default()
    };
    let sizes = Sizes {
        action: 1 << 20,
        command: 1 << 20,
    };
    let actions = Actions::new(store, sizes, &settings.ignored);
    let router = Router::Rules(Rules {
        platform: Which::Its,
        extractors: vec![KeyExtractor::ToolInvocationId],
        timeouts: settings.timeouts,
    });
    let queue = Queue::new(settings, &[], Box::new(random()), now);
    let dispatcher = Dispatcher::new(queue, shutdown.clone());
    let authorizers = Arc::new(Authorizers::default());
    let clients = scheduler::client_routes(
        dispatcher.clone(),
        actions,
        None,
        router,
        authorizers.clone(),
    );
    let clients = clients.add_service(RunnerServer::new(Empty));
    let workers = scheduler::worker_routes(dispatcher.clone(), 1 << 20, authorizers);
    let mut addresses = Vec::new();
    for routes in [clients, workers] {
        let any: Address = "127.0.0.1:0".parse()?;
        let listener = daemon::listen(&any).await?;
        let bound = listener.local_address().to_string();
        addresses.push(bound.parse::<Address>()?);
        let diagnostics = Diagnostics::new(shutdown);
        tokio::spawn(daemon::serve(listener, routes, diagnostics));
    }
    tokio::spawn(async move { dispatcher.drive().await });
    let both: [Address; 2] = addresses.try_into().ok().context("two addresses")?;
    Ok(both)
}

/// Names of operations.
fn random() -> impl FnMut() -> u128 + Send {
    let mut state = 1u128;
    move || {
        state = state
            .wrapping_mul(0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645)
            .wrapping_add(1);
        state
    }
}

/// Has so many clients at a time make calls, until all are made.
async fn all<F, T>(options: &Options, channels: &[Channel], call: F) -> Result<Duration>
where
    F: Fn(Channel) -> T + Copy + Send + 'static,
    T: Future<Output = Result<()>> + Send,
{
    let left = Arc::new(AtomicUsize::new(options.actions));
    let start = Instant::now();
    let clients = (0..options.clients).map(|index| {
        let channel = channels[index % channels.len()].clone();
        let left = left.clone();
        tokio::spawn(async move {
            let take = |left: usize| left.checked_sub(1);
            while left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                .is_ok()
            {
                call(channel.clone()).await?;
            }
            Ok::<_, anyhow::Error>(())
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await??;
    }
    Ok(start.elapsed())
}

async fn call_empty(channel: Channel) -> Result<()> {
    let request = CheckReadinessRequest::default();
    RunnerClient::new(channel).check_readiness(request).await?;
    Ok(())
}

async fn execute(channel: Channel, digest: Digest) -> Result<()> {
    let request = ExecuteRequest {
        action_digest: Some(digest.to_wire()),
        skip_cache_lookup: true,
        ..Default::default()
    };
    let stream = ExecutionClient::new(channel).execute(request).await?;
    let mut stream = stream.into_inner();
    while let Some(operation) = stream.message().await? {
        if operation.done {
            return Ok(());
        }
    }
    anyhow::bail!("the stream ends without an outcome")
}

/// A worker that does nothing, quickly.
async fn work(channel: Channel, index: usize) -> Result<()> {
    let mut client = OperationQueueClient::new(channel);
    let mut state = current_state::WorkerState::Idle(());
    loop {
        let request = SynchronizeRequest {
            worker_id: HashMap::from([("host".to_string(), index.to_string())]),
            current_state: Some(CurrentState {
                worker_state: Some(state),
            }),
            ..Default::default()
        };
        let answer = client.synchronize(request).await?.into_inner();
        let desired = answer
            .desired_state
            .and_then(|desired| desired.worker_state);
        state = match desired {
            Some(desired_state::WorkerState::Executing(executing)) => {
                ensure!(executing.action.is_some(), "an action is missing");
                current_state::WorkerState::Executing(current_state::Executing {
                    action_digest: executing.action_digest,
                    execution_state: Some(ExecutionState::Completed(response())),
                })
            }
            Some(desired_state::WorkerState::Idle(())) | None => {
                current_state::WorkerState::Idle(())
            }
        };
    }
}

fn response() -> ExecuteResponse {
    ExecuteResponse {
        result: Some(ActionResult {
            execution_metadata: Some(rev2::ExecutedActionMetadata::default()),
            ..Default::default()
        }),
        ..Default::default()
    }
}
