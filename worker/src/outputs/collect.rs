//! Finding and hashing everything that an action left and its result speaks of.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use proto::{Digest, DigestFunction};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::declared::{Declared, Kind, Output};
use super::hash::{self, Batch, Hashed, Job, Outcome, Room, Source};
use super::places::{Location, Places, TOP};
use super::walk::{self, FileFound, Found, Opened, Thing, Visitor};
use crate::Error;
use crate::build_directory::BuildDirectory;
use crate::files;

/// Files that the walk hashes itself, up to so many bytes of them: fewer are
/// hashed sooner than handed to other threads.
const OWN_FILES: usize = 32;
const OWN_BYTES: u64 = 1 << 20;
/// Batches that wait to be hashed. Their files are open.
const QUEUE: usize = 2;
/// How many things that cannot be reported are named.
const NAMED: usize = 20;

/// What the outputs of one action may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Files, directories and links.
    pub(crate) entries: usize,
    /// Bytes of all files, standard output and error included.
    pub(crate) bytes: u64,
}

/// A file whose bytes are an output.
#[derive(Default)]
struct Record {
    hashed: Option<Hashed>,
    /// It belongs to an output that cannot be reported.
    void: bool,
}

/// What was found at a declared output path.
pub(crate) enum Seen {
    File(FileFound),
    Directory(Vec<Found>),
    Symlink(String),
}

/// Everything an action left that its result speaks of.
pub(crate) struct Collected {
    /// Positions in the list of declared outputs, and what is there.
    pub(crate) outputs: Vec<(usize, Seen)>,
    /// What it wrote to standard output and error; none where the runner did not
    /// get as far as making the files.
    pub(crate) stdout: Option<usize>,
    pub(crate) stderr: Option<usize>,
    /// The runner's own logs, by name.
    pub(crate) logs: Vec<(String, usize)>,
    records: Vec<Record>,
    pub(crate) places: Places,
    /// Things in output directories that REv2 has no words for, and how many
    /// there are that are not named here.
    pub(crate) left_out: Vec<(String, &'static str)>,
    pub(crate) left_out_more: u64,
    /// Why the first of those that cannot be reported is not among the above.
    pub(crate) error: Option<Error>,
    /// Some files belong to another user, who may yet be asked to open them up.
    pub(crate) denied: bool,
}

impl Collected {
    /// Whether there are directories, of which messages must be made.
    pub(crate) fn has_directories(&self) -> bool {
        let directory = |(_, seen): &(usize, Seen)| matches!(seen, Seen::Directory(_));
        self.outputs.iter().any(directory)
    }

    /// The digest of a file; none if it could not be read.
    pub(crate) fn digest(&self, id: usize) -> Option<Digest> {
        let hashed = self.records.get(id)?.hashed.as_ref()?;
        Some(hashed.digest)
    }

    /// The bytes of a file, where they are small enough to be in memory.
    pub(crate) fn bytes(&self, id: usize) -> Option<Bytes> {
        match &self.records.get(id)?.hashed.as_ref()?.source {
            Source::Memory(bytes) => Some(bytes.clone()),
            _ => None,
        }
    }

    /// All files of what can be reported, by number, taken out.
    pub(crate) fn take_files(&mut self) -> impl Iterator<Item = (usize, Digest, Source)> + use<> {
        let records = std::mem::take(&mut self.records).into_iter().enumerate();
        let wanted = records.filter(|(_, record)| !record.void);
        wanted.filter_map(|(id, record)| {
            let hashed = record.hashed?;
            Some((id, hashed.digest, hashed.source))
        })
    }

    fn note(&mut self, (id, outcome): Outcome) {
        match outcome {
            Ok(hashed) => self.records[id].hashed = Some(hashed),
            Err(error) if self.records[id].void => tracing::debug!(%error),
            Err(error) => {
                self.error.get_or_insert(error);
            }
        }
    }
}

/// Walks, reads and hashes all that a finished action left. An output that cannot
/// be read, is of a kind that cannot be reported, or not of the declared kind, or
/// too large, does not keep the others from being reported, nor the log.
///
/// # Errors
/// A thread was lost.
pub(crate) async fn collect(
    build: &Arc<BuildDirectory>,
    declared: &Arc<Declared>,
    function: DigestFunction,
    limits: Limits,
) -> Result<Collected, Error> {
    let (build, declared) = (Arc::clone(build), Arc::clone(declared));
    let room = Arc::new(Room::new());
    // Two streams, mostly empty, are looked at in less time than it takes to have
    // another thread do it.
    let short = declared.outputs.is_empty() && has_no_logs(&build);
    let (sender, batches) = mpsc::channel(QUEUE);
    let finder = Finder {
        function,
        limits,
        left: limits,
        room: Arc::clone(&room),
        own: (OWN_FILES, OWN_BYTES),
        batch: Batch::default(),
        batches: (!short).then_some(sender),
        inodes: HashMap::new(),
        collected: Collected {
            outputs: Vec::new(),
            stdout: None,
            stderr: None,
            logs: Vec::new(),
            records: Vec::new(),
            places: Places::new(),
            left_out: Vec::new(),
            left_out_more: 0,
            error: None,
            denied: false,
        },
    };
    let finding = files::blocking(short, move || finder.everything(&build, &declared));
    let hashing = hash::hash(batches, function, Arc::clone(&room));
    let (found, hashed) = tokio::join!(finding, hashing);
    let (mut collected, rest) = found?;
    for outcome in hashed? {
        collected.note(outcome);
    }
    if !rest.is_empty() {
        let hashing = tokio::task::spawn_blocking(move || rest.run(function, &room));
        for outcome in hashing.await? {
            collected.note(outcome);
        }
    }
    Ok(collected)
}

struct Finder {
    function: DigestFunction,
    limits: Limits,
    left: Limits,
    room: Arc<Room>,
    /// What may yet be hashed right here: files and bytes.
    own: (usize, u64),
    batch: Batch,
    /// Where full batches go. None: everything is kept for later.
    batches: Option<mpsc::Sender<Batch>>,
    /// Files of several names, by device and inode: they are read once.
    inodes: HashMap<(u64, u64), usize>,
    collected: Collected,
}

impl Finder {
    /// Returns what was found, and what remains to be hashed.
    fn everything(mut self, build: &BuildDirectory, declared: &Declared) -> (Collected, Batch) {
        let stdout = self.attempt(|finder| finder.stream(build, "stdout"));
        let stderr = self.attempt(|finder| finder.stream(build, "stderr"));
        for (position, output) in declared.outputs.iter().enumerate() {
            let seen = self.attempt(|finder| finder.output(build, output));
            let seen = seen.flatten().map(|seen| (position, seen));
            self.collected.outputs.extend(seen);
        }
        let logs = self.attempt(|finder| finder.logs(build));
        self.collected.stdout = stdout.flatten();
        self.collected.stderr = stderr.flatten();
        self.collected.logs = logs.unwrap_or_default();
        (self.collected, self.batch)
    }

    /// Does what may fail. Of a failure only the first error stays.
    fn attempt<T>(&mut self, what: impl FnOnce(&mut Self) -> Result<T, Error>) -> Option<T> {
        let (left, first) = (self.left, self.collected.records.len());
        match what(self) {
            Ok(done) => Some(done),
            Err(error) => {
                self.left = left;
                for record in &mut self.collected.records[first..] {
                    record.void = true;
                }
                self.inodes.retain(|_, id| *id < first);
                self.collected.denied |= matches!(error, Error::Denied { .. });
                self.collected.error.get_or_insert(error);
                None
            }
        }
    }

    /// What is at the path of one declared output; none where nothing is.
    fn output(&mut self, build: &BuildDirectory, output: &Output) -> Result<Option<Seen>, Error> {
        let mut names = vec!["root"];
        names.extend(output.place.components().iter().map(|c| c.as_str()));
        let seen = match walk::look(build.directory(), &names)? {
            Thing::Absent => return Ok(None),
            Thing::Other(what) => {
                return Err(Error::OutputOther {
                    path: output.path.clone(),
                    what,
                });
            }
            Thing::Symlink(target) => Seen::Symlink(target),
            Thing::Directory if output.kind == Kind::File => {
                return Err(mismatch(&output.path, "file", "directory"));
            }
            Thing::File(..) if output.kind == Kind::Directory => {
                return Err(mismatch(&output.path, "directory", "file"));
            }
            Thing::File(file) => {
                let executable = file.is_executable();
                let location = self.location(&names);
                let id = self.file(file, location)?;
                Seen::File(FileFound { id, executable })
            }
            Thing::Directory => {
                let top = self.collected.places.add_all(&names);
                Seen::Directory(walk::walk(build.directory(), top, self)?)
            }
        };
        Ok(Some(seen))
    }

    fn stream(&mut self, build: &BuildDirectory, name: &str) -> Result<Option<usize>, Error> {
        match walk::look(build.directory(), &[name])? {
            Thing::File(file) => {
                let name = name.into();
                self.file(file, Location { place: TOP, name }).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn logs(&mut self, build: &BuildDirectory) -> Result<Vec<(String, usize)>, Error> {
        let top = self.collected.places.add(TOP, "server_logs");
        let tree = walk::walk(build.directory(), top, self)?;
        let mut logs = Vec::new();
        for directory in &tree {
            for (name, file) in &directory.files {
                let mut path = self.collected.places.names(top, directory.place);
                path.push(name);
                logs.push((path.join("/"), file.id));
            }
        }
        Ok(logs)
    }

    fn location(&mut self, names: &[&str]) -> Location {
        let (name, parents) = names.split_last().unwrap_or((&"", &[]));
        Location {
            place: self.collected.places.add_all(parents),
            name: (*name).into(),
        }
    }
}

impl Visitor for Finder {
    fn places(&mut self) -> &mut Places {
        &mut self.collected.places
    }

    fn spend(&mut self, entries: usize) -> Result<(), Error> {
        let left = self.left.entries.checked_sub(entries);
        self.left.entries = left.ok_or_else(|| too_many(self.limits.entries))?;
        Ok(())
    }

    fn entries_left(&self) -> usize {
        self.left.entries
    }

    /// Takes in one file, whose size counts before a byte of it is read.
    fn file(&mut self, file: Opened, location: Location) -> Result<usize, Error> {
        let Opened { file, stat } = file;
        let inode = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1
            && let Some(id) = self.inodes.get(&inode)
        {
            return Ok(*id);
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.left.bytes = self
            .left
            .bytes
            .checked_sub(size)
            .ok_or_else(|| Error::OutputSize {
                path: self.collected.places.shown(location.place, &location.name),
                size,
                limit: self.limits.bytes,
            })?;
        let id = self.collected.records.len();
        self.collected.records.push(Record::default());
        if stat.st_nlink > 1 {
            self.inodes.insert(inode, id);
        }
        let job = Job {
            id,
            file,
            size,
            location,
        };
        let (files, bytes) = &mut self.own;
        if *files > 0 && *bytes >= size {
            (*files, *bytes) = (*files - 1, *bytes - size);
            let outcome = job.run(self.function, &self.room);
            self.collected.note(outcome);
        } else if let Some(full) = self.batch.add(job) {
            match &self.batches {
                None => self.batch = full,
                Some(batches) => match batches.try_send(full) {
                    Ok(()) => {}
                    // All others are busy. To wait for them would be to keep one
                    // of the threads that they may be waiting for.
                    Err(TrySendError::Full(batch)) => {
                        for outcome in batch.run(self.function, &self.room) {
                            self.collected.note(outcome);
                        }
                    }
                    Err(TrySendError::Closed(_)) => {
                        return Err(Error::Internal("the action was given up".into()));
                    }
                },
            }
        }
        Ok(id)
    }

    fn left_out(&mut self, path: String, what: &'static str) {
        if self.collected.left_out.len() < NAMED {
            self.collected.left_out.push((path, what));
        } else {
            self.collected.left_out_more += 1;
        }
    }
}

/// More files, directories and links than this.
pub(crate) fn too_many(limit: usize) -> Error {
    Error::Limit {
        what: "number of files in the action's outputs".into(),
        limit: limit as u64,
    }
}

/// Whether the runner left no logs, as most do.
fn has_no_logs(build: &BuildDirectory) -> bool {
    files::open_directory(build.directory(), "server_logs")
        .and_then(|logs| files::entries(logs, 0))
        .is_ok_and(|entries| entries.is_empty())
}

fn mismatch(path: &str, declared: &'static str, found: &'static str) -> Error {
    Error::OutputKind {
        path: path.into(),
        declared,
        found,
    }
}
