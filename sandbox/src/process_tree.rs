//! The processes of a sandbox, seen from outside in `/proc` (`proc(5)`).

use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;

use nix::dir::Dir;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

/// Most processes that are looked at: a kernel's default `pid_max`.
const MOST: usize = 32_768;

/// What all processes use together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Use {
    /// Memory that is not a file's, swapped out or not; what several processes share
    /// counts for each of them.
    pub(crate) memory: u64,
    /// Processes and threads.
    pub(crate) processes: u64,
}

/// All descendants of `init`, in no order. Those that come and go meanwhile may be
/// missing; without `CONFIG_PROC_CHILDREN` all are.
pub(crate) fn descendants(proc: BorrowedFd<'_>, init: Pid) -> Vec<Pid> {
    let mut found = children(proc, init);
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        if found.len() > MOST {
            break;
        }
        found.extend(children(proc, pid));
        next += 1;
    }
    found
}

fn children(proc: BorrowedFd<'_>, of: Pid) -> Vec<Pid> {
    let tasks = format!("{of}/task");
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let Ok(mut directory) = Dir::openat(proc, tasks.as_str(), flags, Mode::empty()) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in directory.iter().flatten() {
        let name = entry.file_name().to_string_lossy();
        if name.starts_with('.') {
            continue;
        }
        let text = read(proc, &format!("{tasks}/{name}/children"));
        let pids = text.split_ascii_whitespace();
        found.extend(pids.filter_map(|pid| pid.parse().ok().map(Pid::from_raw)));
    }
    found
}

/// What all descendants of `init` use.
pub(crate) fn total(proc: BorrowedFd<'_>, init: Pid) -> Use {
    let mut total = Use::default();
    for pid in descendants(proc, init) {
        let one = parse(&read(proc, &format!("{pid}/status")));
        total.memory = total.memory.saturating_add(one.memory);
        total.processes = total.processes.saturating_add(one.processes);
    }
    total
}

fn parse(status: &str) -> Use {
    let mut found = Use::default();
    for line in status.lines() {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let number = value.split_ascii_whitespace().next();
        let number: u64 = number.and_then(|text| text.parse().ok()).unwrap_or(0);
        match name {
            "RssAnon" | "RssShmem" | "VmSwap" => found.memory += number * 1024,
            "Threads" => found.processes = number,
            _ => {}
        }
    }
    found
}

/// Empty for what is gone.
fn read(proc: BorrowedFd<'_>, path: &str) -> String {
    let mut text = String::new();
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    if let Ok(file) = openat(proc, path, flags, Mode::empty()) {
        // A process may have died meanwhile.
        let _ = File::from(file).read_to_string(&mut text);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::process::Command;

    use super::*;

    #[test]
    fn the_processes_below_one_are_found() {
        let proc = File::open("/proc").unwrap();
        let mut child = Command::new("sh")
            .args(["-c", "sleep 1000 & echo; wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut line)
            .unwrap();
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        let below = descendants(proc.as_fd(), pid);
        assert_eq!(below.len(), 1, "{below:?}");
        let used = total(proc.as_fd(), pid);
        assert_eq!(used.processes, 1);
        assert!(used.memory > 0);
        nix::sys::signal::kill(below[0], nix::sys::signal::Signal::SIGKILL).unwrap();
        child.wait().unwrap();
        assert_eq!(total(proc.as_fd(), pid), Use::default());
    }

    #[test]
    fn memory_is_what_no_file_backs() {
        let status = "Name:\tx\nRssAnon:\t  10 kB\nRssFile:\t 99 kB\nRssShmem:\t 1 kB\n\
                      VmSwap:\t 2 kB\nThreads:\t3\n";
        let expected = Use {
            memory: 13 * 1024,
            processes: 3,
        };
        assert_eq!(parse(status), expected);
    }
}
