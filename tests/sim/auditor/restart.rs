//! What the start of another daemon means to what was promised.

use super::rules::*;
use super::*;

impl Auditor {
    /// A new daemon has loaded the journal: what it loaded is judged, and what a restart means is taken up.
    pub fn started(&mut self, now: Moment, loaded: &Loaded, how: Start) {
        self.turn += 1;
        self.status = None;
        self.asking.started(loaded);
        self.sent_away.clear();
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
        self.as_written(loaded, was_trouble);
        // Whatever the journal held when this daemon came up is there from now on.
        (self.trouble, self.gap_from) = (false, None);
        // What was asked and never answered may have been carried out.
        let asked: Vec<Terms> = self.open.values().filter_map(Open::terms).collect();
        asked.iter().for_each(|terms| self.may_have_changed(terms));
        self.open.clear();
        self.queue.clear();
        // What its predecessor had on the way is lost with it, and its locks are there.
        self.heard.extend(self.claims.keys());
        // Each daemon has to find out anew.
        self.gone.clear();
        self.held_seen = rows(loaded, |record| if let Record::Lock(_, row) = record { row.clone() } else { None });
        self.inherited = self.held_seen.iter().map(|lock| lock.id).collect();
        match how {
            Start::Again => self.restarted(now, loaded),
            Start::Reboot | Start::PowerCut => self.rebooted(now, loaded, how),
        }
        // Numbers go on with a new block.
        self.gaps.push((self.kept.last().copied().unwrap_or(0), loaded.events_from));
    }

    /// What was let go while the journal could not be written is kept again as before; and nobody was told whether
    /// what was being bound is.
    fn as_written(&mut self, loaded: &Loaded, was_trouble: bool) {
        for record in &loaded.records {
            if let Record::Lock(id, Some(lock)) = record
                && (was_trouble || self.is_being_bound(*id))
                && let Some(claim) = self.claims.get_mut(id)
            {
                claim.keeper = keeper_of(lock);
                claim.lock.custody = lock.custody;
                claim.is_vague = true;
            }
        }
    }

    /// Whether a lock may hang on another process than its holder was told.
    pub(super) fn is_being_bound(&self, lock: LockId) -> bool {
        self.open.values().any(|open| matches!(open.command, Command::Bind { id, .. } if id == lock))
    }

    /// A daemon did not come up: what it has written so far may be there.
    pub fn not_started(&mut self) {
        self.has_failed_to_start = true;
    }

    /// A daemon that did not come up may have found that the machine was restarted, and have ended what hung on a
    /// process.
    fn ended_by_who_failed(&mut self, loaded: &Loaded) {
        let there: BTreeSet<LockId> =
            rows(loaded, |record| if let Record::Lock(id, Some(_)) = record { Some(*id) } else { None })
                .into_iter()
                .collect();
        for claim in self.claims.values_mut() {
            let hangs = is_void(claim);
            claim.over |= hangs && !there.contains(&claim.lock.id);
        }
    }

    fn image_at_start(&mut self, loaded: &Loaded, how: Start) {
        let was_trouble = self.trouble;
        if std::mem::take(&mut self.has_failed_to_start) && how == Start::PowerCut {
            self.ended_by_who_failed(loaded);
        }
        self.image(loaded, how == Start::PowerCut);
        if how == Start::PowerCut {
            self.heard_may_be_lost(loaded);
        }
        if was_trouble || how == Start::PowerCut {
            self.events(loaded);
        }
    }

    fn restarted(&mut self, now: Moment, loaded: &Loaded) {
        // One that ended while the journal could not be written is back.
        for waiter in rows(loaded, |record| if let Record::Waiter(_, row) = record { row.clone() } else { None }) {
            let is_place = waiter.ticket.is_some();
            if waiter.takes && (is_place || !waiter.at_once) {
                let absence = if is_place { limits::TICKET_KEPT } else { limits::WAITER_ABSENCE };
                let kept_until = waiter.absent_until.filter(|_| is_place);
                let absent_until = Some(kept_until.unwrap_or(now.after(absence)));
                let (deadline, at_once) = if is_place { (None, false) } else { (waiter.deadline, waiter.at_once) };
                self.queue.insert(waiter.id, Waiter { caller: None, absent_until, deadline, at_once, ..waiter });
            }
        }
        for row in rows(loaded, |record| if let Record::Session(_, row) = record { row.clone() } else { None }) {
            self.sessions.entry(row.id).or_insert(Sess { row, away_until: None });
        }
        let away_until = Some(now.after(limits::SESSION_SILENCE));
        self.sessions.values_mut().for_each(|session| session.away_until = away_until);
        for claim in self.claims.values_mut() {
            let ttl = claim.lock.ttl;
            // What is on loan goes back when its session stays away.
            if ttl > 0 && claim.lock.lent.is_none() && !matches!(claim.keeper, Keeper::Process(_)) {
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
            self.claims.retain(|_, claim| outlives_power_cut(&claim.lock));
        }
        let turn = self.turn;
        for record in &loaded.records {
            let Record::Lock(id, Some(lock)) = record else { continue };
            let Some(claim) = self.claims.get_mut(id).filter(|claim| !claim.over) else { continue };
            if lock.is_void_after_reboot() {
                claim.over = true;
                self.owed.insert(*id, Owed { who: lock.ask.who.clone(), target: lock.ask.target.clone(), turn });
            }
        }
        for claim in self.claims.values_mut() {
            if is_void(claim) {
                claim.over = true;
            }
            if claim.lock.lent.is_some() {
                claim.go_back(now);
            }
            let ttl = claim.lock.ttl;
            claim.keeper = Keeper::Nobody;
            let who = Who { agent: claim.lock.ask.who.agent.clone(), session: None };
            claim.lock.ask = Arc::new(Ask { who, ..(*claim.lock.ask).clone() });
            claim.lock.custody = Custody::Detached;
            claim.lock.hold_until = claim.lock.ask.lease.max_hold.map(|most| now.after(most));
            claim.until = Some(lease_end(claim, ttl.min(claim.shortest), now));
            claim.is_vague |= claim.shortest != ttl || how == Start::PowerCut;
        }
    }
}

/// Whether a reboot ends a lock; a process may keep it by now.
fn is_void(claim: &Claim) -> bool {
    let is_kept = matches!(claim.keeper, Keeper::Process(_)) && claim.lock.lent.is_none();
    claim.lock.is_void_after_reboot() || is_kept
}
