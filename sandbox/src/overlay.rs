//! Input roots that are overlays (`overlayfs(7)`, Documentation/filesystems/overlayfs).
//!
//! The command sees one tree; what it writes goes to an empty directory, and no
//! layer below is ever written to. The layers belong to the worker. Here all of them
//! are seen through one id-mapped copy of the build directory's mount, in which the
//! worker's files are the command's: it may change and remove its inputs, each of
//! which is then copied first, and what it makes is the worker's on disk.
//!
//! The mount is made by descriptors and never attached here, so that it has no path
//! anybody but the sandbox could follow.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::paths::{self, Relative};
use crate::sys;

/// Below the scratch directory: what the command writes, made by the worker; and
/// the overlay's own, made here.
const UPPER: &CStr = c"upper";
const WORK: &CStr = c"work";

/// Most layers of one overlay (the kernel's `OVL_MAX_STACK`).
pub const MOST_LAYERS: usize = 500;

/// What an overlay is made of, below the build directory.
pub(crate) struct Layers<'a> {
    /// The first on top.
    pub(crate) lower: &'a [Relative],
    /// Holds the directory `upper`, empty.
    pub(crate) scratch: &'a Relative,
}

/// The overlay's own directory, root's. Dropping it removes it: when nothing can
/// write to the overlay any more.
#[derive(Debug)]
pub(crate) struct Work {
    scratch: OwnedFd,
}

/// Makes an overlay and a detached mount of it. `map` shows the worker's files as
/// the command's.
pub(crate) fn make(
    build: BorrowedFd<'_>,
    map: BorrowedFd<'_>,
    layers: &Layers<'_>,
) -> nix::Result<(OwnedFd, Work)> {
    let attributes = sys::NO_SUID | sys::NO_DEV;
    let mapped = sys::clone_mount(build)?;
    sys::map_ids_of_mount(mapped.as_fd(), map, attributes)?;
    let overlay = sys::FileSystem::open(c"overlay")?;
    for layer in layers.lower {
        let layer = paths::open_readable(mapped.as_fd(), layer)?;
        overlay.descriptor(c"lowerdir+", layer.as_fd())?;
    }
    let work = Work::make(paths::open_directory(build, layers.scratch)?)?;
    let scratch = paths::open_readable(mapped.as_fd(), layers.scratch)?;
    for (key, name) in [(c"upperdir", UPPER), (c"workdir", WORK)] {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let directory = openat(&scratch, name, flags, Mode::empty())?;
        overlay.descriptor(key, directory.as_fd())?;
    }
    // Otherwise the end of each action would wait for the whole disk.
    overlay.flag(c"volatile")?;
    // The worker, not being root, reads what the overlay notes.
    overlay.flag(c"userxattr")?;
    overlay.string(c"index", c"off")?;
    Ok((overlay.mount(attributes)?, work))
}

impl Work {
    fn make(scratch: OwnedFd) -> nix::Result<Self> {
        mkdirat(&scratch, WORK, Mode::S_IRWXU)?;
        Ok(Self { scratch })
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // A few entries of fixed names; should there be more, what is left is
        // opened up for the worker when that asks for it.
        let _ = remove(self.scratch.as_fd(), WORK, 4);
    }
}

/// Removes a directory tree of no more levels than this.
fn remove(parent: BorrowedFd<'_>, name: &CStr, levels: usize) -> nix::Result<()> {
    if levels == 0 {
        return Err(Errno::ENOTEMPTY);
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut directory = Dir::openat(parent, name, flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in directory.iter() {
        let name = entry?.file_name().to_owned();
        if name.as_c_str() != c"." && name.as_c_str() != c".." {
            names.push(name);
        }
    }
    for name in names {
        match unlinkat(&directory, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => remove(directory.as_fd(), &name, levels - 1)?,
            other => other?,
        }
    }
    drop(directory);
    unlinkat(parent, name, UnlinkatFlags::RemoveDir)
}

/// Whether this process, root, can make such overlays on this kernel (Linux 6.13),
/// tried in memory. What the build directory's file system makes of it only a trial
/// there can tell.
pub(crate) fn works() -> bool {
    crate::attempt::in_child(attempt) == 0
}

fn attempt() -> nix::Result<()> {
    use crate::id_map::IdPair;
    use nix::fcntl::AtFlags;
    use nix::mount::{MsFlags, mount};
    use nix::unistd::{Uid, fchownat};

    let proc = paths::open_place(c"/proc")?;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), "/proc", Some("tmpfs"), flags, None::<&str>)?;
    let site = paths::open_place(c"/proc")?;
    let (worker, command) = (IdPair::same(1), IdPair::same(2));
    for path in [c"lower", c"lower/input", c"scratch", c"scratch/upper"] {
        mkdirat(&site, path, Mode::S_IRWXU)?;
        let owner = Some(Uid::from_raw(worker.uid));
        let no_follow = AtFlags::AT_SYMLINK_NOFOLLOW;
        fchownat(&site, path, owner, Some(worker.gid.into()), no_follow)?;
    }
    let map = crate::mount_map::make(proc.as_fd(), worker, command)?;
    let layers = Layers {
        lower: &[Relative::new(b"lower")?],
        scratch: &Relative::new(b"scratch")?,
    };
    let (mount, _work) = make(site.as_fd(), map.as_fd(), &layers)?;
    let input = nix::sys::stat::fstatat(&mount, c"input", AtFlags::empty())?;
    if input.st_uid != command.uid {
        return Err(Errno::EINVAL);
    }
    // Changes an input: without a writable upper directory this is EROFS.
    nix::sys::stat::fchmodat(
        &mount,
        c"input",
        Mode::S_IRUSR,
        nix::sys::stat::FchmodatFlags::FollowSymlink,
    )
}
