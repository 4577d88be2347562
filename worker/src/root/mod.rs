//! Input roots: planned as data, then built by directory descriptor.
//!
//! [`plan`] turns a tree of messages, and the directories that outputs need,
//! into a list of directories, parents first. [`build`] makes them and puts the
//! cache's files into them, as hardlinks or as copies.

pub(crate) mod build;
mod devices;
mod inputs;
pub(crate) mod plan;

pub(crate) use build::{Materialise, build, place};
pub(crate) use devices::Devices;
pub(crate) use inputs::{Inputs, Means};
pub(crate) use plan::{Choice, Cover, Needed, Plan};
