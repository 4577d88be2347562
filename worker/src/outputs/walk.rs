//! Going through what an action left, when the action is dead.
//!
//! Everything is reached by `openat2(2)` below the build directory, or by one name
//! from a directory that was, without following any link: it does not matter what
//! the action made of its tree, nor whether something still changes it. A tree
//! 5,000 levels deep needs no more descriptors than a flat one, and no more time.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};

use super::places::{Location, Places, TOP};
use crate::Error;
use crate::files::{self, Kind};

/// Directories of the present path that stay open.
const OPEN: usize = 64;

/// A directory found, with what is in it. In a list of these, the first is the
/// top, and parents come before their children.
pub(crate) struct Found {
    pub(crate) place: usize,
    /// Sorted by name.
    pub(crate) files: Vec<(Box<str>, FileFound)>,
    /// Names and targets, sorted by name.
    pub(crate) symlinks: Vec<(Box<str>, String)>,
    /// Positions in the list, sorted by name.
    pub(crate) directories: Vec<usize>,
}

/// A file found.
#[derive(Clone, Copy)]
pub(crate) struct FileFound {
    /// What the visitor called it.
    pub(crate) id: usize,
    /// Whether any of its execute bits is set.
    pub(crate) executable: bool,
}

/// A regular file, open for reading.
pub(crate) struct Opened {
    pub(crate) file: File,
    pub(crate) stat: FileStat,
}

impl Opened {
    /// Whether any of its execute bits is set.
    pub(crate) fn is_executable(&self) -> bool {
        files::permissions(&self.stat) & 0o111 != 0
    }
}

/// What lies at a declared path.
pub(crate) enum Thing {
    File(Opened),
    Directory,
    Symlink(String),
    /// What it is instead.
    Other(&'static str),
    Absent,
}

/// Who is told of what a walk finds.
pub(crate) trait Visitor {
    /// The numbers of directories.
    fn places(&mut self) -> &mut Places;
    /// So many entries more.
    ///
    /// # Errors
    /// They are too many.
    fn spend(&mut self, entries: usize) -> Result<(), Error>;
    /// How many may yet come.
    fn entries_left(&self) -> usize;
    /// A file; what to call it.
    ///
    /// # Errors
    /// The walk ends with it.
    fn file(&mut self, file: Opened, location: Location) -> Result<usize, Error>;
    /// Something that REv2 has no words for: its path, and what it is.
    fn left_out(&mut self, path: String, what: &'static str);
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
        Kind::Other => Ok(Thing::Other(special(&stat))),
        Kind::Symlink => read_link(&parent, *last, shown).map(Thing::Symlink),
        Kind::File => Ok(match open_file(&parent, *last, shown)? {
            Some(file) => Thing::File(file),
            None => Thing::Absent,
        }),
    }
}

/// Opens a file for reading: never waits for the other end of a FIFO, never
/// follows a link. None if it is gone, or no regular file after all.
fn open_file(
    directory: impl AsFd,
    name: &(impl nix::NixPath + ?Sized),
    shown: impl Fn() -> String,
) -> Result<Option<Opened>, Error> {
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
    Ok((Kind::of(&stat) == Kind::File).then(|| Opened {
        file: file.into(),
        stat,
    }))
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

/// What is neither file nor directory nor link, in a word.
fn special(stat: &FileStat) -> &'static str {
    match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFIFO => "a FIFO",
        SFlag::S_IFSOCK => "a socket",
        SFlag::S_IFCHR | SFlag::S_IFBLK => "a device",
        _ => "of no known kind",
    }
}

/// Walks the whole tree at a place, handing what it finds to the visitor.
///
/// # Errors
/// A directory cannot be read; a name or a link's target is not UTF-8; what the
/// visitor says.
pub(crate) fn walk(
    root: impl AsFd,
    top: usize,
    visitor: &mut impl Visitor,
) -> Result<Vec<Found>, Error> {
    let mut tree = vec![Found::empty(top)];
    let mut waiting = vec![0];
    let mut trail = Trail::default();
    while let Some(position) = waiting.pop() {
        let place = tree[position].place;
        let directory = trail
            .open(root.as_fd(), visitor.places(), place)
            .map_err(|source| denied(source, visitor.places().shown(place, "")))?;
        let found = list(directory, place, visitor)?;
        let children = tree.len()..tree.len() + found.directories.len();
        for name in found.directories {
            let place = visitor.places().add(place, &name);
            tree.push(Found::empty(place));
        }
        // The first of them is the next, so that its parent is still open.
        waiting.extend(children.clone().rev());
        tree[position].files = found.files;
        tree[position].symlinks = found.symlinks;
        tree[position].directories = children.collect();
    }
    Ok(tree)
}

/// What is in one directory.
#[derive(Default)]
struct Listed {
    files: Vec<(Box<str>, FileFound)>,
    symlinks: Vec<(Box<str>, String)>,
    directories: Vec<String>,
}

fn list(
    directory: BorrowedFd<'_>,
    place: usize,
    visitor: &mut impl Visitor,
) -> Result<Listed, Error> {
    let mut entries = match files::entries(directory, visitor.entries_left()) {
        Ok(entries) => entries,
        Err(errno) => {
            let shown = visitor.places().shown(place, "");
            return Err(Error::file("read directory", shown)(errno));
        }
    };
    visitor.spend(entries.len())?;
    entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let mut listed = Listed::default();
    for (name, kind) in entries {
        let mut below = || visitor.places().shown(place, &name.to_string_lossy());
        let stat = || files::stat_at(directory, name.as_c_str());
        let kind = match kind {
            Some(kind) => kind,
            None => match stat() {
                Ok(stat) => Kind::of(&stat),
                Err(errno) => return Err(Error::file("stat", below())(errno)),
            },
        };
        if kind == Kind::Other {
            let what = stat().map_or("gone", |stat| special(&stat));
            let path = below();
            visitor.left_out(path, what);
            continue;
        }
        let Ok(text) = name.to_str() else {
            return Err(Error::Output {
                path: below(),
                reason: "the name is not UTF-8",
            });
        };
        let places = &*visitor.places();
        let below = || places.shown(place, text);
        match kind {
            Kind::File => {
                if let Some(file) = open_file(directory, text, below)? {
                    let executable = file.is_executable();
                    let location = Location {
                        place,
                        name: text.into(),
                    };
                    let id = visitor.file(file, location)?;
                    listed
                        .files
                        .push((text.into(), FileFound { id, executable }));
                }
            }
            Kind::Symlink => {
                let target = read_link(directory, text, below)?;
                listed.symlinks.push((text.into(), target));
            }
            Kind::Directory => listed.directories.push(text.into()),
            Kind::Other => {}
        }
    }
    Ok(listed)
}

/// The directories that lead to the present one, as far as they are open: those
/// nearest to it.
#[derive(Default)]
struct Trail(VecDeque<(usize, OwnedFd)>);

impl Trail {
    /// Opens a directory: by its name, where its parent is open, or else by its
    /// path.
    fn open<'a>(
        &'a mut self,
        root: BorrowedFd<'a>,
        places: &Places,
        place: usize,
    ) -> Result<BorrowedFd<'a>, Errno> {
        let parent = places.parent(place);
        while self.0.back().is_some_and(|(open, _)| *open != parent) {
            self.0.pop_back();
        }
        if self.0.is_empty() && !places.names(TOP, parent).is_empty() {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
            let opened = files::open_beneath(root, places.names(TOP, parent), flags)?;
            self.0.push_back((parent, opened));
        }
        let from = self.0.back().map_or(root, |(_, open)| open.as_fd());
        let directory = files::open_directory(from, places.name(place))?;
        if self.0.len() == OPEN {
            self.0.pop_front();
        }
        self.0.push_back((place, directory));
        Ok(self.0.back().map_or(root, |(_, open)| open.as_fd()))
    }
}

impl Location {
    /// Opens the file once more.
    ///
    /// # Errors
    /// It is gone.
    pub(crate) fn open(&self, root: impl AsFd, places: &Places) -> Result<File, Error> {
        let names = places.names(TOP, self.place);
        let names = names.into_iter().chain(std::iter::once(&*self.name));
        files::open_beneath(root, names, OFlag::O_RDONLY | OFlag::O_NONBLOCK)
            .map(File::from)
            .map_err(|errno| Error::file("open", places.shown(self.place, &self.name))(errno))
    }
}

impl Found {
    fn empty(place: usize) -> Self {
        Self {
            place,
            files: Vec::new(),
            symlinks: Vec::new(),
            directories: Vec::new(),
        }
    }
}
