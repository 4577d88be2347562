//! The queue and those who wait on it.

use std::collections::HashMap;
use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use daemon::{Metrics, Shutdown};
use proto::wire::rev2::ActionResult;
use proto::wire::scheduler_extension::Waiting;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Notify, oneshot, watch};
use uuid::Uuid;

use crate::error::Error;
use crate::metrics::{QueueMetrics, Standing};
use crate::queue::{
    Desired, Effect, Now, Outcome, Pattern, Queue, Reply, Stage, Submission, Synchronization,
    TaskId, View, What, WorkerKey,
};

/// The queue, shared by all calls.
///
/// One mutex guards it. It is held for the length of one method of the queue and
/// the carrying out of its effects, which only ever puts values into channels,
/// never across a wait. An Execute thereby wakes the one call that its action
/// goes to, and a completion the clients of that operation, and nobody else.
pub struct Dispatcher {
    state: Mutex<State>,
    /// Told when a deadline comes before the one that is slept for.
    sooner: Notify,
    shutdown: Shutdown,
}

struct State {
    queue: Queue,
    operations: HashMap<Uuid, watch::Sender<View>>,
    held: HashMap<WorkerKey, oneshot::Sender<Reply>>,
    sleeping_until: Option<Instant>,
    metrics: QueueMetrics,
    /// Changes whenever a worker that is terminating has no task any more.
    freed: watch::Sender<()>,
    /// See [`Dispatcher::executed`].
    executed: u64,
}

impl State {
    fn carry_out_effects(&mut self) {
        for effect in self.queue.take_effects() {
            match effect {
                Effect::Updated(name, view) => {
                    if let Some(operation) = self.operations.get(&name) {
                        operation.send_replace(view);
                    }
                }
                Effect::Happened(event) => {
                    self.executed += u64::from(matches!(event.what, What::Executed { .. }));
                    self.metrics.count(&event);
                }
                Effect::Freed => {
                    self.freed.send_replace(());
                }
                Effect::Removed(name) => {
                    self.operations.remove(&name);
                }
                Effect::Answer(worker, reply) => {
                    if let Some(call) = self.held.remove(&worker) {
                        // Where the call is gone, its guard finds the answer
                        // undelivered and gives the task back.
                        let _ = call.send(reply);
                    }
                }
            }
        }
    }
}

impl Dispatcher {
    /// Wraps a queue. Its deadlines pass only while [`Dispatcher::drive`] runs.
    #[must_use]
    pub fn new(queue: Queue, shutdown: Shutdown) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                queue,
                operations: HashMap::new(),
                held: HashMap::new(),
                sleeping_until: None,
                metrics: QueueMetrics::default(),
                freed: watch::Sender::new(()),
                executed: 0,
            }),
            sooner: Notify::new(),
            shutdown,
        })
    }

    /// Makes what happens in the queue, and how it stands, readable as metrics.
    pub fn register(self: &Arc<Self>, metrics: &Metrics) {
        self.with(|state, _| state.metrics.register(metrics));
        metrics.collect(Standing(self.clone()));
    }

    /// Lets deadlines pass until told to stop, then answers all held calls.
    pub async fn drive(&self) {
        loop {
            let next = self.with(|state, now| {
                state.queue.advance(now);
                state.sleeping_until = state.queue.next_timer();
                state.sleeping_until
            });
            let deadline = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = deadline => {}
                () = self.sooner.notified() => {}
                () = self.shutdown.cancelled() => break,
            }
        }
        self.with(|state, now| state.queue.release_all(now));
    }

    /// Takes an action in. The task, if given, is to be looked up in the action
    /// cache: see [`Dispatcher::cache_checked`].
    ///
    /// # Errors
    /// As [`Queue::submit`], and [`Error::ShuttingDown`].
    pub fn submit(
        self: &Arc<Self>,
        submission: Submission,
    ) -> Result<(Updates, Option<TaskId>), Error> {
        let (name, views, look_up) = self.with(|state, now| {
            if self.shutdown.is_cancelled() {
                return Err(Error::ShuttingDown);
            }
            let submitted = state.queue.submit(now, submission)?;
            let name = submitted.operation;
            // What was to be told until now is in the first view.
            state.carry_out_effects();
            let view = state.queue.view(name);
            let view = view.ok_or_else(|| Error::UnknownOperation(name.to_string()))?;
            let (sender, views) = watch::channel(view);
            state.operations.insert(name, sender);
            Ok((name, views, submitted.look_up))
        })?;
        let updates = Updates {
            name,
            views,
            dispatcher: self.clone(),
        };
        Ok((updates, look_up))
    }

    /// How many executions have ended, well or not: as long as it stays, the action
    /// cache has nothing new.
    pub fn executed(&self) -> u64 {
        self.with(|state, _| state.executed)
    }

    /// Passes on the answer of the action cache.
    pub fn cache_checked(&self, task: TaskId, result: Option<ActionResult>) {
        self.with(|state, now| state.queue.cache_checked(now, task, result));
    }

    /// Waits for an operation that exists.
    ///
    /// # Errors
    /// [`Error::UnknownOperation`].
    pub fn join(self: &Arc<Self>, name: Uuid) -> Result<Updates, Error> {
        let views = self.with(|state, now| {
            let view = state.queue.join(now, name)?;
            // An adopted one nobody has waited for here yet.
            let operation = state.operations.entry(name);
            let operation = operation.or_insert_with(|| watch::Sender::new(view));
            Some(operation.subscribe())
        });
        let views = views.ok_or_else(|| Error::UnknownOperation(name.to_string()))?;
        Ok(Updates {
            name,
            views,
            dispatcher: self.clone(),
        })
    }

    /// What there is to tell about an operation.
    ///
    /// # Errors
    /// [`Error::UnknownOperation`].
    pub fn view(&self, name: Uuid) -> Result<View, Error> {
        self.with(|state, now| {
            state.queue.advance(now);
            state.queue.view(name)
        })
        .ok_or_else(|| Error::UnknownOperation(name.to_string()))
    }

    /// Why an operation waits, if its view says so and it still does. Others are
    /// not asked after, so that what is handed out at once is not held up.
    #[must_use]
    pub fn waiting(&self, name: Uuid, view: &View) -> Option<Waiting> {
        if view.stage != Stage::Queued {
            return None;
        }
        self.with(|state, _| state.queue.waiting(name))
    }

    /// Cancels an operation.
    ///
    /// # Errors
    /// [`Error::UnknownOperation`].
    pub fn cancel(&self, name: Uuid) -> Result<(), Error> {
        self.with(|state, now| state.queue.cancel(now, name))
    }

    /// A worker's call. Returns when there is an answer; a caller that goes away
    /// drops the future.
    ///
    /// # Errors
    /// As [`Queue::synchronize`], and [`Error::ShuttingDown`].
    pub async fn synchronize(&self, call: Synchronization) -> Result<Reply, Error> {
        let mut held = {
            let outcome = self.with(|state, now| {
                if self.shutdown.is_cancelled() {
                    return Err(Error::ShuttingDown);
                }
                Ok(match state.queue.synchronize(now, call)? {
                    Outcome::Reply(reply) => Ok(reply),
                    Outcome::Hold(worker) => {
                        let (sender, answer) = oneshot::channel();
                        state.held.insert(worker, sender);
                        Err((worker, answer))
                    }
                })
            })?;
            match outcome {
                Ok(reply) => return Ok(reply),
                Err((worker, answer)) => Held {
                    dispatcher: self,
                    worker,
                    answer,
                },
            }
        };
        // The sender goes away unused only with the dispatcher itself.
        (&mut held.answer).await.map_err(|_| Error::ShuttingDown)
    }

    /// What an operator asks or does.
    pub fn operate<T>(&self, act: impl FnOnce(&mut Queue, Now) -> T) -> T {
        self.with(|state, now| act(&mut state.queue, now))
    }

    /// Has workers terminate, and returns when none of them has a task any more.
    ///
    /// # Errors
    /// [`Error::ShuttingDown`].
    pub async fn terminate_workers(&self, pattern: &Pattern) -> Result<(), Error> {
        let (busy, mut freed) = self.with(|state, now| {
            let busy = state.queue.terminate(now, pattern);
            (busy, state.freed.subscribe())
        });
        while !self.with(|state, _| state.queue.are_free(&busy)) {
            tokio::select! {
                _ = freed.changed() => {}
                () = self.shutdown.cancelled() => return Err(Error::ShuttingDown),
            }
        }
        Ok(())
    }

    /// Whether any worker has a task.
    #[must_use]
    pub fn is_executing(&self) -> bool {
        self.with(|state, _| state.queue.is_executing())
    }

    /// How many workers' calls are being held.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.with(|state, _| state.held.len())
    }

    /// Whether there is no operation.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.with(|state, _| state.operations.is_empty())
    }

    fn with<T>(&self, act: impl FnOnce(&mut State, Now) -> T) -> T {
        // Nothing panics while it holds the lock; were it to happen, the queue
        // would still be whole enough to go on with.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Now {
            instant: tokio::time::Instant::now().into_std(),
            wall: SystemTime::now(),
        };
        // What is due is done first: an answer that a worker's last call was due
        // must not go to the one that is about to take its place.
        state.queue.advance(now);
        state.carry_out_effects();
        let result = act(&mut state, now);
        state.carry_out_effects();
        let next = state.queue.next_timer();
        let sooner = match (next, state.sleeping_until) {
            (Some(next), Some(until)) => next < until,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if sooner {
            state.sleeping_until = next;
        }
        drop(state);
        if sooner {
            self.sooner.notify_one();
        }
        result
    }
}

/// What happens to one operation, for one client that waits for it. Dropped, the
/// client waits no more.
pub struct Updates {
    /// The operation.
    pub name: Uuid,
    /// How it stands. Stages that pass quickly may be skipped.
    pub views: watch::Receiver<View>,
    dispatcher: Arc<Dispatcher>,
}

impl Updates {
    /// See [`Dispatcher::waiting`].
    #[must_use]
    pub fn waiting(&self, view: &View) -> Option<Waiting> {
        self.dispatcher.waiting(self.name, view)
    }

    /// What tells the scheduler to stop.
    #[must_use]
    pub fn shutdown(&self) -> &Shutdown {
        &self.dispatcher.shutdown
    }
}

impl Drop for Updates {
    fn drop(&mut self) {
        let name = self.name;
        self.dispatcher
            .with(|state, now| state.queue.leave(now, name));
    }
}

/// A worker's call that is being held.
struct Held<'a> {
    dispatcher: &'a Dispatcher,
    worker: WorkerKey,
    answer: oneshot::Receiver<Reply>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let (answer, worker) = (&mut self.answer, self.worker);
        // On the ordinary way the answer has been taken, and nothing is left to do.
        if answer.is_terminated() {
            return;
        }
        // Answers are given under the lock, so what is seen here is final.
        self.dispatcher.with(|state, now| match answer.try_recv() {
            Err(TryRecvError::Empty) => {
                state.held.remove(&worker);
                state.queue.abandon(now, worker);
            }
            Ok(Reply {
                desired: Desired::Execute(job),
                ..
            }) => state.queue.undelivered(now, worker, &job),
            Ok(_) | Err(TryRecvError::Closed) => {}
        });
    }
}
