//! Attack 36: an action enters the kernel by its other doors, where the same calls have other
//! numbers: x32, and i386's interrupt, which is met with death.

use crate::attack::{Attack, refused_on_both_farms};

pub const ATTACK: Attack = Attack {
    number: 36,
    what: "system calls by the x32 and i386 entries",
    words: &["attack-36"],
    rights: &[],
    refusals: &["ENOSYS", "EINTR", "EPERM"],
};

refused_on_both_farms!();
