//! The process that is measured: a launcher, and a service half that has it launch.

use std::collections::HashMap;
use std::io::{self, BufRead, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sandbox::{
    CgroupChoice, Client, ClientError, Config, End, Frame, HostIds, Policy, Reply, Root,
    RunRequest, ServiceHalf, split,
};

use super::{Batch, PROGRAM};

/// The first argument of such a process; then come its build directory and how many
/// sandboxes it has ready.
pub const ROLE: &str = "launcher";

/// What it says when it can launch.
pub const READY: &str = "ready";

/// Serves batches from standard input until that ends.
pub fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(2).collect();
    let [directory, parallel] = &arguments[..] else {
        bail!("a build directory, and how many at a time");
    };
    let ids = HostIds::Range {
        start: 1_000_000_000,
        count: 256,
    };
    let ended = split(
        Config {
            policy: Policy::new(Root::Host, ids),
            build_directory: directory.into(),
            pool_size: parallel.parse()?,
            cgroup: CgroupChoice::default(),
            termination_grace: Duration::ZERO,
            service: ServiceHalf {
                uid: 65533,
                gid: 65533,
                keep: Vec::new(),
            },
        },
        serve,
    );
    Ok(ended?)
}

/// Makes what so many commands at a time need. `true` writes nothing, so that its
/// output files can be used again.
pub fn prepare(directory: &Path, parallel: usize) -> io::Result<()> {
    let mode = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode));
    mode(directory, 0o711)?;
    for number in 0..parallel {
        let directory = directory.join(number.to_string());
        for path in [directory.clone(), directory.join("root")] {
            std::fs::create_dir(&path)?;
            mode(&path, 0o777)?;
        }
        for name in ["stdout", "stderr"] {
            let path = directory.join(name);
            std::fs::write(&path, "")?;
            mode(&path, 0o666)?;
        }
    }
    Ok(())
}

fn serve(client: Client) -> ExitCode {
    match batches(&client) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hayloft-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn batches(client: &Client) -> Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{READY}")?;
    let mut next = 0;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let numbers: Result<Vec<u64>, _> = line.split(' ').map(str::parse).collect();
        let [count, parallel, pause] = numbers?[..] else {
            bail!("not a batch: {line}");
        };
        let batch = Batch {
            count: usize::try_from(count)?,
            parallel: usize::try_from(parallel)?,
            pause: Duration::from_millis(pause),
        };
        let times = launch(client, batch, &mut next)?;
        let times: Vec<String> = times.iter().map(|t| t.as_nanos().to_string()).collect();
        writeln!(output, "{}", times.join(" "))?;
    }
    Ok(())
}

fn launch(client: &Client, batch: Batch, next: &mut u64) -> Result<Vec<Duration>> {
    let mut free: Vec<usize> = (0..batch.parallel).collect();
    let mut running = HashMap::new();
    let mut times = Vec::with_capacity(batch.count);
    let mut started = 0;
    while times.len() < batch.count {
        while started < batch.count
            && let Some(place) = free.pop()
        {
            let start = Instant::now();
            *next += 1;
            started += 1;
            running.insert(*next, (place, start));
            let frame = Frame::run(*next, &request(place))?;
            patiently(client, PollFlags::POLLOUT, || client.send(&frame))?;
        }
        match patiently(client, PollFlags::POLLIN, || client.receive())? {
            Reply::Done(done) => {
                ensure!(done.end == End::Exited(0), "{:?}", done.end);
                let (place, start) = running.remove(&done.id).context("an answer to nothing")?;
                times.push(start.elapsed());
                free.push(place);
                if !batch.pause.is_zero() {
                    std::thread::sleep(batch.pause);
                }
            }
            other => bail!("{other:?}"),
        }
    }
    Ok(times)
}

fn request(place: usize) -> RunRequest {
    let below = |name| format!("{place}/{name}").into_bytes();
    RunRequest {
        arguments: vec![PROGRAM.into()],
        environment: vec![(b"PATH".to_vec(), b"/usr/bin:/bin".to_vec())],
        input_root_directory: below("root"),
        stdout_path: below("stdout"),
        stderr_path: below("stderr"),
        ..RunRequest::default()
    }
}

/// Tries again, when it may succeed, what would have to wait.
fn patiently<T>(
    client: &Client,
    wanted: PollFlags,
    attempt: impl Fn() -> Result<T, ClientError>,
) -> Result<T> {
    loop {
        match attempt() {
            Err(ClientError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut polled = [PollFd::new(client.as_fd(), wanted)];
                poll(&mut polled, PollTimeout::NONE)?;
            }
            result => return Ok(result?),
        }
    }
}
