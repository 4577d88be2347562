//! Blobs as files.
//!
//! ```text
//! DIRECTORY/lock                              held by the process that owns the rest
//! DIRECTORY/incoming/N                        being written; removed at start
//! DIRECTORY/blobs/FUNCTION/XX/HASH-SIZE       XX: the hash's first two digits
//! ```
//!
//! A file under `blobs` was complete and right when it was renamed there.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use proto::{Digest, DigestFunction, Hasher};

use crate::error::Error;
use crate::verify;

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
    move |source| Error::File {
        operation,
        path,
        source,
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
    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        let hash = digest.hash();
        let mut path = self.root.join("blobs");
        path.push(digest.function().name());
        path.push(&hash[..2]);
        path.push(format!("{hash}-{}", digest.size()));
        path
    }

    /// Every blob there is with its file's mtime, in no order. Files that are no
    /// blobs, or have another size than their name says (a power cut can leave
    /// such), are removed.
    pub(super) fn list(&self) -> Result<Vec<(Digest, SystemTime)>, Error> {
        let mut found = Vec::new();
        for function in DigestFunction::ALL {
            let folder = self.root.join("blobs").join(function.name());
            for entry in walkdir::WalkDir::new(&folder).min_depth(2).max_depth(2) {
                let read = |error: walkdir::Error| failed("read", &folder)(error.into());
                let entry = entry.map_err(read)?;
                let metadata = entry.metadata().map_err(read)?;
                let digest = entry
                    .file_name()
                    .to_str()
                    .and_then(|name| name.split_once('-'))
                    .and_then(|(hash, size)| Digest::new(function, hash, size.parse().ok()?).ok())
                    .filter(|digest| {
                        metadata.is_file()
                            && metadata.len() == digest.size()
                            && self.path(digest) == entry.path()
                    });
                match digest {
                    Some(digest) => {
                        let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                        found.push((digest, used));
                    }
                    None if metadata.is_dir() => {}
                    None => {
                        tracing::warn!(path = %entry.path().display(), "removing what is no whole blob");
                        fs::remove_file(entry.path()).map_err(failed("remove", entry.path()))?;
                    }
                }
            }
        }
        Ok(found)
    }

    /// Opens a blob's file.
    pub(super) fn read(&self, digest: &Digest) -> Result<File, Error> {
        let path = self.path(digest);
        File::open(&path).map_err(|source| {
            if source.kind() == io::ErrorKind::NotFound {
                Error::NotFound(*digest)
            } else {
                failed("open", &path)(source)
            }
        })
    }

    /// Whether what is at a blob's place is still this file, or nothing at all.
    pub(super) fn is_current(&self, digest: &Digest, file: &File) -> bool {
        match (fs::metadata(self.path(digest)), file.metadata()) {
            (Ok(there), Ok(read)) => there.ino() == read.ino(),
            (Err(error), _) => error.kind() == io::ErrorKind::NotFound,
            (Ok(_), Err(_)) => false,
        }
    }

    /// Whether a blob has a file.
    pub(super) fn exists(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    /// Removes a blob's file; one that is gone already is as good.
    pub(super) fn remove(&self, digest: &Digest) {
        let path = self.path(digest);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(path = %path.display(), %error, "cannot remove a blob");
        }
    }

    /// Notes in a blob's file that it was used.
    pub(super) fn renew(&self, digest: &Digest, now: SystemTime) {
        // Only the order of eviction after a restart hangs on it.
        let renewed = File::open(self.path(digest)).and_then(|file| file.set_modified(now));
        if let Err(error) = renewed {
            tracing::debug!(%digest, %error, "cannot note the use of a blob");
        }
    }

    /// Begins to write a blob.
    pub(super) fn create(&self, digest: Digest) -> Result<Incoming, Error> {
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
            hasher: Some(Hasher::new(digest.function(), digest.size())),
            written: 0,
            digest,
        })
    }

    /// Renames a complete file to its place.
    pub(super) fn publish(&self, incoming: Complete) -> Result<(), Error> {
        let to = self.path(&incoming.0.digest);
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

/// A blob being written. Dropped before it is published, its file goes.
pub(super) struct Incoming {
    file: File,
    path: PathBuf,
    hasher: Option<Hasher>,
    written: u64,
    digest: Digest,
}

/// One whose bytes are all there and are those of its digest.
pub(super) struct Complete(Incoming);

impl Incoming {
    /// Whether these bytes do not exceed the digest's size.
    pub(super) fn fits(&self, bytes: &[u8]) -> Result<(), Error> {
        let actual = self.written + bytes.len() as u64;
        if actual > self.digest.size() {
            return Err(Error::Size {
                digest: self.digest,
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
            verify::hashed(self.digest, hasher)?;
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
