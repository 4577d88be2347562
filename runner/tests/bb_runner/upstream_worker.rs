//! A worker of Buildbarn's make (bb-remote-execution, `pkg/builder` and
//! `pkg/filesystem`): `buildbarn.runner` is all it speaks, and what it does in the build
//! directory it does as its own user.

use std::time::Duration;

use proto::wire::runner::CheckReadinessRequest;
use serde_json::json;
use tonic::{Code, Request};

use crate::fifo::Fifo;
use crate::harness::{Runner, command, each_mode, shell, usage};

/// An action as that worker makes it: a name of 16 digits, a directory for each
/// purpose, and an output's parent.
const PREPARE: &str = "umask 0
    mkdir 0123456789abcdef; cd 0123456789abcdef
    mkdir root tmp server_logs root/out
    echo given > root/input; chmod 0444 root/input";

const NAME: &str = "0123456789abcdef";

fn named(script: &str) -> proto::wire::runner::RunRequest {
    let mut request = shell(script);
    request.stdout_path = format!("{NAME}/stdout");
    request.stderr_path = format!("{NAME}/stderr");
    request.input_root_directory = format!("{NAME}/root");
    request.temporary_directory = format!("{NAME}/tmp");
    request.server_logs_directory = format!("{NAME}/server_logs");
    request
}

async fn is_ready(runner: &Runner, path: &str) {
    let request = CheckReadinessRequest { path: path.into() };
    runner.client().check_readiness(request).await.unwrap();
}

#[test]
fn it_makes_runs_reads_and_removes_one_action_after_the_other() {
    each_mode(&json!({}), async |runner| {
        // Before there is work: once with a directory to look for, and as in 2020.
        runner.worker_does("mkdir -p 1/check_readiness");
        is_ready(runner, "1/check_readiness").await;
        is_ready(runner, "").await;
        // Equal actions have equal names: the second finds nothing of the first.
        for round in ["first", "second"] {
            runner.worker_does(PREPARE);
            let script = format!(
                "cat input; echo hm >&2; umask 077; mkdir -p out/deep private /tmp/u
                 echo {round} > out/deep/file; ln -s file out/deep/link
                 echo x > /tmp/u/f; chmod 0 private; exit 3"
            );
            let response = runner.run(named(&script)).await.unwrap();
            assert_eq!(response.exit_code, 3);
            assert!(usage(&response.resource_usage).maximum_resident_set_size > 0);
            let read = "cd 0123456789abcdef; cat stdout stderr root/out/deep/file
                ls root/private root/out/deep";
            let read = runner.worker_does(read);
            let expected =
                format!("given\nhm\n{round}\nroot/out/deep:\nfile\nlink\n\nroot/private:\n");
            assert_eq!(read, expected);
            runner.worker_does("rm -r 0123456789abcdef; test ! -e 0123456789abcdef");
        }
    });
}

#[test]
fn one_of_2020_has_no_directory_for_logs_and_may_have_none_for_temporary_files() {
    each_mode(&json!({}), async |runner| {
        runner.worker_does(PREPARE);
        let mut request = named("echo ran");
        request.server_logs_directory.clear();
        let response = runner.run(request.clone()).await.unwrap();
        assert_eq!(response.exit_code, 0);
        // What is there already is not written over.
        let status = runner.run(request.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        runner.worker_does("rm 0123456789abcdef/stdout 0123456789abcdef/stderr");
        request.temporary_directory.clear();
        assert_eq!(runner.run(request).await.unwrap().exit_code, 0);
        assert_eq!(runner.worker_does("cat 0123456789abcdef/stdout"), "ran\n");
    });
}

/// The deadline of the call is the action's timeout; after it the worker reads the log
/// and the outputs, and clears up.
#[test]
fn what_a_command_leaves_at_its_deadline_can_be_read_and_removed() {
    each_mode(&json!({}), async |runner| {
        runner.worker_does(PREPARE);
        let fifo = Fifo::new(&runner.build().join(NAME).join("root/fifo"));
        let script = "umask 077; mkdir -p out/deep; echo kept > out/deep/file; echo begun
            exec 3>fifo; echo started >&3; while :; do sleep 1000; done";
        let mut request = Request::new(named(script));
        request.set_timeout(Duration::from_millis(500));
        let mut client = runner.client();
        let (answer, alive) = tokio::join!(client.run(request), fifo.started());
        let code = answer.unwrap_err().code();
        assert!(
            matches!(code, Code::Cancelled | Code::DeadlineExceeded),
            "{code:?}"
        );
        alive.ended().await;
        // Nobody tells the worker when: its answer came before.
        let file = runner.build().join(NAME).join("root/out/deep");
        while std::fs::metadata(&file).is_ok_and(|it| {
            use std::os::unix::fs::PermissionsExt;
            it.permissions().mode() & 0o777 != 0o777
        }) {
            tokio::task::yield_now().await;
        }
        let read = runner.worker_does("cd 0123456789abcdef; cat stdout root/out/deep/file");
        assert_eq!(read, "begun\nkept\n");
        runner.worker_does("rm -r 0123456789abcdef");
    });
}

#[test]
fn commands_that_cannot_be_executed_are_the_clients_fault() {
    each_mode(&json!({}), async |runner| {
        runner.worker_does(PREPARE);
        for words in [&["./absent"][..], &["absent"], &["./input"], &[]] {
            let mut request = named("");
            request.arguments = command(words).arguments;
            let status = runner.run(request).await.unwrap_err();
            // Bazel gives up on this code and tries again after others.
            assert_eq!(status.code(), Code::InvalidArgument, "{words:?}: {status}");
            runner.worker_does("rm -f 0123456789abcdef/stdout 0123456789abcdef/stderr");
        }
    });
}
