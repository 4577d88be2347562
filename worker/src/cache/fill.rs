//! Seeing to it that pinned files are there: small blobs come in batches, large
//! ones are streamed, and files from before the start are hashed.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use proto::{Digest, InstanceName};
use tokio::sync::mpsc;

use super::file_cache::{Fetched, FileCache, LinkError, PORTION, Pins};
use super::index::{Claimed, Id, Work};
use crate::Error;
use crate::batches::{Request, requests};
use crate::downloads::STREAM;

/// Batches and streams of one action that are prepared at the same time; the
/// process-wide bound is [`Downloads`](crate::downloads::Downloads).
const CONCURRENT: usize = 32;
/// Digests that one question for missing blobs carries. Storage is asked this many
/// at a time so that memory does not grow with the input root.
const PAGE: usize = 10_000;
/// Pieces of a stream that wait to be written.
const PIECES: usize = 2;

/// Work on entries, which others wait for. Dropping it, as a cancelled action does,
/// lets one of those take over what is not done.
pub(super) struct Claim {
    cache: Arc<FileCache>,
    work: Work,
    to_fetch: Vec<Id>,
    to_verify: Vec<Id>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let ids: Vec<Id> = self
            .to_fetch
            .drain(..)
            .chain(self.to_verify.drain(..))
            .collect();
        for ids in ids.chunks(PORTION) {
            let mut index = self.cache.index();
            for id in ids {
                index.release(*id, self.work);
            }
        }
        self.cache.progress.notify_waiters();
    }
}

/// The entries that a blob is for: not executable and executable.
type Targets = [Option<Id>; 2];

impl FileCache {
    /// Returns when all of these files are there. Each is fetched by one of those
    /// who want it at the same time; where that one fails or gives up, another
    /// takes over. Nobody shares the failure of others.
    ///
    /// # Errors
    /// [`Error::Missing`] with every blob that the storage has not; other
    /// failures of the storage or the disk.
    pub async fn complete(
        self: &Arc<Self>,
        instance: &InstanceName,
        pins: &mut Pins,
    ) -> Result<(), Error> {
        let mut missing: Vec<Digest> = Vec::new();
        let mut open = std::mem::take(&mut pins.open);
        while !open.is_empty() {
            let (claim, awaited) = self.claim(&open);
            let mut absent = claim.to_fetch.clone();
            if !claim.to_verify.is_empty() {
                absent.extend(self.verify(claim.to_verify.clone(), claim.work).await?);
            }
            missing.extend(
                self.fill(instance, absent, claim.work, &mut pins.fetched)
                    .await?,
            );
            drop(claim);
            self.settled(&awaited).await;
            open = awaited;
        }
        if missing.is_empty() {
            return Ok(());
        }
        missing.sort_unstable();
        missing.dedup();
        Err(Error::Missing {
            what: "input file",
            blobs: missing,
        })
    }

    /// Takes over what nobody is at. The rest that is not there is what others are
    /// at.
    fn claim(self: &Arc<Self>, open: &[Id]) -> (Claim, Vec<Id>) {
        let mut claim = Claim {
            cache: Arc::clone(self),
            work: self.index().begin_work(),
            to_fetch: Vec::new(),
            to_verify: Vec::new(),
        };
        let mut awaited = Vec::new();
        for ids in open.chunks(PORTION) {
            let mut index = self.index();
            for id in ids {
                // What the caller named twice is at work already.
                if index.is_at(*id, claim.work) {
                    continue;
                }
                match index.claim(*id, claim.work) {
                    Claimed::Present => {}
                    Claimed::Busy => awaited.push(*id),
                    Claimed::ToFetch => claim.to_fetch.push(*id),
                    Claimed::ToVerify => claim.to_verify.push(*id),
                }
            }
            // Room is made before it is taken.
            self.trim(&mut index);
        }
        (claim, awaited)
    }

    /// Returns when nobody is at any of these entries, which the caller has pinned.
    async fn settled(&self, ids: &[Id]) {
        let mut at = 0;
        loop {
            // Before looking, so that nothing is missed in between.
            let progress = self.progress.notified();
            let mut progress = std::pin::pin!(progress);
            progress.as_mut().enable();
            {
                let index = self.index();
                while ids.get(at).is_some_and(|id| index.is_settled(*id)) {
                    at += 1;
                }
            }
            if at == ids.len() {
                return;
            }
            progress.await;
        }
    }

    /// Fetches the files of entries that this work has busy, and says which blobs
    /// the storage has not. That one is missing does not keep the others from
    /// coming; it is found out first where several requests would be made, so that
    /// nothing large is fetched for an action that cannot run.
    async fn fill(
        self: &Arc<Self>,
        instance: &InstanceName,
        ids: Vec<Id>,
        work: Work,
        fetched: &mut Fetched,
    ) -> Result<Vec<Digest>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let blobs = self.blobs(ids);
        for (digest, _) in &blobs {
            fetched.blobs += 1;
            fetched.bytes += digest.size();
        }
        let requests = requests(blobs);
        if requests.len() > 1 {
            let missing = self.missing(instance, &requests).await?;
            if !missing.is_empty() {
                return Ok(missing);
            }
        }
        let missing = futures::stream::iter(requests)
            .map(|request| self.request(instance, request, work))
            .buffer_unordered(CONCURRENT)
            .try_collect::<Vec<_>>()
            .await?;
        Ok(missing.into_iter().flatten().collect())
    }

    /// The blobs of entries, each once.
    fn blobs(&self, ids: Vec<Id>) -> Vec<(Digest, Targets)> {
        let mut blobs: Vec<(Digest, Targets)> = Vec::with_capacity(ids.len());
        for ids in ids.chunks(PORTION) {
            let index = self.index();
            blobs.extend(ids.iter().map(|id| {
                let key = index.key(*id);
                let id = Some(*id);
                let targets = if key.executable {
                    [None, id]
                } else {
                    [id, None]
                };
                (key.digest, targets)
            }));
        }
        blobs.sort_unstable_by_key(|(digest, _)| *digest);
        blobs.dedup_by(|(digest, targets), (kept, both)| {
            let same = digest == kept;
            if same {
                *both = [both[0].or(targets[0]), both[1].or(targets[1])];
            }
            same
        });
        blobs
    }

    /// What the storage has not of all that these requests are about.
    async fn missing(
        &self,
        instance: &InstanceName,
        requests: &[Request<Targets>],
    ) -> Result<Vec<Digest>, Error> {
        let mut digests = requests.iter().flat_map(|request| match request {
            Request::Batch(blobs) => blobs.as_slice(),
            Request::Stream(blob) => std::slice::from_ref(blob),
        });
        let mut missing = Vec::new();
        loop {
            let page: Vec<Digest> = digests
                .by_ref()
                .take(PAGE)
                .map(|(digest, _)| *digest)
                .collect();
            if page.is_empty() {
                return Ok(missing);
            }
            let absent = self.store.find_missing(instance, &page).await;
            missing.extend(absent.map_err(Error::storage("finding missing input files"))?);
        }
    }

    async fn request(
        self: &Arc<Self>,
        instance: &InstanceName,
        request: Request<Targets>,
        work: Work,
    ) -> Result<Vec<Digest>, Error> {
        let missing = match request {
            Request::Batch(blobs) => {
                let bytes = blobs.iter().map(|(digest, _)| digest.size()).sum();
                let _turn = self.downloads.turn(bytes).await?;
                self.batch(instance, blobs, work).await
            }
            Request::Stream((digest, targets)) => {
                let _turn = self.downloads.turn(STREAM).await?;
                self.stream(instance, digest, targets, work).await
            }
        };
        self.progress.notify_waiters();
        missing
    }

    async fn batch(
        self: &Arc<Self>,
        instance: &InstanceName,
        blobs: Vec<(Digest, Targets)>,
        work: Work,
    ) -> Result<Vec<Digest>, Error> {
        let digests: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
        let contents = self
            .store
            .read_batch(instance, &digests)
            .await
            .map_err(Error::storage("fetching input files"))?;
        let cache = Arc::clone(self);
        let writing = tokio::task::spawn_blocking(move || {
            let mut missing = Vec::new();
            for ((digest, targets), content) in blobs.into_iter().zip(contents) {
                match content {
                    Err(storage::Error::NotFound(_)) => missing.push(digest),
                    Err(error) => return Err(Error::storage("fetching an input file")(error)),
                    Ok(bytes) => {
                        for id in targets.into_iter().flatten() {
                            cache.write(id, work, std::iter::once(Ok(bytes.clone())))?;
                        }
                    }
                }
            }
            Ok(missing)
        });
        writing.await?
    }

    /// Fetches one large blob. The stream checks its bytes against the digest.
    async fn stream(
        self: &Arc<Self>,
        instance: &InstanceName,
        digest: Digest,
        targets: Targets,
        work: Work,
    ) -> Result<Vec<Digest>, Error> {
        let mut stream = match self.store.read(instance, digest, 0, None).await {
            Err(storage::Error::NotFound(_)) => return Ok(vec![digest]),
            other => other.map_err(Error::storage("fetching an input file"))?,
        };
        // None comes after the natural end of the stream only.
        let (sender, mut receiver) = mpsc::channel::<Result<Option<Bytes>, storage::Error>>(PIECES);
        let cache = Arc::clone(self);
        let writing = tokio::task::spawn_blocking(move || {
            let pieces = std::iter::from_fn(|| match receiver.blocking_recv() {
                Some(piece) => piece.transpose(),
                None => Some(Err(given_up())),
            });
            let mut ids = targets.into_iter().flatten();
            if let Some(first) = ids.next() {
                cache.write(first, work, pieces)?;
                for id in ids {
                    cache.duplicate(first, id, work)?;
                }
            }
            Ok::<_, Error>(())
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
            Err(Error::Storage {
                source: storage::Error::NotFound(_),
                ..
            }) => Ok(vec![digest]),
            other => other.map(|()| Vec::new()),
        }
    }

    /// Writes pieces and publishes the file. The iterator must end, rather than
    /// fail, only when the bytes it gave are known to be those of the key.
    fn write(
        &self,
        id: Id,
        work: Work,
        pieces: impl Iterator<Item = Result<Bytes, storage::Error>>,
    ) -> Result<(), Error> {
        let key = {
            let index = self.index();
            if !index.is_at(id, work) {
                // It was given up; nobody waits for it.
                return Ok(());
            }
            index.key(id)
        };
        let name = || key.file_name();
        let mut incoming = self
            .incoming(&key)
            .map_err(|errno| Error::file("create cache file", name())(errno))?;
        let mut size = 0;
        for piece in pieces {
            let piece = piece.map_err(Error::storage("fetching an input file"))?;
            size += piece.len() as u64;
            incoming
                .write(&piece)
                .map_err(|errno| Error::file("write cache file", name())(errno))?;
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
            .publish(&key, id, work)
            .map_err(|errno| Error::file("publish cache file", name())(errno))
    }

    /// Gives a blob that is cached with one mode the other as well.
    fn duplicate(&self, from: Id, to: Id, work: Work) -> Result<(), Error> {
        let (from, key) = {
            let index = self.index();
            // The first was published by this very thread and is pinned as long as
            // the work on the second is not given up.
            if !index.is_at(to, work) {
                return Ok(());
            }
            (index.key(from), index.key(to))
        };
        let failed = |errno| Error::file("copy cache file", key.file_name())(errno);
        let file = self.open_cached(&from).map_err(|error| match error {
            LinkError::Vanished => failed(nix::errno::Errno::ENOENT),
            LinkError::Errno(errno) => failed(errno),
        })?;
        let mut incoming = self.incoming(&key).map_err(failed)?;
        incoming.copy_from(file).map_err(failed)?;
        incoming.publish(&key, to, work).map_err(failed)
    }
}

/// Why a file is not finished whose fetching was cancelled. Nobody waits for it.
fn given_up() -> storage::Error {
    storage::Error::Source(tonic::Status::cancelled("fetching was given up"))
}
