//! How long actions last.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::farm::Farm;
use tests::processes::Process;
use tests::ran::Ran;
use tests::wait::{wait_for, wait_for_within};

use crate::client::{Workspace, has_bazel, leave, setup};

/// A scheduler forgets an operation that nobody has waited for this long, as
/// Buildbarn's does: a client whose connection broke may come back.
const FORGETTING: Duration = Duration::from_secs(60);

#[test]
fn bazels_actions_may_take_longer_than_its_calls() {
    if !has_bazel("bazels_actions_may_take_longer_than_its_calls") {
        return;
    }
    let farm = setup().start();
    let workspace = Workspace::features(&farm);
    let words = ["build", "--remote_timeout=5", "//patience:patient"];
    let build = workspace.bazel("first", &words);
    build.assert(0, &["2 processes: 1 internal, 1 remote."]);
    farm.assert_executed(
        0,
        1,
        "Bazel 4.2.3: 8 s of work with a --remote_timeout of 5 s",
    );
    leave(farm);
}

/// The commands of `//patience:endless_N`.
fn endless(farm: &Farm) -> Vec<Process> {
    let times = ["86390", "86391", "86392"];
    let running = times.map(|time| Process::running(farm.pid(), &["sleep", time]));
    running.concat()
}

#[test]
fn actions_of_an_interrupted_bazel_die() {
    if !has_bazel("actions_of_an_interrupted_bazel_die") {
        return;
    }
    let farm = setup().start();
    let workspace = Workspace::features(&farm);
    let targets: Vec<_> = (0..3).map(|n| format!("//patience:endless_{n}")).collect();
    let mut words = vec!["build"];
    words.extend(targets.iter().map(String::as_str));
    let build = workspace.start("first", &words);
    wait_for("actions to run", || {
        (endless(&farm).len() == 3).then_some(())
    });
    let bazel = Pid::from_raw(i32::try_from(build.id()).expect("a process id"));
    kill(bazel, Signal::SIGINT).expect("Bazel is there");
    let ended: Ran = build.wait_with_output().expect("its end").into();
    ended.assert(8, &["build interrupted"]);
    // Bazel hangs up and cancels nothing.
    wait_for_within(FORGETTING * 2, "actions' end", || {
        endless(&farm).is_empty().then_some(())
    });
    let log = farm.log();
    assert_eq!(log.matches("nobody waits any more").count(), 3, "{log}");
    leave(farm);
}
