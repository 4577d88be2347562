//! The worker: fetches an action's inputs, has a runner run its command, stores
//! its outputs.
//!
//! A `slot` asks the scheduler for an action and passes it to `action`, whose
//! stages are: `prepare` has `directories` and `cache` bring the inputs here, `root`
//! makes a tree of them in a `build_directory`, over `layers` of what roots have in
//! common where that can be, `runner` has the command run, `outputs`
//! collects and uploads what it left, `result` says how it went. `seal` finds out
//! whether a runner's actions may be given hardlinks of cached files; `space`
//! says whether there is room for actions, `clean`
//! removes what they leave, and `spare` keeps what can be used again. `batches`
//! cuts transfers from and to the storage into requests, and `downloads` bounds
//! what comes of all slots together.
//!
//! The worker never starts a process: one that holds executables open for writing
//! while another thread forks makes their start fail with ETXTBSY.

#![forbid(unsafe_code)]

mod action;
mod batches;
mod build_directory;
pub mod cache;
mod clean;
mod completed_actions;
pub mod config;
mod cost;
mod directories;
mod directory;
pub mod downloads;
mod error;
mod files;
mod health;
mod layers;
mod limits;
mod memory;
mod metrics;
mod outputs;
mod prepare;
mod promises;
mod result;
mod root;
mod runner;
mod scheduler;
mod seal;
mod session;
mod slot;
mod space;
mod spare;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod told;
mod worker;

pub use config::Config;
pub use error::Error;
pub use worker::run;
