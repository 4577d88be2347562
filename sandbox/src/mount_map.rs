//! User namespaces that serve as the id mapping of mounts
//! (`mount_setattr(2)`, "ID-mapped mounts").

use std::os::fd::{BorrowedFd, OwnedFd};

use nix::fcntl::{OFlag, openat};
use nix::libc;
use nix::sys::stat::{Mode, fstat};
use nix::unistd::write;

use crate::id_map::IdPair;
use crate::sys;

/// Who owns a directory.
pub(crate) fn owner(directory: BorrowedFd<'_>) -> nix::Result<IdPair> {
    let stat = fstat(directory)?;
    Ok(IdPair {
        uid: stat.st_uid,
        gid: stat.st_gid,
    })
}

/// A mapping that shows the files of `from` as files of `to`, and root's as root's:
/// without the latter an overlay over it cannot be written to, for what the overlay
/// makes for itself belongs to root. `proc` is open at a `/proc`.
pub(crate) fn make(proc: BorrowedFd<'_>, from: IdPair, to: IdPair) -> nix::Result<OwnedFd> {
    // Nobody has to be in a namespace that is open.
    let sleeper = sys::Sleeper::start(libc::CLONE_NEWUSER)?;
    write_maps(proc, &sleeper.pid.to_string(), from, to)
}

fn write_maps(
    proc: BorrowedFd<'_>,
    process: &str,
    from: IdPair,
    to: IdPair,
) -> nix::Result<OwnedFd> {
    let open = |name: &str, flags| {
        let path = format!("{process}/{name}");
        openat(proc, path.as_str(), flags | OFlag::O_CLOEXEC, Mode::empty())
    };
    for (name, from, to) in [("uid_map", from.uid, to.uid), ("gid_map", from.gid, to.gid)] {
        let map = format!("0 0 1\n{from} {to} 1\n");
        write(&open(name, OFlag::O_WRONLY)?, map.as_bytes())?;
    }
    open("ns/user", OFlag::O_RDONLY)
}
