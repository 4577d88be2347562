//! Starting runners, and calling them.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use daemon::{Address, Channel};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::wire::resourceusage::PosixResourceUsage;
use proto::wire::runner::runner_client::RunnerClient;
use proto::wire::runner::{RunRequest, RunResponse};
use proto::wire::runner_extension;
use proto::wire::runner_extension::runner_extension_client::RunnerExtensionClient;
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::{Response, Status};

/// The user whom a plain runner, and the worker beside it, belong to.
const PLAIN_USER: u32 = 1_900_500_000;
/// The worker beside a runner that root starts.
const WORKER: u32 = 1_900_500_001;
const SERVICE: u32 = 1_900_500_002;
const FIRST_SLOT: u32 = 1_900_500_100;

/// How a runner is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Root,
    Plain,
}

/// Runs a test with a runner of each mode, `extra` added to its configuration.
pub fn each_mode(extra: &Value, test: impl AsyncFn(&mut Runner)) {
    let mut modes = vec![Mode::Plain];
    if nix::unistd::geteuid().is_root() {
        modes.push(Mode::Root);
    } else {
        println!("SKIP root mode: the tests are not run by root");
    }
    for mode in modes {
        println!("{mode:?}");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut runner = Runner::start(mode, extra);
            // Only so that a runner that hangs fails its test.
            tokio::time::timeout(Duration::from_secs(120), test(&mut runner))
                .await
                .unwrap();
        });
    }
}

/// A running `bb_runner` and its build directory, with one action's directory `1`.
pub struct Runner {
    pub mode: Mode,
    folder: TempDir,
    process: Child,
    log: mpsc::Receiver<String>,
}

impl Runner {
    fn start(mode: Mode, extra: &Value) -> Self {
        let folder = tempfile::Builder::new()
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .unwrap();
        let path = folder.path();
        let mut config = json!({
            "build_directory_path": path.join("build"),
            "grpc_servers": [format!("unix:{}", path.join("socket").display())],
        });
        if mode == Mode::Root {
            config["uid_range"] = json!({"start": FIRST_SLOT, "count": 16});
            config["service_uid"] = json!(SERVICE);
        }
        for (key, value) in extra.as_object().unwrap() {
            config[key] = value.clone();
        }
        fs::write(path.join("config.json"), config.to_string()).unwrap();
        // Where the plain user finds it. Another process copies: were the file open for
        // writing here while another test forks, executing it could fail with ETXTBSY.
        let program = path.join("bb_runner");
        let copied = Command::new("cp")
            .args([Path::new(env!("CARGO_BIN_EXE_bb_runner")), &program])
            .status();
        assert!(copied.unwrap().success());

        // A runner that serves `fd:3` gets the socket as sd_listen_fds(3) says.
        let inherited = config["grpc_servers"] == json!(["fd:3"]);
        let (mut command, stdin) = if inherited {
            let mut shell = Command::new("sh");
            let script = r#"exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" "$1""#;
            shell.args(["-c", script]).arg(&program);
            let socket = UnixListener::bind(path.join("socket")).unwrap();
            (shell, OwnedFd::from(socket).into())
        } else {
            (Command::new(&program), Stdio::null())
        };
        command
            .arg(path.join("config.json"))
            .stdin(stdin)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .env("HAYLOFT_LOG", "info");
        let as_root = nix::unistd::geteuid().is_root();
        if mode == Mode::Plain && as_root {
            chown(path, Some(PLAIN_USER), Some(PLAIN_USER)).unwrap();
            command.uid(PLAIN_USER).gid(PLAIN_USER);
        }
        let build = path.join("build");
        make_directory(&build, mode, 0o755);
        let process = command.spawn();
        let mut runner = Self {
            mode,
            folder,
            process: process.unwrap(),
            log: mpsc::channel().1,
        };
        runner.make_action("1");
        runner.log = follow(&mut runner.process);
        runner.await_log("serving on");
        runner
    }

    /// Makes the directory of an action as a worker does.
    pub fn make_action(&self, name: &str) {
        let action = self.build().join(name);
        make_directory(&action, self.mode, 0o755);
        for (inner, mode) in [("root", 0o777), ("tmp", 0o777), ("server_logs", 0o777)] {
            make_directory(&action.join(inner), self.mode, mode);
        }
    }

    pub fn build(&self) -> PathBuf {
        self.folder.path().join("build")
    }

    /// A path in the input root of action `1`.
    pub fn input(&self, path: &str) -> PathBuf {
        self.build().join("1/root").join(path)
    }

    /// Waits for a line of the runner's log; fails when the runner ends before.
    pub fn await_log(&self, text: &str) {
        let mut seen = Vec::new();
        for line in &self.log {
            if line.contains(text) {
                return;
            }
            seen.push(line);
        }
        panic!(
            "the runner ended without saying {text:?}:\n{}",
            seen.join("\n")
        );
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    fn channel(&self) -> Channel {
        daemon::connect(&Address::Unix(self.socket())).unwrap()
    }

    pub fn client(&self) -> RunnerClient<Channel> {
        RunnerClient::new(self.channel())
    }

    pub fn extension(&self) -> RunnerExtensionClient<Channel> {
        RunnerExtensionClient::new(self.channel())
    }

    /// Runs a request to its end.
    pub async fn run(&self, request: RunRequest) -> Result<RunResponse, Status> {
        self.client().run(request).await.map(Response::into_inner)
    }

    /// What the worker's user prints when it runs a script in the build directory.
    pub fn worker_does(&self, script: &str) -> String {
        let mut command = Command::new("sh");
        command.args(["-ec", script]).current_dir(self.build());
        if nix::unistd::geteuid().is_root() {
            command.uid(worker(self.mode)).gid(worker(self.mode));
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command of action `1` wrote, which is then forgotten.
    pub fn take_output(&self) -> (String, String) {
        let take = |name| {
            let path = self.build().join("1").join(name);
            let text = fs::read_to_string(&path).unwrap();
            fs::remove_file(&path).unwrap();
            text
        };
        (take("stdout"), take("stderr"))
    }

    /// The launcher half's process id.
    pub fn launcher(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.process.id()).unwrap())
    }

    /// The service half's process id: the launcher's child that is in no pid
    /// namespace below ours.
    pub fn service(&self) -> Pid {
        let launcher = self.launcher();
        let children = fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children"));
        let ours: Vec<i32> = children
            .unwrap()
            .split_whitespace()
            .filter(|pid| {
                let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
                line.is_some_and(|pids| pids.split_whitespace().count() == 1)
            })
            .map(|pid| pid.parse().unwrap())
            .collect();
        assert_eq!(ours.len(), 1, "{ours:?}");
        Pid::from_raw(ours[0])
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.launcher(), signal).unwrap();
    }

    /// Waits for the launcher's end.
    pub fn ended(&mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Who owns the build directory.
fn worker(mode: Mode) -> u32 {
    match mode {
        Mode::Root => WORKER,
        Mode::Plain => PLAIN_USER,
    }
}

fn make_directory(path: &Path, mode: Mode, permissions: u32) {
    fs::create_dir(path).unwrap();
    if nix::unistd::geteuid().is_root() {
        let owner = worker(mode);
        chown(path, Some(owner), Some(owner)).unwrap();
    }
    fs::set_permissions(path, fs::Permissions::from_mode(permissions)).unwrap();
}

/// The lines of a process's standard error, until it has none any more.
fn follow(process: &mut Child) -> mpsc::Receiver<String> {
    let lines = BufReader::new(process.stderr.take().unwrap()).lines();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            // Nobody may listen any more; the pipe is emptied all the same.
            let _ = sender.send(line);
        }
    });
    receiver
}

/// A request for action `1`.
pub fn command(arguments: &[&str]) -> RunRequest {
    RunRequest {
        arguments: arguments.iter().map(ToString::to_string).collect(),
        environment_variables: [("PATH".into(), "/usr/bin:/bin".into())].into(),
        stdout_path: "1/stdout".into(),
        stderr_path: "1/stderr".into(),
        input_root_directory: "1/root".into(),
        temporary_directory: "1/tmp".into(),
        server_logs_directory: "1/server_logs".into(),
        ..Default::default()
    }
}

pub fn shell(script: &str) -> RunRequest {
    command(&["sh", "-c", script])
}

/// The same request to the extension.
pub fn with_timeout(request: RunRequest, timeout: Duration) -> runner_extension::RunRequest {
    runner_extension::RunRequest {
        arguments: request.arguments,
        environment_variables: request.environment_variables,
        working_directory: request.working_directory,
        stdout_path: request.stdout_path,
        stderr_path: request.stderr_path,
        input_root_directory: request.input_root_directory,
        temporary_directory: request.temporary_directory,
        server_logs_directory: request.server_logs_directory,
        timeout: Some(proto::messages::duration(timeout)),
        overlay: None,
        limits: HashMap::new(),
        user_id: None,
        group_id: None,
    }
}

pub fn usage(resource_usage: &[proto::wire::protobuf::Any]) -> PosixResourceUsage {
    let name = "buildbarn.resourceusage.POSIXResourceUsage";
    proto::messages::unpack(&resource_usage[0], name).unwrap()
}
