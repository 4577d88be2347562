//! Attack 12: an action signals the farm's processes, another action's, and all
//! that it can reach.

use std::fs;

use nix::sys::signal::Signal;
use tests::farm::ROLES;
use tests::user::As;

use crate::arena::{Arena, Bystander, assert_refused, assert_succeeded, control, on_both_farms};
use crate::attack::Attack;

/// As it is made under every set of layers.
pub const ATTACK: Attack = Attack {
    number: 12,
    what: "signals to the runner, the worker, other actions",
    words: &["attack-12", "{pid}"],
    rights: &[],
    refusals: &[],
};

on_both_farms!(attack);

fn attack(who: As) {
    let arena = Arena::new(who);
    let sibling = arena.sibling(&[]);
    let roles = ROLES.map(|role| arena.farm.role(role));
    let pids = arena.pids();

    let words: Vec<_> = pids.iter().map(String::as_str).collect();
    let attempts = arena.attack(&[&["attack-12"], &words[..]].concat());
    assert!(attempts.contains_key(&format!("kill {}", sibling.process.pid)));
    assert_refused(&attempts, &["ESRCH", "EPERM"], &[]);

    // All that it can reach is its own.
    let namespace = fs::read_link("/proc/self/ns/pid").expect("a namespace");
    let attempts = arena.attack(&["attack-12-everyone", namespace.to_str().expect("UTF-8")]);
    assert_eq!(attempts["kill everyone"], "OK");
    assert_eq!(attempts["bystander"], "OK");

    for role in &roles {
        assert!(role.is_there(), "{role:?} is gone");
    }
    sibling.leave();
    arena.leave();
}

#[test]
fn control_an_unprotected_process_is_killed() {
    let who = As::PlainUser;
    let folder = who.folder();
    let bystander = Bystander::start(who, &["victim"], folder.path(), &[]);
    let attempts = control(who, &["attack-12", &bystander.pid()], folder.path());
    assert_succeeded(&attempts, &[]);
    assert_eq!(bystander.end(), Some(Signal::SIGKILL as i32));
}
