//! The seal over the whole cache after each of all attacks, in each of the ways in
//! which actions get their inputs: hardlinks of the cache's files, copies of them, and
//! overlays over layers of hardlinks, where not even link counts and the times of the
//! last change move.

use tests::action::Action;
use tests::farm::Setup;
use tests::seal::Seal;
use tests::skip;
use tests::tree::Tree;
use tests::user::As;

use crate::arena::Arena;
use crate::attack::Ground;
use crate::{attacks, inputs};

/// What every action has, so that nothing but the attacks differs: so many files that
/// a root of them is laid over layers where that can be.
fn tree() -> Tree {
    let more = |tree: Tree, n: u32| tree.file(&format!("more/{n}"), format!("file {n}\n"));
    (0..150).fold(inputs::tree(), more)
}

/// What attacks of no number in `attacks` do, by a shell.
const SCRIPTS: [&str; 3] = [
    // 6: replace inputs.
    "rm text && echo other > text; mv tool out/tool; echo x > new; mv new folder/nested; \
     mv folder moved; mkdir folder; rm -r more; exit 0",
    // 7: add to folders of inputs.
    "for folder in . folder more; do echo x > $folder/added; mkdir $folder/d; \
     ln -s /etc $folder/link; done; chmod 700 . folder; touch -d @1 . folder more; exit 0",
    // Everything to every input.
    "chmod -R a+rwx .; for file in text tool folder/nested more/*; do echo x >> $file; \
     touch -d @1 $file; ln $file $file.linked; mv $file $file.moved; done; exit 0",
];

/// Makes all attacks on one farm; `strictly`: whether links and changes count.
fn attack(who: As, setup: Setup, strictly: bool) {
    let arena = Arena::of(who, setup);
    let tree = tree();
    let look = "find . -type f | sort | xargs sha256sum; find . -printf '%p %y %m %l\\n' | sort";
    let look = Action::shell(look).tree(&tree.clone().executable("probe", arena.probe()));
    let look = look.do_not_cache();
    let before = arena.run(&look).stdout;
    assert_eq!(arena.run(&look).stdout, before);
    let layers = std::fs::read_dir(arena.farm.build().join("layers"));
    assert_eq!(layers.is_ok_and(|layers| layers.count() > 0), strictly);
    let seal = match strictly {
        true => Seal::record_strictly(&arena.farm.cache()),
        false => Seal::record(&arena.farm.cache()),
    };
    let mut ground = Ground::new(who);
    for attack in attacks::ALL {
        let words = ground.words(attack);
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let outcome = arena.farm.client().run(&arena.action(&words, &tree));
        // The reaper's own attack shows in the exit code.
        let code = if attack.number == 53 { 42 } else { 0 };
        let _ = outcome.exited(code);
        println!("attack {}", attack.number);
        seal.check();
        let _ = ground.restore(attack);
    }
    for script in SCRIPTS {
        let action = Action::shell(script).tree(&tree.clone().executable("probe", arena.probe()));
        println!("{script}");
        let _ = arena.run(&action.do_not_cache());
        seal.check();
    }
    assert_eq!(arena.run(&look).stdout, before, "inputs differ");
    seal.check();
    arena.leave();
}

#[test]
fn hardlinks_after_every_attack() {
    if skip::needs_root("seal::hardlinks_after_every_attack") {
        let setup = Setup::new(As::Root).arguments(&["--no-reuse"]);
        attack(As::Root, setup, false);
    }
}

#[test]
fn copies_after_every_attack() {
    attack(As::PlainUser, Setup::new(As::PlainUser), false);
}

#[test]
fn overlays_after_every_attack() {
    if skip::needs_root("seal::overlays_after_every_attack") {
        attack(As::Root, Setup::new(As::Root), true);
    }
}
