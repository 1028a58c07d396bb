//! A shared lock made exclusive, and an exclusive one made shared, without a gap in between.
//!
//! Whoever shares a scope and wants it alone comes before all that wait there: they wait for its shared lock anyway.
//! Two of them wait for each other for ever, so the second is refused at once. What is held stays held: a refused,
//! cancelled or timed-out upgrade leaves the shared lock as it was.

use super::ask::{Waiting, lease_end, new_grant};
use super::state::Fate;
use super::{LockTable, Step};
use crate::model::*;
use crate::planted::{Bug, planted};
use crate::scope::Target;
use std::sync::Arc;

/// A request to make a shared lock exclusive, as it comes in.
pub(super) struct Upgrade {
    pub(super) caller: Caller,
    pub(super) who: Who,
    pub(super) which: Which,
    pub(super) wait: Wait,
    pub(super) request: Option<RequestId>,
}

impl LockTable {
    pub(super) fn upgrade(&mut self, now: Now, step: &mut Step, request: Upgrade) {
        let Upgrade { caller, who, which, wait, request: name } = request;
        if let Err(fault) = self.is_known(caller, &who) {
            return self.fail(step, caller, fault);
        }
        if self.is_name_of_set(&who.agent, name.as_ref()) {
            let text = "this request id was used for several scopes at once; use a fresh one";
            return self.fail(step, caller, Fault::Invalid(text.to_owned()));
        }
        let again = name.clone().and_then(|id| self.state.requests.get(&(who.agent.clone(), id))).copied();
        if let Some(Fate::Holding(id)) = again
            && self.is_ending(id)
        {
            return self.put_off(step, &[id], Command::Upgrade { caller, who, which, wait, request: name });
        }
        if let Some(fate) = again {
            return self.upgrade_again(now, step, caller, &who, &which, fate);
        }
        if let Some(why) = &self.paused {
            let fault = Fault::Unavailable(why.clone());
            return self.fail(step, caller, fault);
        }
        let id = match self.chosen_to_change(&who, &which, Mode::Shared) {
            Ok(id) if self.is_ending(id) => {
                return self.put_off(step, &[id], Command::Upgrade { caller, who, which, wait, request: name });
            }
            Ok(id) => id,
            Err(fault) => return self.answer_which(step, caller, Reply::Failed(fault), &who, &which),
        };
        self.touch(now, step, id);
        let lock = &self.state.locks[&id];
        if lock.ask.mode == Mode::Exclusive {
            let granted = Granted { already_held: true, ..new_grant(lock.clone()) };
            // Under the name that it was asked by, which may be another of the file: what was lost there is told now.
            return self.answer_which(step, caller, Reply::Granted(Box::new(granted)), &who, &which);
        }
        let target = match &which {
            Which::Scope(target) => as_named(&lock.ask, target).clone(),
            _ => lock.ask.target.clone(),
        };
        let lease = Lease { ttl: lock.ttl, ..lock.ask.lease };
        let ask = Ask { target, mode: Mode::Exclusive, who, lease, request: name, ..(*lock.ask).clone() };
        let ask = Ask { upgrades: Some(id), set: None, ..ask };
        self.ask(now, step, Waiting { caller, ask: Arc::new(ask), wait, takes: true });
    }

    /// An upgrade whose id is known: the same grant, the same place, or the word that it is over.
    fn upgrade_again(&mut self, now: Now, step: &mut Step, caller: Caller, who: &Who, which: &Which, fate: Fate) {
        let (lock, ask) = match fate {
            Fate::Waiting(id) => {
                let ask = self.state.waiters[&id].ask.clone();
                (ask.upgrades, ask)
            }
            Fate::Holding(id) => (Some(id), self.state.locks[&id].ask.clone()),
            Fate::Ended(id) => (Some(id), self.state.ended[&id].ask.clone()),
        };
        let is_meant = match which {
            Which::Id(id) => lock == Some(*id),
            Which::Scope(target) => lock.is_some() && target.is_one_with(&ask.target),
            Which::All => false,
        };
        let is_same = is_meant && ask.mode == Mode::Exclusive;
        match fate {
            _ if !is_same => {
                let text = "this request id was used for something else, or its lock was made shared since; use a \
                            fresh one";
                self.fail(step, caller, Fault::Invalid(text.to_owned()));
            }
            Fate::Waiting(id) => self.back_in_line(now, step, caller, id),
            Fate::Holding(id) => {
                let granted = Granted { again: true, ..new_grant(self.state.locks[&id].clone()) };
                self.answer_which(step, caller, Reply::Granted(Box::new(granted)), who, which);
            }
            Fate::Ended(id) => {
                let fault = self.lost(&self.state.ended[&id]);
                self.answer_which(step, caller, Reply::Failed(fault), who, which);
            }
        }
    }

    pub(super) fn downgrade(&mut self, now: Now, step: &mut Step, caller: Caller, who: Who, which: Which) {
        let session = who.session.filter(|id| !self.state.sessions.contains_key(id));
        if session.is_some() {
            return self.fail(step, caller, Fault::UnknownSession);
        }
        if let Some(why) = &self.paused {
            // Told to share it, its agent would be found exclusive again after a kill.
            let fault = Fault::Unavailable(why.clone());
            return self.fail(step, caller, fault);
        }
        let reply = match self.chosen_to_change(&who, &which, Mode::Exclusive) {
            Err(fault) => Reply::Failed(fault),
            // What is being put in place under it is still its holder's alone.
            Ok(id) if self.has_in_flight(&[id]) => {
                return self.put_off(step, &[id], Command::Downgrade { caller, who, which });
            }
            Ok(id) => {
                self.touch(now, step, id);
                if self.state.locks[&id].ask.mode == Mode::Exclusive {
                    self.make_shared(step, id);
                }
                Reply::Downgraded(Box::new(self.state.locks[&id].clone()))
            }
        };
        self.answer_which(step, caller, reply, &who, &which);
    }

    /// The one lock that is to be changed: of several on a scope rather one that has this mode. A guard is changed by
    /// its own session alone: it would not know which mode and fence it has.
    fn chosen_to_change(&self, who: &Who, which: &Which, from: Mode) -> Result<LockId, Fault> {
        if *which == Which::All {
            return Err(Fault::Invalid("name the lock that is to change, by its id or its scope".to_owned()));
        }
        let mut ids = self.chosen(who, which)?;
        let first = ids[0];
        ids.retain(|id| self.state.locks[id].ask.mode != Mode::Advisory);
        if ids.is_empty() {
            return Err(Fault::Invalid(format!(
                "{first} is advisory: it keeps nobody out and becomes neither shared nor exclusive; ask for such a \
                 lock beside it"
            )));
        }
        let first = ids[0];
        ids.retain(|id| match self.state.locks[id].custody {
            Custody::Detached => true,
            Custody::Session(session) => who.session == Some(session),
            Custody::Process(_) => who.session.is_none() || who.session == self.state.locks[id].keeper(),
        });
        let has_mode = ids.iter().find(|id| self.state.locks[id].ask.mode == from);
        has_mode.or(ids.first()).copied().ok_or_else(|| {
            Fault::Invalid(format!("{first} is held by another session of {}, which alone can change it", who.agent))
        })
    }

    /// A one-shot's request for more than its agent holds on a scope is for an upgrade of that, by whatever name of the
    /// file. It stays a request like any other where the lock hangs on another process, and where a session holds it.
    pub(super) fn as_upgrade(&self, request: Waiting) -> Waiting {
        let ask = &request.ask;
        if !request.takes || ask.who.session.is_some() || ask.mode != Mode::Exclusive || ask.upgrades.is_some() {
            return request;
        }
        if self.already_held(ask).is_some() || !self.state.locks_of_agent.contains_key(&ask.who.agent) {
            return request;
        }
        let held = self.own_exactly(&ask.who.agent, &ask.target).into_iter().find(|id| {
            let own = &self.state.locks[id];
            let is_weaker = own.ask.mode.is_weaker_than(ask.mode);
            is_weaker && own.ask.bound == ask.bound && own.custody == Custody::Detached
        });
        let Some(held) = held else { return request };
        let own = &self.state.locks[&held].ask;
        // However it is asked for, it is held no longer than it was to be.
        let lease = Lease { max_hold: own.lease.max_hold, ..ask.lease };
        let target = as_named(own, &ask.target).clone();
        let ask = Arc::new(Ask { upgrades: Some(held), target, lease, ..(**ask).clone() });
        Waiting { ask, ..request }
    }

    /// The cycle that an upgrade, or a request inside an ancestor's lock, closes by waiting, or by being granted: it
    /// goes before others who wait, and they wait for it from then on. So it is looked for as if it stood in the queue
    /// already.
    pub(super) fn cycle_by_going_first(&mut self, now: Now, request: &Waiting) -> Option<Vec<Link>> {
        let waiter = self.next_in_line(now, request);
        if request.ask.upgrades.is_none() && waiter.level == 0 || planted(Bug::PassedCloseNoCycle) {
            return None;
        }
        self.cycle_with(&[waiter])
    }

    /// The cycle that these rows of one request are part of as soon as they stand in the queue.
    pub(super) fn cycle_with(&mut self, rows: &[Waiter]) -> Option<Vec<Link>> {
        let fold = |row: &Waiter| self.state.fold(Record::Waiter(row.id, Some(row.clone())));
        let before: Vec<Record> = rows.iter().map(fold).collect();
        let cycle = self.cycle_through(&rows[0].ask.who);
        before.into_iter().for_each(|before| drop(self.state.fold(before)));
        cycle
    }

    /// The shared lock that a request was to upgrade, as it stays.
    pub(super) fn kept(&self, ask: &Ask) -> Option<Box<Lock>> {
        ask.upgrades.and_then(|id| self.state.locks.get(&id)).map(|lock| Box::new(lock.clone()))
    }

    /// Makes a shared lock exclusive: same lock, new fence. `flock` is the name under which its flock was taken.
    pub(super) fn make_exclusive(
        &mut self,
        now: Now,
        step: &mut Step,
        id: LockId,
        ask: &Arc<Ask>,
        flock: Option<LockId>,
    ) -> Granted {
        assert!(self.paused.is_none(), "nothing is granted while grants are stopped");
        let old = self.state.locks[&id].clone();
        let who = match old.custody {
            Custody::Detached => Who { session: None, ..ask.who.clone() },
            Custody::Session(_) | Custody::Process(_) => old.ask.who.clone(),
        };
        let os = if flock.is_some() { OsLock::Held } else { OsLock::None };
        match flock {
            Some(from) => step.effects.push(Effect::PassOs { from, to: id }),
            None if old.os != OsLock::None => step.effects.push(Effect::DropOs { lock: id }),
            None => {}
        }
        // What the lock hangs on may have changed while this request waited.
        let ask = Arc::new(Ask { who, bound: old.ask.bound, upgrades: None, ..(**ask).clone() });
        let ttl = ask.lease.ttl;
        let mut lock = Lock { ask, fence: self.fresh_fence(), ttl, os, ..old.clone() };
        if lock.custody == Custody::Detached {
            lock.expires = Some(lease_end(&lock, now));
        }
        self.put_lock(step, lock.clone());
        self.tell(step, EventKind::Acquired(Acquired::Upgraded), &lock);
        self.withdraw_offers(step, &lock.ask.target, lock.ask.mode);
        // Requests of the same agent that still wait have no weaker lock of its own in their way any more; and its old
        // identity may have been in the way of somebody whom the new one lets pass.
        step.freed.push(old.ask);
        self.let_sub_agents_in(step, &lock.ask);
        Granted { upgraded: true, ..new_grant(lock) }
    }

    /// Makes an exclusive lock shared: same lock, same fence. Those who wait to share it are served with this step.
    pub(super) fn make_shared(&mut self, step: &mut Step, id: LockId) {
        let old = self.state.locks[&id].clone();
        let lock = Lock { ask: Arc::new(Ask { mode: Mode::Shared, ..(*old.ask).clone() }), ..old.clone() };
        if lock.os == OsLock::Held {
            step.effects.push(Effect::ShareOs { lock: id });
        }
        self.put_lock(step, lock.clone());
        self.tell(step, EventKind::Acquired(Acquired::Downgraded), &lock);
        // Nothing is granted beside a weaker lock of one's own.
        self.withdraw_offers(step, &lock.ask.target, lock.ask.mode);
        step.freed.push(old.ask);
    }

    /// The lock that these requests were to upgrade is gone, or another's to upgrade.
    pub(super) fn drop_upgrades(&mut self, step: &mut Step, id: LockId, fault: &Fault) {
        let waiting = self.state.upgrades_of_lock.get(&id).into_iter().flatten().copied().collect::<Vec<_>>();
        for id in waiting {
            let Some(waiter) = self.state.waiters.get(&id).cloned() else { continue };
            let rows = self.rows_of(id);
            self.take_out(step, id);
            if let Some(caller) = waiter.caller {
                self.answer_set(step, caller, rows.iter().map(|row| &row.ask), Reply::Failed(fault.clone()));
            }
        }
    }
}

/// What a lock is on that is asked for as `target`: it stays where it is under another name, for what overlaps the one
/// need not overlap the other. What its own name stands for may have changed since it was locked.
fn as_named<'a>(held: &'a Ask, target: &'a Target) -> &'a Target {
    if held.target.scope == target.scope { target } else { &held.target }
}
