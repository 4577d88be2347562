//! The cache itself: pinning, linking, copying, evicting.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{UnlinkatFlags, geteuid, linkat, unlinkat};
use proto::InstanceName;
use storage::BlobStore;
use tokio::sync::Notify;

use super::incoming::{self, copy_into, create};
use super::index::{Id, Index};
use super::key::{Key, Tenant};
use super::metrics::{Counters, Held};
use super::order::ReplacementPolicy;
use crate::Error;
use crate::downloads::Downloads;
use crate::files;
use crate::memory::lock;

/// How many entries are seen to before others get at the index.
pub(super) const PORTION: usize = 1024;

/// How much the cache may hold. Files that actions use at the moment stay even
/// where they exceed it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Blocks on disk, in bytes.
    pub bytes: u64,
    /// Files.
    pub files: u64,
    /// What makes room.
    pub policy: ReplacementPolicy,
    /// How many components of an action's instance name tell its tenant, who
    /// shares no files with others. Zero: all share.
    pub tenant_components: usize,
    /// Whether the modes of files let their owner write them. That is the cache, which
    /// never does; but where an action sees files as its own, through an overlay or as
    /// copies, it may write what it sees.
    pub writable: bool,
}

/// The mode of cached files that are executable or not, and writable or not for those
/// who see them as their own.
pub(super) fn mode(executable: bool, writable: bool) -> u32 {
    let mode = if executable { 0o555 } else { 0o444 };
    if writable { mode | 0o200 } else { mode }
}

/// The file cache of one worker process.
pub struct FileCache {
    pub(super) directory: OwnedFd,
    /// Where files are written before they are complete.
    pub(super) incoming: OwnedFd,
    limits: Limits,
    index: Mutex<Index>,
    /// Told when nothing can be evicted though something should.
    pressure: Notify,
    /// Told when an entry stops being busy.
    pub(super) progress: Notify,
    pub(super) store: Arc<dyn BlobStore>,
    pub(super) downloads: Arc<Downloads>,
    pub(super) counters: Counters,
    pub(super) names: AtomicU64,
    /// Who owns cached files.
    owner: u32,
    /// Held while a file with too many links is replaced by a fresh inode.
    renewal: Mutex<()>,
    /// Whether it was said that files are copied.
    crossing: AtomicBool,
    /// Keeps other processes out of the directory for as long as this lives.
    _lock: OwnedLock,
    #[cfg(test)]
    pub(super) link_limit: AtomicU64,
}

/// The lock on the cache directory.
pub(super) type OwnedLock = nix::fcntl::Flock<OwnedFd>;

/// Why a file could not be put into an input root.
#[derive(Debug)]
pub enum LinkError {
    /// The cached file is gone, or is no longer as the cache made it;
    /// [`FileCache::repair`] fetches it anew.
    Vanished,
    /// The kernel said no.
    Errno(Errno),
}

/// Files of the cache that eviction must leave alone until this is dropped. They
/// need not all be there before [`FileCache::complete`].
pub struct Pins {
    cache: Arc<FileCache>,
    ids: Vec<Id>,
    /// Those that were not there when they were pinned.
    pub(super) open: Vec<Id>,
    pub(super) fetched: Fetched,
}

/// What was fetched for the owner of pins, and not for others before.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fetched {
    /// How many blobs.
    pub blobs: u64,
    /// Their sizes.
    pub bytes: u64,
}

impl Pins {
    /// Takes over all pins of another.
    pub fn merge(&mut self, mut other: Self) {
        self.ids.append(&mut other.ids);
        self.open.append(&mut other.open);
        self.fetched.blobs += other.fetched.blobs;
        self.fetched.bytes += other.fetched.bytes;
    }

    /// What had to be fetched.
    #[must_use]
    pub fn fetched(&self) -> Fetched {
        self.fetched
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        for ids in self.ids.chunks(PORTION) {
            let mut index = self.cache.index();
            for id in ids {
                index.unpin(*id);
            }
            self.cache.trim(&mut index);
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
        downloads: Arc<Downloads>,
    ) -> Arc<Self> {
        let cache = Arc::new(Self {
            directory,
            incoming,
            limits,
            index: Mutex::new(index),
            pressure: Notify::new(),
            progress: Notify::new(),
            store,
            downloads,
            counters: Counters::default(),
            names: AtomicU64::new(0),
            owner: geteuid().as_raw(),
            renewal: Mutex::new(()),
            crossing: AtomicBool::new(false),
            _lock: lock,
            #[cfg(test)]
            link_limit: AtomicU64::new(u64::MAX),
        });
        cache.trim(&mut cache.index());
        cache
    }

    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        lock(&self.index)
    }

    /// Whose the files are that actions of this instance use.
    #[must_use]
    pub fn tenant(&self, instance: &InstanceName) -> Tenant {
        Tenant::of(instance, self.limits.tenant_components)
    }

    /// Returns when the cache holds too much and all of it is pinned.
    pub(crate) async fn pressed(&self) {
        self.pressure.notified().await;
    }

    /// Pins files, whether they are there or not. A file may be named more than
    /// once.
    #[must_use]
    pub fn pin(self: &Arc<Self>, keys: impl IntoIterator<Item = Key>) -> Pins {
        let mut pins = Pins {
            cache: Arc::clone(self),
            ids: Vec::new(),
            open: Vec::new(),
            fetched: Fetched::default(),
        };
        let mut keys = keys.into_iter().peekable();
        let (mut hits, mut bytes) = (0, 0);
        while keys.peek().is_some() {
            let mut index = self.index();
            for key in keys.by_ref().take(PORTION) {
                let (id, present) = index.pin(&key);
                pins.ids.push(id);
                if present {
                    hits += 1;
                    bytes += key.digest.size();
                } else {
                    pins.open.push(id);
                }
            }
        }
        self.counters.hits.inc_by(hits);
        self.counters.hit_bytes.inc_by(bytes);
        self.counters.operation("Touch", hits);
        self.counters.misses.inc_by(pins.open.len() as u64);
        pins.ids.shrink_to_fit();
        pins
    }

    /// Pins files and sees to it that they are there: [`Self::pin`], then
    /// [`Self::complete`].
    ///
    /// # Errors
    /// As [`Self::complete`].
    pub async fn acquire(
        self: &Arc<Self>,
        instance: &InstanceName,
        keys: Vec<Key>,
    ) -> Result<Pins, Error> {
        let mut pins = self.pin(keys);
        self.complete(instance, &mut pins).await?;
        Ok(pins)
    }

    /// Fetches files anew that the caller holds pins on and that could not be
    /// linked because they are gone from the disk or altered.
    ///
    /// # Errors
    /// As [`Self::complete`].
    pub async fn repair(
        self: &Arc<Self>,
        instance: &InstanceName,
        keys: Vec<Key>,
    ) -> Result<Pins, Error> {
        let mut pins = self.pin(keys.iter().copied());
        for (key, id) in keys.iter().zip(&pins.ids) {
            let mut index = self.index();
            // Others may have repaired it, or be at it.
            if index.is_present(*id) && !self.is_intact(key) {
                self.lost(&mut index, key, *id);
            }
        }
        pins.open.clone_from(&pins.ids);
        self.complete(instance, &mut pins).await?;
        Ok(pins)
    }

    /// A pinned file that should be there is not, or is damaged.
    fn lost(&self, index: &mut Index, key: &Key, id: Id) {
        let name = key.file_name();
        match unlinkat(&self.directory, name.as_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) => {
                self.counters.altered.inc();
                tracing::warn!(
                    file = name,
                    "cached file was altered, it will be fetched anew"
                );
            }
            Err(_) => {
                self.counters.vanished.inc();
                tracing::warn!(file = name, "cached file vanished, it will be fetched anew");
            }
        }
        index.vanished(id);
    }

    /// Whether a file is there and looks as the cache made it.
    fn is_intact(&self, key: &Key) -> bool {
        let name = key.file_name();
        files::stat_at(&self.directory, name.as_str())
            .is_ok_and(|stat| incoming::as_made(key, &stat, self.owner, self.mode(key)))
    }

    /// Links a pinned file into a directory. A file with as many links as its file
    /// system allows is first replaced, in the cache, by a fresh inode. Where the
    /// directory is on another file system, or mounted otherwise, it gets a copy.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub fn link(&self, key: &Key, directory: BorrowedFd<'_>, name: &str) -> Result<(), LinkError> {
        let file = key.file_name();
        match self.link_once(key, &file, directory, name) {
            Err(LinkError::Errno(Errno::EMLINK)) => {}
            Err(LinkError::Errno(errno @ Errno::EXDEV)) => {
                if !self.crossing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        %errno,
                        "cached files cannot be linked into the build directory: they are \
                         copied, sharing blocks where the file system can"
                    );
                }
                return self.copy(key, directory, name);
            }
            other => return other,
        }
        let _renewal = lock(&self.renewal);
        match self.link_once(key, &file, directory, name) {
            Err(LinkError::Errno(Errno::EMLINK)) => {}
            // Another thread renewed it meanwhile.
            other => return other,
        }
        tracing::debug!(file, "out of links, continuing with a fresh inode");
        self.counters.renewed.inc();
        self.renew(key)?;
        self.link_once(key, &file, directory, name)
    }

    fn link_once(
        &self,
        key: &Key,
        file: &str,
        directory: BorrowedFd<'_>,
        name: &str,
    ) -> Result<(), LinkError> {
        let stat = classify(files::stat_at(&self.directory, file))?;
        if !incoming::as_made(key, &stat, self.owner, self.mode(key)) {
            return Err(LinkError::Vanished);
        }
        #[cfg(test)]
        if stat.st_nlink >= self.link_limit.load(Ordering::Relaxed) {
            return Err(LinkError::Errno(Errno::EMLINK));
        }
        classify(linkat(
            &self.directory,
            file,
            directory,
            name,
            AtFlags::empty(),
        ))
    }

    /// The mode of a cached file.
    #[must_use]
    pub fn mode(&self, key: &Key) -> u32 {
        self.mode_of(key.executable)
    }

    /// The mode of files that are executable, or are not.
    #[must_use]
    pub fn mode_of(&self, executable: bool) -> u32 {
        mode(executable, self.limits.writable)
    }

    /// Whether actions that see files as their own may write them.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.limits.writable
    }

    /// Puts a private copy of a pinned file into a directory, sharing blocks
    /// where the file system can (`copy_file_range(2)`). The copy is closed when
    /// this returns, so that it can be executed.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub fn copy(&self, key: &Key, directory: BorrowedFd<'_>, name: &str) -> Result<(), LinkError> {
        self.copy_with(key, directory, name, self.mode(key), (files::FIXED_TIME, 0))
    }

    /// [`Self::copy`] with another mode and modification time: seconds and
    /// nanoseconds.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub fn copy_with(
        &self,
        key: &Key,
        directory: BorrowedFd<'_>,
        name: &str,
        mode: u32,
        mtime: (i64, u32),
    ) -> Result<(), LinkError> {
        // First, so that nothing is in the way of another attempt when it is gone.
        let from = self.open_cached(key)?;
        let mut file = create(directory, name, mode).map_err(LinkError::Errno)?;
        let done = copy_into(from, &mut file).and_then(|()| incoming::finish(&file, mode, mtime));
        if done.is_err() {
            let _ = unlinkat(directory, name, UnlinkatFlags::NoRemoveDir);
        }
        done.map(drop).map_err(LinkError::Errno)
    }

    /// Opens a file that is as the cache made it.
    pub(super) fn open_cached(&self, key: &Key) -> Result<std::fs::File, LinkError> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let name = key.file_name();
        let file = classify(openat(&self.directory, name.as_str(), flags, Mode::empty()))?;
        let stat = fstat(&file).map_err(LinkError::Errno)?;
        if !incoming::as_made(key, &stat, self.owner, self.mode(key)) {
            return Err(LinkError::Vanished);
        }
        Ok(file.into())
    }

    /// The directory for files that are not complete, or not for actions.
    pub(crate) fn incoming_directory(&self) -> BorrowedFd<'_> {
        self.incoming.as_fd()
    }

    /// Evicts until the limits hold or everything left is in use.
    pub(super) fn trim(&self, index: &mut Index) {
        while index.bytes() > self.limits.bytes || index.count() > self.limits.files {
            if self.evict(index).is_none() {
                // Those who pin what they do not use just now may give it up.
                self.pressure.notify_one();
                return;
            }
        }
    }

    /// Evicts one file, and says what it occupied. Unlinking happens under the
    /// lock, so that a file fetched anew cannot be unlinked in the place of the one
    /// evicted.
    fn evict(&self, index: &mut Index) -> Option<u64> {
        let (key, bytes) = index.evict()?;
        let name = key.file_name();
        match unlinkat(&self.directory, name.as_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => tracing::warn!(file = name, %errno, "cannot evict"),
        }
        self.counters.evicted.inc();
        self.counters.evicted_bytes.inc_by(bytes);
        self.counters.operation("Remove", 1);
        Some(bytes)
    }

    /// Evicts this much more than the limits ask for, as far as it is not in use:
    /// the disk is short of it.
    pub(crate) fn give_back(&self, bytes: u64, files: u64) {
        let (mut freed, mut removed) = (0, 0);
        while freed < bytes || removed < files {
            match self.evict(&mut self.index()) {
                Some(size) => (freed, removed) = (freed + size, removed + 1),
                None => {
                    self.pressure.notify_one();
                    return;
                }
            }
        }
    }

    /// What the cache holds.
    #[must_use]
    pub fn held(&self) -> Held {
        let index = self.index();
        Held {
            files: index.count(),
            bytes: index.bytes(),
            pinned: index.pinned(),
        }
    }

    /// [`Self::held`] as files, bytes, pinned.
    #[cfg(test)]
    pub(super) fn usage(&self) -> (u64, u64, u64) {
        let held = self.held();
        (held.files, held.bytes, held.pinned)
    }
}

fn classify<T>(result: Result<T, Errno>) -> Result<T, LinkError> {
    result.map_err(|errno| match errno {
        Errno::ENOENT => LinkError::Vanished,
        other => LinkError::Errno(other),
    })
}
