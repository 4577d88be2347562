//! Which limit ended an action is what its client reads, with what the action used in
//! the result's metadata: on farms of root, of a plain user, and, with overlays, of
//! root again.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use proto::messages::unpack;
use proto::wire::runner_extension::PeakUsage;
use tests::action::Action;
use tests::client::Outcome;
use tests::farm::{Farm, Setup};
use tests::tree::Tree;
use tests::user::As;
use tonic::Code;

fn farms(limits: &[&str]) -> impl Iterator<Item = Farm> {
    let arguments: Vec<_> = limits.iter().flat_map(|limit| ["--limit", limit]).collect();
    As::possible().iter().map(move |who| {
        println!("{who:?}");
        let setup = Setup::new(*who).arguments(&arguments);
        match group(*who) {
            Some(group) => setup.arguments(&["--cgroup", &group]).start(),
            None => setup.start(),
        }
    })
}

/// A control group for a farm of root's, where the tests are told of a place for such
/// (`tests/vm`).
fn group(who: As) -> Option<String> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let place = std::env::var("HAYLOFT_TEST_CGROUP").ok();
    let place = place.filter(|_| who == As::Root)?;
    let group = format!("{place}/farm-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    std::fs::create_dir(&group).expect("a control group");
    Some(group)
}

/// Enough inputs that a farm of root's lays the root over a layer.
fn many() -> Tree {
    let name = |n| format!("in/{n}");
    (0..150).fold(Tree::new(), |tree, n| {
        tree.file(&name(n), format!("{n}\n").repeat(1000))
    })
}

/// The most that an action used of something, as its result says.
fn peak(outcome: &Outcome, limit: &str) -> u64 {
    let metadata = outcome.result.execution_metadata.as_ref();
    let attached = &metadata.expect("metadata").auxiliary_metadata;
    let name = "hayloft.runner.v1.PeakUsage";
    let mut peaks = attached.iter().filter_map(|any| unpack(any, name));
    let peak: PeakUsage = peaks.next().expect("what was used");
    let used = peak.used.get(limit).copied();
    used.unwrap_or_else(|| panic!("nothing of {limit} in {peak:?}"))
}

fn exceeds(farm: &Farm, action: &Action, limit: &str, value: u64) -> Outcome {
    let outcome = farm.client().run(action);
    let outcome = outcome.refused(Code::ResourceExhausted, &[limit, &value.to_string()]);
    // What failed for a limit may not fail for another.
    assert!(!farm.client().run(action).cached);
    outcome
}

#[test]
fn memory() {
    const LIMIT: u64 = 100_000_000;
    for farm in farms(&["memory_bytes=100000000"]) {
        let script = "for i in 1 2 3; do \
                      perl -e '$x = \"x\" x 50_000_000; sleep 1000' & done; wait";
        let outcome = exceeds(&farm, &Action::shell(script), "memory_bytes", LIMIT);
        // The kernel lets nobody have more, and tells what it was asked for not at all.
        assert!(peak(&outcome, "memory_bytes") > LIMIT / 10 * 9);
        let _ = farm.client().run(&Action::shell("exit 0")).success();
        farm.stop();
    }
}

#[test]
fn disk_in_roots_that_are_linked_and_in_overlays() {
    const BYTES: u64 = 20_000_000;
    const FILES: u64 = 500;
    for farm in farms(&["disk_bytes=20000000", "disk_files=500"]) {
        for tree in [Tree::new(), many()] {
            let action = |script: &str| Action::shell(script).tree(&tree);
            let fill = "mkdir a && head -c 30000000 /dev/zero > a/b; sleep 1000";
            let outcome = exceeds(&farm, &action(fill), "disk_bytes", BYTES);
            assert!(peak(&outcome, "disk_bytes") > BYTES);
            let make = "for i in $(seq 600); do mkdir d$i; done; sleep 1000";
            let outcome = exceeds(&farm, &action(make), "disk_files", FILES);
            assert!(peak(&outcome, "disk_files") > FILES);
            // Inputs are not what an action writes; until it was looked at twice.
            let little = action("echo x > made; sleep 0.5");
            let outcome = farm.client().run(&little).success();
            assert!(peak(&outcome, "disk_bytes") < 1_000_000);
        }
        // What is copied up counts.
        let copy = "cat in/* > /dev/null; for i in in/*; do \
                    head -c 1000000 /dev/zero > big && mv big $i; done; sleep 1000";
        let action = Action::shell(copy).tree(&many());
        let _ = exceeds(&farm, &action, "disk_bytes", BYTES);
        farm.stop();
    }
}

#[test]
fn output_whatever_the_exit_code() {
    for farm in farms(&["output_bytes=100000"]) {
        for script in ["yes", "head -c 100001 /dev/zero", "yes >&2"] {
            let action = Action::shell(script);
            let outcome = exceeds(&farm, &action, "output_bytes", 100_000);
            assert!(peak(&outcome, "output_bytes") > 100_000);
        }
        let fits = Action::shell("head -c 100000 /dev/zero | tr '\\0' x");
        let outcome = farm.client().run(&fits).success();
        assert_eq!(outcome.stdout.len(), 100_000);
        farm.stop();
    }
}

#[test]
fn processes() {
    for farm in farms(&["processes=20"]) {
        let bomb = "perl -e 'for (1..100) { my $p = fork // last; $p or sleep 1000 } sleep 1'; \
                    exit 1";
        let _ = exceeds(&farm, &Action::shell(bomb), "processes", 20);
        let _ = farm.client().run(&Action::shell("exit 3")).exited(3);
        farm.stop();
    }
}

#[test]
fn the_size_of_a_file() {
    for farm in farms(&["file_size_bytes=100000"]) {
        let script = "exec dd if=/dev/zero of=f bs=200000 count=1";
        let _ = exceeds(&farm, &Action::shell(script), "file_size_bytes", 100_000);
        farm.stop();
    }
}

#[test]
fn time_has_a_code_of_its_own_whatever_else_was_used() {
    for farm in farms(&["output_bytes=100000"]) {
        let action = Action::shell("head -c 90000 /dev/zero; sleep 1000");
        let action = action.timeout(Duration::from_secs(1));
        let outcome = farm.client().run(&action);
        let outcome = outcome.refused(Code::DeadlineExceeded, &["1s"]);
        assert_eq!(peak(&outcome, "output_bytes"), 90_000);
        farm.stop();
    }
}

#[test]
fn core_dumps_come_back_as_server_logs() {
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern");
    let pattern = pattern.expect("a pattern");
    if pattern.contains(['/', '|', '@']) {
        let reason = format!("kernel.core_pattern is {}", pattern.trim_end());
        tests::skip::skip("core_dumps_come_back_as_server_logs", &reason);
        return;
    }
    for farm in farms(&["core_size_bytes=100000000"]) {
        for tree in [Tree::new(), many()] {
            let action = Action::shell("kill -SEGV $$").tree(&tree);
            let outcome = farm.client().run(&action).exited(128 + 11);
            let (name, log) = outcome.logs.first_key_value().expect("a log");
            let beginning = pattern.trim_end().split('%').next().unwrap_or_default();
            assert!(name.starts_with(beginning), "{name}");
            let digest = log.digest.as_ref().expect("a digest");
            assert!(digest.size_bytes > 10_000, "{digest:?}");
        }
        farm.stop();
    }
}
