//! The input root of one action: planned, made, and, when its command is dead,
//! ready for its outputs to be collected.

use std::sync::Arc;

use proto::wire::action::Facts;
use proto::wire::runner_extension::Overlay;
use proto::{InstanceName, RelativePath};

use super::{Materialise, Plan, build};
use crate::Error;
use crate::build_directory::BuildDirectory;
use crate::cache::{FileCache, Pins, Tenant};
use crate::files;
use crate::layers::{self, Chosen, Layer, Layers, Subtree};

/// Directories that outputs need, with which a root is planned sooner than handed
/// to another thread.
const SHORT: usize = 256;

/// How a session's actions get their inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Means {
    /// How cached files get into an input root.
    pub(crate) files: Materialise,
    /// Whether input roots can be overlays over layers.
    pub(crate) layers: bool,
}

/// One action's inputs. As long as this lives, none of them leaves the cache.
pub(crate) struct Inputs {
    tenant: Tenant,
    root: Arc<Subtree>,
    plan: Arc<Plan>,
    /// None: the input root is no overlay.
    layers: Option<Vec<Arc<Layer>>>,
    /// Files of layers that have to be made first.
    placed: u64,
    means: Means,
    pins: Pins,
}

impl Inputs {
    /// Plans a root with directories that must be there, and sees to it that all its
    /// files are in the cache or in layers. `short`: its messages are few.
    ///
    /// # Errors
    /// As [`Plan::new`]; files are missing, or the storage fails.
    pub(crate) async fn plan(
        cache: &Arc<FileCache>,
        layers: &Arc<Layers>,
        instance: &InstanceName,
        root: Arc<Subtree>,
        needed: Vec<RelativePath>,
        means: Means,
    ) -> Result<Self, Error> {
        let tenant = cache.tenant(instance);
        let layered = means.layers && layers.are_worthwhile(&root, &needed);
        let short = !layered && root.is_small() && needed.len() <= SHORT;
        let (pinning, choosing) = (Arc::clone(cache), Arc::clone(layers));
        let planning = files::blocking(short, move || {
            if layered {
                let chosen = choosing.choose(tenant, &root, &needed)?;
                let pins = choosing.pin(tenant, &chosen)?;
                let Chosen { plan, layers } = chosen;
                return Ok::<_, Error>((root, plan, Some(layers), pins));
            }
            let plan = Plan::new(&root, &needed)?;
            let pins = pinning.pin(plan.keys(tenant));
            Ok((root, plan, None, pins))
        });
        let (root, plan, layers, mut pins) = planning.await??;
        cache.complete(instance, &mut pins).await?;
        let new = layers.iter().flatten().filter(|layer| !layer.is_placed());
        Ok(Self {
            placed: new.map(|layer| layer.files()).sum(),
            means,
            tenant,
            root,
            plan: Arc::new(plan),
            layers,
            pins,
        })
    }

    /// Makes the root in a build directory. Gives what the runner is told of it, when
    /// it is an overlay.
    ///
    /// # Errors
    /// The disk fails or is full; a file that vanished cannot be fetched again.
    pub(crate) async fn make(
        &mut self,
        cache: &Arc<FileCache>,
        placing: &Layers,
        instance: &InstanceName,
        directory: &BuildDirectory,
    ) -> Result<Option<Overlay>, Error> {
        let overlay = match &self.layers {
            None => None,
            Some(layers) => Some(Overlay {
                lower_directories: placing.place(instance, layers).await?,
                scratch_directory: directory.make_scratch()?,
            }),
        };
        let target = directory.input_root();
        let target = target.map_err(Error::file("open", directory.name()))?;
        let plan = Arc::clone(&self.plan);
        let repaired = build(cache, instance, plan, Arc::new(target), self.means.files).await?;
        if let Some(repaired) = repaired {
            self.pins.merge(repaired);
        }
        Ok(overlay)
    }

    /// Says what making it took.
    pub(crate) fn account(&self, facts: &mut Facts) {
        let fetched = self.pins.fetched();
        facts.blobs_fetched += fetched.blobs;
        facts.bytes_fetched += fetched.bytes;
        let made = self.plan.files().saturating_add(self.placed);
        facts.files_reused = self.root.files.saturating_sub(made);
        match self.means.files {
            Materialise::Hardlink => facts.files_linked = made,
            Materialise::Copy => facts.files_copied = made,
        }
    }

    /// When the command is dead: puts the outputs at these places together, where
    /// what the command wrote does not lie in the root itself. They may have so many
    /// entries.
    ///
    /// # Errors
    /// They have more; the disk fails or is full.
    pub(crate) async fn gather(
        &self,
        cache: &Arc<FileCache>,
        directory: &Arc<BuildDirectory>,
        outputs: Vec<RelativePath>,
        entries: usize,
    ) -> Result<(), Error> {
        if self.layers.is_none() || outputs.is_empty() {
            return Ok(());
        }
        let (cache, directory) = (Arc::clone(cache), Arc::clone(directory));
        let (tenant, root) = (self.tenant, Arc::clone(&self.root));
        let gathering = tokio::task::spawn_blocking(move || {
            let failed = || Error::file("open", directory.name());
            directory.close_off().map_err(failed())?;
            let upper = directory.upper().map_err(failed())?;
            let fresh = directory.input_root().map_err(failed())?;
            layers::merge(&cache, tenant, &upper, &fresh, &root, entries, &outputs)
        });
        gathering.await?
    }
}
