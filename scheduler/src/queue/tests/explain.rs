//! What is told of operations that wait.

use super::*;

#[test]
fn what_is_ahead_and_which_workers_match_is_counted() {
    let mut farm = Farm::new(Settings::default());
    farm.hold("1");
    farm.hold("2");
    for (invocation, content) in [("a", "x"), ("b", "y"), ("a", "1"), ("a", "2"), ("b", "3")] {
        farm.try_submit(of(&["u", invocation], content)).unwrap();
    }
    let last = farm.try_submit(of(&["u", "a"], "4")).unwrap().operation;
    let drained = Pattern::from([("host".into(), "3".into())]);
    let name = QueueName {
        prefix: InstanceName::new("main").unwrap(),
        platform: os("linux"),
        size_class: 0,
    };
    farm.queue.add_drain(farm.now, &name, drained).unwrap();
    farm.hold("3");
    let waiting = farm.queue.explain(farm.now, last).unwrap();
    assert_eq!(waiting.operations_ahead, 2);
    assert_eq!(waiting.invocations_ahead, 0, "a was served before b");
    assert_eq!(waiting.queued, 4);
    assert_eq!(waiting.workers, 3);
    assert_eq!(waiting.executing_workers, 2);
    assert_eq!(waiting.unavailable_workers, 1);
    assert_eq!(waiting.held_by, "");
}

#[test]
fn the_limit_that_holds_an_operation_is_named() {
    let mut farm = Farm::new(Settings {
        limits: Limits {
            executing: Some(1),
            ..Limits::default()
        },
        ..Settings::default()
    });
    farm.hold("1");
    farm.hold("2");
    let first = farm.try_submit(of(&["a"], "x")).unwrap().operation;
    let second = farm.try_submit(of(&["a"], "y")).unwrap().operation;
    let waiting = farm.queue.explain(farm.now, second).unwrap();
    assert_eq!(waiting.held_by, "maximum_executing_actions_per_invocation");
    let executing = farm.queue.explain(farm.now, first);
    assert!(matches!(executing, Err(Error::NotWaiting)));
    let unknown = farm.queue.explain(farm.now, Uuid::nil());
    assert!(matches!(unknown, Err(Error::UnknownOperation(_))));
}
