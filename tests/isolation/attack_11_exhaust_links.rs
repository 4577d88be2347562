//! Attack 11: a file has as many links as its file system allows (65,000 on ext4),
//! by actions that all have it as an input. The next action that has it runs.

use nix::errno::Errno;
use proto::{Digest, DigestFunction};
use tests::action::Action;
use tests::seal::Seal;
use tests::skip;
use tests::tree::Tree;
use tests::user::As;

use crate::arena::Arena;

/// More than any file system of these has: one without a limit shows nothing.
const MOST: u32 = 70_000;

#[test]
fn on_a_farm_of_root() {
    let test = "attack_11_exhaust_links::on_a_farm_of_root";
    if !skip::needs_root(test) {
        return;
    }
    let arena = Arena::new(As::Root);
    let text = tests::secret();
    let action = Action::shell("cat text")
        .tree(&Tree::new().file("text", text.clone()))
        .do_not_cache();
    assert_eq!(arena.run(&action).stdout, text);
    let digest = Digest::of(DigestFunction::Sha256, text.as_bytes());
    let cached = Seal::record(&arena.farm.cache()).file(&digest);
    let links = arena.farm.directory().join("links");
    std::fs::create_dir(&links).expect("a folder");
    let refused = (0..MOST).find_map(|number| {
        let link = links.join(number.to_string());
        std::fs::hard_link(&cached, link).err()
    });
    let refused = refused.map(|error| error.raw_os_error());
    assert_eq!(
        refused,
        Some(Some(Errno::EMLINK as i32)),
        "the links did not end"
    );
    assert_eq!(arena.run(&action).stdout, text);
    std::fs::remove_dir_all(links).expect("the links can be removed");
    assert_eq!(arena.run(&action).stdout, text);
    arena.leave();
}
