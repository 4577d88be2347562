//! The calls that make an overlay without a path (`fsopen(2)`, `fsconfig(2)`,
//! `fsmount(2)`; `mount_setattr(2)` for id-mapped mounts), which no crate wraps.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;

use super::mount::set_attributes;
use super::{Result, owned};

const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_SET_FD: libc::c_uint = 5;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
const OPEN_TREE_CLONE: libc::c_uint = 1;
const OPEN_TREE_CLOEXEC: libc::c_uint = libc::O_CLOEXEC as libc::c_uint;

/// A file system being configured.
pub(crate) struct FileSystem(OwnedFd);

impl FileSystem {
    /// Begins one of this type.
    pub(crate) fn open(kind: &CStr) -> Result<Self> {
        // SAFETY: `kind` is a C string that lives through the call.
        let fd = unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) };
        owned(fd).map(Self)
    }

    /// Sets an option that has no value.
    pub(crate) fn flag(&self, key: &CStr) -> Result<()> {
        self.configure(FSCONFIG_SET_FLAG, Some(key), None, 0)
    }

    /// Sets an option.
    pub(crate) fn string(&self, key: &CStr, value: &CStr) -> Result<()> {
        self.configure(FSCONFIG_SET_STRING, Some(key), Some(value), 0)
    }

    /// Sets an option that is an open file or directory.
    pub(crate) fn descriptor(&self, key: &CStr, value: BorrowedFd<'_>) -> Result<()> {
        self.configure(FSCONFIG_SET_FD, Some(key), None, value.as_raw_fd())
    }

    /// Makes it, and a detached mount of it with these attributes.
    pub(crate) fn mount(self, attributes: u64) -> Result<OwnedFd> {
        self.configure(FSCONFIG_CMD_CREATE, None, None, 0)?;
        // SAFETY: the call takes no pointer.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_fsmount,
                self.0.as_raw_fd(),
                FSMOUNT_CLOEXEC,
                attributes,
            )
        };
        owned(fd)
    }

    fn configure(
        &self,
        command: libc::c_uint,
        key: Option<&CStr>,
        value: Option<&CStr>,
        auxiliary: libc::c_int,
    ) -> Result<()> {
        let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
        // SAFETY: both pointers are null or C strings that live through the call,
        // as each command expects them.
        let result = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                command,
                pointer(key),
                pointer(value),
                auxiliary,
            )
        };
        Errno::result(result).map(drop)
    }
}

/// A detached copy of the mount that holds this directory, and none of those below
/// it.
pub(crate) fn clone_mount(directory: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as libc::c_uint;
    // SAFETY: the path is empty.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_tree,
            directory.as_raw_fd(),
            c"".as_ptr(),
            flags,
        )
    };
    owned(fd)
}

/// Has a detached mount show the ids of its files as `namespace` maps them.
pub(crate) fn map_ids_of_mount(
    mount: BorrowedFd<'_>,
    namespace: BorrowedFd<'_>,
    attributes: u64,
) -> Result<()> {
    let namespace = u64::try_from(namespace.as_raw_fd()).map_err(|_| Errno::EBADF)?;
    set_attributes(
        mount,
        attributes | MOUNT_ATTR_IDMAP,
        libc::MS_PRIVATE,
        namespace,
        false,
    )
}
