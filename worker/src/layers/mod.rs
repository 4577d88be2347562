//! Reuse of what input roots have in common.
//!
//! A *layer* is a directory that holds the path down to a subtree of some input root
//! and that subtree's files as hardlinks. Layers outlive the action for which they
//! were made: where the runner can make overlays, a later action that has the same
//! subtree at the same path, or nearly the same, gets the layer instead of links of
//! its own. Its root is then one overlay: on top a small directory of what no layer
//! has and, as whiteouts, what a layer has too much; below it the layers.
//!
//! [`subtree`] holds trees in memory so that an unchanged one is not looked into.
//! [`choose`] decides, by what is [`known`], which layers a root lies over and which
//! are to be made; [`difference`] is what is left to be made of a root that a layer
//! nearly has. [`layer`] is one layer on disk. [`merge`] puts together what a command
//! left of its outputs, when part of them is in layers.
//!
//! A layer pins its files, and actions hold the layers they use: of the others, the
//! one that was used least recently goes when the file cache has nothing else to
//! evict, or when all layers together have more entries than they may. Layers do not
//! survive the worker: to see that one is still what it was takes about as long as
//! making it.

mod choose;
mod difference;
mod known;
mod layer;
mod merge;
mod subtree;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, Weak};

use futures::{StreamExt, TryStreamExt};
use proto::wire::rev2::Platform;
use proto::{InstanceName, RelativePath};

use crate::Error;
use crate::build_directory::BuildDirectories;
use crate::cache::{FileCache, Pins, Tenant};
use crate::memory::lock;
use crate::root::Plan;

use choose::Chooser;
use known::Known;

pub(crate) use difference::Difference;
pub(crate) use layer::{Layer, Remains};
pub(crate) use merge::merge;
pub(crate) use subtree::{Entry, Subtree, Subtrees};

/// A root of fewer entries than this is linked whole: an overlay costs as much as
/// linking some 140 files, as `hayloft-bench roots` showed.
pub(crate) const WORTHWHILE: u64 = 128;
/// A root that is deeper, or that outputs make deeper, is linked whole, so that as many
/// descriptors, and a thread's stack, suffice to put its outputs together.
const DEEPEST: usize = 256;
/// Layers that are made at a time for one action.
const CONCURRENT: usize = 4;

/// The platform property by which an action says whether its root may be an overlay.
const PROPERTY: &str = "input_root_layers";

/// Whether an action of this platform may be given an overlay. On one, `rename(2)`
/// of an input directory fails with EXDEV; an action that cannot do without says so
/// by the property `input_root_layers = false`.
///
/// # Errors
/// The property is neither `true` nor `false`.
pub(crate) fn are_wanted(platform: Option<&Platform>) -> Result<bool, Error> {
    let mut properties = platform
        .into_iter()
        .flat_map(|platform| &platform.properties);
    let value = properties.find(|property| property.name == PROPERTY);
    match value.map(|property| property.value.as_str()) {
        None | Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some(_) => Err(Error::Malformed(
            "platform property input_root_layers is neither true nor false",
        )),
    }
}

/// The layers of one worker process.
pub(crate) struct Layers {
    cache: Arc<FileCache>,
    builds: Arc<BuildDirectories>,
    /// Entries of all layers together.
    limit: u64,
    known: Mutex<Known>,
}

/// How an input root is put together.
pub(crate) struct Chosen {
    /// What is made for this action alone: the topmost layer.
    pub(crate) plan: Plan,
    /// The layers below, the first on top. Not all of them need be there already.
    pub(crate) layers: Vec<Arc<Layer>>,
}

impl Layers {
    /// None yet, and never more than `limit` entries in all of them.
    pub(crate) fn new(cache: Arc<FileCache>, builds: Arc<BuildDirectories>, limit: u64) -> Self {
        Self {
            cache,
            builds,
            limit,
            known: Mutex::default(),
        }
    }

    /// Whether a root in which outputs need these directories is worth an overlay.
    pub(crate) fn are_worthwhile(&self, root: &Subtree, needed: &[RelativePath]) -> bool {
        let deep = |path: &RelativePath| path.components().len() > DEEPEST;
        self.limit > 0
            && (root.entries >= WORTHWHILE || self.cache.is_writable())
            && root.depth <= DEEPEST
            && !needed.iter().any(deep)
    }

    /// Decides how to put a root together.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub(crate) fn choose(
        &self,
        tenant: Tenant,
        root: &Arc<Subtree>,
        needed: &[RelativePath],
    ) -> Result<Chosen, Error> {
        let mut released = Vec::new();
        let mut known = lock(&self.known);
        let place = known.root(tenant);
        let mut chooser = Chooser::new(tenant);
        let plan = Plan::covered(root, needed, &mut chooser, place)?;
        let layers = chooser.layers();
        for layer in &layers {
            known.used(layer, self.limit, &mut released);
        }
        drop(known);
        // Their removal takes other locks.
        drop(released);
        Ok(Chosen { plan, layers })
    }

    /// Pins the files that are needed to make a root that was chosen: those of its
    /// own, and those of layers that are not there yet. They need not be in the cache.
    pub(crate) fn pin(&self, tenant: Tenant, chosen: &Chosen) -> Result<Pins, Error> {
        let mut pins = self.cache.pin(chosen.plan.keys(tenant));
        for layer in chosen.layers.iter().filter(|layer| !layer.is_placed()) {
            pins.merge(self.cache.pin(layer.plan()?.keys(tenant)));
        }
        Ok(pins)
    }

    /// Sees to it that these layers are there, and names their directories.
    ///
    /// # Errors
    /// The disk fails or is full; a file that vanished cannot be fetched again.
    pub(crate) async fn place(
        &self,
        instance: &InstanceName,
        layers: &[Arc<Layer>],
    ) -> Result<Vec<String>, Error> {
        let places = layers
            .iter()
            .map(|layer| layer.place(&self.cache, &self.builds, instance));
        let places: Vec<_> = places.collect();
        futures::stream::iter(places)
            .buffered(CONCURRENT)
            .try_collect()
            .await
    }

    /// Gives up layers that nobody uses whenever the file cache is full of files
    /// that cannot be evicted, until the layers are gone.
    pub(crate) async fn relieve(layers: Weak<Self>) {
        loop {
            let Some(cache) = layers.upgrade().map(|layers| Arc::clone(&layers.cache)) else {
                return;
            };
            cache.pressed().await;
            let Some(layers) = layers.upgrade() else {
                return;
            };
            let Some(released) = lock(&layers.known).release() else {
                continue;
            };
            // Its files are free, and the cache evicts, when it is removed.
            Layer::remove(released).await;
        }
    }

    /// Gives up all layers: their files are not pinned any more when this returns.
    /// Gives what is left to be removed, which may take long.
    pub(crate) fn close(&self) -> Vec<Remains> {
        let all = lock(&self.known).clear();
        all.into_iter().filter_map(Layer::release).collect()
    }
}
