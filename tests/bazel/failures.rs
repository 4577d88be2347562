//! Builds that fail, and how they say so.

use tests::metrics::Metrics;

use crate::client::{Workspace, has_bazel, leave, setup};

const EXECUTED: &str =
    "buildbarn_builder_in_memory_build_queue_tasks_executing_duration_seconds_count";

#[test]
fn bazel_that_keeps_going_is_told_of_every_failure() {
    if !has_bazel("bazel_that_keeps_going_is_told_of_every_failure") {
        return;
    }
    let farm = setup().start();
    let workspace = Workspace::features(&farm);
    let build = workspace.bazel("first", &["build", "--keep_going", "//failures:all"]);
    let build = build.assert(1, &["41 processes: 21 internal, 20 remote."]);
    for number in 0..20 {
        let (exit, says) = (number + 10, format!("\nodd one {number} broke\n"));
        let fails = format!("//failures:odd_{number} failed: (Exit {exit})");
        assert!(build.text.contains(&fails), "{fails}:\n{}", build.text);
        assert!(build.text.contains(&says), "{says}:\n{}", build.text);
        let even = workspace.read("first", &format!("failures/even_{number}.txt"));
        assert_eq!(even, format!("{number}\n"));
    }
    farm.assert_executed(
        0,
        40,
        "Bazel 4.2.3: 20 actions that fail and 20 that do not",
    );
    let metrics = Metrics::of(&farm, "scheduler");
    for result in ["Success", "NonZeroExitCode"] {
        let count = metrics.sum(EXECUTED, &[&format!("result=\"{result}\"")]);
        assert!((count - 20.0).abs() < 0.1, "{result}: {count}");
    }
    leave(farm);
}

#[test]
fn bazels_properties_of_one_target_reach_the_worker() {
    if !has_bazel("bazels_properties_of_one_target_reach_the_worker") {
        return;
    }
    let farm = setup().start();
    let workspace = Workspace::features(&farm);
    let build = workspace.bazel("first", &["build", "--keep_going", "//promises:all"]);
    build.assert(
        34,
        &[
            "//promises:as_77 failed",
            "platform property unixUID: \"77\": commands run as user and group 1000 here",
        ],
    );
    assert_eq!(workspace.read("first", "promises/as_1000.txt"), "1000\n");
    farm.assert_executed(0, 2, "Bazel 4.2.3: one of two promises to targets");
    leave(farm);
}

#[test]
fn bazel_is_told_which_platform_a_farm_lacks() {
    if !has_bazel("bazel_is_told_which_platform_a_farm_lacks") {
        return;
    }
    let platform = ["--platform", "ISA=x86-64", "--platform", "OSFamily=plan9"];
    let farm = setup().arguments(&platform).start();
    let workspace = Workspace::features(&farm);
    let build = workspace.bazel("first", &["build", "//outputs:grain"]);
    build.assert(34, &["OSFamily", "plan9", "linux"]);
    farm.assert_executed(0, 0, "Bazel 4.2.3: for another platform");
    leave(farm);
}
