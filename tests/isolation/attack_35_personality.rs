//! Attack 35: an action takes a personality that weakens it or calls for seldom used code.
//! Without address randomisation it may run: debuggers do.

use crate::attack::{Attack, refused_on_both_farms};

pub const ATTACK: Attack = Attack {
    number: 35,
    what: "personality: READ_IMPLIES_EXEC, page zero, foreign ABIs",
    words: &["attack-35"],
    rights: &["no randomisation"],
    refusals: &["EPERM"],
};

refused_on_both_farms!();

#[test]
fn control_it_succeeds_without_sandbox() {
    ATTACK.succeeds_without_sandbox(&["read implies exec", "foreign"]);
}
