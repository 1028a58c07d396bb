//! How locks and sessions end: released, run out, broken, given up; and what is remembered and told of it.

use super::ask::lease_end;
use super::{LockTable, Step};
use crate::limits;
use crate::model::*;
use crate::planted::{Bug, planted};
use crate::scope::Scope;
use std::sync::Arc;

impl LockTable {
    /// Ends a lock. Those who wait for it are served when all that ends with it has ended.
    pub(super) fn end(&mut self, now: Now, step: &mut Step, id: LockId, why: EndReason, untold: bool) -> Ended {
        let lock = self.state.locks[&id].clone();
        assert!(lock.in_flight.is_none(), "no lock ends while something is in flight under it");
        let ended = Ended { id, ask: lock.ask.clone(), fence: lock.fence, why: why.clone(), at: now, untold };
        self.take_away(step, &lock);
        self.remember(step, ended.clone());
        self.was_held(step, &lock);
        self.tell(step, EventKind::Released(why), &lock);
        if self.state.upgrades_of_lock.contains_key(&id) {
            let fault = self.lost(&ended);
            self.drop_upgrades(step, id, &fault);
        }
        if !planted(Bug::WakeUpLost) {
            step.freed.push(lock.ask);
        }
        ended
    }

    /// The lock is held no more, nor is its flock; whoever follows it as leader is told before the step is over.
    fn take_away(&mut self, step: &mut Step, lock: &Lock) {
        if lock.ask.mode == Mode::Advisory {
            step.unranked.push((lock.id, lock.ask.clone()));
        }
        self.set(step, Record::Lock(lock.id, None));
        if lock.os != OsLock::None {
            step.effects.push(Effect::DropOs { lock: lock.id });
        }
    }

    /// Keeps what ended, and lets the oldest go where there is too much of it.
    fn remember(&mut self, step: &mut Step, ended: Ended) {
        let (kept, most) = match ended.untold {
            true => (&self.state.untold_by_age, limits::NOTICES_MAX),
            false => (&self.state.told_by_age, limits::ENDED_MAX),
        };
        if kept.len() >= most
            && let Some(&(_, oldest)) = kept.first()
        {
            self.set(step, Record::Ended(oldest, None));
        }
        self.set(step, Record::Ended(ended.id, Some(ended)));
    }

    /// These notices have arrived: they are not told again.
    pub(super) fn losses_told(&mut self, step: &mut Step, ids: &[LockId]) {
        for id in ids {
            if let Some(untold) = self.state.ended.get(id).filter(|ended| ended.untold) {
                let told = Ended { untold: false, ..untold.clone() };
                self.set(step, Record::Ended(*id, Some(told)));
            }
        }
    }

    pub(super) fn end_by_reboot(&mut self, now: Now, step: &mut Step, id: LockId) {
        self.end(now, step, id, EndReason::Rebooted, true);
    }

    /// Its lease ran out, or its flock is tried again.
    pub(super) fn lock_is_due(&mut self, now: Now, step: &mut Step, id: LockId) {
        if self.state.locks[&id].expires.is_some_and(|end| end <= now.mono) {
            self.end(now, step, id, EndReason::Expired, true);
        } else if self.paused.is_none() {
            self.retake(step, id);
        } else {
            // Nothing is asked of the system while grants are stopped; it is asked later.
            let lock = self.state.locks[&id].clone();
            let OsLock::Contested { by, .. } = lock.os else { unreachable!("only contested flocks are tried again") };
            let os = OsLock::Contested { by, again: now.mono.after(limits::OS_PAUSE_MAX) };
            self.put_lock(step, Lock { os, ..lock });
        }
    }

    /// What kept this lock alive is gone: its lease runs from now on, or it ends.
    fn let_go(&mut self, now: Now, step: &mut Step, id: LockId, why: &EndReason) {
        let old = self.state.locks[&id].clone();
        if old.lent.is_some() {
            return self.give_back(now, step, old);
        }
        if old.ttl == 0 && old.in_flight.is_some() {
            return self.end_later(now, step, old, why);
        }
        if old.ttl == 0 {
            // Whoever is dead needs no notice; whoever was only silent does.
            self.end(now, step, id, why.clone(), *why == EndReason::Silent);
            return;
        }
        let mut lock = Lock { custody: Custody::Detached, ..old };
        // After a restart the lease is running already; it is not given twice.
        lock.expires = lock.expires.or_else(|| Some(lease_end(&lock, now)));
        self.put_lock(step, lock.clone());
        self.tell(step, EventKind::Detached, &lock);
        // A fellow session may take it up now.
        step.freed.push(lock.ask);
    }

    /// What a session had on loan is its agent's again: its lease runs from now on, as it was promised.
    fn give_back(&mut self, now: Now, step: &mut Step, old: Lock) {
        let lock = Lock { custody: Custody::Detached, ..old.returned() };
        let lock = Lock { expires: Some(lease_end(&lock, now)), ..lock };
        self.put_lock(step, lock.clone());
        self.tell(step, EventKind::Detached, &lock);
        // Whoever wanted it exclusive asked for a guard of that session, or on its terms.
        let text = "the lock has gone back to its agent meanwhile, from a session that had it on loan; ask again";
        self.drop_upgrades(step, lock.id, &Fault::Invalid(text.to_owned()));
        step.freed.push(lock.ask);
        if lock.in_flight.is_none() && lock.expires.is_some_and(|end| end <= now.mono) {
            // Its time was over before; nobody is to find it held for a moment more.
            self.end(now, step, lock.id, EndReason::Expired, true);
        }
    }

    /// What was promised is over; whoever has it on loan keeps it, on terms that answer requests of its agent which
    /// those did not.
    fn keep_loan(&mut self, step: &mut Step, lock: Lock) {
        step.eased.push(lock.ask.who.agent.clone());
        self.put_lock(step, Lock { lent: None, ..lock });
    }

    // ── Sessions and processes ──────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn open_session(&mut self, step: &mut Step, caller: Caller, session: Session) {
        if let Some(why) = &self.paused {
            let fault = Fault::Unavailable(why.clone());
            return self.fail(step, caller, fault);
        }
        if self.state.sessions.len() >= limits::SESSIONS_MAX {
            let fault = Fault::TooMany(format!("this home has {} sessions, the most it may", limits::SESSIONS_MAX));
            return self.fail(step, caller, fault);
        }
        let id = session.id;
        assert!(!self.state.sessions.contains_key(&id), "session ids are random and 64 bits long");
        self.set(step, Record::Session(id, Some(session)));
        self.answer(step, caller, Reply::SessionOpen(id));
    }

    /// The same client is back: nothing changes but that it is here.
    pub(super) fn return_session(
        &mut self,
        step: &mut Step,
        caller: Caller,
        id: SessionId,
        secret: u128,
        process: Option<Process>,
    ) {
        let known = self.state.sessions.get(&id);
        let known = known.filter(|session| session.secret == secret || planted(Bug::SecretNotAsked));
        let Some(session) = known.filter(|session| session.process == process).cloned() else {
            return self.fail(step, caller, Fault::UnknownSession);
        };
        let locks = self.state.locks_of_session.get(&id).into_iter().flatten().copied().collect::<Vec<_>>();
        for lock in locks {
            let lock = Lock { expires: None, ..self.state.locks[&lock].clone() };
            self.put_lock(step, lock);
        }
        self.set(step, Record::Session(id, Some(Session { away_until: None, ..session })));
        self.answer(step, caller, Reply::SessionOpen(id));
    }

    pub(super) fn end_session(&mut self, now: Now, step: &mut Step, id: SessionId, why: EndReason) {
        if !self.state.sessions.contains_key(&id) {
            return;
        }
        let waits = self.state.waits_of_session.get(&id).into_iter().flatten().copied().collect::<Vec<_>>();
        for waiter in waits {
            self.take_out(step, waiter);
        }
        let locks = self.state.locks_of_session.get(&id).into_iter().flatten().copied().collect::<Vec<_>>();
        for lock in locks {
            self.let_go(now, step, lock, &why);
        }
        self.set(step, Record::Session(id, None));
    }

    pub(super) fn process_gone(&mut self, now: Now, step: &mut Step, process: Process) {
        let sessions = self.state.sessions_of_process.get(&process).into_iter().flatten().copied().collect::<Vec<_>>();
        for session in sessions {
            self.end_session(now, step, session, EndReason::SessionEnded);
        }
        let waits = self.state.waits_of_process.get(&process).into_iter().flatten().copied().collect::<Vec<_>>();
        for waiter in waits {
            // All of a set goes with its first row.
            let Some(caller) = self.state.waiters.get(&waiter).map(|row| row.caller) else { continue };
            self.take_out(step, waiter);
            if let Some(caller) = caller {
                self.fail_for_dead(step, caller);
            }
        }
        if !planted(Bug::PutOffForDead) {
            self.refuse_put_off(step, process);
        }
        let mut locks = self.state.locks_of_process.get(&process).into_iter().flatten().copied().collect::<Vec<_>>();
        locks.retain(|_| !planted(Bug::DeadKeepsLock));
        for lock in locks {
            let row = &self.state.locks[&lock];
            let is_bound = row.bound() == Some(process);
            match row.custody {
                Custody::Detached if is_bound && row.in_flight.is_some() => {
                    self.end_later(now, step, row.clone(), &EndReason::SessionEnded);
                }
                // As its agent wanted it: no notice.
                Custody::Detached if is_bound => drop(self.end(now, step, lock, EndReason::SessionEnded, false)),
                custody => {
                    if is_bound {
                        self.keep_loan(step, row.clone());
                    }
                    if custody == Custody::Process(process) {
                        self.let_go(now, step, lock, &EndReason::SessionEnded);
                    }
                }
            }
        }
        self.webhooks_of_gone(step, process);
    }

    /// A lock was asked for that is to end with a process, and that has ended.
    pub(super) fn fail_for_dead(&mut self, step: &mut Step, caller: Caller) {
        let text = "the process that the lock was to end with has ended; nothing was locked";
        self.fail(step, caller, Fault::Invalid(text.to_owned()));
    }

    // ── Release and break ───────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn unlock(&mut self, now: Now, step: &mut Step, unlocking: Unlocking) {
        let Unlocking { caller, who, which, .. } = &unlocking;
        let places = self.places_given_up(who, which);
        for place in &places {
            self.take_out(step, *place);
        }
        match self.chosen(who, which) {
            Err(fault) => {
                if let Some(caller) = *caller {
                    let reply = if places.is_empty() { Reply::Failed(fault) } else { Reply::Released(Vec::new()) };
                    self.answer_which(step, caller, reply, who, which);
                }
            }
            Ok(left) => self.release(now, step, Unlocking { left, ..unlocking }),
        }
    }

    /// Releases what can be released; what a file is being put in place under waits for that, and so does the answer.
    pub(super) fn release(&mut self, now: Now, step: &mut Step, mut unlocking: Unlocking) {
        // What was to wait may have ended otherwise.
        unlocking.left.retain(|id| self.state.locks.contains_key(id));
        let (left, free): (Vec<LockId>, Vec<LockId>) =
            unlocking.left.iter().copied().partition(|id| self.has_in_flight(&[*id]));
        for id in free {
            let lock = self.state.locks[&id].clone();
            let session = unlocking.who.session;
            // A guard of its own that it has lost, and its agent or another session has by now.
            if matches!(unlocking.which, Which::Id(_)) && session.is_some() && lock.ask.who.session != session {
                continue;
            }
            if lock.lent.is_some() && session.is_some() && lock.keeper() == session {
                self.let_go(now, step, id, &EndReason::Released);
            } else if lock.lent.is_some() && unlocking.leaves_loan && !planted(Bug::LoanTakenAway) {
                self.keep_loan(step, lock.clone());
            } else {
                // A guard whose lock is released over its head has lost it.
                let over_head = lock.keeper().is_some() && lock.keeper() != session;
                self.end(now, step, id, EndReason::Released, over_head);
            }
            unlocking.released.push(lock);
        }
        if !left.is_empty() {
            return self.put_off(step, &left.clone(), Command::FinishUnlock(Box::new(Unlocking { left, ..unlocking })));
        }
        let Unlocking { caller, who, which, mut released, .. } = unlocking;
        released.sort_unstable_by_key(|lock| lock.id);
        if let Some(caller) = caller {
            // What has become of a lock is looked for among all that its agent had, only where there is none.
            let fault = if released.is_empty() { self.chosen(&who, &which).err() } else { None };
            let reply = fault.map_or(Reply::Released(released), Reply::Failed);
            self.answer_which(step, caller, reply, &who, &which);
        }
    }

    /// The locks that an agent means and may do something with.
    pub(super) fn chosen(&self, who: &Who, which: &Which) -> Result<Vec<LockId>, Fault> {
        match which {
            Which::All => Ok(self.state.locks_of_agent.get(&who.agent).into_iter().flatten().copied().collect()),
            Which::Id(id) => match self.state.locks.get(id) {
                Some(lock) if lock.ask.who.agent == who.agent => Ok(vec![*id]),
                Some(lock) => Err(Fault::NotHolder(vec![lock.clone()])),
                None => Err(match self.state.ended.get(id) {
                    Some(ended) if ended.ask.who.agent == who.agent => self.lost(ended),
                    _ => Fault::NotFound,
                }),
            },
            Which::Scope(target) => {
                let ids = self.own_here(&who.agent, target);
                if !ids.is_empty() {
                    return Ok(ids);
                }
                // Only the latest counts: whoever released it since knows that it is not held.
                let twin = target.scope.other_kind();
                let is_here = |scope: &Scope| *scope == target.scope || twin.as_ref() == Some(scope);
                let ended = self.ended_of(&who.agent).filter(|ended| is_here(&ended.ask.target.scope));
                let latest = ended.max_by_key(|ended| (ended.at.mono, ended.id));
                if let Some(ended) = latest.filter(|ended| ended.why != EndReason::Released) {
                    return Err(self.lost(ended));
                }
                let holders = self.all_over(target).0;
                Err(match holders.iter().find(|lock| lock.ask.who.agent == who.agent) {
                    Some(own) => Fault::Invalid(format!(
                        "you hold {} ({id}), not exactly this scope; name the lock itself: `--id {id}`",
                        own.ask.target.scope,
                        id = own.id
                    )),
                    None if holders.is_empty() => Fault::NotFound,
                    None => Fault::NotHolder(holders),
                })
            }
        }
    }

    /// The fault for a lock that is not held any more.
    pub(super) fn what_became_of(&self, id: LockId, holders: Vec<Lock>) -> Fault {
        let ended = self.state.ended.get(&id);
        ended.map_or(Fault::NotFound, |ended| Fault::Lost(Box::new(ended.clone()), holders))
    }

    pub(super) fn lost(&self, ended: &Ended) -> Fault {
        Fault::Lost(Box::new(ended.clone()), self.holders_over(&ended.ask.target).0)
    }

    pub(super) fn ended_of(&self, agent: &Agent) -> impl Iterator<Item = &Ended> {
        self.state.ended_of_agent.get(agent).into_iter().flatten().map(|id| &self.state.ended[id])
    }

    /// Answers a command about certain locks.
    pub(super) fn answer_which(&mut self, step: &mut Step, to: Caller, reply: Reply, who: &Who, which: &Which) {
        match which {
            Which::All => self.answer_about(step, to, reply, Some(who), None),
            Which::Scope(target) => self.answer_about(step, to, reply, Some(who), Some(target)),
            Which::Id(id) => {
                let target = match (self.state.locks.get(id), self.state.ended.get(id)) {
                    (Some(lock), _) => Some(lock.ask.target.clone()),
                    (None, Some(ended)) => Some(ended.ask.target.clone()),
                    (None, None) => return self.answer(step, to, reply),
                };
                self.answer_about(step, to, reply, Some(who), target.as_ref());
            }
        }
    }

    /// Ends a grant that its client never heard of: as if it had not been, so that a retry is granted anew, and the
    /// place that it was made in is kept again. One that took up a detached lock is only let go, on the terms that
    /// it had: that lease is promised. One that made a shared lock exclusive leaves it shared, which its agent knows.
    pub(super) fn take_back(&mut self, now: Now, step: &mut Step, id: LockId, fence: Fence, what: Unheard) {
        let Some(lock) = self.state.locks.get(&id).filter(|lock| lock.fence == fence).cloned() else { return };
        if lock.in_flight.is_some() {
            return self.put_off(step, &[id], Command::TakeBack { id, fence, what });
        }
        if !what.is_new {
            let ask = Arc::new(Ask { request: None, ..(*lock.ask).clone() });
            let (is_lent, is_resumed) = (lock.lent.is_some(), what.resumed.is_some());
            self.put_lock(step, Lock { ask, ..lock });
            if let Some(promised) = what.resumed.filter(|_| !is_lent) {
                self.promise_again(now, step, id, promised);
            }
            if what.upgraded {
                self.make_shared(step, id);
            }
            if is_resumed {
                self.let_go(now, step, id, &EndReason::SessionEnded);
            }
            return;
        }
        self.take_away(step, &lock);
        self.tell(step, EventKind::Released(EndReason::Released), &lock);
        self.drop_upgrades(step, id, &Fault::NotFound);
        step.freed.push(lock.ask.clone());
        if let Some(place) = what.place.filter(|_| !planted(Bug::UnheardLosesPlace)) {
            self.keep_again(now, step, lock.ask, place);
        }
    }

    /// A lock has the terms again that its agent knows, and its lease starts anew.
    fn promise_again(&mut self, now: Now, step: &mut Step, id: LockId, promised: Promised) {
        let Promised { lease, ttl, hold_until, .. } = promised;
        let old = self.state.locks[&id].clone();
        let ask = Arc::new(Ask { lease, ..(*old.ask).clone() });
        let lock = Lock { ask, ttl, hold_until, ..old };
        self.put_lock(step, Lock { expires: Some(lease_end(&lock, now)), ..lock });
    }

    /// Ends somebody's lock, by its exact id and with a reason; the holder is told.
    pub(super) fn break_lock(
        &mut self,
        now: Now,
        step: &mut Step,
        caller: Caller,
        who: Who,
        id: LockId,
        reason: Arc<str>,
    ) {
        if !self.state.locks.contains_key(&id) {
            let fault = self.state.ended.get(&id).map_or(Fault::NotFound, |ended| self.lost(ended));
            return self.fail(step, caller, fault);
        }
        if self.has_in_flight(&[id]) {
            return self.put_off(step, &[id], Command::Break { caller, who, id, reason });
        }
        let why = EndReason::Broken { by: who.agent, reason };
        let ended = self.end(now, step, id, why, true);
        self.answer(step, caller, Reply::Broken(Box::new(ended)));
    }
}
