//! The file under the action results' database.
//!
//! redb calls `sync_data` in every commit, and a disk takes milliseconds for
//! that. Here it does nothing while the database is in use: what was written is in
//! the page cache, in the order it was written, and survives the process. Only a
//! power cut can lose some of it, out of order. redb marks an open database as
//! needing repair, and that mark is synced before the first commit; so the next
//! open after a power cut verifies every checksum, falls back to the commit before,
//! and failing that reports corruption. Quick repair must stay off, for it trusts
//! the commits instead.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::StorageBackend;

/// How the backend behaves. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Switches {
    relaxed: Arc<AtomicBool>,
    /// Every write fails as on a full disk.
    #[cfg(test)]
    pub(super) full: Arc<AtomicBool>,
}

impl Switches {
    /// Whether syncing is left out.
    pub(super) fn relax(&self, relaxed: bool) {
        self.relaxed.store(relaxed, Ordering::SeqCst);
    }
}

/// A file whose syncing can be left out.
#[derive(Debug)]
pub(super) struct Backend {
    file: File,
    switches: Switches,
}

impl Backend {
    pub(super) fn new(file: File, switches: Switches) -> Self {
        Self { file, switches }
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.switches.relaxed.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        if self.switches.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write_all_at(data, offset)
    }
}
