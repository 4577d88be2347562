//! Clients, workers and a scheduler that is killed now and then, on a network that
//! delays, reorders, cuts and partitions; all in virtual time, from a seed.
//!
//! Clients and workers behave as real ones do: clients come back by the name of
//! their operation, or ask anew; workers repeat their reports until they are heard,
//! write results into the action cache before they report them, and forget all when
//! they crash. Each call is a connection of its own: what it carries arrives in
//! order, it breaks as a whole, and each side learns of that by itself, later.
//!
//! Whatever happens, each client gets the result of its own action once the network
//! is well again. And where nothing but the scheduler dies, and everybody is heard in
//! time, no action is executed twice.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

mod dice;
mod nodes;
mod planned;
mod scheduler;

use dice::Dice;
use nodes::{Client, Doing, Worker};
use planned::Planned;

use super::random::check_queue;
use super::*;

/// Which faults there are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Faults {
    /// The scheduler is killed, and no message takes long.
    Scheduler,
    /// Besides, workers crash, nodes are cut off, and messages take their time.
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    Client(usize),
    Worker(usize),
}

type Call = u64;

#[derive(Clone, Debug)]
enum Request {
    Execute(u8),
    Wait(Uuid),
    Synchronize(Report, Option<Claim>),
}

#[derive(Clone, Debug)]
enum Answer {
    /// To a client: how its operation stands; the outcome ends the call.
    Operation(Uuid, Option<Arc<ExecuteResponse>>),
    /// To a worker.
    Reply(Reply),
    Refused,
}

#[derive(Clone, Debug)]
enum Event {
    Arrives(Node, Call, Request),
    Answered(Node, Call, Answer),
    /// A caller learns that its call is broken.
    Broken(Node, Call),
    /// The scheduler of this life learns that a caller is gone.
    Gone(u32, Call),
    Wake(Node, u32),
    LookedUp(u32, TaskId, bool),
    Kill,
    Crash(usize),
    Cut(Node),
    Mend(Node),
    Deadline,
}

struct World {
    dice: Dice,
    faults: Faults,
    now: Now,
    /// Until when there are faults.
    trouble: Instant,
    planned: BinaryHeap<Planned>,
    serial: u64,
    queue: Queue,
    life: u32,
    /// Calls that the scheduler has: held ones of workers, streams of clients.
    held: BTreeMap<WorkerKey, (Node, Call)>,
    streams: BTreeMap<Call, (Node, Uuid)>,
    /// When the last that was sent on a call arrives.
    arrives: BTreeMap<Call, Instant>,
    cut: BTreeSet<Node>,
    clients: Vec<Client>,
    workers: Vec<Worker>,
    action_cache: BTreeSet<u8>,
    executions: BTreeMap<u8, u32>,
    ended: BTreeSet<Uuid>,
    deadline: Option<Instant>,
}

fn content(action: u8) -> String {
    format!("action {action}")
}

fn action_of(job: Digest) -> u8 {
    (0..=u8::MAX)
        .find(|action| digest(&content(*action)) == job)
        .unwrap()
}

/// The outcome of an action names it.
fn outcome(action: u8) -> Box<ExecuteResponse> {
    Box::new(ExecuteResponse {
        message: content(action),
        result: Some(result(action)),
        ..Default::default()
    })
}

fn result(action: u8) -> proto::wire::rev2::ActionResult {
    proto::wire::rev2::ActionResult {
        stdout_raw: content(action).into_bytes(),
        ..Default::default()
    }
}

const CLIENTS: usize = 24;
const WORKERS: usize = 5;
const ACTIONS: u64 = 16;

fn queue(life: u32, now: Now) -> Queue {
    let recovery = (life > 0).then_some(After {
        longest: Duration::from_secs(15),
        workers: None,
    });
    let settings = Settings {
        recovery,
        check_action_cache: true,
        maximum_attempts: 1000,
        ..Settings::default()
    };
    let predeclared = Predeclared {
        prefix: InstanceName::new("main").unwrap(),
        platform: os("linux"),
        size_classes: Vec::new(),
        stickiness_limits: Vec::new(),
    };
    let mut name = u128::from(life) << 64;
    let random = Box::new(move || {
        name += 1;
        name
    });
    Queue::new(settings, &[predeclared], random, now)
}

impl World {
    fn new(seed: u64, faults: Faults) -> Self {
        let now = Now {
            instant: Instant::now(),
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000),
        };
        let mut world = Self {
            dice: Dice(seed),
            faults,
            now,
            trouble: now.instant + Duration::from_secs(300),
            planned: BinaryHeap::new(),
            serial: 0,
            queue: queue(0, now),
            life: 0,
            held: BTreeMap::new(),
            streams: BTreeMap::new(),
            arrives: BTreeMap::new(),
            cut: BTreeSet::new(),
            clients: Vec::new(),
            workers: Vec::new(),
            action_cache: BTreeSet::new(),
            executions: BTreeMap::new(),
            ended: BTreeSet::new(),
            deadline: None,
        };
        for index in 0..WORKERS {
            world.workers.push(Worker {
                doing: Doing::Nothing,
                claim: None,
                call: None,
                plans: 0,
                failures: 0,
                // With all faults there is one of another make.
                delivers: false,
                is_ours: faults == Faults::Scheduler || index > 0,
            });
            world.wake(Node::Worker(index), 0..2000);
        }
        for index in 0..CLIENTS {
            let action = u8::try_from(world.dice.within(0..ACTIONS)).unwrap();
            world.clients.push(Client {
                action,
                operation: None,
                call: None,
                plans: 0,
                done: false,
            });
            world.wake(Node::Client(index), 0..240_000);
        }
        for _ in 0..world.dice.within(1..5) {
            world.plan_within(0..300_000, Event::Kill);
        }
        if faults == Faults::All {
            for _ in 0..world.dice.within(0..8) {
                let worker = usize::try_from(world.dice.within(0..WORKERS as u64)).unwrap();
                world.plan_within(0..300_000, Event::Crash(worker));
            }
            for _ in 0..world.dice.within(0..8) {
                let index = usize::try_from(world.dice.within(0..WORKERS as u64)).unwrap();
                let nodes = [Node::Worker(index), Node::Client(index)];
                let node = nodes[usize::from(world.dice.one_in(2))];
                world.plan_within(0..300_000, Event::Cut(node));
            }
        }
        world
    }

    fn plan(&mut self, after: Duration, event: Event) {
        self.serial += 1;
        let at = self.now.instant + after;
        self.planned.push(Planned(at, self.serial, event));
    }

    fn plan_within(&mut self, milliseconds: std::ops::Range<u64>, event: Event) {
        let after = self.dice.milliseconds(milliseconds);
        self.plan(after, event);
    }

    fn is_troubled(&self) -> bool {
        self.faults == Faults::All && self.now.instant < self.trouble
    }

    /// How long a message takes.
    fn delay(&mut self) -> Duration {
        if self.is_troubled() && self.dice.one_in(20) {
            self.dice.milliseconds(1000..8000)
        } else {
            self.dice.milliseconds(1..200)
        }
    }

    /// Has a node do something later, instead of what it had planned.
    fn wake(&mut self, node: Node, milliseconds: std::ops::Range<u64>) {
        let after = self.dice.milliseconds(milliseconds);
        self.wake_after(node, after);
    }

    fn wake_after(&mut self, node: Node, after: Duration) {
        let plans = match node {
            Node::Client(index) => &mut self.clients[index].plans,
            Node::Worker(index) => &mut self.workers[index].plans,
        };
        *plans += 1;
        let plans = *plans;
        self.plan(after, Event::Wake(node, plans));
    }

    /// A message is lost with its call: both sides will learn.
    fn lose(&mut self, node: Node, call: Call) {
        self.plan_within(2000..8000, Event::Broken(node, call));
        self.plan_within(2000..8000, Event::Gone(self.life, call));
    }

    fn call(&mut self, node: Node, request: Request) {
        self.serial += 1;
        let call = self.serial;
        match node {
            Node::Client(index) => self.clients[index].call = Some(call),
            Node::Worker(index) => self.workers[index].call = Some(call),
        }
        if self.cut.contains(&node) {
            self.plan_within(2000..8000, Event::Broken(node, call));
            return;
        }
        let after = self.delay();
        self.plan(after, Event::Arrives(node, call, request));
    }

    fn answer(&mut self, node: Node, call: Call, answer: Answer) {
        let delay = self.delay();
        let earliest = self.arrives.get(&call).copied();
        let at = (self.now.instant + delay).max(earliest.unwrap_or(self.now.instant));
        self.arrives.insert(call, at);
        let after = at - self.now.instant;
        self.plan(after, Event::Answered(node, call, answer));
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Arrives(node, call, _) | Event::Answered(node, call, _)
                if self.cut.contains(&node) =>
            {
                self.lose(node, call);
            }
            Event::Arrives(node, call, request) => {
                self.arrives(node, call, request);
                self.settle();
            }
            Event::Answered(node, call, answer) => match node {
                Node::Client(index) if self.clients[index].call == Some(call) => {
                    self.client_hears(index, answer);
                }
                Node::Worker(index) if self.workers[index].call == Some(call) => {
                    self.worker_hears(index, answer);
                }
                // It has given up this call.
                Node::Client(_) | Node::Worker(_) => {}
            },
            Event::Broken(Node::Client(index), call) => {
                if self.clients[index].call == Some(call) {
                    self.clients[index].call = None;
                    self.wake(Node::Client(index), 10..2000);
                }
            }
            Event::Broken(Node::Worker(index), call) => {
                if self.workers[index].call == Some(call) {
                    self.worker_retries(index);
                }
            }
            Event::Gone(life, call) => {
                if life == self.life {
                    self.gone(call);
                    self.settle();
                }
            }
            Event::Wake(Node::Client(index), plans) => {
                if self.clients[index].plans == plans {
                    self.client_wakes(index);
                }
            }
            Event::Wake(Node::Worker(index), plans) => {
                if self.workers[index].plans == plans {
                    self.worker_wakes(index);
                }
            }
            Event::LookedUp(life, task, hit) => {
                if life == self.life {
                    // Found or not as it was when it was asked for.
                    let job = self.queue.tasks.get(&task).map(|task| task.job.digest);
                    let result = job.filter(|_| hit).map(|job| result(action_of(job)));
                    self.queue.cache_checked(self.now, task, result);
                    self.settle();
                }
            }
            Event::Kill => {
                self.kill();
                self.settle();
            }
            Event::Crash(index) => {
                let worker = &mut self.workers[index];
                worker.doing = Doing::Nothing;
                worker.claim = None;
                if let Some(call) = worker.call.take() {
                    self.plan_within(10..8000, Event::Gone(self.life, call));
                }
                self.wake(Node::Worker(index), 100..90_000);
            }
            Event::Cut(node) => {
                self.cut.insert(node);
                self.plan_within(1000..120_000, Event::Mend(node));
                let call = match node {
                    Node::Client(index) => self.clients[index].call,
                    Node::Worker(index) => self.workers[index].call,
                };
                if let Some(call) = call {
                    self.lose(node, call);
                }
            }
            Event::Mend(node) => {
                self.cut.remove(&node);
            }
            Event::Deadline => {
                self.deadline = None;
                self.queue.advance(self.now);
                self.settle();
            }
        }
    }

    /// Until each client has what it wants.
    fn run(mut self, seed: u64) {
        let start = self.now.instant;
        while !self.clients.iter().all(|client| client.done) {
            let Planned(at, _, event) = self.planned.pop().expect("something goes on");
            let passed = at - self.now.instant;
            self.now.instant = at;
            self.now.wall += passed;
            let took = at - start;
            assert!(
                took.as_secs() < 3600,
                "seed {seed}: some client waits for ever"
            );
            self.happens(event);
        }
        if self.faults == Faults::Scheduler {
            let twice: Vec<_> = self.executions.iter().filter(|(_, n)| **n > 1).collect();
            assert!(twice.is_empty(), "seed {seed}: executed twice: {twice:?}");
        }
    }
}

fn simulate(faults: Faults) {
    // One seed, to look into what it shows.
    let chosen = std::env::var("SIMULATION_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seeds = chosen.map_or(0..250, |seed| seed..seed + 1);
    for seed in seeds {
        let world = World::new(seed, faults);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run(seed)));
        if outcome.is_err() {
            panic!("seed {seed} of {faults:?} shows it");
        }
    }
}

#[test]
fn while_only_the_scheduler_dies_nothing_is_executed_twice() {
    simulate(Faults::Scheduler);
}

#[test]
fn whatever_breaks_each_client_gets_its_result_once_all_is_well() {
    simulate(Faults::All);
}
