//! Bazel 4.2.3, and 2.1.0, build and test on farms. `bazel/README.md` says what its workspaces
//! hold and how to drive it by hand.
//!
//! Bazel comes from Debian's packages, the older one from npm: with `HAYLOFT_INSTALL=1` these tests install
//! it, else they skip where it is missing.

mod caching;
mod checks;
mod client;
mod cpp;
mod ending;
mod failures;
mod kills;
mod old;
mod operator;
mod outputs;
