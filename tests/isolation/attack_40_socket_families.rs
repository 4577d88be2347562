//! Attack 40: an action makes sockets of families that reach the hypervisor, the kernel's
//! announcements, its ciphers, or devices.

use crate::attack::{Attack, refused_on_both_farms};

pub const ATTACK: Attack = Attack {
    number: 40,
    what: "vsock, uevent and netfilter netlink, AF_ALG, Bluetooth and other families",
    words: &["attack-40"],
    rights: &[],
    refusals: &["EPERM"],
};

refused_on_both_farms!();

#[test]
fn control_it_succeeds_without_sandbox() {
    ATTACK.succeeds_without_sandbox(&["uevent"]);
}
