//! `examples/runner-qemu`: actions of another architecture.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use daemon::Address;
use proto::wire::runner::runner_client::RunnerClient;
use serde_json::json;
use tonic::Code;

use crate::harness::{command, each_mode};

const EMULATOR: &str = "/usr/bin/qemu-aarch64-static";

fn run(program: &str, arguments: &[&str], folder: &Path) {
    let ran = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .stdout(Stdio::null())
        .status();
    assert!(ran.unwrap().success(), "{program} {arguments:?}");
}

/// An arm64 program of Debian's, and the emulator; fetched where that is allowed.
fn arm64_program(folder: &Path) -> Option<PathBuf> {
    if std::env::var_os("HAYLOFT_INSTALL").is_none() {
        println!("SKIP a_program_of_another_architecture_runs: needs packages (HAYLOFT_INSTALL=1)");
        return None;
    }
    if !Path::new(EMULATOR).exists() {
        let wait = "DPkg::Lock::Timeout=300";
        run(
            "apt-get",
            &["-qq", "-o", wait, "install", "--yes", "qemu-user-static"],
            folder,
        );
    }
    // With lists of its own: the machine's stay as they are.
    for place in ["lists/partial", "cache/archives/partial"] {
        std::fs::create_dir_all(folder.join(place)).unwrap();
    }
    let lists = format!("Dir::State::lists={}/lists", folder.display());
    let cache = format!("Dir::Cache={}/cache", folder.display());
    let apt = |words: &[&str]| {
        let own = ["-qq", "-o", &lists, "-o", &cache];
        let arm = [
            "-o",
            "APT::Architecture=arm64",
            "-o",
            "APT::Architectures=arm64",
        ];
        run("apt-get", &[&own[..], &arm, words].concat(), folder);
    };
    apt(&["update"]);
    apt(&["download", "busybox-static"]);
    let package = std::fs::read_dir(folder)
        .unwrap()
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().ends_with("_arm64.deb"));
    let package = package.unwrap().path();
    run(
        "dpkg-deb",
        &["-x", package.to_str().unwrap(), "unpacked"],
        folder,
    );
    ["bin/busybox", "usr/bin/busybox"]
        .map(|path| folder.join("unpacked").join(path))
        .into_iter()
        .find(|path| path.exists())
}

#[test]
fn a_program_of_another_architecture_runs() {
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = arm64_program(folder.path()) else {
        return;
    };
    each_mode(&json!({}), async |runner| {
        // By another process, so that nobody has it open for writing when it is executed.
        let input = runner.input("busybox");
        run(
            "cp",
            &[program.to_str().unwrap(), input.to_str().unwrap()],
            folder.path(),
        );
        // It is nothing that this machine could execute itself.
        let status = runner.run(command(&["./busybox", "uname", "-m"])).await;
        if let Err(status) = status {
            assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        }
        for output in ["stdout", "stderr"] {
            let _ = std::fs::remove_file(runner.build().join("1").join(output));
        }

        let test = std::env::current_exe().unwrap();
        let built = test.parent().unwrap().parent().unwrap();
        let socket = runner.socket().with_extension("qemu");
        let mut emulating = Command::new(built.join("examples/runner-qemu"))
            .arg(&socket)
            .arg(format!("unix:{}", runner.socket().display()))
            .arg(EMULATOR)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = emulating.stdout.as_mut().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert_eq!(line, "serving\n");

        let channel = daemon::connect(&Address::Unix(socket)).unwrap();
        let mut client = RunnerClient::new(channel);
        let mut script = command(&["./busybox", "uname", "-m"]);
        let response = client.run(script.clone()).await.unwrap().into_inner();
        let (out, err) = runner.take_output();
        assert_eq!((response.exit_code, &out[..]), (0, "aarch64\n"), "{err}");
        script.arguments[1..].clone_from_slice(&["false".into(), String::new()]);
        let response = client.run(script).await.unwrap().into_inner();
        assert_eq!(response.exit_code, 1);
        runner.take_output();
        let status = client.run(command(&["busybox"])).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        emulating.kill().unwrap();
        emulating.wait().unwrap();
    });
}
