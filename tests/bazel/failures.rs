//! Builds that fail, and how they say so.

use std::collections::BTreeSet;

use tests::desk::Desk;
use tests::metrics::Metrics;
use tests::user::As;

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
    // Each failure leads to what the farm keeps of it.
    let desk = Desk::of(As::possible()[0]);
    let links = build.text.lines().filter_map(|line| {
        let (_, link) = line.split_once("Action details (uncached result): ")?;
        Some(link)
    });
    let links: BTreeSet<_> = links.collect();
    assert_eq!(links.len(), 20, "{}", build.text);
    let targets = links.iter().map(|link| {
        let told = desk.told(["action", "--json", "--remote", farm.endpoint(), link]);
        let outcome = &told["outcome"];
        assert_ne!(outcome["exit_code"], 0, "{told:#}");
        let said = outcome["stderr"].as_str().expect("a log");
        assert!(said.contains("broke"), "{told:#}");
        let target = outcome["client"]["target_id"].as_str().expect("a target");
        target.to_owned()
    });
    let odd = (0..20).map(|number| format!("//failures:odd_{number}"));
    assert_eq!(targets.collect::<BTreeSet<_>>(), odd.collect());
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
            "//promises:as_nobody_at_all failed",
            "platform property unixUID: \"nobody at all\": it is no id",
        ],
    );
    for id in ["77", "1000"] {
        let told = workspace.read("first", &format!("promises/as_{id}.txt"));
        assert_eq!(told, format!("{id}\n"));
    }
    farm.assert_executed(0, 3, "Bazel 4.2.3: two of three promises to targets");
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
