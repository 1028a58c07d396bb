//! The bus: what has happened, for whoever wants to hear of it. The one place that knows which events are kept.
//!
//! The coordinator gives it the events of a batch when the batch is written, and they are told from then on; those of
//! a batch that must be synced before it is answered, and all that follow it, when it is synced. So nothing is told
//! that a failed write takes back, and nothing promised for a power cut before it is safe from one.
//!
//! Nobody is queued for: the newest [`limits::EVENTS_KEPT`] events are in memory once, and each subscriber is a
//! [`Cursor`], a number and no more. One that stalls costs nothing and falls behind.
//!
//! **A gap is never silent.** Event numbers grow, and jump at every start of a daemon, since they are reserved in
//! blocks; a batch that could not be written leaves a hole as well. So an event carries the number of the one told
//! before it ([`Event::after`]), or says that this is not known. Where that is not the event that a reader has passed,
//! something is missing, and the reader gets a [`Gap`] in its place. What a filter leaves out is no gap.

mod filter;

pub use filter::Filter;

use crate::limits;
use crate::model::{Event, EventSeq, Record};
use std::collections::VecDeque;
use std::sync::Arc;

/// What a subscriber is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Something happened.
    Event(Arc<Event>),
    /// Events are missing here.
    Gap(Gap),
}

/// Events that a subscriber cannot be told any more: they are too old, or a power cut or a broken disk took them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first number that may be missing.
    pub from: u64,
    /// The last one.
    pub to: u64,
    /// How many events are missing, wanted or not; none where that is not known, and it may be that none are.
    pub events: Option<u64>,
}

/// How far a subscriber is. Only ever used with the bus that gave it.
#[derive(Clone, Debug)]
pub struct Cursor {
    /// All up to this number is passed.
    passed: u64,
    /// Where the last event passed stands among all, if it is known.
    place: Option<Place>,
}

impl Cursor {
    /// The number to go on from, also with a later daemon.
    pub fn seq(&self) -> u64 {
        self.passed
    }
}

/// A number that no event has yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// The newest number.
    pub newest: u64,
}

/// Where an event stands among all that were told, so that those between two can be counted. Counting does not go
/// across places where events may be lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    stretch: u64,
    nth: u64,
}

impl Place {
    /// How many stand between two of them.
    fn between(self, later: Place) -> Option<u64> {
        (self.stretch == later.stretch).then(|| later.nth - self.nth - 1)
    }
}

/// An event that can be told.
#[derive(Debug)]
struct Kept {
    event: Arc<Event>,
    place: Place,
    /// What is missing between this event and the kept one before it.
    gap: Option<Gap>,
}

/// Events that are written and not told yet.
#[derive(Debug)]
struct Untold {
    event: Event,
    place: Place,
    /// The record that must be durable first.
    through: u64,
}

/// All that can be told.
#[derive(Debug)]
pub struct Bus {
    /// Oldest first.
    kept: VecDeque<Kept>,
    untold: VecDeque<Untold>,
    /// The newest event, told or not; zero if there was none, none if it may be lost.
    last: Option<EventSeq>,
    place: Place,
    /// Where the newest event that was told stands.
    told: Place,
    /// No number up to this is given to an event any more.
    newest: u64,
    /// Before this daemon's first event some may be lost, up to this number.
    lost_through: Option<u64>,
}

impl Bus {
    /// Takes over the events that the journal has kept, oldest first. `from` is the first number that this daemon may
    /// give out; of those below `lost_below` the newest may be missing.
    pub fn new(events: Vec<Event>, from: u64, lost_below: u64) -> Bus {
        let newest = from.saturating_sub(1);
        let mut bus = Bus {
            kept: VecDeque::with_capacity(events.len()),
            untold: VecDeque::new(),
            last: None,
            place: Place::default(),
            told: Place::default(),
            newest,
            lost_through: None,
        };
        for event in events {
            bus.place = bus.next_place(event.after);
            bus.last = Some(event.seq);
            let place = bus.place;
            bus.keep(event, place);
        }
        bus.last = bus.last.or(Some(EventSeq(0)));
        if bus.last.is_some_and(|last| last.0 < lost_below) {
            bus.last = None;
            bus.lost_through = Some(newest);
        }
        bus
    }

    /// Says in the events of a batch, before it is written, which one comes before each.
    pub fn chain<'a>(&self, records: impl IntoIterator<Item = &'a mut Record>) {
        let mut last = self.last;
        for record in records {
            if let Record::Event(event) = record {
                event.after = last;
                last = Some(event.seq);
            }
        }
    }

    /// Takes the events of a batch that was chained and is written: they are told when the record `through` is
    /// durable, or at once with zero, and in order. `u64::MAX` is for what is written only when the journal is
    /// rewritten.
    pub fn written<'a>(&mut self, records: impl IntoIterator<Item = &'a Record>, through: u64) {
        for record in records {
            let Record::Event(event) = record else { continue };
            debug_assert_eq!(event.after, self.last, "events are chained as they are written");
            self.place = self.next_place(event.after);
            self.last = Some(event.seq);
            self.untold.push_back(Untold { event: event.clone(), place: self.place, through });
        }
        // More than are kept need not wait to be: the place of those left out shows that they are missing.
        let over = self.untold.len().saturating_sub(limits::EVENTS_KEPT as usize);
        self.untold.drain(..over);
        self.durable(0);
    }

    /// Tells what has waited for the records up to `through`; `u64::MAX` tells all.
    pub fn durable(&mut self, through: u64) {
        while self.untold.front().is_some_and(|untold| untold.through <= through)
            && let Some(Untold { event, place, .. }) = self.untold.pop_front()
        {
            self.newest = self.newest.max(event.seq.0);
            self.keep(event, place);
        }
    }

    /// All events that a new journal must hold, oldest first: those told and those to be told.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.kept.iter().map(|kept| &*kept.event).chain(self.untold.iter().map(|untold| &untold.event))
    }

    /// The newest number: whoever goes on from there hears all that happens from now on.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// A cursor behind the event with this number, or behind everything there is.
    ///
    /// # Errors
    /// There has been no such number yet.
    pub fn cursor(&self, since: Option<u64>) -> Result<Cursor, Ahead> {
        match since {
            None => Ok(Cursor { passed: self.newest, place: Some(self.told) }),
            Some(since) if since > self.newest => Err(Ahead { newest: self.newest }),
            Some(since) => {
                let at = self.kept.binary_search_by_key(&since, |kept| kept.event.seq.0);
                Ok(Cursor { passed: since, place: at.ok().map(|at| self.kept[at].place) })
            }
        }
    }

    /// Whether there may be something to tell behind a cursor.
    pub fn is_behind(&self, cursor: &Cursor) -> bool {
        let is_kept = self.kept.back().is_some_and(|kept| kept.event.seq.0 > cursor.passed);
        is_kept || self.lost_through.is_some_and(|through| through > cursor.passed)
    }

    /// The next that is wanted, or missing, behind a cursor, which goes on behind it; none if there is nothing yet.
    pub fn next(&self, cursor: &mut Cursor, filter: &Filter) -> Option<Told> {
        let first = self.kept.partition_point(|kept| kept.event.seq.0 <= cursor.passed);
        for (at, kept) in self.kept.iter().enumerate().skip(first) {
            if let Some(gap) = self.missing(at, kept, cursor) {
                cursor.passed = gap.to;
                return Some(Told::Gap(gap));
            }
            (cursor.passed, cursor.place) = (kept.event.seq.0, Some(kept.place));
            if filter.wants(&kept.event) {
                return Some(Told::Event(kept.event.clone()));
            }
        }
        let to = self.lost_through.filter(|to| *to > cursor.passed)?;
        let gap = Gap { from: cursor.passed + 1, to, events: None };
        cursor.passed = to;
        Some(Told::Gap(gap))
    }

    /// What is missing between a cursor and the first kept event behind it.
    fn missing(&self, at: usize, kept: &Kept, cursor: &Cursor) -> Option<Gap> {
        let from = cursor.passed + 1;
        let gap = match at {
            0 => {
                let to = kept.event.after.map_or(kept.event.seq.0 - 1, |after| after.0);
                let events = kept.event.after.and(cursor.place).and_then(|place| place.between(kept.place));
                Gap { from, to, events }
            }
            _ => {
                let gap = kept.gap?;
                let events = gap.events.filter(|_| from <= gap.from);
                Gap { from: from.max(gap.from), to: gap.to, events }
            }
        };
        (gap.from <= gap.to).then_some(gap)
    }

    /// The place of an event that comes after all others.
    fn next_place(&self, after: Option<EventSeq>) -> Place {
        let Place { stretch, nth } = self.place;
        if after.is_some() && after == self.last {
            Place { stretch, nth: nth + 1 }
        } else {
            Place { stretch: stretch + 1, nth: 0 }
        }
    }

    fn keep(&mut self, event: Event, place: Place) {
        let before = self.kept.back();
        let gap = before.filter(|before| event.after != Some(before.event.seq)).map(|before| Gap {
            from: before.event.seq.0 + 1,
            to: event.after.map_or(event.seq.0 - 1, |after| after.0),
            events: before.place.between(place),
        });
        self.told = place;
        self.kept.push_back(Kept { event: Arc::new(event), place, gap: gap.filter(|gap| gap.from <= gap.to) });
        if self.kept.len() > limits::EVENTS_KEPT as usize {
            self.kept.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::*;
    use crate::scope::{Scope, Target};

    pub(super) fn file(path: &str) -> Scope {
        Scope::File(path.as_bytes().into())
    }

    pub(super) fn event(seq: u64, path: &str) -> Event {
        let ask = Ask {
            target: Target::named(file(path)),
            mode: Mode::Exclusive,
            who: Who { agent: Agent::new("claw-1").unwrap(), session: None },
            lease: Lease { ttl: 0, max_hold: None },
            note: None,
            process: None,
            bound: None,
            request: None,
            workspace: Workspace { root: b"/w"[..].into() },
            os: false,
            upgrades: None,
            set: None,
        };
        let kind = EventKind::Acquired(Acquired::Granted);
        Event {
            seq: EventSeq(seq),
            after: None,
            time: Wall(0),
            kind,
            lock: LockId(1),
            ask: Arc::new(ask),
            fence: Fence(1),
        }
    }

    /// Writes events with these numbers as one batch.
    fn write(bus: &mut Bus, seqs: impl IntoIterator<Item = u64>, through: u64) {
        let mut records: Vec<Record> = seqs.into_iter().map(|seq| Record::Event(event(seq, "/w/a"))).collect();
        bus.chain(&mut records);
        bus.written(&records, through);
    }

    /// Everything that a cursor is told: numbers, and gaps as they are.
    fn all(bus: &Bus, cursor: &mut Cursor) -> Vec<Result<u64, Gap>> {
        std::iter::from_fn(|| bus.next(cursor, &Filter::default()))
            .map(|told| match told {
                Told::Event(event) => Ok(event.seq.0),
                Told::Gap(gap) => Err(gap),
            })
            .collect()
    }

    fn since(bus: &Bus, seq: u64) -> Vec<Result<u64, Gap>> {
        all(bus, &mut bus.cursor(Some(seq)).unwrap())
    }

    fn gap(from: u64, to: u64, events: impl Into<Option<u64>>) -> Result<u64, Gap> {
        Err(Gap { from, to, events: events.into() })
    }

    /// What a later daemon finds in the journal.
    fn reopened(bus: &Bus, from: u64, complete: bool) -> Bus {
        let lost_below = if complete { 0 } else { from };
        Bus::new(bus.events().cloned().collect(), from, lost_below)
    }

    #[test]
    fn what_is_written_is_told_in_order_and_once() {
        let mut bus = Bus::new(Vec::new(), 100, 0);
        let mut cursor = bus.cursor(None).unwrap();
        write(&mut bus, [100, 101], 0);
        assert_eq!(all(&bus, &mut cursor), [Ok(100), Ok(101)]);
        assert!(!bus.is_behind(&cursor));
        write(&mut bus, [102], 0);
        assert_eq!(all(&bus, &mut cursor), [Ok(102)]);
        assert_eq!(since(&bus, 0), [Ok(100), Ok(101), Ok(102)], "nothing ever came before");
        assert_eq!(since(&bus, 101), [Ok(102)]);
    }

    #[test]
    fn what_must_be_synced_waits_for_it_and_keeps_its_place() {
        let mut bus = Bus::new(Vec::new(), 1, 0);
        write(&mut bus, [1], 7);
        write(&mut bus, [2], 0);
        assert_eq!((since(&bus, 0), bus.newest()), (vec![], 0));
        bus.durable(6);
        assert_eq!(since(&bus, 0), []);
        bus.durable(7);
        assert_eq!((since(&bus, 0), bus.newest()), (vec![Ok(1), Ok(2)], 2));
    }

    #[test]
    fn numbers_of_a_batch_that_failed_are_no_gap() {
        let mut bus = Bus::new(Vec::new(), 1, 0);
        write(&mut bus, [1], 0);
        let mut failed = [Record::Event(event(2, "/w/a"))];
        bus.chain(&mut failed);
        write(&mut bus, [3], 0);
        assert_eq!(since(&bus, 0), [Ok(1), Ok(3)]);
    }

    #[test]
    fn a_restart_that_lost_nothing_is_no_gap_though_numbers_jump() {
        let mut bus = Bus::new(Vec::new(), 1, 0);
        write(&mut bus, [1, 2], 0);
        let mut bus = reopened(&bus, 1_000, true);
        assert_eq!(since(&bus, 1), [Ok(2)]);
        write(&mut bus, [1_000], 0);
        assert_eq!(since(&bus, 1), [Ok(2), Ok(1_000)]);
        assert_eq!(since(&bus, 500), [Ok(1_000)]);
        assert_eq!(since(&reopened(&bus, 2_000, true), 0), [Ok(1), Ok(2), Ok(1_000)]);
    }

    #[test]
    fn what_a_power_cut_may_have_taken_is_a_gap_that_is_not_counted() {
        let mut bus = Bus::new(Vec::new(), 1, 0);
        write(&mut bus, [1, 2], 0);
        let mut bus = reopened(&bus, 1_000, false);
        assert_eq!(since(&bus, 1), [Ok(2), gap(3, 999, None)], "told at once, not only with the next event");
        assert_eq!(since(&bus, 50), [gap(51, 999, None)]);
        let mut live = bus.cursor(None).unwrap();
        write(&mut bus, [1_000], 0);
        assert_eq!(since(&bus, 1), [Ok(2), gap(3, 999, None), Ok(1_000)]);
        assert_eq!(all(&bus, &mut live), [Ok(1_000)]);
        assert_eq!(since(&reopened(&bus, 2_000, true), 2), [gap(3, 999, None), Ok(1_000)], "and is known ever after");
        let again = Bus::new(bus.events().cloned().collect(), 2_000, 1_000);
        assert_eq!(since(&again, 2), [gap(3, 999, None), Ok(1_000)], "an old loss is no new one");
    }

    #[test]
    fn whoever_falls_behind_is_told_how_many_are_missing() {
        let mut bus = Bus::new(Vec::new(), 1, 0);
        let mut stalled = bus.cursor(None).unwrap();
        write(&mut bus, [1, 2], 0);
        assert_eq!(bus.next(&mut stalled, &Filter::default()).map(|_| ()), Some(()));
        // Half of the numbers are never given.
        write(&mut bus, (2..2 + limits::EVENTS_KEPT).map(|n| 2 * n), 0);
        let told = all(&bus, &mut stalled);
        assert_eq!(told[..2], [gap(2, 2, 1), Ok(4)]);
        assert_eq!(told.len() as u64, 1 + limits::EVENTS_KEPT);
        write(&mut bus, [1_000_000], 0);
        assert_eq!(since(&bus, 1)[..2], [gap(2, 4, None), Ok(6)], "it was not seen what came before 1");
        assert_eq!(since(&bus, 4)[0], Ok(6));
    }

    #[test]
    fn events_that_wait_in_vain_for_a_disk_are_a_counted_gap() {
        let mut bus = Bus::new(Vec::new(), 1, 0);
        let mut cursor = bus.cursor(None).unwrap();
        write(&mut bus, [1], 0);
        write(&mut bus, 2..12 + limits::EVENTS_KEPT, u64::MAX);
        bus.durable(u64::MAX);
        let told = all(&bus, &mut cursor);
        assert_eq!(told[0], gap(1, 11, 11), "the first was pushed out by the others");
        assert_eq!((told[1], told.len() as u64), (Ok(12), 1 + limits::EVENTS_KEPT));
    }

    #[test]
    fn a_number_of_the_future_is_refused() {
        let mut bus = Bus::new(Vec::new(), 10, 0);
        write(&mut bus, [10], 0);
        assert_eq!(bus.cursor(Some(11)).unwrap_err(), Ahead { newest: 10 });
        assert_eq!(bus.cursor(Some(10)).unwrap().seq(), 10);
    }

    #[test]
    fn what_a_filter_leaves_out_is_no_gap() {
        let mut bus = Bus::new(Vec::new(), 1, 0);
        let mut records = ["/w/a", "/w/b", "/w/a"].map(|path| Record::Event(event(0, path)));
        for (seq, record) in (1..).zip(&mut records) {
            let Record::Event(event) = record else { unreachable!("made just above") };
            event.seq = EventSeq(seq);
        }
        bus.chain(&mut records);
        bus.written(&records, 0);
        let filter = Filter { targets: vec![Target::named(file("/w/b"))], ..Filter::default() };
        let mut cursor = bus.cursor(Some(0)).unwrap();
        assert!(matches!(bus.next(&mut cursor, &filter), Some(Told::Event(event)) if event.seq.0 == 2));
        assert_eq!(bus.next(&mut cursor, &filter), None);
        assert_eq!(cursor.seq(), 3);
    }
}
