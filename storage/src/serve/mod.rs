//! REv2's services: those of storage over the traits of [`crate::store`], execution
//! passed on to a scheduler. [`crate::front`] makes endpoints of them.

mod action_cache;
mod byte_stream;
mod capabilities;
mod cas;
mod execution;
mod field;
mod holdings;
mod tree;
mod uploads;

pub use action_cache::ActionCacheService;
pub use byte_stream::ByteStreamService;
pub use capabilities::CapabilitiesService;
pub use cas::CasService;
pub use execution::ExecutionForwarder;

/// What the blobs of a batch may make together, in bytes: gRPC's default message
/// size, less what frames them.
pub const MAXIMUM_BATCH: u64 = (4 << 20) - (256 << 10);

/// The largest message taken from a client, in bytes. Clients that count otherwise
/// than [`MAXIMUM_BATCH`] does get an answer that says so, not a broken call.
pub const MAXIMUM_MESSAGE: usize = 16 << 20;
