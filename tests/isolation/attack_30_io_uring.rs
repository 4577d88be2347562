//! Attack 30: an action sets io_uring up, whose calls no filter sees.

use crate::attack::{Attack, refused_on_both_farms};

pub const ATTACK: Attack = Attack {
    number: 30,
    what: "io_uring, whose calls pass filters unseen",
    words: &["attack-30"],
    rights: &[],
    refusals: &["EPERM"],
};

refused_on_both_farms!();

#[test]
fn control_it_succeeds_without_sandbox() {
    ATTACK.succeeds_without_sandbox(&["io_uring_setup"]);
}
