//! Attack 53: an action forges its result, or stops its reaper: pid 1 of its namespace. The
//! kernel keeps a namespace's first process from signals sent within; that they had
//! no effect shows in the exit code.

use crate::attack::{Attack, refused_on_both_farms};

pub const ATTACK: Attack = Attack {
    number: 53,
    what: "stopping or imitating the process that reports its end",
    words: &["attack-53"],
    rights: &["signal"],
    refusals: &["EPERM", "EACCES", "ENOENT", "ESRCH", "EINVAL"],
};

refused_on_both_farms!();
