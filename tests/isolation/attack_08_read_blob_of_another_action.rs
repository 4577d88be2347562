//! Attack 8: an action reads a blob that is not in its input root: it knows the
//! digest, and guesses where the cache and the storage keep it.

use std::path::{Path, PathBuf};

use proto::{Digest, DigestFunction};
use tests::action::Action;
use tests::seal::Seal;
use tests::tree::Tree;
use tests::user::As;

use crate::arena::{Arena, on_both_farms};
use crate::attack::Attack;

/// As it is made under every set of layers.
pub const ATTACK: Attack = Attack {
    number: 8,
    what: "a blob that is no input, by its path in the cache",
    words: &["attack-08", "{secret}", "{folder}", "{file}"],
    rights: &[],
    refusals: &[],
};

on_both_farms!(attack);

fn attack(who: As) {
    let arena = Arena::new(who);
    let secret = tests::secret();
    let digest = Digest::of(DigestFunction::Sha256, secret.as_bytes());
    let owner = Action::shell("cat blob").tree(&Tree::new().file("blob", secret.clone()));
    assert_eq!(arena.run(&owner).stdout, secret);
    let seal = Seal::record(&arena.farm.cache());
    let cached = seal.file(&digest);
    let stored = stored(arena.farm.directory(), &digest);
    let paths = [&cached, &stored].map(|path| path.to_str().expect("UTF-8"));

    let attempts = arena.attack(&[&["attack-08", &secret, "/"], &paths[..]].concat());
    assert_hidden(&attempts, &paths);
    seal.check();

    let start = arena.farm.directory().to_str().expect("UTF-8");
    let control = [&["attack-08", &secret, start], &paths[..]].concat();
    let attempts = arena.control(&control, who.folder().path());
    for path in paths {
        assert_eq!(attempts[&format!("open {path}")], "OK");
        assert_eq!(attempts[&format!("found {path}")], "OK");
    }
    arena.leave();
}

/// Checks that a search saw nothing: not that there is something it may not open,
/// but that there is nothing.
pub fn assert_hidden(attempts: &crate::arena::Attempts, paths: &[&str]) {
    for path in paths {
        assert_eq!(attempts[&format!("open {path}")], "ENOENT", "{attempts:#?}");
    }
    for (name, result) in attempts {
        // The reaper's root may be known to be there, but not be entered.
        let closed = name.starts_with("open /proc/1/") && result == "EACCES";
        let done = name == "search" && result == "nothing";
        assert!(closed || done || result == "ENOENT", "{name}: {result}");
    }
    assert_eq!(attempts["search"], "nothing");
}

/// Where the embedded storage keeps a blob.
fn stored(directory: &Path, digest: &Digest) -> PathBuf {
    walkdir::WalkDir::new(directory.join("storage"))
        .into_iter()
        .flatten()
        .filter(|entry| entry.file_type().is_file())
        .find(|entry| {
            std::fs::read(entry.path())
                .is_ok_and(|bytes| Digest::of(DigestFunction::Sha256, &bytes) == *digest)
        })
        .expect("the storage keeps the blob in a file")
        .into_path()
}
