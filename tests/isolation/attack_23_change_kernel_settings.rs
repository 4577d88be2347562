//! Attack 23: an action writes to the settings of the kernel that would run a program of its
//! choice on the host, or that rule the machine.

use crate::attack::{Attack, refused_on_both_farms};

pub const ATTACK: Attack = Attack {
    number: 23,
    what: "settings of the kernel: core_pattern, sysrq-trigger, uevent_helper, binfmt_misc, release_agent",
    words: &["attack-23"],
    rights: &[],
    refusals: &["EACCES", "EPERM", "ENOENT", "EROFS", "ENODEV"],
};

refused_on_both_farms!();
