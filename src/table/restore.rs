//! What a restart means to the rows that the journal kept.
//!
//! Same boot: processes may still be there, so sessions are waited for, leases start anew and waiters keep their
//! place for a while. After a reboot every process is gone: what hung on one is over, the rest is on its lease.

use super::ask::lease_end;
use super::{LockTable, Step, os, with_session};
use crate::limits;
use crate::model::*;
use crate::planted::{Bug, planted};

impl LockTable {
    /// The table that the journal's rows make, and the changes that the restart brings, to be written before anything
    /// is answered. Nobody is served yet: who is in line has to come back first.
    pub fn restore(
        rows: Vec<Record>,
        now: Now,
        rebooted: bool,
        fences_from: u64,
        events_from: u64,
    ) -> (LockTable, Step) {
        let mut table = LockTable::new(fences_from, events_from);
        for row in rows {
            table.state.fold(row);
        }
        // What a daemon before was about to do, it does no more.
        let in_flight = table.state.locks.values().filter(|lock| lock.in_flight.is_some());
        assert_eq!(in_flight.count(), 0, "the journal keeps no commits");
        let newest = table.state.waiters.last_key_value().map_or(0, |(id, _)| id.0);
        table.next_waiter = newest + 1;
        let mut step = Step { now, ..Step::default() };
        if rebooted {
            table.after_reboot(now, &mut step)
        } else {
            table.after_restart(now, &mut step)
        }
        let with_file = table.state.locks.values().filter(|lock| os::wants_flock(&lock.ask)).map(|lock| lock.id);
        for id in sorted(with_file.collect::<Vec<_>>().iter()) {
            table.retake(&mut step, id);
        }
        table.reserve(&mut step);
        assert!(
            table.state.locks.values().all(|lock| lock.fence.0 < fences_from),
            "fences start above all stored ones"
        );
        (table, step)
    }

    fn after_restart(&mut self, now: Now, step: &mut Step) {
        for id in sorted(self.state.sessions.keys()) {
            let away_until = Some(now.mono.after(limits::SESSION_SILENCE));
            let session = Session { away_until, ..self.state.sessions[&id].clone() };
            self.set(step, Record::Session(id, Some(session)));
        }
        for id in sorted(self.state.waiters.keys()) {
            let old = self.state.waiters[&id].clone();
            let is_place = old.ticket.is_some();
            let absent_until = match old.absent_until.filter(|_| is_place) {
                // A kept place keeps what is left of its time, and one that its agent had come back to is kept on as if
                // that had been cut off.
                Some(until) => until,
                None if is_place => now.mono.after(limits::TICKET_KEPT),
                None => now.mono.after(limits::WAITER_ABSENCE),
            };
            let (deadline, at_once) = if is_place { (None, false) } else { (old.deadline, old.at_once) };
            // A row of a set may be gone already, with the rest of it to follow.
            let rows: Vec<Waiter> = old.rows().filter_map(|id| self.state.waiters.get(&id).cloned()).collect();
            let level = self.level_of_set(&rows);
            let waiter = Waiter { absent_until: Some(absent_until), deadline, at_once, caller: None, level, ..old };
            // One that takes nothing, or would not wait, has nothing to lose: its client asks anew.
            let kept = Some(waiter).filter(|waiter| waiter.takes && !waiter.at_once);
            self.set(step, Record::Waiter(id, kept));
        }
        for id in sorted(self.state.locks.keys()) {
            let mut lock = self.state.locks[&id].clone();
            // What is on loan goes back when its session stays away; that has its own time.
            if lock.ttl > 0 && lock.lent.is_none() && !matches!(lock.custody, Custody::Process(_)) {
                lock.expires = Some(lease_end(&lock, now));
                self.put_lock(step, lock);
            }
        }
        self.offer_all(now, step);
    }

    fn after_reboot(&mut self, now: Now, step: &mut Step) {
        self.webhooks_after_reboot(now, step);
        for id in sorted(self.state.sessions.keys()) {
            self.set(step, Record::Session(id, None));
        }
        for id in sorted(self.state.waiters.keys()) {
            self.set(step, Record::Waiter(id, None));
        }
        for id in sorted(self.state.ended.keys()) {
            let old = self.state.ended[&id].clone();
            self.set(step, Record::Ended(id, Some(Ended { at: Now { mono: now.mono, ..old.at }, ..old })));
        }
        for id in sorted(self.state.locks.keys()) {
            let old = self.state.locks[&id].clone();
            if old.is_void_after_reboot() && !planted(Bug::RebootKeepsAll) {
                self.end_by_reboot(now, step, id);
                continue;
            }
            let old = old.returned();
            let mut lock = Lock { custody: Custody::Detached, ask: with_session(&old.ask, None), ..old };
            // The monotonic clock began anew: what was measured on the old one starts again.
            lock.since.mono = now.mono;
            lock.hold_until = lock.ask.lease.max_hold.map(|most| now.mono.after(most));
            lock.expires = Some(lease_end(&lock, now));
            self.put_lock(step, lock);
        }
    }
}

fn sorted<T: Ord + Copy>(ids: impl Iterator<Item = impl std::borrow::Borrow<T>>) -> Vec<T> {
    let mut ids: Vec<T> = ids.map(|id| *id.borrow()).collect();
    ids.sort_unstable();
    ids
}
