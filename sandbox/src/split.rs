//! Cutting the process in two.

use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{Pid, geteuid, getpid};
use thiserror::Error;

use crate::cgroup::{CgroupChoice, Cgroups};
use crate::client::Client;
use crate::limits::Limit;
use crate::plan::{Plan, Refusal};
use crate::policy::{HostIds, Policy, Protection};
use crate::probe::Probe;
use crate::{launcher, overlay, rlimits, service_half, sys};

/// What [`split`] needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// What is wanted of sandboxes.
    pub policy: Policy,
    /// The absolute directory that all paths of requests are relative to.
    pub build_directory: PathBuf,
    /// How many sandboxes are kept ready ahead of commands; at least 1.
    pub pool_size: usize,
    /// Where sandboxes have control groups.
    pub cgroup: CgroupChoice,
    /// How long a command whose time is over has to end when it was sent SIGTERM,
    /// before all of it is killed.
    pub termination_grace: Duration,
    /// What the service half becomes.
    pub service: ServiceHalf,
}

/// What the service half becomes.
#[derive(Debug, Clone)]
pub struct ServiceHalf {
    /// The uid and gid it takes when the process is root; not 0 then, and not
    /// of the range commands run at. A process that is not root stays who it is.
    pub uid: u32,
    /// See `uid`.
    pub gid: u32,
    /// Descriptors it keeps besides 0, 1, 2 and the socket: its listeners.
    /// It can open no file or directory any more, nor bind a unix socket: what
    /// it needs is to be read or bound before [`split`].
    pub keep: Vec<RawFd>,
}

/// Why the two halves could not be set up, or ended.
#[derive(Debug, Error)]
pub enum Error {
    /// What the policy wants cannot be had here.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// [`split`] and [`attend`](crate::attend) fork, which a process with threads must not.
    #[error("the process has {0} threads; it must be split while it has one")]
    Threads(usize),
    /// The configuration makes no sense.
    #[error("{0}")]
    Config(&'static str),
    /// The host could not be probed.
    #[error("probing the host failed: {0}")]
    Probe(#[source] io::Error),
    /// A step of the start failed.
    #[error("cannot {step}: {source}")]
    Start {
        /// What was being done.
        step: String,
        /// Why it failed.
        source: io::Error,
    },
    /// No sandbox could be made, though the probe found everything there.
    #[error("the first sandbox failed to {step}: {source}")]
    FirstSandbox {
        /// What was being done.
        step: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The launcher's event loop failed.
    #[error("the launcher failed to {step}: {source}")]
    Launcher {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// Cuts the process in two. Call it while the process has a single thread.
///
/// The host is probed and the plan made first, so that a refusal is returned
/// before anything happened. Then the process forks:
///
/// - The **child** becomes the service half: [`ServiceHalf`]'s ids, no
///   capability, `no_new_privs`, dead when the launcher dies, not dumpable, no
///   access to the file system, no new programs, no signals to others; only the
///   listed descriptors. It runs `service` once the first sandbox is ready and
///   leaves with the exit code that returns: `split` does not return in it.
/// - The **parent** becomes the launcher and serves the child until it ends;
///   then every sandbox is killed and reaped, and the child's exit code is
///   returned (128 + n when signal n ended it). SIGTERM or SIGINT to the
///   launcher is passed on as SIGTERM once, for the service half to finish what
///   runs and leave; a second one ends everything at once.
///
/// The launcher leaves its mount namespace: after `split` returns, the host's
/// files are out of reach.
///
/// # Errors
/// See [`Error`]. When one is returned, neither child nor sandbox is left.
pub fn split(config: Config, service: impl FnOnce(Client) -> ExitCode) -> Result<ExitCode, Error> {
    let worker = check(&config)?;
    let probe = Probe::run().map_err(Error::Probe)?;
    let plan = Plan::new(&config.policy, &probe)?;
    // Only a mapping that tells the worker's files from root's serves.
    let own_uids = plan.holds(Protection::OwnUid);
    let overlays = own_uids && worker != 0 && overlay::works();
    let start = |step: &'static str| {
        move |errno: Errno| Error::Start {
            step: step.to_owned(),
            source: errno.into(),
        }
    };
    let cgroups = Cgroups::take(&config.cgroup).map_err(|source| Error::Start {
        step: "use the control group".to_owned(),
        source,
    })?;
    // All other limits the kernel sees to, or the launcher by looking.
    let enforced = |limit| {
        cgroups
            .as_ref()
            .is_some_and(|groups| groups.enforces(limit))
    };
    let unenforced: Vec<_> = [Limit::Cpu]
        .into_iter()
        .filter(|limit| plan.limits[*limit].is_some() && !enforced(*limit))
        .collect();
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
    )
    .map_err(start("connect the two halves"))?;
    rlimits::raise_open_files().map_err(start("raise the limit of open files"))?;
    // Blocked before the fork, so that no signal is lost in between.
    let old = Signals::block().map_err(start("block signals"))?;
    let launcher = getpid();
    let cloned = sys::clone_process(0).map_err(start("fork"))?;
    let Some((pid, pidfd)) = cloned else {
        drop(ours);
        sys::never_return(|| {
            let client = Client::new(
                theirs,
                plan.protections.clone(),
                overlays,
                unenforced.clone(),
            );
            run_service(&config.service, &plan, client, launcher, &old, service)
        });
    };
    drop(theirs);
    let service = Service { pid, pidfd };
    let result = launcher::run(config, plan, cgroups, ours, &service);
    // Whatever happened: nothing of the service half is left.
    let status = service.end().map_err(start("wait for the service half"))?;
    result.map(|()| exit_code(status))
}

/// A process with threads must not be copied.
pub(crate) fn check_threads() -> Result<(), Error> {
    match std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count) {
        1 => Ok(()),
        threads => Err(Error::Threads(threads)),
    }
}

/// Who owns the build directory.
fn check(config: &Config) -> Result<u32, Error> {
    check_threads()?;
    if config.pool_size == 0 {
        return Err(Error::Config("the pool size must be at least 1"));
    }
    if !config.build_directory.is_absolute() {
        return Err(Error::Config("the build directory must be absolute"));
    }
    let owner = std::fs::metadata(&config.build_directory).map_err(|source| Error::Start {
        step: format!(
            "look at the build directory {}",
            config.build_directory.display()
        ),
        source,
    })?;
    if let HostIds::Range { .. } = config.policy.host_ids
        && config.policy.host_ids.contain(owner.uid(), 0)
    {
        return Err(Error::Config(
            "the uid range contains the owner of the build directory: commands would run as \
             the worker, and own its cache",
        ));
    }
    if geteuid().is_root() {
        let ServiceHalf { uid, gid, .. } = config.service;
        if uid == 0 || gid == 0 {
            return Err(Error::Config("the service half must not be root"));
        }
        if let HostIds::Range { start, count } = config.policy.host_ids
            && uid.checked_sub(start).is_some_and(|offset| offset < count)
        {
            return Err(Error::Config(
                "the service half's uid must not be of the range that commands run at",
            ));
        }
    }
    Ok(owner.uid())
}

fn run_service(
    half: &ServiceHalf,
    plan: &Plan,
    client: Client,
    launcher: Pid,
    signals: &SigSet,
    service: impl FnOnce(Client) -> ExitCode,
) -> std::convert::Infallible {
    let prepared = service_half::give_up_privileges(half, &client, launcher)
        .and_then(|()| signals.thread_set_mask())
        .and_then(|()| service_half::lock_down(plan));
    if let Err(errno) = prepared {
        eprintln!("the service half cannot give up its privileges: {errno}");
        std::process::exit(1);
    }
    if !service_half::wait_for_launcher(&client) {
        std::process::exit(1);
    }
    exit(service(client))
}

/// Ends a copied process.
pub(crate) fn exit(code: ExitCode) -> std::convert::Infallible {
    let number = (0..=u8::MAX).find(|number| ExitCode::from(*number) == code);
    std::process::exit(number.map_or(1, i32::from))
}

/// The service half, seen from the launcher.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
}

impl Service {
    /// Kills it, if it lives, and reaps it.
    fn end(&self) -> nix::Result<libc::c_int> {
        let _ = sys::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        loop {
            match sys::wait_with_usage(self.pid) {
                Err(Errno::EINTR) => {}
                result => return result.map(|(status, _)| status),
            }
        }
    }
}

fn exit_code(status: libc::c_int) -> ExitCode {
    let code = if libc::WIFSIGNALED(status) {
        128 + libc::WTERMSIG(status)
    } else {
        libc::WEXITSTATUS(status)
    };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// The signals that ask to stop.
pub(crate) struct Signals;

impl Signals {
    pub(crate) fn set() -> SigSet {
        let mut set = SigSet::empty();
        set.add(Signal::SIGTERM);
        set.add(Signal::SIGINT);
        set
    }

    /// Blocks them; the mask before.
    pub(crate) fn block() -> nix::Result<SigSet> {
        Self::set().thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK)
    }
}
