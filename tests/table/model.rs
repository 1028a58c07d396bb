//! The naive model: four lists and nested loops, so that a person can check each rule by eye.
//!
//! It shares the nouns with the table and nothing else: no index, no early stop, no derived state. What overlaps is
//! decided here anew, from names and identities alone.

use flockd::limits;
use flockd::model::*;
use flockd::pattern::Pattern;
use flockd::scope::{FileId, Scope, Target};
use flockd::table::Outgoing;
use std::sync::Arc;

use super::patterns;

// ── What overlaps ───────────────────────────────────────────────────────────────────────────────────────────────────

fn names(target: &Target) -> Vec<&[u8]> {
    let path = target.scope.path().expect("only paths have names");
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect()
}

/// Whether the place of `upper` is on the way to that of `lower`, so that what leads on from it is such a way: from
/// some directory that both pass (the root, or one identity), the names that lead on to `upper` begin those that lead
/// on to `lower`.
fn leads_on(upper: &Target, lower: &Target, is_way: impl Fn(&[&[u8]]) -> bool) -> bool {
    let (up, low) = (names(upper), names(lower));
    for i in 0..=up.len() {
        for k in 0..=low.len() {
            let both_at_root = i == 0 && k == 0;
            let same_id = upper.ids.get(i).is_some() && upper.ids.get(i) == lower.ids.get(k);
            if (both_at_root || same_id) && low[k..].starts_with(&up[i..]) && is_way(&low[k + up.len() - i..]) {
                return true;
            }
        }
    }
    false
}

fn is_on_the_way(upper: &Target, lower: &Target) -> bool {
    leads_on(upper, lower, |_| true)
}

fn is_same_place(a: &Target, b: &Target) -> bool {
    is_on_the_way(a, b) && is_on_the_way(b, a)
}

/// Whether two targets have anything in common. A file that is locked might become a directory, and then whatever is
/// rooted at or below its name is in its way: so it is like a subtree there. Only a pattern from further up is held
/// against the name alone.
pub fn overlaps(a: &Target, b: &Target) -> bool {
    match (&a.scope, &b.scope) {
        (Scope::Resource(a), Scope::Resource(b)) => a == b,
        (Scope::Resource(_), _) | (_, Scope::Resource(_)) => false,
        (Scope::Pattern(p), Scope::Pattern(q)) => {
            leads_on(a, b, |way| patterns::two_match(p.rest(), way, q.rest()))
                || leads_on(b, a, |way| patterns::two_match(q.rest(), way, p.rest()))
        }
        (Scope::Pattern(p), _) => is_on_the_way(b, a) || pattern_meets(p, a, b),
        (_, Scope::Pattern(p)) => is_on_the_way(a, b) || pattern_meets(p, b, a),
        _ => is_on_the_way(a, b) || is_on_the_way(b, a),
    }
}

fn pattern_meets(pattern: &Pattern, at: &Target, other: &Target) -> bool {
    leads_on(at, other, |way| match other.scope {
        Scope::File(_) => patterns::matches(pattern.rest(), way),
        _ => patterns::some_match(pattern.rest(), way),
    })
}

/// Whether a lock on `a` is also one on all of `b`.
fn covers(a: &Target, b: &Target) -> bool {
    match (&a.scope, &b.scope) {
        (Scope::Resource(a), Scope::Resource(b)) => a == b,
        (Scope::Resource(_), _) | (_, Scope::Resource(_)) => false,
        (Scope::Subtree(_), _) => is_on_the_way(a, b),
        (Scope::File(_), Scope::File(_)) => is_same_place(a, b),
        (Scope::File(_), _) => false,
        (Scope::Pattern(p), _) => leads_on(a, b, |way| match &b.scope {
            Scope::File(_) => patterns::matches(p.rest(), way),
            Scope::Subtree(_) => patterns::all_match(p.rest(), way),
            Scope::Pattern(q) => patterns::all_that_match(p.rest(), way, q.rest()),
            Scope::Resource(_) => false,
        }),
    }
}

fn is_same_scope(a: &Target, b: &Target) -> bool {
    match (&a.scope, &b.scope) {
        (Scope::Pattern(p), Scope::Pattern(q)) => p.rest() == q.rest() && is_same_place(a, b),
        _ => covers(a, b) && covers(b, a),
    }
}

/// Whether both are about one name, taken for a file or for a directory.
fn is_here(a: &Target, b: &Target) -> bool {
    let is_path = |target: &Target| matches!(target.scope, Scope::File(_) | Scope::Subtree(_));
    is_same_scope(a, b) || (is_path(a) && is_path(b) && is_same_place(a, b))
}

/// Whether both are one name in one directory that is known.
fn is_same_entry(a: &Target, b: &Target) -> bool {
    let entry = |target: &Target| {
        let names = names(target);
        let dir = names.len().checked_sub(1).and_then(|at| target.ids.get(at).copied());
        (dir, names.last().map(|name| name.to_vec()))
    };
    entry(a).0.is_some() && entry(a) == entry(b)
}

/// The mode matrix: advisory goes with all, and of the others only shared with shared.
fn modes_clash(a: Mode, b: Mode) -> bool {
    a != Mode::Advisory && b != Mode::Advisory && !(a == Mode::Shared && b == Mode::Shared)
}

/// Whether a lock answers a request of its own agent: an equal or stronger one on all of it, and an advisory one only
/// another for the same rank.
fn answers(lock: &Lock, ask: &Ask) -> bool {
    match (lock.ask.mode, ask.mode) {
        (Mode::Advisory, Mode::Advisory) => is_same_scope(&lock.ask.target, &ask.target),
        (Mode::Advisory, _) | (_, Mode::Advisory) | (Mode::Shared, Mode::Exclusive) => false,
        (Mode::Exclusive, _) | (Mode::Shared, Mode::Shared) => covers(&lock.ask.target, &ask.target),
    }
}

/// Whether a lock would have to be upgraded for a request.
fn is_weaker(lock: &Lock, ask: &Ask) -> bool {
    (lock.ask.mode, ask.mode) == (Mode::Shared, Mode::Exclusive)
}

/// Whose lock keeps whom out: everybody else's does, one's own does not, but two guards of one agent do.
fn excludes(agent: &Agent, session: Option<SessionId>, who: &Who) -> bool {
    *agent != who.agent || (session.is_some() && who.session.is_some())
}

/// Whether a lock ends as soon as nothing is in flight under it.
fn is_ending(lock: &Lock) -> bool {
    let ends = |command: &Command| {
        matches!(
            command,
            Command::FinishUnlock(_) | Command::Break { .. } | Command::TakeBack { .. } | Command::Downgrade { .. }
        )
    };
    let in_flight = lock.in_flight.as_ref();
    in_flight.is_some_and(|in_flight| in_flight.ending.is_some() || in_flight.waiting.iter().any(ends))
}

/// Whether `parent` is above `child` in a family: its name and a slash begin the other's.
pub fn is_above(parent: &Agent, child: &Agent) -> bool {
    child.as_str().starts_with(&format!("{parent}/"))
}

/// Whether `who` cannot have `target` in `mode` while `lock` is held. What an agent above holds is in nobody's way.
pub fn is_in_the_way(lock: &Lock, who: &Who, target: &Target, mode: Mode) -> bool {
    overlaps(&lock.ask.target, target)
        && modes_clash(lock.ask.mode, mode)
        && excludes(&lock.ask.who.agent, lock.keeper(), who)
        && !is_above(&lock.ask.who.agent, &who.agent)
}

// ── The model ───────────────────────────────────────────────────────────────────────────────────────────────────────

/// Who is answered, and on which scope what it lost is told: with an upgrade all, since it may have been asked for by
/// another name of the file.
fn about(ask: &Ask) -> Option<(&Who, Option<&Target>)> {
    Some((&ask.who, if ask.upgrades.is_some() { None } else { Some(&ask.target) }))
}

fn grant_of(lock: Lock) -> Granted {
    let beside = Vec::new();
    let place = None;
    Granted { lock, already_held: false, resumed: None, upgraded: false, again: false, beside, more: 0, place }
}

/// What is known of the request id of a set.
enum SetAgain {
    /// Nothing, or not enough to answer with.
    New,
    /// It was used for something else.
    Other,
    Waiting(Vec<Waiter>),
    Lost(Ended),
    /// Each lock, and whether it was held before.
    Held(Vec<(LockId, bool)>),
}

/// Whether two names stand for one thing of one kind.
fn is_one(a: &Target, b: &Target) -> bool {
    let is_alike = match (&a.scope, &b.scope) {
        (Scope::Resource(a), Scope::Resource(b)) => return a == b,
        (Scope::Pattern(p), Scope::Pattern(q)) => p.rest() == q.rest(),
        (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
    };
    is_alike && leads_on(a, b, |way| way.is_empty())
}

/// Whether a retry asks for the same. A lock that was there before, as its second fence tells, keeps its name, and its
/// mode for a session that takes it up.
fn is_same_ask(before: &Ask, now: &Ask, has_second_fence: bool) -> bool {
    let is_older = has_second_fence || before.upgrades.is_some();
    let is_stronger = (before.mode, now.mode) == (Mode::Exclusive, Mode::Shared);
    (before.target.scope == now.target.scope || (is_older && is_one(&before.target, &now.target)))
        && (before.mode == now.mode || (has_second_fence && now.who.session.is_some() && is_stronger))
        && before.who == now.who
        && before.lease.ttl == now.lease.ttl
        && before.bound == now.bound
}

/// The process that a lock must not outlive: what is on loan is its agent's again if it lives.
fn bound_of(lock: &Lock) -> Option<Process> {
    match &lock.lent {
        Some(loan) => loan.promised.bound,
        None => lock.ask.bound,
    }
}

/// What a session has had on loan is what its agent was promised.
fn give_back(lock: &mut Lock) {
    let Some(loan) = lock.lent.take() else { return };
    let Promised { lease, ttl, hold_until, bound } = loan.promised;
    let mut ask = (*lock.ask).clone();
    ask.who.session = None;
    (ask.request, ask.set) = (None, None);
    (ask.lease, ask.bound) = (lease, bound);
    (ask.note, ask.process) = (loan.note.clone(), loan.process);
    lock.ask = Arc::new(ask);
    (lock.ttl, lock.hold_until) = (ttl, hold_until);
}

/// Where a request stands: inside locks of deeper ancestors first, then upgrades, then by arrival.
type Rank = (std::cmp::Reverse<u8>, bool, WaiterId);

fn rank_of(row: &Waiter) -> Rank {
    (std::cmp::Reverse(row.level), row.ask.upgrades.is_none(), row.id)
}

/// The first row of the request that a row is part of.
pub fn first_row(row: &Waiter) -> WaiterId {
    match row.ask.set {
        Some(member) => WaiterId(row.id.0 - u64::from(member.index)),
        None => row.id,
    }
}

/// What a request comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chance {
    Blocked,
    Mine(LockId),
    Resume(LockId),
    Clear,
}

/// The lists, in the order in which things came to be.
#[derive(Clone, Debug)]
pub struct Naive {
    pub locks: Vec<Lock>,
    /// The same when it was last looked at what its changes mean to sets that wait.
    locks_before: Vec<Lock>,
    pub waiters: Vec<Waiter>,
    pub sessions: Vec<Session>,
    pub ended: Vec<Ended>,
    pub next_fence: u64,
    pub next_waiter: u64,
    pub next_commit: u64,
    pub paused: bool,
    /// Every wait of one agent for another when a request was refused for a deadlock: any cycle named is made of
    /// these.
    pub waits_then: Vec<Link>,
    /// Advisory locks that were told to lead, and those that ended of late whose followers were not told yet.
    pub leaders: Vec<LockId>,
    unranked: Vec<Lock>,
    /// Who was told to lead in the latest command, and who did before.
    pub led: Vec<(LockId, Option<Agent>)>,
    /// Every request that could not have its scope at once, and whether it waits.
    counted: Vec<(Scope, Moment, bool)>,
    /// When a scope was told as contended, and how many requests were counted until then; while it is hot.
    hot: Vec<(Scope, Moment, usize)>,
    /// When any scope was told.
    told_at: Vec<Moment>,
    left_out: u64,
    /// For how long scopes were held that somebody could not have at once before.
    holds: Vec<(Scope, u64)>,
    /// Of the one workspace there is.
    pub threshold: Threshold,
    /// What was told of contention since the last look.
    pub contended: Vec<(LockId, Scope, Contended)>,
    /// What was held exclusively and until when.
    writers: Vec<(Moment, Target)>,
    /// Every violation that was told, and those that were since the last look.
    violated_at: Vec<(Moment, LockId)>,
    pub violated: Vec<(LockId, Wrote)>,
    now: Now,
    said: Vec<Outgoing>,
}

impl Naive {
    pub fn new(fences_from: u64) -> Naive {
        Naive {
            locks: Vec::new(),
            locks_before: Vec::new(),
            waiters: Vec::new(),
            sessions: Vec::new(),
            ended: Vec::new(),
            next_fence: fences_from,
            next_waiter: 1,
            next_commit: 1,
            paused: false,
            waits_then: Vec::new(),
            leaders: Vec::new(),
            unranked: Vec::new(),
            led: Vec::new(),
            counted: Vec::new(),
            hot: Vec::new(),
            told_at: Vec::new(),
            left_out: 0,
            holds: Vec::new(),
            threshold: Threshold::default(),
            contended: Vec::new(),
            writers: Vec::new(),
            violated_at: Vec::new(),
            violated: Vec::new(),
            now: Now::default(),
            said: Vec::new(),
        }
    }

    /// One command: what is due, one thing after the other; then the command; after each, whoever can be served.
    pub fn apply(&mut self, now: Now, command: &Command) -> Vec<Outgoing> {
        self.now = now;
        self.waits_then.clear();
        self.led.clear();
        self.locks_before = self.locks.clone();
        if !matches!(command, Command::TakeBack { .. }) {
            self.do_what_is_due();
        }
        self.carry_out(command.clone());
        self.serve();
        std::mem::take(&mut self.said)
    }

    pub fn resume(&mut self, now: Now) -> Vec<Outgoing> {
        self.now = now;
        self.waits_then.clear();
        self.led.clear();
        self.locks_before = self.locks.clone();
        self.do_what_is_due();
        self.paused = false;
        self.serve();
        std::mem::take(&mut self.said)
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::OpenSession { caller, session } => self.open(caller, session),
            Command::ReturnSession { caller, id, secret, process } => self.come_back(caller, id, secret, process),
            Command::EndSession(id) => self.end_session(id, EndReason::SessionEnded),
            Command::Lock { caller, ask, wait } => self.lock(caller, ask, wait),
            Command::LockSet { caller, asks, wait } => self.lock_set(caller, asks, wait),
            Command::WaitFree { caller, ask, wait } => self.wait_free(caller, ask, wait),
            Command::Unlock { caller, who, which, leaves_loan } => self.unlock(caller, who, which, leaves_loan),
            Command::FinishUnlock(unlocking) => self.release(*unlocking),
            Command::Upgrade { caller, who, which, wait, request } => self.upgrade(caller, who, which, wait, request),
            Command::Downgrade { caller, who, which } => self.downgrade(caller, who, which),
            Command::TakeBack { id, fence, what } => self.take_back(id, fence, what),
            Command::Renew { caller, who, which, ttl } => self.renew(caller, who, which, ttl),
            Command::Check { caller, who, target, fence } => self.check(caller, who, target, fence),
            Command::Commit { caller, who, target, fence, prepared } => {
                self.commit(caller, who, target, fence, prepared)
            }
            Command::CommitDone { commit, lock, answer } => self.commit_done(commit, lock, answer),
            Command::Break { caller, who, id, reason } => self.break_lock(caller, who, id, reason),
            Command::Status { caller, who, target } => self.status(caller, who, target),
            Command::Bind { caller, who, id, process } => self.bind(caller, who, id, process),
            Command::ProcessGone(process) => self.process_gone(process),
            Command::CallerGone { conn } => {
                self.forget_put_off(|caller| caller.conn == conn);
                self.clients_go(|caller| caller.conn == conn);
            }
            Command::Cancel { caller, waiting } => {
                let was_in_line = self.clients_go(|caller| caller == waiting);
                let was_put_off = self.forget_put_off(|caller| caller == waiting);
                let was_waiting = was_in_line || was_put_off;
                if was_waiting {
                    self.answer(waiting, Reply::Cancelled(true), None);
                }
                self.answer(caller, Reply::Cancelled(was_waiting), None);
            }
            Command::GiveUp { caller, who, ticket } => {
                let before = self.waiters.len();
                let is_it = |waiter: &Waiter| waiter.is_kept() && waiter.ask.who.agent == who.agent;
                self.waiters.retain(|waiter| !(is_it(waiter) && waiter.ticket == Some(ticket)));
                let was_kept = self.waiters.len() < before;
                self.answer(caller, Reply::Cancelled(was_kept), None);
            }
            Command::LossesTold(ids) => {
                for ended in self.ended.iter_mut().filter(|ended| ids.contains(&ended.id)) {
                    ended.untold = false;
                }
            }
            Command::News { caller, who, heard } => {
                let told: Vec<LockId> = self.losses(&who, None).iter().map(|ended| ended.id).collect();
                for ended in self.ended.iter_mut().filter(|ended| told.contains(&ended.id)) {
                    ended.untold &= !heard.contains(&ended.id);
                }
                let mut lost = self.losses(&who, None);
                let told = lost.len().min(limits::NEWS_LOSSES);
                let reply = Reply::News { more: lost.split_off(told).len() };
                let answer = Answer { lost, wanted: self.wanted(&who, limits::NEWS_LOOKED_AT), ..Answer::bare(reply) };
                self.said.push(Outgoing { to: caller, answer, synced: false });
            }
            Command::Webhook(_) => unreachable!("no lock depends on a webhook; webhooks.rs tells of those"),
            Command::Contention { threshold, .. } => self.threshold = threshold,
            Command::Wrote { target, how } => self.wrote(&target, how),
            Command::Os { .. } => unreachable!("nothing here wants a flock; rules.rs tells of those"),
            Command::Tick => {}
        }
    }

    // ── Time ────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn do_what_is_due(&mut self) {
        while self.do_what_is_due_first() {
            self.serve();
        }
    }

    /// The earliest thing whose time has come is done; leases before waits before sessions before memories.
    fn do_what_is_due_first(&mut self) -> bool {
        let mut due: Vec<(Moment, u8, u64)> = Vec::new();
        for lock in self.locks.iter().filter(|lock| lock.in_flight.is_none()) {
            due.extend(lock.expires.map(|at| (at, 0, lock.id.0)));
        }
        for waiter in &self.waiters {
            due.extend(waiter.deadline.map(|at| (at, 1, waiter.id.0)));
            due.extend(waiter.absent_until.map(|at| (at, 1, waiter.id.0)));
            due.extend(waiter.offered_until.map(|at| (at, 1, waiter.id.0)));
        }
        for session in &self.sessions {
            due.extend(session.away_until.map(|at| (at, 2, session.id.0)));
        }
        for ended in &self.ended {
            let kept = if ended.untold { limits::NOTICE_KEPT } else { limits::ENDED_KEPT };
            due.push((ended.at.mono.after(kept), 3, ended.id.0));
        }
        due.retain(|(at, _, _)| *at <= self.now.mono);
        let Some((_, kind, id)) = due.into_iter().min() else { return false };
        match kind {
            0 => {
                self.end(LockId(id), EndReason::Expired, true);
            }
            1 => self.give_up(WaiterId(id)),
            2 => self.end_session(SessionId(id), EndReason::Silent),
            _ => self.ended.retain(|ended| ended.id != LockId(id)),
        }
        true
    }

    fn give_up(&mut self, id: WaiterId) {
        let waiter = self.waiter(id).clone();
        match waiter.caller {
            Some(_) => {
                let rows = self.rows_with(&waiter);
                let refused = self.refused_set(&rows, RefusedFor::Timeout);
                self.turn_away(&rows[0], refused);
            }
            None => drop(self.remove_rows(&waiter)),
        }
    }

    // ── Asking ──────────────────────────────────────────────────────────────────────────────────────────────────────

    fn lock(&mut self, caller: Caller, ask: Arc<Ask>, wait: Wait) {
        if ask.who.session.is_some_and(|id| !self.has_session(id)) {
            return self.fail(caller, Fault::UnknownSession);
        }
        let has_session = ask.who.session.is_some();
        if (!has_session && ask.lease.ttl == 0)
            || (has_session && ask.bound.is_some())
            || ask.lease.ttl > limits::TTL_MAX
        {
            return self.fail(caller, Fault::Invalid(String::new()));
        }
        // What it asks for comes behind what it has given back, or has lost.
        let is_own = |lock: &&Lock| lock.ask.who.agent == ask.who.agent && overlaps(&lock.ask.target, &ask.target);
        let waits = ask.mode != Mode::Advisory;
        let is_before = |lock: &&Lock| is_ending(lock) && waits;
        let mut own: Vec<&Lock> = self.locks.iter().filter(is_own).filter(is_before).collect();
        own.sort_by_key(|lock| lock.id);
        if let Some(id) = own.first().map(|lock| lock.id) {
            return self.put_off(id, Command::Lock { caller, ask, wait });
        }
        let is_it =
            |other: &Ask| ask.request.is_some() && other.request == ask.request && other.who.agent == ask.who.agent;
        if self.names_a_set(&is_it) {
            return self.fail(caller, Fault::Invalid(String::new()));
        }
        let held = self.locks.iter().find(|lock| is_it(&lock.ask)).cloned();
        let waits = self.waiters.iter().find(|waiter| waiter.takes && is_it(&waiter.ask)).cloned();
        let ended = self.ended.iter().find(|ended| is_it(&ended.ask)).cloned();
        let given_up = waits.clone().filter(|waiter| waiter.is_kept() && waiter.deadline.is_none());
        let before = held.as_ref().map(|lock| (&lock.ask, lock.fence.0 != lock.id.0));
        let before = before.or(waits.as_ref().map(|waiter| (&waiter.ask, false)));
        let before = before.or(ended.as_ref().map(|ended| (&ended.ask, ended.fence.0 != ended.id.0)));
        if before.is_some_and(|(before, has_second_fence)| !is_same_ask(before, &ask, has_second_fence)) {
            return self.fail(caller, Fault::Invalid(String::new()));
        }
        let about = Some((&ask.who, Some(&ask.target)));
        if let Some(lock) = held {
            let granted = Granted { again: true, ..grant_of(lock) };
            self.answer(caller, Reply::Granted(Box::new(granted)), about);
        } else if let Some(waiter) = waits.filter(|_| given_up.is_none()) {
            self.back_in_line(caller, waiter);
        } else if let Some(ended) = ended.filter(|_| given_up.is_none()) {
            let holders = self.holders_over(&ask.target);
            self.answer(caller, Reply::Failed(Fault::Lost(Box::new(ended), holders)), about);
        } else {
            let ask = self.as_upgrade(ask);
            match given_up.or_else(|| self.kept_for(std::slice::from_ref(&ask))) {
                Some(place) => self.ask_in_place(&place, caller, std::slice::from_ref(&ask), wait),
                None => self.ask(caller, ask, wait, true),
            }
        }
    }

    // ── Kept places ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// The place that is kept for the same agent or session, for the same thing, of a set for all of it.
    fn kept_for(&self, asks: &[Arc<Ask>]) -> Option<Waiter> {
        let is_it = |waiter: &&Waiter| {
            let rows = self.rows_with(waiter);
            let is_for = |(row, ask): (&Waiter, &Arc<Ask>)| {
                row.is_kept()
                    && row.ask.who == ask.who
                    && is_same_scope(&row.ask.target, &ask.target)
                    && row.ask.mode == ask.mode
                    && row.ask.bound == ask.bound
                    && row.ask.set == ask.set
            };
            rows.len() == asks.len() && rows.iter().zip(asks).all(is_for)
        };
        self.waiters.iter().find(is_it).cloned()
    }

    /// All rows of a waiting request, in the order of its scopes.
    fn rows_with(&self, of: &Waiter) -> Vec<Waiter> {
        self.waiters.iter().filter(|row| first_row(row) == first_row(of)).cloned().collect()
    }

    /// Clients that go, or want something no more, leave nothing but the places that they had before.
    fn clients_go(&mut self, is_meant: impl Fn(Caller) -> bool) -> bool {
        let is_its = |waiter: &&Waiter| waiter.caller.is_some_and(&is_meant) && first_row(waiter) == waiter.id;
        let going: Vec<Waiter> = self.waiters.iter().filter(is_its).cloned().collect();
        for waiter in &going {
            match waiter.ticket {
                Some(_) => drop(self.keep_place(waiter)),
                None => drop(self.remove_rows(waiter)),
            }
        }
        !going.is_empty()
    }

    fn turn_away(&mut self, waiter: &Waiter, refused: Refused) {
        let caller = waiter.caller.expect("only who is there is turned away");
        let rows = self.rows_with(waiter);
        let ticket = self.keep_place(waiter);
        self.say_refused(caller, &rows, Refused { ticket, ..refused });
    }

    /// A wait in vain: the place is kept if it was before, or if locks with a lease were waited for, none of them an
    /// upgrade, and the agent has not too many.
    fn keep_place(&mut self, waiter: &Waiter) -> Option<Ticket> {
        let rows = self.rows_with(waiter);
        let asks: Vec<Arc<Ask>> = rows.iter().map(|row| row.ask.clone()).collect();
        let other = self.kept_for(&asks);
        let name = waiter.ticket.or(other.as_ref().and_then(|other| other.ticket));
        let is_place = |row: &&Waiter| row.is_kept() && row.ask.who.agent == waiter.ask.who.agent;
        let of_agent = self.waiters.iter().filter(is_place).filter(|row| first_row(row) == row.id);
        let has_room = name.is_some() || of_agent.count() < limits::TICKETS_OF_AGENT;
        let ends_with_asker = |ask: &Ask| ask.bound.is_some() && ask.bound == ask.process;
        let outlives = |row: &Waiter| {
            row.takes && row.ask.lease.ttl > 0 && row.ask.upgrades.is_none() && !ends_with_asker(&row.ask)
        };
        if waiter.ticket.is_none() && !(rows.iter().all(outlives) && has_room) {
            self.remove_rows(waiter);
            return None;
        }
        let mut kept = rows;
        let name = other.as_ref().filter(|other| other.id < kept[0].id).and_then(|other| other.ticket).or(name);
        if let Some(other) = other {
            let (earlier, later) = if other.id < kept[0].id { (&other, waiter) } else { (waiter, &other) };
            kept = self.rows_with(earlier);
            self.remove_rows(later);
        }
        let ticket = Some(name.unwrap_or_else(|| TicketId(self.fresh_fence().0)));
        let absent_until = Some(self.now.mono.after(limits::TICKET_KEPT));
        for row in self.waiters.iter_mut().filter(|row| first_row(row) == kept[0].id) {
            *row = Waiter { caller: None, deadline: None, absent_until, ticket, ..row.clone() };
        }
        self.offer_if_due(kept[0].id);
        let kept = self.waiters.iter().find(|row| row.id == kept[0].id)?;
        Some(Ticket {
            id: kept.ticket.expect("it was just given"),
            until: kept.absent_until.min(kept.offered_until.or(kept.absent_until)).expect("no place is for ever"),
        })
    }

    /// The place of which nobody heard that it was granted is as it was, if its session is there still. That of a set
    /// is over.
    fn keep_again(&mut self, ask: Arc<Ask>, place: Option<KeptPlace>) {
        let Some(place) = place else { return };
        if ask.who.session.is_none_or(|id| self.has_session(id)) {
            let KeptPlace { id, ticket, since, level } = place;
            let nobody = Caller { conn: 0, id: 0 };
            let ask = Arc::new(Ask { set: None, ..(*ask).clone() });
            let waiter = Waiter { since, level, is_counted: true, ..self.in_line(nobody, &ask, true, id) };
            let waiter = Waiter { ticket: Some(ticket), ..waiter };
            self.waiters.push(waiter.clone());
            self.waiters.sort_by_key(|row| row.id);
            self.keep_place(&waiter);
        }
    }

    /// A request for which a place is kept. An upgrade needs none.
    fn ask_in_place(&mut self, place: &Waiter, caller: Caller, asks: &[Arc<Ask>], wait: Wait) {
        let asks: Vec<Arc<Ask>> = asks.iter().map(|ask| self.as_upgrade(ask.clone())).collect();
        if asks.iter().any(|ask| ask.upgrades.is_some()) {
            self.remove_rows(place);
            return match asks[0].set {
                Some(_) => self.ask_set(caller, &asks, wait),
                None => self.ask(caller, asks[0].clone(), wait, true),
            };
        }
        if self.paused {
            return self.fail(caller, Fault::Unavailable(String::new()));
        }
        self.come_for(place, caller, &asks, wait);
    }

    fn come_for(&mut self, place: &Waiter, caller: Caller, asks: &[Arc<Ask>], wait: Wait) {
        let deadline = match wait {
            Wait::Until(deadline) => Some(deadline),
            _ => None,
        };
        for (old, ask) in self.rows_with(place).into_iter().zip(asks) {
            let back = self.in_line(caller, ask, true, old.id);
            let Waiter { since, ticket, level, is_counted, .. } = old;
            let row = self.waiters.iter_mut().find(|row| row.id == old.id).expect("its place is kept");
            *row = Waiter { since, ticket, level, is_counted, deadline, ..back };
        }
        let rows = self.rows_with(place);
        let is_blocked = rows.iter().any(|row| self.chance_of(row) == Chance::Blocked);
        let own = rows.iter().find_map(|row| self.own_obstacle(&row.ask)).filter(|_| is_blocked);
        if let Some(own) = own {
            self.remove_rows(place);
            self.refuse_set_for_own(caller, &rows, own.id);
        } else if is_blocked && wait == Wait::Try {
            let refused = self.refused_set(&rows, RefusedFor::Held);
            self.turn_away(&rows[0], refused);
        } else if self.closes_a_cycle_by_coming_back(&rows) {
            self.remove_rows(place);
            self.refuse_set(caller, &rows, RefusedFor::Deadlock(Vec::new()));
        } else if !is_blocked {
            self.remove_rows(place);
            match asks[0].set {
                Some(_) => self.settle_set(caller, &rows),
                None => self.settle(caller, &rows[0].ask, true, self.chance_of(&rows[0]), rows[0].place()),
            }
        }
        self.withdraw_offers();
    }

    /// A kept place with nothing in its way is offered, or over if its agent holds what it is for, or what it would
    /// never be granted beside.
    fn offer_if_due(&mut self, id: WaiterId) {
        let rows = self.rows_with(&self.waiter(id).clone());
        if self.paused {
            return;
        }
        if self.is_needless(&rows) {
            self.remove_rows(&rows[0]);
            return;
        }
        let chances: Vec<Chance> = rows.iter().map(|row| self.chance_of(row)).collect();
        let is_due = !chances.contains(&Chance::Blocked) && chances.contains(&Chance::Clear);
        if chances.contains(&Chance::Blocked) {
            for row in self.waiters.iter_mut().filter(|row| first_row(row) == rows[0].id) {
                row.offered_until = None;
            }
        }
        if is_due && rows[0].offered_until.is_none() {
            let until = self.now.mono.after(limits::TICKET_OFFERED);
            for row in self.waiters.iter_mut().filter(|row| first_row(row) == rows[0].id) {
                row.offered_until = Some(until);
            }
        }
    }

    fn is_needless(&self, rows: &[Waiter]) -> bool {
        let is_held = |row: &Waiter| matches!(self.chance_of(row), Chance::Mine(_));
        let is_hopeless =
            |row: &Waiter| self.chance_of(row) == Chance::Blocked && self.own_obstacle(&row.ask).is_some();
        rows.iter().all(is_held) || rows.iter().any(is_hopeless)
    }

    /// Something new is in the way of others: what cannot be had any more, of a set any part of it, is not offered any
    /// more.
    fn withdraw_offers(&mut self) {
        for waiter in self.waiters.clone() {
            let rows = self.rows_with(&waiter);
            if waiter.offered_until.is_some() && rows.iter().any(|row| self.chance_of(row) == Chance::Blocked) {
                for row in self.waiters.iter_mut().filter(|row| row.id == waiter.id) {
                    row.offered_until = None;
                }
            }
        }
    }

    // ── Sets ────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn lock_set(&mut self, caller: Caller, asks: Vec<Arc<Ask>>, wait: Wait) {
        let who = asks[0].who.clone();
        if who.session.is_some_and(|id| !self.has_session(id)) {
            return self.fail(caller, Fault::UnknownSession);
        }
        let has_session = who.session.is_some();
        let (ttl, bound) = (asks[0].lease.ttl, asks[0].bound);
        let is_unsound = (!has_session && ttl == 0) || (has_session && bound.is_some()) || ttl > limits::TTL_MAX;
        let meet = |n: usize, ask: &Arc<Ask>| asks[..n].iter().any(|other| overlaps(&other.target, &ask.target));
        if is_unsound || asks[0].mode == Mode::Advisory || asks.iter().enumerate().any(|(n, ask)| meet(n, ask)) {
            return self.fail(caller, Fault::Invalid(String::new()));
        }
        for ask in &asks {
            let is_own = |lock: &&Lock| lock.ask.who.agent == who.agent && overlaps(&lock.ask.target, &ask.target);
            let own = self.locks.iter().filter(is_own).filter(|lock| is_ending(lock)).map(|lock| lock.id).min();
            if let Some(id) = own {
                return self.put_off(id, Command::LockSet { caller, asks, wait });
            }
        }
        match self.set_again(&asks) {
            SetAgain::New => match self.kept_for(&asks) {
                Some(place) => self.ask_in_place(&place, caller, &asks, wait),
                None => self.ask_set(caller, &asks, wait),
            },
            SetAgain::Other => self.fail(caller, Fault::Invalid(String::new())),
            SetAgain::Waiting(rows) if rows[0].is_kept() && rows[0].deadline.is_none() => {
                self.ask_in_place(&rows[0], caller, &asks, wait);
            }
            SetAgain::Waiting(rows) => self.set_back_in_line(caller, &rows),
            SetAgain::Lost(ended) => {
                let holders = self.holders_over(&ended.ask.target);
                self.answer_set(caller, Reply::Failed(Fault::Lost(Box::new(ended), holders)), &asks);
            }
            SetAgain::Held(held) => {
                let mut all = Vec::new();
                for ((id, already_held), ask) in held.into_iter().zip(&asks) {
                    if already_held {
                        self.renew_lock(id, Some(ask.lease.ttl));
                    }
                    let lock = self.held(id).expect("it is held").clone();
                    all.push(Granted { already_held, again: !already_held, ..grant_of(lock) });
                }
                self.answer_set(caller, Reply::GrantedSet(all), &asks);
            }
        }
    }

    /// What is known of the request that a set names.
    fn set_again(&self, asks: &[Arc<Ask>]) -> SetAgain {
        let (agent, request) = (&asks[0].who.agent, &asks[0].request);
        if request.is_none() {
            return SetAgain::New;
        }
        let is_it = |ask: &Ask| ask.request == *request && ask.who.agent == *agent;
        let rows: Vec<Waiter> = self.waiters.iter().filter(|row| row.takes && is_it(&row.ask)).cloned().collect();
        let held: Vec<&Lock> = self.locks.iter().filter(|lock| is_it(&lock.ask)).collect();
        let ended: Vec<&Ended> = self.ended.iter().filter(|ended| is_it(&ended.ask)).collect();
        let known = rows.iter().map(|row| (&row.ask, false));
        let known = known.chain(held.iter().map(|lock| (&lock.ask, lock.fence.0 != lock.id.0)));
        let known = known.chain(ended.iter().map(|ended| (&ended.ask, ended.fence.0 != ended.id.0)));
        let known: Vec<(&Arc<Ask>, bool)> = known.collect();
        if known.is_empty() {
            return SetAgain::New;
        }
        let is_same = |known: &Ask, has_second_fence: bool| {
            let Some(SetMember { index, of }) = known.set else { return false };
            let ask = &asks[usize::from(index).min(asks.len() - 1)];
            usize::from(of) == asks.len() && is_same_ask(known, ask, has_second_fence)
        };
        if !known.iter().all(|(known, has_second_fence)| is_same(known, *has_second_fence)) {
            return SetAgain::Other;
        }
        if !rows.is_empty() {
            return SetAgain::Waiting(rows);
        }
        if let Some(ended) = ended.iter().min_by_key(|ended| ended.ask.set) {
            return SetAgain::Lost((**ended).clone());
        }
        let mut all = Vec::new();
        for (index, ask) in (0..).zip(asks) {
            let granted = held.iter().find(|lock| lock.ask.set.is_some_and(|member| member.index == index));
            match granted {
                Some(lock) => all.push((lock.id, false)),
                None => match self.chance(ask, WaiterId(self.next_waiter)) {
                    Chance::Mine(id) => all.push((id, true)),
                    _ => return SetAgain::Other,
                },
            }
        }
        SetAgain::Held(all)
    }

    fn ask_set(&mut self, caller: Caller, asks: &[Arc<Ask>], wait: Wait) {
        if self.paused {
            return self.fail(caller, Fault::Unavailable(String::new()));
        }
        let deadline = match wait {
            Wait::Until(deadline) => Some(deadline),
            _ => None,
        };
        let mut rows = Vec::new();
        for (at, ask) in (self.next_waiter..).zip(asks) {
            let ask = self.as_upgrade(ask.clone());
            rows.push(Waiter { deadline, ..self.in_line(caller, &ask, true, WaiterId(at)) });
        }
        // No further in front than the row that is least so.
        let level = rows.iter().map(|row| row.level).min().unwrap_or(0);
        rows.iter_mut().for_each(|row| row.level = level);
        let own = rows.iter().find_map(|row| self.own_obstacle(&row.ask));
        let is_clear = rows.iter().all(|row| self.chance_of(row) != Chance::Blocked);
        let would_wait = !is_clear && own.is_none() && wait != Wait::Try;
        let goes_first = level > 0 || rows.iter().any(|row| row.ask.upgrades.is_some());
        if ((is_clear && goes_first) || would_wait) && self.set_closes_a_cycle(&rows) {
            self.set_came(&rows, false);
            return self.refuse_set(caller, &rows, RefusedFor::Deadlock(Vec::new()));
        }
        if is_clear {
            return self.settle_set(caller, &rows);
        }
        match own {
            Some(own) => self.refuse_set_for_own(caller, &rows, own.id),
            None if wait == Wait::Try => {
                self.set_came(&rows, false);
                self.refuse_set(caller, &rows, RefusedFor::Held);
            }
            None => {
                self.next_waiter += rows.len() as u64;
                self.waiters.extend(rows.clone());
                self.withdraw_offers();
                self.set_came(&rows, true);
            }
        }
    }

    /// Each scope of a set that others keep it from is counted.
    fn set_came(&mut self, rows: &[Waiter], waits: bool) {
        for row in rows.iter().filter(|row| self.chance_of(row) == Chance::Blocked).cloned().collect::<Vec<_>>() {
            for waiting in self.waiters.iter_mut().filter(|waiting| waiting.id == row.id) {
                waiting.is_counted = true;
            }
            self.came(&row.ask, waits);
        }
    }

    /// Whether somebody waits for itself as soon as all of a set stands in the queue.
    fn set_closes_a_cycle(&mut self, rows: &[Waiter]) -> bool {
        self.waiters.extend(rows.to_vec());
        let actor = self.actor(&rows[0].ask.who.agent, rows[0].ask.who.session);
        let is_mine = |w: &&Waiter| self.actor(&w.ask.who.agent, w.ask.who.session) == actor && w.caller.is_some();
        let mine: Vec<Waiter> = self.waiters.iter().filter(is_mine).cloned().collect();
        let closes = mine.iter().any(|waiter| self.closes_a_cycle(&waiter.ask, waiter.id));
        self.waiters.retain(|waiter| rows.iter().all(|row| row.id != waiter.id));
        closes
    }

    /// Whose locks have changed may wait for itself by that.
    fn refuse_in_cycles(&mut self) {
        let before = std::mem::replace(&mut self.locks_before, self.locks.clone());
        let is_in = |all: &[Lock], lock: &&Lock| all.contains(lock);
        let mut changed: Vec<&Lock> = before.iter().filter(|lock| !is_in(&self.locks, lock)).collect();
        changed.extend(self.locks.iter().filter(|lock| !is_in(&before, lock)));
        let has_changed = |agent: &Agent| changed.iter().any(|lock| lock.ask.who.agent == *agent);
        let is_there =
            |row: &&Waiter| first_row(row) == row.id && row.caller.is_some() && has_changed(&row.ask.who.agent);
        for first in self.waiters.iter().filter(is_there).cloned().collect::<Vec<_>>() {
            let is_of_it = |row: &&Waiter| first_row(row) == first.id;
            let rows: Vec<Waiter> = self.waiters.iter().filter(is_of_it).cloned().collect();
            if rows.iter().any(|row| self.closes_a_cycle(&row.ask, row.id)) {
                self.remove_rows(&first);
                let caller = first.caller.expect("it is there");
                self.refuse_set(caller, &rows, RefusedFor::Deadlock(Vec::new()));
            }
        }
    }

    fn set_back_in_line(&mut self, caller: Caller, rows: &[Waiter]) {
        if let Some(before) = rows[0].caller {
            self.fail(before, Fault::Invalid(String::new()));
        }
        for row in self.waiters.iter_mut().filter(|row| rows.iter().any(|other| other.id == row.id)) {
            (row.caller, row.absent_until, row.offered_until) = (Some(caller), None, None);
        }
        self.withdraw_offers();
        if rows[0].caller.is_none() && self.closes_a_cycle_by_coming_back(rows) {
            self.remove_rows(&rows[0]);
            self.refuse_set(caller, rows, RefusedFor::Deadlock(Vec::new()));
        }
    }

    /// Grants all of a set, one after the other; if one of its locks turns out to be in the way of another, or to close
    /// a cycle, nothing of it has been.
    fn settle_set(&mut self, caller: Caller, rows: &[Waiter]) {
        let before = self.clone();
        let nothing = |model: &mut Naive| {
            let waits = std::mem::take(&mut model.waits_then);
            *model = Naive { waits_then: waits, ..before.clone() };
        };
        let mut all = Vec::new();
        for row in rows {
            let ask = &row.ask;
            // What its own lock was to be taken up beside is in the way now.
            let is_held = !self.holders_against(ask, &ask.target, ask.mode).is_empty();
            if self.chance_of(row) == Chance::Blocked && self.own_obstacle(ask).is_none() && is_held {
                let is_own = |lock: &&Lock| {
                    let is_detached = lock.custody == Custody::Detached && answers(lock, ask);
                    lock.ask.who.agent == ask.who.agent && is_detached && is_same_scope(&lock.ask.target, &ask.target)
                };
                let own = self.locks.iter().find(is_own).expect("it was to be taken up").id;
                nothing(self);
                return self.refuse_set_for_own(caller, rows, own);
            }
            // Who has come before it by what it was granted just now is behind it all the same.
            let chance = match self.chance_of(row) {
                Chance::Blocked if self.own_obstacle(ask).is_none() => Chance::Clear,
                chance => chance,
            };
            let mut resumed = None;
            let id = match chance {
                Chance::Blocked => {
                    let own = self.own_obstacle(ask).expect("only its own can have come in the way").id;
                    nothing(self);
                    return self.refuse_set_for_own(caller, rows, own);
                }
                Chance::Mine(id) => {
                    self.renew_lock(id, Some(ask.lease.ttl));
                    id
                }
                Chance::Resume(id) => {
                    resumed = Some(Promised::by(self.held(id).expect("it is held")));
                    self.take_up(id, ask);
                    let actor = self.actor(&ask.who.agent, ask.who.session);
                    let is_mine =
                        |w: &&Waiter| self.actor(&w.ask.who.agent, w.ask.who.session) == actor && w.caller.is_some();
                    let mine: Vec<Waiter> = self.waiters.iter().filter(is_mine).cloned().collect();
                    if mine.iter().any(|waiter| self.closes_a_cycle(&waiter.ask, waiter.id)) {
                        nothing(self);
                        return self.refuse_set(caller, rows, RefusedFor::Deadlock(Vec::new()));
                    }
                    self.drop_upgrades(id, &Fault::Invalid(String::new()));
                    self.withdraw_offers();
                    id
                }
                Chance::Clear => match ask.upgrades {
                    Some(id) => {
                        self.make_exclusive(id, ask);
                        id
                    }
                    None => self.grant(ask),
                },
            };
            all.push(Granted {
                lock: self.held(id).expect("it was just granted").clone(),
                already_held: matches!(chance, Chance::Mine(_)),
                resumed,
                upgraded: chance == Chance::Clear && ask.upgrades.is_some(),
                ..grant_of(self.held(id).expect("it was just granted").clone())
            });
        }
        let asks: Vec<Arc<Ask>> = rows.iter().map(|row| row.ask.clone()).collect();
        self.answer_set(caller, Reply::GrantedSet(all), &asks);
    }

    fn refuse_set(&mut self, caller: Caller, rows: &[Waiter], why: RefusedFor) {
        let refused = self.refused_set(rows, why);
        self.say_refused(caller, rows, refused);
    }

    fn refused_set(&self, rows: &[Waiter], why: RefusedFor) -> Refused {
        let mut holders: Vec<Lock> = Vec::new();
        for row in rows {
            holders.extend(self.holders_against(&row.ask, &row.ask.target, row.ask.mode));
        }
        holders.sort_by_key(|lock| lock.id);
        holders.dedup_by_key(|lock| lock.id);
        let position = self.position(rows.iter().map(|row| (&*row.ask, rank_of(row))));
        let retry_after = match why {
            RefusedFor::Held | RefusedFor::Timeout => {
                rows.iter().map(|row| self.retry_after(&row.ask, position, &holders)).max().flatten()
            }
            RefusedFor::OwnLock | RefusedFor::Deadlock(_) => None,
        };
        let kept = rows.iter().find_map(|row| self.kept(&row.ask));
        Refused { why, holders, more: 0, foreigner: None, position, ticket: None, kept, retry_after }
    }

    fn refuse_set_for_own(&mut self, caller: Caller, rows: &[Waiter], own: LockId) {
        let holders = self.held(own).cloned().into_iter().collect();
        let why = RefusedFor::OwnLock;
        let kept = rows.iter().find_map(|row| self.kept(&row.ask));
        let refused =
            Refused { why, holders, more: 0, foreigner: None, position: 1, ticket: None, kept, retry_after: None };
        self.say_refused(caller, rows, refused);
    }

    fn say_refused(&mut self, caller: Caller, rows: &[Waiter], refused: Refused) {
        let asks: Vec<Arc<Ask>> = rows.iter().map(|row| row.ask.clone()).collect();
        self.answer_set(caller, Reply::Refused(Box::new(refused)), &asks);
    }

    fn answer_set(&mut self, to: Caller, reply: Reply, asks: &[Arc<Ask>]) {
        self.answer(to, reply, None);
        let who = &asks[0].who;
        let mut lost: Vec<Ended> = match asks.iter().any(|ask| ask.upgrades.is_some()) {
            true => self.losses(who, None),
            false => asks.iter().flat_map(|ask| self.losses(who, Some(&ask.target))).collect(),
        };
        lost.sort_by_key(|ended| ended.id);
        lost.dedup_by_key(|ended| ended.id);
        let wanted = self.wanted(who, limits::WANTED_LOOKED_AT);
        let said = self.said.last_mut().expect("it was just said");
        (said.answer.lost, said.answer.wanted) = (lost, wanted);
    }

    /// Takes all rows of a waiting request out of the queue.
    fn remove_rows(&mut self, of: &Waiter) -> Vec<Waiter> {
        let is_one = |row: &Waiter| first_row(row) == first_row(of);
        let rows = self.waiters.iter().filter(|row| is_one(row)).cloned().collect();
        self.waiters.retain(|row| !is_one(row));
        rows
    }

    /// One more than the requests that come before any of these rows.
    fn position<'a>(&self, rows: impl Iterator<Item = (&'a Ask, Rank)>) -> usize {
        let mut before: Vec<WaiterId> = Vec::new();
        for (ask, rank) in rows {
            before.extend(self.earlier_by(ask, rank).iter().map(first_row));
        }
        before.sort_unstable();
        before.dedup();
        1 + before.len()
    }

    fn wait_free(&mut self, caller: Caller, ask: Arc<Ask>, wait: Wait) {
        if ask.who.session.is_some_and(|id| !self.has_session(id)) {
            return self.fail(caller, Fault::UnknownSession);
        }
        self.touch_all(&ask.who, &ask.target);
        self.ask(caller, ask, wait, false);
    }

    fn back_in_line(&mut self, caller: Caller, waiter: Waiter) {
        if let Some(before) = waiter.caller {
            self.fail(before, Fault::Invalid(String::new()));
        }
        for row in &mut self.waiters {
            if row.id == waiter.id {
                row.caller = Some(caller);
                (row.absent_until, row.offered_until) = (None, None);
            }
        }
        self.withdraw_offers();
        let rows = self.rows_with(&waiter);
        if waiter.caller.is_none() && self.closes_a_cycle_by_coming_back(&rows) {
            self.remove_rows(&waiter);
            self.refuse_set(caller, &rows, RefusedFor::Deadlock(Vec::new()));
        }
    }

    fn ask(&mut self, caller: Caller, ask: Arc<Ask>, wait: Wait, takes: bool) {
        let ask = if takes { self.as_upgrade(ask) } else { ask };
        if ask.who.session.is_some_and(|id| !self.has_session(id)) {
            return self.fail(caller, Fault::UnknownSession);
        }
        if self.paused {
            return self.fail(caller, Fault::Unavailable(String::new()));
        }
        let at = WaiterId(self.next_waiter);
        let chance = self.chance(&ask, at);
        let own = self.own_obstacle(&ask);
        let would_wait = chance == Chance::Blocked && own.is_none() && wait != Wait::Try;
        if (chance == Chance::Clear || would_wait) && self.closes_a_cycle_by_going_first(caller, &ask, takes, at) {
            if takes {
                self.came(&ask, false);
            }
            return self.refuse(caller, &ask, at, RefusedFor::Deadlock(Vec::new()));
        }
        if chance != Chance::Blocked {
            return self.settle(caller, &ask, takes, chance, None);
        }
        if let Some(own) = own {
            let (why, kept) = (RefusedFor::OwnLock, self.kept(&ask));
            let holders = vec![own];
            let refused =
                Refused { why, holders, more: 0, foreigner: None, position: 1, ticket: None, kept, retry_after: None };
            return self.answer(caller, Reply::Refused(Box::new(refused)), about(&ask));
        }
        let is_refused = wait == Wait::Try || self.closes_a_cycle(&ask, at);
        if is_refused && takes {
            self.came(&ask, false);
        }
        if wait == Wait::Try {
            return self.refuse(caller, &ask, at, RefusedFor::Held);
        }
        if is_refused {
            return self.refuse(caller, &ask, at, RefusedFor::Deadlock(Vec::new()));
        }
        let deadline = match wait {
            Wait::Until(deadline) => Some(deadline),
            _ => None,
        };
        self.next_waiter += 1;
        self.waiters.push(Waiter { deadline, is_counted: takes, ..self.in_line(caller, &ask, takes, at) });
        if takes {
            self.came(&ask, true);
        }
        self.withdraw_offers();
    }

    fn in_line(&self, caller: Caller, ask: &Arc<Ask>, takes: bool, at: WaiterId) -> Waiter {
        Waiter {
            id: at,
            at_once: false,
            ask: ask.clone(),
            takes,
            since: self.now,
            deadline: None,
            caller: Some(caller),
            absent_until: None,
            ticket: None,
            offered_until: None,
            os: OsWait::Idle,
            is_counted: false,
            level: self.level(ask),
        }
    }

    // ── Families ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// The generation of the deepest ancestor that holds all that is asked for, in an equal or stronger mode.
    fn level(&self, ask: &Ask) -> u8 {
        let is_inside = |lock: &&Lock| {
            let holder = &lock.ask.who.agent;
            let has_a_place = ask.mode != Mode::Advisory && is_above(holder, &ask.who.agent);
            has_a_place && lock.ask.mode.answers(ask.mode) && covers(&lock.ask.target, &ask.target)
        };
        let generation = |lock: &Lock| lock.ask.who.agent.as_str().split('/').count() as u8;
        self.locks.iter().filter(is_inside).map(generation).max().unwrap_or(0)
    }

    /// Where a request stands: inside locks of deeper ancestors first, then upgrades, then by arrival.
    fn rank(&self, ask: &Ask, at: WaiterId) -> Rank {
        let waiting = self.waiters.iter().find(|waiter| waiter.id == at);
        let level = waiting.map_or_else(|| self.level(ask), |waiter| waiter.level);
        (std::cmp::Reverse(level), ask.upgrades.is_none(), at)
    }

    /// Somebody holds more than before: requests of its sub-agents that are inside that now go before others, unless
    /// somebody would wait for itself then.
    fn let_sub_agents_in(&mut self, agent: &Agent) {
        for waiter in self.waiters.clone() {
            // All of a set, which waits as one and is no further in front than any of it.
            let rows = self.waiters.iter().filter(|row| first_row(row) == first_row(&waiter));
            let level = rows.map(|row| self.level(&row.ask)).min().unwrap_or(0);
            if is_above(agent, &waiter.ask.who.agent) && level > self.waiter(waiter.id).level {
                let before = self.waiters.clone();
                let rows = self.waiters.iter_mut().filter(|row| first_row(row) == first_row(&waiter));
                rows.for_each(|row| row.level = level);
                if self.waits_for_itself(&waiter.ask.who) {
                    self.waiters = before;
                }
            }
        }
        self.withdraw_offers();
    }

    /// Whether one of the requests of whoever acts here is part of a cycle of waits.
    fn waits_for_itself(&mut self, who: &Who) -> bool {
        let actor = self.actor(&who.agent, who.session);
        let is_mine = |w: &&Waiter| self.actor(&w.ask.who.agent, w.ask.who.session) == actor && w.caller.is_some();
        let mine: Vec<Waiter> = self.waiters.iter().filter(is_mine).cloned().collect();
        mine.iter().any(|waiter| self.closes_a_cycle(&waiter.ask, waiter.id))
    }

    /// What the sub-agents of an agent hold that a write to `target` would disturb.
    fn delegated(&self, agent: &Agent, target: &Target) -> Vec<Lock> {
        let is_childs = |lock: &Lock| is_above(agent, &lock.ask.who.agent) && lock.ask.mode != Mode::Advisory;
        let is_meant = |lock: &&Lock| is_childs(lock) && overlaps(&lock.ask.target, target);
        self.locks.iter().filter(is_meant).cloned().collect()
    }

    // ── Contention ──────────────────────────────────────────────────────────────────────────────────────────────────

    /// A request that others keep from its scope. Enough of them within the window are told, and then none for a
    /// window; what came in that is told with the first one behind it, if the scope is contended still.
    fn came(&mut self, ask: &Ask, waits: bool) {
        let (now, scope) = (self.now.mono, &ask.target.scope);
        let within = |at: Moment, ms: u64| now.0 - at.0 < ms;
        self.counted.push((scope.clone(), now, waits));
        let hot = self.hot.iter().position(|(hot, ..)| hot == scope).map(|at| self.hot[at].clone());
        if hot.as_ref().is_some_and(|(_, at, _)| within(*at, self.threshold.within)) {
            return;
        }
        self.hot.retain(|(hot, ..)| hot != scope);
        let mine = |counted: &&(Scope, Moment, bool)| counted.0 == *scope;
        let recent = self.counted.iter().filter(mine).filter(|(_, at, _)| within(*at, self.threshold.within));
        let recent: Vec<_> = recent.cloned().collect();
        if recent.len() < self.threshold.requests as usize {
            return;
        }
        let (told, since) = match hot {
            Some((_, at, counted)) => (self.counted[counted..].iter().filter(mine).cloned().collect(), at),
            None => (recent.clone(), recent[0].1),
        };
        self.hot.push((scope.clone(), now, self.counted.len()));
        if self.told_at.iter().filter(|at| within(**at, limits::CONTENTION_WITHIN)).count()
            >= limits::CONTENTION_TOLD_MAX
        {
            self.left_out += 1;
            return;
        }
        self.told_at.push(now);
        let waiting = self
            .waiters
            .iter()
            .filter(|waiter| waiter.takes && waiter.caller.is_some() && overlaps(&waiter.ask.target, &ask.target));
        let requests: std::collections::BTreeSet<WaiterId> = waiting.clone().map(first_row).collect();
        let contended = Contended {
            refused: told.iter().filter(|(.., waits)| !waits).count() as u64,
            queued: told.iter().filter(|(.., waits)| *waits).count() as u64,
            over: now.0 - since.0,
            waiting: requests.len() as u64,
            longest_wait: waiting.map(|waiter| now.0 - waiter.since.mono.0).max().unwrap_or(0),
            left_out: std::mem::take(&mut self.left_out),
        };
        let holder = self.holders_against(ask, &ask.target, ask.mode).first().map_or(LockId::NONE, |lock| lock.id);
        self.contended.push((holder, scope.clone(), contended));
    }

    /// The median of the latest holds, as often as there are requests to come, or what is left of the first lease.
    fn retry_after(&self, ask: &Ask, position: usize, holders: &[Lock]) -> Option<u64> {
        let is_recent = |(scope, at, _): &&(Scope, Moment, bool)| {
            *scope == ask.target.scope && self.now.mono.0 - at.0 < self.threshold.within
        };
        if self.counted.iter().filter(is_recent).count() < self.threshold.requests as usize {
            return None;
        }
        let holds = self.holds.iter().rev().filter(|(scope, _)| *scope == ask.target.scope).map(|(_, ms)| *ms);
        let mut holds: Vec<u64> = holds.take(limits::CONTENTION_HOLDS).collect();
        holds.sort_unstable();
        let after = match holds.get(holds.len() / 2) {
            Some(median) => median * position as u64,
            None => holders.first()?.expires?.left(self.now.mono),
        };
        Some(after.clamp(limits::RETRY_AFTER_MIN, limits::RETRY_AFTER_MAX))
    }

    // ── Writes around the locks ─────────────────────────────────────────────────────────────────────────────────────

    /// A file was written: nobody may, unless somebody holds it exclusively, or did until a moment ago.
    fn wrote(&mut self, target: &Target, how: Wrote) {
        let now = self.now.mono;
        let within = |at: Moment, ms: u64| now.0 - at.0 < ms;
        let is_writer = |lock: &Lock| lock.ask.mode == Mode::Exclusive && covers(&lock.ask.target, target);
        let was_writer = |(at, held): &(Moment, Target)| within(*at, limits::VIOLATION_GRACE) && overlaps(held, target);
        if self.locks.iter().any(is_writer) || self.writers.iter().any(was_writer) {
            return;
        }
        let mut readers: Vec<LockId> = Vec::new();
        for lock in &self.locks {
            if lock.ask.mode == Mode::Shared && covers(&lock.ask.target, target) {
                readers.push(lock.id);
            }
        }
        readers.sort_unstable();
        for id in readers {
            let recent: Vec<LockId> = self
                .violated_at
                .iter()
                .filter(|(at, _)| within(*at, limits::VIOLATION_WITHIN))
                .map(|(_, id)| *id)
                .collect();
            if !recent.contains(&id) && recent.len() < limits::VIOLATIONS_TOLD_MAX {
                self.violated_at.push((now, id));
                self.violated.push((id, how));
            }
        }
    }

    fn writes_no_more(&mut self, lock: &Lock) {
        if lock.ask.mode == Mode::Exclusive {
            self.writers.push((self.now.mono, lock.ask.target.clone()));
        }
    }

    // ── Upgrades ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Who asks for more than it holds on a scope wants that made exclusive; a lock that a session or a process keeps
    /// is another matter.
    fn as_upgrade(&self, ask: Arc<Ask>) -> Arc<Ask> {
        let covers_it = |own: &&Lock| {
            own.ask.who.agent == ask.who.agent && bound_of(own) == ask.bound && !is_ending(own) && answers(own, &ask)
        };
        if ask.who.session.is_some() || ask.upgrades.is_some() || self.locks.iter().any(|own| covers_it(&own)) {
            return ask;
        }
        let shared = self.locks.iter().find(|own| {
            own.ask.who.agent == ask.who.agent
                && is_weaker(own, &ask)
                && own.custody == Custody::Detached
                && own.ask.bound == ask.bound
                && is_same_scope(&own.ask.target, &ask.target)
        });
        let Some(own) = shared else { return ask };
        let lease = Lease { max_hold: own.ask.lease.max_hold, ..ask.lease };
        // Under another name it stays where it is.
        let is_its_name = own.ask.target.scope == ask.target.scope;
        let target = if is_its_name { ask.target.clone() } else { own.ask.target.clone() };
        Arc::new(Ask { upgrades: Some(own.id), target, lease, ..(*ask).clone() })
    }

    fn upgrade(&mut self, caller: Caller, who: Who, which: Which, wait: Wait, request: Option<RequestId>) {
        if who.session.is_some_and(|id| !self.has_session(id)) {
            return self.fail(caller, Fault::UnknownSession);
        }
        let is_it = |ask: &Ask| request.is_some() && ask.request == request && ask.who.agent == who.agent;
        if self.names_a_set(&is_it) {
            return self.fail(caller, Fault::Invalid(String::new()));
        }
        let held = self.locks.iter().find(|lock| is_it(&lock.ask)).cloned();
        if let Some(ending) = held.as_ref().filter(|lock| is_ending(lock)) {
            return self.put_off(ending.id, Command::Upgrade { caller, who, which, wait, request });
        }
        let waits = self.waiters.iter().find(|waiter| waiter.takes && is_it(&waiter.ask)).cloned();
        let ended = self.ended.iter().find(|ended| is_it(&ended.ask)).cloned();
        let before = held.as_ref().map(|lock| (Some(lock.id), &lock.ask));
        let before = before.or(waits.as_ref().map(|waiter| (waiter.ask.upgrades, &waiter.ask)));
        let before = before.or(ended.as_ref().map(|ended| (Some(ended.id), &ended.ask)));
        if let Some((id, ask)) = before {
            let is_meant = match &which {
                Which::Id(meant) => id == Some(*meant),
                Which::Scope(target) => id.is_some() && is_one(target, &ask.target),
                Which::All => false,
            };
            if !is_meant || ask.mode != Mode::Exclusive {
                return self.fail(caller, Fault::Invalid(String::new()));
            }
        }
        if let Some(lock) = held {
            let granted = Granted { again: true, ..grant_of(lock) };
            return self.answer_which(caller, Reply::Granted(Box::new(granted)), &who, &which);
        }
        if let Some(waiter) = waits {
            return self.back_in_line(caller, waiter);
        }
        if let Some(ended) = ended {
            let holders = self.holders_over(&ended.ask.target);
            let reply = Reply::Failed(Fault::Lost(Box::new(ended), holders));
            return self.answer_which(caller, reply, &who, &which);
        }
        if self.paused {
            return self.fail(caller, Fault::Unavailable(String::new()));
        }
        let lock = match self.chosen_to_change(&who, &which, Mode::Shared) {
            Ok(lock) if is_ending(&lock) => {
                return self.put_off(lock.id, Command::Upgrade { caller, who, which, wait, request });
            }
            Ok(lock) => lock,
            Err(fault) => return self.answer_which(caller, Reply::Failed(fault), &who, &which),
        };
        self.renew_lock(lock.id, None);
        let lock = self.held(lock.id).expect("it is held").clone();
        if lock.ask.mode == Mode::Exclusive {
            let granted = Granted { already_held: true, ..grant_of(lock) };
            return self.answer_which(caller, Reply::Granted(Box::new(granted)), &who, &which);
        }
        let target = match which {
            Which::Scope(target) if target.scope == lock.ask.target.scope => target,
            _ => lock.ask.target.clone(),
        };
        let lease = Lease { ttl: lock.ttl, ..lock.ask.lease };
        let before = Ask { set: None, lease, ..(*lock.ask).clone() };
        let ask = Ask { target, mode: Mode::Exclusive, who, request, upgrades: Some(lock.id), ..before };
        self.ask(caller, Arc::new(ask), wait, true);
    }

    fn downgrade(&mut self, caller: Caller, who: Who, which: Which) {
        if who.session.is_some_and(|id| !self.has_session(id)) {
            return self.fail(caller, Fault::UnknownSession);
        }
        if self.paused {
            return self.fail(caller, Fault::Unavailable(String::new()));
        }
        let reply = match self.chosen_to_change(&who, &which, Mode::Exclusive) {
            Err(fault) => Reply::Failed(fault),
            Ok(lock) => {
                if lock.in_flight.is_some() {
                    return self.put_off(lock.id, Command::Downgrade { caller, who, which });
                }
                self.renew_lock(lock.id, None);
                self.make_shared(lock.id);
                Reply::Downgraded(Box::new(self.held(lock.id).expect("it is held").clone()))
            }
        };
        self.answer_which(caller, reply, &who, &which);
    }

    fn chosen_to_change(&self, who: &Who, which: &Which, from: Mode) -> Result<Lock, Fault> {
        if *which == Which::All {
            return Err(Fault::Invalid(String::new()));
        }
        let mut locks = self.chosen(who, which)?;
        locks.retain(|lock| lock.ask.mode != Mode::Advisory);
        locks.retain(|lock| match lock.custody {
            Custody::Detached => true,
            Custody::Session(session) => who.session == Some(session),
            Custody::Process(_) => who.session.is_none() || who.session == lock.ask.who.session,
        });
        let has_mode = locks.iter().find(|lock| lock.ask.mode == from).or(locks.first());
        has_mode.cloned().ok_or_else(|| Fault::Invalid(String::new()))
    }

    fn make_exclusive(&mut self, id: LockId, ask: &Ask) {
        let fence = self.fresh_fence();
        let mut lock = self.held(id).expect("its upgrades end with it").clone();
        let who = match lock.custody {
            Custody::Detached => Who { session: None, ..ask.who.clone() },
            _ => lock.ask.who.clone(),
        };
        lock.ask = Arc::new(Ask { who, bound: lock.ask.bound, upgrades: None, ..ask.clone() });
        lock.ttl = ask.lease.ttl;
        lock.fence = fence;
        // Whatever flock a commit brought along is not wanted: nothing here wants one.
        lock.os = OsLock::None;
        if lock.custody == Custody::Detached {
            lock.expires = Some(self.lease_end(&lock));
        }
        self.put(lock);
        self.let_sub_agents_in(&ask.who.agent);
        self.withdraw_offers();
    }

    fn make_shared(&mut self, id: LockId) {
        let mut lock = self.held(id).expect("it is held").clone();
        self.writes_no_more(&lock);
        lock.ask = Arc::new(Ask { mode: Mode::Shared, ..(*lock.ask).clone() });
        self.put(lock);
        self.withdraw_offers();
    }

    fn kept(&self, ask: &Ask) -> Option<Box<Lock>> {
        ask.upgrades.and_then(|id| self.held(id)).cloned().map(Box::new)
    }

    /// What a lock was to be upgraded to is answered when nothing can come of that any more.
    fn drop_upgrades(&mut self, id: LockId, fault: &Fault) {
        for waiter in self.waiters.clone() {
            if waiter.ask.upgrades == Some(id) {
                let rows = self.remove_rows(&waiter);
                if let Some(caller) = waiter.caller.filter(|_| !rows.is_empty()) {
                    let asks: Vec<Arc<Ask>> = rows.iter().map(|row| row.ask.clone()).collect();
                    self.answer_set(caller, Reply::Failed(fault.clone()), &asks);
                }
            }
        }
    }

    /// An upgrade goes before others, and so does what is inside an ancestor's lock; they wait for it from then on:
    /// whether somebody waits for itself when it does.
    fn closes_a_cycle_by_going_first(&mut self, caller: Caller, ask: &Arc<Ask>, takes: bool, at: WaiterId) -> bool {
        if ask.upgrades.is_none() && self.level(ask) == 0 {
            return false;
        }
        let waiter = self.in_line(caller, ask, takes, at);
        self.waiters.push(waiter);
        let closes = self.waits_for_itself(&ask.who);
        self.waiters.retain(|waiter| waiter.id != at);
        closes
    }

    /// Whoever is back waits again, and is waited for, also if it is granted at once. What a lock of its own answers
    /// changes nothing about that.
    fn closes_a_cycle_by_coming_back(&mut self, rows: &[Waiter]) -> bool {
        let waits = |row: &Waiter| matches!(self.chance_of(row), Chance::Blocked | Chance::Clear);
        rows.iter().any(waits) && self.waits_for_itself(&rows[0].ask.who)
    }

    /// What a request at `at` in the order of arrival comes to right now.
    pub fn chance(&self, ask: &Ask, at: WaiterId) -> Chance {
        self.chance_by(ask, self.rank(ask, at))
    }

    /// What a row of a set comes to: it is as far in front as the whole set is.
    fn chance_of(&self, row: &Waiter) -> Chance {
        self.chance_by(&row.ask, rank_of(row))
    }

    fn chance_by(&self, ask: &Ask, rank: Rank) -> Chance {
        if let Some(id) = ask.upgrades {
            let is_done = self.held(id).expect("its upgrades end with it").ask.mode == Mode::Exclusive;
            let is_blocked = !self.holders_against(ask, &ask.target, ask.mode).is_empty()
                || !self.earlier_by(ask, rank).is_empty()
                || self.own_obstacle(ask).is_some();
            return match (is_done, is_blocked) {
                (true, _) => Chance::Mine(id),
                (false, true) => Chance::Blocked,
                (false, false) => Chance::Clear,
            };
        }
        // A one-shot is answered by what its agent holds; a session wants a guard of its own.
        for lock in &self.locks {
            let is_mine = lock.ask.who.agent == ask.who.agent && answers(lock, ask);
            let is_mine = is_mine && bound_of(lock) == ask.bound && !is_ending(lock);
            if ask.who.session.is_none() && is_mine {
                return Chance::Mine(lock.id);
            }
        }
        for lock in &self.locks {
            let is_mine = lock.ask.who.agent == ask.who.agent && answers(lock, ask);
            let is_detached = lock.custody == Custody::Detached && is_same_scope(&lock.ask.target, &ask.target);
            if ask.who.session.is_some() && is_mine && is_detached {
                // It comes back in the mode and under the name that it has. One that cannot, because of a fellow
                // session's guard, is in nobody's way here: it is one's own. What sub-agents hold in it stays.
                let mut others = self.holders_against(ask, &ask.target, lock.ask.mode);
                others.extend(self.holders_against(ask, &lock.ask.target, lock.ask.mode));
                others.retain(|other| !is_above(&ask.who.agent, &other.ask.who.agent));
                if others.is_empty() {
                    return Chance::Resume(lock.id);
                }
                break;
            }
        }
        let is_blocked = !self.holders_against(ask, &ask.target, ask.mode).is_empty()
            || !self.earlier_by(ask, rank).is_empty()
            || self.own_obstacle(ask).is_some();
        if is_blocked { Chance::Blocked } else { Chance::Clear }
    }

    fn settle(&mut self, caller: Caller, ask: &Arc<Ask>, takes: bool, chance: Chance, place: Option<KeptPlace>) {
        let about = about(ask);
        if !takes {
            return self.answer(caller, Reply::Free, about);
        }
        let (id, already_held, resumed) = match chance {
            Chance::Blocked => unreachable!("a blocked request is not settled"),
            Chance::Mine(id) => {
                self.renew_lock(id, Some(ask.lease.ttl));
                (id, true, None)
            }
            Chance::Resume(id) => {
                let before = self.held(id).expect("it is held").clone();
                self.take_up(id, ask);
                // Those who wait for the lock wait for this session now.
                if self.waits_for_itself(&ask.who) {
                    self.put(before.clone());
                    let at = WaiterId(self.next_waiter);
                    return self.refuse(caller, ask, at, RefusedFor::Deadlock(Vec::new()));
                }
                let text = Fault::Invalid(String::new());
                self.drop_upgrades(id, &text);
                self.withdraw_offers();
                (id, false, Some(Promised::by(&before)))
            }
            Chance::Clear => match ask.upgrades {
                Some(id) => {
                    self.make_exclusive(id, ask);
                    (id, false, None)
                }
                None => (self.grant(ask), false, None),
            },
        };
        let lock = self.held(id).expect("it was just granted").clone();
        let upgraded = chance == Chance::Clear && ask.upgrades.is_some();
        let place = place.filter(|_| chance == Chance::Clear && !upgraded);
        let granted = Granted { already_held, resumed, upgraded, place, ..grant_of(lock) };
        self.answer(caller, Reply::Granted(Box::new(granted)), about);
    }

    fn grant(&mut self, ask: &Arc<Ask>) -> LockId {
        self.tell_leaders();
        let fence = self.fresh_fence();
        let hold_until = ask.lease.max_hold.map(|most| self.now.mono.after(most));
        let mut lock = Lock {
            id: LockId(fence.0),
            ask: ask.clone(),
            fence,
            custody: Custody::Detached,
            since: self.now,
            ttl: ask.lease.ttl,
            expires: None,
            hold_until,
            lent: None,
            os: OsLock::None,
            in_flight: None,
        };
        match ask.who.session {
            Some(session) => lock.custody = Custody::Session(session),
            None => lock.expires = Some(self.lease_end(&lock)),
        }
        self.locks.push(lock);
        self.tell_leaders();
        self.let_sub_agents_in(&ask.who.agent);
        self.withdraw_offers();
        LockId(fence.0)
    }

    // ── Advisory locks ──────────────────────────────────────────────────────────────────────────────────────────────

    /// Where an advisory lock stands among those on its scope: ids grow with the first grant.
    fn standing(&self, lock: &Lock) -> Option<Standing> {
        let is_there =
            |other: &&Lock| other.ask.mode == Mode::Advisory && is_same_scope(&other.ask.target, &lock.ask.target);
        let older = self.locks.iter().filter(is_there).filter(|other| other.id < lock.id).count();
        let first = self.locks.iter().filter(is_there).min_by_key(|other| other.id)?;
        let standing = Standing { rank: older + 1, leader: first.ask.who.agent.clone() };
        Some(standing).filter(|_| lock.ask.mode == Mode::Advisory)
    }

    pub fn leads(&self, lock: &Lock) -> bool {
        self.standing(lock).is_some_and(|standing| standing.rank == 1)
    }

    fn rank_is_over(&mut self, lock: &Lock) {
        if lock.ask.mode == Mode::Advisory {
            self.unranked.push(lock.clone());
        }
    }

    /// Whoever leads and has not been told is.
    fn tell_leaders(&mut self) {
        self.leaders.retain(|id| self.locks.iter().any(|lock| lock.id == *id));
        let is_new = |lock: &&Lock| self.leads(lock) && !self.leaders.contains(&lock.id);
        let new: Vec<Lock> = self.locks.iter().filter(is_new).cloned().collect();
        for lock in new {
            let is_before = |ended: &&Lock| ended.id < lock.id && is_same_scope(&ended.ask.target, &lock.ask.target);
            let former = self.unranked.iter().filter(is_before).min_by_key(|ended| ended.id);
            self.led.push((lock.id, former.map(|ended| ended.ask.who.agent.clone())));
            self.leaders.push(lock.id);
        }
        self.unranked.clear();
    }

    /// Others whom an advisory grant, or a grant that meets advisory locks, names.
    fn beside(&self, own: &Lock) -> Vec<Lock> {
        let is_named = |other: &&Lock| {
            let is_advisory = own.ask.mode == Mode::Advisory || other.ask.mode == Mode::Advisory;
            let mine = own.keeper().is_none() || other.keeper().is_none() || own.keeper() == other.keeper();
            let is_mine = own.ask.who.agent == other.ask.who.agent && mine;
            let is_childs = is_above(&own.ask.who.agent, &other.ask.who.agent);
            let is_meant = (is_advisory && !is_mine) || (is_childs && modes_clash(own.ask.mode, other.ask.mode));
            other.id != own.id && is_meant && overlaps(&own.ask.target, &other.ask.target)
        };
        let mut named: Vec<Lock> = self.locks.iter().filter(is_named).cloned().collect();
        named.sort_by_key(|other| (other.ask.mode == Mode::Advisory, other.id));
        named
    }

    /// Same lock, same scope, same mode; new fence, the session's own terms. What a one-shot had goes back to it.
    fn take_up(&mut self, id: LockId, ask: &Ask) {
        let fence = self.fresh_fence();
        let lock = self.locks.iter_mut().find(|lock| lock.id == id).expect("it is held");
        lock.lent = lock.ask.who.session.is_none().then(|| Box::new(Loan::of(lock)));
        let (mode, target) = (lock.ask.mode, lock.ask.target.clone());
        lock.ask = Arc::new(Ask { mode, target, ..ask.clone() });
        lock.fence = fence;
        lock.ttl = ask.lease.ttl;
        lock.custody = Custody::Session(ask.who.session.expect("only sessions take locks up"));
        lock.expires = None;
        lock.hold_until = None;
    }

    fn fresh_fence(&mut self) -> Fence {
        self.next_fence += 1;
        Fence(self.next_fence - 1)
    }

    /// From the front of the queue, again and again, until nobody more can be served.
    fn serve(&mut self) {
        self.tell_leaders();
        self.refuse_in_cycles();
        while !self.paused {
            let mut next = None;
            let mut in_order = self.waiters.clone();
            in_order.sort_by_key(|waiter| (std::cmp::Reverse(waiter.level), waiter.id));
            for waiter in in_order {
                if next.is_some() || !self.waiters.iter().any(|row| row.id == waiter.id) {
                    continue;
                }
                let chance = self.chance(&waiter.ask, waiter.id);
                // All of a set can be had, or nothing of it is.
                let rows = self.waiters.iter().filter(|row| first_row(row) == first_row(&waiter));
                let is_blocked = rows.into_iter().any(|row| self.chance(&row.ask, row.id) == Chance::Blocked);
                if waiter.caller.is_some() && !is_blocked {
                    next = Some((waiter.clone(), chance));
                } else if waiter.is_kept() {
                    self.offer_if_due(waiter.id);
                }
            }
            let Some((waiter, chance)) = next else { return };
            let caller = waiter.caller.expect("only those who listen are served");
            let rows = self.remove_rows(&waiter);
            match waiter.ask.set {
                Some(_) => self.settle_set(caller, &rows),
                None => self.settle(caller, &waiter.ask, waiter.takes, chance, waiter.place()),
            }
        }
    }

    // ── Who is in the way ───────────────────────────────────────────────────────────────────────────────────────────

    /// Also one's own for as long as a file is being put in place under it, if a guard is wanted.
    fn holders_against(&self, ask: &Ask, target: &Target, mode: Mode) -> Vec<Lock> {
        let who = self.holder_to_be(ask);
        let is_meant = |lock: &&Lock| {
            let is_held_up = lock.in_flight.is_some() && (who.session.is_some() || who.agent != lock.ask.who.agent);
            let clashes = overlaps(&lock.ask.target, target) && modes_clash(lock.ask.mode, mode);
            is_in_the_way(lock, &who, target, mode) || (is_held_up && clashes)
        };
        self.locks.iter().filter(|lock| ask.upgrades != Some(lock.id)).filter(is_meant).cloned().collect()
    }

    /// In whose custody the lock will be: an upgrade changes nothing about that.
    fn holder_to_be(&self, ask: &Ask) -> Who {
        match ask.upgrades.and_then(|id| self.held(id)) {
            Some(held) => Who { session: held.keeper(), ..ask.who.clone() },
            None => ask.who.clone(),
        }
    }

    fn earlier(&self, ask: &Ask, at: WaiterId) -> Vec<Waiter> {
        self.earlier_by(ask, self.rank(ask, at))
    }

    fn earlier_by(&self, ask: &Ask, rank: Rank) -> Vec<Waiter> {
        // What is kept for a session keeps that session from nothing.
        let guard = self.holder_to_be(ask);
        let is_own_kept = |waiter: &Waiter| waiter.is_kept() && waiter.ask.who == guard;
        let comes_first = |waiter: &&Waiter| {
            rank_of(waiter) < rank
                && waiter.takes
                && overlaps(&waiter.ask.target, &ask.target)
                && modes_clash(waiter.ask.mode, ask.mode)
                && excludes(&waiter.ask.who.agent, self.holder_to_be(&waiter.ask).session, &self.holder_to_be(ask))
                && !is_own_kept(waiter)
        };
        self.waiters.iter().filter(comes_first).cloned().collect()
    }

    /// Locks of one's own that waiting would never get out of the way: the same session's, or a weaker one of the
    /// agent's on the same scope.
    fn own_obstacle(&self, ask: &Ask) -> Option<Lock> {
        let itself = self.locks.iter().find(|lock| {
            lock.ask.who.agent == ask.who.agent
                && lock.keeper().is_some()
                && lock.keeper() == self.holder_to_be(ask).session
                && ask.upgrades != Some(lock.id)
                && overlaps(&lock.ask.target, &ask.target)
                && modes_clash(lock.ask.mode, ask.mode)
        });
        let weaker = self.locks.iter().find(|lock| {
            lock.ask.who.agent == ask.who.agent
                && ask.upgrades.is_none()
                && !excludes(&lock.ask.who.agent, lock.keeper(), &ask.who)
                && is_weaker(lock, ask)
                && is_same_scope(&lock.ask.target, &ask.target)
        });
        itself.or(weaker).cloned()
    }

    fn all_over(&self, target: &Target) -> Vec<Lock> {
        self.locks.iter().filter(|lock| overlaps(&lock.ask.target, target)).cloned().collect()
    }

    /// Of these, whoever keeps others out.
    fn holders_over(&self, target: &Target) -> Vec<Lock> {
        self.all_over(target).into_iter().filter(|lock| lock.ask.mode != Mode::Advisory).collect()
    }

    fn refuse(&mut self, caller: Caller, ask: &Ask, at: WaiterId, why: RefusedFor) {
        let refused = self.refused(ask, at, why);
        self.answer(caller, Reply::Refused(Box::new(refused)), about(ask));
    }

    fn refused(&self, ask: &Ask, at: WaiterId, why: RefusedFor) -> Refused {
        let holders = self.holders_against(ask, &ask.target, ask.mode);
        let position = self.position(std::iter::once((ask, self.rank(ask, at))));
        let retry_after = match why {
            RefusedFor::Held | RefusedFor::Timeout => self.retry_after(ask, position, &holders),
            RefusedFor::OwnLock | RefusedFor::Deadlock(_) => None,
        };
        Refused { why, holders, more: 0, foreigner: None, position, ticket: None, kept: self.kept(ask), retry_after }
    }

    // ── Deadlock ────────────────────────────────────────────────────────────────────────────────────────────────────

    fn actor(&self, agent: &Agent, session: Option<SessionId>) -> Actor {
        for open in &self.sessions {
            if Some(open.id) == session && open.kind == SessionKind::Library {
                return Actor::Session(open.id);
            }
        }
        Actor::Agent(agent.clone())
    }

    /// Everybody whom one request waits for.
    fn waits_for(&self, ask: &Ask, at: WaiterId) -> Vec<(Actor, Link)> {
        // What a lock of its own answers is not waited for, be it that a file is being put in place under that.
        let at_rest = self.locks.iter().map(|lock| Lock { in_flight: None, ..lock.clone() }).collect();
        let at_rest = Naive { locks: at_rest, ..self.clone() };
        let is_mine = matches!(self.chance(ask, at), Chance::Mine(_));
        if is_mine || matches!(at_rest.chance(ask, at), Chance::Resume(_)) {
            return Vec::new();
        }
        let from = self.actor(&ask.who.agent, ask.who.session);
        let link = |behind: &Agent, held: bool| Link {
            waits: ask.who.agent.clone(),
            wants: ask.target.scope.clone(),
            behind: behind.clone(),
            held,
        };
        let mut found = Vec::new();
        let others = self.locks.iter().filter(|lock| ask.upgrades != Some(lock.id));
        let who = self.holder_to_be(ask);
        for lock in others.filter(|lock| is_in_the_way(lock, &who, &ask.target, ask.mode)) {
            let agent = &lock.ask.who.agent;
            found.push((self.actor(agent, lock.keeper()), link(agent, true)));
        }
        // Nobody waits for who is not there.
        for waiter in self.earlier(ask, at).into_iter().filter(|waiter| waiter.caller.is_some()) {
            let who = &waiter.ask.who;
            found.push((self.actor(&who.agent, who.session), link(&who.agent, false)));
        }
        found.retain(|(to, _)| *to != from);
        found
    }

    /// Whether the requester waits, by way of others, for itself.
    fn closes_a_cycle(&mut self, ask: &Ask, at: WaiterId) -> bool {
        let goal = self.actor(&ask.who.agent, ask.who.session);
        let mut reached = self.waits_for(ask, at);
        let mut links: Vec<Link> = reached.iter().map(|(_, link)| link.clone()).collect();
        loop {
            let mut more = Vec::new();
            for waiter in self.waiters.iter().filter(|waiter| waiter.caller.is_some() && waiter.id != at) {
                let who = self.actor(&waiter.ask.who.agent, waiter.ask.who.session);
                if reached.iter().any(|(actor, _)| *actor == who) {
                    more.extend(self.waits_for(&waiter.ask, waiter.id));
                }
            }
            more.retain(|(actor, _)| !reached.iter().any(|(known, _)| known == actor));
            if more.is_empty() {
                break;
            }
            reached.extend(more);
        }
        for waiter in self.waiters.iter().filter(|waiter| waiter.caller.is_some()) {
            links.extend(self.waits_for(&waiter.ask, waiter.id).into_iter().map(|(_, link)| link));
        }
        // Of two upgrades that wait for each other's lock neither ends, also where both are one actor's.
        let mut is_rivalry = false;
        if let Some(own) = ask.upgrades.and_then(|id| self.held(id)) {
            for rival in self.waiters.iter().filter(|rival| rival.caller.is_some()) {
                let Some(theirs) = rival.ask.upgrades.and_then(|id| self.held(id)) else { continue };
                let each = is_in_the_way(theirs, &self.holder_to_be(ask), &ask.target, ask.mode)
                    && is_in_the_way(own, &self.holder_to_be(&rival.ask), &rival.ask.target, rival.ask.mode)
                    && theirs.id != own.id;
                if each {
                    is_rivalry = true;
                    let link = |waits: &Ask, behind: &Ask| Link {
                        waits: waits.who.agent.clone(),
                        wants: waits.target.scope.clone(),
                        behind: behind.who.agent.clone(),
                        held: true,
                    };
                    links.extend([link(ask, &rival.ask), link(&rival.ask, ask)]);
                }
            }
        }
        self.waits_then.extend(links);
        is_rivalry || reached.iter().any(|(actor, _)| *actor == goal)
    }

    // ── Holding ─────────────────────────────────────────────────────────────────────────────────────────────────────

    fn lease_end(&self, lock: &Lock) -> Moment {
        let end = self.now.mono.after(lock.ttl);
        lock.hold_until.map_or(end, |most| end.min(most))
    }

    fn renew_lock(&mut self, id: LockId, ttl: Option<u64>) {
        let mut lock = self.held(id).expect("it is held").clone();
        if let (Some(loan), Some(ttl)) = (&mut lock.lent, ttl) {
            loan.promised.ttl = ttl;
            return self.put(lock);
        }
        if lock.custody != Custody::Detached {
            return;
        }
        lock.ttl = ttl.unwrap_or(lock.ttl);
        lock.expires = Some(self.lease_end(&lock));
        self.put(lock);
    }

    fn put(&mut self, lock: Lock) {
        let row = self.locks.iter_mut().find(|row| row.id == lock.id).expect("it is held");
        *row = lock;
    }

    fn end(&mut self, id: LockId, why: EndReason, untold: bool) -> Ended {
        let lock = self.held(id).expect("it is held").clone();
        self.rank_is_over(&lock);
        self.writes_no_more(&lock);
        self.locks.retain(|other| other.id != id);
        let excludes = lock.ask.mode != Mode::Advisory;
        if excludes && self.counted.iter().any(|(scope, ..)| *scope == lock.ask.target.scope) {
            self.holds.push((lock.ask.target.scope.clone(), self.now.mono.0 - lock.since.mono.0));
        }
        let ended = Ended { id, ask: lock.ask, fence: lock.fence, why, at: self.now, untold };
        self.ended.push(ended.clone());
        let holders = self.holders_over(&ended.ask.target);
        self.drop_upgrades(id, &Fault::Lost(Box::new(ended.clone()), holders));
        ended
    }

    /// An answer did not arrive: what it alone told of has never been, and what it changed of an old lock is let go.
    fn take_back(&mut self, id: LockId, fence: Fence, what: Unheard) {
        let Some(mut lock) = self.held(id).filter(|lock| lock.fence == fence).cloned() else { return };
        if lock.in_flight.is_some() {
            return self.put_off(id, Command::TakeBack { id, fence, what });
        }
        if what.is_new {
            self.rank_is_over(&lock);
            self.writes_no_more(&lock);
            self.locks.retain(|lock| lock.id != id);
            self.drop_upgrades(id, &Fault::NotFound);
            return self.keep_again(lock.ask, what.place);
        }
        lock.ask = Arc::new(Ask { request: None, ..(*lock.ask).clone() });
        let is_lent = lock.lent.is_some();
        if let Some(Promised { lease, ttl, hold_until, .. }) = what.resumed.filter(|_| !is_lent) {
            lock.ask = Arc::new(Ask { lease, ..(*lock.ask).clone() });
            (lock.ttl, lock.hold_until) = (ttl, hold_until);
            lock.expires = Some(self.lease_end(&lock));
        }
        self.put(lock);
        if what.upgraded {
            self.make_shared(id);
        }
        if what.resumed.is_some() {
            self.let_go(id, EndReason::SessionEnded);
        }
    }

    /// What kept a lock alive is gone.
    fn let_go(&mut self, id: LockId, why: EndReason) {
        let mut lock = self.held(id).expect("it is held").clone();
        if lock.lent.is_some() {
            give_back(&mut lock);
            lock.custody = Custody::Detached;
            lock.expires = Some(self.lease_end(&lock));
            let is_over = lock.in_flight.is_none() && lock.expires <= Some(self.now.mono);
            self.put(lock);
            self.drop_upgrades(id, &Fault::Invalid(String::new()));
            if is_over {
                self.end(id, EndReason::Expired, true);
            }
            return;
        }
        if lock.ttl == 0 && lock.in_flight.is_some() {
            return self.end_later(id, why);
        }
        if lock.ttl == 0 {
            let is_silent = why == EndReason::Silent;
            self.end(id, why, is_silent);
            return;
        }
        lock.custody = Custody::Detached;
        if lock.expires.is_none() {
            lock.expires = Some(self.lease_end(&lock));
        }
        self.put(lock);
    }

    fn open(&mut self, caller: Caller, session: Session) {
        if self.paused {
            return self.fail(caller, Fault::Unavailable(String::new()));
        }
        let id = session.id;
        self.sessions.push(session);
        self.answer(caller, Reply::SessionOpen(id), None);
    }

    fn come_back(&mut self, caller: Caller, id: SessionId, secret: u128, process: Option<Process>) {
        let is_it = |session: &&mut Session| session.id == id && session.secret == secret && session.process == process;
        let Some(session) = self.sessions.iter_mut().find(is_it) else {
            return self.fail(caller, Fault::UnknownSession);
        };
        session.away_until = None;
        for lock in &mut self.locks {
            if lock.custody == Custody::Session(id) {
                lock.expires = None;
            }
        }
        self.answer(caller, Reply::SessionOpen(id), None);
    }

    fn end_session(&mut self, id: SessionId, why: EndReason) {
        if !self.has_session(id) {
            return;
        }
        self.waiters.retain(|waiter| waiter.ask.who.session != Some(id));
        for lock in self.locks.clone() {
            if lock.custody == Custody::Session(id) {
                self.let_go(lock.id, why.clone());
            }
        }
        self.sessions.retain(|session| session.id != id);
    }

    fn process_gone(&mut self, process: Process) {
        for session in self.sessions.clone() {
            if session.process == Some(process) {
                self.end_session(session.id, EndReason::SessionEnded);
            }
        }
        for waiter in self.waiters.clone() {
            if waiter.ask.bound == Some(process) {
                let rows = self.remove_rows(&waiter);
                if let Some(caller) = waiter.caller.filter(|_| !rows.is_empty()) {
                    self.fail(caller, Fault::Invalid(String::new()));
                }
            }
        }
        self.refuse_put_off(process);
        for lock in self.locks.clone() {
            let is_bound = bound_of(&lock) == Some(process);
            match lock.custody {
                Custody::Detached if is_bound && lock.in_flight.is_some() => {
                    self.end_later(lock.id, EndReason::SessionEnded);
                }
                Custody::Detached if is_bound => drop(self.end(lock.id, EndReason::SessionEnded, false)),
                custody => {
                    let id = lock.id;
                    if is_bound {
                        self.put(Lock { lent: None, ..lock });
                    }
                    if custody == Custody::Process(process) {
                        self.let_go(id, EndReason::SessionEnded);
                    }
                }
            }
        }
    }

    // ── Commands about certain locks ────────────────────────────────────────────────────────────────────────────────

    fn chosen(&self, who: &Who, which: &Which) -> Result<Vec<Lock>, Fault> {
        let mut mine: Vec<Lock> = self.locks.iter().filter(|lock| lock.ask.who.agent == who.agent).cloned().collect();
        let lost = |ended: &Ended| Fault::Lost(Box::new(ended.clone()), self.holders_over(&ended.ask.target));
        match which {
            Which::All => Ok(mine),
            Which::Id(id) => {
                if let Some(lock) = self.held(*id) {
                    let is_mine = lock.ask.who.agent == who.agent;
                    return if is_mine { Ok(vec![lock.clone()]) } else { Err(Fault::NotHolder(vec![lock.clone()])) };
                }
                let was_mine = |ended: &&Ended| ended.id == *id && ended.ask.who.agent == who.agent;
                Err(self.ended.iter().find(was_mine).map_or(Fault::NotFound, lost))
            }
            Which::Scope(target) => {
                mine.retain(|lock| is_here(&lock.ask.target, target));
                if !mine.is_empty() {
                    return Ok(mine);
                }
                let mut was_mine: Vec<&Ended> = self.ended.iter().collect();
                // A loss is recognised by what was typed, whatever has become of the place since.
                let by_name = |target: &Target| Target { ids: Box::new([]), ..target.clone() };
                was_mine.retain(|ended| {
                    ended.ask.who.agent == who.agent && is_here(&by_name(&ended.ask.target), &by_name(target))
                });
                was_mine.sort_by_key(|ended| (ended.at.mono, ended.id));
                if let Some(ended) = was_mine.last()
                    && ended.why != EndReason::Released
                {
                    return Err(lost(ended));
                }
                let mut holders = self.all_over(target);
                holders.truncate(limits::HOLDERS_NAMED);
                Err(match holders.iter().find(|lock| lock.ask.who.agent == who.agent) {
                    Some(own) => Fault::Invalid(format!(
                        "you hold {} ({id}), not exactly this scope; name the lock itself: `--id {id}`",
                        own.ask.target.scope,
                        id = own.id
                    )),
                    None if holders.is_empty() => Fault::NotFound,
                    None => Fault::NotHolder(holders),
                })
            }
        }
    }

    fn answer_which(&mut self, to: Caller, reply: Reply, who: &Who, which: &Which) {
        let target = match which {
            Which::All => None,
            Which::Scope(target) => Some(target.clone()),
            Which::Id(id) => {
                let held = self.held(*id).map(|lock| lock.ask.target.clone());
                let ended = self.ended.iter().find(|ended| ended.id == *id).map(|ended| ended.ask.target.clone());
                let Some(target) = held.or(ended) else { return self.answer(to, reply, None) };
                Some(target)
            }
        };
        self.answer(to, reply, Some((who, target.as_ref())));
    }

    fn unlock(&mut self, caller: Option<Caller>, who: Who, which: Which, leaves_loan: bool) {
        let (chosen, before) = (self.chosen(&who, &which), self.waiters.len());
        let is_meant = |row: &Waiter| match &which {
            Which::All => true,
            Which::Id(_) => false,
            Which::Scope(target) => is_here(&row.ask.target, target),
        };
        // Of a set all goes with any part of it.
        let given_up = |row: &&Waiter| row.is_kept() && row.ask.who.agent == who.agent && is_meant(row);
        let given_up: Vec<WaiterId> = self.waiters.iter().filter(given_up).map(first_row).collect();
        self.waiters.retain(|row| !given_up.contains(&first_row(row)));
        let reply = match chosen {
            Err(_) if self.waiters.len() < before => Reply::Released(Vec::new()),
            Err(fault) => Reply::Failed(fault),
            Ok(locks) => {
                let left = locks.iter().map(|lock| lock.id).collect();
                return self.release(Unlocking { caller, who, which, leaves_loan, released: Vec::new(), left });
            }
        };
        if let Some(caller) = caller {
            self.answer_which(caller, reply, &who, &which);
        }
    }

    /// What was meant when it was asked for, each as soon as no file is being put in place under it.
    fn release(&mut self, mut unlocking: Unlocking) {
        let which = unlocking.which.clone();
        for id in std::mem::take(&mut unlocking.left) {
            let Some(lock) = self.held(id).cloned() else { continue };
            if lock.in_flight.is_some() {
                unlocking.left.push(id);
                continue;
            }
            let session = unlocking.who.session;
            // A session gives back by its id what is its own, and what it has on loan goes to its agent.
            if session.is_some() && lock.ask.who.session != session && matches!(which, Which::Id(_)) {
                continue;
            }
            let is_its_loan = lock.lent.is_some() && session.is_some() && lock.keeper() == session;
            // A guard that is released by anybody but its session has lost its lock.
            let over_its_head = lock.keeper().is_some() && lock.keeper() != session;
            match is_its_loan {
                true => self.let_go(id, EndReason::Released),
                false if lock.lent.is_some() && unlocking.leaves_loan => self.put(Lock { lent: None, ..lock.clone() }),
                false => drop(self.end(id, EndReason::Released, over_its_head)),
            }
            unlocking.released.push(lock);
        }
        if let Some(busy) = unlocking.left.first() {
            return self.put_off(*busy, Command::FinishUnlock(Box::new(unlocking)));
        }
        let Unlocking { caller: Some(caller), who, which, mut released, .. } = unlocking else { return };
        released.sort_by_key(|lock| lock.id);
        let reply = match self.chosen(&who, &which) {
            Err(fault) if released.is_empty() => Reply::Failed(fault),
            _ => Reply::Released(released),
        };
        self.answer_which(caller, reply, &who, &which);
    }

    fn renew(&mut self, caller: Caller, who: Who, which: Which, ttl: Option<u64>) {
        if ttl.is_some_and(|ttl| ttl == 0 || ttl > limits::TTL_MAX) {
            return self.fail(caller, Fault::Invalid(String::new()));
        }
        if self.paused {
            return self.fail(caller, Fault::Unavailable(String::new()));
        }
        let reply = match self.chosen(&who, &which) {
            Err(fault) => Reply::Failed(fault),
            Ok(locks) => {
                locks.iter().for_each(|lock| self.renew_lock(lock.id, ttl));
                let renewed = locks.iter().map(|lock| self.held(lock.id).expect("it is held").clone());
                Reply::Renewed(renewed.collect())
            }
        };
        self.answer_which(caller, reply, &who, &which);
    }

    fn bind(&mut self, caller: Caller, who: Who, id: LockId, process: Process) {
        if self.paused {
            return self.fail(caller, Fault::Unavailable(String::new()));
        }
        let reply = match self.chosen(&who, &Which::Id(id)) {
            Err(fault) => Reply::Failed(fault),
            Ok(locks) => {
                let mut lock = locks[0].clone();
                let who = Who { agent: who.agent.clone(), session: lock.keeper() };
                lock.ask = Arc::new(Ask { who, bound: None, ..(*lock.ask).clone() });
                lock.custody = Custody::Process(process);
                lock.expires = None;
                self.put(lock);
                Reply::Bound(id)
            }
        };
        self.answer_which(caller, reply, &who, &Which::Id(id));
    }

    fn break_lock(&mut self, caller: Caller, who: Who, id: LockId, reason: Arc<str>) {
        if self.held(id).is_some_and(|lock| lock.in_flight.is_some()) {
            return self.put_off(id, Command::Break { caller, who, id, reason });
        }
        if self.held(id).is_some() {
            let ended = self.end(id, EndReason::Broken { by: who.agent, reason }, true);
            return self.answer(caller, Reply::Broken(Box::new(ended)), None);
        }
        let ended = self.ended.iter().find(|ended| ended.id == id).cloned();
        let fault = ended.map_or(Fault::NotFound, |ended| {
            let holders = self.holders_over(&ended.ask.target);
            Fault::Lost(Box::new(ended), holders)
        });
        self.fail(caller, fault);
    }

    fn check(&mut self, caller: Caller, who: Who, target: Target, fence: Option<Fence>) {
        let may_write = |lock: &&Lock| {
            lock.ask.who.agent == who.agent
                && lock.ask.mode == Mode::Exclusive
                && covers(&lock.ask.target, &target)
                && fence.is_none_or(|fence| fence == lock.fence)
        };
        let mine = self.locks.iter().find(may_write).map(|lock| lock.id);
        let below = self.delegated(&who.agent, &target);
        let reply = match mine {
            Some(id) if below.is_empty() => {
                self.renew_lock(id, None);
                Reply::Checked(Ok(Box::new(self.held(id).expect("it is held").clone())))
            }
            Some(_) => {
                self.touch_all(&who, &target);
                Reply::Checked(Err(below))
            }
            None => {
                self.touch_all(&who, &target);
                let mut there = self.all_over(&target);
                there.retain(|lock| lock.ask.mode != Mode::Advisory || lock.ask.who.agent == who.agent);
                there.truncate(limits::HOLDERS_NAMED);
                Reply::Checked(Err(there))
            }
        };
        self.answer(caller, reply, Some((&who, Some(&target))));
    }

    // ── Writing ─────────────────────────────────────────────────────────────────────────────────────────────────────

    fn commit(
        &mut self,
        caller: Caller,
        who: Who,
        target: Target,
        fence: Option<Fence>,
        prepared: Arc<flockd::model::Prepared>,
    ) {
        if who.session.is_some_and(|id| !self.has_session(id)) {
            return self.fail(caller, Fault::UnknownSession);
        }
        if self.paused {
            return self.fail(caller, Fault::Unavailable(String::new()));
        }
        if !matches!(target.scope, Scope::File(_)) {
            return self.fail(caller, Fault::Invalid(String::new()));
        }
        let covers_it = |lock: &&Lock| {
            lock.ask.who.agent == who.agent && lock.ask.mode == Mode::Exclusive && covers(&lock.ask.target, &target)
        };
        // With a fence it is that lock or none; without, any that does not belong to a fellow session's guard.
        let allows = |lock: &&Lock| match fence {
            Some(fence) => lock.fence == fence,
            None => who.session.is_none() || lock.keeper().is_none() || lock.keeper() == who.session,
        };
        let below = self.delegated(&who.agent, &target);
        let would_write = |lock: &Lock| fence.is_none_or(|fence| lock.fence == fence);
        if !below.is_empty() && self.locks.iter().filter(covers_it).any(would_write) {
            self.touch_all(&who, &target);
            let reply = Reply::Failed(Fault::Delegated(below));
            return self.answer(caller, reply, Some((&who, Some(&target))));
        }
        let allowing = self.locks.iter().filter(covers_it).find(allows).cloned();
        let Some(lock) = allowing.filter(|_| below.is_empty()) else {
            self.touch_all(&who, &target);
            let holders = self.holders_over(&target);
            let lost = match fence {
                Some(fence) => {
                    self.ended.iter().find(|ended| ended.ask.who.agent == who.agent && ended.fence == fence).cloned()
                }
                None => {
                    let mut lost = self.losses(&who, Some(&target));
                    lost.retain(|ended| {
                        ended.ask.mode == Mode::Exclusive && ended.ask.target.scope.covers(&target.scope)
                    });
                    lost.pop()
                }
            };
            let own = self.all_over(&target).into_iter().find(|lock| lock.ask.who.agent == who.agent);
            let has_other = holders.iter().any(|lock| lock.ask.who.agent == who.agent);
            let fault = match (lost, own) {
                (Some(ended), _) => Fault::Lost(Box::new(ended), holders),
                (None, Some(own)) if !has_other => Fault::OnlyAdvisory(Box::new(own), holders),
                (None, _) => Fault::NotHolder(holders),
            };
            return self.answer(caller, Reply::Failed(fault), Some((&who, Some(&target))));
        };
        let is_to_end = |lock: &Lock| {
            let Some(in_flight) = &lock.in_flight else { return false };
            let has_run_out = lock.expires.is_some_and(|end| end <= self.now.mono);
            has_run_out || in_flight.ending.is_some() || !in_flight.waiting.is_empty()
        };
        let is_same = |commit: &flockd::model::Commit| {
            let same_id = commit.target.own_id().is_some() && commit.target.own_id() == target.own_id();
            commit.target.scope == target.scope || same_id
        };
        let writes_it = |lock: &&Lock| lock.in_flight.iter().any(|in_flight| in_flight.commits.iter().any(is_same));
        let before = self.locks.iter().filter(covers_it).find(writes_it);
        let before = if is_to_end(&lock) { Some(&lock) } else { before };
        if let Some(before) = before {
            return self.put_off(before.id, Command::Commit { caller, who, target, fence, prepared });
        }
        self.renew_lock(lock.id, None);
        let id = CommitId(self.next_commit);
        self.next_commit += 1;
        let mut lock = self.held(lock.id).expect("it is held").clone();
        let commit = flockd::model::Commit { id, caller: Some(caller), who, target };
        lock.in_flight.get_or_insert_default().commits.push(commit);
        self.put(lock);
        self.withdraw_offers();
    }

    fn commit_done(&mut self, id: CommitId, lock: LockId, answer: CommitAnswer) {
        let mut lock = self.held(lock).expect("nothing ends under a commit").clone();
        let mut in_flight = *lock.in_flight.take().expect("the commit is in flight");
        let at = in_flight.commits.iter().position(|commit| commit.id == id).expect("the commit is in flight");
        let commit = in_flight.commits[at].clone();
        let (reply, placed) = match answer {
            CommitAnswer::InPlace(placed) => (None, Some(placed)),
            CommitAnswer::NotDurable(placed, why) => (Some(Fault::NotDurable(why)), Some(placed)),
            CommitAnswer::Refused(fault) => (Some(fault), None),
            CommitAnswer::Late => (Some(Fault::Unavailable(String::new())), None),
        };
        match &reply {
            Some(Fault::Unavailable(text)) if text.is_empty() => in_flight.commits[at].caller = None,
            _ => drop(in_flight.commits.remove(at)),
        }
        if lock.ask.os && placed.is_some_and(|placed| placed.flocked) {
            lock.os = OsLock::Held;
        }
        let is_over = in_flight.commits.is_empty();
        lock.in_flight = Some(Box::new(in_flight.clone())).filter(|_| !is_over);
        self.put(lock.clone());
        if let Some(file) = placed.and_then(|placed| placed.file) {
            self.follow_file(&commit.target, file);
        }
        let lock = self.held(lock.id).expect("it is held").clone();
        if let Some(caller) = commit.caller {
            let reply = match (reply, placed) {
                (Some(fault), _) => Reply::Failed(fault),
                (None, placed) => Reply::Committed(Box::new(lock.clone()), placed.expect("it is in place")),
            };
            self.answer(caller, reply, Some((&commit.who, Some(&commit.target))));
        }
        if !is_over {
            return;
        }
        match in_flight.ending {
            Some(why) => {
                let is_silent = why == EndReason::Silent;
                self.end(lock.id, why, is_silent);
            }
            None => self.do_what_is_due(),
        }
        for command in in_flight.waiting {
            self.carry_out(command);
        }
    }

    /// What is held and asked for at a place means the file that was put there, unless that is known already.
    fn follow_file(&mut self, place: &Target, file: FileId) {
        let asks = self.locks.iter().map(|lock| &lock.ask).chain(self.waiters.iter().map(|waiter| &waiter.ask));
        if asks.clone().any(|ask| ask.target.ids.contains(&file)) {
            return;
        }
        let followed = |ask: &Arc<Ask>| {
            let below = ask.target.scope.components().count();
            let is_there = is_same_scope(&ask.target, place) && is_same_entry(&ask.target, place);
            let is_there = is_there && ask.mode != Mode::Advisory;
            let ids = ask.target.ids.iter().take(below).copied().chain([file]).collect();
            let target = Target { scope: ask.target.scope.clone(), ids };
            if is_there { Arc::new(Ask { target, ..(**ask).clone() }) } else { ask.clone() }
        };
        let locks: Vec<Lock> = self.locks.iter().map(|l| Lock { ask: followed(&l.ask), ..l.clone() }).collect();
        let waiters = self.waiters.iter().map(|w| Waiter { ask: followed(&w.ask), ..w.clone() }).collect();
        (self.locks, self.waiters) = (locks, waiters);
    }

    fn put_off(&mut self, id: LockId, command: Command) {
        let mut lock = self.held(id).expect("it is held").clone();
        lock.in_flight.as_mut().expect("it has something in flight").waiting.push(command);
        self.put(lock);
    }

    /// What is wanted and not looked at yet goes with whoever wants it.
    fn forget_put_off(&mut self, is_meant: impl Fn(Caller) -> bool) -> bool {
        let stays = |command: &Command| match command {
            Command::Lock { caller, .. }
            | Command::LockSet { caller, .. }
            | Command::Upgrade { caller, .. }
            | Command::Commit { caller, .. } => !is_meant(*caller),
            _ => true,
        };
        let mut was_any = false;
        for in_flight in self.locks.iter_mut().filter_map(|lock| lock.in_flight.as_mut()) {
            was_any |= in_flight.waiting.iter().any(|command| !stays(command));
            in_flight.waiting.retain(&stays);
        }
        was_any
    }

    /// Nothing is granted for a process that ended meanwhile.
    fn refuse_put_off(&mut self, process: Process) {
        let mut refused = Vec::new();
        for in_flight in self.locks.iter_mut().filter_map(|lock| lock.in_flight.as_mut()) {
            in_flight.waiting.retain(|command| match command {
                Command::Lock { caller, ask, .. } if ask.bound == Some(process) => {
                    refused.push(*caller);
                    false
                }
                Command::LockSet { caller, asks, .. } if asks[0].bound == Some(process) => {
                    refused.push(*caller);
                    false
                }
                _ => true,
            });
        }
        refused.into_iter().for_each(|caller| self.fail(caller, Fault::Invalid(String::new())));
    }

    fn end_later(&mut self, id: LockId, why: EndReason) {
        let mut lock = self.held(id).expect("it is held").clone();
        lock.in_flight.as_mut().expect("it has something in flight").ending.get_or_insert(why);
        lock.custody = Custody::Detached;
        lock.expires = Some(lock.expires.map_or(self.now.mono, |end| end.min(self.now.mono)));
        self.put(lock);
    }

    /// Whatever its agent asks about a place renews the agent's leases there.
    fn touch_all(&mut self, who: &Who, target: &Target) {
        for lock in self.all_over(target) {
            if lock.ask.who.agent == who.agent {
                self.renew_lock(lock.id, None);
            }
        }
    }

    fn status(&mut self, caller: Caller, who: Option<Who>, target: Option<Target>) {
        if let (Some(who), Some(target)) = (&who, &target) {
            self.touch_all(who, target);
        }
        let is_meant = |other: &Target| target.as_ref().is_none_or(|target| overlaps(target, other));
        let locks = self.locks.iter().filter(|lock| is_meant(&lock.ask.target)).cloned().collect();
        let waiters = self.waiters.iter().filter(|waiter| is_meant(&waiter.ask.target));
        let waiters = waiters.map(|waiter| Queued {
            waiter: waiter.clone(),
            position: self.position(std::iter::once((&*waiter.ask, rank_of(waiter)))),
            behind: self.holders_against(&waiter.ask, &waiter.ask.target, waiter.ask.mode),
        });
        let reply = Reply::Status { locks, waiters: waiters.collect() };
        self.answer(caller, reply, who.as_ref().map(|who| (who, target.as_ref())));
    }

    // ── Answers ─────────────────────────────────────────────────────────────────────────────────────────────────────

    fn fail(&mut self, to: Caller, fault: Fault) {
        self.answer(to, Reply::Failed(fault), None);
    }

    fn answer(&mut self, to: Caller, reply: Reply, about: Option<(&Who, Option<&Target>)>) {
        let outlives = |lock: &Lock| lock.ttl > 0 && lock.ask.mode != Mode::Advisory;
        let synced = reply.grants().iter().any(|granted| outlives(&granted.lock));
        let mut reply = reply;
        for granted in reply.grants_mut() {
            granted.beside = self.beside(&granted.lock);
            granted.more = granted.beside.len().saturating_sub(limits::HOLDERS_NAMED);
            granted.beside.truncate(limits::HOLDERS_NAMED);
        }
        let named: Vec<&Lock> = match &reply {
            Reply::Status { locks, .. } => locks.iter().collect(),
            other => {
                other.grants().iter().flat_map(|granted| [&granted.lock].into_iter().chain(&granted.beside)).collect()
            }
        };
        let standings = named.iter().filter_map(|lock| Some((lock.id, self.standing(lock)?))).collect();
        let mut answer = Answer { standings, ..Answer::bare(reply) };
        if let Some((who, target)) = about {
            answer.lost = self.losses(who, target);
            answer.wanted = self.wanted(who, limits::WANTED_LOOKED_AT);
        }
        self.said.push(Outgoing { to, answer, synced });
    }

    /// What an agent lost and does not know of: an open session all that is its own, and any other call what it names
    /// of the rest.
    fn losses(&self, who: &Who, target: Option<&Target>) -> Vec<Ended> {
        let mut lost = Vec::new();
        for ended in &self.ended {
            let is_named = target.is_none_or(|target| {
                target.scope.covers(&ended.ask.target.scope) || ended.ask.target.scope.covers(&target.scope)
            });
            let guard = self.sessions.iter().find(|session| Some(session.id) == ended.ask.who.session);
            let is_meant = guard.map_or(is_named, |guard| who.session == Some(guard.id));
            if ended.untold && ended.ask.who.agent == who.agent && is_meant {
                lost.push(ended.clone());
            }
        }
        lost.sort_by_key(|ended| ended.id);
        lost
    }

    /// The first request that each of a one-shot's oldest locks keeps waiting.
    fn wanted(&self, who: &Who, oldest: usize) -> Vec<Waiter> {
        if who.session.is_some() {
            return Vec::new();
        }
        let mine = self.locks.iter().filter(|lock| lock.ask.who.agent == who.agent);
        let mut wanted: Vec<Waiter> = Vec::new();
        for lock in mine.take(oldest) {
            let is_behind = |waiter: &&Waiter| {
                waiter.takes
                    && waiter.ask.upgrades != Some(lock.id)
                    && is_in_the_way(lock, &self.holder_to_be(&waiter.ask), &waiter.ask.target, waiter.ask.mode)
            };
            let behind = self.waiters.iter().filter(is_behind);
            wanted.extend(behind.min_by_key(|waiter| (std::cmp::Reverse(waiter.level), waiter.id)).cloned());
        }
        wanted.sort_by_key(|waiter| waiter.id);
        wanted.dedup_by_key(|waiter| waiter.id);
        wanted
    }

    /// Whether a request id belongs to a set.
    fn names_a_set(&self, is_it: &impl Fn(&Ask) -> bool) -> bool {
        let is_member = |ask: &Ask| is_it(ask) && ask.set.is_some();
        self.locks.iter().any(|lock| is_member(&lock.ask))
            || self.waiters.iter().any(|waiter| is_member(&waiter.ask))
            || self.ended.iter().any(|ended| is_member(&ended.ask))
    }

    fn held(&self, id: LockId) -> Option<&Lock> {
        self.locks.iter().find(|lock| lock.id == id)
    }

    fn waiter(&self, id: WaiterId) -> &Waiter {
        self.waiters.iter().find(|waiter| waiter.id == id).expect("it waits")
    }

    fn has_session(&self, id: SessionId) -> bool {
        self.sessions.iter().any(|session| session.id == id)
    }

    // ── Restart ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// The daemon stopped and came back, in the same boot: leases begin anew, sessions and waiters are expected back.
    pub fn restart(&mut self, now: Now, fences_from: u64) {
        self.begin_anew(now, fences_from);
        for session in &mut self.sessions {
            session.away_until = Some(now.mono.after(limits::SESSION_SILENCE));
        }
        self.waiters.retain(|waiter| waiter.takes);
        let level_of = |waiter: &Waiter| {
            let rows = self.waiters.iter().filter(|row| first_row(row) == first_row(waiter));
            rows.map(|row| self.level(&row.ask)).min().unwrap_or(0)
        };
        let levels: Vec<u8> = self.waiters.iter().map(level_of).collect();
        for (waiter, level) in self.waiters.iter_mut().zip(levels) {
            waiter.level = level;
            // A kept place keeps what is left of its time, or all of it if somebody waited there.
            if waiter.ticket.is_none() {
                waiter.absent_until = Some(now.mono.after(limits::WAITER_ABSENCE));
            } else if !waiter.is_kept() {
                waiter.absent_until = Some(now.mono.after(limits::TICKET_KEPT));
                waiter.deadline = None;
            }
            waiter.caller = None;
        }
        for mut lock in self.locks.clone() {
            let is_kept_by_process = matches!(lock.custody, Custody::Process(_));
            if lock.ttl > 0 && lock.lent.is_none() && !is_kept_by_process {
                lock.expires = Some(self.lease_end(&lock));
                self.put(lock);
            }
        }
        self.withdraw_offers();
        let is_place = |row: &Waiter| row.is_kept() && first_row(row) == row.id;
        let needless = |row: &Waiter| is_place(row) && self.is_needless(&self.rows_with(row));
        let needless: Vec<WaiterId> = self.waiters.iter().filter(|row| needless(row)).map(|row| row.id).collect();
        self.waiters.retain(|row| !needless.contains(&first_row(row)));
        for waiter in self.waiters.clone().into_iter().filter(is_place) {
            self.offer_if_due(waiter.id);
        }
    }

    /// The machine was restarted: no process lives, the clock began anew.
    pub fn reboot(&mut self, now: Now, fences_from: u64) {
        self.begin_anew(now, fences_from);
        self.sessions.clear();
        self.waiters.clear();
        for ended in &mut self.ended {
            ended.at.mono = now.mono;
        }
        for mut lock in self.locks.clone() {
            let is_kept_by_process = matches!(lock.custody, Custody::Process(_));
            let is_advisory = lock.ask.mode == Mode::Advisory;
            let had_nothing_else = lock.lent.is_none() && (lock.ttl == 0 || is_kept_by_process);
            if had_nothing_else || bound_of(&lock).is_some() || is_advisory {
                self.end(lock.id, EndReason::Rebooted, true);
                continue;
            }
            give_back(&mut lock);
            let who = Who { agent: lock.ask.who.agent.clone(), session: None };
            lock.ask = Arc::new(Ask { who, ..(*lock.ask).clone() });
            lock.custody = Custody::Detached;
            lock.since.mono = now.mono;
            lock.hold_until = lock.ask.lease.max_hold.map(|most| now.mono.after(most));
            lock.expires = Some(self.lease_end(&lock));
            self.put(lock);
        }
        // No advisory lock is left that could follow another.
        (self.leaders, self.unranked) = (Vec::new(), Vec::new());
    }

    fn begin_anew(&mut self, now: Now, fences_from: u64) {
        self.now = now;
        self.unranked.clear();
        // What was in flight ended with the daemon.
        self.locks.iter_mut().for_each(|lock| lock.in_flight = None);
        self.next_fence = fences_from;
        self.next_commit = 1;
        (self.counted, self.hot, self.told_at, self.holds) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        (self.writers, self.violated_at) = (Vec::new(), Vec::new());
        (self.left_out, self.threshold) = (0, Threshold::default());
        self.next_waiter = self.waiters.iter().map(|waiter| waiter.id.0).max().unwrap_or(0) + 1;
        self.paused = false;
    }
}
