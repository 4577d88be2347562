//! The floors: the same program started plainly, by `fork(2)` and `execve(2)`, and
//! by `posix_spawn(3)`, which shares the starter's memory and is the quicker.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// How a program is started.
#[derive(Clone, Copy)]
pub enum Floor {
    /// `fork(2)` and `execve(2)`.
    Fork,
    /// `posix_spawn(3)`.
    Spawn,
}

/// Runs a program once and waits for it.
fn run_once(floor: Floor, program: &str) -> Result<Duration> {
    let mut command = Command::new(program);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Floor::Fork = floor {
        // Setting a group, the present one here, is what posix_spawn cannot do: the
        // standard library then forks.
        command.gid(nix::unistd::getegid().as_raw());
    }
    let start = Instant::now();
    let status = command.status()?;
    ensure!(status.success(), "{program}: {status}");
    Ok(start.elapsed())
}

/// Runs a program `count` times, `parallel` at a time. Gives how long each run
/// took, and all of them together.
pub fn runs(
    floor: Floor,
    program: &str,
    count: usize,
    parallel: usize,
) -> Result<(Vec<Duration>, Duration)> {
    at_a_time(count, parallel, || run_once(floor, program))
}

/// Does something that tells how long it took, `count` times, `parallel` at a time.
/// Gives how long each took, and all of them together.
pub fn at_a_time(
    count: usize,
    parallel: usize,
    once: impl Fn() -> Result<Duration> + Sync,
) -> Result<(Vec<Duration>, Duration)> {
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    let mut times = Vec::with_capacity(count);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..parallel)
            .map(|_| {
                scope.spawn(|| {
                    let mut times = Vec::new();
                    while next.fetch_add(1, Ordering::Relaxed) < count {
                        times.push(once()?);
                    }
                    anyhow::Ok(times)
                })
            })
            .collect();
        for thread in threads {
            match thread.join() {
                Ok(ran) => times.extend(ran?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        anyhow::Ok(())
    })?;
    Ok((times, start.elapsed()))
}
