//! Blobs as files, with a bound on what they take together.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use daemon::metrics::{Counter, Metrics};
use futures::StreamExt as _;
use proto::{Digest, InstanceName};

use super::files::{Files, failed};
use super::index::{Index, Use, cost};
use super::key::{Key, Tenant};
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
/// Each instance name has blobs of its own; the limit is that of all together.
#[derive(Clone)]
pub struct Blobs(Arc<Inner>);

pub(super) struct Inner {
    pub(super) files: Files,
    /// Locked for moments, never over a file operation.
    pub(super) index: Mutex<Index>,
    stripes: [Mutex<()>; STRIPES],
    limits: Limits,
    /// Blobs that were found damaged.
    damaged: Counter,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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
        for (key, used) in found {
            // The limit was higher once. It fits no more, whatever goes for it.
            if cost(&key) > limits.disk {
                files.remove(&key);
                continue;
            }
            for gone in index.insert(key, used) {
                files.remove(&gone);
            }
        }
        Ok(Self(Arc::new(Inner {
            files,
            index: Mutex::new(index),
            stripes: [const { Mutex::new(()) }; STRIPES],
            limits,
            damaged: Counter::default(),
        })))
    }

    /// What the blobs count for together, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        lock(&self.0.index).size()
    }

    /// Keeps blobs from being evicted, those too that are stored later, until what
    /// this gives is dropped. See [`Index::hold`] for how many.
    pub fn hold(&self, instance: &InstanceName, digests: &[Digest]) -> Held {
        let tenant = Tenant::of(instance);
        let mut held = Vec::with_capacity(digests.len());
        for some in digests.chunks(1024) {
            let keys: Vec<Key> = some.iter().map(|digest| tenant.key(*digest)).collect();
            held.extend(lock(&self.0.index).hold(&keys));
        }
        Held {
            inner: self.0.clone(),
            keys: held,
        }
    }

    /// Removes blobs that nobody used since a moment, or within the hour after it.
    pub fn expire(&self, since: SystemTime) {
        let gone = lock(&self.0.index).expire(since);
        self.0.remove(gone);
    }

    /// How many blobs were found damaged since the store was opened.
    #[must_use]
    pub fn damaged(&self) -> u64 {
        self.0.damaged.get()
    }

    /// Makes known what the store holds and what befell it.
    pub fn register(&self, metrics: &Metrics) {
        metrics.register(
            "hayloft_storage_damaged_blobs",
            "Blobs that were found damaged when they were read",
            self.0.damaged.clone(),
        );
        let gauge = |name, help, read: fn(&Index) -> u64| {
            let inner = self.0.clone();
            metrics.gauge(name, help, move || read(&lock(&inner.index)) as f64);
        };
        gauge(
            "hayloft_storage_blobs_bytes",
            "What all blobs take on disk",
            Index::size,
        );
        gauge("hayloft_storage_blobs", "Blobs that are stored", |index| {
            index.counts().0 as u64
        });
        gauge(
            "hayloft_storage_evicted_blobs",
            "Blobs that went for others or for their age",
            |index| index.counts().1,
        );
    }

    /// Tells files that they were used, in the background.
    fn renew(&self, keys: Vec<Key>) {
        if keys.is_empty() {
            return;
        }
        let inner = self.0.clone();
        drop(tokio::task::spawn_blocking(move || {
            let now = SystemTime::now();
            for key in keys {
                inner.files.renew(&key, now);
            }
        }));
    }

    /// Uses a blob; whether it is there.
    fn touch(&self, key: &Key) -> bool {
        let used = lock(&self.0.index).touch(key, SystemTime::now());
        if used == Use::Renew {
            self.renew(vec![*key]);
        }
        used != Use::Absent
    }
}

/// Blobs that are kept from being evicted while this lives.
pub struct Held {
    inner: Arc<Inner>,
    keys: Vec<Key>,
}

impl Drop for Held {
    fn drop(&mut self) {
        lock(&self.inner.index).let_go(&self.keys);
    }
}

impl Inner {
    pub(super) fn stripe(&self, key: &Key) -> MutexGuard<'_, ()> {
        let byte = key.digest.hash_bytes().first().copied().unwrap_or(0);
        lock(&self.stripes[usize::from(byte) % STRIPES])
    }

    fn full(&self, digest: Digest) -> Error {
        Error::Full {
            digest,
            limit: self.limits.disk,
        }
    }

    /// Whether the store could hold a blob.
    pub(super) fn check_size(&self, key: &Key) -> Result<(), Error> {
        if cost(key) > self.limits.disk {
            return Err(self.full(key.digest));
        }
        Ok(())
    }

    /// Begins to write a blob that the store could hold.
    pub(super) fn create(self: &Arc<Self>, key: Key) -> Result<Writing, Error> {
        self.check_size(&key)?;
        let room = Room::new(self.clone(), key.digest);
        Ok(Writing::new(self.files.create(key)?, room))
    }

    /// Counts bytes that are about to be written for a blob, and removes what must
    /// go for them.
    pub(super) fn reserve(&self, digest: Digest, bytes: u64) -> Result<(), Error> {
        let (gone, granted) = lock(&self.index).reserve(bytes);
        self.remove(gone);
        if granted {
            Ok(())
        } else {
            Err(self.full(digest))
        }
    }

    /// Takes back what was reserved.
    pub(super) fn release(&self, bytes: u64) {
        lock(&self.index).release(bytes);
    }

    /// Removes the files of blobs that the index gave up.
    pub(super) fn remove(&self, gone: Vec<Key>) {
        for key in gone {
            let _stripe = self.stripe(&key);
            // Unless it has been written again meanwhile, or is being written.
            if !lock(&self.index).is_in_use(&key) {
                self.files.remove(&key);
            }
        }
    }

    /// Makes a blob that was written the store's, and removes what must go for it.
    pub(super) fn publish(
        &self,
        key: Key,
        written: Written,
        bytes: Option<Bytes>,
    ) -> Result<(), Error> {
        let Written { complete, room } = written;
        let gone = {
            let _stripe = self.stripe(&key);
            // Written by another at the same time: one file is enough.
            if lock(&self.index).contains(&key) {
                return Ok(());
            }
            self.files.publish(complete)?;
            let mut index = lock(&self.index);
            // What it took while it was written it takes as a blob from now on.
            index.release(room.hand_over());
            let gone = index.insert(key, SystemTime::now());
            if let Some(bytes) = bytes {
                index.keep(key, bytes);
            }
            gone
        };
        self.remove(gone);
        Ok(())
    }

    /// Takes out a blob whose file is gone or does not hold what it should, so
    /// that clients can store it again. `damaged` is the file that was read.
    pub(super) fn discard(&self, key: &Key, damaged: Option<&File>) {
        let _stripe = self.stripe(key);
        // Whoever writes it now settles what becomes of its file. Nobody begins to
        // before this is done.
        if lock(&self.index).is_claimed(key) {
            return;
        }
        let same = match damaged {
            Some(file) => self.files.is_current(key, file),
            None => !self.files.exists(key),
        };
        if !same {
            return;
        }
        lock(&self.index).remove(key);
        if damaged.is_some() {
            self.files.quarantine(key);
        }
    }

    /// Where a blob's file is.
    pub(super) fn path(&self, key: &Key) -> PathBuf {
        self.files.path(key)
    }

    /// Opens a blob's file.
    pub(super) fn open(&self, key: &Key) -> Result<File, Error> {
        let opened = self.files.read(key);
        if matches!(opened, Err(Error::NotFound(_))) {
            self.discard(key, None);
        }
        opened
    }

    /// Notes that a blob's file was found damaged.
    pub(super) fn damaged(&self, key: &Key, file: &File, error: &Error) {
        tracing::error!(digest = %key.digest, %error, "a stored blob is damaged and was put aside");
        self.damaged.inc();
        self.discard(key, Some(file));
    }

    /// Reads and verifies a whole blob.
    fn read_whole(&self, key: &Key) -> Result<Bytes, Error> {
        let file = self.open(key)?;
        let digest = &key.digest;
        let mut bytes = vec![0; usize::try_from(digest.size()).unwrap_or(usize::MAX)];
        let verified = match file.read_exact_at(&mut bytes, 0) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(Error::Size {
                digest: *digest,
                actual: file.metadata().map_or(0, |metadata| metadata.len()),
            }),
            Err(error) => return Err(failed("read", &self.path(key))(error)),
            Ok(()) => verify::whole(*digest, &bytes),
        };
        if let Err(error) = verified {
            self.damaged(key, &file, &error);
            return Err(error);
        }
        Ok(bytes.into())
    }

    /// Reads whole blobs and keeps the smallest in memory.
    fn read_all(&self, keys: &[Key]) -> Vec<Result<Bytes, Error>> {
        let read: Vec<_> = keys.iter().map(|key| self.read_whole(key)).collect();
        let mut index = lock(&self.index);
        for (key, bytes) in keys.iter().zip(&read) {
            if let Ok(bytes) = bytes {
                index.keep(*key, bytes.clone());
            }
        }
        read
    }
}

#[async_trait]
impl BlobStore for Blobs {
    async fn find_missing(
        &self,
        instance: &InstanceName,
        digests: &[Digest],
    ) -> Result<Vec<Digest>, Error> {
        let now = SystemTime::now();
        let tenant = Tenant::of(instance);
        let mut missing = Vec::new();
        let mut stale = Vec::new();
        for some in digests.chunks(1024) {
            let mut index = lock(&self.0.index);
            for digest in some {
                let key = tenant.key(*digest);
                match index.touch(&key, now) {
                    Use::Present => {}
                    Use::Renew => stale.push(key),
                    Use::Absent => {
                        if !digest.is_empty_blob() {
                            missing.push(*digest);
                        }
                    }
                }
            }
        }
        self.renew(stale);
        Ok(missing)
    }

    async fn read(
        &self,
        instance: &InstanceName,
        digest: Digest,
        offset: u64,
        limit: Option<u64>,
    ) -> Result<ByteStream, Error> {
        let key = Tenant::of(instance).key(digest);
        if !digest.is_empty_blob() && !self.touch(&key) {
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
        let file = blocking(move || inner.open(&key)).await??;
        Ok(stream::read(self.0.clone(), key, file, offset, length))
    }

    async fn read_batch(
        &self,
        instance: &InstanceName,
        digests: &[Digest],
    ) -> Result<Vec<Result<Bytes, Error>>, Error> {
        let now = SystemTime::now();
        let tenant = Tenant::of(instance);
        let mut results = Vec::with_capacity(digests.len());
        let mut on_disk = Vec::new();
        let mut stale = Vec::new();
        {
            let mut index = lock(&self.0.index);
            for digest in digests {
                let key = tenant.key(*digest);
                let used = index.touch(&key, now);
                if used == Use::Renew {
                    stale.push(key);
                }
                results.push(match (used, index.hot(&key)) {
                    (Use::Absent, _) if digest.is_empty_blob() => Some(Ok(Bytes::new())),
                    (Use::Absent, _) => Some(Err(Error::NotFound(*digest))),
                    (_, Some(bytes)) => Some(Ok(bytes)),
                    (_, None) => {
                        on_disk.push(key);
                        None
                    }
                });
            }
        }
        self.renew(stale);
        let mut read = if on_disk.is_empty() {
            Vec::new()
        } else if on_disk.len() <= FILES_IN_PLACE
            && on_disk.iter().map(|key| key.digest.size()).sum::<u64>() <= READ_IN_PLACE
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
        instance: &InstanceName,
        digest: Digest,
        bytes: ByteStream,
    ) -> Result<(), Error> {
        let key = Tenant::of(instance).key(digest);
        if digest.is_empty_blob() || self.touch(&key) {
            return Ok(());
        }
        if digest.size() > SMALL {
            return stream::write(self.0.clone(), key, bytes).await;
        }
        let bytes = collect(digest, bytes).await?;
        let inner = self.0.clone();
        blocking(move || inner.write_small(key, bytes)).await?
    }

    async fn write_batch(
        &self,
        instance: &InstanceName,
        blobs: Vec<(Digest, Bytes)>,
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let inner = self.0.clone();
        let tenant = Tenant::of(instance);
        blocking(move || {
            blobs
                .into_iter()
                .map(|(digest, bytes)| inner.write_small(tenant.key(digest), bytes))
                .collect()
        })
        .await
    }
}
