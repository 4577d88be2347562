use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use daemon::Shutdown;
use proto::{Digest, InstanceName, PlatformKey};
use scheduler::queue::{Limits, Now, Predeclared, Queue, Settings};
use scheduler::service::invocation::KeyExtractor;
use scheduler::service::route::{Router, Rules, Which};
use scheduler::service::{Actions, Authorizers, Dispatcher, Sizes};
use storage::{BlobStore, ByteStream, Error};

use crate::calls::{call, pieces, run};

/// The methods that are called.
pub const METHODS: [&str; 17] = [
    "/buildbarn.remoteworker.OperationQueue/Synchronize",
    "/build.bazel.remote.execution.v2.Execution/Execute",
    "/build.bazel.remote.execution.v2.Execution/WaitExecution",
    "/build.bazel.remote.execution.v2.Capabilities/GetCapabilities",
    "/google.longrunning.Operations/GetOperation",
    "/google.longrunning.Operations/CancelOperation",
    "/buildbarn.buildqueuestate.BuildQueueState/GetOperation",
    "/buildbarn.buildqueuestate.BuildQueueState/ListOperations",
    "/buildbarn.buildqueuestate.BuildQueueState/KillOperations",
    "/buildbarn.buildqueuestate.BuildQueueState/ListPlatformQueues",
    "/buildbarn.buildqueuestate.BuildQueueState/ListInvocationChildren",
    "/buildbarn.buildqueuestate.BuildQueueState/ListQueuedOperations",
    "/buildbarn.buildqueuestate.BuildQueueState/ListWorkers",
    "/buildbarn.buildqueuestate.BuildQueueState/TerminateWorkers",
    "/buildbarn.buildqueuestate.BuildQueueState/AddDrain",
    "/buildbarn.buildqueuestate.BuildQueueState/RemoveDrain",
    "/hayloft.scheduler.v1.Explanation/Explain",
];

/// The most calls of one input.
const MOST: usize = 24;

/// A storage that gives the same bytes for whatever it is asked.
struct Same(Bytes);

#[async_trait]
impl BlobStore for Same {
    async fn find_missing(&self, _: &InstanceName, _: &[Digest]) -> Result<Vec<Digest>, Error> {
        Ok(Vec::new())
    }

    async fn read(
        &self,
        _: &InstanceName,
        digest: Digest,
        _: u64,
        _: Option<u64>,
    ) -> Result<ByteStream, Error> {
        Err(Error::NotFound(digest))
    }

    async fn read_batch(
        &self,
        _: &InstanceName,
        digests: &[Digest],
    ) -> Result<Vec<Result<Bytes, Error>>, Error> {
        Ok(digests.iter().map(|_| Ok(self.0.clone())).collect())
    }

    async fn write(&self, _: &InstanceName, digest: Digest, _: ByteStream) -> Result<(), Error> {
        Err(Error::NotFound(digest))
    }

    async fn write_batch(
        &self,
        _: &InstanceName,
        _: Vec<(Digest, Bytes)>,
    ) -> Result<Vec<Result<(), Error>>, Error> {
        Ok(Vec::new())
    }
}

/// Calls of workers, operators and clients to a scheduler, one after the other: each
/// is answered with a status, and at the end the queue can still stop. The first piece
/// of the input is the Action that the storage has, each further one a method and its
/// message.
///
/// # Panics
/// It does not.
pub fn scheduler_calls(input: &[u8]) {
    run(async {
        let mut pieces = pieces(input).into_iter();
        let action = Bytes::copy_from_slice(pieces.next().unwrap_or_default());
        let settings = Settings {
            limits: Limits {
                queued: Some(4),
                executing: Some(2),
                ..Limits::default()
            },
            ..Settings::default()
        };
        let router = Router::Rules(Rules {
            platform: Which::Its,
            extractors: vec![KeyExtractor::ToolInvocationId],
            timeouts: settings.timeouts,
        });
        let sizes = Sizes {
            action: 1 << 20,
            command: 1 << 20,
        };
        let actions = Actions::new(Arc::new(Same(action)), sizes, &settings.ignored);
        let now = Now {
            instant: tokio::time::Instant::now().into_std(),
            wall: SystemTime::now(),
        };
        let linux = [("os".to_owned(), "linux".to_owned())];
        let predeclared = [Predeclared {
            prefix: InstanceName::empty(),
            platform: PlatformKey::from_properties(linux),
            size_classes: Vec::new(),
            stickiness_limits: Vec::new(),
        }];
        // The same names in each run.
        let mut last = 0u128;
        let names = Box::new(move || {
            last += 1;
            last
        });
        let queue = Queue::new(settings, &predeclared, names, now);
        let dispatcher = Dispatcher::new(queue, Shutdown::new());
        let allow = Arc::new(Authorizers::default());
        let clients =
            scheduler::client_routes(dispatcher.clone(), actions, None, router, allow.clone());
        let workers = scheduler::worker_routes(dispatcher.clone(), 1 << 20, allow.clone());
        let operators = scheduler::queue_state_routes(dispatcher.clone(), allow);
        for piece in pieces.take(MOST) {
            let Some((method, message)) = piece.split_first() else {
                continue;
            };
            let path = METHODS[usize::from(*method) % METHODS.len()];
            let routes = match path {
                _ if path.starts_with("/buildbarn.remoteworker") => &workers,
                _ if path.starts_with("/buildbarn") || path.starts_with("/hayloft") => &operators,
                _ => &clients,
            };
            call(routes, path, &[message]).await;
        }
        dispatcher.operate(|queue, now| queue.release_all(now));
    });
}
