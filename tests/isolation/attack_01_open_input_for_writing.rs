//! Attack 1: an action opens an input for writing, by its name and again by a
//! descriptor it had opened for reading or as a place only.

use tests::user::As;

use crate::arena::{assert_refused, assert_succeeded, on_both_farms};
use crate::attack::Attack;
use crate::inputs;

/// As it is made under every set of layers.
pub const ATTACK: Attack = Attack {
    number: 1,
    what: "opening an input for writing",
    words: &["attack-01", "{inputs}"],
    rights: &[],
    refusals: &[],
};

on_both_farms!(attack);

fn attack(who: As) {
    let (attempts, _) = inputs::attack(who, &["attack-01"], None);
    if who == As::Root {
        assert_refused(&attempts, &["EACCES", "EROFS"], &[]);
    }
}

#[test]
fn control_unprotected_files_are_overwritten() {
    assert_succeeded(&inputs::unprotected(&["attack-01"], 0o644), &[]);
}
