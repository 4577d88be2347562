//! Action results in a database.
//!
//! One thread writes: it takes all updates that wait, commits them together and
//! answers them. Reads go beside it.
//!
//! Entries bear ascending ages, and when they take more than the limit the oldest
//! go. A result that is asked for when half of the others are younger is given a
//! new age; so those go that nobody asked for in a long time.
//!
//! A database that fails, on a full disk say, is opened again, but not more often than
//! every few seconds: that can take long. Until then updates are refused, and while it
//! is being opened no result is found.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use prost::Message as _;
use proto::wire::rev2::ActionResult;
use proto::{Digest, InstanceName};
use tokio::sync::oneshot;

use super::backend::Switches;
use super::files::failed;
use super::results::{Counts, Opened, Request, failure};
use crate::error::Error;
use crate::store::ActionCache;

/// How many updates one commit takes at most.
const GROUP: usize = 1024;

/// The time between two attempts to open a database that fails.
const REOPEN: Duration = Duration::from_secs(5);

/// Action results in a file, apart for each instance name.
pub struct Actions {
    shared: Arc<Shared>,
    /// None only while it is dropped.
    requests: Option<mpsc::Sender<Request>>,
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    path: PathBuf,
    limit: u64,
    switches: Switches,
    /// See [`REOPEN`].
    pause: Duration,
    /// Taken for writing only to open the database again. None while that fails.
    database: RwLock<Option<Opened>>,
    /// Of the last commit.
    next_age: AtomicU64,
    entries: AtomicU64,
}

fn key(instance: &InstanceName, action: &Digest) -> Vec<u8> {
    let mut key = vec![action.function() as u8];
    key.extend_from_slice(action.hash_bytes());
    key.extend_from_slice(&action.size().to_be_bytes());
    key.extend_from_slice(instance.as_str().as_bytes());
    key
}

impl Actions {
    /// Opens the database in a file, which is created if need be. One that is
    /// damaged is set aside (`FILE.damaged`) and begun anew: it is a cache.
    ///
    /// `limit`: what all results may take, in bytes. The file can be up to twice
    /// as large.
    ///
    /// # Errors
    /// The file cannot be opened or written.
    pub fn open(path: &Path, limit: u64) -> Result<Self, Error> {
        Self::open_pausing(path, limit, REOPEN)
    }

    fn open_pausing(path: &Path, limit: u64, pause: Duration) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            path: path.into(),
            limit,
            switches: Switches::default(),
            pause,
            database: RwLock::new(None),
            next_age: AtomicU64::new(0),
            entries: AtomicU64::new(0),
        });
        shared.reopen()?;
        let (requests, waiting) = mpsc::channel();
        let writer = shared.clone();
        let writer = std::thread::Builder::new()
            .name("action-cache".into())
            .spawn(move || writer.write(&waiting))
            .map_err(failed("start the writer of", path))?;
        Ok(Self {
            shared,
            requests: Some(requests),
            writer: Some(writer),
        })
    }

    fn request(&self, request: Request) -> Result<(), Error> {
        let sent = self.requests.as_ref().map(|sender| sender.send(request));
        sent.and_then(Result::ok).ok_or(Error::Stopping)
    }
}

/// Ends the writer, then syncs: a database that was closed is whole for good.
impl Drop for Actions {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the writer of the action cache had panicked");
        }
        self.shared.switches.relax(false);
    }
}

impl Shared {
    /// None while it is being opened again: whoever asks does not wait for that.
    fn database(&self) -> Option<RwLockReadGuard<'_, Option<Opened>>> {
        match self.database.try_read() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Opens the database, after closing it if it is open.
    fn reopen(&self) -> Result<(), Error> {
        let mut place = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *place = None;
        let path = &self.path;
        let opened = match Opened::open(path, &self.switches) {
            Err(Error::Database(reason)) => {
                let aside = PathBuf::from(format!("{}.damaged", path.display()));
                tracing::warn!(path = %path.display(), aside = %aside.display(), reason,
                    "the action cache is damaged and begun anew");
                fs::rename(path, &aside).map_err(failed("rename", path))?;
                Opened::open(path, &self.switches)?
            }
            other => other?,
        };
        self.set(opened.counts().map_err(|error| failure(path, error))?);
        *place = Some(opened);
        Ok(())
    }

    fn set(&self, counts: Counts) {
        self.next_age.store(counts.next_age, Ordering::Relaxed);
        self.entries.store(counts.entries, Ordering::Relaxed);
    }

    /// The result, and its age if it should have a new one. None while the database
    /// is not open: it is a cache, and without it actions run.
    fn read(&self, key: &[u8]) -> Result<Option<(ActionResult, Option<u64>)>, Error> {
        let guard = self.database();
        let Some(opened) = guard.as_ref().and_then(|guard| guard.as_ref()) else {
            return Ok(None);
        };
        let found = opened
            .get(key)
            .map_err(|error| failure(&self.path, error))?;
        let Some(entry) = found else {
            return Ok(None);
        };
        let result = ActionResult::decode(entry.result.as_slice())
            .map_err(|error| Error::Database(format!("an entry is damaged: {error}")))?;
        let next_age = self.next_age.load(Ordering::Relaxed);
        let younger = next_age.saturating_sub(entry.age);
        let old = younger > self.entries.load(Ordering::Relaxed) / 2 + 1;
        Ok(Some((result, old.then_some(entry.age))))
    }

    /// The writer's thread. *Working* → a commit fails → *failing*, where updates are
    /// refused → the pause since the database was last opened is over, and it can be
    /// opened → *working*.
    fn write(&self, waiting: &mpsc::Receiver<Request>) {
        let mut failing: Option<Error> = None;
        let mut opened = Instant::now();
        loop {
            let received = match failing {
                None => waiting.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(_) => {
                    let rest = self.pause.saturating_sub(opened.elapsed());
                    waiting.recv_timeout(rest)
                }
            };
            if let Err(RecvTimeoutError::Disconnected) = received {
                return;
            }
            // A database does nothing more after a failure of its file. Opened again
            // it has what was committed.
            if failing.is_some() && opened.elapsed() >= self.pause {
                failing = self.reopen().err();
                opened = Instant::now();
                if let Some(error) = &failing {
                    tracing::error!(%error, "cannot open the action cache again");
                }
            }
            let Ok(first) = received else {
                continue;
            };
            let mut group = vec![first];
            group.extend(waiting.try_iter().take(GROUP - 1));
            let committed = match &failing {
                Some(error) => Err(same(error)),
                None => self.commit(&group),
            };
            if failing.is_none()
                && let Err(error) = &committed
            {
                tracing::error!(%error, "cannot write the action cache");
                failing = Some(same(error));
            }
            for request in group {
                if let Request::Put { done, .. } = request {
                    let answer = committed.as_ref().copied().map_err(same);
                    // Nobody waits any more: stored all the same.
                    let _ = done.send(answer);
                }
            }
        }
    }

    fn commit(&self, group: &[Request]) -> Result<(), Error> {
        // Only this thread opens it again.
        let guard = self.database();
        let opened = guard.as_ref().and_then(|guard| guard.as_ref());
        let opened = opened.ok_or(Error::Stopping)?;
        let next_age = self.next_age.load(Ordering::Relaxed);
        let committed = opened.commit(group, next_age, self.limit);
        self.set(committed.map_err(|error| failure(&self.path, error))?);
        Ok(())
    }
}

/// The same error for another of those who wait for a commit.
fn same(error: &Error) -> Error {
    match error {
        Error::File {
            operation,
            path,
            reason,
        } => Error::File {
            operation,
            path: path.clone(),
            reason: reason.kind().into(),
        },
        error => Error::Database(error.to_string()),
    }
}

#[async_trait]
impl ActionCache for Actions {
    /// The result as it was stored: whether its outputs are there is not asked
    /// here but by [`Complete`](crate::Complete).
    async fn get(
        &self,
        instance: &InstanceName,
        action: Digest,
    ) -> Result<Option<ActionResult>, Error> {
        let key = key(instance, &action);
        let (result, old) = match self.shared.read(&key) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            // An action whose result cannot be read is run; that is better than a
            // build that fails.
            Err(error) => {
                tracing::error!(%error, %action, "cannot read the action cache");
                return Ok(None);
            }
        };
        if let Some(age) = old {
            self.request(Request::Renew { key, age })?;
        }
        Ok(Some(result))
    }

    async fn update(
        &self,
        instance: &InstanceName,
        action: Digest,
        result: ActionResult,
    ) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        self.request(Request::Put {
            key: key(instance, &action),
            result: result.encode_to_vec(),
            done,
        })?;
        answer.await.unwrap_or(Err(Error::Stopping))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::DigestFunction;
    use std::io::ErrorKind;

    #[tokio::test]
    async fn a_full_disk_fails_the_update_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("actions");
        let actions = Actions::open_pausing(&path, 1 << 20, Duration::ZERO).unwrap();
        let instance = InstanceName::empty();
        let [before, during, after] =
            [1, 2, 3].map(|byte| Digest::of(DigestFunction::Sha256, &[byte]));
        let update = |action| actions.update(&instance, action, ActionResult::default());
        update(before).await.unwrap();
        let full = |full| actions.shared.switches.full.store(full, Ordering::SeqCst);
        full(true);
        // The first finds it out; for the second the disk is still full.
        for _ in 0..2 {
            let failed = update(during).await.unwrap_err();
            assert!(
                matches!(&failed, Error::File { reason, .. } if reason.kind() == ErrorKind::StorageFull),
                "{failed}"
            );
            // Whether the other can be read meanwhile is the database's business.
            actions.get(&instance, before).await.unwrap();
            assert!(actions.get(&instance, during).await.unwrap().is_none());
        }
        full(false);
        update(after).await.unwrap();
        for (action, there) in [(before, true), (during, false), (after, true)] {
            let got = actions.get(&instance, action).await.unwrap();
            assert_eq!(got.is_some(), there);
        }
        assert!(!folder.path().join("actions.damaged").exists());
    }

    #[tokio::test]
    async fn a_database_that_failed_rests_before_it_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("actions");
        let hour = Duration::from_secs(3600);
        let actions = Actions::open_pausing(&path, 1 << 20, hour).unwrap();
        let instance = InstanceName::empty();
        let action = Digest::of(DigestFunction::Sha256, b"x");
        let update = || actions.update(&instance, action, ActionResult::default());
        update().await.unwrap();
        let full = |full| actions.shared.switches.full.store(full, Ordering::SeqCst);
        full(true);
        update().await.unwrap_err();
        full(false);
        update().await.unwrap_err();
    }

    #[tokio::test]
    async fn nobody_waits_for_a_database_that_is_being_opened() {
        let folder = tempfile::tempdir().unwrap();
        let actions = Actions::open(&folder.path().join("actions"), 1 << 20).unwrap();
        let instance = InstanceName::empty();
        let action = Digest::of(DigestFunction::Sha256, b"x");
        let update = actions.update(&instance, action, ActionResult::default());
        update.await.unwrap();
        {
            let _opening = actions.shared.database.write().unwrap();
            let found = actions.shared.read(&key(&instance, &action));
            assert!(found.unwrap().is_none());
        }
        assert!(actions.get(&instance, action).await.unwrap().is_some());
    }
}
