//! Random schedules against what must hold whatever happens.

use std::collections::{BTreeMap, HashMap, HashSet};

use proptest::prelude::*;
use proto::Digest;
use uuid::Uuid;

use super::*;

/// What happens next. Numbers choose among what there is.
#[derive(Clone, Debug)]
enum Event {
    Submit {
        action: u8,
        priority: i8,
        uncached: bool,
        invocation: u8,
    },
    Call {
        worker: u8,
        honest: bool,
        prefer_being_idle: bool,
    },
    Complete {
        worker: u8,
        fails: bool,
    },
    BreakCall {
        worker: u8,
    },
    Leave {
        operation: u8,
    },
    Return {
        operation: u8,
    },
    Cancel {
        operation: u8,
    },
    CacheAnswer {
        hit: bool,
    },
    Drain {
        worker: u8,
        add: bool,
    },
    Terminate,
    Kill {
        operation: u8,
    },
    Pass {
        seconds: u8,
    },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..6u8, -2..3i8, prop::bool::weighted(0.1), 0..5u8)
            .prop_map(|(action, priority, uncached, invocation)| Event::Submit { action, priority, uncached, invocation }),
        5 => (0..4u8, prop::bool::weighted(0.9), prop::bool::weighted(0.1))
            .prop_map(|(worker, honest, prefer_being_idle)| Event::Call { worker, honest, prefer_being_idle }),
        4 => (0..4u8, prop::bool::weighted(0.2)).prop_map(|(worker, fails)| Event::Complete { worker, fails }),
        1 => (0..4u8).prop_map(|worker| Event::BreakCall { worker }),
        1 => any::<u8>().prop_map(|operation| Event::Leave { operation }),
        1 => any::<u8>().prop_map(|operation| Event::Return { operation }),
        1 => any::<u8>().prop_map(|operation| Event::Cancel { operation }),
        2 => any::<bool>().prop_map(|hit| Event::CacheAnswer { hit }),
        1 => (0..4u8, any::<bool>()).prop_map(|(worker, add)| Event::Drain { worker, add }),
        1 => Just(Event::Terminate),
        1 => any::<u8>().prop_map(|operation| Event::Kill { operation }),
        2 => (0..70u8).prop_map(|seconds| Event::Pass { seconds }),
    ]
}

/// The outside's own account of what it did and was told.
#[derive(Default)]
struct Ledger {
    operations: Vec<Uuid>,
    waiting: HashMap<Uuid, usize>,
    completed: HashSet<Uuid>,
    doing: BTreeMap<u8, Digest>,
    held: BTreeMap<u8, WorkerKey>,
    look_ups: Vec<TaskId>,
}

impl Ledger {
    fn pick(&self, index: u8) -> Option<Uuid> {
        let count = self.operations.len().max(1);
        self.operations.get(usize::from(index) % count).copied()
    }

    fn obey(&mut self, worker: u8, reply: &Reply) {
        match &reply.desired {
            Desired::Unchanged => {}
            Desired::Idle => {
                self.doing.remove(&worker);
            }
            Desired::Execute(job) => {
                self.doing.insert(worker, job.digest);
            }
        }
    }

    /// Reads what was told: held calls that were answered, operations' stages.
    fn listen(&mut self, farm: &mut Farm) {
        farm.settle();
        for (worker, key) in self.held.clone() {
            if let Some(reply) = farm.answers.remove(&key) {
                self.held.remove(&worker);
                self.obey(worker, &reply);
            }
        }
        for (name, stage) in farm.told.drain(..) {
            let over = self.completed.contains(&name);
            assert!(!over, "{name} was told {stage:?} after it had completed");
            if stage == Stage::Completed {
                self.completed.insert(name);
            }
        }
    }

    fn play(&mut self, farm: &mut Farm, event: &Event) {
        match *event {
            Event::Submit {
                action,
                priority,
                uncached,
                invocation,
            } => {
                let name = if uncached { "uncached" } else { "action" };
                let mut submission = submission(&format!("{name} {action}"));
                submission.priority = i32::from(priority) * 1_000_000_000;
                submission.action.do_not_cache = uncached;
                let lineages: [&[&str]; 5] = [&[], &["a"], &["a", "b"], &["a", "c"], &["d", "b"]];
                let lineage = lineages[usize::from(invocation)];
                submission.invocation = lineage.iter().map(|name| key(name)).collect();
                if let Ok(submitted) = farm.try_submit(submission) {
                    self.operations.push(submitted.operation);
                    self.waiting.insert(submitted.operation, 1);
                    self.look_ups.extend(submitted.look_up);
                }
            }
            Event::Call {
                worker,
                honest,
                prefer_being_idle,
            } => {
                let report = match self.doing.get(&worker) {
                    Some(digest) if honest => Report::Executing(*digest),
                    _ => Report::Idle,
                };
                self.call(farm, worker, report, prefer_being_idle);
            }
            Event::Complete { worker, fails } => {
                if let Some(digest) = self.doing.remove(&worker) {
                    let failed = || Box::new(queue::failure(Code::Internal, "failed"));
                    let response = if fails { failed() } else { ok() };
                    self.call(farm, worker, Report::Completed(digest, response), false);
                }
            }
            Event::BreakCall { worker } => {
                if let Some(key) = self.held.remove(&worker) {
                    farm.queue.abandon(farm.now, key);
                }
            }
            Event::Leave { operation } => {
                if let Some(name) = self.pick(operation)
                    && let Some(count) = self.waiting.get_mut(&name)
                    && *count > 0
                {
                    *count -= 1;
                    farm.queue.leave(farm.now, name);
                }
            }
            Event::Return { operation } => {
                if let Some(name) = self.pick(operation)
                    && farm.queue.join(farm.now, name).is_some()
                {
                    *self.waiting.entry(name).or_default() += 1;
                }
            }
            Event::Cancel { operation } => {
                if let Some(name) = self.pick(operation) {
                    let _ = farm.queue.cancel(farm.now, name);
                }
            }
            Event::CacheAnswer { hit } => {
                if let Some(task) = self.look_ups.pop() {
                    let result = hit.then(Default::default);
                    farm.queue.cache_checked(farm.now, task, result);
                }
            }
            Event::Drain { worker, add } => drain(farm, worker, add),
            Event::Terminate => {
                // One of four: the others have to do the work.
                farm.queue.terminate(farm.now, &host(3));
            }
            Event::Kill { operation } => {
                if let Some(name) = self.pick(operation) {
                    let status = queue::failure(Code::Aborted, "killed").status.unwrap();
                    let _ = farm.queue.kill(farm.now, name, status);
                }
            }
            Event::Pass { seconds } => farm.pass(u64::from(seconds)),
        }
        self.listen(farm);
        check(farm, self);
    }

    fn call(&mut self, farm: &mut Farm, worker: u8, report: Report, prefer_being_idle: bool) {
        match farm.call(&worker.to_string(), report, prefer_being_idle) {
            Ok(Outcome::Reply(reply)) => {
                assert!(!prefer_being_idle || told_to_execute(&reply).is_none());
                self.obey(worker, &reply);
            }
            Ok(Outcome::Hold(key)) => {
                self.doing.remove(&worker);
                self.held.insert(worker, key);
            }
            Err(_) => assert!(self.held.contains_key(&worker)),
        }
    }
}

fn host(worker: u8) -> Pattern {
    Pattern::from([("host".to_string(), worker.to_string())])
}

/// Adds or removes a drain of one worker, if there is a queue.
fn drain(farm: &mut Farm, worker: u8, add: bool) {
    let name = QueueName {
        prefix: InstanceName::new("main").unwrap(),
        platform: os("linux"),
        size_class: farm.classes.get(&worker.to_string()).copied().unwrap_or(0),
    };
    let _ = if add {
        farm.queue.add_drain(farm.now, &name, host(worker))
    } else {
        farm.queue.remove_drain(farm.now, &name, &host(worker))
    };
}

/// The same farm with two size classes, two workers of each.
fn with_sizes(farm: Farm) -> Farm {
    let predeclared = [Predeclared {
        prefix: InstanceName::new("main").unwrap(),
        platform: os("linux"),
        size_classes: vec![1, 4],
        stickiness_limits: vec![Duration::from_secs(30)],
    }];
    let mut name = 0u128;
    let random = Box::new(move || {
        name += 1;
        name
    });
    let sizes = [("0", 1), ("1", 1), ("2", 4), ("3", 4)];
    Farm {
        queue: Queue::new(farm.queue.settings, &predeclared, random, farm.now),
        classes: sizes.map(|(name, size)| (name.to_string(), size)).into(),
        ..farm
    }
}

/// What must hold between any two events.
fn check(farm: &Farm, ledger: &Ledger) {
    let queue = &farm.queue;
    check_queue(queue);
    for (name, operation) in &queue.operations {
        if !matches!(operation.state, operation::State::Attached(_)) {
            assert!(
                ledger.completed.contains(name),
                "nobody heard of the end of {name}"
            );
        }
    }
}

/// What must hold of any queue between any two calls.
pub(super) fn check_queue(queue: &Queue) {
    for (id, task) in &queue.tasks {
        assert!(!task.operations.is_empty(), "a task nobody wants");
        for name in &task.operations {
            let state = &queue.operations[name].state;
            assert!(matches!(state, operation::State::Attached(task) if task == id));
        }
        let holders = queue
            .workers
            .values()
            .filter(|worker| worker.task.is_some_and(|assigned| assigned.task == *id));
        let executing = matches!(task.progress, task::Progress::Executing(_));
        assert_eq!(
            holders.count(),
            usize::from(executing),
            "on one worker or none"
        );
    }
    let mut standing = 0;
    for platform in queue.platforms.iter() {
        standing += tree::check(&platform.invocations);
        let waiting = platform.invocations.get(invocation::ROOT).idle.waiting;
        assert!(
            waiting == 0 || !platform.invocations.is_ready() || queue.recovery.is_on(),
            "a worker idles while a task waits"
        );
    }
    for id in queue.platforms.ids() {
        let tasks = queue.tasks.values().filter(|task| task.platform == id);
        let started = tasks.filter(|t| matches!(t.progress, task::Progress::Executing(_)));
        let started: Vec<_> = started.map(|task| task.invocations().into_vec()).collect();
        let platform = queue.platforms.get(id).unwrap();
        tree::check_started(&platform.invocations, &started);
    }
    for worker in queue.workers.values().filter(|w| w.blocked.is_some()) {
        assert!(worker.task.is_none());
    }
    let seats = |task: &task::Task| task.seats.len();
    let queued_tasks = queue
        .tasks
        .values()
        .filter(|t| t.progress == task::Progress::Queued);
    assert_eq!(
        queued_tasks.map(|task| seats(task)).sum::<usize>(),
        standing,
        "queued where it has seats"
    );
    for (name, operation) in &queue.operations {
        if let operation::State::Attached(task) = operation.state {
            assert!(
                queue.tasks[&task].operations.contains(name),
                "a task was lost"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_doubled_or_left_behind(
        check_action_cache: bool,
        sized: bool,
        maximum_executing in prop::option::of(1..3u32),
        executing_per_tenant in prop::option::of(1..3u32),
        events in prop::collection::vec(event(), 1..200),
    ) {
        let mut farm = Farm::new(Settings {
            check_action_cache,
            limits: Limits { executing: maximum_executing, executing_per_tenant, ..Limits::default() },
            ..Settings::default()
        });
        if sized {
            farm = with_sizes(farm);
        }
        let mut ledger = Ledger::default();
        for event in &events {
            ledger.play(&mut farm, event);
        }

        // From here on all is well: workers work, and every client hears the end.
        while !ledger.look_ups.is_empty() {
            ledger.play(&mut farm, &Event::CacheAnswer { hit: false });
        }
        for worker in 0..4 {
            ledger.play(&mut farm, &Event::Drain { worker, add: false });
        }
        for round in 0..1000u32 {
            if farm.queue.tasks.is_empty() {
                break;
            }
            prop_assert!(round < 999, "work does not end");
            for worker in 0..4 {
                ledger.play(&mut farm, &Event::Call { worker, honest: true, prefer_being_idle: false });
                ledger.play(&mut farm, &Event::Complete { worker, fails: false });
            }
        }
        for (name, count) in ledger.waiting.clone() {
            prop_assert!(count == 0 || ledger.completed.contains(&name), "{name} never completed");
            for _ in 0..count {
                farm.queue.leave(farm.now, name);
            }
        }
        for platform in farm.queue.platforms.iter() {
            // Nothing is left but what idle workers remember.
            prop_assert_eq!(tree::check(&platform.invocations), 0);
        }
        for _ in 0..20 {
            farm.pass(60);
            for platform in farm.queue.platforms.iter().filter(|queue| queue.workers.is_empty()) {
                prop_assert!(tree::is_bare(&platform.invocations));
            }
        }
        prop_assert!(farm.queue.operations.is_empty());
        prop_assert!(farm.queue.workers.is_empty());
        prop_assert_eq!(farm.queue.platforms.iter().count(), if sized { 2 } else { 0 });
        prop_assert_eq!(farm.queue.next_timer(), None);
    }
}
