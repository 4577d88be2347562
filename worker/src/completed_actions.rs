//! Telling a service of each completed action, as it completes
//! (`buildbarn.completedactionlogger`).
//!
//! An action is *queued* when it completes, or discarded if too many are; *sent*
//! when there is a stream to the service; and forgotten when the service has
//! acknowledged it, which it does in order. When the stream breaks, everything
//! that is not acknowledged is sent again: the service tells repetitions by their
//! UUID.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use daemon::metrics::{Counter, Family};
use daemon::{Channel, Metrics, Upstream};
use prometheus_client::encoding::EncodeLabelSet;
use proto::InstanceName;
use proto::wire::cas::HistoricalExecuteResponse;
use proto::wire::completedactionlogger::CompletedAction;
use proto::wire::completedactionlogger::completed_action_logger_client::CompletedActionLoggerClient;
use proto::wire::rev2::ExecuteResponse;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};
use tonic::Status;

use crate::Error;
use crate::action::Task;
use crate::memory::lock;

/// The longest pause before another attempt to reach the service.
const RETRY: Duration = Duration::from_secs(5);
/// How long a stopping worker waits for the last acknowledgements.
const LAST: Duration = Duration::from_secs(5);

/// One service to tell.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LoggerConfig {
    /// Where it is.
    pub client: Upstream,
    /// How many completed actions wait for it at most; further ones are
    /// discarded. 1,000.
    #[serde(default = "default_queue")]
    pub maximum_send_queue_size: usize,
    /// Goes before the instance names it is told.
    #[serde(default)]
    pub add_instance_name_prefix: String,
}

fn default_queue() -> usize {
    1000
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Logged {
    result: &'static str,
}

/// What all loggers count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct LoggerMetrics {
    logged: Family<Logged, Counter>,
    sent: Counter,
    acknowledged: Counter,
}

impl LoggerMetrics {
    /// Registers all of it, under Buildbarn's names.
    pub(crate) fn register(&self, metrics: &Metrics) {
        let prefix = "buildbarn_builder_completed_action_logger_completed_actions";
        metrics.register(
            &format!("{prefix}_logged"),
            "Completed actions that were queued to be sent, or discarded",
            self.logged.clone(),
        );
        metrics.register(
            &format!("{prefix}_sent"),
            "Completed actions that were sent",
            self.sent.clone(),
        );
        metrics.register(
            &format!("{prefix}_acknowledged"),
            "Completed actions that the service acknowledged",
            self.acknowledged.clone(),
        );
    }
}

/// The way to one service.
pub(crate) struct Logger {
    limit: usize,
    prefix: InstanceName,
    state: Mutex<State>,
    /// Told when something is queued, and when something is acknowledged.
    changed: Notify,
    metrics: LoggerMetrics,
}

#[derive(Default)]
struct State {
    /// Not acknowledged; those that were sent come first.
    queue: VecDeque<CompletedAction>,
    /// How many were sent on the present stream.
    sent: usize,
}

impl Logger {
    /// Begins to tell a service.
    ///
    /// # Errors
    /// The prefix is no instance name, or the address cannot be connected to.
    pub(crate) fn start(
        config: &LoggerConfig,
        metrics: &LoggerMetrics,
    ) -> Result<Arc<Self>, Error> {
        let key = "completed_action_loggers.add_instance_name_prefix";
        let prefix = InstanceName::new(&config.add_instance_name_prefix).map_err(|error| {
            Error::Configuration {
                key,
                reason: error.to_string(),
            }
        })?;
        let channel = config.client.connect()?;
        let logger = Arc::new(Self {
            limit: config.maximum_send_queue_size,
            prefix,
            state: Mutex::default(),
            changed: Notify::new(),
            metrics: metrics.clone(),
        });
        tokio::spawn(Arc::clone(&logger).run(channel));
        Ok(logger)
    }

    /// Queues one action.
    pub(crate) fn log(&self, task: &Task, response: &ExecuteResponse) {
        let action = CompletedAction {
            historical_execute_response: Some(HistoricalExecuteResponse {
                action_digest: Some(task.digest.to_wire()),
                execute_response: Some(response.clone()),
            }),
            uuid: uuid::Uuid::new_v4().to_string(),
            instance_name: self.prefix.join(&task.instance).to_string(),
            digest_function: task.digest.function().to_wire(),
        };
        let mut state = lock(&self.state);
        let room = state.queue.len() < self.limit;
        if room {
            state.queue.push_back(action);
        }
        drop(state);
        let result = if room { "Queued" } else { "Discarded" };
        self.metrics.logged.get_or_create(&Logged { result }).inc();
        self.changed.notify_waiters();
    }

    /// Returns when everything is acknowledged, or it has taken too long.
    pub(crate) async fn drained(&self) {
        let empty = async {
            loop {
                let changed = self.changed.notified();
                let left = lock(&self.state).queue.len();
                if left == 0 {
                    return;
                }
                changed.await;
            }
        };
        if timeout(LAST, empty).await.is_err() {
            let left = lock(&self.state).queue.len();
            tracing::warn!(left, "completed actions were not acknowledged");
        }
    }

    async fn run(self: Arc<Self>, channel: Channel) {
        loop {
            self.something_to_send().await;
            let Err(status) = self.stream(channel.clone()).await;
            lock(&self.state).sent = 0;
            let pause = rand::random_range(Duration::ZERO..RETRY);
            tracing::warn!(code = ?status.code(), message = status.message(), ?pause,
                "completed action logger is away");
            sleep(pause).await;
        }
    }

    /// Sends and hears on one stream until it breaks.
    async fn stream(&self, channel: Channel) -> Result<std::convert::Infallible, Status> {
        let (sender, receiver) = mpsc::channel(1);
        let outgoing = futures::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|action| (action, receiver))
        });
        let mut client = CompletedActionLoggerClient::new(channel);
        // A service may not answer at all before it has received something.
        let hearing = async {
            let mut answers = client.log_completed_actions(outgoing).await?.into_inner();
            while let Some(()) = answers.message().await? {
                self.acknowledged()?;
            }
            Err(Status::unavailable("the service ended the stream"))
        };
        tokio::select! {
            ended = hearing => ended,
            () = self.feed(sender) => Err(Status::unavailable("the stream broke")),
        }
    }

    async fn feed(&self, sender: mpsc::Sender<CompletedAction>) {
        loop {
            let next = self.something_to_send().await;
            if sender.send(next).await.is_err() {
                // The other half says why.
                return std::future::pending().await;
            }
            lock(&self.state).sent += 1;
            self.metrics.sent.inc();
        }
    }

    /// The first action that was not sent, once there is one.
    async fn something_to_send(&self) -> CompletedAction {
        loop {
            let changed = self.changed.notified();
            {
                let state = lock(&self.state);
                if let Some(next) = state.queue.get(state.sent) {
                    return next.clone();
                }
            }
            changed.await;
        }
    }

    fn acknowledged(&self) -> Result<(), Status> {
        let mut state = lock(&self.state);
        state.sent = state
            .sent
            .checked_sub(1)
            .ok_or_else(|| Status::internal("more was acknowledged than was sent"))?;
        state.queue.pop_front();
        drop(state);
        self.metrics.acknowledged.inc();
        self.changed.notify_waiters();
        Ok(())
    }
}
