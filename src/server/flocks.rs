//! The daemon's flocks: at once where memory tells, by a file thread where a file system could make us wait.

use super::wake_up;
use crate::coordinator::OsLocks;
use crate::limits;
use crate::model::{LockId, Mode, Moment, Now, OsAnswer};
use crate::os::files::FilePool;
use crate::os::files::{Crowded, Later, Visit};
use crate::os::flocks::{Closing, Flocks, Opened, Opening, open_and_flock};
use crate::os::mounts;
use crate::scope::Target;
use crossbeam_channel::{Receiver, bounded};
use mio::Waker;
use std::collections::VecDeque;
use std::sync::Arc;

/// The flocks of a daemon, with the threads that open files for them.
pub struct FileLocks {
    flocks: Flocks,
    pool: FilePool<Job>,
    opened: Receiver<Opened>,
    /// What is to be closed and found no room in the pool.
    closing: Vec<Closing>,
    /// What the threads were given, with the time until which an answer is waited for, oldest first.
    given: VecDeque<(Moment, LockId)>,
}

impl FileLocks {
    /// No flocks yet; `waker` wakes the loop when a thread has an answer.
    pub fn new(waker: &Arc<Waker>) -> FileLocks {
        // A full channel makes file threads wait for the loop, which never waits for them.
        let (answers, opened) = bounded(limits::FILE_QUEUE);
        let waker = waker.clone();
        let tell = move |opened| {
            if answers.send(opened).is_ok() {
                wake_up(&waker);
            }
        };
        let work = move |job: Job, visit: &mut Visit<'_, Job>| do_job(job, visit, &tell);
        let pool = FilePool::new(limits::FILE_THREADS, limits::FILE_QUEUE, work);
        FileLocks { flocks: Flocks::default(), pool, opened, closing: Vec::new(), given: VecDeque::new() }
    }

    /// Has file threads close what the loop must not.
    fn close(&mut self) {
        let closing = std::mem::take(&mut self.closing).into_iter().chain(self.flocks.take_closing());
        let given = closing.filter_map(|closing| self.pool.submit(Job::Close(closing)).err());
        self.closing = given
            .map(|(_, job)| match job {
                Job::Close(closing) => closing,
                Job::Open(_) => unreachable!("a file to be closed was given"),
            })
            .collect();
    }
}

impl Drop for FileLocks {
    /// The exit of the daemon waits for no mount either.
    fn drop(&mut self) {
        let opened: Vec<Opened> = self.opened.try_iter().collect();
        let closing: Vec<Closing> = self.flocks.close_all().into_iter().chain(self.closing.drain(..)).collect();
        if !(opened.is_empty() && closing.is_empty()) {
            // Without a thread to be had there is nothing left but to wait.
            let _ = std::thread::Builder::new().name("flockd-close".into()).spawn(move || drop((opened, closing)));
        }
    }
}

/// What a file thread does for flocks.
enum Job {
    /// Opens a file and flocks it.
    Open(Opening),
    /// Closes a file, which ends its flock.
    Close(Closing),
}

fn do_job(job: Job, visit: &mut Visit<'_, Job>, tell: &impl Fn(Opened)) -> Later<Job> {
    match job {
        // However many there are: each was a lock, and those are bounded.
        Job::Close(closing) if visit.enter(&closing.mount).is_err() => Some(Job::Close(closing)),
        Job::Close(closing) => {
            drop(closing);
            None
        }
        Job::Open(opening) => {
            let mount = mounts::last_remote_mount(&opening.path);
            match mount.as_ref().map(|mount| visit.enter(mount)) {
                Some(Err(Crowded::Aside)) => Some(Job::Open(opening)),
                Some(Err(Crowded::Full)) => {
                    tell(Opened { lock: opening.lock, mode: opening.mode, result: Err(OsAnswer::Unable), mount });
                    None
                }
                Some(Ok(())) | None => {
                    tell(open_and_flock(opening));
                    None
                }
            }
        }
    }
}

impl OsLocks for FileLocks {
    fn want(&mut self, lock: LockId, target: &Target, mode: Mode, now: Now) -> Option<OsAnswer> {
        if let Some(answer) = self.flocks.want(lock, target, mode, now.wall) {
            return Some(answer);
        }
        let opening = self.flocks.opening(lock, target, mode, now.wall);
        if self.pool.submit(Job::Open(opening)).is_err() {
            self.flocks.release(lock);
            return Some(OsAnswer::Unable);
        }
        self.given.push_back((now.mono.after(limits::FILE_WITHIN), lock));
        None
    }

    fn release(&mut self, lock: LockId) {
        self.flocks.release(lock);
        self.close();
    }

    fn finished(&mut self, now: Now) -> Option<(LockId, OsAnswer)> {
        while let Ok(opened) = self.opened.try_recv() {
            let lock = opened.lock;
            self.given.retain(|(_, given)| *given != lock);
            let answer = self.flocks.finish(opened);
            self.close();
            if let Some(answer) = answer {
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
