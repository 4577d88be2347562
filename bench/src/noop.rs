//! What an action costs beyond its process.
//!
//! Each action runs `true` with an argument of its own, so that none is answered
//! from the cache or joined to another, through a whole `hayloft up`: front,
//! scheduler, worker, sandbox with every layer, action cache. Its messages are
//! uploaded beforehand. The floors, the same program by fork and exec and by
//! `posix_spawn`, alternate with it in rounds. The p50 is held against that of fork
//! and exec, the rate against that of `posix_spawn`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use hayloft::client::inputs::Inputs;
use hayloft::client::{Client, Spec};
use proto::Digest;
use proto::messages::system_time;
use proto::wire::{protobuf, rev2};

use crate::farm::Farm;
use crate::floor::{self, Floor};
use crate::statistics::{milliseconds, quantile, rate};

/// How much to measure.
#[derive(Args)]
pub struct Options {
    /// Actions in each round, at each degree of parallelism.
    #[arg(long, default_value_t = 200)]
    actions: usize,
    /// Rounds of action runs and floor runs.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How many at a time.
    #[arg(long, value_delimiter = ',', default_value = "1,4,16,64")]
    parallel: Vec<usize>,
    /// The farm's slots.
    #[arg(long, default_value_t = 16)]
    slots: u16,
}

const PROGRAM: &str = "/usr/bin/true";

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let farm = Farm::start(options.slots)?;
    println!(
        "{:>8} {:>9} {:>9} {:>10} | {:>9} {:>9} {:>9} | {:>8} {:>10}",
        "parallel",
        "p50 ms",
        "p99 ms",
        "actions/s",
        "fork p50",
        "spawn p50",
        "spawns/s",
        "p50/fork",
        "rate/spawn"
    );
    let mut serial = 0;
    for parallel in &options.parallel {
        let mut actions = Samples::default();
        let mut forks = Samples::default();
        let mut spawns = Samples::default();
        let mut stages = Stages::default();
        for _ in 0..options.rounds {
            for (floor, samples) in [(Floor::Fork, &mut forks), (Floor::Spawn, &mut spawns)] {
                let (times, span) = floor::runs(floor, PROGRAM, options.actions, *parallel)?;
                samples.add(times, span);
            }
            let round = round(&farm, options.actions, *parallel, &mut serial);
            let (times, span, metadata) = runtime.block_on(round)?;
            actions.add(times, span);
            stages.add(&metadata);
        }
        let p50 = quantile(&mut actions.times, 0.5);
        let fork = quantile(&mut forks.times, 0.5);
        println!(
            "{parallel:>8} {:>9.2} {:>9.2} {:>10.0} | {:>9.2} {:>9.2} {:>9.0} | {:>8.2} {:>10.3}",
            milliseconds(p50),
            milliseconds(quantile(&mut actions.times, 0.99)),
            actions.rate(),
            milliseconds(fork),
            milliseconds(quantile(&mut spawns.times, 0.5)),
            spawns.rate(),
            p50.as_secs_f64() / fork.as_secs_f64(),
            actions.rate() / spawns.rate(),
        );
        stages.print();
    }
    Ok(())
}

/// Runs and how long they took, each and per round.
#[derive(Default)]
struct Samples {
    times: Vec<Duration>,
    span: Duration,
}

impl Samples {
    fn add(&mut self, times: Vec<Duration>, span: Duration) {
        self.times.extend(times);
        self.span += span;
    }

    fn rate(&self) -> f64 {
        rate(self.times.len(), self.span)
    }
}

type Round = (Vec<Duration>, Duration, Vec<rev2::ExecutedActionMetadata>);

async fn round(farm: &Farm, count: usize, parallel: usize, serial: &mut usize) -> Result<Round> {
    let client = farm.client()?;
    let inputs = Inputs::empty();
    let root = inputs.root();
    inputs.upload(&client).await?;
    let mut actions = Vec::with_capacity(count);
    let mut blobs = Vec::new();
    for _ in 0..count {
        *serial += 1;
        let (action, messages) = hayloft::client::describe(
            &Spec {
                arguments: vec![PROGRAM.into(), serial.to_string()],
                ..Spec::default()
            },
            root,
        );
        actions.push(action);
        blobs.extend(messages);
    }
    client.upload(blobs).await?;
    let actions: Arc<[Digest]> = actions.into();
    let next = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let clients: Vec<_> = (0..parallel)
        .map(|_| tokio::spawn(work(client.clone(), actions.clone(), next.clone())))
        .collect();
    let mut times = Vec::with_capacity(count);
    let mut metadata = Vec::with_capacity(count);
    for client in clients {
        for (time, facts) in client.await?? {
            times.push(time);
            metadata.extend(facts);
        }
    }
    Ok((times, start.elapsed(), metadata))
}

type Outcome = (Duration, Option<rev2::ExecutedActionMetadata>);

async fn work(
    client: Client,
    actions: Arc<[Digest]>,
    next: Arc<AtomicUsize>,
) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    while let Some(action) = actions.get(next.fetch_add(1, Ordering::Relaxed)) {
        let start = Instant::now();
        let response = client.execute(*action, false, |_| {}).await?;
        let time = start.elapsed();
        let code = response.status.as_ref().map_or(0, |status| status.code);
        ensure!(code == 0, "an action failed: {:?}", response.status);
        let result = response.result.context("an action without a result")?;
        ensure!(result.exit_code == 0, "exit code {}", result.exit_code);
        outcomes.push((time, result.execution_metadata));
    }
    Ok(outcomes)
}

/// Where the time goes, as the worker's timestamps tell it.
#[derive(Default)]
struct Stages(BTreeMap<&'static str, Vec<Duration>>);

impl Stages {
    fn add(&mut self, metadata: &[rev2::ExecutedActionMetadata]) {
        type Moment = Option<protobuf::Timestamp>;
        for facts in metadata {
            let mut span = |name, from: &Moment, to: &Moment| {
                let moment = |m: &Moment| m.as_ref().and_then(system_time);
                if let (Some(from), Some(to)) = (moment(from), moment(to)) {
                    let span = to.duration_since(from).unwrap_or_default();
                    self.0.entry(name).or_default().push(span);
                }
            };
            let f = facts;
            span("1 queued", &f.queued_timestamp, &f.worker_start_timestamp);
            span(
                "2 fetching inputs",
                &f.input_fetch_start_timestamp,
                &f.input_fetch_completed_timestamp,
            );
            span(
                "3 running",
                &f.execution_start_timestamp,
                &f.execution_completed_timestamp,
            );
            span(
                "4 uploading outputs",
                &f.output_upload_start_timestamp,
                &f.output_upload_completed_timestamp,
            );
            span(
                "5 queued to completed",
                &f.queued_timestamp,
                &f.worker_completed_timestamp,
            );
        }
    }

    fn print(&mut self) {
        for (name, times) in &mut self.0 {
            let p50 = milliseconds(quantile(times, 0.5));
            println!("{:8} {p50:>11.2}  p50 ms {}", "", &name[2..]);
        }
    }
}
