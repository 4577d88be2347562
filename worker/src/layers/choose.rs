//! Which layers an input root lies over.

use std::marker::PhantomData;
use std::sync::Arc;

use proto::Component;

use super::difference;
use super::known::Node;
use super::layer::Layer;
use super::subtree::Subtree;
use crate::cache::Tenant;
use crate::root::{Choice, Cover, Needed};

/// A smaller subtree is linked with the rest: a layer of its own, which may be used
/// once, takes a directory for each level down to it.
const SMALLEST: u64 = 16;
/// A root lies over no more layers than these: each costs some microseconds, and
/// the kernel takes 500.
const MOST: usize = 96;
/// A directory of more subtrees that are worth a layer is not divided.
const WIDE: usize = 48;
/// Of a layer that is used in the place of another, what differs is at most so
/// small a part,
const NEAR: u64 = 8;
/// and what differs by more than this part is another kind of tree.
const FAR: u64 = 2;

/// Chooses layers for one root, from above.
///
/// A subtree that a layer has is taken from it; so is one that a layer of the same
/// path nearly has. Where nothing is known of a path it gets a layer, as a whole,
/// whatever is below: that costs nothing, for its files have to be linked somewhere.
/// Where what is known is quite different, or known in parts only, the directory
/// changes from action to action: its own files are linked and its subdirectories
/// chosen one by one. So in the course of some actions layers come to lie where
/// what stays the same is.
pub(super) struct Chooser<'a> {
    tenant: Tenant,
    layers: Vec<Arc<Layer>>,
    known: PhantomData<&'a Node>,
}

impl Chooser<'_> {
    pub(super) fn new(tenant: Tenant) -> Self {
        Self {
            tenant,
            layers: Vec::new(),
            known: PhantomData,
        }
    }

    /// The layers, the first on top. What differs from a layer may itself be in a
    /// layer, which was chosen later and goes above.
    pub(super) fn layers(mut self) -> Vec<Arc<Layer>> {
        self.layers.reverse();
        self.layers
    }

    /// Takes the subtree from a layer that is to be made.
    fn place(&mut self, subtree: &Arc<Subtree>, path: Vec<Component>) -> Choice {
        let layer = Layer::new(self.tenant, path, Arc::clone(subtree));
        self.layers.push(Arc::new(layer));
        Choice::There
    }
}

impl<'a> Cover for Chooser<'a> {
    type Place = Option<&'a Node>;

    fn below(&self, place: Self::Place, name: &Component) -> Self::Place {
        place?.child(name)
    }

    fn choose(
        &mut self,
        place: Self::Place,
        subtree: &Arc<Subtree>,
        needed: &Needed,
        path: &dyn Fn() -> Vec<Component>,
    ) -> Choice {
        if subtree.entries < SMALLEST || self.layers.len() >= MOST {
            return Choice::Make;
        }
        let Some(node) = place else {
            return self.place(subtree, path());
        };
        let same = |layer: &&Arc<Layer>| layer.subtree.digest == subtree.digest;
        if let Some(layer) = node.layers.iter().find(same) {
            self.layers.push(Arc::clone(layer));
            return Choice::There;
        }
        let mut is_akin = false;
        for layer in node.layers.iter().filter(|layer| layer.is_placed()) {
            let budget = subtree.entries / FAR;
            let found = difference::between(&layer.subtree, subtree, budget);
            is_akin |= found.is_some();
            if let Some((difference, size)) = found
                && size <= subtree.entries / NEAR
                && !needed.is_hidden(subtree, &difference)
            {
                self.layers.push(Arc::clone(layer));
                return Choice::Differs(difference);
            }
        }
        let worth = |child: &&Arc<Subtree>| child.entries >= SMALLEST;
        let parts = subtree.children.iter().filter(worth).count();
        if parts > WIDE || (is_akin && !node.is_divided()) {
            return self.place(subtree, path());
        }
        Choice::Divide
    }
}
