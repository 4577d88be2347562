//! A scheduler that starts while workers execute.

use super::*;

/// The farm's queue after a restart: it knows nothing.
fn restarted(farm: Farm, workers: Option<usize>) -> Farm {
    let recovery = Some(After {
        longest: Duration::from_secs(15),
        workers,
    });
    let settings = Settings {
        recovery,
        ..farm.queue.settings
    };
    let mut farm = Farm::new(settings);
    // Other names than before.
    let mut name = 1u128 << 64;
    farm.queue.random = Box::new(move || {
        name += 1;
        name
    });
    farm
}

/// What a worker was told when it was handed its task.
fn claim(reply: &Reply) -> Claim {
    let Desired::Execute(job) = &reply.desired else {
        panic!("{reply:?}");
    };
    Claim {
        suffix: job.instance_suffix.clone(),
        operations: reply.operations.clone(),
        queued: job.queued,
        do_not_cache: job.do_not_cache,
    }
}

/// A worker calls with what it was told before.
fn report(farm: &mut Farm, worker: &str, report: Report, claim: &Claim) -> Outcome {
    let call = Synchronization {
        claim: Some(claim.clone()),
        ..synchronization(worker, report)
    };
    let outcome = farm.queue.synchronize(farm.now, call).unwrap();
    farm.settle();
    outcome
}

fn goes_on(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Reply(Reply {
            desired: Desired::Unchanged,
            ..
        })
    )
}

/// A farm whose worker executes "x" for one operation when the scheduler ends.
fn interrupted(workers: Option<usize>) -> (Farm, Uuid, Claim) {
    let mut farm = Farm::new(Settings::default());
    let operation = farm.submit_one("x");
    let Outcome::Reply(reply) = farm.idle("a") else {
        panic!("there is work");
    };
    (restarted(farm, workers), operation, claim(&reply))
}

impl Farm {
    fn submit_one(&mut self, content: &str) -> Uuid {
        self.queue
            .platforms
            .open(&InstanceName::new("main").unwrap(), &os("linux"), 0)
            .unwrap();
        self.submit(content)
    }
}

#[test]
fn a_client_finds_its_operation_with_the_worker_that_had_it() {
    let (mut farm, operation, claim) = interrupted(None);
    assert!(farm.queue.join(farm.now, operation).is_none(), "not yet");
    let executing = Report::Executing(digest("x"));
    assert!(goes_on(&report(&mut farm, "a", executing, &claim)));
    let view = farm.queue.join(farm.now, operation).unwrap();
    assert_eq!(view.stage, Stage::Executing);
    let completed = Report::Completed(digest("x"), ok());
    report(&mut farm, "a", completed, &claim);
    assert_eq!(farm.response(operation), Some(*ok()));
}

#[test]
fn an_action_that_is_asked_for_again_waits_for_the_worker_that_has_it() {
    let (mut farm, _, claim) = interrupted(None);
    let again = farm.submit_one("x");
    let other = farm.submit_one("y");
    farm.hold("b");
    assert_eq!(farm.stage(again), Stage::Queued);
    assert!(
        farm.queue
            .waiting(again)
            .unwrap()
            .held_by
            .contains("recovery"),
        "clients are told why"
    );
    farm.pass(10);
    assert_eq!(farm.stage(other), Stage::Queued);
    let executing = Report::Executing(digest("x"));
    assert!(goes_on(&report(&mut farm, "a", executing, &claim)));
    assert_eq!(farm.stage(again), Stage::Executing);
    farm.pass(5);
    assert_eq!(farm.stage(other), Stage::Executing, "the wait is over");
    let completed = Report::Completed(digest("x"), ok());
    report(&mut farm, "a", completed, &claim);
    assert_eq!(farm.response(again), Some(*ok()));
}

#[test]
fn a_result_that_was_ready_meanwhile_reaches_clients_that_come_before_and_after() {
    let (mut farm, operation, claim) = interrupted(None);
    let again = farm.submit_one("x");
    let completed = Report::Completed(digest("x"), ok());
    report(&mut farm, "a", completed, &claim);
    assert_eq!(farm.response(again), Some(*ok()));
    let view = farm.queue.join(farm.now, operation).unwrap();
    assert_eq!(view.stage, Stage::Completed);
}

#[test]
fn the_wait_ends_when_as_many_workers_have_called_as_there_are() {
    let (mut farm, _, claim) = interrupted(Some(2));
    let other = farm.submit_one("y");
    let executing = Report::Executing(digest("x"));
    report(&mut farm, "a", executing, &claim);
    assert_eq!(farm.stage(other), Stage::Queued);
    assert_eq!(executes(&farm.idle("b")), Some(digest("y")));
    farm.pass(15);
}

#[test]
fn what_clients_come_back_for_not_at_all_ends() {
    let (mut farm, operation, claim) = interrupted(None);
    let executing = || Report::Executing(digest("x"));
    report(&mut farm, "a", executing(), &claim);
    for _ in 0..6 {
        farm.pass(10);
        report(&mut farm, "a", executing(), &claim);
    }
    assert!(farm.queue.view(operation).is_none());
    // What ended here is not taken over once more.
    assert!(is_idle(&report(&mut farm, "a", executing(), &claim)));
    assert!(farm.queue.tasks.is_empty());
}

#[test]
fn of_two_workers_with_the_same_action_one_goes_on() {
    let (mut farm, operation, mut claim) = interrupted(None);
    let executing = || Report::Executing(digest("x"));
    assert!(goes_on(&report(&mut farm, "a", executing(), &claim)));
    claim.operations = vec![Uuid::from_u128(77)];
    assert!(is_idle(&report(&mut farm, "b", executing(), &claim)));
    // Unless it is not to be shared.
    claim.do_not_cache = true;
    assert!(goes_on(&report(&mut farm, "c", executing(), &claim)));
    assert_eq!(farm.stage(operation), Stage::Executing);
    assert_eq!(farm.stage(Uuid::from_u128(77)), Stage::Executing);
}

#[test]
fn an_adopted_action_is_handed_out_again_only_once_a_client_has_brought_it() {
    for brought in [false, true] {
        let (mut farm, operation, claim) = interrupted(None);
        let executing = Report::Executing(digest("x"));
        report(&mut farm, "a", executing, &claim);
        farm.queue.join(farm.now, operation).unwrap();
        if brought {
            farm.submit("x");
        }
        farm.pass(60);
        if brought {
            assert_eq!(executes(&farm.idle("b")), Some(digest("x")));
        } else {
            let (code, message) = farm.status(operation);
            assert_eq!(code, Code::Unavailable);
            assert!(message.contains("restarted"), "{message}");
        }
    }
}

#[test]
fn a_worker_that_starts_anew_while_it_is_adopted_is_not_sent_what_is_not_there() {
    let (mut farm, operation, claim) = interrupted(None);
    let executing = Report::Executing(digest("x"));
    report(&mut farm, "a", executing, &claim);
    farm.hold("a");
    assert_eq!(farm.status(operation).0, Code::Unavailable);
}

#[test]
fn a_worker_of_another_make_goes_on_until_its_result_says_whose_it_is() {
    let (mut farm, operation, claim) = interrupted(None);
    assert!(goes_on(&farm.sync("a", Report::Executing(digest("x")))));
    let completed = Report::Completed(digest("x"), ok());
    report(&mut farm, "a", completed, &claim);
    assert_eq!(farm.response(operation), Some(*ok()));

    let (mut farm, _, _) = interrupted(None);
    assert!(goes_on(&farm.sync("a", Report::Executing(digest("x")))));
    farm.pass(15);
    assert!(is_idle(&farm.sync("a", Report::Executing(digest("x")))));
}

#[test]
fn the_same_action_of_another_instance_is_not_joined() {
    let (mut farm, _, mut claim) = interrupted(None);
    claim.suffix = InstanceName::new("elsewhere").unwrap();
    let again = farm.submit_one("x");
    let executing = Report::Executing(digest("x"));
    assert!(goes_on(&report(&mut farm, "a", executing, &claim)));
    assert_eq!(farm.stage(again), Stage::Queued);
}

#[test]
fn a_first_start_waits_for_nobody() {
    let mut farm = Farm::new(Settings::default());
    farm.hold("a");
    let operation = farm.submit("x");
    assert_eq!(farm.stage(operation), Stage::Executing);
}
