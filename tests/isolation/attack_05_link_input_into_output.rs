//! Attack 5: an action gets an input into its output folder by a link or by a
//! rename, and writes to it there. Renaming within its own tree is its right; the
//! output is then the cached inode itself, and the worker uploads it from there.

use bytes::Bytes;
use prost::Message;
use proto::wire::rev2;
use tests::user::As;

use crate::arena::{Arena, assert_refused, assert_succeeded, on_both_farms};
use crate::attack::Attack;
use crate::inputs;

/// As it is made under every set of layers.
pub const ATTACK: Attack = Attack {
    number: 5,
    what: "linking an input into an output and writing to it there",
    words: &["attack-05", "out", "{inputs}"],
    rights: &["rename"],
    refusals: &[],
};

on_both_farms!(attack);

fn attack(who: As) {
    let (attempts, outcome) = inputs::attack(who, &["attack-05", "out"], Some("out"));
    assert_eq!(outcome.result.output_directories.len(), 1, "{outcome:#?}");
    for file in inputs::FILES {
        assert_eq!(attempts[&format!("rename {file}")], "OK");
    }
    if who == As::Root {
        // A link by descriptor needs CAP_DAC_READ_SEARCH (open(2)): ENOENT.
        let refusals = ["EPERM", "EACCES", "EXDEV", "EROFS", "ENOENT"];
        assert_refused(&attempts, &refusals, &["rename"]);
    }
}

/// A renamed input is an output like any other: it arrives with its bytes, and
/// the cached file is what it was.
fn rename(who: As) {
    let arena = Arena::new(who);
    let text = Bytes::from_static(b"moved, not changed\n");
    let tree = tests::tree::Tree::new()
        .file("text", text.clone())
        .folder("out");
    let action = tests::action::Action::shell("mv text out/moved; mv probe out/probe")
        .tree(&tree.executable("probe", arena.probe()))
        .output("out");
    let first = arena.run(&action.clone().do_not_cache());
    let seal = tests::seal::Seal::record(&arena.farm.cache());
    let again = arena.run(&action.do_not_cache());
    seal.check();
    for outcome in [first, again] {
        let tree = outcome.result.output_directories[0].tree_digest.as_ref();
        let tree = arena.farm.client().fetch(tree.expect("a tree"));
        let root = rev2::Tree::decode(tree)
            .expect("a Tree")
            .root
            .expect("a root");
        let [moved, probe] = &root.files[..] else {
            panic!("{root:?}");
        };
        let fetch = |file: &rev2::FileNode| {
            let digest = file.digest.as_ref().expect("a digest");
            arena.farm.client().fetch(digest)
        };
        assert_eq!(
            (&*moved.name, moved.is_executable, fetch(moved)),
            ("moved", false, text.clone())
        );
        assert!(probe.is_executable && fetch(probe) == arena.probe());
    }
    arena.leave();
}

mod renamed_input {
    use super::{on_both_farms, rename};

    on_both_farms!(rename);
}

#[test]
fn control_unprotected_files_are_linked_and_overwritten() {
    let attempts = inputs::unprotected(&["attack-05", "out"], 0o444);
    assert_succeeded(&attempts, &[("link by fd", &["ENOENT"])]);
}
