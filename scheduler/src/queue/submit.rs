//! The clients' side: taking actions in, and what clients may do to operations.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use proto::wire::remoteworker::desired_state::Executing;
use proto::wire::{protobuf, rev2};
use proto::{Digest, InstanceName, PlatformKey, messages};
use smallvec::{SmallVec, smallvec};
use tonic::Code;
use uuid::Uuid;

use super::aging::Level;
use super::brief::Brief;
use super::event::{Flight, What};
use super::invocation::{InvocationId, InvocationKey};
use super::log::{about, line};
use super::operation::{Ended, Operation, Stage, State, View};
use super::queue::{Queue, failure};
use super::retry::Attempts;
use super::size_class;
use super::task::{Job, Progress, SHARED, Task, TaskId};
use super::time::{Now, Timer};
use super::timeout::Timeouts;
use crate::error::Error;

/// What a client wants executed.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The instance name, in full.
    pub instance: InstanceName,
    /// The action's digest.
    pub digest: Digest,
    /// The action, as stored.
    pub action: rev2::Action,
    /// Its platform, wherever that was found.
    pub platform: PlatformKey,
    /// REv2 ExecutionPolicy: lower is more urgent.
    pub priority: i32,
    /// Whose it is: from the outermost invocation, such as a user, to the
    /// innermost, such as one run of Bazel.
    pub invocation: Vec<InvocationKey>,
    /// The client wants it executed even if there is a result.
    pub skip_cache_lookup: bool,
    /// Bounds on how long it may run; none: those of the settings.
    pub timeouts: Option<Timeouts>,
    /// To be passed on to the worker.
    pub metadata: Vec<protobuf::Any>,
    /// To be passed on to the worker.
    pub trace: HashMap<String, String>,
}

/// What became of a [`Submission`].
#[derive(Clone, Copy, Debug)]
pub struct Submitted {
    /// The operation's name. One client waits for it: see [`Queue::leave`].
    pub operation: Uuid,
    /// The action cache is to be asked on behalf of this task, and the answer
    /// given to [`Queue::cache_checked`].
    pub look_up: Option<TaskId>,
}

impl Queue {
    /// Takes an action in: joins the same action in flight, or makes a task.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::NoWorkers`], [`Error::TooManyQueued`].
    pub fn submit(&mut self, now: Now, submission: Submission) -> Result<Submitted, Error> {
        self.advance(now);
        let mut action = submission.action;
        let bounds = submission.timeouts.unwrap_or(self.settings.timeouts);
        let timeout = bounds.of(action.timeout.as_ref())?;
        action.timeout = Some(messages::duration(timeout));
        let key = self.settings.ignored.key(&submission.platform);
        let found = self.platforms.find(&submission.instance, &key);
        let Some((platform, queue)) = found.and_then(|id| Some((id, self.platforms.get(id)?)))
        else {
            return Err(Error::NoWorkers {
                platform: key.to_string(),
                instance: submission.instance.to_string(),
                nearest: self.platforms.nearest(&submission.instance, &key),
                just_started: now.instant < self.started + self.settings.no_workers_timeout,
            });
        };
        let queue_name = queue.name.clone();
        let suffix = submission.instance.strip_prefix(&queue_name.prefix);
        let job = Job {
            instance_suffix: suffix.unwrap_or_else(InstanceName::empty),
            instance: submission.instance,
            digest: submission.digest,
            do_not_cache: action.do_not_cache,
            brief: None,
            queued: now.wall,
        };
        let brief = || {
            Brief::new(&Executing {
                action: Some(action),
                auxiliary_metadata: submission.metadata,
                w3c_trace_context: submission.trace,
                ..Executing::default()
            })
        };
        let name = uuid::Builder::from_random_bytes((self.random)().to_ne_bytes()).into_uuid();
        let interval = self.settings.aging_interval;
        let level = Level::new(submission.priority, interval, self.started, now.instant);
        // Operations of one invocation share the memory of its name.
        let tree = &queue.invocations;
        let (tenant, known) = tree.find_ends(&submission.invocation);
        let node = |id: Option<InvocationId>| id.map(|id| tree.get(id));
        let admitted = self.settings.limits.admit(node(tenant), node(known));
        let shared = node(known).and_then(|node| node.lineage.clone());
        let lineage = shared.unwrap_or_else(|| submission.invocation.into());
        let operation = |task, job, queue| Operation {
            job,
            queue,
            queued: now.wall,
            priority: submission.priority,
            lineage: lineage.clone(),
            level,
            state: State::Attached(task),
            waiters: 1,
            expires: None,
        };

        if let Some(id) = self.dedup.find(&job)
            && let Some(task) = self.tasks.get_mut(&id)
            && task.operations.len() < SHARED
        {
            let others = task.operations.iter();
            let mut others = others.filter_map(|other| self.operations.get(other));
            let flight = if others.any(|other| other.lineage == lineage) {
                Flight::SameInvocation
            } else {
                Flight::OtherInvocation
            };
            task.operations.push(name);
            if task.job.brief.is_none() {
                task.job = Arc::new(Job {
                    brief: Some(brief()),
                    ..(*task.job).clone()
                });
            }
            let checking = task.progress == Progress::CacheCheck;
            // It may have gone on to a larger size class.
            let platform = task.platform;
            let queue = self.platforms.get(platform).map(|q| q.name.clone());
            let operation = operation(id, task.job.clone(), queue.unwrap_or(queue_name));
            self.operations.insert(name, Box::new(operation));
            self.happened(platform, What::Submitted(flight));
            if tracing::enabled!(tracing::Level::DEBUG) {
                line!(DEBUG, self.subject_of(name), ?flight, "joined");
            }
            self.seat(id, &lineage, level);
            if checking && submission.skip_cache_lookup {
                self.enqueue(now, id);
            }
            // It may have waited only because its other invocations have enough.
            self.match_idle(now, [platform]);
            return Ok(Submitted {
                operation: name,
                look_up: None,
            });
        }

        admitted?;
        let id = TaskId(self.next_id());
        let check =
            self.settings.check_action_cache && !submission.skip_cache_lookup && !job.do_not_cache;
        let job = Arc::new(Job {
            brief: Some(brief()),
            ..job
        });
        self.dedup.insert(&job, id);
        let operation = operation(id, job.clone(), queue_name);
        self.operations.insert(name, Box::new(operation));
        let task = Task {
            job,
            platform,
            seats: SmallVec::new(),
            expected: Reverse(size_class::expected(timeout)),
            progress: Progress::CacheCheck,
            operations: smallvec![name],
            attempts: Attempts::default(),
        };
        self.tasks.insert(id, Box::new(task));
        self.happened(platform, What::Submitted(Flight::New));
        about!(DEBUG, self, id, "submitted");
        match known {
            Some(invocation) => self.seat_in(id, invocation, level),
            None => self.seat(id, &lineage, level),
        }
        if !check {
            self.enqueue_new(now, id);
        }
        Ok(Submitted {
            operation: name,
            look_up: check.then_some(id),
        })
    }

    /// Takes the answer of the action cache for a task. It counts for nothing if
    /// the task has gone on meanwhile.
    pub fn cache_checked(&mut self, now: Now, id: TaskId, result: Option<rev2::ActionResult>) {
        self.advance(now);
        if self.tasks.get(&id).map(|task| task.progress) != Some(Progress::CacheCheck) {
            return;
        }
        match result {
            None => self.enqueue(now, id),
            Some(result) => self.complete(
                now,
                id,
                rev2::ExecuteResponse {
                    result: Some(result),
                    cached_result: true,
                    ..Default::default()
                },
            ),
        }
    }

    /// A client begins to wait for an operation; none if there is no such one.
    pub fn join(&mut self, now: Now, name: Uuid) -> Option<View> {
        self.advance(now);
        let expires = self.operations.get_mut(&name)?.join();
        self.timers.clear(expires, Timer::Operation(name));
        self.view(name)
    }

    /// A client stops waiting for an operation.
    pub fn leave(&mut self, now: Now, name: Uuid) {
        self.advance(now);
        let grace = self.settings.operation_expiry;
        if let Some(operation) = self.operations.get_mut(&name)
            && let Some(at) = operation.leave(now.instant, grace)
        {
            self.timers.set(at, Timer::Operation(name));
        }
    }

    /// Cancels an operation: it completes as CANCELLED, and its task ends unless
    /// other operations are attached. One that is done already stays as it is.
    ///
    /// # Errors
    /// [`Error::UnknownOperation`].
    pub fn cancel(&mut self, now: Now, name: Uuid) -> Result<(), Error> {
        self.advance(now);
        let operation = self
            .operations
            .get(&name)
            .ok_or_else(|| Error::UnknownOperation(name.to_string()))?;
        if let State::Attached(task) = operation.state {
            about!(INFO, self, task, cancelled = %name, "a client cancels");
            let Some(operation) = self.operations.get_mut(&name) else {
                return Ok(());
            };
            let response = failure(Code::Cancelled, "operation was cancelled by its client");
            operation.state = State::Done(Arc::new(Ended {
                response: Arc::new(response),
                at: now.instant,
            }));
            let lineage = operation.lineage.clone();
            self.notify(name);
            self.detach(name, task, &lineage);
            self.use_freed(now);
        }
        Ok(())
    }

    /// What there is to tell about an operation; none if there is no such one.
    #[must_use]
    pub fn view(&self, name: Uuid) -> Option<View> {
        let operation = self.operations.get(&name)?;
        let mut view = View {
            stage: Stage::Completed,
            action: operation.job.digest,
            queued: operation.queued,
            worker: None,
            response: None,
        };
        match &operation.state {
            State::Done(ended) => view.response = Some(ended.response.clone()),
            State::Attached(task) => match self.tasks.get(task)?.progress {
                Progress::CacheCheck => view.stage = Stage::CacheCheck,
                Progress::Queued => view.stage = Stage::Queued,
                Progress::Executing(worker) => {
                    view.stage = Stage::Executing;
                    view.worker = self.workers.get(&worker).map(|worker| worker.id.clone());
                }
            },
        }
        Some(view)
    }
}
