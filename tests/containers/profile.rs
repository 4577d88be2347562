//! A runner in a container that does not have the options of the examples.

use crate::can_run;
use crate::farm::Farm;

#[test]
fn what_a_container_lacks_is_named() {
    if !can_run("what_a_container_lacks_is_named") {
        return;
    }
    let farm = Farm::start("rbe-ubuntu1604");
    // Its socket is the others' too.
    assert_eq!(farm.stop("runner"), 0);
    for (lacking, said) in [
        (
            "seccomp",
            "run the container with --security-opt seccomp=deploy/seccomp-hayloft.json",
        ),
        (
            "systempaths",
            "run the container with --security-opt systempaths=unconfined",
        ),
    ] {
        let _ = farm.run_runner_without(lacking).assert(1, &[said]);
    }
}
