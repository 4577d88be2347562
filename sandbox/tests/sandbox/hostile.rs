//! What hostile commands try.

use std::collections::BTreeSet;

use sandbox::{End, FailureKind, Limit, Reply};

use super::in_each_mode;
use crate::farm::{self, Farm, Mode, request, shell};

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
fn memory_and_processes_are_bounded() {
    for mode in Mode::available("memory_and_processes_are_bounded") {
        let mut farm = Farm::start(
            mode,
            &[
                "tmpfs_size_bytes=1048576",
                "shm_size_bytes=1048576",
                "processes=20",
            ],
        );
        for place in ["/dev/shm", "/var/tmp"] {
            let fill = format!("head -c 2000000 /dev/zero > {place}/f");
            assert_eq!(farm.end(shell(&fill)), End::Exited(1), "{place}");
            let files = format!(
                "cd {place}; i=0; while touch $i 2>/dev/null; do i=$((i+1)); done; echo $i"
            );
            let made: u32 = farm.output(shell(&files)).trim().parse().unwrap();
            assert!((100..=256).contains(&made), "{made}");
        }
        let mut run = shell("head -c 2000000 /dev/zero > /tmp/f");
        farm.place(&mut run);
        run.temporary_directory.clear();
        assert!(matches!(farm.answer(&run), Reply::Done(done) if done.end == End::Exited(1)));

        // What a sandbox has does not count for another.
        let mut other = shell("for i in $(seq 15); do sleep 1000 & done; echo > made; wait");
        farm.place(&mut other);
        let id = farm.send_run(&other);
        farm.wait_for_file("root/made");
        let spawn = "for i in $(seq 15); do sleep 0.1 & done; wait";
        assert_eq!(farm.end(shell(spawn)), End::Exited(0));
        assert_eq!(farm.output(shell("cat /proc/self/oom_score_adj")), "1000\n");
        farm.kill(id);
        assert!(matches!(farm.receive(), Reply::Done(done) if done.end == End::Killed));
        let spawn = "for i in $(seq 25); do sleep 1000 & done";
        assert_eq!(farm.end(shell(spawn)), End::Exited(2));
        // Its reaper goes last.
        let adjusted = farm.output(shell("cat /proc/1/oom_score_adj"));
        assert_ne!(adjusted, "1000\n");
        farm.stop();
    }
}

#[test]
fn a_request_moves_limits_within_bounds() {
    for mode in Mode::available("a_request_moves_limits_within_bounds") {
        let mut farm = Farm::start(mode, &["shm_size_bytes=2000000", "processes=30"]);
        let mut run = shell("head -c 1000000 /dev/zero > /dev/shm/f");
        assert_eq!(farm.end(run.clone()), End::Exited(0));
        run.limits[Limit::Shm] = Some(500_000);
        assert_eq!(farm.end(run.clone()), End::Exited(1));
        run.limits[Limit::Shm] = Some(2_000_001);
        let failure = farm.failure(run);
        assert_eq!(failure.kind, FailureKind::Request);
        assert!(failure.detail.starts_with("shm_size_bytes"), "{failure}");
        let mut run = request(&["bash", "-c", "ulimit -u"]);
        run.limits[Limit::Processes] = Some(20);
        assert_eq!(farm.output(run).trim_end(), "20");
        farm.stop();
    }
}

#[test]
fn the_worker_s_uid_is_not_given_to_commands() {
    let name = "the_worker_s_uid_is_not_given_to_commands";
    if Mode::root(name).is_none() {
        return;
    }
    let directory = std::env::temp_dir().join(format!("sandbox-owner-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    std::os::unix::fs::chown(&directory, Some(1_700_000_003), None).unwrap();
    let start = |range: &str| {
        let mut command = std::process::Command::new(farm::program());
        let command = command.arg(&directory).arg(range);
        command.stdin(std::process::Stdio::null()).output().unwrap()
    };
    let refused = start("ids=1700000000:16");
    assert_eq!(refused.status.code(), Some(3));
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(
        message.contains("owner of the build directory"),
        "{message}"
    );
    assert!(start("ids=1700000004:16").status.success());
    std::fs::remove_dir(&directory).unwrap();
}

#[test]
fn the_machine_has_no_name() {
    in_each_mode("the_machine_has_no_name", |farm| {
        let output = farm.output(shell(
            "cat /proc/cmdline; \
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

#[test]
fn an_input_root_without_room_for_mount_points_is_named() {
    for mode in Mode::available("an_input_root_without_room_for_mount_points_is_named") {
        let mut farm = Farm::start(mode, &["root=input"]);
        for name in ["tmp", "dev"] {
            farm.prepare(|root| match name {
                "tmp" => std::os::unix::fs::symlink("/bin", root.join("tmp")).unwrap(),
                name => std::fs::write(root.join(name), "").unwrap(),
            });
            let failure = farm.failure(shell("true"));
            assert_eq!(failure.kind, FailureKind::Command, "{failure}");
            assert_eq!(
                (&failure.detail[..], failure.errno),
                (name, libc::ENOTDIR),
                "{failure}"
            );
            let left: Vec<_> = std::fs::read_dir(farm.last_directory().join("root"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            assert_eq!(left, [name]);
        }
        farm.stop();
    }
}

#[test]
fn an_output_file_belongs_to_one_run() {
    in_each_mode("an_output_file_belongs_to_one_run", |farm| {
        let mut run = shell("echo > started; sleep 1000");
        farm.place(&mut run);
        let id = farm.send_run(&run);
        farm.wait_for_file("root/started");
        let failure = farm.failure_unplaced(run);
        assert_eq!(failure.kind, FailureKind::Request, "{failure}");
        assert_eq!(failure.errno, libc::EEXIST, "{failure}");
        farm.kill(id);
        assert!(matches!(farm.receive(), Reply::Done(done) if done.end == End::Killed));
    });
}

/// More runs than there are descriptors for: each is answered, and afterwards all
/// is as before.
#[test]
fn a_lack_of_descriptors_costs_no_more_than_runs() {
    let name = "a_lack_of_descriptors_costs_no_more_than_runs";
    for mode in Mode::available(name) {
        let mut farm = Farm::start_through(&["prlimit", "--nofile=48:48"], mode, &[]);
        let mut open = BTreeSet::new();
        for _ in 0..60 {
            let mut run = shell("sleep 1");
            farm.place(&mut run);
            open.insert(farm.send_run(&run));
        }
        let mut lacked = 0;
        while !open.is_empty() {
            match farm.receive() {
                Reply::Done(done) => {
                    assert_eq!(done.end, End::Exited(0));
                    assert!(open.remove(&done.id));
                }
                Reply::Failed { id, failure } => {
                    assert_eq!(failure.kind, FailureKind::Sandbox, "{failure}");
                    // The latter of what is on its way between processes, which the
                    // kernel counts for all of a user's together (unix(7)).
                    let lacks = [libc::EMFILE, libc::ETOOMANYREFS];
                    assert!(lacks.contains(&failure.errno), "{failure}");
                    assert!(open.remove(&id));
                    lacked += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(lacked > 0);
        assert_eq!(farm.end(shell("true")), End::Exited(0));
        farm.stop();
    }
}

#[test]
fn a_burst_is_served() {
    for mode in Mode::available("a_burst_is_served") {
        let mut farm = Farm::start(mode, &["pool=1"]);
        let mut open = BTreeSet::new();
        for _ in 0..150 {
            let mut run = shell("true");
            farm.place(&mut run);
            open.insert(farm.send_run(&run));
        }
        while !open.is_empty() {
            farm.receive_done(&mut open);
        }
        farm.stop();
    }
}
