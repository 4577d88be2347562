//! How `hayloft run` ends when it is not the command that ends it.

#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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
