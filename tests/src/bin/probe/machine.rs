//! Attacks 22, 23, 25, 28, 33, 34, 37, 44 and 45: what there is of the machine.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Gid, Uid};

use crate::calls::{attempt_call, call, in_child, outcome, pointer};
use crate::report::{attempt, check, errno};

fn write(path: &str, text: &str) -> Result<(), Errno> {
    let opened = OpenOptions::new().write(true).open(path);
    let mut file = opened.map_err(|error| errno(&error))?;
    is_null(&file)?;
    outcome(file.write_all(text.as_bytes()))
}

/// What is covered by /dev/null is not there, though it takes all.
fn is_null(file: &File) -> Result<(), Errno> {
    let found = file.metadata().map_err(|error| errno(&error))?;
    let null = makedev(1, 3);
    if std::os::unix::fs::MetadataExt::rdev(&found) == null {
        return Err(Errno::ENODEV);
    }
    Ok(())
}

/// Whether there is such a file, on a mount that could be written to, if only its
/// mode and owner are against it.
fn reach(path: &str) {
    let reached = File::options()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path);
    let reached = reached.map_err(|error| errno(&error)).and_then(|file| {
        is_null(&file)?;
        let flags = nix::sys::statvfs::fstatvfs(&file)?.flags();
        if flags.contains(nix::sys::statvfs::FsFlags::ST_RDONLY) {
            return Err(Errno::EROFS);
        }
        Ok(())
    });
    attempt(&format!("reach {path}"), reached);
}

fn read(path: &str) -> Result<Vec<u8>, Errno> {
    // Devices that have nothing to say are not waited for.
    let mut options = File::options();
    let opened = options.read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let mut file = opened.map_err(|error| errno(&error))?;
    is_null(&file)?;
    let mut text = vec![0; 4096];
    let length = std::io::Read::read(&mut file, &mut text).map_err(|error| errno(&error))?;
    text.truncate(length);
    if text.is_empty() {
        return Err(Errno::ENODATA);
    }
    Ok(text)
}

/// Attack 22: opens the runner's own program for writing, by way of the process
/// that runs it.
pub fn overwrite_runner(pids: &[&str]) {
    for pid in ["1"].iter().chain(pids) {
        let pid = pid.split('@').next().unwrap_or_default();
        let path = format!("/proc/{pid}/exe");
        attempt(&format!("write {path}"), write(&path, ""));
        attempt(&format!("read {path}"), read(&path));
        let executed = Command::new(&path).arg("--version").output();
        attempt(&format!("execute {path}"), outcome(executed));
    }
}

/// What the kernel or its helpers believe, and the machine's switches. The first
/// would run a program of the writer's as root on the host.
const SETTINGS: [(&str, &str); 14] = [
    ("/proc/sys/kernel/core_pattern", "|/tmp/x"),
    ("/proc/sys/kernel/modprobe", "/tmp/x"),
    ("/proc/sys/kernel/hotplug", "/tmp/x"),
    ("/proc/sys/kernel/hostname", "spoiled"),
    ("/proc/sys/kernel/panic", "1"),
    ("/proc/sys/vm/drop_caches", "1"),
    ("/proc/sys/vm/overcommit_memory", "2"),
    ("/proc/sys/fs/protected_hardlinks", "0"),
    ("/proc/sys/net/ipv4/ip_forward", "1"),
    ("/proc/sys/fs/binfmt_misc/register", ":x:M::x::/tmp/x:"),
    ("/proc/sysrq-trigger", "h"),
    ("/proc/irq/default_smp_affinity", "1"),
    ("/sys/kernel/uevent_helper", "/tmp/x"),
    ("/sys/fs/cgroup/release_agent", "/tmp/x"),
];

/// Attack 23: writes to the settings of the kernel, without a change to them
/// where they can be read.
pub fn change_settings() {
    for (path, text) in SETTINGS {
        let same = fs::read_to_string(path).unwrap_or_else(|_| text.into());
        attempt(path, write(path, &same));
        let opened = OpenOptions::new().read(true).write(true).open(path);
        let opened = opened
            .map_err(|error| errno(&error))
            .and_then(|file| is_null(&file));
        attempt(&format!("{path} for both"), opened);
        reach(path);
    }
    attempt("/sys", outcome(fs::read_dir("/sys/kernel")));
}

/// Attack 25: takes other ids, groups and capabilities.
pub fn take_ids() {
    let ids = [0, 1, 65534, 1001];
    for id in ids {
        let id: libc::c_long = id;
        for (name, number, arguments) in [
            ("setuid", libc::SYS_setuid, [id, 0, 0, 0, 0, 0]),
            ("setgid", libc::SYS_setgid, [id, 0, 0, 0, 0, 0]),
            ("setresuid", libc::SYS_setresuid, [id, id, id, 0, 0, 0]),
            ("setresgid", libc::SYS_setresgid, [id, id, id, 0, 0, 0]),
        ] {
            let own = nix::unistd::getuid().as_raw();
            if i64::from(own) != id {
                let taken = in_child(|| call(number, arguments).map(drop));
                attempt(&format!("{name} {id}"), taken);
            }
        }
    }
    attempt(
        "setgroups",
        in_child(|| nix::unistd::setgroups(&[Gid::from_raw(0)])),
    );
    // Version 3 of capset(2); all of them, effective, permitted, inheritable.
    let header = [0x2008_0522_u32, 0];
    let all = [u32::MAX; 6];
    let set = in_child(|| {
        call(
            libc::SYS_capset,
            [pointer(&header), pointer(&all), 0, 0, 0, 0],
        )
        .map(drop)
    });
    attempt("capset", set);
    let one = [1_u32 << 21, 1 << 21, 0, 0, 0, 0];
    let set = in_child(|| {
        call(
            libc::SYS_capset,
            [pointer(&header), pointer(&one), 0, 0, 0, 0],
        )
        .map(drop)
    });
    attempt("capset CAP_SYS_ADMIN", set);
    for (name, option, value) in [
        ("keep capabilities", libc::PR_SET_KEEPCAPS, 1),
        ("clear securebits", libc::PR_SET_SECUREBITS, 0),
    ] {
        // SAFETY: numbers.
        let result = check(unsafe { libc::prctl(option, value, 0, 0, 0) }.into());
        attempt(name, result);
    }
    let other = Uid::from_raw(u32::from(nix::unistd::getuid().is_root()));
    let own = "own-file";
    let made = File::create(own).map_err(|error| errno(&error));
    let given = made.and_then(|file| nix::unistd::fchown(&file, Some(other), None));
    attempt("give a file away", given);
    let _ = fs::remove_file(own);
}

/// Attack 28: leaves its root, for `file` of the host.
pub fn leave_root(file: &str) {
    let file = file.trim_start_matches('/');
    let up = "../".repeat(20);
    attempt(
        "chroot and climb",
        in_child(|| {
            fs::create_dir_all("jail").map_err(|error| errno(&error))?;
            let here = File::open(".").map_err(|error| errno(&error))?;
            nix::unistd::chroot("jail")?;
            nix::unistd::fchdir(&here)?;
            outcome(File::open(format!("{up}{file}")))
        }),
    );
    attempt("climb", outcome(File::open(format!("/{up}{file}"))));
    for start in [
        "/proc/self/cwd",
        "/proc/self/root",
        "/proc/1/root",
        "/proc/1/cwd",
    ] {
        let path = format!("{start}/{up}{file}");
        attempt(&format!("climb from {start}"), outcome(File::open(path)));
    }
    for fd in 0..256 {
        let path = format!("/proc/self/fd/{fd}/{up}{file}");
        if let result @ (Ok(()) | Err(Errno::EACCES)) = outcome(File::open(path)) {
            attempt(&format!("climb from descriptor {fd}"), result);
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for mount in mounts.lines().filter_map(|line| line.split(' ').nth(4)) {
        let path = format!("{mount}/{up}{file}");
        attempt(&format!("climb from {mount}"), outcome(File::open(path)));
    }
}

/// Attack 33: types into a terminal, an inherited one, then one of its own.
pub fn type_into_terminal() {
    attempt("the controlling terminal", outcome(File::open("/dev/tty")));
    for fd in 0..3 {
        let typed = type_into(fd, libc::TIOCSTI as libc::c_ulong);
        attempt(&format!("type into {fd}"), typed);
    }
    attempt(
        "type into its own",
        in_child(|| own_terminal(libc::TIOCSTI as libc::c_ulong)),
    );
    let dirty = libc::TIOCSTI as libc::c_ulong | 1 << 40;
    attempt(
        "type into its own, 64 bits",
        in_child(|| own_terminal(dirty)),
    );
    for (name, control) in [("TIOCLINUX", libc::TIOCLINUX), ("TIOCSETD", libc::TIOCSETD)] {
        let number: libc::c_long = libc::SYS_ioctl;
        let arguments = [0, control as libc::c_long, 0, 0, 0, 0];
        attempt(
            &format!("reach {name}"),
            crate::calls::reach(number, arguments),
        );
    }
}

fn type_into(fd: i32, control: libc::c_ulong) -> Result<(), Errno> {
    let letter = b'\n';
    let arguments = [
        fd.into(),
        control as libc::c_long,
        pointer(&letter),
        0,
        0,
        0,
    ];
    call(libc::SYS_ioctl, arguments).map(drop)
}

fn own_terminal(control: libc::c_ulong) -> Result<(), Errno> {
    let terminal = nix::pty::openpty(None, None)?;
    nix::unistd::setsid()?;
    let fd = terminal.slave.as_raw_fd();
    call(
        libc::SYS_ioctl,
        [fd.into(), libc::TIOCSCTTY as libc::c_long, 0, 0, 0, 0],
    )?;
    let typed = type_into(fd, control);
    // Closing it would hang up, and end this process before it tells.
    std::mem::forget(terminal);
    typed
}

/// Attack 34: the kernel's log and memory, and devices.
pub fn devices() {
    for path in [
        "/dev/kmsg",
        "/dev/mem",
        "/dev/kmem",
        "/dev/port",
        "/dev/sda",
        "/dev/vda",
        "/dev/nvme0n1",
        "/dev/loop0",
        "/dev/loop-control",
        "/dev/fuse",
        "/dev/kvm",
        "/dev/net/tun",
        "/dev/vsock",
        "/dev/userfaultfd",
        "/proc/kcore",
        "/proc/kmsg",
    ] {
        attempt(path, read(path));
        reach(path);
    }
    // Its size (syslog(2), 10), and all of it (3).
    let buffer = [0_u8; 64];
    attempt_call("dmesg size", libc::SYS_syslog, [10, 0, 0, 0, 0, 0]);
    attempt_call(
        "dmesg",
        libc::SYS_syslog,
        [3, pointer(&buffer), 64, 0, 0, 0],
    );
    let mode = Mode::from_bits_truncate(0o666);
    for (name, kind, device) in [
        ("mknod disk", SFlag::S_IFBLK, makedev(8, 0)),
        ("mknod virtual disk", SFlag::S_IFBLK, makedev(254, 0)),
        ("mknod memory", SFlag::S_IFCHR, makedev(1, 1)),
        ("mknod null", SFlag::S_IFCHR, makedev(1, 3)),
    ] {
        for place in [".", "/tmp", "/dev/shm"] {
            let path = format!("{place}/device");
            attempt(
                &format!("{name} in {place}"),
                mknod(&*path, kind, mode, device),
            );
            let _ = fs::remove_file(path);
        }
    }
}

/// Attack 37: leaves a core, of memory that may be another's to read.
pub fn dump_core() {
    let limit = nix::sys::resource::Resource::RLIMIT_CORE;
    let raised = nix::sys::resource::setrlimit(limit, 1 << 30, 1 << 30);
    attempt("raise the limit", raised);
    let crashed = Command::new("/proc/self/exe").arg("crash").status();
    let dumped = crashed.map(|status| std::os::unix::process::ExitStatusExt::core_dumped(&status));
    let dumped = dumped.map_err(|error| errno(&error));
    attempt(
        "dump",
        dumped.and_then(|dumped| if dumped { Ok(()) } else { Err(Errno::ENOENT) }),
    );
    let cores = fs::read_dir(".").into_iter().flatten().flatten();
    let core = cores.filter(|entry| entry.file_name().to_string_lossy().contains("core"));
    attempt("core", core.map(drop).next().ok_or(Errno::ENOENT));
}

/// Ends by a signal that has a core.
pub fn crash() {
    // SAFETY: does not return.
    unsafe { libc::abort() }
}

/// Attack 44: descriptors that it was not given.
pub fn inherited() {
    let mut seen = false;
    for fd in 3..4096 {
        // SAFETY: a number that may or may not be a descriptor.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0 {
            seen = true;
            attempt(&format!("descriptor {fd}"), Ok(()));
        }
    }
    if !seen {
        attempt("descriptors", Err::<(), _>(Errno::EBADF));
    }
    for fd in 0..3 {
        let file = format!("/proc/self/fd/{fd}");
        let is_file = fs::metadata(&file).is_ok_and(|found| found.is_dir());
        attempt(
            &format!("folder as {fd}"),
            if is_file { Ok(()) } else { Err(Errno::ENOTDIR) },
        );
        // Messages with descriptors come over sockets.
        let mut length: libc::socklen_t = 0;
        // SAFETY: no name is asked for.
        let name = unsafe { libc::getsockname(fd, std::ptr::null_mut(), &raw mut length) };
        attempt(&format!("socket as {fd}"), check(name.into()));
    }
}

/// Attack 45: tells one machine from another: what it reads is compared with what
/// the host has, given as `NAME=VALUE`.
pub fn recognise(host: &[&str]) {
    for (name, value) in host.iter().filter_map(|word| word.split_once('=')) {
        let here = match name {
            "hostname" => nix::unistd::gethostname()
                .ok()
                .and_then(|name| name.into_string().ok()),
            "environment" => std::env::vars()
                .map(|(_, value)| value)
                .find(|seen| seen == value),
            "cgroup" => fs::read_to_string("/proc/self/cgroup").ok(),
            path => fs::read_to_string(path).ok(),
        };
        let same = here.is_some_and(|here| !value.is_empty() && here.trim() == value);
        attempt(name, if same { Ok(()) } else { Err(Errno::ENODATA) });
    }
}

/// Prints what an action can see of where it runs, for tests to compare.
pub fn describe() {
    for path in [
        "/etc/passwd",
        "/etc/group",
        "/etc/hosts",
        "/etc/machine-id",
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/domainname",
        "/proc/sys/kernel/random/boot_id",
        "/proc/cmdline",
        "/proc/self/cgroup",
        "/proc/self/uid_map",
    ] {
        let text = fs::read_to_string(path).unwrap_or_else(|error| format!("{:?}", errno(&error)));
        println!("{path}: {text:?}");
    }
    for (name, value) in std::env::vars() {
        println!("{name}={value}");
    }
    println!("{:?}", std::env::current_dir());
    println!("{} {}", nix::unistd::getuid(), nix::unistd::getgid());
    let mut names: Vec<_> = fs::read_dir("/")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    names.sort();
    println!("{names:?}");
}
