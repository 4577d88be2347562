//! The traits over connections.

use async_trait::async_trait;
use bytes::Bytes;
use daemon::Upstream;
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
use tonic::{Code, Status};

use super::announced::{Announced, Remembered};
use super::batch::{Batch, Batches, batches, cost, unanswered};
use super::caller::{Caller, classify, patiently};
use super::missing;
use super::pool::{Pool, is_near};
use super::read::Read;
use super::tree::Trees;
use super::write::Write;
use crate::error::Error;
use crate::store::{ActionCache, BlobStore, ByteStream, Messages, Source, collect, source};

/// How many digests one FindMissingBlobs carries (about 700 KB).
const PAGE: usize = 10_000;

/// A stream of a blob up to this size is sent as a batch of one.
const UNARY: u64 = 256 << 10;

/// Streams of blobs below this size are not packed.
const PACKED: u64 = 1 << 10;

/// How many batches or pages of one call are under way together.
const PARALLEL: usize = 4;

/// The largest message taken from a server.
const MAXIMUM_MESSAGE: usize = 64 << 20;

/// Any REv2 storage. Clones share its connections.
#[derive(Clone)]
pub struct RemoteStorage {
    cas: ContentAddressableStorageClient<Pool>,
    bytes: ByteStreamClient<Pool>,
    actions: ActionCacheClient<Pool>,
    capabilities: CapabilitiesClient<Pool>,
    caller: Caller,
    trees: Trees,
    /// Whether blobs are packed where the server can.
    compression: bool,
    announced: Remembered,
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

/// Whether a failure is not that of one blob: the server cannot be asked at all.
fn is_away(error: &Error) -> bool {
    matches!(error, Error::Remote(status) if status.code() == Code::Unavailable)
}

impl RemoteStorage {
    /// The storage at a server; its action cache may be elsewhere. A server on
    /// another machine gets several connections, and blobs are packed on the way
    /// where it can; within a machine packing takes longer than copying.
    ///
    /// # Errors
    /// An address is one that can only be listened on, or what is configured for TLS
    /// cannot be used.
    pub fn connect(cas: &Upstream, action_cache: Option<&Upstream>) -> Result<Self, Error> {
        let near = is_near(&cas.address);
        let cas = Pool::connect(cas)?;
        let actions = match action_cache {
            None => cas.clone(),
            Some(server) => Pool::connect(server)?,
        };
        Ok(Self::with_action_cache(cas, actions).compressing(!near))
    }

    /// The storage behind connections.
    #[must_use]
    pub fn new(pool: impl Into<Pool>) -> Self {
        let pool = pool.into();
        Self::with_action_cache(pool.clone(), pool)
    }

    /// One whose action cache is elsewhere.
    #[must_use]
    pub fn with_action_cache(cas: impl Into<Pool>, action_cache: impl Into<Pool>) -> Self {
        let cas = cas.into();
        Self {
            cas: ContentAddressableStorageClient::new(cas.clone())
                .max_decoding_message_size(MAXIMUM_MESSAGE),
            bytes: ByteStreamClient::new(cas.clone()).max_decoding_message_size(MAXIMUM_MESSAGE),
            capabilities: CapabilitiesClient::new(cas),
            actions: ActionCacheClient::new(action_cache.into())
                .max_decoding_message_size(MAXIMUM_MESSAGE),
            caller: Caller::new(),
            trees: Trees::default(),
            compression: false,
            announced: Remembered::default(),
        }
    }

    /// The same, packing blobs on the way (zstd) where the server announces that.
    #[must_use]
    pub fn compressing(mut self, compression: bool) -> Self {
        self.compression = compression;
        self
    }

    async fn announced(&self, instance: &InstanceName) -> Result<Announced, Error> {
        if let Some(announced) = self.announced.get() {
            return Ok(announced);
        }
        let request = GetCapabilitiesRequest {
            instance_name: instance.to_string(),
        };
        // At first callers that come meanwhile ask too: none waits for another's call.
        let mut client = self.capabilities.clone();
        let answer = patiently(client.get_capabilities(request)).await;
        let announced = match answer.map_err(classify) {
            Ok(response) => Announced::by(response.into_inner().cache_capabilities.as_ref()),
            Err(status) if status.code() == Code::Unimplemented => Announced::NOTHING,
            // The call this is asked for finds out itself whether the storage is
            // away, and tries again. What it announces is asked the next time.
            Err(status) => {
                let away = status.code() == Code::Unavailable;
                let assumed = away.then_some(Announced::NOTHING);
                let assumed = self.announced.earlier().or(assumed);
                return assumed.ok_or_else(|| remote(status));
            }
        };
        let announced = match self.compression {
            true => announced,
            false => announced.unpacked(),
        };
        self.announced.set(announced);
        Ok(announced)
    }

    /// Those of a page that are missing, in its order.
    async fn find_page(
        &self,
        instance: &InstanceName,
        page: &[Digest],
    ) -> Result<Vec<Digest>, Error> {
        let Some(function) = page.first().map(Digest::function) else {
            return Ok(Vec::new());
        };
        // Made for each attempt: of nearly all there is only one.
        let call = || async {
            let request = FindMissingBlobsRequest {
                instance_name: instance.to_string(),
                blob_digests: page.iter().map(Digest::to_wire).collect(),
                digest_function: function.to_wire(),
            };
            let mut client = self.cas.clone();
            client.find_missing_blobs(request).await
        };
        let response = self.caller.unary(call).await.map_err(remote)?.into_inner();
        let missing: Vec<Digest> = response
            .missing_blob_digests
            .iter()
            .map(|digest| {
                Digest::from_wire(function, Some(digest))
                    .map_err(|error| remote(Status::internal(format!("in its answer: {error}"))))
            })
            .collect::<Result<_, _>>()?;
        Ok(missing::in_order_of(page, missing))
    }

    fn batches(&self, packed: bool) -> Batches {
        Batches {
            cas: self.cas.clone(),
            caller: self.caller.clone(),
            packed,
        }
    }

    async fn reading(&self, instance: &InstanceName, digest: Digest) -> Result<Read, Error> {
        // Only then is the answer needed.
        let packed = self.compression && digest.size() >= PACKED;
        Ok(Read {
            client: self.bytes.clone(),
            caller: self.caller.clone(),
            instance: instance.clone(),
            digest,
            packed: packed && self.announced(instance).await?.packed_reads,
        })
    }

    fn writing(&self, instance: &InstanceName, digest: Digest, announced: Announced) -> Write {
        Write {
            client: self.bytes.clone(),
            caller: self.caller.clone(),
            instance: instance.clone(),
            digest,
            packed: announced.packed_reads && digest.size() >= PACKED,
        }
    }

    async fn read_one(&self, instance: &InstanceName, digest: Digest) -> Result<Bytes, Error> {
        collect(digest, self.read(instance, digest, 0, None).await?).await
    }

    /// Writes a blob by a unary call, if it is one for that.
    async fn write_small(
        &self,
        instance: &InstanceName,
        digest: Digest,
        announced: Announced,
        bytes: ByteStream,
    ) -> Result<(), Error> {
        let whole = collect(digest, bytes).await?;
        let written = self
            .batches(announced.packed_batches)
            .write(instance, vec![(0, (digest, whole))])
            .await?;
        written
            .into_iter()
            .next()
            .map_or_else(|| Err(unanswered(digest)), |(_, written)| written)
    }
}

fn is_small(digest: &Digest, announced: Announced) -> bool {
    cost(digest) <= UNARY.min(announced.batch)
}

#[async_trait]
impl BlobStore for RemoteStorage {
    async fn find_missing(
        &self,
        instance: &InstanceName,
        digests: &[Digest],
    ) -> Result<Vec<Digest>, Error> {
        // A page is of one function. Nearly always there is only one.
        let pages: Vec<Vec<Digest>> = digests
            .chunk_by(|one, next| one.function() == next.function())
            .flat_map(|same| same.chunks(PAGE))
            .map(|page| page.iter().filter(|it| !it.is_empty_blob()).copied())
            .map(Iterator::collect)
            .collect();
        futures::stream::iter(pages)
            .filter(|page| std::future::ready(!page.is_empty()))
            .map(|page| async move { self.find_page(instance, &page).await })
            .buffered(PARALLEL)
            .try_concat()
            .await
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
        let reading = self.reading(instance, digest).await?;
        self.announced.hear(reading.part(offset, length).await)
    }

    async fn read_batch(
        &self,
        instance: &InstanceName,
        digests: &[Digest],
    ) -> Result<Vec<Result<Bytes, Error>>, Error> {
        let announced = self.announced(instance).await?;
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
        let small = self.batches(announced.packed_reads);
        let small = &small;
        let read: Vec<Vec<(usize, Result<Bytes, Error>)>> =
            futures::stream::iter(batches(rest, announced.batch, |digest| *digest))
                .map(|batch| async move {
                    match batch {
                        Batch::Large((at, digest)) => match self.read_one(instance, digest).await {
                            Err(error) if is_away(&error) => Err(error),
                            read => Ok(vec![(at, read)]),
                        },
                        Batch::Small(blobs) => {
                            self.announced.hear(small.read(instance, blobs).await)
                        }
                    }
                })
                .buffer_unordered(PARALLEL)
                .try_collect()
                .await?;
        for (at, result) in read.into_iter().flatten() {
            results[at] = Some(self.announced.hear(result));
        }
        Ok(results
            .into_iter()
            .zip(digests)
            .map(|(result, digest)| result.unwrap_or(Err(Error::NotFound(*digest))))
            .collect())
    }

    async fn read_tree(
        &self,
        instance: &InstanceName,
        root: Digest,
    ) -> Result<Option<Messages>, Error> {
        let reading = self.trees.read(&self.cas, &self.caller, instance, root);
        reading.await
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
        let announced = self.announced(instance).await?;
        let written = if is_small(&digest, announced) {
            self.write_small(instance, digest, announced, bytes).await
        } else {
            self.writing(instance, digest, announced).once(bytes).await
        };
        self.announced.hear(written)
    }

    async fn write_from(
        &self,
        instance: &InstanceName,
        digest: Digest,
        source: Source,
    ) -> Result<(), Error> {
        if digest.is_empty_blob() {
            return Ok(());
        }
        let announced = self.announced(instance).await?;
        let written = if is_small(&digest, announced) {
            let bytes = source(0);
            self.write_small(instance, digest, announced, bytes).await
        } else {
            self.writing(instance, digest, announced).from(source).await
        };
        self.announced.hear(written)
    }

    async fn write_batch(
        &self,
        instance: &InstanceName,
        blobs: Vec<(Digest, Bytes)>,
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let announced = self.announced(instance).await?;
        // An answer that is not given is none: only what was acknowledged is stored.
        let mut results: Vec<Result<(), Error>> = blobs
            .iter()
            .map(|(digest, _)| Err(unanswered(*digest)))
            .collect();
        let blobs: Vec<_> = blobs.into_iter().enumerate().collect();
        let small = self.batches(announced.packed_batches);
        let small = &small;
        let written: Vec<Vec<(usize, Result<(), Error>)>> =
            futures::stream::iter(batches(blobs, announced.batch, |(digest, _)| *digest))
                .map(|batch| async move {
                    match batch {
                        Batch::Large((at, (digest, bytes))) => {
                            let write = self.writing(instance, digest, announced);
                            match write.from(source(bytes)).await {
                                Err(error) if is_away(&error) => Err(error),
                                written => Ok(vec![(at, written)]),
                            }
                        }
                        Batch::Small(blobs) => {
                            self.announced.hear(small.write(instance, blobs).await)
                        }
                    }
                })
                .buffer_unordered(PARALLEL)
                .try_collect()
                .await?;
        for (at, result) in written.into_iter().flatten() {
            results[at] = self.announced.hear(result);
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
        match self.caller.unary(call).await {
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
        self.caller.unary(call).await.map(drop).map_err(remote)
    }
}
