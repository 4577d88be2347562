//! A farm under test: `hayloft up` as its own process.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use walkdir::WalkDir;

use crate::client::Client;
use crate::processes::Process;
use crate::seal;
use crate::user::As;
use crate::wait::{PATIENCE, wait_for, wait_for_none};

/// A farm to be started.
#[derive(Clone, Debug)]
pub struct Setup {
    who: As,
    slots: u16,
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
    directory: Option<PathBuf>,
    listen: String,
}

impl Setup {
    /// A farm of two slots, its state in a temporary folder.
    #[must_use]
    pub fn new(who: As) -> Self {
        Self {
            who,
            slots: 2,
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: None,
            listen: "127.0.0.1:0".into(),
        }
    }

    /// With so many slots.
    #[must_use]
    pub fn slots(mut self, slots: u16) -> Self {
        self.slots = slots;
        self
    }

    /// With further arguments of `hayloft up`.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(OsString::from));
        self
    }

    /// With a variable in its environment.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// With its state in this directory, which outlives it.
    #[must_use]
    pub fn directory(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Listening on this address instead of a free one.
    #[must_use]
    pub fn listen(mut self, address: &str) -> Self {
        self.listen = address.into();
        self
    }

    /// Starts it and waits until it takes work.
    ///
    /// # Panics
    /// It does not start: its log is in the message.
    #[must_use]
    pub fn start(self) -> Farm {
        self.try_start()
            .unwrap_or_else(|log| panic!("no farm:\n{log}"))
    }

    /// Starts it and waits until it takes work.
    ///
    /// # Errors
    /// It ended instead: what it logged.
    ///
    /// # Panics
    /// It neither takes work nor ends.
    pub fn try_start(self) -> Result<Farm, String> {
        let folder = self.who.folder();
        let directory = self
            .directory
            .unwrap_or_else(|| folder.path().join("state"));
        let log = folder.path().join("log");
        let mut command = self.who.command("hayloft-under-test", folder.path());
        command
            .args(["up", "--listen", &self.listen, "--slots"])
            .arg(self.slots.to_string())
            .arg("--dir")
            .arg(&directory)
            .args(&self.arguments)
            .envs(self.environment)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).expect("a log"));
        let mut process = command.spawn().expect("the farm's process");
        let lines = lines(process.stdout.take().expect("its output"));
        let mut farm = Farm {
            process,
            endpoint: String::new(),
            client: None,
            directory,
            log,
            lines,
            ended: false,
            _folder: folder,
        };
        match farm.announced() {
            Some(endpoint) => {
                farm.client = Some(Client::connect(&endpoint));
                farm.endpoint = endpoint;
                Ok(farm)
            }
            None => {
                farm.ended = true;
                let status = farm.process.wait().expect("its end");
                Err(format!("{status}\n{}", farm.log()))
            }
        }
    }
}

/// What a program prints, read to its end whether anybody wants it or not: it
/// must not find its reader gone.
fn lines(output: ChildStdout) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    lines
}

/// A running farm. Dropping it kills it.
pub struct Farm {
    process: Child,
    endpoint: String,
    client: Option<Client>,
    directory: PathBuf,
    log: PathBuf,
    lines: Receiver<String>,
    ended: bool,
    // Removed last.
    _folder: TempDir,
}

/// What a role's process is called on its command line.
pub const ROLES: [&str; 4] = ["runner", "scheduler", "storage", "worker"];

impl Farm {
    /// Starts a farm of two slots.
    #[must_use]
    pub fn start(who: As) -> Self {
        Setup::new(who).start()
    }

    fn announced(&self) -> Option<String> {
        loop {
            // A closed channel: the program has ended, or closed its output.
            let line = match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => line,
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return None,
                Err(_) => panic!("the farm neither starts nor ends:\n{}", self.log()),
            };
            if let Some((_, endpoint)) = line.split_once("actions at ") {
                return Some(endpoint.into());
            }
        }
    }

    /// Where clients connect, `grpc://HOST:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// A client of it.
    ///
    /// # Panics
    /// Never: a farm that has started has one.
    #[must_use]
    pub fn client(&self) -> &Client {
        self.client.as_ref().expect("the farm has started")
    }

    /// Its state directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The worker's file cache.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.directory.join("worker/cache")
    }

    /// The directory in which the worker makes each action's root.
    #[must_use]
    pub fn build(&self) -> PathBuf {
        self.directory.join("worker/build")
    }

    /// The supervisor's process id.
    ///
    /// # Panics
    /// Never: process ids are positive.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.process.id()).expect("a process id")
    }

    /// Every process of the farm but the supervisor.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        Process::descendants(self.pid())
    }

    /// The process that the supervisor started as this role.
    #[must_use]
    pub fn role(&self, role: &str) -> Process {
        wait_for(role, || {
            self.processes().into_iter().find(|process| {
                process.parent == self.pid()
                    && process.arguments.get(1).is_some_and(|word| word == role)
            })
        })
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal to the supervisor.
    ///
    /// # Panics
    /// It is gone.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("the supervisor is there");
    }

    /// The farm's processes that are neither roles nor sandboxes that wait for
    /// their action: those of actions, and dead ones that nobody has reaped.
    #[must_use]
    pub fn strangers(&self) -> Vec<Process> {
        let mut processes = self.processes();
        let parents: HashSet<_> = processes.iter().map(|process| process.parent).collect();
        processes.retain(|process| {
            let is_role = process
                .arguments
                .get(1)
                .is_some_and(|word| ROLES.contains(&word.as_str()));
            // A sandbox's first process says nothing of itself.
            let is_nameless = process.arguments.iter().all(String::is_empty);
            let waits = is_nameless && !parents.contains(&process.pid) && process.state != 'Z';
            !is_role && !waits
        });
        processes
    }

    /// Waits until nothing of any action is left while the farm runs on: no
    /// process, nothing in the build directory, nothing half-written in the cache,
    /// no second link to a cached file.
    ///
    /// # Panics
    /// Something stays.
    pub fn wait_until_idle(&self) {
        wait_for_none("actions' processes", || self.strangers());
        wait_for_none("files of actions", || self.left_in_build_directory());
        wait_for_none("half-written files", || {
            names(&self.cache().join("incoming"))
        });
        wait_for_none("links to cached files", || {
            seal::linked(&self.cache(), &self.build().join("layers"))
        });
    }

    /// What actions have left in the build directory. The worker keeps emptied
    /// directories in `trash` to use them again, and in `layers` what input roots
    /// have in common.
    fn left_in_build_directory(&self) -> Vec<PathBuf> {
        const KEPT: [&str; 5] = ["root", "tmp", "server_logs", "stdout", "stderr"];
        WalkDir::new(self.build())
            .min_depth(1)
            .into_iter()
            .filter_entry(|entry| entry.depth() != 1 || entry.file_name() != "layers")
            .flatten()
            .filter(|entry| {
                let name = entry.file_name().to_string_lossy();
                let is_empty = entry.file_type().is_dir()
                    || entry.metadata().is_ok_and(|metadata| metadata.len() == 0);
                !match entry.depth() {
                    1 => name == "trash",
                    2 => true,
                    3 => KEPT.contains(&&*name) && is_empty,
                    _ => false,
                }
            })
            .map(walkdir::DirEntry::into_path)
            .collect()
    }

    /// Stops it as a user would (SIGINT) and checks that it leaves no process,
    /// no mount, no socket, nothing in the build directory and no pinned file.
    ///
    /// # Panics
    /// Something is left, or it ended with an error.
    pub fn stop(self) -> ExitStatus {
        self.stop_by(Signal::SIGINT)
    }

    /// As [`Self::stop`], by this signal.
    ///
    /// # Panics
    /// As there.
    pub fn stop_by(mut self, signal: Signal) -> ExitStatus {
        let processes = self.processes();
        self.signal(signal);
        let status = self.wait();
        let left: Vec<_> = processes.iter().filter(|one| one.is_there()).collect();
        assert!(left.is_empty(), "processes are left: {left:#?}");
        self.assert_nothing_is_left();
        assert!(status.success(), "{status}:\n{}", self.log());
        status
    }

    /// Waits for the supervisor's end.
    ///
    /// # Panics
    /// It does not come.
    pub fn wait(&mut self) -> ExitStatus {
        let status = wait_for("the supervisor to end", || {
            self.process.try_wait().expect("its end can be asked for")
        });
        self.ended = true;
        status
    }

    fn assert_nothing_is_left(&self) {
        assert_eq!(names(&self.directory.join("run")), [""; 0]);
        assert!(!self.directory.join("run").exists(), "run/ is left");
        assert_eq!(names(&self.build()), [""; 0], "left in the build directory");
        assert_eq!(names(&self.cache().join("incoming")), [""; 0]);
        let log = self.log();
        assert!(
            !log.contains("files are in use though"),
            "pins are left:\n{log}"
        );
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
        let place = self.directory.to_str().expect("a name in UTF-8");
        assert!(!mounts.contains(place), "a mount is left:\n{mounts}");
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
        if thread::panicking() {
            eprintln!("log of the farm:\n{}", self.log());
        }
    }
}

/// The names in a folder; none when it is not there.
fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}
