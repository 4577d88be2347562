//! The launcher's view of one sandbox.
//!
//! `Preparing → Ready → Running → Leaving → reaped`; from any state straight to
//! reaped when its init dies. `Leaving`: nothing but init is left. The transitions are driven by [`Report`]s of its init
//! and by its pidfd.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Pid, UnlinkatFlags, unlinkat};

use crate::client::{receive_datagram, send_datagram};
use crate::id_map::{IdPair, map_ids};
use crate::init::{self, Shared};
use crate::message::{Done, End, RUN_BYTES, Reply, Usage};
use crate::paths::{self, Relative};
use crate::plan::Plan;
use crate::policy::{HostIds, Root};
use crate::report::Report;
use crate::run_request::RunRequest;
use crate::{base, memory, sys};

/// What `/` must hold for things to be attached there, when it is an input root.
const MOUNT_POINTS: [&CStr; 3] = [c"proc", c"dev", c"tmp"];

#[derive(Debug)]
pub(crate) enum State {
    Preparing,
    Ready,
    Running(Running),
    Leaving,
}

/// One command's run.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) id: u64,
    /// The program and the working directory, for messages.
    pub(crate) program: String,
    pub(crate) directory: String,
    pub(crate) started: Instant,
    pub(crate) deadline: Option<Instant>,
    /// Why all was killed, when it was.
    pub(crate) killed: Option<End>,
    /// The input root that is `/`, and which mount points were made in it.
    made: Option<(OwnedFd, Vec<&'static CStr>)>,
}

#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) state: State,
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    pub(crate) channel: OwnedFd,
    pub(crate) host_id: u32,
    /// The last report, which says how it ended.
    pub(crate) last: Option<Report>,
    /// Its end of the channel is closed.
    pub(crate) silent: bool,
}

/// A request that cannot be handed to a sandbox: what was done, to what, errno.
pub(crate) type Rejection = (&'static str, String, Errno);

/// A run request whose directories are open and whose files exist, with no
/// sandbox yet.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) id: u64,
    memory: OwnedFd,
    request: RunRequest,
}

impl Order {
    /// Checks what came from the service half.
    pub(crate) fn new(id: u64, length: u64, memory: OwnedFd) -> Result<Self, Rejection> {
        let reject = |errno| ("read the request", String::new(), errno);
        let bytes = memory::read(memory.as_fd()).map_err(reject)?;
        if bytes.len() as u64 != length || length > RUN_BYTES {
            return Err(reject(Errno::EMSGSIZE));
        }
        let request = RunRequest::decode(&bytes)
            .map_err(|error| ("read the request", error.to_string(), Errno::EINVAL))?;
        Ok(Self {
            id,
            memory,
            request,
        })
    }
}

impl Sandbox {
    /// Starts a sandbox; it reports when it is prepared.
    pub(crate) fn start(shared: &Shared, host_id: u32) -> nix::Result<Self> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        let namespaces = libc::CLONE_NEWUSER | libc::CLONE_NEWPID;
        let Some((pid, pidfd)) = sys::clone_process(namespaces)? else {
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
            last: None,
            silent: false,
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

    /// SIGKILL to its init: everything in it dies.
    pub(crate) fn kill(&self) {
        // ESRCH: it is dead already, and about to be reaped.
        let _ = sys::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
    }

    /// Takes one report; `false` when there is none (any more).
    pub(crate) fn take_report(&mut self) -> bool {
        match receive_datagram(self.channel.as_fd()) {
            Ok(Some((bytes, _))) => {
                match Report::decode(&bytes) {
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

    /// Hands a command to a ready sandbox.
    ///
    /// Standard output and error exist, and are the command's, from here on.
    pub(crate) fn run(&mut self, plan: &Plan, order: Order) -> Result<(), Rejection> {
        let Order {
            id,
            memory,
            request,
        } = order;
        let build = paths::open_place(base::BUILD)
            .map_err(|errno| ("open the build directory", String::new(), errno))?;
        let build = build.as_fd();
        let (input, tree) =
            directory(build, "input root directory", &request.input_root_directory)?;
        let temporary = match &request.temporary_directory[..] {
            b"" => None,
            path => Some(directory(build, "temporary directory", path)?.1),
        };
        let made = match plan.root {
            Root::Host => None,
            Root::Input => Some(make_mount_points(input)?),
        };
        // From here on the mount points are removed again whatever happens.
        let mut running = Running {
            id,
            program: text(request.arguments.first().map_or(&[][..], |a| a)),
            directory: text(&request.working_directory),
            started: Instant::now(),
            deadline: None,
            killed: None,
            made,
        };
        let handed = hand_over(
            self.channel.as_fd(),
            build,
            &request,
            &memory,
            tree,
            temporary,
            plan.host_ids,
        );
        if let Err(rejection) = handed {
            running.clean();
            return Err(rejection);
        }
        running.started = Instant::now();
        running.deadline = request
            .timeout
            .and_then(|timeout| running.started.checked_add(timeout));
        self.state = State::Running(running);
        Ok(())
    }
}

fn hand_over(
    channel: BorrowedFd<'_>,
    build: BorrowedFd<'_>,
    request: &RunRequest,
    memory: &OwnedFd,
    tree: OwnedFd,
    temporary: Option<OwnedFd>,
    ids: HostIds,
) -> Result<(), Rejection> {
    if request.stdout_path == request.stderr_path {
        return Err(("stderr path", text(&request.stderr_path), Errno::EEXIST));
    }
    let stdout = output(build, "stdout path", &request.stdout_path, ids)?;
    let stderr = output(build, "stderr path", &request.stderr_path, ids)?;
    let mut descriptors = vec![memory.as_fd(), stdout.as_fd(), stderr.as_fd(), tree.as_fd()];
    descriptors.extend(temporary.as_ref().map(AsFd::as_fd));
    send_datagram(channel, b"run", &descriptors).map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
        ("hand over to a sandbox", String::new(), errno)
    })
}

impl Running {
    /// The reply to a run that ended.
    pub(crate) fn done(&self, end: End, usage: Usage) -> Reply {
        Reply::Done(Done {
            id: self.id,
            end,
            usage,
            duration: self.started.elapsed(),
        })
    }

    /// Time left until the deadline.
    pub(crate) fn left(&self, now: Instant) -> Option<Duration> {
        self.deadline
            .filter(|_| self.killed.is_none())
            .map(|deadline| deadline.saturating_duration_since(now))
    }

    /// Removes the mount points that were made in an input root, so that they
    /// are not taken for outputs. To be called when the sandbox is dead.
    pub(crate) fn clean(&mut self) {
        if let Some((input, names)) = self.made.take() {
            for name in names {
                // A command cannot have put anything there; should something
                // be there nevertheless, it stays.
                let _ = unlinkat(&input, name, UnlinkatFlags::RemoveDir);
            }
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn relative(what: &'static str, path: &[u8]) -> Result<Relative, Rejection> {
    Relative::new(path).map_err(|errno| (what, text(path), errno))
}

/// Opens a directory, and makes a detached mount of it: the sandbox's uid
/// could not traverse a private directory above it.
fn directory(
    build: BorrowedFd<'_>,
    what: &'static str,
    path: &[u8],
) -> Result<(OwnedFd, OwnedFd), Rejection> {
    let reject = |errno| (what, text(path), errno);
    let directory = paths::open_directory(build, &relative(what, path)?).map_err(reject)?;
    let tree = sys::clone_tree(directory.as_fd(), c"").map_err(reject)?;
    let attributes = sys::NO_SUID | sys::NO_DEV;
    sys::mount_setattr(tree.as_fd(), attributes, libc::MS_PRIVATE, true).map_err(reject)?;
    Ok((directory, tree))
}

fn output(
    build: BorrowedFd<'_>,
    what: &'static str,
    path: &[u8],
    ids: HostIds,
) -> Result<OwnedFd, Rejection> {
    let relative = relative(what, path)?;
    paths::open_output(build, &relative, ids).map_err(|errno| (what, text(path), errno))
}

fn make_mount_points(input: OwnedFd) -> Result<(OwnedFd, Vec<&'static CStr>), Rejection> {
    let mut made = Vec::new();
    for name in MOUNT_POINTS {
        match mkdirat(&input, name, Mode::from_bits_truncate(0o755)) {
            Ok(()) => made.push(name),
            Err(Errno::EEXIST) => {}
            Err(errno) => {
                let name = name.to_string_lossy().into_owned();
                return Err(("make a mount point in the input root", name, errno));
            }
        }
    }
    Ok((input, made))
}
