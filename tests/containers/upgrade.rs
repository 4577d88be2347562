//! A newer runner, installed beside one that runs.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

use crate::can_run;
use crate::farm::Farm;
use crate::load::{Load, When};

#[test]
fn a_runner_is_replaced_under_load_and_no_action_is_lost() {
    if !can_run("a_runner_is_replaced_under_load_and_no_action_is_lost") {
        return;
    }
    let farm = Farm::start("rbe-ubuntu1604");
    let place = farm.engine().printed([
        "volume",
        "inspect",
        "--format={{.Mountpoint}}",
        &farm.volume("bb"),
    ]);
    let runner = PathBuf::from(place).join("bb_runner");
    let there = || fs::metadata(&runner).expect("the runner");
    let load = Load::start(&farm, &farm.platform(), When::Never);
    // The same again changes nothing.
    let first = there().ino();
    let _ = farm
        .run_once("installer")
        .assert(0, &["bb_runner", "there already"]);
    assert_eq!(there().ino(), first);
    // Another version: what is there now is not what the image has.
    fs::set_permissions(&runner, fs::Permissions::from_mode(0o755)).expect("a mode");
    let _ = farm.run_once("installer").assert(0, &["replaced"]);
    assert_ne!(there().ino(), first);
    assert_eq!(there().mode() & 0o7777, 0o555);
    // The old one runs on, until it is told to stop.
    load.goes_on();
    assert_eq!(farm.stop("runner"), 0);
    farm.start_again("runner");
    load.goes_on();
    load.end();
}
