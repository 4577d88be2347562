//! Attack 44: an action has descriptors that it was not given, or ones that are more than a
//! file.

use crate::attack::{Attack, refused_on_both_farms};

pub const ATTACK: Attack = Attack {
    number: 44,
    what: "descriptors that it was not given",
    words: &["attack-44"],
    rights: &[],
    refusals: &["EBADF", "ENOTDIR", "ENOTSOCK"],
};

refused_on_both_farms!();
