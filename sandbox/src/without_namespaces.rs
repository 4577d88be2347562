//! Sandboxes where the host lets nobody make a namespace, and a policy accepts that.
//!
//! A command is then a process like any other: it sees the host's files and processes.
//! What it may open is what a Landlock domain allows it, and the same domain keeps it
//! from TCP and from tracing, and with scopes from signalling, whatever is not its own.
//! Sockets with a path Landlock does not close: who listens on one has to look at who
//! connects (`bb_runner` does). Its init is
//! no pid 1: orphans come to it because it is their subreaper (`prctl(2)`), and what is
//! left when the command has ended it finds in `/proc` and kills. A command that forks
//! faster than it is looked for can keep that up for as long as its limit of processes
//! lets it.
//!
//! The launcher does not kill init, whose children would then be nobody's, but asks it
//! to end everything ([`KILL_ALL`]); so does the kernel when the launcher dies.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::libc;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{AccessFlags, Pid, faccessat, getpid};

use crate::done::Usage;
use crate::init::Assignment;
use crate::landlock::Rules;
use crate::paths::open_place;
use crate::{process_tree, rlimits, sys};

/// What it takes: Linux 6.7, whose Landlock knows TCP.
pub(crate) const LANDLOCK_ABI: i32 = 4;

/// Has init end everything in its sandbox, and itself.
pub(crate) const KILL_ALL: Signal = Signal::SIGUSR1;

/// What init waits for. Blocked until then, so that none is missed.
fn awaited() -> SigSet {
    SigSet::from_iter([Signal::SIGCHLD, Signal::SIGTERM, KILL_ALL])
}

/// In init, before there is a command.
pub(crate) fn own_process_tree(proc: BorrowedFd<'_>) -> nix::Result<()> {
    // What cannot be found cannot be ended (CONFIG_PROC_CHILDREN).
    let own = format!("self/task/{}/children", getpid());
    faccessat(proc, own.as_str(), AccessFlags::R_OK, AtFlags::empty())?;
    awaited().thread_block()?;
    sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1)?;
    // Before a command comes, the end of the channel tells.
    sys::prctl(libc::PR_SET_PDEATHSIG, KILL_ALL as libc::c_ulong)?;
    // The launcher's memory, of which this is a copy, is nobody's business.
    sys::prctl(libc::PR_SET_DUMPABLE, 0).map(drop)
}

/// What every command may open; the policy's places come on top.
pub(crate) fn rules(scopes: bool) -> nix::Result<Rules> {
    let mut rules = Rules::without_tcp(scopes)?;
    // Of processes outside of its domain it reads no more than their names.
    for path in [c"/etc", c"/proc"] {
        rules.allow_reading(open_place(path)?.as_fd())?;
    }
    for path in [
        c"/dev/null",
        c"/dev/zero",
        c"/dev/full",
        c"/dev/random",
        c"/dev/urandom",
    ] {
        rules.allow_file(open_place(path)?.as_fd())?;
    }
    Ok(rules)
}

/// The command's own places.
pub(crate) fn allow_own(rules: &mut Rules, assignment: &Assignment) -> nix::Result<()> {
    rules.allow_file(assignment.stdout.as_fd())?;
    rules.allow_file(assignment.stderr.as_fd())?;
    rules.allow_all(assignment.input.as_fd())?;
    match &assignment.temporary {
        Some(temporary) => rules.allow_all(temporary.as_fd()),
        None => Ok(()),
    }
}

/// Reaps until the command has ended: its status. Where init is told to end everything
/// it does not return.
pub(crate) fn wait(proc: BorrowedFd<'_>, command: Pid) -> nix::Result<libc::c_int> {
    loop {
        while let Some((reaped, status)) = sys::wait_any_now()? {
            if reaped == command {
                return Ok(status);
            }
        }
        match awaited().wait()? {
            Signal::SIGTERM => signal_all(proc, Signal::SIGTERM),
            KILL_ALL => {
                let ended = reap_all(proc);
                sys::exit_now(i32::from(ended.is_err()));
            }
            _ => {}
        }
    }
}

/// Kills and reaps everything that is left, and says what all of it used.
pub(crate) fn reap_all(proc: BorrowedFd<'_>) -> nix::Result<Usage> {
    loop {
        signal_all(proc, Signal::SIGKILL);
        // Children of what dies become this process's, which looks again.
        match sys::wait_any() {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(rlimits::usage(&sys::usage_of_children()?))
}

fn signal_all(proc: BorrowedFd<'_>, signal: Signal) {
    for pid in process_tree::descendants(proc, getpid()) {
        // It may be gone. Numbers are given out again only after all others were.
        let _ = kill(pid, signal);
    }
}
