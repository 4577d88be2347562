//! Attack 39: an action sends datagrams to the host and outside, pings, and makes packets of
//! its own.

use crate::attack::{Attack, refused_on_both_farms};

pub const ATTACK: Attack = Attack {
    number: 39,
    what: "datagrams, broadcast, ping, raw and packet sockets to the outside",
    words: &[
        "attack-39",
        "{udp}",
        "192.0.2.1:9",
        "169.254.169.254:80",
        "255.255.255.255:9",
        "224.0.0.1:9",
        "[2001:db8::1]:9",
    ],
    rights: &[],
    refusals: &[
        "EPERM",
        "ENETUNREACH",
        "EACCES",
        "ECONNREFUSED",
        "EADDRNOTAVAIL",
        "EPROTONOSUPPORT",
    ],
};

refused_on_both_farms!();

#[test]
fn control_it_succeeds_without_sandbox() {
    ATTACK.succeeds_without_sandbox(&["send to 127.0.0.1"]);
}
