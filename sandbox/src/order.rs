//! A run that was asked for and that no sandbox has yet.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::libc;
use nix::sys::stat::{Mode, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::core_dump::Directories;
use crate::limits::{Limit, Limits};
use crate::message::RUN_BYTES;
use crate::overlay::{self, Layers, Work};
use crate::paths::{self, Relative};
use crate::plan::Plan;
use crate::policy::{HostIds, Root};
use crate::rejection::{Rejection, text};
use crate::run_request::RunRequest;
use crate::{memory, sys};

/// What `/` must hold for things to be attached there, when it is an input root.
const MOUNT_POINTS: [&CStr; 3] = [c"proc", c"dev", c"tmp"];

/// `checked → opened → handed to a sandbox`; one whose sandbox died before it
/// took it stays opened, and goes to another.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) id: u64,
    pub(crate) directions: Directions,
    memory: OwnedFd,
    opened: Option<Opened>,
}

/// What the launcher itself needs of a run request: the rest stays in the
/// request's memory.
#[derive(Debug)]
pub(crate) struct Directions {
    /// The program, for messages.
    pub(crate) program: String,
    pub(crate) working_directory: Vec<u8>,
    input_root_directory: Vec<u8>,
    lower_directories: Vec<Vec<u8>>,
    scratch_directory: Vec<u8>,
    temporary_directory: Vec<u8>,
    stdout_path: Vec<u8>,
    stderr_path: Vec<u8>,
    server_logs_directory: Vec<u8>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) limits: Limits,
}

impl Directions {
    /// Whether an output file of the one is one of the other.
    pub(crate) fn share_outputs(&self, other: &Self) -> bool {
        [&self.stdout_path, &self.stderr_path]
            .into_iter()
            .any(|path| *path == other.stdout_path || *path == other.stderr_path)
    }

    /// Where to look for core dumps when it has ended, if it could leave any that
    /// somebody wants.
    pub(crate) fn core_dumps(&self) -> Option<Directories> {
        if self.server_logs_directory.is_empty() || self.limits[Limit::Core] == Some(0) {
            return None;
        }
        Some(Directories {
            written: match self.wants_overlay() {
                true => upper_path(self),
                false => self.input_root_directory.clone(),
            },
            working: self.working_directory.clone(),
            temporary: self.temporary_directory.clone(),
            logs: self.server_logs_directory.clone(),
        })
    }

    /// Whether the input root is to be an overlay.
    pub(crate) fn wants_overlay(&self) -> bool {
        !self.scratch_directory.is_empty()
    }
}

/// The directories and files of a run.
#[derive(Debug)]
struct Opened {
    input: OwnedFd,
    temporary: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: OwnedFd,
    mount_points: Option<MountPoints>,
    work: Option<Work>,
    written: Vec<Written>,
}

/// A directory that the command may write to, where that has a limit.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) directory: OwnedFd,
    /// All that is in it is the command's: it is the top of an overlay.
    pub(crate) all: bool,
}

/// What the launcher looks at while a command runs.
pub(crate) struct Looked {
    pub(crate) outputs: [OwnedFd; 2],
    pub(crate) written: Vec<Written>,
}

/// What was made for a run outside its sandbox, to be undone when the sandbox is
/// dead, in this order.
#[derive(Debug, Default)]
pub(crate) struct Made {
    _mount_points: Option<MountPoints>,
    _work: Option<Work>,
}

impl Order {
    /// Checks what came from the service half.
    pub(crate) fn new(
        id: u64,
        length: u64,
        memory: OwnedFd,
        plan: &Plan,
    ) -> Result<Self, Rejection> {
        let reject = |errno| Rejection::new("read the request", "", errno);
        let bytes = memory::read(memory.as_fd()).map_err(reject)?;
        if bytes.len() as u64 != length || length > RUN_BYTES {
            return Err(reject(Errno::EMSGSIZE));
        }
        let request = RunRequest::decode(&bytes).map_err(|error| {
            Rejection::new("read the request", error.to_string(), Errno::EINVAL)
        })?;
        let limits = plan.limits.with(&request.limits, &plan.maximum_limits);
        let limits = limits.map_err(|(limit, most)| {
            let detail = format!("{limit}: at most {most}");
            Rejection::new("limits", detail, Errno::EINVAL)
        })?;
        if request.stdout_path == request.stderr_path {
            let path = text(&request.stderr_path);
            return Err(Rejection::new("stderr path", path, Errno::EEXIST));
        }
        Ok(Self {
            id,
            directions: Directions {
                program: text(request.arguments.first().map_or(&[][..], |a| a)),
                working_directory: request.working_directory,
                input_root_directory: request.input_root_directory,
                lower_directories: request.lower_directories,
                scratch_directory: request.scratch_directory,
                temporary_directory: request.temporary_directory,
                stdout_path: request.stdout_path,
                stderr_path: request.stderr_path,
                server_logs_directory: request.server_logs_directory,
                timeout: request.timeout,
                limits,
            },
            memory,
            opened: None,
        })
    }

    /// Opens its directories below `build` and makes its output files, unless
    /// that was done before. `map` shows the worker's files as the sandbox's.
    pub(crate) fn open(
        &mut self,
        build: BorrowedFd<'_>,
        plan: &Plan,
        map: Option<BorrowedFd<'_>>,
    ) -> Result<(), Rejection> {
        if self.opened.is_none() {
            self.opened = Some(Opened::new(&self.directions, build, plan, map)?);
        }
        Ok(())
    }

    /// The sandbox did not take it: what was made for that one's ids is undone.
    pub(crate) fn returned(mut self) -> Self {
        if self.directions.wants_overlay() {
            self.opened = None;
        }
        self
    }

    /// The descriptors that a sandbox is given, in its order; of what is opened.
    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut descriptors = vec![self.memory.as_fd()];
        if let Some(opened) = &self.opened {
            descriptors.extend([&opened.stdout, &opened.stderr, &opened.input].map(AsFd::as_fd));
            descriptors.extend(opened.temporary.as_ref().map(AsFd::as_fd));
        }
        descriptors
    }

    /// What is left of it when a sandbox has it.
    pub(crate) fn handed(self) -> Option<(Directions, Made, Looked)> {
        let opened = self.opened?;
        let made = Made {
            _mount_points: opened.mount_points,
            _work: opened.work,
        };
        let looked = Looked {
            outputs: [opened.stdout, opened.stderr],
            written: opened.written,
        };
        Some((self.directions, made, looked))
    }
}

impl Opened {
    fn new(
        of: &Directions,
        build: BorrowedFd<'_>,
        plan: &Plan,
        map: Option<BorrowedFd<'_>>,
    ) -> Result<Self, Rejection> {
        let (root, input, work) = if of.wants_overlay() {
            let (mount, work) = overlay(of, build, map)?;
            let errno = |errno| Rejection::new("open the overlay", "", errno);
            let root = mount.try_clone();
            let root = root.map_err(|_| errno(Errno::EMFILE))?;
            (root, mount, Some(work))
        } else {
            let path = &of.input_root_directory;
            // Its files may be those of others, who can see when they were read.
            let (root, input) = if plan.namespaces {
                directory(build, "input root directory", path, sys::NO_ATIME)?
            } else {
                plain_directory(build, "input root directory", path)?
            };
            (root, input, None)
        };
        let temporary = match &of.temporary_directory[..] {
            b"" => None,
            path if plan.namespaces => Some(directory(build, "temporary directory", path, 0)?),
            path => Some(plain_directory(build, "temporary directory", path)?),
        };
        let mut written = Vec::new();
        let limited = [Limit::DiskBytes, Limit::DiskFiles];
        if limited.iter().any(|limit| of.limits[*limit].is_some()) {
            written.push(match work {
                Some(_) => Written {
                    directory: upper(build, of)?,
                    all: true,
                },
                None => Written::shared(&root)?,
            });
            if let Some((directory, _)) = &temporary {
                written.push(Written::shared(directory)?);
            }
        }
        let mount_points = match plan.root {
            Root::Host => None,
            Root::Input => Some(MountPoints::make(root)?),
        };
        Ok(Self {
            input,
            temporary: temporary.map(|(_, mount)| mount),
            written,
            stdout: output(build, "stdout path", &of.stdout_path, plan.host_ids)?,
            stderr: output(build, "stderr path", &of.stderr_path, plan.host_ids)?,
            mount_points,
            work,
        })
    }
}

impl Written {
    fn shared(directory: &OwnedFd) -> Result<Self, Rejection> {
        let copy = directory.try_clone();
        Ok(Self {
            directory: copy.map_err(|_| Rejection::new("watch a directory", "", Errno::EMFILE))?,
            all: false,
        })
    }
}

/// What an overlay is written to.
fn upper_path(of: &Directions) -> Vec<u8> {
    [&of.scratch_directory[..], b"/upper"].concat()
}

fn upper(build: BorrowedFd<'_>, of: &Directions) -> Result<OwnedFd, Rejection> {
    let path = upper_path(of);
    let what = "scratch directory";
    let reject = |errno| Rejection::new(what, text(&path), errno);
    paths::open_directory(build, &relative(what, &path)?).map_err(reject)
}

fn overlay(
    of: &Directions,
    build: BorrowedFd<'_>,
    map: Option<BorrowedFd<'_>>,
) -> Result<(OwnedFd, Work), Rejection> {
    let what = "make the overlay of the input root";
    let reject = |errno| Rejection::new(what, text(&of.input_root_directory), errno);
    let map = map.ok_or_else(|| reject(Errno::ENOTSUP))?;
    let top = std::iter::once(&of.input_root_directory);
    let lower = top.chain(&of.lower_directories);
    let lower: Vec<_> = lower
        .map(|path| relative("lower directory", path))
        .collect::<Result<_, _>>()?;
    let layers = Layers {
        lower: &lower,
        scratch: &relative("scratch directory", &of.scratch_directory)?,
    };
    overlay::make(build, map, &layers).map_err(reject)
}

/// Mount points that were made in an input root. Dropping it removes them, so that
/// they are not taken for outputs: when no sandbox has anything there any more.
#[derive(Debug)]
pub(crate) struct MountPoints {
    root: OwnedFd,
    made: Vec<&'static CStr>,
}

impl MountPoints {
    fn make(root: OwnedFd) -> Result<Self, Rejection> {
        let mut points = Self {
            root,
            made: Vec::new(),
        };
        for name in MOUNT_POINTS {
            let reject = |errno| {
                let name = name.to_string_lossy();
                Rejection::new("make a mount point in the input root", name, errno)
            };
            match mkdirat(&points.root, name, Mode::from_bits_truncate(0o755)) {
                Ok(()) => points.made.push(name),
                Err(Errno::EEXIST) => {
                    let there = fstatat(&points.root, name, AtFlags::AT_SYMLINK_NOFOLLOW);
                    if there.map_err(reject)?.st_mode & libc::S_IFMT != libc::S_IFDIR {
                        let name = name.to_string_lossy();
                        return Err(Rejection::of_command(
                            "find a directory in the input root",
                            &name,
                            Errno::ENOTDIR,
                        ));
                    }
                }
                Err(errno) => return Err(reject(errno)),
            }
        }
        Ok(points)
    }
}

impl Drop for MountPoints {
    fn drop(&mut self) {
        for name in &self.made {
            // A command cannot have put anything there; should something be
            // there nevertheless, it stays.
            let _ = unlinkat(&self.root, *name, UnlinkatFlags::RemoveDir);
        }
    }
}

fn relative(what: &'static str, path: &[u8]) -> Result<Relative, Rejection> {
    Relative::new(path).map_err(|errno| Rejection::new(what, text(path), errno))
}

/// Opens a directory, and makes a detached mount of it: the sandbox's uid
/// could not traverse a private directory above it. The mount has the `extra`
/// attributes where they may be set: in a user namespace, others have decided that.
fn directory(
    build: BorrowedFd<'_>,
    what: &'static str,
    path: &[u8],
    extra: u64,
) -> Result<(OwnedFd, OwnedFd), Rejection> {
    let reject = |errno| Rejection::new(what, text(path), errno);
    let directory = paths::open_directory(build, &relative(what, path)?).map_err(reject)?;
    let tree = sys::clone_tree(directory.as_fd(), c"").map_err(reject)?;
    let attributes = sys::NO_SUID | sys::NO_DEV;
    let set = |attributes| {
        let private = libc::MS_PRIVATE;
        sys::mount_setattr(tree.as_fd(), attributes, private, true)
    };
    match set(attributes | extra) {
        Err(Errno::EPERM) if extra != 0 => set(attributes),
        other => other,
    }
    .map_err(reject)?;
    Ok((directory, tree))
}

/// Opens a directory, twice: without namespaces it is used where it is.
fn plain_directory(
    build: BorrowedFd<'_>,
    what: &'static str,
    path: &[u8],
) -> Result<(OwnedFd, OwnedFd), Rejection> {
    let reject = |errno| Rejection::new(what, text(path), errno);
    let open = || paths::open_directory(build, &relative(what, path)?).map_err(reject);
    Ok((open()?, open()?))
}

fn output(
    build: BorrowedFd<'_>,
    what: &'static str,
    path: &[u8],
    ids: HostIds,
) -> Result<OwnedFd, Rejection> {
    let relative = relative(what, path)?;
    paths::open_output(build, &relative, ids)
        .map_err(|errno| Rejection::new(what, text(path), errno))
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
