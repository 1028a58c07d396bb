//! The auditor: it knows what was asked, what was answered and what the disk holds, and nothing of how the table works.
//!
//! From the answers it keeps its own list of who was promised what and for how long ([`Claim`]), as naively as the
//! contract says it; each new answer and each image of the journal is held against that list. Where an answer may have
//! been decided earlier than it was sent, only what was so all the time in between counts.

mod advisory;
mod bound;
mod contention;
mod events;
mod fed;
mod flocks;
mod leases;
mod restart;
mod rules;
mod sets;
mod state;
mod subscribers;
mod told;

use crate::flocks::Machine;
use crate::log::counters;
use crate::server::AUDITOR;
use flockd::journal::Loaded;
use flockd::limits;
use flockd::model::*;
use flockd::scope::{Scope, Target};
use rules::overlap;
use std::collections::{BTreeMap, BTreeSet, HashSet};
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
    /// It may have to wait until what its agent gave back before is given back, and has its place from then on.
    may_be_put_off: bool,
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
    /// None for all that it holds.
    targets: Option<Vec<Target>>,
    ttl: u64,
    from: Moment,
}

impl Terms {
    fn concern(&self, claim: &Claim) -> bool {
        let meets = |target: &Target| overlap(target, &claim.lock.ask.target);
        let is_meant = self.targets.as_ref().is_none_or(|targets| targets.iter().any(meets));
        claim.lock.ask.who.agent == self.agent && is_meant
    }
}

fn terms(command: &Command, from: Moment) -> Option<Terms> {
    match command {
        Command::Renew { who, ttl: Some(ttl), .. } => {
            Some(Terms { agent: who.agent.clone(), targets: None, ttl: *ttl, from })
        }
        Command::Lock { .. } | Command::LockSet { .. } => {
            let asks = rules::asks_of(command);
            let targets = Some(asks.iter().map(|ask| ask.target.clone()).collect());
            Some(Terms { agent: asks[0].who.agent.clone(), targets, ttl: asks[0].lease.ttl, from })
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

impl Claim {
    /// A session has it on loan no more: it is its agent's again, on the terms that were promised, from `at` on, or on
    /// better ones if those were renewed meanwhile.
    fn go_back(&mut self, at: Moment) {
        self.lock = Lock { custody: Custody::Detached, ..self.lock.clone().returned() };
        self.keeper = Keeper::Nobody;
        self.shortest = self.lock.ttl;
        self.until = Some(rules::lease_end(self, self.lock.ttl, at));
        self.is_vague = true;
    }
}

/// A lock that is known to have ended.
#[derive(Clone, Debug)]
struct End {
    turn: u64,
    /// It is in the journal: what ends while the journal cannot be written may come back.
    written: bool,
    epoch: u64,
    /// The connection over which it was released, if it was.
    released_over: Option<u64>,
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
        upgraded,
        sets,
        sets_waited,
        sets_seen,
        downgraded,
        delegated,
        refused,
        deadlocks,
        places_kept,
        came_back,
        offered,
        released,
        losses_told,
        sessions_returned,
        unavailable,
        late,
        probes,
        images,
        durable,
        events,
        events_told,
        gaps_told,
        taken_back,
        contested,
        renewed,
        bound,
        bound_ended,
        bound_sent_away,
        committed,
        renames,
        advisory,
        advisory_beside_others,
        led,
        led_by_another,
        contended,
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
    wishes: HashSet<(Agent, Scope, Mode)>,
    /// The queue as last seen, less what was answered or may have left since.
    queue: BTreeMap<WaiterId, Waiter>,
    /// A grant was held back for so long that its lock is forgotten when it is answered: nobody knows which it was.
    has_forgotten: bool,
    /// How many locks each grant of a set brought, by the number of its first event.
    set_grants: BTreeMap<u64, usize>,
    /// Locks whose downgrade was refused by a journal that may have written it.
    may_be_shared: BTreeSet<LockId>,
    /// Locks under which a write was on its way when this turn began.
    writing: BTreeSet<LockId>,
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
    /// Every event that any subscriber was told, and those of them that a power cut took.
    told_events: BTreeMap<u64, Event>,
    lost_events: BTreeSet<u64>,
    hearing: BTreeMap<usize, subscribers::Hearing>,
    /// Counts what may lose events.
    epoch: u64,
    /// When the last turn was: what came due since is not done yet.
    last: Moment,
    /// When the queue was seen, and in which turn.
    queue_seen: Moment,
    queue_turn: u64,
    /// What was held then.
    held_seen: Vec<Lock>,
    /// A daemon has begun to start since the last one ended, and did not come up.
    has_failed_to_start: bool,
    /// Processes that this daemon knows to be dead, and since which turn.
    gone: BTreeMap<Process, u64>,
    /// Locks that end with their process in this turn.
    ending: Vec<LockId>,
    /// Requests that are to be told that the process of their lock is dead.
    sent_away: BTreeSet<Caller>,
    /// Nothing has happened since the queue was seen.
    is_queue_exact: bool,
    /// A grant that is to outlive a power cut was told since this was last asked.
    told_for_good: bool,
    asking: contention::Asking,
    /// Locks whose grant has arrived somewhere, or may have before the present daemon.
    heard: BTreeSet<LockId>,
    /// Losses that have arrived.
    heard_lost: BTreeSet<LockId>,
    pub counts: Counts,
}

impl Auditor {
    pub fn new(machine: Machine) -> Auditor {
        Auditor { machine, ..Auditor::default() }
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
