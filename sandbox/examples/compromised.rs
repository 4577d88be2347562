//! A service half that was taken over: it tries to do more than start actions, and
//! says what of it worked. `compromised BUILD_DIRECTORY ids=START:COUNT | ids=same`.
//!
//! Each line is `NAME: ` and `refused`, or what happened instead. The launcher is to
//! outlive all of it: at the end an ordinary action is run.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::process::ExitCode;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg};
use nix::unistd::{Pid, getpid, getppid};
use sandbox::{
    CgroupChoice, Client, Config, Frame, HostIds, Policy, Reply, Request, Root, RunRequest,
    ServiceHalf, split,
};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(build), Some(ids)) = (arguments.next(), arguments.next()) else {
        return ExitCode::from(2);
    };
    let range = ids.strip_prefix("ids=").and_then(|ids| ids.split_once(':'));
    let host_ids = match range.map(|(start, count)| (start.parse(), count.parse())) {
        Some((Ok(start), Ok(count))) => HostIds::Range { start, count },
        _ => HostIds::SameUser,
    };
    let config = Config {
        policy: Policy::new(Root::Host, host_ids),
        build_directory: build.clone().into(),
        pool_size: 1,
        cgroup: CgroupChoice::None,
        termination_grace: Duration::ZERO,
        service: ServiceHalf {
            uid: 65533,
            gid: 65533,
            keep: Vec::new(),
        },
    };
    match split(config, |client| play(&client, &build)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(3)
        }
    }
}

/// Refused is what fails for a lack of rights; anything else is told.
fn told<T>(name: &str, result: Result<T, Errno>) {
    match result {
        Err(Errno::EPERM | Errno::EACCES) => println!("{name}: refused"),
        Err(errno) => println!("{name}: failed otherwise: {errno}"),
        Ok(_) => println!("{name}: WORKED"),
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

fn call(number: libc::c_long, arguments: [libc::c_long; 4]) -> Result<libc::c_long, Errno> {
    let [a, b, c, d] = arguments;
    // SAFETY: the calls made here take numbers, or null where they take pointers.
    Errno::result(unsafe { libc::syscall(number, a, b, c, d) })
}

fn play(client: &Client, build: &str) -> ExitCode {
    files(build);
    privileges();
    others();
    network();
    match protocol(client) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("protocol: {error}");
            ExitCode::FAILURE
        }
    }
}

fn files(build: &str) {
    for path in ["/etc/passwd", "/proc/self/status", "/", build] {
        told(
            &format!("open {path}"),
            File::open(path).map_err(|e| errno(&e)),
        );
    }
    let made = File::create(format!("{build}/made"));
    told("make a file", made.map_err(|e| errno(&e)));
    told("execute", nix::unistd::execv(c"/bin/true", &[c"/bin/true"]));
}

fn privileges() {
    told("become root", nix::unistd::setuid(0.into()));
    told("unshare", call(libc::SYS_unshare, [0x1000_0000, 0, 0, 0]));
    told("mount", call(libc::SYS_mount, [0; 4]));
    told("bpf", call(libc::SYS_bpf, [0; 4]));
    told("load a module", call(libc::SYS_init_module, [0; 4]));
}

fn others() {
    let launcher = getppid();
    told("kill the launcher", kill(launcher, Signal::SIGKILL));
    told("kill all", kill(Pid::from_raw(-1), Signal::SIGKILL));
    told("kill init", kill(Pid::from_raw(1), Signal::SIGKILL));
    let number = libc::c_long::from(launcher.as_raw());
    told("ptrace", call(libc::SYS_ptrace, [16, number, 0, 0]));
    told(
        "read memory",
        call(libc::SYS_process_vm_readv, [number, 0, 0, 0]),
    );
    if let Ok(pidfd) = call(libc::SYS_pidfd_open, [number, 0, 0, 0]) {
        told("take a file", call(libc::SYS_pidfd_getfd, [pidfd, 0, 0, 0]));
        told(
            "signal by file",
            call(libc::SYS_pidfd_send_signal, [pidfd, 9, 0, 0]),
        );
    }
    // SAFETY: takes a number.
    let signal = unsafe { libc::fcntl(0, 10, libc::SIGKILL) };
    told("choose a signal", Errno::result(signal));
    told(
        "limit the launcher",
        call(libc::SYS_prlimit64, [number, 7, 0, 0]).and_then(|_| {
            let none = [0_u64; 2];
            let limits = none.as_ptr() as libc::c_long;
            call(libc::SYS_prlimit64, [number, 7, limits, 0])
        }),
    );
    told(
        "schedule the launcher",
        call(libc::SYS_setpriority, [0, number, 19, 0]),
    );
    // Of itself it may think what it likes.
    assert!(getpid().as_raw() > 0);
}

fn network() {
    for (name, family) in [
        ("unix", AddressFamily::Unix),
        ("internet", AddressFamily::Inet),
    ] {
        let socket = nix::sys::socket::socket(family, SockType::Stream, SockFlag::empty(), None);
        told(&format!("{name} socket"), socket);
    }
}

/// A reply, waited for.
fn receive(client: &Client) -> io::Result<Reply> {
    loop {
        match client.receive() {
            Ok(reply) => return Ok(reply),
            Err(sandbox::ClientError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut waited = [PollFd::new(client.as_fd(), PollFlags::POLLIN)];
                poll(&mut waited, PollTimeout::NONE)?;
            }
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}

fn send_raw(client: &Client, bytes: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
    let rights = [ControlMessage::ScmRights(descriptors)];
    let control = if descriptors.is_empty() {
        &[][..]
    } else {
        &rights
    };
    let parts = [IoSlice::new(bytes)];
    sendmsg::<()>(client.as_raw_fd(), &parts, control, MsgFlags::empty(), None)?;
    Ok(())
}

fn ordinary() -> RunRequest {
    RunRequest {
        arguments: vec![b"/bin/true".to_vec()],
        input_root_directory: b"1/root".to_vec(),
        stdout_path: b"1/stdout".to_vec(),
        stderr_path: b"1/stderr".to_vec(),
        ..RunRequest::default()
    }
}

fn protocol(client: &Client) -> io::Result<()> {
    let mut id = 0;
    // Paths out of the build directory, which the encoder does not judge.
    type Change = fn(&mut RunRequest);
    let wrong: [(&str, Change); 6] = [
        ("input root above", |r| {
            r.input_root_directory = b"..".to_vec()
        }),
        ("input root absolute", |r| {
            r.input_root_directory = b"/etc".to_vec()
        }),
        ("input root by a link", |r| {
            r.input_root_directory = b"1/out".to_vec()
        }),
        ("output above", |r| r.stdout_path = b"../stdout".to_vec()),
        ("output by a link", |r| {
            r.stdout_path = b"1/out/stdout".to_vec()
        }),
        ("lower above", |r| {
            r.lower_directories = vec![b"..".to_vec()];
            r.scratch_directory = b"1/root".to_vec();
        }),
    ];
    for (name, change) in wrong {
        id += 1;
        let mut request = ordinary();
        change(&mut request);
        client
            .send(&Frame::run(id, &request).map_err(io::Error::other)?)
            .map_err(io::Error::other)?;
        failed(name, &receive(client)?);
    }
    for path in [&b".."[..], b"/etc", b"1/out", b"a/../.."] {
        id += 1;
        let path = path.to_vec();
        let frame = Frame::of(&Request::Reclaim { id, path }).map_err(io::Error::other)?;
        client.send(&frame).map_err(io::Error::other)?;
        failed("reclaim elsewhere", &receive(client)?);
    }
    // Memory that could still change, that is something else, or is missing.
    let content = ordinary().encode().map_err(io::Error::other)?;
    let memory = memfd_create(c"unsealed", MFdFlags::MFD_ALLOW_SEALING)?;
    let mut unsealed = File::from(memory);
    unsealed.write_all(&content)?;
    let (pipe, _other): (OwnedFd, OwnedFd) = nix::unistd::pipe()?;
    for (name, descriptors) in [
        ("unsealed memory", vec![unsealed.as_raw_fd()]),
        ("a pipe for memory", vec![pipe.as_raw_fd()]),
        ("the socket itself", vec![client.as_raw_fd()]),
        ("no memory", vec![]),
    ] {
        id += 1;
        let length = content.len() as u64;
        let header = Request::Run { id, length }
            .encode()
            .map_err(io::Error::other)?;
        send_raw(client, &header, &descriptors)?;
        failed(name, &receive(client)?);
    }
    // What is left to it: starting actions.
    client
        .send(&Frame::run(u64::MAX, &ordinary()).map_err(io::Error::other)?)
        .map_err(io::Error::other)?;
    match receive(client)? {
        Reply::Done(done) => println!("an action: {:?}", done.end),
        other => println!("an action: {other:?}"),
    }
    io::stdout().flush()?;
    // Bytes that are no message end everything.
    send_raw(client, b"no message at all, and long enough", &[])?;
    if let Ok(reply) = receive(client) {
        println!("no message: WORKED: {reply:?}");
    }
    Ok(())
}

fn failed(name: &str, reply: &Reply) {
    match reply {
        Reply::Failed { .. } => println!("{name}: refused"),
        other => println!("{name}: WORKED: {other:?}"),
    }
}
