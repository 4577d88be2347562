//! Attack 26: an action makes namespaces of its own, for what is allowed in them: netfilter
//! (CVE-2016-3135, CVE-2024-1086) and mounts.

use crate::attack::{Attack, refused_on_both_farms};

pub const ATTACK: Attack = Attack {
    number: 26,
    what: "namespaces of its own, and netfilter or mounts in them (CVE-2016-3135, CVE-2024-1086)",
    words: &["attack-26"],
    rights: &[],
    refusals: &["EPERM", "ENOSYS", "EINVAL"],
};

refused_on_both_farms!();

#[test]
fn control_it_succeeds_without_sandbox() {
    ATTACK.succeeds_without_sandbox(&["unshare user", "clone user", "netfilter in", "mount in"]);
}
