//! Attack 3: an action changes an input's owner, times, extended attributes,
//! access control list or flags: Landlock mediates none of these.

use tests::user::As;

use crate::arena::{assert_refused, assert_succeeded, on_both_farms};
use crate::attack::Attack;
use crate::inputs;

/// As it is made under every set of layers.
pub const ATTACK: Attack = Attack {
    number: 3,
    what: "owner, times, xattrs, ACL and flags of an input",
    words: &["attack-03", "{inputs}"],
    rights: &[],
    refusals: &[],
};

on_both_farms!(attack);

fn attack(who: As) {
    let (attempts, _) = inputs::attack(who, &["attack-03"], None);
    if who == As::Root {
        let refusals = ["EPERM", "EACCES", "EROFS", "EOPNOTSUPP", "ENOTTY"];
        assert_refused(&attempts, &refusals, &[]);
    }
}

#[test]
fn control_unprotected_files_are_changed() {
    // Not every file system has lists and flags.
    let none: &[&str] = &["EOPNOTSUPP", "ENOTTY"];
    let attempts = inputs::unprotected(&["attack-03"], 0o644);
    let missing = ["setxattr", "fsetxattr", "acl", "facl", "flags"].map(|name| (name, none));
    assert_succeeded(&attempts, &missing);
}
