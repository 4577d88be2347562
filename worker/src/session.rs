//! A runner as far as it was found out about, shared by all slots that use it.

use std::sync::Arc;

use daemon::Upstream;
use proto::wire::protobuf::Any;
use proto::wire::runner_extension::DescribeResponse;

use crate::Error;
use crate::build_directory::BuildDirectories;
use crate::cache::FileCache;
use crate::root::{Materialise, Means};
use crate::runner::Runner;
use crate::seal;

/// A connected runner and how its actions get their inputs.
pub(crate) struct Session {
    pub(crate) runner: Arc<Runner>,
    pub(crate) inputs: Means,
    /// What our own runner says of its sandbox, for each result's metadata.
    pub(crate) description: Option<Any>,
}

impl Session {
    /// Whether build directories can be used again by this runner's actions: it
    /// answers when all processes of an action are dead and takes files that are
    /// there already (it is ours, with uids of its own), and its actions were seen
    /// to be unable to change what the worker owns.
    pub(crate) fn uses_directories_again(&self) -> bool {
        let own_uids = |description: &DescribeResponse| description.own_uids;
        self.inputs.files == Materialise::Hardlink
            && self.runner.description().is_some_and(own_uids)
    }
}

/// The present session with one runner.
pub(crate) struct Sessions {
    upstream: Upstream,
    cache: Arc<FileCache>,
    builds: Arc<BuildDirectories>,
    /// Whether input roots may be overlays.
    layers: bool,
    current: tokio::sync::Mutex<Option<Arc<Session>>>,
}

impl Sessions {
    /// None yet.
    pub(crate) fn new(
        upstream: Upstream,
        cache: Arc<FileCache>,
        builds: Arc<BuildDirectories>,
        layers: bool,
    ) -> Self {
        Self {
            upstream,
            cache,
            builds,
            layers,
            current: tokio::sync::Mutex::new(None),
        }
    }

    /// Whether there is a session over a connection that is not lost, as far as
    /// can be told without waiting.
    pub(crate) fn is_present(&self) -> bool {
        self.current.try_lock().is_ok_and(|current| {
            current
                .as_ref()
                .is_some_and(|session| !session.runner.is_lost())
        })
    }

    /// The session over the present connection. Where there is none, or it was
    /// lost, connects and probes the runner's seal: another program may answer
    /// now.
    ///
    /// # Errors
    /// The runner is away; the worker's own disk fails.
    pub(crate) async fn get(&self) -> Result<Arc<Session>, Error> {
        let mut current = self.current.lock().await;
        if let Some(session) = &*current
            && !session.runner.is_lost()
        {
            return Ok(Arc::clone(session));
        }
        *current = None;
        let runner = Arc::new(Runner::connect(&self.upstream).await?);
        let inputs = seal::probe(&self.cache, &self.builds, &runner, self.layers).await?;
        let leftovers = Arc::clone(&self.builds).clean_leftovers(Arc::clone(&runner));
        tokio::spawn(async move {
            if let Err(error) = leftovers.await {
                tracing::warn!(%error, "cannot remove leftovers");
            }
        });
        let session = Arc::new(Session {
            description: runner.description().map(proto::messages::pack),
            runner,
            inputs,
        });
        *current = Some(Arc::clone(&session));
        Ok(session)
    }
}
