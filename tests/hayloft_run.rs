//! `hayloft run`, on a farm that is there and on one of its own, and
//! `hayloft doctor`: what a person or a script sees of them.

use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Output;

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::desk::Desk;
use tests::farm::{Farm, Setup};
use tests::processes::Process;
use tests::user::As;
use tests::wait::{wait_for, wait_for_none};

/// Checks what a program printed, all of it, and its exit code.
fn assert_printed(output: &Output, code: i32, stdout: &str, stderr: &str) {
    let printed = (
        output.status.code(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(printed, (Some(code), stdout.into(), stderr.into()));
}

#[test]
fn a_command_runs_on_a_farm_of_its_own_that_leaves_nothing() {
    for who in As::possible() {
        let desk = Desk::of(*who);
        let marker = tests::secret();
        let script = format!("echo said {marker}; echo complained >&2; exit 7");
        let output = desk.script(&[], &script);
        // In a pipe it adds nothing of its own.
        assert_printed(&output, 7, &format!("said {marker}\n"), "complained\n");
        let place = desk.folder.path().to_string_lossy().into_owned();
        wait_for_none("processes", || Process::mentioning(&place));
        desk.leave();
    }
}

#[test]
fn a_command_runs_on_a_farm_that_is_there() {
    let who = As::possible()[0];
    let farm = Farm::start(who);
    let desk = Desk::of(who);
    let remote = ["--remote", farm.endpoint()];
    let output = desk.script(&remote, "echo said; echo complained >&2; exit 7");
    assert_printed(&output, 7, "said\n", "complained\n");
    // A result that is known is not made again, unless it is asked for.
    let id = "cat /proc/sys/kernel/random/uuid";
    let [first, again] = [(); 2].map(|()| desk.script(&remote, id).stdout);
    assert_eq!(first, again);
    let fresh = desk.script(&[&remote[..], &["--no-cache"]].concat(), id);
    assert_ne!(first, fresh.stdout);
    farm.wait_until_idle();
    farm.stop();
    desk.leave();
}

#[test]
fn a_program_is_told_what_became_of_a_command() {
    let who = As::possible()[0];
    let farm = Farm::start(who);
    let desk = Desk::of(who);
    let remote = ["--remote", farm.endpoint(), "--json"];
    let told = |output: &Output| -> Value {
        serde_json::from_slice(&output.stdout).expect("one JSON object")
    };
    let script = "echo said; echo complained >&2; exit 7";
    for cached in [false, true] {
        let output = desk.script(&remote, "echo said; echo complained >&2");
        assert_eq!(output.status.code(), Some(0));
        let told = told(&output);
        assert_eq!(told["cached"], cached, "{told}");
        assert_eq!(
            (&told["stdout"], &told["stderr"]),
            (&"said\n".into(), &"complained\n".into())
        );
        assert!(told["status"].is_null(), "{told}");
        assert!(
            told["seconds"]["running"].as_f64().expect("a time") > 0.0,
            "{told}"
        );
        let action = told["action"].as_str().expect("a digest");
        assert_eq!(action.find('/'), Some(64), "{told}");
    }
    let output = desk.script(&remote, script);
    assert_eq!(
        (output.status.code(), &told(&output)["exit_code"]),
        (Some(7), &7.into())
    );
    let options = [&remote[..], &["--timeout", "1"]].concat();
    let output = desk.script(&options, "echo begun; while :; do sleep 3600; done");
    assert_eq!(output.status.code(), Some(124));
    let told = told(&output);
    assert_eq!(told["status"]["code"], "DeadlineExceeded", "{told}");
    assert_eq!(told["stdout"], "begun\n", "{told}");
    farm.stop();
    desk.leave();
}

#[test]
fn inputs_go_there_and_outputs_come_back() {
    let who = As::possible()[0];
    let farm = Farm::start(who);
    let desk = Desk::of(who);
    let input = desk.work().join("input");
    fs::create_dir_all(input.join("deep")).expect("a folder");
    fs::write(input.join("deep/text"), "given\n").expect("a file");
    fs::write(input.join("program"), "#!/bin/sh\ncat deep/text link\n").expect("a file");
    fs::set_permissions(input.join("program"), Permissions::from_mode(0o755)).expect("a mode");
    symlink("deep/text", input.join("link")).expect("a link");
    // Larger than what travels in one message.
    let large: Vec<u8> = (0..9_000_000_u32)
        .map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[2])
        .collect();
    fs::write(input.join("large"), &large).expect("a file");
    let options = [
        "--remote",
        farm.endpoint(),
        "--input",
        "input",
        "--output",
        "made",
        "--output",
        "copy",
    ];
    let script =
        "./program && mkdir -p made/sub && cp program made/sub/tool && ln -s tool made/sub/l
        mkdir made/empty; cp large copy";
    let output = desk.script(&options, script);
    assert_printed(&output, 0, "given\ngiven\n", "");
    let tool = fs::metadata(desk.work().join("made/sub/tool")).expect("an output");
    assert_eq!(tool.permissions().mode() & 0o111, 0o111);
    let link = fs::read_link(desk.work().join("made/sub/l")).expect("a link");
    assert_eq!(link, Path::new("tool"));
    assert!(desk.work().join("made/empty").is_dir());
    assert!(fs::read(desk.work().join("copy")).expect("an output") == large);
    // Once more, over what is there now.
    assert_printed(&desk.script(&options, script), 0, "given\ngiven\n", "");
    farm.stop();
    desk.leave();
}

#[test]
fn environment_platform_and_timeout_are_those_asked_for() {
    let who = As::possible()[0];
    let farm = Setup::new(who)
        .arguments(&["--platform", "OSFamily=linux"])
        .start();
    let desk = Desk::of(who);
    let remote = ["--remote", farm.endpoint(), "--platform", "OSFamily=linux"];
    let environment = ["--env", "A=1", "--env", "B=x=y", "--", "/usr/bin/env"];
    let output = desk.run([&["run"], &remote[..], &environment].concat());
    let mut variables: Vec<_> = output.stdout.split(|byte| *byte == b'\n').collect();
    variables.sort_unstable();
    let expected: [&[u8]; 4] = [b"", b"A=1", b"B=x=y", b"PATH=/usr/local/bin:/usr/bin:/bin"];
    assert_eq!(variables, expected);

    let output = desk.script(
        &["--remote", farm.endpoint(), "--platform", "OSFamily=plan9"],
        ":",
    );
    assert_eq!(output.status.code(), Some(125));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        error.contains("plan9") && error.contains("linux"),
        "{error}"
    );

    let timeout = [&remote[..], &["--timeout", "1"]].concat();
    let output = desk.script(&timeout, "echo begun; while :; do sleep 3600; done");
    assert_eq!(output.status.code(), Some(124));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "begun\n");

    let output = desk.run([&["run"], &remote[..], &["--", "no-such-program"]].concat());
    assert_eq!(output.status.code(), Some(125));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("no-such-program"), "{error}");
    farm.wait_until_idle();
    farm.stop();
    desk.leave();
}

#[test]
fn an_interrupt_ends_the_command_and_its_farm() {
    for who in As::possible() {
        let desk = Desk::of(*who);
        let marker = tests::secret();
        let script = format!("trap '' INT TERM; while :; do sleep 3600; done; : {marker}");
        let run = desk
            .command(["run", "--", "/bin/sh", "-c", &script])
            .spawn();
        let run = run.expect("hayloft runs");
        let pid = i32::try_from(run.id()).expect("a process id");
        wait_for("the command to run", || {
            let mentioning = Process::mentioning(&marker);
            mentioning
                .iter()
                .any(|process| process.arguments[0] == "/bin/sh")
                .then_some(())
        });
        kill(Pid::from_raw(pid), Signal::SIGINT).expect("it is there");
        let output = run.wait_with_output().expect("its end");
        assert_eq!(output.status.code(), Some(130), "{output:?}");
        wait_for_none("processes", || Process::mentioning(&marker));
        desk.leave();
    }
}

#[test]
fn progress_is_shown_on_a_terminal_and_goes_before_the_end() {
    let who = As::possible()[0];
    let farm = Farm::start(who);
    let desk = Desk::of(who);
    let terminal = openpty(None, None).expect("a terminal");
    let run = desk
        .command([
            "run",
            "--remote",
            farm.endpoint(),
            "--",
            "/bin/sh",
            "-c",
            "sleep 1; echo said",
        ])
        .stderr(terminal.slave)
        .spawn()
        .expect("hayloft runs");
    let output = run.wait_with_output().expect("its end");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "said\n");
    let mut shown = Vec::new();
    // The other end is closed: reading ends with an error (EIO, pty(7)).
    let _ = fs::File::from(terminal.master).read_to_end(&mut shown);
    let shown = String::from_utf8_lossy(&shown).into_owned();
    assert!(shown.contains("running"), "{shown:?}");
    // The last thing is a line that has been cleared.
    assert!(shown.trim_end().ends_with("\u{1b}[2K"), "{shown:?}");
    farm.stop();
    desk.leave();
}

#[test]
fn the_doctor_tells_what_protects_actions_here() {
    for who in As::possible() {
        let desk = Desk::of(*who);
        let output = desk.run(["doctor", "--json"]);
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        // The farms of these tests run on this host, so it can.
        assert_eq!(output.status.code(), Some(0), "{report:#}");
        assert_eq!(report["sandbox_can_run"], true);
        assert_eq!(report["refusal"], Value::Null);
        let protections = report["protections"].as_array().expect("a list");
        let held = |name: &str| {
            let found = protections.iter().find(|one| one["name"] == name);
            let found = found.unwrap_or_else(|| panic!("no {name} in {report:#}"));
            // What is not held says why, and how to get it.
            if found["held"] == false {
                assert_ne!(found["why"], "", "{found:#}");
                assert_ne!(found["remedy"], "", "{found:#}");
            }
            found["held"].as_bool().expect("yes or no")
        };
        for name in [
            "user_namespace",
            "mount_namespace",
            "pid_namespace",
            "ipc_namespace",
            "uts_namespace",
            "network_namespace",
            "no_capabilities",
            "no_new_privileges",
            "seccomp",
            "landlock_files",
        ] {
            assert!(held(name), "{name}: {report:#}");
        }
        assert_eq!(held("own_uid"), *who == As::Root);

        // The tables for people say the same.
        let output = desk.run(["doctor"]);
        assert_eq!(output.status.code(), Some(0));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for protection in protections {
            let name = protection["name"].as_str().expect("a name");
            let line = text
                .lines()
                .find(|line| line.split_whitespace().nth(1) == Some(name));
            let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
            let mark = if held(name) { "held" } else { "missing" };
            assert!(line.trim_start().starts_with(mark), "{line}");
        }
        assert!(text.contains("The sandbox can run here."), "{text}");
        desk.leave();
    }
}
