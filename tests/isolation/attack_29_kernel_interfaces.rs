//! Attack 29: an action calls on kernel interfaces with a history of holes, and on those that
//! rule the machine. Where the host refuses too, the filter has refused before.

use crate::attack::{Attack, refused_on_both_farms};

pub const ATTACK: Attack = Attack {
    number: 29,
    what: "bpf, perf, userfaultfd, fanotify, kexec, modules, ioperm, quota, swap, reboot",
    words: &["attack-29"],
    rights: &[],
    refusals: &["EPERM"],
};

refused_on_both_farms!();

#[test]
fn control_it_succeeds_without_sandbox() {
    ATTACK.succeeds_without_sandbox(&["reach bpf", "reach perf", "userfaultfd", "reach reboot"]);
}
