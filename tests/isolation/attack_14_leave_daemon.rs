//! Attack 14: an action leaves daemons behind, in sessions of their own and with
//! its standard output in hand, that ignore every signal, are stopped, or are in
//! the midst of vfork.

use std::fs::File;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::processes::Process;
use tests::user::As;
use tests::wait::wait_for_none;

use crate::arena::{Arena, assert_succeeded, on_both_farms};
use crate::attack::Attack;

/// As it is made under every set of layers.
pub const ATTACK: Attack = Attack {
    number: 14,
    what: "daemons that ignore signals, are stopped, or are in vfork",
    words: &["attack-14", "{marker}"],
    rights: &["daemon"],
    refusals: &[],
};

on_both_farms!(attack);

fn attack(who: As) {
    let arena = Arena::new(who);
    let marker = tests::secret();
    // The daemons are up before the action ends…
    let attempts = arena.attack(&["attack-14", &marker]);
    assert_eq!(attempts.len(), 3);
    assert_succeeded(&attempts, &[]);
    // …and gone when its end is known, though they hold its standard output.
    let left = Process::mentioning(&marker);
    assert!(left.is_empty(), "{left:#?}");
    arena.leave();
}

#[test]
fn control_unprotected_daemons_live_on() {
    let who = As::PlainUser;
    let folder = who.folder();
    let marker = tests::secret();
    let status = who
        .command("probe", folder.path())
        .args(["attack-14", &marker])
        .current_dir(folder.path())
        .stdout(File::create(folder.path().join("log")).expect("a log"))
        .status()
        .expect("the probe runs");
    assert!(status.success());
    // The one in the midst of vfork is two, or soon will be.
    let left = Process::mentioning(&marker);
    assert!(left.len() >= 3, "{left:#?}");
    wait_for_none("daemons", || {
        let left = Process::mentioning(&marker);
        for process in &left {
            // It may have ended since it was found.
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        left
    });
}
