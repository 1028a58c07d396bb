//! The rows of the table and everything derived from them: one fold keeps them in step.
//!
//! Every change of state is a [`Record`], and [`State::fold`] is the only function that changes anything. It answers
//! with the record that would undo it. So loading a journal, applying a command and taking a failed batch back are
//! the same code, and no index can be forgotten in one of them.

use super::index::Index;
use crate::limits;
use crate::model::*;
use crate::planted::{Bug, planted};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

/// What becomes due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A lease runs out, or a contested flock is tried again.
    Lock(LockId),
    /// A request has waited long enough, was absent for too long, or tries its flock again.
    Waiter(WaiterId),
    /// A session did not come back.
    Session(SessionId),
    /// An ended lock may be forgotten.
    Ended(LockId),
}

/// What became of a request with an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Waiting(WaiterId),
    Holding(LockId),
    Ended(LockId),
}

/// Rows and indexes.
#[derive(Debug)]
pub(super) struct State {
    pub(super) locks: HashMap<LockId, Lock>,
    pub(super) waiters: BTreeMap<WaiterId, Waiter>,
    pub(super) sessions: HashMap<SessionId, Session>,
    pub(super) ended: HashMap<LockId, Ended>,
    pub(super) webhooks: BTreeMap<WebhookId, Webhook>,
    /// Locks under which a file is on its way into place.
    pub(super) in_flight: BTreeSet<LockId>,
    /// How many locks are advisory: mostly none, and then nobody need look for any.
    pub(super) advisory: usize,
    /// Locks and waiters by what they overlap.
    pub(super) index: Index,
    /// What is due when. A row has at most one timer, derived from the row alone.
    pub(super) timers: BTreeSet<(Moment, Timer)>,
    pub(super) locks_of_agent: HashMap<Agent, BTreeSet<LockId>>,
    pub(super) waits_of_agent: HashMap<Agent, BTreeSet<WaiterId>>,
    /// The sub-agents that hold something or wait, in the order of their names, and how many rows each has.
    sub_agents: BTreeMap<Agent, usize>,
    pub(super) locks_of_session: HashMap<SessionId, BTreeSet<LockId>>,
    pub(super) waits_of_session: HashMap<SessionId, BTreeSet<WaiterId>>,
    pub(super) locks_of_process: HashMap<Process, BTreeSet<LockId>>,
    pub(super) waits_of_process: HashMap<Process, BTreeSet<WaiterId>>,
    pub(super) sessions_of_process: HashMap<Process, BTreeSet<SessionId>>,
    pub(super) waits_of_caller: BTreeMap<Caller, WaiterId>,
    /// Waiting requests whose flock is being tried, by the lock that they would become.
    pub(super) waits_of_lock: HashMap<LockId, WaiterId>,
    /// Waiting requests to make a lock exclusive, by that lock.
    pub(super) upgrades_of_lock: HashMap<LockId, BTreeSet<WaiterId>>,
    /// Places kept for agents that are not there, each by its first row, and how many rows they are.
    pub(super) tickets_of_agent: HashMap<Agent, BTreeSet<WaiterId>>,
    pub(super) tickets: usize,
    /// Those of them whose turn has come.
    pub(super) offered: BTreeSet<WaiterId>,
    pub(super) requests: HashMap<(Agent, RequestId), Fate>,
    /// The same for the members of sets, by their place in it. All that waits of a set stands at its first one.
    pub(super) set_requests: HashMap<(Agent, RequestId), BTreeMap<u16, Fate>>,
    pub(super) ended_of_agent: HashMap<Agent, BTreeSet<LockId>>,
    pub(super) untold_of_agent: HashMap<Agent, BTreeSet<LockId>>,
    /// Ended locks whose agents know of it, oldest first, so that the oldest can go when there are too many.
    pub(super) told_by_age: BTreeSet<(Moment, LockId)>,
    /// Those whose agents do not know yet; bounded apart, so that no flood of releases washes a notice away.
    pub(super) untold_by_age: BTreeSet<(Moment, LockId)>,
}

impl State {
    pub(super) fn new() -> State {
        State {
            locks: HashMap::new(),
            waiters: BTreeMap::new(),
            sessions: HashMap::new(),
            ended: HashMap::new(),
            webhooks: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            advisory: 0,
            index: Index::new(),
            timers: BTreeSet::new(),
            locks_of_agent: HashMap::new(),
            waits_of_agent: HashMap::new(),
            sub_agents: BTreeMap::new(),
            locks_of_session: HashMap::new(),
            waits_of_session: HashMap::new(),
            locks_of_process: HashMap::new(),
            waits_of_process: HashMap::new(),
            sessions_of_process: HashMap::new(),
            waits_of_caller: BTreeMap::new(),
            waits_of_lock: HashMap::new(),
            upgrades_of_lock: HashMap::new(),
            tickets_of_agent: HashMap::new(),
            tickets: 0,
            offered: BTreeSet::new(),
            requests: HashMap::new(),
            set_requests: HashMap::new(),
            ended_of_agent: HashMap::new(),
            untold_of_agent: HashMap::new(),
            told_by_age: BTreeSet::new(),
            untold_by_age: BTreeSet::new(),
        }
    }

    /// Brings the state to what `record` says; answers with what it was.
    pub(super) fn fold(&mut self, record: Record) -> Record {
        match record {
            Record::Lock(id, new) => {
                let old = self.locks.remove(&id);
                if let Some(old) = &old {
                    self.unlink_lock(old);
                }
                if let Some(new) = new {
                    assert_eq!(new.id, id);
                    self.link_lock(&new);
                    self.locks.insert(id, new);
                }
                Record::Lock(id, old)
            }
            Record::Waiter(id, new) => {
                let old = self.waiters.remove(&id);
                if let Some(old) = &old {
                    self.unlink_waiter(old);
                }
                if let Some(new) = new {
                    assert_eq!(new.id, id);
                    self.link_waiter(&new);
                    self.waiters.insert(id, new);
                }
                Record::Waiter(id, old)
            }
            Record::Session(id, new) => {
                let old = self.sessions.remove(&id);
                if let Some(old) = &old {
                    self.unlink_session(old);
                }
                if let Some(new) = new {
                    assert_eq!(new.id, id);
                    self.link_session(&new);
                    self.sessions.insert(id, new);
                }
                Record::Session(id, old)
            }
            Record::Ended(id, new) => {
                let old = self.ended.remove(&id);
                if let Some(old) = &old {
                    self.unlink_ended(old);
                }
                if let Some(new) = new {
                    assert_eq!(new.id, id);
                    self.link_ended(&new);
                    self.ended.insert(id, new);
                }
                Record::Ended(id, old)
            }
            Record::Webhook(id, new) => {
                let old = match new {
                    Some(new) => {
                        assert_eq!(new.id, id);
                        self.webhooks.insert(id, new)
                    }
                    None => self.webhooks.remove(&id),
                };
                Record::Webhook(id, old)
            }
            Record::Event(_) | Record::Reserve { .. } => record,
        }
    }

    fn link_lock(&mut self, lock: &Lock) {
        let agent = &lock.ask.who.agent;
        if lock.in_flight.is_some() {
            self.in_flight.insert(lock.id);
        }
        let is_on_loan = lock.lent.is_some();
        assert!(!is_on_loan || lock.keeper().is_some(), "only a session has something on loan: {lock:?}");
        self.advisory += usize::from(lock.ask.mode == Mode::Advisory);
        self.index.add_lock(&lock.ask.target, lock.ask.mode, lock.id);
        self.enter_family(agent);
        self.locks_of_agent.entry(agent.clone()).or_default().insert(lock.id);
        if let Custody::Session(session) = lock.custody {
            self.locks_of_session.entry(session).or_default().insert(lock.id);
        }
        for process in lock.hangs_on() {
            self.locks_of_process.entry(process).or_default().insert(lock.id);
        }
        if let Some(due) = due_of_lock(lock) {
            self.timers.insert((due, Timer::Lock(lock.id)));
        }
        self.note_request(&lock.ask, Fate::Holding(lock.id));
    }

    fn unlink_lock(&mut self, lock: &Lock) {
        let agent = &lock.ask.who.agent;
        self.in_flight.remove(&lock.id);
        self.advisory -= usize::from(lock.ask.mode == Mode::Advisory);
        self.index.remove_lock(&lock.ask.target, lock.ask.mode, lock.id);
        self.leave_family(agent);
        drop_entry(&mut self.locks_of_agent, agent, &lock.id);
        if let Custody::Session(session) = lock.custody {
            drop_entry(&mut self.locks_of_session, &session, &lock.id);
        }
        for process in lock.hangs_on() {
            drop_entry(&mut self.locks_of_process, &process, &lock.id);
        }
        if let Some(due) = due_of_lock(lock) {
            self.timers.remove(&(due, Timer::Lock(lock.id)));
        }
        self.drop_request(&lock.ask, Fate::Holding(lock.id));
    }

    fn link_waiter(&mut self, waiter: &Waiter) {
        let who = &waiter.ask.who;
        assert!(waiter.is_kept() || waiter.offered_until.is_none(), "only a kept place is offered: {waiter:?}");
        self.index.add_waiter(waiter);
        self.enter_family(&who.agent);
        if let Some(lock) = waiter.ask.upgrades {
            self.upgrades_of_lock.entry(lock).or_default().insert(waiter.id);
        }
        self.waits_of_agent.entry(who.agent.clone()).or_default().insert(waiter.id);
        if let Some(session) = who.session {
            self.waits_of_session.entry(session).or_default().insert(waiter.id);
        }
        if let Some(process) = waiter.ask.bound {
            self.waits_of_process.entry(process).or_default().insert(waiter.id);
        }
        let is_first = waiter.id == waiter.first();
        if let Some(caller) = waiter.caller.filter(|_| is_first) {
            let before = self.waits_of_caller.insert(caller, waiter.id);
            assert!(before.is_none(), "{caller:?} waits twice");
        }
        if let Some(due) = due_of_waiter(waiter) {
            self.timers.insert((due, Timer::Waiter(waiter.id)));
        }
        if let OsWait::Asked { lock, .. } = waiter.os {
            self.waits_of_lock.insert(lock, waiter.id);
        }
        if waiter.is_kept() {
            if is_first {
                self.tickets_of_agent.entry(who.agent.clone()).or_default().insert(waiter.id);
            }
            self.tickets += 1;
        }
        if waiter.offered_until.is_some() {
            self.offered.insert(waiter.id);
        }
        // One that takes nothing is no request that could be retried.
        if waiter.takes && is_first {
            self.note_request(&waiter.ask, Fate::Waiting(waiter.id));
        }
    }

    fn unlink_waiter(&mut self, waiter: &Waiter) {
        let who = &waiter.ask.who;
        self.index.remove_waiter(waiter);
        self.leave_family(&who.agent);
        if let Some(lock) = waiter.ask.upgrades {
            drop_entry(&mut self.upgrades_of_lock, &lock, &waiter.id);
        }
        drop_entry(&mut self.waits_of_agent, &who.agent, &waiter.id);
        if let Some(session) = who.session {
            drop_entry(&mut self.waits_of_session, &session, &waiter.id);
        }
        if let Some(process) = waiter.ask.bound {
            drop_entry(&mut self.waits_of_process, &process, &waiter.id);
        }
        let is_first = waiter.id == waiter.first();
        if let Some(caller) = waiter.caller.filter(|_| is_first) {
            self.waits_of_caller.remove(&caller);
        }
        if let Some(due) = due_of_waiter(waiter) {
            self.timers.remove(&(due, Timer::Waiter(waiter.id)));
        }
        if let OsWait::Asked { lock, .. } = waiter.os {
            self.waits_of_lock.remove(&lock);
        }
        if waiter.is_kept() {
            if is_first {
                drop_entry(&mut self.tickets_of_agent, &who.agent, &waiter.id);
            }
            self.tickets -= 1;
        }
        self.offered.remove(&waiter.id);
        self.drop_request(&waiter.ask, Fate::Waiting(waiter.id));
    }

    fn enter_family(&mut self, agent: &Agent) {
        if agent.depth() > 1 {
            *self.sub_agents.entry(agent.clone()).or_default() += 1;
        }
    }

    fn leave_family(&mut self, agent: &Agent) {
        if agent.depth() > 1 {
            let rows = self.sub_agents.get_mut(agent).expect("what was linked is found again");
            *rows -= 1;
            if *rows == 0 {
                self.sub_agents.remove(agent);
            }
        }
    }

    /// The sub-agents of an agent, and theirs, that hold something or wait, by name.
    pub(super) fn sub_agents_of(&self, agent: &Agent) -> impl Iterator<Item = &Agent> {
        // In the order of bytes, `0` comes right behind the slash.
        let [first, end] =
            ['/', '0'].map(|last| if self.sub_agents.is_empty() { String::new() } else { format!("{agent}{last}") });
        let range = (Bound::Included(&*first), Bound::Excluded(&*end));
        let names = if first.is_empty() { None } else { Some(self.sub_agents.range::<str, _>(range)) };
        names.into_iter().flatten().map(|(name, _)| name)
    }

    fn link_session(&mut self, session: &Session) {
        if let Some(process) = session.process {
            self.sessions_of_process.entry(process).or_default().insert(session.id);
        }
        if let Some(due) = session.away_until {
            self.timers.insert((due, Timer::Session(session.id)));
        }
    }

    fn unlink_session(&mut self, session: &Session) {
        if let Some(process) = session.process {
            drop_entry(&mut self.sessions_of_process, &process, &session.id);
        }
        if let Some(due) = session.away_until {
            self.timers.remove(&(due, Timer::Session(session.id)));
        }
    }

    fn link_ended(&mut self, ended: &Ended) {
        let agent = &ended.ask.who.agent;
        self.timers.insert((due_of_ended(ended), Timer::Ended(ended.id)));
        self.ended_of_agent.entry(agent.clone()).or_default().insert(ended.id);
        self.note_request(&ended.ask, Fate::Ended(ended.id));
        if ended.untold {
            self.untold_by_age.insert((ended.at.mono, ended.id));
            self.untold_of_agent.entry(agent.clone()).or_default().insert(ended.id);
        } else {
            self.told_by_age.insert((ended.at.mono, ended.id));
        }
    }

    fn unlink_ended(&mut self, ended: &Ended) {
        let agent = &ended.ask.who.agent;
        self.timers.remove(&(due_of_ended(ended), Timer::Ended(ended.id)));
        drop_entry(&mut self.ended_of_agent, agent, &ended.id);
        self.drop_request(&ended.ask, Fate::Ended(ended.id));
        if ended.untold {
            self.untold_by_age.remove(&(ended.at.mono, ended.id));
            drop_entry(&mut self.untold_of_agent, agent, &ended.id);
        } else {
            self.told_by_age.remove(&(ended.at.mono, ended.id));
        }
    }

    /// Notes what became of a request. That something of it has ended is no news where it goes on.
    fn note_request(&mut self, ask: &Ask, fate: Fate) {
        let Some(request) = &ask.request else { return };
        let key = (ask.who.agent.clone(), request.clone());
        match (ask.set, fate) {
            (None, Fate::Ended(_)) => drop(self.requests.entry(key).or_insert(fate)),
            (None, _) => drop(self.requests.insert(key, fate)),
            (Some(SetMember { index, .. }), Fate::Ended(_)) => {
                self.set_requests.entry(key).or_default().entry(index).or_insert(fate);
            }
            (Some(SetMember { index, .. }), _) => {
                self.set_requests.entry(key).or_default().insert(index, fate);
            }
        }
    }

    /// Forgets what became of a request, unless something newer stands there.
    fn drop_request(&mut self, ask: &Ask, fate: Fate) {
        let Some(request) = &ask.request else { return };
        let key = (ask.who.agent.clone(), request.clone());
        match ask.set {
            None if self.requests.get(&key) == Some(&fate) => drop(self.requests.remove(&key)),
            None => {}
            Some(SetMember { index, .. }) => {
                let Some(members) = self.set_requests.get_mut(&key) else { return };
                if members.get(&index) == Some(&fate) {
                    members.remove(&index);
                }
                if members.is_empty() {
                    self.set_requests.remove(&key);
                }
            }
        }
    }

    /// All rows, so that a journal can be written anew.
    pub(super) fn rows(&self) -> Vec<Record> {
        let mut rows: Vec<Record> =
            self.sessions.values().map(|row| Record::Session(row.id, Some(row.clone()))).collect();
        rows.extend(self.ended.values().map(|row| Record::Ended(row.id, Some(row.clone()))));
        rows.extend(self.locks.values().map(|row| Record::Lock(row.id, Some(row.clone()))));
        rows.extend(self.webhooks.values().map(|row| Record::Webhook(row.id, Some(row.clone()))));
        rows.extend(self.waiters.values().map(|row| Record::Waiter(row.id, Some(row.clone()))));
        rows
    }
}

fn due_of_lock(lock: &Lock) -> Option<Moment> {
    if lock.in_flight.is_some() {
        // It does not end before what was begun under it is over.
        return None;
    }
    let again = match lock.os {
        OsLock::Contested { again, .. } => Some(again),
        OsLock::None | OsLock::Asked | OsLock::Held => None,
    };
    [lock.expires, again].into_iter().flatten().min()
}

fn due_of_waiter(waiter: &Waiter) -> Option<Moment> {
    let again = match waiter.os {
        OsWait::Busy { again, .. } => Some(again),
        OsWait::Idle | OsWait::Asked { .. } | OsWait::Had { .. } => None,
    };
    let offered_until = waiter.offered_until.filter(|_| !planted(Bug::OfferNeverPassedOn));
    [waiter.deadline, waiter.absent_until, offered_until, again].into_iter().flatten().min()
}

fn due_of_ended(ended: &Ended) -> Moment {
    ended.at.mono.after(if ended.untold { limits::NOTICE_KEPT } else { limits::ENDED_KEPT })
}

/// Takes one value out of a map of sets, and the set with its last value: no map grows by names that are gone.
fn drop_entry<K: Eq + std::hash::Hash, V: Ord>(map: &mut HashMap<K, BTreeSet<V>>, key: &K, value: &V) {
    let set = map.get_mut(key).expect("what was linked is found again");
    let was_there = set.remove(value);
    assert!(was_there, "what was linked is found again");
    if set.is_empty() {
        map.remove(key);
    }
}
