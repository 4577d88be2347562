//! Who is served when several want to be.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Submits so many actions of an invocation, all of this priority.
fn backlog(farm: &mut Farm, invocation: &[&str], priority: i32, count: usize) {
    for index in 0..count {
        let name = format!("{} {priority} {index}", invocation.join("/"));
        let submission = Submission {
            priority,
            ..of(invocation, &name)
        };
        farm.try_submit(submission).unwrap();
    }
}

/// Which of the actions of [`backlog`] this is.
fn names(invocations: &[&[&str]], priority: i32, count: usize) -> BTreeMap<Digest, String> {
    let mut names = BTreeMap::new();
    for invocation in invocations {
        let invocation = invocation.join("/");
        for index in 0..count {
            let name = format!("{invocation} {priority} {index}");
            names.insert(digest(&name), invocation.clone());
        }
    }
    names
}

/// Lets so many workers take one action each, and counts whose they are.
fn served(farm: &mut Farm, names: &BTreeMap<Digest, String>, workers: usize) -> Vec<usize> {
    let mut counts = BTreeMap::<_, usize>::new();
    for name in names.values() {
        counts.insert(name.clone(), 0);
    }
    for worker in 0..workers {
        let given = executes(&farm.idle(&worker.to_string())).unwrap();
        *counts.get_mut(&names[&given]).unwrap() += 1;
    }
    counts.into_values().collect()
}

fn farm(settings: Settings) -> Farm {
    let mut farm = Farm::new(settings);
    farm.queue = farm_queue(&farm, Vec::new());
    farm
}

fn farm_queue(farm: &Farm, stickiness_limits: Vec<Duration>) -> Queue {
    let predeclared = [Predeclared {
        prefix: InstanceName::new("main").unwrap(),
        platform: os("linux"),
        size_classes: Vec::new(),
        stickiness_limits,
    }];
    let mut state = 0u128;
    let random = Box::new(move || {
        state += 1;
        state
    });
    Queue::new(farm.queue.settings.clone(), &predeclared, random, farm.now)
}

#[test]
fn equal_invocations_share_the_workers_however_many_actions_they_have() {
    let mut farm = farm(Settings::default());
    backlog(&mut farm, &["a"], 0, 100);
    backlog(&mut farm, &["b"], 0, 8);
    let names = names(&[&["a"], &["b"]], 0, 100);
    assert_eq!(served(&mut farm, &names, 16), [8, 8]);
}

#[test]
fn a_hundred_points_of_priority_are_worth_twice_the_workers() {
    let mut farm = farm(Settings::default());
    backlog(&mut farm, &["a"], 0, 20);
    backlog(&mut farm, &["b"], 100, 20);
    let mut all = names(&[&["a"]], 0, 20);
    all.extend(names(&[&["b"]], 100, 20));
    assert_eq!(served(&mut farm, &all, 15), [10, 5]);
}

#[test]
fn shares_are_divided_level_by_level() {
    let mut farm = farm(Settings::default());
    let all: [&[&str]; 3] = [&["u", "x"], &["v", "y"], &["v", "z"]];
    for invocation in all {
        backlog(&mut farm, invocation, 0, 20);
    }
    let names = names(&all, 0, 20);
    assert_eq!(served(&mut farm, &names, 12), [6, 3, 3]);
}

#[test]
fn what_is_queued_directly_goes_before_what_children_have() {
    let mut farm = farm(Settings::default());
    backlog(&mut farm, &["a", "x"], -100, 1);
    backlog(&mut farm, &["a"], 0, 1);
    assert_eq!(executes(&farm.idle("1")), Some(digest("a 0 0")));
    assert_eq!(executes(&farm.idle("2")), Some(digest("a/x -100 0")));
}

#[test]
fn what_waits_long_enough_goes_before_what_is_more_urgent() {
    let mut farm = farm(Settings::default());
    backlog(&mut farm, &["a"], 10, 1);
    farm.pass(60 * 9);
    backlog(&mut farm, &["a"], 0, 1);
    farm.pass(60 * 2);
    backlog(&mut farm, &["a"], -1, 1);
    backlog(&mut farm, &["a"], 0, 2);
    let order = ["a 0 0", "a 10 0", "a -1 0", "a 0 1"];
    for (worker, name) in order.into_iter().enumerate() {
        let given = executes(&farm.idle(&worker.to_string()));
        assert_eq!(given, Some(digest(name)), "{name}");
    }
}

#[test]
fn between_invocations_waiting_counts_as_priority_does() {
    let mut farm = farm(Settings {
        aging_interval: Some(Duration::from_secs(1)),
        ..Settings::default()
    });
    backlog(&mut farm, &["a"], 0, 20);
    farm.pass(100);
    backlog(&mut farm, &["b"], 0, 20);
    let names = names(&[&["a"], &["b"]], 0, 20);
    assert_eq!(served(&mut farm, &names, 15), [10, 5]);
}

#[test]
fn an_idle_worker_of_the_same_build_is_preferred_to_one_idle_longer() {
    let mut farm = farm(Settings::default());
    let (_, b) = (farm.hold("stranger"), farm.hold("b"));
    farm.try_submit(of(&["x"], "x 1")).unwrap();
    farm.try_submit(of(&["y"], "y 1")).unwrap();
    assert_eq!(told_to_execute(&farm.answers[&b]), Some(digest("y 1")));
    farm.sync("stranger", Report::Completed(digest("x 1"), ok()));
    farm.sync("b", Report::Completed(digest("y 1"), ok()));
    farm.answers.clear();
    farm.try_submit(of(&["y"], "y 2")).unwrap();
    assert_eq!(told_to_execute(&farm.answers[&b]), Some(digest("y 2")));
}

#[test]
fn a_worker_whose_action_failed_belongs_to_nobody() {
    let mut farm = farm(Settings::default());
    let (a, b) = (farm.hold("a"), farm.hold("b"));
    farm.try_submit(of(&["x"], "x 1")).unwrap();
    farm.try_submit(of(&["y"], "y 1")).unwrap();
    farm.sync("a", Report::Completed(digest("x 1"), ok()));
    let failed = Box::new(queue::failure(Code::NotFound, "no inputs"));
    farm.sync("b", Report::Completed(digest("y 1"), failed));
    farm.answers.clear();
    farm.try_submit(of(&["y"], "y 2")).unwrap();
    let given = [a, b].map(|worker| farm.answers.contains_key(&worker));
    assert_eq!(given, [false, true], "the root's own before those of x");
}

#[test]
fn a_sticky_worker_goes_on_with_its_build_until_the_limit_if_nobody_is_due_more() {
    for (limit, expected) in [(0, "y"), (60, "x")] {
        let mut farm = farm(Settings::default());
        farm.queue = farm_queue(&farm, vec![Duration::from_secs(limit)]);
        for (invocation, worker) in [("x", "1"), ("y", "2"), ("x", "3"), ("y", "4")] {
            farm.try_submit(of(&[invocation], worker)).unwrap();
            farm.idle(worker);
        }
        backlog(&mut farm, &["x"], 0, 5);
        backlog(&mut farm, &["y"], 0, 5);
        // Each has two. One of y goes, then one of x: both have one, and x was
        // served less recently.
        let given = |farm: &mut Farm, worker, done: &str| {
            let done = digest(done);
            executes(&farm.sync(worker, Report::Completed(done, ok()))).unwrap()
        };
        assert_eq!(
            given(&mut farm, "2", "2"),
            digest("y 0 0"),
            "y has one less"
        );
        assert_eq!(
            given(&mut farm, "1", "1"),
            digest("x 0 0"),
            "x has one less"
        );
        farm.try_submit(of(&["x"], "z")).unwrap();
        let fifth = executes(&farm.idle("5")).unwrap();
        assert_eq!(
            fifth,
            digest("y 0 1"),
            "a newcomer serves whom was served longer ago"
        );
        // Now y has three and x two: an x worker stays or not is all the same.
        let sixth = executes(&farm.idle("6")).unwrap();
        assert_eq!(sixth, digest("x 0 1"));
        // Three each. A worker of x and one of y leave; then they are equal.
        farm.call("4", Report::Completed(digest("4"), ok()), true)
            .unwrap();
        farm.call("3", Report::Completed(digest("3"), ok()), true)
            .unwrap();
        let stays = executes(&farm.idle("3")).unwrap();
        assert_eq!(stays, digest(&format!("{expected} 0 2")));
    }
}

#[test]
fn what_exceeds_the_limit_of_queued_actions_is_refused_by_name() {
    let mut farm = farm(Settings {
        limits: Limits {
            queued: Some(2),
            ..Limits::default()
        },
        ..Settings::default()
    });
    backlog(&mut farm, &["a"], 0, 2);
    let refused = farm.try_submit(of(&["a"], "more")).unwrap_err();
    let status = tonic::Status::from(refused);
    assert_eq!(status.code(), Code::ResourceExhausted);
    let named = "maximum_queued_actions_per_invocation";
    assert!(status.message().contains(named), "{status}");
    farm.try_submit(of(&["a"], "a 0 0"))
        .expect("it is the same action");
    farm.try_submit(of(&["b"], "more"))
        .expect("it is another invocation");
    farm.idle("1");
    farm.try_submit(of(&["a"], "more"))
        .expect("one is executing now");
}

#[test]
fn an_executing_action_that_several_invocations_want_is_queued_in_none() {
    let mut farm = farm(Settings {
        limits: Limits {
            queued_per_tenant: Some(2),
            ..Limits::default()
        },
        ..Settings::default()
    });
    farm.hold("1");
    let shared: Vec<_> = ["a", "b", "c", "d"]
        .map(|run| farm.try_submit(of(&["t", run], "shared")).unwrap())
        .into();
    farm.queue.cancel(farm.now, shared[0].operation).unwrap();
    for content in ["x", "y"] {
        farm.try_submit(of(&["t", "a"], content)).unwrap();
    }
    assert!(farm.try_submit(of(&["t", "a"], "z")).is_err());
    // One that goes back to the queue counts for each again.
    farm.pass(61);
    assert_eq!(farm.stage(shared[1].operation), Stage::Queued);
    assert!(farm.try_submit(of(&["t", "a"], "z")).is_err());
}

#[test]
fn what_exceeds_the_limit_of_executing_actions_waits_though_workers_are_idle() {
    let mut farm = farm(Settings {
        limits: Limits {
            executing: Some(1),
            ..Limits::default()
        },
        ..Settings::default()
    });
    let (_, second) = (farm.hold("1"), farm.hold("2"));
    backlog(&mut farm, &["a"], 0, 3);
    assert!(!farm.answers.contains_key(&second));
    let other = farm.try_submit(of(&["b"], "other")).unwrap();
    assert_eq!(farm.stage(other.operation), Stage::Executing);
    assert!(matches!(farm.idle("3"), Outcome::Hold(_)));

    // The next one goes to a worker that is idle as soon as the first is done.
    farm.call("1", Report::Completed(digest("a 0 0"), ok()), true)
        .unwrap();
    let third = farm.answers.values().filter_map(told_to_execute);
    assert!(third.collect::<Vec<_>>().contains(&digest("a 0 1")));
}

#[test]
fn a_tenant_has_no_more_than_its_limits_allow_in_all_its_invocations() {
    let mut farm = farm(Settings {
        limits: Limits {
            queued_per_tenant: Some(2),
            executing_per_tenant: Some(1),
            ..Limits::default()
        },
        ..Settings::default()
    });
    let (_, second) = (farm.hold("1"), farm.hold("2"));
    backlog(&mut farm, &["t", "a"], 0, 1);
    backlog(&mut farm, &["t", "b"], 0, 1);
    assert!(!farm.answers.contains_key(&second));
    let waits = farm.try_submit(of(&["t", "c"], "c")).unwrap().operation;
    let held_by = farm.queue.waiting(waits).unwrap().held_by;
    assert_eq!(held_by, "maximum_executing_actions_per_tenant");
    let refused = farm.try_submit(of(&["t", "d"], "d")).unwrap_err();
    let status = tonic::Status::from(refused);
    assert_eq!(status.code(), Code::ResourceExhausted);
    let named = "maximum_queued_actions_per_tenant";
    assert!(status.message().contains(named), "{status}");

    let other = farm.try_submit(of(&["u", "a"], "other")).unwrap();
    assert_eq!(farm.stage(other.operation), Stage::Executing);
    farm.hold("3");
    let digest = digest("t/a 0 0");
    farm.call("1", Report::Completed(digest, ok()), true)
        .unwrap();
    assert_eq!(farm.answers.values().filter_map(told_to_execute).count(), 3);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// Two equal invocations that both have something queued: whatever the order
    /// in which actions come and end, neither has more than one worker more.
    #[test]
    fn equal_backlogged_invocations_never_differ_by_more_than_one_worker(
        nested: bool,
        workers in 1..12usize,
        ends in prop::collection::vec(any::<prop::sample::Index>(), 1..150),
    ) {
        let mut farm = farm(Settings::default());
        let all: [&[&str]; 2] = if nested { [&["u", "a"], &["u", "b"]] } else { [&["a"], &["b"]] };
        let count = workers + ends.len();
        for invocation in all {
            backlog(&mut farm, invocation, 0, count);
        }
        let names = names(&all, 0, count);
        let mut executing: Vec<_> = (0..workers)
            .map(|worker| executes(&farm.idle(&worker.to_string())).unwrap())
            .collect();
        for end in ends {
            let worker = end.index(workers);
            let done = Report::Completed(executing[worker], ok());
            // The one that ended counts no more when the next is chosen, and the
            // choice makes up for whatever the end has unbalanced, if it can.
            let of_first = |executing: &[Digest]| {
                let first = &names[&digest(&format!("{} 0 0", all[0].join("/")))];
                executing.iter().filter(|digest| names[*digest] == *first).count()
            };
            let others: Vec<_> = executing
                .iter()
                .enumerate()
                .filter(|(index, _)| *index != worker)
                .map(|(_, digest)| *digest)
                .collect();
            let (a, b) = (of_first(&others), others.len() - of_first(&others));
            executing[worker] = executes(&farm.sync(&worker.to_string(), done)).unwrap();
            let chose_first = of_first(&executing) > a;
            prop_assert!(if chose_first { a <= b } else { b <= a }, "{a} and {b}");
            let difference = of_first(&executing).abs_diff(workers - of_first(&executing));
            prop_assert!(difference <= 1, "{difference} apart");
        }
    }

    /// Within an invocation nothing goes before what is effectively more urgent.
    #[test]
    fn nothing_is_overtaken_by_lower_effective_priority(
        arrivals in prop::collection::vec((0..5i32, 0..200u64), 1..60),
        takes in prop::collection::vec(any::<bool>(), 1..60),
    ) {
        let mut farm = farm(Settings::default());
        let start = farm.now.instant;
        let (mut waiting, mut takes) = (BTreeMap::new(), takes.into_iter().cycle());
        let mut worker = 0;
        for (index, (priority, pause)) in arrivals.into_iter().enumerate() {
            farm.pass(pause);
            let name = format!("x {index}");
            farm.try_submit(Submission { priority, ..of(&["a"], &name) }).unwrap();
            let minutes = (farm.now.instant - start).as_secs() / 60;
            waiting.insert(digest(&name), i64::from(priority) + i64::try_from(minutes).unwrap());
            if takes.next() == Some(true) {
                worker += 1;
                let given = executes(&farm.idle(&worker.to_string())).unwrap();
                let level = waiting.remove(&given).unwrap();
                prop_assert!(waiting.values().all(|other| level <= *other));
                farm.call(&worker.to_string(), Report::Completed(given, ok()), true).unwrap();
            }
        }
    }
}
