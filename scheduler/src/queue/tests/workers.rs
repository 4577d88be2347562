//! What workers are told, in schedules told step by step.

use proto::wire::rev2::{ActionResult, ExecutedActionMetadata};
use tonic::Code;

use super::*;

#[test]
fn a_lost_workers_action_runs_elsewhere_before_later_ones_and_is_given_up_in_the_end() {
    let mut farm = Farm::new(Settings::default());
    farm.hold("a");
    let operation = farm.submit("x");
    farm.submit("later");
    farm.pass(59);
    assert_eq!(farm.stage(operation), Stage::Executing);
    farm.pass(1);
    assert_eq!(farm.stage(operation), Stage::Queued);
    for worker in ["b", "c"] {
        assert_eq!(executes(&farm.idle(worker)), Some(digest("x")), "{worker}");
        farm.pass(60);
    }
    let (code, message) = farm.status(operation);
    assert_eq!(code, Code::Unavailable);
    assert!(
        message.contains("{host=a}, {host=b}, {host=c}"),
        "{message}"
    );
    assert_eq!(executes(&farm.idle("d")), Some(digest("later")));
}

#[test]
fn a_result_that_is_repeated_is_not_that_of_a_later_task_of_the_same_action() {
    let mut farm = Farm::new(Settings::default());
    farm.hold("a");
    let uncached = || {
        let mut submission = submission("x");
        submission.action.do_not_cache = true;
        submission
    };
    let queued = farm.now.wall;
    let first = farm.try_submit(uncached()).unwrap().operation;
    farm.pass(1);
    let second = farm.try_submit(uncached()).unwrap().operation;
    let result = |queued| {
        let mut response = ok();
        response.result = Some(ActionResult {
            execution_metadata: Some(ExecutedActionMetadata {
                queued_timestamp: Some(proto::messages::timestamp(queued)),
                ..Default::default()
            }),
            ..Default::default()
        });
        Report::Completed(digest("x"), response)
    };
    // The answer, which hands out the second task, is lost, and the call repeated.
    assert_eq!(executes(&farm.sync("a", result(queued))), Some(digest("x")));
    assert_eq!(executes(&farm.sync("a", result(queued))), Some(digest("x")));
    assert_eq!(farm.stage(first), Stage::Completed);
    assert_eq!(farm.stage(second), Stage::Executing);
    farm.sync("a", result(queued + Duration::from_secs(1)));
    assert_eq!(farm.stage(second), Stage::Completed);
}

fn internal() -> Box<proto::wire::rev2::ExecuteResponse> {
    Box::new(queue::failure(Code::Internal, "disk is full"))
}

#[test]
fn an_action_whose_worker_failed_runs_elsewhere_and_the_last_failure_is_the_outcome() {
    let mut farm = Farm::new(Settings::default());
    farm.hold("a");
    let operation = farm.submit("x");
    farm.hold("b");
    farm.sync("a", Report::Completed(digest("x"), internal()));
    let b = farm.answers.values().find_map(told_to_execute);
    assert_eq!(
        b,
        Some(digest("x")),
        "an idle worker goes before the one that failed"
    );
    farm.pass(60);
    assert_eq!(
        farm.stage(operation),
        Stage::Executing,
        "that is lost, and a is idle"
    );
    farm.sync("a", Report::Completed(digest("x"), internal()));
    let (code, message) = farm.status(operation);
    assert_eq!(code, Code::Internal);
    assert_eq!(
        message,
        "disk is full; action was given up after 3 attempts; workers that disappeared while \
         executing it: {host=b}; workers that failed: {host=a}, {host=a}"
    );
}

#[test]
fn where_internal_errors_are_not_retried_the_first_is_the_outcome() {
    let mut farm = Farm::new(Settings {
        retry_internal_errors: false,
        ..Settings::default()
    });
    farm.hold("a");
    let operation = farm.submit("x");
    farm.sync("a", Report::Completed(digest("x"), internal()));
    assert_eq!(
        farm.status(operation),
        (Code::Internal, "disk is full".to_string())
    );
}

#[test]
fn a_worker_that_reports_is_not_lost() {
    let mut farm = Farm::new(Settings::default());
    farm.hold("a");
    let operation = farm.submit("x");
    for _ in 0..20 {
        farm.pass(50);
        farm.sync("a", Report::Executing(digest("x")));
    }
    assert_eq!(farm.stage(operation), Stage::Executing);
}

#[test]
fn a_worker_that_forgets_its_action_gets_it_again_ten_times_at_most() {
    let mut farm = Farm::new(Settings::default());
    farm.hold("a");
    let operation = farm.submit("x");
    for _ in 0..9 {
        assert_eq!(executes(&farm.idle("a")), Some(digest("x")));
    }
    assert!(matches!(farm.idle("a"), Outcome::Hold(_)));
    let (code, message) = farm.status(operation);
    assert_eq!(code, Code::Internal);
    assert!(message.contains("may crash the worker"), "{message}");
}

#[test]
fn a_worker_that_does_something_else_is_told_its_own_task_or_none() {
    let mut farm = Farm::new(Settings::default());
    assert!(is_idle(&farm.sync("a", Report::Executing(digest("stale")))));
    farm.hold("a");
    let operation = farm.submit("x");
    let corrected = farm.sync("a", Report::Executing(digest("stale")));
    assert_eq!(executes(&corrected), Some(digest("x")));
    let corrected = farm.sync("a", Report::Completed(digest("stale"), ok()));
    assert_eq!(executes(&corrected), Some(digest("x")));
    assert_eq!(
        farm.stage(operation),
        Stage::Executing,
        "a stale result is nobody's"
    );
}

#[test]
fn a_worker_that_prefers_being_idle_gets_nothing_and_loses_nothing() {
    let mut farm = Farm::new(Settings::default());
    farm.hold("a");
    let operation = farm.submit("x");
    let waiting = farm.submit("y");
    let going_on = farm
        .call("a", Report::Executing(digest("x")), true)
        .unwrap();
    assert!(matches!(
        going_on,
        Outcome::Reply(Reply {
            desired: Desired::Unchanged,
            ..
        })
    ));
    assert!(is_idle(
        &farm
            .call("a", Report::Completed(digest("x"), ok()), true)
            .unwrap()
    ));
    assert_eq!(farm.stage(operation), Stage::Completed);
    assert_eq!(farm.stage(waiting), Stage::Queued);

    assert_eq!(executes(&farm.idle("a")), Some(digest("y")));
    assert!(is_idle(&farm.call("a", Report::Idle, true).unwrap()));
    assert_eq!(
        farm.stage(waiting),
        Stage::Queued,
        "what it will not do goes elsewhere"
    );
    assert_eq!(executes(&farm.idle("b")), Some(digest("y")));
}

#[test]
fn an_idle_workers_call_is_held_for_one_to_two_minutes_and_not_twice_at_once() {
    let mut farm = Farm::new(Settings::default());
    let worker = farm.hold("a");
    let duplicate = farm.call("a", Report::Idle, false);
    assert!(matches!(duplicate, Err(Error::DuplicateWorker(name)) if name == "{host=a}"));
    farm.pass(59);
    assert!(farm.answers.is_empty());
    farm.pass(61);
    let reply = farm.answers.remove(&worker).unwrap();
    assert!(matches!(reply.desired, Desired::Idle));
    assert_eq!(farm.hold("a"), worker, "it is still known");
}

#[test]
fn a_held_call_that_breaks_takes_no_work_and_the_worker_may_call_again() {
    let mut farm = Farm::new(Settings::default());
    let worker = farm.hold("a");
    farm.queue.abandon(farm.now, worker);
    let operation = farm.submit("x");
    assert_eq!(farm.stage(operation), Stage::Queued);
    assert_eq!(executes(&farm.idle("a")), Some(digest("x")));
}

#[test]
fn a_platform_queue_goes_with_its_actions_when_no_worker_came_back() {
    let mut farm = Farm::new(Settings::default());
    farm.hold("a");
    farm.submit("busy");
    let queued = farm.submit("x");
    farm.pass(60);
    farm.pass(15 * 60 - 1);
    assert_eq!(farm.stage(queued), Stage::Queued);
    farm.pass(1);
    assert_eq!(farm.status(queued).0, Code::Unavailable);
    assert!(matches!(
        farm.try_submit(submission("x")),
        Err(Error::NoWorkers { .. })
    ));
}

#[test]
fn a_task_whose_answer_never_left_goes_elsewhere_at_once() {
    let mut farm = Farm::new(Settings::default());
    let worker = farm.hold("a");
    let operation = farm.submit("x");
    let Desired::Execute(job) = farm.answers[&worker].desired.clone() else {
        panic!("not handed out");
    };
    farm.queue.undelivered(farm.now, worker, &job);
    assert_eq!(farm.stage(operation), Stage::Queued);
    assert_eq!(executes(&farm.idle("b")), Some(digest("x")));
    farm.queue.undelivered(farm.now, worker, &job);
    assert_eq!(farm.stage(operation), Stage::Executing);
}

#[test]
fn a_task_that_was_sent_anew_is_not_taken_back_for_an_older_answer() {
    let mut farm = Farm::new(Settings::default());
    let worker = farm.hold("a");
    let operation = farm.submit("x");
    let Desired::Execute(job) = farm.answers[&worker].desired.clone() else {
        panic!("not handed out");
    };
    assert_eq!(executes(&farm.idle("a")), Some(digest("x")));
    farm.queue.undelivered(farm.now, worker, &job);
    assert_eq!(farm.stage(operation), Stage::Executing);
}
