//! Attack 4: an action changes an input's bytes or size without write(2):
//! truncate, fallocate, shared mappings, its own memory file.

use tests::user::As;

use crate::arena::{assert_refused, assert_succeeded, on_both_farms};
use crate::attack::Attack;
use crate::inputs;

/// As it is made under every set of layers.
pub const ATTACK: Attack = Attack {
    number: 4,
    what: "truncate, fallocate, shared mappings of an input; pipes (CVE-2022-0847)",
    words: &["attack-04", "{inputs}"],
    rights: &[],
    refusals: &[],
};

on_both_farms!(attack);

fn attack(who: As) {
    let (attempts, _) = inputs::attack(who, &["attack-04"], None);
    if who == As::Root {
        // A descriptor for reading is none for writing whoever has it: EBADF,
        // EINVAL, and EIO or EFAULT for memory that may not be written.
        let refusals = [
            "EACCES", "EPERM", "EROFS", "EBADF", "EINVAL", "EIO", "EFAULT",
        ];
        assert_refused(&attempts, &refusals, &[]);
    }
}

#[test]
fn control_unprotected_files_are_changed() {
    let mut attempts = inputs::unprotected(&["attack-04"], 0o444);
    // What is tried by a descriptor for reading fails everywhere.
    attempts.retain(|name, _| {
        let only_read = ["mprotect", "/proc", "pipe"];
        !name.contains("read-only") && !only_read.iter().any(|how| name.starts_with(how))
    });
    let none: &[&str] = &["EOPNOTSUPP"];
    assert_succeeded(&attempts, &[("punch", none), ("fallocate", none)]);
}
