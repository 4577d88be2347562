//! Ids of a new user namespace (`user_namespaces(7)`).

use std::os::fd::BorrowedFd;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::write;

/// A user and a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdPair {
    /// The user's number.
    pub uid: u32,
    /// The group's.
    pub gid: u32,
}

impl IdPair {
    /// The user and group of the same number.
    #[must_use]
    pub const fn same(id: u32) -> Self {
        Self { uid: id, gid: id }
    }
}

/// Maps one user and one group of the user namespace of `process` (a name in
/// `proc`, which is open at a `/proc`): `inner` in there is `outer` outside. Who
/// is not privileged outside can map nobody but itself.
pub(crate) fn map_ids(
    proc: BorrowedFd<'_>,
    process: &str,
    inner: IdPair,
    outer: IdPair,
) -> nix::Result<()> {
    let put = |name: &str, text: String| {
        let path = format!("{process}/{name}");
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let file = openat(proc, path.as_str(), flags, Mode::empty())?;
        write(&file, text.as_bytes()).map(drop)
    };
    put("setgroups", "deny".to_owned())?;
    put("uid_map", format!("{} {} 1", inner.uid, outer.uid))?;
    put("gid_map", format!("{} {} 1", inner.gid, outer.gid))
}
