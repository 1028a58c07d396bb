//! The daemon's flocks: at once where memory tells, by a file thread where a file system could make us wait.

use super::wake_up;
use crate::coordinator::OsLocks;
use crate::limits;
use crate::model::{LockId, Mode, Moment, Now, OsAnswer};
use crate::os::files::FilePool;
use crate::os::flocks::{Flocks, Opened, Opening, open_and_flock};
use crate::scope::Target;
use crossbeam_channel::{Receiver, bounded};
use mio::Waker;
use std::collections::VecDeque;
use std::sync::Arc;

/// The flocks of a daemon, with the threads that open files for them.
pub struct FileLocks {
    flocks: Flocks,
    pool: FilePool<Opening>,
    opened: Receiver<Opened>,
    /// What the threads were given, with the time until which an answer is waited for, oldest first.
    given: VecDeque<(Moment, LockId)>,
}

impl FileLocks {
    /// No flocks yet; `waker` wakes the loop when a thread has an answer.
    pub fn new(waker: &Arc<Waker>) -> FileLocks {
        // Room for every file there can be, so that no file thread waits for the loop.
        let (answers, opened) = bounded(limits::FILE_QUEUE + limits::FILE_THREADS);
        let waker = waker.clone();
        let pool = FilePool::new(limits::FILE_THREADS, limits::FILE_QUEUE, move |opening: Opening| {
            if answers.send(open_and_flock(&opening)).is_ok() {
                wake_up(&waker);
            }
        });
        FileLocks { flocks: Flocks::default(), pool, opened, given: VecDeque::new() }
    }
}

impl OsLocks for FileLocks {
    fn want(&mut self, lock: LockId, target: &Target, mode: Mode, now: Now) -> Option<OsAnswer> {
        if let Some(answer) = self.flocks.want(lock, target, mode, now.wall) {
            return Some(answer);
        }
        let opening = self.flocks.opening(lock, target, mode, now.wall);
        if self.pool.submit(opening).is_err() {
            self.flocks.release(lock);
            return Some(OsAnswer::Unable);
        }
        self.given.push_back((now.mono.after(limits::FILE_WITHIN), lock));
        None
    }

    fn release(&mut self, lock: LockId) {
        self.flocks.release(lock);
    }

    fn finished(&mut self, now: Now) -> Option<(LockId, OsAnswer)> {
        while let Ok(opened) = self.opened.try_recv() {
            let lock = opened.lock;
            self.given.retain(|(_, given)| *given != lock);
            if let Some(answer) = self.flocks.finish(opened) {
                return Some((lock, answer));
            }
        }
        // A file system that does not answer keeps its thread, and nobody of ours.
        let &(_, lock) = self.given.front().filter(|(until, _)| *until <= now.mono)?;
        self.given.pop_front();
        self.flocks.release(lock);
        Some((lock, OsAnswer::Unable))
    }

    fn next_deadline(&self) -> Option<Moment> {
        self.given.front().map(|(until, _)| *until)
    }
}
