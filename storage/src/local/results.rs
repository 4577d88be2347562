//! The tables of the action results' database, and the changes to them.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::Path;

use redb::{Database, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _};
use redb::{Table, TableDefinition, TableError, WriteTransaction};
use tokio::sync::oneshot;

use super::backend::{Backend, Switches};
use super::files::failed;
use crate::error::Error;

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

/// An open database.
pub(super) struct Opened {
    database: Database,
}

/// What is to be changed.
pub(super) enum Request {
    /// Store and answer.
    Put {
        key: Vec<u8>,
        result: Vec<u8>,
        done: oneshot::Sender<Result<(), Error>>,
    },
    /// Give the entry a new age, if it still has this one.
    Renew { key: Vec<u8>, age: u64 },
}

/// How far the ages have come, and how many entries there are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) next_age: u64,
    pub(super) entries: u64,
}

/// An entry as it was stored.
pub(super) struct Entry {
    pub(super) age: u64,
    pub(super) result: Vec<u8>,
}

/// Failures of the file are the file's, all others the database's.
pub(super) fn failure(path: &Path, error: impl Into<redb::Error>) -> Error {
    match error.into() {
        redb::Error::Io(source)
            if !matches!(
                source.kind(),
                ErrorKind::InvalidData | ErrorKind::UnexpectedEof
            ) =>
        {
            failed("use the database", path)(source)
        }
        error => Error::Database(error.to_string()),
    }
}

fn cost(key: &[u8], value: &[u8]) -> u64 {
    (2 * key.len() + value.len()) as u64 + OVERHEAD
}

fn age_of(value: &[u8]) -> Option<(u64, &[u8])> {
    let (age, result) = value.split_first_chunk::<AGE_LENGTH>()?;
    Some((u64::from_be_bytes(*age), result))
}

impl Opened {
    /// Opens the database in a file, and repairs it where the process that had it
    /// open died. Syncs are made while it is opened, and left out from then on.
    pub(super) fn open(path: &Path, switches: &Switches) -> Result<Self, Error> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed("open", path))?;
        switches.relax(false);
        let backend = Backend::new(file, switches.clone());
        let database = create(backend).map_err(|error| failure(path, error))?;
        let opened = Self { database };
        if !opened.matches().map_err(|error| failure(path, error))? {
            // Results without an age would never go, and take the others' room.
            return Err(Error::Database("ages and results do not match".into()));
        }
        switches.relax(true);
        Ok(opened)
    }

    fn matches(&self) -> Result<bool, redb::Error> {
        let reading = self.database.begin_read()?;
        Ok(reading.open_table(AGES)?.len()? == reading.open_table(RESULTS)?.len()?)
    }

    pub(super) fn counts(&self) -> Result<Counts, redb::Error> {
        let reading = self.database.begin_read()?;
        let ages = reading.open_table(AGES)?;
        Ok(Counts {
            next_age: ages.last()?.map_or(0, |(age, _)| age.value() + 1),
            entries: reading.open_table(RESULTS)?.len()?,
        })
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Entry>, redb::Error> {
        let reading = self.database.begin_read()?;
        let value = reading.open_table(RESULTS)?.get(key)?;
        Ok(value.and_then(|value| {
            let (age, result) = age_of(value.value())?;
            Some(Entry {
                age,
                result: result.to_vec(),
            })
        }))
    }

    /// Makes changes together, and takes out the oldest entries beyond the limit.
    pub(super) fn commit(
        &self,
        group: &[Request],
        next_age: u64,
        limit: u64,
    ) -> Result<Counts, redb::Error> {
        let writing = self.database.begin_write()?;
        let counts = Change::new(&writing, next_age)?.apply(group, limit)?;
        writing.commit()?;
        Ok(counts)
    }
}

fn create(backend: Backend) -> Result<Database, redb::Error> {
    let database = redb::Builder::new()
        .set_cache_size(CACHE)
        .create_with_backend(backend)?;
    // So that readers find the tables. Where they are, nothing is written: a disk
    // that is full stays readable.
    if !has_tables(&database)? {
        let writing = database.begin_write()?;
        writing.open_table(RESULTS)?;
        writing.open_table(AGES)?;
        writing.open_table(TOTALS)?;
        writing.commit()?;
    }
    Ok(database)
}

fn has_tables(database: &Database) -> Result<bool, redb::Error> {
    let reading = database.begin_read()?;
    for found in [
        reading.open_table(RESULTS).map(drop),
        reading.open_table(AGES).map(drop),
        reading.open_table(TOTALS).map(drop),
    ] {
        match found {
            Ok(()) => {}
            Err(TableError::TableDoesNotExist(_)) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
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
    fn new(writing: &'a WriteTransaction, next: u64) -> Result<Self, redb::Error> {
        let totals = writing.open_table(TOTALS)?;
        let size = totals.get(SIZE)?.map_or(0, |size| size.value());
        Ok(Self {
            results: writing.open_table(RESULTS)?,
            ages: writing.open_table(AGES)?,
            totals,
            size,
            next,
        })
    }

    fn apply(mut self, group: &[Request], limit: u64) -> Result<Counts, redb::Error> {
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
            // Out of the ages in any case: a key that the results lack must not be
            // found again.
            let oldest = self.ages.pop_first()?.map(|(_, key)| key.value().to_vec());
            let Some(oldest) = oldest else {
                break;
            };
            self.remove(&oldest)?;
        }
        self.totals.insert(SIZE, self.size)?;
        Ok(Counts {
            next_age: self.next,
            entries: self.results.len()?,
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &[u8]) -> Request {
        Request::Put {
            key: key.to_vec(),
            result: vec![0; 100],
            done: oneshot::channel().0,
        }
    }

    #[test]
    fn an_age_without_a_result_is_noticed_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("actions");
        let switches = Switches::default();
        let opened = Opened::open(&path, &switches).unwrap();
        let writing = opened.database.begin_write().unwrap();
        let gone = &b"gone"[..];
        writing.open_table(AGES).unwrap().insert(0, gone).unwrap();
        writing.commit().unwrap();
        drop(opened);
        let opened = Opened::open(&path, &switches);
        assert!(matches!(opened, Err(Error::Database(_))));
    }

    #[test]
    fn eviction_ends_at_a_key_that_the_results_lack() {
        let folder = tempfile::tempdir().unwrap();
        let opened = Opened::open(&folder.path().join("actions"), &Switches::default()).unwrap();
        let writing = opened.database.begin_write().unwrap();
        let gone = &b"gone"[..];
        writing.open_table(AGES).unwrap().insert(0, gone).unwrap();
        writing.commit().unwrap();
        let limit = cost(b"key", &[0; 150]);
        for (age, key) in [(1, b"old"), (2, b"new")] {
            opened.commit(&[put(key)], age, limit).unwrap();
        }
        assert!(opened.get(b"old").unwrap().is_none());
        assert!(opened.get(b"new").unwrap().is_some());
        assert!(opened.matches().unwrap());
    }
}
