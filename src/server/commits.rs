//! Files on their way into place: done by file threads of their own, and waited for no longer than clients would.

use super::wake_up;
use crate::coordinator::Order;
use crate::limits;
use crate::model::{CommitAnswer, CommitId, Fault, LockId, Moment};
use crate::os::commit::{self, Gate, Outcome, Task};
use crate::os::files::{Crowded, FilePool, Later, Visit};
use crate::os::mounts::{self, Mount};
use crate::scope::{FileId, Target};
use crossbeam_channel::{Receiver, bounded};
use mio::Waker;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::sync::Arc;

/// The commits of a daemon, with the threads that carry them out.
pub(super) struct Commits {
    pool: FilePool<Job>,
    done: Receiver<Done>,
    in_hand: HashMap<CommitId, InHand>,
    /// Until when an answer is waited for, oldest first.
    given: VecDeque<(Moment, CommitId)>,
    /// Those for which there was no thread.
    turned_away: Vec<CommitId>,
    /// Directories that were searched for left-overs, and when that is worth it again, oldest first.
    swept: VecDeque<(FileId, Moment)>,
}

struct InHand {
    lock: LockId,
    /// Whether the lock takes the new file's flock.
    takes: bool,
    gate: Arc<Gate>,
    old: Option<FileId>,
}

/// A commit that has an answer.
pub(super) struct Over {
    pub(super) commit: CommitId,
    pub(super) lock: LockId,
    pub(super) answer: CommitAnswer,
    /// The flocked file that was replaced, if it was.
    pub(super) old: Option<FileId>,
    /// The new one, if it is flocked.
    pub(super) flocked: Option<(Arc<File>, FileId)>,
    /// Whether the lock itself wants that flock.
    pub(super) takes: bool,
    /// Its mount, if that may wait for a server.
    pub(super) mount: Option<Mount>,
}

impl Over {
    fn without_file(commit: CommitId, lock: LockId, takes: bool, answer: CommitAnswer) -> Over {
        Over { commit, lock, answer, old: None, flocked: None, takes, mount: None }
    }
}

struct Job {
    commit: CommitId,
    task: Task,
    /// Left-overs of killed clients are looked for as well.
    sweeps: bool,
}

/// What a thread has done.
pub(super) struct Done {
    commit: CommitId,
    outcome: Outcome,
    mount: Option<Mount>,
}

impl Commits {
    /// None yet; `waker` wakes the loop when a thread has an answer.
    pub(super) fn new(waker: &Arc<Waker>) -> Commits {
        // A full channel makes file threads wait for the loop, which never waits for them.
        let (answers, done) = bounded(limits::FILE_QUEUE);
        let waker = waker.clone();
        let tell = move |done| {
            if answers.send(done).is_ok() {
                wake_up(&waker);
            }
        };
        let work = move |job: Job, visit: &mut Visit<'_, Job>| do_job(job, visit, &tell);
        let pool = FilePool::new(limits::FILE_THREADS, limits::FILE_QUEUE, work);
        let (in_hand, given, swept) = (HashMap::new(), VecDeque::new(), VecDeque::new());
        Commits { pool, done, in_hand, given, turned_away: Vec::new(), swept }
    }

    /// Has a thread put a file in place. `held` is the flocked file that it replaces.
    pub(super) fn begin(&mut self, order: Order, held: Option<(FileId, Arc<File>)>, now: Moment) {
        let Order { commit, lock, target, flock, prepared } = order;
        let gate = Arc::new(Gate::default());
        let old = held.as_ref().map(|(id, _)| *id);
        self.in_hand.insert(commit, InHand { lock, takes: flock, gate: gate.clone(), old });
        let sweeps = self.is_to_be_swept(&target, now);
        let task = Task { target, prepared, flock, held: held.map(|(_, file)| file), gate };
        match self.pool.submit(Job { commit, task, sweeps }) {
            Ok(()) => self.given.push_back((now.after(limits::COMMIT_WITHIN), commit)),
            Err(_) => self.turned_away.push(commit),
        }
    }

    /// The next that has an answer, or has none for too long.
    pub(super) fn next(&mut self, now: Moment) -> Option<Over> {
        if let Some(commit) = self.turned_away.pop() {
            return Some(self.refused(commit, "all file threads are busy, perhaps on a mount that does not answer"));
        }
        while let Ok(Done { commit, outcome, mount }) = self.done.try_recv() {
            self.given.retain(|(_, given)| *given != commit);
            // One that was called off has its answer already.
            let Some(InHand { lock, takes, old, .. }) = self.in_hand.remove(&commit) else { continue };
            let Outcome { answer, flocked } = outcome;
            return Some(Over { commit, lock, answer, old, flocked, takes, mount });
        }
        let &(_, commit) = self.given.front().filter(|(until, _)| *until <= now)?;
        self.given.pop_front();
        let InHand { lock, takes, gate, .. } = &self.in_hand[&commit];
        if gate.call_off() {
            return Some(self.refused(commit, "the file system does not answer"));
        }
        Some(Over::without_file(commit, *lock, *takes, CommitAnswer::Late))
    }

    fn refused(&mut self, commit: CommitId, text: &str) -> Over {
        let InHand { lock, takes, .. } = self.in_hand.remove(&commit).expect("it was given just now");
        let fault = Fault::Unavailable(format!("{text}; nothing was written"));
        Over::without_file(commit, lock, takes, CommitAnswer::Refused(fault))
    }

    /// What threads have answered and nobody took up: files that are not to be closed by the loop.
    pub(super) fn close_all(&mut self) -> Vec<Done> {
        self.done.try_iter().collect()
    }

    /// When an answer is waited for no longer.
    pub(super) fn next_deadline(&self) -> Option<Moment> {
        if !self.turned_away.is_empty() {
            return Some(Moment(0));
        }
        self.given.front().map(|(until, _)| *until)
    }

    /// Whether the directory of a target is to be searched for left-overs; notes that it is.
    fn is_to_be_swept(&mut self, target: &Target, now: Moment) -> bool {
        let below = target.scope.components().count();
        let Some(dir) = below.checked_sub(1).and_then(|at| target.ids.get(at)).copied() else { return false };
        while self.swept.front().is_some_and(|(_, until)| *until <= now) || self.swept.len() > limits::SWEPT_MAX {
            self.swept.pop_front();
        }
        if self.swept.iter().any(|(known, _)| *known == dir) {
            return false;
        }
        self.swept.push_back((dir, now.after(limits::SWEPT_FOR)));
        true
    }
}

fn do_job(job: Job, visit: &mut Visit<'_, Job>, tell: &impl Fn(Done)) -> Later<Job> {
    let mount = mounts::last_remote_mount(job.task.target.scope.path().unwrap_or_default());
    match mount.as_ref().map(|mount| visit.enter(mount)) {
        Some(Err(Crowded::Aside)) => return Some(job),
        Some(Err(Crowded::Full)) => {
            let text = "the file system does not answer, and many wait for it already; nothing was written";
            let answer = CommitAnswer::Refused(Fault::Unavailable(text.to_owned()));
            tell(Done { commit: job.commit, outcome: Outcome { answer, flocked: None }, mount });
            return None;
        }
        Some(Ok(())) | None => {}
    }
    let Job { commit, task, sweeps } = job;
    let outcome = commit::put_in_place(&task);
    let target = task.target.clone();
    // Before the answer: a flock that its lock has let go meanwhile ends with this.
    drop(task);
    tell(Done { commit, outcome, mount });
    if sweeps {
        commit::sweep(&target);
    }
    None
}
