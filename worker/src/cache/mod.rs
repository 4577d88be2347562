//! The file cache: input files on disk, each once, linked into input roots.
//!
//! A file is there under the name of its [`Key`], complete or not at all, mode
//! 0444 or 0555, modification time 2000-01-01, owned by the worker. An action
//! [acquires](FileCache::acquire) all the files of its root at once: what is
//! present is pinned, what another action is already fetching is waited for, the
//! rest is fetched ([`fill`]). Then it [links](FileCache::link) or
//! [copies](FileCache::copy) them. Dropping the [`Pins`] lets eviction have them.
//!
//! [`index`] is the bookkeeping, [`restart`] what is done when the worker starts
//! and stops.

mod file_cache;
mod fill;
mod index;
mod restart;

pub use file_cache::{FileCache, Limits, LinkError, Pins};
pub use index::Key;

#[cfg(test)]
mod tests;
