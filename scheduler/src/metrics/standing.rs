//! How the queues stand when somebody asks.

use std::fmt;
use std::sync::Arc;

use daemon::metrics::{Collector, ConstGauge};
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use proto::wire::buildqueuestate::PlatformQueueState;
use proto::{InstanceName, PlatformKey};

use super::{BUILDBARN, Level, Of};
use crate::queue::{QueueName, Turnover};
use crate::service::Dispatcher;

/// What operators see, as numbers.
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
        let (queues, ages, spreads, turnovers) = self.0.operate(|queue, now| {
            (
                queue.list_platform_queues(now),
                queue.oldest_queued(now),
                queue.spreads(),
                queue.turnovers(),
            )
        });
        let ages: Vec<_> = ages
            .iter()
            .map(|(name, age)| (Of::queue(name), age.as_secs_f64()))
            .collect();
        let spreads: Vec<_> = spreads
            .iter()
            .map(|(name, spread)| (Of::queue(name), f64::from(*spread)))
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
            (
                "hayloft_scheduler_fairness_spread_workers",
                "By how many workers the outermost invocations differ that have operations queued",
                spreads,
            ),
        ] {
            let gauges = Gauges(&values);
            let kind = gauges.metric_type();
            gauges.encode(encoder.encode_descriptor(name, help, None, kind)?)?;
        }
        count_invocations(&turnovers, &mut encoder)
    }
}

/// How invocations came and went, under Buildbarn's names.
fn count_invocations(
    turnovers: &[(Arc<QueueName>, Vec<Turnover>)],
    encoder: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    type Count = fn(&Turnover) -> u64;
    let counts: [(&str, &str, Count); 4] = [
        ("created", "came to be", |turnover| turnover.created),
        ("activated", "began to have operations", |turnover| {
            turnover.activated
        }),
        ("deactivated", "ceased to have operations", |turnover| {
            turnover.deactivated
        }),
        ("removed", "are no more", |turnover| turnover.removed),
    ];
    for (name, help, count) in counts {
        let levels = turnovers.iter().flat_map(|(queue, levels)| {
            let of = Of::queue(queue);
            levels.iter().enumerate().map(move |(depth, turnover)| {
                let of = of.clone();
                (Level { of, depth }, count(turnover))
            })
        });
        let counters = Counters(levels.collect());
        let name = format!("{BUILDBARN}_invocations_{name}");
        let help = format!("Invocations that {help}, by level of their tree");
        let kind = counters.metric_type();
        counters.encode(encoder.encode_descriptor(&name, &help, None, kind)?)?;
    }
    Ok(())
}

/// One counter, for levels of queues.
struct Counters(Vec<(Level, u64)>);

impl EncodeMetric for Counters {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (level, count) in &self.0 {
            ConstCounter::new(*count).encode(encoder.encode_family(level)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
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
