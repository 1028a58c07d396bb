//! Flocks: what is said of them is so on the machine, and nothing else is flocked there.

use super::*;

impl Auditor {
    /// What is said of flocks is so on the machine, and nothing else is flocked there.
    pub(super) fn flocks(&mut self, now: Moment, locks: &[Lock], waiters: &[Queued]) {
        let (users, opening) = (self.machine.users(), self.machine.opening());
        let mut asked: BTreeSet<LockId> = BTreeSet::new();
        let mut held: BTreeSet<LockId> = BTreeSet::new();
        for lock in locks {
            let file = lock.ask.target.own_id();
            match &lock.os {
                OsLock::None => {
                    let is_wanted = lock.ask.os && file.is_some() && lock.ask.mode != Mode::Advisory;
                    assert!(!is_wanted || self.machine.refused(lock), "{} has no flock and never had", lock.id);
                }
                OsLock::Asked => drop(asked.insert(lock.id)),
                OsLock::Held => {
                    let (of, mode) = users.get(&lock.id).unwrap_or_else(|| panic!("{} has no flock", lock.id));
                    assert!(Some(*of) == file && mode.answers(lock.ask.mode), "{} has the flock of another", lock.id);
                    assert!(lock.ask.os, "{} is to have no flock", lock.id);
                    held.insert(lock.id);
                }
                OsLock::Contested { again, .. } => {
                    assert!(is_soon(*again, now) || self.is_writing(lock.id), "{} is not tried again", lock.id);
                    self.counts.contested += 1;
                }
            }
        }
        for queued in waiters {
            match &queued.waiter.os {
                OsWait::Idle => {}
                OsWait::Asked { lock, .. } => drop(asked.insert(*lock)),
                OsWait::Had { lock, held: is_held } => {
                    self.is_asking_on(&queued.waiter, waiters);
                    held.extend(is_held.then_some(*lock));
                }
                OsWait::Busy { again, .. } => {
                    assert!(is_soon(*again, now), "a flock for {} is not tried again", queued.waiter.ask.who.agent);
                }
            }
        }
        assert_eq!(asked, opening, "who says that its flock is tried, and whose is");
        assert_eq!(held, users.into_keys().collect(), "who says that it has a flock, and who has");
    }

    /// Nobody foreign is there any more: every flock is had by whoever waited for it.
    pub fn no_flock_is_missed(&self) {
        let Some((locks, waiters)) = &self.status else { panic!("nobody has looked") };
        for lock in locks {
            assert!(matches!(lock.os, OsLock::None | OsLock::Held), "{} never got its flock: {:?}", lock.id, lock.os);
        }
        for Queued { waiter, .. } in waiters {
            assert!(waiter.os == OsWait::Idle, "{} waits for a foreigner who has gone", waiter.ask.who.agent);
        }
    }

    pub(super) fn is_there(&self, foreigner: &Foreigner, ask: &Ask) {
        let (file, pid) = (ask.target.own_id().expect("what has no identity has no flock"), foreigner.pid);
        let is_there = pid.is_some_and(|pid| self.machine.is_foreign_against(file, ask.mode, pid));
        assert!(is_there, "{} is kept out by a foreigner who is not there: {foreigner:?}", ask.who.agent);
    }
}

/// A foreigner's file is tried again in time.
fn is_soon(again: Moment, now: Moment) -> bool {
    again > now && again <= now.after(limits::OS_PAUSE_MAX)
}
