//! Launch after launch leaves nothing: no descriptor, mount, process, memory, uid,
//! control group or network namespace. 2,000 launches for each user, or as many as
//! `HAYLOFT_LAUNCHES` says (`tests/many-launches`): far more than there are host uids.

use std::collections::BTreeSet;
use std::fs;

use serde_json::json;
use tests::processes::{Process, descriptors_but_networks};
use tests::user::As;
use tests::wait::wait_for;

use crate::lone_runner::{LoneRunner, Place};

/// How much more memory each half may have in the end than after the first launches:
/// what allocators keep, but no launch's share of anything.
const GROWTH_KIB: u64 = 8 << 10;

/// How many networks a launcher may keep for a pool of one sandbox: that one, those that
/// as many as may be on their way out leave, and two of its own:
/// where it is, and where the sandbox that waits is.
const MOST_NETWORKS: usize = 1 + 16 + 2;

/// What a runner holds when nothing runs.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    processes: usize,
    /// Of both halves and of the sandboxes that wait, but those of networks.
    descriptors: usize,
    mounts: usize,
    networks: usize,
    groups: usize,
}

fn family(runner: &LoneRunner) -> Vec<i32> {
    let children = Process::descendants(runner.pid());
    let pids = children.iter().map(|process| process.pid);
    pids.chain([runner.pid()]).collect()
}

fn held(runner: &LoneRunner) -> Held {
    let family = family(runner);
    let networks: BTreeSet<_> = family
        .iter()
        .filter_map(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).ok())
        .collect();
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", runner.pid()));
    let groups = walkdir::WalkDir::new("/sys/fs/cgroup")
        .into_iter()
        .flatten();
    Held {
        processes: family.len(),
        descriptors: family
            .iter()
            .map(|pid| descriptors_but_networks(*pid))
            .sum(),
        mounts: mounts.expect("the launcher's mounts").lines().count(),
        networks: networks.len(),
        groups: groups
            .filter(|entry| entry.file_name().to_string_lossy().contains("hayloft"))
            .count(),
    }
}

/// How many network namespaces the launcher has open.
fn networks_kept(runner: &LoneRunner) -> usize {
    let all = fs::read_dir(format!("/proc/{}/fd", runner.pid())).expect("descriptors");
    let names = all.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
    let namespaces = names.filter(|name| name.to_string_lossy().starts_with("net:"));
    namespaces.count()
}

/// The memory of the launcher and of its first child, the service half.
fn memory(runner: &LoneRunner) -> u64 {
    let halves = family(runner).into_iter().filter(|pid| {
        let process = Process::read(*pid);
        process.is_some_and(|process| process.arguments.iter().any(|word| word == "runner"))
    });
    let resident = |pid: i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
    };
    halves.filter_map(resident).sum()
}

#[test]
fn launches_leave_nothing() {
    let launches: u32 = std::env::var("HAYLOFT_LAUNCHES").map_or(2_000, |number| {
        number.parse().expect("a number of launches")
    });
    for who in As::possible() {
        let place = Place::new(*who);
        let mut runner = place.start(&[], &json!({})).expect("the runner starts");
        let launch = |runner: &mut LoneRunner| {
            let (code, _) = runner.run(&["/bin/true".into()]).expect("a launch");
            assert_eq!(code, 0);
        };
        for _ in 0..200 {
            launch(&mut runner);
        }
        let mut last = held(&runner);
        // The pool is full again when nothing moves.
        let before = wait_for("the runner to rest", || {
            let now = held(&runner);
            // The two halves, and the one sandbox that is kept ready.
            let rests = now == last && now.processes == 3;
            last = now;
            rests.then(|| held(&runner)).filter(|again| *again == last)
        });
        let memory_before = memory(&runner);
        for _ in 0..launches {
            launch(&mut runner);
        }
        let _ = wait_for("what is left to be gone", || {
            let now = held(&runner);
            if now != before {
                eprintln!("{now:?}, but before {before:?}");
            }
            (now == before).then_some(now)
        });
        let kept = networks_kept(&runner);
        assert!(kept <= MOST_NETWORKS, "{kept} networks are kept");
        let grown = memory(&runner).saturating_sub(memory_before);
        assert!(
            grown <= GROWTH_KIB,
            "{grown} KiB more after {launches} launches"
        );
    }
}
