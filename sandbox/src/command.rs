//! The process that becomes the command.
//!
//! It is started like `vfork(2)`: it shares init's memory while init stands
//! still, so that no page table is copied and a failure is simply left in that
//! memory; `execve(2)` gives it memory of its own.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, setsid};

use crate::blame::blame;
use crate::id_map::{IdPair, map_ids};
use crate::landlock::Rules;
use crate::limits::Limits;
use crate::paths::open_place;
use crate::plan::Plan;
use crate::policy::Root;
use crate::report::StepFailure;
use crate::run_request::RunRequest;
use crate::step::{Phase, Step};
use crate::{rlimits, sys};

/// `securebits` (`capabilities(7)`): being uid 0 means nothing, nothing can be
/// kept or raised, all locked.
const SECURE_BITS: libc::c_ulong = 0b1110_1111;

/// What a command is started with.
pub(crate) struct Start<'a> {
    /// Where it runs, without namespaces.
    pub(crate) place: Option<Place<'a>>,
    pub(crate) plan: &'a Plan,
    pub(crate) filter: &'a [seccompiler::sock_filter],
    pub(crate) rules: Option<&'a Rules>,
    pub(crate) request: &'a RunRequest,
    pub(crate) limits: &'a Limits,
    pub(crate) stdout: BorrowedFd<'a>,
    pub(crate) stderr: BorrowedFd<'a>,
}

/// Where a command is that sees the host's root.
pub(crate) struct Place<'a> {
    pub(crate) input: BorrowedFd<'a>,
    pub(crate) build_directory: &'a Path,
}

/// What `execve(2)` and `chdir(2)` take, laid out before the process is started.
struct Texts {
    directory: CString,
    candidates: Vec<CString>,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

/// Starts the command; returns when it runs or has failed to.
pub(crate) fn start(start: &Start<'_>) -> Result<Pid, StepFailure> {
    let failure = |step, errno| StepFailure {
        phase: Phase::Command,
        step,
        errno,
        detail: String::new(),
    };
    let texts = Texts::new(start).map_err(|errno| failure(0, errno))?;
    let arguments = sys::pointers(&texts.arguments);
    let environment = sys::pointers(&texts.environment);
    let mut failed = None;
    if start.place.is_some() && start.request.ids.is_some() {
        // They take a user namespace. The runner says that it has no others.
        return Err(failure(0, Errno::ENOTSUP));
    }
    let namespaces = match start.request.ids {
        Some(_) => libc::CLONE_NEWUSER,
        None => 0,
    };
    let pid = sys::vfork_run(namespaces, || {
        for (index, step) in start.plan.command.iter().enumerate() {
            let result = match step {
                Step::Execute => Err(execute(&texts.candidates, &arguments, &environment)),
                step => perform(step, start, &texts),
            };
            if let Err(errno) = result {
                let (errno, detail) = match step {
                    // From inside the sandbox, as the command would see it.
                    Step::Execute => blame(&texts.candidates, errno),
                    _ => (errno, String::new()),
                };
                failed = Some((index, errno, detail));
                return;
            }
        }
    })
    .map_err(|errno| failure(0, errno))?;
    match failed {
        None => Ok(pid),
        Some((index, errno, detail)) => {
            // It has left already; nothing to learn from how.
            let _ = nix::sys::wait::waitpid(pid, None);
            Err(StepFailure {
                detail,
                ..failure(index, errno)
            })
        }
    }
}

fn perform(step: &Step, start: &Start<'_>, texts: &Texts) -> nix::Result<()> {
    match step {
        Step::Session => {
            if start.place.is_some() {
                // Init waits for some.
                sys::unblock_signals()?;
            }
            setsid().map(drop)
        }
        Step::EnterInputRoot => {
            let place = start.place.as_ref().ok_or(Errno::EINVAL)?;
            nix::unistd::fchdir(place.input)
        }
        Step::OutOfMemoryFirst => rlimits::be_out_of_memory_first(),
        Step::ResourceLimits(_) => rlimits::apply(start.limits),
        Step::TakeIdsOfRequest => match start.request.ids {
            Some(ids) => take_ids(ids, IdPair::same(start.plan.inner_id)),
            None => Ok(()),
        },
        Step::DropCapabilities => {
            if start.place.is_none() {
                // It takes a capability. Where there is none, no_new_privs alone sees to
                // it that none comes.
                sys::prctl(libc::PR_SET_SECUREBITS, SECURE_BITS)?;
            }
            sys::clear_ambient()?;
            sys::set_capabilities(sys::Capabilities::default())
        }
        Step::NoNewPrivileges => sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map(drop),
        Step::WorkingDirectory => nix::unistd::chdir(texts.directory.as_c_str()),
        Step::DieWithInit => {
            sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong).map(drop)
        }
        Step::Descriptors => descriptors(start),
        Step::EnterLandlock => start.rules.ok_or(Errno::EINVAL)?.enter(),
        Step::EnterSeccomp => sys::set_seccomp(start.filter),
        _ => Err(Errno::EINVAL),
    }
}

/// In the user namespace that the command was started in. It has a bounding set of its
/// own, which is full at first.
fn take_ids(ids: IdPair, own: IdPair) -> nix::Result<()> {
    let proc = open_place(c"/proc")?;
    // Files in /proc of a process that is not dumpable belong to the host's root. The
    // memory is init's too, but nobody else is in the sandbox yet.
    sys::prctl(libc::PR_SET_DUMPABLE, 1)?;
    let mapped = map_ids(proc.as_fd(), "self", ids, own);
    sys::prctl(libc::PR_SET_DUMPABLE, 0)?;
    mapped?;
    sys::empty_bounding_set()
}

fn descriptors(start: &Start<'_>) -> nix::Result<()> {
    let flags = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_CLOEXEC;
    let null = nix::fcntl::open("/dev/null", flags, Mode::empty())?;
    // Descriptors 0 to 2 are open in init (the launcher's), so that none of
    // the three sources is a target.
    for (from, to) in [
        (null.as_raw_fd(), 0),
        (start.stdout.as_raw_fd(), 1),
        (start.stderr.as_raw_fd(), 2),
    ] {
        sys::duplicate_to(from, to)?;
    }
    // Closed below, with all others.
    std::mem::forget(null);
    sys::close_range(3, u32::MAX)
}

/// Only returns when nothing could be executed: with the errno of the first
/// candidate that exists, else of the last.
fn execute(
    candidates: &[CString],
    arguments: &[*const libc::c_char],
    environment: &[*const libc::c_char],
) -> Errno {
    let mut denied = None;
    for candidate in candidates {
        match sys::execute(candidate, arguments, environment) {
            Errno::ENOENT | Errno::ENOTDIR => {}
            Errno::EACCES => denied = Some(Errno::EACCES),
            errno => return errno,
        }
    }
    denied.unwrap_or(Errno::ENOENT)
}

impl Texts {
    fn new(start: &Start<'_>) -> nix::Result<Self> {
        let request = start.request;
        let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| Errno::EINVAL);
        let mut directory = match (start.plan.root, &start.place) {
            // It is there already.
            (_, Some(_)) => b"./".to_vec(),
            (Root::Host, None) => b"/build/root/".to_vec(),
            (Root::Input, None) => b"/".to_vec(),
        };
        directory.extend_from_slice(&request.working_directory);
        let program = request.arguments.first().ok_or(Errno::EINVAL)?;
        let own_temporary = start.place.as_ref().and_then(|place| {
            let path = &request.temporary_directory;
            (!path.is_empty()).then(|| {
                let build = place.build_directory.as_os_str().as_bytes();
                [b"TMPDIR=", build, b"/", path].concat()
            })
        });
        let environment: nix::Result<Vec<_>> = request
            .environment
            .iter()
            .filter(|(name, _)| own_temporary.is_none() || name != b"TMPDIR")
            .map(|(name, value)| [name, &b"="[..], value].concat())
            .chain(own_temporary.clone())
            .map(|variable| text(&variable))
            .collect();
        let arguments: nix::Result<Vec<_>> =
            request.arguments.iter().map(|bytes| text(bytes)).collect();
        let candidates: nix::Result<Vec<_>> = candidates(program, &request.environment)
            .iter()
            .map(|bytes| text(bytes))
            .collect();
        Ok(Self {
            directory: text(&directory)?,
            candidates: candidates?,
            arguments: arguments?,
            environment: environment?,
        })
    }
}

/// Where the program may be: itself when it holds a slash, else in each
/// directory of the last `PATH` given. An empty entry is the working directory,
/// as for `execvp(3)`; without `PATH`, nowhere.
fn candidates(program: &[u8], environment: &[(Vec<u8>, Vec<u8>)]) -> Vec<Vec<u8>> {
    if program.contains(&b'/') {
        return vec![program.to_vec()];
    }
    let path = environment.iter().rfind(|(name, _)| name == b"PATH");
    let Some((_, path)) = path.filter(|_| !program.is_empty()) else {
        return Vec::new();
    };
    path.split(|byte| *byte == b':')
        .map(|directory| match directory {
            b"" => [b"./", program].concat(),
            directory => [directory, b"/", program].concat(),
        })
        .collect()
}

/// Whether this errno, of [`Step::WorkingDirectory`] or [`Step::Execute`],
/// says that the command is wrong rather than the sandbox.
pub(crate) fn is_fault_of_command(step: &Step, errno: Errno) -> bool {
    use Errno as E;
    match step {
        Step::WorkingDirectory => matches!(
            errno,
            E::ENOENT | E::ENOTDIR | E::EACCES | E::ELOOP | E::ENAMETOOLONG
        ),
        Step::Execute => matches!(
            errno,
            E::ENOENT
                | E::ENOTDIR
                | E::EACCES
                | E::EPERM
                | E::ENOEXEC
                | E::EISDIR
                | E::ELOOP
                | E::ENAMETOOLONG
                | E::E2BIG
                | E::EINVAL
                | E::ELIBBAD
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_for_in_the_actions_path() {
        let path = |value: &str| vec![(b"PATH".to_vec(), value.as_bytes().to_vec())];
        let texts = |program: &str, environment: &[(Vec<u8>, Vec<u8>)]| -> Vec<String> {
            candidates(program.as_bytes(), environment)
                .into_iter()
                .map(|bytes| String::from_utf8(bytes).unwrap())
                .collect()
        };
        assert_eq!(texts("./a", &path("/bin")), ["./a"]);
        assert_eq!(texts("d/a", &[]), ["d/a"]);
        assert_eq!(texts("a", &path("/bin::t")), ["/bin/a", "./a", "t/a"]);
        assert!(texts("a", &[]).is_empty());
        assert!(texts("", &path("/bin")).is_empty());
    }
}
