//! Whether tests found the machine itself to be broken.
//!
//! A test of Bazel's that meets trouble with its surroundings, such as a device
//! attached to the machine, says so in a file of a certain name
//! (`TEST_INFRASTRUCTURE_FAILURE_FILE`). A slot on which so many actions in a row
//! have done that takes the whole worker out of service: it finishes what it runs
//! and asks for no more work.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Error;

/// The file's name. A worker sees no other sign of it (as Buildbarn's,
/// `pkg/builder/test_infrastructure_failure_detecting_build_executor.go`).
const FILE: &str = "test.infrastructure_failure";

/// Says of all slots of a worker whether it is out of service: how many failures
/// did that, or zero.
#[derive(Clone, Debug, Default)]
pub(crate) struct OutOfService(Arc<AtomicU32>);

/// What one slot knows.
#[derive(Debug)]
pub(crate) struct Health {
    /// How many such actions in a row are too many. None: any number is fine.
    limit: Option<NonZeroU32>,
    failures: AtomicU32,
    worker: OutOfService,
}

impl OutOfService {
    /// # Errors
    /// The worker is out of service.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.0.load(Ordering::Acquire) {
            0 => Ok(()),
            failures => Err(Error::TestInfrastructure { failures }),
        }
    }
}

impl Health {
    /// Good so far.
    pub(crate) fn new(limit: Option<NonZeroU32>, worker: OutOfService) -> Self {
        Self {
            limit,
            failures: AtomicU32::new(0),
            worker,
        }
    }

    /// Counts one action, by the output files it had.
    ///
    /// # Errors
    /// This was one failure too many.
    pub(crate) fn judge<'a>(
        &self,
        mut output_files: impl Iterator<Item = &'a str>,
    ) -> Result<(), Error> {
        let Some(limit) = self.limit else {
            return Ok(());
        };
        if !output_files.any(|path| path.rsplit('/').next() == Some(FILE)) {
            self.failures.store(0, Ordering::Relaxed);
            return Ok(());
        }
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if failures < limit.get() {
            return Ok(());
        }
        tracing::error!(failures, "tests find this machine broken: out of service");
        self.worker.0.store(failures, Ordering::Release);
        self.worker.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_in_a_row_count_and_one_slot_is_enough() {
        let worker = OutOfService::default();
        let slot = || Health::new(NonZeroU32::new(2), worker.clone());
        let (first, second) = (slot(), slot());
        let broken = || ["log", "a/b/test.infrastructure_failure"].into_iter();
        let fine = || ["a/test.infrastructure_failure.txt"].into_iter();
        for slot in [&first, &second] {
            slot.judge(broken()).unwrap();
            slot.judge(fine()).unwrap();
        }
        first.judge(broken()).unwrap();
        worker.check().unwrap();
        let error = first.judge(broken()).unwrap_err();
        assert!(error.to_string().contains("2 tests in a row"), "{error}");
        worker.check().unwrap_err();
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let worker = OutOfService::default();
        let slot = Health::new(None, worker.clone());
        for _ in 0..10 {
            slot.judge([FILE].into_iter()).unwrap();
        }
        worker.check().unwrap();
    }
}
