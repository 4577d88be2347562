//! What the tree of invocations says of itself, counted anew.

use std::collections::{BTreeMap, BTreeSet};

use super::super::invocation::{InvocationId, Invocations, ROOT};

/// Checks every count, and returns how many seats are queued.
pub(super) fn check(tree: &Invocations) -> usize {
    below(tree, ROOT).queued
}

/// Checks what is counted of tasks that are executed, given for each the invocations
/// that want it.
pub(super) fn check_started(tree: &Invocations, tasks: &[Vec<InvocationId>]) {
    let mut seats = BTreeMap::<_, usize>::new();
    let mut workers = BTreeMap::<_, usize>::new();
    for wanting in tasks {
        let chains: Vec<_> = wanting.iter().flat_map(|id| tree.chain(*id)).collect();
        for id in &chains {
            *seats.entry(*id).or_default() += 1;
        }
        for id in chains.into_iter().collect::<BTreeSet<_>>() {
            *workers.entry(id).or_default() += 1;
        }
    }
    let mut rest = vec![ROOT];
    while let Some(id) = rest.pop() {
        let node = tree.get(id);
        let expected = |counts: &BTreeMap<_, _>| counts.get(&id).copied().unwrap_or_default();
        assert_eq!(node.started, expected(&seats));
        assert_eq!(node.executing as usize, expected(&workers));
        rest.extend(node.children.values());
    }
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
