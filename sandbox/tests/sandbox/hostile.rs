//! What hostile commands try.

use sandbox::{End, FailureKind};

use super::in_each_mode;
use crate::farm::{Farm, Mode, shell};

#[test]
fn a_working_directory_leads_nowhere_else() {
    in_each_mode("a_working_directory_leads_nowhere_else", |farm| {
        farm.prepare(|root| {
            for fd in 0..20 {
                let link = root.join(format!("{fd}"));
                std::os::unix::fs::symlink(format!("/proc/self/fd/{fd}"), link).unwrap();
            }
        });
        for fd in 0..20 {
            let mut run = shell("pwd");
            run.working_directory = format!("{fd}").into_bytes();
            let failure = farm.failure(run);
            assert_eq!(failure.kind, FailureKind::Command, "{fd}: {failure}");
        }
    });
}

#[test]
fn the_reaper_has_no_limits_set_by_commands() {
    in_each_mode("the_reaper_has_no_limits_set_by_commands", |farm| {
        let command = "prlimit --pid $$ --cpu >&2 && prlimit --pid 1 --cpu=1:1";
        assert_eq!(farm.end(shell(command)), End::Exited(1));
        let command = "prlimit --pid 1 --nofile";
        assert_eq!(farm.end(shell(command)), End::Exited(1));
    });
}

#[test]
fn the_machine_has_no_name() {
    in_each_mode("the_machine_has_no_name", |farm| {
        let output = farm.output(shell(
            "cat /proc/cmdline /proc/sys/kernel/random/boot_id; \
             cat /proc/sys/kernel/domainname /proc/self/cgroup",
        ));
        let own = |line: &str| line == "(none)" || line.ends_with(":/");
        assert!(output.lines().all(own), "{output}");
        assert!(output.starts_with("(none)"), "{output}");
    });
}

#[test]
fn what_the_host_mounts_later_does_not_arrive() {
    let name = "what_the_host_mounts_later_does_not_arrive";
    let Some(mode) = Mode::root(name) else {
        return;
    };
    let shared = ["unshare", "--mount", "--propagation", "shared"];
    let mut farm = Farm::start_through(&shared, mode, &[]);
    let mounts = farm.output(shell("cat /proc/self/mountinfo"));
    let userland: Vec<_> = mounts
        .lines()
        .filter(|line| line.contains(" /usr ") || line.contains(" /dev/null "))
        .collect();
    assert_eq!(userland.len(), 2, "{mounts}");
    assert!(
        userland.iter().all(|line| !line.contains("master:")),
        "{mounts}"
    );
    farm.stop();
}
