//! Attack 16: an action makes processes without end. It gets as many as it is
//! allowed; others are made as before.

use std::time::Duration;

use serde_json::json;
use tests::user::As;

use crate::lone_runner::Place;

const ALLOWED: u64 = 64;

#[test]
fn processes_are_bounded() {
    for who in As::possible() {
        let place = Place::new(*who);
        let limits = json!({"limits": {"processes": ALLOWED}});
        let mut runner = place.start(&[], &limits).expect("the runner starts");
        for _ in 0..3 {
            let (code, attempts) = runner.attack(&["attack-16".into()]).expect("an end");
            assert_eq!((code, &*attempts["fork"]), (0, "EAGAIN"));
            let made: u64 = attempts["made"].parse().expect("a number");
            assert!((ALLOWED / 2..=ALLOWED).contains(&made), "{made} processes");
        }
    }
}

/// By a shell, as a farm's user would meet it; the farm serves another meanwhile.
#[test]
fn a_farm_under_a_fork_bomb_serves_others() {
    let arena = crate::arena::Arena::new(As::PlainUser);
    let bomb = "bomb() { bomb | bomb & }; bomb; sleep 1000";
    let bomb = tests::action::Action::shell(bomb)
        .timeout(Duration::from_secs(3))
        .do_not_cache();
    let bomb = arena.farm.client().start(&bomb);
    for number in 0..3 {
        let action = tests::action::Action::shell(&format!("echo {number}")).do_not_cache();
        assert_eq!(arena.run(&action).stdout, format!("{number}\n"));
    }
    assert_eq!(bomb.wait().status.code(), tonic::Code::DeadlineExceeded);
    arena.leave();
}
