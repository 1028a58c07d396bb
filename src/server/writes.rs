//! Writes around the locks: which files are watched for them, and what was seen, as commands for the table.
//!
//! Watched are the files that readers hold: while somebody holds a file exclusively, whoever writes is taken for that
//! one. Which those are is read from the bus, like everything that is made of what happened, so that the table knows
//! nothing of watches.

use super::wake_up;
use crate::coordinator::Coordinator;
use crate::events::{Cursor, Filter, Told};
use crate::limits;
use crate::model::{Command, EventKind, LockId, Mode, Moment};
use crate::os::watcher::Watcher;
use crate::scope::{Scope, Target};
use mio::Waker;
use std::collections::HashMap;
use std::sync::Arc;

/// The watched files of a server.
pub(super) struct Writes {
    watcher: Watcher,
    cursor: Cursor,
    filter: Filter,
    /// What readers hold, as it was asked for.
    held: HashMap<LockId, Target>,
    /// Their locks, by the name of the file.
    by_path: HashMap<Box<[u8]>, Vec<LockId>>,
    /// Before that nothing more is taken.
    again: Option<Moment>,
}

impl Writes {
    /// Watches what is held already.
    pub(super) fn new(waker: &Arc<Waker>, coordinator: &Coordinator) -> Writes {
        let waker = waker.clone();
        let filter = Filter { names: vec!["lock.acquired", "lock.released"], ..Filter::default() };
        let cursor = newest(coordinator);
        let watcher = Watcher::new(move || wake_up(&waker));
        let (held, by_path) = (HashMap::new(), HashMap::new());
        let mut writes = Writes { watcher, cursor, filter, held, by_path, again: None };
        writes.begin_anew(coordinator);
        writes
    }

    /// Follows what was granted and has ended since.
    pub(super) fn follow(&mut self, coordinator: &Coordinator) {
        while let Some(told) = coordinator.bus().next(&mut self.cursor, &self.filter) {
            let Told::Event(event) = told else {
                // More happened than is kept: the table knows what is left of it.
                self.cursor = newest(coordinator);
                self.begin_anew(coordinator);
                continue;
            };
            match event.kind {
                EventKind::Acquired(_) if event.ask.mode == Mode::Shared => self.add(event.lock, &event.ask.target),
                _ => self.remove(event.lock),
            }
        }
    }

    fn begin_anew(&mut self, coordinator: &Coordinator) {
        let gone: Vec<LockId> =
            self.held.keys().copied().filter(|id| coordinator.table().reader(*id).is_none()).collect();
        gone.into_iter().for_each(|id| self.remove(id));
        for lock in coordinator.table().readers() {
            self.add(lock.id, &lock.ask.target);
        }
    }

    fn add(&mut self, id: LockId, target: &Target) {
        if let (Scope::File(path), false) = (&target.scope, self.held.contains_key(&id)) {
            self.watcher.watch(path);
            self.by_path.entry(path.clone()).or_default().push(id);
            self.held.insert(id, target.clone());
        }
    }

    fn remove(&mut self, id: LockId) {
        let Some(Target { scope: Scope::File(path), .. }) = self.held.remove(&id) else { return };
        let locks = self.by_path.get_mut(&path).expect("both maps have it");
        locks.retain(|other| *other != id);
        if locks.is_empty() {
            self.by_path.remove(&path);
        }
        self.watcher.unwatch(&path);
    }

    /// Takes what was seen, but no more often than is of use: somebody who writes all the time costs the loop little.
    pub(super) fn take(&mut self, now: Moment, commands: &mut Vec<Command>) {
        if self.again.is_some_and(|again| again > now) {
            return;
        }
        let seen = self.watcher.take();
        self.again = (!seen.is_empty()).then(|| now.after(limits::WATCH_PAUSE));
        for (path, how) in seen {
            // Whoever held it may have left meanwhile.
            if let Some(target) = self.by_path.get(&path).and_then(|locks| self.held.get(locks.first()?)) {
                commands.push(Command::Wrote { target: target.clone(), how });
            }
        }
    }

    /// When what has been seen meanwhile is to be taken, or something is to be said in the log.
    pub(super) fn next_deadline(&self) -> Option<Moment> {
        self.again.into_iter().chain(self.watcher.next_deadline()).min()
    }

    /// Why not everything is seen, for the log.
    pub(super) fn take_troubles(&mut self, now: Moment) -> Vec<String> {
        self.watcher.take_troubles(now)
    }
}

fn newest(coordinator: &Coordinator) -> Cursor {
    coordinator.bus().cursor(None).expect("the newest event is not ahead of itself")
}
