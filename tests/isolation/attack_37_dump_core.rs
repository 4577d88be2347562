//! Attack 37: an action leaves a core file, or raises the limit that keeps it from
//! that.

use crate::attack::{Attack, refused_on_both_farms};

const ATTACK: Attack = Attack {
    number: 37,
    what: "core files",
    words: &["attack-37"],
    rights: &[],
    refusals: &["EPERM", "ENOENT"],
};

refused_on_both_farms!();
