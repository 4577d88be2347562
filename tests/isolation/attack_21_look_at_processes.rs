//! Attack 21: an action looks into the farm's processes and another action's by
//! `/proc`: root, working directory, descriptors, memory, environment. The farm's
//! environment holds a secret.

use tests::farm::Setup;
use tests::user::As;

use crate::arena::{Arena, Attempts, Bystander, assert_refused, control, on_both_farms};
use crate::attack::Attack;

/// As it is made under every set of layers.
pub const ATTACK: Attack = Attack {
    number: 21,
    what: "root, working directory, memory, environment of other processes in /proc",
    words: &["attack-21", "{secret}", "{pid}"],
    rights: &[],
    refusals: &[],
};

on_both_farms!(attack);

fn attack(who: As) {
    let secret = tests::secret();
    let arena = Arena::of(who, Setup::new(who).environment("SECRET", &secret));
    let sibling = arena.sibling(&[]);
    let pids = arena.pids();

    let words: Vec<_> = pids.iter().map(String::as_str).collect();
    let attempts = arena.attack(&[&["attack-21", &secret], &words[..]].concat());
    let (others, own) = split(attempts);
    for pid in &pids {
        assert_eq!(others[&format!("write /proc/{pid}/mem")], "ENOENT");
    }
    assert_refused(&others, &["ENOENT"], &[]);

    // Besides itself it sees its reaper, and cannot look into that either.
    let visible: Vec<_> = own
        .keys()
        .filter(|name| name.starts_with("visible"))
        .collect();
    assert_eq!(visible, ["visible 1"], "{own:#?}");
    assert_eq!(own["secret of its own"], "no");
    assert_eq!(own["secret of 1"], "no");
    let refusals = ["EACCES", "EPERM", "ENOENT"];
    assert_refused(&own, &refusals, &["visible", "secret"]);

    sibling.leave();
    arena.leave();
}

/// What was tried at processes of the host, and at those that are visible.
fn split(attempts: Attempts) -> (Attempts, Attempts) {
    attempts
        .into_iter()
        .partition(|(name, _)| name.contains("/proc/") && !name.contains("/proc/1/"))
}

#[test]
fn control_an_unprotected_process_is_looked_into() {
    let who = As::PlainUser;
    let folder = who.folder();
    let secret = tests::secret();
    let environment = [("SECRET", secret.as_str())];
    let bystander = Bystander::start(who, &["victim"], folder.path(), &environment);
    let attempts = control(
        who,
        &["attack-21", &secret, &bystander.pid()],
        folder.path(),
    );
    let place = format!("/proc/{}", bystander.pid());
    for what in [
        "open {}/root",
        "open {}/cwd",
        "list {}/fd",
        "read {}/environ",
        "write {}/mem",
    ] {
        assert_eq!(attempts[&what.replace("{}", &place)], "OK", "{what}");
    }
    assert_eq!(attempts[&format!("secret of {}", bystander.pid())], "OK");
    bystander.end();
}
