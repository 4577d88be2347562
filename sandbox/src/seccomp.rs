//! The system call filters of commands and of the service half.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Compare,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch, sock_filter,
};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// System calls that exist since Linux 6.15; `libc` does not name it yet.
const SYS_OPEN_TREE_ATTR: i64 = 467;

/// Refused whatever their arguments, with EPERM.
fn refused() -> Vec<i64> {
    let mut calls = vec![
        // Mounts and roots: D5's order is over when the command starts.
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_open_tree,
        SYS_OPEN_TREE_ATTR,
        libc::SYS_move_mount,
        libc::SYS_fsopen,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_fspick,
        libc::SYS_mount_setattr,
        libc::SYS_setns,
        // Kernel interfaces with a history of holes and no use in builds.
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_fanotify_init,
        libc::SYS_fanotify_mark,
        libc::SYS_lookup_dcookie,
        libc::SYS_nfsservctl,
        // Keyrings are not namespaced by what the sandbox uses.
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        // Reaches around the root.
        libc::SYS_open_by_handle_at,
        // The machine itself.
        libc::SYS_kexec_load,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_quotactl,
        libc::SYS_quotactl_fd,
        libc::SYS_acct,
        libc::SYS_syslog,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_sethostname,
        libc::SYS_setdomainname,
        libc::SYS_vhangup,
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend([
        libc::SYS_kexec_file_load,
        libc::SYS_ioperm,
        libc::SYS_iopl,
        libc::SYS__sysctl,
        libc::SYS_uselib,
        libc::SYS_ustat,
        libc::SYS_sysfs,
    ]);
    calls
}

/// `CLONE_NEW*`; the time namespace's bit is part of clone's signal number.
const NAMESPACES: [u64; 7] = [
    libc::CLONE_NEWNS as u64,
    libc::CLONE_NEWCGROUP as u64,
    libc::CLONE_NEWUTS as u64,
    libc::CLONE_NEWIPC as u64,
    libc::CLONE_NEWUSER as u64,
    libc::CLONE_NEWPID as u64,
    libc::CLONE_NEWNET as u64,
];
const NEW_TIME: u64 = 0x80;

/// `personality(2)`: plain, 32-bit reporting, 2.6 reporting, both, without
/// address randomisation (debuggers), and the query.
const PERSONALITIES: [u64; 7] = [0, 0x8, 0x2_0000, 0x2_0008, 0x4_0000, 0x4_0008, 0xffff_ffff];

fn when(argument: u8, compare: Compare, value: u64) -> Result<SeccompCondition, BackendError> {
    // All the arguments looked at are 32 bits wide to the kernel: comparing 64
    // would let garbage in the upper half pass.
    SeccompCondition::new(argument, Length::Dword, compare, value)
}

fn any_of_bits(bits: &[u64]) -> Result<Vec<SeccompRule>, BackendError> {
    bits.iter()
        .map(|bit| SeccompRule::new(vec![when(0, Compare::MaskedEq(*bit), *bit)?]))
        .collect()
}

fn none_of(argument: u8, values: &[u64]) -> Result<SeccompRule, BackendError> {
    let conditions: Result<Vec<_>, _> = values
        .iter()
        .map(|value| when(argument, Compare::Ne, *value))
        .collect();
    SeccompRule::new(conditions?)
}

fn rules() -> Result<Rules, BackendError> {
    let mut rules: Rules = refused().into_iter().map(|call| (call, vec![])).collect();
    rules.insert(libc::SYS_clone, any_of_bits(&NAMESPACES)?);
    let mut unshared = NAMESPACES.to_vec();
    unshared.push(NEW_TIME);
    rules.insert(libc::SYS_unshare, any_of_bits(&unshared)?);
    rules.insert(libc::SYS_personality, vec![none_of(0, &PERSONALITIES)?]);
    // Unix and internet sockets; netlink only for asking about interfaces and
    // routes, which getifaddrs(3) does.
    rules.insert(
        libc::SYS_socket,
        vec![
            none_of(
                0,
                &[
                    libc::AF_UNIX as u64,
                    libc::AF_INET as u64,
                    libc::AF_INET6 as u64,
                    libc::AF_NETLINK as u64,
                ],
            )?,
            SeccompRule::new(vec![
                when(0, Compare::Eq, libc::AF_NETLINK as u64)?,
                when(2, Compare::Ne, libc::NETLINK_ROUTE as u64)?,
            ])?,
        ],
    );
    rules.insert(
        libc::SYS_socketpair,
        vec![none_of(0, &[libc::AF_UNIX as u64])?],
    );
    // Typing into a terminal, the console's own, and line disciplines.
    let controls = [libc::TIOCSTI, libc::TIOCLINUX, libc::TIOCSETD];
    let refused: Result<Vec<_>, _> = controls
        .iter()
        .map(|control| SeccompRule::new(vec![when(1, Compare::Eq, *control)?]))
        .collect();
    rules.insert(libc::SYS_ioctl, refused?);
    // Limits of pid 1: the command's reaper is of its uid, and an RLIMIT_CPU would
    // end it.
    let reaper = SeccompRule::new(vec![when(0, Compare::Eq, 1)?])?;
    rules.insert(libc::SYS_prlimit64, vec![reaper]);
    Ok(rules)
}

fn architecture() -> Result<TargetArch, BackendError> {
    std::env::consts::ARCH.try_into()
}

fn compile(rules: Rules) -> Result<Vec<sock_filter>, BackendError> {
    SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        architecture()?,
    )?
    .try_into()
}

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
const AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// How many calls are looked through one after another.
const LEAF: usize = 8;

/// The rules as a tree, searched by the number of the call, which is loaded.
///
/// Whenever a filter is loaded the kernel runs it for every number there is, to
/// learn which calls are always allowed: with one long list that takes longer than
/// starting a small program does.
fn tree(mut rules: Rules) -> Result<Vec<sock_filter>, BackendError> {
    let middle = rules.keys().nth(rules.len() / 2).copied();
    let Some(middle) = middle.filter(|_| rules.len() > LEAF) else {
        return compile(rules);
    };
    let from_middle = tree(rules.split_off(&middle))?;
    let below = tree(rules)?;
    let mut program = vec![
        instruction(AT_LEAST, 0, 1, middle as u32),
        instruction(JUMP, 0, 0, below.len() as u32),
    ];
    program.extend(below);
    program.extend(from_middle);
    Ok(program)
}

const fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}

/// What comes before the filter proper; it leaves the number of the call loaded.
///
/// On x86-64 the x32 calls are the same calls under other numbers, which the
/// filter would not recognise: they do not exist here. `clone3` hides its flags
/// behind a pointer: it does not exist either, and the C libraries then use
/// `clone`. Other architectures' entries (i386's) are left to the filter
/// proper, which kills: a 32-bit program could not run anyway.
fn prelude() -> [sock_filter; 4] {
    const X32_BIT: u32 = 0x4000_0000;
    [
        instruction(LOAD, 0, 0, 0),
        instruction(AT_LEAST, 1, 0, X32_BIT),
        instruction(EQUAL, 0, 1, libc::SYS_clone3 as u32),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
    ]
}

/// The filter of commands, compiled.
pub(crate) fn program() -> Result<Vec<sock_filter>, BackendError> {
    let mut program = prelude().to_vec();
    program.extend(tree(rules()?)?);
    Ok(program)
}

/// `fcntl(2)` and `ioctl(2)` that have the kernel send a signal of the caller's
/// choice to a process of its choice: `F_SETSIG`, `F_SETOWN`, `F_SETOWN_EX`, and
/// `FIOSETOWN`, `SIOCSPGRP`.
const SIGNAL_OWNERS: [u64; 3] = [10, 8, 15];
const SIGNAL_OWNER_CONTROLS: [u64; 2] = [0x8901, 0x8902];

/// The filter of the service half: it starts no program, looks into no
/// process, makes no namespace, signals none but itself (`own`), and talks to
/// nobody that it has no connection with: Landlock does not mediate unix sockets
/// that have a path.
pub(crate) fn service_program(own: u32) -> Result<Vec<sock_filter>, BackendError> {
    let mut rules = rules()?;
    for call in [
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        libc::SYS_pidfd_send_signal,
        libc::SYS_tkill,
        libc::SYS_kcmp,
        // How others of its user are scheduled and where their memory lies.
        libc::SYS_setpriority,
        libc::SYS_ioprio_set,
        libc::SYS_sched_setaffinity,
        libc::SYS_sched_setattr,
        libc::SYS_sched_setparam,
        libc::SYS_sched_setscheduler,
        libc::SYS_migrate_pages,
        libc::SYS_move_pages,
        libc::SYS_process_madvise,
        libc::SYS_process_mrelease,
        libc::SYS_socket,
        libc::SYS_connect,
    ] {
        rules.insert(call, vec![]);
    }
    for call in [
        libc::SYS_kill,
        libc::SYS_tgkill,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_rt_tgsigqueueinfo,
    ] {
        rules.insert(call, vec![none_of(0, &[own.into()])?]);
    }
    // Limits of others of its user: RLIMIT_CPU would end them.
    rules.insert(libc::SYS_prlimit64, vec![none_of(0, &[0, own.into()])?]);
    let equal = |argument, values: &[u64]| -> Result<Vec<_>, BackendError> {
        let rule = |value: &u64| SeccompRule::new(vec![when(argument, Compare::Eq, *value)?]);
        values.iter().map(rule).collect()
    };
    rules.insert(libc::SYS_fcntl, equal(1, &SIGNAL_OWNERS)?);
    let controls = rules.entry(libc::SYS_ioctl).or_default();
    controls.extend(equal(1, &SIGNAL_OWNER_CONTROLS)?);
    // A datagram socket of a pair could send to any path.
    let types = [libc::SOCK_DGRAM as u64, libc::SOCK_RAW as u64];
    let pairs = rules.entry(libc::SYS_socketpair).or_default();
    for kind in types {
        let of_kind = when(1, Compare::MaskedEq(0xf), kind)?;
        pairs.push(SeccompRule::new(vec![of_kind])?);
    }
    let mut program = prelude().to_vec();
    program.extend(compile(rules)?);
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_programs_compile_and_fit() {
        for program in [program().unwrap(), service_program(1).unwrap()] {
            assert!(program.len() < 1024, "{}", program.len());
        }
    }

    /// What a program decides, and after how many instructions.
    fn decide(program: &[sock_filter], data: &[u32; 16]) -> (u32, usize) {
        let (mut loaded, mut at, mut steps) = (0, 0, 0);
        loop {
            let instruction = &program[at];
            at += 1;
            steps += 1;
            let mut jump = |taken: bool| {
                at += usize::from(if taken {
                    instruction.jt
                } else {
                    instruction.jf
                });
            };
            match u32::from(instruction.code) {
                LOAD => loaded = data[instruction.k as usize / 4],
                AT_LEAST => jump(loaded >= instruction.k),
                EQUAL => jump(loaded == instruction.k),
                code if code == libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K => {
                    jump(loaded > instruction.k);
                }
                code if code == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => {
                    loaded &= instruction.k;
                }
                JUMP => at += instruction.k as usize,
                RETURN => return (instruction.k, steps),
                code => panic!("{code:#x}"),
            }
        }
    }

    #[test]
    fn the_tree_decides_as_the_list_does_and_sooner() {
        const X86_64: u32 = 0xc000_003e;
        let list = compile(rules().unwrap()).unwrap();
        let tree = program().unwrap();
        let mut steps = (0, 0);
        for number in (0..600).filter(|number| *number != libc::SYS_clone3 as u32) {
            let values = (0..32)
                .map(|bit| 1 << bit)
                .chain([0, 2, 3, 10, 16, 17, 0x5412, !0]);
            for value in values {
                // The calls' arguments, halved: the low words come first.
                let mut data = [value; 16];
                data[..2].copy_from_slice(&[number, X86_64]);
                let (by_list, by_tree) = (decide(&list, &data), decide(&tree, &data));
                assert_eq!(by_list.0, by_tree.0, "{number} {value:#x}");
                steps = (steps.0 + by_list.1, steps.1 + by_tree.1);
            }
        }
        assert!(steps.1 * 3 < steps.0, "{steps:?}");
    }

    #[test]
    fn the_service_half_talks_to_nobody_else() {
        use std::os::fd::AsFd;
        use std::os::unix::net::{UnixDatagram, UnixStream};

        use nix::errno::Errno;
        use nix::fcntl::{FcntlArg, OFlag, fcntl};

        let path = std::env::temp_dir().join(format!("sandbox-connect-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        let unconnected = nix::sys::socket::socket(
            nix::sys::socket::AddressFamily::Unix,
            nix::sys::socket::SockType::Stream,
            nix::sys::socket::SockFlag::empty(),
            None,
        )
        .unwrap();
        let address = nix::sys::socket::UnixAddr::new(&path).unwrap();
        // A filter is a thread's own.
        let own = std::process::id();
        std::thread::spawn(move || {
            use std::os::fd::AsRawFd;
            crate::sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).unwrap();
            crate::sys::set_seccomp(&service_program(own).unwrap()).unwrap();
            let refused = |error: std::io::Error| error.raw_os_error() == Some(libc::EPERM);
            assert!(refused(UnixStream::connect(&path).unwrap_err()));
            let connected = nix::sys::socket::connect(unconnected.as_raw_fd(), &address);
            assert_eq!(connected, Err(Errno::EPERM));
            assert!(refused(UnixDatagram::pair().unwrap_err()));
            assert!(refused(
                std::net::UdpSocket::bind("127.0.0.1:0").unwrap_err()
            ));
            for command in SIGNAL_OWNERS {
                // SAFETY: these commands take an integer.
                let result = unsafe { libc::fcntl(0, command as libc::c_int, 0) };
                assert_eq!(Errno::result(result), Err(Errno::EPERM), "{command}");
            }
            // What an event loop does still works.
            let (one, _other) = UnixStream::pair().unwrap();
            fcntl(one.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        })
        .join()
        .unwrap();
        drop(listener);
        std::fs::remove_file(
            std::env::temp_dir().join(format!("sandbox-connect-{}", std::process::id())),
        )
        .unwrap();
    }
}
