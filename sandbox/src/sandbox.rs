//! The launcher's view of one sandbox.
//!
//! `Preparing → Ready → Running → Leaving → reaped`; from any state straight to
//! reaped when its init dies. `Leaving`: nothing but init is left. The transitions are driven by [`Report`]s of its init
//! and by its pidfd.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::Pid;

use crate::cgroup::{Cgroup, Cgroups, Told};
use crate::client::{receive_datagram, send_datagram};
use crate::disk::Place;
use crate::done::{Done, End, Usage};
use crate::id_map::{IdPair, map_ids};
use crate::init::{self, Shared};
use crate::limits::{Limit, Limits};
use crate::message::Reply;
use crate::network::{Network, Networks};
use crate::order::{Directions, Looked, Made, Order};
use crate::plan::Plan;
use crate::policy::HostIds;
use crate::rejection::Rejection;
use crate::report::Report;
use crate::watch::Watch;
use crate::{mount_map, sys, without_namespaces};

#[derive(Debug)]
pub(crate) enum State {
    Preparing,
    Ready,
    Running(Box<Running>),
    Leaving,
}

/// One command's run.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) id: u64,
    pub(crate) directions: Directions,
    pub(crate) started: Instant,
    pub(crate) deadline: Option<Instant>,
    /// Its time was over, and it was asked to end.
    pub(crate) terminated: bool,
    /// Why all was killed, when it was.
    pub(crate) killed: Option<End>,
    pub(crate) watch: Watch,
    made: Made,
}

#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) state: State,
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    pub(crate) channel: OwnedFd,
    pub(crate) host_id: u32,
    /// Its network, where the launcher makes them.
    pub(crate) network: Option<Network>,
    /// The last report, which says how it ended.
    pub(crate) last: Option<Report>,
    /// Its end of the channel is closed.
    pub(crate) silent: bool,
    /// Shows the worker's files as its own.
    pub(crate) mount_map: Option<OwnedFd>,
    /// Its control group.
    pub(crate) cgroup: Option<Cgroup>,
    pub(crate) has_pid_namespace: bool,
}

/// Why a sandbox did not take an order.
pub(crate) enum NotRun {
    /// The order cannot be carried out. The sandbox is as it was, or leaves.
    Rejected(Rejection),
    /// The sandbox's init is dead; another one may have the order.
    Dead(Box<Order>),
}

impl Sandbox {
    /// Starts a sandbox; it reports when it is prepared.
    pub(crate) fn start(
        shared: &Shared,
        networks: Option<&mut Networks>,
        cgroup: Option<Cgroup>,
        host_id: u32,
    ) -> nix::Result<Self> {
        let namespaces = match shared.plan.namespaces {
            true => libc::CLONE_NEWUSER | libc::CLONE_NEWPID,
            false => 0,
        };
        let clone = || clone(namespaces, cgroup.as_ref());
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        let (network, cloned) = match networks {
            // Who is not root can map the ids of none but a dumpable process, which init
            // is until it takes its own.
            None if shared.maps_as_user() => {
                sys::prctl(libc::PR_SET_DUMPABLE, 1)?;
                let cloned = clone();
                if !matches!(cloned, Ok(None)) {
                    sys::prctl(libc::PR_SET_DUMPABLE, 0)?;
                }
                (None, cloned)
            }
            None => (None, clone()),
            Some(networks) => {
                let network = networks.take()?;
                networks.enter(&network)?;
                let cloned = clone();
                // In the copy it is the network to stay in.
                if !matches!(cloned, Ok(None)) {
                    networks.leave()?;
                }
                (Some(network), cloned)
            }
        };
        let Some((pid, pidfd)) = cloned? else {
            drop(ours);
            sys::never_return(|| init::main(shared, theirs, host_id));
        };
        drop(theirs);
        let sandbox = Self {
            state: State::Preparing,
            pid,
            pidfd,
            channel: ours,
            host_id,
            network,
            last: None,
            silent: false,
            mount_map: None,
            cgroup,
            has_pid_namespace: shared.plan.namespaces,
        };
        if let HostIds::Range { .. } = shared.plan.host_ids
            && let Err(errno) = sandbox.map(shared)
        {
            sandbox.kill();
            let _ = sys::wait_with_usage(pid);
            return Err(errno);
        }
        Ok(sandbox)
    }

    fn map(&self, shared: &Shared) -> nix::Result<()> {
        let process = self.pid.to_string();
        let outer = shared.outer(self.host_id);
        map_ids(
            shared.proc.as_fd(),
            &process,
            IdPair::same(shared.plan.inner_id),
            outer,
        )?;
        send_datagram(self.channel.as_fd(), b"mapped", &[])
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
    }

    /// Makes the mapping of mounts that overlays of the files of `worker` need.
    pub(crate) fn map_mounts(&mut self, shared: &Shared, worker: IdPair) -> nix::Result<()> {
        if self.mount_map.is_none() {
            let own = shared.outer(self.host_id);
            self.mount_map = Some(mount_map::make(shared.proc.as_fd(), worker, own)?);
        }
        Ok(())
    }

    /// SIGKILL to its init: everything in it dies. Without a pid namespace init has to
    /// see to that itself, once there is a command.
    pub(crate) fn kill(&self) {
        let signal = match self.state {
            State::Running(_) if !self.has_pid_namespace => without_namespaces::KILL_ALL,
            _ => Signal::SIGKILL,
        };
        // ESRCH: it is dead already, and about to be reaped.
        let _ = sys::pidfd_send_signal(self.pidfd.as_fd(), signal as libc::c_int);
    }

    /// Ends one that has limits of a command that it will not run: no other may have
    /// them.
    fn give_up(&mut self) {
        self.kill();
        self.state = State::Leaving;
    }

    /// Takes one report; `false` when there is none (any more).
    pub(crate) fn take_report(&mut self) -> bool {
        match receive_datagram(self.channel.as_fd()) {
            Ok(Some(datagram)) => {
                match Report::decode(&datagram.bytes) {
                    Ok(Report::Prepared) => self.state = State::Ready,
                    Ok(report) => self.last = Some(report),
                    // Only our own init has the other end.
                    Err(_) => self.kill(),
                }
                true
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
            Ok(None) | Err(_) => {
                self.silent = true;
                false
            }
        }
    }

    /// Hands a command to a ready sandbox; paths are below `build`.
    ///
    /// Standard output and error exist, and are the command's, from here on.
    pub(crate) fn run(
        &mut self,
        build: BorrowedFd<'_>,
        plan: &Plan,
        cgroups: Option<&Cgroups>,
        mut order: Order,
    ) -> Result<(), NotRun> {
        let map = self.mount_map.as_ref().map(AsFd::as_fd);
        order.open(build, plan, map).map_err(NotRun::Rejected)?;
        if let Err(rejection) = self.limit(cgroups, &order.directions.limits) {
            self.give_up();
            return Err(NotRun::Rejected(rejection));
        }
        if let Err(error) = send_datagram(self.channel.as_fd(), b"run", &order.descriptors()) {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
            self.give_up();
            return Err(match errno {
                Errno::EPIPE | Errno::ECONNRESET => NotRun::Dead(Box::new(order.returned())),
                errno => NotRun::Rejected(Rejection::new("hand over to a sandbox", "", errno)),
            });
        }
        let started = Instant::now();
        let id = order.id;
        let Some((directions, made, looked)) = order.handed() else {
            return Ok(());
        };
        let watch = self.watch(&directions.limits, cgroups, looked, started);
        let deadline = directions
            .timeout
            .and_then(|timeout| started.checked_add(timeout));
        self.state = State::Running(Box::new(Running {
            id,
            directions,
            started,
            deadline,
            terminated: false,
            killed: None,
            watch,
            made,
        }));
        Ok(())
    }

    fn limit(&self, cgroups: Option<&Cgroups>, limits: &Limits) -> Result<(), Rejection> {
        let Some((cgroup, cgroups)) = self.cgroup.as_ref().zip(cgroups) else {
            return Ok(());
        };
        cgroup.limit(limits, cgroups).map_err(|error| {
            let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
            Rejection::new("set limits of the control group", "", errno)
        })
    }

    /// What is looked at is what its control group does not see to.
    fn watch(
        &self,
        limits: &Limits,
        cgroups: Option<&Cgroups>,
        looked: Looked,
        now: Instant,
    ) -> Watch {
        let mut limits = limits.clone();
        if self.cgroup.is_some() {
            for limit in [Limit::Memory, Limit::Processes] {
                if cgroups.is_some_and(|cgroups| cgroups.enforces(limit)) {
                    limits[limit] = None;
                }
            }
        }
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let since = since.map_or(0, |since| since.as_nanos().cast_signed());
        let places = looked.written.into_iter().map(|written| Place {
            directory: written.directory,
            made: (!written.all).then_some((self.host_id, since - CLOCK)),
        });
        Watch::new(limits, looked.outputs, places.collect(), now)
    }

    /// Has everything in it told to end.
    pub(crate) fn terminate(&self) {
        let _ = sys::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGTERM);
    }
}

/// File systems tell time by a clock that lags, in nanoseconds.
const CLOCK: i128 = 20_000_000;

fn clone(namespaces: libc::c_int, cgroup: Option<&Cgroup>) -> nix::Result<Option<(Pid, OwnedFd)>> {
    let Some(cgroup) = cgroup else {
        return sys::clone_process(namespaces);
    };
    match sys::clone_into(namespaces, cgroup.descriptor()) {
        // Filters of containers refuse clone3, whose arguments they cannot see.
        Err(Errno::ENOSYS | Errno::EPERM | Errno::EINVAL) => {
            let cloned = sys::clone_process(namespaces)?;
            if let Some((pid, _)) = &cloned {
                // Init has started nothing yet.
                let added = cgroup.add(*pid);
                added.map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))?;
            }
            Ok(cloned)
        }
        cloned => cloned,
    }
}

impl Running {
    /// The reply to a run that ended. `told` by its control group.
    pub(crate) fn done(&mut self, end: End, usage: Usage, told: Told) -> Reply {
        let end = match end {
            End::Killed => End::Killed,
            _ if self.terminated => End::TimedOut,
            end => end,
        };
        self.watch.finish();
        let exceeded = self.watch.exceeded.or(match end {
            End::Exited(0) | End::TimedOut | End::Killed => None,
            _ if told.out_of_memory => Some(Limit::Memory),
            _ if told.out_of_processes || self.watch.was_crowded() => Some(Limit::Processes),
            End::Signaled(libc::SIGXFSZ) => Some(Limit::FileSize),
            _ => None,
        });
        let mut peak = self.watch.peak.clone();
        for (limit, value) in told.peak.iter() {
            peak[limit] = Some(value);
        }
        Reply::Done(Box::new(Done {
            id: self.id,
            end,
            exceeded,
            usage,
            peak,
            duration: self.started.elapsed(),
        }))
    }

    /// Time left until the deadline.
    pub(crate) fn left(&self, now: Instant) -> Option<Duration> {
        self.deadline
            .filter(|_| self.killed.is_none())
            .map(|deadline| deadline.saturating_duration_since(now))
    }

    /// Nothing of the command is left, and nothing is attached in its input root.
    pub(crate) fn clean(&mut self) {
        self.made = Made::default();
    }
}
