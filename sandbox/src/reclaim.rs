//! Making what commands left accessible to the worker.
//!
//! A command may leave directories of mode 0000 and files it alone may read,
//! at a host uid that may not be the worker's. In a directory whose commands are
//! all dead, everything that belongs to a command's uid is opened up:
//! directories become 0777, regular files get read rights for all and lose set-id
//! bits. Where input roots are overlays, what a command made belongs to the worker,
//! who may have no rights to it either: the same is done to that, and cannot hurt
//! the worker's cache, hardlinked there, since cached files have those modes already.
//! So are directories of root's, which the launcher itself made for an overlay and
//! did not live to remove. What belongs to others is not touched. Nor is, where
//! commands run as the runner's own user, a file that has a name outside of the
//! directory, which might be that user's; at a uid of its own, a command has made
//! every one of them.
//! Other file systems are not entered.
//!
//! The tree is hostile: it is walked by directory descriptor, one at a time,
//! so that its depth costs neither stack nor descriptors.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::libc;
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, fchmodat, fstat, fstatat};
use nix::unistd::{Uid, geteuid};

use crate::policy::HostIds;
use crate::sys;

/// `CAP_DAC_READ_SEARCH`, `CAP_FOWNER`.
const KEPT: u64 = 1 << 2 | 1 << 3;

/// Whose files are opened up.
#[derive(Debug, Clone, Copy)]
struct Owners {
    ids: HostIds,
    own: Uid,
    /// Who owns what commands make in overlays; none where there are no overlays.
    worker: Option<libc::uid_t>,
}

impl Owners {
    /// The mode that this inode, so many of whose names were seen, is to have, when
    /// that is another.
    fn mode(self, stat: &FileStat, names: libc::nlink_t) -> Option<libc::mode_t> {
        let mode = stat.st_mode & 0o7777;
        let is_directory = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
        let of_overlay = match self.worker {
            Some(worker) => stat.st_uid == worker || (stat.st_uid == 0 && is_directory),
            None => false,
        };
        if !of_overlay && !self.ids.contain(stat.st_uid, self.own.as_raw()) {
            return None;
        }
        let made_by_command = match self.ids {
            HostIds::Range { .. } => true,
            HostIds::SameUser => stat.st_nlink <= names,
        };
        let wanted = match stat.st_mode & libc::S_IFMT {
            libc::S_IFDIR => 0o777,
            libc::S_IFREG if made_by_command => mode & 0o777 | 0o444,
            _ => return None,
        };
        (wanted != mode).then_some(wanted)
    }
}

/// What a walk has done and seen.
#[derive(Default)]
struct Progress {
    /// How many modes were changed.
    changed: u64,
    /// How many names were seen of each file that has several, by device and inode,
    /// until it was all of them.
    names: HashMap<(libc::dev_t, libc::ino_t), libc::nlink_t>,
}

impl Progress {
    /// How many names of this inode were seen, with this one.
    fn names(&mut self, stat: &FileStat) -> libc::nlink_t {
        if stat.st_nlink == 1 || stat.st_mode & libc::S_IFMT != libc::S_IFREG {
            return 1;
        }
        let inode = (stat.st_dev, stat.st_ino);
        let seen = self.names.entry(inode).or_default();
        *seen += 1;
        let seen = *seen;
        if seen >= stat.st_nlink {
            self.names.remove(&inode);
        }
        seen
    }
}

/// In a child of the launcher: gives up what is not needed, and walks.
/// Returns how many modes were changed.
pub(crate) fn run(
    directory: BorrowedFd<'_>,
    ids: HostIds,
    worker: Option<libc::uid_t>,
) -> nix::Result<u64> {
    let owners = Owners {
        ids,
        own: geteuid(),
        worker,
    };
    let kept = sys::capabilities()?.permitted & KEPT;
    sys::set_capabilities(sys::Capabilities {
        effective: kept,
        permitted: kept,
        inheritable: 0,
    })?;
    walk(directory, owners)
}

/// A directory on the way down.
struct Level {
    device: libc::dev_t,
    inode: libc::ino_t,
    /// Directories in it that are still to be visited.
    left: Vec<CString>,
}

fn walk(directory: BorrowedFd<'_>, owners: Owners) -> nix::Result<u64> {
    let mut progress = Progress::default();
    let only_commands = Owners {
        worker: None,
        ..owners
    };
    open_up(directory, c".", only_commands, &mut progress)?;
    let mut current = descend(directory, c".")?;
    let mut levels = vec![enter(&current, owners, &mut progress)?];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.left.pop() {
            current = descend(current.as_fd(), &name)?;
            let level = enter(&current, owners, &mut progress)?;
            levels.push(level);
            continue;
        }
        levels.pop();
        if let Some(above) = levels.last() {
            current = descend(current.as_fd(), c"..")?;
            let stat = fstat(&current)?;
            if (stat.st_dev, stat.st_ino) != (above.device, above.inode) {
                // Somebody moves directories about.
                return Err(Errno::ESTALE);
            }
        }
    }
    Ok(progress.changed)
}

fn descend(from: BorrowedFd<'_>, name: &CStr) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(from, name, flags, Mode::empty())
}

/// Opens up what lies in a directory, and notes the directories.
fn enter(directory: &OwnedFd, owners: Owners, progress: &mut Progress) -> nix::Result<Level> {
    let stat = fstat(directory)?;
    let mut level = Level {
        device: stat.st_dev,
        inode: stat.st_ino,
        left: Vec::new(),
    };
    let mut listing = Dir::openat(
        directory,
        c".",
        OFlag::O_RDONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    for entry in listing.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let inner = open_up(directory.as_fd(), name, owners, progress)?;
        if inner == Some(level.device) {
            level.left.push(name.to_owned());
        }
    }
    Ok(level)
}

/// Changes one inode's mode if need be. Of a directory, the file system it is on.
fn open_up(
    directory: BorrowedFd<'_>,
    name: &CStr,
    owners: Owners,
    progress: &mut Progress,
) -> nix::Result<Option<libc::dev_t>> {
    let stat = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let names = match owners.ids {
        HostIds::SameUser => progress.names(&stat),
        // They do not matter, and inputs have many.
        HostIds::Range { .. } => 1,
    };
    if owners.mode(&stat, names).is_some() {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let inode = openat(directory, name, flags, Mode::empty())?;
        // Looked at again: the name might mean another inode by now.
        if let Some(mode) = owners.mode(&fstat(&inode)?, names) {
            // An O_PATH descriptor cannot be given to fchmod(2).
            let path = format!("/proc/self/fd/{}", inode.as_raw_fd());
            let mode = Mode::from_bits_truncate(mode);
            fchmodat(
                nix::fcntl::AT_FDCWD,
                path.as_str(),
                mode,
                FchmodatFlags::FollowSymlink,
            )?;
            progress.changed += 1;
        }
    }
    let is_directory = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
    Ok(is_directory.then_some(stat.st_dev))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};

    use super::*;

    fn stat(uid: u32, mode: libc::mode_t, links: libc::nlink_t) -> FileStat {
        let mut stat = nix::sys::stat::stat("/").unwrap();
        (stat.st_uid, stat.st_mode, stat.st_nlink) = (uid, mode, links);
        stat
    }

    #[test]
    fn only_what_commands_own_is_opened_up() {
        let owners = Owners {
            ids: HostIds::Range {
                start: 100,
                count: 10,
            },
            own: Uid::from_raw(0),
            worker: None,
        };
        let mode = |uid, mode, links| owners.mode(&stat(uid, mode, links), 1);
        assert_eq!(mode(100, libc::S_IFDIR, 2), Some(0o777));
        assert_eq!(mode(109, libc::S_IFREG | 0o4710, 1), Some(0o754));
        assert_eq!(mode(109, libc::S_IFREG | 0o644, 1), None);
        assert_eq!(mode(109, libc::S_IFREG, 2), Some(0o444));
        assert_eq!(mode(109, libc::S_IFLNK | 0o777, 1), None);
        for stranger in [0, 99, 110] {
            assert_eq!(mode(stranger, libc::S_IFDIR, 2), None);
            assert_eq!(mode(stranger, libc::S_IFREG, 1), None);
        }
        let owners = Owners {
            worker: Some(99),
            ..owners
        };
        let mode = |uid, mode| owners.mode(&stat(uid, mode, 2), 1);
        assert_eq!(mode(0, libc::S_IFDIR | 0o700), Some(0o777));
        assert_eq!(mode(0, libc::S_IFREG | 0o600), None);
        assert_eq!(mode(99, libc::S_IFDIR | 0o700), Some(0o777));
        assert_eq!(mode(99, libc::S_IFREG | 0o4600), Some(0o644));
        // Cached files.
        assert_eq!(mode(99, libc::S_IFREG | 0o444), None);
        assert_eq!(mode(99, libc::S_IFREG | 0o555), None);
        assert_eq!(mode(110, libc::S_IFDIR | 0o700), None);
    }

    #[test]
    fn the_same_user_s_files_may_have_names_elsewhere() {
        let owners = Owners {
            ids: HostIds::SameUser,
            own: Uid::from_raw(100),
            worker: None,
        };
        let mode = |uid, mode, links| owners.mode(&stat(uid, mode, links), 1);
        assert_eq!(mode(100, libc::S_IFDIR, 2), Some(0o777));
        assert_eq!(mode(100, libc::S_IFREG | 0o200, 1), Some(0o644));
        assert_eq!(mode(100, libc::S_IFREG | 0o200, 2), None);
        assert_eq!(mode(101, libc::S_IFDIR, 2), None);
    }

    #[test]
    fn a_file_all_of_whose_names_are_in_the_directory_is_opened_up() {
        let folder = tempfile::tempdir().unwrap();
        let build = folder.path().join("build");
        let closed = |path: &std::path::Path| {
            std::fs::write(path, "x").unwrap();
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o000)).unwrap();
        };
        std::fs::create_dir_all(build.join("sub")).unwrap();
        closed(&build.join("first"));
        std::fs::hard_link(build.join("first"), build.join("sub/second")).unwrap();
        std::fs::hard_link(build.join("first"), build.join("third")).unwrap();
        closed(&folder.path().join("elsewhere"));
        std::fs::hard_link(folder.path().join("elsewhere"), build.join("fourth")).unwrap();
        let root = std::fs::File::open(&build).unwrap();
        let owners = Owners {
            ids: HostIds::SameUser,
            own: geteuid(),
            worker: None,
        };
        // The two directories, and one file.
        assert_eq!(walk(root.as_fd(), owners), Ok(3));
        let mode = |name: &str| {
            let found = build.join(name).metadata().unwrap();
            found.permissions().mode() & 0o777
        };
        assert_eq!((mode("first"), mode("fourth")), (0o444, 0));
    }

    #[test]
    fn a_deep_tree_costs_no_descriptors() {
        let directory = std::env::temp_dir().join(format!("sandbox-deep-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory).unwrap();
        let mut current: OwnedFd = std::fs::File::open(&directory).unwrap().into();
        for _ in 0..5000 {
            nix::sys::stat::mkdirat(&current, "d", Mode::from_bits_truncate(0o755)).unwrap();
            current = descend(current.as_fd(), c"d").unwrap();
        }
        let file = openat(
            &current,
            "f",
            OFlag::O_CREAT | OFlag::O_WRONLY,
            Mode::from_bits_truncate(0o200),
        )
        .unwrap();
        std::fs::DirBuilder::new()
            .mode(0o000)
            .create(directory.join("closed"))
            .unwrap();
        // Other tests have descriptors of their own.
        let held = || {
            let all = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            let names = all.filter_map(|fd| std::fs::read_link(fd.path()).ok());
            names.filter(|name| name.starts_with(&directory)).count()
        };
        let before = held();
        let root = std::fs::File::open(&directory).unwrap();
        let owners = Owners {
            ids: HostIds::SameUser,
            own: geteuid(),
            worker: None,
        };
        // The root, each directory and the closed one, the file.
        assert_eq!(walk(root.as_fd(), owners), Ok(1 + 5000 + 1 + 1));
        assert_eq!(fstat(&file).unwrap().st_mode & 0o777, 0o644);
        let closed = directory.join("closed").metadata().unwrap();
        assert_eq!(closed.permissions().mode() & 0o777, 0o777);
        drop(root);
        assert_eq!(held(), before);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
