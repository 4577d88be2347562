//! Outputs of a command whose input root was an overlay.
//!
//! What the command wrote lies in the overlay's upper directory, and only that. The
//! directory on top of the layers, which was made for this action alone, is turned
//! into what the command saw, as far as declared outputs go: what was written is
//! moved there, what was removed is removed there, and inputs that lie at or below
//! an output's path are linked there. From then on outputs are collected as from
//! any other input root.
//!
//! The upper directory is the command's and hostile. Directories are entered by
//! name, without following links, and only where the input root has a directory too;
//! everything else is moved unseen.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{RenameFlags, renameat2};
use nix::libc;
use nix::sys::stat::FileStat;
use nix::unistd::symlinkat;
use proto::{Component, RelativePath};
use xattr::FileExt as _;

use super::subtree::{Entry, Subtree};
use crate::Error;
use crate::cache::{FileCache, LinkError, Tenant};
use crate::clean;
use crate::files::{self, Kind};
use crate::outputs;
use crate::root;

/// How overlayfs with `userxattr` marks a directory that hides what is below.
const OPAQUE: &str = "user.overlay.opaque";

/// What of a directory is wanted.
#[derive(Default)]
struct Wanted {
    all: bool,
    names: BTreeMap<Component, Wanted>,
}

/// Everything.
static ALL: Wanted = Wanted {
    all: true,
    names: BTreeMap::new(),
};

impl Wanted {
    fn of<'a>(places: impl IntoIterator<Item = &'a RelativePath>) -> Self {
        let mut root = Self::default();
        for place in places {
            let mut at = &mut root;
            for name in place.components() {
                at = at.names.entry(name.clone()).or_default();
            }
            at.all = true;
        }
        root
    }

    fn below(&self, name: &str) -> &Self {
        if self.all {
            return &ALL;
        }
        // Only names that are in the map are asked for.
        Component::new(name)
            .ok()
            .and_then(|name| self.names.get(&name))
            .unwrap_or(&ALL)
    }
}

/// One directory in three forms.
struct Sides<'a> {
    /// What the command wrote in it.
    upper: Option<&'a OwnedFd>,
    /// Where everything is put together.
    fresh: &'a OwnedFd,
    /// What the input root has there.
    input: Option<&'a Arc<Subtree>>,
}

/// Puts the outputs at these places together in `fresh`. The input root's files are
/// pinned, or in layers that are in use. Of what the command wrote, no more than
/// `entries` are looked at in directories.
///
/// # Errors
/// There are more; the disk fails or is full; a cached file vanished.
pub(crate) fn merge<'a>(
    cache: &FileCache,
    tenant: Tenant,
    upper: &OwnedFd,
    fresh: &OwnedFd,
    input: &Arc<Subtree>,
    entries: usize,
    places: impl IntoIterator<Item = &'a RelativePath>,
) -> Result<(), Error> {
    let merger = Merger {
        cache,
        tenant,
        entries,
        left: Cell::new(entries),
    };
    let sides = Sides {
        upper: Some(upper),
        fresh,
        input: Some(input),
    };
    merger.directory(&sides, &Wanted::of(places))
}

struct Merger<'a> {
    cache: &'a FileCache,
    tenant: Tenant,
    /// How many entries the command's directories may have.
    entries: usize,
    /// How many of them may yet come.
    left: Cell<usize>,
}

impl Merger<'_> {
    /// What fails for one name does not keep the others from being put together.
    fn directory(&self, sides: &Sides<'_>, wanted: &Wanted) -> Result<(), Error> {
        let mut result = Ok(());
        for name in self.names(sides, wanted)? {
            result = result.and(self.entry(sides, &name, wanted));
        }
        result
    }

    fn entry(&self, sides: &Sides<'_>, name: &CStr, wanted: &Wanted) -> Result<(), Error> {
        let failed = |operation| Error::file(operation, name.to_string_lossy());
        let over = match sides.upper {
            None => None,
            Some(upper) => match files::stat_at(upper, name) {
                Err(Errno::ENOENT) => None,
                other => Some((upper, other.map_err(failed("stat"))?)),
            },
        };
        // The input root has no names that are not text.
        let text = name.to_str().ok();
        let input = text.and_then(|text| sides.input?.find(text));
        let below = text.map_or(&ALL, |text| wanted.below(text));
        let Some((upper, stat)) = over else {
            if input.is_none() {
                match made(sides.fresh, name)? {
                    // A layer has something there, which the input root has not.
                    Some(stat) if is_whiteout(&stat) => {
                        return remove(sides.fresh, name).map_err(failed("remove"));
                    }
                    // Outputs need it.
                    Some(stat) if Kind::of(&stat) == Kind::Directory => {}
                    _ => return Ok(()),
                }
            }
            return self.complete(sides.fresh, name, input, None, below);
        };
        if is_whiteout(&stat) {
            return remove(sides.fresh, name).map_err(failed("remove"));
        }
        if Kind::of(&stat) == Kind::Directory {
            // Also sees to it that it can be read and moved.
            let entered = clean::open_removable(upper.as_fd(), name).map_err(failed("open"))?;
            if !is_opaque(&entered) && self.is_directory(sides, name, input.as_ref())? {
                return self.complete(sides.fresh, name, input, Some(&entered), below);
            }
        }
        remove(sides.fresh, name).map_err(failed("remove"))?;
        let no_replace = RenameFlags::RENAME_NOREPLACE;
        renameat2(upper, name, sides.fresh, name, no_replace).map_err(failed("move"))
    }

    /// Whether the command found a directory of this name.
    fn is_directory(
        &self,
        sides: &Sides<'_>,
        name: &CStr,
        input: Option<&Entry<'_>>,
    ) -> Result<bool, Error> {
        match input {
            Some(Entry::Directory(_)) => Ok(true),
            Some(_) => Ok(false),
            // Made because outputs need it.
            None => {
                let made = made(sides.fresh, name)?;
                Ok(made.is_some_and(|stat| Kind::of(&stat) == Kind::Directory))
            }
        }
    }

    /// Supplies what the input root has of a name, as far as the command left it.
    fn complete(
        &self,
        fresh: &OwnedFd,
        name: &CStr,
        input: Option<Entry<'_>>,
        upper: Option<&OwnedFd>,
        wanted: &Wanted,
    ) -> Result<(), Error> {
        let failed = |operation| Error::file(operation, name.to_string_lossy());
        let input = match input {
            Some(Entry::File(file)) => {
                return match root::place(self.cache, self.tenant, &file, fresh) {
                    Ok(()) | Err(LinkError::Errno(Errno::EEXIST)) => Ok(()),
                    Err(LinkError::Vanished) => Err(failed("link")(Errno::ENOENT)),
                    Err(LinkError::Errno(errno)) => Err(failed("link")(errno)),
                };
            }
            Some(Entry::Symlink(target)) => {
                return match symlinkat(target, fresh, name) {
                    Ok(()) | Err(Errno::EEXIST) => Ok(()),
                    Err(errno) => Err(failed("link")(errno)),
                };
            }
            Some(Entry::Directory(subtree)) => Some(subtree),
            None => None,
        };
        // What is entered is the input root's, or leads to an output.
        let Ok(text) = name.to_str() else {
            return Ok(());
        };
        let entered = match (files::open_directory(fresh, text), input) {
            (Err(Errno::ENOENT), _) => files::make_directory(fresh, text, 0o777),
            (other, _) => other,
        };
        let entered = entered.map_err(failed("make"))?;
        let sides = Sides {
            upper,
            fresh: &entered,
            input,
        };
        self.directory(&sides, wanted)
    }

    /// The names to look at, sorted.
    fn names(&self, sides: &Sides<'_>, wanted: &Wanted) -> Result<BTreeSet<CString>, Error> {
        // Names hold no NUL.
        let own = |name: &str| CString::new(name).ok();
        if !wanted.all {
            let names = wanted.names.keys();
            return Ok(names.filter_map(|name| own(name.as_str())).collect());
        }
        let failed = || Error::file("read", "an output directory");
        let mut names = BTreeSet::new();
        if let Some(input) = sides.input {
            let directory = &input.directory;
            names.extend(directory.files.iter().filter_map(|file| own(file.name)));
            let others = directory.directories.iter().map(|(name, _)| name);
            let others = others.chain(directory.symlinks.iter().map(|(name, _)| name));
            names.extend(others.filter_map(|name| own(name.as_str())));
        }
        if let Some(upper) = sides.upper {
            // What hides an input is no output, so that there may be more by as many.
            let limit = self.left.get().saturating_add(names.len());
            let written = files::entries(upper, limit).map_err(failed())?;
            let new = written.iter().filter(|(name, _)| !names.contains(name));
            let left = self.left.get().checked_sub(new.count());
            self.left.set(left.unwrap_or(0));
            if left.is_none() {
                return Err(outputs::too_many(self.entries));
            }
            names.extend(written.into_iter().map(|(name, _)| name));
        }
        // Among them what hides a layer's names.
        let fresh = files::entries(sides.fresh, usize::MAX).map_err(failed())?;
        let hiding = |kind| matches!(kind, None | Some(Kind::Other));
        let fresh = fresh.into_iter().filter(|(_, kind)| hiding(*kind));
        names.extend(fresh.map(|(name, _)| name));
        Ok(names)
    }
}

/// What was made for this action alone under a name.
fn made(fresh: &OwnedFd, name: &CStr) -> Result<Option<FileStat>, Error> {
    match files::stat_at(fresh, name) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(Error::file("stat", name.to_string_lossy())(errno)),
    }
}

/// How overlayfs marks a name that hides what is below.
fn is_whiteout(stat: &FileStat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == 0
}

/// Removes what was made for this action alone under a name, if anything was.
fn remove(fresh: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    match name.to_str() {
        Ok(text) => clean::remove(fresh.as_fd(), text),
        Err(_) => Ok(()),
    }
}

fn is_opaque(directory: &OwnedFd) -> bool {
    let copy = directory.try_clone().map(std::fs::File::from);
    copy.and_then(|file| file.get_xattr(OPAQUE))
        .is_ok_and(|value| value.as_deref() == Some(b"y"))
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
