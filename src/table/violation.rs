//! Violations: writes around the locks, as far as somebody saw them, and on which locks that is told.
//!
//! A write is one around the locks if readers hold the file and nobody may write it. Who wrote is not known, so while
//! somebody holds it exclusively it was that one, and for a moment after as well: what is seen comes later than the
//! release. A false word would teach people not to listen; a write that goes untold was only a hint that is missing.
//!
//! None of this is in the journal but the event. What a step remembers or tells goes with it if it is taken back.

use super::{LockTable, Step};
use crate::limits;
use crate::model::*;
use crate::planted::{Bug, planted};
use crate::scope::{Scope, Target};
use std::collections::VecDeque;
use std::ops::ControlFlow;

/// What is remembered for a while, so that it can be taken back.
#[derive(Clone, Copy, Debug)]
pub(super) enum Undo {
    MayHaveWritten(u64),
    Told(LockId),
}

/// Who may have written of late, and what was told.
#[derive(Debug, Default)]
pub(super) struct Violations {
    /// What was held exclusively until a moment ago, oldest first, each with its number.
    writers: VecDeque<(Moment, u64, Target)>,
    next: u64,
    /// Until then nothing is told: so much ended at once that some of it is forgotten.
    blind_until: Moment,
    /// On which locks a violation was told within the window, oldest first.
    told: VecDeque<(Moment, LockId)>,
}

impl Violations {
    /// A lock that was held exclusively is not any more.
    fn wrote_until(&mut self, now: Moment, target: Target) -> Undo {
        self.next += 1;
        self.writers.push_back((now, self.next, target));
        self.forget_old(now);
        if self.writers.len() > limits::VIOLATION_WRITERS_MAX {
            self.writers.pop_front();
            self.blind_until = now.after(limits::VIOLATION_GRACE);
        }
        Undo::MayHaveWritten(self.next)
    }

    fn forget_old(&mut self, now: Moment) {
        let is_over = |at: Moment, after: u64| at.till(now) >= after;
        while self.writers.front().is_some_and(|(at, ..)| is_over(*at, limits::VIOLATION_GRACE)) {
            self.writers.pop_front();
        }
        while self.told.front().is_some_and(|(at, _)| is_over(*at, limits::VIOLATION_WITHIN)) {
            self.told.pop_front();
        }
    }

    /// Whether somebody who was allowed to may have written there a moment ago.
    fn may_be_late(&self, now: Moment, target: &Target) -> bool {
        let is_late = now < self.blind_until || self.writers.iter().any(|(.., held)| held.meets(target));
        is_late && !planted(Bug::LateWriteIsViolation)
    }

    /// Whether a violation may be told on this lock now; notes that it is.
    fn may_tell(&mut self, now: Moment, id: LockId) -> bool {
        let is_told = self.told.iter().any(|(_, told)| *told == id) && !planted(Bug::ViolationFlood);
        if is_told || self.told.len() >= limits::VIOLATIONS_TOLD_MAX {
            return false;
        }
        self.told.push_back((now, id));
        true
    }

    fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::MayHaveWritten(number) => self.writers.retain(|(_, other, _)| *other != number),
            Undo::Told(id) => self.told.retain(|(_, told)| *told != id),
        }
    }
}

impl LockTable {
    /// Somebody wrote to a file, or put another in its place, or deleted it.
    pub(super) fn wrote(&mut self, step: &mut Step, target: &Target, how: Wrote) {
        let now = step.now.mono;
        self.violations.forget_old(now);
        let mut readers = Vec::new();
        let found = self.state.index.covering(target, &mut |_, slot| {
            for id in slot.holders() {
                match self.state.locks[&id].ask.mode {
                    Mode::Exclusive if planted(Bug::HolderViolates) => {}
                    Mode::Exclusive => return ControlFlow::Break(()),
                    Mode::Shared => readers.push(id),
                    // It keeps nobody from writing.
                    Mode::Advisory => {}
                }
            }
            ControlFlow::Continue(())
        });
        if found.is_break() || readers.is_empty() || self.violations.may_be_late(now, target) {
            return;
        }
        readers.sort_unstable();
        readers.dedup();
        for id in readers {
            if self.violations.may_tell(now, id) {
                step.violations.push(Undo::Told(id));
                let lock = self.state.locks[&id].clone();
                self.tell(step, EventKind::Violation { how }, &lock);
            }
        }
    }

    /// A row has changed: whoever has held a file exclusively until now may have written to it just before.
    pub(super) fn note_writer(&mut self, step: &mut Step, before: &Record, after: &Record) {
        let (Record::Lock(_, Some(before)), Record::Lock(_, after)) = (before, after) else { return };
        let is_exclusive = |lock: &Lock| lock.ask.mode == Mode::Exclusive;
        let is_of_files = !matches!(before.ask.target.scope, Scope::Resource(_));
        if is_of_files && is_exclusive(before) && !after.as_ref().is_some_and(is_exclusive) {
            let undo = self.violations.wrote_until(step.now.mono, before.ask.target.clone());
            step.violations.push(undo);
        }
    }

    /// Takes back what a step remembered and told.
    pub(super) fn undo_violations(&mut self, undo: Vec<Undo>) {
        undo.into_iter()
            .filter(|_| !planted(Bug::ViolationToldThoughUndone))
            .for_each(|undo| self.violations.undo(undo));
    }
}
