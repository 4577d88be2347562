//! Storing what a result names.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use proto::{Digest, InstanceName};
use storage::BlobStore;
use tokio::sync::Semaphore;

use super::hash::{PIECE, Source};
use super::places::{Location, Places};
use crate::Error;
use crate::batches::{BATCH_BLOBS, Request, requests};
use crate::build_directory::BuildDirectory;

/// All of an action's blobs together up to this size are stored without asking
/// first which are missing: the answer would take as long as the bytes.
const UNASKED: u64 = 16 << 10;
/// Requests of one action that are prepared at the same time.
const CONCURRENT: usize = 32;

/// Blobs to be stored, each once, and where those are that must be read again.
pub(crate) struct Blobs {
    pub(crate) sources: HashMap<Digest, Source>,
    pub(crate) places: Places,
}

/// What had to be stored.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Uploaded {
    pub(crate) blobs: u64,
    pub(crate) bytes: u64,
}

/// Where blobs come from.
#[derive(Clone)]
struct Origin {
    build: Arc<BuildDirectory>,
    places: Arc<Places>,
}

impl Origin {
    fn open(&self, location: &Location) -> Result<Arc<File>, Error> {
        let file = location.open(self.build.directory(), &self.places)?;
        Ok(Arc::new(file))
    }
}

/// Stores what the storage has not. Everything is there when this returns.
///
/// # Errors
/// The storage refuses or fails; a file cannot be read any more.
pub(crate) async fn upload(
    store: &Arc<dyn BlobStore>,
    instance: &InstanceName,
    uploads: &Arc<Semaphore>,
    build: &Arc<BuildDirectory>,
    blobs: Blobs,
) -> Result<Uploaded, Error> {
    let Blobs {
        mut sources,
        places,
    } = blobs;
    let mut uploaded = Uploaded::default();
    if sources.is_empty() {
        return Ok(uploaded);
    }
    let total: u64 = sources.keys().map(Digest::size).sum();
    if total > UNASKED || sources.len() > BATCH_BLOBS {
        let digests: Vec<Digest> = sources.keys().copied().collect();
        let missing = store
            .find_missing(instance, &digests)
            .await
            .map_err(Error::storage("finding missing outputs"))?;
        let mut wanted = HashMap::with_capacity(missing.len());
        for digest in missing {
            if let Some(source) = sources.remove(&digest) {
                wanted.insert(digest, source);
            }
        }
        sources = wanted;
    }
    for digest in sources.keys() {
        uploaded.blobs += 1;
        uploaded.bytes += digest.size();
    }
    let origin = &Origin {
        build: Arc::clone(build),
        places: Arc::new(places),
    };
    futures::stream::iter(requests(sources))
        .map(|request| async move {
            let _permit = uploads
                .acquire()
                .await
                .map_err(|closed| Error::Internal(closed.to_string()))?;
            match request {
                Request::Batch(blobs) => batch(store, instance, origin, blobs).await,
                Request::Stream((digest, source)) => {
                    stream(store, instance, origin, digest, source).await
                }
            }
        })
        .buffer_unordered(CONCURRENT)
        .try_collect::<()>()
        .await?;
    Ok(uploaded)
}

async fn batch(
    store: &Arc<dyn BlobStore>,
    instance: &InstanceName,
    origin: &Origin,
    blobs: Vec<(Digest, Source)>,
) -> Result<(), Error> {
    let in_memory = |(_, source): &(Digest, Source)| matches!(source, Source::Memory(_));
    let blobs = if blobs.iter().all(in_memory) {
        read_all(origin, blobs)?
    } else {
        let origin = origin.clone();
        tokio::task::spawn_blocking(move || read_all(&origin, blobs)).await??
    };
    let results = store
        .write_batch(instance, blobs)
        .await
        .map_err(Error::storage("uploading outputs"))?;
    results
        .into_iter()
        .collect::<Result<(), _>>()
        .map_err(Error::storage("uploading an output"))
}

fn read_all(origin: &Origin, blobs: Vec<(Digest, Source)>) -> Result<Vec<(Digest, Bytes)>, Error> {
    let read = |(digest, source): (Digest, Source)| {
        let file = match source {
            Source::Memory(bytes) => return Ok((digest, bytes)),
            Source::Open(file) => file,
            Source::At(location) => origin.open(&location)?,
        };
        let mut bytes = vec![0; usize::try_from(digest.size()).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0)
            .map_err(|error| Error::file("read", "output")(crate::files::errno(&error)))?;
        Ok((digest, bytes.into()))
    };
    blobs.into_iter().map(read).collect()
}

async fn stream(
    store: &Arc<dyn BlobStore>,
    instance: &InstanceName,
    origin: &Origin,
    digest: Digest,
    source: Source,
) -> Result<(), Error> {
    let source: storage::Source = match source {
        Source::Memory(bytes) => storage::store::source(bytes),
        Source::Open(file) => Arc::new(move |offset| file_pieces(file.clone(), digest, offset)),
        Source::At(location) => {
            let origin = origin.clone();
            let opening = tokio::task::spawn_blocking(move || origin.open(&location));
            let file = opening.await??;
            Arc::new(move |offset| file_pieces(file.clone(), digest, offset))
        }
    };
    store
        .write_from(instance, digest, source)
        .await
        .map_err(Error::storage("uploading an output"))
}

/// An output's bytes from an offset on.
fn file_pieces(file: Arc<File>, digest: Digest, from: u64) -> storage::ByteStream {
    futures::stream::try_unfold((file, from), move |(file, offset)| async move {
        let left = digest.size().saturating_sub(offset);
        if left == 0 {
            return Ok(None);
        }
        let length = usize::try_from(left).unwrap_or(PIECE).min(PIECE * 4);
        let reading = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; length];
            file.read_exact_at(&mut piece, offset)?;
            Ok::<_, std::io::Error>((file, piece))
        });
        let failed = |reason| storage::Error::File {
            operation: "read",
            path: "output".into(),
            reason,
        };
        let (file, piece) = reading
            .await
            .map_err(std::io::Error::other)
            .and_then(|read| read)
            .map_err(failed)?;
        Ok(Some((Bytes::from(piece), (file, offset + length as u64))))
    })
    .boxed()
}
