//! Actions that are too large for small workers.

use proto::wire::rev2::ActionResult;

use super::*;

fn farm() -> Farm {
    let mut farm = Farm::new(Settings::default());
    let predeclared = [Predeclared {
        prefix: InstanceName::new("main").unwrap(),
        platform: os("linux"),
        size_classes: vec![1, 4, 16],
        stickiness_limits: Vec::new(),
    }];
    let mut state = 0u128;
    let random = Box::new(move || {
        state += 1;
        state
    });
    farm.queue = Queue::new(Settings::default(), &predeclared, random, farm.now);
    farm
}

fn sync(farm: &mut Farm, size_class: u32, report: Report) -> Outcome {
    let call = Synchronization {
        size_class,
        ..synchronization(&format!("of {size_class}"), report)
    };
    let outcome = farm.queue.synchronize(farm.now, call).unwrap();
    farm.settle();
    outcome
}

fn exit(code: i32) -> Box<ExecuteResponse> {
    Box::new(ExecuteResponse {
        result: Some(ActionResult {
            exit_code: code,
            ..Default::default()
        }),
        ..Default::default()
    })
}

#[test]
fn an_action_is_tried_on_the_smallest_and_once_more_on_the_largest() {
    let mut farm = farm();
    for class in [4, 16] {
        assert!(matches!(
            sync(&mut farm, class, Report::Idle),
            Outcome::Hold(_)
        ));
    }
    let first = farm.try_submit(of(&["a"], "x")).unwrap().operation;
    let second = farm.try_submit(of(&["b"], "x")).unwrap().operation;
    assert_eq!(
        farm.stage(first),
        Stage::Queued,
        "though larger workers are idle"
    );
    assert_eq!(
        executes(&sync(&mut farm, 1, Report::Idle)),
        Some(digest("x"))
    );
    farm.told.clear();
    sync(&mut farm, 1, Report::Completed(digest("x"), exit(1)));
    let largest = farm.answers.values().filter_map(told_to_execute);
    assert_eq!(largest.collect::<Vec<_>>(), [digest("x")]);
    assert_eq!(
        farm.told,
        [(first, Stage::Executing), (second, Stage::Executing)]
    );
    let shown = farm.queue.get_operation(farm.now, second).unwrap();
    let queue = shown
        .invocation_name
        .unwrap()
        .size_class_queue_name
        .unwrap();
    assert_eq!(queue.size_class, 16);

    let third = farm.try_submit(of(&["c"], "x")).unwrap().operation;
    let shown = farm.queue.get_operation(farm.now, third).unwrap();
    assert_eq!(
        shown.invocation_name.unwrap().size_class_queue_name,
        Some(queue)
    );

    sync(&mut farm, 16, Report::Completed(digest("x"), exit(2)));
    for operation in [first, second, third] {
        let result = farm.response(operation).unwrap().result.unwrap();
        assert_eq!(result.exit_code, 2, "what fails there has failed");
    }
    for platform in farm.queue.platforms.iter() {
        assert_eq!(tree::check(&platform.invocations), 0);
    }
}

#[test]
fn an_action_waits_for_the_largest_when_no_such_worker_is_idle() {
    let mut farm = farm();
    let operation = farm.submit("x");
    assert_eq!(
        executes(&sync(&mut farm, 1, Report::Idle)),
        Some(digest("x"))
    );
    let next = sync(&mut farm, 1, Report::Completed(digest("x"), exit(1)));
    assert!(
        matches!(next, Outcome::Hold(_)),
        "not on the smallest again"
    );
    assert_eq!(farm.stage(operation), Stage::Queued);
    assert_eq!(
        executes(&sync(&mut farm, 16, Report::Idle)),
        Some(digest("x"))
    );
}

#[test]
fn what_succeeds_on_the_smallest_is_done_and_what_is_stopped_is_not_tried_again() {
    let mut farm = farm();
    let done = farm.submit("x");
    assert_eq!(
        executes(&sync(&mut farm, 1, Report::Idle)),
        Some(digest("x"))
    );
    sync(&mut farm, 1, Report::Completed(digest("x"), exit(0)));
    assert_eq!(farm.stage(done), Stage::Completed);

    let killed = farm.submit("y");
    let status = queue::failure(Code::Aborted, "enough").status.unwrap();
    farm.queue.kill(farm.now, killed, status).unwrap();
    assert_eq!(farm.status(killed).0, Code::Aborted);
}

#[test]
fn a_worker_of_a_class_that_does_not_fit_is_refused_by_name() {
    let mut farm = farm();
    for size_class in [0, 17] {
        let call = Synchronization {
            size_class,
            ..synchronization("a", Report::Idle)
        };
        let status = tonic::Status::from(farm.queue.synchronize(farm.now, call).unwrap_err());
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with("size_class: "), "{status}");
    }
}
