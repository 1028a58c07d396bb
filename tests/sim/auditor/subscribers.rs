//! What subscribers are told: once, in order, the same to all, nothing before it is written, and nothing left out
//! without a gap that says so.

use super::*;
use flockd::events::{Gap, Told};

/// What one subscriber has heard, however often it came back.
#[derive(Default)]
pub(super) struct Hearing {
    from: u64,
    last: u64,
    gaps: Vec<(u64, u64)>,
}

impl Hearing {
    /// Whether it had to hear of an event by now.
    fn must_know(&self, seq: u64) -> bool {
        self.from < seq && seq <= self.last && !self.gaps.iter().any(|(from, to)| (*from..=*to).contains(&seq))
    }
}

impl Auditor {
    /// A subscriber is connected and is told what comes behind a number.
    pub fn subscribed(&mut self, at: usize, seq: u64) {
        let hearing = self.hearing.entry(at).or_insert_with(|| Hearing { from: seq, last: seq, gaps: Vec::new() });
        assert_eq!(hearing.last, seq, "subscriber {at} goes on elsewhere");
    }

    pub fn subscriber_heard(&mut self, at: usize, told: &Told) {
        let last = self.hearing[&at].last;
        match told {
            Told::Event(event) => {
                let seq = event.seq.0;
                assert!(seq > last, "subscriber {at} is told {seq} after {last}");
                let skipped = self.told_events.range(last + 1..seq).next();
                assert!(
                    skipped.is_none(),
                    "subscriber {at} is told {seq} after {last}, and others were told {skipped:?}"
                );
                match self.told_events.insert(seq, (**event).clone()) {
                    Some(before) => assert_eq!(before, **event, "two are told of another event {seq}"),
                    None => {
                        if let EventKind::Contention(contended) = event.kind {
                            self.counts.contended += u64::from(self.asking.told(event, contended));
                        }
                        let deaf = self.hearing.iter().find(|(_, hearing)| hearing.must_know(seq));
                        assert!(deaf.is_none(), "{seq} was left out for subscriber {:?}", deaf.map(|(other, _)| other));
                    }
                }
                self.hearing.get_mut(&at).expect("it is subscribed").last = seq;
                self.counts.events_told += 1;
            }
            &Told::Gap(Gap { from, to, events }) => {
                assert!(from == last + 1 && from <= to, "subscriber {at} misses {from} to {to} after {last}");
                let known = self.told_events.range(from..=to).count() as u64;
                assert!(
                    events.is_none_or(|events| events >= known),
                    "{known} events were told between {from} and {to}"
                );
                let hearing = self.hearing.get_mut(&at).expect("it is subscribed");
                hearing.gaps.push((from, to));
                hearing.last = to;
                self.counts.gaps_told += 1;
            }
        }
    }

    /// What was told is there after a kill; after a power cut, what tells of a promise for one.
    pub(super) fn heard_is_written(&self, loaded: &Loaded, is_power_cut: bool) {
        let there: BTreeMap<u64, &Event> = loaded.events.iter().map(|event| (event.seq.0, event)).collect();
        for (seq, event) in self.told_events.iter().filter(|(seq, _)| !self.lost_events.contains(seq)) {
            if !is_power_cut || outlives_power(event) {
                assert_eq!(
                    there.get(seq),
                    Some(&event),
                    "{seq} was told and is not kept, after a power cut: {is_power_cut}"
                );
            }
        }
    }

    /// A power cut has taken what it took.
    pub(super) fn heard_may_be_lost(&mut self, loaded: &Loaded) {
        let there: BTreeSet<u64> = loaded.events.iter().map(|event| event.seq.0).collect();
        self.lost_events.extend(self.told_events.keys().filter(|seq| !there.contains(seq)));
    }

    /// Everybody has read to the end: whatever is in the journal was told to each, or fell into a gap.
    pub fn all_is_heard(&self, loaded: &Loaded) {
        for event in &loaded.events {
            for (at, hearing) in &self.hearing {
                let seq = event.seq.0;
                assert!(seq <= hearing.last, "{seq} was not told to subscriber {at}");
                assert!(!hearing.must_know(seq) || self.told_events.contains_key(&seq), "{seq} was told to nobody");
            }
        }
    }
}

/// Whether an event tells of a grant that is promised for a power cut. A lock that was made shared is no new promise to
/// its holder: it waits for no disk, and where the power takes it the lock is exclusive again until its lease ends. Nor
/// does an advisory one wait for it.
fn outlives_power(event: &Event) -> bool {
    let is_grant = matches!(event.kind, EventKind::Acquired(how) if how != Acquired::Downgraded);
    is_grant && event.ask.lease.ttl > 0 && event.ask.mode != Mode::Advisory
}

mod tests {
    use super::*;
    use flockd::events::Told;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// Whether the auditor lets a power cut take an event that one subscriber was told.
    fn may_be_lost(how: Acquired, ttl: u64) -> bool {
        let ask = Ask {
            target: Target::named(resource("port").expect("it is a name")),
            mode: Mode::Shared,
            who: Who { agent: Agent::new("ann").expect("it is short"), session: None },
            lease: Lease { ttl, max_hold: None },
            note: None,
            process: None,
            bound: None,
            request: None,
            workspace: Workspace { root: b"/w".as_slice().into() },
            os: false,
            upgrades: None,
            set: None,
        };
        let kind = EventKind::Acquired(how);
        let (seq, after, time) = (EventSeq(2), Some(EventSeq(1)), Wall(0));
        let event = Event { seq, after, time, kind, lock: LockId(1), ask: Arc::new(ask), fence: Fence(1) };
        let mut auditor = Auditor::default();
        auditor.subscribed(0, 1);
        auditor.subscriber_heard(0, &Told::Event(Arc::new(event)));
        let nothing = Loaded {
            records: Vec::new(),
            events: Vec::new(),
            fences_from: 2,
            events_from: 3,
            instance: 1,
            rebooted: true,
            fresh: false,
            lost_below: 3,
            cut: None,
        };
        catch_unwind(AssertUnwindSafe(|| auditor.heard_is_written(&nothing, true))).is_ok()
    }

    #[test]
    fn a_power_cut_may_take_what_was_told_of_a_lock_made_shared_and_of_no_grant_with_a_lease() {
        assert!(may_be_lost(Acquired::Downgraded, 600_000));
        assert!(may_be_lost(Acquired::Granted, 0));
        for promise in [Acquired::Granted, Acquired::Resumed, Acquired::Upgraded] {
            assert!(!may_be_lost(promise, 600_000), "{promise:?}");
        }
    }
}
