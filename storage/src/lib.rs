//! Blobs and action results: the traits, and what stands behind and before them.
//!
//! [`store`] holds the traits. Behind them stand the embedded store of one
//! machine ([`local`]) and the client of any REv2 storage ([`client`]); before them
//! the gRPC services ([`serve`]) and the front ([`front`]), the one endpoint that
//! clients use. [`program`] is the storage daemon, made of all of these.

#![forbid(unsafe_code)]

pub mod authorizers;
mod blocking;
pub mod client;
pub mod complete;
mod compression;
pub mod config;
pub mod error;
pub mod front;
pub mod hold;
pub mod local;
mod pages;
pub mod program;
pub mod serve;
pub mod store;
pub mod updates;
mod verify;

pub use authorizers::Authorizers;
pub use client::RemoteStorage;
pub use complete::Complete;
pub use config::Config;
pub use error::Error;
pub use front::{Front, internal_routes};
pub use hold::Holder;
pub use store::{ActionCache, BlobStore, ByteStream, Source};
pub use updates::Updates;
