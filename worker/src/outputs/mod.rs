//! Outputs: what an action left where it said it would.
//!
//! [`declared`] reads the Command's paths before anything runs. [`walk`] goes
//! through the input root by descriptor once the action is dead, never following
//! a link; [`places`] numbers the directories it comes through. [`collect`] takes
//! in what is found, within limits, and [`hash`] reads and hashes it meanwhile.
//! [`report`] says it in the result's words, [`tree`] in Tree and Directory
//! messages, [`inline`] in bytes that the client wants at once; [`upload`] stores what the storage has not.

pub(crate) mod collect;
pub(crate) mod declared;
mod hash;
pub(crate) mod inline;
mod places;
pub(crate) mod report;
mod tree;
pub(crate) mod upload;
mod walk;

pub(crate) use collect::{Collected, Limits, collect, too_many};
pub(crate) use declared::Declared;
