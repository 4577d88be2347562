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

/// Where the policy gives the filter up, a namespace can be made, and what is mounted
/// there stays there: the rest of the layers holds.
#[test]
fn where_policy_allows_namespaces_they_can_be_made() {
    let who = tests::user::As::PlainUser;
    let place = crate::lone_runner::Place::new(who);
    let script = "unshare --user --net --ipc true && echo made; \
         unshare --user --mount mount -t tmpfs none /tmp && echo mounted; true";
    let words = ["/bin/sh", "-c", script].map(str::to_owned);
    for (without, printed) in [(&["seccomp"][..], "made\n"), (&[], "")] {
        let mut runner = place
            .start(without, &serde_json::json!({}))
            .expect("the runner starts");
        let (_, output) = runner.run(&words).expect("the command runs");
        // Landlock forbids every mount.
        assert_eq!(output, printed);
    }
}
