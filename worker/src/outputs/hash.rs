//! Reading and hashing files: in batches, on as many threads as there are
//! processors, while the walk that finds them goes on.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use proto::{Digest, DigestFunction, Hasher};
use tokio::sync::mpsc;

use super::places::Location;
use crate::Error;
use crate::files;

/// Files up to this size are read at once, and may stay in memory.
const SMALL: u64 = 128 << 10;
/// How much of an action's small files stays in memory, in case it must be
/// uploaded.
const KEPT: u64 = 16 << 20;
/// How many of its files stay open until they are uploaded.
const OPEN: usize = 64;
/// A batch is handed over when it has this many files or bytes.
const BATCH_FILES: usize = 16;
const BATCH_BYTES: u64 = 1 << 20;
/// Bytes hashed or uploaded at a time.
pub(super) const PIECE: usize = 256 << 10;

/// Where a file's bytes are.
pub(crate) enum Source {
    Memory(Bytes),
    Open(Arc<File>),
    At(Location),
}

/// A file to hash.
pub(super) struct Job {
    /// What the result calls it.
    pub(super) id: usize,
    pub(super) file: File,
    /// Never more is read than this, which is its size when it was found.
    pub(super) size: u64,
    pub(super) location: Location,
}

/// A file hashed.
pub(super) struct Hashed {
    pub(super) digest: Digest,
    pub(super) source: Source,
}

/// What hashing one file came to.
pub(super) type Outcome = (usize, Result<Hashed, Error>);

/// What may stay of the files of one action until they are uploaded. What has no
/// room is read again.
pub(super) struct Room {
    memory: AtomicU64,
    open: AtomicUsize,
}

/// Files that are hashed together.
#[derive(Default)]
pub(super) struct Batch {
    jobs: Vec<Job>,
    bytes: u64,
}

impl Room {
    /// All of it.
    pub(super) fn new() -> Self {
        Self {
            memory: AtomicU64::new(KEPT),
            open: AtomicUsize::new(OPEN),
        }
    }

    fn take_memory(&self, size: u64) -> bool {
        let take = |left: u64| left.checked_sub(size);
        self.memory
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }

    fn take_descriptor(&self) -> bool {
        let take = |left: usize| left.checked_sub(1);
        self.open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }
}

impl Job {
    /// Reads and hashes.
    pub(super) fn run(self, function: DigestFunction, room: &Room) -> Outcome {
        let id = self.id;
        let outcome = if self.size <= SMALL {
            self.small(function, room)
        } else {
            self.large(function, room)
        };
        (id, outcome)
    }

    fn small(self, function: DigestFunction, room: &Room) -> Result<Hashed, Error> {
        let mut bytes = Vec::with_capacity(usize::try_from(self.size).unwrap_or(0));
        self.file
            .take(self.size)
            .read_to_end(&mut bytes)
            .map_err(|error| failed(&self.location, &error))?;
        let digest = Digest::of(function, &bytes);
        let source = if room.take_memory(self.size) {
            Source::Memory(bytes.into())
        } else {
            Source::At(self.location)
        };
        Ok(Hashed { digest, source })
    }

    fn large(self, function: DigestFunction, room: &Room) -> Result<Hashed, Error> {
        let mut hasher = Hasher::new(function, self.size);
        let mut buffer = vec![0; PIECE];
        let mut offset = 0;
        while offset < self.size {
            let wanted = usize::try_from(self.size - offset).unwrap_or(PIECE);
            let read = self
                .file
                .read_at(&mut buffer[..wanted.min(PIECE)], offset)
                .map_err(|error| failed(&self.location, &error))?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            offset += read as u64;
        }
        let source = if room.take_descriptor() {
            Source::Open(Arc::new(self.file))
        } else {
            Source::At(self.location)
        };
        let digest = hasher.finish();
        Ok(Hashed { digest, source })
    }
}

fn failed(location: &Location, error: &std::io::Error) -> Error {
    Error::file("read", location.name.as_ref())(files::errno(error))
}

impl Batch {
    /// Adds a file, and returns the batch once it is full.
    pub(super) fn add(&mut self, job: Job) -> Option<Self> {
        self.bytes = self.bytes.saturating_add(job.size);
        self.jobs.push(job);
        let full = self.jobs.len() == BATCH_FILES || self.bytes >= BATCH_BYTES;
        full.then(|| std::mem::take(self))
    }

    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Hashes all of it, one after the other.
    pub(super) fn run(self, function: DigestFunction, room: &Room) -> Vec<Outcome> {
        let jobs = self.jobs.into_iter();
        jobs.map(|job| job.run(function, room)).collect()
    }
}

/// Hashes batches as they come, several at a time, until no more can come.
pub(super) async fn hash(
    batches: mpsc::Receiver<Batch>,
    function: DigestFunction,
    room: Arc<Room>,
) -> Result<Vec<Outcome>, Error> {
    futures::stream::unfold(batches, |mut batches| async {
        batches.recv().await.map(|batch| (batch, batches))
    })
    .map(|batch| {
        let room = Arc::clone(&room);
        tokio::task::spawn_blocking(move || batch.run(function, &room))
    })
    .buffer_unordered(files::processors())
    .map_err(Error::from)
    .try_concat()
    .await
}
