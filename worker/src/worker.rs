//! The process: directories, peers and slots put together.

use std::num::NonZeroU32;
use std::sync::Arc;

use daemon::{Diagnostics, Shutdown};
use nix::sys::stat::Mode;
use proto::wire::remoteworker::operation_queue_client::OperationQueueClient;
use storage::{ActionCache, BlobStore, RemoteStorage};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::Error;
use crate::action::{Executor, Services};
use crate::build_directory::BuildDirectories;
use crate::cache::{FileCache, Limits};
use crate::completed_actions::{Logger, LoggerMetrics};
use crate::config::Config;
use crate::directories::Directories;
use crate::downloads::Downloads;
use crate::files;
use crate::health::{Health, OutOfService};
use crate::layers::{self, Layers, Subtrees};
use crate::memory::Memory;
use crate::metrics::ActionMetrics;
use crate::outputs;
use crate::result::worker_name;
use crate::root::Devices;
use crate::scheduler::Scheduler;
use crate::session::Sessions;
use crate::slot::Slot;
use crate::space::{Room, Space};
use crate::told::Told;

/// Commands kept in memory, in bytes.
const COMMANDS: u64 = 16 << 20;
/// Build directories that may wait for their removal, beside those in use.
const BACKLOG: usize = 64;
/// The largest message taken from the scheduler.
const MAXIMUM_MESSAGE: usize = 64 << 20;

/// Runs a worker until it is told to stop; then its slots finish what they do,
/// everything is cleaned, and the cache's index is written.
///
/// # Errors
/// The configuration contradicts itself, a directory or an address cannot be
/// used, or another process has the cache.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), Error> {
    let cas = &config.content_addressable_storage;
    let storage = RemoteStorage::connect(cas, config.action_cache.as_ref())
        .map_err(Error::storage("connecting"))?;
    let storage = Arc::new(storage);
    let diagnostics = Diagnostics::start(&config.global, &shutdown)?;
    serve(config, storage.clone(), storage, diagnostics).await
}

/// [`run`] over any storage.
pub(crate) async fn serve(
    config: Config,
    store: Arc<dyn BlobStore>,
    action_cache: Arc<dyn ActionCache>,
    diagnostics: Diagnostics,
) -> Result<(), Error> {
    let slots = config.slots()?;
    // Directories that commands write to are made 0777: the command's user is
    // not the worker's. Modes are set explicitly all the same.
    nix::sys::stat::umask(Mode::empty());
    let count: usize = slots.iter().map(Vec::len).sum();
    let downloads = Arc::new(Downloads::new(config.input_download_concurrency));
    let (cache, builds) = open(&config, &store, &downloads, count).await?;
    tokio::spawn(FileCache::verify_all(Arc::downgrade(&cache)));
    cache.register(diagnostics.metrics());
    let space = space(&config, &cache)?;
    space.register(diagnostics.metrics());
    let actions = ActionMetrics::default();
    actions.register(diagnostics.metrics());
    let logged = LoggerMetrics::default();
    logged.register(diagnostics.metrics());
    let loggers = config.completed_action_loggers.iter();
    let loggers: Vec<_> = loggers
        .map(|logger| Logger::start(logger, &logged))
        .collect::<Result<_, _>>()?;
    let layers = Arc::new(Layers::new(
        Arc::clone(&cache),
        Arc::clone(&builds),
        config.maximum_layer_file_count,
    ));
    let relief = tokio::spawn(Layers::relieve(Arc::downgrade(&layers)));
    let services = Arc::new(Services {
        directories: Directories::new(
            Arc::clone(&store),
            downloads,
            config.maximum_memory_cached_directories_size_bytes,
        ),
        store,
        action_cache,
        cache: Arc::clone(&cache),
        commands: Memory::new(COMMANDS),
        builds: Arc::clone(&builds),
        space,
        layers: Arc::clone(&layers),
        subtrees: Subtrees::default(),
        uploads: Arc::new(Semaphore::new(config.output_upload_concurrency)),
        output_limits: outputs::Limits {
            entries: config.maximum_output_entries,
            bytes: config.maximum_output_size_bytes,
        },
        force_directories: config.force_upload_trees_and_directories,
        browser_url: config.browser_url.clone(),
        metrics: actions,
        loggers: loggers.clone(),
    });
    let client = OperationQueueClient::new(config.scheduler.connect()?)
        .max_decoding_message_size(MAXIMUM_MESSAGE);
    let out_of_service = OutOfService::default();
    let mut running = JoinSet::new();
    for (runner, slots) in config.runners.iter().zip(slots) {
        // What is wrong with files of certificates is to be said now, not to actions.
        drop(runner.endpoint.connect()?);
        let sessions = Arc::new(Sessions::new(
            runner.endpoint.clone(),
            Arc::clone(&cache),
            Arc::clone(&builds),
            config.maximum_layer_file_count > 0,
        ));
        let limit = runner.maximum_consecutive_test_infrastructure_failures;
        let limit = NonZeroU32::new(limit);
        let devices = Arc::new(Devices::find(&runner.input_root_character_device_nodes)?);
        for slot in slots {
            let slot = Slot {
                executor: Executor {
                    services: Arc::clone(&services),
                    worker: worker_name(&slot.worker_id),
                    environment: runner.environment_variables.clone(),
                    devices: Arc::clone(&devices),
                    prices: runner.costs_per_second.clone(),
                    health: Health::new(limit, out_of_service.clone()),
                    maximum_limits: runner.maximum_limits.clone(),
                },
                prefix: slot.prefix.clone(),
                scheduler: Scheduler {
                    told: Told::default(),
                    client: client.clone(),
                    worker_id: slot.worker_id,
                    prefix: slot.prefix,
                    platform: slot.platform,
                    size_class: slot.size_class,
                },
                out_of_service: out_of_service.clone(),
                sessions: Arc::clone(&sessions),
            };
            running.spawn(slot.run(diagnostics.shutdown().clone()));
        }
    }
    diagnostics.ready(true);
    tracing::info!(slots = count, "worker is up");
    while let Some(ended) = running.join_next().await {
        ended?;
    }
    futures::future::join_all(loggers.iter().map(|logger| logger.drained())).await;
    builds.cleaned().await;
    relief.abort();
    // It was told to end, which is no failure.
    let _ = relief.await;
    let left = layers.close();
    let closed = cache.close();
    // Last, for it may take long, and whoever loses patience loses nothing: the next
    // start does the rest.
    let removal = tokio::task::spawn_blocking(move || {
        left.into_iter().for_each(layers::Remains::remove);
        builds.remove_layers();
    });
    removal.await?;
    closed
}

/// What tells whether there is room for actions.
fn space(config: &Config, cache: &Arc<FileCache>) -> Result<Space, Error> {
    let shown = config.build_directory_path.display().to_string();
    let minimum = Room {
        bytes: config.minimum_free_space_bytes,
        inodes: config.minimum_free_inodes,
    };
    files::open_configured(&config.build_directory_path)
        .and_then(|build| Space::new(Arc::clone(cache), (shown.clone(), build), minimum))
        .map_err(Error::file("look at", shown))
}

/// Opens both directories; the cache after the build directory is emptied, so
/// that no leftover holds links to its files.
async fn open(
    config: &Config,
    store: &Arc<dyn BlobStore>,
    downloads: &Arc<Downloads>,
    slots: usize,
) -> Result<(Arc<FileCache>, Arc<BuildDirectories>), Error> {
    let build_path = config.build_directory_path.clone();
    let cache_path = config.cache_directory_path.clone();
    let limits = Limits {
        bytes: config.maximum_cache_size_bytes,
        files: config.maximum_cache_file_count,
        policy: config.cache_replacement_policy,
        tenant_components: config.cache_tenant_components,
        writable: config.writable_inputs,
    };
    let (store, downloads) = (Arc::clone(store), Arc::clone(downloads));
    let opening = tokio::task::spawn_blocking(move || {
        let builds = BuildDirectories::open(&build_path, slots + BACKLOG)?;
        let cache = FileCache::open(&cache_path, limits, store, downloads)?;
        Ok((cache, builds))
    });
    opening.await?
}
