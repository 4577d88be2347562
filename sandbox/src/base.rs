//! The launcher's own root, from which sandboxes are made.
//!
//! ```text
//! /build     the build directory
//! /proc      the host's: the kernel mounts a new one inside a user namespace
//!            only where a whole one is in sight
//! /root      the base root: what every sandbox sees besides its input root
//! /input     where an input root that becomes `/` is attached
//! /boot_id   what covers the host's
//! ```
//! A sandbox's mount namespace starts as a copy of this one, so that it costs
//! some twenty mounts however many the host has; the copy of `/root` becomes its
//! root and the rest is detached. What comes by that copy is locked: not even
//! capabilities inside the sandbox could unmount it or make it writable.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, fchdir, pivot_root};

use crate::paths::open_place;
use crate::plan::Plan;
use crate::step::Step;
use crate::{etc, sys, user_namespace};

/// Where the new root is built: a directory that every host has. Only this
/// process sees what is mounted there.
const SITE: &str = "/proc";

/// Harmless device nodes.
const NODES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// What the launcher keeps from before it left the host's root.
#[derive(Debug)]
pub(crate) struct Base {
    /// The host's `/proc`, in which children's ids are mapped.
    pub(crate) proc: OwnedFd,
    /// The build directory.
    pub(crate) build: OwnedFd,
}

/// A step of the start that failed.
#[derive(Debug)]
pub(crate) struct StartFailure {
    pub(crate) step: String,
    pub(crate) error: io::Error,
}

/// Carries out the steps of [`crate::step::Phase::Start`].
pub(crate) fn make(plan: &Plan, build_directory: &Path) -> Result<Base, StartFailure> {
    if !plan.namespaces {
        return as_it_is(build_directory).map_err(|error| StartFailure {
            step: "open the build directory".to_owned(),
            error,
        });
    }
    let mut host = None;
    for step in &plan.start {
        perform(step, build_directory, &mut host).map_err(|error| StartFailure {
            step: step.to_string(),
            error,
        })?;
    }
    finish(host).map_err(|error| StartFailure {
        step: "leave the host's root".to_owned(),
        error,
    })
}

/// The host's root stays the launcher's.
fn as_it_is(build_directory: &Path) -> io::Result<Base> {
    Ok(Base {
        proc: open_place(c"/proc")?,
        build: open_place(&c_path(build_directory)?)?,
    })
}

/// Descriptors of places that are covered while the new root is built.
struct Host {
    root: OwnedFd,
    proc: OwnedFd,
}

fn perform(step: &Step, build_directory: &Path, host: &mut Option<Host>) -> io::Result<()> {
    if let Step::LauncherUserNamespace { subordinate } = step {
        return user_namespace::enter(*subordinate);
    }
    if *step == Step::LauncherRoot {
        *host = Some(launcher_root(build_directory)?);
        return Ok(());
    }
    let host = host
        .as_ref()
        .ok_or(io::Error::from(io::ErrorKind::NotFound))?;
    let base = Path::new(SITE).join("root");
    match step {
        Step::BindReadOnly(path) => {
            let source = open_below(&host.root, path)?;
            let target = base.join(path.strip_prefix("/").unwrap_or(path));
            let attributes = sys::READ_ONLY | sys::NO_SUID | sys::NO_DEV;
            bind(source.as_fd(), &target, attributes)
        }
        Step::CopySymlink(path) => {
            let source = open_below_no_follow(&host.root, path)?;
            let target = nix::fcntl::readlinkat(&source, c"")?;
            symlink(target, base.join(path.strip_prefix("/").unwrap_or(path)))
        }
        Step::BindReadWrite(path) => {
            let source = open_below(&host.root, path)?;
            let target = base.join(path.strip_prefix("/").unwrap_or(path));
            bind(source.as_fd(), &target, sys::NO_SUID | sys::NO_DEV)
        }
        Step::SymlinkTemporary(path) => {
            let place = base.join(path.strip_prefix("/").unwrap_or(path));
            let parent = place.parent().unwrap_or(&base);
            let mut builder = std::fs::DirBuilder::new();
            builder.recursive(true).mode(0o755).create(parent)?;
            symlink("/tmp", place)
        }
        Step::NeutralEtc { id, network } => {
            // The host's own /etc: only /proc is covered.
            etc::fill(Path::new("/etc"), &base.join("etc"), *id, *network)
        }
        Step::Devices => devices(host, &base),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn launcher_root(build_directory: &Path) -> io::Result<Host> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    // What is mounted on the host later arrives, what is mounted here does not leave.
    let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)?;
    let root = open_place(c"/")?;
    let proc = open_place(c"/proc")?;
    let proc_tree = sys::clone_tree(proc.as_fd(), c"")?;
    let build = open_place(&c_path(build_directory)?)?;
    let build_tree = sys::clone_tree(build.as_fd(), c"")?;
    mount_tmpfs(Path::new(SITE))?;
    let site = open_place(c"/proc")?;
    for (name, tree) in [("proc", proc_tree), ("build", build_tree)] {
        create_directory(&Path::new(SITE).join(name), 0o755)?;
        let name = CString::new(name)?;
        sys::move_mount(tree.as_fd(), site.as_fd(), &name)?;
    }
    create_directory(&Path::new(SITE).join("input"), 0o755)?;
    etc::write(&Path::new(SITE).join("boot_id"), etc::BOOT_ID.as_bytes())?;
    let base = Path::new(SITE).join("root");
    create_directory(&base, 0o755)?;
    mount_tmpfs(&base)?;
    for path in [
        "build",
        "build/root",
        "dev",
        "proc",
        "tmp",
        "var",
        "var/tmp",
    ] {
        create_directory(&base.join(path), 0o755)?;
    }
    Ok(Host { root, proc })
}

fn devices(host: &Host, base: &Path) -> io::Result<()> {
    // A mount of its own, which can be attached to an input root.
    let dev = base.join("dev");
    mount_tmpfs(&dev)?;
    for name in NODES {
        let source = open_below(&host.root, &Path::new("/dev").join(name))?;
        bind(source.as_fd(), &dev.join(name), sys::NO_SUID | sys::NO_EXEC)?;
    }
    for name in ["pts", "shm"] {
        create_directory(&dev.join(name), 0o755)?;
    }
    for (target, name) in [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("pts/ptmx", "ptmx"),
    ] {
        symlink(target, dev.join(name))?;
    }
    seal(&dev)?;
    seal(base)
}

fn mount_tmpfs(path: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let options = Some("mode=0755");
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, options)?;
    Ok(())
}

/// Makes the mount at this place read-only, and not those below: they have
/// their own attributes.
fn seal(place: &Path) -> io::Result<()> {
    let place = open_place(&c_path(place)?)?;
    sys::mount_setattr(place.as_fd(), sys::READ_ONLY, 0, false)?;
    Ok(())
}

/// Leaves the host's root for the new one.
fn finish(host: Option<Host>) -> io::Result<Base> {
    let host = host.ok_or(io::Error::from(io::ErrorKind::NotFound))?;
    let site = open_place(c"/proc")?;
    fchdir(&site)?;
    swap_root()?;
    Ok(Base {
        proc: host.proc,
        build: open_place(BUILD)?,
    })
}

/// Makes the current directory, a mount, the only root (`pivot_root(2)`, "`pivot_root(".", ".")`").
pub(crate) fn swap_root() -> nix::Result<()> {
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")
}

fn bind(source: BorrowedFd<'_>, target: &Path, attributes: u64) -> io::Result<()> {
    let is_directory = nix::sys::stat::fstat(source)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    if let Some(parent) = target.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)?;
    }
    if is_directory {
        create_directory(target, 0o755)?;
    } else {
        std::fs::File::create(target)?;
    }
    let tree = sys::clone_tree(source, c"")?;
    // Private: what the host mounts below later would arrive writable.
    sys::mount_setattr(tree.as_fd(), attributes, libc::MS_PRIVATE, true)?;
    let place = open_place(&c_path(target)?)?;
    sys::move_mount(tree.as_fd(), place.as_fd(), c"")?;
    Ok(())
}

fn create_directory(path: &Path, mode: u32) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

fn open_below(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    open_flags(root, path, nix::fcntl::OFlag::empty())
}

fn open_below_no_follow(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    open_flags(root, path, nix::fcntl::OFlag::O_NOFOLLOW)
}

fn open_flags(root: &OwnedFd, path: &Path, more: nix::fcntl::OFlag) -> io::Result<OwnedFd> {
    let relative: PathBuf = path.strip_prefix("/").unwrap_or(path).into();
    Ok(nix::fcntl::openat(
        root,
        &relative,
        nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC | more,
        nix::sys::stat::Mode::empty(),
    )?)
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Where the build directory is, in the new root.
const BUILD: &CStr = c"/build";
