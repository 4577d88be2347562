//! The mounts of one sandbox, made by its init.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::unistd::fchdir;

use crate::base::swap_root;
use crate::limits::Limit;
use crate::paths::open_place;
use crate::policy::Root;
use crate::sys;

/// Entries of `/proc` that tell about, or reach, the machine: covered.
const HIDDEN_FILES: [&str; 13] = [
    // Tells one machine from another.
    "cmdline",
    "interrupts",
    "kallsyms",
    "vmallocinfo",
    "timer_stats",
    "kcore",
    "keys",
    "key-users",
    "latency_stats",
    "sched_debug",
    "sysrq-trigger",
    "timer_list",
    "kmsg",
];
const HIDDEN_DIRECTORIES: [&str; 6] = ["acpi", "asound", "bus", "fs", "irq", "scsi"];

/// Own copy of the base root (or of what an input root gets of it: `/dev`),
/// which unlike the one that came with the mount namespace can be moved.
pub(crate) fn attach_base(root: Root) -> nix::Result<()> {
    let path = match root {
        Root::Host => c"/root",
        Root::Input => c"/root/dev",
    };
    let place = open_place(path)?;
    let tree = sys::clone_tree(place.as_fd(), c"")?;
    sys::move_mount(tree.as_fd(), place.as_fd(), c"")
}

/// Own `/proc`.
pub(crate) fn proc() -> nix::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(
        Some("proc"),
        "/root/proc",
        Some("proc"),
        flags,
        None::<&str>,
    )?;
    let proc = open_place(c"/root/proc")?;
    let settings = sys::clone_tree(proc.as_fd(), c"sys")?;
    let attributes = sys::READ_ONLY | sys::NO_SUID | sys::NO_DEV | sys::NO_EXEC;
    sys::mount_setattr(settings.as_fd(), attributes, 0, true)?;
    sys::move_mount(settings.as_fd(), proc.as_fd(), c"sys")?;

    let null = open_place(c"/root/dev/null")?;
    let boot_id = open_place(c"/boot_id")?;
    // Any empty directory serves.
    let empty = open_place(c"/root/tmp")?;
    for (names, cover) in [
        (&HIDDEN_FILES[..], &null),
        (&["sys/kernel/random/boot_id"], &boot_id),
        (&HIDDEN_DIRECTORIES[..], &empty),
    ] {
        for name in names {
            let place = match open_place_below(&proc, name) {
                Ok(place) => place,
                // Kernels differ in what they have.
                Err(Errno::ENOENT) => continue,
                Err(errno) => return Err(errno),
            };
            let tree = sys::clone_tree(cover.as_fd(), c"")?;
            sys::mount_setattr(tree.as_fd(), attributes & !sys::NO_DEV, 0, true)?;
            sys::move_mount(tree.as_fd(), place.as_fd(), c"")?;
        }
    }
    Ok(())
}

fn open_place_below(directory: &OwnedFd, name: &str) -> nix::Result<OwnedFd> {
    use nix::fcntl::OFlag;
    nix::fcntl::openat(
        directory,
        name,
        OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )
}

/// Own `/dev/pts`.
pub(crate) fn pseudo_terminals() -> nix::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let options = "newinstance,ptmxmode=0666,mode=620";
    mount(
        Some("devpts"),
        "/root/dev/pts",
        Some("devpts"),
        flags,
        Some(options),
    )
}

/// An empty directory in memory, at an absolute path of the namespace. It holds
/// so many bytes, and a file or directory for each 4 KiB of them: those that are
/// empty take memory too.
pub(crate) fn tmpfs(path: &str, bytes: u64) -> nix::Result<()> {
    let options = format!("mode=1777,{}", size(bytes));
    let kind = Some("tmpfs");
    mount(kind, path, kind, TMPFS_FLAGS, Some(&options[..]))
}

/// Gives another size to one that [`tmpfs`] made.
pub(crate) fn size_tmpfs(path: &str, bytes: u64) -> nix::Result<()> {
    let flags = TMPFS_FLAGS | MsFlags::MS_REMOUNT;
    let nothing = None::<&str>;
    mount(nothing, path, nothing, flags, Some(&size(bytes)[..]))
}

const TMPFS_FLAGS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

fn size(bytes: u64) -> String {
    let files = (bytes / 4096).max(64);
    format!("size={bytes},nr_inodes={files}")
}

/// Where the directories in memory are that are mounted ahead, when a request comes.
pub(crate) const fn memory_directories(root: Root) -> &'static [(Limit, &'static str)] {
    match root {
        Root::Host => &[(Limit::Shm, "/dev/shm"), (Limit::Tmpfs, "/var/tmp")],
        Root::Input => &[(Limit::Shm, "/root/dev/shm")],
    }
}

/// Attaches the input root; for [`Root::Input`] where it waits to become `/`.
pub(crate) fn attach_input(root: Root, input: &OwnedFd) -> nix::Result<()> {
    let place = open_place(match root {
        Root::Host => c"/build/root",
        Root::Input => c"/input",
    })?;
    sys::move_mount(input.as_fd(), place.as_fd(), c"")
}

/// Moves what an input root is supplied with into it. The launcher has seen to
/// the mount points; what is a link there is refused by the kernel.
pub(crate) fn move_into_input(input: &OwnedFd) -> nix::Result<()> {
    for (from, to) in [(c"/root/dev", c"dev"), (c"/root/proc", c"proc")] {
        let from = open_place(from)?;
        sys::move_mount(from.as_fd(), input.as_fd(), to)?;
    }
    Ok(())
}

/// Attaches `/tmp`, or mounts an empty one.
pub(crate) fn attach_temporary(
    root: Root,
    input: &OwnedFd,
    temporary: Option<&OwnedFd>,
    bytes: u64,
) -> nix::Result<()> {
    match (root, temporary) {
        (Root::Host, None) => tmpfs("/tmp", bytes),
        (Root::Host, Some(tree)) => {
            sys::move_mount(tree.as_fd(), open_place(c"/tmp")?.as_fd(), c"")
        }
        (Root::Input, Some(tree)) => sys::move_mount(tree.as_fd(), input.as_fd(), c"tmp"),
        (Root::Input, None) => {
            // By way of a place that is not the action's, so that no path of
            // its tree is followed.
            tmpfs("/root/tmp", bytes)?;
            let tree = open_place(c"/root/tmp")?;
            sys::move_mount(tree.as_fd(), input.as_fd(), c"tmp")
        }
    }
}

/// Makes the new root the only one.
pub(crate) fn pivot(root: Root) -> nix::Result<()> {
    let place = open_place(match root {
        Root::Host => c"/root",
        Root::Input => c"/input",
    })?;
    fchdir(&place)?;
    swap_root()
}
