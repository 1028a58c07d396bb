//! Many subscribers of one daemon that stall, go and come back at random while it is killed: what each was told is held
//! against what all were told, and that against what was done.

use crate::util::{FLOCKD, Ground, StopAtEnd, scaled, until};
use crate::witness::{Random, seed};
use flockd::crossbeam_channel::Receiver;
use flockd::{Client, Event, EventFilter};
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const WORKERS: usize = 2;
const KILLS: u64 = 3;
/// Ends a test that would hang; no measurement.
const GUARD: Duration = Duration::from_secs(120);

/// What one subscriber was told, in order.
#[derive(Default)]
struct Diary {
    told: Vec<Told>,
    last: u64,
    resumed: u64,
}

enum Told {
    /// A number, what the rest of the event comes to, and what happened to which lock.
    Event(u64, u64, u64),
    Gap {
        from: u64,
        to: u64,
        events: Option<u64>,
    },
}

/// What all have in common.
struct Stage {
    client: Client,
    start: u64,
    made: AtomicU64,
    is_over: AtomicBool,
    /// The number of the last event, once there is one.
    end: AtomicU64,
}

impl Stage {
    fn subscribe(&self, since: u64) -> Receiver<Event> {
        self.client.subscribe(EventFilter::new().since(since)).unwrap()
    }
}

fn hash(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// Takes and releases until so many events are made; what happened to which lock, in order.
fn work(stage: &Stage, number: usize, events: u64) -> Vec<u64> {
    let session = stage.client.agent(format!("claw-{number}")).unwrap();
    let mut done = Vec::new();
    while stage.made.fetch_add(2, Ordering::Relaxed) < events {
        let guard = session.lock(format!("@{number}")).ttl(Duration::ZERO).acquire().unwrap();
        done.extend(["lock.acquired", "lock.released"].map(|event| hash((event, guard.lock_id()))));
        drop(guard);
    }
    done
}

/// Reads, stalls, goes and comes back, until it has heard of the last event. The first one begins to read when all is
/// over: more is made than is kept for it.
fn follow(stage: &Stage, number: usize, random: &mut Random) -> Diary {
    let mut diary = Diary { last: stage.start, ..Diary::default() };
    let mut events = stage.subscribe(diary.last);
    if number == 0 {
        until("all is made", || stage.is_over.load(Ordering::Relaxed).then_some(()));
    }
    loop {
        for _ in 0..random.below(3_000) {
            let end = stage.end.load(Ordering::Acquire);
            if end != 0 && diary.last >= end {
                return diary;
            }
            match events.recv_timeout(Duration::from_millis(50)) {
                Ok(event) => diary.note(&event),
                Err(_) => continue,
            }
        }
        match random.below(4) {
            0 => {
                // Nothing tells that others have done so much.
                let until_made = stage.made.load(Ordering::Relaxed) + random.below(12_000);
                let is_made =
                    || stage.made.load(Ordering::Relaxed) >= until_made || stage.is_over.load(Ordering::Relaxed);
                until("more is made", || is_made().then_some(()));
            }
            1 => {
                diary.resumed += 1;
                events = stage.subscribe(diary.last);
            }
            _ => {}
        }
    }
}

impl Diary {
    fn note(&mut self, event: &Event) {
        let told = match event {
            Event::Lock(event) => {
                let content = hash((&event.id, &event.event, &event.lock_id, &event.acquired_by, event.fence));
                Told::Event(event.seq, content, hash((event.event.as_str(), event.lock_id.as_str())))
            }
            Event::Gap(gap) => Told::Gap { from: gap.from, to: gap.to, events: gap.events },
            other => panic!("{other:?}"),
        };
        self.told.push(told);
        self.last = event.seq();
    }
}

/// In order, no two with one number, nothing that others were told or that was done left out but by a gap that says so.
fn judge(diaries: &[Diary], start: u64, done: &[Vec<u64>]) -> (usize, usize) {
    let mut all: BTreeMap<u64, u64> = BTreeMap::new();
    let mut when: HashMap<u64, u64> = HashMap::new();
    for told in diaries.iter().flat_map(|diary| &diary.told) {
        if let Told::Event(seq, content, what) = told {
            assert_eq!(all.entry(*seq).or_insert(*content), content, "two were told of another event {seq}");
            assert_eq!(when.entry(*what).or_insert(*seq), seq, "one event is told under two numbers");
        }
    }
    done.iter().for_each(|done| all_was_told(diaries, start, done, &when));
    let mut gaps = 0;
    for (at, diary) in diaries.iter().enumerate() {
        let mut last = start;
        for told in &diary.told {
            match told {
                Told::Event(seq, ..) => {
                    assert!(*seq > last, "subscriber {at}: {seq} after {last}");
                    let skipped = all.range(last + 1..*seq).next();
                    assert_eq!(skipped, None, "subscriber {at}: between {last} and {seq} others were told more");
                    last = *seq;
                }
                Told::Gap { from, to, events } => {
                    assert!(*from == last + 1 && to >= from, "subscriber {at}: a gap from {from} to {to} after {last}");
                    let known = all.range(from..=to).count() as u64;
                    assert!(events.is_none_or(|events| events >= known), "{known} are missing, not {events:?}");
                    (gaps, last) = (gaps + 1, *to);
                }
            }
        }
    }
    (all.len(), gaps)
}

/// What one worker has done was told in its order; what nobody was told of lies in a gap of everybody.
fn all_was_told(diaries: &[Diary], start: u64, done: &[u64], when: &HashMap<u64, u64>) {
    let mut last = start;
    let mut is_missing = false;
    for what in done {
        let Some(&seq) = when.get(what) else {
            is_missing = true;
            continue;
        };
        assert!(seq > last, "{seq} happened after {last}");
        if std::mem::take(&mut is_missing) {
            let is_around = |told: &Told| matches!(told, Told::Gap { from, to, .. } if *from < seq && *to > last);
            let has_gap = |diary: &Diary| diary.told.iter().any(is_around);
            assert!(diaries.iter().all(has_gap), "nobody was told all that happened between {last} and {seq}");
        }
        last = seq;
    }
    assert!(!is_missing, "the last that happened was told to nobody");
}

#[test]
fn many_subscribers_that_stall_and_come_back_miss_nothing_that_they_are_not_told_of() {
    let events = scaled(50_000);
    // The larger run is long, not wide.
    let subscribers = if events > 100_000 { 10 } else { 50 };
    let ground = Ground::new();
    let client = Client::builder().home(&ground.home).program(FLOCKD).connect().unwrap();
    let mut random = seed("subscribers");
    let seeds: Vec<u64> = (0..subscribers).map(|_| random.below(u64::MAX) | 1).collect();
    // The first number there is: from there on each has to account for everything.
    let probe = client.subscribe(EventFilter::new()).unwrap();
    drop(client.agent("claw").unwrap().lock("@start").acquire().unwrap());
    let start = probe.recv_timeout(GUARD).unwrap().seq();
    let (made, is_over, end) = (AtomicU64::new(0), AtomicBool::new(false), AtomicU64::new(0));
    let stage = Stage { client, start, made, is_over, end };
    let (diaries, done): (Vec<Diary>, Vec<Vec<u64>>) = std::thread::scope(|scope| {
        let (stage, ground) = (&stage, &ground);
        let _stop = StopAtEnd(&stage.is_over);
        let followers: Vec<_> = seeds
            .iter()
            .enumerate()
            .map(|(number, seed)| scope.spawn(move || follow(stage, number, &mut Random(*seed))))
            .collect();
        let workers: Vec<_> = (0..WORKERS).map(|number| scope.spawn(move || work(stage, number, events))).collect();
        for kill in 1..=KILLS {
            let at = events * kill / (KILLS + 1);
            // Thousand by thousand, for the guard of a wait is no measure of a long run.
            for count in (0..=at).step_by(1_000) {
                until("so many are made", || (stage.made.load(Ordering::Relaxed) >= count).then_some(()));
            }
            until("the daemon serves", || ground.flockd("", "daemon status").code.filter(|code| *code == 0));
            ground.kill_daemon();
        }
        let done = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        stage.is_over.store(true, Ordering::Relaxed);
        let last = stage.client.subscribe(EventFilter::new().scope("@end").event("lock.released")).unwrap();
        drop(stage.client.agent("claw").unwrap().lock("@end").acquire().unwrap());
        stage.end.store(last.recv_timeout(GUARD).unwrap().seq(), Ordering::Release);
        (followers.into_iter().map(|follower| follower.join().unwrap()).collect(), done)
    });
    let (heard, gaps) = judge(&diaries, start, &done);
    let resumed: u64 = diaries.iter().map(|diary| diary.resumed).sum();
    println!("{subscribers} subscribers, {heard} events, {gaps} gaps, {resumed} resumed, {KILLS} kills");
    assert!(heard as u64 > events && resumed > 0, "{heard} of {events} events heard, {resumed} times resumed");
    assert!(gaps > 0, "nobody ever fell behind");
}
