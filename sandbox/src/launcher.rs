//! The launcher half's event loop.
//!
//! One thread, one `poll(2)`: the service half's socket, its life, signals, and
//! of every sandbox the channel and the life. A run waits in a queue until a
//! sandbox is ready (usually one is), is `Running` until that sandbox is
//! reaped, and is answered then: a reply means that nothing of it is left.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{geteuid, setgroups};

use crate::client::{receive_datagram, send_datagram};
use crate::command::is_fault_of_command;
use crate::helper::Helper;
use crate::ids::Ids;
use crate::init::Shared;
use crate::limits;
use crate::message::{Done, End, Failure, FailureKind, Reply, Request};
use crate::paths::{self, Relative};
use crate::plan::{Phase, Plan};
use crate::policy::Protection;
use crate::report::{Report, StepFailure};
use crate::sandbox::{Order, Rejection, Running, Sandbox, State, inner_id};
use crate::split::{Config, Error, Service, Signals};
use crate::{base, seccomp, sys};

/// How long no new sandbox is tried after one failed to be made.
const PAUSE: Duration = Duration::from_millis(200);

struct Launcher<'a> {
    shared: Shared,
    inner: u32,
    pool_size: usize,
    socket: OwnedFd,
    service: &'a Service,
    signals: SignalFd,
    ids: Ids,
    sandboxes: Vec<Sandbox>,
    helpers: Vec<Helper>,
    /// Runs that wait for a sandbox.
    orders: VecDeque<Order>,
    /// Replies that the socket did not take yet.
    replies: VecDeque<Reply>,
    started: bool,
    stopping: bool,
    pause_until: Option<Instant>,
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
    let own = geteuid();
    if own.is_root() {
        setgroups(&[]).map_err(errno("drop supplementary groups"))?;
    }
    // Files are created with the modes that are given.
    umask(Mode::empty());
    let arguments = sys::arguments().map_err(start("find the own arguments".to_owned()))?;
    let base = base::make(&plan, &config.build_directory)
        .map_err(|failure| start(failure.step)(failure.error))?;
    sys::prctl(libc::PR_SET_DUMPABLE, 0).map_err(errno("hide memory"))?;
    let filter = if plan.holds(Protection::Seccomp) {
        seccomp::program().map_err(|error| Error::Start {
            step: "compile the system call filter".to_owned(),
            source: io::Error::other(error),
        })?
    } else {
        Vec::new()
    };
    let mut launcher = Launcher {
        inner: inner_id(&plan.prepare),
        ids: Ids::new(plan.host_ids, own.as_raw()),
        shared: Shared {
            plan,
            proc: base.proc,
            filter,
            arguments,
        },
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
            // Making a sandbox ahead waits until nothing else is to be done.
            let events = if urgent {
                Events::default()
            } else {
                self.wait(wanted)?
            };
            if wanted && (urgent || events.none()) {
                self.start_sandbox()?;
            }
            if let Next::End = self.handle(&events)? {
                return Ok(());
            }
            self.enforce_deadlines();
            self.assign();
            self.flush()?;
        }
    }

    fn wants_sandbox(&mut self) -> bool {
        if self.pause_until.is_some_and(|until| Instant::now() < until) {
            return false;
        }
        self.pause_until = None;
        let spare = |s: &&Sandbox| !matches!(s.state, State::Running(_));
        let spares = self.sandboxes.iter().filter(spare).count();
        spares < self.pool_size + self.orders.len() && self.ids.any()
    }

    fn wait(&mut self, only_look: bool) -> Result<Events, Error> {
        let now = Instant::now();
        let timeout = if only_look {
            PollTimeout::ZERO
        } else {
            self.next_deadline(now)
        };
        let socket_events = if self.replies.is_empty() {
            PollFlags::POLLIN
        } else {
            PollFlags::POLLIN | PollFlags::POLLOUT
        };
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut polled = vec![
            PollFd::new(self.socket.as_fd(), socket_events),
            readable(self.service.pidfd.as_fd()),
            readable(self.signals.as_fd()),
        ];
        let mut sources = vec![Source::Socket, Source::Service, Source::Signals];
        for (index, sandbox) in self.sandboxes.iter().enumerate() {
            // A channel that has ended would be readable until init is reaped.
            if !sandbox.silent {
                polled.push(readable(sandbox.channel.as_fd()));
                sources.push(Source::Report(index));
            }
            polled.push(readable(sandbox.pidfd.as_fd()));
            sources.push(Source::Death(index));
        }
        for (index, helper) in self.helpers.iter().enumerate() {
            polled.push(readable(helper.life()));
            sources.push(Source::Helper(index));
        }
        match poll(&mut polled, timeout) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Events::default()),
            Err(errno) => return Err(failed("poll")(errno)),
        }
        let mut events = Events::default();
        for (polled, source) in polled.iter().zip(sources) {
            if polled.any().unwrap_or(false) {
                events.add(source);
            }
        }
        Ok(events)
    }

    fn next_deadline(&self, now: Instant) -> PollTimeout {
        let running = self.sandboxes.iter().filter_map(|s| match &s.state {
            State::Running(running) => running.left(now),
            _ => None,
        });
        let pause = self.pause_until.map(|u| u.saturating_duration_since(now));
        match running.chain(pause).min() {
            None => PollTimeout::NONE,
            // Rounded up: waking before the deadline would be for nothing.
            Some(left) => (left + Duration::from_micros(999))
                .try_into()
                .unwrap_or(PollTimeout::MAX),
        }
    }

    fn handle(&mut self, events: &Events) -> Result<Next, Error> {
        if events.service {
            return Ok(Next::End);
        }
        if events.signals && self.stop()? {
            return Ok(Next::End);
        }
        for index in &events.reports {
            if let Some(sandbox) = self.sandboxes.get_mut(*index) {
                sandbox.take_report();
            }
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

    /// Takes what the service half sent; what it breaks, it is ended for.
    fn receive(&mut self) -> Result<Next, Error> {
        loop {
            let (bytes, descriptors) = match receive_datagram(self.socket.as_fd()) {
                Ok(Some(message)) => message,
                // It closed its end, or is dead: its life tells.
                Ok(None) => return self.wait_for_service(),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(Next::Continue),
                    io::ErrorKind::Interrupted => continue,
                    io::ErrorKind::ConnectionReset => return self.wait_for_service(),
                    _ => {
                        return Err(Error::Launcher {
                            step: "receive",
                            source: error,
                        });
                    }
                },
            };
            let request = Request::decode(&bytes).map_err(|error| Error::Launcher {
                step: "understand the service half",
                source: io::Error::new(io::ErrorKind::InvalidData, error),
            })?;
            self.accept(request, descriptors);
        }
    }

    /// Without its socket the service half is of no use: it is given the time
    /// to leave by itself and no more.
    fn wait_for_service(&self) -> Result<Next, Error> {
        let life = PollFd::new(self.service.pidfd.as_fd(), PollFlags::POLLIN);
        poll(&mut [life], PollTimeout::from(1000_u16)).map_err(failed("poll"))?;
        Ok(Next::End)
    }

    fn accept(&mut self, request: Request, descriptors: Vec<OwnedFd>) {
        let reject = |(step, detail, errno): Rejection| Failure {
            kind: FailureKind::Request,
            step: step.to_owned(),
            errno: errno as i32,
            detail,
        };
        match request {
            Request::Run { id, length } => {
                let memory = descriptors.into_iter().next();
                let order = match memory {
                    _ if self.is_running(id) => {
                        Err(("run", "the id is in use".to_owned(), Errno::EEXIST))
                    }
                    None => Err(("read the request", String::new(), Errno::EBADF)),
                    Some(memory) => Order::new(id, length, memory),
                };
                match order {
                    Ok(order) => self.orders.push_back(order),
                    Err(rejection) => self.fail(id, reject(rejection)),
                }
            }
            Request::Kill { id } => self.kill(id),
            Request::Reclaim { id, path } => {
                let helper = open(&path).and_then(|directory| {
                    Helper::reclaim(id, directory.as_fd(), self.shared.plan.host_ids)
                        .map_err(|errno| ("start a helper", text(&path), errno))
                });
                match helper {
                    Ok(helper) => self.helpers.push(helper),
                    Err(rejection) => self.fail(id, reject(rejection)),
                }
            }
            Request::CheckPath { id, path } => match check(&path) {
                Ok(()) => self.replies.push_back(Reply::Checked { id }),
                Err(rejection) => self.fail(id, reject(rejection)),
            },
        }
    }

    fn is_running(&self, id: u64) -> bool {
        self.orders.iter().any(|order| order.id == id)
            || self
                .sandboxes
                .iter()
                .any(|s| matches!(&s.state, State::Running(running) if running.id == id))
    }

    fn fail(&mut self, id: u64, failure: Failure) {
        self.replies.push_back(Reply::Failed { id, failure });
    }

    fn kill(&mut self, id: u64) {
        if let Some(waiting) = self.orders.iter().position(|order| order.id == id) {
            self.orders.remove(waiting);
            self.replies.push_back(Reply::Done(Done {
                id,
                end: End::Killed,
                usage: Default::default(),
                duration: Duration::ZERO,
            }));
        }
        for sandbox in &mut self.sandboxes {
            if let State::Running(running) = &mut sandbox.state
                && running.id == id
                && running.killed.is_none()
            {
                running.killed = Some(End::Killed);
                sandbox.kill();
            }
        }
    }

    fn enforce_deadlines(&mut self) {
        let now = Instant::now();
        for sandbox in &mut self.sandboxes {
            if let State::Running(running) = &mut sandbox.state
                && running.left(now) == Some(Duration::ZERO)
            {
                running.killed = Some(End::TimedOut);
                sandbox.kill();
            }
        }
    }

    fn start_sandbox(&mut self) -> Result<(), Error> {
        let Some(host_id) = self.ids.take() else {
            return Ok(());
        };
        match Sandbox::start(&self.shared, host_id, self.inner) {
            Ok(sandbox) => {
                self.sandboxes.push(sandbox);
                Ok(())
            }
            Err(errno) => {
                self.ids.give_back(host_id);
                let failure = StepFailure {
                    phase: Phase::Prepare,
                    step: 0,
                    errno,
                };
                self.not_prepared(Some(failure))
            }
        }
    }

    /// Gives waiting runs to ready sandboxes.
    fn assign(&mut self) {
        let root = self.shared.plan.root;
        for sandbox in &mut self.sandboxes {
            while matches!(sandbox.state, State::Ready) && sandbox.last.is_none() {
                let Some(order) = self.orders.pop_front() else {
                    return;
                };
                let id = order.id;
                if let Err((step, detail, errno)) = sandbox.run(root, order) {
                    let failure = Failure {
                        kind: FailureKind::Request,
                        step: step.to_owned(),
                        errno: errno as i32,
                        detail,
                    };
                    self.replies.push_back(Reply::Failed { id, failure });
                }
            }
        }
    }

    /// A sandbox's init is dead: reaps it, and answers its run.
    fn reap(&mut self, mut sandbox: Sandbox) -> Result<(), Error> {
        while sandbox.take_report() {}
        let (_, usage) = sys::wait_with_usage(sandbox.pid).map_err(failed("reap a sandbox"))?;
        self.ids.give_back(sandbox.host_id);
        let reported = sandbox.last.take();
        let State::Running(mut running) = sandbox.state else {
            let failure = match reported {
                Some(Report::Failed(failure)) => Some(failure),
                _ => None,
            };
            return self.not_prepared(failure);
        };
        running.clean();
        let id = running.id;
        let done = |end, usage| {
            Reply::Done(Done {
                id,
                end,
                usage,
                duration: running.started.elapsed(),
            })
        };
        let reply = match (reported, running.killed) {
            (Some(Report::Ended { status, usage }), _) => done(end(status), usage),
            (Some(Report::Failed(step)), _) => Reply::Failed {
                id,
                failure: self.failure(&step, &running),
            },
            // Init's own use is in it, since it could not say what it was.
            (_, Some(end)) => done(end, limits::usage(&usage)),
            (_, None) => Reply::Failed {
                id,
                failure: Failure {
                    kind: FailureKind::Sandbox,
                    step: "keep the sandbox alive".to_owned(),
                    errno: 0,
                    detail: "its init was killed from outside, or for lack of memory".to_owned(),
                },
            },
        };
        self.replies.push_back(reply);
        Ok(())
    }

    /// A sandbox died before it had a command.
    fn not_prepared(&mut self, failure: Option<StepFailure>) -> Result<(), Error> {
        let (step, errno) = match &failure {
            Some(failure) => (self.step_name(failure), failure.errno),
            None => ("stay alive".to_owned(), Errno::UnknownErrno),
        };
        if !self.started {
            return Err(Error::FirstSandbox {
                step,
                source: errno.into(),
            });
        }
        self.pause_until = Some(Instant::now() + PAUSE);
        if let Some(order) = self.orders.pop_front() {
            let failure = Failure {
                kind: FailureKind::Sandbox,
                step,
                errno: errno as i32,
                detail: "no sandbox could be made".to_owned(),
            };
            self.fail(order.id, failure);
        }
        Ok(())
    }

    fn step_name(&self, failure: &StepFailure) -> String {
        self.shared
            .plan
            .steps(failure.phase)
            .get(failure.step)
            .map_or_else(|| failure.phase.to_string(), ToString::to_string)
    }

    fn failure(&self, failed: &StepFailure, running: &Running) -> Failure {
        use crate::plan::Step;
        let step = self.shared.plan.steps(failed.phase).get(failed.step);
        let of_command = failed.phase == Phase::Command
            && step.is_some_and(|step| is_fault_of_command(step, failed.errno));
        Failure {
            kind: if of_command {
                FailureKind::Command
            } else {
                FailureKind::Sandbox
            },
            step: self.step_name(failed),
            errno: failed.errno as i32,
            detail: match step {
                Some(Step::Execute) => running.program.clone(),
                Some(Step::WorkingDirectory) => running.directory.clone(),
                _ => String::new(),
            },
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
        for mut sandbox in self.sandboxes.drain(..) {
            while matches!(sys::wait_with_usage(sandbox.pid), Err(Errno::EINTR)) {}
            if let State::Running(running) = &mut sandbox.state {
                running.clean();
            }
        }
        for helper in self.helpers.drain(..) {
            helper.end();
        }
    }
}

/// What `poll(2)` found.
#[derive(Default)]
struct Events {
    socket: bool,
    service: bool,
    signals: bool,
    reports: Vec<usize>,
    deaths: Vec<usize>,
    helpers: Vec<usize>,
}

/// What a polled descriptor belongs to; sandboxes and helpers by index.
enum Source {
    Socket,
    Service,
    Signals,
    Report(usize),
    Death(usize),
    Helper(usize),
}

impl Events {
    fn add(&mut self, source: Source) {
        match source {
            Source::Socket => self.socket = true,
            Source::Service => self.service = true,
            Source::Signals => self.signals = true,
            Source::Report(index) => self.reports.push(index),
            Source::Death(index) => self.deaths.push(index),
            Source::Helper(index) => self.helpers.push(index),
        }
    }

    fn none(&self) -> bool {
        !self.socket
            && !self.service
            && !self.signals
            && self.reports.is_empty()
            && self.deaths.is_empty()
            && self.helpers.is_empty()
    }
}

fn failed(step: &'static str) -> impl Fn(Errno) -> Error {
    move |errno| Error::Launcher {
        step,
        source: errno.into(),
    }
}

fn end(status: libc::c_int) -> End {
    if libc::WIFSIGNALED(status) {
        End::Signaled(libc::WTERMSIG(status))
    } else {
        End::Exited(libc::WEXITSTATUS(status))
    }
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn build() -> Result<OwnedFd, Rejection> {
    paths::open_place(base::BUILD)
        .map_err(|errno| ("open the build directory", String::new(), errno))
}

fn open(path: &[u8]) -> Result<OwnedFd, Rejection> {
    let reject = |errno| ("open a directory", text(path), errno);
    let relative = Relative::new(path).map_err(reject)?;
    paths::open_directory(build()?.as_fd(), &relative).map_err(reject)
}

fn check(path: &[u8]) -> Result<(), Rejection> {
    let reject = |errno| ("look for a path", text(path), errno);
    let relative = Relative::new(path).map_err(reject)?;
    paths::check(build()?.as_fd(), &relative).map_err(reject)
}
