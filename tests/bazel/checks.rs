//! What Bazel can do with tests.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use tests::ran::Ran;

use crate::client::{Workspace, has_bazel, leave, setup};

/// What a test printed in each of its runs, as it is kept in these files.
fn logs(workspace: &Workspace, paths: &[&str]) -> Vec<String> {
    let read = |path: &&str| {
        let path = workspace.log("first", &format!("checks/{path}"));
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    paths.iter().map(read).collect()
}

/// The different lines that begin with these words.
fn said(logs: &[String], words: &str) -> BTreeSet<String> {
    let lines = logs.iter().flat_map(|log| log.lines());
    let said = lines.filter(|line| line.starts_with(words));
    said.map(ToOwned::to_owned).collect()
}

#[test]
fn bazels_tests_are_sharded_repeated_retried_and_leave_files() {
    let name = "bazels_tests_are_sharded_repeated_retried_and_leave_files";
    if !has_bazel(name) {
        return;
    }
    let farm = setup().start();
    let workspace = Workspace::features(&farm);
    let build = workspace.bazel("first", &["test", "//checks:all"]);
    build.assert(0, &["Executed 3 out of 3 tests: 3 tests pass."]);
    // Five runs, and for each an action that makes test.xml.
    farm.assert_executed(0, 10, "Bazel 4.2.3: tests, one of them in three shards");
    let shards = ["1", "2", "3"].map(|n| format!("sharded_test/shard_{n}_of_3/test.log"));
    let shards = logs(&workspace, &shards.each_ref().map(String::as_str));
    assert_eq!(
        Vec::from_iter(said(&shards, "shard ")),
        ["shard 0 of 3", "shard 1 of 3", "shard 2 of 3"]
    );

    let packed = workspace.log("first", "checks/leaving_test/test.outputs/outputs.zip");
    let program = "import sys, zipfile; print(zipfile.ZipFile(sys.argv[1]).read(sys.argv[2]))";
    let mut python = Command::new("/usr/bin/python3");
    python
        .args(["-c", program])
        .arg(packed)
        .arg("deep/report.txt");
    Ran::of(&mut python).assert(0, &["found by nobody else"]);
    let manifest = "leaving_test/test.outputs_manifest/MANIFEST";
    let notes = "leaving_test/test.outputs_manifest/ANNOTATIONS";
    assert_eq!(
        logs(&workspace, &[manifest, notes]),
        ["deep/report.txt\t21\ttext/plain\n", "a line about it\n"]
    );

    let before = farm.executed();
    let words = ["test", "--runs_per_test=3", "//checks:repeated_test"];
    workspace
        .bazel("first", &words)
        .assert(0, &["Stats over 3 runs"]);
    farm.assert_executed(before, 6, "Bazel 4.2.3: a test, three times");
    let runs = ["1", "2", "3"].map(|n| format!("repeated_test/run_{n}_of_3/test.log"));
    let runs = logs(&workspace, &runs.each_ref().map(String::as_str));
    assert_eq!(said(&runs, "run by ").len(), 3, "{runs:#?}");

    let words = ["test", "--flaky_test_attempts=3", "//checks:failing_test"];
    let build = workspace.bazel("first", &words);
    build.assert(3, &["FAILED in 3 out of 3", "1 fails remotely."]);
    let attempts = [
        "failing_test/test_attempts/attempt_1.log",
        "failing_test/test_attempts/attempt_2.log",
        "failing_test/test.log",
    ];
    let attempts = logs(&workspace, &attempts);
    assert_eq!(said(&attempts, "fell over in ").len(), 3, "{attempts:#?}");
    leave(farm);
}
