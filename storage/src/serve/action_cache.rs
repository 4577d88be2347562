//! ActionCache.

use std::sync::Arc;

use proto::status;
use proto::wire::rev2::action_cache_server::{self, ActionCacheServer};
use proto::wire::rev2::{ActionResult, GetActionResultRequest, UpdateActionResultRequest};
use tonic::{Code, Request, Response, Status};

use super::MAXIMUM_MESSAGE;
use super::field::{digest, instance};
use crate::authorizers::{Authorizers, Call};
use crate::complete::References;
use crate::store::ActionCache;
use crate::updates::Updates;

/// ActionCache over a cache. What the client would like inlined is not: REv2
/// leaves that to the server.
pub struct ActionCacheService {
    actions: Arc<dyn ActionCache>,
    updates: Updates,
    authorizers: Arc<Authorizers>,
}

impl ActionCacheService {
    /// The service, ready to be added to an endpoint. `updates`: in which instance
    /// names its callers may write, if `authorizers` let them. Whoever may write can
    /// make every later build take what they wrote.
    pub fn server(
        actions: Arc<dyn ActionCache>,
        updates: Updates,
        authorizers: Arc<Authorizers>,
    ) -> ActionCacheServer<Self> {
        let service = Self {
            actions,
            updates,
            authorizers,
        };
        ActionCacheServer::new(service).max_decoding_message_size(MAXIMUM_MESSAGE)
    }
}

#[tonic::async_trait]
impl action_cache_server::ActionCache for ActionCacheService {
    async fn get_action_result(
        &self,
        request: Request<GetActionResultRequest>,
    ) -> Result<Response<ActionResult>, Status> {
        let instance = instance(&request.get_ref().instance_name)?;
        let caller = request.extensions();
        self.authorizers
            .check(Call::GetActionResults, caller, &instance)
            .await?;
        let request = request.into_inner();
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
        let instance = instance(&request.get_ref().instance_name)?;
        let caller = request.extensions();
        self.authorizers
            .check(Call::PutActionResults, caller, &instance)
            .await?;
        let request = request.into_inner();
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
