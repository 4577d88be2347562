//! The cache itself: acquiring, linking, copying, evicting.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};
use proto::{Digest, InstanceName};
use storage::BlobStore;
use tokio::sync::{Semaphore, watch};

use super::index::{Index, Key, Lookup};
use crate::Error;
use crate::files;
use crate::memory::lock;

/// How much the cache may hold. Files that actions use at the moment stay even
/// where they exceed it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Blocks on disk, in bytes.
    pub bytes: u64,
    /// Files.
    pub files: u64,
}

/// The file cache of one worker process.
pub struct FileCache {
    pub(super) directory: OwnedFd,
    /// Where files are written before they are complete.
    incoming: OwnedFd,
    limits: Limits,
    state: Mutex<State>,
    pub(super) store: Arc<dyn BlobStore>,
    /// Bounds the requests to the storage.
    pub(super) downloads: Arc<Semaphore>,
    names: AtomicU64,
    /// Held while a file with too many links is replaced by a fresh inode.
    renewal: Mutex<()>,
    /// Keeps other processes out of the directory for as long as this lives.
    _lock: OwnedLock,
    #[cfg(test)]
    pub(super) link_limit: AtomicU64,
}

/// The lock on the cache directory.
pub(super) type OwnedLock = nix::fcntl::Flock<OwnedFd>;

#[derive(Default)]
pub(super) struct State {
    pub(super) index: Index,
    /// Files that some action is fetching or verifying. The senders never send:
    /// dropping one, with or without success, is what wakes those who wait.
    in_flight: HashMap<Key, watch::Sender<()>>,
}

/// Why a file could not be put into an input root.
#[derive(Debug)]
pub enum LinkError {
    /// The cached file is gone; [`FileCache::repair`] fetches it anew.
    Vanished,
    /// The kernel said no.
    Errno(Errno),
}

/// Files of the cache that eviction must leave alone until this is dropped.
pub struct Pins {
    cache: Arc<FileCache>,
    keys: Vec<Key>,
}

impl Pins {
    pub(super) fn none(cache: &Arc<FileCache>) -> Self {
        Self {
            cache: Arc::clone(cache),
            keys: Vec::new(),
        }
    }

    /// Takes over a pin that the index counts already.
    pub(super) fn adopt(&mut self, key: Key) {
        self.keys.push(key);
    }

    /// Takes over all pins of another.
    pub fn merge(&mut self, mut other: Self) {
        self.keys.append(&mut other.keys);
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if self.keys.is_empty() {
            return;
        }
        let mut state = lock(&self.cache.state);
        for key in &self.keys {
            state.index.unpin(key);
        }
        self.cache.trim(&mut state);
    }
}

/// The promise to fetch some keys, which others wait for. Dropping it, as a
/// cancelled action does, lets one of those take over.
struct Claim {
    cache: Arc<FileCache>,
    keys: Vec<Key>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = lock(&self.cache.state);
        for key in &self.keys {
            state.in_flight.remove(key);
        }
    }
}

impl FileCache {
    pub(super) fn assemble(
        directory: OwnedFd,
        incoming: OwnedFd,
        lock: OwnedLock,
        index: Index,
        limits: Limits,
        store: Arc<dyn BlobStore>,
        downloads: Arc<Semaphore>,
    ) -> Arc<Self> {
        let cache = Arc::new(Self {
            directory,
            incoming,
            limits,
            state: Mutex::new(State {
                index,
                in_flight: HashMap::new(),
            }),
            store,
            downloads,
            names: AtomicU64::new(0),
            renewal: Mutex::new(()),
            _lock: lock,
            #[cfg(test)]
            link_limit: AtomicU64::new(u64::MAX),
        });
        cache.trim(&mut cache.state());
        cache
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Pins all of these files, fetching those that are not there. Each is fetched
    /// by one of those who ask for it at the same time; where that one fails or
    /// gives up, another takes over. Nobody shares the failure of others.
    ///
    /// # Errors
    /// [`Error::Missing`] with every blob that the storage has not; other
    /// failures of the storage or the disk.
    pub async fn acquire(
        self: &Arc<Self>,
        instance: &InstanceName,
        keys: Vec<Key>,
    ) -> Result<Pins, Error> {
        let mut pins = Pins::none(self);
        let mut wanted = keys;
        let mut missing: Vec<Digest> = Vec::new();
        while !wanted.is_empty() {
            let mut claim = Claim {
                cache: Arc::clone(self),
                keys: Vec::new(),
            };
            let mut unverified = Vec::new();
            let mut awaited = Vec::new();
            {
                let mut state = self.state();
                for key in wanted.drain(..) {
                    if let Some(fetcher) = state.in_flight.get(&key) {
                        awaited.push((key, fetcher.subscribe()));
                        continue;
                    }
                    match state.index.pin(&key) {
                        Lookup::Pinned => {
                            pins.adopt(key);
                            continue;
                        }
                        Lookup::Unverified => {
                            // Out of the index, and so safe from eviction,
                            // until it is known to be good.
                            state.index.forget(&key);
                            unverified.push(key);
                        }
                        Lookup::Absent => claim.keys.push(key),
                    }
                    state.in_flight.insert(key, watch::Sender::new(()));
                }
            }
            if !claim.keys.is_empty() || !unverified.is_empty() {
                let mut absent = claim.keys.clone();
                claim.keys.extend_from_slice(&unverified);
                if !unverified.is_empty() {
                    let (good, bad) = self.verify(unverified).await?;
                    pins.merge(good);
                    absent.extend(bad);
                }
                let filled = self.fill(instance, absent).await?;
                pins.merge(filled.pins);
                missing.extend(filled.missing);
            }
            drop(claim);
            for (key, mut fetcher) in awaited {
                // An error is the news: the fetcher is done, or gave up.
                let _ = fetcher.changed().await;
                wanted.push(key);
            }
        }
        if missing.is_empty() {
            Ok(pins)
        } else {
            Err(Error::Missing {
                what: "input file",
                blobs: missing,
            })
        }
    }

    /// Fetches files anew that the caller holds pins on but that are gone from
    /// the disk.
    ///
    /// # Errors
    /// As [`Self::acquire`].
    pub async fn repair(
        self: &Arc<Self>,
        instance: &InstanceName,
        keys: Vec<Key>,
    ) -> Result<Pins, Error> {
        for key in &keys {
            tracing::warn!(file = %key.file_name(), "cached file vanished, fetching it anew");
        }
        let filled = self.fill(instance, keys).await?;
        if filled.missing.is_empty() {
            Ok(filled.pins)
        } else {
            Err(Error::Missing {
                what: "input file",
                blobs: filled.missing,
            })
        }
    }

    /// Links a pinned file into a directory of the same file system. A file with
    /// as many links as its file system allows is first replaced, in the cache,
    /// by a fresh inode.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub fn link(&self, key: &Key, directory: BorrowedFd<'_>, name: &str) -> Result<(), LinkError> {
        let file = key.file_name();
        match self.link_once(&file, directory, name) {
            Err(Errno::EMLINK) => {}
            other => return classify(other),
        }
        let _renewal = lock(&self.renewal);
        match self.link_once(&file, directory, name) {
            Err(Errno::EMLINK) => {}
            // Another thread renewed it meanwhile.
            other => return classify(other),
        }
        tracing::debug!(file, "out of links, continuing with a fresh inode");
        let from = self.open_cached(&file)?;
        let mut fresh = self.incoming().map_err(LinkError::Errno)?;
        copy_into(from, &mut fresh.file)?;
        fresh.replace(key).map_err(LinkError::Errno)?;
        classify(self.link_once(&file, directory, name))
    }

    fn link_once(&self, file: &str, directory: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
        #[cfg(test)]
        if files::stat_at(&self.directory, file)?.st_nlink
            >= self.link_limit.load(Ordering::Relaxed)
        {
            return Err(Errno::EMLINK);
        }
        linkat(&self.directory, file, directory, name, AtFlags::empty())
    }

    /// Puts a private copy of a pinned file into a directory, sharing blocks
    /// where the file system can (`copy_file_range(2)`). The copy is closed when
    /// this returns, so that it can be executed.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub fn copy(&self, key: &Key, directory: BorrowedFd<'_>, name: &str) -> Result<(), LinkError> {
        // First, so that nothing is in the way of another attempt when it is gone.
        let from = self.open_cached(&key.file_name())?;
        let mut file = create(directory, name).map_err(LinkError::Errno)?;
        copy_into(from, &mut file)?;
        finish(&file, key.mode()).map_err(LinkError::Errno)
    }

    fn open_cached(&self, file: &str) -> Result<File, LinkError> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened = openat(&self.directory, file, flags, Mode::empty()).map(File::from);
        classify(opened)
    }

    /// Creates a file aside, to become a cached one.
    pub(super) fn incoming(&self) -> Result<Incoming<'_>, Errno> {
        let name = self.names.fetch_add(1, Ordering::Relaxed).to_string();
        let file = create(self.incoming.as_fd(), &name)?;
        Ok(Incoming {
            cache: self,
            name: Some(name),
            file,
        })
    }

    /// The directory for files that are not complete, or not for actions.
    pub(crate) fn incoming_directory(&self) -> BorrowedFd<'_> {
        self.incoming.as_fd()
    }

    /// Evicts until the limits hold or everything left is in use. Unlinking
    /// happens under the lock, so that a file fetched anew cannot be unlinked in
    /// the place of the one evicted.
    fn trim(&self, state: &mut State) {
        while state.index.bytes() > self.limits.bytes || state.index.count() > self.limits.files {
            let Some(key) = state.index.evict() else {
                return;
            };
            let name = key.file_name();
            match unlinkat(&self.directory, name.as_str(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => tracing::warn!(file = name, %errno, "cannot evict"),
            }
        }
    }

    /// How many files there are, their bytes on disk, and how many are pinned.
    #[cfg(test)]
    pub(super) fn usage(&self) -> (u64, u64, u64) {
        let state = self.state();
        let index = &state.index;
        (index.count(), index.bytes(), index.pinned())
    }
}

fn classify<T>(result: Result<T, Errno>) -> Result<T, LinkError> {
    result.map_err(|errno| match errno {
        Errno::ENOENT => LinkError::Vanished,
        other => LinkError::Errno(other),
    })
}

fn create(directory: BorrowedFd<'_>, name: &str) -> Result<File, Errno> {
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(directory, name, flags, Mode::S_IRUSR | Mode::S_IWUSR).map(File::from)
}

fn copy_into(mut from: File, to: &mut File) -> Result<(), LinkError> {
    std::io::copy(&mut from, to)
        .map(drop)
        .map_err(|error| LinkError::Errno(files::errno(&error)))
}

fn finish(file: &File, mode: u32) -> Result<(), Errno> {
    fchmod(file, Mode::from_bits_truncate(mode))?;
    files::set_fixed_time(file)
}

/// A file being written aside. Dropped before it is published, it is removed.
pub(super) struct Incoming<'a> {
    cache: &'a FileCache,
    name: Option<String>,
    pub(super) file: File,
}

impl Incoming<'_> {
    /// Makes the file, whose bytes are verified, the cached one of this key,
    /// with a pin for the caller, and wakes those who wait for it.
    pub(super) fn publish(mut self, key: &Key) -> Result<(), Errno> {
        let bytes = self.prepare(key)?;
        let mut state = self.cache.state();
        self.rename(key)?;
        state.index.publish(*key, bytes);
        state.in_flight.remove(key);
        self.cache.trim(&mut state);
        Ok(())
    }

    /// Makes the file the cached one of a key that the caller has pinned.
    fn replace(mut self, key: &Key) -> Result<(), Errno> {
        self.prepare(key)?;
        self.rename(key)
    }

    fn prepare(&self, key: &Key) -> Result<u64, Errno> {
        finish(&self.file, key.mode())?;
        let stat = fstat(&self.file)?;
        Ok(u64::try_from(stat.st_blocks).unwrap_or(0) * 512)
    }

    fn rename(&mut self, key: &Key) -> Result<(), Errno> {
        if let Some(name) = &self.name {
            renameat(
                &self.cache.incoming,
                name.as_str(),
                &self.cache.directory,
                key.file_name().as_str(),
            )?;
        }
        self.name = None;
        Ok(())
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            let _ = unlinkat(
                &self.cache.incoming,
                name.as_str(),
                UnlinkatFlags::NoRemoveDir,
            );
        }
    }
}
