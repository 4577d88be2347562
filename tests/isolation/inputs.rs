//! What attacks 1 to 5 have in common: they are aimed at an action's own inputs.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use bytes::Bytes;
use proto::{Digest, DigestFunction};
use tests::action::Action;
use tests::client::Outcome;
use tests::elf;
use tests::seal::Seal;
use tests::tree::Tree;
use tests::user::As;

use crate::arena::{Arena, Attempts, control};

/// The inputs that are attacked: a file, a program, and a file in a folder.
pub const FILES: [&str; 3] = ["text", "tool", "folder/nested"];

/// Their contents.
pub fn targets() -> [(&'static str, Bytes); 3] {
    [
        ("text", Bytes::from_static(b"what every action is to see\n")),
        ("tool", elf::tiny(17, 1, 8192).into()),
        (
            "folder/nested",
            Bytes::from_static(b"and this too, further down\n"),
        ),
    ]
}

/// An input root that holds them.
pub fn tree() -> Tree {
    let [text, tool, nested] = targets();
    Tree::new()
        .file(text.0, text.1)
        .executable(tool.0, tool.1)
        .file(nested.0, nested.1)
        .folder("out")
}

/// Prints what an action sees of the inputs, runs the program, and tells how many
/// links each file has.
const LOOK: &str = "
    set -e
    for file in text tool folder/nested; do
        stat --format '%n %a %s %Y %u %g' $file
        sha256sum $file
    done
    ./tool || echo tool: $?
    stat --format '%h' text tool folder/nested >&2";

/// What an action sees of the inputs.
pub fn look(arena: &Arena) -> Outcome {
    arena.run(&Action::shell(LOOK).tree(&tree()).do_not_cache())
}

/// Attacks the inputs of an action and checks the seal and the next action's
/// inputs. Gives what was tried, and the action's outcome.
pub fn attack(who: As, words: &[&str], output: Option<&str>) -> (Attempts, Outcome) {
    let arena = Arena::new(who);
    let before = look(&arena);
    assert!(before.stdout.contains("tool: 17"), "{before:#?}");
    // What is attacked is what it is taken for.
    let links: Vec<u32> = before
        .stderr
        .lines()
        .map(|line| line.parse().expect("a number of links"))
        .collect();
    match who {
        As::Root | As::SubordinateUser => {
            assert!(links.iter().all(|links| *links > 1), "{links:?}")
        }
        As::PlainUser => assert!(links.iter().all(|links| *links == 1), "{links:?}"),
    }
    let seal = Seal::record(&arena.farm.cache());
    for (_, bytes) in targets() {
        // They are in the cache: there is something to protect.
        let _ = seal.file(&Digest::of(DigestFunction::Sha256, &bytes));
    }
    let words: Vec<_> = words.iter().chain(&FILES).copied().collect();
    let mut action = arena.action(&words, &tree());
    if let Some(output) = output {
        action = action.output(output);
    }
    let outcome = arena.run(&action);
    seal.check();
    let after = look(&arena);
    assert_eq!(
        before.stdout, after.stdout,
        "the next action's inputs differ"
    );
    seal.check();
    arena.leave();
    (outcome.attempts(), outcome)
}

/// Runs the probe on the host, on files like the inputs that belong to the plain
/// user who runs it, of this mode.
pub fn unprotected(words: &[&str], mode: u32) -> Attempts {
    let folder = As::PlainUser.folder();
    for name in ["folder", "out"] {
        fs::create_dir(folder.path().join(name)).expect("a folder");
        As::PlainUser.own(&folder.path().join(name));
    }
    for (name, bytes) in targets() {
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("a file");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("its mode");
        As::PlainUser.own(&path);
    }
    let words: Vec<_> = words.iter().chain(&FILES).copied().collect();
    control(As::PlainUser, &words, folder.path())
}
