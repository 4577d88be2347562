//! Attack 42: an action connects to unix sockets of the host that have a path.

use crate::attack::{Attack, refused_on_both_farms};

pub const ATTACK: Attack = Attack {
    number: 42,
    what: "unix sockets with a path: docker.sock, the runner's",
    words: &["attack-42", "{socket}"],
    rights: &[],
    refusals: &["ENOENT"],
};

refused_on_both_farms!();

#[test]
fn control_it_succeeds_without_sandbox() {
    ATTACK.succeeds_without_sandbox(&["stream"]);
}
