//! Attack 13: an action traces the farm's processes or another action's, reads
//! their memory, takes their descriptors. Its own it may trace: debuggers and
//! sanitizers do.

use tests::user::As;

use crate::arena::{Arena, Bystander, assert_refused, assert_succeeded, control, on_both_farms};
use crate::attack::Attack;

/// As it is made under every set of layers.
pub const ATTACK: Attack = Attack {
    number: 13,
    what: "ptrace, process_vm_readv, pidfd_getfd of others",
    words: &["attack-13", "{victim}"],
    rights: &[
        "process_vm_readv own",
        "pidfd_open own",
        "pidfd_getfd own",
        "seize own",
    ],
    refusals: &[],
};

on_both_farms!(attack);

fn attack(who: As) {
    let arena = Arena::new(who);
    let sibling = arena.sibling(&[]);
    let pids = arena.pids();

    let words: Vec<_> = pids.iter().map(String::as_str).collect();
    let mut attempts = arena.attack(&[&["attack-13"], &words[..]].concat());
    for how in ["process_vm_readv", "pidfd_open", "pidfd_getfd", "seize"] {
        let own = attempts.remove(&format!("{how} own"));
        assert_eq!(own.as_deref(), Some("OK"), "{how} within the action");
    }
    assert!(attempts.contains_key(&format!("seize {}", sibling.process.pid)));
    assert_refused(&attempts, &["ESRCH", "EPERM"], &[]);

    sibling.leave();
    arena.leave();
}

#[test]
fn control_an_unprotected_process_is_traced() {
    let who = As::PlainUser;
    let folder = who.folder();
    let bystander = Bystander::start(who, &["victim"], folder.path(), &[]);
    let attempts = control(who, &["attack-13", &bystander.word], folder.path());
    assert_succeeded(&attempts, &[]);
    assert!(attempts.contains_key(&format!("process_vm_readv {}", bystander.pid())));
    bystander.end();
}
