//! Build directories that are used again.
//!
//! Making inodes is the dearest part of a short action's file work: five
//! directories and two files, of which the action often changes none. A finished
//! build directory is therefore emptied and kept, where nothing of its action can
//! be left in it: every process of the action is dead, and none had the uid that
//! owns these inodes, so that it could not have changed their mode, owner, access
//! control list or flags. What it could change is undone (entries, the bytes of
//! its standard output and error) or looked at (extended attributes, further
//! names, a directory that has grown): a directory with any of those is removed
//! like any other.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{FileStat, Mode, fchmod, fstat};
use nix::unistd::{ftruncate, geteuid};
use xattr::FileExt;

use crate::build_directory::SCRATCH;
use crate::clean;
use crate::files::{self, Kind};

/// The directories in a build directory.
pub(crate) const DIRECTORIES: [&str; 3] = ["root", "tmp", "server_logs"];
/// The files that a runner makes in it, or finds there empty.
const FILES: [&str; 2] = ["stdout", "stderr"];

/// Names of emptied build directories, in the directory where they wait.
pub(crate) struct Spares {
    names: Mutex<Vec<String>>,
    limit: usize,
}

impl Spares {
    /// Keeps at most this many.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            names: Mutex::new(Vec::new()),
            limit,
        }
    }

    /// Keeps a build directory if it can be used again; says whether it is kept.
    pub(crate) fn keep(&self, parent: &OwnedFd, name: &str) -> bool {
        if !renew(parent, name).unwrap_or(false) {
            return false;
        }
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let room = names.len() < self.limit;
        if room {
            names.push(name.into());
        }
        room
    }

    /// Whether any is kept at the moment.
    pub(crate) fn any(&self) -> bool {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        !names.is_empty()
    }

    /// Moves a kept directory to a name that is free in `to`, and opens it.
    /// None where nothing is kept, or it cannot be moved.
    ///
    /// # Errors
    /// `EEXIST`: the name is taken.
    pub(crate) fn take(
        &self,
        parent: &OwnedFd,
        to: &OwnedFd,
        name: &str,
    ) -> Result<Option<OwnedFd>, Errno> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(kept) = names.last() else {
            return Ok(None);
        };
        let no_replace = RenameFlags::RENAME_NOREPLACE;
        let moved = renameat2(parent, kept.as_str(), to, name, no_replace);
        if moved == Err(Errno::EEXIST) {
            return Err(Errno::EEXIST);
        }
        names.pop();
        drop(names);
        Ok(moved.and_then(|()| files::open_directory(to, name)).ok())
    }

    /// The names of all that are kept; from here on nothing is.
    pub(crate) fn clear(&self) -> Vec<String> {
        std::mem::take(&mut *self.names.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Empties a build directory; false where it cannot be used again.
fn renew(parent: &OwnedFd, name: &str) -> Result<bool, Errno> {
    let build = files::open_directory(parent, name)?;
    clean::remove(build.as_fd(), SCRATCH)?;
    if files::permissions(&fstat(&build)?) != 0o777 {
        // Closed off when its action was over.
        fchmod(&build, Mode::from_bits_truncate(0o777))?;
    }
    for name in DIRECTORIES {
        let directory = files::open_directory(&build, name)?;
        clean::empty(&directory)?;
        let stat = fstat(&directory)?;
        let grown = stat.st_size > stat.st_blksize;
        let changed = files::permissions(&stat) != 0o777 || stat.st_uid != geteuid().as_raw();
        if grown || changed || has_attributes(directory)? {
            return Ok(false);
        }
    }
    let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    for name in FILES {
        let file = openat(&build, name, flags, Mode::empty())?;
        if !is_output(&fstat(&file)?) {
            return Ok(false);
        }
        ftruncate(&file, 0)?;
        if has_attributes(file)? {
            return Ok(false);
        }
    }
    Ok(files::entries(&build, usize::MAX)?.len() == DIRECTORIES.len() + FILES.len())
}

fn is_output(stat: &FileStat) -> bool {
    Kind::of(stat) == Kind::File && files::permissions(stat) == 0o666 && stat.st_nlink == 1
}

fn has_attributes(inode: OwnedFd) -> Result<bool, Errno> {
    match File::from(inode).list_xattr() {
        Ok(mut names) => Ok(names.next().is_some()),
        // A file system without extended attributes has none.
        Err(error) => match files::errno(&error) {
            Errno::EOPNOTSUPP => Ok(false),
            errno => Err(errno),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    /// A build directory as an action leaves it, which `spoil` then changes.
    fn kept(spoil: impl FnOnce(&Path)) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let build = folder.path().join("0");
        let open = |path: &Path| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        };
        fs::create_dir(&build).unwrap();
        open(&build);
        for name in DIRECTORIES {
            fs::create_dir(build.join(name)).unwrap();
            open(&build.join(name));
        }
        for name in FILES {
            fs::write(build.join(name), "what the action said").unwrap();
            let mode = fs::Permissions::from_mode(0o666);
            fs::set_permissions(build.join(name), mode).unwrap();
        }
        fs::create_dir_all(build.join("root/a/b")).unwrap();
        fs::write(build.join("root/a/b/c"), "left").unwrap();
        fs::write(build.join("tmp/d"), "left").unwrap();
        spoil(&build);
        let parent = files::open_configured(folder.path()).unwrap();
        let spares = Spares::new(1);
        let kept = spares.keep(&parent, "0");
        if kept {
            let again = spares.take(&parent, &parent, "again").unwrap();
            assert!(again.is_some());
            let again = folder.path().join("again");
            let mode = fs::metadata(&again).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o777);
            for name in DIRECTORIES {
                assert_eq!(fs::read_dir(again.join(name)).unwrap().count(), 0);
            }
            for name in FILES {
                assert_eq!(fs::metadata(again.join(name)).unwrap().len(), 0);
            }
        }
        assert!(spares.clear().is_empty());
        kept
    }

    #[test]
    fn an_emptied_directory_is_used_again() {
        assert!(kept(|_| {}));
        // Also one that was closed off when its action was over.
        assert!(kept(|build| {
            fs::set_permissions(build, fs::Permissions::from_mode(0o700)).unwrap();
        }));
    }

    #[test]
    fn whatever_could_carry_something_over_is_not_kept() {
        let mode = |path: &str, mode| {
            let path = path.to_string();
            move |build: &Path| {
                let mode = fs::Permissions::from_mode(mode);
                fs::set_permissions(build.join(path), mode).unwrap();
            }
        };
        assert!(!kept(mode("root", 0o1777)));
        assert!(!kept(mode("tmp", 0o755)));
        assert!(!kept(mode("stdout", 0o644)));
        assert!(!kept(|build| {
            fs::hard_link(build.join("stderr"), build.with_extension("second")).unwrap();
        }));
        assert!(!kept(|build| fs::remove_file(build.join("stdout")).unwrap()));
        assert!(!kept(|build| fs::write(build.join("more"), "").unwrap()));
        assert!(!kept(|build| {
            fs::remove_file(build.join("stdout")).unwrap();
            std::os::unix::fs::symlink("stderr", build.join("stdout")).unwrap();
        }));
    }

    #[test]
    fn extended_attributes_are_not_carried_over() {
        let folder = tempfile::tempdir().unwrap();
        if xattr::set(folder.path(), "user.hint", b"x").is_err() {
            let line = "SKIP extended_attributes_are_not_carried_over: none on this file system";
            eprintln!("{line}");
            return;
        }
        for name in ["root", "stdout"] {
            assert!(!kept(|build| {
                xattr::set(build.join(name), "user.hint", b"from the last action").unwrap();
            }));
        }
    }

    #[test]
    fn a_name_that_is_taken_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("kept")).unwrap();
        fs::create_dir(folder.path().join("taken")).unwrap();
        let parent = files::open_configured(folder.path()).unwrap();
        let spares = Spares::new(1);
        spares.names.lock().unwrap().push("kept".into());
        let taken = spares.take(&parent, &parent, "taken");
        assert_eq!(taken.unwrap_err(), Errno::EEXIST);
        assert!(spares.take(&parent, &parent, "free").unwrap().is_some());
        assert!(spares.take(&parent, &parent, "none").unwrap().is_none());
    }
}
