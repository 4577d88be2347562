//! Attack 34: an action reads the kernel's log and memory, opens devices of the host, and
//! makes device nodes.

use crate::attack::{Attack, refused_on_both_farms};

pub const ATTACK: Attack = Attack {
    number: 34,
    what: "/dev/kmsg, /dev/mem, disks, mknod, dmesg",
    words: &["attack-34"],
    rights: &["mknod null"],
    refusals: &["EPERM", "EACCES", "ENOENT", "ENODEV", "EROFS"],
};

refused_on_both_farms!();
