//! Processes that are started.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::unistd::Pid;

use super::{Result, exit_now, owned, wait_with_usage};

/// Of `clone3(2)`; in `libc` it is of a type that does not hold it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// [`clone_process`] into a control group, by `clone3(2)`.
pub(crate) fn clone_into(
    namespaces: libc::c_int,
    cgroup: BorrowedFd<'_>,
) -> Result<Option<(Pid, OwnedFd)>> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: a structure of integers: all zeroes is a value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = (namespaces | libc::CLONE_PIDFD) as u64 | CLONE_INTO_CGROUP;
    arguments.pidfd = (&raw mut pidfd) as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.cgroup = cgroup.as_raw_fd() as u64;
    // SAFETY: as for `clone_process`; the structure is of the size that is passed.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<libc::clone_args>(),
        )
    };
    match Errno::result(pid)? {
        0 => Ok(None),
        pid => Ok(Some((
            Pid::from_raw(pid as libc::pid_t),
            owned(pidfd.into())?,
        ))),
    }
}

/// A copy of this process in new namespaces; `None` in the copy.
///
/// The caller must have a single thread.
pub(crate) fn clone_process(namespaces: libc::c_int) -> Result<Option<(Pid, OwnedFd)>> {
    let mut pidfd: libc::c_int = -1;
    let flags = namespaces | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: without CLONE_VM and with a null stack this is fork(2): the copy
    // goes on on its copy of this stack. `pidfd` is written before it returns.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone,
            libc::c_long::from(flags),
            0_usize,
            &raw mut pidfd,
            0_usize,
            0_usize,
        )
    };
    match Errno::result(pid)? {
        0 => Ok(None),
        pid => Ok(Some((
            Pid::from_raw(pid as libc::pid_t),
            owned(pidfd.into())?,
        ))),
    }
}

const STACK_BYTES: usize = 512 << 10;

/// Runs `body` in a child that shares this memory, while this process stands
/// still until the child executes a program or `body` returns. The child is in new
/// `namespaces` (`CLONE_NEW*`).
///
/// The caller must have a single thread, and no signal handlers.
pub(crate) fn vfork_run<F: FnMut()>(namespaces: libc::c_int, mut body: F) -> Result<Pid> {
    extern "C" fn trampoline<F: FnMut()>(body: *mut libc::c_void) -> libc::c_int {
        // SAFETY: `body` is the address of the caller's closure, which waits
        // for us in the suspended parent.
        let body = unsafe { &mut *body.cast::<F>() };
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        exit_now(i32::from(run.is_err()))
    }
    let mut stack = vec![0_u128; STACK_BYTES / size_of::<u128>()];
    // SAFETY: the stack is aligned, ours, large enough for the steps of a
    // command, and outlives the child's use of it, since CLONE_VFORK suspends
    // us until then. Memory is shared, but nothing runs at the same time.
    let pid = unsafe {
        libc::clone(
            trampoline::<F>,
            stack.as_mut_ptr().add(stack.len()).cast(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD | namespaces,
            (&raw mut body).cast(),
        )
    };
    Errno::result(pid).map(Pid::from_raw)
}

/// A process in new namespaces that does nothing, for the sake of those. It shares
/// this one's memory, so that no page table is copied, and dies with this one.
pub(crate) struct Sleeper {
    pub(crate) pid: Pid,
    /// In use until it is reaped.
    _stack: Vec<u128>,
}

/// Enough for two system calls.
const SLEEPER_STACK_BYTES: usize = 16 << 10;

impl Sleeper {
    /// The caller must have a single thread, and block every signal that it handles.
    pub(crate) fn start(namespaces: libc::c_int) -> Result<Self> {
        extern "C" fn sleep(_: *mut libc::c_void) -> libc::c_int {
            // Bare calls: where they fail they write an errno that is the parent's.
            // SAFETY: no pointers.
            unsafe {
                libc::prctl(
                    libc::PR_SET_PDEATHSIG,
                    libc::SIGKILL as libc::c_ulong,
                    0,
                    0,
                    0,
                )
            };
            loop {
                // SAFETY: no pointers. It returns from handled signals alone.
                unsafe { libc::pause() };
            }
        }
        let mut stack = vec![0_u128; SLEEPER_STACK_BYTES / size_of::<u128>()];
        // SAFETY: the stack is aligned, ours, and lives until `drop` has seen the
        // process dead. Beside that stack it touches no memory.
        let pid = unsafe {
            libc::clone(
                sleep,
                stack.as_mut_ptr().add(stack.len()).cast(),
                namespaces | libc::CLONE_VM | libc::SIGCHLD,
                std::ptr::null_mut(),
            )
        };
        Errno::result(pid).map(|pid| Self {
            pid: Pid::from_raw(pid),
            _stack: stack,
        })
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // Not reaped, so that the number is still its own.
        let _ = nix::sys::signal::kill(self.pid, nix::sys::signal::Signal::SIGKILL);
        while matches!(wait_with_usage(self.pid), Err(Errno::EINTR)) {}
    }
}
