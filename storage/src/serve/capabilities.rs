//! Capabilities: the cache's are known here, the execution's the scheduler knows.

use std::sync::Arc;

use daemon::Channel;
use proto::DigestFunction;
use proto::wire::rev2::capabilities_client::CapabilitiesClient;
use proto::wire::rev2::capabilities_server::{Capabilities, CapabilitiesServer};
use proto::wire::rev2::{
    ActionCacheUpdateCapabilities, CacheCapabilities, GetCapabilitiesRequest, ServerCapabilities,
    compressor, symlink_absolute_path_strategy,
};
use proto::wire::semver::SemVer;
use tonic::{Request, Response, Status};

use super::MAXIMUM_BATCH;
use super::execution::forwarded;
use super::field::instance;
use crate::authorizers::{Authorizers, Call};
use crate::client::classify;
use crate::updates::Updates;

/// The oldest REv2 that is served: Bazel 4 speaks it.
const LOW: (i32, i32) = (2, 0);
/// The newest: BuildStream 2.8 asks for it.
const HIGH: (i32, i32) = (2, 11);

/// Capabilities of a cache, and of a scheduler where there is one. While the
/// scheduler cannot be reached the answer is UNAVAILABLE, so that clients ask again
/// instead of going on without execution.
pub struct CapabilitiesService {
    updates: Updates,
    scheduler: Option<CapabilitiesClient<Channel>>,
    authorizers: Arc<Authorizers>,
}

impl CapabilitiesService {
    /// The service, ready to be added to an endpoint. `updates`: in which instance
    /// names its callers may write the action cache, if `authorizers` let them.
    #[must_use]
    pub fn server(
        updates: Updates,
        scheduler: Option<Channel>,
        authorizers: Arc<Authorizers>,
    ) -> CapabilitiesServer<Self> {
        CapabilitiesServer::new(Self {
            updates,
            scheduler: scheduler.map(CapabilitiesClient::new),
            authorizers,
        })
    }
}

/// `may_write`: whether the caller may write action results here.
fn cache(may_write: bool) -> ServerCapabilities {
    ServerCapabilities {
        cache_capabilities: Some(CacheCapabilities {
            digest_functions: DigestFunction::ALL.map(DigestFunction::to_wire).to_vec(),
            action_cache_update_capabilities: Some(ActionCacheUpdateCapabilities {
                update_enabled: may_write,
            }),
            max_batch_total_size_bytes: i64::try_from(MAXIMUM_BATCH).unwrap_or(i64::MAX),
            symlink_absolute_path_strategy: symlink_absolute_path_strategy::Value::Allowed as i32,
            supported_compressors: vec![compressor::Value::Zstd as i32],
            supported_batch_update_compressors: vec![compressor::Value::Zstd as i32],
            ..Default::default()
        }),
        execution_capabilities: None,
        deprecated_api_version: None,
        low_api_version: Some(version(LOW)),
        high_api_version: Some(version(HIGH)),
    }
}

fn version((major, minor): (i32, i32)) -> SemVer {
    SemVer {
        major,
        minor,
        ..Default::default()
    }
}

fn pair(version: Option<&SemVer>) -> Option<(i32, i32)> {
    version.map(|version| (version.major, version.minor))
}

/// The cache's capabilities with the scheduler's execution, and the versions that
/// both speak.
fn merge(mut cache: ServerCapabilities, scheduler: &ServerCapabilities) -> ServerCapabilities {
    cache.execution_capabilities = scheduler.execution_capabilities.clone();
    let low = pair(scheduler.low_api_version.as_ref()).map_or(LOW, |low| low.max(LOW));
    let high = pair(scheduler.high_api_version.as_ref()).map_or(HIGH, |high| high.min(HIGH));
    cache.low_api_version = Some(version(low));
    cache.high_api_version = Some(version(high));
    cache.deprecated_api_version = pair(scheduler.deprecated_api_version.as_ref())
        .filter(|deprecated| *deprecated < low)
        .map(|deprecated| version(deprecated.max(LOW)));
    cache
}

#[tonic::async_trait]
impl Capabilities for CapabilitiesService {
    async fn get_capabilities(
        &self,
        request: Request<GetCapabilitiesRequest>,
    ) -> Result<Response<ServerCapabilities>, Status> {
        let instance = instance(&request.get_ref().instance_name)?;
        let caller = request.extensions();
        let may = async |call| {
            self.authorizers
                .check(call, caller, &instance)
                .await
                .is_ok()
        };
        let may_write = self.updates.allows(&instance) && may(Call::PutActionResults).await;
        let may_execute = may(Call::Execute).await;
        let cache = cache(may_write);
        // Who may not execute is not told that one can, and does without.
        let Some(scheduler) = self.scheduler.as_ref().filter(|_| may_execute) else {
            return Ok(Response::new(cache));
        };
        let answer = scheduler
            .clone()
            .get_capabilities(forwarded(request))
            .await
            .map_err(classify)?;
        Ok(Response::new(merge(cache, answer.get_ref())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::wire::rev2::ExecutionCapabilities;

    fn scheduler(deprecated: i32, low: i32, high: i32) -> ServerCapabilities {
        ServerCapabilities {
            execution_capabilities: Some(ExecutionCapabilities {
                exec_enabled: true,
                ..Default::default()
            }),
            deprecated_api_version: Some(version((2, deprecated))),
            low_api_version: Some(version((2, low))),
            high_api_version: Some(version((2, high))),
            ..Default::default()
        }
    }

    #[test]
    fn versions_are_those_both_speak() {
        let merged = |theirs| {
            let merged = merge(cache(false), &theirs);
            assert!(merged.execution_capabilities.unwrap().exec_enabled);
            assert!(merged.cache_capabilities.is_some());
            (
                pair(merged.deprecated_api_version.as_ref()),
                pair(merged.low_api_version.as_ref()),
                pair(merged.high_api_version.as_ref()),
            )
        };
        // Ours announces 2.0 as low and nothing as deprecated.
        assert_eq!(
            merged(scheduler(0, 0, 11)),
            (None, Some((2, 0)), Some((2, 11)))
        );
        // What bb_scheduler announces.
        assert_eq!(
            merged(scheduler(2, 3, 12)),
            (Some((2, 2)), Some((2, 3)), Some((2, 11)))
        );
        assert_eq!(
            merged(ServerCapabilities {
                execution_capabilities: Some(ExecutionCapabilities {
                    exec_enabled: true,
                    ..Default::default()
                }),
                ..Default::default()
            }),
            (None, Some((2, 0)), Some((2, 11)))
        );
    }
}
