//! How much one invocation or one tenant may have.

use super::invocation::Invocation;
use crate::error::Error;

/// Limits on what a single innermost invocation, such as one run of Bazel, and a
/// tenant, which is an outermost invocation, such as a user, may have in one queue,
/// so that none can take all the memory or all the workers. None: no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Queued actions of an invocation. Those beyond are refused.
    pub queued: Option<u32>,
    /// Executing actions of an invocation. Those beyond stay queued, even if workers
    /// are idle.
    pub executing: Option<u32>,
    /// Queued actions of a tenant.
    pub queued_per_tenant: Option<u32>,
    /// Executing actions of a tenant.
    pub executing_per_tenant: Option<u32>,
}

/// The settings that say so.
const QUEUED: &str = "maximum_queued_actions_per_invocation";
const EXECUTING: &str = "maximum_executing_actions_per_invocation";
const QUEUED_PER_TENANT: &str = "maximum_queued_actions_per_tenant";
const EXECUTING_PER_TENANT: &str = "maximum_executing_actions_per_tenant";

impl Limits {
    /// Whether an invocation and its tenant, neither of which need exist yet, may
    /// have one more task queued.
    ///
    /// # Errors
    /// [`Error::TooManyQueued`].
    pub(super) fn admit(
        &self,
        tenant: Option<&Invocation>,
        invocation: Option<&Invocation>,
    ) -> Result<(), Error> {
        for (limit, node, setting) in [
            (self.queued, invocation, QUEUED),
            (self.queued_per_tenant, tenant, QUEUED_PER_TENANT),
        ] {
            let Some((limit, node)) = limit.zip(node) else {
                continue;
            };
            // Those whose cached result is still being looked up are to be queued too.
            let waiting = node.tasks.saturating_sub(node.started);
            if waiting >= limit as usize {
                return Err(Error::TooManyQueued { limit, setting });
            }
        }
        Ok(())
    }

    /// What keeps an invocation from having one more task executed: the setting's
    /// name. `is_tenant`: it is an outermost one.
    pub(super) fn holds(
        &self,
        invocation: &Invocation,
        is_tenant: bool,
        is_innermost: bool,
    ) -> Option<&'static str> {
        let reached = |limit: Option<u32>| limit.is_some_and(|most| invocation.executing >= most);
        if is_innermost && reached(self.executing) {
            Some(EXECUTING)
        } else if is_tenant && reached(self.executing_per_tenant) {
            Some(EXECUTING_PER_TENANT)
        } else {
            None
        }
    }
}
