//! Places kept for agents that have waited in vain: asking again goes on there.
//!
//! A request that would have left a lease behind keeps its place for a while when its wait is over. It has no client
//! then, waits for nobody and is granted nothing. When nothing is in its way any more it is offered: its agent has a
//! moment to come for it, then it is the next one's turn. So whoever is behind it does not wait for its agent until
//! that is back. Whoever gives the place up, or ends, leaves nothing of it.
//!
//! A set has one place with a row for each of its scopes, which is kept, offered, come for and given up as a whole.

use super::ask::{Served, Verdict, Waiting};
use super::index::{Line, Slot, Turn};
use super::set::asks_of;
use super::{LockTable, Step, os};
use crate::limits;
use crate::model::*;
use crate::planted::{Bug, planted};
use crate::scope::Target;
use std::ops::ControlFlow;
use std::sync::Arc;

impl LockTable {
    /// Refuses a waiting request. Its place is kept, and its agent told so, if it may come back for it; else nothing of
    /// it stays behind.
    pub(super) fn turn_away(&mut self, now: Now, step: &mut Step, id: WaiterId, refused: Refused) {
        let rows = self.rows_of(id);
        let caller = rows[0].caller.expect("only who is there is turned away");
        let ticket = self.keep_place(now, step, id);
        self.answer_refused(step, caller, &rows, Refused { ticket, ..refused });
    }

    /// Keeps the place of a request that has waited in vain, or takes the request out. One agent has one place for one
    /// thing, the earlier of two.
    pub(super) fn keep_place(&mut self, now: Now, step: &mut Step, id: WaiterId) -> Option<Ticket> {
        self.keep_rows(now, step, self.rows_of(id))
    }

    fn keep_rows(&mut self, now: Now, step: &mut Step, rows: Vec<Waiter>) -> Option<Ticket> {
        let first = rows[0].id;
        let other = self.place_kept_for(&asks_of(&rows));
        let name = rows[0].ticket.or_else(|| self.state.waiters[&other?].ticket);
        if !may_come_back(&rows) || (name.is_none() && !self.has_room_for_ticket(&rows)) {
            self.take_out(step, first);
            return None;
        }
        let absent_until = Some(now.mono.after(limits::TICKET_KEPT));
        if let Some(other) = other {
            let later = other.max(first);
            self.take_out(step, later);
            if later == first {
                for kept in self.rows_of(other) {
                    self.set(step, Record::Waiter(kept.id, Some(Waiter { absent_until, ..kept })));
                }
                return Some(ticket_of(&self.state.waiters[&other]));
            }
        }
        let ticket = Some(name.unwrap_or_else(|| TicketId(self.fresh_fence().0)));
        for row in rows {
            self.forget_flock(step, &row);
            let os = match row.os {
                // A foreigner is looked for all the same: nothing else tells when its turn has come.
                OsWait::Busy { by, pause, .. } => OsWait::Busy { by, again: now.mono.after(pause), pause },
                OsWait::Idle | OsWait::Asked { .. } | OsWait::Had { .. } => OsWait::Idle,
            };
            // It stands no longer in the way of what else its own session wants there.
            step.freed.push(row.ask.clone());
            let kept = Waiter { at_once: false, caller: None, deadline: None, absent_until, ticket, os, ..row };
            self.set(step, Record::Waiter(kept.id, Some(kept)));
        }
        self.offer_if_due(now, step, first);
        self.state.waiters.get(&first).map(ticket_of)
    }

    /// The client of a waiting request has gone, or does not want it any more. A place that was kept before it asked
    /// again is kept on, for nobody has given that up; else nothing of the request stays behind.
    pub(super) fn client_goes(&mut self, now: Now, step: &mut Step, id: WaiterId) {
        match self.state.waiters[&id].ticket {
            Some(_) if !planted(Bug::CutOffLosesPlace) => drop(self.keep_place(now, step, id)),
            _ => self.take_out(step, id),
        }
    }

    /// Nobody has heard of what this place became, and it is taken back: the place is kept as if its client had gone
    /// while it waited there. It went with its session if that has ended. A set is taken back lock by lock, and its
    /// place is over.
    pub(super) fn keep_again(&mut self, now: Now, step: &mut Step, ask: Arc<Ask>, place: KeptPlace) {
        let KeptPlace { id, ticket, since, level } = place;
        if ask.who.session.is_some_and(|session| !self.state.sessions.contains_key(&session)) {
            return;
        }
        // It may have been made exclusive since as a part of a set; the place was for this alone.
        let ask = if ask.set.is_some() { Arc::new(Ask { set: None, ..(*ask).clone() }) } else { ask };
        assert!(!self.state.waiters.contains_key(&id), "places are numbered once in the life of a table");
        let waiter = Waiter {
            id,
            at_once: false,
            ask,
            takes: true,
            since,
            deadline: None,
            caller: None,
            absent_until: None,
            ticket: Some(ticket),
            offered_until: None,
            os: OsWait::Idle,
            is_counted: true,
            level,
        };
        self.keep_rows(now, step, vec![waiter]);
    }

    /// Each scope of a set keeps others waiting, so that all of them count for the home; one agent has so many places.
    fn has_room_for_ticket(&self, rows: &[Waiter]) -> bool {
        let own = self.state.tickets_of_agent.get(&rows[0].ask.who.agent).map_or(0, |tickets| tickets.len());
        own < limits::TICKETS_OF_AGENT && self.state.tickets + rows.len() <= limits::TICKETS_MAX
    }

    /// The place that is kept for whoever asks so, the earliest of several: under whatever name, as locks are found.
    pub(super) fn place_kept_for(&self, asks: &[Arc<Ask>]) -> Option<WaiterId> {
        let own = self.places_exactly(&asks[0].who.agent, &asks[0].target);
        let is_it = |(id, ask): (WaiterId, &Arc<Ask>)| {
            let row = &self.state.waiters[&id];
            let is_named_so = row.ask.target.scope == ask.target.scope || !planted(Bug::PlaceOfOneName);
            row.is_kept_for(ask) && is_named_so && self.stands_exactly(row, &ask.target)
        };
        own.into_iter().find(|id| {
            let rows = self.state.waiters[id].rows();
            let is_same_set = self.state.waiters[id].ask.set == asks[0].set;
            is_same_set && rows.zip(asks).all(is_it)
        })
    }

    /// The places kept for an agent of which something is exactly on this scope, by arrival.
    fn places_exactly(&self, agent: &Agent, target: &Target) -> Vec<WaiterId> {
        let mut ids = Vec::new();
        let Some(own) = self.state.tickets_of_agent.get(agent) else { return ids };
        self.state.index.exactly(target, &mut |slot| {
            let rows = own.iter().flat_map(|id| self.state.waiters[id].rows());
            let here = rows.map(|id| &self.state.waiters[&id]).filter(|row| stands_in(slot, row));
            ids.extend(here.map(Waiter::first));
        });
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    fn stands_exactly(&self, row: &Waiter, target: &Target) -> bool {
        let mut is_there = false;
        self.state.index.exactly(target, &mut |slot| is_there |= stands_in(slot, row));
        is_there
    }

    /// A request for which a place is kept.
    pub(super) fn ask_in_place(&mut self, now: Now, step: &mut Step, place: WaiterId, request: Together<'_>) {
        let Together { caller, asks, wait } = request;
        let is_upgrade = |ask: &Arc<Ask>| {
            self.as_upgrade(Waiting { caller, ask: ask.clone(), wait, takes: true }).ask.upgrades.is_some()
        };
        // An upgrade needs no place.
        if asks.iter().any(is_upgrade) || planted(Bug::TicketLosesPlace) {
            self.take_out(step, place);
            return match asks {
                [ask] if ask.set.is_none() => {
                    self.ask(now, step, Waiting { caller, ask: ask.clone(), wait, takes: true });
                }
                _ => self.ask_set(now, step, caller, asks, wait),
            };
        }
        if let Some(why) = &self.paused {
            let fault = Fault::Unavailable(why.clone());
            return self.fail(step, caller, fault);
        }
        self.come_for(now, step, place, request);
    }

    /// Asking again goes on in the place that was kept, under the terms of the new request.
    fn come_for(&mut self, now: Now, step: &mut Step, place: WaiterId, request: Together<'_>) {
        let Together { caller, asks, wait } = request;
        let back = self.set_in_line(now, caller, asks, wait);
        for (old, back) in self.rows_of(place).into_iter().zip(back) {
            self.forget_flock(step, &old);
            let Waiter { id, since, ticket, level, is_counted, .. } = old;
            let waiter = Waiter { id, since, ticket, level, is_counted, ..back };
            if waiter.ask.target != old.ask.target {
                step.freed.push(old.ask);
            }
            self.set(step, Record::Waiter(id, Some(waiter)));
        }
        let rows = self.rows_of(place);
        let is_blocked = self.is_set_blocked(&rows);
        if let Some(own) = self.own_obstacle_of_set(&rows).filter(|_| is_blocked) {
            let refused = self.refused_for_own(&rows, own);
            self.take_out(step, place);
            self.answer_refused(step, caller, &rows, refused);
        } else if is_blocked && wait == Wait::Try {
            let refused = self.refused_set(&rows, RefusedFor::Held);
            self.turn_away(now, step, place, refused);
        } else if let Some(cycle) = self.cycle_by_coming_back(&rows) {
            self.take_out(step, place);
            self.refuse_set(step, caller, &rows, RefusedFor::Deadlock(cycle));
        } else if !is_blocked {
            self.go_on(now, step, caller, &rows);
        }
        for ask in asks {
            self.withdraw_offers(step, &ask.target, ask.mode);
        }
    }

    /// A request that is back in its place, with nothing in its way.
    fn go_on(&mut self, now: Now, step: &mut Step, caller: Caller, rows: &[Waiter]) {
        let row = &rows[0];
        if let Some(fault) = self.no_room_to_hold(rows) {
            self.keep_place(now, step, row.id);
            return self.fail(step, caller, fault);
        }
        match self.verdict_of(row) {
            _ if row.ask.set.is_some() => drop(self.serve_set_of(now, step, row.id)),
            Verdict::Clear if os::wants_flock(&row.ask) => self.ask_system(step, row.id, 0),
            verdict => {
                self.take_out(step, row.id);
                self.settle(now, step, Served::by(row), verdict);
            }
        }
    }

    // ── Offers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Offers a kept place to its agent if nothing is in its way; answers whether it is over instead, because of a lock
    /// of its own agent. While grants are stopped it is not offered, for nobody could come for it.
    pub(super) fn offer_if_due(&mut self, now: Now, step: &mut Step, id: WaiterId) -> bool {
        if self.paused.is_some() && !planted(Bug::OfferedWhileStopped) {
            return false;
        }
        // A part of a set that a lock of its agent answered may be others' turn when that lock has ended.
        if !planted(Bug::OfferOutlivesLevel) {
            self.withdraw_offer(step, id);
        }
        let rows = self.rows_of(id);
        if self.is_needless(&rows) {
            self.take_out(step, id);
            return true;
        }
        // What its agent could take up again is its own anyway: nobody else waits for this place alone.
        let is_clear = |row: &Waiter| matches!(self.verdict_of(row), Verdict::Clear);
        let is_due = !self.is_set_blocked(&rows) && rows.iter().any(is_clear);
        if is_due && rows[0].offered_until.is_none() && rows.iter().all(|row| row.os == OsWait::Idle) {
            self.offer(now, step, rows);
        }
        false
    }

    /// Whether a place is for nothing, because of what its agent holds: what answers all of it, or something beside
    /// which it is never granted. Asking again is refused then, and to keep others waiting for it would help nobody.
    fn is_needless(&self, rows: &[Waiter]) -> bool {
        let is_held = |row: &Waiter| matches!(self.verdict_of(row), Verdict::Mine(_));
        let is_hopeless = |row: &Waiter| {
            let is_blocked = matches!(self.verdict_of(row), Verdict::Blocked);
            is_blocked && self.own_obstacle(&row.ask).is_some() && !planted(Bug::NeedlessPlaceKept)
        };
        rows.iter().all(is_held) || rows.iter().any(is_hopeless)
    }

    /// It is this one's turn: its agent may come for it, but not for long.
    fn offer(&mut self, now: Now, step: &mut Step, rows: Vec<Waiter>) {
        let offered_until = Some(now.mono.after(limits::TICKET_OFFERED));
        for row in rows {
            self.set(step, Record::Waiter(row.id, Some(Waiter { offered_until, ..row })));
        }
    }

    /// Something new stands in the way of `mode` on `target`: what cannot be had any more is offered no longer. Its
    /// place is kept as before, and it is offered anew when its turn comes again.
    pub(super) fn withdraw_offers(&mut self, step: &mut Step, target: &Target, mode: Mode) {
        if self.state.offered.is_empty() {
            return;
        }
        let mut offered = Vec::new();
        let _ = self.state.index.overlapping::<()>(target, &mut |_, slot| {
            let waiting = slot.queues_for(mode).flatten().map(|turn| turn.at);
            offered.extend(waiting.filter(|id| self.state.offered.contains(id)));
            ControlFlow::Continue(())
        });
        offered.sort_unstable();
        offered.dedup();
        for id in offered {
            self.withdraw_offer(step, id);
        }
    }

    /// All of a set is offered, or nothing of it is.
    fn withdraw_offer(&mut self, step: &mut Step, id: WaiterId) {
        let rows = self.rows_of(id);
        if rows[0].offered_until.is_some() && self.is_set_blocked(&rows) {
            for row in rows {
                self.set(step, Record::Waiter(row.id, Some(Waiter { offered_until: None, ..row })));
            }
        }
    }

    /// Looks at every kept place after a restart: what was in its way may have gone with it, and who was inside the
    /// lock of a parent may be no more. What is needless goes first, since others may be behind it.
    pub(super) fn offer_all(&mut self, now: Now, step: &mut Step) {
        let mut kept: Vec<WaiterId> = self.state.tickets_of_agent.values().flatten().copied().collect();
        kept.sort_unstable();
        for &id in &kept {
            if self.is_needless(&self.rows_of(id)) {
                self.take_out(step, id);
            }
        }
        kept.retain(|id| self.state.waiters.contains_key(id));
        for id in kept {
            self.offer_if_due(now, step, id);
        }
    }

    // ── The end of a place ──────────────────────────────────────────────────────────────────────────────────────────

    /// The places that an agent gives up with what it releases.
    pub(super) fn places_given_up(&self, who: &Who, which: &Which) -> Vec<WaiterId> {
        let own = self.state.tickets_of_agent.get(&who.agent).into_iter().flatten().copied();
        match which {
            Which::All => own.collect(),
            Which::Id(_) => Vec::new(),
            Which::Scope(target) => {
                let mut ids = self.places_exactly(&who.agent, target);
                if let Some(scope) = target.scope.other_kind() {
                    ids.extend(self.places_exactly(&who.agent, &Target { scope, ids: target.ids.clone() }));
                }
                ids
            }
        }
    }

    /// The agent does not want its kept place any more.
    pub(super) fn give_up(&mut self, step: &mut Step, caller: Caller, who: &Who, ticket: TicketId) {
        let mut own = self.state.tickets_of_agent.get(&who.agent).into_iter().flatten().copied();
        let id = own.find(|id| self.state.waiters[id].ticket == Some(ticket));
        if let Some(id) = id {
            self.take_out(step, id);
        }
        self.answer(step, caller, Reply::Cancelled(id.is_some()));
    }

    /// Whether a request has waited in vain before, and would begin to wait anew.
    pub(super) fn has_given_up(&self, id: WaiterId) -> bool {
        let waiter = &self.state.waiters[&id];
        waiter.is_kept() && waiter.deadline.is_none()
    }
}

/// Scopes that are asked for together, or one.
#[derive(Clone, Copy)]
pub(super) struct Together<'a> {
    pub(super) caller: Caller,
    pub(super) asks: &'a [Arc<Ask>],
    pub(super) wait: Wait,
}

fn stands_in(slot: &Slot, row: &Waiter) -> bool {
    slot.line(Line::of(row)).contains(&Turn::of(row))
}

/// Whether the place of a request is kept: it was before, or the request has waited, for a lock that would outlive its
/// client: no lease does that which is to end with the process that asks. An upgrade needs no place, for it is the
/// first whenever it asks; a set with one in it has none.
fn may_come_back(rows: &[Waiter]) -> bool {
    let Waiter { at_once, takes, ticket, .. } = &rows[0];
    let ends_with_asker =
        |ask: &Ask| ask.bound.is_some() && ask.bound == ask.process && !planted(Bug::PlaceKeptForTheDead);
    let outlives = |row: &Waiter| row.ask.lease.ttl > 0 && row.ask.upgrades.is_none() && !ends_with_asker(&row.ask);
    ticket.is_some() || (!at_once && *takes && rows.iter().all(outlives))
}

/// The ticket of a kept place.
pub(super) fn ticket_of(waiter: &Waiter) -> Ticket {
    Ticket {
        id: waiter.ticket.expect("the place is kept"),
        until: waiter.kept_until().expect("no place is kept for ever"),
    }
}
