//! What goes in: what a command may do to what was promised.

use super::rules::*;
use super::*;

impl Auditor {
    pub fn turn_begins(&mut self) {
        self.turn += 1;
        self.writing = self.machine.writing();
        self.is_queue_exact = self.status.take().is_some();
    }

    /// The commands of this turn were carried out, or not: the answers follow.
    pub fn turned(&mut self, trouble: bool) {
        self.renamed();
        if trouble && !self.trouble {
            self.lossy();
        }
        if !trouble {
            self.ended.values_mut().for_each(|end| end.written = true);
        }
        self.trouble = trouble;
        if !trouble {
            self.asking.turned(self.last);
        }
        self.bound_have_ended();
    }

    /// Whatever was put in place was so under a lock that nobody else holds a part of, and that had not ended: not even
    /// where that was told only after the file was on its way.
    fn renamed(&mut self) {
        for (id, target) in self.machine.renamed() {
            self.counts.renames += 1;
            let end = self.ended.get(&id);
            assert!(end.is_none_or(|end| end.turn >= self.turn), "a file was written under {id}, which had ended");
            for claim in self.claims.values().filter(|claim| claim.lock.id != id && claim.told_in < self.turn) {
                let own = self.claims.get(&id);
                let is_anothers = own.is_some_and(|own| forbids_writing(&claim.lock, &own.lock, &target));
                let is_there = overlap(&claim.lock.ask.target, &target) && self.is_live(claim, self.last);
                assert!(!(is_anothers && is_there), "a file was written under {id} while {} holds it", claim.lock.id);
            }
        }
    }

    /// From here on events may be missing; the numbers show it.
    pub(super) fn lossy(&mut self) {
        self.epoch += 1;
        self.asking.lossy();
        let seen = self.kept.last().copied().unwrap_or(0);
        self.gap_from = Some(self.gap_from.map_or(seen, |from| from.min(seen)));
    }

    pub fn fed(&mut self, now: Now, command: &Command) {
        self.status = None;
        self.asking.fed(now, command);
        let is_queue_exact = std::mem::take(&mut self.is_queue_exact);
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
            Command::ProcessGone(process) => {
                self.process_over(*process, now.mono);
                self.bound_over(*process, now.mono, is_queue_exact);
            }
            Command::CallerGone { conn } => {
                self.queue.retain(|_, waiter| waiter.caller.is_none_or(|caller| caller.conn != *conn));
                let open = self.open.iter_mut().filter(|(caller, _)| caller.conn == *conn);
                let asks = open.map(|(_, open)| {
                    open.is_gone = true;
                    asks_of(&open.command).to_vec()
                });
                for ask in asks.flatten().collect::<Vec<_>>() {
                    self.places_may_be_over(&ask.who.agent, Some(&ask.target));
                }
            }
            Command::Unlock { who, which, .. } => {
                self.unlock_asked(who, which);
                self.places_given_up(who, |waiter| match which {
                    Which::All => true,
                    Which::Id(_) => false,
                    Which::Scope(target) => is_here(&waiter.ask.target, target),
                });
            }
            Command::GiveUp { who, ticket, .. } => {
                self.places_given_up(who, |waiter| waiter.ticket == Some(*ticket));
            }
            Command::TakeBack { id, fence, what } => self.taken_back(*id, *fence, *what),
            Command::LossesTold(ids) => {
                for id in ids {
                    assert!(self.heard_lost.contains(id), "the loss of {id} counts as told and has not arrived");
                    self.owed.remove(id);
                }
            }
            Command::Break { id, .. } => self.void(*id),
            Command::Upgrade { who, which, .. } => self.change_asked(who, which, Mode::Exclusive),
            Command::Downgrade { who, which, .. } => self.change_asked(who, which, Mode::Shared),
            Command::Cancel { waiting, .. } => {
                self.queue.retain(|_, waiter| waiter.caller != Some(*waiting));
            }
            Command::Status { who: Some(who), target: Some(target), .. } => {
                self.renewed_there(who, target, now.mono);
            }
            Command::Lock { ask, .. } | Command::WaitFree { ask, .. } => {
                if matches!(command, Command::WaitFree { .. }) {
                    self.renewed_there(&ask.who, &ask.target, now.mono);
                }
                self.wishes.insert((ask.who.agent.clone(), ask.target.scope.clone(), ask.mode));
            }
            Command::LockSet { asks, .. } => {
                let wish = |ask: &Arc<Ask>| (ask.who.agent.clone(), ask.target.scope.clone(), ask.mode);
                self.wishes.extend(asks.iter().map(wish));
            }
            _ => {}
        }
        self.place_taken_up(command);
        let mut is_again = false;
        if let (Some(key), Some(caller)) = (name_of(command), caller_of(command)) {
            let (agent, request) = &key;
            is_again = !self.asked.insert(key.clone());
            // It takes up its place, or is told that the id means something else.
            let absent = self.queue.values_mut().filter(|waiter| waiter.caller.is_none());
            for waiter in absent.filter(|absent| absent.ask.who.agent == *agent) {
                if waiter.ask.request.as_ref() == Some(request) {
                    (waiter.caller, waiter.absent_until) = (Some(caller), None);
                }
            }
            self.cancelled.remove(&key);
        }
        let Some(caller) = caller_of(command) else { return };
        self.order += 1;
        let writes = self.open.values().any(|open| matches!(open.command, Command::Commit { .. }));
        let open = Open {
            command: command.clone(),
            turn: self.turn,
            at: now.mono,
            order: self.order,
            fence_before: self.top_fence,
            is_again,
            voided: false,
            is_gone: false,
            may_be_put_off: writes || !self.writing.is_empty() || !self.machine.writing().is_empty(),
        };
        let before = self.open.insert(caller, open);
        assert!(before.is_none(), "the workload asks {caller:?} twice");
    }

    /// A lock is to be held in another mode: no more than shared is promised from now on, and its lease may be renewed.
    fn change_asked(&mut self, who: &Who, which: &Which, mode: Mode) {
        let scopes = self.wishes.iter().filter(|(agent, ..)| *agent == who.agent).map(|(_, scope, _)| scope.clone());
        let scopes: Vec<Scope> = scopes.collect();
        self.wishes.extend(scopes.into_iter().map(|scope| (who.agent.clone(), scope, mode)));
        for claim in self.claims.values_mut() {
            let is_meant = match which {
                Which::All => false,
                Which::Id(id) => claim.lock.id == *id,
                Which::Scope(target) => same_scope(&claim.lock.ask.target, target),
            };
            if is_meant && claim.lock.ask.who.agent == who.agent {
                claim.is_vague = true;
                if mode == Mode::Shared {
                    make_shared(claim);
                }
            }
        }
    }

    /// Nothing is promised about this lock any more.
    fn void(&mut self, id: LockId) {
        if let Some(claim) = self.claims.get_mut(&id) {
            claim.over = true;
        }
        // Its answer may still be on its way.
        self.open.values_mut().for_each(|open| open.voided = true);
    }

    pub(super) fn may_shorten(&mut self, terms: &Terms) {
        for claim in self.claims.values_mut() {
            let is_meant = terms.concern(claim);
            if let Some(loan) = claim.lock.lent.as_mut().filter(|_| is_meant) {
                // It has that lease when it goes back.
                loan.promised.ttl = loan.promised.ttl.min(terms.ttl);
            }
            if is_meant && claim.keeper == Keeper::Nobody && terms.ttl < claim.lock.ttl {
                let end = terms.from.after(terms.ttl);
                claim.until = Some(claim.until.map_or(end, |until| until.min(end)));
                claim.shortest = claim.shortest.min(terms.ttl);
                claim.is_vague = true;
            }
        }
    }

    /// Nobody was told whether it was carried out.
    pub(super) fn may_have_changed(&mut self, terms: &Terms) {
        self.claims.values_mut().filter(|claim| terms.concern(claim)).for_each(|claim| claim.is_vague = true);
    }

    /// The server takes back a grant. Whoever has read of a lock keeps it, whatever becomes of any other answer.
    pub(super) fn taken_back(&mut self, id: LockId, fence: Fence, what: Unheard) {
        self.counts.taken_back += 1;
        let is_relied_on = |claim: &Claim| claim.is_delivered || claim.lock.fence != fence;
        if what.upgraded && !what.is_new && what.resumed.is_none() {
            // Shared it is known, and shared it stays.
            return self.claims.get_mut(&id).filter(|claim| !is_relied_on(claim)).into_iter().for_each(make_shared);
        }
        if !self.claims.get(&id).is_some_and(is_relied_on) {
            self.void(id);
        }
    }

    /// Whoever asks for what a place is kept for is back in it.
    fn place_taken_up(&mut self, command: &Command) {
        let asks = asks_of(command);
        if let Some(caller) = caller_of(command)
            && let Some(ask) = asks.first()
            && !self.queue.values().any(|waiter| !waiter.is_kept() && is_named_so(waiter, ask))
            && let Some(id) = self.place_of(asks)
        {
            self.counts.came_back += 1;
            let rows = self.queue.values_mut().filter(|row| first_row(row) == id);
            for (kept, ask) in rows.zip(asks) {
                (kept.caller, kept.absent_until, kept.offered_until) = (Some(caller), None, None);
                // Under another name of the file it is in other requests' way.
                kept.ask = ask.clone();
            }
        }
    }

    /// The place where this request goes on: that of the request which it is a retry of, else one for the same thing.
    fn place_of(&self, asks: &[Arc<Ask>]) -> Option<WaiterId> {
        let is_there = |id: u64, ask: &Ask| self.queue.get(&WaiterId(id)).is_some_and(|row| is_kept_there(row, ask));
        let is_place = |waiter: &&Waiter| (waiter.id.0..).zip(asks).all(|(id, ask)| is_there(id, ask));
        let kept = || self.queue.values().filter(is_place);
        kept().find(|waiter| is_named_so(waiter, &asks[0])).or(kept().next()).map(|waiter| waiter.id)
    }

    /// A grant of this agent's has ended its places there, though it may be taken back itself: nobody makes them anew.
    pub(super) fn places_may_be_over(&mut self, agent: &Agent, target: Option<&Target>) {
        let is_over = |row: &&Waiter| {
            let is_there = target.is_none_or(|target| overlap(&row.ask.target, target));
            row.is_kept() && row.ask.who.agent == *agent && is_there
        };
        let over: BTreeSet<WaiterId> = self.queue.values().filter(is_over).map(first_row).collect();
        self.queue.retain(|_, row| !over.contains(&first_row(row)));
    }

    /// An agent wants none of these places any more.
    fn places_given_up(&mut self, who: &Who, is_meant: impl Fn(&Waiter) -> bool) {
        let is_one = |waiter: &&Waiter| waiter.is_kept() && waiter.ask.who.agent == who.agent && is_meant(waiter);
        // Of a set all goes with any part of it.
        let given_up: BTreeSet<WaiterId> = self.queue.values().filter(is_one).map(first_row).collect();
        self.queue.retain(|_, waiter| !given_up.contains(&first_row(waiter)));
    }

    fn unlock_asked(&mut self, who: &Who, which: &Which) {
        let is_meant = |claim: &Claim| match which {
            Which::All => true,
            Which::Id(id) => claim.lock.id == *id,
            Which::Scope(target) => is_here(&claim.lock.ask.target, target),
        };
        for claim in self.claims.values_mut() {
            if claim.lock.ask.who.agent == who.agent && is_meant(claim) {
                claim.over = true;
            }
        }
        for open in self.open.values_mut() {
            let by = match &open.command {
                Command::Lock { .. } | Command::LockSet { .. } => Some(&asks_of(&open.command)[0].who.agent),
                Command::Upgrade { who, .. } => Some(&who.agent),
                _ => None,
            };
            open.voided |= by == Some(&who.agent);
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
            let is_its_own = who_asks(&open.command).is_some_and(|who| who.session == Some(id));
            open.voided |= is_its_own;
            open.is_gone |= is_its_own;
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

    pub(super) fn kept_by(&self, keeper: Keeper) -> Vec<LockId> {
        self.claims.values().filter(|claim| claim.keeper == keeper).map(|claim| claim.lock.id).collect()
    }

    /// What kept it is gone: it is on its lease from now on.
    fn let_go(&mut self, id: LockId, now: Moment, is_silent: bool) {
        let turn = self.turn;
        // A place of its agent's may be for nothing beside a lock that is not another session's any more.
        let (agent, target) = (self.claims[&id].lock.ask.who.agent.clone(), self.claims[&id].lock.ask.target.clone());
        self.places_may_be_over(&agent, Some(&target));
        let claim = self.claims.get_mut(&id).expect("it was found by its keeper");
        if claim.lock.lent.is_some() {
            claim.go_back(now);
            let asked: Vec<Terms> = self.open.values().filter_map(Open::terms).collect();
            return asked.iter().for_each(|terms| self.may_shorten(terms));
        }
        claim.keeper = Keeper::Nobody;
        claim.lock.custody = Custody::Detached;
        if claim.lock.ttl > 0 {
            claim.until = claim.until.or(Some(lease_end(claim, claim.lock.ttl, now)));
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
        let mut queue = std::mem::take(&mut self.queue);
        let is_due = |waiter: &Waiter| waiter.deadline.is_some_and(|due| due <= now);
        let due: Vec<Waiter> = queue.values().filter(|waiter| is_due(waiter)).cloned().collect();
        queue.retain(|_, waiter| {
            let is_there = waiter.caller.is_some() || self.is_surely_kept(waiter, now);
            is_there && !is_due(waiter)
        });
        // Of two places for one thing the earlier is kept.
        let is_later = |row: &&Waiter| due.iter().any(|due| due.id < row.id && is_kept_there(row, &due.ask));
        let later: BTreeSet<WaiterId> = queue.values().filter(is_later).map(first_row).collect();
        queue.retain(|_, row| !later.contains(&first_row(row)));
        self.queue = queue;
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
        let is_certain = !claim.is_vague && !self.open.values().any(|open| leases::may_renew(open, claim));
        !claim.over && claim.until.is_some_and(|until| until <= now) && is_certain
    }

    pub(super) fn is_live(&self, claim: &Claim, now: Moment) -> bool {
        let is_kept = match claim.keeper {
            Keeper::Session(id) => self.sessions.contains_key(&id),
            Keeper::Nobody | Keeper::Process(_) => true,
        };
        !claim.over && is_kept && claim.until.is_none_or(|until| until > now)
    }

    /// The client has read this answer.
    pub fn read(&mut self, answer: &Answer) {
        for granted in answer.reply.grants() {
            if let Some(claim) = self.claims.get_mut(&granted.lock.id)
                && claim.lock.fence == granted.lock.fence
            {
                claim.is_delivered = true;
            }
        }
    }
}

/// No more than that it is shared is promised.
fn make_shared(claim: &mut Claim) {
    if claim.lock.ask.mode == Mode::Advisory {
        // Neither an upgrade nor a downgrade means one.
        return;
    }
    claim.lock.ask = Arc::new(Ask { mode: Mode::Shared, ..(*claim.lock.ask).clone() });
}

/// Whether a waiting request is a retry of this one, or this one of it.
fn is_named_so(waiter: &Waiter, ask: &Ask) -> bool {
    ask.request.is_some() && waiter.ask.request == ask.request && waiter.ask.who.agent == ask.who.agent
}
