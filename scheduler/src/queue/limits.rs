//! How much one invocation may have.

use super::invocation::Invocation;
use crate::error::Error;

/// Limits on what a single innermost invocation, such as one run of Bazel, may
/// have in one queue, so that none can take all the memory or all the workers.
/// None: no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Queued actions. Those beyond are refused.
    pub queued: Option<u32>,
    /// Executing actions. Those beyond stay queued, even if workers are idle.
    pub executing: Option<u32>,
}

impl Limits {
    /// Whether an invocation, which need not exist yet, may have one more task queued.
    ///
    /// # Errors
    /// [`Error::TooManyQueued`].
    pub(super) fn admit(&self, invocation: Option<&Invocation>) -> Result<(), Error> {
        let Some((limit, node)) = self.queued.zip(invocation) else {
            return Ok(());
        };
        // Those whose cached result is still being looked up are to be queued too.
        let waiting = node.tasks.saturating_sub(node.executing as usize);
        if waiting >= limit as usize {
            return Err(Error::TooManyQueued { limit });
        }
        Ok(())
    }
}
