//! What commands see, and what is told of them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use proto::wire::runner::CheckReadinessRequest;
use proto::wire::runner_extension::ReclaimRequest;
use proto::wire::runner_extension::describe_response::Root;
use serde_json::json;
use tonic::Code;

use crate::harness::{Mode, Runner, command, each_mode, shell, usage};

async fn output_of(runner: &Runner, request: proto::wire::runner::RunRequest) -> String {
    let response = runner.run(request).await.unwrap();
    let (out, err) = runner.take_output();
    assert_eq!(response.exit_code, 0, "{err}");
    assert_eq!(err, "");
    out
}

#[test]
fn output_goes_to_the_files_named() {
    each_mode(&json!({}), async |runner| {
        let response = runner.run(shell("echo out; echo err >&2")).await.unwrap();
        assert_eq!(response.exit_code, 0);
        assert_eq!(runner.take_output(), ("out\n".into(), "err\n".into()));
        let used = usage(&response.resource_usage);
        assert!(used.maximum_resident_set_size > 0);
        assert_eq!(used.termination_signal, "");
    });
}

#[test]
fn exit_codes_and_signals_are_told_apart() {
    each_mode(&json!({}), async |runner| {
        for code in [1, 7, 255] {
            let response = runner.run(shell(&format!("exit {code}"))).await.unwrap();
            assert_eq!(response.exit_code, code);
            runner.take_output();
        }
        let response = runner.run(shell("kill -SEGV $$")).await.unwrap();
        assert_eq!(response.exit_code, 128 + 11);
        assert_eq!(usage(&response.resource_usage).termination_signal, "SEGV");
    });
}

#[test]
fn the_environment_is_the_request_s() {
    each_mode(&json!({}), async |runner| {
        let mut request = command(&["/usr/bin/env"]);
        request.environment_variables =
            [("A".into(), "1=2".into()), ("B".into(), "".into())].into();
        assert_eq!(output_of(runner, request).await, "A=1=2\nB=\n");
        let mut bare = command(&["/usr/bin/env"]);
        bare.environment_variables.clear();
        assert_eq!(output_of(runner, bare).await, "");
    });
}

#[test]
fn tmpdir_names_the_action_s_temporary_directory_when_configured() {
    each_mode(
        &json!({"set_tmpdir_environment_variable": true}),
        async |runner| {
            output_of(runner, shell("echo x > $TMPDIR/file")).await;
            let file = runner.build().join("1/tmp/file");
            assert_eq!(fs::read_to_string(file).unwrap(), "x\n");
        },
    );
}

#[test]
fn the_working_directory_is_below_the_input_root() {
    each_mode(&json!({}), async |runner| {
        assert_eq!(output_of(runner, command(&["pwd"])).await, "/build/root\n");
        fs::create_dir_all(runner.input("a/b")).unwrap();
        let mut request = command(&["pwd"]);
        request.working_directory = "a/./b".into();
        assert_eq!(output_of(runner, request).await, "/build/root/a/b\n");
    });
}

#[test]
fn an_inherited_socket_is_served() {
    each_mode(&json!({"grpc_servers": ["fd:3"]}), async |runner| {
        assert_eq!(output_of(runner, command(&["echo", "x"])).await, "x\n");
    });
}

#[test]
fn the_worker_s_user_can_connect() {
    each_mode(&json!({}), async |runner| {
        let mode = fs::metadata(runner.socket()).unwrap().mode();
        assert_eq!(mode & 0o777, 0o666);
    });
}

/// Puts a program and the libraries that it is linked with into an input root.
fn install(runner: &Runner, program: &str) {
    let linked = Command::new("ldd").arg(program).output().unwrap().stdout;
    let linked = String::from_utf8(linked).unwrap();
    let libraries = linked
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    for file in libraries.chain([program]) {
        let place = runner.input(&file[1..]);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        let copied = Command::new("cp").arg("-L").arg(file).arg(&place).status();
        assert!(copied.unwrap().success());
    }
}

#[test]
fn the_input_root_can_be_the_whole_root() {
    each_mode(&json!({"root": "input"}), async |runner| {
        install(runner, "/bin/sh");
        fs::create_dir(runner.input("sub")).unwrap();
        let mut request = shell("pwd; cd /; echo *; echo x > /tmp/file");
        request.working_directory = "sub".into();
        let output = output_of(runner, request).await;
        let (directory, listing) = output.trim_end().split_once('\n').unwrap();
        assert_eq!(directory, "/sub");
        let mut names: Vec<_> = listing.split(' ').collect();
        for supplied in ["bin", "dev", "proc", "tmp", "sub"] {
            assert!(names.contains(&supplied), "{listing}");
        }
        names.retain(|name| !name.starts_with("lib"));
        assert_eq!(names.len(), 5, "{listing}");
        assert!(runner.build().join("1/tmp/file").exists());
        let description = runner.extension().describe(()).await.unwrap().into_inner();
        assert_eq!(description.root(), Root::Input);
        assert_eq!(description.user_id, Some(0));
    });
}

#[test]
fn large_command_lines_pass() {
    each_mode(&json!({}), async |runner| {
        let mut request = shell("echo $#");
        let argument = "x".repeat(1000);
        request
            .arguments
            .extend(std::iter::repeat_n(argument, 1500));
        assert_eq!(output_of(runner, request).await, "1499\n");
    });
}

#[test]
fn readiness_is_a_path_s_presence() {
    each_mode(&json!({}), async |runner| {
        let check = async |path: &str| {
            let request = CheckReadinessRequest { path: path.into() };
            let answer = runner.client().check_readiness(request).await;
            answer.map_or_else(|status| status.code(), |_| Code::Ok)
        };
        assert_eq!(check("").await, Code::Ok);
        assert_eq!(check("1/root").await, Code::Ok);
        assert_eq!(check("2").await, Code::Unavailable);
        assert_eq!(check("../socket").await, Code::InvalidArgument);
        // What the link names does not matter: it is not followed.
        std::os::unix::fs::symlink("/absent", runner.build().join("link")).unwrap();
        assert_eq!(check("link").await, Code::Ok);
        assert_eq!(check("link/etc").await, Code::Unavailable);
    });
}

#[test]
fn the_sandbox_is_described() {
    each_mode(&json!({}), async |runner| {
        let description = runner.extension().describe(()).await.unwrap().into_inner();
        assert_eq!(description.root(), Root::Host);
        assert_eq!(description.user_id, Some(1000));
        assert_eq!(description.own_uids, runner.mode == Mode::Root);
        let held = |name: &str| {
            let mut all = description.protections.iter();
            all.find(|protection| protection.name == name).unwrap().held
        };
        assert!(held("user_namespace"));
        assert!(held("seccomp"));
        assert_eq!(held("own_uid"), runner.mode == Mode::Root);
    });
}

#[test]
fn what_a_command_locked_away_is_reclaimed() {
    each_mode(&json!({}), async |runner| {
        output_of(
            runner,
            shell("mkdir -p d/e && echo x > d/e/f && chmod 0 d/e/f d/e d"),
        )
        .await;
        let request = ReclaimRequest {
            path: "1/root".into(),
        };
        runner.extension().reclaim(request).await.unwrap();
        // The worker may be another user than the command.
        for (path, rights) in [("d", 0o777), ("d/e", 0o777), ("d/e/f", 0o444)] {
            let mode = fs::metadata(runner.input(path)).unwrap().mode();
            assert_eq!(mode & rights, rights, "{path}");
        }
        let escape = ReclaimRequest {
            path: "../build".into(),
        };
        let status = runner.extension().reclaim(escape).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    });
}

#[test]
fn inputs_keep_their_modes_when_a_directory_is_reclaimed() {
    each_mode(&json!({}), async |runner| {
        if runner.mode == Mode::Plain {
            // There the inputs are the command's own.
            return;
        }
        let input = runner.input("input");
        fs::write(&input, "x").unwrap();
        fs::set_permissions(&input, fs::Permissions::from_mode(0o400)).unwrap();
        let request = ReclaimRequest {
            path: "1/root".into(),
        };
        runner.extension().reclaim(request).await.unwrap();
        assert_eq!(fs::metadata(&input).unwrap().mode() & 0o777, 0o400);
    });
}
