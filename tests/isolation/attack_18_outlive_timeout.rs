//! Attack 18: an action ignores its timeout: it blocks signals, is stopped, or is in
//! the midst of vfork, and so are its children.

use std::time::Duration;

use tests::action::Action;
use tests::processes::Process;
use tests::tree::Tree;
use tests::user::As;
use tonic::Code;

use crate::arena::{Arena, on_both_farms};

on_both_farms!(attack);

fn attack(who: As) {
    let arena = Arena::new(who);
    for end in [
        "trap '' TERM INT HUP; while :; do sleep 1000; done",
        "kill -STOP $$",
    ] {
        let marker = tests::secret();
        let script = format!("echo before; ./probe attack-14 {marker} >/dev/null; {end}");
        let action = Action::shell(&script)
            .tree(&Tree::new().executable("probe", arena.probe()))
            .timeout(Duration::from_secs(2))
            .do_not_cache();
        let outcome = arena.farm.client().run(&action);
        assert_eq!(
            outcome.status.code(),
            Code::DeadlineExceeded,
            "{outcome:#?}"
        );
        assert_eq!(outcome.stdout, "before\n");
        assert_eq!(Process::mentioning(&marker), []);
    }
    arena.leave();
}
