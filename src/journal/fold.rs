//! Folds closed segments of the log into the store, in a thread of its own so that no append waits for it.
//!
//! Order makes every crash harmless: a new segment is durable before the store names it, and an old one is removed
//! after the store holds what was in it. A segment that comes back after a power cut is older than the one the store
//! names, and is not read again.

use super::disk::Disk;
use super::error::JournalError;
use super::log::{self, Replay, Writer};
use super::store::{Meta, Store};
use crate::limits;
use crate::model::Record;
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

/// The store and what is needed to fold into it.
pub(super) struct Folder {
    pub disk: Arc<dyn Disk>,
    pub store: Store,
    pub meta: Meta,
}

/// What the log asks for.
pub(super) enum Job {
    /// Make the segment with this number, so that it is there when the present one is full.
    Prepare(u64),
    /// Fold this segment, which ends with record `through`.
    Fold { segment: u64, through: u64 },
}

impl Folder {
    /// Does one job; a prepared segment is returned.
    pub(super) fn run(&mut self, job: Job) -> Result<Option<Writer>, JournalError> {
        match job {
            Job::Prepare(number) => Writer::create(&*self.disk, number, self.meta.instance).map(Some),
            Job::Fold { segment, through } => {
                let replay = log::replay(&*self.disk, &[segment], self.meta.instance, self.meta.folded)?;
                self.check_complete(&replay, through)?;
                self.take(&replay, segment + 1)?;
                Ok(None)
            }
        }
    }

    /// Folds all there is and starts a new segment; `closed` as in [`Meta`].
    pub(super) fn fold_all(&mut self, closed: bool) -> Result<(Replay, Writer), JournalError> {
        self.fold_what_is_left(closed, None)
    }

    /// The same for a journal that somebody else has left, with the first event number that may not have been given
    /// out, as far as it is known from elsewhere. Unless `is_whole`, and if the log has a torn end, events may be
    /// missing that were told. A torn end is most often a batch that nobody was told of, but nothing proves it.
    pub(super) fn take_over(&mut self, is_whole: bool, events: u64) -> Result<(Replay, Writer), JournalError> {
        self.fold_what_is_left(false, Some((is_whole, events)))
    }

    fn fold_what_is_left(&mut self, closed: bool, left: Option<(bool, u64)>) -> Result<(Replay, Writer), JournalError> {
        let segments = super::segments(&*self.disk)?;
        let unfolded = unfolded(&*self.disk, &segments, self.meta.active)?;
        let replay = log::replay(&*self.disk, unfolded, self.meta.instance, self.meta.folded)?;
        let next = segments.last().map_or(1, |last| last + 1);
        let writer = Writer::create(&*self.disk, next, self.meta.instance)?;
        self.meta.closed = closed;
        if let Some((is_whole, events)) = left
            && (!is_whole || replay.cut.is_some())
        {
            let reserved = replay.records.iter().filter_map(|record| match record {
                &Record::Reserve { events, .. } => Some(events),
                _ => None,
            });
            self.meta.lost_below = reserved.fold(self.meta.events.max(events), u64::max);
        }
        self.take(&replay, next)?;
        Ok((replay, writer))
    }

    /// What was appended must be there to be folded.
    pub(super) fn check_complete(&self, replay: &Replay, through: u64) -> Result<(), JournalError> {
        if replay.through == through {
            return Ok(());
        }
        let found = format!("it ends with record {}, and {through} had been written", replay.through);
        Err(JournalError::damaged(super::path(&*self.disk, &log::name(self.meta.active)), found))
    }

    fn take(&mut self, replay: &Replay, active: u64) -> Result<(), JournalError> {
        let mut meta = Meta { folded: replay.through, active, ..self.meta };
        for record in &replay.records {
            if let &Record::Reserve { fences, events } = record {
                meta.fences = meta.fences.max(fences);
                meta.events = meta.events.max(events);
            }
        }
        self.store.fold(&replay.records, &meta)?;
        // Before the only other copy goes.
        self.store.check_in_place()?;
        self.meta = meta;
        remove_segments_before(&*self.disk, active);
        Ok(())
    }
}

/// The segments from `active` on, none missing.
fn unfolded<'a>(disk: &dyn Disk, segments: &'a [u64], active: u64) -> Result<&'a [u64], JournalError> {
    let unfolded = &segments[segments.partition_point(|&segment| segment < active)..];
    let end = unfolded.last().map_or(active + 1, |last| last + 1);
    match (active..end).find(|number| unfolded.binary_search(number).is_err()) {
        None => Ok(unfolded),
        Some(missing) => Err(JournalError::Missing {
            file: super::path(disk, &log::name(missing)),
            beside: format!("{} needs it", super::path(disk, super::store::NAME)),
        }),
    }
}

/// Removes what the store holds. What cannot be removed now is removed at the next fold, and never read.
pub(super) fn remove_segments_before(disk: &dyn Disk, active: u64) {
    for segment in super::segments(disk).unwrap_or_default() {
        if segment < active {
            let _ = disk.remove(&log::name(segment));
        }
    }
}

/// Who folds.
pub(super) enum Folding {
    /// A thread of its own.
    Thread(FoldThread),
    /// The caller, in the middle of an append: for simulations, where threads would make a run unrepeatable.
    Caller(Box<Folder>),
    /// Nobody, until the journal is rewritten.
    Stopped,
}

/// The fold thread as its owner sees it.
pub(super) struct FoldThread {
    jobs: Sender<Job>,
    outcomes: Receiver<Result<Writer, JournalError>>,
    thread: JoinHandle<Option<Folder>>,
}

impl Folding {
    /// Starts the thread.
    pub(super) fn start(folder: Folder) -> Result<Folding, JournalError> {
        let (jobs, inbox) = bounded(limits::FOLD_QUEUE);
        // One spare segment at a time is asked for, and the thread ends with its first failure: two places are enough.
        let (outbox, outcomes) = bounded(2);
        let thread = Builder::new()
            .name("flockd-fold".into())
            .spawn(move || work(folder, &inbox, &outbox))
            .map_err(|error| JournalError::io("start the fold thread", error))?;
        Ok(Folding::Thread(FoldThread { jobs, outcomes, thread }))
    }

    /// Whether a job can be taken now; if not, ask again later.
    pub(super) fn has_room(&self) -> bool {
        match self {
            Folding::Thread(thread) => !thread.jobs.is_full(),
            Folding::Caller(_) => true,
            Folding::Stopped => false,
        }
    }

    /// Hands over a job. Call it only while there is room.
    pub(super) fn give(&mut self, job: Job) -> Result<Option<Writer>, JournalError> {
        match self {
            Folding::Thread(thread) => {
                thread.jobs.try_send(job).map_err(|_| ended())?;
                Ok(None)
            }
            Folding::Caller(folder) => folder.run(job),
            Folding::Stopped => Err(ended()),
        }
    }

    /// A segment that was prepared meanwhile, or the failure that ended the thread.
    pub(super) fn poll(&mut self) -> Result<Option<Writer>, JournalError> {
        let Folding::Thread(thread) = self else { return Ok(None) };
        match thread.outcomes.try_recv() {
            Ok(outcome) => outcome.map(Some),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(ended()),
        }
    }

    /// Lets all jobs be done and takes the store back; or the failure that ended the thread.
    pub(super) fn stop(&mut self) -> Result<Folder, JournalError> {
        match std::mem::replace(self, Folding::Stopped) {
            Folding::Caller(folder) => Ok(*folder),
            Folding::Stopped => Err(ended()),
            Folding::Thread(FoldThread { jobs, outcomes, thread }) => {
                drop(jobs);
                match thread.join() {
                    Ok(Some(folder)) => Ok(folder),
                    _ => Err(outcomes.try_iter().find_map(Result::err).unwrap_or_else(ended)),
                }
            }
        }
    }
}

/// The thread: one job after another, until its owner has gone or one has failed.
fn work(mut folder: Folder, jobs: &Receiver<Job>, outcomes: &Sender<Result<Writer, JournalError>>) -> Option<Folder> {
    for job in jobs {
        let done = catch_unwind(AssertUnwindSafe(|| folder.run(job))).unwrap_or_else(|_| Err(ended()));
        // Nobody listens any more when the journal is being dropped; then there is nobody to tell.
        match done {
            Ok(None) => {}
            Ok(Some(spare)) => drop(outcomes.try_send(Ok(spare))),
            Err(error) => {
                drop(outcomes.try_send(Err(error)));
                return None;
            }
        }
    }
    Some(folder)
}

fn ended() -> JournalError {
    JournalError::io("fold the log into the store", std::io::Error::other("the fold thread has ended unexpectedly"))
}
