//! Attack 53: the process that reaps this action's and reports its end.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::uio::{RemoteIoVec, process_vm_writev};
use nix::unistd::Pid;

use crate::calls::{attempt_call, call, outcome, pointer};
use crate::processes::pidfd_open;
use crate::report::attempt;

const REAPER: Pid = Pid::from_raw(1);

/// Attack 53: ends, stops, takes over or imitates the reaper. Whether a signal
/// that the kernel takes has an effect shows in the exit code, which is 42 if the
/// reaper reports it as it was.
pub fn forge() -> ExitCode {
    // The reaper passes it on to everybody, which anybody here could do: no harm.
    // SAFETY: no handler runs.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
    signals();
    let memory = File::options().write(true).open("/proc/1/mem");
    attempt("write to its memory", outcome(memory));
    let bytes = [0_u8; 8];
    let local = std::io::IoSlice::new(&bytes);
    let remote = RemoteIoVec { base: 4096, len: 8 };
    let written = process_vm_writev(REAPER, &[local], &[remote]);
    // An address that is not there is none that may not be written.
    let written = match written {
        Err(Errno::EFAULT) => Ok(0),
        other => other,
    };
    attempt("process_vm_writev", written);
    attempt("attach", ptrace::attach(REAPER));
    attempt("seize", ptrace::seize(REAPER, ptrace::Options::empty()));
    descriptors();
    limits();
    for file in [
        "oom_score_adj",
        "comm",
        "timerslack_ns",
        "coredump_filter",
        "uid_map",
        "attr/current",
    ] {
        let opened = File::options().write(true).open(format!("/proc/1/{file}"));
        let written = opened.and_then(|mut file| std::io::Write::write(&mut file, b"0"));
        attempt(&format!("write {file}"), outcome(written));
    }
    ExitCode::from(42)
}

fn signals() {
    for signal in [
        Signal::SIGSTOP,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGCHLD,
        Signal::SIGSEGV,
        Signal::SIGXCPU,
        Signal::SIGKILL,
    ] {
        attempt(&format!("signal {signal}"), kill(REAPER, signal));
        // A pipe that announces data to whom its owner says, by the signal its
        // owner says.
        attempt(&format!("signal by file {signal}"), by_file(signal));
    }
    // A siginfo_t of 128 bytes: signal, errno, SI_QUEUE.
    let mut information = [0_i32; 32];
    information[0] = libc::SIGKILL;
    information[2] = -1;
    let kill = libc::SIGKILL.into();
    let queue = [1, kill, pointer(&information), 0, 0, 0];
    let queued = call(libc::SYS_rt_sigqueueinfo, queue);
    attempt("signal by queue", queued);
    if let Some(pidfd) = attempt("signal by pidfd: open", pidfd_open(REAPER)) {
        let send = [pidfd.as_raw_fd().into(), kill, 0, 0, 0, 0];
        attempt("signal by pidfd", call(libc::SYS_pidfd_send_signal, send));
    }
}

fn by_file(signal: Signal) -> Result<(), Errno> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use std::io::Write;
    let (reader, writer) = nix::unistd::pipe()?;
    let control = |command: libc::c_long, value: libc::c_long| {
        call(
            libc::SYS_fcntl,
            [reader.as_raw_fd().into(), command, value, 0, 0, 0],
        )
    };
    const SET_OWNER: libc::c_long = 8;
    const SET_SIGNAL: libc::c_long = 10;
    control(SET_OWNER, 1)?;
    control(SET_SIGNAL, (signal as i32).into())?;
    fcntl(
        &reader,
        FcntlArg::F_SETFL(OFlag::O_ASYNC | OFlag::O_NONBLOCK),
    )?;
    outcome(File::from(writer).write_all(b"x"))
}

/// Its connection to whoever waits for its report.
fn descriptors() {
    attempt("list its descriptors", outcome(fs::read_dir("/proc/1/fd")));
    let reaper = pidfd_open(REAPER);
    for fd in 0..16 {
        if let Ok(reaper) = &reaper {
            let take = [reaper.as_raw_fd().into(), fd, 0, 0, 0, 0];
            let taken = call(libc::SYS_pidfd_getfd, take);
            attempt(&format!("take descriptor {fd}"), taken);
        }
        let opened = File::options().write(true).open(format!("/proc/1/fd/{fd}"));
        attempt(&format!("open descriptor {fd}"), outcome(opened));
    }
}

/// Limits that would end it.
fn limits() {
    let none = [0_u64, 0];
    for (name, resource) in [
        ("processor time", libc::RLIMIT_CPU),
        ("descriptors", libc::RLIMIT_NOFILE),
        ("memory", libc::RLIMIT_AS),
        ("file size", libc::RLIMIT_FSIZE),
    ] {
        let set = [1, libc::c_long::from(resource), pointer(&none), 0, 0, 0];
        attempt_call(&format!("limit {name}"), libc::SYS_prlimit64, set);
    }
}
