//! A farm of a plain user with subordinate ids: what a farm of root's has, without
//! root. Inputs are hardlinks of the worker's cache, and no action's user owns them.

use std::os::unix::fs::MetadataExt;

use tests::action::Action;
use tests::farm::Setup;
use tests::seal::Seal;
use tests::skip;
use tests::tree::Tree;
use tests::user::{As, plain_uid};
use tests::wait::wait_for;

#[test]
fn a_plain_user_with_subordinate_ids_has_hardlinks_and_a_user_for_each_action() {
    let name = "a_plain_user_with_subordinate_ids_has_hardlinks_and_a_user_for_each_action";
    if !skip::needs_root(name) || !skip::has(name, &["/usr/bin/newuidmap"]) {
        return;
    }
    let farm = Setup::new(As::SubordinateUser).start();
    let tree = Tree::new().file("input", "input\n").folder("out");
    let look = Action::shell("id -u; stat -c '%h %a' input").tree(&tree);
    let outcome = farm.client().run(&look.do_not_cache()).success();
    assert_eq!(
        outcome.stdout, "1000\n2 444\n",
        "two links: it is the cache's"
    );
    let seal = Seal::record(&farm.cache());
    let spoil = "chmod u+w input; echo x > input; touch -d 2001-01-01 input; \
                 truncate -s 0 input; ln input linked; echo x > out/f; chmod 0 out; exit 0";
    let action = Action::shell(spoil).tree(&tree).output("out");
    let _ = farm.client().run(&action.do_not_cache()).success();
    seal.check();
    // Two actions at a time are two users, neither of them the farm's.
    let secret = tests::secret();
    let marked = |n: u32| {
        Action::shell(&format!(
            "touch out/{secret}-{n}; read x < /dev/tty || sleep 1000"
        ))
        .tree(&tree)
    };
    let running = [1, 2].map(|n| farm.client().start(&marked(n)));
    let owners = wait_for("both to have written", || {
        let files = walkdir::WalkDir::new(farm.build()).into_iter().flatten();
        let ours = files.filter(|file| file.file_name().to_string_lossy().starts_with(&secret));
        let owners: Vec<_> = ours
            .filter_map(|file| Some(file.metadata().ok()?.uid()))
            .collect();
        (owners.len() == 2).then_some(owners)
    });
    assert!(
        owners[0] != owners[1] && !owners.contains(&plain_uid()),
        "{owners:?}"
    );
    for action in running {
        let _ = action.cancel();
    }
    farm.wait_until_idle();
    farm.stop();
}
