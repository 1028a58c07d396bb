//! Who is next: requests are served in the order of arrival, those inside a lock of their own family first, and each as
//! soon as nothing is in its way.
//!
//! A request waits for the holders in its way and for the earlier requests in its way, so neither readers nor writers
//! starve, neighbouring readers are granted together, and exactly those who can hold now are woken.

use super::ask::{Served, Verdict};
use super::index::{Line, Rank, SlotId, Turn};
use super::{LockTable, Step, os};
use crate::model::*;
use crate::planted::{Bug, planted};
use crate::scope::Target;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::ops::{Bound, ControlFlow};

/// An exclusive request that stays in a slot keeps everybody behind it waiting but its own agent. A second one, of
/// another agent, keeps everybody waiting: the rest of the slot need not be looked at. Upgrades are behind nobody.
#[derive(Clone, Debug)]
enum Barrier {
    ForOthersThan(Agent),
    ForAll,
}

/// Where a request that may be served now was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// In this queue; the next one there follows it.
    Queue(SlotId, Line),
    /// By itself.
    Anywhere,
}

impl LockTable {
    /// Whether a holder is in the way.
    pub(super) fn is_held_against(&self, ask: &Ask, target: &Target, mode: Mode) -> bool {
        let found = self.state.index.overlapping(target, &mut |_, slot| {
            let mut locks = slot.holders_against(mode).map(|id| &self.state.locks[&id]);
            if locks.any(|lock| self.stands_in_the_way(ask, lock)) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        found.is_break()
    }

    /// Whether a request that comes first is in the way of one of this rank.
    pub(super) fn has_earlier(&self, ask: &Ask, rank: Rank) -> bool {
        if planted(Bug::ReadersBarge) && ask.mode == Mode::Shared {
            return false;
        }
        let found = self.state.index.overlapping(&ask.target, &mut |_, slot| {
            let mut waiters = slot.queued_against(ask.mode, rank).map(|turn| &self.state.waiters[&turn.at]);
            if waiters.any(|waiter| self.comes_before(ask, waiter)) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        found.is_break()
    }

    /// The requests that come first and are in the way of one of this rank, by arrival.
    pub(super) fn earlier(&self, ask: &Ask, rank: Rank) -> Vec<WaiterId> {
        let mut ids = Vec::new();
        let _ = self.state.index.overlapping::<()>(&ask.target, &mut |_, slot| {
            let waiters = slot.queued_against(ask.mode, rank).map(|turn| &self.state.waiters[&turn.at]);
            ids.extend(waiters.filter(|waiter| self.comes_before(ask, waiter)).map(|waiter| waiter.id));
            ControlFlow::Continue(())
        });
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Serves whoever can be served now that everything a command ends has ended: served in between, a request could
    /// be granted whose client is just going.
    pub(super) fn serve(&mut self, now: Now, step: &mut Step) {
        self.tell_leaders(step);
        self.refuse_in_cycles(step);
        if self.paused.is_some() {
            step.freed.clear();
            step.eased.clear();
            return;
        }
        self.serve_in_order(now, step, BinaryHeap::new());
    }

    /// Serves everybody who can be served, after grants had stopped.
    pub(super) fn serve_all(&mut self, now: Now, step: &mut Step) {
        let next = self.state.waiters.values().map(|waiter| Reverse((Turn::of(waiter), Place::Anywhere))).collect();
        self.serve_in_order(now, step, next);
    }

    /// Serves in order: those in `next`, those behind what was freed, and those whom a lock of their own agent may
    /// answer now. A grant opens no other door than to sub-agents, which tell of it as of something freed.
    fn serve_in_order(&mut self, now: Now, step: &mut Step, mut next: BinaryHeap<Reverse<(Turn, Place)>>) {
        let mut barriers: HashMap<SlotId, Barrier> = HashMap::new();
        loop {
            step.eased.extend(step.freed.iter().map(|ask| ask.who.agent.clone()));
            let freed = std::mem::take(&mut step.freed);
            if !freed.is_empty() && !planted(Bug::OwnNotWoken) {
                step.eased.extend(self.with_locks_in_line());
            }
            let slots: BTreeSet<SlotId> =
                freed.iter().flat_map(|ask| self.state.index.queues_overlapping(&ask.target)).collect();
            for slot in slots {
                barriers.remove(&slot);
                for line in Line::ALL {
                    next.extend(self.next_in(slot, line, None).map(|turn| Reverse((turn, Place::Queue(slot, line)))));
                }
            }
            for agent in step.eased.drain(..) {
                let own = self.state.waits_of_agent.get(&agent).into_iter().flatten();
                let is_kept = |id: WaiterId| self.state.waiters[&id].is_kept() && !planted(Bug::PlaceNotLookedAt);
                let is_due = |id: &&WaiterId| self.own_answers(**id) || is_kept(**id);
                let own = own.filter(is_due).map(|id| Turn::of(&self.state.waiters[id]));
                next.extend(own.map(|turn| Reverse((turn, Place::Anywhere))));
            }
            let Some(Reverse((turn, place))) = next.pop() else { return };
            let id = turn.at;
            let still_waits = self.state.waiters.contains_key(&id);
            match place {
                Place::Anywhere if still_waits => drop(self.serve_one(now, step, id)),
                Place::Anywhere => {}
                Place::Queue(slot, line) => {
                    if !still_waits || self.serve_in_queue(now, step, id, slot, line, &mut barriers) {
                        let after = self.next_in(slot, line, Some(turn));
                        next.extend(after.map(|turn| Reverse((turn, Place::Queue(slot, line)))));
                    }
                }
            }
        }
    }

    /// Agents that hold something and wait: what has ended may have kept them from taking up what is theirs, and for
    /// that nobody is before them in line.
    fn with_locks_in_line(&self) -> Vec<Agent> {
        let (locks, waits) = (&self.state.locks_of_agent, &self.state.waits_of_agent);
        if waits.len() < locks.len() {
            waits.keys().filter(|agent| locks.contains_key(*agent)).cloned().collect()
        } else {
            locks.keys().filter(|agent| waits.contains_key(*agent)).cloned().collect()
        }
    }

    /// Serves one request of a slot if it can be; answers whether those behind it are worth a look.
    fn serve_in_queue(
        &mut self,
        now: Now,
        step: &mut Step,
        id: WaiterId,
        slot: SlotId,
        line: Line,
        barriers: &mut HashMap<SlotId, Barrier>,
    ) -> bool {
        let agent = self.state.waiters[&id].ask.who.agent.clone();
        let passes = match barriers.get(&slot) {
            _ if line == Line::Upgrading => true,
            None => true,
            Some(Barrier::ForOthersThan(other)) => agent == *other,
            Some(Barrier::ForAll) => return false,
        };
        let is_served = passes && self.serve_one(now, step, id);
        if !is_served && matches!(line, Line::Exclusive | Line::Upgrading) {
            let barrier = match barriers.remove(&slot) {
                Some(Barrier::ForOthersThan(other)) if other != agent => Barrier::ForAll,
                _ => Barrier::ForOthersThan(agent),
            };
            barriers.insert(slot, barrier);
        }
        true
    }

    /// Whether a lock of its own agent may answer a waiting request: that one need not wait for its turn.
    fn own_answers(&self, id: WaiterId) -> bool {
        let ask = &self.state.waiters[&id].ask;
        self.already_held(ask).is_some() || self.own_detached(ask).is_some()
    }

    fn next_in(&self, slot: SlotId, line: Line, after: Option<Turn>) -> Option<Turn> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.state.index.slot(slot).line(line).range((from, Bound::Unbounded)).next().copied()
    }

    /// Serves one waiting request if nothing is in its way; answers whether it did.
    fn serve_one(&mut self, now: Now, step: &mut Step, id: WaiterId) -> bool {
        let waiter = &self.state.waiters[&id];
        // A client that is not there keeps its place, but cannot be told of a grant.
        if waiter.caller.is_none() {
            return waiter.is_kept() && self.offer_if_due(now, step, id);
        }
        if waiter.ask.set.is_some() {
            return self.serve_set_of(now, step, id);
        }
        let (ask, takes) = (waiter.ask.clone(), waiter.takes);
        match self.verdict(&ask, id) {
            Verdict::Blocked => false,
            Verdict::Clear if waiter.os != OsWait::Idle => false,
            Verdict::Clear if takes && os::wants_flock(&ask) => {
                self.ask_system(step, id, 0);
                false
            }
            verdict => {
                let waiter = waiter.clone();
                self.forget_flock(step, &waiter);
                self.set(step, Record::Waiter(id, None));
                // What it waited for may not be all under the name of the lock that answers it.
                if matches!(verdict, Verdict::Mine(_) | Verdict::Resume(_)) {
                    step.freed.push(ask.clone());
                }
                self.settle(now, step, Served::by(&waiter), verdict);
                true
            }
        }
    }

    /// A request has waited long enough, its client or agent stayed away too long, or its flock is tried again.
    pub(super) fn waiter_is_due(&mut self, now: Now, step: &mut Step, id: WaiterId) {
        let waiter = self.state.waiters[&id].clone();
        let ends = [waiter.deadline, waiter.absent_until, waiter.offered_until];
        let is_over = ends.into_iter().flatten().any(|end| end <= now.mono);
        if let OsWait::Busy { pause, .. } = waiter.os
            && !is_over
        {
            return match waiter.ask.set {
                Some(_) => self.try_set_again(now, step, id, pause),
                None => self.try_again(step, id, pause),
            };
        }
        if waiter.caller.is_none() {
            return self.take_out(step, id);
        }
        let rows = self.rows_of(id);
        let refused = self.refused_set(&rows, RefusedFor::Timeout);
        let foreigner = rows.iter().find_map(Waiter::foreigner).cloned();
        self.turn_away(now, step, id, Refused { foreigner, ..refused });
    }

    /// Takes a request out of the queue, if it is there: nothing of it stays behind, of a set no row.
    pub(super) fn take_out(&mut self, step: &mut Step, id: WaiterId) {
        let Some(waiter) = self.state.waiters.get(&id) else { return };
        for id in waiter.rows() {
            let row = self.state.waiters[&id].clone();
            if planted(Bug::SetLeavesRow) && row.ask.set.is_some_and(|member| member.index + 1 == member.of) {
                continue;
            }
            self.forget_flock(step, &row);
            step.freed.push(row.ask);
            self.set(step, Record::Waiter(id, None));
        }
    }

    pub(super) fn cancel(&mut self, now: Now, step: &mut Step, caller: Caller, waiting: Caller) {
        let waiter = self.state.waits_of_caller.get(&waiting).copied();
        let was_put_off = self.forget_put_off(step, |caller| caller == waiting);
        if let Some(id) = waiter.filter(|_| !planted(Bug::CancelledStaysInLine)) {
            self.client_goes(now, step, id);
            self.answer(step, waiting, Reply::Cancelled(true));
        } else if was_put_off {
            self.answer(step, waiting, Reply::Cancelled(true));
        }
        self.answer(step, caller, Reply::Cancelled(waiter.is_some() || was_put_off));
    }

    pub(super) fn caller_gone(&mut self, now: Now, step: &mut Step, conn: u64) {
        self.forget_put_off(step, |caller| caller.conn == conn);
        let all = Caller { conn, id: 0 }..=Caller { conn, id: u64::MAX };
        let ids: Vec<WaiterId> = self.state.waits_of_caller.range(all).map(|(_, id)| *id).collect();
        for id in ids {
            self.client_goes(now, step, id);
        }
    }
}
