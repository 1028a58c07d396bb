//! Which locks and waiting requests overlap a target: a trie of path components with the identities of its nodes.
//!
//! A file meets what lies on its own node and the subtrees on the nodes above it; a subtree also meets everything
//! below it. A directory that is mounted twice, or a file with two names, has two nodes with one identity: wherever
//! the walk reaches one of them, it goes on from all of them. So a look-up costs the depth of the path and not the
//! number of locks elsewhere.
//!
//! A node stands for a name with one identity, or without one: a file that was replaced, or that came to exist, while
//! somebody waited has a node for each. The walk takes all of a name. So what overlaps is a question of two targets
//! alone, the same from either side and whatever else was asked in between; nodes that learned identities from later
//! requests would see what those that came before them do not, and a release could miss a waiter.

use crate::model::{Ask, LockId, Mode, Waiter, WaiterId};
use crate::scope::{FileId, Scope, Target};
use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;

/// Index of a node.
type NodeId = usize;

/// The node of `/`.
const FILES: NodeId = 0;
/// The node whose children are the named resources.
const RESOURCES: NodeId = 1;

/// What stands on one scope.
#[derive(Debug, Default)]
pub(super) struct Slot {
    shared: BTreeSet<LockId>,
    exclusive: BTreeSet<LockId>,
    queued_shared: BTreeSet<WaiterId>,
    queued_exclusive: BTreeSet<WaiterId>,
    upgrading: BTreeSet<WaiterId>,
    watching: BTreeSet<WaiterId>,
}

/// One of the queues of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Line {
    Shared,
    Exclusive,
    /// Requests to make a shared lock exclusive: first in the queue, whenever they came.
    Upgrading,
    /// Requests that take nothing: they wait, nobody waits for them.
    Watching,
}

impl Line {
    pub(super) const ALL: [Line; 4] = [Line::Shared, Line::Exclusive, Line::Upgrading, Line::Watching];

    pub(super) fn of(waiter: &Waiter) -> Line {
        match waiter.ask.mode {
            _ if !waiter.takes => Line::Watching,
            _ if waiter.ask.upgrades.is_some() => Line::Upgrading,
            Mode::Shared => Line::Shared,
            Mode::Exclusive => Line::Exclusive,
        }
    }
}

/// Where a request stands in the order of service: upgrades before all others, else by arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rank {
    is_upgrade: bool,
    at: WaiterId,
}

impl Rank {
    pub(super) fn of(ask: &Ask, at: WaiterId) -> Rank {
        Rank { is_upgrade: ask.upgrades.is_some(), at }
    }
}

impl Slot {
    fn held_mut(&mut self, mode: Mode) -> &mut BTreeSet<LockId> {
        match mode {
            Mode::Shared => &mut self.shared,
            Mode::Exclusive => &mut self.exclusive,
        }
    }

    pub(super) fn line(&self, line: Line) -> &BTreeSet<WaiterId> {
        match line {
            Line::Shared => &self.queued_shared,
            Line::Exclusive => &self.queued_exclusive,
            Line::Upgrading => &self.upgrading,
            Line::Watching => &self.watching,
        }
    }

    fn line_mut(&mut self, line: Line) -> &mut BTreeSet<WaiterId> {
        match line {
            Line::Shared => &mut self.queued_shared,
            Line::Exclusive => &mut self.queued_exclusive,
            Line::Upgrading => &mut self.upgrading,
            Line::Watching => &mut self.watching,
        }
    }

    /// All locks here.
    pub(super) fn holders(&self) -> impl Iterator<Item = LockId> + '_ {
        self.exclusive.iter().chain(&self.shared).copied()
    }

    /// The locks here whose mode excludes `mode`.
    pub(super) fn holders_against(&self, mode: Mode) -> impl Iterator<Item = LockId> + '_ {
        let shared = if mode == Mode::Exclusive { Some(&self.shared) } else { None };
        self.exclusive.iter().chain(shared.into_iter().flatten()).copied()
    }

    /// The waiting requests here that come before one of this rank and whose mode excludes `mode`.
    pub(super) fn queued_against(&self, mode: Mode, rank: Rank) -> impl Iterator<Item = WaiterId> + '_ {
        let others = !rank.is_upgrade;
        let shared = (others && mode == Mode::Exclusive).then_some(&self.queued_shared);
        let exclusive = others.then_some(&self.queued_exclusive);
        let upgrades = if others { WaiterId(u64::MAX) } else { rank.at };
        let by_arrival = shared.into_iter().chain(exclusive).flat_map(move |line| line.range(..rank.at));
        by_arrival.chain(self.upgrading.range(..upgrades)).copied()
    }

    /// The queues here whose mode excludes `mode`, each by arrival.
    pub(super) fn queues_for(&self, mode: Mode) -> impl Iterator<Item = impl Iterator<Item = WaiterId> + '_> + '_ {
        let shared = if mode == Mode::Exclusive { Some(&self.queued_shared) } else { None };
        [&self.queued_exclusive, &self.upgrading].into_iter().chain(shared).map(|line| line.iter().copied())
    }

    fn has_waiters(&self) -> bool {
        Line::ALL.into_iter().any(|line| !self.line(line).is_empty())
    }

    fn is_empty(&self) -> bool {
        self.shared.is_empty() && self.exclusive.is_empty() && !self.has_waiters()
    }
}

/// Names a slot: a node, and whether the subtree or the file is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SlotId {
    node: NodeId,
    tree: bool,
}

#[derive(Debug, Default)]
struct Node {
    parent: NodeId,
    name: Box<[u8]>,
    /// By name, one for each identity that it was asked for with; nearly always one.
    children: HashMap<Box<[u8]>, Vec<NodeId>>,
    /// The identity that the path had when it was asked for. Only the root learns it later, and keeps it.
    id: Option<FileId>,
    file: Slot,
    tree: Slot,
    /// Entries here and below. A node without any is removed.
    entries: usize,
}

/// The trie.
#[derive(Debug)]
pub(super) struct Index {
    nodes: Vec<Node>,
    free: Vec<NodeId>,
    /// Nodes by identity; nearly always one each.
    by_id: HashMap<FileId, Vec<NodeId>>,
}

impl Index {
    pub(super) fn new() -> Index {
        Index { nodes: vec![Node::default(), Node::default()], free: Vec::new(), by_id: HashMap::new() }
    }

    pub(super) fn slot(&self, slot: SlotId) -> &Slot {
        let node = &self.nodes[slot.node];
        if slot.tree { &node.tree } else { &node.file }
    }

    // ── Entries ─────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn add_lock(&mut self, target: &Target, mode: Mode, lock: LockId) {
        let new = self.enter(target).held_mut(mode).insert(lock);
        assert!(new, "{lock} was indexed twice");
    }

    pub(super) fn remove_lock(&mut self, target: &Target, mode: Mode, lock: LockId) {
        self.leave(target, |slot| slot.held_mut(mode).remove(&lock));
    }

    pub(super) fn add_waiter(&mut self, target: &Target, line: Line, waiter: WaiterId) {
        let new = self.enter(target).line_mut(line).insert(waiter);
        assert!(new, "{waiter:?} was indexed twice");
    }

    pub(super) fn remove_waiter(&mut self, target: &Target, line: Line, waiter: WaiterId) {
        self.leave(target, |slot| slot.line_mut(line).remove(&waiter));
    }

    /// The slot of a target, made if need be, with one entry more counted along the path.
    fn enter(&mut self, target: &Target) -> &mut Slot {
        let mut node = root(&target.scope);
        self.nodes[node].entries += 1;
        if self.nodes[node].id.is_none() {
            self.set_id(node, target.ids.first());
        }
        for (depth, name) in names(&target.scope).enumerate() {
            let id = target.ids.get(depth + 1);
            node = self.child(node, name, id).unwrap_or_else(|| self.add_child(node, name, id));
            self.nodes[node].entries += 1;
        }
        self.slot_mut(node, &target.scope)
    }

    /// Takes an entry out of the slot of a target and removes the nodes that are empty then.
    fn leave(&mut self, target: &Target, take_out: impl FnOnce(&mut Slot) -> bool) {
        let mut node = root(&target.scope);
        for (depth, name) in names(&target.scope).enumerate() {
            let child = self.child(node, name, target.ids.get(depth + 1));
            node = child.expect("the way to an entry is in the index");
        }
        let was_there = take_out(self.slot_mut(node, &target.scope));
        assert!(was_there, "an entry on {} was not in the index", target.scope);
        loop {
            let parent = self.nodes[node].parent;
            self.nodes[node].entries -= 1;
            if node == FILES || node == RESOURCES {
                return;
            }
            if self.nodes[node].entries == 0 {
                self.remove_node(node);
            }
            node = parent;
        }
    }

    fn slot_mut(&mut self, node: NodeId, scope: &Scope) -> &mut Slot {
        let node = &mut self.nodes[node];
        if matches!(scope, Scope::Subtree(_)) { &mut node.tree } else { &mut node.file }
    }

    fn child(&self, parent: NodeId, name: &[u8], id: Option<&FileId>) -> Option<NodeId> {
        let namesakes = self.nodes[parent].children.get(name)?;
        namesakes.iter().copied().find(|&child| self.nodes[child].id.as_ref() == id)
    }

    fn add_child(&mut self, parent: NodeId, name: &[u8], id: Option<&FileId>) -> NodeId {
        let node = Node { parent, name: name.into(), ..Node::default() };
        let child = match self.free.pop() {
            Some(free) => {
                self.nodes[free] = node;
                free
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        };
        self.nodes[parent].children.entry(name.into()).or_default().push(child);
        self.set_id(child, id);
        child
    }

    fn remove_node(&mut self, node: NodeId) {
        assert!(self.nodes[node].file.is_empty() && self.nodes[node].tree.is_empty());
        self.forget_id(node);
        let Node { parent, name, .. } = std::mem::take(&mut self.nodes[node]);
        let namesakes = self.nodes[parent].children.get_mut(&name).expect("a node is a child of its parent");
        namesakes.retain(|&other| other != node);
        if namesakes.is_empty() {
            self.nodes[parent].children.remove(&name);
        }
        self.free.push(node);
    }

    fn set_id(&mut self, node: NodeId, id: Option<&FileId>) {
        if let Some(&id) = id {
            self.nodes[node].id = Some(id);
            self.by_id.entry(id).or_default().push(node);
        }
    }

    fn forget_id(&mut self, node: NodeId) {
        let Some(id) = self.nodes[node].id.take() else { return };
        let same = self.by_id.get_mut(&id).expect("a node's identity is in the map");
        same.retain(|&other| other != node);
        if same.is_empty() {
            self.by_id.remove(&id);
        }
    }

    // ── Look-ups ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Calls `f` with the slots that are not empty and whose scope covers the target's, nearest to the root first.
    pub(super) fn covering<B>(
        &self,
        target: &Target,
        f: &mut impl FnMut(SlotId, &Slot) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let is_tree = matches!(target.scope, Scope::Subtree(_));
        self.walk(target, f, |index, node, f| {
            index.offer(node, true, f)?;
            if is_tree { ControlFlow::Continue(()) } else { index.offer(node, false, f) }
        })
    }

    /// Calls `f` with the slots that are not empty and whose scope overlaps the target's.
    pub(super) fn overlapping<B>(
        &self,
        target: &Target,
        f: &mut impl FnMut(SlotId, &Slot) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let is_tree = matches!(target.scope, Scope::Subtree(_));
        self.walk(target, f, |index, node, f| {
            index.offer(node, true, f)?;
            index.offer(node, false, f)?;
            if is_tree { index.below(node, f) } else { ControlFlow::Continue(()) }
        })
    }

    /// Calls `f` with the slots that stand for exactly the target's scope: its own, and those of its other names.
    pub(super) fn exactly(&self, target: &Target, f: &mut impl FnMut(&Slot)) {
        let is_tree = matches!(target.scope, Scope::Subtree(_));
        for node in self.nodes_of(target) {
            let slot = SlotId { node, tree: is_tree };
            if !self.slot(slot).is_empty() {
                f(self.slot(slot));
            }
        }
    }

    /// Visits the subtrees above the target, then calls `at_end` with each node of the target itself.
    fn walk<B, F: FnMut(SlotId, &Slot) -> ControlFlow<B>>(
        &self,
        target: &Target,
        f: &mut F,
        at_end: impl Fn(&Index, NodeId, &mut F) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let mut nodes = self.roots_of(target);
        for (depth, name) in names(&target.scope).enumerate() {
            for &node in &nodes {
                self.offer(node, true, f)?;
            }
            self.step_down(&mut nodes, name, target.ids.get(depth + 1));
        }
        nodes.iter().try_for_each(|&node| at_end(self, node, f))
    }

    fn nodes_of(&self, target: &Target) -> Vec<NodeId> {
        let mut nodes = self.roots_of(target);
        for (depth, name) in names(&target.scope).enumerate() {
            self.step_down(&mut nodes, name, target.ids.get(depth + 1));
        }
        nodes
    }

    /// Where the walk to a target begins: at the root, and wherever that is mounted a second time.
    fn roots_of(&self, target: &Target) -> Vec<NodeId> {
        let root = root(&target.scope);
        let mut nodes = vec![root];
        self.add_namesakes(&mut nodes, self.nodes[root].id.as_ref().or(target.ids.first()));
        nodes
    }

    /// From the nodes of a directory to those of one of its entries.
    fn step_down(&self, nodes: &mut Vec<NodeId>, name: &[u8], id: Option<&FileId>) {
        for node in std::mem::take(nodes) {
            nodes.extend(self.nodes[node].children.get(name).into_iter().flatten());
        }
        self.add_namesakes(nodes, id);
    }

    fn add_namesakes(&self, nodes: &mut Vec<NodeId>, id: Option<&FileId>) {
        let namesakes = id.and_then(|id| self.by_id.get(id)).into_iter().flatten();
        for &node in namesakes {
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        }
    }

    fn offer<B>(
        &self,
        node: NodeId,
        tree: bool,
        f: &mut impl FnMut(SlotId, &Slot) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let id = SlotId { node, tree };
        let slot = self.slot(id);
        if slot.is_empty() { ControlFlow::Continue(()) } else { f(id, slot) }
    }

    fn below<B>(&self, node: NodeId, f: &mut impl FnMut(SlotId, &Slot) -> ControlFlow<B>) -> ControlFlow<B> {
        for &child in self.nodes[node].children.values().flatten() {
            self.offer(child, true, f)?;
            self.offer(child, false, f)?;
            self.below(child, f)?;
        }
        ControlFlow::Continue(())
    }

    /// Slots that overlap the target and have waiting requests.
    pub(super) fn queues_overlapping(&self, target: &Target) -> Vec<SlotId> {
        let mut slots = Vec::new();
        let _ = self.overlapping::<()>(target, &mut |id, slot| {
            if slot.has_waiters() {
                slots.push(id);
            }
            ControlFlow::Continue(())
        });
        slots
    }
}

/// Where the walk of a scope begins.
fn root(scope: &Scope) -> NodeId {
    match scope {
        Scope::Resource(_) => RESOURCES,
        Scope::File(_) | Scope::Subtree(_) => FILES,
    }
}

/// The names along the way from the root to a scope.
fn names(scope: &Scope) -> impl Iterator<Item = &[u8]> {
    let resource = match scope {
        Scope::Resource(name) => Some(name.as_bytes()),
        _ => None,
    };
    resource.into_iter().chain(scope.components())
}
