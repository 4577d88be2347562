//! Blobs being written, and the room they take meanwhile.
//!
//! A client may begin uploads and never end them. Their bytes count against the
//! store's limit as they are written, and blobs that are complete go for them;
//! when uploads alone would exceed the limit, the next bytes are refused.

use std::sync::Arc;

use proto::Digest;

use super::blobs::Inner;
use super::files::{Complete, Incoming};
use super::index::blocks;
use crate::error::Error;

/// The room that a blob being written has in the index. Dropped, it is given back.
pub(super) struct Room {
    inner: Arc<Inner>,
    digest: Digest,
    written: u64,
    reserved: u64,
}

impl Room {
    pub(super) fn new(inner: Arc<Inner>, digest: Digest) -> Self {
        Self {
            inner,
            digest,
            written: 0,
            reserved: 0,
        }
    }

    /// Makes room for so many more bytes.
    pub(super) fn grow(&mut self, bytes: u64) -> Result<(), Error> {
        self.written = self.written.saturating_add(bytes);
        let needed = blocks(self.written);
        if needed > self.reserved {
            self.inner.reserve(self.digest, needed - self.reserved)?;
            self.reserved = needed;
        }
        Ok(())
    }

    /// What is reserved, which the caller gives back.
    pub(super) fn hand_over(mut self) -> u64 {
        std::mem::take(&mut self.reserved)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.reserved > 0 {
            self.inner.release(self.reserved);
        }
    }
}

/// A blob being written. Dropped, it is gone without a trace.
pub(super) struct Writing {
    // In this order: room is free only after the file is gone.
    incoming: Incoming,
    room: Room,
}

/// One whose bytes are all there and are those of its digest.
pub(super) struct Written {
    pub(super) complete: Complete,
    pub(super) room: Room,
}

impl Writing {
    pub(super) fn new(incoming: Incoming, room: Room) -> Self {
        Self { incoming, room }
    }

    /// Writes the next bytes, for which room is made before.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.incoming.fits(bytes)?;
        self.room.grow(bytes.len() as u64)?;
        self.incoming.append(bytes)
    }

    /// Writes a whole blob whose digest was verified.
    pub(super) fn whole(mut self, verified: &[u8]) -> Result<Written, Error> {
        self.room.grow(verified.len() as u64)?;
        Ok(Written {
            complete: self.incoming.whole(verified)?,
            room: self.room,
        })
    }

    /// Checks what was written against the digest.
    pub(super) fn finish(self) -> Result<Written, Error> {
        Ok(Written {
            complete: self.incoming.finish()?,
            room: self.room,
        })
    }
}
