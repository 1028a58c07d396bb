//! Fenced commits: a prepared file takes the place of another only while its agent may write there.
//!
//! The check and the replacement are one step, since the lock does not end in between: what would end it, and what
//! would put another file in the same place, waits until the file system has answered. A replacement that was begun
//! cannot be called back, so a file system that never answers keeps the scope for as long as this daemon lives; better
//! that than two holders. Only the client is told in time.

use super::index::Line;
use super::{LockTable, Step};
use crate::model::*;
use crate::planted::{Bug, planted};
use crate::scope::{FileId, Scope, Target};
use std::sync::Arc;

impl LockTable {
    /// Begins a commit, or says why it may not be.
    #[expect(clippy::too_many_arguments, reason = "they are the fields of its command")]
    pub(super) fn commit(
        &mut self,
        now: Now,
        step: &mut Step,
        caller: Caller,
        who: Who,
        target: Target,
        fence: Option<Fence>,
        prepared: Arc<Prepared>,
    ) {
        if let Some(fault) = self.why_no_commit(&who, &target) {
            return self.fail(step, caller, fault);
        }
        let Some(id) = self.may_commit(&who, &target, fence) else {
            self.touch_all(now, step, &who, &target);
            let fault = self.why_not_written(&who, &target, fence);
            return self.answer_about(step, caller, Reply::Failed(fault), Some(&who), Some(&target));
        };
        if let Some(before) = self.is_to_end(now, id).or_else(|| self.in_the_same_place(&who.agent, &target)) {
            return self.put_off(step, &[before], Command::Commit { caller, who, target, fence, prepared });
        }
        self.touch(now, step, id);
        let lock = self.state.locks[&id].clone();
        if lock.os == OsLock::Asked {
            let text = "the file is just being flocked again after a restart of the daemon; ask again".to_owned();
            return self.answer_about(step, caller, Reply::Failed(Fault::Unavailable(text)), Some(&who), Some(&target));
        }
        if let OsLock::Contested { by, .. } = &lock.os {
            let name = by.command.as_deref().unwrap_or("a program that does not know flockd");
            let text =
                format!("{name} had flocked the file when the daemon came back, and still has; nothing was written");
            return self.answer_about(step, caller, Reply::Failed(Fault::Unavailable(text)), Some(&who), Some(&target));
        }
        let commit = CommitId(self.next_commit);
        self.next_commit += 1;
        let flock = lock.ask.os && matches!(lock.ask.target.scope, Scope::File(_));
        let mut in_flight = lock.in_flight.clone().unwrap_or_default();
        in_flight.commits.push(Commit { id: commit, caller: Some(caller), who, target: target.clone() });
        let (scope, mode) = (lock.ask.target.clone(), lock.ask.mode);
        self.put_lock(step, Lock { in_flight: Some(in_flight), ..lock });
        // Guards, its own agent's as well, are kept out until it is over.
        self.withdraw_offers(step, &scope, mode);
        step.effects.push(Effect::Commit { commit, lock: id, target, flock, prepared });
    }

    fn why_no_commit(&self, who: &Who, target: &Target) -> Option<Fault> {
        if let Some(session) = who.session
            && !self.state.sessions.contains_key(&session)
        {
            return Some(Fault::UnknownSession);
        }
        if let Some(why) = &self.paused {
            return Some(Fault::Unavailable(why.clone()));
        }
        match target.scope {
            Scope::File(_) => None,
            Scope::Subtree(_) => Some(Fault::Invalid("a directory cannot be written to; name a file".to_owned())),
            Scope::Pattern(_) => Some(Fault::Invalid("a pattern is no file; name one to be written".to_owned())),
            Scope::Resource(_) => Some(Fault::Invalid("a resource is no file; name one to be written".to_owned())),
        }
    }

    /// Why an agent may not write: the lock that it means was lost, or others hold it, or it never asked.
    fn why_not_written(&self, who: &Who, target: &Target, fence: Option<Fence>) -> Fault {
        let below = self.in_sub_agents_hands(who, target, fence);
        if !below.is_empty() {
            return Fault::Delegated(self.named(below).0);
        }
        let holders = self.holders_over(target).0;
        let own = self.own_over(&who.agent, target).into_iter().map(|id| &self.state.locks[&id]);
        let mut advisory = own.filter(|lock| lock.ask.mode == Mode::Advisory);
        let meant = match fence {
            Some(fence) => self.ended_of(&who.agent).find(|ended| ended.fence == fence).cloned(),
            // Whoever has heard of it may ask anew.
            None => self
                .losses(who, Some(&[target]))
                .into_iter()
                .rev()
                .find(|ended| ended.ask.target.scope.covers(&target.scope) && ended.ask.mode == Mode::Exclusive),
        };
        match (meant, advisory.next()) {
            (Some(ended), _) => Fault::Lost(Box::new(ended), holders),
            (None, Some(own)) if !holders.iter().any(|lock| lock.ask.who.agent == who.agent) => {
                Fault::OnlyAdvisory(Box::new(own.clone()), holders)
            }
            (None, _) => Fault::NotHolder(holders),
        }
    }

    /// The lock itself, if it ends as soon as nothing is in flight under it any more: what is asked for only now comes
    /// behind that, or a busy writer could not be stopped.
    fn is_to_end(&self, now: Now, id: LockId) -> Option<LockId> {
        let lock = &self.state.locks[&id];
        let in_flight = lock.in_flight.as_deref()?;
        let has_run_out = lock.expires.is_some_and(|end| end <= now.mono);
        (has_run_out || in_flight.ending.is_some() || !in_flight.waiting.is_empty()).then_some(id)
    }

    /// A lock of the agent's under which the same file is being put in place right now: one at a time, or a look at
    /// what is there would be worth nothing.
    fn in_the_same_place(&self, agent: &Agent, target: &Target) -> Option<LockId> {
        self.own_covering(agent, target, Mode::Exclusive).into_iter().find(|id| {
            let in_flight = self.state.locks[id].in_flight.as_deref();
            in_flight
                .is_some_and(|in_flight| in_flight.commits.iter().any(|commit| is_same_file(&commit.target, target)))
        })
    }

    /// The file system has answered, or does not for so long that the client is told.
    pub(super) fn commit_done(
        &mut self,
        now: Now,
        step: &mut Step,
        commit: CommitId,
        id: LockId,
        answer: CommitAnswer,
    ) {
        let lock = self.state.locks.get(&id).filter(|lock| lock.in_flight.is_some()).cloned();
        let Some(mut lock) = lock else { unreachable!("no lock ends while something is in flight under it") };
        let mut in_flight = lock.in_flight.take().expect("it was found so");
        let at = in_flight.commits.iter().position(|other| other.id == commit).expect("it is in flight");
        let Commit { caller, who, target, .. } = in_flight.commits[at].clone();
        match answer {
            CommitAnswer::Late => in_flight.commits[at].caller = None,
            _ => drop(in_flight.commits.remove(at)),
        }
        let placed = match &answer {
            CommitAnswer::InPlace(placed) | CommitAnswer::NotDurable(placed, _) => Some(*placed),
            CommitAnswer::Refused(_) | CommitAnswer::Late => None,
        };
        if lock.ask.os && placed.is_some_and(|placed| placed.flocked) {
            lock.os = OsLock::Held;
        }
        let is_over = in_flight.commits.is_empty();
        let kept = if is_over { None } else { Some(in_flight.clone()) };
        lock.in_flight = kept;
        self.put_lock(step, lock);
        if let Some(file) = placed.and_then(|placed| placed.file) {
            self.follow_file(step, &target, file);
        }
        let lock = self.state.locks[&id].clone();
        if let Some(caller) = caller {
            let reply = reply_to(answer, lock.clone());
            self.answer_about(step, caller, reply, Some(&who), Some(&target));
        }
        if is_over {
            self.come_down(now, step, lock, *in_flight);
        }
    }

    /// Another file stands in the place of `target`: what is held and asked for there means that one from now on, under
    /// whatever name it will be asked for.
    fn follow_file(&mut self, step: &mut Step, target: &Target, file: FileId) {
        // Whoever asked for the prepared file by the name that it had must not come to share a lock with others by
        // this. Then names alone count, as they do for a file that somebody else put in place.
        if self.state.index.knows(file) || planted(Bug::LockKeepsOldFile) {
            return;
        }
        let (mut locks, mut waiters) = (Vec::new(), Vec::new());
        self.state.index.exactly(target, &mut |slot| {
            locks.extend(slot.holders());
            waiters.extend(Line::ALL.into_iter().flat_map(|line| slot.line(line).iter().map(|turn| turn.at)));
        });
        for id in locks {
            let lock = self.state.locks[&id].clone();
            // Advisory ones keep no one out; whoever follows them up by name finds them where they are.
            if lock.ask.mode == Mode::Advisory {
                continue;
            }
            if let Some(ask) = with_file(&lock.ask, target, file) {
                // Others may have waited for what stood there before.
                step.freed.push(lock.ask.clone());
                self.put_lock(step, Lock { ask, ..lock });
            }
        }
        for id in waiters {
            let waiter = self.state.waiters[&id].clone();
            if let Some(ask) = with_file(&waiter.ask, target, file) {
                step.freed.push(waiter.ask.clone());
                self.set(step, Record::Waiter(id, Some(Waiter { ask, ..waiter })));
            }
        }
    }

    /// Nothing is in flight under this lock any more: what had to wait for that goes on.
    fn come_down(&mut self, now: Now, step: &mut Step, lock: Lock, in_flight: InFlight) {
        // Requests of its own agent that it was in the way of only for this long.
        step.freed.push(lock.ask.clone());
        match in_flight.ending {
            Some(why) => drop(self.end(now, step, lock.id, why.clone(), why == EndReason::Silent)),
            // Its lease may have run out meanwhile.
            None => self.expire(now, step),
        }
        for command in in_flight.waiting {
            self.carry_out(now, step, command);
        }
    }

    /// Whether a lock ends, or becomes another, as soon as nothing is in flight under it any more.
    pub(super) fn is_ending(&self, id: LockId) -> bool {
        self.state.locks[&id].in_flight.as_deref().is_some_and(InFlight::is_ending)
    }

    /// An own lock there that is about to end. What its agent asks for comes behind that: it was sent later, and would
    /// be told that it holds what it has given back.
    pub(super) fn own_ending(&self, agent: &Agent, target: &Target) -> Option<LockId> {
        let own = self.state.in_flight.iter().map(|id| &self.state.locks[id]);
        let mut own = own.filter(|lock| lock.ask.who.agent == *agent && self.is_ending(lock.id)).peekable();
        own.peek()?;
        let over = self.own_over(agent, target);
        own.map(|lock| lock.id).find(|id| over.contains(id))
    }

    /// Whether one of these locks must not end now.
    pub(super) fn has_in_flight(&self, ids: &[LockId]) -> bool {
        ids.iter().any(|id| self.state.locks[id].in_flight.is_some()) && !planted(Bug::CommitCutShort)
    }

    /// Has a command wait until the first of these locks that has something in flight has nothing any more.
    pub(super) fn put_off(&mut self, step: &mut Step, ids: &[LockId], command: Command) {
        let id = ids.iter().find(|id| self.state.locks[id].in_flight.is_some()).expect("one of them is why it waits");
        let mut lock = self.state.locks[id].clone();
        lock.in_flight.as_mut().expect("it was found so").waiting.push(command);
        self.put_lock(step, lock);
    }

    /// Withdraws requests that have not been looked at yet because something is in flight: nobody is granted anything
    /// who does not listen any more. Releases go on; true if there were any others.
    pub(super) fn forget_put_off(&mut self, step: &mut Step, is_meant: impl Fn(Caller) -> bool) -> bool {
        !self.withdraw_put_off(step, |command| wisher(command).is_some_and(&is_meant)).is_empty()
    }

    /// Nothing is granted for a process that ended while its request was put off.
    pub(super) fn refuse_put_off(&mut self, step: &mut Step, process: Process) {
        let is_bound = |command: &Command| match command {
            Command::Lock { ask, .. } => ask.bound == Some(process),
            Command::LockSet { asks, .. } => asks[0].bound == Some(process),
            _ => false,
        };
        for command in self.withdraw_put_off(step, is_bound) {
            let caller = wisher(&command).expect("whoever asks for a lock wants an answer");
            self.fail_for_dead(step, caller);
        }
    }

    /// Takes out what was put off and is meant.
    fn withdraw_put_off(&mut self, step: &mut Step, is_meant: impl Fn(&Command) -> bool) -> Vec<Command> {
        let mut withdrawn = Vec::new();
        for id in self.state.in_flight.clone() {
            let mut lock = self.state.locks[&id].clone();
            let waiting = &mut lock.in_flight.as_mut().expect("the index holds those that have some").waiting;
            let before = withdrawn.len();
            withdrawn.extend(waiting.extract_if(.., |command| is_meant(command)));
            if withdrawn.len() > before {
                self.put_lock(step, lock);
            }
        }
        withdrawn
    }

    /// What kept a lock alive is gone, and it ends with it as soon as nothing is in flight any more.
    pub(super) fn end_later(&mut self, now: Now, step: &mut Step, mut lock: Lock, why: &EndReason) {
        let in_flight = lock.in_flight.as_mut().expect("else it would end now");
        in_flight.ending.get_or_insert_with(|| why.clone());
        // In the journal it is a lock whose lease is over: a daemon that is killed now must not leave it for ever.
        let over = lock.expires.map_or(now.mono, |end| end.min(now.mono));
        self.put_lock(step, Lock { custody: Custody::Detached, expires: Some(over), ..lock });
    }
}

/// Who wants something by a command that can be withdrawn.
fn wisher(command: &Command) -> Option<Caller> {
    match command {
        Command::Lock { caller, .. }
        | Command::LockSet { caller, .. }
        | Command::Upgrade { caller, .. }
        | Command::Commit { caller, .. } => Some(*caller),
        _ => None,
    }
}

/// The request, for the file that stands at `place` now. None unless it is for this very entry of this very directory:
/// what is met by one name alone and what is met by the old file alone need not be each other's, and would be then.
fn with_file(ask: &Ask, place: &Target, file: FileId) -> Option<Arc<Ask>> {
    let target = &ask.target;
    let entry = |target: &Target| {
        let below = target.scope.components().count();
        let dir = target.ids.get(below.checked_sub(1)?).copied()?;
        target.scope.components().last().map(|name| (dir, name.to_vec()))
    };
    entry(target).filter(|own| entry(place).as_ref() == Some(own))?;
    let dirs = target.ids.iter().take(target.scope.components().count());
    let ids = dirs.copied().chain([file]).collect();
    Some(Arc::new(Ask { target: Target { scope: target.scope.clone(), ids }, ..ask.clone() }))
}

fn is_same_file(a: &Target, b: &Target) -> bool {
    a.scope == b.scope || a.own_id().is_some_and(|id| b.own_id() == Some(id))
}

fn reply_to(answer: CommitAnswer, lock: Lock) -> Reply {
    match answer {
        CommitAnswer::InPlace(placed) => Reply::Committed(Box::new(lock), placed),
        CommitAnswer::NotDurable(_, why) => Reply::Failed(Fault::NotDurable(why)),
        CommitAnswer::Refused(fault) => Reply::Failed(fault),
        CommitAnswer::Late => Reply::Failed(Fault::Unavailable(
            "the file system does not answer; whether it will still put the file in place is not known, and until it \
             answers the lock stays where it is"
                .to_owned(),
        )),
    }
}
