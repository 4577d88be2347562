//! The traits behind which all storage stands.
//!
//! A [`BlobStore`] is REv2's ContentAddressableStorage and ByteStream, an
//! [`ActionCache`] its ActionCache, both in the project's own types. The embedded
//! store, the client of a foreign storage and the fakes of tests implement them;
//! services, worker and scheduler know only them.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use proto::wire::rev2::ActionResult;
use proto::{Digest, InstanceName};

use crate::error::Error;

/// A blob's bytes in pieces, in order. Whoever consumes the stream need not check
/// them against the digest: a stream ends with [`Error::Corrupt`] instead of its
/// natural end when they do not match and it was read from its start to its end.
pub type ByteStream = BoxStream<'static, Result<Bytes, Error>>;

/// The bytes of messages, one after the other.
pub type Messages = BoxStream<'static, Result<Bytes, Error>>;

/// Digests that were seen. The hash is quicker than the standard library's, and seeded
/// too: digests are clients' to choose.
pub(crate) type DigestSet = HashSet<Digest, foldhash::fast::RandomState>;

/// Bytes that can be had again, from any offset on: of a file, or in memory.
pub type Source = Arc<dyn Fn(u64) -> ByteStream + Send + Sync>;

/// Bytes in memory as a source.
#[must_use]
pub fn source(bytes: Bytes) -> Source {
    Arc::new(move |offset| {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = bytes.slice(offset.min(bytes.len())..);
        futures::stream::once(async { Ok(rest) }).boxed()
    })
}

/// Blobs by digest, apart for each instance name where the implementation keeps
/// tenants apart. The empty blob is always there.
#[async_trait]
pub trait BlobStore: Send + Sync + 'static {
    /// Which of these blobs are absent, in the order given; one that is given twice may
    /// be told twice. Blobs that are present count as just used.
    ///
    /// # Errors
    /// The storage cannot be asked.
    async fn find_missing(
        &self,
        instance: &InstanceName,
        digests: &[Digest],
    ) -> Result<Vec<Digest>, Error>;

    /// The bytes from `offset` on, at most `limit` of them.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::OutOfRange`] when `offset` lies beyond the end.
    async fn read(
        &self,
        instance: &InstanceName,
        digest: Digest,
        offset: u64,
        limit: Option<u64>,
    ) -> Result<ByteStream, Error>;

    /// Whole small blobs, one result each, in the order given: their bytes are
    /// checked against their digests. Implementations split what exceeds their
    /// message size; a blob larger than that is read as a stream by them.
    ///
    /// # Errors
    /// The storage cannot be asked at all.
    async fn read_batch(
        &self,
        instance: &InstanceName,
        digests: &[Digest],
    ) -> Result<Vec<Result<Bytes, Error>>, Error>;

    /// Directory messages of the tree below a root, in any order: some of them, all
    /// of them, or others. Nothing may depend on it; it saves asking level by level.
    /// None where the storage does not offer it.
    ///
    /// # Errors
    /// The storage cannot be asked.
    async fn read_tree(
        &self,
        _instance: &InstanceName,
        _root: Digest,
    ) -> Result<Option<Messages>, Error> {
        Ok(None)
    }

    /// Stores a blob. Durable in the storage's own sense when it returns.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the bytes are not the digest's, [`Error::Full`].
    async fn write(
        &self,
        instance: &InstanceName,
        digest: Digest,
        bytes: ByteStream,
    ) -> Result<(), Error>;

    /// As [`Self::write`], where the bytes can be had again: a transfer that breaks
    /// off goes on where it broke, if the storage can do that, or from the start.
    ///
    /// # Errors
    /// As [`Self::write`].
    async fn write_from(
        &self,
        instance: &InstanceName,
        digest: Digest,
        source: Source,
    ) -> Result<(), Error> {
        self.write(instance, digest, source(0)).await
    }

    /// Stores small blobs, one result each, in the order given.
    ///
    /// # Errors
    /// The storage cannot be asked at all.
    async fn write_batch(
        &self,
        instance: &InstanceName,
        blobs: Vec<(Digest, Bytes)>,
    ) -> Result<Vec<Result<(), Error>>, Error>;
}

/// Results by action digest.
#[async_trait]
pub trait ActionCache: Send + Sync + 'static {
    /// The result of an action; none when there is none, or its outputs are gone.
    ///
    /// # Errors
    /// The cache cannot be asked.
    async fn get(
        &self,
        instance: &InstanceName,
        action: Digest,
    ) -> Result<Option<ActionResult>, Error>;

    /// Sets the result of an action, over any earlier one.
    ///
    /// # Errors
    /// The cache cannot be written.
    async fn update(
        &self,
        instance: &InstanceName,
        action: Digest,
        result: ActionResult,
    ) -> Result<(), Error>;
}

/// All the bytes of a blob that is small enough to be held whole. They are not
/// verified here.
///
/// # Errors
/// The stream's own; [`Error::Size`] as soon as there are more bytes than the
/// digest says.
pub async fn collect(digest: Digest, mut bytes: ByteStream) -> Result<Bytes, Error> {
    let mut whole = BytesMut::new();
    while let Some(piece) = bytes.try_next().await? {
        let actual = (whole.len() + piece.len()) as u64;
        if actual > digest.size() {
            return Err(Error::Size { digest, actual });
        }
        if whole.is_empty() && actual == digest.size() {
            return match bytes.try_next().await? {
                None => Ok(piece),
                Some(more) => Err(Error::Size {
                    digest,
                    actual: actual + more.len() as u64,
                }),
            };
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}
