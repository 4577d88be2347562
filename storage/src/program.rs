//! The storage daemon.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use daemon::{Diagnostics, Shutdown, Upstream};
use futures::future::try_join_all;

use crate::blocking::blocking;
use crate::complete::Complete;
use crate::config::Config;
use crate::error::Error;
use crate::front::{Front, internal_routes};
use crate::hold::Holder;
use crate::local::{ACTIONS, Actions, Blobs, Limits};
use crate::store::{ActionCache, BlobStore};

/// How often at most it is looked for blobs that nobody uses any more.
const SWEEP: Duration = Duration::from_secs(60);

/// Serves the embedded store until told to stop.
///
/// # Errors
/// The store cannot be opened, or a listener fails.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), Error> {
    let diagnostics = Diagnostics::start(&config.global, &shutdown)?;
    // Listening first: what connects while the store is opened waits, and is not
    // refused.
    let mut clients = Vec::new();
    for endpoint in &config.client_listen_addresses {
        clients.extend(endpoint.listen()?);
    }
    let mut internals = Vec::new();
    for endpoint in &config.internal_listen_addresses {
        internals.extend(endpoint.listen()?);
    }
    let scheduler = config
        .scheduler
        .as_ref()
        .map(Upstream::connect)
        .transpose()?;

    let opening = config.clone();
    let (blobs, actions) = tokio::task::spawn_blocking(move || open(&opening))
        .await
        .map_err(|_| Error::Stopping)??;
    blobs.register(diagnostics.metrics());
    if let Some(age) = config.maximum_age {
        tokio::spawn(expire(blobs.clone(), age.0, shutdown.clone()));
    }
    let holder = Holder::new(blobs.clone());
    let blobs: Arc<dyn BlobStore> = Arc::new(blobs);
    let actions: Arc<dyn ActionCache> = Arc::new(Complete::new(actions, blobs.clone()));

    let front = Front {
        blobs: blobs.clone(),
        actions: actions.clone(),
        scheduler,
        action_cache_updates: config.allow_client_action_cache_updates,
        authorizers: config.client_authorizers,
        holder: Some(holder),
        shutdown,
    }
    .routes();
    let internal = internal_routes(blobs, actions, config.internal_authorizers);
    let served = clients
        .into_iter()
        .map(|listener| (listener, front.clone()))
        .chain(
            internals
                .into_iter()
                .map(|listener| (listener, internal.clone())),
        )
        .map(|(listener, routes)| {
            tracing::info!(address = listener.local_address(), "serving storage");
            daemon::serve(listener, routes, diagnostics.clone())
        });
    diagnostics.ready(true);
    try_join_all(served).await?;
    Ok(())
}

/// Removes blobs that nobody used for long, now and then.
async fn expire(blobs: Blobs, age: Duration, shutdown: Shutdown) {
    let mut pause = tokio::time::interval((age / 10).clamp(SWEEP, 60 * SWEEP));
    loop {
        tokio::select! {
            _ = pause.tick() => {}
            () = shutdown.cancelled() => return,
        }
        let blobs = blobs.clone();
        let Some(since) = SystemTime::now().checked_sub(age) else {
            return;
        };
        if blocking(move || blobs.expire(since)).await.is_err() {
            return;
        }
    }
}

fn open(config: &Config) -> Result<(Blobs, Actions), Error> {
    let blobs = Blobs::open(
        &config.directory,
        Limits {
            disk: config.maximum_size_bytes,
            memory: config.memory_cache_size_bytes,
        },
    )?;
    // Under the lock that the blobs hold on the directory.
    let actions = Actions::open(
        &config.directory.join(ACTIONS),
        config.maximum_action_cache_size_bytes,
    )?;
    tracing::info!(directory = %config.directory.display(), bytes = blobs.size(), "opened the store");
    Ok((blobs, actions))
}
