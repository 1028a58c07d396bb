//! Asking for a lock: a retry of what was granted, a lock of one's own, a grant, a place in the queue, or a refusal.

use super::contention::Came;
use super::index::Rank;
use super::state::Fate;
use super::tickets::Together;
use super::{LockTable, Step, os, with_session};
use crate::limits;
use crate::model::*;
use crate::planted::{Bug, planted};
use crate::scope::{Scope, Target};
use std::ops::ControlFlow;
use std::sync::Arc;

/// What a request comes to right now.
pub(super) enum Verdict {
    /// Something is in the way.
    Blocked,
    /// The agent holds it already.
    Mine(LockId),
    /// The agent's detached lock becomes this session's.
    Resume(LockId),
    /// Nothing is in the way.
    Clear,
}

impl LockTable {
    pub(super) fn lock(&mut self, now: Now, step: &mut Step, caller: Caller, ask: Arc<Ask>, wait: Wait) {
        let fit = self.is_known(caller, &ask.who).and_then(|()| self.is_sound(&ask));
        let fit = fit.and_then(|()| self.is_comparable(&ask.target));
        if let Err(fault) = fit.and_then(|()| self.has_room_for_patterns(std::iter::once(&ask.target))) {
            return self.fail(step, caller, fault);
        }
        let waits = ask.mode != Mode::Advisory || planted(Bug::AdvisoryPutOff);
        if let Some(ending) = self.own_ending(&ask.who.agent, &ask.target).filter(|_| waits) {
            return self.put_off(step, &[ending], Command::Lock { caller, ask, wait });
        }
        if self.is_name_of_set(&ask.who.agent, ask.request.as_ref()) {
            let text = "this request id was used for several scopes at once; use a fresh one";
            return self.fail(step, caller, Fault::Invalid(text.to_owned()));
        }
        let again = ask.request.clone().and_then(|id| self.state.requests.get(&(ask.who.agent.clone(), id)));
        match again.copied().filter(|_| !planted(Bug::RetryGrantedTwice)) {
            Some(fate) => self.asked_again(now, step, Waiting { caller, ask, wait, takes: true }, fate),
            None => {
                let request = self.as_upgrade(Waiting { caller, ask, wait, takes: true });
                let asks = std::slice::from_ref(&request.ask);
                match self.place_kept_for(asks) {
                    Some(place) => self.ask_in_place(now, step, place, Together { caller, asks, wait }),
                    None => self.ask(now, step, request),
                }
            }
        }
    }

    pub(super) fn wait_free(&mut self, now: Now, step: &mut Step, caller: Caller, ask: Arc<Ask>, wait: Wait) {
        let fit = self.is_known(caller, &ask.who).and_then(|()| self.is_comparable(&ask.target));
        if let Err(fault) = fit.and_then(|()| self.has_room_for_patterns(std::iter::once(&ask.target))) {
            return self.fail(step, caller, fault);
        }
        self.touch_all(now, step, &ask.who, &ask.target);
        let asked = ask.clone();
        self.ask(now, step, Waiting { caller, ask, wait, takes: false });
        // It was no request for a lock.
        step.refused.retain(|(ask, _)| !Arc::ptr_eq(ask, &asked));
    }

    /// Whether it is clear who asks and where the answer goes.
    pub(super) fn is_known(&self, caller: Caller, who: &Who) -> Result<(), Fault> {
        if who.session.is_some_and(|id| !self.state.sessions.contains_key(&id)) {
            return Err(Fault::UnknownSession);
        }
        if self.state.waits_of_caller.contains_key(&caller) {
            return Err(Fault::Invalid(
                "a request with this number is already waiting on this connection; give each a number of its own"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    /// What no request for a lock may be.
    pub(super) fn is_sound(&self, ask: &Ask) -> Result<(), Fault> {
        match ask.who.session {
            None if ask.lease.ttl == 0 => Err(Fault::Invalid(
                "a lock without a session needs a ttl above 0: nothing else would keep it; `flockd run` holds one for \
                 exactly as long as a command runs, and `lock --pid` ends one with a process"
                    .to_owned(),
            )),
            Some(_) if ask.bound.is_some() => {
                Err(Fault::Invalid("a session ties a lock that it has to a process, by `bind`".to_owned()))
            }
            _ if ask.lease.ttl > limits::TTL_MAX => Err(Fault::Invalid("the ttl is above 24 h".to_owned())),
            _ if ask.lease.max_hold.is_some_and(|most| most == 0 || most > limits::TTL_MAX) => {
                Err(Fault::Invalid("max_hold is more than 0 and at most 24 h".to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// Whether the pattern that is asked for can be compared with all that are here. Those could be compared with each
    /// other when they came.
    pub(super) fn is_comparable(&self, target: &Target) -> Result<(), Fault> {
        let Scope::Pattern(pattern) = &target.scope else { return Ok(()) };
        if let Some(other) = self.state.index.incomparable(target) {
            return Err(Fault::Invalid(format!(
                "whether {pattern} and {other}, which is in use, could match the same file takes too long to find out; \
                 use fewer `*` and `?` before other signs, or lock the directory"
            )));
        }
        Ok(())
    }

    /// Whether there is room for the patterns among these.
    pub(super) fn has_room_for_patterns<'a>(&self, targets: impl Iterator<Item = &'a Target>) -> Result<(), Fault> {
        let index = &self.state.index;
        let is_new = |target: &&Target| matches!(target.scope, Scope::Pattern(_)) && !index.has(target);
        if index.patterns() + targets.filter(is_new).count() > limits::PATTERNS_MAX {
            let text = format!("{} patterns are in use, the most that may; lock the directory", limits::PATTERNS_MAX);
            return Err(Fault::TooMany(text));
        }
        Ok(())
    }

    /// Grants, queues or refuses a new request.
    pub(super) fn ask(&mut self, now: Now, step: &mut Step, request: Waiting) {
        let request = self.as_upgrade(request);
        let Waiting { caller, ask, takes, .. } = &request;
        let at = WaiterId(self.next_waiter);
        if let Some(why) = &self.paused {
            let fault = Fault::Unavailable(why.clone());
            return self.fail(step, *caller, fault);
        }
        let verdict = self.verdict(ask, at);
        let comes_in_line = match verdict {
            Verdict::Clear => true,
            Verdict::Blocked => self.would_wait(&request),
            Verdict::Mine(_) | Verdict::Resume(_) => false,
        };
        if comes_in_line && let Some(cycle) = self.cycle_by_going_first(now, &request) {
            return self.refuse_new(step, &request, RefusedFor::Deadlock(cycle));
        }
        match verdict {
            Verdict::Blocked => {}
            Verdict::Clear if *takes && ask.upgrades.is_none() && self.state.locks.len() >= limits::LOCKS_MAX => {
                let fault = Fault::TooMany(format!("this home holds {} locks, the most it may", limits::LOCKS_MAX));
                return self.fail(step, *caller, fault);
            }
            Verdict::Clear if *takes && os::wants_flock(ask) => {
                let id = self.enqueue(now, step, request);
                return self.ask_system(step, id, 0);
            }
            verdict => {
                return self.settle(now, step, Served { caller: *caller, ask, takes: *takes, place: None }, verdict);
            }
        }
        if let Some(own) = self.own_obstacle(ask) {
            let refused = self.refused_by_own(ask, own);
            return self.refuse(step, *caller, ask, refused);
        }
        if request.wait == Wait::Try {
            return self.refuse_new(step, &request, RefusedFor::Held);
        }
        if let Some(cycle) = self.cycle(ask, at) {
            return self.refuse_new(step, &request, RefusedFor::Deadlock(cycle));
        }
        if self.state.waiters.len() >= limits::WAITERS_MAX {
            let fault = Fault::TooMany(format!("{} requests wait here, the most that may", limits::WAITERS_MAX));
            return self.fail(step, *caller, fault);
        }
        let (ask, takes) = (ask.clone(), *takes);
        let id = self.enqueue(now, step, request);
        if takes {
            self.keeps_waiting(step, id, &ask);
        }
    }

    /// Whether a request that is blocked would wait: it wants to, and not only its own agent could end that.
    fn would_wait(&self, request: &Waiting) -> bool {
        request.wait != Wait::Try && self.own_obstacle(&request.ask).is_none()
    }

    /// Whether a request can be granted, by what, if it stands at `at` in the order of arrival.
    pub(super) fn verdict(&self, ask: &Ask, at: WaiterId) -> Verdict {
        self.verdict_by(ask, self.rank(ask, at))
    }

    /// The same for a request of this rank.
    pub(super) fn verdict_by(&self, ask: &Ask, rank: Rank) -> Verdict {
        if let Some(mine) = self.already_held(ask) {
            return Verdict::Mine(mine);
        }
        if let Some(detached) = self.own_detached(ask)
            && self.may_come_back(ask, &self.state.locks[&detached].ask)
        {
            return Verdict::Resume(detached);
        }
        // A weaker lock of one's own on the same scope is upgraded or released: nothing is granted beside it.
        if self.is_held_against(ask, &ask.target, ask.mode)
            || self.has_earlier(ask, rank)
            || self.own_obstacle(ask).is_some()
        {
            return Verdict::Blocked;
        }
        Verdict::Clear
    }

    /// A detached lock is held already, so nobody can be before its agent in line for it; only fellow sessions' guards
    /// can be in the way, and what its sub-agents hold in it is not. It comes back in the mode and under the name that
    /// it has: the mode may be stronger than the one asked for, and what overlaps the one name of a file need not
    /// overlap the other.
    fn may_come_back(&self, ask: &Ask, detached: &Ask) -> bool {
        self.comes_back(ask, detached, |lock| self.keeps_from_return(ask, lock))
    }

    /// The same, given what is in the way.
    pub(super) fn comes_back(&self, ask: &Ask, detached: &Ask, is_in_the_way: impl Fn(&Lock) -> bool) -> bool {
        let is_free = |target: &Target| {
            let found = self.state.index.overlapping(target, &mut |_, slot| {
                let mut locks = slot.holders_against(detached.mode).map(|id| &self.state.locks[&id]);
                if locks.any(&is_in_the_way) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            found.is_continue()
        };
        is_free(&ask.target) && is_free(&detached.target)
    }

    /// A one-shot's request for what its agent holds is answered by that lock. A session's is not: it wants a guard.
    /// Nor is a lock an answer that hangs on another process: it would end too early, or live too long. An upgrade is
    /// about one lock alone.
    pub(super) fn already_held(&self, ask: &Ask) -> Option<LockId> {
        if let Some(id) = ask.upgrades {
            return Some(id).filter(|id| self.state.locks[id].ask.mode == Mode::Exclusive);
        }
        if ask.who.session.is_some() {
            return None;
        }
        let mut own = self.own_covering(&ask.who.agent, &ask.target, ask.mode).into_iter();
        own.find(|id| {
            let lock = &self.state.locks[id];
            // One that has only a moment to live is no answer either.
            lock.bound() == ask.bound && !self.is_ending(*id)
        })
    }

    /// Does what a verdict other than `Blocked` says and answers.
    pub(super) fn settle(&mut self, now: Now, step: &mut Step, served: Served<'_>, verdict: Verdict) {
        let Served { caller, ask, takes, place } = served;
        let reply = match verdict {
            Verdict::Blocked => unreachable!("a blocked request is not settled"),
            _ if !takes => Reply::Free,
            Verdict::Mine(id) => {
                self.renew_lock(now, step, id, Some(ask.lease.ttl));
                let lock = self.state.locks[&id].clone();
                Reply::Granted(Box::new(Granted { already_held: true, ..new_grant(lock) }))
            }
            Verdict::Resume(id) => match self.take_up(step, id, ask) {
                Ok(granted) => Reply::Granted(Box::new(granted)),
                Err(cycle) => {
                    let at = WaiterId(self.next_waiter);
                    return self.refuse_for(step, caller, ask, at, RefusedFor::Deadlock(cycle));
                }
            },
            Verdict::Clear => Reply::Granted(Box::new(match ask.upgrades {
                Some(held) => self.make_exclusive(now, step, held, ask, None),
                None => Granted { place, ..self.grant(now, step, ask, None, OsLock::None) },
            })),
        };
        self.answer_about(step, caller, reply, Some(&ask.who), losses_meant(ask));
    }

    pub(super) fn answer_grant(&mut self, step: &mut Step, to: Caller, ask: &Arc<Ask>, granted: Granted) {
        self.answer_about(step, to, Reply::Granted(Box::new(granted)), Some(&ask.who), losses_meant(ask));
    }

    /// Grants, under the id that the system was asked with or a fresh one.
    pub(super) fn grant(
        &mut self,
        now: Now,
        step: &mut Step,
        ask: &Arc<Ask>,
        id: Option<LockId>,
        os: OsLock,
    ) -> Granted {
        assert!(self.paused.is_none(), "nothing is granted while grants are stopped");
        let fence = self.fresh_fence();
        let custody = ask.who.session.map_or(Custody::Detached, Custody::Session);
        let hold_until = ask.lease.max_hold.map(|most| now.mono.after(most));
        let mut lock = Lock {
            id: id.unwrap_or(LockId(fence.0)),
            ask: ask.clone(),
            fence,
            custody,
            since: now,
            ttl: ask.lease.ttl,
            expires: None,
            hold_until,
            lent: None,
            os,
            in_flight: None,
        };
        if custody == Custody::Detached || planted(Bug::ExpiryWhileAttached) {
            lock.expires = Some(lease_end(&lock, now));
        }
        let how = if self.is_delegated(ask) { Acquired::Delegated } else { Acquired::Granted };
        self.tell_leaders(step);
        self.put_lock(step, lock.clone());
        self.tell(step, EventKind::Acquired(how), &lock);
        self.withdraw_offers(step, &lock.ask.target, lock.ask.mode);
        if self.leads(&lock) {
            self.tell(step, EventKind::Leader { former: None }, &lock);
        }
        // It may answer requests of the same agent that still wait.
        step.eased.push(ask.who.agent.clone());
        self.let_sub_agents_in(step, ask);
        new_grant(lock)
    }

    /// A session takes up its agent's detached lock: same lock, same mode, new fence, the session's own terms. What a
    /// one-shot took it has on loan: that goes back to its agent when the session's guard or the session ends.
    ///
    /// Whoever waits for the lock waits for the session from then on, so this may close a cycle of waits though nobody
    /// begins to wait; the lock stays detached then.
    pub(super) fn take_up(&mut self, step: &mut Step, id: LockId, ask: &Arc<Ask>) -> Result<Granted, Vec<Link>> {
        let old = self.state.locks[&id].clone();
        let resumed = Some(Promised::by(&old));
        assert!(old.custody == Custody::Detached && old.ask.who.agent == ask.who.agent);
        let session = ask.who.session.expect("only sessions take locks up");
        let is_lent = old.ask.who.session.is_none() && !planted(Bug::LoanNotReturned);
        let lock = Lock {
            ask: Arc::new(Ask { mode: old.ask.mode, target: old.ask.target.clone(), ..(**ask).clone() }),
            fence: if planted(Bug::ResumedWithOldFence) { old.fence } else { self.fresh_fence() },
            custody: Custody::Session(session),
            ttl: ask.lease.ttl,
            expires: None,
            hold_until: None,
            lent: is_lent.then(|| Box::new(Loan::of(&old))),
            ..old
        };
        let record = Record::Lock(id, Some(lock.clone()));
        let before = self.state.fold(record.clone());
        if let Some(cycle) = self.cycle_through(&ask.who) {
            self.state.fold(before);
            return Err(cycle);
        }
        step.undo.push(before);
        step.records.push(record);
        self.adapt_flock(step, id, &old.ask);
        // If it hung on a process before, it answers requests of the same agent from now on that it did not.
        step.eased.push(ask.who.agent.clone());
        let lock = self.state.locks[&id].clone();
        self.tell(step, EventKind::Acquired(Acquired::Resumed), &lock);
        let text = "a session has taken the lock up meanwhile; only that session can make it exclusive";
        self.drop_upgrades(step, id, &Fault::Invalid(text.to_owned()));
        self.withdraw_offers(step, &lock.ask.target, lock.ask.mode);
        Ok(Granted { resumed, ..new_grant(lock) })
    }

    /// A request whose id is known: the same grant, the same place, or the word that it is over.
    fn asked_again(&mut self, now: Now, step: &mut Step, request: Waiting, fate: Fate) {
        let (caller, ask) = (request.caller, request.ask.clone());
        let before = match fate {
            Fate::Waiting(id) => &self.state.waiters[&id].ask,
            Fate::Holding(id) => &self.state.locks[&id].ask,
            Fate::Ended(id) => &self.state.ended[&id].ask,
        };
        if !is_same_request(before, &ask, self.is_about_older(fate)) {
            let text = "this request id was used for another scope, mode, ttl or session; use a fresh one";
            return self.fail(step, caller, Fault::Invalid(text.to_owned()));
        }
        match fate {
            Fate::Waiting(id) if self.has_given_up(id) => {
                let request = Together { caller, asks: std::slice::from_ref(&ask), wait: request.wait };
                self.ask_in_place(now, step, id, request);
            }
            Fate::Waiting(id) => self.back_in_line(now, step, caller, id),
            Fate::Holding(id) => {
                let granted = Granted { again: true, ..new_grant(self.state.locks[&id].clone()) };
                self.answer_grant(step, caller, &ask, granted);
            }
            Fate::Ended(id) => {
                let ended = Box::new(self.state.ended[&id].clone());
                let holders = self.holders_over(&ask.target).0;
                let reply = Reply::Failed(Fault::Lost(ended, holders));
                self.answer_about(step, caller, reply, Some(&ask.who), Some(&ask.target));
            }
        }
    }

    /// Whether what a request came to is, or may be, a lock of its agent's that was there before: that has got another
    /// fence than its first.
    pub(super) fn is_about_older(&self, fate: Fate) -> bool {
        match fate {
            Fate::Waiting(id) => self.state.waiters[&id].ask.upgrades.is_some(),
            Fate::Holding(id) => self.state.locks[&id].fence.0 != id.0,
            Fate::Ended(id) => self.state.ended[&id].fence.0 != id.0,
        }
    }

    /// The client of a waiting request asks again: its answer goes there from now on.
    pub(super) fn back_in_line(&mut self, now: Now, step: &mut Step, caller: Caller, id: WaiterId) {
        let old = self.state.waiters[&id].clone();
        let was_absent = old.caller.is_none();
        if was_absent && planted(Bug::PlaceLostByRestart) {
            self.take_out(step, id);
            return self.ask(now, step, Waiting { caller, ask: old.ask, wait: Wait::Forever, takes: true });
        }
        if let Some(before) = old.caller {
            self.fail_asked_later(step, before);
        }
        // What was asked of the system for a place is asked anew for a grant.
        let os = if was_absent { OsWait::Idle } else { old.os.clone() };
        if was_absent {
            self.forget_flock(step, &old);
        }
        let waiter = Waiter { caller: Some(caller), absent_until: None, offered_until: None, os, ..old };
        let ask = waiter.ask.clone();
        self.set(step, Record::Waiter(id, Some(waiter)));
        if !was_absent {
            return;
        }
        // What is kept for a session is in its own way only when it is back.
        self.withdraw_offers(step, &ask.target, ask.mode);
        let rows = self.rows_of(id);
        if let Some(cycle) = self.cycle_by_coming_back(&rows) {
            self.take_out(step, id);
            return self.refuse_set(step, caller, &rows, RefusedFor::Deadlock(cycle));
        }
        match self.verdict(&ask, id) {
            Verdict::Blocked => {}
            _ if self.paused.is_some() => {}
            Verdict::Clear if os::wants_flock(&ask) => self.ask_system(step, id, 0),
            verdict => {
                let waiter = self.state.waiters[&id].clone();
                self.take_out(step, id);
                self.settle(now, step, Served::by(&waiter), verdict);
            }
        }
    }

    /// Whoever waited for the answer to a request is told that it goes elsewhere.
    pub(super) fn fail_asked_later(&mut self, step: &mut Step, before: Caller) {
        let text = "asked again with the same request id; the answer goes to the later request";
        self.fail(step, before, Fault::Invalid(text.to_owned()));
    }

    fn enqueue(&mut self, now: Now, step: &mut Step, request: Waiting) -> WaiterId {
        let waiter = self.next_in_line(now, &request);
        let id = waiter.id;
        self.next_waiter += 1;
        if waiter.takes {
            for lock in self.in_the_way(&waiter.ask).0 {
                self.tell(step, EventKind::Waiting { waiter: waiter.ask.who.agent.clone() }, &lock);
            }
        }
        let (target, mode) = (waiter.ask.target.clone(), waiter.ask.mode);
        self.set(step, Record::Waiter(id, Some(waiter)));
        // An upgrade goes before those who were there.
        self.withdraw_offers(step, &target, mode);
        id
    }

    /// A request as it would stand in the queue.
    pub(super) fn next_in_line(&self, now: Now, request: &Waiting) -> Waiter {
        let Waiting { caller, ask, wait, takes } = request;
        let (deadline, at_once) = match wait {
            Wait::Until(deadline) => (Some(*deadline), false),
            Wait::Forever => (None, false),
            Wait::Try => (None, true),
        };
        Waiter {
            id: WaiterId(self.next_waiter),
            at_once,
            ask: ask.clone(),
            takes: *takes,
            since: now,
            deadline,
            caller: Some(*caller),
            absent_until: None,
            ticket: None,
            offered_until: None,
            os: OsWait::Idle,
            is_counted: false,
            level: self.level(ask),
        }
    }

    /// A request has to wait, if it has not before.
    pub(super) fn keeps_waiting(&mut self, step: &mut Step, id: WaiterId, ask: &Arc<Ask>) {
        let waiter = &self.state.waiters[&id];
        if waiter.is_counted {
            return;
        }
        let waiter = Waiter { is_counted: true, ..waiter.clone() };
        self.set(step, Record::Waiter(id, Some(waiter)));
        self.came(step, ask, Came::Queued);
    }

    /// A request is refused that has not waited, because of others.
    fn refuse_new(&mut self, step: &mut Step, request: &Waiting, why: RefusedFor) {
        if request.takes {
            self.came(step, &request.ask, Came::Refused);
        }
        let at = WaiterId(self.next_waiter);
        self.refuse_for(step, request.caller, &request.ask, at, why);
    }

    pub(super) fn refuse_for(&mut self, step: &mut Step, to: Caller, ask: &Arc<Ask>, at: WaiterId, why: RefusedFor) {
        let refused = self.refused(ask, at, why);
        self.refuse(step, to, ask, refused);
    }

    /// The refusal of a blocked request that does not wait, because it would not or because only its own agent could
    /// end that.
    pub(super) fn refused_now(&self, ask: &Ask, at: WaiterId) -> Refused {
        match self.own_obstacle(ask) {
            Some(own) => self.refused_by_own(ask, own),
            None => self.refused(ask, at, RefusedFor::Held),
        }
    }

    fn refused_by_own(&self, ask: &Ask, own: LockId) -> Refused {
        let (why, holders) = (RefusedFor::OwnLock, vec![self.state.locks[&own].clone()]);
        Refused {
            why,
            holders,
            more: 0,
            foreigner: None,
            position: 1,
            ticket: None,
            kept: self.kept(ask),
            retry_after: None,
        }
    }

    /// A refusal that names the holders in the way of a request that stands, or would stand, at `at`.
    pub(super) fn refused(&self, ask: &Ask, at: WaiterId, why: RefusedFor) -> Refused {
        let (holders, more) = self.in_the_way(ask);
        let (position, kept) = (self.position(ask, at), self.kept(ask));
        Refused { why, holders, more, foreigner: None, position, ticket: None, kept, retry_after: None }
    }

    pub(super) fn refuse(&mut self, step: &mut Step, to: Caller, ask: &Arc<Ask>, mut refused: Refused) {
        if matches!(refused.why, RefusedFor::Held | RefusedFor::Timeout) {
            refused.retry_after = self.retry_after(step.now.mono, ask, refused.position, &refused.holders);
        }
        step.refused.push((ask.clone(), refused.why.clone()));
        self.answer_about(step, to, Reply::Refused(Box::new(refused)), Some(&ask.who), losses_meant(ask));
    }

    // ── Renewal ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// A call of its agent touched this lock: a running lease starts anew.
    pub(super) fn touch(&mut self, now: Now, step: &mut Step, id: LockId) {
        self.renew_lock(now, step, id, None);
    }

    /// A call of `who` touched `target`: all running leases of its agent there start anew.
    pub(super) fn touch_all(&mut self, now: Now, step: &mut Step, who: &Who, target: &Target) {
        for id in self.own_over(&who.agent, target) {
            self.touch(now, step, id);
        }
    }

    /// Starts a lease anew, from now and never added up, with a new ttl if one is given. What its request asked for is
    /// remembered as it was, so that a retry is known.
    pub(super) fn renew_lock(&mut self, now: Now, step: &mut Step, id: LockId, ttl: Option<u64>) {
        let mut lock = self.state.locks[&id].clone();
        if lock.custody == Custody::Detached {
            lock.ttl = ttl.unwrap_or(lock.ttl);
            if planted(Bug::RenewalForgetsRequest) {
                let lease = Lease { ttl: lock.ttl, ..lock.ask.lease };
                lock.ask = Arc::new(Ask { lease, ..(*lock.ask).clone() });
            }
            let left = lock.expires.filter(|_| planted(Bug::LeaseAddedUp)).map_or(0, |end| end.left(now.mono));
            lock.expires = Some(lease_end(&lock, now).after(left));
        }
        // What is on loan has its lease when it goes back.
        if let (Some(loan), Some(ttl)) = (&mut lock.lent, ttl) {
            loan.promised.ttl = ttl;
        }
        if lock != self.state.locks[&id] {
            self.put_lock(step, lock);
        }
    }

    pub(super) fn renew(
        &mut self,
        now: Now,
        step: &mut Step,
        caller: Caller,
        who: Who,
        which: Which,
        ttl: Option<u64>,
    ) {
        if ttl.is_some_and(|ttl| ttl == 0 || ttl > limits::TTL_MAX) {
            let fault = Fault::Invalid("a lease is renewed for more than 0 s and at most 24 h".to_owned());
            return self.fail(step, caller, fault);
        }
        if let Some(why) = &self.paused {
            let fault = Fault::Unavailable(why.clone());
            return self.fail(step, caller, fault);
        }
        match self.chosen(&who, &which) {
            Err(fault) => self.answer_which(step, caller, Reply::Failed(fault), &who, &which),
            Ok(ids) => {
                for id in &ids {
                    self.renew_lock(now, step, *id, ttl);
                }
                let locks = ids.iter().map(|id| self.state.locks[id].clone()).collect();
                self.answer_which(step, caller, Reply::Renewed(locks), &who, &which);
            }
        }
    }

    /// The lock belongs to a process from now on, whatever becomes of the session that asked for it. Whose guard it is
    /// stays as it was, or two sessions of one agent could come to hold what excludes each other.
    pub(super) fn bind(&mut self, step: &mut Step, caller: Caller, who: Who, id: LockId, process: Process) {
        if let Some(why) = &self.paused {
            // It would be told that a process keeps the lock, and a kill now would forget it.
            let fault = Fault::Unavailable(why.clone());
            return self.fail(step, caller, fault);
        }
        let which = Which::Id(id);
        match self.chosen(&who, &which) {
            Err(fault) => self.answer_which(step, caller, Reply::Failed(fault), &who, &which),
            Ok(_) => {
                let old = self.state.locks[&id].clone();
                let ask = Arc::new(Ask { bound: None, ..(*with_session(&old.ask, old.keeper())).clone() });
                let lock = Lock { ask, custody: Custody::Process(process), expires: None, ..old };
                self.put_lock(step, lock);
                // What it hung on before no longer keeps it from answering requests of the same agent that wait.
                step.eased.push(who.agent.clone());
                self.answer_which(step, caller, Reply::Bound(id), &who, &which);
            }
        }
    }
}

/// A request on its way into the queue.
pub(super) struct Waiting {
    pub(super) caller: Caller,
    pub(super) ask: Arc<Ask>,
    pub(super) wait: Wait,
    pub(super) takes: bool,
}

/// A request that gets its answer.
pub(super) struct Served<'a> {
    pub(super) caller: Caller,
    pub(super) ask: &'a Arc<Ask>,
    pub(super) takes: bool,
    /// The kept place that it has come back to.
    pub(super) place: Option<KeptPlace>,
}

impl Served<'_> {
    pub(super) fn by(waiter: &Waiter) -> Served<'_> {
        let Waiter { caller, ask, takes, .. } = waiter;
        let caller = caller.expect("only who is there is served");
        Served { caller, ask, takes: *takes, place: waiter.place() }
    }
}

/// Where what was lost is told with the answer to a request. An upgrade may have named its lock by another name of the
/// file, which is not kept, and what was lost under that name is to be told: so it tells of all.
pub(super) fn losses_meant(ask: &Ask) -> Option<&Target> {
    Some(&ask.target).filter(|_| ask.upgrades.is_none() || planted(Bug::UpgradeForgetsName))
}

/// When the lease of a lock ends if it starts now.
pub(super) fn lease_end(lock: &Lock, now: Now) -> Moment {
    let end = now.mono.after(lock.ttl);
    lock.hold_until.filter(|_| !planted(Bug::MaxHoldIgnored)).map_or(end, |most| end.min(most))
}

/// The answer to a new grant of this lock.
pub(super) fn new_grant(lock: Lock) -> Granted {
    let beside = Vec::new();
    let place = None;
    Granted { lock, already_held: false, resumed: None, upgraded: false, again: false, beside, more: 0, place }
}

/// Whether a retry asks for the same thing. The note and the process may differ: they change no one's rights. So may
/// `max_hold`: a lock that was made exclusive keeps its own. One that was there before also keeps its name, and if a
/// session has taken it up its mode, which may be stronger than what was asked for.
pub(super) fn is_same_request(before: &Ask, now: &Ask, is_about_older: bool) -> bool {
    let is_taken_up = is_about_older && before.upgrades.is_none() && now.who.session.is_some();
    let is_same_scope = before.target.scope == now.target.scope;
    let is_same_mode = before.mode == now.mode;
    (is_same_scope || (is_about_older && before.target.is_one_with(&now.target)))
        && (is_same_mode || (is_taken_up && before.mode.answers(now.mode)))
        && before.who == now.who
        && before.lease.ttl == now.lease.ttl
        && before.bound == now.bound
}
