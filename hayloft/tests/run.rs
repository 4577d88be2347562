//! `hayloft run` where no command runs: a farm that is away or lets nobody execute, and
//! a person who interrupts it.

#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use daemon::{Address, Diagnostics, Shutdown};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::wire::rev2;
use proto::{Digest, DigestFunction, InstanceName};
use storage::local::{Actions, Blobs, Limits};
use storage::{ActionCache, Authorizers, Front, Updates};

fn run(remote: &str, more: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_hayloft"))
        .args(["run", "--remote", remote])
        .args(more)
        .args(["--", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn interrupt(child: Child) -> Output {
    let id = i32::try_from(child.id()).unwrap();
    kill(Pid::from_raw(id), Signal::SIGINT).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_farm_that_is_away_or_refuses_is_told_from_a_command_that_fails() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = format!("unix:{}", folder.path().join("nobody").display());
    for (remote, more) in [
        (nobody.as_str(), &[][..]),
        (&nobody, &["--instance", "a//b"]),
        (&nobody, &["--input", "/no/such/folder"]),
    ] {
        let output = run(remote, more).wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{more:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.starts_with("hayloft: "), "{said}");
    }
}

#[test]
fn an_interrupt_is_heard_while_the_farm_is_silent() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let child = run(&silent.local_addr().unwrap().to_string(), &[]);
    // Connected, and so past the point from which signals are handled.
    let (_connection, _) = silent.accept().unwrap();
    let output = interrupt(child);
    assert_eq!(output.status.code(), Some(130), "{output:?}");
}

/// Whether a process has a file open.
fn has_open(process: u32, path: &Path) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    descriptors
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .any(|open| open == path)
}

#[test]
fn an_interrupt_is_heard_while_inputs_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap().join("endless");
    // All hole: it takes no room, and hours to hash.
    File::create(&path).unwrap().set_len(1 << 42).unwrap();
    let mut child = run("127.0.0.1:1", &["--input", folder.path().to_str().unwrap()]);
    while !has_open(child.id(), &path) {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::yield_now();
    }
    let output = interrupt(child);
    assert_eq!(output.status.code(), Some(130), "{output:?}");
}

/// A farm of another make need not look into its action cache when it is asked to
/// execute; this one does not even execute.
#[test]
fn an_earlier_result_is_taken_from_the_action_cache() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits {
        disk: 1 << 24,
        memory: 0,
    };
    let blobs = Blobs::open(&folder.path().join("blobs"), limits).unwrap();
    let actions = Arc::new(Actions::open(&folder.path().join("actions"), 1 << 24).unwrap());
    let front = Front {
        blobs: Arc::new(blobs),
        actions: actions.clone(),
        scheduler: None,
        action_cache_updates: Updates::Never,
        authorizers: Authorizers::default(),
        holder: None,
        shutdown: Shutdown::new(),
    };
    let address = Address::Unix(folder.path().join("front"));
    let listener = runtime.block_on(daemon::listen(&address)).unwrap();
    runtime.spawn(daemon::serve(
        listener,
        front.routes(),
        Diagnostics::default(),
    ));
    let remote = address.to_string();
    let output = run(&remote, &[]).wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("Unimplemented"), "{said}");

    let spec = hayloft::client::Spec {
        arguments: vec!["true".into()],
        environment: vec![("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into())],
        ..Default::default()
    };
    let root = Digest::of(DigestFunction::Sha256, b"");
    let (action, _) = hayloft::client::describe(&spec, root);
    let result = rev2::ActionResult {
        stdout_raw: b"of before\n".to_vec(),
        exit_code: 3,
        ..Default::default()
    };
    let instance = InstanceName::empty();
    let kept = actions.update(&instance, action, result.clone());
    runtime.block_on(kept).unwrap();
    let output = run(&remote, &[]).wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(3), &b"of before\n"[..])
    );
    let output = run(&remote, &["--no-cache"]).wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(125));

    // One whose blobs are gone is none.
    let lost = Digest::of(DigestFunction::Sha256, b"lost");
    let lost = rev2::ActionResult {
        stderr_digest: Some(lost.to_wire()),
        ..result
    };
    let kept = actions.update(&instance, action, lost);
    runtime.block_on(kept).unwrap();
    let output = run(&remote, &[]).wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("Unimplemented"), "{said}");
    runtime.shutdown_background();
}
