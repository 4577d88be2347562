//! The file cache: input files on disk, each once, linked into input roots.
//!
//! A file is there under the name of its [`Key`], complete or not at all, mode
//! 0444 or 0555 (0644 or 0755 where [`Limits::writable`] says so), modification time
//! 2000-01-01, owned by the worker. An action [pins](FileCache::pin) all the files of
//! its root at once and has them [completed](FileCache::complete): what is present is
//! there, what another action is already fetching is waited for, the rest is fetched
//! (`fill`). Then it [links](FileCache::link) or [copies](FileCache::copy) them.
//! Dropping the [`Pins`] lets eviction have them.
//!
//! `index` is the bookkeeping, `order` what makes room, `incoming` how a file gets
//! in, `restart` what is done when the worker starts and stops, `verify` the
//! hashing of what was there before.

mod file_cache;
mod fill;
mod incoming;
mod index;
mod key;
mod metrics;
mod order;
mod restart;
mod verify;

pub use file_cache::{FileCache, Limits, LinkError, Pins};
pub use key::{Key, Tenant};
pub use metrics::Held;
pub use order::ReplacementPolicy;

#[cfg(test)]
mod tests;
