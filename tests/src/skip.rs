//! Tests that need more than this machine has.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Once;

/// Whether tests may install the packages they need (`HAYLOFT_INSTALL=1`).
#[must_use]
pub fn may_install() -> bool {
    std::env::var("HAYLOFT_INSTALL").is_ok_and(|value| value == "1")
}

/// Whether this process is root.
#[must_use]
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Whether a test that needs root runs; says so when it does not.
#[must_use]
pub fn needs_root(test: &str) -> bool {
    if !is_root() {
        skip(test, "needs root");
    }
    is_root()
}

/// Says that a test does not run here, on the terminal even when the test passes
/// its output to the harness. CI looks for these lines and allows none.
pub fn skip(test: &str, reason: &str) {
    let line = format!("SKIP {test}: {reason}\n");
    // Written past the harness, which captures only what the print macros write.
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

/// Whether these files of Debian's packages are there, after they were installed
/// where that is allowed (`install-clients`); says so when a test cannot run.
///
/// # Panics
/// They cannot be installed.
#[must_use]
pub fn has(test: &str, files: &[&str]) -> bool {
    static INSTALLED: Once = Once::new();
    let is_there = || files.iter().all(|file| Path::new(file).exists());
    if !is_there() && may_install() {
        INSTALLED.call_once(|| {
            let installer = Path::new(env!("CARGO_MANIFEST_DIR")).join("install-clients");
            let status = Command::new(installer).status();
            assert!(status.expect("the installer runs").success());
        });
        assert!(is_there(), "{files:?} cannot be installed");
    }
    if !is_there() {
        skip(test, &format!("needs {}", files.join(", ")));
    }
    is_there()
}
