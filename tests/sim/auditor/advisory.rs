//! Advisory locks: answered at once and never in the way, ranked by first grant, and whoever leads was told.

use super::rules::*;
use super::*;

/// Whether both are ranked together.
fn is_rival(lock: &Lock, other: &Lock) -> bool {
    lock.ask.mode == Mode::Advisory
        && other.ask.mode == Mode::Advisory
        && same_scope(&lock.ask.target, &other.ask.target)
}

/// Whose lock has rank 1 where `lock` stands, and how many are older.
fn standing(lock: &Lock, locks: &[Lock]) -> Standing {
    let rivals = || locks.iter().filter(|other| is_rival(lock, other));
    let first = rivals().min_by_key(|other| other.id).expect("it is its own rival");
    Standing { rank: 1 + rivals().filter(|other| other.id < lock.id).count(), leader: first.ask.who.agent.clone() }
}

impl Auditor {
    /// Each answer, for what it may not say of advisory locks.
    pub(super) fn advisory(&mut self, open: &Open, answer: &Answer) {
        let waits_for = |holders: &[Lock]| holders.iter().any(|lock| lock.ask.mode == Mode::Advisory);
        match &answer.reply {
            Reply::Granted(granted) => self.advisory_granted(open, granted, answer),
            Reply::Refused(refused) => {
                let is_advisory = matches!(&open.command, Command::Lock { ask, .. } if ask.mode == Mode::Advisory);
                assert!(!is_advisory, "an advisory request is refused: {refused:?}");
                assert!(!waits_for(&refused.holders), "refused because of an advisory lock: {refused:?}");
            }
            Reply::Status { locks, waiters } => {
                for queued in waiters {
                    assert!(queued.waiter.ask.mode != Mode::Advisory, "an advisory request waits: {queued:?}");
                    assert!(!waits_for(&queued.behind), "waits for an advisory lock: {queued:?}");
                }
                let is_all = matches!(&open.command, Command::Status { target: None, .. });
                for lock in locks.iter().filter(|lock| lock.ask.mode == Mode::Advisory) {
                    let told = answer.standings.get(&lock.id);
                    assert!(told.is_some(), "{} has no rank", lock.id);
                    assert!(!is_all || told == Some(&standing(lock, locks)), "{} is ranked {told:?}", lock.id);
                }
            }
            _ => {}
        }
    }

    fn advisory_granted(&mut self, open: &Open, granted: &Granted, answer: &Answer) {
        let lock = &granted.lock;
        for other in &granted.beside {
            self.is_committed(other);
            assert!(!clash(lock, other), "{} and {} are held at once", lock.id, other.id);
            let is_advisory = [lock, other].iter().any(|one| one.ask.mode == Mode::Advisory);
            let is_delegated = lock.ask.who.agent.is_above(&other.ask.who.agent);
            assert!((is_advisory || is_delegated) && other.id != lock.id, "{} is named beside {}", other.id, lock.id);
        }
        if lock.ask.mode != Mode::Advisory {
            return;
        }
        assert!(open.turn == self.turn, "{} waited for something", lock.id);
        assert!(lock.os == OsLock::None, "{} has a flock", lock.id);
        let standing = answer.standings.get(&lock.id).expect("a grant says how it stands");
        assert_eq!(standing.rank == 1, standing.leader == lock.ask.who.agent && standing.rank == 1, "{standing:?}");
        let is_first = granted.beside.iter().all(|other| !is_rival(lock, other) || other.id > lock.id);
        assert!(standing.rank > 1 || is_first, "{} has rank 1 and others are older", lock.id);
        self.counts.advisory += u64::from(granted.is_new());
        let excludes = |other: &Lock| other.ask.mode != Mode::Advisory;
        self.counts.advisory_beside_others += u64::from(granted.beside.iter().any(excludes));
    }

    /// Who writes under an advisory lock is told that it allows nothing.
    pub(super) fn only_advisory(&self, open: &Open, own: &Lock, holders: &[Lock]) {
        let Command::Commit { who, target, .. } = &open.command else { panic!("only a write is refused so") };
        assert!(own.ask.mode == Mode::Advisory && own.ask.who.agent == who.agent, "{own:?}");
        assert!(overlap(&own.ask.target, target), "{} is elsewhere", own.id);
        let has_other = holders.iter().any(|lock| lock.ask.who.agent == who.agent);
        assert!(!has_other, "{} has more than an advisory lock there", who.agent);
    }

    /// Whoever leads was told so, after those before it had ended and not earlier.
    pub(super) fn leaders(&mut self, locks: &[Lock], events: &[Event]) {
        let is_leader = |event: &&Event| matches!(event.kind, EventKind::Leader { .. });
        for lock in locks.iter().filter(|lock| lock.ask.mode == Mode::Advisory) {
            let is_known = self.claims.get(&lock.id).is_some_and(|claim| claim.epoch == self.epoch);
            let is_told = events.iter().filter(is_leader).any(|event| event.lock == lock.id);
            let leads = standing(lock, locks).rank == 1;
            assert!(!is_known || is_told == leads, "{} leads: {leads}; it was told: {is_told}", lock.id);
        }
        // What ended unseen may seem to be there for longer.
        if self.epoch > 0 || self.gap_from.is_some() {
            return;
        }
        let mut held: Vec<&Event> = Vec::new();
        let (mut led, mut led_by_another) = (0, 0);
        let same = |a: &Event, b: &Event| same_scope(&a.ask.target, &b.ask.target);
        for (at, event) in events.iter().enumerate().filter(|(_, event)| event.ask.mode == Mode::Advisory) {
            match &event.kind {
                EventKind::Acquired(Acquired::Granted) => held.push(event),
                EventKind::Released(_) => held.retain(|other| other.lock != event.lock),
                EventKind::Leader { former } => {
                    let older = held.iter().find(|other| same(other, event) && other.lock < event.lock);
                    assert!(older.is_none(), "{} leads while {older:?} is held", event.lock);
                    let has_ended = |of: &Agent| {
                        let ended =
                            |before: &&Event| matches!(before.kind, EventKind::Released(_)) && same(before, event);
                        events[..at].iter().filter(ended).any(|before| before.ask.who.agent == *of)
                    };
                    assert!(former.as_ref().is_none_or(has_ended), "{} follows one that leads", event.lock);
                    led += 1;
                    led_by_another += u64::from(former.is_some());
                }
                _ => {}
            }
        }
        self.counts.led = self.counts.led.max(led);
        self.counts.led_by_another = self.counts.led_by_another.max(led_by_another);
    }
}
