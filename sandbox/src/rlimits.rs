//! Resource limits of processes (`setrlimit(2)`), and what they used.

use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;
use nix::unistd::write;

use crate::done::Usage;
use crate::limits::{Limit, Limits};
use crate::sys;

/// Sets the limits of this process; hard limits are only ever lowered.
pub(crate) fn apply(limits: &Limits) -> nix::Result<()> {
    for (limit, resource, hard_too) in [
        (Limit::Core, Resource::RLIMIT_CORE, true),
        (Limit::OpenFiles, Resource::RLIMIT_NOFILE, true),
        (Limit::Processes, Resource::RLIMIT_NPROC, true),
        (Limit::FileSize, Resource::RLIMIT_FSIZE, true),
        (Limit::Stack, Resource::RLIMIT_STACK, false),
    ] {
        if let Some(value) = limits[limit] {
            set(resource, value, hard_too)?;
        }
    }
    Ok(())
}

/// Raises the soft limit of open files to the hard one. Commands get a limit of
/// their own.
pub(crate) fn raise_open_files() -> nix::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
}

/// Most runs that a launcher takes on, those that wait for a sandbox included.
pub(crate) const MOST_RUNS: usize = 4096;

/// Most directories that are being reclaimed at a time, each by a process.
pub const MOST_RECLAIMS: usize = 64;

/// How many commands a launcher of this process's limit of open files can run at a
/// time, with so many sandboxes ready ahead.
#[must_use]
pub fn most_concurrent(pool_size: usize) -> usize {
    // A process, a channel, the input root and the mapping of its mounts, a network's
    // seven, a control group, two outputs, two directories that are watched and two of
    // who does; one in reserve for what is queued.
    const FILES_OF_RUN: u64 = 19;
    // Its own, helpers', those of sandboxes on their way out, and of as many networks.
    const OTHER_FILES: u64 = 384;
    let hard = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(_, hard)| hard);
    let runs = hard.saturating_sub(OTHER_FILES) / FILES_OF_RUN;
    let runs = usize::try_from(runs).unwrap_or(usize::MAX);
    // Those ready, and as many networks again that wait for a sandbox.
    runs.saturating_sub(2 * pool_size).min(MOST_RUNS)
}

/// Gives this process, and those it starts, the highest `oom_score_adj`
/// (`proc_pid_oom_score_adj(5)`). For a process that `vfork(2)` made: memory that
/// is shared with another has one owner in `/proc`, root unless it is dumpable.
pub(crate) fn be_out_of_memory_first() -> nix::Result<()> {
    sys::prctl(libc::PR_SET_DUMPABLE, 1)?;
    let written = open(
        c"/proc/self/oom_score_adj",
        OFlag::O_WRONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .and_then(|file| write(&file, b"1000"));
    sys::prctl(libc::PR_SET_DUMPABLE, 0)?;
    match written {
        // Some container runtimes do not permit it; it only says who goes first.
        Ok(_) | Err(Errno::EACCES | Errno::EPERM | Errno::EROFS) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn set(resource: Resource, value: u64, hard_too: bool) -> nix::Result<()> {
    let (_, hard) = getrlimit(resource)?;
    let value = value.min(hard);
    setrlimit(resource, value, if hard_too { value } else { hard })
}

/// In our units.
pub(crate) fn usage(usage: &libc::rusage) -> Usage {
    let count = |value: libc::c_long| u64::try_from(value).unwrap_or_default();
    let time = |value: libc::timeval| {
        Duration::from_secs(count(value.tv_sec)) + Duration::from_micros(count(value.tv_usec))
    };
    Usage {
        user_time: time(usage.ru_utime),
        system_time: time(usage.ru_stime),
        // The kernel counts in KiB.
        maximum_resident_set_size: count(usage.ru_maxrss) * 1024,
        page_reclaims: count(usage.ru_minflt),
        page_faults: count(usage.ru_majflt),
        block_input_operations: count(usage.ru_inblock),
        block_output_operations: count(usage.ru_oublock),
        voluntary_context_switches: count(usage.ru_nvcsw),
        involuntary_context_switches: count(usage.ru_nivcsw),
    }
}
