//! Hashing files that were there when the worker started.

use std::io::Read;
use std::sync::{Arc, Weak};

use nix::sys::stat::fstat;
use nix::unistd::{UnlinkatFlags, unlinkat};
use proto::Hasher;

use super::file_cache::FileCache;
use super::incoming::occupied;
use super::index::{Id, Work};
use super::key::Key;
use crate::Error;

impl FileCache {
    /// Hashes files that this work has busy. The good ones are published; the
    /// others are removed and come back, to be fetched.
    pub(super) async fn verify(
        self: &Arc<Self>,
        ids: Vec<Id>,
        work: Work,
    ) -> Result<Vec<Id>, Error> {
        // As many threads as there are processors share the files.
        let share = ids.len().div_ceil(crate::files::processors()).max(1);
        let shares = ids.chunks(share).map(<[Id]>::to_vec).map(|ids| {
            let cache = Arc::clone(self);
            tokio::task::spawn_blocking(move || {
                let bad = ids.into_iter().filter(|id| !cache.check(*id, work));
                bad.collect::<Vec<Id>>()
            })
        });
        let mut bad = Vec::new();
        for share in shares.collect::<Vec<_>>() {
            bad.extend(share.await?);
            self.progress.notify_waiters();
        }
        Ok(bad)
    }

    /// Hashes one file: whether it is good, or no longer this work's.
    fn check(&self, id: Id, work: Work) -> bool {
        let key = {
            let index = self.index();
            if !index.is_at(id, work) {
                return true;
            }
            index.key(id)
        };
        let bytes = self.has_right_bytes(&key);
        let mut index = self.index();
        if !index.is_at(id, work) {
            return true;
        }
        if let Some(bytes) = bytes {
            index.publish(id, bytes);
            return true;
        }
        let name = key.file_name();
        tracing::warn!(file = name, "cached file was damaged, it is fetched anew");
        self.counters.altered.inc();
        let _ = unlinkat(&self.directory, name.as_str(), UnlinkatFlags::NoRemoveDir);
        index.spoilt(id);
        false
    }

    /// The blocks, in bytes, of a file whose bytes are those of its key.
    fn has_right_bytes(&self, key: &Key) -> Option<u64> {
        let file = self.open_cached(key).ok()?;
        let stat = fstat(&file).ok()?;
        let mut file = file.take(key.digest.size() + 1);
        let mut hasher = Hasher::new(key.digest.function(), key.digest.size());
        let mut buffer = vec![0; 128 << 10];
        loop {
            match file.read(&mut buffer).ok()? {
                0 => break,
                read => hasher.update(&buffer[..read]),
            }
        }
        (hasher.finish() == key.digest).then(|| occupied(&stat))
    }

    /// Hashes what must be, one file after the other, so that actions seldom have
    /// to wait for it. Damaged files are removed; whoever wants one fetches it.
    /// Returns when there is no more, or the cache is no longer used.
    pub async fn verify_all(cache: Weak<Self>) {
        let mut from = 0;
        let (mut good, mut bad) = (0_u64, 0_u64);
        loop {
            let Some(this) = cache.upgrade() else { return };
            let checking = tokio::task::spawn_blocking(move || {
                let (id, work) = {
                    let mut index = this.index();
                    let work = index.begin_work();
                    (index.next_unverified(&mut from, work)?, work)
                };
                let fine = this.check(id, work);
                let mut index = this.index();
                index.release(id, work);
                index.unpin(id);
                this.trim(&mut index);
                drop(index);
                this.progress.notify_waiters();
                Some((from, fine))
            });
            match checking.await {
                Ok(Some((next, fine))) => {
                    from = next;
                    *if fine { &mut good } else { &mut bad } += 1;
                }
                Ok(None) => break,
                // The process is ending.
                Err(_) => return,
            }
        }
        if good + bad > 0 {
            tracing::info!(good, bad, "files of the earlier run are verified");
        }
    }
}
