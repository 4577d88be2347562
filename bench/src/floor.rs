//! The floor: the same program started plainly, by `posix_spawn(3)`.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// Runs a program once and waits for it.
fn spawn(program: &str) -> Result<Duration> {
    let start = Instant::now();
    let status = Command::new(program)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    ensure!(status.success(), "{program}: {status}");
    Ok(start.elapsed())
}

/// Runs a program `count` times, `parallel` at a time. Gives how long each run
/// took, and all of them together.
pub fn spawns(program: &str, count: usize, parallel: usize) -> Result<(Vec<Duration>, Duration)> {
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    let mut times = Vec::with_capacity(count);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..parallel)
            .map(|_| {
                scope.spawn(|| {
                    let mut times = Vec::new();
                    while next.fetch_add(1, Ordering::Relaxed) < count {
                        times.push(spawn(program)?);
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
