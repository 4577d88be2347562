//! A farm between whose programs only Buildbarn's protocols pass: what each pair of a
//! program of Hayloft's and one of Buildbarn's comes down to. Hayloft's own services and
//! headers are taken out on the way.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use daemon::{Address, Channel, Diagnostics};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::desk::Desk;
use tests::user::As;
use tests::wait::{wait_for, wait_for_none};
use tonic::Status;
use tonic::service::Routes;
use tower::ServiceExt as _;

/// What was taken out.
#[derive(Default)]
struct Removed {
    calls: AtomicUsize,
    headers: AtomicUsize,
}

/// Passes a call on as a program of Buildbarn's make would make and answer it.
async fn pass(peer: Channel, removed: Arc<Removed>, mut request: Request) -> Response {
    if request.uri().path().starts_with("/hayloft.") {
        removed.calls.fetch_add(1, Ordering::Relaxed);
        return Status::unimplemented("unknown service").into_http();
    }
    if request
        .headers_mut()
        .remove("hayloft-execution-bin")
        .is_some()
    {
        removed.headers.fetch_add(1, Ordering::Relaxed);
    }
    match peer.oneshot(request.map(tonic::body::Body::new)).await {
        Ok(mut response) => {
            response.headers_mut().remove("hayloft-execution-bin");
            response.map(axum::body::Body::new)
        }
        Err(status) => status.into_http(),
    }
}

struct Farm {
    folder: TempDir,
    programs: Vec<Child>,
    removed: Arc<Removed>,
    runtime: tokio::runtime::Runtime,
}

impl Farm {
    /// All programs are a plain user's, but the runner is `who`'s.
    fn start(who: As) -> Self {
        let mut farm = Self {
            folder: As::PlainUser.folder(),
            programs: Vec::new(),
            removed: Arc::default(),
            runtime: tokio::runtime::Runtime::new().expect("an event loop"),
        };
        for name in ["store", "build", "cache"] {
            fs::create_dir(farm.path(name)).expect("a folder");
            As::PlainUser.own(&farm.path(name));
        }
        farm.between("workers", "to-scheduler");
        farm.between("runner", "to-runner");
        let mut runner = json!({
            "build_directory_path": farm.path("build"),
            "grpc_servers": [farm.socket("runner")],
        });
        if who == As::Root {
            runner["uid_range"] = json!({"start": 1_900_600_000, "count": 16});
            runner["service_uid"] = json!(1_900_600_100);
            runner["service_gid"] = json!(1_900_600_100);
        }
        farm.run(who, "runner", &runner);
        let storage = json!({
            "directory": farm.path("store"),
            "client_listen_addresses": [farm.socket("front")],
            "internal_listen_addresses": [farm.socket("internal")],
            "scheduler": farm.socket("clients"),
        });
        farm.run(As::PlainUser, "storage", &storage);
        let scheduler = json!({
            "client_grpc_servers": [farm.socket("clients")],
            "worker_grpc_servers": [farm.socket("workers")],
            "content_addressable_storage": farm.socket("internal"),
            "ignored_properties": "*",
        });
        farm.run(As::PlainUser, "scheduler", &scheduler);
        let worker = json!({
            "content_addressable_storage": farm.socket("internal"),
            "action_cache": farm.socket("internal"),
            "scheduler": farm.socket("to-scheduler"),
            "build_directory_path": farm.path("build"),
            "cache_directory_path": farm.path("cache"),
            "runners": [{"endpoint": farm.socket("to-runner"), "concurrency": 2}],
        });
        farm.run(As::PlainUser, "worker", &worker);
        farm
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn socket(&self, name: &str) -> String {
        format!("unix:{}", self.path(name).display())
    }

    /// Listens at `near` and passes calls on to `far`.
    fn between(&self, far: &str, near: &str) {
        let inside = self.runtime.enter();
        let peer = daemon::connect(&Address::Unix(self.path(far))).expect("a channel");
        let here = Address::Unix(self.path(near));
        let listener = self.runtime.block_on(daemon::listen(&here));
        let listener = listener.expect("a listener");
        let all = Permissions::from_mode(0o666);
        fs::set_permissions(self.path(near), all).expect("a mode");
        let removed = self.removed.clone();
        let calls = move |request| pass(peer.clone(), removed.clone(), request);
        let calls = Router::new().fallback(calls);
        let served = daemon::serve(listener, Routes::from(calls), Diagnostics::default());
        self.runtime.spawn(served);
        drop(inside);
    }

    fn run(&mut self, who: As, program: &str, config: &Value) {
        let path = self.path(&format!("{program}.json"));
        fs::write(&path, config.to_string()).expect("a configuration");
        let log = File::create(self.path(&format!("{program}.log"))).expect("a log");
        let mut command = who.command("hayloft-under-test", self.folder.path());
        command
            .arg(program)
            .arg(path)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stderr(log);
        self.programs.push(command.spawn().expect("a program"));
    }

    fn log(&self, program: &str) -> String {
        fs::read_to_string(self.path(&format!("{program}.log"))).unwrap_or_default()
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        for program in &mut self.programs {
            let _ = program.kill();
            let _ = program.wait();
        }
        if std::thread::panicking() {
            for program in ["runner", "scheduler", "storage", "worker"] {
                eprintln!("log of the {program}:\n{}", self.log(program));
            }
        }
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(folder).expect("a folder").flatten();
    all.map(|entry| entry.path()).collect()
}

#[test]
fn actions_run_where_only_buildbarns_protocols_pass() {
    for who in As::possible() {
        let farm = Farm::start(*who);
        let desk = Desk::of(As::PlainUser);
        let remote = ["--remote".to_owned(), farm.socket("front")];
        let remote: Vec<_> = remote.iter().map(String::as_str).collect();
        let first = wait_for("the farm to work", || {
            let output = desk.script(&remote, "echo first");
            output.status.success().then_some(output.stdout)
        });
        assert_eq!(first, b"first\n");
        // The probe, run through a runner that says nothing of itself, says how.
        let inputs = match who {
            As::Root => "inputs=Hardlink layers=false",
            _ => "inputs=Copy layers=false",
        };
        let log = farm.log("worker");
        assert!(
            log.contains("runner is ready") && log.contains(inputs),
            "{log}"
        );

        let input = desk.work().join("input");
        fs::create_dir_all(input.join("deep")).expect("a folder");
        fs::write(input.join("deep/text"), "given\n").expect("a file");
        let files = ["--input", "input", "--output", "out"];
        let options = [&remote[..], &files].concat();
        // Closed to all but the command itself.
        let script = "umask 077; cat deep/text; mkdir -p out/sub; echo made > out/sub/file; \
            mkdir -p out/empty; chmod 0500 out out/sub";
        let ran = desk.script(&options, script);
        assert!(ran.status.success(), "{who:?}: {ran:?}");
        assert_eq!(ran.stdout, b"given\n");
        let made = fs::read_to_string(desk.work().join("out/sub/file")).expect("an output");
        assert_eq!(made, "made\n");
        assert!(desk.work().join("out/empty").is_dir());

        let output = desk.script(&remote, "echo said; exit 7");
        assert_eq!(
            (output.status.code(), &output.stdout[..]),
            (Some(7), &b"said\n"[..])
        );
        let output = desk.script(&remote, "kill -SEGV $$");
        assert_eq!(output.status.code(), Some(139), "{output:?}");
        let timeout = [&remote[..], &["--timeout", "1"]].concat();
        let output = desk.script(&timeout, "echo begun; while :; do sleep 3600; done");
        assert_eq!(
            (output.status.code(), &output.stdout[..]),
            (Some(124), &b"begun\n"[..])
        );
        let output = desk.run([&["run"], &remote[..], &["--", "absent"]].concat());
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains("InvalidArgument"), "{error}");

        wait_for_none("directories of actions", || {
            let mut left = entries(&farm.path("build"));
            // Emptied ones are used again.
            left.retain(|path| !path.ends_with("trash") && !path.ends_with("layers"));
            left
        });
        // There was something to be taken out, on either way.
        assert!(farm.removed.calls.load(Ordering::Relaxed) > 0);
        assert!(farm.removed.headers.load(Ordering::Relaxed) > 0);
        drop(farm);
        desk.leave();
    }
}
