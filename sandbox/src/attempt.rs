//! Trying what the host allows, in a child that is thrown away.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, mkdir, pipe};

use crate::paths::open_place;
use crate::{sys, user_namespace};

/// In place of an errno: what it rests on failed before.
pub(crate) const NOT_REACHED: i32 = -1;

/// What root mode uses, with their numbers (`capabilities(7)`).
pub(crate) const ROOT_CAPABILITIES: [(u32, &str); 7] = [
    (1, "CAP_DAC_OVERRIDE"),
    (2, "CAP_DAC_READ_SEARCH"),
    (3, "CAP_FOWNER"),
    (5, "CAP_KILL"),
    (6, "CAP_SETGID"),
    (7, "CAP_SETUID"),
    (21, "CAP_SYS_ADMIN"),
];

/// Lets networks be used again ([`crate::network`]); nothing rests on it.
pub(crate) const CAP_NET_ADMIN: u32 = 12;

/// Each an errno, 0 when it worked, or [`NOT_REACHED`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attempts {
    pub(crate) user: i32,
    pub(crate) mount: i32,
    pub(crate) pid: i32,
    pub(crate) ipc: i32,
    pub(crate) uts: i32,
    pub(crate) network: i32,
    pub(crate) cgroup: i32,
    pub(crate) mount_calls: i32,
    pub(crate) proc: i32,
    pub(crate) seccomp: i32,
    pub(crate) landlock: i32,
    pub(crate) landlock_abi: i32,
    /// Of a user namespace with subordinate ids.
    pub(crate) subordinate: i32,
    /// The effective set of this process.
    pub(crate) capabilities: u64,
}

const RESULTS: usize = 12;

/// Tries everything; `subordinate` is a range of subordinate ids of this user.
pub(crate) fn run(subordinate: Option<(u32, u32)>) -> io::Result<Attempts> {
    let (read_end, write_end) = pipe()?;
    // SAFETY: the process has one thread (the callers' contract), so the child
    // may do anything.
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop(read_end);
            let mut results = [NOT_REACHED; RESULTS];
            attempt_all(&mut results, subordinate);
            let bytes: Vec<u8> = results.iter().flat_map(|r| r.to_le_bytes()).collect();
            let written = File::from(write_end).write_all(&bytes);
            sys::exit_now(i32::from(written.is_err()))
        }
        ForkResult::Parent { child } => {
            drop(write_end);
            let mut bytes = Vec::new();
            let read = File::from(read_end).read_to_end(&mut bytes);
            waitpid(child, None)?;
            read?;
            let mut results = [NOT_REACHED; RESULTS];
            if bytes.len() != RESULTS * 4 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            for (result, chunk) in results.iter_mut().zip(bytes.chunks_exact(4)) {
                *result = i32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
            }
            let [
                user,
                mount,
                pid,
                ipc,
                uts,
                network,
                mount_calls,
                proc,
                seccomp,
                landlock,
                cgroup,
                subordinate,
            ] = results;
            Ok(Attempts {
                user,
                mount,
                pid,
                ipc,
                uts,
                network,
                mount_calls,
                proc,
                seccomp,
                landlock,
                cgroup,
                subordinate,
                landlock_abi: sys::landlock_abi(),
                capabilities: sys::capabilities()?.effective,
            })
        }
    }
}

fn errno_of<T>(result: nix::Result<T>) -> i32 {
    result.err().map_or(0, |errno| errno as i32)
}

/// In the child: fills in what it can.
fn attempt_all(results: &mut [i32; RESULTS], subordinate: Option<(u32, u32)>) {
    results[8] = in_child(|| {
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
        crate::seccomp::program().map_or(Err(Errno::EINVAL), |program| sys::set_seccomp(&program))
    });
    results[9] = in_child(|| {
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
        crate::landlock::forbid_all_files()
    });
    if subordinate.is_some() {
        results[11] = in_child(|| enter_user_namespace(subordinate));
    }
    results[0] = errno_of(enter_user_namespace(None));
    if results[0] != 0 {
        return;
    }
    results[1] = errno_of(unshare(CloneFlags::CLONE_NEWNS));
    results[2] = errno_of(unshare(CloneFlags::CLONE_NEWPID));
    results[3] = errno_of(unshare(CloneFlags::CLONE_NEWIPC));
    results[4] = errno_of(unshare(CloneFlags::CLONE_NEWUTS));
    results[5] = errno_of(unshare(CloneFlags::CLONE_NEWNET).and_then(|()| sys::bring_up(c"lo")));
    results[10] = errno_of(unshare(CloneFlags::CLONE_NEWCGROUP));
    if results[1] == 0 {
        results[6] = errno_of(mount_calls());
        if results[2] == 0 {
            // The first child is the new pid namespace's init.
            results[7] = in_child(|| {
                let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
                mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>)
            });
        }
    }
}

fn enter_user_namespace(range: Option<(u32, u32)>) -> nix::Result<()> {
    let refused = libc::EPERM;
    user_namespace::enter(range)
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(refused)))
}

/// With what every host has: a container's image may have no directory of its own.
fn mount_calls() -> nix::Result<()> {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), "/proc", Some("tmpfs"), flags, None::<&str>)?;
    let tried = clone_and_attach();
    umount2("/proc", MntFlags::MNT_DETACH)?;
    tried
}

/// Puts a read-only clone of the file system on `/proc` into a directory of it.
fn clone_and_attach() -> nix::Result<()> {
    mkdir("/proc/clone", Mode::S_IRWXU)?;
    let place = open_place(c"/proc")?;
    let tree = sys::clone_tree(place.as_fd(), c"")?;
    sys::mount_setattr(tree.as_fd(), sys::READ_ONLY | sys::NO_SUID, 0, true)?;
    sys::move_mount(tree.as_fd(), place.as_fd(), c"clone")
}

pub(crate) fn in_child(attempt: impl FnOnce() -> nix::Result<()>) -> i32 {
    // SAFETY: this process was forked from one with a single thread.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => sys::exit_now(errno_of(attempt())),
        Ok(ForkResult::Parent { child }) => exit_code(child),
        Err(errno) => errno as i32,
    }
}

fn exit_code(child: Pid) -> i32 {
    match waitpid(child, None) {
        Ok(nix::sys::wait::WaitStatus::Exited(_, code)) => code,
        Ok(_) => NOT_REACHED,
        Err(errno) => errno as i32,
    }
}
