//! Attack 31: an action uses the kernel's keyrings, which users who are the same outside
//! share.

use crate::attack::{Attack, refused_on_both_farms};

pub const ATTACK: Attack = Attack {
    number: 31,
    what: "keyrings of the user and the session",
    words: &["attack-31"],
    rights: &[],
    refusals: &["EPERM", "ENODATA", "EACCES", "ENOENT"],
};

refused_on_both_farms!();

#[test]
fn control_it_succeeds_without_sandbox() {
    ATTACK.succeeds_without_sandbox(&["add_key", "keyctl"]);
}
