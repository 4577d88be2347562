//! Attack 46: an action sets the clock.

use crate::attack::{Attack, refused_on_both_farms};

pub const ATTACK: Attack = Attack {
    number: 46,
    what: "setting the clock",
    words: &["attack-46"],
    rights: &[],
    refusals: &["EPERM"],
};

refused_on_both_farms!();
