//! A floor: unary calls that carry a message each way and do nothing with it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use daemon::{Address, Channel, Shutdown};
use proto::Digest;
use proto::wire::rev2::action_cache_client::ActionCacheClient;
use proto::wire::rev2::action_cache_server::{ActionCache, ActionCacheServer};
use proto::wire::rev2::content_addressable_storage_client::ContentAddressableStorageClient;
use proto::wire::rev2::{
    ActionResult, FindMissingBlobsRequest, FindMissingBlobsResponse, GetActionResultRequest,
    UpdateActionResultRequest,
};
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// The largest message, in bytes.
const MAXIMUM_MESSAGE: usize = 64 << 20;

/// A server that answers at once, and a client of it.
pub struct EmptyCalls {
    client: ActionCacheClient<Channel>,
    blobs: ContentAddressableStorageClient<Channel>,
    answer: Answer,
    missing: Missing,
    shutdown: Shutdown,
}

type Answer = Arc<Mutex<ActionResult>>;

/// What the next calls are to say, made before they are timed.
type Missing = Arc<Mutex<Vec<FindMissingBlobsResponse>>>;

struct Nothing(Answer);

#[tonic::async_trait]
impl ActionCache for Nothing {
    async fn get_action_result(
        &self,
        _: Request<GetActionResultRequest>,
    ) -> Result<Response<ActionResult>, Status> {
        let answer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Response::new(answer.clone()))
    }

    async fn update_action_result(
        &self,
        _: Request<UpdateActionResultRequest>,
    ) -> Result<Response<ActionResult>, Status> {
        Err(Status::unimplemented("the floor"))
    }
}

/// FindMissingBlobs, by itself: a whole ContentAddressableStorage would be eight more
/// calls that nobody makes.
fn find_missing(answers: Missing) -> axum::routing::MethodRouter {
    axum::routing::post(move |request: axum::extract::Request| {
        let answers = answers.clone();
        let answer = tower::service_fn(move |_: Request<FindMissingBlobsRequest>| {
            let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
            let answer = answers.pop().ok_or_else(|| Status::internal("no answer"));
            std::future::ready(answer.map(Response::new))
        });
        async move {
            let codec = ProstCodec::<FindMissingBlobsResponse, FindMissingBlobsRequest>::default();
            let call = tonic::server::Grpc::new(codec);
            let mut call = call.apply_max_message_size_config(Some(MAXIMUM_MESSAGE), None);
            call.unary(answer, request).await
        }
    })
}

impl EmptyCalls {
    /// Starts the server on a unix socket.
    pub async fn start(socket: &Path) -> Result<Self> {
        let address = Address::Unix(socket.into());
        let listener = daemon::listen(&address).await?;
        let shutdown = Shutdown::new();
        let answer = Answer::default();
        let missing = Missing::default();
        let cache = ActionCacheServer::new(Nothing(answer.clone()));
        let routes = axum::Router::new().route(
            "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs",
            find_missing(missing.clone()),
        );
        let routes = Routes::from(routes).add_service(cache);
        let diagnostics = daemon::Diagnostics::new(&shutdown);
        tokio::spawn(daemon::serve(listener, routes, diagnostics));
        let channel = daemon::connect(&address)?;
        let blobs = ContentAddressableStorageClient::new(channel.clone());
        Ok(Self {
            client: ActionCacheClient::new(channel),
            blobs: blobs.max_decoding_message_size(MAXIMUM_MESSAGE),
            answer,
            missing,
            shutdown,
        })
    }

    /// Has calls of [`Self::find`] answer with these, one each.
    pub fn prepare(&self, answers: Vec<FindMissingBlobsResponse>) {
        *self.missing.lock().unwrap_or_else(PoisonError::into_inner) = answers;
    }

    /// A call that asks for blobs; gives how many the answer names.
    pub async fn find(&self, request: FindMissingBlobsRequest) -> Result<usize> {
        let answer = self.blobs.clone().find_missing_blobs(request).await?;
        Ok(answer.into_inner().missing_blob_digests.len())
    }

    /// A call with the request of a look into an action cache, and this answer.
    pub async fn give(&self, action: &Digest, answer: &ActionResult) -> Result<()> {
        {
            let mut place = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
            if *place != *answer {
                *place = answer.clone();
            }
        }
        let request = GetActionResultRequest {
            action_digest: Some(action.to_wire()),
            ..Default::default()
        };
        self.client.clone().get_action_result(request).await?;
        Ok(())
    }
}

impl Drop for EmptyCalls {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}
