//! On whose behalf calls to a storage are made.
//!
//! REv2 has clients say with each call which tool, invocation and action it is for
//! (RequestMetadata, in a header). A program that calls a storage for somebody else
//! passes it on: it runs the work within [`RequestMetadata::scope`], and the client
//! of foreign storage ([`crate::client`]) adds it to the calls that are made there.
//! Work spawned as a task of its own is outside the scope of the one that spawned
//! it, and takes [`RequestMetadata::current`] along.

use std::future::Future;

use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message as _;
use proto::wire::rev2;
use tonic::metadata::{BinaryMetadataKey, BinaryMetadataValue, MetadataMap};

/// The header's name.
pub const HEADER: &str = "build.bazel.remote.execution.v2.requestmetadata-bin";

tokio::task_local! {
    static CURRENT: RequestMetadata;
}

/// A caller's RequestMetadata, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestMetadata(BinaryMetadataValue);

impl RequestMetadata {
    /// What a message says.
    #[must_use]
    pub fn new(message: &rev2::RequestMetadata) -> Self {
        Self(BinaryMetadataValue::from_bytes(&message.encode_to_vec()))
    }

    /// What came with a request, if anything did.
    #[must_use]
    pub fn of(metadata: &MetadataMap) -> Option<Self> {
        let key = BinaryMetadataKey::from_static(HEADER);
        metadata.get_bin(&key).cloned().map(Self)
    }

    /// That of the work that is being done here.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// Does work on this caller's behalf.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }

    /// Does work on the behalf of this caller, or of nobody in particular.
    pub async fn scope_of<F: Future>(caller: Option<Self>, work: F) -> F::Output {
        match caller {
            Some(caller) => caller.scope(work).await,
            None => work.await,
        }
    }

    /// Adds that of the work that is being done here to a call's headers.
    pub(crate) fn add_current(headers: &mut HeaderMap) {
        let _ = CURRENT.try_with(|current| {
            if let Ok(value) = HeaderValue::from_bytes(current.0.as_encoded_bytes()) {
                headers.insert(HeaderName::from_static(HEADER), value);
            }
        });
    }
}
