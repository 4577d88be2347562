//! Limits of commands, each told as what it is.

use std::time::Duration;

use sandbox::{Done, End, Limit, RunRequest};

use crate::farm::{Farm, Mode, request, shell};

/// Runs commands of a farm with these limits in each mode.
fn limited(name: &str, options: &[&str], body: impl Fn(&mut Farm)) {
    for mode in Mode::available(name) {
        let mut farm = Farm::start(mode, options);
        body(&mut farm);
        farm.assert_nothing_runs();
        farm.stop();
    }
}

fn exceeded(farm: &mut Farm, run: RunRequest) -> Limit {
    let done = farm.done(run);
    done.exceeded.unwrap_or_else(|| panic!("{done:?}"))
}

#[test]
fn outputs_are_cut_and_told_however_the_command_ends() {
    limited(
        "outputs_are_cut_and_told_however_the_command_ends",
        &["output_bytes=100000"],
        |farm| {
            for (script, end) in [
                ("head -c 100001 /dev/zero", End::Exited(0)),
                ("head -c 100001 /dev/zero >&2; exit 3", End::Exited(3)),
                ("yes", End::Signaled(9)),
            ] {
                let done = farm.done(shell(script));
                assert_eq!(
                    (done.end, done.exceeded),
                    (end, Some(Limit::Output)),
                    "{script}"
                );
                assert!(done.peak[Limit::Output] > Some(100_000), "{done:?}");
                for output in ["stdout", "stderr"] {
                    let size = farm.last_directory().join(output).metadata().unwrap().len();
                    assert!(size <= 100_000, "{size}");
                }
            }
            let done = farm.done(shell("head -c 100000 /dev/zero"));
            assert_eq!((done.end, done.exceeded), (End::Exited(0), None));
        },
    );
}

#[test]
fn disk_is_bounded_named_or_not() {
    limited(
        "disk_is_bounded_named_or_not",
        &["disk_bytes=20000000", "disk_files=500"],
        |farm| {
            let more = "head -c 30000000 /dev/zero";
            for (script, limit) in [
                (format!("{more} > f; sleep 1000"), Limit::DiskBytes),
                (
                    format!("mkdir -p a/b; {more} > a/b/f; sleep 1000"),
                    Limit::DiskBytes,
                ),
                (format!("{more} > /tmp/f; sleep 1000"), Limit::DiskBytes),
                // A file that has no name any more.
                (
                    format!("exec 3> f; rm f; {more} >&3; sleep 1000"),
                    Limit::DiskBytes,
                ),
                (
                    "for i in $(seq 600); do mkdir d$i; done; sleep 1000".to_owned(),
                    Limit::DiskFiles,
                ),
            ] {
                let done = farm.done(shell(&script));
                assert_eq!(done.end, End::Signaled(9), "{script}");
                assert_eq!(done.exceeded, Some(limit), "{script}");
                assert!(done.peak[limit].is_some(), "{done:?}");
            }
        },
    );
}

#[test]
fn inputs_do_not_count() {
    limited("inputs_do_not_count", &["disk_bytes=1000000"], |farm| {
        farm.prepare(|root| std::fs::write(root.join("input"), vec![1; 4_000_000]).unwrap());
        // Until it was looked at twice.
        let done = farm.done(shell("echo x > made; sleep 0.5"));
        assert_eq!((done.end, done.exceeded), (End::Exited(0), None));
        let bytes = done.peak[Limit::DiskBytes].unwrap();
        assert!((1..1_000_000).contains(&bytes), "{done:?}");
    });
}

#[test]
fn memory_is_bounded_without_a_control_group() {
    limited(
        "memory_is_bounded_without_a_control_group",
        &["memory_bytes=100000000"],
        |farm| {
            // Several processes, each of which is within the limit.
            let script = "for i in 1 2 3; do \
                          perl -e '$x = \"x\" x 50_000_000; sleep 1000' & done; wait";
            let done = farm.done(shell(script));
            assert_eq!(
                (done.end, done.exceeded),
                (End::Signaled(9), Some(Limit::Memory))
            );
            assert!(done.peak[Limit::Memory] > Some(100_000_000), "{done:?}");
            assert_eq!(farm.end(shell("sleep 0.2")), End::Exited(0));
        },
    );
}

#[test]
fn too_many_processes_are_told_when_the_command_fails_for_them() {
    limited(
        "too_many_processes_are_told_when_the_command_fails_for_them",
        &["processes=20"],
        |farm| {
            let bomb = "for i in $(seq 15); do sleep 1000 & done; \
                        perl -e 'for (1..100) { fork // last } sleep 1'; exit 1";
            assert_eq!(exceeded(farm, shell(bomb)), Limit::Processes);
            let few = farm.done(shell("sleep 0.3; exit 1"));
            assert_eq!((few.end, few.exceeded), (End::Exited(1), None));
        },
    );
}

#[test]
fn a_file_that_is_too_large_is_told() {
    limited(
        "a_file_that_is_too_large_is_told",
        &["file_size_bytes=100000"],
        |farm| {
            let run = request(&["dd", "if=/dev/zero", "of=f", "bs=200000", "count=1"]);
            assert_eq!(exceeded(farm, run), Limit::FileSize);
        },
    );
}

fn timed(script: &str, millis: u64) -> RunRequest {
    RunRequest {
        timeout: Some(Duration::from_millis(millis)),
        ..shell(script)
    }
}

#[test]
fn time_over_a_command_may_end_by_itself() {
    limited(
        "time_over_a_command_may_end_by_itself",
        &["grace=60000"],
        |farm| {
            // All processes are told, and what the command still writes is kept.
            let script = "trap 'wait; echo end; exit 3' TERM; \
                      (trap 'echo told; exit' TERM; while :; do sleep 0.01; done) & wait; wait";
            let done = farm.done(timed(script, 300));
            assert_eq!(done.end, End::TimedOut);
            assert!(done.duration < Duration::from_secs(50), "{done:?}");
            let written = std::fs::read_to_string(farm.last_directory().join("stdout")).unwrap();
            assert_eq!(written, "told\nend\n");
        },
    );
}

#[test]
fn time_over_nobody_lives_longer_than_the_grace() {
    limited(
        "time_over_nobody_lives_longer_than_the_grace",
        &["grace=200"],
        |farm| {
            let done: Done = farm.done(timed("trap '' TERM; while :; do sleep 1000; done", 200));
            assert_eq!(done.end, End::TimedOut);
            assert!(done.duration >= Duration::from_millis(400), "{done:?}");
            // Stopped processes neither.
            let done = farm.done(timed("kill -STOP $$", 200));
            assert_eq!(done.end, End::TimedOut);
        },
    );
}
