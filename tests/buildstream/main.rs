//! BuildStream 2.8.1 builds the project of `buildstream/project` on a farm whose
//! actions have their input root for a file system: import, manual, script and stack
//! elements over a sysroot of one static busybox.
//!
//! BuildStream comes from PyPI and the busybox from Debian's packages: with
//! `HAYLOFT_INSTALL=1` these tests install them, else they skip where they are missing.

mod building;
mod client;
mod ending;
