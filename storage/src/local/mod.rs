//! The embedded store of one machine.
//!
//! [`Blobs`] keeps blobs as files and [`Actions`] results in a database. Both
//! live in a directory that one process owns at a time. What they acknowledged
//! survives the death of the process (kill -9), for it is in the kernel's hands
//! by then. It need not survive a power cut, after which the store may hold less
//! but nothing wrong: blobs are checked against their digests whenever they are
//! read whole, and a database that was damaged is begun anew.

mod actions;
mod backend;
mod blobs;
mod files;
mod in_place;
mod index;
pub mod inspect;
mod key;
mod results;
mod stream;
mod writing;

pub use actions::Actions;
pub use blobs::{Blobs, Held, Limits};

/// The file of the action results' database in a store's directory.
pub const ACTIONS: &str = "actions.redb";
