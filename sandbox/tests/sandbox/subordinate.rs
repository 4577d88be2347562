//! An ordinary user with subordinate ids: a host uid for each sandbox, as root has it.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use sandbox::End;

use crate::farm::{Farm, Mode, shell};

fn farm(test: &str) -> Option<Farm> {
    Mode::subordinate(test).map(|mode| Farm::start(mode, &[]))
}

#[test]
fn each_sandbox_has_a_subordinate_uid_of_its_own() {
    let Some(mut farm) = farm("each_sandbox_has_a_subordinate_uid_of_its_own") else {
        return;
    };
    let mut owners = Vec::new();
    for _ in 0..3 {
        assert_eq!(
            farm.output(shell("id -u; id -g; touch made")),
            "1000\n1000\n"
        );
        let made = farm.last_directory().join("root/made").metadata().unwrap();
        assert!(farm.owns(made.uid()), "{}", made.uid());
        assert_eq!(made.gid(), made.uid());
        owners.push(made.uid());
    }
    owners.dedup();
    assert_eq!(owners.len(), 3, "{owners:?}");
    farm.stop();
}

#[test]
fn what_the_runner_s_user_owns_is_not_the_command_s() {
    let Some(mut farm) = farm("what_the_runner_s_user_owns_is_not_the_command_s") else {
        return;
    };
    farm.prepare(|root| {
        // As a worker of the same user makes its cached files.
        let input = root.join("input");
        std::fs::write(&input, "input").unwrap();
        std::fs::set_permissions(&input, std::fs::Permissions::from_mode(0o444)).unwrap();
        std::os::unix::fs::chown(&input, Some(64_322), Some(64_100)).unwrap();
    });
    let input = farm.last_directory().join("root/input");
    let before = input.metadata().unwrap();
    for attack in [
        "chmod u+w input",
        "echo x > input",
        "touch -d 2001-01-01 input",
        "ln input linked",
        "truncate -s 0 input",
    ] {
        assert!(
            matches!(farm.end(shell(attack)), End::Exited(1 | 2)),
            "{attack}"
        );
    }
    let after = input.metadata().unwrap();
    assert_eq!(std::fs::read(&input).unwrap(), b"input");
    assert_eq!(
        (after.mode(), after.ctime_nsec(), after.nlink()),
        (before.mode(), before.ctime_nsec(), before.nlink())
    );
    farm.stop();
}

#[test]
fn what_commands_leave_is_opened_up() {
    let Some(mut farm) = farm("what_commands_leave_is_opened_up") else {
        return;
    };
    let script = "mkdir -p a/b; echo x > a/b/c; chmod 0 a/b/c a/b a";
    assert_eq!(farm.end(shell(script)), End::Exited(0));
    assert_eq!(farm.reclaim(), 3);
    let left = farm.last_directory().join("root/a/b/c");
    assert_eq!(left.metadata().unwrap().mode() & 0o444, 0o444);
    farm.stop();
}

#[test]
fn its_death_ends_everything() {
    for half in ["launcher", "service"] {
        let Some(mut farm) = farm("its_death_ends_everything") else {
            return;
        };
        let mut run = shell("touch made; sleep 1000");
        farm.place(&mut run);
        farm.send_run(&run);
        farm.wait_for_file("root/made");
        let all = farm.processes();
        farm.kill_half(half);
        farm.wait_until_gone(&all);
    }
}
