//! Builds in which an operator of the farm has a hand.

use tests::desk::Desk;
use tests::ran::Ran;
use tests::user::As;
use tests::wait::wait_for;

use crate::client::{Workspace, has_bazel, leave, setup};

/// After most codes it would ask for the action again, five times.
#[test]
fn bazel_gives_up_an_action_that_an_operator_ends() {
    if !has_bazel("bazel_gives_up_an_action_that_an_operator_ends") {
        return;
    }
    let farm = setup().start();
    let workspace = Workspace::features(&farm);
    let desk = Desk::of(As::possible()[0]);
    let socket = farm.directory().join("run/operators.sock");
    let scheduler = ["--scheduler", &format!("unix:{}", socket.display())].map(str::to_owned);
    let scheduler = scheduler.each_ref().map(String::as_str);
    let build = workspace.start("first", &["build", "//patience:endless_0"]);
    let operation = wait_for("the action to run", || {
        let words = [&["queue", "--json", "--stage", "executing"], &scheduler[..]].concat();
        let told = desk.told(words);
        let operation = told["operations"].as_array()?.first()?;
        assert_eq!(operation["target_id"], "//patience:endless_0", "{told:#}");
        Some(operation["name"].as_str()?.to_owned())
    });
    desk.printed([&["kill", &operation], &scheduler[..]].concat());
    let ended: Ran = build.wait_with_output().expect("its end").into();
    ended.assert(34, &["ended by an operator of the farm"]);
    let all = [&["queue", "--json", "--stage", "completed"], &scheduler[..]].concat();
    let told = desk.told(all);
    let operations = told["operations"].as_array().expect("a list");
    assert_eq!(operations.len(), 1, "{told:#}");
    leave(farm);
}
