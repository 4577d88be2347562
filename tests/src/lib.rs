//! What whole-system tests share.
//!
//! [`farm`] starts `hayloft up` in a temporary directory, as root or as a plain
//! [`user`], and makes sure that nothing of it is left. [`tree`] and [`action`]
//! describe what to run on it, [`client`] runs it and gives the outcome, [`desk`] calls
//! `hayloft` as a person would. [`seal`]
//! records what a worker's cache holds and compares, [`processes`] looks at this
//! machine's processes and [`mod@wait`] waits for them, [`elf`] makes the smallest
//! programs there are, [`tls_farm`] is a farm of single programs over TLS, [`skip`] is
//! how a test says that it cannot run here. [`metrics`] are what a farm's programs count,
//! [`ran`] is how a foreign client's command ended, [`yaml`]
//! reads what deployments are described in.

#![forbid(unsafe_code)]

pub mod action;
// The one that `daemon`'s own tests have.
#[path = "../../daemon/tests/authority/mod.rs"]
pub mod authority;
pub mod client;
pub mod desk;
pub mod elf;
pub mod farm;
pub mod metrics;
pub mod processes;
pub mod ran;
pub mod seal;
pub mod skip;
pub mod tls_farm;
pub mod tree;
pub mod user;
pub mod wait;
pub mod yaml;

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

/// A program of this package: cargo builds it before it runs the tests, into the
/// folder above theirs.
///
/// # Panics
/// It is not there.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    let path = test
        .ancestors()
        .nth(2)
        .expect("tests lie two folders deep")
        .join(name);
    assert!(
        path.is_file(),
        "{} is missing: run the tests with cargo",
        path.display()
    );
    path
}

/// A word that nobody else has: 32 hexadecimal digits.
///
/// # Panics
/// The kernel gives no random bytes.
#[must_use]
pub fn secret() -> String {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .expect("random bytes");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
