//! Attack 28: an action leaves its root: chroot, `..`, descriptors and working directories
//! that lead out (CVE-2024-21626).

use crate::attack::{Attack, refused_on_both_farms};

pub const ATTACK: Attack = Attack {
    number: 28,
    what: "chroot and fchdir, `..` above the root, leaked descriptors and working directories (CVE-2024-21626)",
    words: &["attack-28", "{file}"],
    rights: &[],
    refusals: &["EPERM", "EACCES", "ENOENT", "ENOTDIR"],
};

refused_on_both_farms!();

#[test]
fn control_it_succeeds_without_sandbox() {
    ATTACK.succeeds_without_sandbox(&["climb"]);
}
