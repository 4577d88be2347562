//! Action results in a database.
//!
//! One thread writes: it takes all updates that wait, commits them together and
//! answers them. Reads go beside it.
//!
//! Entries bear ascending ages, and when they take more than the limit the oldest
//! go. A result that is asked for when half of the others are younger is given a
//! new age; so those go that nobody asked for in a long time.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use async_trait::async_trait;
use prost::Message as _;
use proto::wire::rev2::ActionResult;
use proto::{Digest, InstanceName};
use redb::{Database, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _};
use redb::{Table, TableDefinition, WriteTransaction};
use tokio::sync::oneshot;

use super::backend::{Backend, Relaxed};
use super::files::failed;
use crate::error::Error;
use crate::store::ActionCache;

/// Key to age (8 bytes, big endian) and encoded result.
const RESULTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("results");
/// Age to key.
const AGES: TableDefinition<u64, &[u8]> = TableDefinition::new("ages");
/// What all entries count for, under [`SIZE`].
const TOTALS: TableDefinition<&str, u64> = TableDefinition::new("totals");
const SIZE: &str = "size";

const AGE_LENGTH: usize = 8;
/// What the database itself needs for an entry, roughly.
const OVERHEAD: u64 = 64;
/// How much of the database is kept in the process; the page cache has the rest.
const CACHE: usize = 32 << 20;
/// How many updates one commit takes at most.
const GROUP: usize = 1024;

/// Action results in a file, apart for each instance name.
pub struct Actions {
    database: Arc<Database>,
    relaxed: Relaxed,
    ages: Arc<Ages>,
    /// None only while it is dropped.
    requests: Option<mpsc::Sender<Request>>,
    writer: Option<JoinHandle<()>>,
}

/// Read by everybody, set by the writer after a commit.
struct Ages {
    next: AtomicU64,
    entries: AtomicU64,
}

enum Request {
    /// Store and answer.
    Put {
        key: Vec<u8>,
        result: Vec<u8>,
        done: oneshot::Sender<Result<(), Error>>,
    },
    /// Give the entry a new age, if it still has this one.
    Renew { key: Vec<u8>, age: u64 },
}

fn database(error: impl Into<redb::Error>) -> Error {
    Error::Database(error.into().to_string())
}

fn key(instance: &InstanceName, action: &Digest) -> Vec<u8> {
    let mut key = vec![action.function() as u8];
    key.extend_from_slice(action.hash_bytes());
    key.extend_from_slice(&action.size().to_be_bytes());
    key.extend_from_slice(instance.as_str().as_bytes());
    key
}

fn cost(key: &[u8], value: &[u8]) -> u64 {
    (2 * key.len() + value.len()) as u64 + OVERHEAD
}

fn age_of(value: &[u8]) -> Option<(u64, &[u8])> {
    let (age, result) = value.split_first_chunk::<AGE_LENGTH>()?;
    Some((u64::from_be_bytes(*age), result))
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
        let (opened, relaxed) = match open_database(path) {
            Err(Error::Database(reason)) => {
                let aside = PathBuf::from(format!("{}.damaged", path.display()));
                tracing::warn!(path = %path.display(), aside = %aside.display(), reason,
                    "the action cache is damaged and begun anew");
                fs::rename(path, &aside).map_err(failed("rename", path))?;
                open_database(path)?
            }
            other => other?,
        };
        let reading = opened.begin_read().map_err(database)?;
        let results = reading.open_table(RESULTS).map_err(database)?;
        let ages = reading.open_table(AGES).map_err(database)?;
        let last = ages.last().map_err(database)?;
        let ages = Arc::new(Ages {
            next: AtomicU64::new(last.map_or(0, |(age, _)| age.value() + 1)),
            entries: AtomicU64::new(results.len().map_err(database)?),
        });
        drop((results, reading));

        let opened = Arc::new(opened);
        let (requests, waiting) = mpsc::channel();
        let writer = Writer {
            database: opened.clone(),
            ages: ages.clone(),
            limit,
        };
        let writer = std::thread::Builder::new()
            .name("action-cache".into())
            .spawn(move || writer.run(&waiting))
            .map_err(failed("start the writer of", path))?;
        relaxed.set(true);
        Ok(Self {
            database: opened,
            relaxed,
            ages,
            requests: Some(requests),
            writer: Some(writer),
        })
    }

    fn request(&self, request: Request) -> Result<(), Error> {
        let sent = self.requests.as_ref().map(|sender| sender.send(request));
        sent.and_then(Result::ok).ok_or(Error::Stopping)
    }

    fn read(&self, key: Vec<u8>) -> Result<Option<ActionResult>, Error> {
        let reading = self.database.begin_read().map_err(database)?;
        let results = reading.open_table(RESULTS).map_err(database)?;
        let Some(value) = results.get(key.as_slice()).map_err(database)? else {
            return Ok(None);
        };
        let damaged = || Error::Database("an entry is damaged".into());
        let (age, result) = age_of(value.value()).ok_or_else(damaged)?;
        let result = ActionResult::decode(result).map_err(|_| damaged())?;
        let younger = self.ages.next.load(Ordering::Relaxed).saturating_sub(age);
        if younger > self.ages.entries.load(Ordering::Relaxed) / 2 + 1 {
            self.request(Request::Renew { key, age })?;
        }
        Ok(Some(result))
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
        self.relaxed.set(false);
    }
}

fn open_database(path: &Path) -> Result<(Database, Relaxed), Error> {
    let file: File = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(failed("open", path))?;
    let relaxed = Relaxed::default();
    let opened = redb::Builder::new()
        .set_cache_size(CACHE)
        .create_with_backend(Backend::new(file, relaxed.clone()))
        .map_err(database)?;
    // So that readers find the tables.
    let writing = opened.begin_write().map_err(database)?;
    writing.open_table(RESULTS).map_err(database)?;
    writing.open_table(AGES).map_err(database)?;
    writing.open_table(TOTALS).map_err(database)?;
    writing.commit().map_err(database)?;
    Ok((opened, relaxed))
}

struct Writer {
    database: Arc<Database>,
    ages: Arc<Ages>,
    limit: u64,
}

impl Writer {
    fn run(&self, waiting: &mpsc::Receiver<Request>) {
        while let Ok(first) = waiting.recv() {
            let mut group = vec![first];
            group.extend(waiting.try_iter().take(GROUP - 1));
            let committed = self.commit(&group);
            if let Err(error) = &committed {
                tracing::error!(%error, "cannot write the action cache");
            }
            for request in group {
                if let Request::Put { done, .. } = request {
                    let answer = committed
                        .as_ref()
                        .copied()
                        .map_err(|error| Error::Database(error.to_string()));
                    // Nobody waits any more: stored all the same.
                    let _ = done.send(answer);
                }
            }
        }
    }

    fn commit(&self, group: &[Request]) -> Result<(), redb::Error> {
        let writing = self.database.begin_write()?;
        let (next, entries) = Change::new(&writing, &self.ages)?.apply(group, self.limit)?;
        writing.commit()?;
        self.ages.next.store(next, Ordering::Relaxed);
        self.ages.entries.store(entries, Ordering::Relaxed);
        Ok(())
    }
}

/// The tables within one transaction.
struct Change<'a> {
    results: Table<'a, &'static [u8], &'static [u8]>,
    ages: Table<'a, u64, &'static [u8]>,
    totals: Table<'a, &'static str, u64>,
    size: u64,
    next: u64,
}

impl<'a> Change<'a> {
    fn new(writing: &'a WriteTransaction, ages: &Ages) -> Result<Self, redb::Error> {
        let totals = writing.open_table(TOTALS)?;
        let size = totals.get(SIZE)?.map_or(0, |size| size.value());
        Ok(Self {
            results: writing.open_table(RESULTS)?,
            ages: writing.open_table(AGES)?,
            totals,
            size,
            next: ages.next.load(Ordering::Relaxed),
        })
    }

    /// Answers with the next age and the number of entries.
    fn apply(mut self, group: &[Request], limit: u64) -> Result<(u64, u64), redb::Error> {
        for request in group {
            match request {
                Request::Put { key, result, .. } => {
                    self.remove(key)?;
                    self.insert(key, result)?;
                }
                Request::Renew { key, age } => self.renew(key, *age)?,
            }
        }
        while self.size > limit {
            let Some(oldest) = self.ages.first()?.map(|(_, key)| key.value().to_vec()) else {
                break;
            };
            self.remove(&oldest)?;
        }
        self.totals.insert(SIZE, self.size)?;
        Ok((self.next, self.results.len()?))
    }

    fn insert(&mut self, key: &[u8], result: &[u8]) -> Result<(), redb::Error> {
        let mut value = Vec::with_capacity(AGE_LENGTH + result.len());
        value.extend_from_slice(&self.next.to_be_bytes());
        value.extend_from_slice(result);
        self.size += cost(key, &value);
        self.results.insert(key, value.as_slice())?;
        self.ages.insert(self.next, key)?;
        self.next += 1;
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), redb::Error> {
        let age = {
            let Some(value) = self.results.remove(key)? else {
                return Ok(());
            };
            self.size = self.size.saturating_sub(cost(key, value.value()));
            age_of(value.value()).map(|(age, _)| age)
        };
        if let Some(age) = age {
            self.ages.remove(age)?;
        }
        Ok(())
    }

    fn renew(&mut self, key: &[u8], age: u64) -> Result<(), redb::Error> {
        let result = match self.results.get(key)? {
            Some(value) => match age_of(value.value()) {
                Some((current, result)) if current == age => result.to_vec(),
                _ => return Ok(()),
            },
            None => return Ok(()),
        };
        self.remove(key)?;
        self.insert(key, &result)
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
        self.read(key(instance, &action))
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
