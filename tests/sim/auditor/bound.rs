//! One-shot locks that are bound to a process: they end with it and without a notice, whoever waits for one is sent
//! away, and nobody is told of one whose process is known to be dead.

use super::*;

impl Auditor {
    /// The daemon has proof that a process is dead: what was bound to it is over. `is_queue_exact`: nothing has changed
    /// since the queue was seen.
    pub(super) fn bound_over(&mut self, process: Process, now: Moment, is_queue_exact: bool) {
        self.gone.entry(process).or_insert(self.turn);
        for waiter in self.queue.values().filter(|waiter| waiter.ask.bound == Some(process)) {
            self.sent_away.extend(waiter.caller.filter(|_| is_queue_exact));
        }
        self.queue.retain(|_, waiter| waiter.ask.bound != Some(process));
        for open in self.open.values_mut() {
            open.voided |= bound_of(&open.command) == Some(process);
        }
        for claim in self.claims.values_mut().filter(|claim| claim.lock.bound() == Some(process)) {
            // Nothing is left of what its agent has of it; a session that has it on loan keeps it.
            claim.lock.lent = None;
        }
        let is_bound = |claim: &Claim| claim.lock.ask.bound == Some(process) && claim.keeper == Keeper::Nobody;
        let bound: Vec<LockId> = self.claims.values().filter(|c| is_bound(c)).map(|c| c.lock.id).collect();
        for id in bound {
            if self.is_writing(id) {
                // Its lease may have run out, and it was to end when nothing is on its way under it. Now it ends as its
                // agent wanted it to.
                self.owed.remove(&id);
            }
            let claim = &self.claims[&id];
            // A session may have taken it up on its own terms, of which nobody has heard yet.
            let is_certain = !claim.is_vague && !self.open.values().any(|open| leases::may_renew(open, claim));
            if is_certain && self.is_live(claim, now) {
                self.ending.push(id);
            }
            self.claims.get_mut(&id).expect("it was found just now").over = true;
        }
    }

    /// What ended with its process in this turn has ended for certain, written or not.
    pub(super) fn bound_have_ended(&mut self) {
        for id in std::mem::take(&mut self.ending) {
            self.counts.bound_ended += 1;
            self.end(id, self.turn, self.epoch);
        }
    }

    /// Whoever waited for a lock that ends with a process which is dead by now is told so.
    pub(super) fn is_sent_away(&mut self, to: Caller, answer: &Answer) {
        if !self.sent_away.remove(&to) {
            return;
        }
        match &answer.reply {
            Reply::Failed(Fault::Invalid(_)) => self.counts.bound_sent_away += 1,
            // What ended just before made way for it, and it ended again at once.
            Reply::Granted(_) | Reply::GrantedSet(_) | Reply::Failed(Fault::Lost(..)) => {}
            other => panic!("{to:?} waits for a lock of a process that is dead and is told {other:?}"),
        }
    }

    /// A grant is for the process that was asked for, and that process is not known to be dead.
    pub(super) fn is_bound_as_asked(&mut self, lock: &Lock, who: &Who, bound: Option<Process>) {
        // What a session has on loan hangs on nothing for that session, and on what it did for its agent.
        let is_as_asked = lock.ask.bound == bound || lock.bound() == bound;
        assert!(is_as_asked, "{} ends with {:?}, and {bound:?} was asked", lock.id, lock.bound());
        let is_known_dead = self.knew_dead(bound, self.turn);
        // The answer may be late, and a session of its agent may have the lock by now, which no longer ends with it.
        let is_sessions = |of: &Arc<Ask>| of.who.session.is_some() && of.who.agent == who.agent;
        let by_session = |open: &Open| rules::asks_of(&open.command).iter().any(is_sessions);
        let is_taken_up = self.claims.get(&lock.id).is_some_and(|claim| claim.lock.fence > lock.fence)
            || self.open.values().any(by_session);
        // Nor does it end while a file is on its way into place under it.
        let is_taken_up = is_taken_up || self.is_writing(lock.id);
        assert!(!is_known_dead || is_taken_up, "{} is told to {}, and its process is dead", lock.id, who.agent);
        self.counts.bound += u64::from(bound.is_some());
    }

    /// No lock and no request outlives a process that was known to be dead before `turn`.
    pub(super) fn without_the_dead<'a>(&self, asks: impl Iterator<Item = &'a Ask>, turn: u64) {
        for ask in asks {
            assert!(!self.knew_dead(ask.bound, turn), "it outlives its process: {ask:?}");
        }
    }

    /// All who are dead are known to be by now.
    pub fn all_dead_are_gone(&self, dead: &BTreeSet<Process>) {
        let Some((locks, waiters)) = &self.status else { panic!("nobody has looked") };
        let asks = locks.iter().map(|lock| &lock.ask).chain(waiters.iter().map(|queued| &queued.waiter.ask));
        for ask in asks {
            assert!(ask.bound.is_none_or(|process| !dead.contains(&process)), "nobody has told of its end: {ask:?}");
        }
    }

    fn knew_dead(&self, process: Option<Process>, turn: u64) -> bool {
        process.and_then(|process| self.gone.get(&process)).is_some_and(|known_in| *known_in < turn)
    }
}

/// An end with a process or a session is no loss: nobody is left who believed in the lock.
pub(super) fn is_no_loss(ended: &Ended) -> bool {
    ended.why == EndReason::SessionEnded
}

fn bound_of(command: &Command) -> Option<Process> {
    rules::asks_of(command).first().and_then(|ask| ask.bound)
}
