//! Many actions, each of whose programs no cache has ever seen.
//!
//! Every program is written into the cache, or copied into an input root, by a
//! worker that runs sixteen others at that moment. A process that had one of them
//! open for writing across a fork would make its execution fail with ETXTBSY.
//! Each program ends with a code of its own, so that it shows which one ran.
//! When all is over, nothing of it may be left: no process, no mount, no
//! descriptor, no directory, no link to a cached file and no pin on one.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use tests::action::Action;
use tests::elf;
use tests::farm::{Farm, ROLES, Setup};
use tests::processes::descriptors_but_networks;
use tests::seal::Seal;
use tests::skip;
use tests::tree::Tree;
use tests::user::As;
use tests::wait::wait_for_none;

const ACTIONS: u32 = 5000;
const AT_A_TIME: u32 = 16;
/// The size of each program: more than one page, so that writing it takes a while.
const SIZE: usize = 16 << 10;

#[test]
fn five_thousand_unseen_programs_run_from_hardlinks() {
    if skip::needs_root("five_thousand_unseen_programs_run_from_hardlinks") {
        run(As::Root);
    }
}

#[test]
fn five_thousand_unseen_programs_run_from_copies() {
    run(As::PlainUser);
}

fn run(who: As) {
    let slots = u16::try_from(AT_A_TIME).expect("a few");
    let folder = who.folder();
    let directory = folder.path().join("state");
    let farm = Setup::new(who).slots(slots).directory(&directory).start();
    // What is there once every slot has run something is there to stay.
    execute(&farm, ACTIONS..ACTIONS + 8 * AT_A_TIME);
    farm.wait_until_idle();
    let before = Holdings::of(&farm);
    let start = Instant::now();
    execute(&farm, 0..ACTIONS);
    let rate = f64::from(ACTIONS) / start.elapsed().as_secs_f64();
    println!("{who:?}: {ACTIONS} actions, {AT_A_TIME} at a time: {rate:.0} each second");
    farm.wait_until_idle();
    wait_for_none("more things than before", || {
        Holdings::of(&farm).beyond(&before)
    });
    // The cache holds what it says, every file of it.
    let cache = farm.cache();
    Seal::record(&cache).check();
    farm.stop();
    // The worker ended well, which is when it says whether any was still held.
    assert!(cache.join("index").exists());
}

/// Runs these actions, as many at a time as there are slots.
fn execute(farm: &Farm, numbers: std::ops::Range<u32>) {
    let client = farm.client();
    let next = Arc::new(AtomicU32::new(numbers.start));
    client.block_on(async {
        let lines: Vec<_> = (0..AT_A_TIME)
            .map(|_| {
                let (client, next, end) = (client.clone(), Arc::clone(&next), numbers.end);
                tokio::spawn(async move {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= end {
                            return;
                        }
                        execute_one(&client, number).await;
                    }
                })
            })
            .collect();
        for line in lines {
            line.await.expect("every action is as it should be");
        }
    });
}

async fn execute_one(client: &tests::client::Client, number: u32) {
    // Never 0: a program that did nothing is not one that did what it should.
    let code = u8::try_from(number % 251 + 1).expect("a byte");
    let program = elf::tiny(code, number.into(), SIZE);
    let action = Action::new(["./program"])
        .tree(&Tree::new().executable("program", program))
        .do_not_cache();
    let (digest, blobs) = action.blobs();
    let uploaded = client.inner().upload(blobs).await;
    uploaded.expect("the farm takes the blobs");
    let outcome = client.run_async(digest).await;
    let _ = outcome.exited(i32::from(code));
}

/// How many things the farm's processes hold.
#[derive(Debug)]
struct Holdings(BTreeMap<String, usize>);

impl Holdings {
    fn of(farm: &Farm) -> Self {
        let mut counts = BTreeMap::from([("processes".into(), farm.processes().len())]);
        for role in ROLES {
            let pid = farm.role(role).pid;
            let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo"));
            let mounts = mounts.expect("its mounts").lines().count();
            counts.insert(format!("mounts of the {role}"), mounts);
            let descriptors = descriptors_but_networks(pid);
            assert_ne!(descriptors, 0, "the descriptors of the {role} can be read");
            counts.insert(format!("descriptors of the {role}"), descriptors);
        }
        Self(counts)
    }

    /// What there is more of than there was: name, then, now. Event loops open
    /// and close a few descriptors at all times.
    fn beyond(&self, before: &Self) -> Vec<(String, usize, usize)> {
        let more = self
            .0
            .iter()
            .map(|(name, now)| (name.clone(), before.0[name], *now));
        more.filter(|(name, then, now)| {
            let slack = if name.starts_with("descriptors") {
                16
            } else {
                0
            };
            *now > then + slack
        })
        .collect()
    }
}
