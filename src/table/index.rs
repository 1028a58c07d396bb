//! Which locks and waiting requests overlap a target: a trie of path components with the identities of its nodes.
//!
//! A file or subtree meets what lies on its own node, on the nodes above it, and below it: a file and something below
//! it cannot both exist, so whoever makes a directory of a name that is locked as a file is in its holder's way. A
//! pattern stands on the node of its fixed part. Whatever lies at or above that meets it; what lies below does if the
//! names from there on could match, which its automaton tells. A directory that is mounted twice, or a file with two
//! names, has two nodes with one identity: wherever the walk reaches one of them, it goes on from all of them. So a
//! look-up costs the depth of the path and not the number of locks elsewhere.
//!
//! A node stands for a name with one identity, or without one: a file that was replaced, or that came to exist, while
//! somebody waited has a node for each. The walk takes all of a name. So what overlaps is a question of two targets
//! alone, the same from either side and whatever else was asked in between; nodes that learned identities from later
//! requests would see what those that came before them do not, and a release could miss a waiter.

use crate::model::{Ask, LockId, Mode, Waiter, WaiterId};
use crate::pattern::{Overlap, Pattern, Spot};
use crate::planted::{Bug, planted};
use crate::scope::{FileId, Scope, Target};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
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
    advisory: BTreeSet<LockId>,
    queued_shared: BTreeSet<Turn>,
    queued_exclusive: BTreeSet<Turn>,
    upgrading: BTreeSet<Turn>,
    watching: BTreeSet<Turn>,
}

/// Where a request stands in its line: those inside a lock of their own family first, else by arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    level: Reverse<u8>,
    pub(super) at: WaiterId,
}

impl Turn {
    pub(super) fn of(waiter: &Waiter) -> Turn {
        Turn { level: Reverse(waiter.level), at: waiter.id }
    }

    /// The first turn and the last one that a level could have.
    fn ends_of(level: Reverse<u8>) -> (Turn, Turn) {
        (Turn { level, at: WaiterId(0) }, Turn { level, at: WaiterId(u64::MAX) })
    }
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
            Mode::Advisory => unreachable!("an advisory request never waits"),
        }
    }
}

/// Where a request stands among all that it could be in the way of: as its turn says, but on each level the upgrades
/// before all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rank {
    is_upgrade: bool,
    pub(super) turn: Turn,
}

impl Rank {
    pub(super) fn of(ask: &Ask, level: u8, at: WaiterId) -> Rank {
        Rank { is_upgrade: ask.upgrades.is_some(), turn: Turn { level: Reverse(level), at } }
    }
}

impl Slot {
    fn held_mut(&mut self, mode: Mode) -> &mut BTreeSet<LockId> {
        match mode {
            Mode::Shared => &mut self.shared,
            Mode::Exclusive => &mut self.exclusive,
            Mode::Advisory => &mut self.advisory,
        }
    }

    pub(super) fn line(&self, line: Line) -> &BTreeSet<Turn> {
        match line {
            Line::Shared => &self.queued_shared,
            Line::Exclusive => &self.queued_exclusive,
            Line::Upgrading => &self.upgrading,
            Line::Watching => &self.watching,
        }
    }

    fn line_mut(&mut self, line: Line) -> &mut BTreeSet<Turn> {
        match line {
            Line::Shared => &mut self.queued_shared,
            Line::Exclusive => &mut self.queued_exclusive,
            Line::Upgrading => &mut self.upgrading,
            Line::Watching => &mut self.watching,
        }
    }

    /// All locks here.
    pub(super) fn holders(&self) -> impl Iterator<Item = LockId> + '_ {
        self.exclusive.iter().chain(&self.shared).chain(&self.advisory).copied()
    }

    /// The advisory locks here, by first grant.
    pub(super) fn advisory(&self) -> &BTreeSet<LockId> {
        &self.advisory
    }

    /// The locks here whose mode excludes `mode`.
    pub(super) fn holders_against(&self, mode: Mode) -> impl Iterator<Item = LockId> + '_ {
        let waits = mode != Mode::Advisory || planted(Bug::AdvisoryWaits);
        let exclusive = waits.then_some(&self.exclusive);
        let shared = (mode == Mode::Exclusive).then_some(&self.shared);
        let advisory = (mode == Mode::Exclusive && planted(Bug::AdvisoryKeepsOut)).then_some(&self.advisory);
        [exclusive, shared, advisory].into_iter().flatten().flatten().copied()
    }

    /// The waiting requests here that come before one of this rank and whose mode excludes `mode`.
    pub(super) fn queued_against(&self, mode: Mode, rank: Rank) -> impl Iterator<Item = Turn> + '_ {
        let (first, last) = Turn::ends_of(rank.turn.level);
        let (others, upgrades) = if rank.is_upgrade { (first, rank.turn) } else { (rank.turn, last) };
        self.lines_against(mode).flat_map(move |line| {
            let before = if line == Line::Upgrading { upgrades } else { others };
            self.line(line).range(..before).copied()
        })
    }

    /// The queues here whose mode excludes `mode`, each in its order.
    pub(super) fn queues_for(&self, mode: Mode) -> impl Iterator<Item = impl Iterator<Item = Turn> + '_> + '_ {
        self.lines_against(mode).map(|line| self.line(line).iter().copied())
    }

    /// The queues of requests that keep others out of `mode`.
    fn lines_against(&self, mode: Mode) -> impl Iterator<Item = Line> {
        let lines: &[Line] = match mode {
            Mode::Shared => &[Line::Exclusive, Line::Upgrading],
            Mode::Exclusive => &[Line::Shared, Line::Exclusive, Line::Upgrading],
            Mode::Advisory => &[],
        };
        lines.iter().copied()
    }

    fn has_waiters(&self) -> bool {
        Line::ALL.into_iter().any(|line| !self.line(line).is_empty())
    }

    fn is_empty(&self) -> bool {
        self.holders().next().is_none() && !self.has_waiters()
    }
}

/// Names a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum SlotId {
    /// The file of a node, or the resource.
    File(NodeId),
    /// The subtree of a node.
    Tree(NodeId),
    /// A pattern, by the number that it has while anything stands on it.
    Pattern(u64),
}

/// What stands on one pattern.
#[derive(Debug)]
struct OnPattern {
    pattern: Pattern,
    slot: Slot,
}

/// Whether a slot's scope has something in common with a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meeting {
    Yes,
    /// It would take too long to tell: taken for a yes. Whoever asks for such a pattern is refused, so that this is
    /// never the answer to a request that is taken.
    Unknown,
    No,
}

impl Meeting {
    fn of(meets: bool) -> Meeting {
        if meets { Meeting::Yes } else { Meeting::No }
    }

    fn of_two(overlap: Overlap) -> Meeting {
        match overlap {
            Overlap::At(_) => Meeting::Yes,
            Overlap::Unknown => Meeting::Unknown,
            Overlap::No if planted(Bug::PatternsByPrefix) => Meeting::Yes,
            Overlap::No => Meeting::No,
        }
    }
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
    /// The patterns whose fixed part this is, by the rest of their text.
    patterns: BTreeMap<Box<[u8]>, u64>,
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
    patterns: HashMap<u64, OnPattern>,
    next_pattern: u64,
    /// What stands on a pattern on which nothing stands any more.
    nothing: Slot,
}

impl Index {
    pub(super) fn new() -> Index {
        Index {
            nodes: vec![Node::default(), Node::default()],
            free: Vec::new(),
            by_id: HashMap::new(),
            patterns: HashMap::new(),
            next_pattern: 0,
            nothing: Slot::default(),
        }
    }

    pub(super) fn slot(&self, slot: SlotId) -> &Slot {
        match slot {
            SlotId::File(node) => &self.nodes[node].file,
            SlotId::Tree(node) => &self.nodes[node].tree,
            SlotId::Pattern(number) => self.patterns.get(&number).map_or(&self.nothing, |on| &on.slot),
        }
    }

    /// How many patterns have something standing on them.
    pub(super) fn patterns(&self) -> usize {
        self.patterns.len()
    }

    // ── Entries ─────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn add_lock(&mut self, target: &Target, mode: Mode, lock: LockId) {
        let new = self.enter(target).held_mut(mode).insert(lock);
        assert!(new, "{lock} was indexed twice");
    }

    pub(super) fn remove_lock(&mut self, target: &Target, mode: Mode, lock: LockId) {
        self.leave(target, |slot| slot.held_mut(mode).remove(&lock));
    }

    pub(super) fn add_waiter(&mut self, waiter: &Waiter) {
        let new = self.enter(&waiter.ask.target).line_mut(Line::of(waiter)).insert(Turn::of(waiter));
        assert!(new, "{:?} was indexed twice", waiter.id);
    }

    pub(super) fn remove_waiter(&mut self, waiter: &Waiter) {
        self.leave(&waiter.ask.target, |slot| slot.line_mut(Line::of(waiter)).remove(&Turn::of(waiter)));
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
        if let Scope::Pattern(pattern) = &target.scope {
            self.forget_if_empty(node, pattern);
        }
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
        match scope {
            Scope::File(_) | Scope::Resource(_) => &mut node.file,
            Scope::Subtree(_) => &mut node.tree,
            Scope::Pattern(pattern) => {
                let number = *node.patterns.entry(pattern.rest().into()).or_insert_with(|| {
                    self.next_pattern += 1;
                    self.next_pattern
                });
                let new = || OnPattern { pattern: pattern.clone(), slot: Slot::default() };
                &mut self.patterns.entry(number).or_insert_with(new).slot
            }
        }
    }

    fn forget_if_empty(&mut self, node: NodeId, pattern: &Pattern) {
        let number = self.nodes[node].patterns[pattern.rest()];
        if self.patterns[&number].slot.is_empty() {
            self.patterns.remove(&number);
            self.nodes[node].patterns.remove(pattern.rest());
        }
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
        let Node { file, tree, patterns, .. } = &self.nodes[node];
        assert!(file.is_empty() && tree.is_empty() && patterns.is_empty());
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
        let covers = |pattern: &Pattern, spot: Spot| {
            Meeting::of(match &target.scope {
                Scope::File(_) => pattern.matches(spot),
                Scope::Subtree(_) => pattern.matches_all_of(spot),
                Scope::Pattern(other) => pattern.matches_all_that(spot, other),
                Scope::Resource(_) => false,
            })
        };
        let end = names(&target.scope).count();
        self.walk(target, |node, depth| {
            self.offer(SlotId::Tree(node), f)?;
            if depth == end && matches!(target.scope, Scope::File(_) | Scope::Resource(_)) {
                self.offer(SlotId::File(node), f)?;
            }
            self.offer_patterns(node, depth, target, covers, &mut |id, slot, _| f(id, slot))
        })
    }

    /// Calls `f` with the slots that are not empty and whose scope overlaps the target's.
    pub(super) fn overlapping<B>(
        &self,
        target: &Target,
        f: &mut impl FnMut(SlotId, &Slot) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        self.meeting(target, &mut |id, slot, _| f(id, slot))
    }

    /// A pattern here that cannot be compared with that of the target within bounds.
    pub(super) fn incomparable(&self, target: &Target) -> Option<&Pattern> {
        let found = self.meeting(target, &mut |id, _, meeting| match (id, meeting) {
            (SlotId::Pattern(number), Meeting::Unknown) => ControlFlow::Break(number),
            _ => ControlFlow::Continue(()),
        });
        found.break_value().map(|number| &self.patterns[&number].pattern)
    }

    fn meeting<B>(
        &self,
        target: &Target,
        f: &mut impl FnMut(SlotId, &Slot, Meeting) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let end = names(&target.scope).count();
        let meets = |pattern: &Pattern, spot: Spot| match &target.scope {
            Scope::File(_) => Meeting::of(pattern.matches(spot)),
            Scope::Subtree(_) => Meeting::of(pattern.reaches_into(spot)),
            Scope::Pattern(other) => Meeting::of_two(pattern.overlap(spot, other)),
            Scope::Resource(_) => Meeting::No,
        };
        self.walk(target, |node, depth| {
            for id in [SlotId::Tree(node), SlotId::File(node)] {
                self.offer(id, &mut |id, slot| f(id, slot, Meeting::Yes))?;
            }
            match &target.scope {
                Scope::Pattern(pattern) if depth == end => {
                    self.offer_patterns(node, depth, target, meets, f)?;
                    self.below_pattern(node, pattern, pattern.start(), f)
                }
                _ if depth == end => {
                    // Whatever a pattern matches lies below its fixed part.
                    self.offer_patterns(node, depth, target, |_, _| Meeting::Yes, f)?;
                    if planted(Bug::BelowNotSeen) { ControlFlow::Continue(()) } else { self.below(node, f) }
                }
                _ => self.offer_patterns(node, depth, target, meets, f),
            }
        })
    }

    /// The slots that stand for exactly the target's scope: its own, and those of its other names.
    pub(super) fn exactly(&self, target: &Target, f: &mut impl FnMut(&Slot)) {
        for node in self.nodes_of(target) {
            let slot = match &target.scope {
                Scope::File(_) | Scope::Resource(_) => Some(&self.nodes[node].file),
                Scope::Subtree(_) => Some(&self.nodes[node].tree),
                Scope::Pattern(pattern) => {
                    let number = self.nodes[node].patterns.get(pattern.rest());
                    number.map(|number| &self.patterns[number].slot)
                }
            };
            if let Some(slot) = slot.filter(|slot| !slot.is_empty()) {
                f(slot);
            }
        }
    }

    /// Whether anything was asked for under which this file or directory was met.
    pub(super) fn knows(&self, id: FileId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Whether anything stands on exactly the target's scope.
    pub(super) fn has(&self, target: &Target) -> bool {
        let mut is_there = false;
        self.exactly(target, &mut |_| is_there = true);
        is_there
    }

    /// Calls `at` with each node on the way to the target and of the target itself, and how many names lead there.
    fn walk<B>(&self, target: &Target, mut at: impl FnMut(NodeId, usize) -> ControlFlow<B>) -> ControlFlow<B> {
        let mut nodes = self.roots_of(target);
        let mut depth = 0;
        for name in names(&target.scope) {
            for &node in &nodes {
                at(node, depth)?;
            }
            depth += 1;
            self.step_down(&mut nodes, name, target.ids.get(depth));
        }
        nodes.iter().try_for_each(|&node| at(node, depth))
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
        let id = id.filter(|_| !planted(Bug::HardLinkNotSeen));
        let namesakes = id.and_then(|id| self.by_id.get(id)).into_iter().flatten();
        for &node in namesakes {
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        }
    }

    fn offer<B>(&self, id: SlotId, f: &mut impl FnMut(SlotId, &Slot) -> ControlFlow<B>) -> ControlFlow<B> {
        let slot = self.slot(id);
        if slot.is_empty() { ControlFlow::Continue(()) } else { f(id, slot) }
    }

    /// Offers the patterns on a node to which the first `depth` names of the target lead, as far as the rest of the
    /// names leads each of them to where `meets` says so.
    fn offer_patterns<B>(
        &self,
        node: NodeId,
        depth: usize,
        target: &Target,
        meets: impl Fn(&Pattern, Spot) -> Meeting,
        f: &mut impl FnMut(SlotId, &Slot, Meeting) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        for &number in self.nodes[node].patterns.values() {
            let OnPattern { pattern, slot } = &self.patterns[&number];
            let rest = names(&target.scope).skip(depth);
            let spot = rest.fold(pattern.start(), |spot, name| pattern.down(spot, name));
            let meeting = if spot.is_dead() { Meeting::No } else { meets(pattern, spot) };
            if meeting != Meeting::No {
                f(SlotId::Pattern(number), slot, meeting)?;
            }
        }
        ControlFlow::Continue(())
    }

    fn below<B>(&self, node: NodeId, f: &mut impl FnMut(SlotId, &Slot, Meeting) -> ControlFlow<B>) -> ControlFlow<B> {
        for &child in self.nodes[node].children.values().flatten() {
            let on_patterns = self.nodes[child].patterns.values().map(|&number| SlotId::Pattern(number));
            for id in [SlotId::Tree(child), SlotId::File(child)].into_iter().chain(on_patterns) {
                self.offer(id, &mut |id, slot| f(id, slot, Meeting::Yes))?;
            }
            self.below(child, f)?;
        }
        ControlFlow::Continue(())
    }

    /// What lies below a node to which a pattern's automaton has come, as far as it could match there.
    fn below_pattern<B>(
        &self,
        node: NodeId,
        pattern: &Pattern,
        at: Spot,
        f: &mut impl FnMut(SlotId, &Slot, Meeting) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        for (name, children) in &self.nodes[node].children {
            let spot = pattern.down(at, name);
            if spot.is_dead() {
                continue;
            }
            for &child in children {
                if pattern.reaches_into(spot) {
                    self.offer(SlotId::Tree(child), &mut |id, slot| f(id, slot, Meeting::Yes))?;
                }
                if pattern.matches(spot) {
                    self.offer(SlotId::File(child), &mut |id, slot| f(id, slot, Meeting::Yes))?;
                }
                for &number in self.nodes[child].patterns.values() {
                    let OnPattern { pattern: other, slot } = &self.patterns[&number];
                    let meeting = Meeting::of_two(pattern.overlap(spot, other));
                    if meeting != Meeting::No {
                        f(SlotId::Pattern(number), slot, meeting)?;
                    }
                }
                self.below_pattern(child, pattern, spot, f)?;
            }
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
        Scope::File(_) | Scope::Subtree(_) | Scope::Pattern(_) => FILES,
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
