//! How a command runs: its program, words, environment, place and inputs.

use proto::wire::rev2;
use tests::action::Action;
use tests::elf;
use tests::tree::Tree;
use tonic::Code;

use crate::farm;

#[test]
fn exit_code_output_and_error_come_back() {
    let farm = farm();
    let action = Action::shell("echo said; echo complained >&2; exit 3");
    let outcome = farm.client().run(&action).exited(3);
    assert_eq!(outcome.stdout, "said\n");
    assert_eq!(outcome.stderr, "complained\n");
    farm.stop();
}

#[test]
fn long_output_comes_back_whole() {
    let farm = farm();
    let action = Action::shell("seq 1 300000; seq 1 300000 >&2");
    let outcome = farm.client().run(&action).success();
    let expected: String = (1..=300_000).map(|line| format!("{line}\n")).collect();
    assert!(outcome.stdout == expected && outcome.stderr == expected);
    assert!(
        outcome.result.stdout_raw.is_empty(),
        "too long to be inline"
    );
    farm.stop();
}

#[test]
fn a_command_killed_by_a_signal_ends_as_in_a_shell() {
    let farm = farm();
    let outcome = farm.client().run(&Action::shell("kill -SEGV $$"));
    let _ = outcome.exited(128 + 11);
    farm.stop();
}

#[test]
fn the_environment_is_what_the_command_says_and_no_more() {
    let farm = farm();
    let action = Action::new(["/usr/bin/env", "-0"])
        .environment("EMPTY", "")
        .environment("LINES", "one\ntwo=three")
        .environment("PATH", "/nowhere");
    let outcome = farm.client().run(&action).success();
    let mut variables: Vec<_> = outcome.stdout.split_terminator('\0').collect();
    variables.sort_unstable();
    assert_eq!(
        variables,
        ["EMPTY=", "LINES=one\ntwo=three", "PATH=/nowhere"]
    );
    let action = Action::new(["/usr/bin/env", "-0"]);
    assert_eq!(farm.client().run(&action).success().stdout, "");
    farm.stop();
}

#[test]
fn words_arrive_as_they_are() {
    let farm = farm();
    let words = ["/usr/bin/printf", "[%s]", "", " a b ", "$HOME", "*", "ü\n"];
    let outcome = farm.client().run(&Action::new(words)).success();
    assert_eq!(outcome.stdout, "[][ a b ][$HOME][*][ü\n]");
    farm.stop();
}

#[test]
fn inputs_are_there_with_their_modes_and_links() {
    let farm = farm();
    let tree = Tree::new()
        .file("plain", "plain\n")
        .executable("deep/er/program", "#!/bin/sh\necho ran\n")
        .link("deep/to-plain", "../plain")
        .link("dangling", "no/such/file")
        .folder("empty");
    let look = "set -e; cat deep/to-plain; deep/er/program; test ! -x plain
        readlink dangling; find . -mindepth 1 | sort; touch empty/new deep/new new";
    let outcome = farm
        .client()
        .run(&Action::shell(look).tree(&tree))
        .success();
    let expected = "plain\nran\nno/such/file\n./dangling\n./deep\n./deep/er\n\
        ./deep/er/program\n./deep/to-plain\n./empty\n./plain\n";
    assert_eq!(outcome.stdout, expected);
    farm.stop();
}

#[test]
fn a_command_runs_in_its_working_directory_at_a_place_that_is_always_the_same() {
    let farm = farm();
    let tree = Tree::new().folder("a/b");
    let pwd = Action::new(["/bin/pwd"]).tree(&tree);
    let outcome = farm.client().run(&pwd).success();
    assert_eq!(outcome.stdout, "/build/root\n");
    let outcome = farm.client().run(&pwd.working_directory("a/b")).success();
    assert_eq!(outcome.stdout, "/build/root/a/b\n");
    farm.stop();
}

#[test]
fn a_command_has_a_neutral_user_and_host_and_an_empty_tmp() {
    let farm = farm();
    let look = "id -u; id -g; ls -A /tmp; touch /tmp/x; test -w . && hostname";
    let outcome = farm
        .client()
        .run(&Action::shell(look).do_not_cache())
        .success();
    let lines: Vec<_> = outcome.stdout.lines().collect();
    let [user, group, host] = lines[..] else {
        panic!("{lines:?}");
    };
    assert_eq!((user, group), ("1000", "1000"));
    let own = nix::unistd::gethostname().expect("a name");
    assert_ne!(host, own.to_string_lossy());
    // The file in /tmp was this action's alone.
    let outcome = farm
        .client()
        .run(&Action::shell(look).do_not_cache())
        .success();
    assert_eq!(outcome.stdout.lines().count(), 3);
    farm.stop();
}

#[test]
fn a_program_is_found_by_its_path_or_in_the_path_of_the_command() {
    let farm = farm();
    let tree = Tree::new()
        .executable("tools/tool", elf::tiny(21, 0, 0))
        .executable("w/tool", elf::tiny(22, 0, 0));
    let run = |word: &str, directory: &str, path: Option<&str>| {
        let action = Action::new([word]).tree(&tree);
        let action = match path {
            Some(path) => action.environment("PATH", path),
            None => action,
        };
        farm.client().run(&action.working_directory(directory))
    };
    let _ = run("tools/tool", "", None).exited(21);
    let _ = run("./tool", "w", None).exited(22);
    let _ = run("../tools/tool", "w", None).exited(21);
    let _ = run("/build/root/tools/tool", "w", None).exited(21);
    let _ = run("tool", "w", Some("/nowhere:/build/root/tools")).exited(21);
    let _ = run("tool", "tools", Some("/nowhere:.")).exited(21);
    // The working directory is no part of the path unless it says so.
    let _ = run("tool", "w", Some("/nowhere")).refused(Code::InvalidArgument, &["tool"]);
    farm.stop();
}

#[test]
fn a_program_that_cannot_be_executed_is_named() {
    let farm = farm();
    let tree = Tree::new()
        .file("not-executable", elf::tiny(0, 0, 0))
        .executable("no-program", "neither ELF nor script")
        .executable("bad-interpreter", "#!/no/such/interpreter\n")
        .folder("folder");
    for word in [
        "./missing",
        "/no/such/program",
        "./missing/program",
        "./not-executable",
        "./not-executable/program",
        "./no-program",
        "./bad-interpreter",
        "./folder",
        "missing-in-path",
    ] {
        let action = Action::new([word])
            .environment("PATH", "/usr/bin")
            .tree(&tree);
        let outcome = farm.client().run(&action);
        let name = word.trim_start_matches("./");
        let outcome = outcome.refused(Code::InvalidArgument, &[name]);
        assert_eq!(outcome.result.stdout_digest, None);
    }
    farm.wait_until_idle();
    farm.stop();
}

#[test]
fn a_result_tells_who_worked_when() {
    let farm = farm();
    let outcome = farm.client().run(&Action::shell("exit 0")).success();
    let metadata = outcome.result.execution_metadata.expect("metadata");
    assert!(!metadata.worker.is_empty());
    let rev2::ExecutedActionMetadata {
        queued_timestamp: Some(queued),
        worker_start_timestamp: Some(taken),
        input_fetch_start_timestamp: Some(fetching),
        input_fetch_completed_timestamp: Some(fetched),
        execution_start_timestamp: Some(started),
        execution_completed_timestamp: Some(ended),
        output_upload_start_timestamp: Some(uploading),
        output_upload_completed_timestamp: Some(uploaded),
        worker_completed_timestamp: Some(done),
        ..
    } = metadata
    else {
        panic!("a timestamp is missing: {metadata:#?}");
    };
    let times = [
        queued, taken, fetching, fetched, started, ended, uploading, uploaded, done,
    ]
    .map(|time| (time.seconds, time.nanos));
    assert!(times.is_sorted(), "{times:?}");
    farm.stop();
}
