//! Requests and configurations that are refused, by name.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use proto::wire::runner::RunRequest;
use serde_json::json;
use tonic::{Code, Status};

use crate::harness::{Runner, command, each_mode, shell};

async fn refused(runner: &Runner, request: RunRequest) -> Status {
    let status = runner.run(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    // Whatever the runner made of them by then.
    for name in ["1/stdout", "1/stderr"] {
        let _ = fs::remove_file(runner.build().join(name));
    }
    status
}

#[test]
fn commands_that_cannot_be_executed_are_named() {
    each_mode(&json!({}), async |runner| {
        let write = |name: &str, text: &str, mode| {
            fs::write(runner.input(name), text).unwrap();
            let permissions = fs::Permissions::from_mode(mode);
            fs::set_permissions(runner.input(name), permissions).unwrap();
        };
        write("plain", "text", 0o644);
        write("formless", "text", 0o755);
        write("orphan", "#!/absent/interpreter\n", 0o755);
        fs::create_dir(runner.input("directory")).unwrap();
        for name in [
            "absent-from-path",
            "./absent",
            "/absent",
            "./plain",
            "./formless",
            "./orphan",
            "./directory",
            "./plain/under",
        ] {
            let status = refused(runner, command(&[name])).await;
            assert!(status.message().contains(name), "{name}: {status}");
        }
        let status = refused(runner, command(&["./orphan"])).await;
        assert!(status.message().contains("/absent/interpreter"), "{status}");
        let mut request = command(&["true"]);
        request.working_directory = "no/such/place".into();
        let status = refused(runner, request).await;
        assert!(status.message().contains("no/such/place"), "{status}");
    });
}

#[test]
fn command_lines_beyond_the_kernel_s_limit_are_refused() {
    each_mode(&json!({}), async |runner| {
        let mut request = shell("true");
        let argument = "x".repeat(100_000);
        request.arguments.extend(std::iter::repeat_n(argument, 70));
        let status = refused(runner, request).await;
        assert!(status.message().contains("too long"), "{status}");
    });
}

#[test]
fn paths_that_escape_or_are_taken_are_refused() {
    each_mode(&json!({}), async |runner| {
        let mut request = command(&["true"]);
        request.stdout_path = "../stdout".into();
        let status = refused(runner, request).await;
        assert!(status.message().starts_with("stdout_path: "), "{status}");

        let mut request = command(&["true"]);
        request.input_root_directory = "1/absent".into();
        let status = refused(runner, request).await;
        assert!(status.message().contains("1/absent"), "{status}");

        let elsewhere = tempfile::tempdir().unwrap();
        symlink(elsewhere.path(), runner.build().join("1/link")).unwrap();
        let mut request = command(&["true"]);
        request.stderr_path = "1/link/stderr".into();
        refused(runner, request).await;
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
        let mut request = command(&["true"]);
        request.input_root_directory = "1/link".into();
        refused(runner, request).await;

        let taken = runner.build().join("1/taken");
        fs::write(&taken, "kept").unwrap();
        let mut request = shell("echo overwritten");
        request.stdout_path = "1/taken".into();
        let status = refused(runner, request).await;
        assert!(status.message().contains("1/taken"), "{status}");
        assert_eq!(fs::read_to_string(&taken).unwrap(), "kept");
    });
}

fn check(config: &str, name: &str) -> (bool, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, config).unwrap();
    let output = run_checked(&path);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.success(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

fn run_checked(path: &Path) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bb_runner"));
    command.arg("--check").arg(path).output().unwrap()
}

#[test]
fn a_configuration_is_checked_and_printed_without_starting() {
    let range = if nix::unistd::geteuid().is_root() {
        "uid_range = { start = 1_900_500_100, count = 16 }\nservice_uid = 1_900_500_002\n"
    } else {
        ""
    };
    let good = format!(
        "build_directory_path = \"/worker/build\"\ngrpc_servers = [\"unix:/worker/runner\"]\n\
         pool_size = 3\n{range}"
    );
    let (succeeds, printed, _) = check(&good, "config.toml");
    assert!(succeeds);
    let (again, reprinted, _) = check(&printed, "config.json");
    assert!(again);
    assert_eq!(printed, reprinted);
    let printed: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(printed["pool_size"], 3);
    assert_eq!(printed["root"], "host");

    for (bad, key) in [
        ("protections.seccomp = \"off\"", "protections.seccomp"),
        ("protection = {}", "protection"),
        ("maximum_concurrent = 0", "maximum_concurrent"),
    ] {
        let (succeeds, _, complaint) = check(&format!("{good}{bad}\n"), "config.toml");
        assert!(!succeeds);
        assert!(complaint.contains(key), "{complaint}");
    }
}
