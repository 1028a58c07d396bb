//! Sets: many scopes are granted all or nothing, in one step, and wait as one request.
//!
//! A waiting set is a row of the queue for each of its scopes, one right behind the other in the order of arrival. So
//! what is in the way of a row, who comes behind it and who waits for whom is the same as for any request; only that
//! no row is served before all can be. The scopes of a set have nothing in common, so that none of its rows is in the
//! way of another.
//!
//! Flocks are asked for when nothing of ours is in the way of any row. If a foreign program has one of the files, the
//! flocks of all others are let go until that one is tried again: nothing is held there while something is waited for.

use super::ask::{Verdict, Waiting, is_same_request, losses_meant, new_grant};
use super::contention::Came;
use super::index::{Index, Rank};
use super::state::Fate;
use super::step::Mark;
use super::tickets::Together;
use super::{LockTable, Step, os};
use crate::limits;
use crate::model::*;
use crate::planted::{Bug, planted};
use crate::scope::{Scope, Target};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// What came of looking whether a waiting set can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outlook {
    /// Something of ours is in the way of a row.
    Blocked,
    /// Nothing of ours is; the system is being asked, or will be.
    Asking,
    /// It was answered.
    Served,
}

/// Why a set that was clear is not granted after all.
enum Unfit {
    /// A lock of its own that an earlier scope of the set has taken up.
    OwnLock(LockId),
    /// To take a lock up would close this cycle.
    Cycle(Vec<Link>),
}

impl LockTable {
    pub(super) fn lock_set(&mut self, now: Now, step: &mut Step, caller: Caller, asks: Vec<Arc<Ask>>, wait: Wait) {
        let who = asks.first().map(|ask| ask.who.clone());
        let fit = who.as_ref().map_or(Ok(()), |who| self.is_known(caller, who));
        if let Err(fault) = fit.and_then(|()| self.is_sound_set(&asks)) {
            return self.fail(step, caller, fault);
        }
        let agent = &asks[0].who.agent;
        if let Some(ending) = asks.iter().find_map(|ask| self.own_ending(agent, &ask.target)) {
            return self.put_off(step, &[ending], Command::LockSet { caller, asks, wait });
        }
        if self.set_asked_again(now, step, caller, &asks, wait) {
            return;
        }
        match self.place_kept_for(&asks) {
            Some(place) => self.ask_in_place(now, step, place, Together { caller, asks: &asks, wait }),
            None => self.ask_set(now, step, caller, &asks, wait),
        }
    }

    /// What no set may be.
    fn is_sound_set(&self, asks: &[Arc<Ask>]) -> Result<(), Fault> {
        if asks.is_empty() {
            return Err(Fault::Invalid("nothing was asked for: name at least one scope".to_owned()));
        }
        if asks.len() > limits::SET_MAX {
            let text = format!("{} scopes are asked for; at most {} may be at once", asks.len(), limits::SET_MAX);
            return Err(Fault::Invalid(text));
        }
        if asks[0].mode == Mode::Advisory {
            let text = "advisory locks wait for nobody and are granted in any case; ask for each by itself";
            return Err(Fault::Invalid(text.to_owned()));
        }
        for (index, ask) in asks.iter().enumerate() {
            let mark = SetMember { index: index as u16, of: asks.len() as u16 };
            assert_eq!(ask.set, Some(mark), "each scope of a set says which one it is");
            self.is_sound(ask)?;
            self.is_comparable(&ask.target)?;
        }
        self.has_room_for_patterns(asks.iter().map(|ask| &ask.target))?;
        are_apart(asks)
    }

    /// Whether a request id belongs to a set: a single request has no use for it.
    pub(super) fn is_name_of_set(&self, agent: &Agent, request: Option<&RequestId>) -> bool {
        let key = request.map(|request| (agent.clone(), request.clone()));
        !self.state.set_requests.is_empty() && key.is_some_and(|key| self.state.set_requests.contains_key(&key))
    }

    // ── Asking ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Grants, queues or refuses a new set.
    pub(super) fn ask_set(&mut self, now: Now, step: &mut Step, caller: Caller, asks: &[Arc<Ask>], wait: Wait) {
        if let Some(why) = &self.paused {
            let fault = Fault::Unavailable(why.clone());
            return self.fail(step, caller, fault);
        }
        let rows = self.set_in_line(now, caller, asks, wait);
        let is_clear = !self.is_set_blocked(&rows);
        let would_wait = wait != Wait::Try && self.own_obstacle_of_set(&rows).is_none();
        // What goes before others closes a cycle by being granted as well; see `cycle_by_going_first`.
        let goes_first = rows.iter().any(|row| row.ask.upgrades.is_some() || row.level > 0);
        if (if is_clear { goes_first } else { would_wait })
            && let Some(cycle) = self.cycle_with(&rows)
        {
            self.set_came(step, &rows);
            return self.refuse_set(step, caller, &rows, RefusedFor::Deadlock(cycle));
        }
        if !is_clear && !would_wait {
            let refused = self.refused_set_now(step, &rows);
            return self.answer_refused(step, caller, &rows, refused);
        }
        if is_clear && let Some(fault) = self.no_room_to_hold(&rows) {
            return self.fail(step, caller, fault);
        }
        let asks_system = is_clear && rows.iter().any(|row| self.wants_flock_now(row));
        if is_clear && !asks_system {
            return self.grant_set(now, step, caller, &rows);
        }
        if !is_clear && self.state.waiters.len() + rows.len() > limits::WAITERS_MAX {
            let fault = Fault::TooMany(format!("{} requests wait here, the most that may", limits::WAITERS_MAX));
            return self.fail(step, caller, fault);
        }
        let first = rows[0].id;
        self.enqueue_set(step, rows);
        if asks_system {
            self.serve_set(now, step, first);
        } else {
            self.set_keeps_waiting(step, first);
        }
    }

    /// A set as its rows would stand in the queue. It waits as one, so it has one level; see `family.rs`.
    pub(super) fn set_in_line(&self, now: Now, caller: Caller, asks: &[Arc<Ask>], wait: Wait) -> Vec<Waiter> {
        let row = |(index, ask): (usize, &Arc<Ask>)| {
            let request = self.as_upgrade(Waiting { caller, ask: ask.clone(), wait, takes: true });
            let row = self.next_in_line(now, &request);
            Waiter { id: WaiterId(row.id.0 + index as u64), ..row }
        };
        let mut rows: Vec<Waiter> = asks.iter().enumerate().map(row).collect();
        let level = self.level_of_set(&rows);
        rows.iter_mut().for_each(|row| row.level = level);
        rows
    }

    fn enqueue_set(&mut self, step: &mut Step, rows: Vec<Waiter>) {
        self.next_waiter += rows.len() as u64;
        let (agent, asks) = (rows[0].ask.who.agent.clone(), rows.iter().map(|row| row.ask.clone()));
        let asks: Vec<Arc<Ask>> = asks.collect();
        for lock in self.in_the_way_of(rows.iter().map(|row| &*row.ask)).0 {
            self.tell(step, EventKind::Waiting { waiter: agent.clone() }, &lock);
        }
        for row in rows {
            self.set(step, Record::Waiter(row.id, Some(row)));
        }
        // An upgrade, or what is inside a parent's lock, goes before those who were there.
        for ask in asks {
            self.withdraw_offers(step, &ask.target, ask.mode);
        }
    }

    /// Others keep a set from these of its scopes, which are counted once.
    fn set_kept_from(&self, rows: &[Waiter]) -> Vec<Waiter> {
        let is_blocked = |row: &&Waiter| !row.is_counted && matches!(self.verdict_of(row), Verdict::Blocked);
        rows.iter().filter(is_blocked).cloned().collect()
    }

    /// A set is refused because of others.
    fn set_came(&mut self, step: &mut Step, rows: &[Waiter]) {
        for row in self.set_kept_from(rows) {
            self.came(step, &row.ask, Came::Refused);
        }
    }

    fn set_keeps_waiting(&mut self, step: &mut Step, id: WaiterId) {
        for row in self.set_kept_from(&self.rows_of(id)) {
            self.keeps_waiting(step, row.id, &row.ask);
        }
    }

    /// The answer to a request id that is known: the same grants, the same place, or the word that something of it is
    /// over. False if nothing is known of it.
    fn set_asked_again(&mut self, now: Now, step: &mut Step, caller: Caller, asks: &[Arc<Ask>], wait: Wait) -> bool {
        let Some(request) = &asks[0].request else { return false };
        let key = (asks[0].who.agent.clone(), request.clone());
        let is_single = self.state.requests.contains_key(&key);
        let fates = self.state.set_requests.get(&key).cloned().unwrap_or_default();
        if is_single || !self.is_same_set(&fates, asks) {
            let text = "this request id was used for other scopes, or another mode, ttl or session; use a fresh one";
            self.fail(step, caller, Fault::Invalid(text.to_owned()));
            return true;
        }
        if let Some(Fate::Waiting(first)) = fates.get(&0) {
            match self.has_given_up(*first) {
                true => self.ask_in_place(now, step, *first, Together { caller, asks, wait }),
                false => self.set_back_in_line(now, step, caller, *first),
            }
            return true;
        }
        let ended = fates.values().find_map(|fate| match fate {
            Fate::Ended(id) => Some(&self.state.ended[id]),
            Fate::Waiting(_) | Fate::Holding(_) => None,
        });
        if let Some(ended) = ended {
            let fault = self.lost(ended);
            self.answer_set(step, caller, asks.iter(), Reply::Failed(fault));
            return true;
        }
        let held = |(index, ask): (u16, &Arc<Ask>)| match fates.get(&index) {
            Some(Fate::Holding(id)) => Some((*id, false)),
            _ => self.already_held(ask).map(|id| (id, true)),
        };
        let held: Option<Vec<(LockId, bool)>> = (0..).zip(asks).map(held).collect();
        if fates.is_empty() {
            return false;
        }
        let Some(held) = held else {
            let text =
                "a part of what this request id got is held no more, and it is not asked for anew; use a fresh one";
            self.fail(step, caller, Fault::Invalid(text.to_owned()));
            return true;
        };
        let mut all = Vec::with_capacity(held.len());
        for ((id, already_held), ask) in held.into_iter().zip(asks) {
            if already_held {
                self.renew_lock(now, step, id, Some(ask.lease.ttl));
            }
            let lock = self.state.locks[&id].clone();
            all.push(Granted { already_held, again: !already_held, ..new_grant(lock) });
        }
        self.answer_set(step, caller, asks.iter(), Reply::GrantedSet(all));
        true
    }

    fn is_same_set(&self, fates: &BTreeMap<u16, Fate>, asks: &[Arc<Ask>]) -> bool {
        let is_same = |before: &Ask, index: u16, fate: Fate| {
            let of = before.set.map_or(1, |member| usize::from(member.of));
            of == asks.len() && is_same_request(before, &asks[usize::from(index)], self.is_about_older(fate))
        };
        fates.iter().all(|(index, fate)| match fate {
            Fate::Waiting(id) => {
                let rows = self.rows_of(*id);
                let is_row = |(index, row): (u16, &Waiter)| is_same(&row.ask, index, Fate::Waiting(row.id));
                rows.len() == asks.len() && (0..).zip(&rows).all(is_row)
            }
            Fate::Holding(id) => is_same(&self.state.locks[id].ask, *index, *fate),
            Fate::Ended(id) => is_same(&self.state.ended[id].ask, *index, *fate),
        })
    }

    /// The client of a waiting set asks again: its answer goes there from now on.
    fn set_back_in_line(&mut self, now: Now, step: &mut Step, caller: Caller, first: WaiterId) {
        let before = self.rows_of(first);
        if let Some(before) = before[0].caller {
            self.fail_asked_later(step, before);
        }
        let was_absent = before[0].caller.is_none();
        if was_absent {
            // What was asked of the system for a place is asked anew for a grant.
            self.set_goes_back(step, first);
        }
        for row in self.rows_of(first) {
            let row = Waiter { caller: Some(caller), absent_until: None, offered_until: None, ..row };
            self.set(step, Record::Waiter(row.id, Some(row)));
        }
        if !was_absent {
            return;
        }
        let rows = self.rows_of(first);
        for row in &rows {
            self.withdraw_offers(step, &row.ask.target, row.ask.mode);
        }
        if let Some(cycle) = self.cycle_by_coming_back(&rows) {
            self.take_out(step, first);
            self.refuse_set(step, caller, &rows, RefusedFor::Deadlock(cycle));
        } else if self.paused.is_none() {
            self.serve_set(now, step, first);
        }
    }

    // ── Serving ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// The rows of a waiting request.
    pub(super) fn rows_of(&self, id: WaiterId) -> Vec<Waiter> {
        self.state.waiters[&id].rows().map(|id| self.state.waiters[&id].clone()).collect()
    }

    /// What one row comes to, given where the whole set stands.
    pub(super) fn verdict_of(&self, row: &Waiter) -> Verdict {
        self.verdict_by(&row.ask, rank_of(row))
    }

    pub(super) fn is_set_blocked(&self, rows: &[Waiter]) -> bool {
        let rows = if planted(Bug::SetByItsFirst) { &rows[..1] } else { rows };
        rows.iter().any(|row| matches!(self.verdict_of(row), Verdict::Blocked))
    }

    /// Whether a row waits for its flock, given that the set is clear: what its agent holds already needs none.
    fn wants_flock_now(&self, row: &Waiter) -> bool {
        os::wants_flock(&row.ask) && matches!(self.verdict_of(row), Verdict::Clear)
    }

    /// Serves a waiting set if all of it can be; answers whether it did.
    pub(super) fn serve_set_of(&mut self, now: Now, step: &mut Step, id: WaiterId) -> bool {
        self.serve_set(now, step, id) == Outlook::Served
    }

    fn serve_set(&mut self, now: Now, step: &mut Step, id: WaiterId) -> Outlook {
        self.serve_set_after(now, step, id, 0)
    }

    /// Takes the next step with a waiting set: asks for the flocks that it lacks, or grants all of it. `pause` is how
    /// long was waited before this try, in milliseconds.
    fn serve_set_after(&mut self, now: Now, step: &mut Step, id: WaiterId, pause: u64) -> Outlook {
        let rows = self.rows_of(id);
        // A client that has not come back keeps its place, but cannot be told of a grant. A kept place is offered.
        let caller = rows[0].caller;
        if (caller.is_none() && !rows[0].is_kept()) || self.is_set_blocked(&rows) {
            return Outlook::Blocked;
        }
        let lacking: Vec<&Waiter> = rows.iter().filter(|row| self.wants_flock_now(row)).collect();
        if lacking.iter().any(|row| matches!(row.os, OsWait::Busy { .. })) {
            return Outlook::Asking;
        }
        let idle: Vec<WaiterId> = lacking.iter().filter(|row| row.os == OsWait::Idle).map(|row| row.id).collect();
        let is_asking = lacking.iter().any(|row| matches!(row.os, OsWait::Asked { .. }));
        for id in &idle {
            self.ask_system(step, *id, pause);
        }
        if is_asking || !idle.is_empty() {
            return Outlook::Asking;
        }
        let Some(caller) = caller else {
            // The foreigner has gone. Nothing is held for whoever is not there.
            self.set_goes_back(step, id);
            self.offer_if_due(now, step, id);
            return Outlook::Asking;
        };
        for row in &rows {
            // What it waited for may not be all under the name of the lock that answers it.
            if !matches!(self.verdict_of(row), Verdict::Clear) {
                step.freed.push(row.ask.clone());
            }
        }
        for row in &rows {
            self.set(step, Record::Waiter(row.id, None));
        }
        self.grant_set(now, step, caller, &rows);
        Outlook::Served
    }

    /// Grants all of a set that is clear and in no queue, and answers. Where one of its scopes takes up a lock that is
    /// in the way of another, nothing of it is granted: this is looked at here, since only here it can be seen.
    fn grant_set(&mut self, now: Now, step: &mut Step, caller: Caller, rows: &[Waiter]) {
        let mark = self.mark(step);
        let mut all = Vec::with_capacity(rows.len());
        for row in rows {
            match self.grant_member(now, step, row) {
                Ok(granted) => all.push(granted),
                Err(unfit) => return self.grant_nothing(step, mark, caller, rows, unfit),
            }
        }
        self.answer_set(step, caller, rows.iter().map(|row| &row.ask), Reply::GrantedSet(all));
    }

    fn grant_member(&mut self, now: Now, step: &mut Step, row: &Waiter) -> Result<Granted, Unfit> {
        let ask = &row.ask;
        let verdict = match self.verdict_of(row) {
            // A lock that it was to take up lies, by its other name, in what the set was granted just now. What a
            // sub-agent holds in it would be no obstacle to the return, but is one to a lock of its own.
            Verdict::Blocked if self.own_obstacle(ask).is_none() && !planted(Bug::SetByItsFirst) => {
                if self.is_held_against(ask, &ask.target, ask.mode) {
                    let own = self.own_detached(ask).expect("nothing but its own is held in the way of a clear set");
                    return Err(Unfit::OwnLock(own));
                }
                // By what it was granted just now a sub-agent's request may have come before it; that is behind it
                // all the same, since a set is granted in one step.
                Verdict::Clear
            }
            Verdict::Blocked if self.own_obstacle(ask).is_none() => Verdict::Clear,
            verdict => verdict,
        };
        let flock = match (&verdict, &row.os) {
            (Verdict::Clear, OsWait::Had { lock, held }) => Some((*lock, *held)),
            _ => None,
        };
        if flock.is_none() {
            self.forget_flock(step, row);
        }
        Ok(match verdict {
            Verdict::Blocked => {
                let own = self.own_obstacle(ask).expect("anything else was looked at above");
                return Err(Unfit::OwnLock(own));
            }
            Verdict::Mine(id) => {
                self.renew_lock(now, step, id, Some(ask.lease.ttl));
                Granted { already_held: true, ..new_grant(self.state.locks[&id].clone()) }
            }
            Verdict::Resume(id) => self.take_up(step, id, ask).map_err(Unfit::Cycle)?,
            Verdict::Clear => match ask.upgrades {
                Some(held) => {
                    let flock = flock.filter(|(_, held)| *held).map(|(lock, _)| lock);
                    self.make_exclusive(now, step, held, ask, flock)
                }
                None => {
                    let os = if flock.is_some_and(|(_, held)| held) { OsLock::Held } else { OsLock::None };
                    self.grant(now, step, ask, flock.map(|(lock, _)| lock), os)
                }
            },
        })
    }

    /// Undoes what was granted of a set so far, and refuses it.
    fn grant_nothing(&mut self, step: &mut Step, mark: Mark, caller: Caller, rows: &[Waiter], unfit: Unfit) {
        self.back_to(step, mark);
        for row in rows {
            self.forget_flock(step, row);
            step.freed.push(row.ask.clone());
        }
        match unfit {
            Unfit::Cycle(cycle) => self.refuse_set(step, caller, rows, RefusedFor::Deadlock(cycle)),
            Unfit::OwnLock(own) => {
                let refused = self.refused_for_own(rows, own);
                self.answer_refused(step, caller, rows, refused);
            }
        }
    }

    // ── The system's say ────────────────────────────────────────────────────────────────────────────────────────────

    /// The system has answered for one row of a set.
    pub(super) fn set_answered(&mut self, now: Now, step: &mut Step, row: Waiter, lock: LockId, answer: OsAnswer) {
        let OsWait::Asked { pause, .. } = row.os else { unreachable!("the index holds those that have asked") };
        let (id, at_once, caller) = (row.id, row.at_once, row.caller);
        assert!(caller.is_some() || row.is_kept(), "of those who are absent only a kept place asks for anything");
        let held = match answer {
            OsAnswer::Busy(by) if at_once => {
                let refused = self.refused_set(&self.rows_of(id), RefusedFor::Held);
                if !row.is_counted {
                    self.came(step, &row.ask, Came::Refused);
                }
                return self.turn_away(now, step, id, Refused { foreigner: Some(by), ..refused });
            }
            OsAnswer::Busy(by) => {
                let pause = (pause * 2).clamp(limits::OS_PAUSE_FIRST, limits::OS_PAUSE_MAX);
                let os = OsWait::Busy { by, again: now.mono.after(pause), pause };
                let ask = row.ask.clone();
                self.set(step, Record::Waiter(id, Some(Waiter { os, ..row })));
                self.keeps_waiting(step, id, &ask);
                let others = self.rows_of(id).into_iter().filter(|other| other.id != id);
                return others.filter(|_| !planted(Bug::SetKeepsFlocks)).for_each(|other| self.go_back(step, other));
            }
            OsAnswer::Held => true,
            OsAnswer::Unable => false,
        };
        self.set(step, Record::Waiter(id, Some(Waiter { os: OsWait::Had { lock, held }, ..row })));
        let rows = self.rows_of(id);
        if rows.iter().any(|row| matches!(row.os, OsWait::Asked { .. })) {
            return;
        }
        if let Some(why) = self.paused.clone() {
            if let Some(caller) = caller.filter(|_| at_once) {
                self.keep_place(now, step, id);
                return self.fail(step, caller, Fault::Unavailable(why));
            }
            return self.set_goes_back(step, id);
        }
        // Something may have come in between: an agent's own locks pass by its queue.
        if self.serve_set(now, step, id) == Outlook::Blocked {
            if at_once {
                let refused = self.refused_set_now(step, &rows);
                return self.turn_away(now, step, id, refused);
            }
            self.set_goes_back(step, id);
            if caller.is_some() {
                self.set_keeps_waiting(step, id);
            }
        }
    }

    /// Back to where only ours are in the way: whatever was asked of the system or had from it is let go.
    fn set_goes_back(&mut self, step: &mut Step, id: WaiterId) {
        self.rows_of(id).into_iter().for_each(|row| self.go_back(step, row));
    }

    /// A foreigner held a file of the set when it was last tried: once more for all of them.
    pub(super) fn try_set_again(&mut self, now: Now, step: &mut Step, id: WaiterId, pause: u64) {
        self.set_goes_back(step, id);
        if self.paused.is_none() {
            self.serve_set_after(now, step, id, pause);
        }
    }

    // ── Answers ─────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn own_obstacle_of_set(&self, rows: &[Waiter]) -> Option<LockId> {
        rows.iter().find_map(|row| self.own_obstacle(&row.ask))
    }

    /// Why no more locks may be held, if these would be too many.
    pub(super) fn no_room_to_hold(&self, rows: &[Waiter]) -> Option<Fault> {
        let is_new = |row: &&Waiter| row.ask.upgrades.is_none() && matches!(self.verdict_of(row), Verdict::Clear);
        let new = rows.iter().filter(is_new).count();
        (self.state.locks.len() + new > limits::LOCKS_MAX).then(|| {
            let (held, most) = (self.state.locks.len(), limits::LOCKS_MAX);
            Fault::TooMany(format!("this home holds {held} locks; {new} more would be above the {most} it may"))
        })
    }

    /// A refusal that names the holders in the way of any row, each once.
    pub(super) fn refused_set(&self, rows: &[Waiter], why: RefusedFor) -> Refused {
        let (holders, more) = self.in_the_way_of(rows.iter().map(|row| &*row.ask));
        let position = self.place_behind(rows.iter().map(|row| (&*row.ask, rank_of(row))));
        let kept = rows.iter().find_map(|row| self.kept(&row.ask));
        Refused { why, holders, more, foreigner: None, position, ticket: None, kept, retry_after: None }
    }

    pub(super) fn refuse_set(&mut self, step: &mut Step, to: Caller, rows: &[Waiter], why: RefusedFor) {
        let refused = self.refused_set(rows, why);
        self.answer_refused(step, to, rows, refused);
    }

    /// The refusal of a blocked set that does not wait, because it would not or because only its own agent could end
    /// that.
    fn refused_set_now(&mut self, step: &mut Step, rows: &[Waiter]) -> Refused {
        match self.own_obstacle_of_set(rows) {
            Some(own) => self.refused_for_own(rows, own),
            None => {
                self.set_came(step, rows);
                self.refused_set(rows, RefusedFor::Held)
            }
        }
    }

    pub(super) fn refused_for_own(&self, rows: &[Waiter], own: LockId) -> Refused {
        let holders = self.state.locks.get(&own).into_iter().cloned().collect();
        let kept = rows.iter().find_map(|row| self.kept(&row.ask));
        let why = RefusedFor::OwnLock;
        Refused { why, holders, more: 0, foreigner: None, position: 1, ticket: None, kept, retry_after: None }
    }

    /// Refuses a set. When to come back for it is said by the scope for which that is latest.
    pub(super) fn answer_refused(&mut self, step: &mut Step, to: Caller, rows: &[Waiter], mut refused: Refused) {
        if matches!(refused.why, RefusedFor::Held | RefusedFor::Timeout) {
            let (now, position) = (step.now.mono, refused.position);
            let after = rows.iter().map(|row| self.retry_after(now, &row.ask, position, &refused.holders));
            refused.retry_after = after.max().flatten();
        }
        // What takes nothing is no request for a lock, and a scope of a set that could be had was not refused.
        let is_foreign = refused.foreigner.is_some();
        let is_why = |row: &&Waiter| {
            let is_tried = is_foreign && matches!(row.os, OsWait::Asked { .. });
            row.is_counted || is_tried || matches!(self.verdict_of(row), Verdict::Blocked)
        };
        let counted = rows.iter().filter(|row| row.takes && (rows.len() == 1 || is_why(row)));
        step.refused.extend(counted.map(|row| (row.ask.clone(), refused.why.clone())));
        self.answer_set(step, to, rows.iter().map(|row| &row.ask), Reply::Refused(Box::new(refused)));
    }

    /// Answers about all scopes of a set.
    pub(super) fn answer_set<'a>(
        &mut self,
        step: &mut Step,
        to: Caller,
        asks: impl Iterator<Item = &'a Arc<Ask>> + Clone,
        reply: Reply,
    ) {
        let who = asks.clone().next().map(|ask| &ask.who);
        let targets: Option<Vec<&Target>> = asks.map(|ask| losses_meant(ask)).collect();
        self.answer_about_all(step, to, reply, who, targets.as_deref());
    }
}

pub(super) fn asks_of(rows: &[Waiter]) -> Vec<Arc<Ask>> {
    rows.iter().map(|row| row.ask.clone()).collect()
}

fn rank_of(row: &Waiter) -> Rank {
    Rank::of(&row.ask, row.level, row.id)
}

/// Whether no two scopes of a set have anything in common. Where two have, one request would hold a file twice, and a
/// session would be in its own way: it is for whoever asks to say which of them is meant.
fn are_apart(asks: &[Arc<Ask>]) -> Result<(), Fault> {
    let mut index = Index::new();
    for (n, ask) in asks.iter().enumerate() {
        if let Some(other) = index.incomparable(&ask.target) {
            let text = format!("whether {} and {other} could match the same file takes too long", ask.target.scope);
            return Err(Fault::Invalid(text + " to find out; lock the directory, or one after the other"));
        }
        // Of several the first: a sentence is the same each time.
        let mut met: Option<LockId> = None;
        let _ = index.overlapping::<()>(&ask.target, &mut |_, slot| {
            met = met.into_iter().chain(slot.holders()).min();
            ControlFlow::Continue(())
        });
        if let Some(other) = met.map(|other| other.0 as usize) {
            return Err(Fault::Invalid(in_common(&asks[other].target.scope, &ask.target.scope)));
        }
        // In an index of its own: the number stands for a lock there.
        index.add_lock(&ask.target, Mode::Exclusive, LockId(n as u64));
    }
    Ok(())
}

/// Says that two scopes have something in common, and what to do.
fn in_common(a: &Scope, b: &Scope) -> String {
    let what = match (a.covers(b), b.covers(a)) {
        (true, true) => "are the same".to_owned(),
        (true, false) => format!("overlap: leave {b} out, which {a} covers"),
        (false, true) => format!("overlap: leave {a} out, which {b} covers"),
        (false, false) => "have a file in common: name it once".to_owned(),
    };
    format!("{a} and {b} {what}; nothing was locked")
}
