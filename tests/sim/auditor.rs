//! The auditor: it knows what was asked, what was answered and what the disk holds, and nothing of how the table works.
//!
//! From the answers it keeps its own list of who was promised what and for how long ([`Claim`]), as naively as the
//! contract says it; each new answer and each image of the journal is held against that list. Where an answer may have
//! been decided earlier than it was sent, only what was so all the time in between counts.

use crate::flocks::Machine;
use crate::log::counters;
use crate::server::AUDITOR;
use flockd::journal::Loaded;
use flockd::limits;
use flockd::model::*;
use flockd::scope::{Scope, Target};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A request that is not answered yet.
#[derive(Clone, Debug)]
struct Open {
    command: Command,
    turn: u64,
    at: Moment,
    /// Place in the order in which requests came.
    order: u64,
    /// The highest fence told before it was asked.
    fence_before: u64,
    /// It is a request that was asked before, by its own id.
    is_again: bool,
    /// What it would get may have been ended before the answer leaves.
    voided: bool,
    /// Nobody listens for the answer any more.
    is_gone: bool,
}

impl Open {
    /// The terms on which an agent may hold from now on what it holds already.
    fn terms(&self) -> Option<Terms> {
        terms(&self.command, self.at)
    }
}

/// An agent asks for what it may hold already, with another lease: until the answer is there, no more than the shorter
/// of both is promised.
#[derive(Clone)]
struct Terms {
    agent: Agent,
    target: Option<Target>,
    ttl: u64,
    from: Moment,
}

impl Terms {
    fn concern(&self, claim: &Claim) -> bool {
        let is_meant = self.target.as_ref().is_none_or(|target| overlap(target, &claim.lock.ask.target));
        claim.lock.ask.who.agent == self.agent && is_meant
    }
}

fn terms(command: &Command, from: Moment) -> Option<Terms> {
    match command {
        Command::Renew { who, ttl: Some(ttl), .. } => {
            Some(Terms { agent: who.agent.clone(), target: None, ttl: *ttl, from })
        }
        Command::Lock { ask, .. } => {
            let (agent, target) = (ask.who.agent.clone(), Some(ask.target.clone()));
            Some(Terms { agent, target, ttl: ask.lease.ttl, from })
        }
        _ => None,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeper {
    Nobody,
    Session(SessionId),
    Process(Process),
}

/// A lock that somebody was told to hold.
#[derive(Clone, Debug)]
struct Claim {
    lock: Lock,
    keeper: Keeper,
    /// When its lease runs out.
    until: Option<Moment>,
    /// The shortest lease it ever had: what a lost renewal may have left.
    shortest: u64,
    told_in: u64,
    /// It was last told of by an answer that may be older than what is known: only the least is promised.
    is_vague: bool,
    /// Its holder has read of it.
    is_delivered: bool,
    /// Something may have ended it: nothing is promised any more.
    over: bool,
    epoch: u64,
}

/// A lock that is known to have ended.
#[derive(Clone, Debug)]
struct End {
    turn: u64,
    /// It is in the journal: what ends while the journal cannot be written may come back.
    written: bool,
    epoch: u64,
}

/// A loss that its agent has not been told.
#[derive(Clone, Debug)]
struct Owed {
    who: Who,
    target: Target,
    turn: u64,
}

#[derive(Clone, Debug)]
struct Sess {
    row: Session,
    away_until: Option<Moment>,
}

counters! {
    /// What a run came to, so that it can be told whether anything was tried at all.
    Counts {
        grants,
        waits_granted,
        resumed,
        refused,
        deadlocks,
        released,
        losses_told,
        sessions_returned,
        unavailable,
        late,
        probes,
        images,
        durable,
        events,
        taken_back,
        contested,
    }
}

/// The epoch of what was decided nobody knows when.
const UNKNOWN: u64 = u64::MAX;

#[derive(Default)]
pub struct Auditor {
    /// The files and who has a flock on them: what is said of flocks is held against it.
    machine: Machine,
    turn: u64,
    order: u64,
    trouble: bool,
    open: BTreeMap<Caller, Open>,
    claims: BTreeMap<LockId, Claim>,
    ended: BTreeMap<LockId, End>,
    owed: BTreeMap<LockId, Owed>,
    sessions: BTreeMap<SessionId, Sess>,
    fences: BTreeMap<Fence, LockId>,
    top_fence: u64,
    top_event: u64,
    /// Requests with ids that were ever asked, and how they were taken back.
    asked: BTreeSet<(Agent, RequestId)>,
    cancelled: BTreeSet<(Agent, RequestId)>,
    /// Everything ever asked for: a lock that nobody asked for is from nowhere.
    wishes: BTreeSet<(Agent, Scope, Mode)>,
    /// The queue as last seen, less what was answered or may have left since.
    queue: BTreeMap<WaiterId, Waiter>,
    /// A grant was held back for so long that its lock is forgotten when it is answered: nobody knows which it was.
    has_forgotten: bool,
    /// Locks that the present daemon found.
    inherited: BTreeSet<LockId>,
    /// The last status, if nothing was fed since.
    status: Option<(Vec<Lock>, Vec<Queued>)>,
    /// Every event ever seen, and those that should be there.
    ever: BTreeMap<u64, Event>,
    kept: BTreeSet<u64>,
    /// Gaps in the numbers that are explained: between these two numbers.
    gaps: Vec<(u64, u64)>,
    gap_from: Option<u64>,
    gaps_after: BTreeSet<u64>,
    /// Counts what may lose events.
    epoch: u64,
    /// When the last turn was: what came due since is not done yet.
    last: Moment,
    /// When the queue was seen.
    queue_seen: Moment,
    /// A grant that is to outlive a power cut was told since this was last asked.
    told_for_good: bool,
    pub counts: Counts,
}

impl Auditor {
    pub fn new(machine: Machine) -> Auditor {
        Auditor { machine, ..Auditor::default() }
    }
}

// ── The rules, as simply as they can be said ────────────────────────────────────────────────────────────────────────

fn is_below(path: &[u8], root: &[u8]) -> bool {
    root == b"/" || path == root || (path.starts_with(root) && path[root.len()] == b'/')
}

/// Whether two targets have a file in common.
fn overlap(a: &Target, b: &Target) -> bool {
    let inside = |tree: &Target, other: &Target| {
        let (Scope::Subtree(root), Some(path)) = (&tree.scope, other.scope.path()) else { return false };
        is_below(path, root) || tree.own_id().is_some_and(|id| other.ids.contains(&id))
    };
    let same = a.scope == b.scope || (a.own_id().is_some() && a.own_id() == b.own_id());
    same || inside(a, b) || inside(b, a)
}

fn is_named(a: &Scope, b: &Scope) -> bool {
    let covers = |tree: &Scope, other: &Scope| match (tree, other.path()) {
        (Scope::Subtree(root), Some(path)) => is_below(path, root),
        _ => tree == other,
    };
    covers(a, b) || covers(b, a)
}

fn same_scope(a: &Target, b: &Target) -> bool {
    a.scope == b.scope || (a.own_id().is_some() && a.own_id() == b.own_id())
}

/// Whether two custodians keep each other out: all but those of one agent of which one holds no guard.
fn strangers(a: &Agent, a_guard: Option<SessionId>, b: &Agent, b_guard: Option<SessionId>) -> bool {
    a != b || (a_guard.is_some() && b_guard.is_some())
}

fn clash(a: &Lock, b: &Lock) -> bool {
    a.ask.mode.excludes(b.ask.mode)
        && strangers(&a.ask.who.agent, a.keeper(), &b.ask.who.agent, b.keeper())
        && overlap(&a.ask.target, &b.ask.target)
}

fn blocks(lock: &Lock, ask: &Ask) -> bool {
    lock.ask.mode.excludes(ask.mode)
        && strangers(&lock.ask.who.agent, lock.keeper(), &ask.who.agent, ask.who.session)
        && overlap(&lock.ask.target, &ask.target)
}

fn comes_before(first: &Waiter, ask: &Ask) -> bool {
    first.takes
        && first.ask.mode.excludes(ask.mode)
        && strangers(&first.ask.who.agent, first.ask.who.session, &ask.who.agent, ask.who.session)
        && overlap(&first.ask.target, &ask.target)
}

/// A weaker lock of its own on the same scope: it is not strengthened while it is held.
fn is_own_weaker(lock: &Lock, ask: &Ask) -> bool {
    lock.ask.who.agent == ask.who.agent
        && lock.ask.mode < ask.mode
        && same_scope(&lock.ask.target, &ask.target)
        && !strangers(&lock.ask.who.agent, lock.keeper(), &ask.who.agent, ask.who.session)
}

fn keeper_of(lock: &Lock) -> Keeper {
    match lock.custody {
        Custody::Detached => Keeper::Nobody,
        Custody::Session(session) => Keeper::Session(session),
        Custody::Process(process) => Keeper::Process(process),
    }
}

fn lease_end(claim: &Claim, ttl: u64, now: Moment) -> Moment {
    claim.lock.hold_until.map_or(now.after(ttl), |most| most.min(now.after(ttl)))
}

fn who_and_target(command: &Command) -> Option<(&Who, Option<&Target>)> {
    match command {
        Command::Lock { ask, .. } | Command::WaitFree { ask, .. } => Some((&ask.who, Some(&ask.target))),
        Command::Check { who, target, .. } => Some((who, Some(target))),
        Command::Status { who, target, .. } => Some((who.as_ref()?, target.as_ref())),
        Command::Unlock { who, which, .. } | Command::Renew { who, which, .. } => match which {
            Which::All => Some((who, None)),
            Which::Scope(target) => Some((who, Some(target))),
            Which::Id(_) => None,
        },
        _ => None,
    }
}

fn caller_of(command: &Command) -> Option<Caller> {
    match command {
        Command::OpenSession { caller, .. }
        | Command::ReturnSession { caller, .. }
        | Command::Lock { caller, .. }
        | Command::WaitFree { caller, .. }
        | Command::Renew { caller, .. }
        | Command::Check { caller, .. }
        | Command::Break { caller, .. }
        | Command::Status { caller, .. }
        | Command::Bind { caller, .. }
        | Command::Cancel { caller, .. } => Some(*caller),
        Command::Unlock { caller, .. } => *caller,
        Command::EndSession(_)
        | Command::ProcessGone(_)
        | Command::CallerGone { .. }
        | Command::TakeBack { .. }
        | Command::LossesTold(_)
        | Command::Os { .. }
        | Command::Tick => None,
    }
}

// ── What goes in ────────────────────────────────────────────────────────────────────────────────────────────────────

impl Auditor {
    pub fn turn_begins(&mut self) {
        self.turn += 1;
        self.status = None;
    }

    /// The commands of this turn were carried out, or not: the answers follow.
    pub fn turned(&mut self, trouble: bool) {
        if trouble && !self.trouble {
            self.lossy();
        }
        if !trouble {
            self.ended.values_mut().for_each(|end| end.written = true);
        }
        self.trouble = trouble;
    }

    /// From here on events may be missing; the numbers show it.
    fn lossy(&mut self) {
        self.epoch += 1;
        let seen = self.kept.last().copied().unwrap_or(0);
        self.gap_from = Some(self.gap_from.map_or(seen, |from| from.min(seen)));
    }

    pub fn fed(&mut self, now: Now, command: &Command) {
        self.status = None;
        // Only a command makes the table look at the clock, and what is taken back is taken back before.
        if !matches!(command, Command::TakeBack { .. }) {
            self.last = now.mono;
            self.expire(now.mono);
        }
        if let Some(terms) = terms(command, now.mono) {
            self.may_shorten(&terms);
        }
        match command {
            Command::EndSession(id) => self.session_over(*id, now.mono, false),
            Command::ProcessGone(process) => self.process_over(*process, now.mono),
            Command::CallerGone { conn } => {
                self.queue.retain(|_, waiter| waiter.caller.is_none_or(|caller| caller.conn != *conn));
                let open = self.open.iter_mut().filter(|(caller, _)| caller.conn == *conn);
                open.for_each(|(_, open)| open.is_gone = true);
            }
            Command::Unlock { who, which, .. } => self.unlock_asked(who, which),
            Command::TakeBack { id, fence, .. } => self.taken_back(*id, *fence),
            Command::LossesTold(ids) => ids.iter().for_each(|id| drop(self.owed.remove(id))),
            Command::Break { id, .. } => self.void(*id),
            Command::Cancel { waiting, .. } => {
                self.queue.retain(|_, waiter| waiter.caller != Some(*waiting));
            }
            Command::Lock { ask, .. } | Command::WaitFree { ask, .. } => {
                self.wishes.insert((ask.who.agent.clone(), ask.target.scope.clone(), ask.mode));
            }
            _ => {}
        }
        let mut is_again = false;
        if let Command::Lock { ask, caller, .. } = command
            && let Some(request) = &ask.request
        {
            let key = (ask.who.agent.clone(), request.clone());
            is_again = !self.asked.insert(key.clone());
            // It takes up its place, or is told that the id means something else.
            let absent = self.queue.values_mut().filter(|waiter| waiter.caller.is_none());
            for waiter in absent.filter(|absent| absent.ask.who.agent == ask.who.agent) {
                if waiter.ask.request.as_ref() == Some(request) {
                    (waiter.caller, waiter.absent_until) = (Some(*caller), None);
                }
            }
            self.cancelled.remove(&key);
        }
        let Some(caller) = caller_of(command) else { return };
        self.order += 1;
        let open = Open {
            command: command.clone(),
            turn: self.turn,
            at: now.mono,
            order: self.order,
            fence_before: self.top_fence,
            is_again,
            voided: false,
            is_gone: false,
        };
        let before = self.open.insert(caller, open);
        assert!(before.is_none(), "the workload asks {caller:?} twice");
    }

    /// Nothing is promised about this lock any more.
    fn void(&mut self, id: LockId) {
        if let Some(claim) = self.claims.get_mut(&id) {
            claim.over = true;
        }
        // Its answer may still be on its way.
        self.open.values_mut().for_each(|open| open.voided = true);
    }

    fn may_shorten(&mut self, terms: &Terms) {
        for claim in self.claims.values_mut() {
            if terms.concern(claim) && claim.keeper == Keeper::Nobody && terms.ttl < claim.lock.ask.lease.ttl {
                let end = terms.from.after(terms.ttl);
                claim.until = Some(claim.until.map_or(end, |until| until.min(end)));
                claim.shortest = claim.shortest.min(terms.ttl);
                claim.is_vague = true;
            }
        }
    }

    /// Nobody was told whether it was carried out.
    fn may_have_changed(&mut self, terms: &Terms) {
        self.claims.values_mut().filter(|claim| terms.concern(claim)).for_each(|claim| claim.is_vague = true);
    }

    /// The server takes back a grant. Whoever has read of a lock keeps it, whatever becomes of any other answer.
    fn taken_back(&mut self, id: LockId, fence: Fence) {
        self.counts.taken_back += 1;
        let is_relied_on = |claim: &Claim| claim.is_delivered || claim.lock.fence != fence;
        if !self.claims.get(&id).is_some_and(is_relied_on) {
            self.void(id);
        }
    }

    fn unlock_asked(&mut self, who: &Who, which: &Which) {
        let is_meant = |claim: &Claim| match which {
            Which::All => true,
            Which::Id(id) => claim.lock.id == *id,
            Which::Scope(target) => same_scope(&claim.lock.ask.target, target),
        };
        for claim in self.claims.values_mut() {
            if claim.lock.ask.who.agent == who.agent && is_meant(claim) {
                claim.over = true;
            }
        }
        for open in self.open.values_mut() {
            if let Command::Lock { ask, .. } = &open.command
                && ask.who.agent == who.agent
            {
                open.voided = true;
            }
        }
    }

    fn session_over(&mut self, id: SessionId, now: Moment, is_silent: bool) {
        if self.sessions.remove(&id).is_none() {
            return;
        }
        self.queue.retain(|_, waiter| waiter.ask.who.session != Some(id));
        // From now on any of the agent's calls is told what this session lost.
        for owed in self.owed.values_mut().filter(|owed| owed.who.session == Some(id)) {
            owed.turn = self.turn;
        }
        let kept: Vec<LockId> = self.kept_by(Keeper::Session(id));
        for lock in kept {
            self.let_go(lock, now, is_silent);
        }
        for open in self.open.values_mut() {
            if let Some((who, _)) = who_and_target(&open.command) {
                open.voided |= who.session == Some(id);
                open.is_gone |= who.session == Some(id);
            }
        }
    }

    fn process_over(&mut self, process: Process, now: Moment) {
        let sessions: Vec<SessionId> =
            self.sessions.values().filter(|s| s.row.process == Some(process)).map(|s| s.row.id).collect();
        for session in sessions {
            self.session_over(session, now, false);
        }
        for lock in self.kept_by(Keeper::Process(process)) {
            self.let_go(lock, now, false);
        }
    }

    fn kept_by(&self, keeper: Keeper) -> Vec<LockId> {
        self.claims.values().filter(|claim| claim.keeper == keeper).map(|claim| claim.lock.id).collect()
    }

    /// What kept it is gone: it is on its lease from now on.
    fn let_go(&mut self, id: LockId, now: Moment, is_silent: bool) {
        let turn = self.turn;
        let claim = self.claims.get_mut(&id).expect("it was found by its keeper");
        claim.keeper = Keeper::Nobody;
        claim.lock.custody = Custody::Detached;
        if claim.lock.ask.lease.ttl > 0 {
            claim.until = claim.until.or(Some(lease_end(claim, claim.lock.ask.lease.ttl, now)));
            // Its agent may take it up just now on terms of which nobody has heard yet.
            let asked: Vec<Terms> = self.open.values().filter_map(Open::terms).collect();
            return asked.iter().for_each(|terms| self.may_shorten(terms));
        }
        let is_loss = is_silent && !claim.over;
        let owed = Owed { who: claim.lock.ask.who.clone(), target: claim.lock.ask.target.clone(), turn };
        claim.over = true;
        if is_loss {
            self.owed.insert(id, owed);
        }
    }

    /// Time alone ends sessions that stay away and leases.
    fn expire(&mut self, now: Moment) {
        let silent: Vec<SessionId> = self
            .sessions
            .values()
            .filter(|s| s.away_until.is_some_and(|until| until <= now))
            .map(|s| s.row.id)
            .collect();
        for session in silent {
            self.session_over(session, now, true);
        }
        self.queue.retain(|_, waiter| {
            let due = [waiter.deadline, waiter.absent_until].into_iter().flatten().min();
            due.is_none_or(|due| due > now)
        });
        let due: Vec<LockId> =
            self.claims.values().filter(|claim| self.has_run_out(claim, now)).map(|c| c.lock.id).collect();
        for id in due {
            let claim = self.claims.get_mut(&id).expect("it was found just now");
            claim.over = true;
            let owed = Owed { who: claim.lock.ask.who.clone(), target: claim.lock.ask.target.clone(), turn: self.turn };
            self.owed.insert(id, owed);
        }
    }

    /// Whether its lease is over for certain: nobody may have renewed it meanwhile.
    fn has_run_out(&self, claim: &Claim, now: Moment) -> bool {
        let is_asking = |open: &Open| match &open.command {
            Command::Lock { ask, .. } => ask.who.agent == claim.lock.ask.who.agent,
            Command::Renew { who, .. } | Command::Check { who, .. } | Command::Bind { who, .. } => {
                who.agent == claim.lock.ask.who.agent
            }
            Command::ReturnSession { .. } => true,
            _ => false,
        };
        let is_certain = !claim.is_vague && !self.open.values().any(is_asking);
        !claim.over && claim.until.is_some_and(|until| until <= now) && is_certain
    }

    fn is_live(&self, claim: &Claim, now: Moment) -> bool {
        let is_kept = match claim.keeper {
            Keeper::Session(id) => self.sessions.contains_key(&id),
            Keeper::Nobody | Keeper::Process(_) => true,
        };
        !claim.over && is_kept && claim.until.is_none_or(|until| until > now)
    }

    /// The client has read this answer.
    pub fn read(&mut self, answer: &Answer) {
        if let Reply::Granted(granted) = &answer.reply
            && let Some(claim) = self.claims.get_mut(&granted.lock.id)
        {
            claim.is_delivered = true;
        }
    }
}

// ── What comes out ──────────────────────────────────────────────────────────────────────────────────────────────────

impl Auditor {
    pub fn told(&mut self, now: Now, to: Caller, answer: &Answer) {
        let open = self.open.remove(&to).unwrap_or_else(|| panic!("{to:?} is answered and did not ask, or twice"));
        self.counts.late += u64::from(open.turn != self.turn);
        self.losses(now, &open, answer);
        match &answer.reply {
            Reply::Granted(granted) => self.granted(now, &open, granted),
            Reply::Refused(refused) => self.refused(now, &open, refused),
            Reply::Free => self.free(now, &open),
            Reply::Released(locks) => self.released(&open, locks),
            Reply::Renewed(locks) => locks.iter().for_each(|lock| self.touched(lock, &open)),
            Reply::Checked(checked) => self.checked(now, &open, checked),
            Reply::Broken(ended) => self.broken(now, ended),
            Reply::Status { locks, waiters } => {
                self.counts.probes += 1;
                self.status(&open, locks, waiters);
            }
            Reply::Bound(id) => {
                if let (Command::Bind { process, .. }, Some(claim)) = (&open.command, self.claims.get_mut(id)) {
                    (claim.keeper, claim.until) = (Keeper::Process(*process), None);
                    claim.lock.custody = Custody::Process(*process);
                    claim.lock.expires = None;
                }
            }
            Reply::SessionOpen(id) => self.session_open(&open, *id),
            Reply::Cancelled(is_gone) => self.cancelled(&open, *is_gone),
            Reply::Failed(fault) => self.failed(now, &open, fault),
        }
        self.queue.retain(|_, waiter| waiter.caller != Some(to));
    }

    /// Every loss is told before the next success that concerns it, and none is told that is not one.
    fn losses(&mut self, now: Now, open: &Open, answer: &Answer) {
        for ended in &answer.lost {
            self.counts.losses_told += 1;
            if let Some(claim) = self.claims.get(&ended.id) {
                let is_other = claim.lock.fence != ended.fence;
                assert!(is_other || !self.is_live(claim, now.mono), "{} is told to be lost and is not", ended.id);
            }
            self.end(ended.id, self.turn, UNKNOWN);
        }
        if matches!(answer.reply, Reply::Failed(_) | Reply::Cancelled(_)) {
            return;
        }
        let Some((who, target)) = who_and_target(&open.command) else { return };
        for (id, owed) in &self.owed {
            let listening = owed.who.session.filter(|id| self.sessions.contains_key(id));
            let is_named = || target.is_none_or(|target| is_named(&target.scope, &owed.target.scope));
            let is_meant = listening.map_or_else(is_named, |session| who.session == Some(session));
            let is_told = answer.lost.iter().any(|ended| ended.id == *id);
            let is_due = owed.who.agent == who.agent && is_meant && owed.turn < open.turn && !is_told;
            assert!(!is_due, "{} succeeds and is not told that it lost {id}", who.agent);
        }
    }

    /// This lock has ended for certain, not later than in `turn`.
    fn end(&mut self, id: LockId, turn: u64, epoch: u64) {
        let end = End { turn, written: !self.trouble, epoch };
        self.ended.entry(id).or_insert(end);
        if let Some(claim) = self.claims.get_mut(&id) {
            claim.over = true;
        }
    }

    fn granted(&mut self, now: Now, open: &Open, granted: &Granted) {
        let lock = &granted.lock;
        let Command::Lock { ask, wait, .. } = &open.command else { panic!("{} was granted unasked", lock.id) };
        assert!(lock.ask.who.agent == ask.who.agent && lock.ask.mode >= ask.mode, "{} is not what was asked", lock.id);
        assert!(lock.fence.0 < limits::FENCE_END && lock.id.0 <= lock.fence.0, "{} has no fence", lock.id);
        let is_late = open.turn != self.turn;
        if is_late && self.claims.get(&lock.id).is_some_and(|claim| claim.lock.fence >= lock.fence) {
            return self.touched(lock, open);
        }
        let before = self.claims.get(&lock.id);
        let is_known = before.is_some_and(|claim| claim.lock.fence == lock.fence);
        if !granted.already_held && !is_known {
            self.counts.grants += 1;
            self.counts.resumed += u64::from(granted.resumed);
            self.counts.waits_granted += u64::from(*wait != Wait::Try && open.turn != self.turn);
            self.fresh_fence(open, lock);
            let is_kept = !matches!(lock.custody, Custody::Detached);
            assert!(lock.expires.is_none() == is_kept, "{} is kept, or on its lease: {lock:?}", lock.id);
            if !granted.resumed {
                self.in_turn(now, open, lock);
            }
        }
        if let Some(claim) = self.claims.get(&lock.id) {
            assert!(claim.lock.fence <= lock.fence, "{} was granted with fence {}", lock.id, claim.lock.fence.0);
        }
        assert!(self.ended.get(&lock.id).is_none_or(|end| end.turn == self.turn), "{} had ended", lock.id);
        let before = self.claims.get(&lock.id);
        let shortest = before.map_or(lock.ask.lease.ttl, |claim| claim.shortest.min(lock.ask.lease.ttl));
        let is_delivered = is_known && before.is_some_and(|claim| claim.is_delivered);
        let keeper = keeper_of(lock);
        let is_gone = matches!(keeper, Keeper::Session(id) if !self.sessions.contains_key(&id));
        let claim = Claim {
            lock: lock.clone(),
            keeper,
            until: lock.expires,
            shortest,
            told_in: self.turn,
            is_vague: open.turn != self.turn,
            is_delivered,
            over: open.voided
                || is_gone
                || self.ended.contains_key(&lock.id)
                || before.is_some_and(|c| is_known && c.over),
            epoch: match before {
                Some(before) if is_known => before.epoch,
                _ if open.is_again || granted.already_held || self.trouble => UNKNOWN,
                _ => self.epoch,
            },
        };
        if self.is_live(&claim, now.mono) {
            self.excludes(now, &claim);
            if lock.ask.lease.ttl > 0 {
                self.told_for_good = true;
            }
        }
        self.claims.insert(lock.id, claim);
        let asked: Vec<Terms> = self.open.values().filter_map(Open::terms).collect();
        asked.iter().for_each(|terms| self.may_shorten(terms));
        self.top_fence = self.top_fence.max(lock.fence.0);
    }

    fn fresh_fence(&mut self, open: &Open, lock: &Lock) {
        if !open.is_again {
            assert!(lock.fence.0 > open.fence_before, "fence {} comes after {}", lock.fence.0, open.fence_before);
        }
        let before = self.fences.insert(lock.fence, lock.id);
        assert!(before.is_none_or(|id| id == lock.id), "fence {} was given out twice", lock.fence.0);
    }

    /// Nobody who was seen to wait for the same, and came earlier, still waits.
    fn in_turn(&self, now: Now, open: &Open, lock: &Lock) {
        let Some(caller) = caller_of(&open.command) else { return };
        let place = self.queue.values().find(|waiter| waiter.caller == Some(caller)).map(|waiter| waiter.id);
        for waiter in self.queue.values() {
            let is_earlier = match place {
                Some(place) => waiter.id < place,
                None => match waiter.caller {
                    Some(of) => self.open.get(&of).is_some_and(|earlier| earlier.order < open.order),
                    // Its place is from before the restart.
                    None => true,
                },
            };
            // Its answer may be held back; then what it was granted may have run out already.
            let asked = self.open.values().filter_map(Open::terms);
            let lease = asked.filter(|terms| terms.agent == waiter.ask.who.agent).map(|terms| terms.ttl).min();
            let lease = lease.unwrap_or(0).min(waiter.ask.lease.ttl);
            let may_be_over = waiter.ask.who.session.is_none() && self.queue_seen.after(lease) <= now.mono;
            let is_open = waiter.caller.is_some_and(|of| self.open.get(&of).is_some_and(|open| !open.voided));
            // The system may have said no to one that would not wait, and its refusal is held back.
            let is_waiting = waiter.caller.is_none() || (is_open && !may_be_over && !waiter.at_once);
            assert!(
                !(is_earlier && is_waiting && comes_before(waiter, &lock.ask) && !open.is_again && !open.voided),
                "at {}: {} is granted to {} while {} waits longer",
                now.mono.0,
                lock.id,
                lock.ask.who.agent,
                waiter.ask.who.agent
            );
        }
    }

    fn excludes(&self, now: Now, claim: &Claim) {
        for other in self.claims.values().filter(|other| other.lock.id != claim.lock.id) {
            assert!(
                !(clash(&claim.lock, &other.lock) && self.is_live(other, now.mono)),
                "{} is told to {} while {} holds {}",
                claim.lock.id,
                claim.lock.ask.who.agent,
                other.lock.ask.who.agent,
                other.lock.id
            );
        }
    }

    fn refused(&mut self, now: Now, open: &Open, refused: &Refused) {
        self.counts.refused += 1;
        let (Command::Lock { ask, wait, .. } | Command::WaitFree { ask, wait, .. }) = &open.command else {
            panic!("refused unasked: {:?}", open.command)
        };
        for holder in &refused.holders {
            let is_over = self.ended.get(&holder.id).is_some_and(|end| end.turn < open.turn);
            assert!(!is_over, "{} is named as a holder and had ended", holder.id);
            self.is_committed(holder);
        }
        match &refused.why {
            RefusedFor::Held => {
                assert!(*wait == Wait::Try, "a request that waits is refused as held");
                let is_blocked = !refused.holders.is_empty() || refused.position > 1 || refused.foreigner.is_some();
                assert!(is_blocked, "{} is refused and nothing is in the way", ask.who.agent);
                // Without a slow disk or file system it was just now that the file was tried.
                if let Some(foreigner) = refused.foreigner.as_ref().filter(|_| open.turn == self.turn) {
                    self.is_there(foreigner, ask);
                }
            }
            RefusedFor::OwnLock => assert!(!refused.holders.is_empty()),
            RefusedFor::Timeout => {
                let is_over = matches!(wait, Wait::Until(until) if *until <= now.mono) || open.is_again;
                assert!(is_over, "{} is sent away before its time", ask.who.agent);
            }
            RefusedFor::Deadlock(cycle) => {
                self.counts.deadlocks += 1;
                let links = cycle.iter().zip(cycle.iter().cycle().skip(1));
                let is_closed = links.clone().all(|(link, next)| link.behind == next.waits);
                assert!(is_closed && cycle[0].waits == ask.who.agent, "no cycle: {cycle:?}");
            }
        }
    }

    fn free(&self, now: Now, open: &Open) {
        let Command::WaitFree { ask, .. } = &open.command else { panic!("free, unasked") };
        for claim in self.claims.values().filter(|claim| self.is_live(claim, now.mono) && claim.told_in < open.turn) {
            // A subtree does not keep out other names of its files from outside: who holds it may have the file too.
            let has_it = self
                .claims
                .values()
                .any(|own| own.lock.ask.who.agent == ask.who.agent && overlap(&own.lock.ask.target, &ask.target));
            assert!(has_it || !blocks(&claim.lock, ask), "it is called free, and {} is held", claim.lock.id);
        }
    }

    fn released(&mut self, open: &Open, locks: &[Lock]) {
        let Command::Unlock { who, .. } = &open.command else { panic!("released unasked") };
        for lock in locks {
            self.counts.released += 1;
            assert_eq!(lock.ask.who.agent, who.agent, "{} is another's", lock.id);
            let before = self.ended.get(&lock.id);
            assert!(before.is_none_or(|end| end.turn >= open.turn), "{} is released and had ended", lock.id);
            let is_over_head = lock.keeper().is_some() && lock.keeper() != who.session;
            if is_over_head && !self.ended.contains_key(&lock.id) {
                let owed = Owed { who: lock.ask.who.clone(), target: lock.ask.target.clone(), turn: self.turn };
                self.owed.insert(lock.id, owed);
            }
            self.end(lock.id, self.turn, self.epoch);
        }
    }

    /// A lock was renewed or looked at by its agent.
    fn touched(&mut self, lock: &Lock, open: &Open) {
        let before = self.ended.get(&lock.id);
        assert!(before.is_none_or(|end| end.turn == self.turn), "{} is renewed and had ended", lock.id);
        let Some(claim) = self.claims.get_mut(&lock.id) else { return };
        claim.shortest = claim.shortest.min(lock.ask.lease.ttl);
        if claim.lock.fence > lock.fence {
            return;
        }
        // What came behind it in the same turn may have changed the keeper.
        claim.is_vague = open.turn != self.turn || keeper_of(lock) != claim.keeper;
        if claim.is_vague {
            claim.until = [claim.until, lock.expires].into_iter().flatten().min();
        } else {
            claim.until = lock.expires;
            claim.lock = lock.clone();
        }
        let asked: Vec<Terms> = self.open.values().filter_map(Open::terms).collect();
        asked.iter().for_each(|terms| self.may_shorten(terms));
    }

    fn checked(&mut self, now: Now, open: &Open, checked: &Result<Box<Lock>, Vec<Lock>>) {
        let Command::Check { who, target, fence, .. } = &open.command else { panic!("checked unasked") };
        match checked {
            Ok(lock) => {
                assert!(lock.ask.who.agent == who.agent && lock.ask.mode == Mode::Exclusive, "{} is no leave", lock.id);
                assert!(fence.is_none_or(|fence| fence == lock.fence), "{} has another fence", lock.id);
                self.touched(lock, open);
                for other in self.claims.values().filter(|other| other.told_in < open.turn) {
                    assert!(
                        !(self.is_live(other, now.mono) && other.lock.id != lock.id && clash(&other.lock, lock)),
                        "{} may write under {} while {} is held",
                        who.agent,
                        lock.id,
                        other.lock.id
                    );
                }
            }
            Err(holders) => {
                holders.iter().for_each(|holder| self.is_committed(holder));
                let mine = self.claims.values().find(|claim| {
                    self.is_live(claim, now.mono)
                        && claim.told_in < open.turn
                        && !claim.is_vague
                        // Its agent may have taken it up with a new fence of which nobody has heard yet.
                        && !self.open.values().filter_map(Open::terms).any(|terms| terms.concern(claim))
                        && claim.lock.ask.who.agent == who.agent
                        && claim.lock.ask.mode == Mode::Exclusive
                        && claim.lock.ask.target.scope == target.scope
                        && fence.is_none_or(|fence| fence == claim.lock.fence)
                });
                assert!(mine.is_none(), "{} is told that it does not hold what it holds: {mine:?}", who.agent);
            }
        }
    }

    fn broken(&mut self, now: Now, ended: &Ended) {
        let _ = now;
        let owed = Owed { who: ended.ask.who.clone(), target: ended.ask.target.clone(), turn: self.turn };
        self.owed.insert(ended.id, owed);
        self.end(ended.id, self.turn, self.epoch);
    }

    fn session_open(&mut self, open: &Open, id: SessionId) {
        match &open.command {
            Command::OpenSession { session, .. } => {
                self.sessions.insert(id, Sess { row: session.clone(), away_until: None });
            }
            Command::ReturnSession { .. } => {
                self.counts.sessions_returned += 1;
                let session = self.sessions.get_mut(&id).expect("a session that has ended is not taken up again");
                session.away_until = None;
                for lock in self.kept_by(Keeper::Session(id)) {
                    let claim = &self.claims[&lock];
                    let is_over = !self.is_live(claim, open.at);
                    let claim = self.claims.get_mut(&lock).expect("it was found by its keeper");
                    (claim.until, claim.over) = (None, is_over);
                }
            }
            other => panic!("a session is open for {other:?}"),
        }
    }

    fn cancelled(&mut self, open: &Open, is_gone: bool) {
        if let Command::Lock { ask, .. } = &open.command {
            assert!(is_gone, "a request is told that it is not cancelled");
            let asked_again = self.open.values().any(|open| match &open.command {
                Command::Lock { ask: again, .. } => again.who.agent == ask.who.agent && again.request == ask.request,
                _ => false,
            });
            if let Some(request) = ask.request.as_ref().filter(|_| !asked_again) {
                self.cancelled.insert((ask.who.agent.clone(), request.clone()));
            }
        }
    }

    fn failed(&mut self, now: Now, open: &Open, fault: &Fault) {
        match fault {
            Fault::Unavailable(_) => {
                self.counts.unavailable += 1;
                if let Some(terms) = open.terms() {
                    self.may_shorten(&terms);
                    self.may_have_changed(&terms);
                }
            }
            Fault::UnknownSession => {
                let id = match &open.command {
                    Command::ReturnSession { id, .. } => Some(*id),
                    command => who_and_target(command).and_then(|(who, _)| who.session),
                };
                let known = id.and_then(|id| self.sessions.get(&id));
                assert!(known.is_none(), "an open session is unknown: {known:?}");
            }
            Fault::NotFound | Fault::NotHolder(_) | Fault::Lost(..) => self.not_held(now, open),
            Fault::Invalid(_) => {}
            Fault::TooMany(text) | Fault::Denied(text) => panic!("refused for another reason: {text}"),
        }
        self.has_forgotten |= *fault == Fault::NotFound && matches!(open.command, Command::Lock { .. });
        if let Fault::Lost(ended, _) = fault {
            // A retry is answered with the end of what was granted; the notice itself is told along with it.
            self.end(ended.id, self.turn, UNKNOWN);
        }
    }

    /// Somebody is told that a lock is not its own: it was not promised then.
    fn not_held(&self, now: Now, open: &Open) {
        let (Command::Unlock { who, which, .. } | Command::Renew { who, which, .. }) = &open.command else { return };
        for claim in self.claims.values() {
            let is_meant = match which {
                Which::Id(id) => claim.lock.id == *id,
                Which::Scope(target) => same_scope(&claim.lock.ask.target, target),
                Which::All => true,
            };
            let is_mine = is_meant && claim.lock.ask.who.agent == who.agent && claim.told_in < open.turn;
            assert!(
                !(is_mine && self.is_live(claim, now.mono)),
                "{} holds {} and is told not to",
                who.agent,
                claim.lock.id
            );
        }
    }

    /// Only who was told to hold a lock is named as its holder, or who was left by the daemon before.
    fn is_committed(&self, holder: &Lock) {
        self.is_from_somewhere(holder);
        let is_told = [self.claims.contains_key(&holder.id), self.ended.contains_key(&holder.id)].contains(&true);
        assert!(
            is_told || self.has_forgotten || self.inherited.contains(&holder.id),
            "{} is named as a holder before it is told so",
            holder.id
        );
    }

    fn is_from_somewhere(&self, lock: &Lock) {
        let ask = &lock.ask;
        let asked = self.wishes.contains(&(ask.who.agent.clone(), ask.target.scope.clone(), ask.mode));
        assert!(asked, "nobody asked for {}: {ask:?}", lock.id);
    }

    fn is_not_cancelled(&self, lock: &Lock) {
        let ask = &lock.ask;
        if let Some(request) = &ask.request
            && !self.trouble
        {
            let key = (ask.who.agent.clone(), request.clone());
            assert!(!self.cancelled.contains(&key), "{} was cancelled and is held: {key:?}", lock.id);
        }
    }
}

// ── The whole state at a moment ─────────────────────────────────────────────────────────────────────────────────────

impl Auditor {
    fn status(&mut self, open: &Open, locks: &[Lock], waiters: &[Queued]) {
        let Command::Status { target, .. } = &open.command else { panic!("a status, unasked") };
        for lock in locks {
            self.is_committed(lock);
            assert!(lock.expires.is_none_or(|until| until > open.at), "{} is held beyond its lease", lock.id);
            assert!(
                self.ended.get(&lock.id).is_none_or(|end| end.turn >= open.turn),
                "{} had ended and is held",
                lock.id
            );
        }
        if target.is_some() {
            return;
        }
        apart(locks);
        if !self.trouble {
            in_line(locks, waiters, open.at);
        }
        // The auditor asks last, so what it is told is so when the turn is over.
        let is_last = caller_of(&open.command).is_some_and(|caller| caller.conn == AUDITOR);
        if open.turn == self.turn && is_last {
            self.compare(open, locks, waiters);
            self.flocks(open.at, locks, waiters);
        }
    }

    /// What is said of flocks is so on the machine, and nothing else is flocked there.
    fn flocks(&mut self, now: Moment, locks: &[Lock], waiters: &[Queued]) {
        let (users, opening) = (self.machine.users(), self.machine.opening());
        let mut asked: BTreeSet<LockId> = BTreeSet::new();
        let mut held: BTreeSet<LockId> = BTreeSet::new();
        for lock in locks {
            let file = lock.ask.target.own_id();
            match &lock.os {
                OsLock::None => {
                    let is_wanted = lock.ask.os && file.is_some();
                    assert!(!is_wanted || self.machine.refused(lock.id), "{} has no flock and never had", lock.id);
                }
                OsLock::Asked => drop(asked.insert(lock.id)),
                OsLock::Held => {
                    let (of, mode) = users.get(&lock.id).unwrap_or_else(|| panic!("{} has no flock", lock.id));
                    assert!(Some(*of) == file && *mode >= lock.ask.mode, "{} has the flock of another", lock.id);
                    assert!(lock.ask.os, "{} is to have no flock", lock.id);
                    held.insert(lock.id);
                }
                OsLock::Contested { again, .. } => {
                    assert!(is_soon(*again, now), "{} is not tried again", lock.id);
                    self.counts.contested += 1;
                }
            }
        }
        for queued in waiters {
            match &queued.waiter.os {
                OsWait::Idle => {}
                OsWait::Asked { lock, .. } => drop(asked.insert(*lock)),
                OsWait::Busy { again, .. } => {
                    assert!(is_soon(*again, now), "a flock for {} is not tried again", queued.waiter.ask.who.agent);
                }
            }
        }
        assert_eq!(asked, opening, "who says that its flock is tried, and whose is");
        assert_eq!(held, users.into_keys().collect(), "who says that it has a flock, and who has");
    }

    /// Nobody foreign is there any more: every flock is had by whoever waited for it.
    pub fn no_flock_is_missed(&self) {
        let Some((locks, waiters)) = &self.status else { panic!("nobody has looked") };
        for lock in locks {
            assert!(matches!(lock.os, OsLock::None | OsLock::Held), "{} never got its flock: {:?}", lock.id, lock.os);
        }
        for Queued { waiter, .. } in waiters {
            assert!(waiter.os == OsWait::Idle, "{} waits for a foreigner who has gone", waiter.ask.who.agent);
        }
    }

    fn is_there(&self, foreigner: &Foreigner, ask: &Ask) {
        let (file, pid) = (ask.target.own_id().expect("what has no identity has no flock"), foreigner.pid);
        let is_there = pid.is_some_and(|pid| self.machine.is_foreign_against(file, ask.mode, pid));
        assert!(is_there, "{} is kept out by a foreigner who is not there: {foreigner:?}", ask.who.agent);
    }

    /// The state just now against what was promised.
    fn compare(&mut self, open: &Open, locks: &[Lock], waiters: &[Queued]) {
        for lock in locks {
            self.is_not_cancelled(lock);
            if let Custody::Session(id) = lock.custody {
                let session = self.sessions.get(&id);
                let session = session.unwrap_or_else(|| panic!("{} is kept by a session that has ended", lock.id));
                let is_here = session.away_until.is_none();
                assert!(!is_here || lock.expires.is_none(), "{} runs out while its session is here", lock.id);
            }
        }
        self.all_held(locks, open.at);
        for queued in waiters {
            let waiter = &queued.waiter;
            if let Some(caller) = waiter.caller {
                let is_expected = self.open.get(&caller).is_some_and(|open| !open.is_gone);
                assert!(is_expected, "{} waits for an answer it had, or that nobody hears", waiter.ask.who.agent);
            }
            let before = self.queue.values().find(|before| waiter.caller.is_some() && before.caller == waiter.caller);
            let is_moved = before.is_some_and(|before| before.id != waiter.id);
            assert!(!is_moved, "{} has another place in the queue than before", waiter.ask.who.agent);
            if let Some(session) = waiter.ask.who.session {
                assert!(self.sessions.contains_key(&session), "a request of an ended session waits");
            }
        }
        for absent in self.queue.values().filter(|waiter| waiter.caller.is_none()) {
            let is_there = waiters.iter().any(|queued| queued.waiter.id == absent.id);
            assert!(is_there, "the place of {} was not kept for it", absent.ask.who.agent);
        }
        self.order_kept(waiters);
        self.queue = waiters.iter().map(|queued| (queued.waiter.id, queued.waiter.clone())).collect();
        self.queue_seen = open.at;
        self.status = Some((locks.to_vec(), waiters.to_vec()));
    }

    /// Everything that is promised now is held, as it was told.
    fn all_held(&self, locks: &[Lock], now: Moment) {
        for claim in self.claims.values().filter(|claim| self.is_live(claim, now)) {
            let held = locks.iter().find(|lock| lock.id == claim.lock.id);
            let held =
                held.unwrap_or_else(|| panic!("{} was told to hold {}: gone", claim.lock.ask.who.agent, claim.lock.id));
            let is_same = held.ask.mode == claim.lock.ask.mode && held.ask.target == claim.lock.ask.target;
            assert!(is_same && held.fence >= claim.lock.fence, "{} is not as it was told: {held:?}", held.id);
        }
    }

    /// Requests stand in the order in which they came.
    fn order_kept(&self, waiters: &[Queued]) {
        let mut last = 0;
        for queued in waiters {
            let open = queued.waiter.caller.and_then(|caller| self.open.get(&caller));
            if let Some(open) = open.filter(|open| !open.is_again) {
                assert!(open.order > last, "{} has passed others in the queue", queued.waiter.ask.who.agent);
                last = open.order;
            }
        }
    }

    /// What the journal holds against what was promised: the process could be killed just now.
    ///
    /// `is_cut`: it is what a power cut would leave, so only what was promised to outlive one is asked for.
    pub fn image(&mut self, loaded: &Loaded, is_cut: bool) {
        let now = self.last;
        self.counts.images += 1;
        let locks: Vec<Lock> = rows(loaded, |record| match record {
            Record::Lock(_, lock) => lock.clone(),
            _ => None,
        });
        apart(&locks);
        assert!(loaded.fences_from > self.top_fence, "fences would start again below {}", self.top_fence);
        assert!(loaded.events_from > self.top_event, "event numbers would start again below {}", self.top_event);
        if is_cut {
            return self.all_durable(&locks, now);
        }
        for claim in self.claims.values().filter(|claim| self.is_live(claim, now)) {
            let kept = locks.iter().find(|lock| lock.id == claim.lock.id);
            let kept = kept.unwrap_or_else(|| panic!("{} was told and is not in the journal", claim.lock.id));
            assert!(kept.fence >= claim.lock.fence, "{} is in the journal with fence {}", kept.id, kept.fence.0);
            let is_other = kept.fence != claim.lock.fence || claim.is_vague;
            assert!(
                self.trouble || is_other || keeper_of(kept) == claim.keeper,
                "{} is kept by {:?}",
                kept.id,
                kept.custody
            );
        }
        if self.trouble {
            return;
        }
        for lock in &locks {
            self.is_from_somewhere(lock);
            self.is_not_cancelled(lock);
            assert!(self.ended.get(&lock.id).is_none_or(|end| !end.written), "{} had ended: in the journal", lock.id);
        }
        self.others_kept(loaded);
        self.events(loaded);
    }

    fn all_durable(&self, locks: &[Lock], now: Moment) {
        for claim in self.claims.values().filter(|claim| self.is_live(claim, now)) {
            if claim.lock.ask.lease.ttl > 0 && claim.shortest > 0 {
                let kept = locks.iter().find(|lock| lock.id == claim.lock.id && lock.fence >= claim.lock.fence);
                assert!(kept.is_some(), "{} was told to outlive a power cut and does not", claim.lock.id);
            }
        }
    }

    /// Sessions, places in the queue and notices are in the journal; and it says what the table says.
    fn others_kept(&self, loaded: &Loaded) {
        let sessions: Vec<Session> = rows(loaded, |record| match record {
            Record::Session(_, session) => session.clone(),
            _ => None,
        });
        for session in self.sessions.values() {
            let kept = sessions.iter().find(|kept| kept.id == session.row.id);
            assert!(kept.is_some_and(|kept| kept.secret == session.row.secret), "a session is lost: {session:?}");
        }
        for session in &sessions {
            assert!(self.sessions.contains_key(&session.id), "a session has ended and is in the journal: {session:?}");
        }
        let untold: Vec<Ended> = rows(loaded, |record| match record {
            Record::Ended(_, ended) => ended.clone().filter(|ended| ended.untold),
            _ => None,
        });
        let owed = self.owed.iter().filter(|(_, owed)| owed.turn < self.turn);
        for (id, owed) in owed {
            assert!(untold.iter().any(|ended| ended.id == *id), "the notice for {} of {id} is lost", owed.who.agent);
        }
        let Some((locks, waiters)) = &self.status else { return };
        let kept: BTreeMap<u64, Lock> = rows(loaded, |record| match record {
            Record::Lock(_, lock) => lock.clone(),
            _ => None,
        })
        .into_iter()
        .map(|lock| (lock.id.0, lock))
        .collect();
        // Flocks are taken anew by each daemon and not kept.
        let held: Vec<Lock> = locks.iter().map(|lock| Lock { os: OsLock::None, ..lock.clone() }).collect();
        assert_eq!(kept.into_values().collect::<Vec<_>>(), held, "journal and table have other locks");
        let kept: BTreeMap<u64, Waiter> = rows(loaded, |record| match record {
            Record::Waiter(_, waiter) => waiter.clone(),
            _ => None,
        })
        .into_iter()
        .map(|waiter| (waiter.id.0, waiter))
        .collect();
        let waiting = waiters.iter().map(|queued| Waiter { caller: None, os: OsWait::Idle, ..queued.waiter.clone() });
        assert_eq!(
            kept.into_values().collect::<Vec<_>>(),
            waiting.collect::<Vec<_>>(),
            "journal and table wait for others"
        );
    }
}

fn rows<T>(loaded: &Loaded, pick: impl Fn(&Record) -> Option<T>) -> Vec<T> {
    loaded.records.iter().filter_map(pick).collect()
}

/// A foreigner's file is tried again in time.
fn is_soon(again: Moment, now: Moment) -> bool {
    again > now && again <= now.after(limits::OS_PAUSE_MAX)
}

/// No two locks exclude each other.
fn apart(locks: &[Lock]) {
    for (at, lock) in locks.iter().enumerate() {
        for other in &locks[at + 1..] {
            assert!(!clash(lock, other), "{} and {} are held at once: {lock:?} {other:?}", lock.id, other.id);
        }
    }
}

/// Whoever waits has something in the way, and stands where it says.
fn in_line(locks: &[Lock], waiters: &[Queued], now: Moment) {
    for (at, queued) in waiters.iter().enumerate() {
        let (waiter, ask) = (&queued.waiter, &queued.waiter.ask);
        let earlier = waiters[..at].iter().filter(|earlier| comes_before(&earlier.waiter, ask)).count();
        assert_eq!(queued.position, earlier + 1, "the place of {} in the queue", ask.who.agent);
        for due in [waiter.deadline, waiter.absent_until].into_iter().flatten() {
            assert!(due > now, "{} waits beyond its time", ask.who.agent);
        }
        assert_eq!(waiter.caller.is_none(), waiter.absent_until.is_some(), "absent or present: {waiter:?}");
        let is_held = locks.iter().any(|lock| blocks(lock, ask) || is_own_weaker(lock, ask));
        let asks_system = waiter.os != OsWait::Idle;
        assert!(!waiter.at_once || asks_system, "{} waits and would not wait", ask.who.agent);
        assert!(
            waiter.caller.is_none() || is_held || earlier > 0 || asks_system,
            "{} waits for {} and nothing is in the way",
            ask.who.agent,
            ask.target.scope
        );
    }
}

// ── Events ──────────────────────────────────────────────────────────────────────────────────────────────────────────

impl Auditor {
    /// Complete and in order, or an explicit gap; no number is used twice.
    fn events(&mut self, loaded: &Loaded) {
        let numbers: BTreeSet<u64> = loaded.events.iter().map(|event| event.seq.0).collect();
        assert_eq!(numbers.len(), loaded.events.len(), "an event number is there twice");
        assert!(loaded.events.is_sorted_by_key(|event| event.seq), "events are out of order");
        let newest = numbers.last().copied().unwrap_or(0);
        match self.gap_from.take() {
            Some(from) => {
                self.gaps.push((from, newest.max(from)));
                // Steps that were undone have taken numbers as well: the next event may come after a gap.
                self.gaps_after.insert(newest);
                self.kept.retain(|seq| numbers.contains(seq));
            }
            None => {
                let missing = self.kept.iter().find(|seq| !numbers.contains(seq));
                assert!(missing.is_none(), "event {missing:?} is gone");
            }
        }
        for event in &loaded.events {
            if let Some(before) = self.ever.get(&event.seq.0) {
                assert_eq!(before, event, "event number {} is used twice", event.seq.0);
            } else {
                assert!(event.seq.0 > self.top_event, "event {} comes after {}", event.seq.0, self.top_event);
                self.counts.events += 1;
                self.ever.insert(event.seq.0, event.clone());
            }
        }
        self.top_event = self.top_event.max(newest);
        self.kept = numbers;
        self.without_gaps(&loaded.events);
        self.stories(&loaded.events);
    }

    fn without_gaps(&self, events: &[Event]) {
        for pair in events.windows(2) {
            let (before, after) = (pair[0].seq.0, pair[1].seq.0);
            let is_explained =
                self.gaps.iter().any(|(from, to)| before < *to && after > *from) || self.gaps_after.contains(&before);
            assert!(after == before + 1 || is_explained, "events between {before} and {after} are missing");
        }
    }

    /// What the events tell of each lock is what happened: it is acquired once, let go, taken up again, and ends once.
    fn stories(&self, events: &[Event]) {
        let mut stories: BTreeMap<LockId, Vec<&Event>> = BTreeMap::new();
        events.iter().for_each(|event| stories.entry(event.lock).or_default().push(event));
        for (id, story) in &stories {
            let released = story.iter().position(|event| matches!(event.kind, EventKind::Released(_)));
            let is_last = released.is_none_or(|at| at + 1 == story.len());
            assert!(is_last || self.epoch > 0, "{id} is told of after its end: {story:?}");
            let fences = story.iter().map(|event| event.fence);
            assert!(fences.is_sorted(), "the fences of {id} go back");
        }
        let has = |id: &LockId, is_it: &dyn Fn(&Event) -> bool| {
            stories.get(id).is_some_and(|story| story.iter().any(|event| is_it(event)))
        };
        for claim in self.claims.values().filter(|claim| claim.epoch == self.epoch) {
            let acquired =
                |event: &Event| event.fence == claim.lock.fence && matches!(event.kind, EventKind::Acquired { .. });
            assert!(has(&claim.lock.id, &acquired), "no event tells that {} was acquired", claim.lock.id);
        }
        for (id, end) in self.ended.iter().filter(|(_, end)| end.epoch == self.epoch && end.written) {
            let released = |event: &Event| matches!(event.kind, EventKind::Released(_));
            assert!(end.turn > self.turn || has(id, &released), "no event tells that {id} ended");
        }
    }
}

// ── Restarts ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// How a daemon came to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// After its end or a kill, on the same boot.
    Again,
    /// The machine was restarted; everything written is there.
    Reboot,
    /// The power was cut.
    PowerCut,
}

impl Auditor {
    /// A new daemon has loaded the journal: what it loaded is judged, and what a restart means is taken up.
    pub fn started(&mut self, now: Moment, loaded: &Loaded, how: Start) {
        self.turn += 1;
        self.status = None;
        if how == Start::PowerCut {
            self.lossy();
        } else if self.trouble {
            self.ended.retain(|_, end| end.written);
            self.owed.clear();
        }
        let was_trouble = self.trouble;
        if was_trouble || how == Start::PowerCut {
            // It may be back, as everything that was taken out of the queue since the last sync or write.
            self.cancelled.clear();
        }
        self.image_at_start(loaded, how);
        // What had run out before may still have been there, but nobody relied on it.
        let over: Vec<LockId> =
            self.claims.values().filter(|claim| !self.is_live(claim, self.last)).map(|claim| claim.lock.id).collect();
        over.iter().for_each(|id| self.claims.get_mut(id).expect("found just now").over = true);
        self.last = now;
        if was_trouble {
            self.as_written(loaded);
        }
        self.trouble = false;
        // What was asked and never answered may have been carried out.
        let asked: Vec<Terms> = self.open.values().filter_map(Open::terms).collect();
        asked.iter().for_each(|terms| self.may_have_changed(terms));
        self.open.clear();
        self.queue.clear();
        let ids = |record: &Record| if let Record::Lock(id, Some(_)) = record { Some(*id) } else { None };
        self.inherited = rows(loaded, ids).into_iter().collect();
        match how {
            Start::Again => self.restarted(now, loaded),
            Start::Reboot | Start::PowerCut => self.rebooted(now, loaded, how),
        }
        // Numbers go on with a new block.
        self.gaps.push((self.kept.last().copied().unwrap_or(0), loaded.events_from));
    }

    /// What was let go while the journal could not be written is kept again as before.
    fn as_written(&mut self, loaded: &Loaded) {
        for record in &loaded.records {
            if let Record::Lock(id, Some(lock)) = record
                && let Some(claim) = self.claims.get_mut(id)
            {
                claim.keeper = keeper_of(lock);
                claim.lock.custody = lock.custody;
                claim.is_vague = true;
            }
        }
    }

    fn image_at_start(&mut self, loaded: &Loaded, how: Start) {
        let was_trouble = self.trouble;
        self.image(loaded, how == Start::PowerCut);
        if was_trouble || how == Start::PowerCut {
            self.events(loaded);
        }
    }

    fn restarted(&mut self, now: Moment, loaded: &Loaded) {
        // One that ended while the journal could not be written is back.
        for waiter in rows(loaded, |record| if let Record::Waiter(_, row) = record { row.clone() } else { None }) {
            if waiter.takes && !waiter.at_once {
                let absent_until = Some(now.after(limits::WAITER_ABSENCE));
                self.queue.insert(waiter.id, Waiter { caller: None, absent_until, ..waiter });
            }
        }
        for row in rows(loaded, |record| if let Record::Session(_, row) = record { row.clone() } else { None }) {
            self.sessions.entry(row.id).or_insert(Sess { row, away_until: None });
        }
        let away_until = Some(now.after(limits::SESSION_SILENCE));
        self.sessions.values_mut().for_each(|session| session.away_until = away_until);
        for claim in self.claims.values_mut() {
            let ttl = claim.lock.ask.lease.ttl;
            if ttl > 0 && !matches!(claim.keeper, Keeper::Process(_)) {
                claim.until = Some(lease_end(claim, ttl.min(claim.shortest.max(1)), now));
                claim.is_vague |= claim.shortest != ttl;
            }
        }
    }

    fn rebooted(&mut self, now: Moment, loaded: &Loaded, how: Start) {
        self.sessions.clear();
        self.owed.values_mut().for_each(|owed| owed.turn = self.turn);
        if how == Start::PowerCut {
            self.ended.clear();
            self.owed.clear();
            // What was not promised to outlive it may be back as it was at any time before.
            self.claims.retain(|_, claim| claim.lock.ask.lease.ttl > 0);
        }
        let turn = self.turn;
        for record in &loaded.records {
            let Record::Lock(id, Some(lock)) = record else { continue };
            let Some(claim) = self.claims.get_mut(id).filter(|claim| !claim.over) else { continue };
            if lock.ask.lease.ttl == 0 || matches!(lock.custody, Custody::Process(_)) {
                claim.over = true;
                self.owed.insert(*id, Owed { who: lock.ask.who.clone(), target: lock.ask.target.clone(), turn });
            }
        }
        for claim in self.claims.values_mut() {
            let ttl = claim.lock.ask.lease.ttl;
            if ttl == 0 || matches!(claim.keeper, Keeper::Process(_)) {
                claim.over = true;
            }
            claim.keeper = Keeper::Nobody;
            let who = Who { agent: claim.lock.ask.who.agent.clone(), session: None };
            claim.lock.ask = Arc::new(Ask { who, ..(*claim.lock.ask).clone() });
            claim.lock.custody = Custody::Detached;
            claim.lock.hold_until = claim.lock.ask.lease.max_hold.map(|most| now.after(most));
            claim.until = Some(lease_end(claim, ttl.min(claim.shortest), now));
            claim.is_vague |= claim.shortest != ttl || how == Start::PowerCut;
        }
    }

    /// Whether the journal could not be written when it was last told.
    pub fn is_troubled(&self) -> bool {
        self.trouble
    }

    /// Whether a grant was told that must be on the disk for good by now.
    pub fn wants_durable(&mut self) -> bool {
        std::mem::take(&mut self.told_for_good)
    }

    /// Requests that should have been answered by now: not those that wait.
    pub fn unanswered(&self) -> Vec<String> {
        let waiting: BTreeSet<Caller> = self.queue.values().filter_map(|waiter| waiter.caller).collect();
        let open = self.open.iter().filter(|(caller, open)| !waiting.contains(caller) && !open.is_gone);
        open.map(|(caller, open)| format!("{caller:?} {}", crate::log::command(&open.command))).collect()
    }
}
