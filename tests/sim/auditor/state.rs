//! The whole state at a moment: status and journal against what was promised, and against each other.

use super::rules::*;
use super::*;

impl Auditor {
    pub(super) fn status(&mut self, open: &Open, locks: &[Lock], waiters: &[Queued]) {
        let Command::Status { who, target, .. } = &open.command else { panic!("a status, unasked") };
        // What has a file on its way into place ends with its process a little later.
        let resting = locks.iter().filter(|lock| lock.in_flight.is_none()).map(|lock| &lock.ask);
        let asks = resting.chain(waiters.iter().map(|queued| &queued.waiter.ask));
        self.without_the_dead(asks.map(Arc::as_ref), open.turn);
        for lock in locks {
            self.is_committed(lock);
            leases::is_within_bounds(lock);
            if target.is_some() && who.as_ref().is_some_and(|who| who.agent == lock.ask.who.agent) {
                leases::was_renewed(lock, open.at);
            }
            let has_run_out = lock.expires.is_some_and(|until| until <= open.at);
            // While a file is on its way into place the lock stays where it is.
            assert!(!has_run_out || lock.in_flight.is_some(), "{} is held beyond its lease", lock.id);
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

    /// The state just now against what was promised.
    fn compare(&mut self, open: &Open, locks: &[Lock], waiters: &[Queued]) {
        // What has a file on its way into place ends with its process a little later.
        let resting = locks.iter().filter(|lock| lock.in_flight.is_none()).map(|lock| &lock.ask);
        let asks = resting.chain(waiters.iter().map(|queued| &queued.waiter.ask));
        self.without_the_dead(asks.map(Arc::as_ref), self.turn + 1);
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
            // Whoever asks for more than it holds by now needs no place that was kept.
            let is_moved = before.is_some_and(|before| first_row(before) != first_row(waiter));
            let is_moved = is_moved && waiter.ask.upgrades.is_none();
            assert!(!is_moved, "{} has another place in the queue than before", waiter.ask.who.agent);
            let is_lower = before.is_some_and(|before| before.level > waiter.level);
            assert!(!is_lower, "{} has lost its place before others", waiter.ask.who.agent);
            if let Some(session) = waiter.ask.who.session {
                assert!(self.sessions.contains_key(&session), "a request of an ended session waits");
            }
        }
        for absent in self.queue.values().filter(|waiter| waiter.caller.is_none()) {
            // An upgrade ends with the lock that it is about.
            let is_over = absent.ask.upgrades.is_some_and(|id| locks.iter().all(|lock| lock.id != id));
            // Of a set it is enough that it is so of one row.
            let mut rows = self.queue.values().filter(|row| first_row(row) == first_row(absent));
            let is_over = is_over || rows.any(|row| is_answered(row, locks, waiters) || self.was_answered(row));
            let is_there = is_over || waiters.iter().any(|queued| queued.waiter.id == absent.id);
            assert!(is_there, "the place of {} was not kept for it: {absent:?}", absent.ask.who.agent);
        }
        self.order_kept(waiters);
        self.counts.offered += waiters.iter().filter(|queued| queued.waiter.offered_until.is_some()).count() as u64;
        self.queue = waiters.iter().map(|queued| (queued.waiter.id, queued.waiter.clone())).collect();
        (self.queue_seen, self.queue_turn) = (open.at, open.turn);
        self.held_seen = locks.to_vec();
        self.status = Some((locks.to_vec(), waiters.to_vec()));
    }

    /// Whether a kept place may have been for nothing since the queue was seen: a lock of its agent that was kept by
    /// another session may have been let go, or grants may have been stopped, and it may have ended since.
    fn was_answered(&self, kept: &Waiter) -> bool {
        is_answered(kept, &self.held_seen, &[])
    }

    /// Everything that is promised now is held, as it was told.
    fn all_held(&self, locks: &[Lock], now: Moment) {
        for claim in self.claims.values().filter(|claim| self.is_live(claim, now)) {
            let held = locks.iter().find(|lock| lock.id == claim.lock.id);
            let held =
                held.unwrap_or_else(|| panic!("{} was told to hold {}: gone", claim.lock.ask.who.agent, claim.lock.id));
            let may_be_shared = self.may_be_shared.contains(&held.id);
            let is_same = (held.ask.mode.answers(claim.lock.ask.mode) || may_be_shared)
                && held.ask.target == claim.lock.ask.target;
            assert!(is_same && held.fence >= claim.lock.fence, "{} is not as it was told: {held:?}", held.id);
            self.has_its_lease(held, claim);
        }
    }

    /// Requests stand in the order in which they came.
    fn order_kept(&self, waiters: &[Queued]) {
        let mut last = 0;
        for queued in waiters {
            let open = queued.waiter.caller.and_then(|caller| self.open.get(&caller));
            // Whoever has come back to its place stands where it stood.
            let is_new = queued.waiter.ticket.is_none() && first_row(&queued.waiter) == queued.waiter.id;
            if let Some(open) = open.filter(|open| is_new && !open.is_again && !open.may_be_put_off) {
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
        self.heard_is_written(loaded, is_cut);
        self.sets_are_whole(loaded);
        assert!(loaded.fences_from > self.top_fence, "fences would start again below {}", self.top_fence);
        assert!(loaded.events_from > self.top_event, "event numbers would start again below {}", self.top_event);
        if is_cut {
            return self.all_durable(&locks, now);
        }
        for claim in self.claims.values().filter(|claim| self.is_live(claim, now)) {
            let kept = locks.iter().find(|lock| lock.id == claim.lock.id);
            let kept = kept.unwrap_or_else(|| panic!("{} was told and is not in the journal", claim.lock.id));
            assert!(kept.fence >= claim.lock.fence, "{} is in the journal with fence {}", kept.id, kept.fence.0);
            let is_other = kept.fence != claim.lock.fence || claim.is_vague || self.is_being_bound(kept.id);
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
        let resting = locks.iter().filter(|lock| !self.machine.is_writing(lock.id));
        self.without_the_dead(resting.map(|lock| lock.ask.as_ref()), self.turn + 1);
        for lock in &locks {
            self.is_from_somewhere(lock);
            leases::is_within_bounds(lock);
            self.is_not_cancelled(lock);
            assert!(self.ended.get(&lock.id).is_none_or(|end| !end.written), "{} had ended: in the journal", lock.id);
        }
        self.others_kept(loaded);
        self.events(loaded);
        self.leaders(&locks, &loaded.events);
    }

    fn all_durable(&self, locks: &[Lock], now: Moment) {
        for claim in self.claims.values().filter(|claim| self.is_live(claim, now)) {
            if outlives_power_cut(&claim.lock) && claim.shortest > 0 {
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
        let is_opening = |id: SessionId| {
            let is_it = |open: &Open| matches!(&open.command, Command::OpenSession { session, .. } if session.id == id);
            self.open.values().any(is_it)
        };
        for session in &sessions {
            let is_known = self.sessions.contains_key(&session.id) || is_opening(session.id);
            assert!(is_known, "a session has ended and is in the journal: {session:?}");
        }
        let untold: Vec<Ended> = rows(loaded, |record| match record {
            Record::Ended(_, ended) => ended.clone().filter(|ended| ended.untold),
            _ => None,
        });
        let needless = untold.iter().find(|ended| bound::is_no_loss(ended));
        assert!(needless.is_none(), "a notice nobody is owed: {needless:?}");
        let owed = self.owed.iter().filter(|(id, owed)| owed.turn < self.turn && !self.is_writing(**id));
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
        // Flocks are taken anew by each daemon and not kept, and what is in flight ends with it.
        let kept_of = |lock: &Lock| Lock { os: OsLock::None, in_flight: None, ..lock.clone() };
        let held: Vec<Lock> = locks.iter().map(kept_of).collect();
        assert_eq!(kept.into_values().collect::<Vec<_>>(), held, "journal and table have other locks");
        let kept: BTreeMap<u64, Waiter> = rows(loaded, |record| match record {
            Record::Waiter(_, waiter) => waiter.clone(),
            _ => None,
        })
        .into_iter()
        .map(|waiter| (waiter.id.0, waiter))
        .collect();
        let kept_of =
            |waiter: &Waiter| Waiter { caller: None, os: OsWait::Idle, is_counted: true, level: 0, ..waiter.clone() };
        let waiting = waiters.iter().map(|queued| kept_of(&queued.waiter));
        assert_eq!(
            kept.into_values().collect::<Vec<_>>(),
            waiting.collect::<Vec<_>>(),
            "journal and table wait for others"
        );
    }
}

/// No two locks exclude each other.
fn apart(locks: &[Lock]) {
    for (at, lock) in locks.iter().enumerate() {
        for other in &locks[at + 1..] {
            assert!(!clash(lock, other), "{} and {} are held at once: {lock:?} {other:?}", lock.id, other.id);
        }
    }
}

/// Whether a kept place is over: a lock of its agent answers it, or another place is kept for the same thing.
fn is_answered(kept: &Waiter, locks: &[Lock], waiters: &[Queued]) -> bool {
    let is_own = |lock: &Lock| lock.ask.who.agent == kept.ask.who.agent && overlap(&lock.ask.target, &kept.ask.target);
    let is_twin = |other: &Waiter| other.id != kept.id && is_kept_there(other, &kept.ask);
    kept.is_kept() && (locks.iter().any(is_own) || waiters.iter().any(|queued| is_twin(&queued.waiter)))
}

/// A file is on its way into place under a lock: not even a guard of the same agent is granted beside it.
fn holds_up(lock: &Lock, ask: &Ask) -> bool {
    lock.in_flight.is_some() && lock.ask.mode.excludes(ask.mode) && overlap(&lock.ask.target, &ask.target)
}

/// Whoever waits has something in the way, and stands where it says.
fn in_line(locks: &[Lock], waiters: &[Queued], now: Moment) {
    for queued in waiters {
        let waiter = as_holder(&queued.waiter, locks);
        let ask = &waiter.ask;
        let others = waiters.iter().map(|other| as_holder(&other.waiter, locks));
        let earlier = others.filter(|other| place(other) < place(&waiter) && comes_before(other, ask));
        let earlier = earlier.map(|other| first_row(&other)).collect::<BTreeSet<_>>().len();
        assert_eq!(queued.position, earlier + 1, "the place of {} in the queue", ask.who.agent);
        for due in [waiter.deadline, waiter.absent_until, waiter.offered_until].into_iter().flatten() {
            assert!(due > now, "{} waits beyond its time", ask.who.agent);
        }
        assert_eq!(waiter.caller.is_none(), waiter.absent_until.is_some(), "absent or present: {waiter:?}");
        // Of a set it is enough that one row cannot be had.
        let rows = waiters.iter().filter(|other| first_row(&other.waiter) == first_row(&waiter));
        let asks_system = rows.clone().any(|row| row.waiter.os != OsWait::Idle);
        let is_stuck = |row: &Queued| {
            let ask = &as_holder(&row.waiter, locks).ask;
            let is_held = |lock: &Lock| blocks(lock, ask) || is_own_weaker(lock, ask) || holds_up(lock, ask);
            row.position > 1 || locks.iter().any(is_held)
        };
        let is_stuck = rows.clone().any(is_stuck);
        assert!(!waiter.at_once || asks_system, "{} waits and would not wait", ask.who.agent);
        let has_more = locks.iter().any(|lock| lock.ask.who.agent == ask.who.agent);
        if waiter.is_kept() && !has_more && !asks_system {
            assert_eq!(
                waiter.offered_until.is_some(),
                !is_stuck,
                "offered if it is its turn, and then only: {waiter:?}"
            );
        }
        assert!(
            waiter.caller.is_none() || is_stuck || asks_system,
            "{} waits for {} and nothing is in the way",
            ask.who.agent,
            ask.target.scope
        );
    }
}
