//! Where a task stands: once in each invocation that wants it.
//!
//! Identical actions are executed once for all clients that want them. Each of
//! their invocations has the task among its own, at the place its own operations
//! give it, and counts its worker when it is executed. The task is handed out on
//! behalf of the invocation that is served first.

use smallvec::SmallVec;

use super::aging::Level;
use super::invocation::{InvocationId, Lineage};
use super::order::Place;
use super::queue::Queue;
use super::task::{Progress, Task, TaskId};

/// The place of a task in one invocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) invocation: InvocationId,
    pub(super) place: Place,
}

impl Task {
    /// The invocations that want it.
    pub(super) fn invocations(&self) -> SmallVec<[InvocationId; 1]> {
        self.seats.iter().map(|seat| seat.invocation).collect()
    }
}

impl Queue {
    /// Gives a task a seat in an invocation, no less urgent than `level`.
    pub(super) fn seat(&mut self, id: TaskId, lineage: &Lineage, level: Level) {
        let Some(task) = self.tasks.get(&id) else {
            return;
        };
        let Some(queue) = self.platforms.get_mut(task.platform) else {
            return;
        };
        let invocation = queue.invocations.open(lineage);
        self.seat_pinned(id, invocation, level);
    }

    /// The same in an invocation that exists.
    pub(super) fn seat_in(&mut self, id: TaskId, invocation: InvocationId, level: Level) {
        let Some(task) = self.tasks.get(&id) else {
            return;
        };
        if let Some(queue) = self.platforms.get_mut(task.platform) {
            queue.invocations.pin(invocation);
            self.seat_pinned(id, invocation, level);
        }
    }

    /// The same in one that is pinned for it.
    fn seat_pinned(&mut self, id: TaskId, invocation: InvocationId, level: Level) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        let Some(queue) = self.platforms.get_mut(task.platform) else {
            return;
        };
        let tree = &mut queue.invocations;
        let mut seats = task.seats.iter_mut();
        if let Some(seat) = seats.find(|seat| seat.invocation == invocation) {
            tree.unpin(invocation);
            if level < seat.place.level {
                self.move_seat(id, invocation, level);
            }
            return;
        }
        let place = Place {
            level,
            expected: task.expected,
            task: id,
        };
        tree.count_task(invocation, true);
        match task.progress {
            Progress::CacheCheck => {}
            Progress::Queued => tree.queue(invocation, place),
            Progress::Executing(_) => tree.start_also(invocation, &task.invocations()),
        }
        task.seats.push(Seat { invocation, place });
    }

    /// An operation of this invocation has left a task: its seat goes, or is as
    /// urgent as those of its operations that remain.
    pub(super) fn reseat(&mut self, id: TaskId, lineage: &Lineage) {
        let Some(task) = self.tasks.get(&id) else {
            return;
        };
        let Some(queue) = self.platforms.get_mut(task.platform) else {
            return;
        };
        let Some(invocation) = queue.invocations.find(lineage) else {
            return;
        };
        let operations = task.operations.iter();
        let levels = operations
            .filter_map(|name| self.operations.get(name))
            .filter(|operation| operation.lineage == *lineage)
            .map(|operation| operation.level);
        if let Some(level) = levels.min() {
            self.move_seat(id, invocation, level);
            return;
        }
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        let mut seats = task.seats.iter();
        let Some(index) = seats.position(|seat| seat.invocation == invocation) else {
            return;
        };
        let tree = &mut queue.invocations;
        let seat = task.seats.remove(index);
        match task.progress {
            Progress::CacheCheck => {}
            Progress::Queued => tree.unqueue(invocation, seat.place),
            Progress::Executing(_) => {
                tree.stop_only(invocation, &task.invocations());
                self.freed.insert(task.platform);
            }
        }
        tree.count_task(invocation, false);
        tree.unpin(invocation);
    }

    fn move_seat(&mut self, id: TaskId, invocation: InvocationId, level: Level) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        let mut seats = task.seats.iter_mut();
        let Some(seat) = seats.find(|seat| seat.invocation == invocation) else {
            return;
        };
        let old = seat.place;
        seat.place.level = level;
        let new = seat.place;
        if task.progress == Progress::Queued
            && old != new
            && let Some(queue) = self.platforms.get_mut(task.platform)
        {
            queue.invocations.unqueue(invocation, old);
            queue.invocations.queue(invocation, new);
        }
    }

    /// Takes all its seats from a task that is over.
    pub(super) fn unseat(&mut self, task: &mut Task) {
        let Some(queue) = self.platforms.get_mut(task.platform) else {
            return;
        };
        let tree = &mut queue.invocations;
        match task.progress {
            Progress::CacheCheck => {}
            Progress::Queued => {
                for seat in &task.seats {
                    tree.unqueue(seat.invocation, seat.place);
                }
            }
            Progress::Executing(_) => {
                tree.stop(&task.invocations());
                self.freed.insert(task.platform);
            }
        }
        for seat in task.seats.drain(..) {
            tree.count_task(seat.invocation, false);
            tree.unpin(seat.invocation);
        }
    }
}
