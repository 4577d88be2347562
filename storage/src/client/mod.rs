//! The client of any REv2 storage: ContentAddressableStorage, ByteStream and
//! ActionCache behind the traits of [`crate::store`].
//!
//! Calls go over a [`Pool`] of connections, so many at a time ([`caller`]), and
//! again where that does no harm. Only calls that every server has are relied on:
//! GetTree and QueryWriteStatus may fail. Bytes that are read whole are
//! checked against their digests.

mod announced;
mod batch;
mod caller;
mod missing;
mod pool;
mod read;
mod remote;
mod tree;
mod write;

pub use caller::classify;
pub use pool::Pool;
pub use remote::RemoteStorage;
