//! Why an operation waits.

use std::fmt::Write as _;

use proto::wire::scheduler_extension::Waiting;
use uuid::Uuid;

use super::invocation::ROOT;
use super::operation::State;
use super::queue::Queue;
use super::state::count;
use super::task::Progress;
use super::time::Now;
use crate::error::Error;

/// As far as is counted what goes first: clients are told again and again, and
/// beyond this the number makes no difference to anybody.
pub(super) const COUNTED: usize = 1000;

impl Queue {
    /// Why an operation waits.
    ///
    /// # Errors
    /// [`Error::UnknownOperation`], [`Error::NotWaiting`].
    pub fn explain(&mut self, now: Now, name: Uuid) -> Result<Waiting, Error> {
        self.advance(now);
        if !self.operations.contains_key(&name) {
            return Err(Error::UnknownOperation(name.to_string()));
        }
        self.waiting(name).ok_or(Error::NotWaiting)
    }

    /// The same; none if it does not wait.
    #[must_use]
    pub fn waiting(&self, name: Uuid) -> Option<Waiting> {
        let operation = self.operations.get(&name)?;
        let State::Attached(task) = operation.state else {
            return None;
        };
        let task = self.tasks.get(&task)?;
        if task.progress != Progress::Queued {
            return None;
        }
        let queue = self.platforms.get(task.platform)?;
        let tree = &queue.invocations;
        let invocation = tree.find(&operation.lineage)?;
        let seat = task
            .seats
            .iter()
            .find(|seat| seat.invocation == invocation)?;
        let root = tree.get(ROOT);
        let held = tree.held_by(invocation);
        let mut waiting = Waiting {
            explanation: String::new(),
            operations_ahead: count(tree.get(invocation).order.ahead(seat.place)),
            invocations_ahead: count(tree.ahead(invocation)),
            queued: count(root.order.len() + root.queued_below),
            workers: count(queue.workers.len()),
            executing_workers: root.executing,
            unavailable_workers: root.idle.workers.saturating_sub(root.idle.waiting),
            held_by: if self.recovery.is_on() {
                "the recovery of what workers execute since before the restart".to_string()
            } else {
                held.unwrap_or_default().to_string()
            },
        };
        waiting.explanation = in_words(&waiting);
        Some(waiting)
    }
}

fn in_words(waiting: &Waiting) -> String {
    let number = |count: u32, one: &str, many: &str| {
        let more = if count as usize >= COUNTED {
            " or more"
        } else {
            ""
        };
        let what = if count == 1 { one } else { many };
        format!("{count}{more} {what}")
    };
    let mut text = match waiting.workers {
        0 => "no worker of its platform is there".to_string(),
        1 => "the one worker of its platform".to_string(),
        workers => format!("of {workers} workers of its platform"),
    };
    // Writing to a string cannot fail.
    if waiting.workers == 1 {
        let does = if waiting.executing_workers > 0 {
            " is executing"
        } else if waiting.unavailable_workers > 0 {
            " takes no work"
        } else {
            " is idle"
        };
        text.push_str(does);
    } else if waiting.workers > 1 {
        let (busy, away) = (waiting.executing_workers, waiting.unavailable_workers);
        let _ = write!(text, " {busy} are executing and {away} take no work");
    }
    let actions = number(waiting.operations_ahead, "action", "actions");
    let invocations = number(
        waiting.invocations_ahead,
        "invocation is",
        "invocations are",
    );
    let _ = write!(
        text,
        "; before it: {actions} of its invocation; {invocations} due more; {} queued in all",
        waiting.queued
    );
    if !waiting.held_by.is_empty() {
        let _ = write!(text, "; held by {}", waiting.held_by);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_explanation_names_what_holds_it() {
        let waiting = Waiting {
            operations_ahead: 1,
            invocations_ahead: 1000,
            queued: 12,
            workers: 3,
            executing_workers: 2,
            unavailable_workers: 1,
            held_by: "limit".into(),
            ..Default::default()
        };
        assert_eq!(
            in_words(&waiting),
            "of 3 workers of its platform 2 are executing and 1 take no work; \
             before it: 1 action of its invocation; \
             1000 or more invocations are due more; 12 queued in all; held by limit"
        );
        assert_eq!(
            in_words(&Waiting::default()),
            "no worker of its platform is there; before it: 0 actions of its invocation; \
             0 invocations are due more; 0 queued in all"
        );
    }
}
