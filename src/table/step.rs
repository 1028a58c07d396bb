//! What a command leads to, as data: records to write, then answers to send. Nothing here is done yet.

use super::{contention, violation};
use crate::model::{Agent, Answer, Ask, Caller, Effect, Lock, LockId, Now, Record, RefusedFor};
use std::sync::Arc;

/// An answer that may be sent once the records of its step are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Where it goes.
    pub to: Caller,
    /// What it says.
    pub answer: Answer,
    /// It promises something that must outlive a power cut: it waits for the sync as well.
    pub synced: bool,
}

/// The outcome of one command.
#[derive(Debug, Default)]
pub struct Step {
    /// Changes of state and events, in order. Written before anything else happens.
    pub records: Vec<Record>,
    /// Answers, in order. Sent after the records are written.
    pub replies: Vec<Outgoing>,
    /// What to do in the world; see [`Effect`].
    pub effects: Vec<Effect>,
    /// What takes the changes back, newest last; see [`super::LockTable::undo`].
    pub(super) undo: Vec<Record>,
    /// The same for what was counted.
    pub(super) undo_counted: Vec<contention::Undo>,
    /// The same for what is remembered of writes.
    pub(super) violations: Vec<violation::Undo>,
    /// How many of the changes were looked at for what an agent's change of a lock means to its other requests.
    pub(super) looked_at: usize,
    /// When it is taken.
    pub(super) now: Now,
    /// What ended or went out of the queue and has not been followed up: who waited for it is to be served.
    pub(super) freed: Vec<Arc<Ask>>,
    /// Advisory locks that have ended, and whoever has come to lead by that was not told.
    pub(super) unranked: Vec<(LockId, Arc<Ask>)>,
    /// Agents with a new lock that may answer waiting requests of their own.
    pub(super) eased: Vec<Agent>,
    /// Requests for locks that are refused, for whoever counts them.
    pub(super) refused: Vec<(Arc<Ask>, RefusedFor)>,
    /// Requests for locks that could not be granted at once because of others, each once.
    pub(super) came: Vec<Arc<Ask>>,
}

/// How far a step was at some point; see [`super::LockTable::back_to`].
#[derive(Debug)]
pub(super) struct Mark {
    next_fence: u64,
    next_event: u64,
    records: usize,
    replies: usize,
    effects: usize,
    undo: usize,
    undo_counted: usize,
    violations: usize,
    refused: usize,
    came: usize,
    freed: usize,
    eased: usize,
    /// Telling who leads takes from these, so that a length would not do.
    unranked: Vec<(LockId, Arc<Ask>)>,
}

impl Mark {
    /// The next fence and the next event number, as they were.
    pub(super) fn numbers(&self) -> (u64, u64) {
        (self.next_fence, self.next_event)
    }
}

impl Step {
    /// The records, each with what its row was before; none before an event or a reservation, which are no rows.
    pub fn changes(&self) -> impl Iterator<Item = (&Record, Option<&Record>)> {
        let mut before = self.undo.iter();
        self.records.iter().map(move |record| match record {
            Record::Event(_) | Record::Reserve { .. } => (record, None),
            _ => (record, before.next()),
        })
    }

    /// The locks that have changed since this was asked last, as they were.
    pub(super) fn locks_not_looked_at(&mut self) -> Vec<(LockId, Option<Lock>)> {
        let from = std::mem::replace(&mut self.looked_at, self.undo.len());
        let locks = self.undo[from..].iter().filter_map(|before| match before {
            Record::Lock(id, lock) => Some((*id, lock.clone())),
            _ => None,
        });
        locks.collect()
    }

    /// The requests for locks that are refused, and why.
    pub fn refused(&self) -> impl Iterator<Item = &(Arc<Ask>, RefusedFor)> {
        self.refused.iter()
    }

    /// The requests for locks that could not be granted at once because of others: a request is among them once.
    pub fn came(&self) -> impl Iterator<Item = &Arc<Ask>> {
        self.came.iter()
    }

    /// Something was counted; this takes it back.
    pub(super) fn counted(&mut self, undo: contention::Undo) {
        self.undo_counted.push(undo);
    }

    pub(super) fn mark(&self, next_fence: u64, next_event: u64) -> Mark {
        Mark {
            next_fence,
            next_event,
            records: self.records.len(),
            replies: self.replies.len(),
            effects: self.effects.len(),
            undo: self.undo.len(),
            undo_counted: self.undo_counted.len(),
            violations: self.violations.len(),
            refused: self.refused.len(),
            came: self.came.len(),
            freed: self.freed.len(),
            eased: self.eased.len(),
            unranked: self.unranked.clone(),
        }
    }

    /// Forgets what came behind a mark; answers with what takes the changes back, newest last, and what was counted and
    /// remembered.
    pub(super) fn cut(&mut self, mark: Mark) -> (Vec<Record>, Vec<contention::Undo>, Vec<violation::Undo>) {
        self.records.truncate(mark.records);
        self.replies.truncate(mark.replies);
        self.effects.truncate(mark.effects);
        self.refused.truncate(mark.refused);
        self.came.truncate(mark.came);
        self.freed.truncate(mark.freed);
        self.eased.truncate(mark.eased);
        self.unranked = mark.unranked;
        let counted = self.undo_counted.split_off(mark.undo_counted);
        (self.undo.split_off(mark.undo), counted, self.violations.split_off(mark.violations))
    }
}
