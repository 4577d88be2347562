//! Attack 32: an action opens a file of the host by its handle ("shocker").

use crate::attack::{Attack, refused_on_both_farms};

pub const ATTACK: Attack = Attack {
    number: 32,
    what: "open_by_handle_at (shocker)",
    words: &["attack-32"],
    rights: &[],
    refusals: &["EPERM"],
};

refused_on_both_farms!();

#[test]
fn control_it_succeeds_without_sandbox() {
    ATTACK.succeeds_without_sandbox(&["reach open_by_handle_at"]);
}
