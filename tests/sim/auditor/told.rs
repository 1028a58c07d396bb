//! What comes out: each answer against what was asked, promised and told before.

use super::rules::*;
use super::*;

impl Auditor {
    pub fn told(&mut self, now: Now, to: Caller, answer: &Answer) {
        let open = self.open.remove(&to).unwrap_or_else(|| panic!("{to:?} is answered and did not ask, or twice"));
        self.counts.late += u64::from(open.turn != self.turn);
        self.is_sent_away(to, answer);
        self.asking.answered(now.mono, to, &open, &answer.reply, open.turn == self.turn && open.at == now.mono);
        self.losses(now, &open, answer);
        self.advisory(&open, answer);
        match &answer.reply {
            Reply::Granted(granted) => self.granted(now, &open, granted),
            Reply::GrantedSet(all) => self.granted_set(now, &open, all),
            Reply::Refused(refused) => self.refused(now, &open, refused),
            Reply::Free => self.free(now, &open),
            Reply::Released(locks) => self.released(&open, locks),
            Reply::Renewed(locks) => {
                // An answer that was held back tells of a lock that was made shared since as it is now.
                let is_as_it_was = |lock: &&Lock| open.turn == self.turn || lock.ask.mode != Mode::Shared;
                locks.iter().filter(is_as_it_was).for_each(|lock| leases::was_renewed(lock, open.at));
                locks.iter().for_each(|lock| self.touched(lock, &open));
            }
            Reply::Downgraded(lock) => self.downgraded(&open, lock),
            Reply::Checked(checked) => self.checked(now, &open, checked),
            Reply::Broken(ended) => self.broken(now, ended),
            Reply::Committed(lock, _) => self.committed(now, &open, lock),
            Reply::Status { locks, waiters } => {
                self.counts.probes += 1;
                self.status(&open, locks, waiters);
            }
            Reply::News { more } => assert_eq!(*more, 0, "nobody here loses so many"),
            Reply::Bound(id) => {
                if let (Command::Bind { process, .. }, Some(claim)) = (&open.command, self.claims.get_mut(id)) {
                    (claim.keeper, claim.until) = (Keeper::Process(*process), None);
                    claim.lock.custody = Custody::Process(*process);
                    claim.lock.expires = None;
                }
            }
            Reply::SessionOpen(id) => self.session_open(&open, *id),
            Reply::Webhook(_) | Reply::Webhooks(_) | Reply::WebhookRemoved(_) => unreachable!("no client has one"),
            Reply::Cancelled(is_gone) => self.cancelled(&open, *is_gone),
            Reply::Failed(fault) => self.failed(now, &open, fault),
        }
        self.queue.retain(|_, waiter| waiter.caller != Some(to));
    }

    /// An answer has left the daemon: what it tells is known from now on.
    pub fn brought(&mut self, answer: &Answer) {
        self.heard_lost.extend(answer.lost.iter().map(|ended| ended.id));
        self.heard.extend(answer.reply.grants().iter().map(|granted| granted.lock.id));
    }

    /// Nobody holds a lock without having heard of it, or being about to.
    pub fn nothing_is_unheard<'a>(&self, now: Now, on_their_way: impl Iterator<Item = &'a Answer>) {
        let granted = on_their_way.flat_map(|answer| answer.reply.grants().iter().map(|granted| granted.lock.id));
        let on_their_way: BTreeSet<LockId> = granted.collect();
        for claim in self.claims.values().filter(|claim| self.is_live(claim, now.mono)) {
            let id = claim.lock.id;
            // It is taken back when nothing is on its way under it any more.
            let is_heard = self.heard.contains(&id) || on_their_way.contains(&id);
            // A daemon that was killed knew whom it had not told yet; the next one does not.
            let is_heard = is_heard || self.is_writing(id) || self.inherited.contains(&id);
            assert!(is_heard, "{} holds {id}, and no word of it arrived or will", claim.lock.ask.who.agent);
        }
    }

    /// Every loss is told before the next success that concerns it, and none is told that is not one.
    fn losses(&mut self, now: Now, open: &Open, answer: &Answer) {
        for ended in &answer.lost {
            self.counts.losses_told += 1;
            assert!(!bound::is_no_loss(ended), "{} is told to be lost, and nobody was to be told", ended.id);
            if let Some(claim) = self.claims.get(&ended.id) {
                let is_other = claim.lock.fence != ended.fence;
                assert!(is_other || !self.is_live(claim, now.mono), "{} is told to be lost and is not", ended.id);
            }
            self.end(ended.id, self.turn, UNKNOWN);
        }
        if matches!(answer.reply, Reply::Failed(_) | Reply::Cancelled(_)) {
            return;
        }
        let Some((who, targets)) = who_and_targets(&open.command) else { return };
        for (id, owed) in &self.owed {
            let listening = owed.who.session.filter(|id| self.sessions.contains_key(id));
            let meets = |target: &&Target| is_named(&target.scope, &owed.target.scope);
            let is_named = || targets.as_ref().is_none_or(|targets| targets.iter().any(meets));
            let is_meant = listening.map_or_else(is_named, |session| who.session == Some(session));
            let is_told = answer.lost.iter().any(|ended| ended.id == *id);
            // Its lease may have run out, but it ends only now that nothing is on its way under it.
            let is_told = is_told || self.is_writing(*id);
            let is_due = owed.who.agent == who.agent && is_meant && owed.turn < open.turn && !is_told;
            assert!(!is_due, "{} succeeds and is not told that it lost {id}", who.agent);
        }
    }

    /// This lock has ended for certain, not later than in `turn`.
    pub(super) fn end(&mut self, id: LockId, turn: u64, epoch: u64) {
        let end = End { turn, written: !self.trouble, epoch, released_over: None };
        self.ended.entry(id).or_insert(end);
        if let Some(claim) = self.claims.get_mut(&id) {
            claim.over = true;
        }
    }

    pub(super) fn granted(&mut self, now: Now, open: &Open, granted: &Granted) {
        let lock = &granted.lock;
        let (who, mode, wait, bound) = match &open.command {
            Command::Lock { wait, .. } | Command::LockSet { wait, .. } => {
                let ask = &asks_of(&open.command)[0];
                (&ask.who, ask.mode, wait, ask.bound)
            }
            Command::Upgrade { who, wait, .. } => (who, Mode::Exclusive, wait, lock.ask.bound),
            _ => panic!("{} was granted unasked", lock.id),
        };
        assert!(lock.ask.who.agent == who.agent, "{} is not what was asked", lock.id);
        // Made shared since, while the answer was held back.
        assert!(lock.ask.mode.answers(mode) || open.turn != self.turn, "{} is not held as was asked", lock.id);
        assert!(lock.ask.upgrades.is_none(), "{} upgrades another", lock.id);
        assert!(lock.fence.0 < limits::FENCE_END && lock.id.0 <= lock.fence.0, "{} has no fence", lock.id);
        leases::is_within_bounds(lock);
        // A place that this answers, or makes needless, is over, however soon the lock itself is.
        self.places_may_be_over(&who.agent, Some(&lock.ask.target));
        let is_late = open.turn != self.turn;
        self.top_fence = self.top_fence.max(lock.fence.0);
        if is_late && (self.was_released_by(open, lock.id) || self.is_being_released_by(open, lock.id)) {
            return;
        }
        self.is_bound_as_asked(lock, who, bound);
        if is_late && self.claims.get(&lock.id).is_some_and(|claim| claim.lock.fence >= lock.fence) {
            return self.touched(lock, open);
        }
        let before = self.claims.get(&lock.id);
        let is_known = before.is_some_and(|claim| claim.lock.fence == lock.fence);
        let has_old_fence = (granted.resumed.is_some() || granted.upgraded) && is_known && !is_late && !open.is_again;
        assert!(!has_old_fence, "{} was taken up with the fence that it had", lock.id);
        if !granted.already_held && !is_known {
            self.counts.grants += 1;
            self.counts.resumed += u64::from(granted.resumed.is_some());
            self.counts.upgraded += u64::from(granted.upgraded);
            self.counts.waits_granted += u64::from(*wait != Wait::Try && open.turn != self.turn);
            self.fresh_fence(open, lock);
            let is_kept = !matches!(lock.custody, Custody::Detached);
            // A retry may tell of one whose session is expected back after a restart.
            let is_either = granted.again || lock.expires.is_none() == is_kept;
            assert!(is_either, "{} is kept, or on its lease: {lock:?}", lock.id);
            if granted.resumed.is_none() && !granted.upgraded {
                self.in_turn(now, open, granted);
            }
            if granted.resumed.is_none() && !is_late && !open.is_again {
                self.is_not_over_a_child(now, lock);
            }
        }
        if let Some(claim) = self.claims.get(&lock.id) {
            assert!(claim.lock.fence <= lock.fence, "{} was granted with fence {}", lock.id, claim.lock.fence.0);
        }
        assert!(self.ended.get(&lock.id).is_none_or(|end| end.turn == self.turn), "{} had ended", lock.id);
        let before = self.claims.get(&lock.id);
        let shortest = before.map_or(lock.ttl, |claim| claim.shortest.min(lock.ask.lease.ttl));
        let is_delivered = is_known && before.is_some_and(|claim| claim.is_delivered);
        let keeper = keeper_of(lock);
        let is_gone = matches!(keeper, Keeper::Session(id) if !self.sessions.contains_key(&id));
        let claim = Claim {
            lock: lock.clone(),
            keeper,
            until: lock.expires,
            shortest,
            told_in: self.turn,
            is_vague: open.turn != self.turn || (granted.again && self.is_asking_further(&who.agent)),
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
            if outlives_power_cut(lock) {
                self.told_for_good = true;
            }
        }
        self.claims.insert(lock.id, claim);
        let asked: Vec<Terms> = self.open.values().filter_map(Open::terms).collect();
        asked.iter().for_each(|terms| self.may_shorten(terms));
    }

    fn fresh_fence(&mut self, open: &Open, lock: &Lock) {
        if !open.is_again {
            assert!(lock.fence.0 > open.fence_before, "fence {} comes after {}", lock.fence.0, open.fence_before);
        }
        let before = self.fences.insert(lock.fence, lock.id);
        assert!(before.is_none_or(|id| id == lock.id), "fence {} was given out twice", lock.fence.0);
    }

    /// Nobody who was seen to wait for the same, and came earlier, still waits.
    fn in_turn(&self, now: Now, open: &Open, granted: &Granted) {
        let lock = &granted.lock;
        let Some(caller) = caller_of(&open.command) else { return };
        let place = self.queue.values().find(|waiter| waiter.caller == Some(caller)).map(|waiter| waiter.id);
        let place = place.or(granted.place.map(|kept| kept.id));
        // It keeps the place that it once had inside what a parent held.
        // A parent may hold what the daemon before this one granted and told nobody.
        let mut held = self.claims.values().map(|claim| &claim.lock).chain(&self.held_seen);
        if held.any(|parents| is_inside(lock, parents)) {
            return;
        }
        // What an agent above was granted may be held back; it lets this one in.
        let is_above = |waiter: &&Waiter| waiter.ask.who.agent.is_above(&lock.ask.who.agent);
        for waiter in self.queue.values().filter(|waiter| !is_above(waiter)) {
            let is_earlier = match place {
                _ if waiter.ask.upgrades.is_some() => true,
                // A grant that is told late may have been decided before anything was kept.
                None if waiter.is_kept() => false,
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
            let lease = waiter.ask.lease.max_hold.map_or(lease, |most| most.min(lease));
            let may_be_over = waiter.ask.who.session.is_none() && self.queue_seen.after(lease) <= now.mono;
            // One that nobody has seen wait since it asked may have been refused at once, and its refusal is held back.
            let is_seen = |open: &Open| !open.voided && open.turn <= self.queue_turn;
            let is_open = waiter.caller.is_some_and(|of| self.open.get(&of).is_some_and(is_seen));
            let is_kept = self.is_surely_kept(waiter, now.mono) && !self.may_be_needless(waiter);
            let is_kept = waiter.caller.is_none() && is_kept;
            // The system may have said no to one that would not wait, and its refusal is held back.
            let is_waiting = is_kept || (is_open && !may_be_over && !waiter.at_once);
            assert!(
                !(is_earlier && is_waiting && comes_before(waiter, &lock.ask) && !open.is_again && !open.voided),
                "at {}: {} is granted to {} while {} waits longer: {waiter:?}",
                now.mono.0,
                lock.id,
                lock.ask.who.agent,
                waiter.ask.who.agent
            );
        }
    }

    /// Whether a client that is not there still has its place: one that has waited in vain may have been offered it
    /// since the queue was seen.
    pub(super) fn is_surely_kept(&self, waiter: &Waiter, now: Moment) -> bool {
        let may_be_over = waiter.ticket.is_some() && self.queue_seen.after(limits::TICKET_OFFERED) <= now;
        waiter.kept_until().is_none_or(|until| until > now) && !may_be_over
    }

    /// Whether its agent may have been granted something since that makes a kept place needless, and the grant is held
    /// back.
    fn may_be_needless(&self, kept: &Waiter) -> bool {
        let agent = &kept.ask.who.agent;
        let is_beside = |ask: &Arc<Ask>| ask.who.agent == *agent && overlap(&ask.target, &kept.ask.target);
        self.open.values().any(|open| match &open.command {
            Command::Upgrade { who, .. } => who.agent == *agent,
            command => asks_of(command).iter().any(is_beside),
        })
    }

    /// What a sub-agent holds, no parent of it comes to hold.
    fn is_not_over_a_child(&self, now: Now, lock: &Lock) {
        for child in self.claims.values().filter(|child| self.is_live(child, now.mono)) {
            let is_shared = self.may_be_shared.contains(&child.lock.id);
            assert!(
                is_shared || !is_over_child(lock, &child.lock),
                "{} is granted to {} while its sub-agent holds {}",
                lock.id,
                lock.ask.who.agent,
                child.lock.id
            );
        }
    }

    pub(super) fn excludes(&self, now: Now, claim: &Claim) {
        for other in self.claims.values().filter(|other| other.lock.id != claim.lock.id) {
            assert!(
                !(clash(&claim.lock, &other.lock) && self.is_live(other, now.mono))
                    || self.may_be_shared.contains(&other.lock.id),
                "{} is told to {} while {} holds {}",
                claim.lock.id,
                claim.lock.ask.who.agent,
                other.lock.ask.who.agent,
                other.lock.id
            );
        }
    }

    pub(super) fn refused(&mut self, now: Now, open: &Open, refused: &Refused) {
        self.counts.refused += 1;
        let (agent, wait) = match &open.command {
            Command::Lock { ask, wait, .. } | Command::WaitFree { ask, wait, .. } => (&ask.who.agent, wait),
            Command::LockSet { asks, wait, .. } => (&asks[0].who.agent, wait),
            Command::Upgrade { who, wait, .. } => (&who.agent, wait),
            other => panic!("refused unasked: {other:?}"),
        };
        if let Some(kept) = &refused.kept {
            assert!(kept.ask.who.agent == *agent && kept.ask.mode == Mode::Shared, "{} is not kept shared", kept.id);
            self.is_committed(kept);
        }
        for holder in &refused.holders {
            let is_over = self.ended.get(&holder.id).is_some_and(|end| end.turn < open.turn);
            assert!(!is_over, "{} is named as a holder and had ended", holder.id);
            self.is_committed(holder);
        }
        if let Some(ticket) = &refused.ticket {
            self.counts.places_kept += 1;
            let is_fit = matches!(refused.why, RefusedFor::Timeout | RefusedFor::Held);
            let within = open.at.after(limits::TICKET_KEPT).max(now.mono.after(limits::TICKET_KEPT));
            assert!(is_fit && ticket.until <= within, "a place is kept for {agent} beyond its time: {ticket:?}");
        }
        match &refused.why {
            RefusedFor::Held => {
                assert!(*wait == Wait::Try, "a request that waits is refused as held");
                let is_blocked = !refused.holders.is_empty() || refused.position > 1 || refused.foreigner.is_some();
                assert!(is_blocked, "{agent} is refused and nothing is in the way");
                // Without a slow disk or file system it was just now that the file was tried.
                if let Some(foreigner) = refused.foreigner.as_ref().filter(|_| open.turn == self.turn) {
                    match (&open.command, &refused.kept) {
                        (_, Some(kept)) => {
                            self.is_there(foreigner, &Ask { mode: Mode::Exclusive, ..(*kept.ask).clone() });
                        }
                        (Command::Lock { ask, .. } | Command::WaitFree { ask, .. }, None) => {
                            self.is_there(foreigner, ask);
                        }
                        (Command::LockSet { asks, .. }, None) => self.is_at_one_of(foreigner, asks),
                        (other, None) => panic!("nothing is kept of {other:?}"),
                    }
                }
            }
            RefusedFor::OwnLock => {
                assert!(!refused.holders.is_empty());
                self.is_no_part_of(now, &open.command, &refused.holders);
            }
            RefusedFor::Timeout => {
                let is_over = matches!(wait, Wait::Until(until) if *until <= now.mono) || open.is_again;
                assert!(is_over, "{agent} is sent away before its time");
            }
            RefusedFor::Deadlock(cycle) => {
                self.counts.deadlocks += 1;
                let links = cycle.iter().zip(cycle.iter().cycle().skip(1));
                let is_closed = links.clone().all(|(link, next)| link.behind == next.waits);
                assert!(is_closed && cycle[0].waits == *agent, "no cycle: {cycle:?}");
            }
        }
    }

    fn free(&self, now: Now, open: &Open) {
        let Command::WaitFree { ask, .. } = &open.command else { panic!("free, unasked") };
        for claim in self.claims.values().filter(|claim| self.is_live(claim, now.mono) && claim.told_in < open.turn) {
            // A subtree does not keep out other names of its files from outside: who holds it may have the file too.
            let is_over = |own: &Ask| own.who.agent == ask.who.agent && overlap(&own.target, &ask.target);
            // Its grant may be told only after this.
            let may_get = |open: &Open| asks_of(&open.command).iter().any(|own| is_over(own));
            let has_it = self.claims.values().any(|own| is_over(&own.lock.ask)) || self.open.values().any(may_get);
            let may_be_shared = ask.mode != Mode::Exclusive && self.may_be_shared.contains(&claim.lock.id);
            let is_free = has_it || may_be_shared || !blocks(&claim.lock, ask);
            assert!(is_free, "it is called free, and {} is held", claim.lock.id);
        }
    }

    pub(super) fn released(&mut self, open: &Open, locks: &[Lock]) {
        let Command::Unlock { who, .. } = &open.command else { panic!("released unasked") };
        for lock in locks {
            self.counts.released += 1;
            assert_eq!(lock.ask.who.agent, who.agent, "{} is another's", lock.id);
            let before = self.ended.get(&lock.id);
            assert!(before.is_none_or(|end| end.turn >= open.turn), "{} is released and had ended", lock.id);
            if lock.lent.is_some() && who.session.is_some() && who.session == lock.keeper() {
                self.went_back(lock, open.at);
                continue;
            }
            let is_over_head = lock.keeper().is_some() && lock.keeper() != who.session;
            if is_over_head && !self.ended.contains_key(&lock.id) {
                let owed = Owed { who: lock.ask.who.clone(), target: lock.ask.target.clone(), turn: self.turn };
                self.owed.insert(lock.id, owed);
            }
            self.end(lock.id, self.turn, self.epoch);
            self.ended.get_mut(&lock.id).expect("it has ended just now").released_over = conn_of(open);
        }
    }

    /// A session had it on loan: it is its agent's again, on its lease from `at` on or a little later.
    fn went_back(&mut self, lock: &Lock, at: Moment) {
        let claim = self.claims.get_mut(&lock.id).filter(|claim| claim.lock.fence == lock.fence);
        if let Some(claim) = claim {
            claim.go_back(at);
        }
    }

    /// Whether whoever asks has released the lock over the same connection: it knows, whatever it is told afterwards.
    fn was_released_by(&self, open: &Open, lock: LockId) -> bool {
        let over = self.ended.get(&lock).and_then(|end| end.released_over);
        over.is_some() && over == conn_of(open)
    }

    /// Whether that release is still to be answered.
    fn is_being_released_by(&self, open: &Open, lock: LockId) -> bool {
        let is_release = |caller: &Caller, other: &Open| {
            Some(caller.conn) == conn_of(open) && matches!(other.command, Command::Unlock { .. })
        };
        self.ended.contains_key(&lock) && self.open.iter().any(|(caller, other)| is_release(caller, other))
    }

    fn downgraded(&mut self, open: &Open, lock: &Lock) {
        let Command::Downgrade { who, .. } = &open.command else { panic!("downgraded unasked") };
        self.counts.downgraded += 1;
        let is_shared = lock.ask.mode == Mode::Shared || open.turn != self.turn;
        assert!(is_shared && lock.ask.who.agent == who.agent, "{} is not shared", lock.id);
        if let Some(claim) = self.claims.get(&lock.id).filter(|_| open.turn == self.turn) {
            assert!(claim.lock.fence <= lock.fence, "{} has gone back to fence {}", lock.id, lock.fence.0);
        }
        // By an answer that had to wait no more is known than that it is no longer exclusive.
        if open.turn != self.turn {
            self.may_be_shared(&open.command);
        }
        self.touched(lock, open);
    }

    /// A lock was renewed or looked at by its agent.
    fn touched(&mut self, lock: &Lock, open: &Open) {
        let before = self.ended.get(&lock.id);
        assert!(before.is_none_or(|end| end.turn == self.turn), "{} is renewed and had ended", lock.id);
        let Some(claim) = self.claims.get_mut(&lock.id) else { return };
        claim.shortest = claim.shortest.min(lock.ttl);
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
                leases::was_renewed(lock, open.at);
                self.touched(lock, open);
                for other in self.claims.values().filter(|other| other.told_in < open.turn) {
                    assert!(
                        !(self.is_live(other, now.mono)
                            && other.lock.id != lock.id
                            && forbids_writing(&other.lock, lock, target)),
                        "{} may write under {} while {} is held",
                        who.agent,
                        lock.id,
                        other.lock.id
                    );
                }
            }
            Err(holders) => {
                holders.iter().for_each(|holder| self.is_committed(holder));
                let is_in_its_place =
                    |holder: &Lock| who.agent.is_above(&holder.ask.who.agent) && overlap(&holder.ask.target, target);
                let is_lent = holders.iter().any(is_in_its_place);
                let mine = self.claims.values().find(|claim| {
                    self.is_live(claim, now.mono)
                        && !is_lent
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
                if open.turn == self.turn {
                    self.renewed_there(who, target, open.at);
                } else {
                    self.may_have_renewed(open);
                }
            }
        }
    }

    /// A write is answered under a lock that its agent held exclusively; with a fence, under that very one.
    fn committed(&mut self, now: Now, open: &Open, lock: &Lock) {
        let Command::Commit { who, target, fence, .. } = &open.command else { panic!("written unasked") };
        self.counts.committed += 1;
        assert!(lock.ask.who.agent == who.agent && lock.ask.mode == Mode::Exclusive, "{} is no leave", lock.id);
        assert!(fence.is_none_or(|fence| fence == lock.fence), "{} has another fence", lock.id);
        assert!(overlap(&lock.ask.target, target), "{} covers another file", lock.id);
        let is_other = |other: &&Claim| other.lock.id != lock.id && other.told_in < open.turn;
        for other in self.claims.values().filter(is_other) {
            let is_shared = self.may_be_shared.contains(&other.lock.id);
            let clashes = self.is_live(other, now.mono) && forbids_writing(&other.lock, lock, target) && !is_shared;
            assert!(!clashes, "{} has written under {} while {} is held", who.agent, lock.id, other.lock.id);
        }
        self.may_have_renewed(open);
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
        if matches!(open.command, Command::Lock { .. } | Command::LockSet { .. } | Command::Upgrade { .. }) {
            assert!(is_gone, "a request is told that it is not cancelled");
        }
        if let Some(name) = name_of(&open.command) {
            let asked_again = self.open.values().any(|open| name_of(&open.command).as_ref() == Some(&name));
            if !asked_again {
                self.cancelled.insert(name);
            }
        }
    }

    fn failed(&mut self, now: Now, open: &Open, fault: &Fault) {
        if matches!(open.command, Command::Commit { .. }) {
            self.may_have_renewed(open);
        }
        // It may have been granted before, and taken back with what could not be written, or have ended since.
        if matches!(fault, Fault::Unavailable(_) | Fault::Lost(..) | Fault::NotFound) {
            for ask in asks_of(&open.command) {
                self.places_may_be_over(&ask.who.agent, Some(&ask.target));
            }
            if let Command::Upgrade { who, .. } = &open.command {
                self.places_may_be_over(&who.agent, None);
            }
        }
        match fault {
            Fault::Unavailable(_) => {
                self.counts.unavailable += 1;
                self.may_be_shared(&open.command);
                self.may_have_renewed(open);
                if let Some(terms) = open.terms() {
                    self.may_shorten(&terms);
                    self.may_have_changed(&terms);
                }
            }
            Fault::UnknownSession => {
                let id = match &open.command {
                    Command::ReturnSession { id, .. } => Some(*id),
                    command => who_and_targets(command).and_then(|(who, _)| who.session),
                };
                let known = id.and_then(|id| self.sessions.get(&id));
                assert!(known.is_none(), "an open session is unknown: {known:?}");
            }
            Fault::NotFound | Fault::NotHolder(_) | Fault::Delegated(_) | Fault::Lost(..) => self.not_held(now, open),
            Fault::OnlyAdvisory(own, holders) => self.only_advisory(open, own, holders),
            Fault::NoWebhook(id) => unreachable!("nobody here has asked for {id}"),
            Fault::Invalid(_) => {}
            Fault::Changed(_) | Fault::NotDurable(_) => {
                assert!(matches!(open.command, Command::Commit { .. }), "only a write finds a file changed");
                self.may_have_renewed(open);
            }
            Fault::TooMany(text) | Fault::Denied(text) => panic!("refused for another reason: {text}"),
        }
        self.has_forgotten |= *fault == Fault::NotFound && !asks_of(&open.command).is_empty();
        // With what was lost of a set the rest goes, of which nobody was told.
        let is_set = matches!(open.command, Command::LockSet { .. }) && open.turn != self.turn;
        self.has_forgotten |= is_set && matches!(fault, Fault::Lost(..));
        if let Fault::Lost(ended, _) = fault {
            let is_own_doing = self.was_released_by(open, ended.id) && !open.is_again;
            let is_lock = !asks_of(&open.command).is_empty();
            assert!(!(is_lock && is_own_doing), "{} is told to be lost to who released it", ended.id);
            // A retry is answered with the end of what was granted; the notice itself is told along with it.
            self.end(ended.id, self.turn, UNKNOWN);
        }
    }

    /// A downgrade that was written and could not be synced may come back after a kill.
    fn may_be_shared(&mut self, command: &Command) {
        let Command::Downgrade { who, which, .. } = command else { return };
        let is_meant = |lock: &Lock| match which {
            Which::Id(id) => lock.id == *id,
            Which::Scope(target) => same_scope(&lock.ask.target, target),
            Which::All => true,
        };
        for claim in self.claims.values_mut().filter(|claim| claim.lock.ask.who.agent == who.agent) {
            if is_meant(&claim.lock) && claim.lock.ask.mode != Mode::Advisory {
                claim.is_vague = true;
                self.may_be_shared.insert(claim.lock.id);
            }
        }
    }

    /// Somebody is told that a lock is not its own: it was not promised then.
    fn not_held(&self, now: Now, open: &Open) {
        let (Command::Unlock { who, which, .. } | Command::Renew { who, which, .. }) = &open.command else { return };
        for claim in self.claims.values() {
            let is_meant = match which {
                Which::Id(id) => claim.lock.id == *id,
                Which::Scope(target) => is_here(&claim.lock.ask.target, target),
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

    /// Whether a write is on its way under a lock, or was when this turn began: it does not end before.
    pub(super) fn is_writing(&self, id: LockId) -> bool {
        self.writing.contains(&id) || self.machine.is_writing(id)
    }

    /// Only who was told to hold a lock is named as its holder, or who was left by the daemon before.
    pub(super) fn is_committed(&self, holder: &Lock) {
        self.is_from_somewhere(holder);
        let is_told = [self.claims.contains_key(&holder.id), self.ended.contains_key(&holder.id)].contains(&true);
        assert!(
            is_told || self.has_forgotten || self.is_writing(holder.id) || self.inherited.contains(&holder.id),
            "{} is named as a holder before it is told so",
            holder.id
        );
    }

    pub(super) fn is_from_somewhere(&self, lock: &Lock) {
        let ask = &lock.ask;
        let by_this_name = |mode| self.wishes.contains(&(ask.who.agent.clone(), ask.target.scope.clone(), mode));
        // What an agent shares under one name of a file it may ask for alone under another.
        let is_wish = |wish: &&(Agent, Scope, Mode)| wish.0 == ask.who.agent && wish.2 == Mode::Exclusive;
        let by_another = || {
            ask.mode == Mode::Exclusive && by_this_name(Mode::Shared) && self.wishes.iter().any(|wish| is_wish(&wish))
        };
        let asked = by_this_name(ask.mode) || by_another();
        assert!(asked, "nobody asked for {}: {ask:?}", lock.id);
    }

    pub(super) fn is_not_cancelled(&self, lock: &Lock) {
        let ask = &lock.ask;
        if let Some(request) = &ask.request
            && !self.trouble
        {
            let key = (ask.who.agent.clone(), request.clone());
            assert!(!self.cancelled.contains(&key), "{} was cancelled and is held: {key:?}", lock.id);
        }
    }
}
