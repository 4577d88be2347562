//! One layer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proto::{Component, InstanceName};
use tokio::sync::OnceCell;

use super::subtree::Subtree;
use crate::Error;
use crate::build_directory::BuildDirectories;
use crate::cache::{FileCache, Pins, Tenant};
use crate::root::{self, Materialise, Plan};

/// A subtree at a path, as hardlinks: `known → placed → removed`. Whoever needs one
/// that is not placed places it; others who need it wait, and where placing fails or
/// is given up, one of them does it.
pub(crate) struct Layer {
    pub(super) tenant: Tenant,
    pub(super) path: Vec<Component>,
    pub(super) subtree: Arc<Subtree>,
    used: AtomicU64,
    placed: OnceCell<Placed>,
}

/// A layer's directory. Dropping it removes it, in the background, and then unpins
/// its files.
struct Placed {
    builds: Arc<BuildDirectories>,
    name: String,
    pins: Option<Pins>,
}

/// A layer's directory that is of no more use.
pub(crate) struct Remains {
    builds: Arc<BuildDirectories>,
    name: String,
}

impl Layer {
    /// One that is not placed.
    pub(super) fn new(tenant: Tenant, path: Vec<Component>, subtree: Arc<Subtree>) -> Self {
        Self {
            tenant,
            path,
            subtree,
            used: AtomicU64::new(0),
            placed: OnceCell::new(),
        }
    }

    pub(super) fn set_used(&self, clock: u64) {
        self.used.store(clock, Ordering::Relaxed);
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// How many files it has.
    pub(crate) fn files(&self) -> u64 {
        self.subtree.files
    }

    /// Whether it is on disk.
    pub(crate) fn is_placed(&self) -> bool {
        self.placed.initialized()
    }

    /// What it consists of.
    pub(super) fn plan(&self) -> Result<Plan, Error> {
        Plan::at(&self.path, &self.subtree)
    }

    /// Sees to it that it is there; gives its directory's path, for the runner.
    pub(super) async fn place(
        &self,
        cache: &Arc<FileCache>,
        builds: &Arc<BuildDirectories>,
        instance: &InstanceName,
    ) -> Result<String, Error> {
        let make = || self.make(cache, builds, instance);
        let placed = self.placed.get_or_try_init(make).await?;
        Ok(BuildDirectories::layer_path(&placed.name))
    }

    async fn make(
        &self,
        cache: &Arc<FileCache>,
        builds: &Arc<BuildDirectories>,
        instance: &InstanceName,
    ) -> Result<Placed, Error> {
        let plan = self.plan()?;
        let mut pins = cache.pin(plan.keys(self.tenant));
        cache.complete(instance, &mut pins).await?;
        let (name, directory) = builds.make_layer()?;
        let mut placed = Placed {
            builds: Arc::clone(builds),
            name,
            pins: None,
        };
        let (plan, directory) = (Arc::new(plan), Arc::new(directory));
        let how = Materialise::Hardlink;
        if let Some(repaired) = root::build(cache, instance, plan, directory, how).await? {
            pins.merge(repaired);
        }
        placed.pins = Some(pins);
        Ok(placed)
    }

    /// Removes a layer that nobody uses; returns when its files are not pinned any
    /// more.
    pub(super) async fn remove(layer: Arc<Self>) {
        // Should somebody use it after all, it is removed by the last.
        let placed = Arc::into_inner(layer).and_then(|layer| layer.placed.into_inner());
        let Some((remains, pins)) = placed.and_then(|mut placed| placed.take()) else {
            return;
        };
        let removal = tokio::task::spawn_blocking(move || {
            remains.remove();
            drop(pins);
        });
        // It fails only when the process ends.
        let _ = removal.await;
    }

    /// Unpins the files of a layer that nobody uses, and gives what is left of it.
    pub(super) fn release(layer: Arc<Self>) -> Option<Remains> {
        let mut placed = Arc::into_inner(layer)?.placed.into_inner()?;
        placed.take().map(|(remains, _pins)| remains)
    }
}

impl Placed {
    /// What has to be removed, and what unpinned after that; once.
    fn take(&mut self) -> Option<(Remains, Option<Pins>)> {
        let name = std::mem::take(&mut self.name);
        let builds = Arc::clone(&self.builds);
        (!name.is_empty()).then(|| (Remains { builds, name }, self.pins.take()))
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        // Outside of a runtime, as when the process ends, it is left for the next start.
        if let (Some((remains, pins)), Ok(runtime)) =
            (self.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn_blocking(move || {
                remains.remove();
                drop(pins);
            });
        }
    }
}

impl Remains {
    /// Removes it.
    pub(crate) fn remove(self) {
        self.builds.remove_layer(&self.name);
    }
}

#[cfg(test)]
#[path = "layer_tests.rs"]
mod tests;
