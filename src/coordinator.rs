//! The only owner of state: commands in, apply, one append, answers out.
//!
//! [`Coordinator::turn`] is the whole behaviour given commands and a time. It starts no thread and reads no clock, so
//! the daemon's loop and a simulator drive the same code.
//!
//! Nothing is answered before it is written; what must outlive a power cut not before it is synced. While the disk
//! syncs quickly that happens within the turn, which saves two hand-overs between threads. Once a sync was slow they
//! go to a thread of their own: answers that need one are held back, all others go out, and nobody waits who need not.
//! Events are told in order, so that all wait behind one that tells of something held back.
//!
//! Statistics are counted of what was written, or of what goes on in memory while nothing can be.

use crate::events::Bus;
use crate::journal::{Journal, JournalError, Loaded, Syncer};
use crate::limits;
use crate::model::*;
use crate::planted::{Bug, planted};
use crate::scope::Target;
use crate::stats::{Fact, Stats, facts};
use crate::table::{LockTable, Outgoing, Step};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

/// A sync at least this long, in microseconds, moves syncing to its thread; a shorter one moves it back.
const SLOW_SYNC: u64 = 2_000;

/// An answer on its way out.
pub type Addressed = (Caller, Answer);

/// Asks for monotonic microseconds while a turn lasts; a simulator's stands still.
pub type Stopwatch = Box<dyn Fn() -> u64 + Send>;

/// Wakes whoever runs the turns: a sync is done, see [`Coordinator::sync_done`].
pub type Wake = Box<dyn Fn() + Send>;

/// Says why the home is not ours any more, if it is not: asked before each append, and before the end.
pub type HomeGuard = Box<dyn Fn() -> Result<(), JournalError> + Send>;

/// A file to be put in place: what [`Effect::Commit`] asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Its name.
    pub commit: CommitId,
    /// Under which lock.
    pub lock: LockId,
    /// Where.
    pub target: Target,
    /// Whether the new file is to be flocked for the lock before it is in place.
    pub flock: bool,
    /// What.
    pub prepared: Arc<Prepared>,
}

/// The flocks on workspace files, and the writes to them, as the coordinator sees them.
pub trait OsLocks: Send {
    /// Tries to flock a file for a lock; none if that may take a while: the answer comes by [`OsLocks::finished`].
    fn want(&mut self, lock: LockId, target: &Target, mode: Mode, now: Now) -> Option<OsAnswer>;
    /// A lock does not want its flock any longer.
    fn release(&mut self, lock: LockId);
    /// The flock that was taken for `from` is that of `to` from now on, whose own is not wanted any longer.
    fn pass(&mut self, from: LockId, to: LockId);
    /// A lock wants a shared flock from now on, in the place of an exclusive one.
    fn share(&mut self, lock: LockId);
    /// The next answer that took a while, or that is waited for no longer.
    fn finished(&mut self, now: Now) -> Option<(LockId, OsAnswer)>;
    /// Puts a file in place; the answer comes by [`OsLocks::committed`], never before this returns.
    fn commit(&mut self, order: Order, now: Now);
    /// The next answer to a commit, or that it is late. One that is late is answered once more when it comes.
    fn committed(&mut self, now: Now) -> Option<(CommitId, LockId, CommitAnswer)>;
    /// When an answer is waited for no longer.
    fn next_deadline(&self) -> Option<Moment>;
}

/// What a coordinator is given to touch the world with, little as that is.
pub struct Surroundings {
    /// The flocks on workspace files.
    pub os: Box<dyn OsLocks>,
    /// Measures how long an append or a sync takes.
    pub stopwatch: Stopwatch,
    /// Called by the sync thread.
    pub wake: Wake,
    /// Asked before each append.
    pub guard: HomeGuard,
}

/// The owner of table and journal.
pub struct Coordinator {
    table: LockTable,
    journal: Journal,
    bus: Bus,
    os: Box<dyn OsLocks>,
    guard: HomeGuard,
    stopwatch: Stopwatch,
    stats: Stats,
    syncing: Syncing,
    /// Answers that wait for a sync, oldest first.
    held_back: VecDeque<HeldBack>,
    /// What takes back the rest of sets that could not be announced as held; carried out before the turn is over.
    taken_back: Vec<Command>,
    /// Set while the journal cannot be written.
    trouble: Option<Trouble>,
}

/// An answer that waits for a sync.
struct HeldBack {
    reply: Outgoing,
    /// The record that must be synced.
    through: u64,
    /// What it grants and was released meanwhile over the connection that it goes to: who sent that knows.
    released: Vec<LockId>,
}

/// Steps that are written together, and what they did to flocks.
#[derive(Default)]
struct Batch {
    steps: Vec<Step>,
    /// Asked for, to be let go if the batch cannot be written.
    taken: Vec<LockId>,
    /// What becomes of flocks that are held once the batch is written.
    changes: Vec<Effect>,
    /// To be begun once the batch is written.
    orders: Vec<Order>,
    /// To be counted once the batch is written.
    facts: Vec<Fact>,
}

/// What is kept while the journal cannot be written.
struct Trouble {
    why: String,
    retry_at: Moment,
}

impl Coordinator {
    /// Takes over a loaded journal: its rows become the table, and what the restart changes is written and synced.
    ///
    /// # Errors
    /// As [`Journal::append`]: a home that cannot be written is not served.
    pub fn new(
        mut journal: Journal,
        loaded: Loaded,
        now: Now,
        surroundings: Surroundings,
    ) -> Result<Coordinator, JournalError> {
        let Surroundings { os, stopwatch, wake, guard } = surroundings;
        let Loaded { records, events, fences_from, events_from, rebooted, lost_below, .. } = loaded;
        let mut bus = Bus::new(events, events_from, lost_below);
        let (mut table, mut step) = LockTable::restore(records, now, rebooted, fences_from, events_from);
        bus.chain(&mut step.records);
        if rebooted {
            let mut rows = table.rows();
            rows.extend(step.records.iter().filter(|record| matches!(record, Record::Event(_))).cloned());
            journal.rewrite(&rows)?;
        } else if !step.records.is_empty() {
            journal.append(&step.records)?;
            journal.sync()?;
        }
        bus.written(&step.records, 0);
        let syncing = Syncing::new(journal.syncer(), wake);
        let held_back = VecDeque::new();
        let taken_back = Vec::new();
        let stats = Stats::new(now);
        let trouble = None;
        let mut restored =
            Coordinator { table, journal, bus, os, guard, stopwatch, stats, syncing, held_back, taken_back, trouble };
        let mut batch = Batch::default();
        let answers = restored.carry_out(now, std::mem::take(&mut step.effects), &mut batch);
        let replies = restored.turn(now, answers);
        assert!(replies.is_empty(), "nobody has asked anything yet");
        Ok(restored)
    }

    /// Starts no thread for slow syncs: whoever runs the turns carries them out with [`Coordinator::sync_by_hand`], at
    /// moments of its own choice. For simulations, where a thread would make a run unrepeatable.
    pub fn without_thread(mut self) -> Coordinator {
        assert!(self.syncing.thread.is_none(), "chosen before the first slow sync");
        self.syncing.by_hand = Some(ByHand::default());
        self
    }

    /// Carries out the sync that was asked for, if there is one, as the thread would; `took` are the microseconds that
    /// it counts as. [`Coordinator::sync_done`] takes up what came of it, at once or later.
    pub fn sync_by_hand(&mut self, took: u64) -> bool {
        let hand = self.syncing.by_hand.as_mut().expect("only who chose no thread syncs by hand");
        let Some((syncer, through)) = hand.asked.take() else { return false };
        hand.done = Some(Done { through, took, result: syncer.sync(through) });
        true
    }

    /// Carries out commands in order and answers whoever may be answered now.
    pub fn turn(&mut self, now: Now, mut commands: Vec<Command>) -> Vec<Addressed> {
        let mut out = Vec::new();
        commands.retain(|command| !self.is_handed_on(command));
        self.try_again(now, &mut out);
        while let Some((lock, answer)) = self.os.finished(now) {
            commands.push(Command::Os { lock, answer });
        }
        while let Some((commit, lock, answer)) = self.os.committed(now) {
            commands.push(Command::CommitDone { commit, lock, answer });
        }
        if self.trouble.is_some() {
            self.turn_in_trouble(now, commands, &mut out);
            return out;
        }
        let mut batch = self.decide(now, commands.clone());
        let records = batch.steps.iter_mut().flat_map(|step| std::mem::take(&mut step.records)).collect();
        let wants_sync = batch.steps.iter().flat_map(|step| &step.replies).any(|reply| reply.synced);
        match self.write(records, wants_sync) {
            Ok(written) => {
                self.stats.count(batch.facts);
                let replies = batch.steps.into_iter().flat_map(|step| step.replies);
                self.send(replies, written, &mut out);
                batch.changes.into_iter().for_each(|change| self.change_flock(change));
                batch.orders.into_iter().for_each(|order| self.os.commit(order, now));
            }
            Err(error) => {
                if planted(Bug::FailedBatchCounted) {
                    self.stats.count(batch.facts);
                }
                for step in batch.steps.into_iter().rev().filter(|_| !planted(Bug::FailedBatchKept)) {
                    self.table.undo(step);
                }
                batch.taken.into_iter().for_each(|lock| self.os.release(lock));
                self.stop_granting(now, &error, &mut out);
                self.turn_in_trouble(now, commands, &mut out);
            }
        }
        self.take_back_the_rest(now, &mut out);
        out
    }

    /// Of a set that could not be announced as held nothing is held.
    fn take_back_the_rest(&mut self, now: Now, out: &mut Vec<Addressed>) {
        if !self.taken_back.is_empty() {
            let rest = std::mem::take(&mut self.taken_back);
            out.extend(self.turn(now, rest));
        }
    }

    /// Takes up what the sync thread has done since; to be called when [`Wake`] was.
    pub fn sync_done(&mut self, now: Now) -> Vec<Addressed> {
        let mut out = Vec::new();
        while let Some(done) = self.syncing.finished() {
            match done.result {
                Ok(()) => {
                    self.stats.syncs.add(done.took);
                    self.journal.note_synced(done.through);
                    self.release_held_back(&mut out);
                }
                Err(_) if self.trouble.is_some() => {}
                Err(error) => self.stop_granting(now, &error, &mut out),
            }
        }
        self.ask_for_sync();
        self.take_back_the_rest(now, &mut out);
        out
    }

    /// When [`Coordinator::turn`] has something to do without a command.
    pub fn next_deadline(&self) -> Option<Moment> {
        let retry = self.trouble.as_ref().map(|trouble| trouble.retry_at);
        [self.table.next_deadline(), retry, self.os.next_deadline()].into_iter().flatten().min()
    }

    /// Why grants have stopped, while they have.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_ref().map(|trouble| trouble.why.as_str())
    }

    /// What has happened, as counts and durations.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// What has happened, to tell of.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// The table, to look at.
    pub fn table(&self) -> &LockTable {
        &self.table
    }

    /// Whether nothing is held, waited for or still to be told.
    pub fn is_idle(&self) -> bool {
        self.table.locks() == 0 && self.table.waiters() == 0 && self.table.sessions() == 0 && self.held_back.is_empty()
    }

    /// Ends in order: everything is folded into the store and synced.
    ///
    /// # Errors
    /// As [`Journal::close`]; the log then still holds what the store does not. A home that is not ours any more is
    /// left alone.
    pub fn close(self) -> Result<(), JournalError> {
        self.syncing.stop();
        if let Err(error) = (self.guard)() {
            self.journal.abandon();
            return Err(error);
        }
        self.journal.close()
    }

    /// Applies commands in order, and in between what the system answers at once.
    fn decide(&mut self, now: Now, commands: Vec<Command>) -> Batch {
        let mut batch = Batch { steps: Vec::with_capacity(commands.len()), ..Batch::default() };
        let mut commands = VecDeque::from(commands);
        while let Some(command) = commands.pop_front() {
            let mut step = self.table.apply(now, command);
            let answers = self.carry_out(now, std::mem::take(&mut step.effects), &mut batch);
            batch.facts.extend(facts(now, &step));
            batch.steps.push(step);
            // Before the next command: whoever asked for a lock and then for more has it, or not, by then.
            answers.into_iter().rev().for_each(|answer| commands.push_front(answer));
        }
        batch
    }

    /// Does what the table wants done. Flocks are let go at the end of a turn, so that the next
    /// lock can take them over.
    fn carry_out(&mut self, now: Now, effects: Vec<Effect>, batch: &mut Batch) -> Vec<Command> {
        let mut answers = Vec::new();
        for effect in effects {
            match effect {
                Effect::DropOs { lock } if planted(Bug::FlockGap) => self.os.release(lock),
                Effect::DropOs { .. } | Effect::PassOs { .. } | Effect::ShareOs { .. } => batch.changes.push(effect),
                // Not before the lock that it relies on is written.
                Effect::Commit { commit, lock, target, flock, prepared } => {
                    batch.orders.push(Order { commit, lock, target, flock, prepared });
                }
                Effect::WantOs { lock, target, mode } => {
                    batch.taken.push(lock);
                    let answer = self.os.want(lock, &target, mode, now);
                    answers.extend(answer.map(|answer| Command::Os { lock, answer }));
                }
            }
        }
        answers
    }

    /// Does to a flock that is held what the table wants.
    fn change_flock(&mut self, change: Effect) {
        match change {
            Effect::DropOs { lock } => self.os.release(lock),
            Effect::PassOs { from, to } => self.os.pass(from, to),
            Effect::ShareOs { lock } => self.os.share(lock),
            Effect::WantOs { .. } | Effect::Commit { .. } => unreachable!("these are no changes of a flock"),
        }
    }

    // ── Writing ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Writes a batch and, if something in it must outlive a power cut and the disk is quick, syncs it. Its events are
    /// told from then on, or when it is synced.
    fn write(&mut self, mut records: Vec<Record>, wants_sync: bool) -> Result<Written, JournalError> {
        if records.is_empty() {
            return Ok(Written { through: self.journal.appended(), synced: self.journal.synced() });
        }
        (self.guard)()?;
        self.bus.chain(&mut records);
        let begun = (self.stopwatch)();
        let through = self.journal.append(&records)?;
        self.stats.appends.add((self.stopwatch)().saturating_sub(begun));
        if wants_sync && !self.syncing.is_slow {
            let begun = (self.stopwatch)();
            self.journal.sync()?;
            let took = (self.stopwatch)().saturating_sub(begun);
            self.syncing.took(took);
            self.stats.syncs.add(took);
        }
        let synced = self.journal.synced();
        self.bus.durable(synced);
        self.bus.written(&records, if wants_sync && synced < through { through } else { 0 });
        Ok(Written { through, synced })
    }

    /// Sends what may be sent and holds back what must wait for a sync: promises that outlive a power cut, and any
    /// answer that could name a holder whose own grant is not yet told.
    fn send(&mut self, replies: impl Iterator<Item = Outgoing>, written: Written, out: &mut Vec<Addressed>) {
        let replies: Vec<Outgoing> = replies.collect();
        replies.iter().for_each(|reply| self.note_release(reply));
        // A sync within this turn was one for those who still wait for theirs as well; they were first.
        self.release_held_back(out);
        for mut reply in replies {
            self.leave_out_untold(&mut reply.answer);
            // What is held back of this very turn is known only now.
            self.note_release(&reply);
            let unsynced = written.synced < written.through;
            let names_holders = !self.held_back.is_empty() && names_holders(&reply.answer);
            if unsynced && (reply.synced || names_holders) {
                self.held_back.push_back(HeldBack { reply, through: written.through, released: Vec::new() });
            } else {
                out.push((reply.to, reply.answer));
            }
        }
        self.ask_for_sync();
    }

    /// An advisory grant waits for no disk, not even to name others: whose own grant is not yet told is left out, and
    /// who waits for the agent's other locks it hears with its next answer.
    fn leave_out_untold(&self, answer: &mut Answer) {
        let Reply::Granted(granted) = &mut answer.reply else { return };
        if granted.lock.ask.mode != Mode::Advisory || self.held_back.is_empty() {
            return;
        }
        let is_untold = |id: LockId| {
            let mut grants = self.held_back.iter().flat_map(|held| held.reply.answer.reply.grants());
            grants.any(|granted| granted.lock.id == id)
        };
        granted.beside.retain(|other| !is_untold(other.id));
        answer.wanted.clear();
    }

    /// Whether a grant is to be taken back that an answer held back promises as well: that one is the first to tell of
    /// it from now on, and whoever fails to hear it takes the grant back.
    fn is_handed_on(&mut self, command: &Command) -> bool {
        // A set of which something has ended will not be told of.
        let table = &self.table;
        let is_whole = |held: &HeldBack| {
            let mut grants = held.reply.answer.reply.grants().iter().map(|granted| granted.lock.id);
            grants.all(|id| table.is_held(id) || held.released.contains(&id))
        };
        let held_back = self.held_back.iter_mut().filter(|held| is_whole(held));
        is_told_by(command, held_back.map(|held| &mut held.reply.answer.reply))
    }

    /// A lock and its release may be sent together. Each is answered as it was done, though the first answer comes
    /// last.
    fn note_release(&mut self, reply: &Outgoing) {
        let Reply::Released(locks) = &reply.answer.reply else { return };
        for held in self.held_back.iter_mut().filter(|held| held.reply.to.conn == reply.to.conn) {
            let granted = held.reply.answer.reply.grants().iter().map(|granted| granted.lock.id);
            held.released.extend(granted.filter(|id| locks.iter().any(|lock| lock.id == *id)));
        }
    }

    fn ask_for_sync(&mut self) {
        if let Some(last) = self.held_back.back() {
            self.syncing.ask(last.through);
        }
    }

    fn release_held_back(&mut self, out: &mut Vec<Addressed>) {
        let synced = self.journal.synced();
        self.bus.durable(synced);
        let ready = self.held_back.iter().take_while(|held| held.through <= synced).count();
        let (mut told, mut rest) = (Vec::with_capacity(ready), Vec::new());
        for HeldBack { mut reply, released, .. } in self.held_back.drain(..ready) {
            rest.extend(self.table.bring_up_to_date(&mut reply.answer, &released));
            told.push((reply.to, reply.answer));
        }
        // Unless somebody else is told of it just now.
        rest.retain(|command| !is_told_by(command, told.iter_mut().map(|(_, answer)| &mut answer.reply)));
        self.taken_back.extend(rest);
        out.extend(told);
    }

    // ── Trouble ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// The journal failed: grants stop, and those that were not told yet are taken back.
    fn stop_granting(&mut self, now: Now, error: &JournalError, out: &mut Vec<Addressed>) {
        self.stats.journal_failures += 1;
        let why = format!("the journal cannot be written, so nothing is granted until it can: {error}");
        self.table.pause(why.clone());
        let retry_at = now.mono.after(limits::JOURNAL_RETRY);
        self.trouble = Some(Trouble { why: why.clone(), retry_at });
        self.turn_in_trouble(now, self.untold_grants(), out);
        for HeldBack { reply, .. } in std::mem::take(&mut self.held_back) {
            let fault = Reply::Failed(Fault::Unavailable(why.clone()));
            out.push((reply.to, Answer { reply: fault, ..reply.answer }));
        }
    }

    /// What takes back the webhooks and the grants that are held back, these newest first: whoever took a lock up that
    /// nobody had heard of yet goes with it.
    fn untold_grants(&self) -> Vec<Command> {
        let grants = self.held_back.iter().rev().flat_map(|held| held.reply.answer.reply.grants().iter().rev());
        let grants = grants.filter(|granted| granted.is_new());
        let what = |id: LockId| {
            let done = grants.clone().filter(|granted| granted.lock.id == id).map(|granted| granted.unheard());
            done.fold(Unheard::default(), Unheard::and)
        };
        let take_back =
            |Granted { lock, .. }: &Granted| Command::TakeBack { id: lock.id, fence: lock.fence, what: what(lock.id) };
        // Only one that was added waits for a sync: a list that names it tells of nothing that was promised.
        let webhooks = self.held_back.iter().filter_map(|held| match &held.reply.answer.reply {
            Reply::Webhook(webhook) if held.reply.synced => {
                Some(Command::Webhook(WebhookCommand::TakeBack(webhook.id)))
            }
            _ => None,
        });
        webhooks.chain(grants.clone().map(take_back)).collect()
    }

    /// Releases go on in memory. A crash now would bring a released lock back: held for too long, never twice.
    fn turn_in_trouble(&mut self, now: Now, commands: Vec<Command>, out: &mut Vec<Addressed>) {
        for command in commands {
            let mut step = self.table.apply(now, command);
            for effect in std::mem::take(&mut step.effects) {
                assert!(
                    !matches!(effect, Effect::WantOs { .. } | Effect::Commit { .. }),
                    "nothing is wanted while grants are stopped"
                );
                self.change_flock(effect);
            }
            // State is rewritten from the table, events from the bus.
            self.stats.count(facts(now, &step));
            self.bus.chain(&mut step.records);
            self.bus.written(&step.records, u64::MAX);
            out.extend(step.replies.into_iter().map(|reply| (reply.to, reply.answer)));
        }
    }

    /// Writes everything anew from memory when it is time to; grants go on if that succeeds.
    fn try_again(&mut self, now: Now, out: &mut Vec<Addressed>) {
        let Some(trouble) = self.trouble.as_mut().filter(|trouble| trouble.retry_at <= now.mono) else { return };
        let mut rows = self.table.rows();
        rows.extend(self.bus.events().cloned().map(Record::Event));
        if let Err(error) = (self.guard)().and_then(|()| self.journal.rewrite(&rows)) {
            trouble.retry_at = now.mono.after(limits::JOURNAL_RETRY);
            trouble.why = format!("the journal cannot be written, so nothing is granted until it can: {error}");
            return;
        }
        self.trouble = None;
        self.bus.durable(u64::MAX);
        self.syncing.renew(self.journal.syncer());
        let step = self.table.resume(now);
        self.write_resumed(now, step, out);
    }

    /// Writes and sends what the end of the trouble brings, as a turn does.
    fn write_resumed(&mut self, now: Now, mut step: Step, out: &mut Vec<Addressed>) {
        let mut batch = Batch::default();
        let answers = self.carry_out(now, std::mem::take(&mut step.effects), &mut batch);
        let wants_sync = step.replies.iter().any(|reply| reply.synced);
        let facts = facts(now, &step);
        match self.write(std::mem::take(&mut step.records), wants_sync) {
            Ok(written) => {
                self.stats.count(facts);
                self.send(step.replies.into_iter(), written, out);
                batch.changes.into_iter().for_each(|change| self.change_flock(change));
                batch.orders.into_iter().for_each(|order| self.os.commit(order, now));
                if !answers.is_empty() {
                    out.extend(self.turn(now, answers));
                }
            }
            Err(error) => {
                self.table.undo(step);
                batch.taken.into_iter().for_each(|lock| self.os.release(lock));
                self.stop_granting(now, &error, out);
            }
        }
    }
}

/// How far the journal is.
#[derive(Clone, Copy)]
struct Written {
    through: u64,
    synced: u64,
}

/// Whether one of these answers promises the grant that is to be taken back: the first that does is the first to tell
/// of it then.
fn is_told_by<'a>(command: &Command, replies: impl Iterator<Item = &'a mut Reply>) -> bool {
    let Command::TakeBack { id, what, .. } = command else { return false };
    let grants = replies.flat_map(|reply| reply.grants_mut());
    let Some(granted) = grants.into_iter().find(|granted| granted.lock.id == *id) else { return false };
    (granted.already_held, granted.again) = (false, false);
    (granted.resumed, granted.upgraded) = (what.resumed.filter(|_| !what.is_new), what.upgraded && !what.is_new);
    true
}

fn names_holders(answer: &Answer) -> bool {
    // A grant names sub-agents in it. An advisory one is told all the same, without those of whom nobody knows yet.
    let excludes = |lock: &Lock| lock.ask.mode != Mode::Advisory;
    let names = |granted: &Granted| excludes(&granted.lock) && granted.beside.iter().any(excludes);
    if answer.reply.grants().iter().any(names) {
        return true;
    }
    match &answer.reply {
        Reply::Refused(_) | Reply::Status { .. } | Reply::Checked(_) | Reply::Renewed(_) => true,
        Reply::Failed(fault) => matches!(fault, Fault::NotHolder(_) | Fault::Delegated(_) | Fault::Lost(..)),
        _ => !answer.wanted.is_empty(),
    }
}

// ── The sync thread ─────────────────────────────────────────────────────────────────────────────────────────────────

struct Done {
    through: u64,
    took: u64,
    result: Result<(), JournalError>,
}

/// Syncs in a thread of its own while the disk is slow; the thread exists only once it was needed.
struct Syncing {
    is_slow: bool,
    syncer: Syncer,
    wake: Option<Wake>,
    thread: Option<SyncThread>,
    /// Set where there is to be no thread.
    by_hand: Option<ByHand>,
    /// How far the sync in flight goes; one at a time, whatever comes meanwhile shares the next.
    in_flight: Option<u64>,
}

/// What stands for the thread where the caller syncs.
#[derive(Default)]
struct ByHand {
    asked: Option<(Syncer, u64)>,
    done: Option<Done>,
}

struct SyncThread {
    ask: Sender<(Syncer, u64)>,
    done: Receiver<Done>,
    handle: JoinHandle<()>,
}

impl Syncing {
    fn new(syncer: Syncer, wake: Wake) -> Syncing {
        Syncing { is_slow: false, syncer, wake: Some(wake), thread: None, by_hand: None, in_flight: None }
    }

    fn renew(&mut self, syncer: Syncer) {
        self.syncer = syncer;
    }

    fn took(&mut self, us: u64) {
        self.is_slow = us >= SLOW_SYNC;
    }

    fn ask(&mut self, through: u64) {
        if self.in_flight.is_some() {
            return;
        }
        self.in_flight = Some(through);
        let (syncer, wake) = (self.syncer.clone(), &mut self.wake);
        if let Some(hand) = &mut self.by_hand {
            hand.asked = Some((syncer, through));
            return;
        }
        let thread = self.thread.get_or_insert_with(|| SyncThread::start(wake.take().expect("one thread, one wake")));
        thread.ask.send((syncer, through)).expect("the thread ends only after its channel");
    }

    fn finished(&mut self) -> Option<Done> {
        let done = match &mut self.by_hand {
            Some(hand) => hand.done.take()?,
            None => self.thread.as_ref()?.done.try_recv().ok()?,
        };
        self.in_flight = None;
        self.took(done.took);
        Some(done)
    }

    fn stop(self) {
        if let Some(SyncThread { ask, done, handle }) = self.thread {
            drop(ask);
            for _ in done {}
            handle.join().expect("the sync thread does not panic");
        }
    }
}

impl SyncThread {
    fn start(wake: Wake) -> SyncThread {
        // One in flight at a time: neither channel ever holds more.
        let (ask, asked) = bounded::<(Syncer, u64)>(1);
        let (tell, done) = bounded(1);
        let run = move || {
            for (syncer, through) in asked {
                let begun = crate::clock::monotonic_us();
                let result = syncer.sync(through);
                let took = crate::clock::monotonic_us() - begun;
                if tell.send(Done { through, took, result }).is_err() {
                    return;
                }
                wake();
            }
        };
        let handle =
            std::thread::Builder::new().name("flockd-sync".into()).spawn(run).expect("a thread can be started");
        SyncThread { ask, done, handle }
    }
}
