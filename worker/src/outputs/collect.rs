//! Reading and hashing what the walk finds.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use proto::{Digest, DigestFunction, Hasher};

use super::declared::{Declared, Kind, Output};
use super::walk::{self, Budget, FileFound, Found, Location, Thing};
use crate::Error;
use crate::build_directory::BuildDirectory;
use crate::files;

/// Files up to this size are read and hashed as they are found.
const SMALL: u64 = 128 << 10;
/// How much of the small ones stays in memory, in case it must be uploaded.
const KEPT: u64 = 16 << 20;
/// How many larger ones stay open until they are hashed and uploaded.
const OPEN: usize = 64;
/// Bytes hashed or uploaded at a time.
pub(super) const PIECE: usize = 256 << 10;

/// Where a file's bytes are.
pub(crate) enum Source {
    Memory(Bytes),
    Open(Arc<File>),
    At(Location),
}

/// A file whose bytes are an output.
pub(crate) struct Record {
    digest: Option<Digest>,
    pub(crate) source: Source,
}

/// What was found at a declared output path.
pub(crate) enum Seen {
    File(FileFound),
    Directory(Vec<Found>),
    Symlink(String),
}

/// Everything an action left that its result speaks of.
pub(crate) struct Collected {
    /// Places in the list of declared outputs, and what is there.
    pub(crate) outputs: Vec<(usize, Seen)>,
    /// What it wrote to standard output and error; none where the runner did not
    /// get as far as making the files.
    pub(crate) stdout: Option<usize>,
    pub(crate) stderr: Option<usize>,
    /// The runner's own logs, by name.
    pub(crate) logs: Vec<(String, usize)>,
    pub(crate) records: Vec<Record>,
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

    /// The digest of a file. All have one once [`collect`] has returned.
    pub(crate) fn digest(&self, id: usize) -> Result<Digest, Error> {
        self.records
            .get(id)
            .and_then(|record| record.digest)
            .ok_or_else(|| Error::Internal("a file was not hashed".into()))
    }
}

/// Walks, reads and hashes all that a finished action left. An output that cannot
/// be read, is of a kind that cannot be reported, or not of the declared kind, or
/// too large, does not keep the others from being reported, nor the log.
///
/// # Errors
/// A large file fails to be read to its end.
pub(crate) async fn collect(
    build: &Arc<BuildDirectory>,
    declared: &Arc<Declared>,
    function: DigestFunction,
    maximum_entries: usize,
) -> Result<Collected, Error> {
    let (build, declared) = (Arc::clone(build), Arc::clone(declared));
    // Two streams, mostly empty, are looked at in less time than it takes to have
    // another thread do it.
    let short = declared.outputs.is_empty() && has_no_logs(&build);
    let mut collected = files::blocking(short, move || {
        let reader = Reader {
            function,
            kept: 0,
            open: 0,
            records: Vec::new(),
            error: None,
            denied: false,
        };
        reader.everything(&build, &declared, maximum_entries)
    })
    .await?;
    let threads = files::processors();
    let large = collected.records.iter().enumerate();
    let large: Vec<_> = large
        .filter_map(|(id, record)| match (&record.digest, &record.source) {
            (None, Source::Open(file)) => Some((id, Arc::clone(file))),
            _ => None,
        })
        .collect();
    let hashed: Vec<(usize, Digest)> = futures::stream::iter(large)
        .map(|(id, file)| async move {
            let hashing = tokio::task::spawn_blocking(move || hash(&file, function));
            Ok::<_, Error>((id, hashing.await??))
        })
        .buffer_unordered(threads)
        .try_collect()
        .await?;
    for (id, digest) in hashed {
        collected.records[id].digest = Some(digest);
    }
    Ok(collected)
}

struct Reader {
    function: DigestFunction,
    kept: u64,
    open: usize,
    records: Vec<Record>,
    error: Option<Error>,
    denied: bool,
}

impl Reader {
    fn everything(
        mut self,
        build: &BuildDirectory,
        declared: &Declared,
        maximum_entries: usize,
    ) -> Collected {
        let budget = || Budget {
            left: maximum_entries,
            limit: maximum_entries,
        };
        let stdout = self.attempt(|reader| reader.stream(build, "stdout"));
        let stderr = self.attempt(|reader| reader.stream(build, "stderr"));
        let mut outputs = Vec::new();
        let mut left = budget();
        for (place, output) in declared.outputs.iter().enumerate() {
            let seen = self.attempt(|reader| reader.output(build, output, &mut left));
            outputs.extend(seen.flatten().map(|seen| (place, seen)));
        }
        let logs = self.attempt(|reader| reader.logs(build, &mut budget()));
        Collected {
            outputs,
            stdout: stdout.flatten(),
            stderr: stderr.flatten(),
            logs: logs.unwrap_or_default(),
            records: self.records,
            error: self.error,
            denied: self.denied,
        }
    }

    /// Does what may fail. Of a failure only the first error stays.
    fn attempt<T>(&mut self, what: impl FnOnce(&mut Self) -> Result<T, Error>) -> Option<T> {
        let (kept, open, records) = (self.kept, self.open, self.records.len());
        match what(self) {
            Ok(done) => Some(done),
            Err(error) => {
                (self.kept, self.open) = (kept, open);
                self.records.truncate(records);
                self.denied |= matches!(error, Error::Denied { .. });
                self.error.get_or_insert(error);
                None
            }
        }
    }

    /// What is at the path of one declared output; none where nothing is.
    fn output(
        &mut self,
        build: &BuildDirectory,
        output: &Output,
        budget: &mut Budget,
    ) -> Result<Option<Seen>, Error> {
        let root = build.directory();
        let mut names = vec!["root"];
        names.extend(output.place.components().iter().map(|c| c.as_str()));
        let seen = match walk::look(root, &names)? {
            Thing::Absent => return Ok(None),
            Thing::Other => {
                return Err(Error::Output {
                    path: output.path.clone(),
                    reason: "it is neither a file, nor a directory, nor a symbolic link",
                });
            }
            Thing::Symlink(target) => Seen::Symlink(target),
            Thing::Directory if output.kind == Kind::File => {
                return Err(mismatch(&output.path, "file", "directory"));
            }
            Thing::File(..) if output.kind == Kind::Directory => {
                return Err(mismatch(&output.path, "directory", "file"));
            }
            Thing::File(file, executable) => {
                let id = self.take(file, location(&names))?;
                Seen::File(FileFound { id, executable })
            }
            Thing::Directory => {
                let mut visit = |file, location| self.take(file, location);
                Seen::Directory(walk::walk(root, &names, budget, &mut visit)?)
            }
        };
        Ok(Some(seen))
    }

    fn stream(&mut self, build: &BuildDirectory, name: &str) -> Result<Option<usize>, Error> {
        match walk::look(build.directory(), &[name])? {
            Thing::File(file, _) => self.take(file, location(&[name])).map(Some),
            _ => Ok(None),
        }
    }

    fn logs(
        &mut self,
        build: &BuildDirectory,
        budget: &mut Budget,
    ) -> Result<Vec<(String, usize)>, Error> {
        let tree = walk::walk(
            build.directory(),
            &["server_logs"],
            budget,
            &mut |file, location| self.take(file, location),
        )?;
        let mut logs = Vec::new();
        for (place, directory) in tree.iter().enumerate() {
            let mut prefix = Vec::new();
            let mut at = place;
            while at != 0 {
                prefix.push(tree[at].name.as_str());
                at = tree[at].parent;
            }
            prefix.reverse();
            for (name, file) in &directory.files {
                let mut path = prefix.clone();
                path.push(name);
                logs.push((path.join("/"), file.id));
            }
        }
        Ok(logs)
    }

    /// Takes in one file: small ones are read now, larger ones later. Never more
    /// is read than the size the file has at this moment.
    fn take(&mut self, file: File, location: Location) -> Result<usize, Error> {
        let stat = nix::sys::stat::fstat(&file).map_err(Error::file("stat", &location.name))?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let record = if size <= SMALL {
            let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
            file.take(size)
                .read_to_end(&mut bytes)
                .map_err(|error| Error::file("read", &location.name)(files::errno(&error)))?;
            let digest = Some(Digest::of(self.function, &bytes));
            let source = if self.kept + size <= KEPT {
                self.kept += size;
                Source::Memory(bytes.into())
            } else {
                Source::At(location)
            };
            Record { digest, source }
        } else if self.open < OPEN {
            self.open += 1;
            Record {
                digest: None,
                source: Source::Open(Arc::new(file)),
            }
        } else {
            Record {
                digest: Some(hash(&file, self.function)?),
                source: Source::At(location),
            }
        };
        self.records.push(record);
        Ok(self.records.len() - 1)
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

fn location(names: &[&str]) -> Location {
    let (name, parents) = names.split_last().unwrap_or((&"", &[]));
    Location {
        parents: parents.iter().map(ToString::to_string).collect(),
        name: (*name).to_string(),
    }
}

fn hash(file: &File, function: DigestFunction) -> Result<Digest, Error> {
    let stat = nix::sys::stat::fstat(file).map_err(Error::file("stat", "output"))?;
    let mut left = u64::try_from(stat.st_size).unwrap_or(0);
    let mut hasher = Hasher::new(function, left);
    let mut buffer = vec![0; PIECE];
    let mut offset = 0;
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let read = file
            .read_at(&mut buffer[..wanted], offset)
            .map_err(|error| Error::file("read", "output")(files::errno(&error)))?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        offset += read as u64;
        left -= read as u64;
    }
    Ok(hasher.finish())
}
