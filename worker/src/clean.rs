//! Removing what actions left, off their critical path.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{RenameFlags, renameat2};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Error;
use crate::files::{self, Kind};
use crate::memory::lock;
use crate::runner::Runner;

/// Directories held open while descending; deeper ones are first moved up.
const DEPTH: usize = 64;
/// Entries of a directory that are read at a time.
const PORTION: usize = 4096;
/// How often removal is tried while a killed command may still be writing.
const ATTEMPTS: u32 = 5;
/// The first pause between two attempts; each next one is twice as long.
const PAUSE: Duration = Duration::from_millis(20);

/// Bounds the build directories that exist, in use or waiting for removal.
pub(crate) struct Cleaner {
    places: Arc<Semaphore>,
    limit: u32,
    leftovers: Arc<Mutex<Vec<String>>>,
}

/// The right to have a build directory, until it is removed.
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Cleaner {
    /// Allows this many build directories.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(limit)),
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
            leftovers: Arc::default(),
        }
    }

    /// Waits for room.
    pub(crate) async fn place(&self) -> Result<Place, Error> {
        let permit = Arc::clone(&self.places).acquire_owned().await;
        permit
            .map(|permit| Place { _permit: permit })
            .map_err(|closed| Error::Internal(closed.to_string()))
    }

    /// Returns when there is no build directory.
    pub(crate) async fn idle(&self) {
        drop(self.places.acquire_many(self.limit).await);
    }

    /// Notes the name of what cannot be removed now.
    pub(crate) fn leave(&self, name: String) {
        lock(&self.leftovers).push(name);
    }

    /// The names of all that resisted so far; from here on they are the caller's.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.leftovers))
    }

    /// Removes a tree in the background; `path` is what the runner calls it.
    /// Where files of another owner resist, the runner is asked to make them
    /// removable; where that does not help, it becomes one of [`Self::leftovers`].
    /// Outside of a runtime, as when the process ends, it is left for the next
    /// start.
    pub(crate) fn remove(
        &self,
        parent: OwnedFd,
        name: String,
        path: String,
        runner: Arc<Runner>,
        place: Place,
    ) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let leftovers = Arc::clone(&self.leftovers);
        runtime.spawn(async move {
            let parent = Arc::new(parent);
            let mut pause = PAUSE;
            for attempt in 1..=ATTEMPTS {
                let (fd, tree) = (Arc::clone(&parent), name.clone());
                let removal = tokio::task::spawn_blocking(move || remove(fd.as_fd(), &tree));
                let errno = match removal.await {
                    Ok(Ok(())) => break,
                    Ok(Err(errno)) => errno,
                    // The process is ending.
                    Err(_) => break,
                };
                if attempt == ATTEMPTS {
                    tracing::error!(path, %errno, "cannot remove what an action left");
                    lock(&leftovers).push(name.clone());
                } else if matches!(errno, Errno::EACCES | Errno::EPERM) {
                    if let Err(error) = runner.reclaim(&path).await {
                        tracing::debug!(path, %error, "runner cannot help removing");
                    }
                } else {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
            }
            drop(place);
        });
    }
}

/// Removes a file or a whole tree by its name in a directory. Modes that are in
/// the way are changed where the worker owns the directory. However deep the
/// tree is, few descriptors are used and no path is long: what lies deeper than
/// [`DEPTH`] is moved up beside the tree first.
pub(crate) fn remove(parent: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    let mut trees = vec![name.to_string()];
    let mut moved = 0_u64;
    while let Some(tree) = trees.pop() {
        let first = std::ffi::CString::new(tree.as_str()).map_err(|_| Errno::EINVAL)?;
        remove_tree(parent, &first, 0, &mut |directory, deep| {
            let aside = format!("{name}.{moved}");
            moved += 1;
            nix::fcntl::renameat(directory, deep, parent, aside.as_str())?;
            trees.push(aside);
            Ok(())
        })?;
    }
    Ok(())
}

/// As [`remove`], of what threads that were stopped may still be writing to: it is
/// tried again after pauses, in which this blocks.
pub(crate) fn remove_persistently(parent: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    persist(|| remove(parent, name))
}

fn persist(mut attempt: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
    let mut pause = PAUSE;
    for _ in 1..ATTEMPTS {
        if attempt().is_ok() {
            return Ok(());
        }
        std::thread::sleep(pause);
        pause *= 2;
    }
    attempt()
}

/// Removes everything in a directory, but not the directory.
pub(crate) fn empty(directory: &OwnedFd) -> Result<(), Errno> {
    let mut moved = 0_u64;
    loop {
        let entries = files::entries(directory, PORTION)?;
        if entries.is_empty() {
            return Ok(());
        }
        for (entry, kind) in entries {
            // What lies too deep is moved up to here, and removed in a later round.
            remove_entry(directory, &entry, kind, 0, &mut |parent, deep| {
                loop {
                    let aside = format!("{moved}");
                    moved += 1;
                    let no_replace = RenameFlags::RENAME_NOREPLACE;
                    match renameat2(parent, deep, directory, aside.as_str(), no_replace) {
                        // The action has a file of that name.
                        Err(Errno::EEXIST) => {}
                        other => return other,
                    }
                }
            })?;
        }
    }
}

fn remove_tree(
    parent: BorrowedFd<'_>,
    name: &CStr,
    depth: usize,
    aside: &mut dyn FnMut(BorrowedFd<'_>, &CStr) -> Result<(), Errno>,
) -> Result<(), Errno> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        // unlink(2): EISDIR on Linux, EPERM by POSIX.
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(errno) => return Err(errno),
    }
    let directory = open_removable(parent, name)?;
    // In portions, so that memory does not grow with the directory.
    loop {
        let entries = files::entries(&directory, PORTION)?;
        if entries.is_empty() {
            break;
        }
        for (entry, kind) in entries {
            remove_entry(&directory, &entry, kind, depth, aside)?;
        }
    }
    drop(directory);
    match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn remove_entry(
    directory: &OwnedFd,
    entry: &CStr,
    kind: Option<Kind>,
    depth: usize,
    aside: &mut dyn FnMut(BorrowedFd<'_>, &CStr) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let is_directory = match kind {
        Some(kind) => kind == Kind::Directory,
        None => Kind::of(&files::stat_at(directory, entry)?) == Kind::Directory,
    };
    if !is_directory {
        return match unlinkat(directory, entry, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno),
        };
    }
    if depth + 1 < DEPTH {
        return remove_tree(directory.as_fd(), entry, depth + 1, aside);
    }
    // Moving a directory elsewhere rewrites its `..`.
    drop(open_removable(directory.as_fd(), entry)?);
    aside(directory.as_fd(), entry)
}

/// Opens a directory and sees to it that its entries can be removed.
pub(crate) fn open_removable(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    use nix::fcntl::{OFlag, openat};
    use nix::sys::stat::{FchmodatFlags, fchmodat};
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let directory = match openat(parent, name, flags, Mode::empty()) {
        Err(Errno::EACCES) => {
            fchmodat(parent, name, Mode::S_IRWXU, FchmodatFlags::NoFollowSymlink)?;
            openat(parent, name, flags, Mode::empty())?
        }
        other => other?,
    };
    let stat = fstat(&directory)?;
    if files::permissions(&stat) & 0o700 != 0o700 && stat.st_uid == nix::unistd::geteuid().as_raw()
    {
        fchmod(&directory, Mode::S_IRWXU)?;
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn removed(make: impl FnOnce(&std::path::Path)) {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        make(&tree);
        let parent = files::open_configured(directory.path()).unwrap();
        remove(parent.as_fd(), "tree").unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        removed(|tree| {
            std::fs::create_dir(tree).unwrap();
            let mut at = files::open_configured(tree).unwrap();
            let name = "n".repeat(200);
            for _ in 0..4 * DEPTH {
                at = files::make_directory(&at, &name, 0o755).unwrap();
            }
        });
    }

    #[test]
    fn a_directory_is_emptied_however_deep_what_it_holds_is() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("0"), "in the way").unwrap();
        let directory = files::open_configured(folder.path()).unwrap();
        let mut at = directory.try_clone().unwrap();
        for _ in 0..3 * DEPTH {
            at = files::make_directory(&at, "n", 0o755).unwrap();
        }
        empty(&directory).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_resists_for_a_while_is_tried_again_but_not_for_ever() {
        for (resists, removed) in [(0, true), (ATTEMPTS - 1, true), (ATTEMPTS, false)] {
            let mut tries = 0;
            let result = persist(|| {
                tries += 1;
                match tries > resists {
                    true => Ok(()),
                    false => Err(Errno::ENOTEMPTY),
                }
            });
            assert_eq!(result.is_ok(), removed);
            assert_eq!(tries, ATTEMPTS.min(resists + 1));
        }
    }

    #[test]
    fn modes_links_and_absence_are_no_obstacle() {
        removed(|tree| {
            std::fs::create_dir_all(tree.join("a/b")).unwrap();
            std::fs::write(tree.join("a/b/file"), "x").unwrap();
            std::os::unix::fs::symlink("/", tree.join("a/link")).unwrap();
            let none = std::fs::Permissions::from_mode(0o000);
            std::fs::set_permissions(tree.join("a/b"), none.clone()).unwrap();
            std::fs::set_permissions(tree.join("a"), none).unwrap();
        });
        removed(|tree| std::fs::write(tree, "a file").unwrap());
        removed(|_| {});
    }
}
