//! Attack 7: an action adds files to a folder of inputs that another action has,
//! too, and takes some away.

use tests::action::Action;
use tests::seal::Seal;
use tests::user::As;

use crate::arena::{Arena, on_both_farms};
use crate::inputs;

on_both_farms!(attack);

fn attack(who: As) {
    let arena = Arena::new(who);
    let list = Action::shell("find . | sort; stat --format '%n %a' . folder");
    let list = list.tree(&inputs::tree()).do_not_cache();
    let before = arena.run(&list).stdout;
    let seal = Seal::record(&arena.farm.cache());
    let add = "
        for folder in . folder out; do
            echo added > $folder/added; mkdir $folder/more; ln -s /etc $folder/link
        done
        rm folder/nested; chmod 700 . folder; touch -d @1 . folder
        ls";
    let action = Action::shell(add).tree(&inputs::tree()).do_not_cache();
    assert!(arena.run(&action).stdout.contains("added"));
    seal.check();
    assert_eq!(arena.run(&list).stdout, before);
    arena.leave();
}
