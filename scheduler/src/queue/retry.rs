//! What becomes of a task that a worker could not bring to an end.

use super::worker::WorkerId;

/// The attempts at a task that came to nothing: the worker went silent or forgot
/// it, or said that it failed itself (INTERNAL).
///
/// The task is queued again, at its old place, and so runs on the next worker
/// that is free. After so many attempts in all it is given up: more likely than
/// not the action takes its workers down.
#[derive(Debug, Default)]
pub(super) struct Attempts(Vec<(WorkerId, Ended)>);

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The worker disappeared.
    Lost,
    /// The worker reported INTERNAL.
    Failed,
}

/// Whether to try again.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Queue the task again.
    Retry,
    /// Complete it; this says why.
    GiveUp(String),
}

impl Attempts {
    /// How many there were.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    /// Notes one more attempt; `limit` is how many there may be in all.
    pub(super) fn add(&mut self, worker: WorkerId, ended: Ended, limit: usize) -> Verdict {
        self.0.push((worker, ended));
        if self.0.len() < limit {
            return Verdict::Retry;
        }
        let mut message = format!("action was given up after {} attempts", self.0.len());
        for (ended, what) in [
            (Ended::Lost, "disappeared while executing it"),
            (Ended::Failed, "failed"),
        ] {
            let attempts = self.0.iter().filter(|(_, how)| *how == ended);
            let workers: Vec<_> = attempts.map(|(worker, _)| worker.to_string()).collect();
            if !workers.is_empty() {
                message.push_str(&format!("; workers that {what}: {}", workers.join(", ")));
            }
        }
        Verdict::GiveUp(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(name: &str) -> WorkerId {
        WorkerId::from_iter([("host".to_string(), name.to_string())])
    }

    #[test]
    fn the_last_attempt_is_final_and_all_workers_are_named() {
        let mut attempts = Attempts::default();
        for (name, ended) in [("a", Ended::Lost), ("b", Ended::Failed)] {
            assert_eq!(attempts.add(worker(name), ended, 3), Verdict::Retry);
        }
        let Verdict::GiveUp(message) = attempts.add(worker("a"), Ended::Lost, 3) else {
            panic!("retried a third time");
        };
        assert_eq!(
            message,
            "action was given up after 3 attempts; \
             workers that disappeared while executing it: {host=a}, {host=a}; \
             workers that failed: {host=b}"
        );
    }
}
