//! The endpoints of a storage daemon.

use std::sync::Arc;

use daemon::{Channel, Shutdown};
use tonic::service::{Routes, RoutesBuilder};

use crate::authorizers::Authorizers;
use crate::hold::Holder;
use crate::serve::{
    ActionCacheService, ByteStreamService, CapabilitiesService, CasService, ExecutionForwarder,
};
use crate::store::{ActionCache, BlobStore};
use crate::updates::Updates;

/// The one endpoint that clients use: blobs and action results from a storage,
/// execution passed on to a scheduler.
pub struct Front {
    /// Where blobs are.
    pub blobs: Arc<dyn BlobStore>,
    /// Where action results are.
    pub actions: Arc<dyn ActionCache>,
    /// Who executes; without one, calls to execute are UNIMPLEMENTED and the
    /// capabilities say nothing of execution.
    pub scheduler: Option<Channel>,
    /// Which clients may write the action cache. They need not for remote
    /// execution, and whoever may can make others' builds take what they wrote.
    pub action_cache_updates: Updates,
    /// Who may make which calls.
    pub authorizers: Authorizers,
    /// Keeps what executing actions need, where the storage is an embedded one.
    pub holder: Option<Holder>,
    /// Ends the streams of executions that are under way.
    pub shutdown: Shutdown,
}

impl Front {
    /// Its services.
    #[must_use]
    pub fn routes(self) -> Routes {
        let authorizers = Arc::new(self.authorizers);
        let mut routes = storage(
            self.blobs,
            self.actions,
            self.action_cache_updates,
            self.scheduler.clone(),
            authorizers.clone(),
        );
        if let Some(scheduler) = self.scheduler {
            let (execution, operations) =
                ExecutionForwarder::servers(scheduler, self.holder, authorizers, self.shutdown);
            routes.add_service(execution).add_service(operations);
        }
        routes.routes()
    }
}

/// The endpoint for workers and schedulers: storage, with updates of the action
/// cache.
pub fn internal_routes(
    blobs: Arc<dyn BlobStore>,
    actions: Arc<dyn ActionCache>,
    authorizers: Authorizers,
) -> Routes {
    storage(blobs, actions, Updates::Always, None, Arc::new(authorizers)).routes()
}

fn storage(
    blobs: Arc<dyn BlobStore>,
    actions: Arc<dyn ActionCache>,
    updates: Updates,
    scheduler: Option<Channel>,
    authorizers: Arc<Authorizers>,
) -> RoutesBuilder {
    let mut routes = RoutesBuilder::default();
    routes
        .add_service(CasService::server(blobs.clone(), authorizers.clone()))
        .add_service(ByteStreamService::server(blobs, authorizers.clone()))
        .add_service(ActionCacheService::server(
            actions,
            updates.clone(),
            authorizers.clone(),
        ))
        .add_service(CapabilitiesService::server(updates, scheduler, authorizers));
    routes
}
