//! A slot: to the scheduler a worker of its own, executing one action at a time.
//!
//! ```text
//!            ┌──────────────── idle ◄───────────────┐
//!            │ Synchronize blocks until there is work│ nothing to do, or
//!            ▼                                       │ told to be idle
//!        executing ── Synchronize: stages ── completed
//!            ▲                                       │ the same call brings
//!            └───────────────────────────────────────┘ the next action
//! ```
//!
//! The scheduler takes one call of a slot at a time. While an action executes,
//! calls run beside it and never hold it up: what changes while a call is under
//! way is told by the next. Stages that last no longer than [`COALESCE`] are not
//! told at all, so that a short action costs one call. The call that reports a
//! result is repeated until the scheduler has it, or refuses it: then a short
//! response takes its place, once.
//!
//! A slot that is told to stop asks for no more work. What it is told to execute
//! all the same it executes, for the scheduler counts on it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use daemon::Shutdown;
use proto::InstanceName;
use proto::wire::remoteworker::desired_state::Executing;
use proto::wire::rev2::ExecuteResponse;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::{Code, Status};
use tracing::Instrument as _;

use crate::Error;
use crate::action::{Executor, Stage, Task};
use crate::health::OutOfService;
use crate::scheduler::{Desired, Reply, Scheduler, State};
use crate::session::{Session, Sessions};

/// How long a stage must last to be told to the scheduler.
const COALESCE: Duration = Duration::from_millis(100);
/// The pause before the first repetition of a failed call: a scheduler on the
/// same machine that is restarted is back in less.
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// Later pauses are uniform up to this, as Buildbarn's worker does, so that a
/// farm's workers do not come back all at once.
const LATER_RETRY: Duration = Duration::from_secs(5);
/// A call that asks for no work is answered at once.
const ANSWER: Duration = Duration::from_secs(30);
/// How long a call that asks for work may be held. A connection of which nothing
/// is heard any more is noticed by this at the latest.
const LONG_POLL: Duration = Duration::from_secs(300);
/// Between two calls about an action that executes. The scheduler says how long;
/// that an action is no longer wanted is heard at the end of it.
const BUSY_PAUSE: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(250)..=Duration::from_secs(30);
/// How long an action that was handed out waits for a runner that is away: one that is
/// replaced comes back. Schedulers miss a worker of which they hear nothing for a minute.
const RECONNECT: Duration = Duration::from_secs(30);
/// How often an action is given to a runner that refuses to begin with it. One that is
/// stopping closes its connection a moment after the first refusal.
const TRIES: u32 = 5;
/// How long a stopping slot without a result tries to take its leave.
const LEAVE: Duration = Duration::from_secs(2);
/// How long a stopping slot tries to deliver its result: as long as schedulers
/// remember a worker that has gone silent.
const DELIVERY: Duration = Duration::from_secs(60);

/// One slot.
pub(crate) struct Slot {
    pub(crate) scheduler: Scheduler,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) executor: Executor,
    pub(crate) prefix: InstanceName,
    pub(crate) out_of_service: OutOfService,
}

/// Pauses between repetitions of what failed.
#[derive(Default)]
struct BackOff(u32);

impl BackOff {
    fn pause(&mut self) -> Duration {
        self.0 += 1;
        if self.0 == 1 {
            FIRST_RETRY
        } else {
            rand::random_range(Duration::ZERO..LATER_RETRY)
        }
    }
}

impl Slot {
    /// Asks for actions and executes them until told to stop; then finishes the
    /// one it has, delivers its result and leaves.
    pub(crate) async fn run(self, shutdown: Shutdown) {
        let mut state = State::Idle;
        let mut retries = BackOff::default();
        let mut deadline: Option<Instant> = None;
        let mut doubtful = false;
        let mut replaced = false;
        loop {
            let stopping = shutdown.is_cancelled();
            // A result is delivered at once, but with no wish for more work while
            // the runner's health is in doubt.
            let result = matches!(state, State::Completed(..));
            let busy = result && (doubtful || !self.sessions.is_present() || self.room().is_err());
            if !stopping && !result {
                let ready = tokio::select! {
                    ready = self.ready() => ready,
                    () = shutdown.cancelled() => continue,
                };
                match ready {
                    Ok(()) => doubtful = false,
                    Err(error) => {
                        let pause = retries.pause();
                        tracing::warn!(%error, ?pause, "not ready for work");
                        let _ = timeout(pause, shutdown.cancelled()).await;
                        continue;
                    }
                }
            }
            // A call that may bring work is given up when the worker is told to
            // stop, and made again as one that may not.
            let call = self.call(&state, stopping || busy);
            let answer = if stopping {
                call.await
            } else {
                tokio::select! {
                    answer = call => answer,
                    () = shutdown.cancelled() => continue,
                }
            };
            let reply = match answer {
                Ok(reply) => reply,
                Err(status) => {
                    if result && is_refusal(&status) {
                        state = give_way(state, &status, replaced);
                        replaced = true;
                        continue;
                    }
                    if stopping {
                        let patience = if result { DELIVERY } else { LEAVE };
                        let end = *deadline.get_or_insert_with(|| Instant::now() + patience);
                        if Instant::now() >= end || !(result || is_held(&status)) {
                            tracing::warn!(%status, "scheduler is away, leaving without telling");
                            return;
                        }
                    }
                    self.wait(&status, &mut retries, &shutdown).await;
                    continue;
                }
            };
            retries = BackOff::default();
            replaced = false;
            state = State::Idle;
            match reply.desired {
                Desired::Execute(executing) => {
                    (state, doubtful) = self.work(*executing).await;
                    deadline = None;
                }
                _ if stopping => return,
                // The scheduler has the result; asking again is right in any case.
                Desired::Unchanged | Desired::Idle if result => {}
                Desired::Unchanged | Desired::Idle => {
                    let _ = timeout(reply.pause, shutdown.cancelled()).await;
                }
            }
        }
    }

    /// Pauses after a failed call.
    async fn wait(&self, status: &Status, retries: &mut BackOff, shutdown: &Shutdown) {
        let stopping = shutdown.is_cancelled();
        let pause = if stopping && is_held(status) {
            // The scheduler has not yet noticed that the call before this one
            // was given up.
            FIRST_RETRY
        } else {
            retries.pause()
        };
        if !(stopping || retries.0 == 1) {
            tracing::warn!(code = ?status.code(), message = status.message(), ?pause, "scheduler");
        }
        if stopping {
            sleep(pause).await;
        } else {
            let _ = timeout(pause, shutdown.cancelled()).await;
        }
    }

    /// Whether there is room for another action on the disk.
    fn room(&self) -> Result<(), Error> {
        self.executor.services.space.check()
    }

    /// Whether actions can run: asked before each call that asks for work while
    /// there is none, and so after each failure.
    async fn ready(&self) -> Result<(), Error> {
        self.room()?;
        self.out_of_service.check()?;
        let session = self.sessions.get().await?;
        let directory = self.executor.services.builds.check_readiness()?;
        session.runner.check_readiness(directory.path()).await
    }

    /// Executes what the scheduler wants, which may change meanwhile. Returns
    /// what to tell next, and whether the runner must be asked before more.
    async fn work(&self, first: Executing) -> (State, bool) {
        let mut wanted = first;
        loop {
            let digest = wanted.action_digest.clone();
            let task = match Task::new(&self.prefix, wanted, self.scheduler.told.operation()) {
                Ok(task) => task,
                Err(error) => return (refusal(digest, error), false),
            };
            let span = task.subject(&self.executor.worker).span();
            span.in_scope(|| tracing::debug!("executing"));
            let attending = self.attend_until_begun(&task, &digest);
            match attending.instrument(span).await {
                Outcome::Completed(response) => {
                    let code = response.status.as_ref().map_or(0, |status| status.code);
                    let doubtful = [Code::Internal, Code::Unavailable]
                        .iter()
                        .any(|doubt| *doubt as i32 == code);
                    return (State::Completed(digest, response), doubtful);
                }
                Outcome::NotBegun(error) => return (refusal(digest, error), true),
                Outcome::Idle => return (State::Idle, false),
                Outcome::Other(other) => wanted = *other,
            }
        }
    }

    /// [`Self::attend`], again where the runner is about to be replaced by another.
    async fn attend_until_begun(
        &self,
        task: &Task,
        digest: &Option<proto::wire::rev2::Digest>,
    ) -> Outcome {
        let mut tries = 0;
        loop {
            let session = match self.session().await {
                Ok(session) => session,
                Err(error) => return Outcome::NotBegun(error),
            };
            tries += 1;
            match self.attend(task, &session, digest.clone()).await {
                Outcome::NotBegun(error) if tries < TRIES => {
                    tracing::debug!(%error, "trying again");
                    sleep(FIRST_RETRY).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Executes one action while keeping up the conversation about it.
    async fn attend(
        &self,
        task: &Task,
        session: &Session,
        digest: Option<proto::wire::rev2::Digest>,
    ) -> Outcome {
        let (stages, mut stage) = watch::channel(Stage::Started);
        let mut execution = pin!(self.executor.execute(task, session, &stages));
        let mut retries = BackOff::default();
        let mut next = Instant::now() + COALESCE;
        let mut call = None;
        let response = loop {
            let under_way = call.is_some();
            tokio::select! {
                response = &mut execution => break response,
                answer = async { match &mut call {
                    Some(call) => call.await,
                    None => std::future::pending().await,
                } } => {
                    call = None;
                    match self.judge(answer, &mut retries, &digest) {
                        Ok(pause) => next = Instant::now() + pause,
                        // Leaving drops the execution, which kills the command.
                        Err(outcome) => return outcome,
                    }
                }
                _ = stage.changed(), if !under_way => {
                    next = next.min(Instant::now() + COALESCE);
                }
                () = sleep_until(next), if !under_way => {
                    let now = *stage.borrow_and_update();
                    let state = State::Executing(digest.clone(), now);
                    call = Some(Box::pin(self.tell(state)));
                }
            }
        };
        // The scheduler takes one call at a time, and this one's answer may be
        // that the result is not wanted.
        if let Some(call) = call
            && let Err(outcome) = self.judge(call.await, &mut retries, &digest)
        {
            return outcome;
        }
        match response {
            Ok(response) => Outcome::Completed(Box::new(response)),
            Err(error) => Outcome::NotBegun(error),
        }
    }

    async fn tell(&self, state: State) -> Result<Reply, Status> {
        self.call(&state, false).await
    }

    /// One call, for as long as its answer may take.
    async fn call(&self, state: &State, prefer_being_idle: bool) -> Result<Reply, Status> {
        let held = !prefer_being_idle && !matches!(state, State::Executing(..));
        let limit = if held { LONG_POLL } else { ANSWER };
        let call = self.scheduler.synchronize(state, prefer_being_idle);
        match timeout(limit, call).await {
            Ok(answer) => answer,
            // There may just have been no work.
            Err(_) if held && matches!(state, State::Idle) => Ok(Reply {
                pause: Duration::ZERO,
                desired: Desired::Unchanged,
            }),
            Err(_) => Err(Status::unavailable("the scheduler does not answer")),
        }
    }

    /// The session for an action that is handed out. That the runner is gone may
    /// have gone unnoticed, and it may be back in a moment.
    async fn session(&self) -> Result<Arc<Session>, Error> {
        let end = Instant::now() + RECONNECT;
        loop {
            match self.sessions.get().await {
                Err(error) if Instant::now() < end => {
                    tracing::debug!(%error, "waiting for the runner");
                    sleep(FIRST_RETRY).await;
                }
                other => return other,
            }
        }
    }

    /// How long until the next call, or what ends this execution.
    fn judge(
        &self,
        answer: Result<Reply, Status>,
        retries: &mut BackOff,
        digest: &Option<proto::wire::rev2::Digest>,
    ) -> Result<Duration, Outcome> {
        let reply = match answer {
            Ok(reply) => reply,
            Err(status) => {
                tracing::debug!(%status, "scheduler is away, the action goes on");
                return Ok(retries.pause());
            }
        };
        *retries = BackOff::default();
        let pause = reply.pause.clamp(*BUSY_PAUSE.start(), *BUSY_PAUSE.end());
        match reply.desired {
            Desired::Unchanged => Ok(pause),
            Desired::Execute(other) if other.action_digest == *digest => Ok(pause),
            Desired::Execute(other) => Err(Outcome::Other(other)),
            Desired::Idle => Err(Outcome::Idle),
        }
    }
}

/// How attending to one action ended.
enum Outcome {
    Completed(Box<ExecuteResponse>),
    /// Nothing of it was done, for want of a runner.
    NotBegun(Error),
    /// The scheduler no longer wants it.
    Idle,
    /// The scheduler wants another one instead.
    Other(Box<Executing>),
}

/// Whether the scheduler is still holding a call of this slot that was given up:
/// our scheduler's answer to another one, until it notices.
fn is_held(status: &Status) -> bool {
    status.code() == Code::ResourceExhausted && status.message().contains("is being held already")
}

/// Whether the scheduler, rather than the way to it, turns a result down, so that
/// it would do so for ever: it is too large, say.
fn is_refusal(status: &Status) -> bool {
    let passing = [Code::Unavailable, Code::Cancelled, Code::DeadlineExceeded];
    // A status with a source was made on this side, of a failed connection.
    let sent = std::error::Error::source(status).is_none();
    sent && !passing.contains(&status.code()) && !is_held(status)
}

/// What to tell instead of a result that is refused: a short one, or nothing
/// where that was refused as well.
fn give_way(state: State, refusal: &Status, replaced: bool) -> State {
    let (code, message) = (refusal.code(), refusal.message());
    let action = match &state {
        State::Completed(Some(digest), _) => digest.hash.as_str(),
        _ => "",
    };
    tracing::error!(
        action,
        ?code,
        message,
        replaced,
        "scheduler refuses a result"
    );
    let State::Completed(digest, _) = state else {
        return State::Idle;
    };
    if replaced {
        return State::Idle;
    }
    let status = proto::status::new(
        Code::ResourceExhausted,
        format!("the scheduler does not take the action's result: {code:?}: {message}"),
    );
    let response = ExecuteResponse {
        status: Some(proto::status::to_wire(&status)),
        ..Default::default()
    };
    State::Completed(digest, Box::new(response))
}

/// The response to an action that cannot be begun.
fn refusal(digest: Option<proto::wire::rev2::Digest>, error: Error) -> State {
    let response = ExecuteResponse {
        status: Some(proto::status::to_wire(&error.into())),
        ..Default::default()
    };
    State::Completed(digest, Box::new(response))
}
