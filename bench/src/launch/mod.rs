//! What it costs to start a program in a sandbox.
//!
//! `true` through the launcher, with every protection, beside two floors of the same
//! run: `posix_spawn` of it, and bubblewrap with the same namespaces. They take turns
//! in rounds: back to back, with a pause after each, and several at a time. Processor
//! time is the whole of a launch: making the next sandbox ahead and taking the last
//! one down are in it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use nix::sys::resource::{UsageWho, getrusage};
use tempfile::TempDir;

use crate::floor::{self, Floor};
use crate::statistics::{milliseconds, quantile, rate};

pub mod launcher;

/// How much to measure.
#[derive(Args)]
pub struct Options {
    /// Launches of each kind, back to back and in parallel.
    #[arg(long, default_value_t = 2000)]
    launches: usize,
    /// Launches of each kind with pauses.
    #[arg(long, default_value_t = 500)]
    with_pauses: usize,
    /// The pause after each of these, in milliseconds.
    #[arg(long, default_value_t = 20)]
    pause: u64,
    /// How many at a time, where several are.
    #[arg(long, default_value_t = 8)]
    parallel: usize,
    /// Rounds that they are spread over.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// The program that is started.
pub const PROGRAM: &str = "/usr/bin/true";

/// bubblewrap, with the namespaces and mounts of a sandbox.
const BUBBLEWRAP: [&str; 17] = [
    "bwrap",
    "--unshare-user",
    "--unshare-all",
    "--uid",
    "1000",
    "--gid",
    "1000",
    "--die-with-parent",
    "--ro-bind",
    "/",
    "/",
    "--proc",
    "/proc",
    "--dev",
    "/dev",
    "--tmpfs",
    "/tmp",
];

/// A way to start the program.
trait Starts {
    /// So many, so many at a time, with this pause after each; how long each took,
    /// and all of them.
    fn start(&mut self, batch: Batch) -> Result<(Vec<Duration>, Duration)>;
    /// Processor time used so far, by whatever starting takes.
    fn used(&self) -> Result<Duration>;
}

/// What to start.
#[derive(Clone, Copy)]
pub struct Batch {
    /// How many.
    pub count: usize,
    /// How many at a time.
    pub parallel: usize,
    /// After each.
    pub pause: Duration,
}

#[derive(Default)]
struct Samples {
    times: Vec<Duration>,
    span: Duration,
    used: Duration,
}

impl Samples {
    fn take(&mut self, from: &mut dyn Starts, batch: Batch) -> Result<()> {
        let before = from.used()?;
        let (times, span) = from.start(batch)?;
        self.used += from.used()?.saturating_sub(before);
        self.times.extend(times);
        self.span += span;
        Ok(())
    }

    fn p50(&mut self) -> Duration {
        quantile(&mut self.times, 0.5)
    }

    fn each(&self) -> Duration {
        self.used / u32::try_from(self.times.len().max(1)).unwrap_or(u32::MAX)
    }
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    let mut launcher = Launcher::start(options.parallel)?;
    let (mut spawn, mut bubblewrap) = (Plain(Floor::Spawn), Bubblewrap);
    let rounds = options.rounds.max(1);
    let batch = |count: usize, parallel, pause| Batch {
        count: (count / rounds).max(parallel),
        parallel,
        pause: Duration::from_millis(pause),
    };
    println!(
        "{:>12} | {:>9} {:>9} {:>9} | {:>9} {:>9}   (p50 ms; at a time: /s; CPU: ms each)",
        "", "sandbox", "spawn", "bwrap", "to spawn", "to bwrap"
    );
    for (name, batch) in [
        ("back to back", batch(options.launches, 1, 0)),
        ("with pauses", batch(options.with_pauses, 1, options.pause)),
        ("at a time", batch(options.launches, options.parallel, 0)),
    ] {
        let mut samples: [Samples; 3] = Default::default();
        for _ in 0..rounds {
            samples[0].take(&mut launcher, batch)?;
            samples[1].take(&mut spawn, batch)?;
            samples[2].take(&mut bubblewrap, batch)?;
        }
        if batch.parallel > 1 {
            let rates = samples.each_ref().map(|s| rate(s.times.len(), s.span));
            print(name, rates);
            continue;
        }
        print(name, samples.each_mut().map(|s| milliseconds(s.p50())));
        if batch.pause.is_zero() {
            print("CPU", samples.each_ref().map(|s| milliseconds(s.each())));
        }
    }
    launcher.stop()
}

fn print(name: &str, [sandbox, spawn, bwrap]: [f64; 3]) {
    println!(
        "{name:>12} | {sandbox:>9.2} {spawn:>9.2} {bwrap:>9.2} | {:>9.2} {:>9.2}",
        sandbox / spawn,
        sandbox / bwrap
    );
}

struct Plain(Floor);

impl Starts for Plain {
    fn start(&mut self, batch: Batch) -> Result<(Vec<Duration>, Duration)> {
        if batch.pause.is_zero() {
            return floor::runs(self.0, PROGRAM, batch.count, batch.parallel);
        }
        with_pauses(batch, || {
            let (times, _) = floor::runs(self.0, PROGRAM, 1, 1)?;
            times.first().copied().context("nothing was run")
        })
    }

    fn used(&self) -> Result<Duration> {
        used_by(UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN)
    }
}

fn with_pauses(
    batch: Batch,
    mut once: impl FnMut() -> Result<Duration>,
) -> Result<(Vec<Duration>, Duration)> {
    let start = Instant::now();
    let mut times = Vec::with_capacity(batch.count);
    for _ in 0..batch.count {
        times.push(once()?);
        std::thread::sleep(batch.pause);
    }
    Ok((times, start.elapsed()))
}

struct Bubblewrap;

impl Starts for Bubblewrap {
    fn start(&mut self, batch: Batch) -> Result<(Vec<Duration>, Duration)> {
        let once = || -> Result<Duration> {
            let start = Instant::now();
            let status = Command::new(BUBBLEWRAP[0])
                .args(&BUBBLEWRAP[1..])
                .arg(PROGRAM)
                .stdin(Stdio::null())
                .status()
                .context("bwrap (the package bubblewrap)")?;
            ensure!(status.success(), "bwrap: {status}");
            Ok(start.elapsed())
        };
        if !batch.pause.is_zero() {
            return with_pauses(batch, once);
        }
        floor::at_a_time(batch.count, batch.parallel, once)
    }

    fn used(&self) -> Result<Duration> {
        used_by(UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN)
    }
}

fn used_by(own: UsageWho, children: UsageWho) -> Result<Duration> {
    let mut used = Duration::ZERO;
    for who in [own, children] {
        let usage = getrusage(who)?;
        for time in [usage.user_time(), usage.system_time()] {
            used += Duration::from_micros(
                u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap_or(0),
            );
        }
    }
    Ok(used)
}

/// The launcher and its service half, as a process of their own. The service half
/// takes a batch a line, and answers with how long each launch took.
struct Launcher {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    _folder: TempDir,
}

impl Launcher {
    fn start(parallel: usize) -> Result<Self> {
        // In memory, as what is measured is not a file system.
        let folder = tempfile::Builder::new()
            .prefix("hayloft-bench-")
            .tempdir_in("/dev/shm")?;
        launcher::prepare(folder.path(), parallel)?;
        let mut process = Command::new(std::env::current_exe()?)
            .arg(launcher::ROLE)
            .arg(folder.path())
            .arg(parallel.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let requests = process.stdin.take().context("no input")?;
        let answers = BufReader::new(process.stdout.take().context("no output")?);
        let mut launcher = Self {
            process,
            requests,
            answers,
            _folder: folder,
        };
        ensure!(launcher.line()? == launcher::READY, "not ready");
        Ok(launcher)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("the launcher ended: {}", self.process.wait()?);
        }
        Ok(line.trim_end().to_owned())
    }

    fn stop(mut self) -> Result<()> {
        drop(self.requests);
        let status = self.process.wait()?;
        ensure!(status.success(), "the launcher: {status}");
        Ok(())
    }
}

impl Starts for Launcher {
    fn start(&mut self, batch: Batch) -> Result<(Vec<Duration>, Duration)> {
        let pause = batch.pause.as_millis();
        writeln!(self.requests, "{} {} {pause}", batch.count, batch.parallel)?;
        let start = Instant::now();
        let line = self.line()?;
        let span = start.elapsed();
        let times: Result<Vec<Duration>, _> = line
            .split_ascii_whitespace()
            .map(|nanoseconds| nanoseconds.parse().map(Duration::from_nanos))
            .collect();
        Ok((times?, span))
    }

    /// Of the launcher, all that it waited for, and the service half.
    fn used(&self) -> Result<Duration> {
        let pid = self.process.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let service = children.split(' ').next().context("no service half")?;
        Ok(ticks(&pid.to_string(), 4)? + ticks(service, 2)?)
    }
}

/// The first so many of `utime`, `stime`, `cutime`, `cstime` (`proc_pid_stat(5)`).
fn ticks(pid: &str, fields: usize) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(')').context("no name")?;
    let mut sum = 0;
    for field in rest.split_ascii_whitespace().skip(11).take(fields) {
        sum += field.parse::<u64>()?;
    }
    // USER_HZ is 100 on every architecture that Linux runs on today but alpha.
    Ok(Duration::from_millis(sum * 10))
}
