//! Who excludes whom, and what an agent's own locks mean to it.
//!
//! Locks are owned by the agent; a session is custody. What an agent holds never stands in its own way, with one
//! exception: two sessions of one agent both hold guards, and guards exclude each other, or two threads would both
//! believe that they hold the lock. What a parent holds does not stand in the way of its sub-agents (`family.rs`).

use super::LockTable;
use crate::model::*;
use crate::planted::{Bug, planted};
use crate::scope::Target;
use std::ops::ControlFlow;

/// How a request stands to somebody's lock or earlier request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kin {
    /// Another agent's, or another session's guard: excluded by mode.
    Stranger,
    /// That of an agent above the one that asks: what it holds is no obstacle, but its requests have their place.
    Above,
    /// A sub-agent's: what it holds is an obstacle to what is asked for anew.
    Below,
    /// The same agent's, and not two guards: no obstacle.
    Own,
    /// The very same session's.
    Itself,
}

impl LockTable {
    /// Whose guard a request is for: that of its session, or of whoever has the lock that it upgrades.
    fn guard(&self, ask: &Ask) -> Option<SessionId> {
        match ask.upgrades.and_then(|id| self.state.locks.get(&id)) {
            Some(held) => held.keeper(),
            None => ask.who.session,
        }
    }

    fn kin(&self, ask: &Ask, agent: &Agent, session: Option<SessionId>) -> Kin {
        match (self.guard(ask), session) {
            _ if agent.is_above(&ask.who.agent) && !planted(Bug::ParentKeepsChildOut) => Kin::Above,
            _ if ask.who.agent.is_above(agent) => Kin::Below,
            _ if ask.who.agent != *agent => Kin::Stranger,
            (Some(a), Some(b)) if a == b => Kin::Itself,
            (Some(_), Some(_)) if !planted(Bug::SecondSessionLetIn) => Kin::Stranger,
            _ => Kin::Own,
        }
    }

    /// Whether a lock cannot be shared or taken up for a moment, since a file is being put in place under it: whoever
    /// wants a guard of their own there, be it the same agent, would find another file than they looked at.
    fn is_held_up(&self, ask: &Ask, lock: &Lock) -> bool {
        lock.in_flight.is_some() && (ask.who.agent != lock.ask.who.agent || self.guard(ask).is_some())
    }

    /// Whether a request must wait for `lock`, given that scope and mode clash.
    pub(super) fn stands_in_the_way(&self, ask: &Ask, lock: &Lock) -> bool {
        self.keeps_out(ask, lock) || (ask.upgrades != Some(lock.id) && self.is_held_up(ask, lock))
    }

    /// The same, but for what passes by itself: this alone counts as a wait in the search for cycles.
    pub(super) fn keeps_out(&self, ask: &Ask, lock: &Lock) -> bool {
        let kin = self.kin(ask, &lock.ask.who.agent, lock.keeper());
        ask.upgrades != Some(lock.id) && !matches!(kin, Kin::Own | Kin::Above)
    }

    /// The same for a detached lock that its agent takes up again: what its sub-agents hold in it stays where it is.
    pub(super) fn keeps_from_return(&self, ask: &Ask, lock: &Lock) -> bool {
        let kin = self.kin(ask, &lock.ask.who.agent, lock.keeper());
        self.stands_in_the_way(ask, lock) && kin != Kin::Below
    }

    /// The same, but for what passes by itself.
    pub(super) fn guards_against(&self, ask: &Ask, lock: &Lock) -> bool {
        self.keeps_out(ask, lock) && self.keeps_from_return(ask, lock)
    }

    /// The lock under which `who` may write to all of `target` now, if there is one: the one rule for `check` and for
    /// writing through the daemon. Sessions and one-shots of an agent may write under each other's locks; a fence must
    /// be that very one. Where a sub-agent holds something, its parents do not write.
    pub(super) fn may_write(&self, who: &Who, target: &Target, fence: Option<Fence>) -> Option<LockId> {
        self.would_write(who, target, fence).filter(|_| self.delegated(&who.agent, target).is_empty())
    }

    fn would_write(&self, who: &Who, target: &Target, fence: Option<Fence>) -> Option<LockId> {
        let own = self.own_covering(&who.agent, target, Mode::Exclusive);
        let is_under =
            |fence: Fence, id: &LockId| fence == self.state.locks[id].fence || planted(Bug::CheckIgnoresFence);
        own.into_iter().find(|id| fence.is_none_or(|fence| is_under(fence, id)))
    }

    /// The same for a write: without a fence a session does not write under a fellow session's guard, for those two
    /// exclude each other.
    pub(super) fn may_commit(&self, who: &Who, target: &Target, fence: Option<Fence>) -> Option<LockId> {
        if !self.delegated(&who.agent, target).is_empty() {
            return None;
        }
        if fence.is_some() && !planted(Bug::CommitIgnoresFence) {
            return self.would_write(who, target, fence);
        }
        let is_fellows = |keeper: Option<SessionId>| match (who.session, keeper) {
            (Some(own), Some(other)) => own != other,
            _ => false,
        };
        let own = self.own_covering(&who.agent, target, Mode::Exclusive);
        own.into_iter().find(|id| !is_fellows(self.state.locks[id].keeper()))
    }

    /// What sub-agents hold that keeps their parents from writing to `target`, by age; none where the agent itself may
    /// not write there either.
    pub(super) fn in_sub_agents_hands(&self, who: &Who, target: &Target, fence: Option<Fence>) -> Vec<LockId> {
        let own = self.would_write(who, target, fence);
        own.map(|_| self.delegated(&who.agent, target)).unwrap_or_default()
    }

    /// Whether a request must let `waiter` go first, given that it is earlier and scope and mode clash.
    pub(super) fn comes_before(&self, ask: &Ask, waiter: &Waiter) -> bool {
        waiter.takes
            && match self.kin(ask, &waiter.ask.who.agent, self.guard(&waiter.ask)) {
                Kin::Own => false,
                // A session's own place that is kept while it waits for nothing there keeps it from nothing.
                Kin::Itself => !waiter.is_kept(),
                _ => true,
            }
    }

    /// The agent's own locks that answer a request for `target` in `mode`, by age. An advisory one has its rank on its
    /// own scope alone.
    pub(super) fn own_covering(&self, agent: &Agent, target: &Target, mode: Mode) -> Vec<LockId> {
        let mut ids = Vec::new();
        if !self.state.locks_of_agent.contains_key(agent) {
            return ids;
        }
        if mode == Mode::Advisory {
            ids = self.own_exactly(agent, target);
            ids.retain(|id| self.state.locks[id].ask.mode == Mode::Advisory);
            return ids;
        }
        let _ = self.state.index.covering::<()>(target, &mut |_, slot| {
            let locks = slot.holders().map(|id| &self.state.locks[&id]);
            ids.extend(locks.filter(|l| l.ask.who.agent == *agent && l.ask.mode.answers(mode)).map(|l| l.id));
            ControlFlow::Continue(())
        });
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The agent's own locks on exactly this scope, by age.
    pub(super) fn own_exactly(&self, agent: &Agent, target: &Target) -> Vec<LockId> {
        let mut ids = Vec::new();
        self.state.index.exactly(target, &mut |slot| {
            let of_agent = |id: &LockId| self.state.locks[id].ask.who.agent == *agent;
            ids.extend(slot.holders().filter(|id| of_agent(id) || planted(Bug::AnybodyReleases)));
        });
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The agent's own locks on this place, by age: a name that was locked as a file and is a directory now, or the
    /// other way round, is found under it.
    pub(super) fn own_here(&self, agent: &Agent, target: &Target) -> Vec<LockId> {
        let mut ids = self.own_exactly(agent, target);
        if let Some(scope) = target.scope.other_kind() {
            ids.extend(self.own_exactly(agent, &Target { scope, ids: target.ids.clone() }));
        }
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The agent's own locks on anything that overlaps `target`, by age.
    pub(super) fn own_over(&self, agent: &Agent, target: &Target) -> Vec<LockId> {
        let mut ids = Vec::new();
        if !self.state.locks_of_agent.contains_key(agent) {
            return ids;
        }
        let _ = self.state.index.overlapping::<()>(target, &mut |_, slot| {
            ids.extend(slot.holders().filter(|id| self.state.locks[id].ask.who.agent == *agent));
            ControlFlow::Continue(())
        });
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The lock of its own that keeps a request from ever being granted: the same session's, since it would wait for
    /// itself, or a weaker one of the agent's on the same scope that this request does not upgrade, since nothing is
    /// granted beside it.
    pub(super) fn own_obstacle(&self, ask: &Ask) -> Option<LockId> {
        let who = &ask.who;
        if !self.state.locks_of_agent.contains_key(&who.agent) {
            return None;
        }
        let mut weaker = self.own_exactly(&who.agent, &ask.target);
        weaker.retain(|id| {
            let lock = &self.state.locks[id];
            let is_weaker =
                lock.ask.mode.is_weaker_than(ask.mode) && self.kin(ask, &who.agent, lock.keeper()) == Kin::Own;
            is_weaker && ask.upgrades.is_none()
        });
        let mut itself = Vec::new();
        let _ = self.state.index.overlapping::<()>(&ask.target, &mut |_, slot| {
            let locks = slot.holders_against(ask.mode).map(|id| &self.state.locks[&id]);
            let of_session = |lock: &&Lock| {
                ask.upgrades != Some(lock.id) && self.kin(ask, &lock.ask.who.agent, lock.keeper()) == Kin::Itself
            };
            itself.extend(locks.filter(of_session).map(|lock| lock.id));
            ControlFlow::Continue(())
        });
        itself.into_iter().min().or(weaker.first().copied())
    }

    /// The detached lock that a session's request takes up again: its agent's, on the same scope, no weaker.
    pub(super) fn own_detached(&self, ask: &Ask) -> Option<LockId> {
        ask.who.session.filter(|_| ask.upgrades.is_none())?;
        self.own_exactly(&ask.who.agent, &ask.target).into_iter().find(|id| {
            let lock = &self.state.locks[id];
            let is_lost = ask.mode == Mode::Advisory && planted(Bug::RankLostByResume);
            lock.custody == Custody::Detached && lock.ask.mode.answers(ask.mode) && !is_lost
        })
    }
}
