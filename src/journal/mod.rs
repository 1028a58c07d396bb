//! The journal: what must outlive the daemon, as an append-only log in front of a store.
//!
//! Every batch of changes is one write to the log, and is synced when a grant in it must survive a power cut. Full
//! segments of the log are folded into the store in the background. What is loaded at the start is a prefix of all
//! batches ever appended, no batch torn, that holds every synced one; after `kill -9` it holds every appended one.
//!
//! Nothing unreadable is ever taken for empty: an unknown version, damage, a missing or foreign file is a
//! [`JournalError`], which says what to do. Only a torn tail is cut.
//!
//! `codec.rs` knows bytes, `store.rs` redb, `log.rs` segments, `fences.rs` the numbers that outlive the journal,
//! `disk.rs` the directory. The caller holds the home's lock file: two journals on one home are its mistake to prevent.

mod codec;
pub mod disk;
mod error;
mod fences;
mod fold;
mod log;
mod store;

pub use error::JournalError;

use crate::limits;
use crate::model::{Event, Record};
use crate::planted::{Bug, planted};
use codec::Fault;
use disk::{Disk, DiskFile};
use fences::Fences;
use fold::{Folder, Folding, Job};
use log::Writer;
use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use store::{Content, Meta, Store};

/// What an opened journal held.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The state: locks, waiters, sessions and ended locks, all of them `Some`. Waiters have no caller.
    pub records: Vec<Record>,
    /// The events that are kept, oldest first.
    pub events: Vec<Event>,
    /// No fence from here on was ever given out; reserve before giving one out.
    pub fences_from: u64,
    /// No event number from here on was ever given out; reserve before giving one out.
    pub events_from: u64,
    /// The home's instance: who compares fences compares it first.
    pub instance: u64,
    /// The machine was restarted since this state was written. It is told again at each opening until a
    /// [`rewrite`](Journal::rewrite) has put the state of after the restart in its place: a start that is cut short in
    /// between must not make the old boot's processes and times pass for this one's.
    pub rebooted: bool,
    /// The journal is new.
    pub fresh: bool,
    /// Of the events below this number the newest may be missing, though they were told: a power cut took them, or the
    /// journal was lost. Kept events from this number on are newer than that.
    pub lost_below: u64,
    /// A sentence on the torn end of the log, if it had one.
    pub cut: Option<String>,
}

/// How the log is folded. The default is right for every daemon; simulations and tests want other sizes.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Size in bytes from which a segment is closed and folded.
    pub segment_max: u64,
    /// Fold in a thread. Without it the append that fills a segment folds it, so that a run can be repeated exactly.
    pub background: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning { segment_max: limits::SEGMENT_MAX, background: true }
    }
}

/// An open journal. Dropped without [`close`](Journal::close) it is as after `kill -9`, which loses nothing.
pub struct Journal {
    disk: Arc<dyn Disk>,
    tuning: Tuning,
    meta: Meta,
    fences: Fences,
    writer: Writer,
    /// The segment after the present one, made ahead so that no append waits for its making.
    spare: Option<Writer>,
    spare_asked: bool,
    folding: Folding,
    /// Number of the next record.
    next: u64,
    unsynced: Arc<Mutex<Unsynced>>,
    failed: Option<String>,
}

/// The segments that may hold something not yet durable, oldest first, and how far the log is known to be durable.
struct Unsynced {
    files: Vec<Arc<dyn DiskFile>>,
    synced: u64,
    failed: Option<String>,
}

impl Journal {
    /// Opens the journal of a home, or makes one if there has never been one.
    ///
    /// `boot_id` is the system's; `new_instance` is a random number and `floor` unix time in seconds << 20: both are
    /// used only where neither the fences file nor a journal says where to go on.
    ///
    /// # Errors
    /// The journal cannot be read for certain, or the home cannot be written. Nothing was changed then that a later
    /// attempt could miss.
    pub fn open(
        disk: Arc<dyn Disk>,
        boot_id: u128,
        new_instance: u64,
        floor: u64,
    ) -> Result<(Journal, Loaded), JournalError> {
        Self::open_tuned(disk, boot_id, new_instance, floor, Tuning::default())
    }

    /// [`open`](Journal::open) with another size of segments or without a thread.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_tuned(
        disk: Arc<dyn Disk>,
        boot_id: u128,
        new_instance: u64,
        floor: u64,
        tuning: Tuning,
    ) -> Result<(Journal, Loaded), JournalError> {
        assert!(floor < limits::FENCE_END, "the wall clock is tens of centuries ahead");
        let known = Fences::read(&*disk)?;
        let names = names(&*disk)?;
        for left in names.iter().filter(|name| name.starts_with(disk::UNFINISHED)) {
            disk.remove(left).map_err(|error| JournalError::io(format!("remove {}", path(&*disk, left)), error))?;
        }
        let fresh = !names.contains(store::NAME);
        if fresh {
            let start =
                known.unwrap_or(Fences { instance: new_instance, fences: floor, events: floor, journal: false });
            // Numbers that another journal of this home has given out are not known here.
            let lost_below = if known.is_some() { start.events } else { 0 };
            create(&*disk, start, boot_id, lost_below)?;
        }
        Store::renew_if_suspect(&*disk)?;
        let (store, stored) = Store::open(&disk)?;
        if known.is_some_and(|known| known.instance != stored.instance) {
            let found = format!("it is of another home than {}", path(&*disk, fences::NAME));
            return Err(JournalError::Foreign { file: path(&*disk, store::NAME), found });
        }
        // A kill takes nothing that was written, only the power does. What says that it was closed goes now.
        let is_whole = fresh || stored.closed || stored.boot_id == boot_id;
        let mut folder = Folder { disk: disk.clone(), store, meta: stored };
        let (replay, writer) = folder.take_over(is_whole, known.map_or(0, |known| known.events))?;
        let content = folder.store.load()?;
        let fences = go_on_from(&*disk, known, &folder.meta, &content)?;
        let loaded = Loaded {
            records: content.rows,
            events: content.events,
            fences_from: fences.fences,
            events_from: fences.events,
            instance: stored.instance,
            rebooted: stored.boot_id != boot_id,
            fresh,
            lost_below: folder.meta.lost_below,
            cut: replay.cut,
        };
        let journal = Journal {
            tuning,
            meta: Meta { boot_id, ..folder.meta },
            fences,
            unsynced: Arc::new(Mutex::new(Unsynced {
                files: vec![writer.file.clone()],
                synced: replay.through,
                failed: None,
            })),
            writer,
            spare: None,
            spare_asked: false,
            folding: start_folding(folder, tuning)?,
            next: replay.through + 1,
            failed: None,
            disk,
        };
        Ok((journal, loaded))
    }

    /// Appends one batch with one write, all or nothing, and returns the number of its last record. The batch outlives
    /// the process, not yet a power cut.
    ///
    /// A batch with a [`Record::Reserve`] is durable when this returns, and so is the fences file: the numbers may be
    /// given out at once.
    ///
    /// # Errors
    /// The batch is not in the journal, as far as that can be known, and the caller undoes it. After every error but a
    /// record that is too large, nothing more is taken until [`rewrite`](Journal::rewrite) has succeeded.
    pub fn append(&mut self, records: &[Record]) -> Result<u64, JournalError> {
        self.check_running()?;
        if records.is_empty() {
            return Ok(self.next - 1);
        }
        let synced = lock(&self.unsynced).synced;
        let batch = log::batch(records, self.next, synced).map_err(too_large)?;
        let appended = self.append_batch(&batch, records);
        // Also after a failure: the batch may be there in spite of it, and a number names one record for ever.
        self.next += records.len() as u64;
        self.latch(appended)?;
        Ok(self.next - 1)
    }

    fn append_batch(&mut self, batch: &[u8], records: &[Record]) -> Result<(), JournalError> {
        self.check_in_place()?;
        self.turn_over()?;
        let reserves = self.reserve(records)?;
        let file = log::name(self.writer.number);
        self.writer
            .append(batch)
            .map_err(|error| JournalError::io(format!("write {}", path(&*self.disk, &file)), error))?;
        if reserves { self.sync_all(self.next + records.len() as u64 - 1) } else { Ok(()) }
    }

    /// Makes everything appended so far durable.
    ///
    /// # Errors
    /// It may not be durable; as after a failed [`append`](Journal::append), only a rewrite helps.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        self.check_running()?;
        let synced = self.sync_all(self.next - 1);
        self.latch(synced)
    }

    /// Number of the last record appended.
    pub fn appended(&self) -> u64 {
        self.next - 1
    }

    /// Number of the last record known to be durable.
    pub fn synced(&self) -> u64 {
        lock(&self.unsynced).synced
    }

    /// A handle with which another thread syncs while this one goes on appending.
    pub fn syncer(&self) -> Syncer {
        Syncer { disk: self.disk.clone(), unsynced: self.unsynced.clone() }
    }

    /// Takes note that all records up to `through` are durable, as a [`Syncer`] has found. Later batches carry this as
    /// the proof by which damage is told from a torn tail, so it must be true.
    pub fn note_synced(&mut self, through: u64) {
        assert!(through < self.next, "record {through} cannot be durable before it is appended");
        let mut unsynced = lock(&self.unsynced);
        unsynced.synced = unsynced.synced.max(through);
    }

    /// Puts a whole new state, durably and in one step, in the place of store and log, and goes on from there. This is
    /// how the journal comes back after a failure, and how the state of a new boot takes the place of the old one's.
    ///
    /// Both are made anew: after a failed sync the system shows content that is not on the disk, so an old file is not
    /// built upon.
    ///
    /// `rows` are all rows there are, and a [`Record::Reserve`] if more numbers are needed. Of the events, those that
    /// were folded are kept and those in `rows` added; what was only in the log is a gap.
    ///
    /// # Errors
    /// The old state is still there, or already the new one; nothing is taken until a later rewrite succeeds.
    pub fn rewrite(&mut self, rows: &[Record]) -> Result<(), JournalError> {
        let rewritten = self.try_rewrite(rows);
        if let Err(error) = &rewritten {
            self.failed.get_or_insert_with(|| error.to_string());
        }
        rewritten
    }

    fn try_rewrite(&mut self, rows: &[Record]) -> Result<(), JournalError> {
        self.check_in_place()?;
        drop(self.folding.stop());
        (self.spare, self.spare_asked) = (None, false);
        let mut records = self.kept_events()?;
        records.extend_from_slice(rows);
        self.reserve(rows)?;
        let number = segments(&*self.disk)?.last().map_or(1, |last| last + 1);
        let writer = Writer::create(&*self.disk, number, self.meta.instance)?;
        let meta = Meta {
            folded: self.next - 1,
            active: number,
            fences: self.fences.fences,
            events: self.fences.events,
            closed: false,
            ..self.meta
        };
        Store::create(&*self.disk, &meta, &records)?;
        *lock(&self.unsynced) = Unsynced { files: vec![writer.file.clone()], synced: self.next - 1, failed: None };
        (self.writer, self.meta) = (writer, meta);
        fold::remove_segments_before(&*self.disk, number);
        let (store, meta) = Store::open(&self.disk)?;
        self.folding = start_folding(Folder { disk: self.disk.clone(), store, meta }, self.tuning)?;
        self.failed = None;
        Ok(())
    }

    /// The events in the old store, as far as it can still be read; for them alone the rewrite must not fail.
    fn kept_events(&self) -> Result<Vec<Record>, JournalError> {
        // Without a change to it: until the new store is in its place, this is what a power cut leaves.
        let Ok((meta, content)) = Store::read(&*self.disk) else { return Ok(Vec::new()) };
        if meta.instance != self.meta.instance {
            return Err(JournalError::Tampered { file: path(&*self.disk, store::NAME) });
        }
        Ok(content.events.into_iter().map(Record::Event).collect())
    }

    /// Folds everything into the store and leaves an empty log.
    ///
    /// # Errors
    /// Everything appended is still in the log, unless the journal had failed before.
    pub fn close(mut self) -> Result<(), JournalError> {
        self.check_running()?;
        let mut folder = self.folding.stop()?;
        let (replay, _) = folder.fold_all(true)?;
        folder.check_complete(&replay, self.next - 1)?;
        folder.store.close()
    }

    /// Ends without a further change: the home is somebody else's by now. Dropping alone would not do, since the store
    /// tidies its file up then.
    pub fn abandon(self) {
        self.disk.give_up();
    }

    /// Moves store and log out of the way, into `aside-<unix seconds>` within the home, whose name is returned. The
    /// fences file stays, so that the next journal goes on with its numbers; one that cannot be read is moved too.
    ///
    /// # Errors
    /// Something could not be moved. Calling it again moves the rest.
    pub fn set_aside(disk: &dyn Disk, unix_seconds: u64) -> Result<String, JournalError> {
        let names = names(disk)?;
        let known = match Fences::read(disk) {
            Err(error @ (JournalError::Io { .. } | JournalError::Denied { .. })) => return Err(error),
            read => read,
        };
        let ours = |name: &str| {
            [store::NAME, store::UNFINISHED, store::SUSPECT].contains(&name) || log::segment(name).is_some()
        };
        let mut remains: Vec<String> = names.iter().filter(|name| ours(name)).cloned().collect();
        if known.is_err() {
            remains.push(fences::NAME.into());
        }
        let into = (1..)
            .map(|n| if n == 1 { format!("aside-{unix_seconds}") } else { format!("aside-{unix_seconds}-{n}") })
            .find(|name| !names.contains(name))
            .expect("a directory has fewer names than there are numbers");
        disk.set_aside(&remains, &into)
            .map_err(|error| JournalError::io(format!("set the journal of {} aside", disk.home()), error))?;
        if let Ok(Some(known)) = known {
            Fences { journal: false, ..known }.write(disk)?;
        }
        Ok(into)
    }

    fn check_running(&mut self) -> Result<(), JournalError> {
        if self.failed.is_none() {
            self.failed = lock(&self.unsynced).failed.clone();
        }
        if let Some(reason) = &self.failed {
            return Err(JournalError::Failed { reason: reason.clone() });
        }
        match self.folding.poll() {
            Ok(spare) => {
                self.spare = spare.or(self.spare.take());
                Ok(())
            }
            Err(error) => self.latch(Err(error)),
        }
    }

    fn check_in_place(&self) -> Result<(), JournalError> {
        let file = path(&*self.disk, &log::name(self.writer.number));
        match self.writer.file.in_place() {
            Ok(true) => Ok(()),
            Ok(false) => Err(JournalError::Tampered { file }),
            Err(error) => Err(JournalError::io(format!("look at {file}"), error)),
        }
    }

    /// Goes on in the next segment when this one is full. What is not ready for that yet is awaited by nobody: the
    /// segment just grows.
    fn turn_over(&mut self) -> Result<(), JournalError> {
        if self.writer.tail >= self.tuning.segment_max / 2 && !self.spare_asked && self.folding.has_room() {
            self.spare = self.folding.give(Job::Prepare(self.writer.number + 1))?;
            self.spare_asked = true;
        }
        if self.writer.tail < self.tuning.segment_max || !self.folding.has_room() {
            return Ok(());
        }
        let Some(spare) = self.spare.take() else { return Ok(()) };
        assert_eq!(spare.number, self.writer.number + 1, "segments follow one another");
        let full = std::mem::replace(&mut self.writer, spare);
        self.spare_asked = false;
        lock(&self.unsynced).files.push(self.writer.file.clone());
        self.folding.give(Job::Fold { segment: full.number, through: self.next - 1 })?;
        Ok(())
    }

    /// Raises the marks in the fences file to those of the records, and tells whether there are any.
    fn reserve(&mut self, records: &[Record]) -> Result<bool, JournalError> {
        let mut raised = self.fences;
        let mut reserves = false;
        for record in records {
            if let &Record::Reserve { fences, events } = record {
                raised.fences = raised.fences.max(fences);
                raised.events = raised.events.max(events);
                reserves = true;
            }
        }
        if raised != self.fences {
            raised.write(&*self.disk)?;
            self.fences = raised;
        }
        Ok(reserves)
    }

    fn sync_all(&mut self, through: u64) -> Result<(), JournalError> {
        self.syncer().sync(through)?;
        let mut unsynced = lock(&self.unsynced);
        unsynced.synced = unsynced.synced.max(through);
        Ok(())
    }

    fn latch<T>(&mut self, result: Result<T, JournalError>) -> Result<T, JournalError> {
        if let Err(error) = &result {
            self.failed = Some(error.to_string());
        }
        result
    }
}

impl Drop for Journal {
    /// Waits for the fold thread, so that nobody folds into a home that somebody else has opened meanwhile.
    fn drop(&mut self) {
        drop(self.folding.stop());
    }
}

/// Syncs the log from another thread.
#[derive(Clone)]
pub struct Syncer {
    disk: Arc<dyn Disk>,
    unsynced: Arc<Mutex<Unsynced>>,
}

impl Syncer {
    /// Makes all records up to `through`, which must have been appended, durable; others may become so too. Tell
    /// [`Journal::note_synced`] afterwards.
    ///
    /// # Errors
    /// They may not be durable, and never will be by trying again: the system forgets what it could not write. The
    /// journal takes nothing more until it is rewritten.
    pub fn sync(&self, through: u64) -> Result<(), JournalError> {
        let files = {
            let unsynced = lock(&self.unsynced);
            if let Some(reason) = &unsynced.failed {
                return Err(JournalError::Failed { reason: reason.clone() });
            }
            if through <= unsynced.synced {
                return Ok(());
            }
            unsynced.files.clone()
        };
        // In order, so that no power cut keeps a record and loses an earlier one that was called durable before it.
        for file in &files {
            file.sync().map_err(|error| self.failed(file, error))?;
        }
        // The segments before the last one are closed for good. After a rewrite meanwhile the list is another one.
        let done = &files[..files.len() - 1];
        lock(&self.unsynced).files.retain(|file| !done.iter().any(|done| Arc::ptr_eq(file, done)));
        Ok(())
    }

    fn failed(&self, file: &Arc<dyn DiskFile>, error: io::Error) -> JournalError {
        let error = JournalError::io(format!("sync the log in {}", self.disk.home()), error);
        let mut unsynced = lock(&self.unsynced);
        if unsynced.files.iter().any(|unsynced| Arc::ptr_eq(unsynced, file)) {
            unsynced.failed = Some(error.to_string());
        }
        error
    }
}

fn lock(unsynced: &Mutex<Unsynced>) -> MutexGuard<'_, Unsynced> {
    // Nothing that can panic runs under this lock, so a poisoned one is whole.
    unsynced.lock().unwrap_or_else(PoisonError::into_inner)
}

fn start_folding(folder: Folder, tuning: Tuning) -> Result<Folding, JournalError> {
    if tuning.background { Folding::start(folder) } else { Ok(Folding::Caller(Box::new(folder))) }
}

/// Makes a new journal where there is none: first segment, then store. The fences file follows when the journal is
/// open, so that a crash in between looks like a journal without marks, which is readable, not like a lost journal.
/// `lost_below` as in [`Loaded`].
fn create(disk: &dyn Disk, start: Fences, boot_id: u128, lost_below: u64) -> Result<(), JournalError> {
    let missing = |beside| Err(JournalError::Missing { file: path(disk, store::NAME), beside });
    if start.journal {
        return missing(format!("{} says that there was a journal", path(disk, fences::NAME)));
    }
    let left = segments(disk)?;
    for &segment in &left {
        // An empty segment without a store is what a crash leaves right here.
        if !log::holds_nothing(disk, segment)? {
            return missing(format!("{} belongs to it", path(disk, &log::name(segment))));
        }
    }
    let active = left.last().map_or(1, |last| last + 1);
    Writer::create(disk, active, start.instance)?;
    let (fences, events) = (start.fences, start.events);
    Store::create(
        disk,
        &Meta { instance: start.instance, boot_id, folded: 0, active, fences, events, closed: false, lost_below },
        &[],
    )
}

/// The marks to go on from, above everything that may have been given out, written to the fences file.
fn go_on_from(disk: &dyn Disk, known: Option<Fences>, meta: &Meta, content: &Content) -> Result<Fences, JournalError> {
    let mut marks = Fences { instance: meta.instance, fences: meta.fences, events: meta.events, journal: true };
    if let Some(known) = known.filter(|_| !planted(Bug::FencesFileIgnored)) {
        marks.fences = marks.fences.max(known.fences);
        marks.events = marks.events.max(known.events);
    }
    for row in &content.rows {
        let used = match row {
            Record::Lock(id, Some(lock)) => id.0.max(lock.fence.0),
            Record::Ended(id, Some(ended)) => id.0.max(ended.fence.0),
            _ => continue,
        };
        marks.fences = marks.fences.max(used.saturating_add(1));
    }
    for event in &content.events {
        marks.fences = marks.fences.max(event.fence.0.max(event.lock.0).saturating_add(1));
        marks.events = marks.events.max(event.seq.0.saturating_add(1));
    }
    if marks.fences > limits::FENCE_END || marks.events > limits::FENCE_END {
        return Err(JournalError::damaged(path(disk, store::NAME), "its numbers have run out"));
    }
    if known != Some(marks) {
        marks.write(disk)?;
    }
    Ok(marks)
}

fn names(disk: &dyn Disk) -> Result<HashSet<String>, JournalError> {
    let names = disk.list().map_err(|error| JournalError::io(format!("list {}", disk.home()), error))?;
    Ok(names.into_iter().collect())
}

/// The numbers of all segments there are, ascending.
fn segments(disk: &dyn Disk) -> Result<Vec<u64>, JournalError> {
    let mut segments: Vec<u64> = names(disk)?.iter().filter_map(|name| log::segment(name)).collect();
    segments.sort_unstable();
    Ok(segments)
}

fn path(disk: &dyn Disk, name: &str) -> String {
    format!("{}/{name}", disk.home())
}

/// Says whose bytes are at fault.
fn refuse(file: &str, fault: Fault, foreign: &str) -> JournalError {
    match fault {
        Fault::Future(version) => JournalError::Future { file: file.into(), version },
        Fault::Past(version) => JournalError::Past { file: file.into(), version },
        Fault::Damaged(found) => JournalError::damaged(file, found),
        Fault::Foreign => JournalError::Foreign { file: file.into(), found: foreign.into() },
    }
}

fn too_large(found: String) -> JournalError {
    JournalError::io("store a change", io::Error::new(io::ErrorKind::InvalidInput, found))
}
