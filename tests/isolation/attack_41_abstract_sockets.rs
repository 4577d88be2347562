//! Attack 41: an action connects to an abstract unix socket of the host.

use crate::attack::{Attack, refused_on_both_farms};

pub const ATTACK: Attack = Attack {
    number: 41,
    what: "abstract unix sockets of the host",
    words: &["attack-41", "{name}"],
    rights: &[],
    refusals: &["ECONNREFUSED", "EPERM"],
};

refused_on_both_farms!();

#[test]
fn control_it_succeeds_without_sandbox() {
    ATTACK.succeeds_without_sandbox(&["stream"]);
}
