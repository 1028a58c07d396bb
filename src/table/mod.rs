//! The lock table: pure, deterministic, owner of all rules. `apply(now, command)` answers with a [`Step`].
//!
//! It knows no file system, socket, clock or random number: times, ids and identities come in with the command.
//!
//! The rules, each in one place:
//! - who excludes whom, and what an agent's own locks mean to it: `own.rs`
//! - what sub-agents may take that their parents hold, and their place in line: `family.rs`
//! - asking: a retry, an own lock, a grant, a place in the queue or a refusal: `ask.rs`
//! - many scopes at once, or none: `set.rs`
//! - a shared lock made exclusive, and back: `upgrade.rs`
//! - advisory locks: their ranks, who leads, and what a grant tells of others: `advisory.rs`
//! - who is next when something becomes free: `queue.rs`
//! - who waits for whom, and cycles: `waits.rs`
//! - places kept for agents that have waited in vain: `tickets.rs`
//! - how locks and sessions end, and what is told of it: `ending.rs`
//! - writing under a lock, and what has to wait for that: `commit.rs`
//! - what foreign programs that hold a flock mean to ours: `os.rs`
//! - which scopes many want at once, and when that is told: `contention.rs`
//! - writes around the locks, and on which locks that is told: `violation.rs`
//! - which webhooks there are, how far each has heard, and when it is tried again: `webhooks.rs`
//! - what overlaps what: `index.rs`; what a change means to the rows: `state.rs`; after a restart: `restore.rs`

mod advisory;
mod ask;
mod commit;
mod contention;
mod ending;
mod family;
mod index;
mod os;
mod own;
mod queue;
mod restore;
mod set;
mod state;
mod step;
mod tickets;
mod upgrade;
mod violation;
mod waits;
mod webhooks;

pub use step::{Outgoing, Step};

use crate::limits;
use crate::model::*;
use crate::planted::{Bug, planted};
use crate::scope::{Scope, Target};
use contention::Contention;
use index::{Rank, Turn};
use state::{State, Timer};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use upgrade::Upgrade;
use violation::Violations;

/// The lock table.
#[derive(Debug)]
pub struct LockTable {
    state: State,
    contention: Contention,
    violations: Violations,
    next_fence: u64,
    next_event: u64,
    next_waiter: u64,
    next_commit: u64,
    /// Numbers below these are reserved in the journal.
    fences_reserved: u64,
    events_reserved: u64,
    /// Why grants have stopped, while they have.
    paused: Option<String>,
}

impl LockTable {
    /// An empty table that gives out fences and event numbers from these on.
    pub fn new(fences_from: u64, events_from: u64) -> LockTable {
        LockTable {
            state: State::new(),
            contention: Contention::default(),
            violations: Violations::default(),
            next_fence: fences_from,
            next_event: events_from,
            next_waiter: 1,
            next_commit: 1,
            fences_reserved: fences_from,
            events_reserved: events_from,
            paused: None,
        }
    }

    /// Carries out one command at one time, what is due before it included. Only what is taken back goes before that:
    /// nothing that is due then names a holder whom nobody was told of.
    ///
    /// `now` never goes back. The step's records must be written before its answers are sent; if they cannot be,
    /// [`LockTable::undo`] takes the step back.
    pub fn apply(&mut self, now: Now, command: Command) -> Step {
        let mut step = Step { now, ..Step::default() };
        if !matches!(command, Command::TakeBack { .. }) {
            self.expire(now, &mut step);
        }
        self.carry_out(now, &mut step, command);
        self.serve(now, &mut step);
        self.reserve(&mut step);
        step
    }

    fn carry_out(&mut self, now: Now, step: &mut Step, command: Command) {
        match command {
            Command::OpenSession { caller, session } => self.open_session(step, caller, session),
            Command::ReturnSession { caller, id, secret, process } => {
                self.return_session(step, caller, id, secret, process)
            }
            Command::EndSession(id) => self.end_session(now, step, id, EndReason::SessionEnded),
            Command::Lock { caller, ask, wait } => self.lock(now, step, caller, ask, wait),
            Command::LockSet { caller, asks, wait } => self.lock_set(now, step, caller, asks, wait),
            Command::WaitFree { caller, ask, wait } => self.wait_free(now, step, caller, ask, wait),
            Command::Unlock { caller, who, which, leaves_loan } => {
                let unlocking = Unlocking { caller, who, which, leaves_loan, released: Vec::new(), left: Vec::new() };
                self.unlock(now, step, unlocking);
            }
            Command::FinishUnlock(unlocking) => self.release(now, step, *unlocking),
            Command::Upgrade { caller, who, which, wait, request } => {
                self.upgrade(now, step, Upgrade { caller, who, which, wait, request })
            }
            Command::Downgrade { caller, who, which } => self.downgrade(now, step, caller, who, which),
            Command::TakeBack { id, fence, what } => self.take_back(now, step, id, fence, what),
            Command::Renew { caller, who, which, ttl } => self.renew(now, step, caller, who, which, ttl),
            Command::Check { caller, who, target, fence } => self.check(now, step, caller, who, target, fence),
            Command::Break { caller, who, id, reason } => self.break_lock(now, step, caller, who, id, reason),
            Command::Status { caller, who, target } => self.status(now, step, caller, who, target),
            Command::Bind { caller, who, id, process } => self.bind(step, caller, who, id, process),
            Command::ProcessGone(process) => self.process_gone(now, step, process),
            Command::CallerGone { conn } => self.caller_gone(now, step, conn),
            Command::Cancel { caller, waiting } => self.cancel(now, step, caller, waiting),
            Command::GiveUp { caller, who, ticket } => self.give_up(step, caller, &who, ticket),
            Command::LossesTold(ids) => self.losses_told(step, &ids),
            Command::News { caller, who, heard } => self.news(step, caller, &who, &heard),
            Command::Os { lock, answer } => self.system_answered(now, step, lock, answer),
            Command::Commit { caller, who, target, fence, prepared } => {
                self.commit(now, step, caller, who, target, fence, prepared)
            }
            Command::CommitDone { commit, lock, answer } => self.commit_done(now, step, commit, lock, answer),
            Command::Webhook(command) => self.webhook(now, step, command),
            Command::Contention { workspace, threshold } => self.set_threshold(&workspace, threshold),
            Command::Wrote { target, how } => self.wrote(step, &target, how),
            Command::Tick => {}
        }
    }

    /// Takes a step back whose records could not be written. Steps go back newest first.
    pub fn undo(&mut self, step: Step) {
        for record in step.undo.into_iter().rev() {
            self.state.fold(record);
        }
        self.undo_counted(step.undo_counted);
        self.undo_violations(step.violations);
        // Numbers once given out are not given out again, and a reservation that was not written does not count.
        self.fences_reserved = self.next_fence;
        self.events_reserved = self.next_event;
    }

    /// When [`Command::Tick`] has something to do next.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.state.timers.first().map(|(due, _)| *due)
    }

    /// Stops grants: requests are answered `unavailable`, nobody in the queue is served, releases go on.
    pub fn pause(&mut self, why: String) {
        self.paused = Some(why);
    }

    /// Lets grants go on and serves everybody who could have been served meanwhile and still waits.
    pub fn resume(&mut self, now: Now) -> Step {
        let mut step = Step { now, ..Step::default() };
        self.expire(now, &mut step);
        self.paused = None;
        self.serve_all(now, &mut step);
        self.reserve(&mut step);
        step
    }

    /// All rows and the numbers reserved: what a new journal must hold to be this table.
    pub fn rows(&mut self) -> Vec<Record> {
        self.fences_reserved = self.next_fence + limits::NUMBERS_RESERVED;
        self.events_reserved = self.next_event + limits::NUMBERS_RESERVED;
        let mut rows = self.state.rows();
        rows.push(Record::Reserve { fences: self.fences_reserved, events: self.events_reserved });
        rows
    }

    /// How many locks are held.
    pub fn locks(&self) -> usize {
        self.state.locks.len()
    }

    /// The shared locks on files, in no order that means anything.
    pub fn readers(&self) -> impl Iterator<Item = &Lock> {
        self.state.locks.values().filter(|lock| is_reader(lock))
    }

    /// The lock of this name, if it is one of those.
    pub fn reader(&self, id: LockId) -> Option<&Lock> {
        self.state.locks.get(&id).filter(|lock| is_reader(lock))
    }

    /// Whether this lock is held.
    pub fn is_held(&self, id: LockId) -> bool {
        self.state.locks.contains_key(&id)
    }

    /// How many requests wait.
    pub fn waiters(&self) -> usize {
        self.state.waiters.len()
    }

    /// How many sessions are open or expected back.
    pub fn sessions(&self) -> usize {
        self.state.sessions.len()
    }

    /// The webhooks, in no order that means anything.
    pub fn webhooks(&self) -> impl Iterator<Item = &Webhook> {
        self.state.webhooks.values()
    }

    /// The webhook of this name.
    pub fn webhook_named(&self, id: WebhookId) -> Option<&Webhook> {
        self.state.webhooks.get(&id)
    }

    /// The processes that sessions, locks, waiting requests and webhooks hang on: to be watched after a restart.
    pub fn processes(&self) -> impl Iterator<Item = Process> + '_ {
        let State { sessions_of_process, locks_of_process, waits_of_process, webhooks, .. } = &self.state;
        let locking = sessions_of_process.keys().chain(locks_of_process.keys()).chain(waits_of_process.keys()).copied();
        locking.chain(webhooks.values().filter_map(|webhook| webhook.until))
    }

    // ── Changes ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// The only way anything changes.
    fn set(&mut self, step: &mut Step, record: Record) {
        let before = self.state.fold(record.clone());
        self.note_writer(step, &before, &record);
        step.undo.push(before);
        step.records.push(record);
    }

    fn mark(&self, step: &Step) -> step::Mark {
        step.mark(self.next_fence, self.next_event)
    }

    /// Takes back what this step did since it was marked, as if it had not been. The numbers that it took are free
    /// again: nobody has seen them, nor has the journal.
    fn back_to(&mut self, step: &mut Step, mark: step::Mark) {
        (self.next_fence, self.next_event) = mark.numbers();
        let (undo, counted, violations) = step.cut(mark);
        for record in undo.into_iter().rev() {
            self.state.fold(record);
        }
        self.undo_counted(counted);
        self.undo_violations(violations);
    }

    fn put_lock(&mut self, step: &mut Step, lock: Lock) {
        self.set(step, Record::Lock(lock.id, Some(lock)));
    }

    fn tell(&mut self, step: &mut Step, kind: EventKind, lock: &Lock) {
        self.tell_of(step, kind, lock.id, lock.ask.clone(), lock.fence);
    }

    fn tell_of(&mut self, step: &mut Step, kind: EventKind, lock: LockId, ask: Arc<Ask>, fence: Fence) {
        let event = Event { seq: EventSeq(self.next_event), after: None, time: step.now.wall, kind, lock, ask, fence };
        self.next_event += u64::from(!planted(Bug::EventNumberTwice));
        step.records.push(Record::Event(event));
    }

    fn fresh_fence(&mut self) -> Fence {
        assert!(self.next_fence < limits::FENCE_END, "the home has given out all 2^53 fences");
        self.next_fence += 1;
        Fence(self.next_fence - 1)
    }

    /// Reserves the next block of numbers if this step went beyond the last one.
    fn reserve(&mut self, step: &mut Step) {
        let is_beyond = self.next_fence > self.fences_reserved || self.next_event > self.events_reserved;
        if is_beyond && !planted(Bug::FenceNotReserved) {
            self.fences_reserved = self.next_fence + limits::NUMBERS_RESERVED;
            self.events_reserved = self.next_event + limits::NUMBERS_RESERVED;
            step.records.push(Record::Reserve { fences: self.fences_reserved, events: self.events_reserved });
        }
    }

    /// Does everything whose time has come.
    fn expire(&mut self, now: Now, step: &mut Step) {
        while let Some(&(due, timer)) = self.state.timers.first() {
            if due > now.mono {
                return;
            }
            match timer {
                Timer::Lock(id) => self.lock_is_due(now, step, id),
                Timer::Waiter(id) => self.waiter_is_due(now, step, id),
                Timer::Session(id) => self.end_session(now, step, id, EndReason::Silent),
                Timer::Ended(id) => self.set(step, Record::Ended(id, None)),
            }
            self.serve(now, step);
            assert_ne!(self.state.timers.first(), Some(&(due, timer)), "what was due is done");
        }
    }

    // ── Answers ─────────────────────────────────────────────────────────────────────────────────────────────────────

    fn answer(&mut self, step: &mut Step, to: Caller, reply: Reply) {
        self.answer_about(step, to, reply, None, None);
    }

    /// Answers `who` about `target`: what it lost there, and who waits for its locks, is told along with it.
    fn answer_about(&mut self, step: &mut Step, to: Caller, reply: Reply, who: Option<&Who>, target: Option<&Target>) {
        self.answer_about_all(step, to, reply, who, target.as_ref().map(std::slice::from_ref));
    }

    /// The same about any of several targets.
    fn answer_about_all(
        &mut self,
        step: &mut Step,
        to: Caller,
        mut reply: Reply,
        who: Option<&Who>,
        targets: Option<&[&Target]>,
    ) {
        self.name_company(&mut reply);
        let outlives = |lock: &Lock| lock.ttl > 0 && (lock.ask.mode != Mode::Advisory || planted(Bug::AdvisorySynced));
        let synced = reply.grants().iter().any(|granted| outlives(&granted.lock));
        let synced = synced && !planted(Bug::AnsweredBeforeSync);
        let lost = who.filter(|_| !planted(Bug::LossNotTold));
        let lost = lost.map(|who| self.losses(who, targets)).unwrap_or_default();
        let wanted = who.map(|who| self.wanted(who, limits::WANTED_LOOKED_AT)).unwrap_or_default();
        let standings = self.standings(&reply);
        step.replies.push(Outgoing { to, answer: Answer { reply, lost, wanted, standings }, synced });
    }

    fn fail(&mut self, step: &mut Step, to: Caller, fault: Fault) {
        self.answer(step, to, Reply::Failed(fault));
    }

    /// The losses that `who` has not heard of and is told now: all of its session's, and of the agent's those that the
    /// call names, or all if it names nothing. They are told with every answer until one has arrived. What an open
    /// session lost is told to that session alone: it is the one that still believes, and whoever released the lock
    /// over its head would swallow the notice.
    fn losses(&self, who: &Who, targets: Option<&[&Target]>) -> Vec<Ended> {
        let Some(untold) = self.state.untold_of_agent.get(&who.agent) else { return Vec::new() };
        let is_meant = |ended: &&Ended| {
            let guard = ended.ask.who.session.filter(|session| self.state.sessions.contains_key(session));
            let (lost, names) = (&ended.ask.target.scope, targets.unwrap_or_default());
            let is_named =
                targets.is_none() || names.iter().any(|target| target.scope.covers(lost) || lost.covers(&target.scope));
            guard.map_or(is_named, |guard| who.session == Some(guard))
        };
        untold.iter().map(|id| &self.state.ended[id]).filter(is_meant).cloned().collect()
    }

    /// The first waiting request behind each of the agent's oldest locks, if any. Guards hear of it by events.
    fn wanted(&self, who: &Who, oldest: usize) -> Vec<Waiter> {
        if who.session.is_some() || self.state.waiters.is_empty() {
            return Vec::new();
        }
        let mut wanted: Vec<WaiterId> = Vec::new();
        let ids = self.state.locks_of_agent.get(&who.agent).into_iter().flatten().take(oldest);
        for lock in ids.map(|id| &self.state.locks[id]) {
            let mut first: Option<Turn> = None;
            let _ = self.state.index.overlapping::<()>(&lock.ask.target, &mut |_, slot| {
                for mut line in slot.queues_for(lock.ask.mode) {
                    let found = line.find(|turn| self.keeps_out(&self.state.waiters[&turn.at].ask, lock));
                    first = [first, found].into_iter().flatten().min();
                }
                ControlFlow::Continue(())
            });
            wanted.extend(first.map(|turn| turn.at));
        }
        wanted.sort_unstable();
        wanted.dedup();
        wanted.iter().map(|id| self.state.waiters[id].clone()).collect()
    }

    /// Corrects an answer that was held back: what it promises may have ended meanwhile, and a promise that is not true
    /// when it is given would make two believe that they hold the lock. Who holds it now is not named: that may not
    /// be told yet.
    ///
    /// `released` is what whoever hears the answer has released itself: of that it is told as if it were held. Of a set
    /// either all is promised or nothing. What takes the rest back is the answer; to be carried out.
    pub fn bring_up_to_date(&self, answer: &mut Answer, released: &[LockId]) -> Vec<Command> {
        let is_held = |lock: &Lock| self.state.locks.contains_key(&lock.id) || released.contains(&lock.id);
        let has_weakened =
            |lock: &Lock| self.state.locks.get(&lock.id).is_some_and(|now| now.ask.mode.is_weaker_than(lock.ask.mode));
        let grants = answer.reply.grants();
        if let Some(gone) = grants.iter().map(|granted| &granted.lock).find(|lock| !is_held(lock)) {
            let rest = grants.iter().filter(|granted| granted.is_new() && self.is_held(granted.lock.id));
            let rest = rest.map(Granted::take_back).collect();
            answer.reply = Reply::Failed(self.what_became_of(gone.id, Vec::new()));
            return rest;
        }
        for granted in answer.reply.grants_mut().iter_mut().filter(|granted| has_weakened(&granted.lock)) {
            granted.lock = self.state.locks[&granted.lock.id].clone();
        }
        match &mut answer.reply {
            Reply::Downgraded(lock) if !is_held(lock) => {
                answer.reply = Reply::Failed(self.what_became_of(lock.id, Vec::new()));
            }
            Reply::Checked(Ok(lock)) if !is_held(lock) || has_weakened(lock) => {
                answer.reply = Reply::Checked(Err(Vec::new()));
            }
            Reply::Renewed(locks) => {
                for lock in locks.iter_mut().filter(|lock| has_weakened(lock)) {
                    *lock = self.state.locks[&lock.id].clone();
                }
                let gone = locks.iter().find(|lock| !is_held(lock)).map(|lock| lock.id);
                locks.retain(is_held);
                if let Some(gone) = gone.filter(|_| locks.is_empty()) {
                    answer.reply = Reply::Failed(self.what_became_of(gone, Vec::new()));
                }
            }
            _ => {}
        }
        Vec::new()
    }

    // ── Questions ───────────────────────────────────────────────────────────────────────────────────────────────────

    fn check(&mut self, now: Now, step: &mut Step, caller: Caller, who: Who, target: Target, fence: Option<Fence>) {
        let reply = match self.may_write(&who, &target, fence) {
            Some(id) => {
                self.touch(now, step, id);
                Reply::Checked(Ok(Box::new(self.state.locks[&id].clone())))
            }
            None => {
                self.touch_all(now, step, &who, &target);
                let below = self.in_sub_agents_hands(&who, &target, fence);
                Reply::Checked(Err(match below.is_empty() {
                    true => self.against_writing(&who.agent, &target),
                    false => self.named(below).0,
                }))
            }
        };
        self.answer_about(step, caller, reply, Some(&who), Some(&target));
    }

    fn status(&mut self, now: Now, step: &mut Step, caller: Caller, who: Option<Who>, target: Option<Target>) {
        if let (Some(who), Some(target)) = (&who, &target) {
            self.touch_all(now, step, who, target);
        }
        let (mut locks, mut waiters) = (Vec::new(), Vec::new());
        match &target {
            None => {
                locks.extend(self.state.locks.keys().copied());
                waiters.extend(self.state.waiters.keys().copied());
            }
            Some(target) => {
                let _ = self.state.index.overlapping::<()>(target, &mut |_, slot| {
                    locks.extend(slot.holders());
                    for line in index::Line::ALL {
                        waiters.extend(slot.line(line).iter().map(|turn| turn.at));
                    }
                    ControlFlow::Continue(())
                });
            }
        }
        locks.sort_unstable();
        locks.dedup();
        waiters.sort_unstable();
        waiters.dedup();
        let reply = Reply::Status {
            locks: locks.iter().map(|id| self.state.locks[id].clone()).collect(),
            waiters: waiters.iter().map(|id| self.queued(&self.state.waiters[id])).collect(),
        };
        self.answer_about(step, caller, reply, who.as_ref(), target.as_ref());
    }

    /// A question about nothing but what is told along with answers.
    fn news(&mut self, step: &mut Step, to: Caller, who: &Who, heard: &[LockId]) {
        if !heard.is_empty() && !planted(Bug::HeardIsNotTold) {
            // What somebody else is to hear of is left to him.
            let own = self.losses(who, None).into_iter().map(|ended| ended.id);
            let told: Vec<LockId> = own.filter(|id| heard.contains(id)).collect();
            self.losses_told(step, &told);
        }
        let oldest = if planted(Bug::NewsOfFewLocks) { limits::WANTED_LOOKED_AT } else { limits::NEWS_LOOKED_AT };
        let (mut lost, wanted) = (self.losses(who, None), self.wanted(who, oldest));
        let reply = Reply::News { more: lost.len().saturating_sub(limits::NEWS_LOSSES) };
        lost.truncate(limits::NEWS_LOSSES);
        let answer = Answer { lost, wanted, ..Answer::bare(reply) };
        step.replies.push(Outgoing { to, answer, synced: false });
    }

    fn queued(&self, waiter: &Waiter) -> Queued {
        let (behind, _) = self.in_the_way(&waiter.ask);
        Queued { waiter: waiter.clone(), position: self.position(&waiter.ask, waiter.id), behind }
    }

    /// The place in the queue of a request that stands, or would stand, at `at`.
    fn position(&self, ask: &Ask, at: WaiterId) -> usize {
        self.place_behind(std::iter::once((ask, self.rank(ask, at))))
    }

    /// The same for all rows of a request: one more than the earlier requests, sets counted once.
    fn place_behind<'a>(&self, rows: impl Iterator<Item = (&'a Ask, Rank)>) -> usize {
        let rows = rows.flat_map(|(ask, rank)| self.earlier(ask, rank));
        1 + rows.map(|id| self.state.waiters[&id].first()).collect::<BTreeSet<_>>().len()
    }

    /// The holders in the way of a request by age, at most [`limits::HOLDERS_NAMED`], and how many more there are.
    fn in_the_way(&self, ask: &Ask) -> (Vec<Lock>, usize) {
        self.in_the_way_of(std::iter::once(ask))
    }

    /// The same for all rows of a request.
    fn in_the_way_of<'a>(&self, asks: impl Iterator<Item = &'a Ask>) -> (Vec<Lock>, usize) {
        let mut ids = Vec::new();
        for ask in asks {
            let _ = self.state.index.overlapping::<()>(&ask.target, &mut |_, slot| {
                let locks = slot.holders_against(ask.mode).map(|id| &self.state.locks[&id]);
                ids.extend(locks.filter(|lock| self.stands_in_the_way(ask, lock)).map(|lock| lock.id));
                ControlFlow::Continue(())
            });
        }
        self.named(ids)
    }

    /// All who hold something that overlaps `target` and keep others out of it, as [`LockTable::in_the_way`].
    fn holders_over(&self, target: &Target) -> (Vec<Lock>, usize) {
        self.locks_over(target, |lock| lock.ask.mode != Mode::Advisory)
    }

    /// The same with those who keep nobody out.
    fn all_over(&self, target: &Target) -> (Vec<Lock>, usize) {
        self.locks_over(target, |_| true)
    }

    /// What is to be said to an agent that may not write to `target`: who keeps others out, and what it has itself.
    fn against_writing(&self, agent: &Agent, target: &Target) -> Vec<Lock> {
        self.locks_over(target, |lock| lock.ask.mode != Mode::Advisory || lock.ask.who.agent == *agent).0
    }

    fn locks_over(&self, target: &Target, is_meant: impl Fn(&Lock) -> bool) -> (Vec<Lock>, usize) {
        let mut ids = Vec::new();
        let _ = self.state.index.overlapping::<()>(target, &mut |_, slot| {
            ids.extend(slot.holders().filter(|id| is_meant(&self.state.locks[id])));
            ControlFlow::Continue(())
        });
        self.named(ids)
    }

    pub(super) fn named(&self, mut ids: Vec<LockId>) -> (Vec<Lock>, usize) {
        ids.sort_unstable();
        ids.dedup();
        let more = ids.len().saturating_sub(limits::HOLDERS_NAMED);
        ids.truncate(limits::HOLDERS_NAMED);
        (ids.iter().map(|id| self.state.locks[id].clone()).collect(), more)
    }
}

/// A copy of a request that is custody of somebody else from now on.
fn with_session(ask: &Ask, session: Option<SessionId>) -> Arc<Ask> {
    Arc::new(Ask { who: Who { agent: ask.who.agent.clone(), session }, ..ask.clone() })
}

fn is_reader(lock: &Lock) -> bool {
    lock.ask.mode == Mode::Shared && matches!(lock.ask.target.scope, Scope::File(_))
}
