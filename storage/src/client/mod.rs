//! The client of any REv2 storage: ContentAddressableStorage, ByteStream and
//! ActionCache behind the traits of [`crate::store`].
//!
//! Only calls that every server has are made (GetTree and QueryWriteStatus are
//! never needed). Bytes that are read whole are checked against their digests.

mod batch;
mod remote;
mod retry;
mod stream;

pub use remote::RemoteStorage;
pub use retry::classify;
