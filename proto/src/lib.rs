//! What crosses the wire, and the validated twins of its strings.
//!
//! [`wire`] holds the generated messages and services. Digests, instance names,
//! resource names, platforms and paths arrive there as plain strings and
//! numbers; each is turned once, where it enters a program, into the type of
//! this crate that cannot hold an invalid value: [`Digest`], [`InstanceName`],
//! [`ResourceName`], [`PlatformKey`], [`Component`], [`RelativePath`]. The rest
//! of the project passes these on.

#![forbid(unsafe_code)]

pub mod digest;
pub mod hasher;
pub mod instance_name;
pub mod messages;
pub mod path;
pub mod platform;
pub mod resource_name;
mod sha256_tree;
pub mod status;
pub mod wire;

pub use digest::{Digest, DigestFunction};
pub use hasher::Hasher;
pub use instance_name::InstanceName;
pub use path::{Component, RelativePath};
pub use platform::PlatformKey;
pub use resource_name::ResourceName;
