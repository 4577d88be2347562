//! How the queue stands, in the messages of Buildbarn's BuildQueueState.

use proto::messages::{duration, timestamp, unpack};
use proto::wire::buildqueuestate::{
    self as wire, InvocationName, InvocationState, OperationState, PlatformQueueName,
    SizeClassQueueName, SizeClassQueueState, WorkerState, invocation_state::InvocationObjectCount,
    operation_state,
};
use proto::wire::rev2::RequestMetadata;
use uuid::Uuid;

use super::brief::Brief;
use super::drain::Drains;
use super::invocation::{InvocationId, InvocationKey, Invocations, ROOT};
use super::operation::{Operation, State};
use super::platform_queue::{PlatformQueue, QueueName};
use super::queue::Queue;
use super::task::{Job, Progress};
use super::time::Now;
use super::worker::Worker;

/// Counts travel as 32 bits.
pub(super) fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

impl Queue {
    /// How an operation stands.
    pub(super) fn operation_state(
        &self,
        now: Now,
        name: Uuid,
        operation: &Operation,
    ) -> OperationState {
        let (stage, expected) = match &operation.state {
            State::Done(ended) => (
                Some(operation_state::Stage::Completed((*ended.response).clone())),
                None,
            ),
            State::Attached(id) => match self.tasks.get(id) {
                None => (None, None),
                Some(task) => (
                    match task.progress {
                        // Buildbarn looks up nothing, and has no stage for it.
                        Progress::CacheCheck => None,
                        Progress::Queued => Some(operation_state::Stage::Queued(())),
                        Progress::Executing(_) => Some(operation_state::Stage::Executing(())),
                    },
                    Some(duration(task.expected.0)),
                ),
            },
        };
        let job = &operation.job;
        OperationState {
            name: name.to_string(),
            invocation_name: Some(invocation_name(&operation.queue, &operation.lineage)),
            queued_timestamp: Some(timestamp(operation.queued)),
            action_digest: Some(job.digest.to_wire()),
            timeout: operation.expires.map(|at| timestamp(now.wall_at(at))),
            target_id: target(job),
            priority: operation.priority,
            instance_name_suffix: job.instance_suffix.to_string(),
            expected_duration: expected,
            digest_function: job.digest.function().to_wire(),
            stage,
        }
    }

    /// How a worker stands. What it executes is shown as the first of the
    /// operations that want it.
    pub(super) fn worker_state(&self, now: Now, worker: &Worker) -> WorkerState {
        let task = worker
            .task
            .and_then(|assigned| self.tasks.get(&assigned.task));
        let name = task.and_then(|task| task.operations.first());
        let operation = name.and_then(|name| Some((*name, self.operations.get(name)?)));
        WorkerState {
            id: worker
                .id
                .0
                .iter()
                .map(|(n, v)| (n.clone(), v.clone()))
                .collect(),
            timeout: worker.expires.map(|at| timestamp(now.wall_at(at))),
            current_operation: operation.map(|(name, it)| self.operation_state(now, name, it)),
            drained: worker.is_drained(),
        }
    }
}

impl PlatformQueue {
    pub(super) fn state(&self, now: Now) -> SizeClassQueueState {
        SizeClassQueueState {
            size_class: self.name.size_class,
            timeout: self.expires.map(|at| timestamp(now.wall_at(at))),
            workers_count: count(self.workers.len()),
            drains_count: count(self.drains.0.len()),
            root_invocation: Some(self.invocations.state(ROOT)),
        }
    }
}

impl Invocations {
    pub(super) fn state(&self, id: InvocationId) -> InvocationState {
        let node = self.get(id);
        let children = || node.children.values().map(|child| self.get(*child));
        InvocationState {
            queued_operations_count: Some(InvocationObjectCount {
                direct: count(node.order.len()),
                indirect: count(node.queued_below),
            }),
            executing_workers_count: node.executing,
            idle_workers_count: node.idle.workers,
            idle_synchronizing_workers_count: node.idle.waiting,
            children_count: count(node.children.len()),
            active_children_count: count(children().filter(|node| node.is_active()).count()),
            queued_children_count: count(children().filter(|node| node.has_queued()).count()),
        }
    }
}

impl Drains {
    pub(super) fn state(&self) -> Vec<wire::DrainState> {
        let drains = self.0.iter().map(|(pattern, created)| wire::DrainState {
            worker_id_pattern: pattern
                .iter()
                .map(|(n, v)| (n.clone(), v.clone()))
                .collect(),
            created_timestamp: Some(timestamp(*created)),
        });
        drains.collect()
    }
}

/// The message of a platform queue's name.
pub(super) fn platform_queue_name(name: &QueueName) -> PlatformQueueName {
    PlatformQueueName {
        instance_name_prefix: name.prefix.to_string(),
        platform: Some(name.platform.to_wire()),
    }
}

fn invocation_name(queue: &QueueName, lineage: &[InvocationKey]) -> InvocationName {
    InvocationName {
        size_class_queue_name: Some(SizeClassQueueName {
            platform_queue_name: Some(platform_queue_name(queue)),
            size_class: queue.size_class,
        }),
        ids: lineage.iter().map(Into::into).collect(),
    }
}

/// What the client calls that which it builds.
fn target(job: &Job) -> String {
    let name = "build.bazel.remote.execution.v2.RequestMetadata";
    let told = job.brief.as_ref().map(Brief::open).unwrap_or_default();
    let mut all = told.auxiliary_metadata.iter();
    let metadata = all.find_map(|any| unpack::<RequestMetadata>(any, name));
    metadata
        .map(|metadata| metadata.target_id)
        .unwrap_or_default()
}
