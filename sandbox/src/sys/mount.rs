//! The mount calls of Linux 5.12 (`open_tree(2)`, `move_mount(2)`,
//! `mount_setattr(2)`), which no crate wraps.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;

use super::{Result, owned};

/// `MOUNT_ATTR_*`.
pub(crate) const READ_ONLY: u64 = 0x1;
pub(crate) const NO_SUID: u64 = 0x2;
pub(crate) const NO_DEV: u64 = 0x4;
pub(crate) const NO_EXEC: u64 = 0x8;
pub(crate) const NO_ATIME: u64 = 0x10;
/// What there is instead of it, which it replaces.
const ATIME: u64 = 0x70;

const OPEN_TREE_CLONE: libc::c_uint = 1;
const OPEN_TREE_CLOEXEC: libc::c_uint = libc::O_CLOEXEC as libc::c_uint;
const AT_RECURSIVE: libc::c_uint = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;

/// A detached copy of the mount (and those below it) that holds this place.
pub(crate) fn clone_tree(directory: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE
        | OPEN_TREE_CLOEXEC
        | AT_RECURSIVE
        | libc::AT_EMPTY_PATH as libc::c_uint
        | libc::AT_SYMLINK_NOFOLLOW as libc::c_uint;
    // SAFETY: `path` is a C string that lives through the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_tree,
            directory.as_raw_fd(),
            path.as_ptr(),
            flags,
        )
    };
    owned(fd)
}

/// Attaches a detached mount, or moves an attached one, whose root `mount` is,
/// to `path` below `to`.
pub(crate) fn move_mount(mount: BorrowedFd<'_>, to: BorrowedFd<'_>, path: &CStr) -> Result<()> {
    // SAFETY: both paths are C strings that live through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            to.as_raw_fd(),
            path.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    };
    Errno::result(result).map(drop)
}

#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Sets attributes (and propagation, `MS_*`, unless 0) of a mount; of all
/// those below it too when `recursive`.
pub(crate) fn mount_setattr(
    mount: BorrowedFd<'_>,
    set: u64,
    propagation: u64,
    recursive: bool,
) -> Result<()> {
    set_attributes(mount, set, propagation, 0, recursive)
}

/// As [`mount_setattr`], with the user namespace that `MOUNT_ATTR_IDMAP` means.
pub(super) fn set_attributes(
    mount: BorrowedFd<'_>,
    set: u64,
    propagation: u64,
    userns_fd: u64,
    recursive: bool,
) -> Result<()> {
    let attributes = MountAttributes {
        set,
        clear: if set & ATIME == 0 { 0 } else { ATIME },
        propagation,
        userns_fd,
    };
    let flags = libc::AT_EMPTY_PATH as libc::c_uint | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the structure has the layout of `struct mount_attr` and the size
    // that is passed; the path is empty.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    Errno::result(result).map(drop)
}
