//! Which layers there are, by tenant and path.

use std::collections::HashMap;
use std::sync::Arc;

use proto::Component;

use super::layer::Layer;
use crate::cache::Tenant;

/// Layers of one path; the oldest gives way.
const VERSIONS: usize = 4;

/// The layers of a worker.
#[derive(Default)]
pub(super) struct Known {
    tenants: HashMap<Tenant, Node>,
    /// Of all layers.
    entries: u64,
    clock: u64,
}

/// What is known at one path, and below.
#[derive(Default)]
pub(super) struct Node {
    /// The one that was used last comes first.
    pub(super) layers: Vec<Arc<Layer>>,
    children: HashMap<Component, Node>,
}

impl Node {
    /// What is known of a directory in this one.
    pub(super) fn child(&self, name: &Component) -> Option<&Self> {
        self.children.get(name)
    }

    /// Whether there are layers of something below.
    pub(super) fn is_divided(&self) -> bool {
        !self.children.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.layers.is_empty() && self.children.is_empty()
    }

    fn all<'a>(&'a self, into: &mut Vec<&'a Arc<Layer>>) {
        let mut nodes = vec![self];
        while let Some(node) = nodes.pop() {
            into.extend(&node.layers);
            nodes.extend(node.children.values());
        }
    }

    /// Takes a layer out, and the nodes that are empty then.
    fn take(&mut self, path: &[Component], layer: &Arc<Layer>) -> Option<Arc<Layer>> {
        let Some((first, rest)) = path.split_first() else {
            let place = self.layers.iter().position(|one| Arc::ptr_eq(one, layer))?;
            return Some(self.layers.remove(place));
        };
        let child = self.children.get_mut(first)?;
        let taken = child.take(rest, layer);
        if child.is_empty() {
            self.children.remove(first);
        }
        taken
    }
}

impl Known {
    /// What is known of a tenant's roots.
    pub(super) fn root(&self, tenant: Tenant) -> Option<&Node> {
        self.tenants.get(&tenant)
    }

    /// An action uses a layer, which may be new. A new one that there is no room for,
    /// or that another one like it forestalled, is the action's alone. What has to go
    /// for it is put into `released`.
    pub(super) fn used(&mut self, layer: &Arc<Layer>, limit: u64, released: &mut Vec<Arc<Layer>>) {
        self.clock += 1;
        layer.set_used(self.clock);
        let size = layer.subtree.entries;
        let mut node = self.tenants.entry(layer.tenant).or_default();
        for name in &layer.path {
            node = node.children.entry(name.clone()).or_default();
        }
        if let Some(place) = node.layers.iter().position(|one| Arc::ptr_eq(one, layer)) {
            let layer = node.layers.remove(place);
            node.layers.insert(0, layer);
            return;
        }
        node.layers.insert(0, Arc::clone(layer));
        self.entries += size;
        if node.layers.len() > VERSIONS {
            let idle = node.layers.iter().rposition(is_idle);
            if let Some(place) = idle {
                let old = node.layers.remove(place);
                self.entries -= old.subtree.entries;
                released.push(old);
            }
        }
        while self.entries > limit {
            match self.release() {
                Some(old) => released.push(old),
                None => {
                    self.forget(layer);
                    break;
                }
            }
        }
    }

    /// Takes out, of the layers that nobody uses, the one that was used least
    /// recently.
    pub(super) fn release(&mut self) -> Option<Arc<Layer>> {
        let mut all = Vec::new();
        for node in self.tenants.values() {
            node.all(&mut all);
        }
        let oldest = all.into_iter().filter(|layer| is_idle(layer));
        let oldest = oldest.min_by_key(|layer| layer.used()).map(Arc::clone)?;
        self.forget(&oldest);
        Some(oldest)
    }

    fn forget(&mut self, layer: &Arc<Layer>) {
        let Some(node) = self.tenants.get_mut(&layer.tenant) else {
            return;
        };
        if let Some(taken) = node.take(&layer.path, layer) {
            self.entries -= taken.subtree.entries;
        }
        if node.is_empty() {
            self.tenants.remove(&layer.tenant);
        }
    }

    /// Takes all of them out.
    pub(super) fn clear(&mut self) -> Vec<Arc<Layer>> {
        let mut all = Vec::new();
        for node in self.tenants.values() {
            node.all(&mut all);
        }
        let all = all.into_iter().map(Arc::clone).collect();
        self.tenants.clear();
        self.entries = 0;
        all
    }

    /// How many layers there are, and their entries.
    #[cfg(test)]
    pub(super) fn usage(&self) -> (usize, u64) {
        let mut all = Vec::new();
        for node in self.tenants.values() {
            node.all(&mut all);
        }
        (all.len(), self.entries)
    }
}

/// Whether no action holds it. New holders come only by way of [`Known`], which is
/// locked.
fn is_idle(layer: &Arc<Layer>) -> bool {
    Arc::strong_count(layer) == 1
}
