//! Sub-agents: `A/x` may take what only its ancestors hold, and has a lock of its own then.
//!
//! An ancestor's lock is in no descendant's way (`own.rs`). The rest is about the line. Whoever waits for a lock is
//! kept out by it, and must not keep those out whom it lets in: a parent that waits for its child's work would wait
//! for a stranger who waits for the parent, and nobody could see that. So a request inside an ancestor's lock, one that
//! this lock covers in an equal or stronger mode, comes before all that are not; of two such requests the one inside
//! the lock of the deeper ancestor, which keeps the other out. The number of that ancestor's generation is the
//! request's level.
//!
//! A level once reached is kept: a parent that lets go, or shares, turns nobody's place over to others. It rises when
//! an ancestor's lock comes to cover a request that waits already. Others wait for that request from then on, so it
//! may close a cycle of waits though nobody begins to wait; then it keeps the place that it has.
//!
//! A request that no ancestor's lock covers is in line like any other, also behind its ancestors' requests.
//!
//! A set waits as one and has one level, the lowest of its scopes': else one scope inside a parent's lock would bring
//! all the others before strangers who wait for those, and a family could keep them waiting for ever.

use super::index::Rank;
use super::{LockTable, Step};
use crate::model::*;
use crate::planted::{Bug, planted};
use crate::scope::Target;
use std::ops::ControlFlow;
use std::sync::Arc;

impl LockTable {
    /// Where a request stands that waits, or would wait, at `at` in the order of arrival.
    pub(super) fn rank(&self, ask: &Ask, at: WaiterId) -> Rank {
        let level = self.state.waiters.get(&at).map_or_else(|| self.level(ask), |waiter| waiter.level);
        Rank::of(ask, level, at)
    }

    /// The generation of the deepest ancestor inside whose lock a request is; 0 if it is inside none.
    pub(super) fn level(&self, ask: &Ask) -> u8 {
        let agent = &ask.who.agent;
        // What never waits has no place.
        let never_waits = ask.mode == Mode::Advisory;
        if never_waits || planted(Bug::ChildBehindStrangers) || !self.have_locks_above(agent) {
            return 0;
        }
        let mut deepest = 0;
        let _ = self.state.index.covering::<()>(&ask.target, &mut |_, slot| {
            for lock in slot.holders().map(|id| &self.state.locks[&id].ask) {
                if lock.who.agent.is_above(agent) && lock.mode.answers(ask.mode) {
                    deepest = deepest.max(lock.who.agent.depth());
                }
            }
            ControlFlow::Continue(())
        });
        deepest
    }

    /// The level of all rows of one request.
    pub(super) fn level_of_set(&self, rows: &[Waiter]) -> u8 {
        let levels = rows.iter().map(|row| self.level(&row.ask));
        let level = if planted(Bug::SetByItsDeepest) { levels.max() } else { levels.min() };
        level.unwrap_or(0)
    }

    fn have_locks_above(&self, agent: &Agent) -> bool {
        let name = agent.as_str();
        name.match_indices('/').any(|(end, _)| self.state.locks_of_agent.contains_key(&name[..end]))
    }

    /// Whether a request that is granted now passes a lock of an ancestor that would keep others out.
    pub(super) fn is_delegated(&self, ask: &Ask) -> bool {
        if !self.have_locks_above(&ask.who.agent) {
            return false;
        }
        let passes = self.state.index.overlapping(&ask.target, &mut |_, slot| {
            let mut locks = slot.holders_against(ask.mode).map(|id| &self.state.locks[&id].ask.who.agent);
            if locks.any(|agent| agent.is_above(&ask.who.agent)) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        passes.is_break()
    }

    /// The locks of an agent's sub-agents that a write to `target` would disturb, by age.
    pub(super) fn delegated(&self, agent: &Agent, target: &Target) -> Vec<LockId> {
        let mut ids = Vec::new();
        if self.state.sub_agents_of(agent).next().is_none() || planted(Bug::ParentWritesOverChild) {
            return ids;
        }
        let _ = self.state.index.overlapping::<()>(target, &mut |_, slot| {
            let locks = slot.holders_against(Mode::Exclusive);
            ids.extend(locks.filter(|id| agent.is_above(&self.state.locks[id].ask.who.agent)));
            ControlFlow::Continue(())
        });
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// An agent holds something anew, or in a stronger mode: those of its sub-agents that waited for its turn, or
    /// behind others who wait for it now, may be let in.
    pub(super) fn let_sub_agents_in(&mut self, step: &mut Step, ask: &Arc<Ask>) {
        let waits = |agent| self.state.waits_of_agent.get(agent).into_iter().flatten().copied();
        let mut waiting: Vec<WaiterId> = self.state.sub_agents_of(&ask.who.agent).flat_map(waits).collect();
        waiting.sort_unstable();
        for &id in &waiting {
            let waiter = &self.state.waiters[&id];
            if waiter.first() != id {
                continue;
            }
            let before = waiter.level;
            let rows = self.rows_of(id);
            let level = self.level_of_set(&rows);
            if level > before {
                self.raise(step, rows.into_iter().map(|row| Waiter { level, ..row }).collect());
            }
        }
        if !waiting.is_empty() {
            step.freed.push(ask.clone());
        }
    }

    /// Gives a waiting request its new place, unless that closes a cycle of waits.
    fn raise(&mut self, step: &mut Step, rows: Vec<Waiter>) {
        let asks: Vec<Arc<Ask>> = rows.iter().map(|row| row.ask.clone()).collect();
        let records: Vec<Record> = rows.into_iter().map(|row| Record::Waiter(row.id, Some(row))).collect();
        let before: Vec<Record> = records.iter().map(|record| self.state.fold(record.clone())).collect();
        if self.cycle_through(&asks[0].who).is_some() {
            before.into_iter().for_each(|before| drop(self.state.fold(before)));
            return;
        }
        step.undo.extend(before);
        step.records.extend(records);
        for ask in &asks {
            self.withdraw_offers(step, &ask.target, ask.mode);
        }
        step.freed.extend(asks);
    }
}
