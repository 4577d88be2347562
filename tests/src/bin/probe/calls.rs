//! System calls by number, and whether a filter lets them through.

use std::io;

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use crate::report::{attempt, check};

/// The arguments of a system call.
pub type Arguments = [libc::c_long; 6];

/// A pointer as an argument.
pub fn pointer<T>(value: *const T) -> libc::c_long {
    // Addresses of a process are below the sign bit.
    value.addr().cast_signed() as libc::c_long
}

/// Makes a system call as it is.
pub fn call(number: libc::c_long, arguments: Arguments) -> Result<libc::c_long, Errno> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: whoever calls passes what this call takes; memory that the kernel
    // writes to is theirs and outlives the call.
    check(unsafe { libc::syscall(number, a, b, c, d, e, f) })
}

/// Makes a system call, and reports besides whether it gets past every filter:
/// what refuses it then is the kernel, by whatever the host is set to.
pub fn attempt_call(name: &str, number: libc::c_long, arguments: Arguments) {
    attempt(&format!("reach {name}"), reach(number, arguments));
    // What the call gives, a descriptor or a mapping, goes with this process.
    attempt(name, call(number, arguments).map(drop));
}

/// Whether a call gets past every filter. It is not carried out: a filter of this
/// process's own has it traced, and as nobody does it fails with ENOSYS; a filter
/// that refuses is stronger (seccomp(2): the order of return values).
pub fn reach(number: libc::c_long, arguments: Arguments) -> Result<(), Errno> {
    in_child(|| {
        trace(number)?;
        match call(number, arguments) {
            Err(Errno::ENOSYS) => Ok(()),
            Err(errno) => Err(errno),
            // There is a tracer, and it lets all through.
            Ok(_) => Ok(()),
        }
    })
}

fn trace(number: libc::c_long) -> Result<(), Errno> {
    let number = u32::try_from(number).map_err(|_| Errno::EINVAL)?;
    let instruction = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let mut program = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_TRACE),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the program outlives the call, which copies it.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
        check(
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const filter,
            )
            .into(),
        )
        .map(drop)
    }
}

/// Does something in a child, whose state goes with it. A child that a signal ends
/// has tried what is not survived: EINTR.
pub fn in_child(act: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
    // SAFETY: this process has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let code = match act() {
                Ok(()) => 0,
                Err(errno) => errno as i32,
            };
            // SAFETY: leaves at once, without what the parent has registered.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            WaitStatus::Exited(_, code) => Err(Errno::from_raw(code)),
            _ => Err(Errno::EINTR),
        },
    }
}

/// The result of what the standard library does.
pub fn outcome<T>(result: io::Result<T>) -> Result<(), Errno> {
    result
        .map(drop)
        .map_err(|error| crate::report::errno(&error))
}
