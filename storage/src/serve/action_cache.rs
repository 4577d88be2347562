//! ActionCache.

use std::sync::Arc;

use proto::status;
use proto::wire::rev2::action_cache_server::{self, ActionCacheServer};
use proto::wire::rev2::{ActionResult, GetActionResultRequest, UpdateActionResultRequest};
use tonic::{Code, Request, Response, Status};

use super::MAXIMUM_MESSAGE;
use super::field::{digest, instance};
use crate::complete::References;
use crate::store::ActionCache;
use crate::updates::Updates;

/// ActionCache over a cache. What the client would like inlined is not: REv2
/// leaves that to the server.
pub struct ActionCacheService {
    actions: Arc<dyn ActionCache>,
    updates: Updates,
}

impl ActionCacheService {
    /// The service, ready to be added to an endpoint. `updates`: which callers may
    /// write. Whoever may write can make every later build take what they wrote.
    pub fn server(actions: Arc<dyn ActionCache>, updates: Updates) -> ActionCacheServer<Self> {
        ActionCacheServer::new(Self { actions, updates }).max_decoding_message_size(MAXIMUM_MESSAGE)
    }
}

#[tonic::async_trait]
impl action_cache_server::ActionCache for ActionCacheService {
    async fn get_action_result(
        &self,
        request: Request<GetActionResultRequest>,
    ) -> Result<Response<ActionResult>, Status> {
        let request = request.into_inner();
        let instance = instance(&request.instance_name)?;
        let action = digest(
            "action_digest",
            request.digest_function,
            request.action_digest.as_ref(),
        )?;
        let result = self.actions.get(&instance, action).await?;
        result.map(Response::new).ok_or_else(|| {
            Status::not_found(format!(
                "action {action} has no complete result in the cache"
            ))
        })
    }

    async fn update_action_result(
        &self,
        request: Request<UpdateActionResultRequest>,
    ) -> Result<Response<ActionResult>, Status> {
        let request = request.into_inner();
        let instance = instance(&request.instance_name)?;
        if !self.updates.allows(&instance) {
            return Err(status::new(
                Code::PermissionDenied,
                format!(
                    "clients of instance {:?} may not update the action cache \
                     (allow_client_action_cache_updates)",
                    instance.as_str()
                ),
            ));
        }
        let action = digest(
            "action_digest",
            request.digest_function,
            request.action_digest.as_ref(),
        )?;
        let result = request
            .action_result
            .ok_or_else(|| Status::invalid_argument("action_result is missing"))?;
        References::of(action.function(), &result)
            .map_err(|error| status::invalid_argument(format!("action_result: {error}")))?;
        self.actions
            .update(&instance, action, result.clone())
            .await?;
        Ok(Response::new(result))
    }
}
