//! The daemon's flocks: at once where memory tells, by a file thread where a file system could make us wait.

use super::commits::Commits;
use super::wake_up;
use crate::coordinator::{Order, OsLocks};
use crate::limits;
use crate::model::{CommitAnswer, CommitId, LockId, Mode, Moment, Now, OsAnswer};
use crate::os::files::FilePool;
use crate::os::files::{Crowded, Later, Visit};
use crate::os::flocks::{Closing, Flocks, Opened, Opening, open_and_flock};
use crate::os::mounts;
use crate::scope::{FileId, Target};
use crossbeam_channel::{Receiver, bounded};
use mio::Waker;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// The flocks of a daemon, with the threads that open files for them.
pub struct FileLocks {
    flocks: Flocks,
    pool: FilePool<Job>,
    done: Receiver<Done>,
    /// Files that are to be opened when the last one to have them is closed.
    behind: HashMap<FileId, Vec<Opening>>,
    /// What is to be closed and found no room in the pool.
    closing: Vec<Closing>,
    /// Files on their way into place.
    commits: Commits,
    /// What the threads were given, with the time until which an answer is waited for, oldest first.
    given: VecDeque<(Moment, LockId)>,
}

impl FileLocks {
    /// No flocks yet; `waker` wakes the loop when a thread has an answer.
    pub fn new(waker: &Arc<Waker>) -> FileLocks {
        // A full channel makes file threads wait for the loop, which never waits for them.
        let (answers, done) = bounded(limits::FILE_QUEUE);
        let commits = Commits::new(waker);
        let waker = waker.clone();
        let tell = move |done| {
            if answers.send(done).is_ok() {
                wake_up(&waker);
            }
        };
        let work = move |job: Job, visit: &mut Visit<'_, Job>| do_job(job, visit, &tell);
        let pool = FilePool::new(limits::FILE_THREADS, limits::FILE_QUEUE, work);
        let (flocks, behind) = (Flocks::default(), HashMap::new());
        FileLocks { flocks, pool, done, behind, closing: Vec::new(), commits, given: VecDeque::new() }
    }

    /// Takes up what a thread has done; the answer to a lock, if it is one.
    fn take_up(&mut self, done: Done) -> Option<(LockId, OsAnswer)> {
        match done {
            Done::Opened(opened) => {
                let lock = opened.lock;
                self.given.retain(|(_, given)| *given != lock);
                let answer = self.flocks.finish(opened);
                self.close();
                answer.map(|answer| (lock, answer))
            }
            Done::Closed(id) => {
                if self.flocks.closed(id) {
                    for opening in self.behind.remove(&id).unwrap_or_default() {
                        // Without room in the pool it is waited for until its time is up.
                        if self.flocks.is_opening(opening.lock) {
                            let _ = self.pool.submit(Job::Open(opening));
                        }
                    }
                }
                None
            }
        }
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
        let done: Vec<Done> = self.done.try_iter().collect();
        let closing: Vec<Closing> = self.flocks.close_all().into_iter().chain(self.closing.drain(..)).collect();
        let written = self.commits.close_all();
        if !(done.is_empty() && closing.is_empty() && written.is_empty()) {
            // Without a thread to be had there is nothing left but to wait.
            let _ =
                std::thread::Builder::new().name("flockd-close".into()).spawn(move || drop((done, closing, written)));
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

/// What a file thread has done.
enum Done {
    /// It has tried to.
    Opened(Opened),
    /// This file.
    Closed(FileId),
}

fn do_job(job: Job, visit: &mut Visit<'_, Job>, tell: &impl Fn(Done)) -> Later<Job> {
    match job {
        // However many there are: each was a lock, and those are bounded.
        Job::Close(closing) if visit.enter(&closing.mount).is_err() => Some(Job::Close(closing)),
        Job::Close(closing) => {
            let id = closing.id;
            drop(closing);
            tell(Done::Closed(id));
            None
        }
        Job::Open(opening) => {
            let mount = mounts::last_remote_mount(&opening.path);
            match mount.as_ref().map(|mount| visit.enter(mount)) {
                Some(Err(Crowded::Aside)) => Some(Job::Open(opening)),
                Some(Err(Crowded::Full)) => {
                    let Opening { lock, mode, .. } = opening;
                    tell(Done::Opened(Opened { lock, mode, result: Err(OsAnswer::Unable), mount }));
                    None
                }
                Some(Ok(())) | None => {
                    tell(Done::Opened(open_and_flock(opening)));
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
        let until = now.mono.after(limits::FILE_WITHIN);
        if let Some(id) = target.own_id().filter(|_| self.flocks.is_closing(target) && !opening.is_held()) {
            self.behind.entry(id).or_default().push(opening);
            self.given.push_back((until, lock));
            return None;
        }
        if self.pool.submit(Job::Open(opening)).is_err() {
            self.flocks.release(lock);
            return Some(OsAnswer::Unable);
        }
        self.given.push_back((until, lock));
        None
    }

    fn release(&mut self, lock: LockId) {
        self.flocks.release(lock);
        self.close();
    }

    fn pass(&mut self, from: LockId, to: LockId) {
        // Whatever was still being opened for the lock is not waited for any more.
        self.given.retain(|(_, given)| *given != to);
        self.flocks.pass(from, to);
        self.close();
    }

    fn share(&mut self, lock: LockId) {
        self.flocks.share(lock);
    }

    fn finished(&mut self, now: Now) -> Option<(LockId, OsAnswer)> {
        while let Ok(done) = self.done.try_recv() {
            if let Some(answer) = self.take_up(done) {
                return Some(answer);
            }
        }
        // A file system that does not answer keeps its thread, and nobody of ours.
        let &(_, lock) = self.given.front().filter(|(until, _)| *until <= now.mono)?;
        self.given.pop_front();
        self.flocks.release(lock);
        Some((lock, OsAnswer::Unable))
    }

    fn commit(&mut self, order: Order, now: Now) {
        let held = self.flocks.held(&order.target);
        self.commits.begin(order, held, now.mono);
    }

    fn committed(&mut self, now: Now) -> Option<(CommitId, LockId, CommitAnswer)> {
        let over = self.commits.next(now.mono)?;
        if let Some(new) = over.flocked {
            self.flocks.replaced(over.old, new, over.mount, over.takes.then_some(over.lock));
            self.close();
        }
        Some((over.commit, over.lock, over.answer))
    }

    fn next_deadline(&self) -> Option<Moment> {
        let flock = self.given.front().map(|(until, _)| *until);
        [flock, self.commits.next_deadline()].into_iter().flatten().min()
    }
}
