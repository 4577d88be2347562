//! The traits over a channel.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use proto::wire::bytestream::byte_stream_client::ByteStreamClient;
use proto::wire::rev2::action_cache_client::ActionCacheClient;
use proto::wire::rev2::capabilities_client::CapabilitiesClient;
use proto::wire::rev2::content_addressable_storage_client::ContentAddressableStorageClient;
use proto::wire::rev2::{
    ActionResult, FindMissingBlobsRequest, GetActionResultRequest, GetCapabilitiesRequest,
    UpdateActionResultRequest,
};
use proto::{Digest, InstanceName};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::batch::{Batch, batches, cost, unanswered};
use super::retry::{classify, retry};
use super::stream;
use crate::error::Error;
use crate::store::{ActionCache, BlobStore, ByteStream, collect};

/// How many digests one FindMissingBlobs carries (about 700 KB).
const PAGE: usize = 10_000;

/// What a batch may carry where the server does not say: what bb_storage is
/// deployed with.
const DEFAULT_BATCH: u64 = 2 << 20;
/// And at most, whatever the server says: gRPC's default message size. More would
/// only hold up other calls.
const MAXIMUM_BATCH: u64 = 4 << 20;

/// A stream of a blob up to this size is sent as a batch of one, which, unlike a
/// stream, can be sent again.
const UNARY: u64 = 256 << 10;

/// How many batches of one call are under way together.
const PARALLEL: usize = 4;

/// The largest message taken from a server.
const MAXIMUM_MESSAGE: usize = 64 << 20;

/// Any REv2 storage. Clones share its connections.
#[derive(Clone)]
pub struct RemoteStorage {
    cas: ContentAddressableStorageClient<Channel>,
    bytes: ByteStreamClient<Channel>,
    actions: ActionCacheClient<Channel>,
    capabilities: CapabilitiesClient<Channel>,
    /// What a batch may carry, once the server has said it.
    batch: Arc<OnceLock<u64>>,
}

/// What the server said of a call as a whole.
fn remote(status: Status) -> Error {
    Error::Remote(status)
}

/// What the server said of a blob.
pub(super) fn about(digest: Digest, status: Status) -> Error {
    if status.code() == Code::NotFound {
        Error::NotFound(digest)
    } else {
        remote(status)
    }
}

impl RemoteStorage {
    /// The storage behind a channel.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        Self::with_action_cache(channel.clone(), channel)
    }

    /// One whose action cache is elsewhere.
    #[must_use]
    pub fn with_action_cache(cas: Channel, action_cache: Channel) -> Self {
        Self {
            cas: ContentAddressableStorageClient::new(cas.clone())
                .max_decoding_message_size(MAXIMUM_MESSAGE),
            bytes: ByteStreamClient::new(cas.clone()).max_decoding_message_size(MAXIMUM_MESSAGE),
            capabilities: CapabilitiesClient::new(cas),
            actions: ActionCacheClient::new(action_cache)
                .max_decoding_message_size(MAXIMUM_MESSAGE),
            batch: Arc::default(),
        }
    }

    /// What a batch may carry, its digests included.
    async fn batch(&self, instance: &InstanceName) -> Result<u64, Error> {
        if let Some(limit) = self.batch.get() {
            return Ok(*limit);
        }
        let request = GetCapabilitiesRequest {
            instance_name: instance.to_string(),
        };
        // Callers that come meanwhile ask too: none waits for another's call.
        let mut client = self.capabilities.clone();
        let announced = match client.get_capabilities(request).await.map_err(classify) {
            Ok(response) => response.into_inner().cache_capabilities,
            Err(status) if status.code() == Code::Unimplemented => None,
            // The call this is asked for finds out itself whether the storage is
            // away, and tries again. What it announces is asked the next time.
            Err(status) if status.code() == Code::Unavailable => return Ok(DEFAULT_BATCH),
            Err(status) => return Err(remote(status)),
        };
        let announced = announced.map_or(0, |cache| cache.max_batch_total_size_bytes);
        let limit = match u64::try_from(announced) {
            Ok(0) | Err(_) => DEFAULT_BATCH,
            Ok(limit) => limit.min(MAXIMUM_BATCH),
        };
        Ok(*self.batch.get_or_init(|| limit))
    }

    async fn find_page(
        &self,
        instance: &InstanceName,
        page: &[Digest],
    ) -> Result<HashSet<Digest>, Error> {
        let Some(function) = page.first().map(Digest::function) else {
            return Ok(HashSet::new());
        };
        let request = FindMissingBlobsRequest {
            instance_name: instance.to_string(),
            blob_digests: page.iter().map(Digest::to_wire).collect(),
            digest_function: function.to_wire(),
        };
        let call = || async {
            let mut client = self.cas.clone();
            client.find_missing_blobs(request.clone()).await
        };
        let response = retry(call).await.map_err(remote)?.into_inner();
        response
            .missing_blob_digests
            .iter()
            .map(|digest| {
                Digest::from_wire(function, Some(digest))
                    .map_err(|error| remote(Status::internal(format!("in its answer: {error}"))))
            })
            .collect()
    }

    async fn read_one(&self, instance: &InstanceName, digest: Digest) -> Result<Bytes, Error> {
        collect(digest, self.read(instance, digest, 0, None).await?).await
    }
}

#[async_trait]
impl BlobStore for RemoteStorage {
    async fn find_missing(
        &self,
        instance: &InstanceName,
        digests: &[Digest],
    ) -> Result<Vec<Digest>, Error> {
        let mut seen = HashSet::with_capacity(digests.len());
        let mut asked: Vec<Digest> = digests
            .iter()
            .filter(|digest| !digest.is_empty_blob() && seen.insert(**digest))
            .copied()
            .collect();
        // A page is of one function. Nearly always there is only one.
        let mut missing = HashSet::new();
        for same in asked.chunk_by(|one, next| one.function() == next.function()) {
            for page in same.chunks(PAGE) {
                missing.extend(self.find_page(instance, page).await?);
            }
        }
        asked.retain(|digest| missing.contains(digest));
        Ok(asked)
    }

    async fn read(
        &self,
        instance: &InstanceName,
        digest: Digest,
        offset: u64,
        limit: Option<u64>,
    ) -> Result<ByteStream, Error> {
        if offset > digest.size() {
            return Err(Error::OutOfRange { digest, offset });
        }
        let length = limit.unwrap_or(u64::MAX).min(digest.size() - offset);
        if digest.is_empty_blob() {
            return Ok(futures::stream::empty().boxed());
        }
        stream::read(&self.bytes, instance, digest, offset, length).await
    }

    async fn read_batch(
        &self,
        instance: &InstanceName,
        digests: &[Digest],
    ) -> Result<Vec<Result<Bytes, Error>>, Error> {
        let limit = self.batch(instance).await?;
        let mut results: Vec<Option<Result<Bytes, Error>>> = Vec::new();
        results.resize_with(digests.len(), || None);
        let mut rest = Vec::new();
        for (at, digest) in digests.iter().enumerate() {
            if digest.is_empty_blob() {
                results[at] = Some(Ok(Bytes::new()));
            } else {
                rest.push((at, *digest));
            }
        }
        let read: Vec<Vec<(usize, Result<Bytes, Error>)>> =
            futures::stream::iter(batches(rest, limit, |digest| *digest))
                .map(|batch| async move {
                    match batch {
                        Batch::Large((at, digest)) => match self.read_one(instance, digest).await {
                            Err(error @ Error::Remote(_)) => Err(error),
                            read => Ok(vec![(at, read)]),
                        },
                        Batch::Small(blobs) => super::batch::read(&self.cas, instance, blobs).await,
                    }
                })
                .buffer_unordered(PARALLEL)
                .try_collect()
                .await?;
        for (at, result) in read.into_iter().flatten() {
            results[at] = Some(result);
        }
        Ok(results
            .into_iter()
            .zip(digests)
            .map(|(result, digest)| result.unwrap_or(Err(Error::NotFound(*digest))))
            .collect())
    }

    async fn write(
        &self,
        instance: &InstanceName,
        digest: Digest,
        bytes: ByteStream,
    ) -> Result<(), Error> {
        if digest.is_empty_blob() {
            return Ok(());
        }
        if cost(&digest) <= UNARY.min(self.batch(instance).await?) {
            let whole = collect(digest, bytes).await?;
            let written = super::batch::write(&self.cas, instance, vec![(0, (digest, whole))]);
            let written = written.await?.pop().map(|(_, written)| written);
            return written.unwrap_or_else(|| Err(unanswered(digest)));
        }
        stream::write(&self.bytes, instance, digest, bytes).await
    }

    async fn write_batch(
        &self,
        instance: &InstanceName,
        blobs: Vec<(Digest, Bytes)>,
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let limit = self.batch(instance).await?;
        // An answer that is not given is none: only what was acknowledged is stored.
        let mut results: Vec<Result<(), Error>> = blobs
            .iter()
            .map(|(digest, _)| Err(unanswered(*digest)))
            .collect();
        let blobs: Vec<_> = blobs.into_iter().enumerate().collect();
        let written: Vec<Vec<(usize, Result<(), Error>)>> =
            futures::stream::iter(batches(blobs, limit, |(digest, _)| *digest))
                .map(|batch| async move {
                    match batch {
                        Batch::Large((at, (digest, bytes))) => {
                            let bytes = futures::stream::once(async { Ok(bytes) }).boxed();
                            match stream::write(&self.bytes, instance, digest, bytes).await {
                                Err(error @ Error::Remote(_)) => Err(error),
                                written => Ok(vec![(at, written)]),
                            }
                        }
                        Batch::Small(blobs) => {
                            super::batch::write(&self.cas, instance, blobs).await
                        }
                    }
                })
                .buffer_unordered(PARALLEL)
                .try_collect()
                .await?;
        for (at, result) in written.into_iter().flatten() {
            results[at] = result;
        }
        Ok(results)
    }
}

#[async_trait]
impl ActionCache for RemoteStorage {
    async fn get(
        &self,
        instance: &InstanceName,
        action: Digest,
    ) -> Result<Option<ActionResult>, Error> {
        let request = GetActionResultRequest {
            instance_name: instance.to_string(),
            action_digest: Some(action.to_wire()),
            digest_function: action.function().to_wire(),
            ..Default::default()
        };
        let call = || async {
            let mut client = self.actions.clone();
            client.get_action_result(request.clone()).await
        };
        match retry(call).await {
            Ok(response) => Ok(Some(response.into_inner())),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(remote(status)),
        }
    }

    async fn update(
        &self,
        instance: &InstanceName,
        action: Digest,
        result: ActionResult,
    ) -> Result<(), Error> {
        let request = UpdateActionResultRequest {
            instance_name: instance.to_string(),
            action_digest: Some(action.to_wire()),
            action_result: Some(result),
            results_cache_policy: None,
            digest_function: action.function().to_wire(),
        };
        let call = || async {
            let mut client = self.actions.clone();
            client.update_action_result(request.clone()).await
        };
        retry(call).await.map(drop).map_err(remote)
    }
}

/// Marks a failure of the connection as what it is.
pub(super) fn lost(status: Status) -> Error {
    remote(classify(status))
}
