//! Pid 1 of a sandbox.
//!
//! It makes itself ready, waits for one command, attaches that command's
//! directories, starts it, reaps, and when the command's own process has ended
//! kills and reaps the rest, reports, and leaves; with it goes whatever might
//! be left. `preparing → prepared → running → ended`, and from each of the
//! first three `failed`.
//!
//! It keeps its capabilities (in its user namespace alone) for the mounts. The
//! command cannot reach it: it is in no Landlock domain while the command is,
//! its memory is not dumpable, the kernel drops signals to a pid 1 that it has no
//! handlers for, and the channel to the launcher is never in the command's hands. It has
//! one handler: SIGTERM is passed on to everything in the sandbox, which the launcher
//! asks for when a command's time is over (and a command may do to itself).

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, geteuid, sethostname};

use crate::client::{receive_datagram, send_datagram};
use crate::command;
use crate::done::Usage;
use crate::id_map::{IdPair, map_ids};
use crate::landlock::Rules;
use crate::limits::{Limit, Limits};
use crate::paths::open_place;
use crate::plan::Plan;
use crate::policy::{HostIds, Root};
use crate::report::{Report, StepFailure};
use crate::run_request::RunRequest;
use crate::step::{Phase, Step};
use crate::urgency::Urgency;
use crate::{mounts, rlimits, sys, without_namespaces};

/// What a sandbox needs from the launcher, prepared once.
pub(crate) struct Shared {
    pub(crate) plan: Plan,
    /// The host's `/proc`.
    pub(crate) proc: OwnedFd,
    /// The runner's own group.
    pub(crate) own_group: u32,
    /// The system call filter, compiled; empty where it is off.
    pub(crate) filter: Vec<seccompiler::sock_filter>,
    pub(crate) urgency: Urgency,
    /// Control groups bound how many processes there are.
    pub(crate) groups_bound_processes: bool,
    /// Where this process's arguments are.
    pub(crate) arguments: sys::Arguments,
    /// Where the build directory is, for commands that see the host's root.
    pub(crate) build_directory: PathBuf,
}

impl Shared {
    /// Whether the launcher maps ids without being root.
    pub(crate) fn maps_as_user(&self) -> bool {
        matches!(self.plan.host_ids, HostIds::Range { .. }) && !geteuid().is_root()
    }

    /// What a sandbox is outside whose host uid is this.
    pub(crate) fn outer(&self, host_id: u32) -> IdPair {
        match self.plan.host_ids {
            HostIds::Range { .. } => IdPair::same(host_id),
            HostIds::SameUser => IdPair {
                uid: host_id,
                gid: self.own_group,
            },
        }
    }
}

/// The descriptors that come with a command, in this order.
pub(crate) struct Assignment {
    memory: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    pub(crate) input: OwnedFd,
    pub(crate) temporary: Option<OwnedFd>,
}

/// What grows while a sandbox lives.
struct State<'a> {
    shared: &'a Shared,
    host_id: u32,
    channel: BorrowedFd<'a>,
    rules: Option<Rules>,
    /// Of the command.
    limits: Limits,
}

/// Runs as pid 1 of the new pid namespace and never returns.
pub(crate) fn main(shared: &Shared, channel: OwnedFd, host_id: u32) -> Infallible {
    let mut state = State {
        shared,
        host_id,
        channel: channel.as_fd(),
        rules: None,
        limits: shared.plan.limits.clone(),
    };
    let report = match live(&mut state) {
        Ok(report) => report,
        Err(failure) => Report::Failed(failure),
    };
    // Whether the launcher still listens makes no difference here.
    let sent = send_datagram(channel.as_fd(), &report.encode(), &[]);
    shared.urgency.give_way();
    sys::exit_now(i32::from(sent.is_err()))
}

fn live(state: &mut State<'_>) -> Result<Report, StepFailure> {
    run_steps(state, Phase::Prepare, None)?;
    // From here on a failure that is no step's is a failure of the first step
    // of the request.
    let stray = |errno| StepFailure {
        phase: Phase::Request,
        step: 0,
        errno,
        detail: String::new(),
    };
    send_datagram(state.channel, &Report::Prepared.encode(), &[]).map_err(|e| stray(raw(&e)))?;
    let assignment = receive(state.channel).map_err(stray)?;
    let request = read_request(&assignment.memory).map_err(stray)?;
    let plan = &state.shared.plan;
    let limits = plan.limits.with(&request.limits, &plan.maximum_limits);
    state.limits = limits.map_err(|_| stray(Errno::EINVAL))?;
    if state.shared.groups_bound_processes
        && let Some(most) = &mut state.limits[Limit::Processes]
    {
        // The group's limit, which is one more, is to be met first: it is the one that
        // tells that it was.
        *most = most.saturating_add(2);
    }
    run_steps(state, Phase::Request, Some(&assignment))?;
    if let Some(rules) = &mut state.rules {
        match plan.namespaces {
            true => allow_own(rules, plan.root, &assignment),
            false => without_namespaces::allow_own(rules, &assignment),
        }
        .map_err(stray)?;
    }
    let status = run(state, assignment, &request)?;
    let usage = match state.shared.plan.namespaces {
        true => reap_all(),
        false => without_namespaces::reap_all(state.shared.proc.as_fd()),
    }
    .map_err(stray)?;
    Ok(Report::Ended { status, usage })
}

fn raw(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

fn run_steps(
    state: &mut State<'_>,
    phase: Phase,
    assignment: Option<&Assignment>,
) -> Result<(), StepFailure> {
    let shared = state.shared;
    for (index, step) in shared.plan.steps(phase).iter().enumerate() {
        let result = match assignment {
            None => prepare(state, step),
            Some(assignment) => attach(state, step, assignment),
        };
        result.map_err(|errno| StepFailure {
            phase,
            step: index,
            errno,
            detail: String::new(),
        })?;
    }
    Ok(())
}

fn prepare(state: &mut State<'_>, step: &Step) -> nix::Result<()> {
    let root = state.shared.plan.root;
    match step {
        // The launcher was there when it made this process.
        Step::UnusedNetwork => Ok(()),
        Step::UserAndPidNamespaces { inner } => enter_own_namespaces(state, *inner),
        Step::TakeIds(inner) => {
            sys::take_ids(*inner, *inner)?;
            // The launcher's memory, of which this is a copy, is nobody's business.
            sys::prctl(libc::PR_SET_DUMPABLE, 0).map(drop)
        }
        // After the ids: changing them clears it.
        Step::DieWithLauncher => {
            sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong).map(drop)
        }
        Step::Namespaces {
            cgroup,
            ipc,
            uts,
            network,
        } => {
            let mut flags = CloneFlags::CLONE_NEWNS;
            flags.set(CloneFlags::CLONE_NEWCGROUP, *cgroup);
            flags.set(CloneFlags::CLONE_NEWIPC, *ipc);
            flags.set(CloneFlags::CLONE_NEWUTS, *uts);
            flags.set(CloneFlags::CLONE_NEWNET, *network);
            unshare(flags)
        }
        Step::Hostname(name) => {
            sethostname(name)?;
            // What the kernel has by default.
            sys::set_domain_name("(none)")
        }
        Step::Loopback => sys::bring_up(c"lo"),
        Step::AttachBase => mounts::attach_base(root),
        Step::Proc => mounts::proc(),
        Step::PseudoTerminals => mounts::pseudo_terminals(),
        Step::PrivateTmpfs { path, bytes } => mounts::tmpfs(&format!("/root/{path}"), *bytes),
        Step::PivotRoot => mounts::pivot(root),
        Step::EmptyBoundingSet => sys::empty_bounding_set(),
        Step::OwnProcessTree => own_process_tree(state),
        Step::LandlockRules { scopes } if !state.shared.plan.namespaces => {
            state.rules = Some(without_namespaces::rules(*scopes)?);
            Ok(())
        }
        Step::AllowReading(path) => match (&mut state.rules, place(path)) {
            (Some(rules), place) => rules.allow_reading(place?.as_fd()),
            (None, _) => Ok(()),
        },
        Step::AllowWriting(path) => match (&mut state.rules, place(path)) {
            (Some(rules), place) => rules.allow_all(place?.as_fd()),
            (None, _) => Ok(()),
        },
        Step::LandlockRules { .. } => landlock_rules(state, step),
        _ => Err(Errno::EINVAL),
    }
}

fn place(path: &Path) -> nix::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes());
    open_place(&path.map_err(|_| Errno::EINVAL)?)
}

fn attach(state: &mut State<'_>, step: &Step, assignment: &Assignment) -> nix::Result<()> {
    let root = state.shared.plan.root;
    match step {
        Step::AttachInputRoot(_) => mounts::attach_input(root, &assignment.input),
        Step::MoveIntoInputRoot => mounts::move_into_input(&assignment.input),
        Step::AttachTemporaryDirectory { bytes } => {
            let temporary = assignment.temporary.as_ref();
            let bytes = state.limits[Limit::Tmpfs].unwrap_or(*bytes);
            mounts::attach_temporary(root, &assignment.input, temporary, bytes)
        }
        Step::SizeMemoryDirectories => size_memory_directories(state),
        Step::PivotRoot => mounts::pivot(root),
        Step::LandlockRules { .. } => landlock_rules(state, step),
        _ => Err(Errno::EINVAL),
    }
}

/// They were mounted before the request was known.
fn size_memory_directories(state: &State<'_>) -> nix::Result<()> {
    let plan = &state.shared.plan;
    for (limit, path) in mounts::memory_directories(plan.root) {
        if state.limits[*limit] != plan.limits[*limit]
            && let Some(bytes) = state.limits[*limit]
        {
            mounts::size_tmpfs(path, bytes)?;
        }
    }
    Ok(())
}

/// The namespaces exist since the clone; what is left is to close what is not
/// the sandbox's, forget the launcher's signal handling, and have ids mapped.
fn enter_own_namespaces(state: &State<'_>, inner: u32) -> nix::Result<()> {
    let proc = state.shared.proc.as_raw_fd();
    let mut keep = vec![state.channel.as_raw_fd()];
    // Whoever holds the host's /proc reaches the host: only a sandbox that maps
    // its own ids needs it, and only for that.
    let maps_itself = state.shared.plan.host_ids == HostIds::SameUser;
    keep.extend(maps_itself.then_some(proc));
    sys::close_all_but(&keep)?;
    // The launcher has all others as they are by default.
    sys::default_signal(libc::SIGPIPE)?;
    sys::unblock_signals()?;
    sys::pass_on_termination()?;
    umask(Mode::from_bits_truncate(0o022));
    state.shared.urgency.wait_for_command();
    // Commands see pid 1's name and arguments.
    prctl::set_name(c"init")?;
    sys::clear_arguments(state.shared.arguments);
    match state.shared.plan.host_ids {
        HostIds::Range { .. } => {
            // The launcher maps, being root outside; it says when that is done.
            match receive_datagram(state.channel) {
                Ok(Some(_)) => Ok(()),
                Ok(None) => Err(Errno::EPIPE),
                Err(error) => Err(raw(&error)),
            }
        }
        HostIds::SameUser => {
            // The launcher is not dumpable, and so its copy's files in /proc
            // would belong to root.
            sys::prctl(libc::PR_SET_DUMPABLE, 1)?;
            map_ids(
                state.shared.proc.as_fd(),
                "self",
                IdPair::same(inner),
                state.shared.outer(state.host_id),
            )?;
            sys::close(proc)
        }
    }
}

/// What [`enter_own_namespaces`] does, but for the namespaces.
fn own_process_tree(state: &State<'_>) -> nix::Result<()> {
    let keep = [state.channel.as_raw_fd(), state.shared.proc.as_raw_fd()];
    sys::close_all_but(&keep)?;
    sys::default_signal(libc::SIGPIPE)?;
    sys::unblock_signals()?;
    umask(Mode::from_bits_truncate(0o022));
    state.shared.urgency.wait_for_command();
    prctl::set_name(c"init")?;
    sys::clear_arguments(state.shared.arguments);
    without_namespaces::own_process_tree(state.shared.proc.as_fd())
}

fn landlock_rules(state: &mut State<'_>, step: &Step) -> nix::Result<()> {
    let Step::LandlockRules { scopes } = step else {
        return Err(Errno::EINVAL);
    };
    let mut rules = Rules::new(*scopes)?;
    let slash = open_place(c"/")?;
    match state.shared.plan.root {
        Root::Input => rules.allow_all(slash.as_fd())?,
        Root::Host => {
            rules.allow_reading(slash.as_fd())?;
            for step in &state.shared.plan.start {
                if let Step::BindReadWrite(path) = step {
                    rules.allow_all(place(path)?.as_fd())?;
                }
            }
            for path in [c"/var/tmp", c"/dev/shm", c"/dev/pts"] {
                rules.allow_all(open_place(path)?.as_fd())?;
            }
            for path in [
                c"/dev/null",
                c"/dev/zero",
                c"/dev/full",
                c"/dev/random",
                c"/dev/urandom",
                c"/dev/tty",
            ] {
                rules.allow_file(open_place(path)?.as_fd())?;
            }
        }
    }
    state.rules = Some(rules);
    Ok(())
}

/// The command's own places: its input root, `/tmp`, and its output files,
/// which it may open again by way of `/dev/stdout`.
fn allow_own(rules: &mut Rules, root: Root, assignment: &Assignment) -> nix::Result<()> {
    rules.allow_file(assignment.stdout.as_fd())?;
    rules.allow_file(assignment.stderr.as_fd())?;
    if root == Root::Host {
        rules.allow_all(assignment.input.as_fd())?;
        rules.allow_all(open_place(c"/tmp")?.as_fd())?;
    }
    Ok(())
}

fn receive(channel: BorrowedFd<'_>) -> nix::Result<Assignment> {
    let datagram = receive_datagram(channel)
        .map_err(|error| raw(&error))?
        .ok_or(Errno::EPIPE)?;
    let mut descriptors = datagram.descriptors.into_iter();
    let mut next = || descriptors.next().ok_or(Errno::EBADMSG);
    Ok(Assignment {
        memory: next()?,
        stdout: next()?,
        stderr: next()?,
        input: next()?,
        temporary: next().ok(),
    })
}

/// The launcher has checked seals and length.
fn read_request(memory: &OwnedFd) -> nix::Result<RunRequest> {
    let bytes = crate::memory::read(memory.as_fd())?;
    RunRequest::decode(&bytes).map_err(|_| Errno::EBADMSG)
}

/// Starts the command and reaps until its own process has ended.
fn run(
    state: &mut State<'_>,
    assignment: Assignment,
    request: &RunRequest,
) -> Result<i32, StepFailure> {
    let Assignment {
        stdout,
        stderr,
        input,
        temporary,
        memory,
    } = assignment;
    drop((temporary, memory));
    let plan = &state.shared.plan;
    let input = (!plan.namespaces).then_some(input);
    let place = input.as_ref().map(|input| command::Place {
        input: input.as_fd(),
        build_directory: &state.shared.build_directory,
    });
    let pid = command::start(&command::Start {
        place,
        plan: &state.shared.plan,
        filter: &state.shared.filter,
        rules: state.rules.as_ref(),
        request,
        limits: &state.limits,
        stdout: stdout.as_fd(),
        stderr: stderr.as_fd(),
    })?;
    drop((input, stdout, stderr));
    if !plan.namespaces {
        let ended = without_namespaces::wait(state.shared.proc.as_fd(), pid);
        return ended.map_err(|errno| StepFailure {
            phase: Phase::Command,
            step: 0,
            errno,
            detail: String::new(),
        });
    }
    loop {
        match sys::wait_any() {
            Ok((reaped, status)) if reaped == pid => return Ok(status),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => {
                return Err(StepFailure {
                    phase: Phase::Command,
                    step: 0,
                    errno,
                    detail: String::new(),
                });
            }
        }
    }
}

/// Kills and reaps everything that is left, and says what all of it used.
fn reap_all() -> nix::Result<Usage> {
    loop {
        // To all but oneself; ESRCH when there is none.
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
        match sys::wait_any() {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(rlimits::usage(&sys::usage_of_children()?))
}
