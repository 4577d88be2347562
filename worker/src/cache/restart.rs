//! What the cache keeps when the worker stops, and trusts when it starts.
//!
//! A worker that stops writes the file `index`: the boot it ran in, and the
//! files it knew to be good in the order of their use. A worker that starts
//! takes that file away and scans the directory. A file that is not exactly as
//! the cache makes them (regular, owner, mode, size, time, one link) is removed.
//! Of the rest, those listed in an index of the same boot are good: nothing
//! happened since but what the page cache knows. All others (after a kill, or a
//! reboot, which may lose written data) are hashed: before their first use by who
//! wants them, the rest one by one in the background.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};
use storage::BlobStore;

use super::file_cache::{FileCache, Limits, OwnedLock, mode};
use super::incoming::{as_made, occupied};
use super::index::Index;
use super::key::Key;
use crate::Error;
use crate::downloads::Downloads;
use crate::files;

const INCOMING: &str = "incoming";
const INDEX: &str = "index";
const LOCK: &str = "lock";

impl FileCache {
    /// Opens the cache in a directory, which is its own from now on: input roots
    /// made before are gone already. Blocks while it scans.
    ///
    /// # Errors
    /// [`Error::CacheInUse`]; the directory cannot be read or written.
    pub fn open(
        path: &Path,
        limits: Limits,
        store: Arc<dyn BlobStore>,
        downloads: Arc<Downloads>,
    ) -> Result<Arc<Self>, Error> {
        let shown = path.display().to_string();
        let directory =
            files::open_configured(path).map_err(Error::file("open cache directory", &shown))?;
        let lock = lock(&directory, &shown)?;
        let incoming = files::ensure_directory(&directory, INCOMING)
            .and_then(|incoming| empty(&incoming).map(|()| incoming))
            .map_err(Error::file("empty", format!("{shown}/{INCOMING}")))?;
        let order =
            take_index(&directory).map_err(Error::file("read", format!("{shown}/{INDEX}")))?;
        let index = scan(&directory, &order, &limits).map_err(Error::file("scan", &shown))?;
        if index.count() > 0 {
            tracing::info!(
                files = index.count(),
                bytes = index.bytes(),
                verified = index.verified().len(),
                "file cache survives from an earlier run"
            );
        }
        Ok(Self::assemble(
            directory, incoming, lock, index, limits, store, downloads,
        ))
    }

    /// Writes down what is in the cache for the next start. Nothing may be
    /// fetched any more.
    ///
    /// # Errors
    /// The index cannot be written; the next start then hashes every file.
    pub fn close(&self) -> Result<(), Error> {
        let mut text = boot();
        text.push('\n');
        let index = self.index();
        match index.in_use() {
            0 => {}
            files => tracing::warn!(files, "cached files are in use though no action is"),
        }
        for key in index.verified() {
            text.push_str(&key.file_name());
            text.push('\n');
        }
        drop(index);
        let write = || -> Result<(), Errno> {
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_CLOEXEC;
            let incoming = self.incoming_directory();
            let file = openat(incoming, INDEX, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
            std::fs::File::from(file)
                .write_all(text.as_bytes())
                .map_err(|error| files::errno(&error))?;
            renameat(incoming, INDEX, &self.directory, INDEX)
        };
        write().map_err(Error::file("write", INDEX))
    }
}

fn lock(directory: &OwnedFd, shown: &str) -> Result<OwnedLock, Error> {
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(directory, LOCK, flags, Mode::S_IRUSR | Mode::S_IWUSR)
        .map_err(Error::file("create", format!("{shown}/{LOCK}")))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => Error::CacheInUse(shown.into()),
        other => Error::file("lock", format!("{shown}/{LOCK}"))(other),
    })
}

fn empty(directory: &OwnedFd) -> Result<(), Errno> {
    for (name, _) in files::entries(directory, usize::MAX)? {
        unlinkat(directory, name.as_c_str(), UnlinkatFlags::NoRemoveDir)?;
    }
    Ok(())
}

/// Identifies the kernel's uptime; empty where it does not say.
fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_string())
        .unwrap_or_default()
}

/// The files a stopped worker of this boot knew to be good, in order of use.
fn take_index(directory: &OwnedFd) -> Result<Vec<Key>, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = match openat(directory, INDEX, flags, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(Vec::new()),
        other => other?,
    };
    unlinkat(directory, INDEX, UnlinkatFlags::NoRemoveDir)?;
    let mut text = String::new();
    if std::fs::File::from(file).read_to_string(&mut text).is_err() {
        return Ok(Vec::new());
    }
    let boot = boot();
    let mut lines = text.lines();
    if boot.is_empty() || lines.next() != Some(&boot) {
        return Ok(Vec::new());
    }
    Ok(lines.filter_map(Key::parse).collect())
}

fn scan(directory: &OwnedFd, order: &[Key], limits: &Limits) -> Result<Index, Errno> {
    let mut good = std::collections::HashMap::new();
    let owner = geteuid().as_raw();
    for (name, _) in files::entries(directory.as_fd(), usize::MAX)? {
        let Some(key) = name.to_str().ok().and_then(Key::parse) else {
            continue;
        };
        let stat = files::stat_at(directory, name.as_c_str())?;
        let is_made = |writable| as_made(&key, &stat, owner, mode(key.executable, writable));
        if is_made(limits.writable) && stat.st_nlink == 1 {
            good.insert(key, occupied(&stat));
        } else {
            // So were all files, before the configuration changed.
            if !is_made(!limits.writable) {
                tracing::warn!(
                    file = key.file_name(),
                    "cached file was changed, removing it"
                );
            }
            unlinkat(directory, name.as_c_str(), UnlinkatFlags::NoRemoveDir)?;
        }
    }
    let mut index = Index::new(limits.policy);
    let listed: HashSet<&Key> = order.iter().collect();
    for (key, bytes) in &good {
        if !listed.contains(key) {
            index.found(*key, *bytes, false);
        }
    }
    for key in order {
        if let Some(bytes) = good.get(key) {
            index.found(*key, *bytes, true);
        }
    }
    Ok(index)
}
