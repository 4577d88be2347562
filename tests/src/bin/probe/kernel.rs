//! Attacks 26, 27, 29 to 32, 35, 36 and 46: interfaces of the kernel that a build
//! does not need.

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

use crate::calls::{attempt_call, call, in_child, outcome, pointer};
use crate::report::attempt;

const NAMESPACES: [(&str, libc::c_int); 8] = [
    ("user", libc::CLONE_NEWUSER),
    ("mount", libc::CLONE_NEWNS),
    ("network", libc::CLONE_NEWNET),
    ("pid", libc::CLONE_NEWPID),
    ("ipc", libc::CLONE_NEWIPC),
    ("uts", libc::CLONE_NEWUTS),
    ("cgroup", libc::CLONE_NEWCGROUP),
    ("time", 0x80),
];

/// Attack 26: namespaces of its own, each way there is, and what they would be
/// wanted for: netfilter and mounts.
pub fn nest() {
    for (name, flag) in NAMESPACES {
        let flags = CloneFlags::from_bits_retain(flag);
        attempt(&format!("unshare {name}"), in_child(|| unshare(flags)));
        // With the upper half of the register set, which the kernel ignores.
        let dirty = libc::c_long::from(flag) | 1 << 40;
        let raw = in_child(|| call(libc::SYS_unshare, [dirty, 0, 0, 0, 0, 0]).map(drop));
        attempt(&format!("unshare {name}, 64 bits"), raw);
    }
    for (name, flag) in &NAMESPACES[..7] {
        attempt(&format!("clone {name}"), clone(*flag));
        attempt(&format!("clone3 {name}"), clone3(*flag));
        if let Ok(own) = File::open(format!("/proc/self/ns/{}", file_of(name))) {
            let fd = own.as_raw_fd().into();
            let entered = in_child(|| call(libc::SYS_setns, [fd, 0, 0, 0, 0, 0]).map(drop));
            attempt(&format!("setns {name}"), entered);
        }
    }
    attempt("netfilter in a namespace", in_child(netfilter));
    attempt("mount in a namespace", in_child(mount_inside));
}

fn file_of(name: &str) -> &str {
    match name {
        "mount" => "mnt",
        "network" => "net",
        name => name,
    }
}

fn clone(flag: libc::c_int) -> Result<(), Errno> {
    let flags = libc::c_long::from(flag | libc::SIGCHLD);
    finish(call(libc::SYS_clone, [flags, 0, 0, 0, 0, 0])?)
}

fn clone3(flag: libc::c_int) -> Result<(), Errno> {
    // clone_args of clone(2): flags first, the signal fifth.
    let mut arguments = [0_u64; 11];
    arguments[0] = u64::from(flag.cast_unsigned());
    arguments[4] = libc::SIGCHLD as u64;
    let size = std::mem::size_of_val(&arguments) as libc::c_long;
    finish(call(
        libc::SYS_clone3,
        [pointer(&arguments), size, 0, 0, 0, 0],
    )?)
}

/// The child of a raw clone leaves at once; its parent waits for it.
fn finish(pid: libc::c_long) -> Result<(), Errno> {
    if pid == 0 {
        // SAFETY: nothing else happens in the child.
        unsafe { libc::_exit(0) }
    }
    let pid = nix::unistd::Pid::from_raw(pid as i32);
    nix::sys::wait::waitpid(pid, None).map(drop)
}

fn netfilter() -> Result<(), Errno> {
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
    const NETLINK_NETFILTER: libc::c_int = 12;
    // SAFETY: three numbers.
    crate::report::check(unsafe {
        libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, NETLINK_NETFILTER).into()
    })
    .map(drop)
}

fn mount_inside() -> Result<(), Errno> {
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
    mount_memory("/tmp")
}

fn mount_memory(place: &str) -> Result<(), Errno> {
    let none = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("tmpfs"), place, Some("tmpfs"), none, None::<&str>)
}

/// Attack 27: changes the mounts that it sees, by the old calls and by the new.
pub fn mount() {
    use libc::c_long;
    let at = c_long::from(libc::AT_FDCWD);
    let memory = c"tmpfs".as_ptr();
    attempt("mount", in_child(|| mount_memory("/tmp")));
    let usr = c"/usr".as_ptr();
    let writable = libc::MS_REMOUNT | libc::MS_BIND;
    attempt(
        "remount",
        in_child(|| {
            call(
                libc::SYS_mount,
                [0, pointer(usr), 0, writable as c_long, 0, 0],
            )?;
            outcome(File::create("/usr/hayloft-was-here"))
        }),
    );
    for (name, number, arguments) in [
        (
            "reach mount",
            libc::SYS_mount,
            [pointer(memory), pointer(usr), pointer(memory), 0, 0, 0],
        ),
        (
            "reach umount",
            libc::SYS_umount2,
            [pointer(c"/proc".as_ptr()), 0, 0, 0, 0, 0],
        ),
    ] {
        attempt(name, crate::calls::reach(number, arguments));
    }
    attempt(
        "umount",
        in_child(|| nix::mount::umount2("/proc/sys", nix::mount::MntFlags::MNT_DETACH)),
    );
    // mount_attr of mount_setattr(2): nothing set, read-only cleared.
    let attributes = [0_u64, 1, 0, 0];
    attempt_call(
        "mount_setattr",
        libc::SYS_mount_setattr,
        [at, pointer(usr), 0, pointer(&attributes), 32, 0],
    );
    let root = c"/".as_ptr();
    attempt_call(
        "open_tree",
        libc::SYS_open_tree,
        [at, pointer(root), 1, 0, 0, 0],
    );
    attempt_call("fsopen", libc::SYS_fsopen, [pointer(memory), 0, 0, 0, 0, 0]);
    attempt_call("fspick", libc::SYS_fspick, [at, pointer(root), 0, 0, 0, 0]);
    let temporary = c"/tmp".as_ptr();
    attempt_call(
        "move_mount",
        libc::SYS_move_mount,
        [
            at,
            pointer(temporary),
            at,
            pointer(c"/var/tmp".as_ptr()),
            0,
            0,
        ],
    );
    let here = pointer(c".".as_ptr());
    attempt_call("pivot_root", libc::SYS_pivot_root, [here, here, 0, 0, 0, 0]);
    // The release_agent of a control group is run by the kernel as root.
    attempt(
        "mount cgroup",
        in_child(|| {
            let none = nix::mount::MsFlags::empty();
            let memory = Some("memory");
            nix::mount::mount(Some("cgroup"), "/tmp", Some("cgroup"), none, memory)
        }),
    );
}

/// Attack 29: interfaces with a history of holes, and those that rule the machine.
/// What would do harm if it succeeded is called so that it would not.
pub fn surface() {
    // bpf_attr of bpf(2) for BPF_MAP_CREATE: an array of one number.
    let map = [2_u32, 4, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let size = std::mem::size_of_val(&map) as libc::c_long;
    attempt_call("bpf", libc::SYS_bpf, [0, pointer(&map), size, 0, 0, 0]);
    // perf_event_attr of perf_event_open(2): the software clock, kernel included.
    let mut event = [0_u64; 14];
    event[0] = 1 | 112 << 32;
    let here = [pointer(&event), 0, -1, -1, 0, 0];
    attempt_call("perf_event_open", libc::SYS_perf_event_open, here);
    attempt_call("userfaultfd", libc::SYS_userfaultfd, [1, 0, 0, 0, 0, 0]);
    attempt_call(
        "fanotify_init",
        libc::SYS_fanotify_init,
        [0x200, 0, 0, 0, 0, 0],
    );
    attempt_call("kexec_load", libc::SYS_kexec_load, [0, 0, 0, 0, 0, 0]);
    let text = pointer(c"".as_ptr());
    attempt_call("init_module", libc::SYS_init_module, [0, 0, text, 0, 0, 0]);
    attempt_call(
        "finit_module",
        libc::SYS_finit_module,
        [-1, text, 0, 0, 0, 0],
    );
    let nowhere = pointer(c"/nonexistent".as_ptr());
    attempt_call(
        "delete_module",
        libc::SYS_delete_module,
        [nowhere, 0, 0, 0, 0, 0],
    );
    attempt_call("swapon", libc::SYS_swapon, [nowhere, 0, 0, 0, 0, 0]);
    attempt_call("swapoff", libc::SYS_swapoff, [nowhere, 0, 0, 0, 0, 0]);
    attempt_call("acct", libc::SYS_acct, [nowhere, 0, 0, 0, 0, 0]);
    // Q_GETFMT for users.
    let format = 0x80_0004 << 8;
    attempt_call(
        "quotactl",
        libc::SYS_quotactl,
        [format, nowhere, 0, 0, 0, 0],
    );
    let cad_off = [0xfee1_dead, 672_274_793, 0, 0, 0, 0];
    attempt_call("reboot", libc::SYS_reboot, cad_off);
    attempt_call("vhangup", libc::SYS_vhangup, [0; 6]);
    attempt_call("sethostname", libc::SYS_sethostname, [text, 0, 0, 0, 0, 0]);
    #[cfg(target_arch = "x86_64")]
    {
        attempt_call("ioperm", libc::SYS_ioperm, [0x80, 1, 1, 0, 0, 0]);
        attempt_call("iopl", libc::SYS_iopl, [3, 0, 0, 0, 0, 0]);
        let bad = [-1, -1, 0, text, 0, 0];
        attempt_call("kexec_file_load", libc::SYS_kexec_file_load, bad);
    }
}

/// Attack 30: io_uring, by which calls pass a filter unseen.
pub fn io_uring() {
    let parameters = [0_u8; 120];
    let setup = [1, pointer(&parameters), 0, 0, 0, 0];
    attempt_call("io_uring_setup", libc::SYS_io_uring_setup, setup);
    let reach = crate::calls::reach(libc::SYS_io_uring_enter, [-1, 0, 0, 0, 0, 0]);
    attempt("reach io_uring_enter", reach);
    let reach = crate::calls::reach(libc::SYS_io_uring_register, [-1, 0, 0, 0, 0, 0]);
    attempt("reach io_uring_register", reach);
}

/// Attack 31: keyrings, which no namespace parts among users who are the same
/// outside.
pub fn keys() {
    let (kind, name) = (pointer(c"user".as_ptr()), pointer(c"hayloft".as_ptr()));
    // Of the user, then of the session (keyrings(7)).
    for (ring, number) in [("user", -4), ("session", -3)] {
        let add = [kind, name, name, 4, number, 0];
        attempt_call(&format!("add_key {ring}"), libc::SYS_add_key, add);
        let ask = [0, number, 1, 0, 0, 0];
        attempt_call(&format!("keyctl {ring}"), libc::SYS_keyctl, ask);
    }
    let request = [kind, name, 0, 0, 0, 0];
    attempt_call("request_key", libc::SYS_request_key, request);
    let keys = std::fs::read_to_string("/proc/keys").map_err(|error| crate::report::errno(&error));
    let seen = keys.and_then(|keys| {
        if keys.is_empty() {
            Err(Errno::ENOENT)
        } else {
            Ok(())
        }
    });
    attempt("/proc/keys", seen);
}

/// Attack 32: opens a file of the host by its handle, around every root.
pub fn handle() {
    // file_handle of open_by_handle_at(2): length, kind, then inode 2 (the root of
    // an ext4) of generation 0.
    let handle = [8_u32, 1, 2, 0];
    let place = File::open(".").expect("the working directory");
    let fd = libc::c_long::from(place.as_raw_fd());
    let arguments = [fd, pointer(&handle), 0, 0, 0, 0];
    attempt_call("open_by_handle_at", libc::SYS_open_by_handle_at, arguments);
}

/// Attack 35: personalities. Plain, and without address randomisation, a
/// debugger needs.
pub fn personality() {
    const NO_RANDOMIZE: libc::c_long = 0x4_0000;
    const READ_IMPLIES_EXEC: libc::c_long = 0x40_0000;
    const MMAP_PAGE_ZERO: libc::c_long = 0x10_0000;
    for (name, value) in [
        ("no randomisation", NO_RANDOMIZE),
        ("read implies exec", READ_IMPLIES_EXEC),
        ("map page zero", MMAP_PAGE_ZERO),
        ("read implies exec, 64 bits", READ_IMPLIES_EXEC | 1 << 40),
        ("foreign", 0x7),
    ] {
        let result = in_child(|| call(libc::SYS_personality, [value, 0, 0, 0, 0, 0]).map(drop));
        attempt(name, result);
    }
}

/// Attack 36: the kernel's other entries, with other numbers for the same calls.
#[cfg(target_arch = "x86_64")]
pub fn other_entries() {
    const X32: libc::c_long = 0x4000_0000;
    let user = libc::c_long::from(libc::CLONE_NEWUSER);
    let x32 = in_child(|| call(libc::SYS_unshare | X32, [user, 0, 0, 0, 0, 0]).map(drop));
    attempt("unshare by x32", x32);
    // i386's numbers: unshare, getpid, clone3.
    for (name, number, argument) in [
        ("unshare by i386", 310, 0x1000_0000),
        ("getpid by i386", 20, 0),
        ("clone3 by i386", 435, 0),
    ] {
        attempt(name, in_child(|| interrupt(number, argument)));
    }
}

/// There is one entry only.
#[cfg(not(target_arch = "x86_64"))]
pub fn other_entries() {
    crate::report::say("no other entry", "ENOSYS");
}

#[cfg(target_arch = "x86_64")]
fn interrupt(number: i32, argument: i32) -> Result<(), Errno> {
    let result: i32;
    // SAFETY: the calls take numbers; the kernel keeps every register but eax, and
    // on older ones zeroes r8 to r11. rbx is LLVM's: it is kept aside.
    unsafe {
        std::arch::asm!(
            "xchg {argument:r}, rbx",
            "int 0x80",
            "xchg {argument:r}, rbx",
            argument = inout(reg) i64::from(argument) => _,
            inout("eax") number => result,
            in("ecx") 0,
            in("edx") 0,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    if (-4095..0).contains(&result) {
        return Err(Errno::from_raw(-result));
    }
    Ok(())
}

/// Attack 46: sets the clock, to what it is.
pub fn clock() {
    let mut now = [0_i64; 2];
    // SAFETY: the structure is two 64-bit numbers on 64-bit machines.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, (&raw mut now).cast()) };
    let set = [0, pointer(&now), 0, 0, 0, 0];
    attempt_call("clock_settime", libc::SYS_clock_settime, set);
    let time = [now[0], now[1] / 1000];
    let set = [pointer(&time), 0, 0, 0, 0, 0];
    attempt_call("settimeofday", libc::SYS_settimeofday, set);
    // timex of adjtimex(2): an offset of nothing.
    let mut change = [0_u64; 32];
    change[0] = 0x1;
    let change = pointer(&change);
    attempt(
        "adjtimex",
        call(libc::SYS_adjtimex, [change, 0, 0, 0, 0, 0]).map(drop),
    );
    let adjusted = call(libc::SYS_clock_adjtime, [0, change, 0, 0, 0, 0]);
    attempt("clock_adjtime", adjusted.map(drop));
}
