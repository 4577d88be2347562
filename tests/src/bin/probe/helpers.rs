//! Processes that attacks leave, meet or aim at, and what little a test needs
//! where there is no shell.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, raise, sigprocmask};
use nix::unistd::getpid;

/// Sleeps until it is killed.
pub fn sleep() {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// A daemon of attack 14. It says its process id on standard input, closes that,
/// and stays.
pub fn daemon(how: &str, _marker: &str) {
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), None).expect("signals can be blocked");
    let word = std::io::stdin().as_fd().try_clone_to_owned();
    File::from(word.expect("standard input"))
        .write_all(getpid().to_string().as_bytes())
        .expect("a word");
    let nothing = File::open("/dev/null").expect("/dev/null");
    // SAFETY: both descriptors are open; standard input becomes /dev/null.
    let result = unsafe { libc::dup2(nothing.as_raw_fd(), 0) };
    assert_eq!(result, 0, "standard input can be replaced");
    match how {
        "stopped" => raise(Signal::SIGSTOP).expect("a stop"),
        "vforking" => vfork_and_sleep(),
        _ => {}
    }
    sleep();
}

/// The parent of a vfork waits in the kernel until its child runs another program
/// or ends: this child does neither.
fn vfork_and_sleep() {
    // SAFETY: CLONE_VFORK without CLONE_VM: the child has memory of its own and
    // calls only what is async-signal-safe.
    unsafe {
        let flags = libc::CLONE_VFORK | libc::SIGCHLD;
        if libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) == 0 {
            loop {
                libc::pause();
            }
        }
    }
}

/// A sibling for other attacks to look for: leaves the secret by name and by
/// content wherever it can write, listens on a port, and waits to be killed. It
/// calls itself `holding SECRET` from when all that is done.
pub fn hold(secret: &str, port: &[&str]) {
    for folder in [".", "/tmp", "/dev/shm", "/var/tmp"] {
        let _ = fs::write(format!("{folder}/{secret}"), secret);
    }
    let listener = port.first().map(|port| {
        let listener = TcpListener::bind(format!("127.0.0.1:{port}")).expect("the port is free");
        let flags = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty());
        nix::fcntl::fcntl(&listener, flags).expect("the listener stays open");
        listener
    });
    let error = Command::new("/proc/self/exe")
        .args(["holding", secret])
        .exec();
    drop(listener);
    panic!("cannot hold: {error}");
}

/// Something to be traced: says its process id and an address that can be read,
/// allows anybody to trace it, and sleeps.
pub fn victim() {
    static TARGET: u64 = 0x7665_7279_7365_6372;
    // Where the Yama module is, only a tracer that is allowed may come.
    // SAFETY: the call takes numbers. Elsewhere it fails, and is not needed.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY, 0, 0, 0) };
    let address = (&raw const TARGET).addr();
    println!("{}@{address}", getpid());
    sleep();
}

/// Prints the names in a folder, in their order.
pub fn list(folder: &str) {
    let mut names: Vec<_> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    names.sort();
    for name in names {
        println!("{}", name.display());
    }
}

/// Makes a file, and the folder that it is in.
pub fn write(file: &str, text: &str) {
    if let Some(folder) = Path::new(file).parent() {
        fs::create_dir_all(folder).expect("a folder");
    }
    fs::write(file, text).expect("a file");
}

/// Makes shared memory, a semaphore and queues for attack 43 to find, says so, and
/// sleeps.
pub fn share(key: &str, name: &str) {
    use crate::calls::{call, pointer};
    const CREATE: libc::c_long = 0o1666;
    let key = key.parse().expect("a key");
    call(libc::SYS_shmget, [key, 4096, CREATE, 0, 0, 0]).expect("shared memory");
    call(libc::SYS_semget, [key, 1, CREATE, 0, 0, 0]).expect("a semaphore");
    call(libc::SYS_msgget, [key, CREATE, 0, 0, 0, 0]).expect("a queue");
    let queue = std::ffi::CString::new(name).expect("a name");
    let flags = (libc::O_CREAT | libc::O_RDWR).into();
    let open = [pointer(queue.as_ptr()), flags, 0o666, 0, 0, 0];
    call(libc::SYS_mq_open, open).expect("a queue by name");
    fs::write(format!("/dev/shm/{name}"), name).expect("a file in memory");
    println!("shared");
    sleep();
}

/// Removes what [`share`] made.
pub fn unshare(key: &str, name: &str) {
    use crate::calls::{call, pointer};
    const REMOVE: libc::c_long = libc::IPC_RMID as libc::c_long;
    let key = key.parse().expect("a key");
    for (find, control, after) in [
        (libc::SYS_shmget, libc::SYS_shmctl, [REMOVE, 0, 0]),
        (libc::SYS_semget, libc::SYS_semctl, [0, REMOVE, 0]),
        (libc::SYS_msgget, libc::SYS_msgctl, [REMOVE, 0, 0]),
    ] {
        if let Ok(id) = call(find, [key, 0, 0, 0, 0, 0]) {
            let [a, b, c] = after;
            call(control, [id, a, b, c, 0, 0]).expect("its end");
        }
    }
    let queue = std::ffi::CString::new(name).expect("a name");
    let _ = call(
        libc::SYS_mq_unlink,
        [pointer(queue.as_ptr()), 0, 0, 0, 0, 0],
    );
    let _ = fs::remove_file(format!("/dev/shm/{name}"));
}
