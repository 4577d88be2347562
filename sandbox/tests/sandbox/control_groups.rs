//! Sandboxes in control groups of their own, where the machine has a cgroup v2
//! hierarchy. Those that need its controllers are run by `tests/vm/run`.

use std::path::{Path, PathBuf};

use sandbox::{End, Limit};

use crate::farm::{Farm, Mode, shell};

/// A group that nobody is in.
struct Group(PathBuf);

impl Group {
    fn new(test: &str) -> Option<Self> {
        Mode::root(test)?;
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        let hierarchy = mounts.lines().find(|line| line.contains(" cgroup2 "));
        let Some(hierarchy) = hierarchy.and_then(|line| line.split(' ').nth(1)) else {
            println!("SKIP {test}: there is no cgroup v2 hierarchy");
            return None;
        };
        let name = format!("sandbox-test-{}-{test}", std::process::id());
        let group = Path::new(hierarchy).join(name);
        std::fs::create_dir(&group).unwrap();
        Some(Self(group))
    }

    fn farm(&self, options: &[&str]) -> Farm {
        let choice = format!("cgroup={}", self.0.display());
        Farm::start(Mode::Range, &[&[&choice[..]], options].concat())
    }

    /// How many groups are below it.
    fn groups(&self) -> usize {
        let entries = std::fs::read_dir(&self.0).unwrap().flatten();
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.count()
    }

    /// Ends a farm in it, and it.
    fn leave(self, farm: Farm) {
        farm.assert_nothing_runs();
        farm.stop();
        assert_eq!(self.groups(), 0);
        std::fs::remove_dir(&self.0).unwrap();
    }
}

#[test]
fn a_sandbox_has_a_control_group_of_its_own() {
    let Some(group) = Group::new("a_sandbox_has_a_control_group_of_its_own") else {
        return;
    };
    let mut farm = group.farm(&[]);
    let mut run = shell("touch made; sleep 1000");
    farm.place(&mut run);
    let id = farm.send_run(&run);
    farm.wait_for_file("root/made");
    // Every process of a sandbox is in its group, init included.
    // Others are made ahead meanwhile, and what helps in that is gone at once.
    let of = |pid: &u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with("0::"));
        line.unwrap_or_default().to_owned()
    };
    let is_sleep = |pid: &&u32| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n")
    };
    let (all, own) = loop {
        let all = farm.processes();
        if let Some(sleep) = all.iter().find(is_sleep) {
            let own = of(sleep);
            break (all, own);
        }
        std::thread::yield_now();
    };
    assert!(own.contains("/sandbox-test-"), "{own}");
    let same = all.iter().filter(|pid| of(pid) == own).count();
    assert_eq!(same, 3, "init, the shell and sleep");
    assert!(!of(&all[0]).contains("/sandbox-test-"));
    // The command sees none of it.
    farm.kill(id);
    farm.receive();
    let seen = farm.output(shell("cat /proc/self/cgroup"));
    assert!(!seen.contains("sandbox-test"), "{seen}");
    group.leave(farm);
}

#[test]
#[ignore = "needs the memory controller"]
fn a_group_out_of_memory_is_dead_as_a_whole_and_told_as_that() {
    let Some(group) = Group::new("memory") else {
        return;
    };
    let mut farm = group.farm(&["memory_bytes=100000000"]);
    // At once, which nobody who only looks from time to time would notice; and by several.
    for script in [
        "perl -e '$x = \"x\" x 200_000_000'; echo survived",
        "for i in 1 2 3; do perl -e '$x = \"x\" x 50_000_000; sleep 1000' & done; wait; \
         echo survived",
        "head -c 200000000 /dev/zero > /dev/shm/f; echo survived",
    ] {
        let done = farm.done(shell(script));
        assert_eq!(
            (done.end, done.exceeded),
            (End::Signaled(9), Some(Limit::Memory)),
            "{script}"
        );
        let output = std::fs::read_to_string(farm.last_directory().join("stdout"));
        assert_eq!(output.unwrap(), "", "{script}");
    }
    // What is within it passes, and the kernel says how much it was.
    let done = farm.done(shell("perl -e '$x = \"x\" x 20_000_000'"));
    assert_eq!((done.end, done.exceeded), (End::Exited(0), None));
    let peak = done.peak[Limit::Memory].unwrap();
    assert!((20_000_000..=100_000_000).contains(&peak), "{peak}");
    group.leave(farm);
}

#[test]
#[ignore = "needs the pids controller"]
fn a_group_of_too_many_processes_is_told_when_its_command_fails() {
    let Some(group) = Group::new("pids") else {
        return;
    };
    let mut farm = group.farm(&["processes=20"]);
    let bomb = "perl -e 'for (1..100) { my $p = fork; defined $p or exit 1; $p or sleep 1000 }'";
    let done = farm.done(shell(bomb));
    assert_eq!(
        (done.end, done.exceeded),
        (End::Exited(1), Some(Limit::Processes))
    );
    // Those of one sandbox are not another's.
    let few = farm.done(shell(
        "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.1 & done; wait; exit 1",
    ));
    assert_eq!((few.end, few.exceeded), (End::Exited(1), None));
    group.leave(farm);
}

#[test]
#[ignore = "needs the cpu controller"]
fn a_group_has_no_more_processor_time_than_it_may() {
    let Some(group) = Group::new("cpu") else {
        return;
    };
    let mut farm = group.farm(&["cpu_millis=200"]);
    let done = farm.done(shell("perl -e '1 while (times)[0] + (times)[1] < 1'"));
    assert_eq!(done.end, End::Exited(0));
    // A second of processor time, at a fifth of a processor.
    let least = std::time::Duration::from_secs(4);
    assert!(done.duration >= least, "{done:?}");
    group.leave(farm);
}
