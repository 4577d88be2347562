//! Attack 22: an action opens the runner's own program, through the process that runs it, to
//! read, to write and to run it (CVE-2019-5736).

use crate::attack::{Attack, refused_on_both_farms};

pub const ATTACK: Attack = Attack {
    number: 22,
    what: "the runner's own program, through /proc/PID/exe (CVE-2019-5736)",
    words: &["attack-22", "{pid}"],
    rights: &[],
    refusals: &["EACCES", "EPERM", "ENOENT"],
};

refused_on_both_farms!();

#[test]
fn control_it_succeeds_without_sandbox() {
    ATTACK.succeeds_without_sandbox(&["read /proc/", "execute /proc/"]);
}
