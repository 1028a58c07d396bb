//! Who waits for whom: the search for a cycle that a new wait would close.
//!
//! Actors are agents, or sessions where each of an agent's sessions acts for itself. An actor waits for the holders
//! in the way of its requests and for the earlier requests that come before them. A request whose client is not there,
//! after a restart or in a kept place, waits for nobody, since nobody knows whether it still wants anything; and nobody
//! waits for it, since it is granted nothing and its place is passed on before long. Both begin when its client comes
//! back, which may close a cycle.

use super::ask::Verdict;
use super::index::{SlotId, Turn};
use super::{LockTable, Step};
use crate::model::*;
use crate::planted::{Bug, planted};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::ControlFlow;

/// One wait of one actor for another.
struct Edge {
    to: Actor,
    agent: Agent,
    held: bool,
}

/// The breadth-first search: nearest first, so the cycle that is named is a shortest one.
struct Search<'a> {
    table: &'a LockTable,
    /// The requester; reached again, it closes a cycle.
    goal: Actor,
    /// How each actor was reached.
    reached: HashMap<Actor, (Actor, Link)>,
    frontier: VecDeque<(Actor, Agent)>,
    /// Up to where a queue was looked through for requests against a mode: its earlier part need not be seen twice,
    /// so a search costs the number of waiting requests and not its square.
    seen: HashMap<(SlotId, Mode), Turn>,
    /// Slots whose holders were looked through against a mode.
    seen_holders: HashSet<(SlotId, Mode)>,
}

impl LockTable {
    /// The cycle that is closed if this request waits at `at` in the order of arrival.
    pub(super) fn cycle(&self, ask: &Ask, at: WaiterId) -> Option<Vec<Link>> {
        let goal = self.actor(&ask.who);
        if !self.is_waited_for(&ask.who) {
            return None;
        }
        let mut search = Search {
            table: self,
            goal: goal.clone(),
            reached: HashMap::new(),
            frontier: VecDeque::new(),
            seen: HashMap::new(),
            seen_holders: HashSet::new(),
        };
        search.expand(&goal, ask, at).or_else(|| search.run()).or_else(|| self.rivalry(ask))
    }

    /// Two who share a scope and both want it alone wait for each other, even where they act as one: neither gives up
    /// its lock while it waits.
    fn rivalry(&self, ask: &Ask) -> Option<Vec<Link>> {
        let own = &self.state.locks[&ask.upgrades?];
        let mut in_the_way = Vec::new();
        let _ = self.state.index.overlapping::<()>(&ask.target, &mut |_, slot| {
            let locks = slot.holders_against(ask.mode).map(|id| &self.state.locks[&id]);
            in_the_way.extend(locks.filter(|lock| self.keeps_out(ask, lock)).map(|lock| lock.id));
            ControlFlow::Continue(())
        });
        in_the_way.sort_unstable();
        let rivals = in_the_way.iter().flat_map(|id| self.state.upgrades_of_lock.get(id).into_iter().flatten());
        let is_rival = |waiter: &&Waiter| {
            let found = self.state.index.overlapping(&waiter.ask.target, &mut |_, slot| {
                if slot.holders().any(|id| id == own.id) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            waiter.caller.is_some() && found.is_break() && self.keeps_out(&waiter.ask, own)
        };
        let rival = rivals.map(|id| &self.state.waiters[id]).find(is_rival)?;
        let link = |waits: &Ask, behind: &Ask| Link {
            waits: waits.who.agent.clone(),
            wants: waits.target.scope.clone(),
            behind: behind.who.agent.clone(),
            held: true,
        };
        Some(vec![link(ask, &rival.ask), link(&rival.ask, ask)])
    }

    /// A cycle that one of the requests that this actor waits with is part of.
    pub(super) fn cycle_through(&self, who: &Who) -> Option<Vec<Link>> {
        let actor = self.actor(who);
        self.waits_of(&actor, &who.agent).find_map(|waiter| self.cycle(&waiter.ask, waiter.id))
    }

    /// The cycle that is closed by a request whose client is back: from now on it waits, and whoever is behind it waits
    /// for it, also where it is granted at once. A lock of its own that answers it is waited for already.
    pub(super) fn cycle_by_coming_back(&self, rows: &[Waiter]) -> Option<Vec<Link>> {
        let waits = |row: &Waiter| match self.verdict_of(row) {
            Verdict::Blocked => true,
            Verdict::Clear => !planted(Bug::ReturnClosesNoCycle),
            Verdict::Mine(_) | Verdict::Resume(_) => false,
        };
        if rows.iter().any(waits) { self.cycle_through(&rows[0].ask.who) } else { None }
    }

    /// Whether a request waits for nobody, since a lock of its own agent answers it: it may be a scope of a set, the
    /// rest of which is not there yet, or a file is being put in place under that lock, which passes by itself.
    fn is_answered(&self, ask: &Ask) -> bool {
        if planted(Bug::OwnLockClosesCycle) {
            return false;
        }
        let is_back =
            |id: LockId| self.comes_back(ask, &self.state.locks[&id].ask, |lock| self.guards_against(ask, lock));
        self.already_held(ask).is_some() || self.own_detached(ask).is_some_and(is_back)
    }

    /// The locks of an agent have changed. It may wait for what one of them had answered, and wait for others there
    /// from now on; or others have waited for a session of it, and wait for the agent itself now. That may close a
    /// cycle though nobody asks for anything. It is the request of that agent that is refused, which knows of the
    /// change.
    pub(super) fn refuse_in_cycles(&mut self, step: &mut Step) {
        let changed = step.locks_not_looked_at().into_iter().filter_map(|(id, before)| {
            let now = self.state.locks.get(&id);
            let lock = if now == before.as_ref() { None } else { now.or(before.as_ref()) };
            lock.map(|lock| lock.ask.who.agent.clone())
        });
        let agents: BTreeSet<Agent> = changed.collect();
        let waits = agents.iter().filter_map(|agent| self.state.waits_of_agent.get(agent)).flatten();
        let there = waits.map(|id| &self.state.waiters[id]).filter(|row| row.caller.is_some());
        let requests: BTreeSet<WaiterId> = there.map(Waiter::first).collect();
        for first in requests {
            let rows = self.rows_of(first);
            let cycle = rows.iter().find_map(|row| self.cycle(&row.ask, row.id));
            if let (Some(cycle), Some(caller)) = (cycle, rows[0].caller) {
                self.take_out(step, first);
                self.refuse_set(step, caller, &rows, RefusedFor::Deadlock(cycle));
            }
        }
    }

    /// Whether anybody could wait for this actor at all. Most requests come from agents that hold nothing yet, and
    /// those can close no cycle.
    fn is_waited_for(&self, who: &Who) -> bool {
        self.state.locks_of_agent.contains_key(&who.agent) || self.state.waits_of_agent.contains_key(&who.agent)
    }

    fn actor(&self, who: &Who) -> Actor {
        self.actor_of(&who.agent, who.session)
    }

    fn actor_of(&self, agent: &Agent, session: Option<SessionId>) -> Actor {
        match session.and_then(|id| self.state.sessions.get(&id)) {
            Some(session) if session.kind == SessionKind::Library => Actor::Session(session.id),
            _ => Actor::Agent(agent.clone()),
        }
    }

    fn waits_of(&self, actor: &Actor, agent: &Agent) -> impl Iterator<Item = &Waiter> {
        let ids = match actor {
            Actor::Session(session) => self.state.waits_of_session.get(session),
            Actor::Agent(_) => self.state.waits_of_agent.get(agent),
        };
        let waiters = ids.into_iter().flatten().map(|id| &self.state.waiters[id]);
        let is_there = |waiter: &Waiter| waiter.caller.is_some() || planted(Bug::AbsentClosesCycle);
        waiters.filter(move |waiter| is_there(waiter) && self.actor(&waiter.ask.who) == *actor)
    }
}

impl Search<'_> {
    fn run(&mut self) -> Option<Vec<Link>> {
        while let Some((actor, agent)) = self.frontier.pop_front() {
            let waits: Vec<_> = self.table.waits_of(&actor, &agent).map(|w| (w.ask.clone(), w.id)).collect();
            for (ask, at) in waits {
                if let Some(cycle) = self.expand(&actor, &ask, at) {
                    return Some(cycle);
                }
            }
        }
        None
    }

    /// Follows one request of an actor to all that it waits for.
    fn expand(&mut self, from: &Actor, ask: &Ask, at: WaiterId) -> Option<Vec<Link>> {
        for edge in self.edges(from, ask, at) {
            // An agent's own sessions may keep each other waiting; each of them goes on by itself.
            if edge.to == *from {
                continue;
            }
            let link = Link {
                waits: ask.who.agent.clone(),
                wants: ask.target.scope.clone(),
                behind: edge.agent.clone(),
                held: edge.held,
            };
            if edge.to == self.goal {
                return Some(self.trace(from, link));
            }
            if !self.reached.contains_key(&edge.to) {
                self.reached.insert(edge.to.clone(), (from.clone(), link));
                self.frontier.push_back((edge.to, edge.agent));
            }
        }
        None
    }

    /// All that one request waits for, holders first, each by age.
    fn edges(&mut self, from: &Actor, ask: &Ask, at: WaiterId) -> Vec<Edge> {
        let (table, state) = (self.table, &self.table.state);
        if table.is_answered(ask) {
            return Vec::new();
        }
        let (mut holders, mut earlier) = (Vec::new(), Vec::new());
        let rank = table.rank(ask, at);
        let _ = state.index.overlapping::<()>(&ask.target, &mut |slot_id, slot| {
            let key = (slot_id, ask.mode);
            // An upgrade does not look at what others have to look at.
            let mut passed_over = *from == self.goal || ask.upgrades.is_some();
            if !self.seen_holders.contains(&key) {
                for id in slot.holders_against(ask.mode) {
                    let in_the_way = table.keeps_out(ask, &state.locks[&id]);
                    passed_over |= !in_the_way;
                    holders.extend(in_the_way.then_some(id));
                }
            }
            let seen_to = self.seen.get(&key).copied();
            let is_there = |turn: &Turn| state.waiters[&turn.at].caller.is_some() || planted(Bug::AbsentWaitedFor);
            let queued = slot.queued_against(ask.mode, rank).filter(is_there);
            for turn in queued.filter(|turn| seen_to.is_none_or(|seen| *turn >= seen)) {
                let before = table.comes_before(ask, &state.waiters[&turn.at]) && !planted(Bug::QueueClosesNoCycle);
                passed_over |= !before;
                earlier.extend(before.then_some(turn.at));
            }
            // What this request may pass over can still stand in another's way, so only a complete look counts.
            if !passed_over {
                self.seen_holders.insert(key);
                let seen = self.seen.entry(key).or_insert(rank.turn);
                *seen = (*seen).max(rank.turn);
            }
            ControlFlow::Continue(())
        });
        holders.sort_unstable();
        holders.dedup();
        earlier.sort_unstable();
        earlier.dedup();
        let holders = holders.into_iter().map(|id| {
            let lock = &state.locks[&id];
            let agent = lock.ask.who.agent.clone();
            Edge { to: table.actor_of(&agent, lock.keeper()), agent, held: true }
        });
        let earlier = earlier.into_iter().map(|id| {
            let who = &state.waiters[&id].ask.who;
            Edge { to: table.actor(who), agent: who.agent.clone(), held: false }
        });
        holders.chain(earlier).collect()
    }

    /// The links from the requester to `last`, which leads back to it.
    fn trace(&self, from: &Actor, last: Link) -> Vec<Link> {
        let mut links = vec![last];
        let mut actor = from;
        while *actor != self.goal {
            let (before, link) = &self.reached[actor];
            links.push(link.clone());
            actor = before;
        }
        links.reverse();
        links
    }
}
