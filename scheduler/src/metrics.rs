//! What the scheduler counts. Names and labels are Buildbarn's where the meaning is
//! (bb-remote-execution, `pkg/scheduler`), so that its dashboards work; what it has
//! none for begins with `hayloft_`.

mod standing;

use std::sync::Arc;

use daemon::Metrics;
use daemon::metrics::{Counter, Family, Histogram, exponential_buckets};
use prometheus_client::encoding::EncodeLabelSet;
use proto::{InstanceName, PlatformKey};

use crate::queue::{Event, ExecutionOutcome as Outcome, Flight, QueueName, What};

pub use standing::Standing;

const BUILDBARN: &str = "buildbarn_builder_in_memory_build_queue";

/// The queue that a number is about. Events are counted while the queue is locked, so
/// that this is to be had cheaply.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    instance_name_prefix: Arc<str>,
    platform: Arc<str>,
    size_class: u32,
}

impl Of {
    fn queue(name: &QueueName) -> Self {
        Self::new(&name.prefix, &name.platform, name.size_class)
    }

    /// Platforms as Buildbarn has them: REv2's message, in protobuf's JSON.
    fn new(prefix: &InstanceName, platform: &PlatformKey, size_class: u32) -> Self {
        let properties: Vec<_> = platform
            .properties()
            .iter()
            .map(|(name, value)| serde_json::json!({"name": name, "value": value}))
            .collect();
        let platform = if properties.is_empty() {
            serde_json::json!({})
        } else {
            serde_json::json!({"properties": properties})
        };
        Self {
            instance_name_prefix: prefix.as_str().into(),
            platform: platform.to_string().into(),
            size_class,
        }
    }
}

macro_rules! labels {
    ($name:ident { $($field:ident),* }) => {
        #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        struct $name {
            #[prometheus(flatten)]
            of: Of,
            $($field: &'static str,)*
        }
    };
}
labels!(Deduplicated { outcome });
labels!(Scheduled {
    assignment,
    do_not_cache
});
labels!(Executed { result, grpc_code });
labels!(Removed { state });

/// Of one level of its tree of invocations.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Level {
    #[prometheus(flatten)]
    of: Of,
    depth: usize,
}

/// From a millisecond to more than an hour, as Buildbarn's.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 23))
}

fn attempts() -> Histogram {
    Histogram::new((0..8).map(f64::from))
}

/// Levels of the tree of invocations.
fn levels() -> Histogram {
    Histogram::new((0..4).map(f64::from))
}

type Durations<L> = Family<L, Histogram, fn() -> Histogram>;

/// The counters. Clones share one state.
#[derive(Clone, Debug)]
pub struct QueueMetrics {
    deduplications: Family<Deduplicated, Counter>,
    scheduled: Family<Scheduled, Counter>,
    queued: Durations<Of>,
    executing: Durations<Executed>,
    retries: Durations<Executed>,
    completed: Durations<Of>,
    retried: Family<Of, Counter>,
    adopted: Family<Of, Counter>,
    stickiness: Durations<Of>,
    workers_created: Family<Of, Counter>,
    workers_terminating: Family<Of, Counter>,
    workers_removed: Family<Removed, Counter>,
    /// Of the event before this one.
    last: Option<(Arc<QueueName>, Of)>,
}

impl Default for QueueMetrics {
    fn default() -> Self {
        Self {
            deduplications: Family::default(),
            scheduled: Family::default(),
            queued: Family::new_with_constructor(durations),
            executing: Family::new_with_constructor(durations),
            retries: Family::new_with_constructor(attempts),
            completed: Family::new_with_constructor(durations),
            retried: Family::default(),
            adopted: Family::default(),
            stickiness: Family::new_with_constructor(levels),
            workers_created: Family::default(),
            workers_terminating: Family::default(),
            workers_removed: Family::default(),
            last: None,
        }
    }
}

impl QueueMetrics {
    /// Makes them readable.
    pub fn register(&self, metrics: &Metrics) {
        let name = |name: &str| format!("{BUILDBARN}_{name}");
        metrics.register(
            &name("in_flight_deduplications"),
            "Operations by whether their action was in flight already",
            self.deduplications.clone(),
        );
        metrics.register(
            &name("tasks_scheduled"),
            "Tasks by whether an idle worker got them at once or they were queued",
            self.scheduled.clone(),
        );
        metrics.register(
            &name("tasks_queued_duration_seconds"),
            "Time from a task's coming to its being given to a worker",
            self.queued.clone(),
        );
        metrics.register(
            &name("tasks_executing_duration_seconds"),
            "Time from a task's being given to a worker to its end there",
            self.executing.clone(),
        );
        metrics.register(
            &name("tasks_executing_retries"),
            "Attempts at a task that came to nothing before its last",
            self.retries.clone(),
        );
        metrics.register(
            &name("tasks_completed_duration_seconds"),
            "Time from a task's end to nobody's asking for it any more",
            self.completed.clone(),
        );
        metrics.register(
            "hayloft_scheduler_tasks_adopted",
            "Tasks taken over from workers that executed them for an earlier scheduler",
            self.adopted.clone(),
        );
        metrics.register(
            &name("worker_invocation_stickiness_retained"),
            "Levels of invocations at which a worker that took a task stayed",
            self.stickiness.clone(),
        );
        metrics.register(
            &name("workers_terminating"),
            "Workers that an operator had terminate",
            self.workers_terminating.clone(),
        );
        metrics.register(
            "hayloft_scheduler_tasks_retried",
            "Tasks queued once more since their worker was lost or failed",
            self.retried.clone(),
        );
        metrics.register(
            &name("workers_created"),
            "Workers that called for the first time",
            self.workers_created.clone(),
        );
        metrics.register(
            &name("workers_removed"),
            "Workers that went silent, by what they did then",
            self.workers_removed.clone(),
        );
    }

    /// Counts what happened.
    pub fn count(&mut self, event: &Event) {
        let of = match &self.last {
            Some((queue, of)) if Arc::ptr_eq(queue, &event.queue) => of.clone(),
            _ => {
                let of = Of::queue(&event.queue);
                self.last = Some((event.queue.clone(), of.clone()));
                of
            }
        };
        match event.what {
            What::Submitted(flight) => {
                let outcome = match flight {
                    Flight::New => "New",
                    Flight::SameInvocation => "SameInvocation",
                    Flight::OtherInvocation => "OtherInvocation",
                };
                let labels = Deduplicated { of, outcome };
                self.deduplications.get_or_create(&labels).inc();
            }
            What::Scheduled {
                at_once,
                do_not_cache,
            } => {
                let labels = Scheduled {
                    of,
                    assignment: if at_once { "Worker" } else { "Queue" },
                    do_not_cache: if do_not_cache { "true" } else { "false" },
                };
                self.scheduled.get_or_create(&labels).inc();
            }
            What::Started { queued } => {
                let seconds = queued.as_secs_f64();
                self.queued.get_or_create(&of).observe(seconds);
            }
            What::Executed {
                took,
                code,
                result,
                retries,
            } => {
                let labels = Executed {
                    of,
                    result: match result {
                        Outcome::Success => "Success",
                        Outcome::NonZeroExitCode => "NonZeroExitCode",
                        Outcome::ActionResultMissing => "ActionResultMissing",
                        Outcome::Failure => "Failure",
                    },
                    grpc_code: daemon::metrics::code_name(code),
                };
                let seconds = took.as_secs_f64();
                self.executing.get_or_create(&labels).observe(seconds);
                self.retries.get_or_create(&labels).observe(retries.into());
            }
            What::Taken { retained } => {
                let levels = f64::from(retained);
                self.stickiness.get_or_create(&of).observe(levels);
            }
            What::Forgotten { completed } => {
                let seconds = completed.as_secs_f64();
                self.completed.get_or_create(&of).observe(seconds);
            }
            What::Adopted => {
                self.adopted.get_or_create(&of).inc();
            }
            What::WorkerTerminating => {
                self.workers_terminating.get_or_create(&of).inc();
            }
            What::Retried => {
                self.retried.get_or_create(&of).inc();
            }
            What::WorkerCame => {
                self.workers_created.get_or_create(&of).inc();
            }
            What::WorkerLeft { executing } => {
                let state = if executing { "Executing" } else { "Idle" };
                self.workers_removed
                    .get_or_create(&Removed { of, state })
                    .inc();
            }
        }
    }
}
