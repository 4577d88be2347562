//! The program as the first process of a container.

#![allow(clippy::unwrap_used)]

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A pid namespace whose first process becomes the scheduler after a shell script.
struct Container {
    unshare: Child,
    folder: tempfile::TempDir,
}

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "it does not come");
        std::thread::yield_now();
    }
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
    command
}

impl Container {
    /// None where there can be no such namespace.
    fn start(test: &str, script: &str, config: &str) -> Option<Self> {
        if !unshare().arg("true").status().is_ok_and(|s| s.success()) {
            println!("SKIP {test}: no pid namespaces");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        let here = folder.path().display().to_string();
        std::fs::write(&path, config.replace("HERE", &here)).unwrap();
        let script = format!("{}; exec \"$0\" \"$1\"", script.replace("HERE", &here));
        let program = env!("CARGO_BIN_EXE_bb_scheduler");
        let unshare = unshare()
            .args(["sh", "-c", &script, program])
            .arg(path)
            .spawn()
            .unwrap();
        Some(Self { unshare, folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn children(pid: u32) -> Vec<u32> {
        let list = format!("/proc/{pid}/task/{pid}/children");
        let list = std::fs::read_to_string(list).unwrap_or_default();
        list.split_whitespace()
            .map(|pid| pid.parse().unwrap())
            .collect()
    }

    /// Pid 1, as it is known out here.
    fn init(&self) -> u32 {
        until(|| Self::children(self.unshare.id()).first().copied())
    }

    /// The exit code that is seen from outside.
    fn end(&mut self) -> Option<i32> {
        let status = until(|| self.unshare.try_wait().unwrap());
        assert_eq!(status.signal(), None);
        status.code()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

const CONFIG: &str = "client_grpc_servers = ['unix:HERE/clients']\n\
                      worker_grpc_servers = ['unix:HERE/workers']\n\
                      content_addressable_storage = 'unix:HERE/storage'";

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

fn name(pid: u32) -> String {
    let name = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("comm"));
    name.unwrap_or_default().trim().to_owned()
}

#[test]
fn orphans_are_reaped_and_sigterm_reaches_the_program_alone() {
    // Two orphans: one that ends when it is told, one that would tell of a SIGTERM.
    let script = "(until [ -e HERE/end ]; do sleep 0.1; done &); \
                  (sh -c 'trap \"echo > HERE/signalled\" TERM; echo > HERE/trapped; \
                          while :; do sleep 0.1; done' &)";
    let test = "orphans_are_reaped_and_sigterm_reaches_the_program_alone";
    let Some(mut container) = Container::start(test, script, CONFIG) else {
        return;
    };
    for sign in ["clients", "trapped"] {
        until(|| container.path(sign).exists().then_some(()));
    }
    let init = container.init();
    assert_eq!(name(init), "bb_scheduler");
    let children = Container::children(init);
    assert_eq!(children.len(), 3, "the program and two orphans");
    std::fs::write(container.path("end"), "").unwrap();
    let left = until(|| {
        let left = Container::children(init);
        (left.len() == 2).then_some(left)
    });
    let names: Vec<_> = left.into_iter().map(name).collect();
    assert!(names.contains(&"bb_scheduler".to_string()), "{names:?}");

    signal(init, Signal::SIGTERM);
    assert_eq!(container.end(), Some(0), "it stopped in order");
    assert!(!container.path("signalled").exists());
}

#[test]
fn the_init_ends_as_the_program_does() {
    let test = "the_init_ends_as_the_program_does";
    let Some(mut refused) = Container::start(test, ":", "no_such_key = 1") else {
        return;
    };
    assert_eq!(refused.end(), Some(1));

    let Some(mut killed) = Container::start(test, ":", CONFIG) else {
        return;
    };
    until(|| killed.path("clients").exists().then_some(()));
    let program = until(|| Container::children(killed.init()).first().copied());
    signal(program, Signal::SIGKILL);
    assert_eq!(killed.end(), Some(128 + 9));
}
