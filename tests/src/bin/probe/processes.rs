//! Attacks 12 to 14: other processes, and processes that outlive the action.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, getpid, pipe2, setsid};

use crate::report::{attempt, check, say};

/// The processes to attack. A number that names this process or the reaper here
/// names another one on the host: it cannot be tried.
fn targets<'a>(pids: &'a [&'a str]) -> impl Iterator<Item = (Pid, u64)> + 'a {
    pids.iter()
        .map(|pid| pid.split_once('@').unwrap_or((pid, "4194304")))
        .filter_map(|(pid, address)| Some((pid.parse().ok()?, address.parse().ok()?)))
        .map(|(pid, address)| (Pid::from_raw(pid), address))
        .filter(|(pid, _)| *pid != getpid() && pid.as_raw() != 1)
}

/// Attack 12: signals processes of the host.
pub fn kill_others(pids: &[&str]) {
    for (pid, _) in targets(pids) {
        attempt(&format!("probe {pid}"), kill(pid, None));
        attempt(
            &format!("pidfd {pid}"),
            pidfd_open(pid).and_then(|pidfd| {
                // SAFETY: the descriptor is open, and no information is passed.
                check(unsafe {
                    let none = std::ptr::null::<libc::siginfo_t>();
                    libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), 9, none, 0)
                })
            }),
        );
        attempt(
            &format!("group {pid}"),
            kill(Pid::from_raw(-pid.as_raw()), Signal::SIGKILL),
        );
        attempt(&format!("kill {pid}"), kill(pid, Signal::SIGKILL));
    }
}

pub fn pidfd_open(pid: Pid) -> Result<OwnedFd, Errno> {
    // SAFETY: the call takes two numbers and gives a new descriptor, which nobody
    // else owns.
    unsafe {
        let pidfd = check(libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0))?;
        Ok(OwnedFd::from_raw_fd(
            i32::try_from(pidfd).map_err(|_| Errno::EBADF)?,
        ))
    }
}

/// Attack 12: signals every process there is, unless they are the host's: then
/// the sandbox has failed already, and whoever runs the tests is to keep theirs.
pub fn kill_everyone(host_namespace: &str) {
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    if namespace == Path::new(host_namespace) || namespace.as_os_str().is_empty() {
        say("kill everyone", "unsafe");
        return;
    }
    let bystander = Command::new("/proc/self/exe").arg("holding").spawn();
    let mut bystander = bystander.expect("a process to be killed");
    attempt("kill everyone", kill(Pid::from_raw(-1), Signal::SIGKILL));
    // That the signal was sent shows in this action's own second process.
    let status = bystander.wait().expect("its end");
    say("bystander", if status.success() { "ended" } else { "OK" });
}

/// Attack 13: traces processes of the host, given as `PID` or `PID@ADDRESS` of
/// something readable in it, and one of its own, which debuggers need to.
pub fn trace(pids: &[&str]) {
    let mut own = Command::new("/proc/self/exe")
        .arg("victim")
        .stdout(Stdio::piped())
        .spawn()
        .expect("a process to be traced");
    let mut line = String::new();
    let output = own.stdout.take().expect("its output");
    BufReader::new(output)
        .read_line(&mut line)
        .expect("its word");
    for (pid, address) in targets(&[line.trim()]) {
        trace_one("own", pid, address);
    }
    // A traced process ends like any other.
    own.kill().expect("its end");
    own.wait().expect("its end");
    for (pid, address) in targets(pids) {
        trace_one(&pid.to_string(), pid, address);
    }
}

fn trace_one(name: &str, pid: Pid, address: u64) {
    let mut local = [0; 8];
    let remote = RemoteIoVec {
        base: usize::try_from(address).unwrap_or(0),
        len: local.len(),
    };
    let buffer = std::io::IoSliceMut::new(&mut local);
    let read = process_vm_readv(pid, &mut [buffer], &[remote]);
    attempt(&format!("process_vm_readv {name}"), read);
    let pidfd = attempt(&format!("pidfd_open {name}"), pidfd_open(pid));
    if let Some(pidfd) = pidfd {
        // SAFETY: the call takes three numbers.
        let taken = check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), 0, 0) });
        attempt(&format!("pidfd_getfd {name}"), taken);
    }
    let seized = ptrace::seize(pid, ptrace::Options::empty());
    if attempt(&format!("seize {name}"), seized).is_none() {
        let attached = ptrace::attach(pid);
        attempt(&format!("attach {name}"), attached);
    }
}

/// Attack 14: leaves three processes behind that do not want to end: one that
/// ignores what can be ignored, one that is stopped, one in the midst of vfork.
/// All hold standard output.
pub fn leave_daemons(marker: &str) {
    for how in ["ignoring", "stopped", "vforking"] {
        let (mut ready, started) = pipe2(OFlag::O_CLOEXEC)
            .map(|(read, write)| (fs::File::from(read), fs::File::from(write)))
            .expect("a pipe");
        // SAFETY: this process has one thread.
        match unsafe { fork() }.expect("a child") {
            ForkResult::Child => {
                setsid().expect("a session");
                // SAFETY: as above.
                if let ForkResult::Parent { .. } = unsafe { fork() }.expect("a grandchild") {
                    std::process::exit(0);
                }
                drop(ready);
                // Standard input tells that the daemon has come into being.
                let error = Command::new("/proc/self/exe")
                    .args(["daemon", how, marker])
                    .stdin(started)
                    .exec();
                panic!("no daemon: {error}");
            }
            ForkResult::Parent { child } => {
                drop(started);
                waitpid(child, None).expect("its end");
                let mut pid = String::new();
                ready.read_to_string(&mut pid).expect("the daemon's word");
                let pid = pid.parse().map(Pid::from_raw).expect("its process id");
                attempt(&format!("daemon {how}"), kill(pid, None));
            }
        }
    }
    std::io::stdout().flush().expect("standard output");
}

/// Attack 16: makes processes that stay, until there may be no more.
pub fn fork_without_end() {
    let mut made = 0;
    let refused = loop {
        // SAFETY: this process has one thread.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => loop {
                nix::unistd::pause();
            },
            Ok(ForkResult::Parent { .. }) => made += 1,
            Err(errno) => break errno,
        }
    };
    attempt("fork", Err::<(), _>(refused));
    say("made", &made.to_string());
}
