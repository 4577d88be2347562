//! Paths of requests, resolved below the build directory.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, OpenHow, ResolveFlag, fcntl, openat, openat2};
use nix::libc;
use nix::sys::stat::{Mode, fstat, fstatat};

use crate::policy::HostIds;

/// A relative path without empty components, `.`, `..` and NUL; may be empty.
/// Whether it is acceptable is decided here; that it stays below the build
/// directory is also enforced by the kernel when it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Relative(Vec<u8>);

impl Relative {
    /// `EINVAL` for a path that is not acceptable.
    pub(crate) fn new(path: &[u8]) -> nix::Result<Self> {
        let acceptable = path.is_empty()
            || path.split(|byte| *byte == b'/').all(|component| {
                !component.is_empty()
                    && component != b"."
                    && component != b".."
                    && component.len() <= 255
                    && !component.contains(&0)
            });
        if acceptable && path.len() < crate::message::PATH_BYTES {
            Ok(Self(path.to_vec()))
        } else {
            Err(Errno::EINVAL)
        }
    }

    /// The directory it lies in, and its last component; `EINVAL` when empty.
    fn split_last(&self) -> nix::Result<(Self, CString)> {
        let (parent, name) = match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (&[][..], &self.0[..]),
        };
        if name.is_empty() {
            return Err(Errno::EINVAL);
        }
        let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
        Ok((Self(parent.to_vec()), name))
    }
}

/// Opens the directory at `path` below `base` (`O_PATH`). No component may be
/// a symbolic link.
pub(crate) fn open_directory(base: BorrowedFd<'_>, path: &Relative) -> nix::Result<OwnedFd> {
    open_with(base, path, OFlag::O_PATH)
}

fn open_with(base: BorrowedFd<'_>, path: &Relative, access: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(access | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        );
    let path = if path.0.is_empty() { b"." } else { &path.0[..] };
    openat2(base, path, how)
}

/// As [`open_directory`], to be read.
pub(crate) fn open_readable(base: BorrowedFd<'_>, path: &Relative) -> nix::Result<OwnedFd> {
    open_with(base, path, OFlag::O_RDONLY)
}

/// Opens the file that a command's output goes to, for appending. It is created;
/// or, where commands run at uids that `ids` tells apart, it may be there already
/// if it is nobody's data: empty, with this one name and mode 0666, and not made
/// by a command. A worker that has such files saves the kernel making new ones.
pub(crate) fn open_output(
    base: BorrowedFd<'_>,
    path: &Relative,
    ids: HostIds,
) -> nix::Result<OwnedFd> {
    if let HostIds::SameUser = ids {
        return create_file(base, path);
    }
    let (parent, name) = path.split_last()?;
    let parent = open_directory(base, &parent)?;
    let flags = OFlag::O_WRONLY
        | OFlag::O_APPEND
        | OFlag::O_NOFOLLOW
        | OFlag::O_NONBLOCK
        | OFlag::O_CLOEXEC;
    let file = match openat(parent.as_fd(), name.as_c_str(), flags, Mode::empty()) {
        Err(Errno::ENOENT) => return create_in(parent.as_fd(), &name),
        // A pipe that nobody reads, a directory.
        Err(Errno::ENXIO | Errno::EISDIR) => return Err(Errno::EEXIST),
        other => other?,
    };
    let stat = fstat(&file)?;
    let ready = stat.st_mode == libc::S_IFREG | 0o666
        && stat.st_size == 0
        && stat.st_nlink == 1
        && !ids.contain(stat.st_uid, 0);
    if !ready {
        return Err(Errno::EEXIST);
    }
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
    Ok(file)
}

/// Creates a file that does not exist, for appending.
pub(crate) fn create_file(base: BorrowedFd<'_>, path: &Relative) -> nix::Result<OwnedFd> {
    let (parent, name) = path.split_last()?;
    create_in(open_directory(base, &parent)?.as_fd(), &name)
}

fn create_in(parent: BorrowedFd<'_>, name: &CStr) -> nix::Result<OwnedFd> {
    openat(
        parent,
        name,
        OFlag::O_WRONLY
            | OFlag::O_CREAT
            | OFlag::O_EXCL
            | OFlag::O_APPEND
            | OFlag::O_NOFOLLOW
            | OFlag::O_CLOEXEC,
        Mode::from_bits_truncate(0o666),
    )
}

/// Whether something exists at `path`, a symbolic link included.
pub(crate) fn check(base: BorrowedFd<'_>, path: &Relative) -> nix::Result<()> {
    if path.0.is_empty() {
        return open_directory(base, path).map(drop);
    }
    let (parent, name) = path.split_last()?;
    let parent = open_directory(base, &parent)?;
    let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
    fstatat(parent.as_fd(), name.as_c_str(), flags).map(drop)
}

/// Opens an absolute path of this mount namespace (`O_PATH`), following links.
pub(crate) fn open_place(path: &std::ffi::CStr) -> nix::Result<OwnedFd> {
    nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_paths_are_acceptable() {
        for good in ["", "a", "a/b", "...", "a/.b"] {
            assert!(Relative::new(good.as_bytes()).is_ok(), "{good:?}");
        }
        let long = "a/".repeat(3000) + "a";
        let component = "a".repeat(256);
        for bad in [
            "/", "/a", "a/", "a//b", ".", "./a", "a/.", "..", "a/..", "a/../b", "a\0b", &long,
            &component,
        ] {
            assert_eq!(Relative::new(bad.as_bytes()), Err(Errno::EINVAL), "{bad:?}");
        }
    }

    #[test]
    fn an_output_that_exists_is_taken_only_when_it_is_nobodys_data() {
        let directory =
            std::env::temp_dir().join(format!("sandbox-outputs-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        let base = std::fs::File::open(&directory).unwrap();
        let own = nix::unistd::geteuid().as_raw();
        let elsewhere = HostIds::Range {
            start: own + 1,
            count: 10,
        };
        let file = |name: &str, bytes: &[u8], mode| {
            use std::os::unix::fs::PermissionsExt;
            std::fs::write(directory.join(name), bytes).unwrap();
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(directory.join(name), mode).unwrap();
        };
        file("ready", b"", 0o666);
        file("data", b"x", 0o666);
        file("input", b"", 0o444);
        file("linked", b"", 0o666);
        std::fs::hard_link(directory.join("linked"), directory.join("second")).unwrap();
        nix::unistd::mkfifo(&directory.join("fifo"), Mode::from_bits_truncate(0o666)).unwrap();
        let open = |name: &str, ids| {
            let path = Relative::new(name.as_bytes()).unwrap();
            open_output(base.as_fd(), &path, ids).map(drop)
        };
        assert_eq!(open("ready", elsewhere), Ok(()));
        assert_eq!(open("new", elsewhere), Ok(()));
        for name in ["data", "input", "linked"] {
            assert_eq!(open(name, elsewhere), Err(Errno::EEXIST), "{name}");
        }
        std::fs::create_dir(directory.join("directory")).unwrap();
        for name in ["fifo", "directory"] {
            assert_eq!(open(name, elsewhere), Err(Errno::EEXIST), "{name}");
        }
        let of_commands = HostIds::Range {
            start: own,
            count: 10,
        };
        assert_eq!(open("ready", of_commands), Err(Errno::EEXIST));
        assert_eq!(open("ready", HostIds::SameUser), Err(Errno::EEXIST));
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn links_are_not_followed_and_files_are_new() {
        let directory = std::env::temp_dir().join(format!("sandbox-paths-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(directory.join("real")).unwrap();
        std::os::unix::fs::symlink("real", directory.join("link")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", directory.join("file")).unwrap();
        let base = std::fs::File::open(&directory).unwrap();
        let base = base.as_fd();
        let path = |text: &str| Relative::new(text.as_bytes()).unwrap();
        assert!(open_directory(base, &path("real")).is_ok());
        assert!(open_directory(base, &path("")).is_ok());
        assert_eq!(
            open_directory(base, &path("link")).unwrap_err(),
            Errno::ELOOP
        );
        assert_eq!(
            create_file(base, &path("link/out")).unwrap_err(),
            Errno::ELOOP
        );
        assert_eq!(create_file(base, &path("file")).unwrap_err(), Errno::EEXIST);
        assert_eq!(create_file(base, &path("")).unwrap_err(), Errno::EINVAL);
        assert!(create_file(base, &path("real/out")).is_ok());
        assert_eq!(
            create_file(base, &path("real/out")).unwrap_err(),
            Errno::EEXIST
        );
        assert_eq!(check(base, &path("file")), Ok(()));
        assert_eq!(check(base, &path("")), Ok(()));
        assert_eq!(check(base, &path("none")), Err(Errno::ENOENT));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
