//! Blobs and action results: the traits, and what stands behind and before them.
//!
//! [`store`] holds the traits. Behind them stand the embedded store of one
//! machine and the client of any REv2 storage; before them the gRPC services and
//! the front, the one endpoint that clients use.

#![forbid(unsafe_code)]

pub mod error;
pub mod store;

pub use error::Error;
pub use store::{ActionCache, BlobStore, ByteStream};
