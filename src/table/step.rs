//! What a command leads to, as data: records to write, then answers to send. Nothing here is done yet.

use crate::model::{Agent, Answer, Ask, Caller, Effect, LockId, Record, Wall};
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
    /// The wall clock that events of this step carry.
    pub(super) wall: Wall,
    /// What ended or went out of the queue and has not been followed up: who waited for it is to be served.
    pub(super) freed: Vec<Arc<Ask>>,
    /// Advisory locks that have ended, and whoever has come to lead by that was not told.
    pub(super) unranked: Vec<(LockId, Arc<Ask>)>,
    /// Agents with a new lock that may answer waiting requests of their own.
    pub(super) eased: Vec<Agent>,
}
