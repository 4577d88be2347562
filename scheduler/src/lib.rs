//! The scheduler: takes actions from clients, hands them to workers.
//!
//! [`queue`] decides, without any I/O: a state machine with one rule to a file.
//! [`service`] is the gRPC around it. [`run`] puts both together as the program
//! `bb_scheduler`, as [`config`] says. All state is in memory.

#![forbid(unsafe_code)]

pub mod config;
pub mod error;
mod metrics;
mod note;
pub mod queue;
mod run;
pub mod service;

pub use config::Config;
pub use error::Error;
pub use run::{RESTARTED, client_routes, queue_state_routes, run, worker_routes};
