//! Attack 17: an action leaves orphans to the first process of its namespace: they
//! are reaped, and a signal to the command reaches it and is told.

use tests::action::Action;
use tests::user::As;

use crate::arena::{Arena, on_both_farms};

on_both_farms!(attack);

fn attack(who: As) {
    let arena = Arena::new(who);
    // Orphans of this shell's children are the reaper's. It is done when none is left.
    let script = "
        for i in 1 2 3 4 5 6 7 8 9 10; do (sh -c 'exit 1' & sh -c 'kill -9 $$' &); done
        while grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | grep -q .; do :; done
        echo none";
    let orphans = Action::shell(script).do_not_cache();
    assert_eq!(arena.run(&orphans).stdout, "none\n");
    for (name, number) in [("TERM", 15), ("HUP", 1), ("SEGV", 11), ("KILL", 9)] {
        let action = Action::shell(&format!("kill -{name} $$; sleep 1000")).do_not_cache();
        let _ = arena.farm.client().run(&action).exited(128 + number);
    }
    arena.leave();
}
