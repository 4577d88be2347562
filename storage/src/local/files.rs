//! Blobs as files.
//!
//! ```text
//! DIRECTORY/lock                              held by the process that owns the rest
//! DIRECTORY/incoming/N                        being written; removed at start
//! DIRECTORY/blobs/FUNCTION/XX/HASH-SIZE[-TENANT]  XX: the hash's first two digits
//! DIRECTORY/quarantine/N-HASH-SIZE[-TENANT]   found damaged; the newest few
//! ```
//!
//! A file under `blobs` was complete and right when it was renamed there, or is a small
//! one and as large as its name says (see [`super::in_place`]).

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use proto::{DigestFunction, Hasher};

use super::key::Key;
use crate::error::Error;
use crate::verify;

/// Where damaged blobs are put aside.
pub(super) const QUARANTINE: &str = "quarantine";
/// How many are kept, and up to which size.
const QUARANTINED: usize = 16;
const QUARANTINED_SIZE: u64 = 64 << 20;

/// The directory of one store.
pub(super) struct Files {
    root: PathBuf,
    next: AtomicU64,
    /// Locked while the process lives.
    _lock: File,
}

/// An error about a file.
pub(super) fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |reason| Error::File {
        operation,
        path,
        reason,
    }
}

fn make_directory(path: &Path) -> Result<(), Error> {
    // What clients store is nobody else's to read.
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("create", path))
}

impl Files {
    /// Takes the directory, which is created if need be, and removes what an
    /// earlier process left half written.
    pub(super) fn open(root: &Path) -> Result<Self, Error> {
        make_directory(root)?;
        let path = root.join("lock");
        let lock = File::create(&path).map_err(failed("create", &path))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => Error::InUse(root.into()),
            TryLockError::Error(source) => failed("lock", &path)(source),
        })?;
        let incoming = root.join("incoming");
        match fs::remove_dir_all(&incoming) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &incoming)(error));
            }
            _ => {}
        }
        make_directory(&incoming)?;
        make_directory(&root.join(QUARANTINE))?;
        for function in DigestFunction::ALL {
            make_directory(&root.join("blobs").join(function.name()))?;
        }
        Ok(Self {
            root: root.into(),
            next: AtomicU64::new(0),
            _lock: lock,
        })
    }

    /// Where a blob's file is.
    pub(super) fn path(&self, key: &Key) -> PathBuf {
        let name = key.file_name();
        let mut path = self.root.join("blobs");
        path.push(key.digest.function().name());
        path.push(&name[..2]);
        path.push(name);
        path
    }

    /// Every blob there is with its file's mtime, in no order. Files that are no
    /// blobs, or have another size than their name says (a power cut can leave
    /// such), are removed.
    pub(super) fn list(&self) -> Result<Vec<(Key, SystemTime)>, Error> {
        let mut found = Vec::new();
        walk(&self.root, |path, key, metadata| {
            if let Some(key) = key {
                let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                found.push((key, used));
                return Ok(());
            }
            tracing::warn!(path = %path.display(), "removing what is no whole blob");
            fs::remove_file(path).map_err(failed("remove", path))
        })?;
        Ok(found)
    }

    /// Opens a blob's file.
    pub(super) fn read(&self, key: &Key) -> Result<File, Error> {
        let path = self.path(key);
        File::open(&path).map_err(|source| {
            if source.kind() == io::ErrorKind::NotFound {
                Error::NotFound(key.digest)
            } else {
                failed("open", &path)(source)
            }
        })
    }

    /// Whether what is at a blob's place is still this file, or nothing at all.
    pub(super) fn is_current(&self, key: &Key, file: &File) -> bool {
        match (fs::metadata(self.path(key)), file.metadata()) {
            (Ok(there), Ok(read)) => there.ino() == read.ino(),
            (Err(error), _) => error.kind() == io::ErrorKind::NotFound,
            (Ok(_), Err(_)) => false,
        }
    }

    /// Whether a blob has a file.
    pub(super) fn exists(&self, key: &Key) -> bool {
        self.path(key).exists()
    }

    /// Removes a blob's file; one that is gone already is as good.
    pub(super) fn remove(&self, key: &Key) {
        let path = self.path(key);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(path = %path.display(), %error, "cannot remove a blob");
        }
    }

    /// Puts a damaged blob's file aside, for whoever wants to know what befell it.
    /// Only the newest few are kept: they take room that is not counted.
    pub(super) fn quarantine(&self, key: &Key) {
        let folder = self.root.join(QUARANTINE);
        let name = key.file_name();
        let put_aside = || -> io::Result<()> {
            let mut kept: Vec<(SystemTime, PathBuf)> = Vec::new();
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                kept.push((entry.metadata()?.modified()?, entry.path()));
            }
            kept.sort_unstable();
            let excess = (kept.len() + 1).saturating_sub(QUARANTINED);
            for (_, path) in kept.into_iter().take(excess) {
                fs::remove_file(path)?;
            }
            let path = self.path(key);
            // What takes a lot of room is not worth it.
            if key.digest.size() > QUARANTINED_SIZE {
                return fs::remove_file(path);
            }
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let aside = folder.join(format!("{number}-{name}"));
            fs::rename(path, &aside)?;
            File::open(aside)?.set_modified(SystemTime::now())
        };
        match put_aside() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(name, %error, "cannot put a damaged blob aside");
                self.remove(key);
            }
            _ => {}
        }
    }

    /// Notes in a blob's file that it was used.
    pub(super) fn renew(&self, key: &Key, now: SystemTime) {
        // Only the order of eviction after a restart hangs on it.
        let renewed = File::open(self.path(key)).and_then(|file| file.set_modified(now));
        if let Err(error) = renewed {
            tracing::debug!(digest = %key.digest, %error, "cannot note the use of a blob");
        }
    }

    /// Begins to write a blob.
    pub(super) fn create(&self, key: Key) -> Result<Incoming, Error> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join("incoming").join(number.to_string());
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(failed("create", &path))?;
        Ok(Incoming {
            file,
            path,
            hasher: Some(Hasher::new(key.digest.function(), key.digest.size())),
            written: 0,
            key,
        })
    }

    /// Creates a blob's file where it stays; fails where there is one.
    pub(super) fn create_at(&self, path: &Path) -> io::Result<File> {
        let create = || File::create_new(path);
        match create() {
            // The first blob under these two digits.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(folder) = path.parent() {
                    DirBuilder::new()
                        .recursive(true)
                        .mode(0o700)
                        .create(folder)?;
                }
                create()
            }
            created => created,
        }
    }

    /// Renames a complete file to its place.
    pub(super) fn publish(&self, incoming: Complete) -> Result<(), Error> {
        let to = self.path(&incoming.0.key);
        let from = &incoming.0.path;
        let renamed = match fs::rename(from, &to) {
            // The first blob under these two digits.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(folder) = to.parent() {
                    make_directory(folder)?;
                }
                fs::rename(from, &to)
            }
            other => other,
        };
        renamed.map_err(failed("rename to", &to))?;
        // Nothing is left to remove.
        let mut incoming = incoming.0;
        incoming.path = PathBuf::new();
        Ok(())
    }
}

/// Goes through a store's files: each path, the blob it is the place of, if it is
/// one and as large as its name says, and its metadata.
pub(super) fn walk(
    root: &Path,
    mut each: impl FnMut(&Path, Option<Key>, &Metadata) -> Result<(), Error>,
) -> Result<(), Error> {
    for function in DigestFunction::ALL {
        let folder = root.join("blobs").join(function.name());
        if !folder.exists() {
            continue;
        }
        for entry in walkdir::WalkDir::new(&folder).min_depth(2).max_depth(2) {
            let gone = |error: &walkdir::Error| {
                let kind = error.io_error().map(io::Error::kind);
                kind == Some(io::ErrorKind::NotFound)
            };
            let read = |error: walkdir::Error| failed("read", &folder)(error.into());
            let found = entry.and_then(|entry| Ok((entry.metadata()?, entry)));
            let (metadata, entry) = match found {
                // A store in use loses files while they are listed.
                Err(error) if gone(&error) => continue,
                other => other.map_err(read)?,
            };
            if metadata.is_dir() {
                continue;
            }
            let name = entry.file_name().to_str().unwrap_or_default();
            let folder = entry.path().parent().and_then(Path::file_name);
            let key = Key::parse(function, name).filter(|key| {
                metadata.is_file()
                    && metadata.len() == key.digest.size()
                    && folder.and_then(OsStr::to_str) == name.get(..2)
            });
            each(entry.path(), key, &metadata)?;
        }
    }
    Ok(())
}

/// A blob being written. Dropped before it is published, its file goes.
pub(super) struct Incoming {
    file: File,
    path: PathBuf,
    hasher: Option<Hasher>,
    written: u64,
    key: Key,
}

/// One whose bytes are all there and are those of its digest.
pub(super) struct Complete(Incoming);

impl Incoming {
    /// Whether these bytes do not exceed the digest's size.
    pub(super) fn fits(&self, bytes: &[u8]) -> Result<(), Error> {
        let actual = self.written + bytes.len() as u64;
        if actual > self.key.digest.size() {
            return Err(Error::Size {
                digest: self.key.digest,
                actual,
            });
        }
        Ok(())
    }

    /// Writes the next bytes.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.fits(bytes)?;
        self.written += bytes.len() as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        self.file
            .write_all(bytes)
            .map_err(failed("write", &self.path))
    }

    /// Writes a whole blob whose digest was verified.
    pub(super) fn whole(mut self, verified: &[u8]) -> Result<Complete, Error> {
        self.hasher = None;
        self.append(verified)?;
        Ok(Complete(self))
    }

    /// Checks what was written against the digest.
    pub(super) fn finish(mut self) -> Result<Complete, Error> {
        if let Some(hasher) = self.hasher.take() {
            verify::hashed(self.key.digest, hasher)?;
        }
        Ok(Complete(self))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::error!(path = %self.path.display(), %error, "cannot remove a half-written blob");
        }
    }
}
