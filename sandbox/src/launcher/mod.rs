//! The launcher half's event loop.
//!
//! One thread, one `poll(2)`: the service half's socket, its life, signals, and
//! of every sandbox the channel and the life. A run waits in a queue until a
//! sandbox is ready (usually one is), is `Running` until every process of it is
//! dead and reaped, and is answered then.

mod deadlines;
mod events;
mod outcome;
mod requests;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFlags, PollTimeout};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{getegid, geteuid, getppid, setgroups};

use self::events::{Events, Polled, Source};
use crate::cgroup::Cgroups;
use crate::client::send_datagram;
use crate::helper::Helper;
use crate::id_map::IdPair;
use crate::ids::Ids;
use crate::init::Shared;
use crate::limits::Limit;
use crate::message::Reply;
use crate::network::Networks;
use crate::order::Order;
use crate::plan::Plan;
use crate::policy::Protection;
use crate::report::StepFailure;
use crate::sandbox::{NotRun, Sandbox, State};
use crate::split::{Config, Error, Service, Signals};
use crate::step::{Phase, Step};
use crate::urgency::Urgency;
use crate::{base, mount_map, seccomp, sys};

/// How long no new sandbox is tried after one failed to be made.
const PAUSE: Duration = Duration::from_millis(200);

/// How long after a command was handed over no sandbox is made ahead, while more than
/// half of the pool is there: until that command has most likely started. While it runs
/// nobody else who has to do with it has anything to do.
const QUIET: Duration = Duration::from_micros(200);

/// How many commands after one that wanted an overlay what that takes is made ahead.
const OVERLAYS_LIKELY: u32 = 64;

/// How many more sandboxes than the pool holds may be on their way out.
const LEAVING: usize = 16;

/// How many networks wait for a sandbox: as many as a burst of commands leaves, where
/// files may be open for them.
fn networks_kept(pool_size: usize) -> usize {
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    let affordable = usize::try_from(files / FILES_PER_NETWORK).unwrap_or(usize::MAX);
    affordable.min(pool_size + LEAVING).max(pool_size)
}

/// Of all files that may be open, for each network that waits: it has seven.
const FILES_PER_NETWORK: u64 = 64;

/// Replies that may wait for the service half before no more requests are taken.
const MOST_REPLIES: usize = 1024;

struct Launcher<'a> {
    shared: Shared,
    build: OwnedFd,
    pool_size: usize,
    socket: OwnedFd,
    service: &'a Service,
    signals: SignalFd,
    ids: Ids,
    networks: Option<Networks>,
    sandboxes: Vec<Sandbox>,
    helpers: Vec<Helper>,
    /// Runs that wait for a sandbox.
    orders: VecDeque<Order>,
    /// Replies that the socket did not take yet.
    replies: VecDeque<Reply>,
    started: bool,
    stopping: bool,
    quiet_until: Option<Instant>,
    pause_until: Option<Instant>,
    cgroups: Option<Cgroups>,
    /// How long a command has to end when its time is over.
    grace: Duration,
    /// Who owns the build directory.
    worker: IdPair,
    /// Some command had an overlay.
    overlays: bool,
    /// For how many more commands what overlays take is made ahead, too.
    overlays_likely: u32,
}

/// What the loop goes on with.
enum Next {
    Continue,
    End,
}

/// Serves until the service half has ended; then no sandbox is left.
pub(crate) fn run(
    config: Config,
    plan: Plan,
    cgroups: Option<Cgroups>,
    socket: OwnedFd,
    service: &Service,
) -> Result<(), Error> {
    let start = |step: String| move |source: io::Error| Error::Start { step, source };
    let errno = |step: &'static str| {
        move |errno: Errno| Error::Start {
            step: step.to_owned(),
            source: errno.into(),
        }
    };
    let signals = SignalFd::with_flags(
        &Signals::set(),
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )
    .map_err(errno("listen to signals"))?;
    let (own, group) = (geteuid(), getegid().as_raw());
    if own.is_root() {
        setgroups(&[]).map_err(errno("drop supplementary groups"))?;
    }
    // Files are created with the modes that are given.
    umask(Mode::empty());
    let arguments = sys::arguments().map_err(start("find the own arguments".to_owned()))?;
    // Whoever supervises the launcher may have asked that it dies with them; the
    // kernel forgets that when the launcher enters a user namespace (prctl(2)).
    let deathsig = nix::sys::prctl::get_pdeathsig().map_err(errno("learn the death signal"))?;
    let parent = getppid();
    let base = base::make(&plan, &config.build_directory)
        .map_err(|failure| start(failure.step)(failure.error))?;
    if deathsig.is_some() {
        nix::sys::prctl::set_pdeathsig(deathsig).map_err(errno("restore the death signal"))?;
        if getppid() != parent {
            return Err(errno("follow the supervisor")(Errno::ESRCH));
        }
    }
    sys::prctl(libc::PR_SET_DUMPABLE, 0).map_err(errno("hide memory"))?;
    let filter = if plan.holds(Protection::Seccomp) {
        seccomp::program().map_err(|error| Error::Start {
            step: "compile the system call filter".to_owned(),
            source: io::Error::other(error),
        })?
    } else {
        Vec::new()
    };
    let networks = if plan.prepare.contains(&Step::UnusedNetwork) {
        let proc = base
            .proc
            .try_clone()
            .map_err(start("keep /proc".to_owned()))?;
        let most = networks_kept(config.pool_size);
        Some(Networks::new(proc, most).map_err(errno("find the own network"))?)
    } else {
        None
    };
    let build = base.build;
    let worker = mount_map::owner(build.as_fd());
    let urgency = Urgency::own().map_err(errno("learn the own priority"))?;
    // Sandboxes begin as copies of this process.
    sys::default_signals_but(libc::SIGPIPE).map_err(errno("reset signals"))?;
    let groups_bound_processes = cgroups
        .as_ref()
        .is_some_and(|groups| groups.enforces(Limit::Processes));
    let mut launcher = Launcher {
        worker: worker.map_err(errno("look at the build directory"))?,
        overlays: false,
        overlays_likely: 0,
        cgroups,
        grace: config.termination_grace,
        networks,
        ids: Ids::new(plan.host_ids, own.as_raw()),
        shared: Shared {
            plan,
            proc: base.proc,
            own_group: group,
            filter,
            arguments,
            urgency,
            groups_bound_processes,
            build_directory: config.build_directory,
        },
        build,
        pool_size: config.pool_size,
        socket,
        service,
        signals,
        sandboxes: Vec::new(),
        helpers: Vec::new(),
        orders: VecDeque::new(),
        replies: VecDeque::new(),
        started: false,
        stopping: false,
        quiet_until: None,
        pause_until: None,
    };
    let result = launcher.serve();
    launcher.end_all();
    result
}

impl Launcher<'_> {
    fn serve(&mut self) -> Result<(), Error> {
        loop {
            let wanted = self.wants_sandbox();
            let urgent = wanted && !self.orders.is_empty();
            let events = self.wait(wanted)?;
            // Making one ahead waits until nothing else is to be done; while runs
            // wait for one, what else there is goes on in between.
            let make = wanted && (urgent || events.none());
            if let Next::End = self.handle(&events)? {
                return Ok(());
            }
            self.enforce_deadlines();
            self.assign();
            self.flush()?;
            if make && self.wants_sandbox() {
                if urgent {
                    self.start_sandbox()?;
                } else {
                    self.shared.urgency.wait_for_command();
                    let started = self.start_sandbox();
                    self.shared.urgency.go_first();
                    started?;
                }
            }
        }
    }

    fn wants_sandbox(&mut self) -> bool {
        let now = Instant::now();
        // Cleared when over, so that the loop does not wait for them again.
        self.quiet_until = self.quiet_until.filter(|until| now < *until);
        self.pause_until = self.pause_until.filter(|until| now < *until);
        if self.pause_until.is_some() {
            return false;
        }
        let (mut spare, mut leaving) = (0, 0);
        for sandbox in &self.sandboxes {
            match sandbox.state {
                State::Preparing | State::Ready => spare += 1,
                State::Leaving => leaving += 1,
                State::Running(_) => {}
            }
        }
        // Sandboxes must not be made faster than the kernel takes them down.
        let crowded = leaving >= self.pool_size + LEAVING;
        if spare >= self.pool_size + self.orders.len() || crowded || !self.ids.any() {
            return false;
        }
        // Making one now would contend with the start of the last command.
        let enough = spare > self.pool_size / 2 && self.orders.is_empty();
        !(enough && self.quiet_until.is_some())
    }

    fn wait(&mut self, only_look: bool) -> Result<Events, Error> {
        let timeout = if only_look {
            PollTimeout::ZERO
        } else {
            self.next_deadline(Instant::now())
        };
        let mut polled = Polled::default();
        let mut wanted = PollFlags::empty();
        // Who does not take replies is not asked for more requests.
        wanted.set(PollFlags::POLLIN, self.replies.len() < MOST_REPLIES);
        wanted.set(PollFlags::POLLOUT, !self.replies.is_empty());
        polled.add(self.socket.as_fd(), wanted, Source::Socket);
        polled.readable(self.service.pidfd.as_fd(), Source::Service);
        polled.readable(self.signals.as_fd(), Source::Signals);
        for (index, sandbox) in self.sandboxes.iter().enumerate() {
            // A channel that has ended would be readable until init is reaped.
            if !sandbox.silent {
                polled.readable(sandbox.channel.as_fd(), Source::Report(index));
            }
            polled.readable(sandbox.pidfd.as_fd(), Source::Death(index));
        }
        for (index, helper) in self.helpers.iter().enumerate() {
            polled.readable(helper.life(), Source::Helper(index));
        }
        polled.wait(timeout).map_err(failed("poll"))
    }

    fn handle(&mut self, events: &Events) -> Result<Next, Error> {
        if events.service {
            return Ok(Next::End);
        }
        if events.signals && self.stop()? {
            return Ok(Next::End);
        }
        for index in &events.reports {
            self.take_report(*index);
        }
        // From the last, so that indices stay true while some are removed.
        for index in events.deaths.iter().rev() {
            let sandbox = self.sandboxes.swap_remove(*index);
            self.reap(sandbox)?;
        }
        for index in events.helpers.iter().rev() {
            let reply = self.helpers.swap_remove(*index).finish();
            self.replies.push_back(reply);
        }
        if !self.started
            && self
                .sandboxes
                .iter()
                .any(|s| matches!(s.state, State::Ready))
        {
            self.started = true;
            self.replies.push_back(Reply::Started);
        }
        if events.socket {
            return self.receive();
        }
        Ok(Next::Continue)
    }

    /// SIGTERM or SIGINT: `true` when all is to end now.
    fn stop(&mut self) -> Result<bool, Error> {
        while let Some(_signal) = self
            .signals
            .read_signal()
            .map_err(failed("read a signal"))?
        {
            if self.stopping || !self.started {
                return Ok(true);
            }
            self.stopping = true;
            let _ = sys::pidfd_send_signal(self.service.pidfd.as_fd(), libc::SIGTERM);
        }
        Ok(false)
    }

    fn start_sandbox(&mut self) -> Result<(), Error> {
        let Some(host_id) = self.ids.take() else {
            return Ok(());
        };
        let group = self.cgroups.as_mut().map(Cgroups::make).transpose();
        let started = group
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
            .and_then(|group| Sandbox::start(&self.shared, self.networks.as_mut(), group, host_id));
        match started {
            Ok(mut sandbox) => {
                if self.overlays_likely > 0 {
                    // If that fails, it is tried again when there is a use for it.
                    let _ = sandbox.map_mounts(&self.shared, self.worker);
                }
                self.sandboxes.push(sandbox);
                Ok(())
            }
            Err(errno) => {
                self.ids.give_back(host_id);
                let failure = StepFailure {
                    phase: Phase::Prepare,
                    step: 0,
                    errno,
                    detail: String::new(),
                };
                self.not_prepared(Some(failure))
            }
        }
    }

    /// Gives waiting runs to ready sandboxes.
    fn assign(&mut self) {
        for sandbox in &mut self.sandboxes {
            while matches!(sandbox.state, State::Ready) && sandbox.last.is_none() {
                let Some(order) = self.orders.pop_front() else {
                    return;
                };
                let id = order.id;
                self.quiet_until = Some(Instant::now() + QUIET);
                self.overlays_likely = self.overlays_likely.saturating_sub(1);
                if order.directions.wants_overlay() {
                    self.overlays = true;
                    self.overlays_likely = OVERLAYS_LIKELY;
                    // A failure is told by the order, which then lacks the mapping.
                    let _ = sandbox.map_mounts(&self.shared, self.worker);
                }
                self.shared.urgency.call(sandbox.pid);
                match sandbox.run(
                    self.build.as_fd(),
                    &self.shared.plan,
                    self.cgroups.as_ref(),
                    order,
                ) {
                    Ok(()) => {}
                    Err(NotRun::Rejected(rejection)) => {
                        self.replies.push_back(rejection.reply(id));
                    }
                    Err(NotRun::Dead(order)) => {
                        self.orders.push_front(*order);
                    }
                }
            }
        }
        if self.orders.is_empty() {
            return;
        }
        for sandbox in &self.sandboxes {
            if matches!(sandbox.state, State::Preparing) {
                self.shared.urgency.call(sandbox.pid);
            }
        }
    }

    /// Sends replies until the socket is full.
    fn flush(&mut self) -> Result<(), Error> {
        while let Some(reply) = self.replies.front() {
            match send_datagram(self.socket.as_fd(), &reply.encode(), &[]) {
                Ok(()) => {
                    self.replies.pop_front();
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(()),
                    io::ErrorKind::Interrupted => {}
                    // The service half is going; its life tells.
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                        self.replies.clear();
                    }
                    _ => {
                        return Err(Error::Launcher {
                            step: "reply",
                            source: error,
                        });
                    }
                },
            }
        }
        Ok(())
    }

    /// Kills and reaps every sandbox and helper.
    fn end_all(&mut self) {
        for sandbox in &self.sandboxes {
            sandbox.kill();
        }
        for sandbox in self.sandboxes.drain(..) {
            while matches!(sys::wait_with_usage(sandbox.pid), Err(Errno::EINTR)) {}
        }
        for helper in self.helpers.drain(..) {
            helper.end();
        }
    }
}

fn failed(step: &'static str) -> impl Fn(Errno) -> Error {
    move |errno| Error::Launcher {
        step,
        source: errno.into(),
    }
}
