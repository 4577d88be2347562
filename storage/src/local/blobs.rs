//! Blobs as files, with a bound on what they take together.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use proto::{Digest, InstanceName};

use super::files::{Files, failed};
use super::index::{HOT_BLOB, Index, Use, cost};
use super::stream;
use super::writing::{Room, Writing, Written};
use crate::blocking::blocking;
use crate::error::Error;
use crate::store::{BlobStore, ByteStream, collect};
use crate::verify;

/// Blobs up to this size are read and written in one piece.
pub(super) const SMALL: u64 = 64 << 10;

/// This many bytes in small files are read where the caller runs: from the page
/// cache that is quicker than to hand them to another thread.
const READ_IN_PLACE: u64 = 256 << 10;
/// And this many files.
const FILES_IN_PLACE: usize = 8;

/// Locks by digest. A file's name and its place in the index change under one of
/// these; they are many so that blobs do not wait for each other.
const STRIPES: usize = 64;

/// How much a store may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// What all blobs may take on disk together, in bytes, those being written
    /// included; each counts for the blocks of 4 KiB it takes.
    pub disk: u64,
    /// What small blobs may take in memory as well, in bytes.
    pub memory: u64,
}

/// Blobs in a directory. Beyond the limit, those used longest ago go. Clones
/// share one store.
///
/// There is one space of blobs: instance names do not separate them.
#[derive(Clone)]
pub struct Blobs(Arc<Inner>);

pub(super) struct Inner {
    files: Files,
    /// Locked for moments, never over a file operation.
    index: Mutex<Index>,
    stripes: [Mutex<()>; STRIPES],
    limits: Limits,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Blobs {
    /// Opens the store in a directory, which is created if need be: finds what is
    /// there by a walk, and removes what exceeds the limit.
    ///
    /// # Errors
    /// [`Error::InUse`] when another process has it; [`Error::File`].
    pub fn open(directory: &Path, limits: Limits) -> Result<Self, Error> {
        let files = Files::open(directory)?;
        let mut found = files.list()?;
        found.sort_unstable_by_key(|(_, used)| *used);
        let mut index = Index::new(limits.disk, limits.memory);
        for (digest, used) in found {
            // The limit was higher once. It fits no more, whatever goes for it.
            if cost(&digest) > limits.disk {
                files.remove(&digest);
                continue;
            }
            for gone in index.insert(digest, used) {
                files.remove(&gone);
            }
        }
        Ok(Self(Arc::new(Inner {
            files,
            index: Mutex::new(index),
            stripes: [const { Mutex::new(()) }; STRIPES],
            limits,
        })))
    }

    /// What the blobs count for together, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        lock(&self.0.index).size()
    }

    /// Tells files that they were used, in the background.
    fn renew(&self, digests: Vec<Digest>) {
        if digests.is_empty() {
            return;
        }
        let inner = self.0.clone();
        drop(tokio::task::spawn_blocking(move || {
            let now = SystemTime::now();
            for digest in digests {
                inner.files.renew(&digest, now);
            }
        }));
    }

    /// Uses a blob; whether it is there.
    fn touch(&self, digest: &Digest) -> bool {
        let used = lock(&self.0.index).touch(digest, SystemTime::now());
        if used == Use::Renew {
            self.renew(vec![*digest]);
        }
        used != Use::Absent
    }
}

impl Inner {
    fn stripe(&self, digest: &Digest) -> MutexGuard<'_, ()> {
        let byte = digest.hash_bytes().first().copied().unwrap_or(0);
        lock(&self.stripes[usize::from(byte) % STRIPES])
    }

    fn full(&self, digest: Digest) -> Error {
        Error::Full {
            digest,
            limit: self.limits.disk,
        }
    }

    /// Begins to write a blob that the store could hold.
    pub(super) fn create(self: &Arc<Self>, digest: Digest) -> Result<Writing, Error> {
        if cost(&digest) > self.limits.disk {
            return Err(self.full(digest));
        }
        let room = Room::new(self.clone(), digest);
        Ok(Writing::new(self.files.create(digest)?, room))
    }

    /// Counts bytes that are about to be written for a blob, and removes what must
    /// go for them.
    pub(super) fn reserve(&self, digest: Digest, bytes: u64) -> Result<(), Error> {
        let gone = lock(&self.index).reserve(bytes);
        self.remove(gone.ok_or_else(|| self.full(digest))?);
        Ok(())
    }

    /// Takes back what was reserved.
    pub(super) fn release(&self, bytes: u64) {
        lock(&self.index).release(bytes);
    }

    /// Removes the files of blobs that the index gave up.
    fn remove(&self, gone: Vec<Digest>) {
        for digest in gone {
            let _stripe = self.stripe(&digest);
            // Unless it has been written again meanwhile.
            if !lock(&self.index).contains(&digest) {
                self.files.remove(&digest);
            }
        }
    }

    /// Makes a blob that was written the store's, and removes what must go for it.
    pub(super) fn publish(
        &self,
        digest: Digest,
        written: Written,
        bytes: Option<Bytes>,
    ) -> Result<(), Error> {
        let Written { complete, room } = written;
        let gone = {
            let _stripe = self.stripe(&digest);
            // Written by another at the same time: one file is enough.
            if lock(&self.index).contains(&digest) {
                return Ok(());
            }
            self.files.publish(complete)?;
            let mut index = lock(&self.index);
            // What it took while it was written it takes as a blob from now on.
            index.release(room.hand_over());
            let gone = index.insert(digest, SystemTime::now());
            if let Some(bytes) = bytes {
                index.keep(digest, bytes);
            }
            gone
        };
        self.remove(gone);
        Ok(())
    }

    /// Writes a small blob.
    fn write_small(self: &Arc<Self>, digest: Digest, bytes: Bytes) -> Result<(), Error> {
        verify::whole(digest, &bytes)?;
        if digest.is_empty_blob() {
            return Ok(());
        }
        let now = SystemTime::now();
        let used = lock(&self.index).touch(&digest, now);
        match used {
            Use::Absent => {}
            Use::Present => return Ok(()),
            Use::Renew => {
                self.files.renew(&digest, now);
                return Ok(());
            }
        }
        let written = self.create(digest)?.whole(&bytes)?;
        // A slice would keep the whole message that it came in.
        let kept = (digest.size() <= HOT_BLOB).then(|| Bytes::copy_from_slice(&bytes));
        self.publish(digest, written, kept)
    }

    /// Takes out a blob whose file is gone or does not hold what it should, so
    /// that clients can store it again. `file` is the one that was read.
    pub(super) fn discard(&self, digest: &Digest, file: Option<&File>) {
        let _stripe = self.stripe(digest);
        let same = match file {
            Some(file) => self.files.is_current(digest, file),
            None => !self.files.exists(digest),
        };
        if same {
            lock(&self.index).remove(digest);
            self.files.remove(digest);
        }
    }

    /// Where a blob's file is.
    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        self.files.path(digest)
    }

    /// Opens a blob's file.
    pub(super) fn open(&self, digest: &Digest) -> Result<File, Error> {
        let opened = self.files.read(digest);
        if matches!(opened, Err(Error::NotFound(_))) {
            self.discard(digest, None);
        }
        opened
    }

    /// Notes that a blob's file was found damaged.
    pub(super) fn damaged(&self, digest: &Digest, file: &File, error: &Error) {
        tracing::error!(%digest, %error, "a stored blob is damaged and was removed");
        self.discard(digest, Some(file));
    }

    /// Reads and verifies a whole blob.
    fn read_whole(&self, digest: &Digest) -> Result<Bytes, Error> {
        let file = self.open(digest)?;
        let mut bytes = vec![0; usize::try_from(digest.size()).unwrap_or(usize::MAX)];
        let verified = match file.read_exact_at(&mut bytes, 0) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(Error::Size {
                digest: *digest,
                actual: file.metadata().map_or(0, |metadata| metadata.len()),
            }),
            Err(error) => return Err(failed("read", &self.path(digest))(error)),
            Ok(()) => verify::whole(*digest, &bytes),
        };
        if let Err(error) = verified {
            self.damaged(digest, &file, &error);
            return Err(error);
        }
        Ok(bytes.into())
    }

    /// Reads whole blobs and keeps the smallest in memory.
    fn read_all(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        let read: Vec<_> = digests.iter().map(|d| self.read_whole(d)).collect();
        let mut index = lock(&self.index);
        for (digest, bytes) in digests.iter().zip(&read) {
            if let Ok(bytes) = bytes {
                index.keep(*digest, bytes.clone());
            }
        }
        read
    }
}

#[async_trait]
impl BlobStore for Blobs {
    async fn find_missing(
        &self,
        _instance: &InstanceName,
        digests: &[Digest],
    ) -> Result<Vec<Digest>, Error> {
        let now = SystemTime::now();
        let mut missing = Vec::new();
        let mut stale = Vec::new();
        for some in digests.chunks(1024) {
            let mut index = lock(&self.0.index);
            for digest in some {
                match index.touch(digest, now) {
                    Use::Present => {}
                    Use::Renew => stale.push(*digest),
                    Use::Absent => {
                        if !digest.is_empty_blob() {
                            missing.push(*digest);
                        }
                    }
                }
            }
        }
        self.renew(stale);
        let mut seen = std::collections::HashSet::with_capacity(missing.len());
        missing.retain(|digest| seen.insert(*digest));
        Ok(missing)
    }

    async fn read(
        &self,
        instance: &InstanceName,
        digest: Digest,
        offset: u64,
        limit: Option<u64>,
    ) -> Result<ByteStream, Error> {
        if !digest.is_empty_blob() && !self.touch(&digest) {
            return Err(Error::NotFound(digest));
        }
        if offset > digest.size() {
            return Err(Error::OutOfRange { digest, offset });
        }
        let length = limit.unwrap_or(u64::MAX).min(digest.size() - offset);
        if digest.size() <= SMALL {
            let mut read = self.read_batch(instance, &[digest]).await?;
            let bytes = read.pop().unwrap_or(Err(Error::NotFound(digest)))?;
            // Both fit: the blob is small.
            let bytes = bytes.slice(offset as usize..(offset + length) as usize);
            return Ok(futures::stream::once(async { Ok(bytes) }).boxed());
        }
        let inner = self.0.clone();
        let file = blocking(move || inner.open(&digest)).await??;
        Ok(stream::read(self.0.clone(), digest, file, offset, length))
    }

    async fn read_batch(
        &self,
        _instance: &InstanceName,
        digests: &[Digest],
    ) -> Result<Vec<Result<Bytes, Error>>, Error> {
        let now = SystemTime::now();
        let mut results = Vec::with_capacity(digests.len());
        let mut on_disk = Vec::new();
        let mut stale = Vec::new();
        {
            let mut index = lock(&self.0.index);
            for digest in digests {
                let used = index.touch(digest, now);
                if used == Use::Renew {
                    stale.push(*digest);
                }
                results.push(match (used, index.hot(digest)) {
                    (Use::Absent, _) if digest.is_empty_blob() => Some(Ok(Bytes::new())),
                    (Use::Absent, _) => Some(Err(Error::NotFound(*digest))),
                    (_, Some(bytes)) => Some(Ok(bytes)),
                    (_, None) => {
                        on_disk.push(*digest);
                        None
                    }
                });
            }
        }
        self.renew(stale);
        let mut read = if on_disk.is_empty() {
            Vec::new()
        } else if on_disk.len() <= FILES_IN_PLACE
            && on_disk.iter().map(Digest::size).sum::<u64>() <= READ_IN_PLACE
        {
            self.0.read_all(&on_disk)
        } else {
            let inner = self.0.clone();
            blocking(move || inner.read_all(&on_disk)).await?
        }
        .into_iter();
        Ok(results
            .into_iter()
            .zip(digests)
            .map(|(result, digest)| {
                result.unwrap_or_else(|| read.next().unwrap_or(Err(Error::NotFound(*digest))))
            })
            .collect())
    }

    /// A blob that is there already is not written again; its stream is not read.
    async fn write(
        &self,
        _instance: &InstanceName,
        digest: Digest,
        bytes: ByteStream,
    ) -> Result<(), Error> {
        if digest.is_empty_blob() || self.touch(&digest) {
            return Ok(());
        }
        if digest.size() > SMALL {
            return stream::write(self.0.clone(), digest, bytes).await;
        }
        let bytes = collect(digest, bytes).await?;
        let inner = self.0.clone();
        blocking(move || inner.write_small(digest, bytes)).await?
    }

    async fn write_batch(
        &self,
        _instance: &InstanceName,
        blobs: Vec<(Digest, Bytes)>,
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let inner = self.0.clone();
        blocking(move || {
            blobs
                .into_iter()
                .map(|(digest, bytes)| inner.write_small(digest, bytes))
                .collect()
        })
        .await
    }
}
