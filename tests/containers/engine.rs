//! A Docker engine of the tests' own.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tests::ran::Ran;
use tests::wait::{wait_for, wait_for_none};

const DOCKERD: &str = "/usr/sbin/dockerd";
pub const DOCKER: &str = "/usr/bin/docker";
pub const NEEDED: [&str; 2] = [DOCKERD, DOCKER];

/// A running engine. Its containers have no network but the host's, or none; its images
/// are kept for the next run of the tests, below cargo's folder for temporary files.
pub struct Engine {
    process: Child,
    /// Of sockets, whose paths have to be short.
    folder: TempDir,
}

impl Engine {
    /// The engine of all tests: whoever asks first starts it, and with whoever has it
    /// last it ends.
    pub fn shared() -> Arc<Self> {
        static RUNNING: Mutex<Weak<Engine>> = Mutex::new(Weak::new());
        // A test that failed while it held the lock has changed nothing.
        let mut running = RUNNING.lock().unwrap_or_else(|failed| failed.into_inner());
        running.upgrade().unwrap_or_else(|| {
            let engine = Arc::new(Self::start());
            *running = Arc::downgrade(&engine);
            engine
        })
    }

    fn start() -> Self {
        let root = data_root();
        fs::create_dir_all(&root).expect("a folder for images");
        end_an_earlier_one(&root);
        let folder = tempfile::Builder::new()
            .prefix("hayloft-docker-")
            .tempdir()
            .expect("a folder");
        let log = File::create(log()).expect("a log");
        let process = Command::new(DOCKERD)
            .arg("--data-root")
            .arg(&root)
            .arg("--exec-root")
            .arg(folder.path().join("exec"))
            .arg("--pidfile")
            .arg(pid_file(&root))
            .arg("--host")
            .arg(host(folder.path()))
            .args(["--bridge=none", "--iptables=false", "--ip6tables=false"])
            .args(["--storage-driver=overlay2"])
            .arg("--exec-opt=native.cgroupdriver=cgroupfs")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log again"))
            .stderr(log)
            .spawn()
            .expect("the engine's process");
        let mut engine = Self { process, folder };
        wait_for("the engine", || {
            let ended = engine.process.try_wait().expect("its end can be asked for");
            assert!(ended.is_none(), "{ended:?}:\n{}", said());
            let answer = engine.docker(["version"]).output().expect("docker runs");
            answer.status.success().then_some(())
        });
        engine
    }

    /// A command of Docker's.
    pub fn docker<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Command {
        let mut command = Command::new(DOCKER);
        command
            .env("DOCKER_HOST", host(self.folder.path()))
            // The newer builder is a further package.
            .env("DOCKER_BUILDKIT", "0")
            .env("DOCKER_CONFIG", self.folder.path())
            .args(words)
            .stdin(Stdio::null());
        command
    }

    /// What a command of Docker's that succeeds prints.
    #[track_caller]
    pub fn printed<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> String {
        let mut command = self.docker(words);
        let output = command.output().expect("docker runs");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{command:?}: {told}\n{}", said());
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Runs a container to its end, and removes it.
    pub fn run<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Ran {
        let mut command = self.docker(["run", "--rm", "--pull", "never"]);
        Ran::of(command.args(words))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = kill(pid(&self.process), Signal::SIGTERM);
        let _ = self.process.wait();
        for place in [self.folder.path(), &data_root()] {
            detach_all(place);
        }
        if !std::thread::panicking() {
            wait_for_none("mounts of the engine", || mounts(self.folder.path()));
        }
    }
}

fn pid(process: &Child) -> Pid {
    Pid::from_raw(i32::try_from(process.id()).expect("a process id"))
}

/// What containers' layers and images are in.
fn data_root() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("docker")
}

fn pid_file(root: &Path) -> PathBuf {
    root.join("pid")
}

fn host(folder: &Path) -> String {
    format!("unix://{}", folder.join("docker").display())
}

fn log() -> PathBuf {
    data_root().join("log")
}

/// The last of what the engine said.
fn said() -> String {
    let text = fs::read_to_string(log()).unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(20).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// Tests that were killed leave their engine running.
fn end_an_earlier_one(root: &Path) {
    let Ok(text) = fs::read_to_string(pid_file(root)) else {
        return;
    };
    let process = text.trim().parse().expect("a process id");
    let is_engine = || {
        let words = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        words.starts_with(DOCKERD.as_bytes())
    };
    if is_engine() {
        let _ = kill(Pid::from_raw(process), Signal::SIGTERM);
        wait_for("the end of an earlier engine", || {
            (!is_engine()).then_some(())
        });
    }
    detach_all(root);
}

/// What is mounted below a folder.
fn mounts(folder: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    let places = table.lines().filter_map(|line| line.split(' ').nth(4));
    places
        .filter(|place| Path::new(place).starts_with(folder))
        .map(Into::into)
        .collect()
}

fn detach_all(folder: &Path) {
    for place in mounts(folder).iter().rev() {
        let _ = umount2(place.as_str(), MntFlags::MNT_DETACH);
    }
}
