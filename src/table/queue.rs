//! Who is next: requests are served in the order of arrival, and each as soon as nothing is in its way.
//!
//! A request waits for the holders in its way and for the earlier requests in its way, so neither readers nor writers
//! starve, neighbouring readers are granted together, and exactly those who can hold now are woken.

use super::ask::Verdict;
use super::index::{Line, SlotId};
use super::{LockTable, Step};
use crate::model::*;
use crate::scope::Target;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::ops::{Bound, ControlFlow};

const LINES: [Line; 3] = [Line::Shared, Line::Exclusive, Line::Watching];

/// An exclusive request that stays in a slot keeps everybody behind it waiting but its own agent. A second one, of
/// another agent, keeps everybody waiting: the rest of the slot need not be looked at.
#[derive(Clone, Debug)]
enum Barrier {
    ForOthersThan(Agent),
    ForAll,
}

impl LockTable {
    /// Whether a holder is in the way.
    pub(super) fn is_held_against(&self, ask: &Ask) -> bool {
        let found = self.state.index.overlapping(&ask.target, &mut |_, slot| {
            let mut locks = slot.holders_against(ask.mode).map(|id| &self.state.locks[&id]);
            if locks.any(|lock| self.stands_in_the_way(&ask.who, lock)) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        found.is_break()
    }

    /// Whether an earlier request is in the way of one at `at`.
    pub(super) fn has_earlier(&self, ask: &Ask, at: WaiterId) -> bool {
        let found = self.state.index.overlapping(&ask.target, &mut |_, slot| {
            let mut waiters = slot.queued_against(ask.mode, at).map(|id| &self.state.waiters[&id]);
            if waiters.any(|waiter| self.comes_before(&ask.who, waiter)) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        found.is_break()
    }

    /// The earlier requests in the way of one at `at`, by arrival.
    pub(super) fn earlier(&self, ask: &Ask, at: WaiterId) -> Vec<WaiterId> {
        let mut ids = Vec::new();
        let _ = self.state.index.overlapping::<()>(&ask.target, &mut |_, slot| {
            let waiters = slot.queued_against(ask.mode, at).map(|id| &self.state.waiters[&id]);
            ids.extend(waiters.filter(|waiter| self.comes_before(&ask.who, waiter)).map(|waiter| waiter.id));
            ControlFlow::Continue(())
        });
        ids.sort_unstable();
        ids
    }

    /// Serves whoever can be served now that something on `target` ended. Grants open no door for others, so one pass
    /// in the order of arrival is enough.
    pub(super) fn serve(&mut self, now: Now, step: &mut Step, target: &Target) {
        if self.paused.is_some() {
            return;
        }
        let slots = self.state.index.queues_overlapping(target);
        let mut barriers: HashMap<SlotId, Barrier> = HashMap::new();
        let mut next = BinaryHeap::new();
        for &slot in &slots {
            for line in LINES {
                next.extend(self.next_in(slot, line, None).map(|id| Reverse((id, slot, line))));
            }
        }
        while let Some(Reverse((id, slot, line))) = next.pop() {
            let waiter = &self.state.waiters[&id];
            let passes = match barriers.get(&slot) {
                None => true,
                Some(Barrier::ForOthersThan(agent)) => waiter.ask.who.agent == *agent,
                Some(Barrier::ForAll) => continue,
            };
            let stays = if passes { !self.serve_one(now, step, id) } else { true };
            if stays && line == Line::Exclusive {
                let agent = self.state.waiters[&id].ask.who.agent.clone();
                let barrier = match barriers.remove(&slot) {
                    Some(Barrier::ForOthersThan(other)) if other != agent => Barrier::ForAll,
                    _ => Barrier::ForOthersThan(agent),
                };
                barriers.insert(slot, barrier);
            }
            next.extend(self.next_in(slot, line, Some(id)).map(|id| Reverse((id, slot, line))));
        }
    }

    /// Serves everybody who can be served, after grants had stopped.
    pub(super) fn serve_all(&mut self, now: Now, step: &mut Step) {
        let ids: Vec<WaiterId> = self.state.waiters.keys().copied().collect();
        for id in ids {
            self.serve_one(now, step, id);
        }
    }

    fn next_in(&self, slot: SlotId, line: Line, after: Option<WaiterId>) -> Option<WaiterId> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.state.index.slot(slot).line(line).range((from, Bound::Unbounded)).next().copied()
    }

    /// Serves one waiting request if nothing is in its way; answers whether it did.
    fn serve_one(&mut self, now: Now, step: &mut Step, id: WaiterId) -> bool {
        let waiter = &self.state.waiters[&id];
        // A client that has not come back after a restart keeps its place, but cannot be told of a grant.
        let Some(caller) = waiter.caller else { return false };
        let (ask, takes) = (waiter.ask.clone(), waiter.takes);
        match self.verdict(&ask, id) {
            Verdict::Blocked => false,
            verdict => {
                self.set(step, Record::Waiter(id, None));
                self.settle(now, step, caller, &ask, takes, verdict);
                true
            }
        }
    }

    /// A request has waited long enough, or its client stayed away too long.
    pub(super) fn waited_enough(&mut self, now: Now, step: &mut Step, id: WaiterId) {
        let waiter = self.state.waiters[&id].clone();
        self.set(step, Record::Waiter(id, None));
        if let Some(caller) = waiter.caller {
            self.refuse_for(step, caller, &waiter.ask, id, RefusedFor::Timeout);
        }
        self.serve(now, step, &waiter.ask.target);
    }

    /// Takes a request out of the queue: nothing of it stays behind.
    pub(super) fn withdraw(&mut self, now: Now, step: &mut Step, id: WaiterId) {
        let target = self.state.waiters[&id].ask.target.clone();
        self.set(step, Record::Waiter(id, None));
        self.serve(now, step, &target);
    }

    pub(super) fn cancel(&mut self, now: Now, step: &mut Step, caller: Caller, waiting: Caller) {
        let waiter = self.state.waits_of_caller.get(&waiting).copied();
        if let Some(id) = waiter {
            self.withdraw(now, step, id);
            self.answer(step, waiting, Reply::Cancelled(true));
        }
        self.answer(step, caller, Reply::Cancelled(waiter.is_some()));
    }

    pub(super) fn caller_gone(&mut self, now: Now, step: &mut Step, conn: u64) {
        let all = Caller { conn, id: 0 }..=Caller { conn, id: u64::MAX };
        let ids: Vec<WaiterId> = self.state.waits_of_caller.range(all).map(|(_, id)| *id).collect();
        for id in ids {
            // An earlier withdrawal may have served this one meanwhile; its lock ends with its session or lease.
            if self.state.waiters.contains_key(&id) {
                self.withdraw(now, step, id);
            }
        }
    }
}
