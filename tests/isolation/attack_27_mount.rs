//! Attack 27: an action changes what is mounted, or mounts control groups for their
//! release_agent.

use crate::attack::{Attack, refused_on_both_farms};

pub const ATTACK: Attack = Attack {
    number: 27,
    what: "mount, remount, umount, pivot_root and the new mount calls; control groups (release_agent)",
    words: &["attack-27"],
    rights: &[],
    refusals: &["EPERM", "EACCES", "EROFS", "ENOENT"],
};

refused_on_both_farms!();
