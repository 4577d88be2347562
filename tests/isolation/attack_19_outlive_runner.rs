//! Attacks 19 and 20: an action outlives the runner, or the worker that asked for it.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::action::Action;
use tests::user::As;
use tests::wait::wait_for_none;

use crate::arena::{Arena, on_both_farms};

on_both_farms!(attack);

fn attack(who: As) {
    for role in ["runner", "worker"] {
        let arena = Arena::new(who);
        let sibling = arena.sibling(&[]);
        let process = sibling.process.clone();
        let role = arena.farm.role(role);
        kill(Pid::from_raw(role.pid), Signal::SIGKILL).expect("the role is there");
        wait_for_none("processes of the action", || {
            process.is_there().then_some(&process).into_iter().collect()
        });
        // It is tried again.
        sibling.cancel();
        // What was killed is back when something has run there.
        let _ = arena.run(&Action::shell("exit 0"));
        arena.leave();
    }
}
