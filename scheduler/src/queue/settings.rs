//! The numbers the rules go by.

use std::time::Duration;

use super::adopt::After;
use super::limits::Limits;
use super::matching::Ignored;
use super::timeout::Timeouts;

/// The shortest time between two reports of an executing worker.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(500);
/// Each worker adds this to the time between two reports of one: all together
/// report no more than 500 times a second.
const SHARE: Duration = Duration::from_millis(2);

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
    /// How long an executing worker may take to report at most; see
    /// [`Self::report_interval`].
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
    /// What there is to wait for after an unclean end. None: this is a first start,
    /// or nothing was executing.
    pub recovery: Option<After>,
    /// How often a task is sent to one worker that keeps forgetting it.
    pub maximum_sends: u32,
}

impl Settings {
    /// How long an executing worker takes to its next report, where there are so
    /// many workers. That its task is cancelled or killed is something that a
    /// worker hears with the answer to its report, for it takes one call of the
    /// scheduler's at a time (buildbarn.remoteworker); and so the time is as short
    /// as the scheduler can bear.
    pub(super) fn report_interval(&self, workers: usize) -> Duration {
        let workers = u32::try_from(workers).unwrap_or(u32::MAX);
        let shared = SHARE.saturating_mul(workers);
        shared.max(SHORTEST_INTERVAL).min(self.busy_interval)
    }
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
            recovery: None,
            maximum_sends: 10,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_workers_report_often_and_many_no_more_than_500_times_a_second() {
        let settings = Settings::default();
        let interval = |workers| settings.report_interval(workers).as_millis();
        assert_eq!(interval(0), 500);
        assert_eq!(interval(250), 500);
        assert_eq!(interval(1_000), 2_000);
        assert_eq!(interval(5_000), 10_000);
        assert_eq!(interval(usize::MAX), 10_000);
    }
}
