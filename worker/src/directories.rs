//! Input roots as messages: Directory messages fetched level by level, validated
//! once, kept in memory.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use proto::path::PathError;
use proto::wire::rev2;
use proto::{Component, Digest, InstanceName};
use storage::BlobStore;

use crate::Error;
use crate::memory::Memory;

/// A message larger than this is refused: REv2 has no bound, memory has.
const MAXIMUM_MESSAGE: u64 = 64 << 20;
/// All Directory messages of one input root together. A message is counted once,
/// however often the root has it.
const MAXIMUM_TREE: u64 = 512 << 20;
/// Entries of a small input root.
const SMALL: usize = 256;
/// Levels of an input root. The kernel's paths end at 4096 bytes.
const MAXIMUM_DEPTH: usize = 2048;

/// A validated Directory message: names are names, sorted, and each once.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) files: Box<[FileEntry]>,
    /// Sorted by name.
    pub(crate) directories: Box<[(Component, Digest)]>,
    /// Names and targets, verbatim.
    pub(crate) symlinks: Box<[(Component, Box<str>)]>,
}

/// A file of a directory.
#[derive(Debug)]
pub(crate) struct FileEntry {
    pub(crate) name: Component,
    pub(crate) digest: Digest,
    pub(crate) executable: bool,
}

/// All messages of an input root.
pub(crate) struct Tree {
    pub(crate) root: Digest,
    pub(crate) directories: HashMap<Digest, Arc<Directory>>,
    /// Messages that the storage has not.
    pub(crate) missing: Vec<Digest>,
}

impl Tree {
    /// Whether going through it is a matter of microseconds: few entries, and no
    /// message in more than one place, so that they do not multiply.
    pub(crate) fn is_small(&self) -> bool {
        let directories = self.directories.values();
        let (files, children) = directories.fold((0, 0), |(files, children), directory| {
            (
                files + directory.files.len(),
                children + directory.directories.len(),
            )
        });
        children < self.directories.len() && files + children <= SMALL
    }
}

/// The Directory messages in memory, and the way to others.
pub(crate) struct Directories {
    store: Arc<dyn BlobStore>,
    memory: Memory<Directory>,
}

impl Directories {
    /// Keeps messages of up to `maximum` bytes in memory.
    pub(crate) fn new(store: Arc<dyn BlobStore>, maximum: u64) -> Self {
        Self {
            store,
            memory: Memory::new(maximum),
        }
    }

    /// The message of this digest, if it is in memory.
    pub(crate) fn cached(&self, digest: &Digest) -> Option<Arc<Directory>> {
        self.memory.get(digest)
    }

    /// Takes in a message's bytes.
    pub(crate) fn insert(&self, digest: Digest, bytes: &Bytes) -> Result<Arc<Directory>, Error> {
        let actual = Digest::of(digest.function(), bytes);
        if actual != digest {
            return Err(Error::storage("fetching input directories")(
                storage::Error::Corrupt {
                    expected: digest,
                    actual,
                },
            ));
        }
        let message = rev2::Directory::decode(bytes.as_ref()).map_err(|source| Error::Decode {
            what: "input directory",
            digest,
            source,
        })?;
        let directory = Arc::new(validate(digest, &message)?);
        let weight = 256
            + 192 * (message.files.len() + message.directories.len()) as u64
            + message
                .symlinks
                .iter()
                .map(|link| 96 + (link.name.len() + link.target.len()) as u64)
                .sum::<u64>();
        self.memory.put(digest, Arc::clone(&directory), weight);
        Ok(directory)
    }

    /// All messages reachable from `root`, one batch a level.
    ///
    /// # Errors
    /// A message is malformed, too large or lies too deep, or all are too large
    /// together, which is found out before they are read; the storage fails.
    /// Missing ones are no error here: what else is missing is to be found out.
    pub(crate) async fn load(&self, instance: &InstanceName, root: Digest) -> Result<Tree, Error> {
        let mut tree = Tree {
            root,
            directories: HashMap::new(),
            missing: Vec::new(),
        };
        let mut level = vec![root];
        let mut seen: HashSet<Digest> = level.iter().copied().collect();
        let mut depth = 0;
        let mut size = 0_u64;
        while !level.is_empty() {
            depth += 1;
            if depth > MAXIMUM_DEPTH {
                return Err(Error::Limit {
                    what: "depth of the input root".into(),
                    limit: MAXIMUM_DEPTH as u64,
                });
            }
            for digest in &level {
                check_size("input directory", *digest)?;
                size = size.saturating_add(digest.size());
            }
            if size > MAXIMUM_TREE {
                return Err(Error::Limit {
                    what: format!("size of all directories of input root {root}"),
                    limit: MAXIMUM_TREE,
                });
            }
            let directories = self.level(instance, &level, &mut tree.missing).await?;
            let mut next = Vec::new();
            for (digest, directory) in directories {
                for (_, child) in &directory.directories {
                    if seen.insert(*child) {
                        next.push(*child);
                    }
                }
                tree.directories.insert(digest, directory);
            }
            level = next;
        }
        Ok(tree)
    }

    async fn level(
        &self,
        instance: &InstanceName,
        digests: &[Digest],
        missing: &mut Vec<Digest>,
    ) -> Result<Vec<(Digest, Arc<Directory>)>, Error> {
        let mut found = Vec::with_capacity(digests.len());
        let mut wanted = Vec::new();
        for digest in digests {
            match self.cached(digest) {
                Some(directory) => found.push((*digest, directory)),
                None => wanted.push(*digest),
            }
        }
        if wanted.is_empty() {
            return Ok(found);
        }
        let what = "fetching input directories";
        let results = self
            .store
            .read_batch(instance, &wanted)
            .await
            .map_err(Error::storage(what))?;
        for (digest, result) in wanted.into_iter().zip(results) {
            match result {
                Ok(bytes) => found.push((digest, self.insert(digest, &bytes)?)),
                Err(storage::Error::NotFound(_)) => missing.push(digest),
                Err(error) => return Err(Error::storage(what)(error)),
            }
        }
        Ok(found)
    }
}

/// Whether a message of the client's may be read into memory.
///
/// # Errors
/// [`Error::Limit`], naming its digest.
pub(crate) fn check_size(what: &str, digest: Digest) -> Result<(), Error> {
    if digest.size() <= MAXIMUM_MESSAGE {
        return Ok(());
    }
    Err(Error::Limit {
        what: format!("size of {what} {digest}"),
        limit: MAXIMUM_MESSAGE,
    })
}

/// Checks a message against REv2 Directory: file names, in strict order within
/// each list, and no name twice across the three.
fn validate(directory: Digest, message: &rev2::Directory) -> Result<Directory, Error> {
    let function = directory.function();
    let fault = |entry: &str, reason: String| Error::Directory {
        directory,
        entry: entry.chars().take(255).collect(),
        reason,
    };
    let name = |name: &str, previous: &mut Option<Component>| -> Result<Component, Error> {
        let component =
            Component::new(name).map_err(|error: PathError| fault(name, error.to_string()))?;
        if let Some(previous) = previous {
            match component.cmp(previous) {
                std::cmp::Ordering::Greater => {}
                std::cmp::Ordering::Equal => return Err(fault(name, "name occurs twice".into())),
                std::cmp::Ordering::Less => {
                    return Err(fault(name, format!("not sorted: comes after {previous:?}")));
                }
            }
        }
        *previous = Some(component.clone());
        Ok(component)
    };
    let digest = |entry: &str, digest: Option<&rev2::Digest>| {
        Digest::from_wire(function, digest).map_err(|error| fault(entry, error.to_string()))
    };
    let mut previous = None;
    let files: Box<[FileEntry]> = message
        .files
        .iter()
        .map(|file| {
            Ok(FileEntry {
                name: name(&file.name, &mut previous)?,
                digest: digest(&file.name, file.digest.as_ref())?,
                executable: file.is_executable,
            })
        })
        .collect::<Result<_, Error>>()?;
    let mut previous = None;
    let directories: Box<[(Component, Digest)]> = message
        .directories
        .iter()
        .map(|child| {
            Ok((
                name(&child.name, &mut previous)?,
                digest(&child.name, child.digest.as_ref())?,
            ))
        })
        .collect::<Result<_, Error>>()?;
    let mut previous = None;
    let symlinks: Box<[(Component, Box<str>)]> = message
        .symlinks
        .iter()
        .map(|link| {
            let component = name(&link.name, &mut previous)?;
            // symlink(2): ENOENT for an empty target, ENAMETOOLONG beyond PATH_MAX.
            if link.target.is_empty() || link.target.len() > 4095 || link.target.contains('\0') {
                return Err(fault(
                    &link.name,
                    "symbolic link target is empty, too long or contains NUL".into(),
                ));
            }
            Ok((component, link.target.as_str().into()))
        })
        .collect::<Result<_, Error>>()?;
    let mut names: HashSet<&Component> = HashSet::new();
    let all = files.iter().map(|file| &file.name);
    let all = all.chain(directories.iter().map(|(name, _)| name));
    for name in all.chain(symlinks.iter().map(|(name, _)| name)) {
        if !names.insert(name) {
            return Err(fault(name.as_str(), "name occurs twice".into()));
        }
    }
    Ok(Directory {
        files,
        directories,
        symlinks,
    })
}
