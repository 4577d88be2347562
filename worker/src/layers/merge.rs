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

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{RenameFlags, renameat2};
use nix::libc;
use nix::unistd::symlinkat;
use proto::{Component, RelativePath};
use xattr::FileExt as _;

use super::subtree::{Entry, Subtree};
use crate::Error;
use crate::cache::{FileCache, LinkError, Tenant};
use crate::clean;
use crate::files::{self, Kind};
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
/// pinned, or in layers that are in use.
///
/// # Errors
/// The disk fails or is full; a cached file vanished.
pub(crate) fn merge<'a>(
    cache: &FileCache,
    tenant: Tenant,
    upper: &OwnedFd,
    fresh: &OwnedFd,
    input: &Arc<Subtree>,
    places: impl IntoIterator<Item = &'a RelativePath>,
) -> Result<(), Error> {
    let merger = Merger { cache, tenant };
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
}

impl Merger<'_> {
    /// What fails for one name does not keep the others from being put together.
    fn directory(&self, sides: &Sides<'_>, wanted: &Wanted) -> Result<(), Error> {
        let mut result = Ok(());
        for name in names(sides, wanted)? {
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
            return self.complete(sides.fresh, name, input, None, below);
        };
        if stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == 0 {
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
            None => match files::stat_at(sides.fresh, name) {
                Ok(stat) => Ok(Kind::of(&stat) == Kind::Directory),
                Err(Errno::ENOENT) => Ok(false),
                Err(errno) => Err(Error::file("stat", name.to_string_lossy())(errno)),
            },
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
            // Neither the input root nor the command has it.
            (Err(Errno::ENOENT), None) if upper.is_none() => return Ok(()),
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
}

/// The names to look at, sorted.
fn names(sides: &Sides<'_>, wanted: &Wanted) -> Result<BTreeSet<CString>, Error> {
    // Names hold no NUL.
    let own = |name: &str| CString::new(name).ok();
    if !wanted.all {
        let names = wanted.names.keys();
        return Ok(names.filter_map(|name| own(name.as_str())).collect());
    }
    let mut names = BTreeSet::new();
    if let Some(upper) = sides.upper {
        let entries = files::entries(upper, usize::MAX);
        let entries = entries.map_err(Error::file("read", "an output directory"))?;
        names.extend(entries.into_iter().map(|(name, _)| name));
    }
    if let Some(input) = sides.input {
        let directory = &input.directory;
        names.extend(directory.files.iter().filter_map(|file| own(file.name)));
        let others = directory.directories.iter().map(|(name, _)| name);
        let others = others.chain(directory.symlinks.iter().map(|(name, _)| name));
        names.extend(others.filter_map(|name| own(name.as_str())));
    }
    Ok(names)
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
