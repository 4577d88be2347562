//! Attack 15: an action leaves a child behind that holds its standard output. The
//! result comes all the same, with what was written until then.

use tests::action::Action;
use tests::processes::Process;
use tests::user::As;

use crate::arena::{Arena, on_both_farms};

on_both_farms!(attack);

fn attack(who: As) {
    let arena = Arena::new(who);
    let marker = tests::secret();
    // The child's name is the marker, so that it can be looked for.
    let script = format!("echo before; sh -c 'while :; do sleep 1000; done' {marker} & exit 3");
    let outcome = arena
        .farm
        .client()
        .run(&Action::shell(&script).do_not_cache());
    assert_eq!(outcome.exited(3).stdout, "before\n");
    assert_eq!(Process::mentioning(&marker), []);
    arena.leave();
}
