//! What the tree of invocations says of itself, counted anew.

use super::super::invocation::{InvocationId, Invocations, ROOT};

/// Checks every count, and returns how many seats are queued.
pub(super) fn check(tree: &Invocations) -> usize {
    below(tree, ROOT).queued
}

#[derive(Default)]
struct Counts {
    queued: usize,
    tasks: usize,
}

fn below(tree: &Invocations, id: InvocationId) -> Counts {
    let node = tree.get(id);
    let mut counts = Counts::default();
    for (key, child) in &node.children {
        let lineage = tree.get(*child).lineage.as_ref().unwrap();
        assert_eq!(lineage.last(), Some(key));
        assert_eq!(tree.get(*child).parent, Some(id));
        let child = below(tree, *child);
        counts.queued += child.queued;
        counts.tasks += child.tasks;
    }
    assert_eq!(node.queued_below, counts.queued);
    counts.queued += node.order.len();
    assert!(counts.tasks <= node.tasks);
    counts.tasks = node.tasks;
    assert!(node.executing as usize <= node.tasks);
    counts
}

/// Nothing is left of what was there.
pub(super) fn is_bare(tree: &Invocations) -> bool {
    let root = tree.get(ROOT);
    root.children.is_empty() && root.tasks == 0 && root.executing == 0 && !tree.is_ready()
}
