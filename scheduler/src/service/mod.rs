//! gRPC around the queue.
//!
//! [`dispatcher`] holds the queue and everyone who waits on it: clients' streams,
//! workers' calls, the next deadline. [`execution`], [`operations`] and
//! [`capabilities`] face clients, [`operation_queue`] faces workers, [`queue_state`]
//! operators; they turn
//! messages into validated types and back. [`claim`] is what our own
//! workers and we tell each other besides. [`route`] says where an
//! action goes, [`invocation`] tells whose an
//! execution is; [`action`] fetches what the scheduler
//! must know of an action before it can place it; [`authorizers`] say who may call.

pub mod action;
pub mod authorizers;
pub mod capabilities;
pub mod claim;
pub mod dispatcher;
pub mod execution;
pub mod invocation;
pub mod operation_queue;
pub mod operations;
pub mod queue_state;
pub mod route;
#[cfg(test)]
mod tests;

pub use action::{Actions, Sizes};
pub use authorizers::Authorizers;
pub use dispatcher::Dispatcher;
