//! Files by descriptor: the few operations that all of the worker's file work is
//! made of. Nothing here follows a symbolic link, except in paths the operator
//! configured.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::LazyLock;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat};
use nix::sys::time::TimeSpec;
use tokio::task::JoinError;

/// Longest path handed to the kernel at once (`PATH_MAX` is 4096).
const PATH_PIECE: usize = 4000;

/// The modification time of every input file: 2000-01-01T00:00:00Z, as
/// Buildbarn's, so that tools that compare times see equal inputs as equal.
pub(crate) const FIXED_TIME: i64 = 946_684_800;

/// What an entry of a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    Other,
}

impl Kind {
    /// By the mode that stat returns.
    pub(crate) fn of(stat: &FileStat) -> Self {
        match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFREG => Self::File,
            SFlag::S_IFDIR => Self::Directory,
            SFlag::S_IFLNK => Self::Symlink,
            _ => Self::Other,
        }
    }
}

/// How many processors there are. Asking is a matter of several files.
pub(crate) fn processors() -> usize {
    static COUNT: LazyLock<usize> =
        LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));
    *COUNT
}

/// Does file work on a thread for it, or, when it is a matter of microseconds,
/// here: handing it over takes longer.
pub(crate) async fn blocking<T: Send + 'static>(
    short: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    if short {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}

/// The permission bits of a stat.
pub(crate) fn permissions(stat: &FileStat) -> u32 {
    stat.st_mode & 0o7777
}

/// Opens a directory that the operator configured. Links are followed, so that
/// `/proc/self/fd/7/x` works.
pub(crate) fn open_configured(path: &Path) -> Result<OwnedFd, Errno> {
    nix::fcntl::open(
        path,
        OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
}

/// Opens a directory by its name in another.
pub(crate) fn open_directory(parent: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    openat(
        parent.as_fd(),
        name,
        OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
}

/// Makes a directory of exactly this mode and opens it.
pub(crate) fn make_directory(parent: impl AsFd, name: &str, mode: u32) -> Result<OwnedFd, Errno> {
    let mode = Mode::from_bits_truncate(mode);
    mkdirat(parent.as_fd(), name, mode)?;
    let directory = open_directory(parent, name)?;
    // The process's umask is zero when the worker's own main set it; a library
    // user's may not be.
    if permissions(&fstat(&directory)?) != mode.bits() {
        fchmod(&directory, mode)?;
    }
    Ok(directory)
}

/// Opens a directory by its name in another, making it (0700) where it is absent.
pub(crate) fn ensure_directory(parent: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    match make_directory(parent.as_fd(), name, 0o700) {
        Err(Errno::EEXIST) => open_directory(parent, name),
        other => other,
    }
}

/// Opens what lies at the end of these names, below `root`, through directories
/// only. Paths longer than the kernel takes at once are walked in pieces.
pub(crate) fn open_beneath<'a>(
    root: impl AsFd,
    names: impl IntoIterator<Item = &'a str>,
    flags: OFlag,
) -> Result<OwnedFd, Errno> {
    let step = |from: BorrowedFd<'_>, path: &str, flags| {
        openat2(
            from,
            if path.is_empty() { "." } else { path },
            OpenHow::new()
                .flags(flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
                .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS),
        )
    };
    let mut at: Option<OwnedFd> = None;
    let mut path = String::new();
    for name in names {
        if !path.is_empty() && path.len() + 1 + name.len() > PATH_PIECE {
            let from = at.as_ref().map_or(root.as_fd(), AsFd::as_fd);
            let next = step(from, &path, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
            at = Some(next);
            path.clear();
        }
        if !path.is_empty() {
            path.push('/');
        }
        path.push_str(name);
    }
    step(at.as_ref().map_or(root.as_fd(), AsFd::as_fd), &path, flags)
}

/// The entries of a directory, unsorted, without `.` and `..`, at most `limit`
/// and one more of them. The kind is none where the file system does not say.
pub(crate) fn entries(
    directory: impl AsFd,
    limit: usize,
) -> Result<Vec<(CString, Option<Kind>)>, Errno> {
    let mut directory = Dir::from_fd(open_directory(directory, ".")?)?;
    let mut found = Vec::new();
    for entry in directory.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let kind = entry.file_type().map(|kind| match kind {
            Type::File => Kind::File,
            Type::Directory => Kind::Directory,
            Type::Symlink => Kind::Symlink,
            _ => Kind::Other,
        });
        found.push((name.to_owned(), kind));
        if found.len() > limit {
            break;
        }
    }
    Ok(found)
}

/// lstat of a name in a directory.
pub(crate) fn stat_at(
    directory: impl AsFd,
    name: &(impl nix::NixPath + ?Sized),
) -> Result<FileStat, Errno> {
    fstatat(directory.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW)
}

/// Gives an open file the fixed modification time.
pub(crate) fn set_fixed_time(file: impl AsFd) -> Result<(), Errno> {
    set_time(file, (FIXED_TIME, 0))
}

/// Gives an open file a modification time: seconds and nanoseconds.
pub(crate) fn set_time(file: impl AsFd, (seconds, nanos): (i64, u32)) -> Result<(), Errno> {
    let time = TimeSpec::new(seconds, nanos.into());
    nix::sys::stat::futimens(file.as_fd(), &time, &time)
}

/// The errno of an I/O error of the standard library.
pub(crate) fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbolic_links_are_never_followed_and_the_root_is_never_left() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink("a", directory.path().join("link")).unwrap();
        let root = open_configured(directory.path()).unwrap();
        assert!(open_beneath(&root, ["a", "b"], OFlag::O_RDONLY).is_ok());
        assert_eq!(
            open_beneath(&root, ["link", "b"], OFlag::O_RDONLY).unwrap_err(),
            Errno::ELOOP
        );
        assert_eq!(
            open_beneath(&root, [".."], OFlag::O_RDONLY).unwrap_err(),
            Errno::EXDEV
        );
    }

    #[test]
    fn paths_longer_than_the_kernel_takes_are_walked() {
        let directory = tempfile::tempdir().unwrap();
        let root = open_configured(directory.path()).unwrap();
        let name = "d".repeat(200);
        let mut at = root.try_clone().unwrap();
        for _ in 0..50 {
            at = make_directory(&at, &name, 0o755).unwrap();
        }
        let names = vec![name.as_str(); 50];
        let found = open_beneath(&root, names, OFlag::O_RDONLY).unwrap();
        assert_eq!(fstat(&found).unwrap().st_ino, fstat(&at).unwrap().st_ino);
    }
}
