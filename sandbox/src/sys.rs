//! System calls that no crate wraps. Everything here is raw, checked for -1
//! and returned as [`Errno`]; what each call is for stands where it is used.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::unistd::Pid;

mod mount;
mod overlay;
mod process;

pub(crate) use mount::{
    NO_ATIME, NO_DEV, NO_EXEC, NO_SUID, READ_ONLY, clone_tree, mount_setattr, move_mount,
};
pub(crate) use overlay::{FileSystem, clone_mount, map_ids_of_mount};
pub(crate) use process::{Sleeper, clone_into, clone_process, vfork_run};

type Result<T> = nix::Result<T>;

/// Capabilities of `capset(2)`, version 3, as one 64-bit set each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Capabilities {
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Reads the capabilities of this process.
pub(crate) fn capabilities() -> Result<Capabilities> {
    let header = CapabilityHeader {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    let mut data = [[0_u32; 3]; 2];
    // SAFETY: version 3 writes exactly two structures of three 32-bit words.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) };
    Errno::result(result)?;
    let word = |n: usize| u64::from(data[0][n]) | u64::from(data[1][n]) << 32;
    Ok(Capabilities {
        effective: word(0),
        permitted: word(1),
        inheritable: word(2),
    })
}

/// Replaces the capabilities of this process.
pub(crate) fn set_capabilities(wanted: Capabilities) -> Result<()> {
    let header = CapabilityHeader {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    let words = |shift: u32| {
        [wanted.effective, wanted.permitted, wanted.inheritable]
            .map(|set| (set >> shift & 0xffff_ffff) as u32)
    };
    let data = [words(0), words(32)];
    // SAFETY: version 3 reads exactly two structures of three 32-bit words.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    Errno::result(result).map(drop)
}

/// `prctl(2)` with integer arguments only.
pub(crate) fn prctl(option: libc::c_int, argument: libc::c_ulong) -> Result<libc::c_int> {
    let zero: libc::c_ulong = 0;
    // SAFETY: used with options that take no pointer.
    Errno::result(unsafe { libc::prctl(option, argument, zero, zero, zero) })
}

/// `prctl(PR_CAP_AMBIENT, ...)` takes its operation as second argument.
pub(crate) fn clear_ambient() -> Result<()> {
    prctl(
        libc::PR_CAP_AMBIENT,
        libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong,
    )
    .map(drop)
}

/// Closes every descriptor from `first` to `last`.
pub(crate) fn close_range(first: u32, last: u32) -> Result<()> {
    // SAFETY: the callers own no descriptor in the range that they use again.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    Errno::result(result).map(drop)
}

/// Closes one descriptor by number.
pub(crate) fn close(fd: libc::c_int) -> Result<()> {
    let fd = u32::try_from(fd).map_err(|_| Errno::EBADF)?;
    close_range(fd, fd)
}

/// Nothing that is executed can have a capability any more; those that this
/// process holds stay.
pub(crate) fn empty_bounding_set() -> Result<()> {
    for capability in 0..64 {
        match prctl(libc::PR_CAPBSET_DROP, capability) {
            Ok(_) => {}
            // Beyond the kernel's last.
            Err(Errno::EINVAL) if capability > 0 => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Sets the NIS domain name of this uts namespace.
pub(crate) fn set_domain_name(name: &str) -> Result<()> {
    // SAFETY: the length is the text's own.
    Errno::result(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// Has SIGTERM to this process, a pid 1, passed on to every other one of its pid
/// namespace.
pub(crate) fn pass_on_termination() -> Result<()> {
    extern "C" fn pass_on(_: libc::c_int) {
        // SAFETY: no pointers; kill(2) is safe in a signal handler.
        unsafe { libc::kill(-1, libc::SIGTERM) };
    }
    // SAFETY: a structure of integers: all zeroes is a value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = pass_on as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the action outlives the call; its handler touches nothing of ours.
    let result = unsafe { libc::sigaction(libc::SIGTERM, &raw const action, std::ptr::null_mut()) };
    Errno::result(result).map(drop)
}

/// Sends a signal to the process that a pidfd names.
pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: libc::c_int) -> Result<()> {
    // SAFETY: a null siginfo is allowed and means the default.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    Errno::result(result).map(drop)
}

/// `setresuid` and `setresgid` of this process alone, with all three ids the
/// same. The C library's wrappers talk to other threads, which there are none.
pub(crate) fn take_ids(uid: u32, gid: u32) -> Result<()> {
    // SAFETY: no pointers.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: no pointers.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// The niceness of this process (`getpriority(2)`).
pub(crate) fn niceness() -> Result<i32> {
    // SAFETY: no pointers. The bare call gives 20 less the niceness, which unlike what
    // the C library makes of it is never negative.
    let left = unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, 0) };
    Errno::result(left).map(|left| 20 - left as i32)
}

/// Sets the niceness of a process; `None`: this one (`setpriority(2)`).
pub(crate) fn set_niceness(process: Option<Pid>, niceness: i32) -> Result<()> {
    let process = process.map_or(0, Pid::as_raw);
    // SAFETY: no pointers.
    let result =
        unsafe { libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, process, niceness) };
    Errno::result(result).map(drop)
}

/// Ends this process at once, without any of the library's clean-up.
pub(crate) fn exit_now(code: libc::c_int) -> ! {
    // SAFETY: ends the process; nothing runs after it.
    unsafe { libc::_exit(code) }
}

/// Closes every descriptor but 0, 1, 2 and these.
pub(crate) fn close_all_but(keep: &[libc::c_int]) -> Result<()> {
    let mut keep: Vec<u32> = keep.iter().filter_map(|fd| (*fd).try_into().ok()).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = first.max(fd + 1);
    }
    close_range(first, u32::MAX)
}

/// Makes `to` the same as `from`, open across `execve(2)`.
pub(crate) fn duplicate_to(from: libc::c_int, to: libc::c_int) -> Result<()> {
    // SAFETY: `to` is one of the standard three, which nothing here owns.
    Errno::result(unsafe { libc::dup2(from, to) }).map(drop)
}

const SIGNAL_SET_BYTES: usize = 8;

/// The default action for every signal but one. The C library's functions would leave
/// out the two that it keeps for itself.
pub(crate) fn default_signals_but(kept: libc::c_int) -> Result<()> {
    (1..=64)
        .filter(|signal| ![libc::SIGKILL, libc::SIGSTOP, kept].contains(signal))
        .try_for_each(default_signal)
}

/// The default action for a signal.
pub(crate) fn default_signal(signal: libc::c_int) -> Result<()> {
    // Handler, flags, restorer and mask of the kernel's `struct sigaction`.
    let default = [0_u64; 4];
    // SAFETY: reads one action of at most that size, which runs no code.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            default.as_ptr(),
            std::ptr::null_mut::<u64>(),
            SIGNAL_SET_BYTES,
        )
    };
    Errno::result(result).map(drop)
}

/// No signal is blocked. The C library's function would leave out the two that it
/// keeps for itself, which whoever started us may have left blocked.
pub(crate) fn unblock_signals() -> Result<()> {
    let none = 0_u64;
    // SAFETY: reads one set of the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            std::ptr::null_mut::<u64>(),
            SIGNAL_SET_BYTES,
        )
    };
    Errno::result(result).map(drop)
}

/// Waits for any child; its raw wait status.
pub(crate) fn wait_any() -> Result<(Pid, libc::c_int)> {
    let mut status = 0;
    // SAFETY: `status` outlives the call. __WALL: also children whose exit
    // signal is not SIGCHLD, which a command's orphans may be.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL) };
    Errno::result(pid).map(|pid| (Pid::from_raw(pid), status))
}

/// As [`wait_any`], but does not wait: nothing where no child has ended.
pub(crate) fn wait_any_now() -> Result<Option<(Pid, libc::c_int)>> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::WNOHANG) };
    match Errno::result(pid) {
        Ok(0) | Err(Errno::ECHILD) => Ok(None),
        pid => pid.map(|pid| Some((Pid::from_raw(pid), status))),
    }
}

/// Waits for one child: its raw wait status and what it and all that it waited
/// for used.
pub(crate) fn wait_with_usage(pid: Pid) -> Result<(libc::c_int, libc::rusage)> {
    let mut status = 0;
    // SAFETY: a structure of integers: all zeroes is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both outlive the call.
    let result = unsafe { libc::wait4(pid.as_raw(), &raw mut status, 0, &raw mut usage) };
    Errno::result(result)?;
    Ok((status, usage))
}

/// What all children that were waited for used.
pub(crate) fn usage_of_children() -> Result<libc::rusage> {
    // SAFETY: a structure of integers: all zeroes is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` outlives the call.
    Errno::result(unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) })?;
    Ok(usage)
}

/// A null-terminated array of pointers to these texts, valid while they live.
pub(crate) fn pointers(texts: &[std::ffi::CString]) -> Vec<*const libc::c_char> {
    let mut pointers: Vec<_> = texts.iter().map(|text| text.as_ptr()).collect();
    pointers.push(std::ptr::null());
    pointers
}

/// `execve(2)`; only returns when it fails. The arrays come from [`pointers`].
pub(crate) fn execute(
    program: &CStr,
    arguments: &[*const libc::c_char],
    environment: &[*const libc::c_char],
) -> Errno {
    // SAFETY: `program` is a C string, and both arrays end with a null and
    // point to C strings that their maker's owner keeps alive.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    Errno::last()
}

/// Where in memory the arguments of this process are, as `/proc` shows them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arguments {
    start: usize,
    length: usize,
}

/// From `/proc/self/stat` (`proc_pid_stat(5)`): `arg_start` and `arg_end`.
pub(crate) fn arguments() -> std::io::Result<Arguments> {
    let invalid = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field, a name in parentheses, may hold anything.
    let (_, rest) = stat.rsplit_once(')').ok_or_else(invalid)?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |field: usize| {
        fields
            .get(field - 3)
            .and_then(|text| text.parse::<usize>().ok())
            .ok_or_else(invalid)
    };
    let (start, end) = (number(48)?, number(49)?);
    Ok(Arguments {
        start,
        length: end.saturating_sub(start),
    })
}

/// Overwrites them with zeroes, so that nobody reads them in `/proc`.
///
/// For a copied process that does not look at its arguments again.
pub(crate) fn clear_arguments(arguments: Arguments) {
    if arguments.start != 0 {
        // SAFETY: the kernel says that the argument strings lie there, on the
        // writable initial stack; nothing of this process reads them again.
        unsafe {
            std::ptr::write_bytes(
                std::ptr::with_exposed_provenance_mut::<u8>(arguments.start),
                0,
                arguments.length,
            );
        }
    }
}

/// Runs what never returns, in a copied process. A panic ends that process
/// rather than unwind into code that is the original's.
pub(crate) fn never_return(body: impl FnOnce() -> std::convert::Infallible) -> ! {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
        Ok(never) => match never {},
        Err(_) => exit_now(101),
    }
}

/// Loads a filter with `prctl(PR_SET_SECCOMP)`.
pub(crate) fn set_seccomp(program: &[seccompiler::sock_filter]) -> Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::E2BIG)?,
        filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    // SAFETY: seccompiler's sock_filter has the kernel's layout; the kernel
    // only reads `len` of them, which the slice holds.
    let result = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    Errno::result(result).map(drop)
}

/// Landlock's ABI; 0: none.
pub(crate) fn landlock_abi() -> libc::c_int {
    const CREATE_RULESET_VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the pointer must be null and the size 0.
    let abi = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0_usize,
            CREATE_RULESET_VERSION,
        )
    };
    abi.max(0) as libc::c_int
}

/// Sets the flags of a network device by name, in this network namespace.
pub(crate) fn bring_up(name: &CStr) -> Result<()> {
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: a structure of integers and byte arrays: all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.to_bytes()) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq.
    let result = unsafe {
        libc::ioctl(
            socket.as_fd().as_raw_fd(),
            libc::SIOCSIFFLAGS,
            &raw mut request,
        )
    };
    Errno::result(result).map(drop)
}

fn owned(fd: libc::c_long) -> Result<OwnedFd> {
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel has just returned this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}
