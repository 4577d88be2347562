//! What the scheduler can do, to clients that ask.

use std::sync::Arc;

use proto::wire::rev2::capabilities_server::Capabilities;
use proto::wire::rev2::priority_capabilities::PriorityRange;
use proto::wire::rev2::{
    ExecutionCapabilities, GetCapabilitiesRequest, PriorityCapabilities, ServerCapabilities,
};
use proto::wire::semver::SemVer;
use proto::{DigestFunction, InstanceName};
use tonic::{Request, Response, Status};

use super::authorizers::Authorizers;
use crate::error::Error;

/// The Capabilities service: the part on execution. That on storage is the
/// storage's; a front merges the two.
pub struct Announcement(pub Arc<Authorizers>);

#[tonic::async_trait]
impl Capabilities for Announcement {
    async fn get_capabilities(
        &self,
        request: Request<GetCapabilitiesRequest>,
    ) -> Result<Response<ServerCapabilities>, Status> {
        let instance = InstanceName::new(&request.get_ref().instance_name)
            .map_err(|error| Error::invalid("instance_name", error))?;
        // Who may not execute is not told of it, as by Buildbarn's.
        let may_execute = self
            .0
            .execute(request.extensions(), &instance)
            .await
            .is_ok();
        let version = |major, minor| {
            Some(SemVer {
                major,
                minor,
                ..Default::default()
            })
        };
        Ok(Response::new(ServerCapabilities {
            execution_capabilities: may_execute.then(|| ExecutionCapabilities {
                digest_function: DigestFunction::Sha256.to_wire(),
                exec_enabled: true,
                execution_priority_capabilities: Some(PriorityCapabilities {
                    priorities: vec![PriorityRange {
                        min_priority: i32::MIN,
                        max_priority: i32::MAX,
                    }],
                }),
                digest_functions: DigestFunction::ALL.map(DigestFunction::to_wire).to_vec(),
                ..Default::default()
            }),
            // Platforms in the Command, as clients of 2.0 send them, are read.
            low_api_version: version(2, 0),
            high_api_version: version(2, 11),
            ..Default::default()
        }))
    }
}
