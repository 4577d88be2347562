//! How much one invocation may have.

use super::invocation::{InvocationKey, Invocations};
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
    /// Whether an invocation may have one more task queued.
    ///
    /// # Errors
    /// [`Error::TooManyQueued`].
    pub(super) fn admit(&self, tree: &Invocations, lineage: &[InvocationKey]) -> Result<(), Error> {
        let Some(limit) = self.queued else {
            return Ok(());
        };
        let Some(node) = tree.find(lineage).map(|id| tree.get(id)) else {
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
