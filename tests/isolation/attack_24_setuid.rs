//! Attack 24: an action has a program in its input root that asks to be setuid
//! and setgid, makes one itself, and runs both.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use tests::seal::Seal;
use tests::skip;
use tests::tree::Tree;
use tests::user::As;

use crate::arena::{Arena, Attempts, control, on_both_farms};
use crate::attack::Attack;

/// As it is made under every set of layers.
pub const ATTACK: Attack = Attack {
    number: 24,
    what: "a setuid-root program among the inputs",
    words: &["attack-24", "./setuid"],
    rights: &["chmod"],
    refusals: &[],
};

on_both_farms!(attack);

fn attack(who: As) {
    let arena = Arena::new(who);
    let tree = Tree::new().executable_of_mode("setuid", arena.probe(), 0o6755);
    let action = arena.action(&["attack-24", "./setuid"], &tree);
    let first = arena.run(&action).attempts();
    let seal = Seal::record(&arena.farm.cache());
    // What the action made setuid is an output now, and may be cached.
    let again = arena.run(&action.output("own-setuid")).attempts();
    seal.check();
    for attempts in [first, again] {
        assert_unprivileged(&attempts);
    }
    arena.leave();
}

fn assert_unprivileged(attempts: &Attempts) {
    let mode = u32::from_str_radix(&attempts["mode"], 8).expect("a mode");
    assert_eq!(mode & 0o7000, 0, "the input has mode {mode:o}");
    for program in ["input", "copy"] {
        assert_eq!(attempts[program], "1000 1000", "{attempts:#?}");
    }
    // A user that the namespace does not have is not even valid.
    let refused = ["EPERM", "EINVAL"].contains(&&*attempts["setresuid"]);
    assert!(refused, "{attempts:#?}");
    assert_eq!(attempts["NoNewPrivs"], "1");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(u64::from_str_radix(&attempts[set], 16), Ok(0), "{set}");
    }
    let mut folders = attempts
        .iter()
        .filter(|(name, _)| name.starts_with("nosuid"));
    assert!(folders.all(|(_, nosuid)| nosuid == "yes"), "{attempts:#?}");
}

#[test]
fn control_an_unprotected_setuid_program_gains_privilege() {
    if !skip::needs_root("control_an_unprotected_setuid_program_gains_privilege") {
        return;
    }
    let folder = As::PlainUser.folder();
    let setuid = folder.path().join("setuid");
    fs::copy(tests::program("probe"), &setuid).expect("a copy of the probe");
    fs::set_permissions(&setuid, Permissions::from_mode(0o4755)).expect("a setuid program");
    let attempts = control(As::PlainUser, &["attack-24", "./setuid"], folder.path());
    let (_, effective) = attempts["input"].split_once(' ').expect("two users");
    assert_eq!(effective, "0", "{attempts:#?}");
    assert_eq!(attempts["NoNewPrivs"], "0");
}
