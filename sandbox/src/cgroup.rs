//! Control groups of sandboxes (cgroup v2, `cgroups(7)`,
//! Documentation/admin-guide/cgroup-v2.rst), below a group that was delegated.
//!
//! Each sandbox is cloned into a group of its own (`CLONE_INTO_CGROUP`), which is
//! made with it, gets the limits when a command comes, tells what was used and which
//! limit was met when that has ended, and is removed when all of it is dead.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Pid, UnlinkatFlags, getpid, unlinkat};

use crate::limits::{Limit, Limits};

/// Which control group sandboxes get groups of their own in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum CgroupChoice {
    /// The runner's own, if that was delegated to it: it may make groups in it, and
    /// nobody else is in it.
    #[default]
    Own,
    /// This directory, which was delegated to the runner's user. That it is usable
    /// is required.
    At(PathBuf),
    /// None: limits are enforced otherwise as far as that goes.
    None,
}

/// Controllers that limits rest on.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// The group that sandboxes' groups are made in.
#[derive(Debug)]
pub(crate) struct Cgroups {
    directory: Rc<OwnedFd>,
    controllers: Vec<&'static str>,
    next: u64,
}

/// A sandbox's group. Dropping it removes it, once nothing is in it.
#[derive(Debug)]
pub(crate) struct Cgroup {
    parent: Rc<OwnedFd>,
    name: String,
    directory: OwnedFd,
}

/// What a group tells when its command has ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// The most that was used at a time.
    pub(crate) peak: Limits,
    /// A process was killed for lack of memory.
    pub(crate) out_of_memory: bool,
    /// A process could not be made.
    pub(crate) out_of_processes: bool,
}

impl Cgroups {
    /// Takes the chosen group; none where there is none to be had and none is
    /// required. Moves this process, which must have no other threads, out of the
    /// group's way into one below it, so call it before others are forked.
    pub(crate) fn take(choice: &CgroupChoice) -> io::Result<Option<Self>> {
        match choice {
            CgroupChoice::None => Ok(None),
            CgroupChoice::At(path) => Self::open(path).map(Some),
            CgroupChoice::Own => Ok(own().and_then(|path| {
                let cgroups = Self::open(&path).ok()?;
                // A group without controllers bounds nothing.
                (!cgroups.controllers.is_empty()).then_some(cgroups)
            })),
        }
    }

    fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = open(path, flags, Mode::empty())?;
        let there = read_at(directory.as_fd(), "cgroup.controllers")?;
        let controllers: Vec<_> = CONTROLLERS
            .into_iter()
            .filter(|name| there.split_ascii_whitespace().any(|other| other == *name))
            .collect();
        let mut cgroups = Self {
            directory: Rc::new(directory),
            controllers,
            next: 0,
        };
        cgroups.leave_to_sandboxes()?;
        Ok(cgroups)
    }

    /// A group with controllers for its children has no processes itself: this one,
    /// if it is in there, goes one below.
    fn leave_to_sandboxes(&mut self) -> io::Result<()> {
        let directory = self.directory.as_fd();
        let own = getpid().to_string();
        let inside = read_at(directory, "cgroup.procs")?;
        if inside.lines().any(|pid| pid == own) {
            if inside.lines().any(|pid| pid != own) {
                // Others are in it: it is not the runner's to divide.
                return Err(Errno::EBUSY.into());
            }
            match mkdirat(directory, "launcher", Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            write_at(directory, "launcher/cgroup.procs", &own)?;
        }
        for controller in &self.controllers {
            write_at(
                directory,
                "cgroup.subtree_control",
                &format!("+{controller}"),
            )?;
        }
        Ok(())
    }

    /// Which limits groups enforce.
    pub(crate) fn enforces(&self, limit: Limit) -> bool {
        let controller = match limit {
            Limit::Memory => "memory",
            Limit::Processes => "pids",
            Limit::Cpu => "cpu",
            _ => return false,
        };
        self.controllers.contains(&controller)
    }

    /// Makes a group for a sandbox.
    pub(crate) fn make(&mut self) -> io::Result<Cgroup> {
        let name = format!("sandbox-{}-{}", getpid(), self.next);
        self.next += 1;
        mkdirat(
            &*self.directory,
            name.as_str(),
            Mode::from_bits_truncate(0o755),
        )?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = openat(&*self.directory, name.as_str(), flags, Mode::empty())?;
        Ok(Cgroup {
            parent: Rc::clone(&self.directory),
            name,
            directory,
        })
    }
}

impl Cgroup {
    /// For `CLONE_INTO_CGROUP`.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Moves a process in, where it could not be cloned into it.
    pub(crate) fn add(&self, pid: Pid) -> io::Result<()> {
        write_at(self.directory.as_fd(), "cgroup.procs", &pid.to_string())
    }

    /// Sets the limits that `cgroups` enforce.
    pub(crate) fn limit(&self, limits: &Limits, cgroups: &Cgroups) -> io::Result<()> {
        let put = |name, value: &str| write_at(self.directory.as_fd(), name, value);
        for (limit, value) in limits.iter().filter(|(limit, _)| cgroups.enforces(*limit)) {
            match limit {
                Limit::Memory => {
                    put("memory.max", &value.to_string())?;
                    // A command that swaps is not one that fits. Kernels without swap
                    // accounting have no such file.
                    let _ = put("memory.swap.max", "0");
                    // All or nothing: half an action is of no use.
                    put("memory.oom.group", "1")?;
                }
                // Init is one of them.
                Limit::Processes => put("pids.max", &(value.saturating_add(1)).to_string())?,
                Limit::Cpu => {
                    let quota = value.saturating_mul(PERIOD) / 1000;
                    // The kernel takes no less than a millisecond.
                    put("cpu.max", &format!("{} {PERIOD}", quota.max(1000)))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What was used, and which limits were met.
    pub(crate) fn told(&self) -> Told {
        let get = |name| read_at(self.directory.as_fd(), name).unwrap_or_default();
        let number = |name| get(name).trim().parse().ok();
        let events = |name, key| field(&get(name), key).unwrap_or(0);
        let mut peak = Limits::none();
        // Kernels before 5.19 and 6.1 do not have these.
        peak[Limit::Memory] = number("memory.peak");
        peak[Limit::Processes] = number("pids.peak");
        Told {
            peak,
            out_of_memory: events("memory.events", "oom_kill") > 0,
            out_of_processes: events("pids.events", "max") > 0,
        }
    }
}

/// The period of `cpu.max`, in microseconds.
const PERIOD: u64 = 100_000;

impl Drop for Cgroup {
    fn drop(&mut self) {
        // What is still in it, or holds it, keeps it; that costs a name.
        let _ = unlinkat(&*self.parent, self.name.as_str(), UnlinkatFlags::RemoveDir);
    }
}

/// The value of a line `KEY VALUE`.
fn field(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
}

/// Where this process's own group is, if there is a cgroup v2 hierarchy.
fn own() -> Option<PathBuf> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    own_of(&groups, &mounts)
}

fn own_of(groups: &str, mounts: &str) -> Option<PathBuf> {
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    mounts.lines().find_map(|line| {
        let (mount, system) = line.split_once(" - ")?;
        system.starts_with("cgroup2 ").then_some(())?;
        let mut fields = mount.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        let below = Path::new(group).strip_prefix(root).ok()?;
        Some(Path::new(place).join(below))
    })
}

fn read_at(directory: BorrowedFd<'_>, name: &str) -> io::Result<String> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let mut text = String::new();
    File::from(openat(directory, name, flags, Mode::empty())?).read_to_string(&mut text)?;
    Ok(text)
}

/// The kernel makes these files; where something else holds them, they are made.
fn write_at(directory: BorrowedFd<'_>, name: &str, value: &str) -> io::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(0o644);
    File::from(openat(directory, name, flags, mode)?).write_all(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with the files that a delegated group has.
    fn fake(controllers: &str, procs: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("cgroup.controllers"), controllers).unwrap();
        std::fs::write(directory.path().join("cgroup.procs"), procs).unwrap();
        directory
    }

    fn at(directory: &tempfile::TempDir) -> Cgroups {
        let choice = CgroupChoice::At(directory.path().to_owned());
        Cgroups::take(&choice).unwrap().unwrap()
    }

    #[test]
    fn limits_are_written_as_the_kernel_reads_them() {
        let directory = fake("cpuset cpu io memory pids", "");
        let mut cgroups = at(&directory);
        let group = cgroups.make().unwrap();
        let mut limits = Limits::none();
        limits[Limit::Memory] = Some(4096);
        limits[Limit::Processes] = Some(7);
        limits[Limit::Cpu] = Some(1500);
        limits[Limit::Output] = Some(1);
        group.limit(&limits, &cgroups).unwrap();
        group.add(Pid::from_raw(42)).unwrap();
        let read = |name| read_at(group.descriptor(), name).unwrap();
        assert_eq!(read("memory.max"), "4096");
        assert_eq!(read("memory.swap.max"), "0");
        assert_eq!(read("memory.oom.group"), "1");
        assert_eq!(read("pids.max"), "8");
        assert_eq!(read("cpu.max"), "150000 100000");
        assert_eq!(read("cgroup.procs"), "42");
        // The last of those that were switched on.
        let control = directory.path().join("cgroup.subtree_control");
        assert_eq!(std::fs::read_to_string(control).unwrap(), "+pids");
    }

    #[test]
    fn what_controllers_lack_is_left_to_others() {
        let directory = fake("pids", "");
        let mut cgroups = at(&directory);
        assert!(cgroups.enforces(Limit::Processes));
        assert!(!cgroups.enforces(Limit::Memory));
        let group = cgroups.make().unwrap();
        let mut limits = Limits::none();
        limits[Limit::Memory] = Some(4096);
        group.limit(&limits, &cgroups).unwrap();
        assert!(read_at(group.descriptor(), "memory.max").is_err());
    }

    #[test]
    fn the_launcher_goes_out_of_the_way() {
        let own = getpid().to_string();
        let directory = fake("pids", &format!("{own}\n"));
        std::fs::create_dir(directory.path().join("launcher")).unwrap();
        at(&directory);
        let moved = directory.path().join("launcher/cgroup.procs");
        assert_eq!(std::fs::read_to_string(moved).unwrap(), own);
    }

    #[test]
    fn a_group_with_others_in_it_is_left_alone() {
        let directory = fake("pids", &format!("1\n{}\n", getpid()));
        let choice = CgroupChoice::At(directory.path().to_owned());
        assert!(Cgroups::take(&choice).is_err());
        assert!(!directory.path().join("launcher").exists());
    }

    #[test]
    fn what_a_group_tells_is_understood() {
        let directory = fake("memory pids", "");
        let group = at(&directory).make().unwrap();
        assert_eq!(group.told(), Told::default());
        for (name, text) in [
            ("memory.peak", "5000\n"),
            (
                "memory.events",
                "low 0\nmax 9\noom 2\noom_kill 1\noom_group_kill 1\n",
            ),
            ("pids.peak", "3\n"),
            ("pids.events", "max 0\n"),
        ] {
            write_at(group.descriptor(), name, text).unwrap();
        }
        let told = group.told();
        assert!(told.out_of_memory && !told.out_of_processes);
        assert_eq!(told.peak[Limit::Memory], Some(5000));
        assert_eq!(told.peak[Limit::Processes], Some(3));
        write_at(group.descriptor(), "pids.events", "max 4\n").unwrap();
        assert!(group.told().out_of_processes);
    }

    #[test]
    fn one_s_own_group_is_found_below_its_mount() {
        let mounts = "\
            24 1 0:22 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            25 1 0:23 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        let own = |groups| own_of(groups, mounts);
        let group = "/sys/fs/cgroup/system.slice/a.service";
        assert_eq!(
            own("12:pids:/x\n0::/system.slice/a.service\n"),
            Some(PathBuf::from(group))
        );
        assert_eq!(own("12:pids:/x\n"), None);
        let inside = "25 1 0:23 /docker/1 /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        assert_eq!(
            own_of("0::/docker/1\n", inside),
            Some(PathBuf::from("/sys/fs/cgroup"))
        );
        assert_eq!(own_of("0::/elsewhere\n", inside), None);
    }

    #[test]
    fn a_directory_that_is_no_group_is_an_error_only_where_it_was_chosen() {
        let directory = tempfile::tempdir().unwrap();
        let choice = CgroupChoice::At(directory.path().to_owned());
        assert!(Cgroups::take(&choice).is_err());
        assert!(Cgroups::take(&CgroupChoice::None).unwrap().is_none());
    }
}
