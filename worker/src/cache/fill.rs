//! Fetching what the cache has not: small blobs in batches, large ones streamed.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use proto::{Digest, Hasher, InstanceName};
use tokio::sync::mpsc;

use super::file_cache::{FileCache, Pins};
use super::index::{Key, Lookup};
use crate::Error;
use crate::batches::{Request, requests};
use crate::files;

/// Batches and streams of one action that are prepared at the same time; the
/// process-wide bound is the cache's semaphore.
const CONCURRENT: usize = 32;

/// What a fetch brought.
pub(super) struct Filled {
    pub(super) pins: Pins,
    /// What the storage has not.
    pub(super) missing: Vec<Digest>,
}

impl FileCache {
    /// Fetches these files and pins them. That a blob is missing does not keep
    /// the others from coming; it is found out first where several requests
    /// would be made, so that nothing large is fetched for an action that cannot
    /// run.
    pub(super) async fn fill(
        self: &Arc<Self>,
        instance: &InstanceName,
        keys: Vec<Key>,
    ) -> Result<Filled, Error> {
        let mut filled = Filled {
            pins: Pins::none(self),
            missing: Vec::new(),
        };
        if keys.is_empty() {
            return Ok(filled);
        }
        let mut blobs: HashMap<Digest, Vec<Key>> = HashMap::new();
        for key in keys {
            blobs.entry(key.digest).or_default().push(key);
        }
        let digests: Vec<Digest> = blobs.keys().copied().collect();
        let requests = requests(blobs);
        if requests.len() > 1 {
            filled.missing = self
                .store
                .find_missing(instance, &digests)
                .await
                .map_err(Error::storage("finding missing input files"))?;
            if !filled.missing.is_empty() {
                return Ok(filled);
            }
        }
        let results = futures::stream::iter(requests)
            .map(|request| self.request(instance, request))
            .buffer_unordered(CONCURRENT)
            .try_collect::<Vec<_>>()
            .await?;
        for (pins, missing) in results {
            filled.pins.merge(pins);
            filled.missing.extend(missing);
        }
        Ok(filled)
    }

    async fn request(
        self: &Arc<Self>,
        instance: &InstanceName,
        request: Request<Vec<Key>>,
    ) -> Result<(Pins, Vec<Digest>), Error> {
        let _permit = self
            .downloads
            .acquire()
            .await
            .map_err(|closed| Error::Internal(closed.to_string()))?;
        match request {
            Request::Batch(blobs) => self.batch(instance, blobs).await,
            Request::Stream(digest, keys) => self.stream(instance, digest, keys).await,
        }
    }

    async fn batch(
        self: &Arc<Self>,
        instance: &InstanceName,
        blobs: Vec<(Digest, Vec<Key>)>,
    ) -> Result<(Pins, Vec<Digest>), Error> {
        let digests: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
        let contents = self
            .store
            .read_batch(instance, &digests)
            .await
            .map_err(Error::storage("fetching input files"))?;
        let cache = Arc::clone(self);
        let writing = tokio::task::spawn_blocking(move || {
            let mut pins = Pins::none(&cache);
            let mut missing = Vec::new();
            for ((digest, keys), content) in blobs.into_iter().zip(contents) {
                match content {
                    Err(storage::Error::NotFound(_)) => missing.push(digest),
                    Err(error) => return Err(Error::storage("fetching an input file")(error)),
                    Ok(bytes) => {
                        check(digest, Digest::of(digest.function(), &bytes))?;
                        for key in keys {
                            cache.write(&key, std::iter::once(Ok(bytes.clone())))?;
                            pins.adopt(key);
                        }
                    }
                }
            }
            Ok((pins, missing))
        });
        writing.await?
    }

    /// Fetches one large blob. The stream checks its bytes against the digest.
    async fn stream(
        self: &Arc<Self>,
        instance: &InstanceName,
        digest: Digest,
        keys: Vec<Key>,
    ) -> Result<(Pins, Vec<Digest>), Error> {
        let mut all = Pins::none(self);
        for key in keys {
            let mut stream = match self.store.read(instance, digest, 0, None).await {
                Err(storage::Error::NotFound(_)) => return Ok((all, vec![digest])),
                other => other.map_err(Error::storage("fetching an input file"))?,
            };
            // None comes after the natural end of the stream only.
            let (sender, mut receiver) = mpsc::channel::<Result<Option<Bytes>, storage::Error>>(8);
            let cache = Arc::clone(self);
            let writing = tokio::task::spawn_blocking(move || {
                let mut pins = Pins::none(&cache);
                let pieces = std::iter::from_fn(|| match receiver.blocking_recv() {
                    Some(piece) => piece.transpose(),
                    None => Some(Err(given_up())),
                });
                cache.write(&key, pieces)?;
                pins.adopt(key);
                Ok::<_, Error>(pins)
            });
            // Whether the bytes were right the stream says at its very end, after
            // the last of them. Should this future be dropped before, the channel
            // closes without the mark, and the writer removes the file even if
            // none of its bytes is missing.
            loop {
                let piece = stream.next().await.transpose();
                let last = !matches!(piece, Ok(Some(_)));
                if sender.send(piece).await.is_err() || last {
                    break;
                }
            }
            drop(sender);
            match writing.await? {
                Ok(pins) => all.merge(pins),
                Err(Error::Storage {
                    source: storage::Error::NotFound(_),
                    ..
                }) => return Ok((all, vec![digest])),
                Err(error) => return Err(error),
            }
        }
        Ok((all, Vec::new()))
    }

    /// Writes pieces and publishes the file. The iterator must end, rather than
    /// fail, only when the bytes it gave are known to be those of the key.
    fn write(
        &self,
        key: &Key,
        pieces: impl Iterator<Item = Result<Bytes, storage::Error>>,
    ) -> Result<(), Error> {
        let name = key.file_name();
        let mut incoming = self
            .incoming()
            .map_err(Error::file("create cache file", &name))?;
        let mut size = 0;
        for piece in pieces {
            let piece = piece.map_err(Error::storage("fetching an input file"))?;
            size += piece.len() as u64;
            incoming
                .file
                .write_all(&piece)
                .map_err(|error| Error::file("write cache file", &name)(files::errno(&error)))?;
        }
        if size != key.digest.size() {
            return Err(Error::storage("fetching an input file")(
                storage::Error::Size {
                    digest: key.digest,
                    actual: size,
                },
            ));
        }
        incoming
            .publish(key)
            .map_err(Error::file("publish cache file", &name))
    }

    /// Hashes files that were there when the worker started. The good ones come
    /// back pinned; the others are removed and come back as keys to be fetched.
    pub(super) async fn verify(
        self: &Arc<Self>,
        keys: Vec<Key>,
    ) -> Result<(Pins, Vec<Key>), Error> {
        let cache = Arc::clone(self);
        let verifying = tokio::task::spawn_blocking(move || {
            let mut pins = Pins::none(&cache);
            let mut bad = Vec::new();
            for key in keys {
                if let Some(bytes) = cache.has_right_bytes(&key) {
                    cache.state().index.publish(key, bytes);
                    pins.adopt(key);
                } else {
                    cache.discard(&key);
                    bad.push(key);
                }
            }
            (pins, bad)
        });
        Ok(verifying.await?)
    }

    /// The blocks, in bytes, of a file whose bytes are those of its key.
    fn has_right_bytes(&self, key: &Key) -> Option<u64> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let name = key.file_name();
        let file = openat(&self.directory, name.as_str(), flags, Mode::empty()).ok()?;
        let stat = nix::sys::stat::fstat(&file).ok()?;
        let mut file = std::fs::File::from(file).take(key.digest.size() + 1);
        let mut hasher = Hasher::new(key.digest.function());
        let mut buffer = vec![0; 128 << 10];
        loop {
            match file.read(&mut buffer).ok()? {
                0 => break,
                read => hasher.update(&buffer[..read]),
            }
        }
        (hasher.finish() == key.digest).then(|| u64::try_from(stat.st_blocks).unwrap_or(0) * 512)
    }

    /// Removes a bad file, unless a good one has taken its place.
    fn discard(&self, key: &Key) {
        let name = key.file_name();
        let mut state = self.state();
        if state.index.pin(key) == Lookup::Pinned {
            state.index.unpin(key);
            return;
        }
        tracing::warn!(file = name, "cached file was damaged, fetching it anew");
        let _ = unlinkat(&self.directory, name.as_str(), UnlinkatFlags::NoRemoveDir);
    }
}

/// Why a file is not finished whose fetching was cancelled. Nobody waits for it.
fn given_up() -> storage::Error {
    storage::Error::Source(tonic::Status::cancelled("fetching was given up"))
}

fn check(expected: Digest, actual: Digest) -> Result<(), Error> {
    if expected == actual {
        return Ok(());
    }
    Err(Error::storage("fetching an input file")(
        storage::Error::Corrupt { expected, actual },
    ))
}
