//! Attack 33: an action types into a terminal (CVE-2017-5226), the number of the control
//! hidden in 64 bits (CVE-2019-10063) too. It has none; on one of its own the filter
//! shows.

use crate::attack::{Attack, refused_on_both_farms};

pub const ATTACK: Attack = Attack {
    number: 33,
    what: "TIOCSTI, TIOCLINUX, line disciplines (CVE-2017-5226, CVE-2019-10063)",
    words: &["attack-33"],
    rights: &[],
    refusals: &["EPERM", "ENXIO", "ENOTTY", "EACCES"],
};

refused_on_both_farms!();
