//! What the scheduler's queue costs by itself: operations taken in and handed out,
//! against the insert and pop of the same entries in one `BTreeMap`.
//!
//! 1,000 workers execute, each for an invocation of its own turn; 10³ to 10⁶
//! operations of 10,000 invocations are queued behind them, at several priorities.
//! Then the workers complete what they have and are handed the next, until the queue
//! is empty: a hand-out includes the completion of the action before it, the word
//! to its client, and the removal of operations that nobody waits for any more.
//!
//! The floor's entries hold what the queue was given, ordered by invocation and
//! place, as the queue's are: key and payload are the same, rules there are none.
//! Messages are made beforehand and batch by batch, and not measured.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use clap::Args;
use proto::wire::protobuf;
use proto::wire::rev2::{self, ExecuteResponse, RequestMetadata};
use proto::{Digest, DigestFunction, InstanceName, PlatformKey, messages};
use scheduler::queue::{
    Desired, Effect, InvocationKey, Now, Outcome, Queue, Reply, Report, Settings, Submission,
    Synchronization, WorkerId, WorkerKey,
};
use uuid::Uuid;

use crate::plot;

/// How much to measure.
#[derive(Args)]
pub struct Options {
    /// How many operations are queued.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1000,10000,100000,1000000"
    )]
    queued: Vec<usize>,
    /// How many invocations they belong to.
    #[arg(long, default_value_t = 10_000)]
    invocations: usize,
    /// How many workers there are.
    #[arg(long, default_value_t = 1000)]
    workers: usize,
    /// How often each is measured; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Measure once in this process, and print bare numbers.
    #[arg(long, hide = true)]
    once: bool,
}

/// Messages made at a time.
const BATCH: usize = 1000;

/// Time that passes from one call to the next, on the queue's clock.
const TICK: Duration = Duration::from_micros(100);

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    if options.once {
        for count in &options.queued {
            let queue = queue(options, *count)?;
            let floor = floor(options, *count);
            for number in [
                floor.insert,
                floor.pop,
                queue.insert,
                queue.pop,
                queue.bytes,
            ] {
                println!("{number}");
            }
        }
        return Ok(());
    }
    println!(
        "{:>9} {:>11} {:>8} {:>7} | {:>11} {:>8} {:>7} | {:>9}",
        "queued", "enqueue/s", "floor ns", "ratio", "hand-out/s", "floor ns", "ratio", "bytes/op"
    );
    let mut points = Vec::new();
    for count in &options.queued {
        let mut rounds = Vec::new();
        for _ in 0..options.rounds {
            rounds.push(measure(options, *count)?);
        }
        let median = |of: &dyn Fn(&(Cost, Cost)) -> f64| {
            let mut all: Vec<_> = rounds.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all.get(all.len() / 2).copied().unwrap_or_default()
        };
        let (enqueue, hand_out) = (median(&|r| r.1.insert), median(&|r| r.1.pop));
        println!(
            "{count:>9} {:>11.0} {:>8.0} {:>7.2} | {:>11.0} {:>8.0} {:>7.2} | {:>9.0}",
            1e9 / enqueue,
            median(&|r| r.0.insert),
            median(&|r| r.1.insert / r.0.insert),
            1e9 / hand_out,
            median(&|r| r.0.pop),
            median(&|r| r.1.pop / r.0.pop),
            median(&|r| r.1.bytes),
        );
        points.push((*count, enqueue, hand_out));
    }
    println!("\n{}", plot::costs(&points));
    Ok(())
}

/// One round, in a process of its own: what an earlier one has freed would be taken
/// again, and not be seen to grow.
fn measure(options: &Options, count: usize) -> Result<(Cost, Cost)> {
    let output = Command::new(std::env::current_exe()?)
        .args(["queue", "--once", "--queued", &count.to_string()])
        .args(["--invocations", &options.invocations.to_string()])
        .args(["--workers", &options.workers.to_string()])
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "a round ended: {}", output.status);
    let text = String::from_utf8(output.stdout)?;
    let numbers: Vec<f64> = text.lines().map(str::parse).collect::<Result<_, _>>()?;
    let [floor_insert, floor_pop, insert, pop, bytes] = numbers[..] else {
        anyhow::bail!("a round printed {text:?}");
    };
    let floor = Cost {
        insert: floor_insert,
        pop: floor_pop,
        bytes: 0.0,
    };
    Ok((floor, Cost { insert, pop, bytes }))
}

/// What one entry costs, in nanoseconds, and takes, in bytes.
#[derive(Clone, Copy, Default)]
struct Cost {
    insert: f64,
    pop: f64,
    bytes: f64,
}

#[allow(clippy::cast_precision_loss)]
fn each(span: Duration, count: usize) -> f64 {
    span.as_nanos() as f64 / count as f64
}

/// What is submitted, by number.
struct Submissions {
    instance: InstanceName,
    platform: PlatformKey,
    invocations: usize,
    random: u64,
}

impl Submissions {
    fn new(invocations: usize) -> Result<Self> {
        let properties = [("ISA", "x86-64"), ("OSFamily", "linux")];
        let properties = properties.map(|(name, value)| (name.to_string(), value.to_string()));
        Ok(Self {
            instance: InstanceName::new("main")?,
            platform: PlatformKey::from_properties(properties),
            invocations,
            random: 1,
        })
    }

    /// A number below `limit`, by Knuth's linear congruence: the same in each run.
    fn below(&mut self, limit: usize) -> usize {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.random >> 33).unwrap_or_default() % limit
    }

    /// A digest that no other number has, without hashing.
    fn digest(number: usize) -> Digest {
        Digest::new(DigestFunction::Sha256, &format!("{number:064x}"), 150)
            .unwrap_or_else(|_| Digest::of(DigestFunction::Sha256, &number.to_ne_bytes()))
    }

    fn invocation(&self, number: usize) -> Vec<InvocationKey> {
        let tool = RequestMetadata {
            tool_invocation_id: Uuid::from_u128(number as u128).to_string(),
            ..Default::default()
        };
        let correlated = RequestMetadata {
            correlated_invocations_id: Uuid::from_u128(number as u128 / 10).to_string(),
            ..Default::default()
        };
        [correlated, tool]
            .iter()
            .map(|metadata| messages::pack_rev2("RequestMetadata", metadata).into())
            .collect()
    }

    fn make(&mut self, number: usize) -> (usize, Submission) {
        let invocation = self.below(self.invocations);
        let priority = i32::try_from(self.below(5)).unwrap_or_default() * 10;
        let metadata = RequestMetadata {
            tool_invocation_id: Uuid::from_u128(invocation as u128).to_string(),
            action_mnemonic: "CppCompile".into(),
            target_id: format!("//some/package:target_{number}"),
            ..Default::default()
        };
        let submission = Submission {
            instance: self.instance.clone(),
            digest: Self::digest(number),
            action: rev2::Action {
                command_digest: Some(Self::digest(number).to_wire()),
                input_root_digest: Some(Self::digest(number).to_wire()),
                timeout: Some(protobuf::Duration {
                    seconds: 600,
                    nanos: 0,
                }),
                platform: Some(self.platform.to_wire()),
                ..Default::default()
            },
            platform: self.platform.clone(),
            priority,
            invocation: self.invocation(invocation),
            skip_cache_lookup: false,
            timeouts: None,
            metadata: vec![messages::pack_rev2("RequestMetadata", &metadata)],
            trace: HashMap::new(),
        };
        (invocation, submission)
    }

    fn batch(&mut self, from: usize, until: usize) -> Vec<(usize, Submission)> {
        (from..until).map(|number| self.make(number)).collect()
    }
}

/// The same entries in one map.
fn floor(options: &Options, count: usize) -> Cost {
    let Ok(mut submissions) = Submissions::new(options.invocations) else {
        return Cost::default();
    };
    let mut map = BTreeMap::new();
    let (mut insert, mut pop) = (Duration::ZERO, Duration::ZERO);
    for from in (0..count).step_by(BATCH) {
        let batch = submissions.batch(from, count.min(from + BATCH));
        let start = Instant::now();
        for (arrival, (invocation, submission)) in (from..).zip(batch) {
            let timeout = submission.action.timeout.as_ref();
            let expected = Reverse(timeout.and_then(messages::span).unwrap_or_default());
            let key = (
                invocation,
                i64::from(submission.priority),
                expected,
                arrival,
            );
            map.insert(key, submission);
        }
        insert += start.elapsed();
    }
    let start = Instant::now();
    while let Some(entry) = map.pop_first() {
        black_box(&entry);
    }
    pop += start.elapsed();
    Cost {
        insert: each(insert, count),
        pop: each(pop, count),
        bytes: 0.0,
    }
}

/// Whatever stands around a queue, done as the services do it.
struct Farm {
    queue: Queue,
    now: Now,
    /// What workers execute, by key; those whose calls are held have nothing.
    executing: Vec<Option<Digest>>,
    keys: HashMap<WorkerKey, usize>,
    operations: HashMap<Digest, Uuid>,
}

impl Farm {
    fn new() -> Self {
        let mut state = 1u128;
        let random = Box::new(move || {
            state = state
                .wrapping_mul(0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645)
                .wrapping_add(1);
            state
        });
        let now = Now {
            instant: Instant::now(),
            wall: SystemTime::now(),
        };
        Self {
            queue: Queue::new(Settings::default(), &[], random, now),
            now,
            executing: Vec::new(),
            keys: HashMap::new(),
            operations: HashMap::new(),
        }
    }

    fn tick(&mut self) {
        self.now.instant += TICK;
        self.now.wall += TICK;
    }

    fn call(&self, submissions: &Submissions, worker: usize, report: Report) -> Synchronization {
        let host = [("hostname".to_string(), format!("worker-{worker:05}"))];
        let _ = self;
        Synchronization {
            worker: WorkerId::from_iter(host),
            prefix: submissions.instance.clone(),
            platform: submissions.platform.clone(),
            size_class: 0,
            report,
            prefer_being_idle: false,
            claim: None,
        }
    }

    /// Does what the dispatcher does with effects.
    fn settle(&mut self) -> usize {
        let mut told = 0;
        for effect in self.queue.take_effects() {
            match effect {
                Effect::Answer(key, reply) => {
                    if let Some(worker) = self.keys.get(&key) {
                        self.executing[*worker] = executed(&reply);
                    }
                }
                Effect::Updated(name, view) => {
                    black_box((name, view));
                    told += 1;
                }
                Effect::Happened(event) => {
                    black_box(event);
                }
                Effect::Removed(_) | Effect::Freed => {}
            }
        }
        told
    }
}

fn executed(reply: &Reply) -> Option<Digest> {
    match &reply.desired {
        Desired::Execute(job) => Some(job.digest),
        Desired::Idle | Desired::Unchanged => None,
    }
}

fn queue(options: &Options, count: usize) -> Result<Cost> {
    let mut submissions = Submissions::new(options.invocations)?;
    let mut farm = Farm::new();
    // As many actions as workers are executed from the start.
    let workers = options.workers;
    for worker in 0..workers {
        farm.executing.push(None);
        let call = farm.call(&submissions, worker, Report::Idle);
        if let Outcome::Hold(key) = farm.queue.synchronize(farm.now, call)? {
            farm.keys.insert(key, worker);
        }
    }
    for (_, submission) in submissions.batch(count, count + workers) {
        let digest = submission.digest;
        let submitted = farm.queue.submit(farm.now, submission)?;
        farm.operations.insert(digest, submitted.operation);
        farm.settle();
    }
    ensure!(farm.executing.iter().all(Option::is_some), "a worker idles");

    let before = resident()?;
    let mut insert = Duration::ZERO;
    for from in (0..count).step_by(BATCH) {
        let batch = submissions.batch(from, count.min(from + BATCH));
        let digests: Vec<_> = batch.iter().map(|(_, one)| one.digest).collect();
        let mut names = Vec::with_capacity(BATCH);
        let start = Instant::now();
        for (_, submission) in batch {
            farm.tick();
            names.push(farm.queue.submit(farm.now, submission)?.operation);
            farm.settle();
        }
        insert += start.elapsed();
        // What clients remember is theirs.
        farm.operations.extend(digests.into_iter().zip(names));
    }
    let remembered = farm.operations.len() * size_of::<(Digest, Uuid)>() * 2;
    let taken = resident()?.saturating_sub(before);
    let bytes = taken.saturating_sub(remembered);

    let (mut pop, mut handed_out) = (Duration::ZERO, 0);
    while handed_out < count {
        let mut calls = Vec::with_capacity(workers);
        for worker in 0..workers.min(count - handed_out) {
            let digest = farm.executing[worker].take().context("a worker idles")?;
            let result = rev2::ActionResult {
                exit_code: 0,
                ..Default::default()
            };
            let response = Box::new(ExecuteResponse {
                result: Some(result),
                ..Default::default()
            });
            let report = Report::Completed(digest, response);
            calls.push((worker, digest, farm.call(&submissions, worker, report)));
        }
        let mut done = Vec::with_capacity(calls.len());
        let start = Instant::now();
        for (worker, digest, call) in calls {
            farm.tick();
            let Outcome::Reply(reply) = farm.queue.synchronize(farm.now, call)? else {
                anyhow::bail!("nothing was handed out");
            };
            farm.executing[worker] = executed(&reply);
            farm.settle();
            done.push(digest);
        }
        pop += start.elapsed();
        handed_out += done.len();
        // Clients have heard, and go.
        for digest in done {
            if let Some(name) = farm.operations.remove(&digest) {
                farm.queue.leave(farm.now, name);
            }
        }
    }
    ensure!(farm.executing.iter().all(Option::is_some), "a worker idles");
    #[allow(clippy::cast_precision_loss)]
    Ok(Cost {
        insert: each(insert, count),
        pop: each(pop, count),
        bytes: bytes as f64 / count as f64,
    })
}

/// The memory of this process, in bytes (proc_pid_statm(5)).
fn resident() -> Result<usize> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: usize = statm
        .split_whitespace()
        .nth(1)
        .context("no resident pages in statm")?
        .parse()?;
    Ok(pages * 4096)
}
