//! Places kept for agents that have waited in vain: asking again goes on there.
//!
//! A request that would have left a lease behind keeps its place for a while when its wait is over. It has no client
//! then, waits for nobody and is granted nothing. When nothing is in its way any more it is offered: its agent has a
//! moment to come for it, then it is the next one's turn. So whoever is behind it does not wait for its agent until
//! that is back. Whoever gives the place up, or ends, leaves nothing of it.

use super::ask::{Served, Verdict, Waiting, too_many_locks};
use super::index::{Line, Turn};
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
        let waiter = self.state.waiters[&id].clone();
        let caller = waiter.caller.expect("only who is there is turned away");
        let ticket = self.keep_place(now, step, waiter.clone());
        self.refuse(step, caller, &waiter.ask, Refused { ticket, ..refused });
        if !waiter.takes {
            // It was no request for a lock.
            step.refused.pop();
        }
    }

    /// Keeps the place of a request that has waited in vain, or takes the request out. One agent has one place for one
    /// thing, the earlier of two.
    pub(super) fn keep_place(&mut self, now: Now, step: &mut Step, waiter: Waiter) -> Option<Ticket> {
        let other = self.place_kept_for(&waiter.ask).map(|id| self.state.waiters[&id].clone());
        let name = waiter.ticket.or(other.as_ref().and_then(|other| other.ticket));
        if !may_come_back(&waiter) || (name.is_none() && !self.has_room_for_ticket(&waiter.ask.who.agent)) {
            self.take_out(step, waiter.id);
            return None;
        }
        if let Some(other) = other {
            let is_earlier = other.id < waiter.id;
            let later = if is_earlier { waiter.id } else { other.id };
            if self.state.waiters.contains_key(&later) {
                self.take_out(step, later);
            }
            if is_earlier {
                let kept = Waiter { absent_until: Some(now.mono.after(limits::TICKET_KEPT)), ..other };
                return Some(self.put_ticket(step, kept));
            }
        }
        self.forget_flock(step, &waiter);
        let os = match waiter.os {
            // A foreigner is looked for all the same: nothing else tells when its turn has come.
            OsWait::Busy { ref by, pause, .. } => OsWait::Busy { by: by.clone(), again: now.mono.after(pause), pause },
            OsWait::Idle | OsWait::Asked { .. } => OsWait::Idle,
        };
        let kept = Waiter {
            at_once: false,
            caller: None,
            deadline: None,
            absent_until: Some(now.mono.after(limits::TICKET_KEPT)),
            ticket: Some(name.unwrap_or_else(|| TicketId(self.fresh_fence().0))),
            os,
            ..waiter
        };
        // It stands no longer in the way of what else its own session wants there.
        step.freed.push(kept.ask.clone());
        let id = kept.id;
        self.put_ticket(step, kept);
        self.offer_if_due(now, step, id);
        self.state.waiters.get(&id).map(ticket_of)
    }

    /// The client of a waiting request has gone, or does not want it any more. A place that was kept before it asked
    /// again is kept on, for nobody has given that up; else nothing of the request stays behind.
    pub(super) fn client_goes(&mut self, now: Now, step: &mut Step, id: WaiterId) {
        let waiter = self.state.waiters[&id].clone();
        match waiter.ticket {
            Some(_) if !planted(Bug::CutOffLosesPlace) => drop(self.keep_place(now, step, waiter)),
            _ => self.take_out(step, id),
        }
    }

    /// Nobody has heard of what this place became, and it is taken back: the place is kept as if its client had gone
    /// while it waited there. It went with its session if that has ended.
    pub(super) fn keep_again(&mut self, now: Now, step: &mut Step, ask: Arc<Ask>, place: KeptPlace) {
        let KeptPlace { id, ticket, since, level } = place;
        if ask.who.session.is_some_and(|session| !self.state.sessions.contains_key(&session)) {
            return;
        }
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
        self.keep_place(now, step, waiter);
    }

    fn put_ticket(&mut self, step: &mut Step, waiter: Waiter) -> Ticket {
        let ticket = ticket_of(&waiter);
        self.set(step, Record::Waiter(waiter.id, Some(waiter)));
        ticket
    }

    fn has_room_for_ticket(&self, agent: &Agent) -> bool {
        let own = self.state.tickets_of_agent.get(agent).map_or(0, |tickets| tickets.len());
        own < limits::TICKETS_OF_AGENT && self.state.tickets < limits::TICKETS_MAX
    }

    /// The place that is kept for whoever asks so, the earliest of several: under whatever name, as locks are found.
    pub(super) fn place_kept_for(&self, ask: &Ask) -> Option<WaiterId> {
        let own = self.places_exactly(&ask.who.agent, &ask.target);
        let is_named_so = |id: &WaiterId| self.state.waiters[id].ask.target.scope == ask.target.scope;
        let is_it = |id: &WaiterId| {
            self.state.waiters[id].is_kept_for(ask) && (is_named_so(id) || !planted(Bug::PlaceOfOneName))
        };
        own.into_iter().find(is_it)
    }

    /// The places kept for an agent on exactly this scope, by arrival.
    fn places_exactly(&self, agent: &Agent, target: &Target) -> Vec<WaiterId> {
        let mut ids = Vec::new();
        let Some(own) = self.state.tickets_of_agent.get(agent) else { return ids };
        self.state.index.exactly(target, &mut |slot| {
            let kept = own.iter().map(|id| &self.state.waiters[id]);
            let here = kept.filter(|waiter| slot.line(Line::of(waiter)).contains(&Turn::of(waiter)));
            ids.extend(here.map(|waiter| waiter.id));
        });
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Asking again goes on in the place that was kept, under the terms of the new request.
    pub(super) fn come_for(&mut self, now: Now, step: &mut Step, id: WaiterId, request: Waiting) {
        if let Some(why) = &self.paused {
            let fault = Fault::Unavailable(why.clone());
            return self.fail(step, request.caller, fault);
        }
        if planted(Bug::TicketLosesPlace) {
            self.take_out(step, id);
            return self.ask(now, step, request);
        }
        let old = self.state.waiters[&id].clone();
        self.forget_flock(step, &old);
        let back = self.next_in_line(now, &request);
        let Waiter { since, ticket, level, is_counted, .. } = old;
        let waiter = Waiter { id, since, ticket, level, is_counted, ..back };
        self.set(step, Record::Waiter(id, Some(waiter)));
        let Waiting { caller, ask, .. } = &request;
        if ask.target != old.ask.target {
            step.freed.push(old.ask);
        }
        let verdict = self.verdict(ask, id);
        match verdict {
            Verdict::Blocked if self.own_obstacle(ask).is_some() => {
                let refused = self.refused_now(ask, id);
                self.take_out(step, id);
                self.refuse(step, *caller, ask, refused);
            }
            Verdict::Blocked if request.wait == Wait::Try => {
                let refused = self.refused_now(ask, id);
                self.turn_away(now, step, id, refused);
            }
            verdict => match self.cycle_by_coming_back(ask, &verdict) {
                Some(cycle) => {
                    self.take_out(step, id);
                    self.refuse_for(step, *caller, ask, id, RefusedFor::Deadlock(cycle));
                }
                None => self.go_on(now, step, *caller, ask, id, verdict),
            },
        }
        self.withdraw_offers(step, &request.ask.target, request.ask.mode);
    }

    /// A request that is back in its place and closes no cycle there.
    fn go_on(&mut self, now: Now, step: &mut Step, caller: Caller, ask: &Arc<Ask>, id: WaiterId, verdict: Verdict) {
        match verdict {
            Verdict::Blocked => {}
            Verdict::Clear if self.is_full() => {
                let waiter = self.state.waiters[&id].clone();
                self.keep_place(now, step, waiter);
                self.fail(step, caller, too_many_locks());
            }
            Verdict::Clear if os::wants_flock(ask) => self.ask_system(step, id, 0),
            verdict => {
                let waiter = self.state.waiters[&id].clone();
                self.take_out(step, id);
                self.settle(now, step, Served::by(&waiter), verdict);
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
        let waiter = &self.state.waiters[&id];
        let verdict = self.verdict(&waiter.ask, id);
        if self.is_needless(&waiter.ask, &verdict) {
            self.take_out(step, id);
            return true;
        }
        // What its agent could take up again is its own anyway: nobody else waits for this place alone.
        if matches!(verdict, Verdict::Clear) && waiter.offered_until.is_none() && waiter.os == OsWait::Idle {
            self.offer(now, step, id);
        }
        false
    }

    /// Whether a place is for nothing, because of what its agent holds: a lock that answers it, or one beside which it
    /// is never granted. Asking again is refused then, and to keep others waiting for it would help nobody.
    fn is_needless(&self, ask: &Ask, verdict: &Verdict) -> bool {
        match verdict {
            Verdict::Mine(_) => true,
            Verdict::Blocked => self.own_obstacle(ask).is_some() && !planted(Bug::NeedlessPlaceKept),
            Verdict::Resume(_) | Verdict::Clear => false,
        }
    }

    /// It is this one's turn: its agent may come for it, but not for long.
    pub(super) fn offer(&mut self, now: Now, step: &mut Step, id: WaiterId) {
        let offered_until = Some(now.mono.after(limits::TICKET_OFFERED));
        let waiter = Waiter { offered_until, os: OsWait::Idle, ..self.state.waiters[&id].clone() };
        self.set(step, Record::Waiter(id, Some(waiter)));
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
            let waiter = self.state.waiters[&id].clone();
            if matches!(self.verdict(&waiter.ask, id), Verdict::Blocked) {
                self.set(step, Record::Waiter(id, Some(Waiter { offered_until: None, ..waiter })));
            }
        }
    }

    /// Looks at every kept place after a restart: what was in its way may have gone with it, and who was inside the
    /// lock of a parent may be no more. What is needless goes first, since others may be behind it.
    pub(super) fn offer_all(&mut self, now: Now, step: &mut Step) {
        let mut kept: Vec<WaiterId> = self.state.tickets_of_agent.values().flatten().copied().collect();
        kept.sort_unstable();
        for &id in &kept {
            let waiter = &self.state.waiters[&id];
            if self.is_needless(&waiter.ask, &self.verdict(&waiter.ask, id)) {
                self.take_out(step, id);
            }
        }
        kept.retain(|id| self.state.waiters.contains_key(id));
        for id in kept {
            let waiter = &self.state.waiters[&id];
            let is_offered = waiter.offered_until.is_some() && !planted(Bug::OfferOutlivesLevel);
            if is_offered && matches!(self.verdict(&waiter.ask, id), Verdict::Blocked) {
                let waiter = Waiter { offered_until: None, ..waiter.clone() };
                self.set(step, Record::Waiter(id, Some(waiter)));
            }
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

/// Whether the place of a request is kept: it was before, or the request has waited, for a lock that would outlive its
/// client. An upgrade needs no place, for it is the first whenever it asks.
fn may_come_back(waiter: &Waiter) -> bool {
    let has_waited = !waiter.at_once && waiter.takes;
    waiter.ticket.is_some() || (has_waited && waiter.ask.lease.ttl > 0 && waiter.ask.upgrades.is_none())
}

/// The ticket of a kept place.
pub(super) fn ticket_of(waiter: &Waiter) -> Ticket {
    Ticket {
        id: waiter.ticket.expect("the place is kept"),
        until: waiter.kept_until().expect("no place is kept for ever"),
    }
}
