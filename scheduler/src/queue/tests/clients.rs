//! What clients see, in schedules told step by step.

use proto::wire::protobuf;
use proto::wire::rev2::ActionResult;
use tonic::Code;

use super::*;

#[test]
fn an_action_goes_at_once_to_the_worker_idle_longest_and_its_result_to_the_client() {
    let mut farm = Farm::new(Settings::default());
    let (first, second) = (farm.hold("a"), farm.hold("b"));
    let operation = farm.submit("x");
    assert_eq!(farm.stage(operation), Stage::Executing);
    assert!(!farm.answers.contains_key(&second));
    let reply = &farm.answers[&first];
    assert_eq!(reply.next, farm.now.wall + Duration::from_millis(500));
    let Desired::Execute(job) = &reply.desired else {
        panic!("{reply:?}");
    };
    assert_eq!(job.instance.as_str(), "main/sub");
    assert_eq!(job.instance_suffix.as_str(), "sub");
    assert_eq!(job.queued, farm.now.wall);
    let action = job.brief.as_ref().unwrap().open().action.unwrap();
    let seconds = action.timeout.map(|timeout| timeout.seconds);
    assert_eq!(seconds, Some(1800), "the timeout is always written");

    let going_on = farm.sync("a", Report::Executing(digest("x")));
    assert!(matches!(
        going_on,
        Outcome::Reply(Reply {
            desired: Desired::Unchanged,
            ..
        })
    ));
    let outcome = farm.sync("a", Report::Completed(digest("x"), ok()));
    assert!(matches!(outcome, Outcome::Hold(_)));
    assert_eq!(farm.response(operation), Some(*ok()));
    assert_eq!(farm.told.last(), Some(&(operation, Stage::Completed)));
}

#[test]
fn queued_actions_are_handed_out_by_priority_then_arrival() {
    let mut farm = Farm::new(Settings::default());
    farm.hold("a");
    farm.submit("busy");
    for (content, priority) in [("c", 5), ("a", i32::MIN), ("d", 5), ("b", 0)] {
        let submission = Submission {
            priority,
            ..submission(content)
        };
        farm.try_submit(submission).unwrap();
    }
    let mut last = digest("busy");
    for content in ["a", "b", "c", "d"] {
        last = executes(&farm.sync("a", Report::Completed(last, ok()))).unwrap();
        assert_eq!(last, digest(content));
    }
}

#[test]
fn the_same_action_is_executed_once_for_all_and_its_priority_is_the_most_urgent() {
    let mut farm = Farm::new(Settings::default());
    farm.hold("a");
    farm.submit("busy");
    let first = farm
        .try_submit(Submission {
            priority: 9,
            ..submission("x")
        })
        .unwrap();
    farm.submit("y");
    let second = farm
        .try_submit(Submission {
            priority: -1,
            ..submission("x")
        })
        .unwrap();
    assert_ne!(first.operation, second.operation);
    let given = executes(&farm.sync("a", Report::Completed(digest("busy"), ok())));
    assert_eq!(given, Some(digest("x")), "the second client made it urgent");
    let given = executes(&farm.sync("a", Report::Completed(digest("x"), ok())));
    assert_eq!(given, Some(digest("y")), "and it ran once");
    for operation in [first.operation, second.operation] {
        assert_eq!(farm.response(operation), Some(*ok()));
    }
    let third = farm.submit("x");
    assert_eq!(
        farm.stage(third),
        Stage::Queued,
        "a finished task is not joined"
    );
}

#[test]
fn priority_falls_back_when_the_urgent_client_cancels() {
    let mut farm = Farm::new(Settings::default());
    farm.hold("a");
    farm.submit("busy");
    farm.try_submit(Submission {
        priority: 9,
        ..submission("x")
    })
    .unwrap();
    farm.submit("y");
    let urgent = farm
        .try_submit(Submission {
            priority: -1,
            ..submission("x")
        })
        .unwrap();
    farm.queue.cancel(farm.now, urgent.operation).unwrap();
    assert_eq!(farm.status(urgent.operation).0, Code::Cancelled);
    let given = executes(&farm.sync("a", Report::Completed(digest("busy"), ok())));
    assert_eq!(given, Some(digest("y")));
}

#[test]
fn actions_not_to_be_cached_are_each_executed() {
    let mut farm = Farm::new(Settings::default());
    let (a, b) = (farm.hold("a"), farm.hold("b"));
    let mut uncached = submission("x");
    uncached.action.do_not_cache = true;
    farm.try_submit(uncached.clone()).unwrap();
    farm.try_submit(uncached).unwrap();
    for worker in [a, b] {
        assert_eq!(told_to_execute(&farm.answers[&worker]), Some(digest("x")));
    }
}

#[test]
fn without_a_queue_an_action_is_refused_softly_at_first_and_with_reasons_later() {
    let mut farm = Farm::new(Settings::default());
    let refused = farm.try_submit(submission("x")).unwrap_err();
    assert_eq!(tonic::Status::from(refused).code(), Code::Unavailable);
    farm.pass(15 * 60);
    farm.hold("a");
    let windows = Submission {
        platform: os("windows"),
        ..submission("x")
    };
    let status = tonic::Status::from(farm.try_submit(windows).unwrap_err());
    assert_eq!(status.code(), Code::FailedPrecondition);
    let reason = "has os=\"linux\", not \"windows\"";
    assert!(status.message().contains(reason), "{status}");
}

#[test]
fn predeclared_queues_wait_for_workers_without_end() {
    let predeclared = [Predeclared {
        prefix: InstanceName::new("main").unwrap(),
        platform: os("linux"),
        size_classes: Vec::new(),
        stickiness_limits: Vec::new(),
    }];
    let mut farm = Farm::new(Settings::default());
    farm.queue = Queue::new(Settings::default(), &predeclared, Box::new(|| 7), farm.now);
    let operation = farm.submit("x");
    farm.pass(100_000);
    assert_eq!(executes(&farm.idle("a")), Some(digest("x")));
    farm.pass(60);
    farm.pass(100_000);
    assert_eq!(farm.stage(operation), Stage::Queued);
}

#[test]
fn ignored_properties_do_not_decide_but_reach_the_worker() {
    let mut farm = Farm::new(Settings {
        ignored: Ignored::All,
        ..Settings::default()
    });
    let worker = farm.hold("a");
    let mut anything = Submission {
        platform: os("plan9"),
        ..submission("x")
    };
    anything.action.platform = Some(os("plan9").to_wire());
    farm.try_submit(anything).unwrap();
    let Desired::Execute(job) = &farm.answers[&worker].desired else {
        panic!("not handed out");
    };
    let action = job.brief.as_ref().unwrap().open().action.unwrap();
    assert_eq!(action.platform, Some(os("plan9").to_wire()));
}

#[test]
fn an_operation_nobody_waits_for_is_removed_after_a_minute_and_its_task_ends() {
    let mut farm = Farm::new(Settings::default());
    farm.hold("a");
    let operation = farm.submit("x");
    farm.queue.leave(farm.now, operation);
    farm.pass(50);
    farm.sync("a", Report::Executing(digest("x")));
    assert!(
        farm.queue.join(farm.now, operation).is_some(),
        "a client came back"
    );
    farm.pass(50);
    assert_eq!(farm.stage(operation), Stage::Executing);
    farm.queue.leave(farm.now, operation);
    farm.sync("a", Report::Executing(digest("x")));
    farm.pass(59);
    farm.pass(1);
    assert!(farm.queue.view(operation).is_none());
    assert!(farm.queue.join(farm.now, operation).is_none());
    assert!(farm.queue.tasks.is_empty());
}

#[test]
fn so_many_share_a_task_and_the_next_begins_another() {
    let mut farm = Farm::new(Settings::default());
    farm.hold("a");
    let operations: Vec<_> = (0..=crate::queue::task::SHARED)
        .map(|client| {
            let client = of(&[&client.to_string()], "x");
            farm.try_submit(client).unwrap().operation
        })
        .collect();
    let (beyond, shared) = operations.split_last().unwrap();
    assert!(shared.iter().all(|it| farm.stage(*it) == Stage::Executing));
    assert_eq!(farm.stage(*beyond), Stage::Queued);
    let further = farm.try_submit(of(&["further"], "x")).unwrap().operation;
    // The first task's end lets go of it alone: the second is joined again.
    let given = executes(&farm.sync("a", Report::Completed(digest("x"), ok())));
    assert_eq!(given, Some(digest("x")));
    let last = farm.try_submit(of(&["last"], "x")).unwrap().operation;
    for operation in [*beyond, further, last] {
        assert_eq!(farm.stage(operation), Stage::Executing);
    }
    assert_eq!(farm.queue.tasks.len(), 1);
}

#[test]
fn a_cancelled_action_ends_only_with_its_last_operation_and_its_worker_hears_of_it() {
    let mut farm = Farm::new(Settings::default());
    farm.hold("a");
    let (first, second) = (farm.submit("x"), farm.submit("x"));
    farm.queue.cancel(farm.now, first).unwrap();
    assert_eq!(farm.status(first).0, Code::Cancelled);
    assert_eq!(farm.stage(second), Stage::Executing);
    farm.queue.cancel(farm.now, second).unwrap();
    assert!(is_idle(&farm.sync("a", Report::Executing(digest("x")))));
    let unknown = farm.queue.cancel(farm.now, Uuid::nil());
    assert!(matches!(unknown, Err(Error::UnknownOperation(_))));
}

#[test]
fn timeouts_out_of_bounds_are_refused() {
    let mut farm = Farm::new(Settings::default());
    farm.hold("a");
    for seconds in [-1, 7201] {
        let mut bad = submission("x");
        bad.action.timeout = Some(protobuf::Duration { seconds, nanos: 0 });
        assert!(matches!(farm.try_submit(bad), Err(Error::Timeout(_))));
    }
}

fn checking() -> Farm {
    let mut farm = Farm::new(Settings {
        check_action_cache: true,
        ..Settings::default()
    });
    farm.hold("a");
    farm
}

#[test]
fn a_cached_result_completes_everyone_without_a_worker() {
    let mut farm = checking();
    let first = farm.try_submit(submission("x")).unwrap();
    let second = farm.try_submit(submission("x")).unwrap();
    assert_eq!(farm.stage(first.operation), Stage::CacheCheck);
    assert!(second.look_up.is_none(), "one look-up does for both");
    let task = first.look_up.unwrap();
    farm.queue
        .cache_checked(farm.now, task, Some(ActionResult::default()));
    for operation in [first.operation, second.operation] {
        assert!(farm.response(operation).unwrap().cached_result);
    }
}

#[test]
fn a_miss_a_waived_look_up_and_an_uncacheable_action_are_executed() {
    let mut farm = checking();
    let missed = farm.try_submit(submission("x")).unwrap();
    farm.queue
        .cache_checked(farm.now, missed.look_up.unwrap(), None);
    assert_eq!(farm.stage(missed.operation), Stage::Executing);

    let waived = Submission {
        skip_cache_lookup: true,
        ..submission("y")
    };
    let mut uncached = submission("z");
    uncached.action.do_not_cache = true;
    for submission in [waived, uncached] {
        let submitted = farm.try_submit(submission).unwrap();
        assert!(submitted.look_up.is_none());
        assert_eq!(farm.stage(submitted.operation), Stage::Queued);
    }
}

#[test]
fn a_client_that_waives_the_look_up_gets_no_cached_result_by_joining() {
    let mut farm = checking();
    let first = farm.try_submit(submission("x")).unwrap();
    let waived = Submission {
        skip_cache_lookup: true,
        ..submission("x")
    };
    let second = farm.try_submit(waived).unwrap();
    assert_eq!(farm.stage(second.operation), Stage::Executing);
    let task = first.look_up.unwrap();
    farm.queue
        .cache_checked(farm.now, task, Some(ActionResult::default()));
    assert_eq!(farm.stage(first.operation), Stage::Executing);
}
