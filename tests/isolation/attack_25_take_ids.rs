//! Attack 25: an action takes other users' and groups' ids, or capabilities.

use crate::attack::{Attack, refused_on_both_farms};

pub const ATTACK: Attack = Attack {
    number: 25,
    what: "setuid, setgroups, capset, giving files away",
    words: &["attack-25"],
    rights: &[],
    refusals: &["EPERM", "EINVAL", "EACCES"],
};

refused_on_both_farms!();
