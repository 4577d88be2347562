//! Waiting for what happens in other processes.

use std::fmt::Debug;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long anything may take on the slowest machine before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Asks again and again until there is an answer.
///
/// # Panics
/// There is none within [`PATIENCE`].
pub fn wait_for<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    wait_for_within(PATIENCE, what, ask)
}

/// As [`wait_for`], for what takes its time.
///
/// # Panics
/// There is no answer within this time.
pub fn wait_for_within<T>(patience: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + patience;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        sleep(Duration::from_millis(5));
    }
}

/// Waits until nothing is left of something.
///
/// # Panics
/// There still is something after [`PATIENCE`]: what there is.
pub fn wait_for_none<T: Debug>(what: &str, mut left: impl FnMut() -> Vec<T>) {
    let end = Instant::now() + PATIENCE;
    loop {
        let left = left();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "{what} are left: {left:#?}");
        sleep(Duration::from_millis(5));
    }
}
