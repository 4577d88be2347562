//! What the scheduler counts. Names and labels are Buildbarn's where the meaning is
//! (bb-remote-execution, `pkg/scheduler`), so that its dashboards work; what it has
//! none for begins with `hayloft_`.

use std::fmt;
use std::sync::Arc;

use daemon::Metrics;
use daemon::metrics::{Collector, ConstGauge, Counter, Family, Histogram, exponential_buckets};
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use proto::wire::buildqueuestate::PlatformQueueState;
use proto::{InstanceName, PlatformKey};

use crate::queue::{Event, ExecutionOutcome as Outcome, Flight, QueueName, What};
use crate::service::Dispatcher;

const BUILDBARN: &str = "buildbarn_builder_in_memory_build_queue";

/// The queue that a number is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    instance_name_prefix: String,
    platform: String,
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
            instance_name_prefix: prefix.to_string(),
            platform: platform.to_string(),
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

/// From a millisecond to more than an hour, as Buildbarn's.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 23))
}

fn attempts() -> Histogram {
    Histogram::new((0..8).map(f64::from))
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
    retried: Family<Of, Counter>,
    workers_created: Family<Of, Counter>,
    workers_removed: Family<Removed, Counter>,
}

impl Default for QueueMetrics {
    fn default() -> Self {
        Self {
            deduplications: Family::default(),
            scheduled: Family::default(),
            queued: Family::new_with_constructor(durations),
            executing: Family::new_with_constructor(durations),
            retries: Family::new_with_constructor(attempts),
            retried: Family::default(),
            workers_created: Family::default(),
            workers_removed: Family::default(),
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
    pub fn count(&self, event: &Event) {
        let of = Of::queue(&event.queue);
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

/// How the queues stand when somebody asks: what operators see, as numbers.
pub struct Standing(pub Arc<Dispatcher>);

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Standing")
    }
}

/// One gauge, for several queues.
struct Gauges<'a>(&'a [(Of, f64)]);

impl EncodeMetric for Gauges<'_> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (of, value) in self.0 {
            ConstGauge::<f64>::new(*value).encode(encoder.encode_family(of)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

impl Collector for Standing {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (queues, ages) = self
            .0
            .operate(|queue, now| (queue.list_platform_queues(now), queue.oldest_queued(now)));
        let ages: Vec<_> = ages
            .iter()
            .map(|(name, age)| (Of::queue(name), age.as_secs_f64()))
            .collect();
        let of = |number: fn(&State) -> u32| numbers(&queues, number);
        for (name, help, values) in [
            (
                "hayloft_scheduler_tasks_queued",
                "Tasks that wait for a worker",
                of(|state| {
                    state
                        .queued_operations_count
                        .map_or(0, |count| count.indirect)
                }),
            ),
            (
                "hayloft_scheduler_workers_executing",
                "Workers that have a task",
                of(|state| state.executing_workers_count),
            ),
            (
                "hayloft_scheduler_workers_idle",
                "Workers that have none",
                of(|state| state.idle_workers_count),
            ),
            (
                "hayloft_scheduler_invocations_active",
                "Outermost invocations that have operations queued or executing",
                of(|state| state.active_children_count),
            ),
            (
                "hayloft_scheduler_queue_age_seconds",
                "How long the operation that has waited longest does",
                ages,
            ),
        ] {
            let gauges = Gauges(&values);
            let kind = gauges.metric_type();
            gauges.encode(encoder.encode_descriptor(name, help, None, kind)?)?;
        }
        Ok(())
    }
}

type State = proto::wire::buildqueuestate::InvocationState;

fn numbers(queues: &[PlatformQueueState], number: fn(&State) -> u32) -> Vec<(Of, f64)> {
    let mut numbers = Vec::new();
    for queue in queues {
        let Some(name) = &queue.name else { continue };
        let Ok(prefix) = InstanceName::new(&name.instance_name_prefix) else {
            continue;
        };
        let Ok(platform) = PlatformKey::from_wire(name.platform.as_ref()) else {
            continue;
        };
        for class in &queue.size_class_queues {
            if let Some(root) = &class.root_invocation {
                let of = Of::new(&prefix, &platform, class.size_class);
                numbers.push((of, f64::from(number(root))));
            }
        }
    }
    numbers
}
