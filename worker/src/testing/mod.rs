//! Peers in process: storage in memory, a scheduler and a runner as servers, and
//! a worker between them.

mod disk;
mod farm;
mod input;
mod logger;
mod runner;
mod scheduler;
mod storage;

pub(crate) use disk::{Disk, may_mount, may_share};
pub(crate) use farm::{Farm, start_runner};
pub(crate) use input::{Input, digest};
pub(crate) use logger::FakeLogger;
pub(crate) use runner::{FakeRunner, Manners};
pub(crate) use scheduler::FakeScheduler;
pub(crate) use storage::FakeStorage;
