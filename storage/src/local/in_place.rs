//! Small blobs, written where they stay.
//!
//! One `write(2)` of a small blob makes its file grow to the size in its name only when
//! all its bytes are in the kernel's hands; so a file of that size is whole, whenever
//! the process is killed, and shorter ones are removed at the next start. That spares
//! small blobs the detour by `incoming/` that others take: two changes of directories
//! for each, and of one directory that all share.
//!
//! A blob is *absent* → *claimed* by the first who writes it, whose file nobody removes
//! → *present*. Who comes second, or finds a file in the place (of a blob that was
//! evicted and is about to be removed), writes it aside and renames it there, over
//! whatever there is.

use std::io::{ErrorKind, Write as _};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use super::blobs::{Inner, lock};
use super::files::{Files, failed};
use super::index::{HOT_BLOB, Use};
use super::key::Key;
use super::writing::Room;
use crate::error::Error;
use crate::verify;

impl Inner {
    /// Writes a small blob.
    pub(super) fn write_small(self: &Arc<Self>, key: Key, bytes: Bytes) -> Result<(), Error> {
        let digest = key.digest;
        verify::whole(digest, &bytes)?;
        if digest.is_empty_blob() {
            return Ok(());
        }
        let now = SystemTime::now();
        let used = lock(&self.index).touch(&key, now);
        match used {
            Use::Absent => {}
            Use::Present => return Ok(()),
            Use::Renew => {
                self.files.renew(&key, now);
                return Ok(());
            }
        }
        if let Some(claim) = Claim::of(self, key)
            && claim.write(&bytes)?
        {
            return Ok(());
        }
        let written = self.create(key)?.whole(&bytes)?;
        self.publish(key, written, to_keep(&bytes))
    }
}

/// What is kept in memory of a small blob.
fn to_keep(bytes: &Bytes) -> Option<Bytes> {
    // A slice would keep the whole message that it came in.
    (bytes.len() as u64 <= HOT_BLOB).then(|| Bytes::copy_from_slice(bytes))
}

/// A blob that is being written where it stays. Dropped before it is present, what
/// there is of its file goes.
struct Claim<'a> {
    inner: &'a Arc<Inner>,
    key: Key,
    present: bool,
    // Free only after the file is gone.
    room: Option<Room>,
}

impl<'a> Claim<'a> {
    /// None where another has it.
    fn of(inner: &'a Arc<Inner>, key: Key) -> Option<Self> {
        // Whoever removes a file is not to do it between this and the next.
        let _stripe = inner.stripe(&key);
        let claimed = lock(&inner.index).claim(key);
        claimed.then(|| Self {
            inner,
            key,
            present: false,
            room: None,
        })
    }

    /// Writes the blob; false where something is in the place.
    fn write(mut self, bytes: &Bytes) -> Result<bool, Error> {
        let Self { inner, key, .. } = self;
        inner.check_size(&key)?;
        let room = self.room.insert(Room::new(inner.clone(), key.digest));
        room.grow(bytes.len() as u64)?;
        if !make(&inner.files, &key, bytes)? {
            return Ok(false);
        }
        let kept = to_keep(bytes);
        let gone = {
            let mut index = lock(&inner.index);
            // What it took while it was written it takes as a blob from now on.
            index.release(self.room.take().map_or(0, Room::hand_over));
            // Who came second may have been quicker; its file is as good.
            let gone = index.insert(key, SystemTime::now());
            if let Some(kept) = kept {
                index.keep(key, kept);
            }
            index.disclaim(&key);
            gone
        };
        self.present = true;
        inner.remove(gone);
        Ok(true)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if !self.present {
            lock(&self.inner.index).disclaim(&self.key);
            self.inner.remove(vec![self.key]);
        }
    }
}

/// Makes a blob's file; false where there is one.
fn make(files: &Files, key: &Key, bytes: &[u8]) -> Result<bool, Error> {
    let path = files.path(key);
    match files.create_at(&path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        created => {
            let mut file = created.map_err(failed("create", &path))?;
            file.write_all(bytes).map_err(failed("write", &path))?;
            Ok(true)
        }
    }
}
