//! What the scheduler must know of an action to place it.

use std::sync::Arc;

use prost::Message;
use proto::wire::rev2::{Action, Command};
use proto::{Digest, InstanceName, PlatformKey};
use storage::BlobStore;

use crate::error::Error;
use crate::queue::Ignored;

/// The largest messages that are read, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// An Action: it is kept as long as the task.
    pub action: u64,
    /// A Command: it is let go when its platform is known. As long as arguments and
    /// environment may be.
    pub command: u64,
}

/// Reads actions from the storage.
pub struct Actions {
    store: Arc<dyn BlobStore>,
    sizes: Sizes,
    /// Whether a platform makes any difference.
    platforms_matter: bool,
}

impl Actions {
    /// Reads from `store`. With all properties ignored no Command is ever read.
    #[must_use]
    pub fn new(store: Arc<dyn BlobStore>, sizes: Sizes, ignored: &Ignored) -> Self {
        Self {
            store,
            sizes,
            platforms_matter: *ignored != Ignored::All,
        }
    }

    /// The action and its platform. Clients older than REv2.2 put that into the
    /// Command alone, which is read where the Action has none.
    ///
    /// # Errors
    /// A message is missing, malformed or too large, its digests are not
    /// digests, or its platform is not sorted.
    pub async fn load(
        &self,
        instance: &InstanceName,
        digest: Digest,
    ) -> Result<(Action, PlatformKey), Error> {
        let action: Action = self
            .read(
                "action",
                Error::ActionMissing,
                instance,
                digest,
                self.sizes.action,
            )
            .await?;
        let function = digest.function();
        Digest::from_wire(function, action.input_root_digest.as_ref())
            .map_err(|error| Error::invalid("action.input_root_digest", error))?;
        let command = Digest::from_wire(function, action.command_digest.as_ref())
            .map_err(|error| Error::invalid("action.command_digest", error))?;
        let platform = if action.platform.is_some() || !self.platforms_matter {
            PlatformKey::from_wire(action.platform.as_ref())
                .map_err(|error| Error::invalid("action.platform", error))?
        } else {
            let command: Command = self
                .read(
                    "command",
                    Error::CommandMissing,
                    instance,
                    command,
                    self.sizes.command,
                )
                .await?;
            #[expect(deprecated, reason = "that is where older clients put it")]
            let platform = command.platform;
            PlatformKey::from_wire(platform.as_ref())
                .map_err(|error| Error::invalid("command.platform", error))?
        };
        Ok((action, platform))
    }

    async fn read<M: Message + Default>(
        &self,
        what: &'static str,
        missing: impl FnOnce(Digest) -> Error,
        instance: &InstanceName,
        digest: Digest,
        limit: u64,
    ) -> Result<M, Error> {
        if digest.size() > limit {
            return Err(Error::TooLarge {
                what,
                digest,
                limit,
            });
        }
        let blobs = self.store.read_batch(instance, &[digest]).await?;
        let bytes = match blobs.into_iter().next() {
            Some(Ok(bytes)) => bytes,
            Some(Err(storage::Error::NotFound(digest))) => return Err(missing(digest)),
            Some(Err(error)) => return Err(error.into()),
            None => return Err(missing(digest)),
        };
        M::decode(bytes).map_err(|error| Error::Undecodable {
            what,
            digest,
            reason: error.to_string(),
        })
    }
}
