//! Attack 2: an action makes an input writable, by name, by descriptor and by
//! place, and then writes to it.

use tests::user::As;

use crate::arena::{assert_refused, assert_succeeded, on_both_farms};
use crate::attack::Attack;
use crate::inputs;

/// As it is made under every set of layers.
pub const ATTACK: Attack = Attack {
    number: 2,
    what: "chmod of an input, by name, descriptor and `O_PATH`",
    words: &["attack-02", "{inputs}"],
    rights: &[],
    refusals: &[],
};

on_both_farms!(attack);

fn attack(who: As) {
    let (attempts, _) = inputs::attack(who, &["attack-02"], None);
    if who == As::Root {
        // Linux has fchmodat2 since 6.6.
        assert_refused(&attempts, &["EPERM", "EACCES", "EROFS", "ENOSYS"], &[]);
    }
}

#[test]
fn control_unprotected_files_are_made_writable() {
    let attempts = inputs::unprotected(&["attack-02"], 0o444);
    assert_succeeded(&attempts, &[("fchmodat2", &["ENOSYS"])]);
}
