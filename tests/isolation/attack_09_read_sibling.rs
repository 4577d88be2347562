//! Attack 9: an action reads what another one that runs at the same time has in
//! its build directory.

use tests::user::As;

use crate::arena::{Arena, files_named, on_both_farms};
use crate::attack::Attack;
use crate::attack_08_read_blob_of_another_action::assert_hidden;

/// As it is made under every set of layers.
pub const ATTACK: Attack = Attack {
    number: 9,
    what: "another action's build directory",
    words: &["attack-09", "{secret}", "{folder}", "{file}"],
    rights: &[],
    refusals: &[],
};

on_both_farms!(attack);

fn attack(who: As) {
    let arena = Arena::new(who);
    let sibling = arena.sibling(&[]);
    let found = files_named(arena.farm.directory(), &sibling.secret);
    assert!(!found.is_empty(), "the sibling's files are nowhere");
    let paths: Vec<_> = found
        .iter()
        .map(|path| path.to_str().expect("UTF-8"))
        .collect();

    let attempts = arena.attack(&[&["attack-09", &sibling.secret, "/"], &paths[..]].concat());
    assert_hidden(&attempts, &paths);

    // Root's farm gives each action a user; root itself can read them all.
    let start = arena.farm.directory().to_str().expect("UTF-8");
    let control = [&["attack-09", &sibling.secret, start], &paths[..]].concat();
    let attempts = arena.control(&control, who.folder().path());
    for path in paths {
        assert_eq!(attempts[&format!("open {path}")], "OK");
        assert_eq!(attempts[&format!("found {path}")], "OK");
    }
    sibling.leave();
    arena.leave();
}
