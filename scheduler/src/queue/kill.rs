//! Ending actions by an operator's decision.

use proto::wire::{rev2, rpc};
use uuid::Uuid;

use super::log::about;
use super::operation::State;
use super::platform_queue::QueueName;
use super::queue::Queue;
use super::time::Now;
use crate::error::Error;

impl Queue {
    /// Ends the action of an operation with this status, for all that are attached
    /// to it. One that is over stays as it is.
    ///
    /// # Errors
    /// [`Error::UnknownOperation`].
    pub fn kill(&mut self, now: Now, name: Uuid, status: rpc::Status) -> Result<(), Error> {
        self.advance(now);
        let operation = self.operations.get(&name);
        let operation = operation.ok_or_else(|| Error::UnknownOperation(name.to_string()))?;
        if let State::Attached(task) = operation.state {
            about!(INFO, self, task, code = status.code, "killed");
            self.complete(now, task, response(status));
            self.use_freed(now);
        }
        Ok(())
    }

    /// Ends all that is queued where nobody will take it.
    ///
    /// # Errors
    /// [`Error::UnknownQueue`], [`Error::QueueHasWorkers`].
    pub fn kill_queue(
        &mut self,
        now: Now,
        name: &QueueName,
        status: &rpc::Status,
    ) -> Result<(), Error> {
        self.advance(now);
        let Some(queue) = self.platforms.get(self.queue_named(name)?) else {
            return Ok(());
        };
        if !queue.workers.is_empty() {
            return Err(Error::QueueHasWorkers(queue.workers.len()));
        }
        let orders = queue.invocations.iter().map(|node| &node.order);
        let tasks: Vec<_> = orders
            .flat_map(|order| order.iter().map(|place| place.task))
            .collect();
        for task in tasks {
            about!(INFO, self, task, code = status.code, "killed");
            self.complete(now, task, response(status.clone()));
        }
        Ok(())
    }
}

fn response(status: rpc::Status) -> rev2::ExecuteResponse {
    rev2::ExecuteResponse {
        status: Some(status),
        ..Default::default()
    }
}
