//! A floor: unary calls that carry a message each way and do nothing with it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use daemon::{Address, Channel, Shutdown};
use proto::Digest;
use proto::wire::rev2::action_cache_client::ActionCacheClient;
use proto::wire::rev2::action_cache_server::{ActionCache, ActionCacheServer};
use proto::wire::rev2::{ActionResult, GetActionResultRequest, UpdateActionResultRequest};
use tonic::service::Routes;
use tonic::{Request, Response, Status};

/// The largest message, in bytes.
const MAXIMUM_MESSAGE: usize = 64 << 20;

/// A server that answers at once, and a client of it.
pub struct EmptyCalls {
    client: ActionCacheClient<Channel>,
    answer: Answer,
    shutdown: Shutdown,
}

type Answer = Arc<Mutex<ActionResult>>;

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
        Ok(Response::new(ActionResult::default()))
    }
}

impl EmptyCalls {
    /// Starts the server on a unix socket.
    pub async fn start(socket: &Path) -> Result<Self> {
        let address = Address::Unix(socket.into());
        let listener = daemon::listen(&address).await?;
        let shutdown = Shutdown::new();
        let answer = Answer::default();
        let service = ActionCacheServer::new(Nothing(answer.clone()));
        let routes = Routes::new(service.max_decoding_message_size(MAXIMUM_MESSAGE));
        let diagnostics = daemon::Diagnostics::new(&shutdown);
        tokio::spawn(daemon::serve(listener, routes, diagnostics));
        Ok(Self {
            client: ActionCacheClient::new(daemon::connect(&address)?),
            answer,
            shutdown,
        })
    }

    /// A call whose request is this large, in bytes.
    pub async fn take(&self, size: usize) -> Result<()> {
        let request = UpdateActionResultRequest {
            action_result: Some(ActionResult {
                stdout_raw: vec![0; size],
                ..Default::default()
            }),
            ..Default::default()
        };
        self.client.clone().update_action_result(request).await?;
        Ok(())
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
