//! The operating system's say: a grant on a file waits until its flock is ours, too.
//!
//! What ours let through is not granted yet: it keeps its place, which reserves the scope, and its flock is tried. A
//! foreign program that holds the file keeps it waiting as a holder of ours would, only that nothing tells when it
//! lets go: so it is tried again in pauses. Where there is nothing to flock, or no way to, ours is granted all the
//! same and says so; our own exclusion never rests on flock.

use super::ask::{Served, Verdict};
use super::contention::Came;
use super::{LockTable, Step};
use crate::limits;
use crate::model::*;
use crate::planted::{Bug, planted};

/// Whether a request wants a flock and names something that could have one.
pub(super) fn wants_flock(ask: &Ask) -> bool {
    ask.os && ask.mode != Mode::Advisory && ask.target.own_id().is_some() && !planted(Bug::FlockNotTaken)
}

impl LockTable {
    /// Asks the system for the flock of a request that ours have let through. It stays in the queue meanwhile.
    pub(super) fn ask_system(&mut self, step: &mut Step, id: WaiterId, pause: u64) {
        let waiter = self.state.waiters[&id].clone();
        let lock = LockId(self.fresh_fence().0);
        let (target, mode) = (waiter.ask.target.clone(), waiter.ask.mode);
        self.set(step, Record::Waiter(id, Some(Waiter { os: OsWait::Asked { lock, pause }, ..waiter })));
        step.effects.push(Effect::WantOs { lock, target, mode });
    }

    /// The system has answered.
    pub(super) fn system_answered(&mut self, now: Now, step: &mut Step, lock: LockId, answer: OsAnswer) {
        if let Some(&id) = self.state.waits_of_lock.get(&lock) {
            self.answered_waiter(now, step, id, lock, answer);
        } else if self.state.locks.get(&lock).is_some_and(|held| held.os == OsLock::Asked) {
            self.answered_holder(now, step, lock, answer);
        } else if answer == OsAnswer::Held
            && !self.state.locks.get(&lock).is_some_and(|held| held.os == OsLock::Held)
            && !planted(Bug::FlockLeftBehind)
        {
            // Cancelled, refused or released while the system was asked.
            step.effects.push(Effect::DropOs { lock });
        }
    }

    fn answered_waiter(&mut self, now: Now, step: &mut Step, id: WaiterId, lock: LockId, answer: OsAnswer) {
        let waiter = self.state.waiters[&id].clone();
        if waiter.ask.set.is_some() {
            return self.set_answered(now, step, waiter, lock, answer);
        }
        let OsWait::Asked { pause, .. } = waiter.os else { unreachable!("the index holds those that have asked") };
        if let OsAnswer::Busy(by) = answer {
            if waiter.at_once {
                let refused = self.refused(&waiter.ask, id, RefusedFor::Held);
                if !waiter.is_counted {
                    self.came(step, &waiter.ask, Came::Refused);
                }
                return self.turn_away(now, step, id, Refused { foreigner: Some(by), ..refused });
            }
            let pause = (pause * 2).clamp(limits::OS_PAUSE_FIRST, limits::OS_PAUSE_MAX);
            let os = OsWait::Busy { by, again: now.mono.after(pause), pause };
            let ask = waiter.ask.clone();
            self.set(step, Record::Waiter(id, Some(Waiter { os, ..waiter })));
            return self.keeps_waiting(step, id, &ask);
        }
        let Some(caller) = waiter.caller else {
            // The foreigner has gone. Nobody is there who could be told of a grant.
            assert!(waiter.is_kept(), "of those who are absent only a kept place asks for anything");
            self.go_back(step, waiter);
            self.offer_if_due(now, step, id);
            return;
        };
        if let Some(why) = self.paused.clone() {
            if waiter.at_once {
                self.keep_place(now, step, id);
                return self.fail(step, caller, Fault::Unavailable(why));
            }
            return self.go_back(step, waiter);
        }
        let verdict = if planted(Bug::LateFlockGrants) { Verdict::Clear } else { self.verdict(&waiter.ask, id) };
        match verdict {
            // An agent's own locks pass by its queue: something came in between, and the flock is tried anew later.
            Verdict::Blocked if waiter.at_once => {
                let refused = self.refused_now(&waiter.ask, id);
                if refused.why == RefusedFor::Held && !waiter.is_counted {
                    self.came(step, &waiter.ask, Came::Refused);
                }
                self.turn_away(now, step, id, refused);
            }
            Verdict::Blocked => {
                let ask = waiter.ask.clone();
                self.go_back(step, waiter);
                self.keeps_waiting(step, id, &ask);
            }
            Verdict::Clear => {
                let os = if answer == OsAnswer::Held { OsLock::Held } else { OsLock::None };
                self.set(step, Record::Waiter(id, None));
                let granted = match waiter.ask.upgrades {
                    Some(held) => {
                        self.make_exclusive(now, step, held, &waiter.ask, Some(lock).filter(|_| os == OsLock::Held))
                    }
                    None => Granted { place: waiter.place(), ..self.grant(now, step, &waiter.ask, Some(lock), os) },
                };
                self.answer_grant(step, caller, &waiter.ask, granted);
            }
            verdict => {
                self.take_out(step, id);
                self.settle(now, step, Served::by(&waiter), verdict);
            }
        }
    }

    /// Back to where only ours are in the way; what was asked of the system is not wanted any more.
    pub(super) fn go_back(&mut self, step: &mut Step, waiter: Waiter) {
        if waiter.os == OsWait::Idle {
            return;
        }
        self.forget_flock(step, &waiter);
        self.set(step, Record::Waiter(waiter.id, Some(Waiter { os: OsWait::Idle, ..waiter })));
    }

    /// Tells the system that a waiting request does not want its flock any more.
    pub(super) fn forget_flock(&mut self, step: &mut Step, waiter: &Waiter) {
        if let OsWait::Asked { lock, .. } | OsWait::Had { lock, held: true } = waiter.os {
            step.effects.push(Effect::DropOs { lock });
        }
    }

    /// A foreigner held the file when it was last tried: once more.
    pub(super) fn try_again(&mut self, step: &mut Step, id: WaiterId, pause: u64) {
        match self.paused {
            None => self.ask_system(step, id, pause),
            Some(_) => {
                let waiter = self.state.waiters[&id].clone();
                self.set(step, Record::Waiter(id, Some(Waiter { os: OsWait::Idle, ..waiter })));
            }
        }
    }

    // ── Locks that are held already ─────────────────────────────────────────────────────────────────────────────────

    /// Takes the flock of a lock that a restart brought back, or tries a contested one again.
    pub(super) fn retake(&mut self, step: &mut Step, id: LockId) {
        let lock = self.state.locks[&id].clone();
        let (target, mode) = (lock.ask.target.clone(), lock.ask.mode);
        self.put_lock(step, Lock { os: OsLock::Asked, ..lock });
        step.effects.push(Effect::WantOs { lock: id, target, mode });
    }

    /// A lock goes on under other terms: its flock goes with it only if these want one.
    pub(super) fn adapt_flock(&mut self, step: &mut Step, id: LockId, before: &Ask) {
        let lock = self.state.locks[&id].clone();
        match (wants_flock(before), wants_flock(&lock.ask)) {
            (false, true) => self.retake(step, id),
            (true, false) if lock.os != OsLock::None => {
                step.effects.push(Effect::DropOs { lock: id });
                self.put_lock(step, Lock { os: OsLock::None, ..lock });
            }
            _ => {}
        }
    }

    fn answered_holder(&mut self, now: Now, step: &mut Step, id: LockId, answer: OsAnswer) {
        let lock = self.state.locks[&id].clone();
        let os = match answer {
            OsAnswer::Held => OsLock::Held,
            OsAnswer::Unable => OsLock::None,
            OsAnswer::Busy(by) => OsLock::Contested { by, again: now.mono.after(limits::OS_PAUSE_MAX) },
        };
        // It may have been made shared while the system was asked.
        if os == OsLock::Held && lock.ask.mode == Mode::Shared {
            step.effects.push(Effect::ShareOs { lock: id });
        }
        self.put_lock(step, Lock { os, ..lock });
    }
}
