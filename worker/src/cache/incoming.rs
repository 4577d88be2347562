//! Files on their way into the cache: written aside, then put in place complete.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, fchmod, fstat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::file_cache::{FileCache, LinkError};
use super::index::{Id, Work};
use super::key::Key;
use crate::files::{self, Kind};

/// A file being written. Dropped before it is in place, it is removed.
pub(super) struct Incoming<'a> {
    cache: &'a FileCache,
    name: Option<String>,
    file: File,
}

impl FileCache {
    /// Creates a file aside, to become the cached one of a key.
    pub(super) fn incoming(&self, key: &Key) -> Result<Incoming<'_>, Errno> {
        let name = self.names.fetch_add(1, Ordering::Relaxed).to_string();
        let file = create(self.incoming.as_fd(), &name, self.mode(key))?;
        Ok(Incoming {
            cache: self,
            name: Some(name),
            file,
        })
    }

    /// Replaces a pinned file by an inode of its own with the same bytes.
    pub(super) fn renew(&self, key: &Key) -> Result<(), LinkError> {
        let from = self.open_cached(key)?;
        let mut fresh = self.incoming(key).map_err(LinkError::Errno)?;
        copy_into(from, &mut fresh.file)
            .and_then(|()| fresh.prepare(key))
            .and_then(|_| fresh.rename(key))
            .map_err(LinkError::Errno)
    }
}

impl Incoming<'_> {
    /// Writes more bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        self.file
            .write_all(bytes)
            .map_err(|error| files::errno(&error))
    }

    /// Writes the bytes of another file.
    pub(super) fn copy_from(&mut self, other: File) -> Result<(), Errno> {
        copy_into(other, &mut self.file)
    }

    /// Makes the file, whose bytes are verified, the cached one of an entry that
    /// this work has busy. Nothing happens if it has it no longer, because it was
    /// given up meanwhile.
    pub(super) fn publish(mut self, key: &Key, id: Id, work: Work) -> Result<(), Errno> {
        let bytes = self.prepare(key)?;
        let cache = self.cache;
        let mut index = cache.index();
        if !index.is_at(id, work) {
            return Ok(());
        }
        self.rename(key)?;
        index.publish(id, bytes);
        cache.trim(&mut index);
        drop(index);
        cache.counters.fetched.inc();
        cache.counters.fetched_bytes.inc_by(key.digest.size());
        cache.counters.operation("Insert", 1);
        Ok(())
    }

    /// Gives the file its final looks; says what it occupies on disk, in bytes.
    fn prepare(&self, key: &Key) -> Result<u64, Errno> {
        finish(&self.file, self.cache.mode(key), (files::FIXED_TIME, 0)).map(|stat| occupied(&stat))
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

/// Creates a file to write, as far as the process's umask lets it, with this mode.
pub(super) fn create(directory: BorrowedFd<'_>, name: &str, mode: u32) -> Result<File, Errno> {
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(directory, name, flags, Mode::from_bits_truncate(mode)).map(File::from)
}

/// Copies a file, sharing blocks where the file system can: on Linux the standard
/// library uses `copy_file_range(2)`, which makes reflinks where there are any.
pub(super) fn copy_into(mut from: File, to: &mut File) -> Result<(), Errno> {
    std::io::copy(&mut from, to)
        .map(drop)
        .map_err(|error| files::errno(&error))
}

/// Gives a file that is written its mode, where it has another, and its time of
/// modification.
pub(super) fn finish(file: &File, mode: u32, mtime: (i64, u32)) -> Result<FileStat, Errno> {
    let stat = fstat(file)?;
    if files::permissions(&stat) != mode {
        fchmod(file, Mode::from_bits_truncate(mode))?;
    }
    files::set_time(file, mtime)?;
    Ok(stat)
}

/// What a file occupies on disk, in bytes. `st_blocks` counts in 512.
pub(super) fn occupied(stat: &FileStat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * 512
}

/// Whether a file looks as the cache makes them, with this mode, apart from how many
/// links it has.
pub(super) fn as_made(key: &Key, stat: &FileStat, owner: u32, mode: u32) -> bool {
    Kind::of(stat) == Kind::File
        && stat.st_uid == owner
        && files::permissions(stat) == mode
        && u64::try_from(stat.st_size) == Ok(key.digest.size())
        && stat.st_mtime == files::FIXED_TIME
        && stat.st_mtime_nsec == 0
}
