//! Attack 10: an action overwrites a program among its inputs while another action
//! runs the same one.

use tests::seal::Seal;
use tests::tree::Tree;
use tests::user::As;

use crate::arena::{Arena, on_both_farms};

on_both_farms!(attack);

fn attack(who: As) {
    let arena = Arena::new(who);
    let sibling = arena.sibling(&[]);
    let seal = Seal::record(&arena.farm.cache());
    for attack in ["attack-01", "attack-02", "attack-03"] {
        let attempts = arena.attack(&[attack, "probe"]);
        for (name, result) in &attempts {
            // A copy is the action's own; its bytes are in use all the same.
            let writes = name.starts_with("O_") || name.starts_with("write");
            let own = who == As::PlainUser && !writes;
            assert!(own || result != "OK", "{name}: {attempts:#?}");
        }
        seal.check();
    }
    // The next execution is of the same bytes.
    let again = arena.action(&["whoami"], &Tree::new());
    assert_eq!(arena.run(&again).stdout, "1000 1000\n");
    sibling.leave();
    arena.leave();
}
