//! Attack 43: an action opens memory, semaphores and queues of others that are shared by key
//! or by name.

use crate::attack::{Attack, refused_on_both_farms};

pub const ATTACK: Attack = Attack {
    number: 43,
    what: "System V and POSIX shared memory, semaphores, queues; /dev/shm",
    words: &["attack-43", "{key}", "{name}"],
    rights: &[],
    refusals: &["ENOENT", "ENODATA", "EACCES", "EPERM"],
};

refused_on_both_farms!();

#[test]
fn control_it_succeeds_without_sandbox() {
    ATTACK.succeeds_without_sandbox(&["shmget", "semget", "msgget", "mq_open", "/dev/shm"]);
}
