//! One role's process, kept running.
//!
//! A child is *running* until it is told to stop. When its process ends before
//! that, it is started again: at once if it had run for a while, else after a
//! pause that doubles with each quick end. Its listening sockets belong to the
//! supervisor, so that whoever connects meanwhile waits instead of failing.
//! Orders only go up: *run* → *terminate* → *terminate again* → *kill*.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use command_fds::{CommandFdExt, FdMapping};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::role::SUPERVISOR;

/// The first descriptor of a child's listening sockets (`sd_listen_fds(3)`).
const SOCKETS: i32 = 3;
/// The first descriptor of a child's folders.
const FOLDERS: i32 = 10;

/// How to start a role.
#[derive(Debug)]
pub struct Spec {
    /// The role's name on the command line.
    pub role: &'static str,
    /// The user and group it runs as; none: those of the supervisor.
    pub user: Option<u32>,
    /// Its listening sockets: `fd:3` and on in its configuration.
    pub sockets: Vec<OwnedFd>,
    /// The folders it may reach: [`folder`]`(0)` and on in its configuration. The
    /// first holds its configuration file.
    pub folders: Vec<OwnedFd>,
    /// What it logs where `HAYLOFT_LOG` does not say.
    pub log: &'static str,
}

/// How a role names the folder that it inherited in the given place.
#[must_use]
pub fn folder(place: usize) -> String {
    format!("/proc/self/fd/{}", FOLDERS as usize + place)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    Run,
    Terminate,
    TerminateAgain,
    Kill,
}

/// A role that is kept running.
#[derive(Debug)]
pub struct Child {
    role: &'static str,
    order: watch::Sender<Order>,
    ended: watch::Receiver<Option<ExitStatus>>,
    task: JoinHandle<()>,
}

impl Child {
    /// Starts a role and keeps it running.
    ///
    /// # Errors
    /// Its process cannot be started even once.
    pub fn start(spec: Spec) -> Result<Self> {
        let process =
            spawn(&spec, false).with_context(|| format!("cannot start the {}", spec.role))?;
        let (order, orders) = watch::channel(Order::Run);
        let (end, ended) = watch::channel(None);
        Ok(Self {
            role: spec.role,
            order,
            ended,
            task: tokio::spawn(keep(spec, process, orders, end)),
        })
    }

    /// The role's name.
    #[must_use]
    pub fn role(&self) -> &'static str {
        self.role
    }

    /// Returns when a process of the role has ended although nobody told it to.
    pub async fn failed(&self) -> ExitStatus {
        let mut ended = self.ended.clone();
        loop {
            if let Some(status) = *ended.borrow_and_update() {
                return status;
            }
            if ended.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Stops the role: asks (SIGTERM), asks again after `patience` (what it still
    /// runs is to be cut short), and kills it after as long again.
    pub async fn stop(mut self, patience: Duration) {
        for order in [Order::Terminate, Order::TerminateAgain, Order::Kill] {
            self.order.send_replace(order);
            if tokio::time::timeout(patience, &mut self.task).await.is_ok() {
                return;
            }
        }
        let _ = self.task.await;
    }
}

/// Kills what is left of a role, and waits until it is gone: dying takes as long as the
/// kernel takes to undo a process's mounts.
async fn end_group(group: Pid) {
    const PATIENCE: Duration = Duration::from_secs(3);
    let start = Instant::now();
    while killpg(group, Signal::SIGKILL).is_ok() && start.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn keep(
    spec: Spec,
    mut process: tokio::process::Child,
    mut orders: watch::Receiver<Order>,
    end: watch::Sender<Option<ExitStatus>>,
) {
    const FIRST_PAUSE: Duration = Duration::from_millis(50);
    const LAST_PAUSE: Duration = Duration::from_secs(5);
    const STABLE: Duration = Duration::from_secs(10);
    let mut pause = FIRST_PAUSE;
    loop {
        let started = Instant::now();
        let group = process
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .map(Pid::from_raw);
        let status = attend(&mut process, group, &mut orders).await;
        // Nothing of the role may outlive it; mostly nothing is left.
        let stopping = *orders.borrow() != Order::Run;
        match group {
            Some(group) if stopping => end_group(group).await,
            Some(group) => drop(killpg(group, Signal::SIGKILL)),
            None => {}
        }
        if stopping {
            return;
        }
        match status {
            Ok(status) => {
                end.send_replace(Some(status));
                tracing::warn!("the {} ended ({status}) and is started again", spec.role);
            }
            Err(error) => tracing::warn!("cannot wait for the {}: {error}", spec.role),
        }
        if started.elapsed() > STABLE {
            pause = FIRST_PAUSE;
        }
        process = loop {
            tokio::select! {
                () = sleep(pause) => {}
                _ = orders.changed() => return,
            }
            pause = (pause * 2).min(LAST_PAUSE);
            match spawn(&spec, true) {
                Ok(process) => break process,
                Err(error) => tracing::warn!("cannot start the {}: {error}", spec.role),
            }
        };
    }
}

/// Waits for the process to end, passing on the orders that arrive.
async fn attend(
    process: &mut tokio::process::Child,
    id: Option<Pid>,
    orders: &mut watch::Receiver<Order>,
) -> io::Result<ExitStatus> {
    loop {
        tokio::select! {
            status = process.wait() => return status,
            changed = orders.changed() => {
                let signal = match *orders.borrow_and_update() {
                    Order::Run => continue,
                    Order::Terminate | Order::TerminateAgain => Signal::SIGTERM,
                    Order::Kill => Signal::SIGKILL,
                };
                if let Some(id) = id {
                    let _ = kill(id, signal);
                }
                if changed.is_err() {
                    return process.wait().await;
                }
            }
        }
    }
}

/// Starts the process of a role, for the first time or after one that has ended.
fn spawn(spec: &Spec, anew: bool) -> io::Result<tokio::process::Child> {
    // This very program, even when its file has been replaced since.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("hayloft")
        .arg(spec.role)
        .arg(format!("{}/{}.json", folder(0), spec.role))
        .env(SUPERVISOR, std::process::id().to_string())
        .env("LISTEN_FDS", spec.sockets.len().to_string())
        .env_remove("LISTEN_PID")
        .stdin(Stdio::null())
        // The terminal's interrupt is the supervisor's to handle, in order.
        .process_group(0)
        .kill_on_drop(true);
    if std::env::var_os("HAYLOFT_LOG").is_none() {
        command.env("HAYLOFT_LOG", spec.log);
    }
    if anew {
        command.env(scheduler::RESTARTED, "1");
    }
    if let Some(user) = spec.user {
        command.uid(user).gid(user).current_dir("/");
    }
    let mut mappings = Vec::new();
    for (descriptors, first) in [(&spec.sockets, SOCKETS), (&spec.folders, FOLDERS)] {
        for (descriptor, number) in descriptors.iter().zip(first..) {
            mappings.push(FdMapping {
                parent_fd: descriptor.as_fd().try_clone_to_owned()?,
                child_fd: number,
            });
        }
    }
    command
        .fd_mappings(mappings)
        .map_err(|error| io::Error::other(error.to_string()))?;
    command.spawn()
}
