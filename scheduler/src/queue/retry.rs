//! What becomes of a task whose worker was lost.

use super::worker::WorkerId;

/// The workers that a task was handed to and that then went silent or forgot it.
///
/// The task is queued again, at its old place, and so runs on the next worker
/// that is free. After [`Losses::limit`] runs it is given up: more likely than
/// not the action takes its workers down.
#[derive(Debug, Default)]
pub(super) struct Losses(Vec<WorkerId>);

/// Whether to try again.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Queue the task again.
    Retry,
    /// Complete it, as UNAVAILABLE, with this message.
    GiveUp(String),
}

impl Losses {
    /// Notes one more loss; `limit` is how often a task may be run in all.
    pub(super) fn add(&mut self, worker: WorkerId, limit: usize) -> Verdict {
        self.0.push(worker);
        if self.0.len() < limit {
            return Verdict::Retry;
        }
        let workers: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        Verdict::GiveUp(format!(
            "action was given up after {} attempts, as these workers disappeared while executing it: {}",
            self.0.len(),
            workers.join(", ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(name: &str) -> WorkerId {
        WorkerId::from_iter([("host".to_string(), name.to_string())])
    }

    #[test]
    fn the_third_loss_is_final_and_names_all_workers() {
        let mut losses = Losses::default();
        assert_eq!(losses.add(worker("a"), 3), Verdict::Retry);
        assert_eq!(losses.add(worker("b"), 3), Verdict::Retry);
        let Verdict::GiveUp(message) = losses.add(worker("a"), 3) else {
            panic!("retried a third time");
        };
        assert!(
            message.ends_with("{host=a}, {host=b}, {host=a}"),
            "{message}"
        );
    }
}
