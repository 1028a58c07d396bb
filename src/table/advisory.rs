//! Advisory locks: granted at once beside whatever is held, in nobody's way, ranked by their first grant.
//!
//! A rank is one on exactly a scope: among the locks that stand for the same object, by its name or by the identity
//! that it had when it was asked for. Ids grow with the first grant and stay, so the rank is the place of the id, and a
//! lock that is taken up again keeps it. Whoever comes first leads. That is a word among agents who trust each other:
//! it protects no write, and who must not be two at once takes an exclusive lock.

use super::index::Slot;
use super::{LockTable, Step};
use crate::limits;
use crate::model::*;
use crate::planted::{Bug, planted};
use crate::scope::Target;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

impl LockTable {
    // ── Ranks ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Calls `f` with the advisory locks on each name of exactly this scope.
    fn ranked(&self, target: &Target, f: &mut impl FnMut(&BTreeSet<LockId>)) {
        self.state.index.exactly(target, &mut |slot: &Slot| {
            if !slot.advisory().is_empty() {
                f(slot.advisory());
            }
        });
    }

    /// The advisory lock with rank 1 on exactly this scope.
    fn leader_of(&self, target: &Target) -> Option<LockId> {
        let mut first = None;
        self.ranked(target, &mut |ids| first = [first, ids.first().copied()].into_iter().flatten().min());
        first
    }

    /// Whether this lock, which is held, is an advisory one with rank 1.
    pub(super) fn leads(&self, lock: &Lock) -> bool {
        lock.ask.mode == Mode::Advisory && self.leader_of(&lock.ask.target) == Some(lock.id)
    }

    /// Tells whoever leads now that older locks have ended. Only when all has ended that ends with them: nobody is told
    /// to lead whose session is just going.
    pub(super) fn tell_leaders(&mut self, step: &mut Step) {
        let mut told = BTreeSet::new();
        let mut unranked = std::mem::take(&mut step.unranked);
        unranked.sort_unstable_by_key(|(id, _)| *id);
        for (ended, ask) in unranked {
            let mut next = Vec::new();
            self.ranked(&ask.target, &mut |ids| next.extend(ids.first().filter(|id| **id > ended)));
            // An object may have had several names whose holders do not know each other: each name has a leader then.
            for id in next {
                let lock = self.state.locks[&id].clone();
                if self.leads(&lock) && told.insert(id) && !planted(Bug::LeaderNotTold) {
                    self.tell(step, EventKind::Leader { former: Some(ask.who.agent.clone()) }, &lock);
                }
            }
        }
    }

    // ── What is told of it ──────────────────────────────────────────────────────────────────────────────────────────

    /// Adds to a grant who else is there and not in its way.
    pub(super) fn name_company(&self, reply: &mut Reply) {
        let have_sub_agents = |granted: &Granted| {
            self.state.sub_agents_of(&granted.lock.ask.who.agent).next().is_some() && !planted(Bug::SubAgentNotNamed)
        };
        if self.state.advisory > 0 || reply.grants().iter().any(have_sub_agents) {
            reply.grants_mut().iter_mut().for_each(|granted| self.name_company_of(granted));
        }
    }

    fn name_company_of(&self, granted: &mut Granted) {
        let own = &granted.lock;
        let is_fellow = |lock: &Lock| match (own.keeper(), lock.keeper()) {
            _ if own.ask.who.agent != lock.ask.who.agent => true,
            (Some(a), Some(b)) => a != b,
            _ => false,
        };
        let mut ids = BTreeSet::new();
        let _ = self.state.index.overlapping::<()>(&own.ask.target, &mut |_, slot| {
            let there = slot.holders().map(|id| &self.state.locks[&id]);
            let is_named = |lock: &&Lock| {
                let is_advisory = lock.ask.mode == Mode::Advisory;
                let is_delegated =
                    own.ask.mode.excludes(lock.ask.mode) && own.ask.who.agent.is_above(&lock.ask.who.agent);
                (is_advisory || own.ask.mode == Mode::Advisory) && is_fellow(lock) || is_delegated
            };
            ids.extend(there.filter(is_named).map(|lock| (lock.ask.mode == Mode::Advisory, lock.id)));
            ControlFlow::Continue(())
        });
        granted.more = ids.len().saturating_sub(limits::HOLDERS_NAMED);
        let named = ids.into_iter().take(limits::HOLDERS_NAMED);
        granted.beside = named.map(|(_, id)| self.state.locks[&id].clone()).collect();
    }

    /// Where the advisory locks stand that a grant or a list names.
    pub(super) fn standings(&self, reply: &Reply) -> BTreeMap<LockId, Standing> {
        if self.state.advisory == 0 {
            return BTreeMap::new();
        }
        match reply {
            Reply::Status { locks, .. } => self.all_standings(locks),
            other => {
                let named =
                    other.grants().iter().flat_map(|granted| [&granted.lock].into_iter().chain(&granted.beside));
                named.filter_map(|lock| Some((lock.id, self.standing(lock)?))).collect()
            }
        }
    }

    fn standing(&self, lock: &Lock) -> Option<Standing> {
        if lock.ask.mode != Mode::Advisory {
            return None;
        }
        let leader = self.state.locks[&self.leader_of(&lock.ask.target)?].ask.who.agent.clone();
        let mut rank = 1;
        self.ranked(&lock.ask.target, &mut |ids| rank += ids.range(..lock.id).count());
        Some(Standing { rank, leader })
    }

    /// The same for many: where all of them have one name, which is nearly always so, they are counted once and not
    /// each anew.
    fn all_standings(&self, locks: &[Lock]) -> BTreeMap<LockId, Standing> {
        let mut all = BTreeMap::new();
        for lock in locks.iter().filter(|lock| lock.ask.mode == Mode::Advisory) {
            if all.contains_key(&lock.id) {
                continue;
            }
            let Some(standing) = self.standing(lock) else { continue };
            let (mut names, mut there) = (0, Vec::new());
            self.ranked(&lock.ask.target, &mut |ids| {
                names += 1;
                there.extend(ids.iter().copied());
            });
            if names == 1 {
                let of = |place: usize| Standing { rank: place + 1, leader: standing.leader.clone() };
                all.extend(there.into_iter().enumerate().map(|(place, id)| (id, of(place))));
            } else {
                all.insert(lock.id, standing);
            }
        }
        let named: BTreeSet<LockId> = locks.iter().map(|lock| lock.id).collect();
        all.retain(|id, _| named.contains(id));
        all
    }
}
