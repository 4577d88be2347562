//! The tree of invocations: whose the queued and the executing actions are.

use std::collections::BTreeSet;
use std::sync::Arc;

use prost::Message as _;
use proto::wire::protobuf;

use super::aging::Level;
use super::explain::COUNTED;
use super::fairness::Score;
use super::limits::Limits;
use super::locality::{Idle, IdleChild};
use super::map::Map;
use super::order::{Order, Place};
use super::task::TaskId;
use super::turnover::{Turnover, Turnovers};

/// What tells one invocation from its siblings: a packed message, as in Buildbarn
/// (buildqueuestate.InvocationName), such as a REv2 RequestMetadata of which only
/// `tool_invocation_id` is set.
///
/// It is kept encoded, in one piece: keys are compared for each action that comes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InvocationKey(Arc<[u8]>);

impl From<protobuf::Any> for InvocationKey {
    fn from(any: protobuf::Any) -> Self {
        Self(any.encode_to_vec().into())
    }
}

impl From<&InvocationKey> for protobuf::Any {
    fn from(key: &InvocationKey) -> Self {
        // What was encoded here can be decoded.
        Self::decode(&*key.0).unwrap_or_default()
    }
}

/// The keys from the outermost invocation (a user, say) to the innermost (one run
/// of a build tool).
pub(super) type Lineage = Arc<[InvocationKey]>;

/// Names an invocation within one tree, while it is pinned there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct InvocationId(pub(super) usize);

/// The invocation that all others belong to.
pub(super) const ROOT: InvocationId = InvocationId(0);

/// One invocation. It exists while a task or a worker pins it or it has children.
#[derive(Debug, Default)]
pub(super) struct Invocation {
    pub(super) lineage: Option<Lineage>,
    pub(super) parent: Option<InvocationId>,
    pub(super) children: Map<InvocationKey, InvocationId>,
    pins: usize,
    /// Unfinished tasks of it and of its descendants. One that several of these want
    /// counts for each.
    pub(super) tasks: usize,
    /// Those of them that are executed, counted likewise.
    pub(super) started: usize,
    /// Those of them that are queued, and directly its own.
    pub(super) order: Order,
    /// How many are queued in its descendants.
    pub(super) queued_below: usize,
    /// How many workers execute tasks of it or of its descendants. A task that
    /// several of these want has one worker.
    pub(super) executing: u32,
    /// When it was last served: counts up.
    last_started: u64,
    /// Children that have something to hand out, the one to be served next first.
    ready: BTreeSet<Ready>,
    /// Its own entry in its parent's `ready`.
    ready_as: Option<(Ready, Level)>,
    /// Its idle workers, and its entry in its parent's account of them.
    pub(super) idle: Idle,
    pub(super) idle_as: Option<IdleChild>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ready {
    score: Score,
    last_started: u64,
    id: InvocationId,
}

/// The invocations of one queue.
///
/// Each change is carried from an invocation up to the root, where every level
/// keeps its children sorted. So handing out a task costs a logarithm per level,
/// however many invocations and operations there are.
#[derive(Debug)]
pub(super) struct Invocations {
    nodes: Vec<Invocation>,
    free: Vec<InvocationId>,
    limits: Limits,
    served: u64,
    turnovers: Turnovers,
}

impl Invocations {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            nodes: vec![Invocation::default()],
            free: Vec::new(),
            limits,
            served: 0,
            turnovers: Turnovers::default(),
        }
    }

    /// An invocation that exists.
    pub(super) fn get(&self, id: InvocationId) -> &Invocation {
        &self.nodes[id.0]
    }

    pub(super) fn get_mut(&mut self, id: InvocationId) -> &mut Invocation {
        &mut self.nodes[id.0]
    }

    pub(super) fn find(&self, lineage: &[InvocationKey]) -> Option<InvocationId> {
        let mut keys = lineage.iter();
        keys.try_fold(ROOT, |id, key| self.get(id).children.get(key).copied())
    }

    /// The outermost invocation of a lineage and the innermost, as far as they exist.
    pub(super) fn find_ends(
        &self,
        lineage: &[InvocationKey],
    ) -> (Option<InvocationId>, Option<InvocationId>) {
        let Some((first, rest)) = lineage.split_first() else {
            return (None, Some(ROOT));
        };
        let child = |id: InvocationId, key| self.get(id).children.get(key).copied();
        let outermost = child(ROOT, first);
        let innermost = outermost.and_then(|id| rest.iter().try_fold(id, child));
        (outermost, innermost)
    }

    /// Pins an invocation, made if there is none.
    pub(super) fn open(&mut self, lineage: &Lineage) -> InvocationId {
        let mut id = ROOT;
        for (depth, key) in lineage.iter().enumerate() {
            if let Some(child) = self.get(id).children.get(key) {
                id = *child;
                continue;
            }
            let whole = depth + 1 == lineage.len();
            let node = Invocation {
                lineage: Some(if whole {
                    lineage.clone()
                } else {
                    lineage[..=depth].into()
                }),
                parent: Some(id),
                ..Invocation::default()
            };
            let child = if let Some(child) = self.free.pop() {
                self.nodes[child.0] = node;
                child
            } else {
                self.nodes.push(node);
                InvocationId(self.nodes.len() - 1)
            };
            self.get_mut(id).children.insert(key.clone(), child);
            self.turnovers.at(depth + 1).created += 1;
            self.pin(id);
            id = child;
        }
        self.pin(id);
        id
    }

    pub(super) fn pin(&mut self, id: InvocationId) {
        self.get_mut(id).pins += 1;
    }

    /// Takes a pin back. What nobody needs any more goes.
    pub(super) fn unpin(&mut self, mut id: InvocationId) {
        loop {
            let node = self.get_mut(id);
            node.pins = node.pins.saturating_sub(1);
            let Some(parent) = node.parent.filter(|_| node.pins == 0) else {
                return;
            };
            let gone = std::mem::take(node);
            self.turnovers.at(gone.depth()).removed += 1;
            if let Some(key) = gone.lineage.as_ref().and_then(|lineage| lineage.last()) {
                self.get_mut(parent).children.remove(key);
            }
            self.free.push(id);
            id = parent;
        }
    }

    /// An invocation and those it belongs to, the root last.
    pub(super) fn chain(&self, id: InvocationId) -> impl Iterator<Item = InvocationId> + '_ {
        std::iter::successors(Some(id), |id| self.get(*id).parent)
    }

    /// The same, the root left out and the outermost first.
    pub(super) fn path(&self, id: InvocationId) -> Vec<InvocationId> {
        let mut path: Vec<_> = self.chain(id).filter(|id| *id != ROOT).collect();
        path.reverse();
        path
    }

    /// The innermost invocation that all of these belong to.
    pub(super) fn common(&self, ids: &[InvocationId]) -> InvocationId {
        let mut paths = ids.iter().map(|id| self.path(*id));
        let first = paths.next().unwrap_or_default();
        let shared = paths.fold(first, |shared, path| {
            let both = shared.iter().zip(&path);
            both.take_while(|(a, b)| a == b).map(|(a, _)| *a).collect()
        });
        shared.last().copied().unwrap_or(ROOT)
    }

    /// What keeps the tasks that are directly an invocation's own from being handed
    /// out now: the name of a setting.
    pub(super) fn held_by(&self, id: InvocationId) -> Option<&'static str> {
        let tenant = self.chain(id).take_while(|id| *id != ROOT).last()?;
        let own = self.limits.holds(self.get(id), false, true);
        own.or_else(|| self.limits.holds(self.get(tenant), true, false))
    }

    /// One more task is an invocation's own, or one less.
    pub(super) fn count_task(&mut self, id: InvocationId, more: bool) {
        let mut next = Some(id);
        while let Some(id) = next {
            let node = self.get_mut(id);
            let was = node.tasks;
            node.tasks = if more { was + 1 } else { was.saturating_sub(1) };
            next = node.parent;
            match (was, node.tasks) {
                (0, 1) => {
                    let depth = node.depth();
                    self.turnovers.at(depth).activated += 1;
                }
                (1, 0) => {
                    let depth = node.depth();
                    self.turnovers.at(depth).deactivated += 1;
                }
                _ => {}
            }
        }
    }

    pub(super) fn queue(&mut self, id: InvocationId, place: Place) {
        self.get_mut(id).order.insert(place);
        self.above(id, |node| node.queued_below += 1);
        self.refresh_head(id);
    }

    pub(super) fn unqueue(&mut self, id: InvocationId, place: Place) {
        self.take(id, place);
        self.refresh_head(id);
    }

    /// The same for a task that is about to start, which brings all up to date.
    pub(super) fn take(&mut self, id: InvocationId, place: Place) {
        self.get_mut(id).order.remove(place);
        self.above(id, |node| {
            node.queued_below = node.queued_below.saturating_sub(1)
        });
    }

    /// A task of these invocations starts. However many of them belong to another
    /// one, that counts it once.
    pub(super) fn start(&mut self, ids: &[InvocationId]) {
        self.served += 1;
        let served = self.served;
        self.count_started(ids, true);
        self.count(ids, |node| {
            node.executing += 1;
            node.last_started = served;
        });
    }

    /// A task of these invocations executes no more.
    pub(super) fn stop(&mut self, ids: &[InvocationId]) {
        self.count_started(ids, false);
        self.count(ids, |node| {
            node.executing = node.executing.saturating_sub(1)
        });
    }

    /// A task that executes for `others` does so for one more invocation.
    pub(super) fn start_also(&mut self, id: InvocationId, others: &[InvocationId]) {
        self.served += 1;
        let served = self.served;
        self.count_started(&[id], true);
        for id in self.only_of(id, others) {
            let node = self.get_mut(id);
            node.executing += 1;
            node.last_started = served;
        }
        self.refresh(id);
    }

    /// A task executes for an invocation no more, but for `others`.
    pub(super) fn stop_only(&mut self, id: InvocationId, others: &[InvocationId]) {
        self.count_started(&[id], false);
        for id in self.only_of(id, others) {
            let node = self.get_mut(id);
            node.executing = node.executing.saturating_sub(1);
        }
        self.refresh(id);
    }

    /// What an invocation belongs to, itself included, and none of the others does.
    fn only_of(&self, id: InvocationId, others: &[InvocationId]) -> Vec<InvocationId> {
        let mut own: Vec<_> = self.chain(id).collect();
        for other in others {
            let shared = |id| own.iter().position(|own| *own == id);
            if let Some(shared) = self.chain(*other).find_map(shared) {
                own.truncate(shared);
            }
        }
        own
    }

    fn count_started(&mut self, ids: &[InvocationId], more: bool) {
        for id in ids {
            let mut next = Some(*id);
            while let Some(id) = next {
                let node = self.get_mut(id);
                let was = node.started;
                node.started = if more { was + 1 } else { was.saturating_sub(1) };
                next = node.parent;
            }
        }
    }

    fn count(&mut self, ids: &[InvocationId], change: impl Fn(&mut Invocation)) {
        if let [id] = ids {
            // Most often there is one.
            change(self.get_mut(*id));
            self.above(*id, change);
            self.refresh(*id);
            return;
        }
        let mut all: Vec<_> = ids.iter().flat_map(|id| self.chain(*id)).collect();
        all.sort_unstable();
        all.dedup();
        for id in all {
            change(self.get_mut(id));
        }
        for id in ids {
            self.refresh(*id);
        }
    }

    fn above(&mut self, id: InvocationId, change: impl Fn(&mut Invocation)) {
        let mut next = self.get(id).parent;
        while let Some(id) = next {
            change(self.get_mut(id));
            next = self.get(id).parent;
        }
    }

    /// How many invocations came and went, by level.
    pub(super) fn turnovers(&self) -> &[Turnover] {
        self.turnovers.all()
    }

    /// By how many workers the outermost invocations that want more differ.
    pub(super) fn spread(&self) -> u32 {
        let children = self.get(ROOT).children.values().map(|id| self.get(*id));
        let wanting = children.filter(|node| node.has_queued());
        let executing = wanting.map(|node| node.executing);
        let extremes = executing.fold(None, |extremes, it| {
            let (least, most) = extremes.unwrap_or((it, it));
            Some((it.min(least), it.max(most)))
        });
        extremes.map_or(0, |(least, most): (u32, u32)| most - least)
    }

    /// The level of the task that would be handed out next, if there is one.
    fn head(&self, id: InvocationId) -> Option<Level> {
        let node = self.get(id);
        let is_tenant = node.parent == Some(ROOT);
        if self.limits.holds(node, is_tenant, false).is_some() {
            return None;
        }
        if let Some(place) = self.direct(id) {
            return Some(place.level);
        }
        let child = node.ready.first()?.id;
        self.get(child).ready_as.map(|(_, level)| level)
    }

    /// The next of the tasks that are directly its own, if one may be handed out.
    fn direct(&self, id: InvocationId) -> Option<Place> {
        let node = self.get(id);
        let held = id != ROOT && self.limits.holds(node, false, true).is_some();
        node.order.first().filter(|_| !held)
    }

    /// The task to hand out next. Tasks that are directly an invocation's own go
    /// before its children's. Of children whose scores are equal `preferred` may
    /// choose one by its depth, the outermost being 0; else it is the one served
    /// least recently.
    pub(super) fn next(
        &self,
        preferred: impl Fn(usize) -> Option<InvocationId>,
    ) -> Option<(InvocationId, TaskId)> {
        let mut id = ROOT;
        for depth in 0.. {
            if let Some(place) = self.direct(id) {
                return Some((id, place.task));
            }
            let best = self.get(id).ready.first()?;
            let sticky = preferred(depth).filter(|other| {
                let other = self.get(*other);
                other.parent == Some(id)
                    && other.ready_as.is_some_and(|(r, _)| r.score == best.score)
            });
            id = sticky.unwrap_or(best.id);
        }
        None
    }

    /// Whether there is a task to hand out.
    pub(super) fn is_ready(&self) -> bool {
        self.head(ROOT).is_some()
    }

    /// How many invocations would be served before this one, or before one that it
    /// belongs to, as far as is counted at each level.
    pub(super) fn ahead(&self, id: InvocationId) -> usize {
        let at_each_level = self.chain(id).filter_map(|id| {
            let node = self.get(id);
            let siblings = &self.get(node.parent?).ready;
            Some(match node.ready_as {
                Some((own, _)) => siblings.range(..own).take(COUNTED).count(),
                None => siblings.len().min(COUNTED),
            })
        });
        at_each_level.sum()
    }

    /// Brings what its ancestors know of an invocation up to date, after counts of
    /// any of them have changed.
    pub(super) fn refresh(&mut self, mut id: InvocationId) {
        while let Some(parent) = self.refresh_one(id) {
            id = parent.0;
        }
    }

    /// The same, after only its own queue has changed.
    fn refresh_head(&mut self, mut id: InvocationId) {
        while let Some((parent, true)) = self.refresh_one(id) {
            id = parent;
        }
    }

    /// Brings what its parent knows of an invocation up to date. Returns the parent,
    /// and whether there was something new.
    fn refresh_one(&mut self, id: InvocationId) -> Option<(InvocationId, bool)> {
        let parent = self.get(id).parent?;
        let node = self.get(id);
        let ready = self.head(id).map(|level| {
            let ready = Ready {
                score: Score::new(node.executing, level),
                last_started: node.last_started,
                id,
            };
            (ready, level)
        });
        let idle = node.idle.as_child(id, node.executing);
        let (was_ready, was_idle) = (node.ready_as, node.idle_as);
        let above = self.get_mut(parent);
        if was_ready != ready {
            was_ready.inspect(|(was, _)| {
                above.ready.remove(was);
            });
            above.ready.extend(ready.map(|(ready, _)| ready));
        }
        above.idle.replace_child(was_idle, idle);
        let node = self.get_mut(id);
        (node.ready_as, node.idle_as) = (ready, idle);
        Some((parent, was_ready != ready || was_idle != idle))
    }

    /// Every invocation that exists.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Invocation> {
        let alive = |node: &&Invocation| node.parent.is_some();
        self.nodes
            .iter()
            .take(1)
            .chain(self.nodes.iter().skip(1).filter(alive))
    }
}

impl Invocation {
    pub(super) fn has_queued(&self) -> bool {
        self.order.len() + self.queued_below > 0
    }

    /// How far below the root it is.
    pub(super) fn depth(&self) -> usize {
        self.lineage.as_ref().map_or(0, |lineage| lineage.len())
    }

    /// It does something now, or wants to.
    pub(super) fn is_active(&self) -> bool {
        self.executing > 0 || self.has_queued()
    }
}
