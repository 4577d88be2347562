//! Attack 6: an action removes inputs and puts others in their places. In its own
//! tree that is its right; the next action has the originals.

use tests::action::Action;
use tests::seal::Seal;
use tests::user::As;

use crate::arena::{Arena, on_both_farms};
use crate::inputs;

on_both_farms!(attack);

fn attack(who: As) {
    let arena = Arena::new(who);
    let before = inputs::look(&arena);
    let seal = Seal::record(&arena.farm.cache());
    let replace = "
        set -e
        rm text && echo other > text
        mv tool out/tool && echo '#!/bin/sh' > tool && chmod 755 tool
        echo other > new && mv new folder/nested
        mv folder moved && mkdir folder && echo third > folder/nested
        cat text folder/nested";
    let action = Action::shell(replace).tree(&inputs::tree()).do_not_cache();
    assert_eq!(arena.run(&action).stdout, "other\nthird\n");
    seal.check();
    assert_eq!(inputs::look(&arena).stdout, before.stdout);
    arena.leave();
}
