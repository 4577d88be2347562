//! The numbers the rules go by.

use std::time::Duration;

use super::limits::Limits;
use super::matching::Ignored;
use super::timeout::Timeouts;

/// The numbers a queue goes by. What is not configurable is as in Buildbarn
/// (bb-remote-execution, cmd/bb_scheduler/main.go), so that its workers fit.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Platform properties that do not decide where actions go.
    pub ignored: Ignored,
    /// Bounds on how long actions run.
    pub timeouts: Timeouts,
    /// In which time a waiting operation gains one point of priority. None: it
    /// never does.
    pub aging_interval: Option<Duration>,
    /// What one invocation may have.
    pub limits: Limits,
    /// How long a platform queue outlives its last worker.
    pub no_workers_timeout: Duration,
    /// Whether tasks begin with a look-up in the action cache.
    pub check_action_cache: bool,
    /// How often an executing worker is to report.
    pub busy_interval: Duration,
    /// The longest time a Synchronize of an idle worker is held. It is a random
    /// one, from half of this up, so that workers started together spread out.
    pub idle_poll: Duration,
    /// A worker silent for this long is lost.
    pub worker_expiry: Duration,
    /// An operation is removed when nobody has waited for it this long.
    pub operation_expiry: Duration,
    /// How often a task is started in all, where workers are lost or fail.
    pub maximum_attempts: usize,
    /// Whether a worker that reports INTERNAL counts as one that failed, so that
    /// the task is tried again. Otherwise its report is the outcome.
    pub retry_internal_errors: bool,
    /// How often a task is sent to one worker that keeps forgetting it.
    pub maximum_sends: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ignored: Ignored::default(),
            timeouts: Timeouts {
                default: Duration::from_secs(30 * 60),
                maximum: Duration::from_secs(2 * 60 * 60),
            },
            aging_interval: Some(Duration::from_secs(60)),
            limits: Limits::default(),
            no_workers_timeout: Duration::from_secs(15 * 60),
            check_action_cache: false,
            busy_interval: Duration::from_secs(10),
            idle_poll: Duration::from_secs(120),
            worker_expiry: Duration::from_secs(60),
            operation_expiry: Duration::from_secs(60),
            maximum_attempts: 3,
            retry_internal_errors: true,
            maximum_sends: 10,
        }
    }
}
