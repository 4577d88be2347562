//! Storage in memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use daemon::CallContext;
use futures::{StreamExt, TryStreamExt};
use proto::wire::rev2::ActionResult;
use proto::{Digest, InstanceName};
use storage::store::Messages;
use storage::{ActionCache, BlobStore, ByteStream, Error};
use tokio::sync::{Notify, Semaphore};
use tonic::metadata::MetadataMap;

use super::digest;

/// Blobs and results by digest, whatever the instance.
pub(crate) struct FakeStorage {
    pub(crate) blobs: Mutex<HashMap<Digest, Bytes>>,
    pub(crate) results: Mutex<HashMap<Digest, ActionResult>>,
    /// Blobs that were asked for, by batch or stream.
    pub(crate) reads: AtomicUsize,
    pub(crate) writes: AtomicUsize,
    /// What is told of any tree, if anything.
    pub(crate) tree: Mutex<Option<Vec<Bytes>>>,
    /// Reads wait for a permit of this.
    pub(crate) gate: Semaphore,
    /// Streams wait for a permit of this when all bytes are out, before they say
    /// whether those were right.
    pub(crate) end: Arc<Semaphore>,
    /// Told when a stream begins to wait.
    pub(crate) at_end: Arc<Notify>,
    /// For whom it was asked.
    pub(crate) contexts: Mutex<Vec<MetadataMap>>,
    /// Writes are refused while set.
    pub(crate) full: std::sync::atomic::AtomicBool,
}

impl FakeStorage {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            blobs: Mutex::default(),
            results: Mutex::default(),
            reads: AtomicUsize::new(0),
            writes: AtomicUsize::new(0),
            tree: Mutex::default(),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
            end: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            at_end: Arc::default(),
            contexts: Mutex::default(),
            full: false.into(),
        })
    }

    pub(crate) fn put(&self, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = digest(&bytes);
        self.blobs.lock().unwrap().insert(digest, bytes);
        digest
    }

    pub(crate) fn get(&self, digest: &Digest) -> Option<Bytes> {
        self.blobs.lock().unwrap().get(digest).cloned()
    }

    fn note_context(&self) {
        let mut headers = MetadataMap::new();
        CallContext::current().add_to(&mut headers);
        self.contexts.lock().unwrap().push(headers);
    }

    fn read_one(&self, digest: Digest) -> Result<Bytes, Error> {
        self.note_context();
        self.reads.fetch_add(1, Ordering::SeqCst);
        let bytes = self.get(&digest).ok_or(Error::NotFound(digest))?;
        let actual = Digest::of(digest.function(), &bytes);
        if actual != digest {
            return Err(Error::Corrupt {
                expected: digest,
                actual,
            });
        }
        Ok(bytes)
    }

    fn write_one(&self, expected: Digest, bytes: Bytes) -> Result<(), Error> {
        self.note_context();
        if self.full.load(Ordering::SeqCst) {
            return Err(Error::Full {
                digest: expected,
                limit: 0,
            });
        }
        self.writes.fetch_add(1, Ordering::SeqCst);
        let actual = Digest::of(expected.function(), &bytes);
        if actual != expected {
            return Err(Error::Corrupt { expected, actual });
        }
        self.blobs.lock().unwrap().insert(expected, bytes);
        Ok(())
    }
}

#[async_trait]
impl BlobStore for FakeStorage {
    async fn find_missing(&self, _: &InstanceName, all: &[Digest]) -> Result<Vec<Digest>, Error> {
        self.note_context();
        let blobs = self.blobs.lock().unwrap();
        let missing = all.iter().filter(|digest| !blobs.contains_key(digest));
        Ok(missing.copied().collect())
    }

    async fn read(
        &self,
        _: &InstanceName,
        digest: Digest,
        _: u64,
        _: Option<u64>,
    ) -> Result<ByteStream, Error> {
        let _permit = self.gate.acquire().await.unwrap();
        self.note_context();
        // Unlike those of a batch, these are checked on their way.
        self.reads.fetch_add(1, Ordering::SeqCst);
        let bytes = self.get(&digest).ok_or(Error::NotFound(digest))?;
        let actual = Digest::of(digest.function(), &bytes);
        let pieces: Vec<Result<Bytes, Error>> = bytes
            .chunks(100_000)
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect();
        let (end, at_end) = (Arc::clone(&self.end), Arc::clone(&self.at_end));
        let verdict = async move {
            at_end.notify_one();
            drop(end.acquire().await);
            (actual != digest).then_some(Err(Error::Corrupt {
                expected: digest,
                actual,
            }))
        };
        let verdict = futures::stream::once(verdict).filter_map(std::future::ready);
        Ok(futures::stream::iter(pieces).chain(verdict).boxed())
    }

    async fn read_batch(
        &self,
        _: &InstanceName,
        digests: &[Digest],
    ) -> Result<Vec<Result<Bytes, Error>>, Error> {
        let _permit = self.gate.acquire().await.unwrap();
        Ok(digests
            .iter()
            .map(|digest| self.read_one(*digest))
            .collect())
    }

    async fn read_tree(&self, _: &InstanceName, _: Digest) -> Result<Option<Messages>, Error> {
        let tree = self.tree.lock().unwrap().clone();
        Ok(tree.map(|messages| futures::stream::iter(messages.into_iter().map(Ok)).boxed()))
    }

    async fn write(
        &self,
        _: &InstanceName,
        digest: Digest,
        bytes: ByteStream,
    ) -> Result<(), Error> {
        let bytes: BytesMut = bytes.try_collect().await?;
        self.write_one(digest, bytes.freeze())
    }

    async fn write_batch(
        &self,
        _: &InstanceName,
        blobs: Vec<(Digest, Bytes)>,
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let write = |(digest, bytes)| self.write_one(digest, bytes);
        Ok(blobs.into_iter().map(write).collect())
    }
}

#[async_trait]
impl ActionCache for FakeStorage {
    async fn get(&self, _: &InstanceName, action: Digest) -> Result<Option<ActionResult>, Error> {
        Ok(self.results.lock().unwrap().get(&action).cloned())
    }

    async fn update(
        &self,
        _: &InstanceName,
        action: Digest,
        result: ActionResult,
    ) -> Result<(), Error> {
        self.note_context();
        self.results.lock().unwrap().insert(action, result);
        Ok(())
    }
}
