//! Being the first process of a container.
//!
//! The kernel gives pid 1 the orphans of its namespace to reap, and keeps signals from
//! it that it has no handler for. So a program that finds itself pid 1 starts itself
//! once more and stays behind as its *init*: that reaps whatever ends, passes SIGTERM
//! and SIGINT on to the program and to nobody else, and ends with the program, as it
//! did. Everything else in the namespace then ends too (`pid_namespaces(7)`).

use std::convert::Infallible;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};

/// Becomes the init if this is pid 1: then it does not return. Where the program
/// cannot be started again (there is no `/proc`), it goes on as it is, and says so.
pub(crate) fn split_off() {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD]);
    if getpid().as_raw() != 1 {
        // An init blocked them, and children begin as their parents are.
        let _ = signals.thread_unblock();
        return;
    }
    match run(&signals) {
        Ok(never) => match never {},
        Err(error) => eprintln!("cannot be an init, orphans will not be reaped: {error}"),
    }
}

fn run(signals: &SigSet) -> io::Result<Infallible> {
    // Blocked before the program is there, so that none is lost.
    signals.thread_block()?;
    let started = start();
    if started.is_err() {
        signals.thread_unblock()?;
    }
    let program = started?;
    loop {
        match signals.wait()? {
            Signal::SIGCHLD => {
                if let Some(code) = reap(program)? {
                    std::process::exit(code);
                }
            }
            // It may have ended just now.
            signal => drop(kill(program, signal)),
        }
    }
}

/// Starts this program once more.
fn start() -> io::Result<Pid> {
    let mut arguments = std::env::args_os();
    // By its name, which is what people see; that may lead nowhere any more.
    let named = std::env::current_exe().ok().filter(|path| path.exists());
    let mut command = Command::new(named.unwrap_or_else(|| "/proc/self/exe".into()));
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    // Sockets that were passed to pid 1 are the program's.
    if std::env::var("LISTEN_PID").is_ok_and(|pid| pid == "1") {
        command.env_remove("LISTEN_PID");
    }
    // A terminal's Ctrl-C goes to all of a process group, and would arrive twice.
    command.args(arguments).process_group(0);
    let child = command.spawn()?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    Ok(Pid::from_raw(pid))
}

/// Reaps all that has ended. Gives the exit code of the program if that has.
fn reap(program: Pid) -> nix::Result<Option<i32>> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == program => return Ok(Some(code)),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == program => {
                return Ok(Some(128 + signal as i32));
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(None),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}
