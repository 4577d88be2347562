//! Runs a program as on a host that lacks something: `lacking WHAT PROGRAM ARGS...`.
//! The kernel answers as one that does not have it, or forbids it, would: a filter of
//! system calls sees to that.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// A call that fails, if all bits of one argument's lower half are set (0: always).
struct Refusal {
    call: libc::c_long,
    argument: u32,
    bits: u32,
    errno: i32,
}

fn namespace(flag: libc::c_int) -> Vec<Refusal> {
    let refuse = |call| Refusal {
        call,
        argument: 0,
        bits: flag.cast_unsigned(),
        errno: libc::EPERM,
    };
    let clone3 = Refusal {
        call: libc::SYS_clone3,
        argument: 0,
        bits: 0,
        errno: libc::ENOSYS,
    };
    vec![refuse(libc::SYS_clone), refuse(libc::SYS_unshare), clone3]
}

fn missing(call: libc::c_long) -> Vec<Refusal> {
    vec![Refusal {
        call,
        argument: 0,
        bits: 0,
        errno: libc::ENOSYS,
    }]
}

fn refusals(what: &str) -> Option<Vec<Refusal>> {
    Some(match what {
        "user_namespace" => namespace(libc::CLONE_NEWUSER),
        "mount_namespace" => namespace(libc::CLONE_NEWNS),
        "pid_namespace" => namespace(libc::CLONE_NEWPID),
        "ipc_namespace" => namespace(libc::CLONE_NEWIPC),
        "uts_namespace" => namespace(libc::CLONE_NEWUTS),
        "network_namespace" => namespace(libc::CLONE_NEWNET),
        "landlock_files" => missing(libc::SYS_landlock_create_ruleset),
        "seccomp" => {
            let mut refusals = missing(libc::SYS_seccomp);
            refusals.push(Refusal {
                call: libc::SYS_prctl,
                argument: 0,
                // Of the options in use no other has these bits.
                bits: libc::PR_SET_SECCOMP as u32,
                errno: libc::EINVAL,
            });
            refusals
        }
        "mount_calls" => missing(libc::SYS_open_tree),
        "nothing" => Vec::new(),
        _ => return None,
    })
}

const fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}

fn program(refusals: &[Refusal]) -> Vec<libc::sock_filter> {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    let mut program = Vec::new();
    for refusal in refusals {
        // seccomp_data: the number first, the arguments from byte 16.
        program.extend([
            instruction(LOAD, 0, 0, 0),
            instruction(EQUAL, 0, 4, refusal.call as u32),
            instruction(LOAD, 0, 0, 16 + 8 * refusal.argument),
            instruction(AND, 0, 0, refusal.bits),
            instruction(EQUAL, 0, 1, refusal.bits),
            instruction(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | refusal.errno as u32),
        ]);
    }
    program.push(instruction(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    program
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [what, name, arguments @ ..] = &words[..] else {
        eprintln!("usage: lacking WHAT PROGRAM ARGS...");
        return ExitCode::from(2);
    };
    let Some(refusals) = refusals(what) else {
        eprintln!("lacking: not known: {what}");
        return ExitCode::from(2);
    };
    let mut program = program(&refusals);
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // Without no_new_privs where there is a choice: it would take more than is meant.
    // SAFETY: the program outlives the calls, which copy it.
    let installed = unsafe {
        let install = || {
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const filter,
            )
        };
        install() == 0
            || (libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && install() == 0)
    };
    if !installed {
        eprintln!("lacking: {}", std::io::Error::last_os_error());
        return ExitCode::from(2);
    }
    let error = Command::new(name).args(arguments).exec();
    eprintln!("lacking: {name}: {error}");
    ExitCode::from(2)
}
