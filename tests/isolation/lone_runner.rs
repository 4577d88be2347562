//! A runner without a farm, under any set of protections: what a sandbox does shows
//! there as in a farm, and it starts in a moment.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use daemon::Channel;
use proto::wire::runner::RunRequest;
use proto::wire::runner::runner_client::RunnerClient;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::client::attempts;
use tests::skip::is_root;
use tests::user::As;
use tests::wait::wait_for;
use tokio::runtime::Runtime;
use tonic::Status;

use crate::arena::Attempts;
use crate::inputs;

/// The worker beside a runner that root starts: the owner of the cache.
const WORKER: u32 = 1_900_600_000;
const SERVICE: u32 = 1_900_600_001;
const FIRST_ACTION: u32 = 1_900_600_100;

/// How much of a command's output is looked at.
const MOST_OUTPUT: u64 = 8 << 20;

/// Writable for the owner: a cache's own mode would stop some of the attacks.
const CACHED: u32 = 0o755;

/// A folder in which runners are started one after the other, with a cache of the
/// inputs that attacks are aimed at.
pub struct Place {
    pub who: As,
    /// What commands see as `/`, as the configuration has it.
    root: &'static str,
    folder: TempDir,
    runtime: Runtime,
}

/// A running runner.
pub struct LoneRunner<'a> {
    place: &'a Place,
    process: Child,
    client: RunnerClient<Channel>,
    actions: u32,
}

impl Place {
    /// Where commands see the host's userland, at uid 1000.
    pub fn new(who: As) -> Self {
        Self::with_root(who, "host")
    }

    /// Where commands see their input root alone, at uid 0, which keeps what
    /// capabilities it has when it executes a program.
    pub fn of_input_roots(who: As) -> Self {
        let place = Self::with_root(who, "input");
        for library in libraries() {
            let copy = place.path().join("libraries").join(&library[1..]);
            fs::create_dir_all(copy.parent().expect("a folder")).expect("a folder");
            fs::copy(&library, copy).expect("a library");
        }
        place
    }

    fn with_root(who: As, root: &'static str) -> Self {
        let place = Self {
            who,
            root,
            folder: who.folder(),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime"),
        };
        place.directory("cache", 0o700);
        place.directory("build", 0o755);
        for (name, bytes) in inputs::targets() {
            let path = place.cached(name);
            fs::write(&path, bytes).expect("a cached file");
            fs::set_permissions(&path, Permissions::from_mode(CACHED)).expect("its mode");
            place.own(&path);
        }
        place
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    fn cached(&self, name: &str) -> PathBuf {
        self.path().join("cache").join(name.replace('/', "-"))
    }

    /// Whoever the worker would be owns it.
    fn own(&self, path: &Path) {
        match self.who {
            As::Root => chown(path, Some(WORKER), Some(WORKER)).expect("a new owner"),
            As::PlainUser | As::SubordinateUser => self.who.own(path),
        }
    }

    fn directory(&self, name: &str, mode: u32) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir(&path).expect("a folder");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("its mode");
        self.own(&path);
        path
    }

    /// The runner's configuration without these protections, and with `extra`.
    pub fn config(&self, without: &[&str], extra: &Value) -> Value {
        let off: BTreeMap<_, _> = without.iter().map(|name| (*name, "off")).collect();
        let mut config = json!({
            "build_directory_path": self.path().join("build"),
            "grpc_servers": [format!("unix:{}", self.path().join("socket").display())],
            "pool_size": 1,
            "root": self.root,
            "unsafe_protections": off,
        });
        if self.who == As::Root {
            config["uid_range"] = json!({"start": FIRST_ACTION, "count": 64});
            config["service_uid"] = json!(SERVICE);
        }
        for (key, value) in extra.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        config
    }

    /// The command that starts a runner, and the file that it logs to.
    pub fn command(&self, config: &Value) -> (Command, PathBuf) {
        let file = self.path().join("config.json");
        fs::write(&file, config.to_string()).expect("a configuration");
        let log = self.path().join("log");
        let mut command = self.who.command("hayloft-under-test", self.path());
        command
            .arg("runner")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a log"));
        (command, log)
    }

    /// Starts a runner without these protections and with this configuration.
    ///
    /// # Errors
    /// It ended instead: what it logged.
    pub fn start(&self, without: &[&str], extra: &Value) -> Result<LoneRunner<'_>, String> {
        let (command, log) = self.command(&self.config(without, extra));
        self.start_by(command, &log)
    }

    /// As [`Self::start`], by a command that runs [`Self::command`].
    ///
    /// # Errors
    /// As there.
    pub fn start_by(&self, mut command: Command, log: &Path) -> Result<LoneRunner<'_>, String> {
        let socket = self.path().join("socket");
        let _ = fs::remove_file(&socket);
        let mut process = command.spawn().expect("the runner's process");
        let ended = wait_for("the runner", || {
            match process.try_wait().expect("its end can be asked for") {
                Some(status) => Some(Some(status)),
                None => serves(log).then_some(None),
            }
        });
        if let Some(status) = ended {
            let log = fs::read_to_string(log).unwrap_or_default();
            return Err(format!("{status}\n{log}"));
        }
        let _guard = self.runtime.enter();
        let channel = daemon::connect(&daemon::Address::Unix(socket)).expect("a channel");
        Ok(LoneRunner {
            place: self,
            process,
            client: RunnerClient::new(channel),
            actions: 0,
        })
    }

    /// Makes the build directory of an action: inputs are hardlinks of the cache.
    pub fn make(&self, name: &str) -> PathBuf {
        let action = self.directory(&format!("build/{name}"), 0o755);
        for inner in ["root", "tmp", "server_logs", "root/folder", "root/out"] {
            self.directory(&format!("build/{name}/{inner}"), 0o777);
        }
        for (input, _) in inputs::targets() {
            let link = action.join("root").join(input);
            fs::hard_link(self.cached(input), link).expect("an input");
        }
        let probe = tests::program("probe");
        let copy = action.join("root/probe");
        if fs::hard_link(&probe, &copy).is_err() {
            fs::copy(&probe, &copy).expect("the probe");
        }
        if self.root == "input" {
            for library in libraries() {
                let place = action.join("root").join(&library[1..]);
                fs::create_dir_all(place.parent().expect("a folder")).expect("a folder");
                let copy = self.path().join("libraries").join(&library[1..]);
                fs::hard_link(copy, place).expect("a library");
            }
        }
        if is_root() {
            // No worker makes such a file; what if one did?
            let setuid = self.path().join("setuid");
            if !setuid.exists() {
                fs::copy(&probe, &setuid).expect("the probe");
                fs::set_permissions(&setuid, Permissions::from_mode(0o4755)).expect("its mode");
            }
            fs::hard_link(setuid, action.join("root/setuid")).expect("a setuid input");
        }
        action
    }

    /// Puts the cached files in order, and tells whether they were.
    pub fn is_sealed(&self) -> bool {
        let mut sealed = true;
        for (name, bytes) in inputs::targets() {
            let path = self.cached(name);
            let mode = fs::metadata(&path)
                .expect("a cached file")
                .permissions()
                .mode();
            sealed &= fs::read(&path).expect("a cached file") == bytes && mode & 0o7777 == CACHED;
            if !sealed {
                fs::remove_file(&path).expect("a cached file");
                fs::write(&path, &bytes).expect("a cached file");
                fs::set_permissions(&path, Permissions::from_mode(CACHED)).expect("its mode");
                self.own(&path);
            }
        }
        sealed
    }
}

/// What the probe is linked with, its loader included.
fn libraries() -> Vec<String> {
    let output = Command::new("ldd").arg(tests::program("probe")).output();
    let text = output.expect("ldd runs").stdout;
    String::from_utf8_lossy(&text)
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(str::to_owned)
        .collect()
}

/// Its socket is there before.
fn serves(log: &Path) -> bool {
    fs::read_to_string(log).is_ok_and(|text| text.contains("serving on"))
}

impl LoneRunner<'_> {
    /// The launcher half's process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.process.id()).expect("a process id")
    }

    /// Runs the probe, and gives its exit code and what it tried.
    ///
    /// # Errors
    /// The attack took the sandbox down.
    pub fn attack(&mut self, words: &[String]) -> Result<(i64, Attempts), Status> {
        let (code, output) = self.run(&[&["./probe".to_owned()], words].concat())?;
        Ok((code, attempts(&output)))
    }

    /// Runs a command in a fresh build directory, and gives its exit code and its
    /// standard output.
    ///
    /// # Errors
    /// The runner's.
    pub fn run(&mut self, words: &[String]) -> Result<(i64, String), Status> {
        self.actions += 1;
        let name = format!("{}-{}", self.process.id(), self.actions);
        let action = self.place.make(&name);
        let request = RunRequest {
            arguments: words.to_vec(),
            environment_variables: [("PATH".into(), "/usr/bin:/bin".into())].into(),
            stdout_path: format!("{name}/stdout"),
            stderr_path: format!("{name}/stderr"),
            input_root_directory: format!("{name}/root"),
            temporary_directory: format!("{name}/tmp"),
            server_logs_directory: format!("{name}/server_logs"),
            ..Default::default()
        };
        let response = self.place.runtime.block_on(self.client.run(request));
        let mut output = Vec::new();
        if let Ok(file) = File::open(action.join("stdout")) {
            // No more than is sane, whatever was written.
            let read = file.take(MOST_OUTPUT).read_to_end(&mut output);
            read.expect("standard output");
        }
        remove(&action);
        let response = response?.into_inner();
        Ok((
            response.exit_code,
            String::from_utf8_lossy(&output).into_owned(),
        ))
    }
}

/// Removes what an action left. Not being root, one may have to open it up first.
fn remove(folder: &Path) {
    if !is_root() {
        let folders = walkdir::WalkDir::new(folder).into_iter().flatten();
        for entry in folders.filter(|entry| entry.file_type().is_dir()) {
            let _ = fs::set_permissions(entry.path(), Permissions::from_mode(0o700));
        }
    }
    fs::remove_dir_all(folder).expect("the build directory can be removed");
}

impl Drop for LoneRunner<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
