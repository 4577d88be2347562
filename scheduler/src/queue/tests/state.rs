//! What operators see.

use proto::messages::{duration, timestamp};
use proto::wire::buildqueuestate::{
    InvocationChildState, InvocationName, InvocationState, OperationState, PaginationInfo,
    PlatformQueueName, PlatformQueueState, SizeClassQueueName, SizeClassQueueState, WorkerState,
    invocation_state::InvocationObjectCount, operation_state,
};
use proto::wire::rev2::RequestMetadata;

use super::*;

fn name() -> QueueName {
    QueueName {
        prefix: InstanceName::new("main").unwrap(),
        platform: os("linux"),
        size_class: 0,
    }
}

fn path(keys: &[&str]) -> InvocationPath {
    InvocationPath {
        queue: name(),
        keys: keys.iter().map(|name| key(name)).collect(),
    }
}

fn wire_name() -> SizeClassQueueName {
    SizeClassQueueName {
        platform_queue_name: Some(PlatformQueueName {
            instance_name_prefix: "main".into(),
            platform: Some(os("linux").to_wire()),
        }),
        size_class: 0,
    }
}

fn ids(farm: &[OperationState]) -> Vec<Uuid> {
    farm.iter()
        .map(|state| state.name.parse().unwrap())
        .collect()
}

fn counts(direct: u32, indirect: u32) -> Option<InvocationObjectCount> {
    Some(InvocationObjectCount { direct, indirect })
}

/// One worker executes `x` of `u/a`; of `u/a` and `u/b` two and one are queued.
fn busy() -> (Farm, [Uuid; 4]) {
    let mut farm = Farm::new(Settings::default());
    farm.hold("1");
    let mut submit = |keys: &[&str], content, priority| {
        let metadata = RequestMetadata {
            target_id: format!("//:{content}"),
            ..Default::default()
        };
        let submission = Submission {
            priority,
            metadata: vec![proto::messages::pack_rev2("RequestMetadata", &metadata)],
            ..of(keys, content)
        };
        farm.try_submit(submission).unwrap().operation
    };
    let operations = [
        submit(&["u", "a"], "x", 0),
        submit(&["u", "a"], "y", 9),
        submit(&["u", "a"], "z", -9),
        submit(&["u", "b"], "w", 0),
    ];
    (farm, operations)
}

#[test]
fn an_operation_is_shown_in_full() {
    let (mut farm, [executing, queued, ..]) = busy();
    let start = farm.now.wall;
    farm.pass(5);
    farm.queue.leave(farm.now, queued);
    farm.pass(5);
    let expected = OperationState {
        name: queued.to_string(),
        invocation_name: Some(InvocationName {
            size_class_queue_name: Some(wire_name()),
            ids: vec![(&key("u")).into(), (&key("a")).into()],
        }),
        queued_timestamp: Some(timestamp(start)),
        action_digest: Some(digest("y").to_wire()),
        timeout: Some(timestamp(start + Duration::from_secs(65))),
        target_id: "//:y".into(),
        priority: 9,
        instance_name_suffix: "sub".into(),
        expected_duration: Some(duration(Duration::from_secs(1800))),
        digest_function: DigestFunction::Sha256.to_wire(),
        stage: Some(operation_state::Stage::Queued(())),
    };
    assert_eq!(
        farm.queue.get_operation(farm.now, queued).unwrap(),
        expected
    );

    let stage = |farm: &mut Farm| farm.queue.get_operation(farm.now, executing).unwrap().stage;
    assert_eq!(
        stage(&mut farm),
        Some(operation_state::Stage::Executing(()))
    );
    farm.sync("1", Report::Completed(digest("x"), ok()));
    assert_eq!(
        stage(&mut farm),
        Some(operation_state::Stage::Completed(*ok()))
    );
    let unknown = farm.queue.get_operation(farm.now, Uuid::nil());
    assert!(matches!(unknown, Err(Error::UnknownOperation(_))));
}

#[test]
fn queues_and_invocations_are_counted() {
    let (mut farm, _) = busy();
    let state = |queued, children, executing_workers_count| InvocationState {
        queued_operations_count: queued,
        executing_workers_count,
        children_count: children,
        active_children_count: children,
        queued_children_count: children,
        ..Default::default()
    };
    farm.queue
        .add_drain(
            farm.now,
            &name(),
            Pattern::from([("host".into(), "9".into())]),
        )
        .unwrap();
    let expected = PlatformQueueState {
        name: wire_name().platform_queue_name,
        size_class_queues: vec![SizeClassQueueState {
            workers_count: 1,
            drains_count: 1,
            root_invocation: Some(state(counts(0, 3), 1, 1)),
            ..Default::default()
        }],
    };
    assert_eq!(farm.queue.list_platform_queues(farm.now), [expected]);

    let children = |farm: &mut Farm, keys: &[&str], which| {
        farm.queue
            .list_invocation_children(farm.now, &path(keys), which)
            .unwrap()
    };
    let child = |name: &str, state| InvocationChildState {
        id: Some((&key(name)).into()),
        state: Some(state),
    };
    assert_eq!(
        children(&mut farm, &[], Children::All),
        [child("u", state(counts(0, 3), 2, 1))]
    );
    let (a, b) = (state(counts(2, 0), 0, 1), state(counts(1, 0), 0, 0));
    assert_eq!(
        children(&mut farm, &["u"], Children::Queued),
        [child("a", a), child("b", b)]
    );

    // Once all is done but one that executes, only the worker's own is left.
    for done in ["x", "z", "w"] {
        farm.sync("1", Report::Completed(digest(done), ok()));
    }
    let a = state(counts(0, 0), 0, 1);
    assert_eq!(
        children(&mut farm, &["u"], Children::Active),
        [child("a", a)]
    );
    assert_eq!(children(&mut farm, &["u"], Children::Queued), []);
    farm.sync("1", Report::Completed(digest("y"), ok()));
    let idle = InvocationState {
        idle_workers_count: 1,
        idle_synchronizing_workers_count: 1,
        ..state(counts(0, 0), 0, 0)
    };
    assert_eq!(
        children(&mut farm, &["u"], Children::All),
        [child("a", idle)]
    );
    assert_eq!(children(&mut farm, &["u"], Children::Active), []);
    let unknown = farm
        .queue
        .list_invocation_children(farm.now, &path(&["v"]), Children::All);
    assert!(matches!(unknown, Err(Error::UnknownInvocation)));
}

#[test]
fn queued_operations_come_in_order_and_page_by_page_while_some_go() {
    let (mut farm, [_, y, z, _]) = busy();
    let list = |farm: &mut Farm, after: Option<OperationState>| {
        let after = after.map(|state| QueuedAfter {
            priority: state.priority,
            queued: proto::messages::system_time(&state.queued_timestamp.unwrap()).unwrap(),
            expected: proto::messages::span(&state.expected_duration.unwrap()).unwrap(),
        });
        farm.queue
            .list_queued_operations(farm.now, &path(&["u", "a"]), 1, after)
            .unwrap()
    };
    let (first, info) = list(&mut farm, None);
    assert_eq!(ids(&first), [z]);
    let all = |start_index, total_entries| PaginationInfo {
        start_index,
        total_entries,
    };
    assert_eq!(info, all(0, 2));
    farm.pass(50);
    let (second, info) = list(&mut farm, first.first().cloned());
    assert_eq!((ids(&second), info), (vec![y], all(1, 2)));
    // z goes to the worker; y follows it all the same.
    farm.sync("1", Report::Completed(digest("x"), ok()));
    let (second, info) = list(&mut farm, first.first().cloned());
    assert_eq!((ids(&second), info), (vec![y], all(0, 1)));
    assert_eq!(list(&mut farm, second.first().cloned()).0, []);
}

#[test]
fn operations_are_listed_by_name_and_filtered() {
    let (mut farm, mut all) = busy();
    let [executing, ..] = all;
    all.sort_unstable();
    let mut found = Vec::new();
    let mut after = None;
    for start in 0..3 {
        let (page, info) = farm.queue.list_operations(farm.now, 2, after, None, None);
        assert_eq!(info.total_entries, 4);
        assert_eq!(info.start_index, 2 * start);
        found.extend(ids(&page));
        after = found.last().copied();
    }
    assert_eq!(found, all);
    let mut list = |invocation: Option<&str>, stage| {
        let key = invocation.map(key);
        let (page, _) = farm
            .queue
            .list_operations(farm.now, 9, None, key.as_ref(), stage);
        ids(&page)
    };
    assert_eq!(list(None, Some(Stage::Executing)), [executing]);
    assert_eq!(list(Some("u"), None), all);
    assert_eq!(list(Some("b"), None).len(), 1);
    assert!(list(Some("b"), Some(Stage::Completed)).is_empty());
}

#[test]
fn workers_are_listed_by_id_with_what_they_do() {
    let (mut farm, [executing, ..]) = busy();
    for worker in ["3", "2"] {
        let drained = Pattern::from([("host".into(), worker.into())]);
        farm.queue.add_drain(farm.now, &name(), drained).unwrap();
        farm.hold(worker);
    }
    let mut list = |which, after: Option<&str>| {
        let after = after.map(|host| Pattern::from([("host".into(), host.into())]));
        let (workers, info) = farm
            .queue
            .list_workers(farm.now, &which, 2, after.as_ref())
            .unwrap();
        let hosts: Vec<_> = workers
            .iter()
            .map(|worker| worker.id["host"].clone())
            .collect();
        (workers, hosts, info.start_index, info.total_entries)
    };
    let (workers, hosts, start, total) = list(Workers::All(name()), None);
    assert_eq!(
        (hosts, start, total),
        (vec!["1".to_string(), "2".into()], 0, 3)
    );
    let current = workers[0].current_operation.as_ref().unwrap();
    assert_eq!(current.name, executing.to_string());
    let drained = WorkerState {
        id: [("host".to_string(), "2".to_string())].into(),
        drained: true,
        ..Default::default()
    };
    assert_eq!(workers[1], drained, "its call is held, so no end is set");
    assert_eq!(list(Workers::All(name()), Some("2")).1, ["3"]);
    assert_eq!(list(Workers::Executing(path(&["u", "a"])), None).1, ["1"]);
    assert_eq!(list(Workers::Executing(path(&["u", "b"])), None).1, [""; 0]);
    assert_eq!(list(Workers::Waiting(path(&[])), None).1, [""; 0]);
}

#[test]
fn a_drained_worker_finishes_what_it_has_and_is_given_no_more_until_the_drain_goes() {
    let (mut farm, [_, _, urgent, other]) = busy();
    let key = farm.queue.workers.keys().copied().next().unwrap();
    let all = Pattern::new();
    farm.queue
        .add_drain(farm.now, &name(), all.clone())
        .unwrap();
    let drains = farm.queue.list_drains(farm.now, &name()).unwrap();
    assert_eq!(drains.len(), 1);
    assert_eq!(drains[0].created_timestamp, Some(timestamp(farm.now.wall)));
    assert!(matches!(
        farm.sync("1", Report::Completed(digest("x"), ok())),
        Outcome::Hold(_)
    ));
    assert!(
        matches!(farm.idle("2"), Outcome::Hold(_)),
        "one that comes later too"
    );
    assert_eq!(farm.stage(urgent), Stage::Queued);
    farm.queue.remove_drain(farm.now, &name(), &all).unwrap();
    farm.settle();
    assert_eq!(told_to_execute(&farm.answers[&key]), Some(digest("z")));
    assert_eq!(farm.stage(urgent), Stage::Executing);
    assert_eq!(farm.stage(other), Stage::Executing);

    let nowhere = QueueName {
        size_class: 7,
        ..name()
    };
    let refused = farm.queue.add_drain(farm.now, &nowhere, all);
    assert!(matches!(refused, Err(Error::UnknownQueue { .. })));
}

#[test]
fn a_worker_that_terminates_is_waited_for_and_given_no_more() {
    let (mut farm, [_, queued, ..]) = busy();
    let other = Pattern::from([("host".into(), "2".into())]);
    assert_eq!(farm.queue.terminate(farm.now, &other), []);
    let pattern = Pattern::from([("host".into(), "1".into())]);
    let busy = farm.queue.terminate(farm.now, &pattern);
    assert_eq!(busy.len(), 1);
    assert!(!farm.queue.are_free(&busy));
    farm.sync("1", Report::Executing(digest("x")));
    assert!(matches!(
        farm.sync("1", Report::Completed(digest("x"), ok())),
        Outcome::Hold(_)
    ));
    assert!(farm.queue.are_free(&busy));
    assert_eq!(farm.stage(queued), Stage::Queued);
}

#[test]
fn a_killed_action_ends_with_the_status_given_and_its_worker_hears_of_it() {
    let (mut farm, [executing, queued, ..]) = busy();
    let status = |message: &str| proto::wire::rpc::Status {
        code: Code::Aborted as i32,
        message: message.into(),
        ..Default::default()
    };
    for operation in [executing, queued] {
        farm.queue
            .kill(farm.now, operation, status("enough"))
            .unwrap();
        assert_eq!(
            farm.status(operation),
            (Code::Aborted, "enough".to_string())
        );
    }
    farm.queue.kill(farm.now, queued, status("again")).unwrap();
    assert_eq!(farm.status(queued).1, "enough", "over is over");
    let next = farm.sync("1", Report::Executing(digest("x")));
    assert_eq!(executes(&next), Some(digest("z")));
    let unknown = farm.queue.kill(farm.now, Uuid::nil(), status(""));
    assert!(matches!(unknown, Err(Error::UnknownOperation(_))));
}

#[test]
fn all_that_is_queued_where_no_worker_is_can_be_killed() {
    let (mut farm, [executing, rest @ ..]) = busy();
    let status = proto::wire::rpc::Status {
        code: Code::Aborted as i32,
        ..Default::default()
    };
    let refused = farm.queue.kill_queue(farm.now, &name(), &status);
    assert!(matches!(refused, Err(Error::QueueHasWorkers(1))));
    farm.pass(60);
    farm.queue.kill_queue(farm.now, &name(), &status).unwrap();
    for operation in rest.into_iter().chain([executing]) {
        assert_eq!(farm.status(operation).0, Code::Aborted);
    }
}
