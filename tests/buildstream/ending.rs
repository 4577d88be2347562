//! How elements end that are not built.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::farm::Farm;
use tests::processes::Process;
use tests::ran::Ran;
use tests::user::As;
use tests::wait::{wait_for, wait_for_none};

use crate::building::{farm, leave, setup};
use crate::client::{Project, has_buildstream};

/// The words of what runs for as long as an element is built.
const ENDLESS: [&str; 2] = ["sleep", "86399"];
const SLOW: [&str; 2] = ["sleep", "3.217"];

#[test]
fn a_failing_element_tells_why() {
    if !has_buildstream("a_failing_element_tells_why") {
        return;
    }
    let farm = farm(As::possible()[0]);
    let project = Project::copy(&farm);
    let build = project.bst("first", &["build", "failing.bst"]);
    let words = [
        "the scythe is sharp\n",
        "the scythe broke\n",
        "exitcode 7\n",
    ];
    let build = build.assert(255, &words);
    let after = build
        .text
        .lines()
        .find(|line| line.trim() == "nobody gets here");
    assert_eq!(after, None, "{}", build.text);
    let log = project.bst("first", &["artifact", "log", "failing.bst"]);
    log.assert(0, &words);
    farm.assert_executed(0, 1, "BuildStream 2.8.1: failing.bst");
    // A failure is no result: whoever asks has it built.
    let build = project.bst("second", &["build", "failing.bst"]);
    build.assert(255, &words);
    farm.assert_executed(1, 1, "BuildStream 2.8.1: failing.bst again");
    leave(farm);
}

#[test]
fn an_element_that_asks_for_what_no_worker_gives_is_refused_by_name() {
    if !has_buildstream("an_element_that_asks_for_what_no_worker_gives_is_refused_by_name") {
        return;
    }
    let farm = farm(As::possible()[0]);
    let project = Project::copy(&farm);
    let build = project.bst("first", &["build", "nested.bst"]);
    build.assert(255, &["remoteApisSocketPath"]);
    leave(farm);
}

#[test]
fn an_interrupted_build_runs_nowhere() {
    if !has_buildstream("an_interrupted_build_runs_nowhere") {
        return;
    }
    let farm = farm(As::possible()[0]);
    let project = Project::copy(&farm);
    let build = project.start("first", &["build", "endless.bst"]);
    wait_for("the element's command", || {
        Process::running(farm.pid(), &ENDLESS).pop()
    });
    let bst = Pid::from_raw(i32::try_from(build.id()).expect("a process id"));
    kill(bst, Signal::SIGINT).expect("BuildStream is there");
    let ended: Ran = build.wait_with_output().expect("its end").into();
    assert_ne!(ended.code, Some(0), "{}", ended.text);
    wait_for_none("the element's command", || {
        Process::running(farm.pid(), &ENDLESS)
    });
    leave(farm);
}

/// Kills a role of the farm while `slow.bst` is built, and returns when it is gone:
/// the command that it was killed under.
fn kill_while_building(farm: &Farm, role: &str) -> Process {
    let command = wait_for("the element's command", || {
        Process::running(farm.pid(), &SLOW).pop()
    });
    let role = farm.role(role);
    kill(Pid::from_raw(role.pid), Signal::SIGKILL).expect("it is there");
    wait_for("its end", || (!role.is_there()).then_some(()));
    command
}

#[test]
fn a_build_goes_on_when_worker_and_runner_are_killed() {
    if !has_buildstream("a_build_goes_on_when_worker_and_runner_are_killed") {
        return;
    }
    let farm = farm(As::possible()[0]);
    let project = Project::copy(&farm);
    let build = project.start("first", &["build", "slow.bst"]);
    for role in ["worker", "runner"] {
        // What it did dies with it, and is begun once more.
        let command = kill_while_building(&farm, role);
        wait_for("its end", || (!command.is_there()).then_some(()));
    }
    let ended: Ran = build.wait_with_output().expect("its end").into();
    ended.assert(0, &[]);
    // The worker that lost its runner said so, which counts.
    let built = "BuildStream 2.8.1: slow.bst through kills of worker and runner";
    farm.assert_executed(0, 2, built);
    leave(farm);
}

#[test]
fn a_build_goes_on_when_the_scheduler_is_killed_and_nothing_runs_twice() {
    let name = "a_build_goes_on_when_the_scheduler_is_killed_and_nothing_runs_twice";
    if !has_buildstream(name) {
        return;
    }
    let farm = setup(As::possible()[0])
        .environment("HAYLOFT_LOG", "info,worker=debug")
        .start();
    let project = Project::copy(&farm);
    let build = project.start("first", &["build", "slow.bst"]);
    kill_while_building(&farm, "scheduler");
    let ended: Ran = build.wait_with_output().expect("its end").into();
    let ended = ended.assert(0, &[]);
    assert!(
        farm.log().contains("adopted what a worker executes"),
        "{}",
        ended.text
    );
    farm.assert_executed(
        0,
        1,
        "BuildStream 2.8.1: slow.bst through a kill of the scheduler",
    );
    leave(farm);
}
