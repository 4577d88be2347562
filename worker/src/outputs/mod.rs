//! Outputs: what an action left where it said it would.
//!
//! [`declared`] reads the Command's paths before anything runs. [`walk`] goes
//! through the input root by descriptor once the action is dead, never following
//! a link. [`collect`] reads and hashes what was found; [`tree`] makes Tree and
//! Directory messages of it; [`upload`] stores what the storage has not.

pub(crate) mod collect;
pub(crate) mod declared;
mod tree;
pub(crate) mod upload;
mod walk;

pub(crate) use collect::{Collected, collect};
pub(crate) use declared::Declared;
