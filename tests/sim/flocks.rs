//! The flocks of the simulated machine: ours as the daemon takes them, one on each file and shared by all our locks
//! there, and those of programs that know nothing of us, which come and go.
//!
//! A file system may be slow, may hang, and may refuse. The kernel's rule is kept here, so a foreign program gets no
//! file that ours have.

use crate::log::counters;
use crate::mem_disk::Random;
use flockd::coordinator::{Order, OsLocks};
use flockd::limits;
use flockd::model::*;
use flockd::scope::{FileId, Target};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

/// How a file system answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Temper {
    /// At once, out of memory.
    #[default]
    Quick,
    /// After so many milliseconds at most.
    Slow(u64),
    /// Not at all.
    Hangs,
}

counters! {
    /// What the daemon was answered.
    FlockCounts {
        flocks_held,
        flocks_busy,
        flocks_refused,
        flocks_late,
        flocks_hung,
        flocks_passed_on,
        files_written,
        writes_refused,
        writes_called_off,
        writes_late,
        flocks_upgraded,
    }
}

/// The machine, as the daemon, the programs on it and the auditor see it.
#[derive(Clone, Default)]
pub struct Machine(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    files: BTreeMap<FileId, File>,
    of_lock: BTreeMap<LockId, FileId>,
    opening: BTreeMap<LockId, Opening>,
    /// Locks that were told that there is no flock for them.
    unable: BTreeSet<LockId>,
    temper: Temper,
    is_at_rest: bool,
    /// Locks under which a write was begun that had no answer, perhaps because the daemon was killed.
    unanswered: BTreeSet<LockId>,
    /// Files on their way into place.
    writes: Vec<Write>,
    /// What was put in place and under which lock, for the auditor.
    renamed: Vec<(LockId, Target)>,
    random: Random,
    counts: FlockCounts,
}

struct Write {
    order: Order,
    /// When the file system answers; none if it never does.
    ready: Option<Moment>,
    /// When its client is told that it does not; none once it was.
    until: Option<Moment>,
    /// Nothing can call it back any more.
    is_begun: bool,
}

#[derive(Default)]
struct File {
    /// What our one descriptor has.
    ours: Option<Mode>,
    users: BTreeMap<LockId, Mode>,
    foreign: BTreeMap<u32, Mode>,
    /// It may not be opened.
    is_denied: bool,
}

struct Opening {
    file: FileId,
    mode: Mode,
    /// When the file system answers; none if it never does.
    ready: Option<Moment>,
    /// Until when that is waited for.
    until: Moment,
}

impl Machine {
    pub fn new(seed: u64) -> Machine {
        Machine(Arc::new(Mutex::new(State { random: Random(seed), ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no seed goes on after a panic")
    }

    /// What the daemon is given; its flocks end when it does.
    pub fn for_daemon(&self) -> Box<dyn OsLocks> {
        Box::new(Ours(self.clone()))
    }

    pub fn counts(&self) -> FlockCounts {
        self.state().counts
    }

    pub fn set_temper(&self, temper: Temper) {
        self.state().temper = temper;
    }

    /// From now on this file may be opened by the daemon's user, or not.
    pub fn allow(&self, file: FileId, is_allowed: bool) {
        self.state().files.entry(file).or_default().is_denied = !is_allowed;
    }

    /// A foreign program tries to flock a file.
    pub fn foreign_comes(&self, file: FileId, mode: Mode, pid: u32) -> bool {
        let mut state = self.state();
        let file = state.files.entry(file).or_default();
        let is_free = !file.ours.is_some_and(|ours| ours.excludes(mode)) && !file.is_foreign_against(mode);
        if is_free {
            file.foreign.insert(pid, mode);
        }
        is_free
    }

    /// A foreign program lets go of all it has.
    pub fn foreign_goes(&self, pid: u32) {
        for file in self.state().files.values_mut() {
            file.foreign.remove(&pid);
        }
    }

    /// The processes that have flocks besides ours.
    pub fn foreigners(&self) -> BTreeSet<u32> {
        self.state().files.values().flat_map(|file| file.foreign.keys().copied()).collect()
    }

    /// Nothing is in the way any more: no foreigner, no slow file system, no missing right.
    pub fn comes_to_rest(&self, now: Moment) {
        let mut state = self.state();
        (state.temper, state.is_at_rest) = (Temper::Quick, true);
        state.opening.values_mut().for_each(|opening| opening.ready = Some(now));
        state.writes.iter_mut().for_each(|write| write.ready = Some(now));
        for file in state.files.values_mut() {
            file.foreign.clear();
            file.is_denied = false;
        }
    }

    /// Whether a file thread has answered, or is waited for no longer: a turn takes that up.
    pub fn has_answered(&self, now: Moment) -> bool {
        let is_over = |opening: &Opening| opening.ready.unwrap_or(opening.until).min(opening.until) <= now;
        let state = self.state();
        let is_done = |write: &Write| [write.ready, write.until].into_iter().flatten().any(|due| due <= now);
        state.opening.values().any(is_over) || state.writes.iter().any(is_done)
    }

    // ── For the auditor ─────────────────────────────────────────────────────────────────────────────────────────────

    /// The locks that have a flock, with the file and how.
    pub fn users(&self) -> BTreeMap<LockId, (FileId, Mode)> {
        let state = self.state();
        let of_file = |(id, file): (&FileId, &File)| {
            let (id, mode) = (*id, file.ours);
            let entry = move |lock: &LockId| (*lock, (id, mode.expect("who uses a flock has one")));
            file.users.keys().map(entry).collect::<Vec<_>>()
        };
        state.files.iter().flat_map(of_file).collect()
    }

    /// What was put in place since this was last asked, and under which lock.
    pub fn renamed(&self) -> Vec<(LockId, Target)> {
        std::mem::take(&mut self.state().renamed)
    }

    /// All of them.
    pub fn writing(&self) -> BTreeSet<LockId> {
        self.state().unanswered.clone()
    }

    /// Whether a write was begun under this lock that had no answer.
    pub fn is_writing(&self, lock: LockId) -> bool {
        self.state().unanswered.contains(&lock)
    }

    /// The locks for which a file is being opened.
    pub fn opening(&self) -> BTreeSet<LockId> {
        self.state().opening.keys().copied().collect()
    }

    /// Whether this lock was told that there is no flock for it: under its own name, or one that it was upgraded under.
    pub fn refused(&self, lock: &Lock) -> bool {
        self.state().unable.range(lock.id..LockId(lock.fence.0)).next().is_some()
            || self.state().unable.contains(&lock.id)
    }

    /// Whether a program has a flock on this file that keeps this mode out.
    pub fn is_foreign_against(&self, file: FileId, mode: Mode, pid: u32) -> bool {
        let state = self.state();
        let theirs = state.files.get(&file).and_then(|file| file.foreign.get(&pid));
        theirs.is_some_and(|theirs| theirs.excludes(mode))
    }
}

impl File {
    fn is_foreign_against(&self, mode: Mode) -> bool {
        self.foreign.values().any(|theirs| theirs.excludes(mode))
    }
}

fn strongest(users: &BTreeMap<LockId, Mode>) -> Option<Mode> {
    users.values().copied().reduce(|a, b| if a.is_weaker_than(b) { b } else { a })
}

impl State {
    /// The descriptor is there, or can be had: the flock itself never waits.
    fn flock(&mut self, lock: LockId, id: FileId, mode: Mode, now: Wall) -> OsAnswer {
        let file = self.files.entry(id).or_default();
        let is_enough = file.ours.is_some_and(|ours| ours.answers(mode));
        if file.is_denied && file.ours.is_none() {
            self.unable.insert(lock);
            self.counts.flocks_refused += 1;
            return OsAnswer::Unable;
        }
        let in_the_way = file.foreign.iter().find(|(_, theirs)| theirs.excludes(mode));
        if let Some((pid, theirs)) = in_the_way.filter(|_| !is_enough) {
            self.counts.flocks_busy += 1;
            return OsAnswer::Busy(Foreigner { pid: Some(*pid), command: None, mode: *theirs, seen: now });
        }
        self.counts.flocks_passed_on += u64::from(file.ours.is_some());
        self.counts.flocks_held += 1;
        file.ours = file.ours.filter(|ours| ours.answers(mode)).or(Some(mode));
        file.users.insert(lock, mode);
        self.of_lock.insert(lock, id);
        OsAnswer::Held
    }

    fn release(&mut self, lock: LockId) {
        self.opening.remove(&lock);
        let Some(id) = self.of_lock.remove(&lock) else { return };
        let file = self.files.get_mut(&id).expect("both maps have it");
        file.users.remove(&lock);
        file.ours = strongest(&file.users);
    }

    /// A write has its answer.
    fn written(&mut self, at: usize) -> Order {
        let Write { order, .. } = self.writes.remove(at);
        if self.writes.iter().all(|write| write.order.lock != order.lock) {
            self.unanswered.remove(&order.lock);
        }
        order
    }

    fn give_to_thread(&mut self, lock: LockId, file: FileId, mode: Mode, now: Moment) {
        let ready = match self.temper {
            Temper::Hangs => None,
            // What is answered within the moment is not slow, and would be taken up in the turn that asked.
            Temper::Slow(most) => Some(now.after(1 + self.random.below(most))),
            Temper::Quick => unreachable!("what is quick needs no thread"),
        };
        self.opening.insert(lock, Opening { file, mode, ready, until: now.after(limits::FILE_WITHIN) });
    }
}

/// The daemon's hold on the machine.
struct Ours(Machine);

impl Drop for Ours {
    /// The process ends: the kernel closes its descriptors.
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.opening.clear();
        state.writes.clear();
        state.of_lock.clear();
        for file in state.files.values_mut() {
            file.users.clear();
            file.ours = None;
        }
    }
}

impl OsLocks for Ours {
    fn want(&mut self, lock: LockId, target: &Target, mode: Mode, now: Now) -> Option<OsAnswer> {
        let mut state = self.0.state();
        let id = target.own_id().expect("only what has an identity is to be flocked");
        assert!(!state.of_lock.contains_key(&lock) && !state.opening.contains_key(&lock), "{lock} asks for it twice");
        let is_open = state.files.get(&id).is_some_and(|file| file.ours.is_some());
        if is_open || state.temper == Temper::Quick {
            return Some(state.flock(lock, id, mode, now.wall));
        }
        state.give_to_thread(lock, id, mode, now.mono);
        None
    }

    fn release(&mut self, lock: LockId) {
        self.0.state().release(lock);
    }

    fn pass(&mut self, from: LockId, to: LockId) {
        let mut state = self.0.state();
        state.opening.remove(&to);
        let id = state.of_lock.remove(&from).expect("only a flock that is held is passed on");
        if state.of_lock.get(&to) != Some(&id) {
            state.release(to);
        }
        let users = &mut state.files.get_mut(&id).expect("both maps have it").users;
        let mode = users.remove(&from).expect("both maps have it");
        users.insert(to, mode);
        state.of_lock.insert(to, id);
        state.counts.flocks_upgraded += 1;
    }

    fn share(&mut self, lock: LockId) {
        let mut state = self.0.state();
        let Some(id) = state.of_lock.get(&lock).copied() else { return };
        let file = state.files.get_mut(&id).expect("both maps have it");
        file.users.insert(lock, Mode::Shared);
        file.ours = strongest(&file.users);
    }

    fn finished(&mut self, now: Now) -> Option<(LockId, OsAnswer)> {
        let mut state = self.0.state();
        let is_ready = |opening: &Opening| opening.ready.is_some_and(|ready| ready <= now.mono);
        let ready = state.opening.iter().find(|(_, opening)| is_ready(opening)).map(|(lock, _)| *lock);
        if let Some(lock) = ready {
            let Opening { file, mode, .. } = state.opening.remove(&lock).expect("it was found just now");
            state.counts.flocks_late += 1;
            return Some((lock, state.flock(lock, file, mode, now.wall)));
        }
        let hung = state.opening.iter().find(|(_, opening)| opening.until <= now.mono).map(|(lock, _)| *lock)?;
        state.opening.remove(&hung);
        state.unable.insert(hung);
        state.counts.flocks_hung += 1;
        Some((hung, OsAnswer::Unable))
    }

    fn commit(&mut self, order: Order, now: Now) {
        let mut state = self.0.state();
        let hangs = state.random.chance(35) && !state.is_at_rest;
        let ready = match state.temper {
            _ if hangs => None,
            Temper::Quick => Some(now.mono),
            Temper::Slow(most) => Some(now.mono.after(1 + state.random.below(most))),
            Temper::Hangs => None,
        };
        let is_begun = state.random.chance(50);
        let until = Some(now.mono.after(limits::COMMIT_WITHIN));
        state.unanswered.insert(order.lock);
        state.writes.push(Write { order, ready, until, is_begun });
    }

    fn committed(&mut self, now: Now) -> Option<(CommitId, LockId, CommitAnswer)> {
        let mut state = self.0.state();
        if let Some(at) = state.writes.iter().position(|write| write.ready.is_some_and(|ready| ready <= now.mono)) {
            let order = state.written(at);
            let placed = Placed { bytes: 5, file: None, flocked: false, again: false };
            let answer = match state.random.below(5) {
                0 => CommitAnswer::Refused(Fault::Changed(None)),
                1 => CommitAnswer::NotDurable(placed, "the disk has failed".to_owned()),
                _ => CommitAnswer::InPlace(placed),
            };
            match &answer {
                CommitAnswer::Refused(_) => state.counts.writes_refused += 1,
                // Now it is in place for everybody to see.
                _ => {
                    state.counts.files_written += 1;
                    state.renamed.push((order.lock, order.target));
                }
            }
            return Some((order.commit, order.lock, answer));
        }
        let at = state.writes.iter().position(|write| write.until.is_some_and(|until| until <= now.mono))?;
        if state.writes[at].is_begun {
            state.writes[at].until = None;
            state.counts.writes_late += 1;
            let Order { commit, lock, .. } = state.writes[at].order;
            return Some((commit, lock, CommitAnswer::Late));
        }
        let order = state.written(at);
        state.counts.writes_called_off += 1;
        let fault = Fault::Unavailable("the file system does not answer".to_owned());
        Some((order.commit, order.lock, CommitAnswer::Refused(fault)))
    }

    fn next_deadline(&self) -> Option<Moment> {
        let state = self.0.state();
        let writes = state.writes.iter().filter_map(|write| write.until);
        state.opening.values().map(|opening| opening.until).chain(writes).min()
    }
}
