//! The launcher's own user namespace, where root did not start it.
//!
//! A user may map itself, and by `newuidmap(1)` and `newgidmap(1)` the subordinate
//! ids that `/etc/subuid` and `/etc/subgid` give it. Each is mapped to its own
//! number, so that an id means the same inside and outside. In there the launcher has
//! root's capabilities over what these ids own.

use std::io;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Pid, getegid, geteuid, getpid, pipe2, read, write};

use crate::id_map::{IdPair, map_ids};
use crate::paths::open_place;
use crate::sys;

/// Moves this process into a new user namespace that has its own ids, and those
/// of `range` (first and number) besides. For a process with a single thread.
pub(crate) fn enter(range: Option<(u32, u32)>) -> io::Result<()> {
    let own = IdPair {
        uid: geteuid().as_raw(),
        gid: getegid().as_raw(),
    };
    match range {
        None => {
            unshare(CloneFlags::CLONE_NEWUSER)?;
            Ok(map_ids(open_place(c"/proc")?.as_fd(), "self", own, own)?)
        }
        Some(range) => enter_with(own, range),
    }
}

/// `newuidmap` must be started from outside of the namespace, by the same user:
/// a copy of this process waits there until the namespace exists.
fn enter_with(own: IdPair, range: (u32, u32)) -> io::Result<()> {
    let (wait, go) = pipe2(OFlag::O_CLOEXEC)?;
    let process = getpid();
    let Some((mapper, _life)) = sys::clone_process(0)? else {
        drop(go);
        sys::never_return(|| {
            // Nothing comes when the namespace could not be made.
            let made = matches!(read(&wait, &mut [0]), Ok(1));
            let mapped = made
                && map("newuidmap", process, own.uid, range)
                && map("newgidmap", process, own.gid, range);
            sys::exit_now(i32::from(!mapped))
        });
    };
    drop(wait);
    let made = unshare(CloneFlags::CLONE_NEWUSER).and_then(|()| write(&go, b"+"));
    drop(go);
    let status = loop {
        match sys::wait_with_usage(mapper) {
            Err(Errno::EINTR) => {}
            result => break result?.0,
        }
    };
    made?;
    if status == 0 {
        Ok(())
    } else {
        // What it was said to standard error.
        Err(io::Error::other("newuidmap or newgidmap refused"))
    }
}

fn map(program: &str, process: Pid, own: u32, (start, count): (u32, u32)) -> bool {
    let numbers = [own, own, 1, start, start, count].map(|number| number.to_string());
    Command::new(program)
        .arg(process.to_string())
        .args(numbers)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
