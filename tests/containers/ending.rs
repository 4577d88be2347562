//! Containers that are told to stop while actions execute.

use crate::can_run;
use crate::farm::Farm;
use crate::load::{Load, When};

/// A worker finishes what it has, and a runner what the worker gave it. Nobody else
/// notices but by having to wait.
#[test]
fn workers_and_runners_told_to_stop_under_load_lose_no_action() {
    if !can_run("workers_and_runners_told_to_stop_under_load_lose_no_action") {
        return;
    }
    let farm = Farm::start("rbe-ubuntu1604");
    let load = Load::start(&farm, &farm.platform(), When::Never);
    for service in ["worker", "runner"] {
        assert_eq!(farm.stop(service), 0, "{service}");
        farm.start_again(service);
        load.goes_on();
    }
    load.end();
}

/// Clients lose their connections, and ask again as Bazel does.
#[test]
fn schedulers_told_to_stop_under_load_lose_no_action() {
    if !can_run("schedulers_told_to_stop_under_load_lose_no_action") {
        return;
    }
    let farm = Farm::start("rbe-ubuntu1604");
    let load = Load::start(&farm, &farm.platform(), When::Unavailable);
    assert_eq!(farm.stop("scheduler"), 0);
    farm.start_again("scheduler");
    load.goes_on();
    load.end();
}

#[test]
fn a_whole_farm_told_to_stop_under_load_loses_no_action() {
    if !can_run("a_whole_farm_told_to_stop_under_load_loses_no_action") {
        return;
    }
    let farm = Farm::start("hayloft");
    let load = Load::start(&farm, &[], When::Unavailable);
    assert_eq!(farm.stop("hayloft"), 0);
    farm.start_again("hayloft");
    load.goes_on();
    load.end();
}
