//! Long random schedules against a small model of what may be handed out.
//!
//! The model knows the rules and no data structures: it keeps a list of tasks, and
//! for each hand-out looks through all of them for what was due. It learns from
//! outside, as clients and workers do, by what they are told.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proto::wire::protobuf;

use super::*;

/// What happens next.
#[derive(Clone, Debug)]
enum Event {
    Submit {
        action: u8,
        priority: i32,
        lineage: usize,
    },
    /// A worker completes what it has, or asks for work.
    Call(u8),
    /// A worker forgets what it does.
    Crash(u8),
    Cancel(u8),
    Kill(u8),
    Drain(u8, bool),
    Pass(u8),
}

const WORKERS: u8 = 6;

const LINEAGES: [&[&str]; 7] = [
    &["a"],
    &["b"],
    &["a", "x"],
    &["a", "y"],
    &["b", "x"],
    &["c", "x"],
    &[],
];

fn event() -> impl Strategy<Value = Event> {
    let priority = prop_oneof![
        8 => -1..=1i32,
        1 => Just(i32::MIN),
        1 => Just(i32::MAX),
    ];
    prop_oneof![
        8 => (0..200u8, priority, 0..LINEAGES.len())
            .prop_map(|(action, priority, lineage)| Event::Submit { action, priority, lineage }),
        8 => (0..WORKERS).prop_map(Event::Call),
        1 => (0..WORKERS).prop_map(Event::Crash),
        1 => any::<u8>().prop_map(Event::Cancel),
        1 => any::<u8>().prop_map(Event::Kill),
        1 => (0..WORKERS, any::<bool>()).prop_map(|(worker, add)| Event::Drain(worker, add)),
        1 => (0..40u8).prop_map(Event::Pass),
    ]
}

/// What a client asked for.
struct Wish {
    action: u8,
    lineage: usize,
    /// The priority, plus what others that come later have lost on it by then.
    level: i64,
    stage: Stage,
}

/// What the model knows of a task.
#[derive(Clone, Copy)]
struct Known {
    arrival: u64,
}

#[derive(Default)]
struct Model {
    wishes: BTreeMap<Uuid, Wish>,
    tasks: BTreeMap<u8, Known>,
    arrivals: u64,
    completed: usize,
}

impl Model {
    /// The tasks in this stage, and the wishes for them.
    fn in_stage(&self, stage: Stage) -> BTreeMap<u8, Vec<&Wish>> {
        let mut tasks = BTreeMap::<u8, Vec<&Wish>>::new();
        for wish in self.wishes.values().filter(|wish| wish.stage == stage) {
            tasks.entry(wish.action).or_default().push(wish);
        }
        tasks
    }

    /// How many execute for an invocation or those within it.
    fn executing(&self, prefix: &[&str]) -> u32 {
        let all = self.in_stage(Stage::Executing);
        let wanted = all.values().filter(|wishes| {
            wishes
                .iter()
                .any(|wish| LINEAGES[wish.lineage].starts_with(prefix))
        });
        u32::try_from(wanted.count()).unwrap()
    }

    /// The actions one of which is due within an invocation, and how urgent it is.
    fn due(&self, prefix: &[&str]) -> Option<(i64, Vec<u8>)> {
        let queued = self.in_stage(Stage::Queued);
        let of = |lineage: &[&str]| {
            let places = queued.iter().filter_map(|(action, wishes)| {
                let own = wishes
                    .iter()
                    .filter(|wish| LINEAGES[wish.lineage] == lineage);
                let level = own.map(|wish| wish.level).min()?;
                let longest = std::cmp::Reverse(timeout(*action));
                Some((level, longest, self.tasks[action].arrival, *action))
            });
            places.min()
        };
        if let Some((level, _, _, action)) = of(prefix) {
            return Some((level, vec![action]));
        }
        let mut children: Vec<&[&str]> = LINEAGES
            .iter()
            .filter(|lineage| lineage.len() > prefix.len() && lineage.starts_with(prefix))
            .map(|lineage| &lineage[..=prefix.len()])
            .collect();
        children.sort_unstable();
        children.dedup();
        let scored = children.into_iter().filter_map(|child| {
            let (level, actions) = self.due(child)?;
            let workers = f64::from(self.executing(child) + 1);
            #[expect(clippy::cast_precision_loss, reason = "priorities have 33 bits")]
            let score = workers.log2() * 100.0 + level as f64;
            Some((score, level, actions))
        });
        let scored: Vec<_> = scored.collect();
        let best = scored
            .iter()
            .map(|(score, ..)| *score)
            .fold(f64::MAX, f64::min);
        let equal = scored.into_iter().filter(|(score, ..)| score - best < 1e-5);
        equal.fold(None, |all, (_, level, actions)| {
            let (_, mut due) = all.unwrap_or((level, Vec::new()));
            due.extend(actions);
            Some((level, due))
        })
    }

    /// Learns what clients were told.
    fn listen(&mut self, farm: &mut Farm) {
        farm.settle();
        for (name, stage) in farm.told.drain(..) {
            let Some(wish) = self.wishes.get_mut(&name) else {
                panic!("{name} is told {stage:?} after its end");
            };
            wish.stage = stage;
            if stage == Stage::Completed {
                self.wishes.remove(&name);
                self.completed += 1;
            }
        }
        let wanted = self
            .wishes
            .values()
            .map(|wish| wish.action)
            .collect::<Vec<_>>();
        self.tasks.retain(|action, _| wanted.contains(action));
    }
}

fn content(action: u8) -> String {
    format!("action {action}")
}

/// Actions differ in how long they are expected to take.
fn timeout(action: u8) -> i64 {
    i64::from(action % 3) + 1
}

/// What a worker does, as it sees it itself.
#[derive(Clone, Copy, PartialEq)]
enum Doing {
    Nothing,
    Waits(WorkerKey),
    Executes(u8),
}

struct World {
    farm: Farm,
    model: Model,
    workers: Vec<Doing>,
    started: Instant,
    submitted: usize,
}

impl World {
    fn new() -> Self {
        let farm = Farm::new(Settings {
            // What takes its workers down is given up only by those who ask.
            maximum_attempts: usize::MAX,
            maximum_sends: u32::MAX,
            ..Settings::default()
        });
        Self {
            started: farm.now.instant,
            farm,
            model: Model::default(),
            workers: vec![Doing::Nothing; usize::from(WORKERS)],
            submitted: 0,
        }
    }

    fn action(job_digest: Digest) -> u8 {
        let mut all = 0..=u8::MAX;
        all.find(|action| digest(&content(*action)) == job_digest)
            .unwrap()
    }

    /// Notes that a worker was told to execute something.
    fn given(&mut self, worker: usize, job_digest: Digest) {
        let action = Self::action(job_digest);
        let others = self.workers.iter().enumerate();
        let same =
            others.filter(|(other, doing)| *other != worker && **doing == Doing::Executes(action));
        // One that went silent may still be at it; those that are heard of may not.
        for (other, _) in same {
            let name = other.to_string();
            let alive = self.farm.queue.workers.values().any(|known| {
                known.id.to_string().contains(&name)
                    && known.task.is_some_and(|assigned| {
                        self.farm.queue.tasks[&assigned.task].job.digest == job_digest
                    })
            });
            assert!(!alive, "{action} is with {worker} and {other}");
        }
        self.workers[worker] = Doing::Executes(action);
    }

    fn listen(&mut self) {
        self.model.listen(&mut self.farm);
        for worker in 0..self.workers.len() {
            if let Doing::Waits(key) = self.workers[worker]
                && let Some(reply) = self.farm.answers.remove(&key)
            {
                self.workers[worker] = Doing::Nothing;
                if let Some(job_digest) = told_to_execute(&reply) {
                    self.given(worker, job_digest);
                }
            }
        }
    }

    fn call(&mut self, worker: u8) {
        let index = usize::from(worker);
        let report = match self.workers[index] {
            Doing::Waits(_) => return,
            Doing::Nothing => Report::Idle,
            Doing::Executes(action) => Report::Completed(digest(&content(action)), ok()),
        };
        let completed = matches!(report, Report::Completed(..));
        let has = |farm: &Farm| {
            let id = WorkerId::from_iter([("host".to_string(), worker.to_string())]);
            let known = farm.queue.workers.values().find(|known| known.id == id);
            known.is_some_and(|known| known.task.is_some())
        };
        // What it has anyway it is sent again, whatever is due.
        let had = has(&self.farm);
        let outcome = self.farm.sync(&worker.to_string(), report);
        self.workers[index] = Doing::Nothing;
        match outcome {
            Outcome::Hold(key) => {
                self.workers[index] = Doing::Waits(key);
                self.listen();
            }
            Outcome::Reply(reply) => {
                let Some(job_digest) = told_to_execute(&reply) else {
                    self.listen();
                    return;
                };
                let action = Self::action(job_digest);
                // The word of the hand-out itself comes last: what the model knows is
                // how it stood before that.
                let told = std::mem::take(&mut self.farm.told);
                let (before, after): (Vec<_>, Vec<_>) =
                    told.into_iter().partition(|(name, stage)| {
                        let wish = self.model.wishes.get(name);
                        !(*stage == Stage::Executing
                            && wish.is_some_and(|wish| wish.action == action))
                    });
                self.farm.told = before;
                self.model.listen(&mut self.farm);
                if !had || completed && !after.is_empty() {
                    let (_, due) = self.model.due(&[]).expect("something is queued");
                    assert!(
                        due.contains(&action),
                        "{action} was handed out, not of {due:?}"
                    );
                }
                self.farm.told = after;
                self.given(index, job_digest);
                self.listen();
            }
        }
    }

    fn play(&mut self, event: &Event) {
        match *event {
            Event::Submit {
                action,
                priority,
                lineage,
            } => {
                let mut submission = of(LINEAGES[lineage], &content(action));
                submission.priority = priority;
                submission.action.timeout = Some(protobuf::Duration {
                    seconds: timeout(action),
                    nanos: 0,
                });
                let name = match self.farm.queue.submit(self.farm.now, submission) {
                    Ok(submitted) => submitted.operation,
                    Err(error) => {
                        assert!(matches!(error, Error::NoWorkers { .. }), "{error}");
                        return;
                    }
                };
                let passed = self.farm.now.instant - self.started;
                self.submitted += 1;
                self.model.arrivals += 1;
                let arrival = self.model.arrivals;
                self.model.tasks.entry(action).or_insert(Known { arrival });
                let stage = self.farm.queue.view(name).unwrap().stage;
                let wish = Wish {
                    action,
                    lineage,
                    level: i64::from(priority) + i64::try_from(passed.as_secs() / 60).unwrap(),
                    stage,
                };
                self.model.wishes.insert(name, wish);
            }
            Event::Call(worker) => self.call(worker),
            Event::Crash(worker) => {
                if let Doing::Waits(key) = self.workers[usize::from(worker)] {
                    self.farm.queue.abandon(self.farm.now, key);
                }
                self.workers[usize::from(worker)] = Doing::Nothing;
            }
            Event::Cancel(index) => {
                if let Some(name) = self.pick(index) {
                    self.farm.queue.cancel(self.farm.now, name).unwrap();
                }
            }
            Event::Kill(index) => {
                if let Some(name) = self.pick(index) {
                    let status = queue::failure(Code::Aborted, "killed").status.unwrap();
                    self.farm.queue.kill(self.farm.now, name, status).unwrap();
                }
            }
            Event::Drain(worker, add) => {
                let name = QueueName {
                    prefix: InstanceName::new("main").unwrap(),
                    platform: os("linux"),
                    size_class: 0,
                };
                let pattern = Pattern::from([("host".to_string(), worker.to_string())]);
                let queue = &mut self.farm.queue;
                // There may be no queue yet, or no longer.
                let _ = if add {
                    queue.add_drain(self.farm.now, &name, pattern)
                } else {
                    queue.remove_drain(self.farm.now, &name, &pattern)
                };
            }
            Event::Pass(seconds) => self.farm.pass(u64::from(seconds)),
        }
        self.listen();
    }

    fn pick(&self, index: u8) -> Option<Uuid> {
        let count = self.model.wishes.len().max(1);
        self.model
            .wishes
            .keys()
            .nth(usize::from(index) % count)
            .copied()
    }
}

/// Plays a schedule, and then has workers complete all there is.
fn play(events: &[Event]) {
    let mut world = World::new();
    for event in events {
        world.play(event);
    }
    for worker in 0..WORKERS {
        world.play(&Event::Drain(worker, false));
    }
    for _ in 0..1000 {
        if world.model.wishes.is_empty() {
            break;
        }
        for worker in 0..WORKERS {
            world.play(&Event::Call(worker));
        }
    }
    assert!(world.model.wishes.is_empty(), "something never completes");
    assert_eq!(
        world.model.completed, world.submitted,
        "each completes once"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_handed_out_is_what_was_due(events in prop::collection::vec(event(), 1000..2500)) {
        play(&events);
    }
}
