//! Going through what an action left, when the action is dead.
//!
//! Everything is reached by `openat2(2)` below the input root without following
//! any link, so it does not matter what the action made of its tree. Directories
//! are opened one at a time by their path: a tree 5,000 levels deep needs no more
//! descriptors than a flat one.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, fstat};

use crate::Error;
use crate::files::{self, Kind};

/// A directory found, with what is in it. Parents come before their children.
pub(crate) struct Found {
    /// The parent's place in the list; its own for the top.
    pub(crate) parent: usize,
    /// Empty for the top.
    pub(crate) name: String,
    /// Names and what the visitor made of the files, sorted by name.
    pub(crate) files: Vec<(String, FileFound)>,
    /// Names and targets, sorted by name.
    pub(crate) symlinks: Vec<(String, String)>,
    /// Names and places in the list, sorted by name.
    pub(crate) directories: Vec<(String, usize)>,
}

/// A file found.
#[derive(Clone, Copy)]
pub(crate) struct FileFound {
    /// What the visitor called it.
    pub(crate) id: usize,
    /// Whether any of its execute bits is set.
    pub(crate) executable: bool,
}

/// Where a file is, to open it again.
pub(crate) struct Location {
    /// From the root of the walk.
    pub(crate) parents: Arc<[String]>,
    pub(crate) name: String,
}

impl Location {
    /// Opens the file once more.
    pub(crate) fn open(&self, root: impl AsFd) -> Result<File, Error> {
        let names = self.parents.iter().map(String::as_str);
        let names = names.chain(std::iter::once(self.name.as_str()));
        files::open_beneath(root, names, OFlag::O_RDONLY | OFlag::O_NONBLOCK)
            .map(File::from)
            .map_err(Error::file("open", &self.name))
    }
}

/// What lies at a declared path.
pub(crate) enum Thing {
    File(File, bool),
    Directory,
    Symlink(String),
    Other,
    Absent,
}

/// How many entries may yet be looked at.
pub(crate) struct Budget {
    pub(crate) left: usize,
    pub(crate) limit: usize,
}

impl Budget {
    fn spend(&mut self, entries: usize) -> Result<(), Error> {
        self.left = self.left.checked_sub(entries).ok_or_else(|| Error::Limit {
            what: "number of files in the action's outputs".into(),
            limit: self.limit as u64,
        })?;
        Ok(())
    }
}

/// Looks at one path below a directory without opening anything but files. A
/// path that leads through something that is no directory leads nowhere.
pub(crate) fn look(root: impl AsFd, names: &[&str]) -> Result<Thing, Error> {
    let shown = || names.join("/");
    let Some((last, parents)) = names.split_last() else {
        return Ok(Thing::Directory);
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let parent = match files::open_beneath(root, parents.iter().copied(), flags) {
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(Thing::Absent),
        other => other.map_err(|source| denied(source, shown()))?,
    };
    let stat = match files::stat_at(&parent, *last) {
        Err(Errno::ENOENT) => return Ok(Thing::Absent),
        other => other.map_err(|source| denied(source, shown()))?,
    };
    match Kind::of(&stat) {
        Kind::Directory => Ok(Thing::Directory),
        Kind::Other => Ok(Thing::Other),
        Kind::Symlink => read_link(&parent, *last, shown).map(Thing::Symlink),
        Kind::File => Ok(match open_file(&parent, *last, shown)? {
            Some((file, executable)) => Thing::File(file, executable),
            None => Thing::Other,
        }),
    }
}

/// Opens a file for reading: never waits for the other end of a FIFO, never
/// follows a link, and what is no regular file after all is none.
fn open_file(
    directory: impl AsFd,
    name: &(impl nix::NixPath + ?Sized),
    shown: impl Fn() -> String,
) -> Result<Option<(File, bool)>, Error> {
    let flags = OFlag::O_RDONLY
        | OFlag::O_NOFOLLOW
        | OFlag::O_NONBLOCK
        | OFlag::O_NOCTTY
        | OFlag::O_CLOEXEC;
    let file = match openat(directory.as_fd(), name, flags, Mode::empty()) {
        Err(Errno::ELOOP | Errno::ENXIO | Errno::ENOENT) => return Ok(None),
        other => other.map_err(|source| denied(source, shown()))?,
    };
    let stat = fstat(&file).map_err(Error::file("stat", shown()))?;
    let executable = files::permissions(&stat) & 0o111 != 0;
    Ok((Kind::of(&stat) == Kind::File).then(|| (file.into(), executable)))
}

fn read_link(
    directory: impl AsFd,
    name: &(impl nix::NixPath + ?Sized),
    shown: impl Fn() -> String,
) -> Result<String, Error> {
    readlinkat(directory.as_fd(), name)
        .map_err(Error::file("read link", shown()))?
        .into_string()
        .map_err(|_| Error::Output {
            path: shown(),
            reason: "the symbolic link's target is not UTF-8",
        })
}

/// A refusal that the runner may be able to lift.
fn denied(source: Errno, path: String) -> Error {
    match source {
        Errno::EACCES | Errno::EPERM => Error::Denied { path, source },
        other => Error::file("open", path)(other),
    }
}

/// Walks the whole tree at a path, handing each regular file to the visitor.
/// FIFOs, sockets and devices are left out.
pub(crate) fn walk(
    root: impl AsFd,
    top: &[&str],
    budget: &mut Budget,
    visit: &mut dyn FnMut(File, Location) -> Result<usize, Error>,
) -> Result<Vec<Found>, Error> {
    let mut tree = vec![Found::empty(0, String::new())];
    let mut place = 0;
    while place < tree.len() {
        let parents: Arc<[String]> = path(&tree, place, top);
        let shown = parents.join("/");
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NONBLOCK;
        let directory =
            files::open_beneath(root.as_fd(), parents.iter().map(String::as_str), flags)
                .map_err(|source| denied(source, shown.clone()))?;
        let mut entries = files::entries(&directory, budget.left)
            .map_err(Error::file("read directory", &shown))?;
        budget.spend(entries.len())?;
        entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for (name, kind) in entries {
            let below = || format!("{shown}/{}", name.to_string_lossy());
            let kind = match kind {
                Some(kind) => kind,
                None => Kind::of(
                    &files::stat_at(&directory, name.as_c_str())
                        .map_err(Error::file("stat", below()))?,
                ),
            };
            if kind == Kind::Other {
                continue;
            }
            let text = name.to_str().map_err(|_| Error::Output {
                path: below(),
                reason: "the name is not UTF-8",
            })?;
            match kind {
                Kind::File => {
                    if let Some((file, executable)) = open_file(&directory, text, below)? {
                        let location = Location {
                            parents: Arc::clone(&parents),
                            name: text.into(),
                        };
                        let id = visit(file, location)?;
                        let found = FileFound { id, executable };
                        tree[place].files.push((text.into(), found));
                    }
                }
                Kind::Symlink => {
                    let target = read_link(&directory, text, below)?;
                    tree[place].symlinks.push((text.into(), target));
                }
                Kind::Directory => {
                    let child = tree.len();
                    tree[place].directories.push((text.into(), child));
                    tree.push(Found::empty(place, text.into()));
                }
                Kind::Other => {}
            }
        }
        place += 1;
    }
    Ok(tree)
}

/// The names from the root of the walk to a directory of the tree.
fn path(tree: &[Found], mut place: usize, top: &[&str]) -> Arc<[String]> {
    let mut names = Vec::new();
    while place != 0 {
        names.push(tree[place].name.clone());
        place = tree[place].parent;
    }
    names.extend(top.iter().rev().map(ToString::to_string));
    names.reverse();
    names.into()
}

impl Found {
    fn empty(parent: usize, name: String) -> Self {
        Self {
            parent,
            name,
            files: Vec::new(),
            symlinks: Vec::new(),
            directories: Vec::new(),
        }
    }
}
