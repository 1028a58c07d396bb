//! Subscriptions of the library: filters, gaps, resuming, and restarts of the daemon under them.

use crate::util::{Dirs, Ground, wait_until};
use flockd::crossbeam_channel::{Receiver, select};
use flockd::{Code, Event, EventFilter, LockEvent, Session};
use std::time::Duration;

/// Ends a test that would hang; no measurement.
const GUARD: Duration = Duration::from_secs(60);

fn lock_event(events: &Receiver<Event>) -> LockEvent {
    match events.recv_timeout(GUARD).expect("there is an event") {
        Event::Lock(event) => *event,
        other => panic!("nothing is missing: {other:?}"),
    }
}

fn names(events: &Receiver<Event>, count: usize) -> Vec<String> {
    (0..count).map(|_| lock_event(events)).map(|event| format!("{} {}", event.event, event.file_id)).collect()
}

/// Locks and releases `scope` so many times: two events each.
fn rounds(session: &Session, scope: &str, count: usize) {
    for _ in 0..count {
        session.lock(scope).ttl(Duration::ZERO).acquire().unwrap().release().unwrap();
    }
}

#[test]
fn a_subscriber_hears_what_others_do_in_order() {
    let ground = Ground::new();
    let (one, two) = (ground.agent("claw-1"), ground.agent("claw-2"));
    let events = ground.agent("watcher").subscribe(EventFilter::new()).unwrap();
    let held = one.lock("@x").note("why").acquire().unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| two.lock("@x").wait_forever().acquire().unwrap());
        ground.until_waiting(1);
        held.release().unwrap();
        drop(waiting.join().unwrap());
    });
    let acquired = lock_event(&events);
    assert_eq!((acquired.event.as_str(), acquired.acquired_by.as_str()), ("lock.acquired", "claw-1"));
    assert_eq!((acquired.file_id.as_str(), acquired.note.as_deref()), ("@x", Some("why")));
    assert!(acquired.id.starts_with("ev_") && acquired.lock_id.starts_with("lk_"));
    let waiting = lock_event(&events);
    assert_eq!((waiting.event.as_str(), waiting.waiter.as_deref()), ("lock.waiting", Some("claw-2")));
    assert_eq!((&waiting.lock_id, waiting.acquired_by.as_str()), (&acquired.lock_id, "claw-1"));
    let released = lock_event(&events);
    assert_eq!((released.event.as_str(), released.reason.as_deref()), ("lock.released", Some("released")));
    let next = lock_event(&events);
    assert_eq!((next.event.as_str(), next.acquired_by.as_str()), ("lock.acquired", "claw-2"));
    assert!(next.fence > acquired.fence && next.seq > released.seq);
}

#[test]
fn filters_narrow_by_event_scope_agent_and_workspace() {
    let ground = Ground::new();
    let work = ground.dirs.work();
    std::fs::create_dir(work.join("src")).unwrap();
    let (one, two) = (ground.agent("claw-1").workspace(&work).unwrap(), ground.agent("claw-2"));
    let below = two.workspace(work.join("src")).unwrap();
    let subscribe = |filter| one.subscribe(filter).unwrap();
    let by_event = subscribe(EventFilter::new().event("lock.released"));
    let by_scope = subscribe(EventFilter::new().scope("src/").scope("@x"));
    let by_agent = subscribe(EventFilter::new().agent("claw-2"));
    let by_workspace = subscribe(EventFilter::new().in_workspace());
    one.lock("a.txt").acquire().unwrap().release().unwrap();
    below.lock("b.rs").acquire().unwrap().release().unwrap();
    one.lock("@x").acquire().unwrap().release().unwrap();
    assert_eq!(names(&by_event, 3), ["lock.released a.txt", "lock.released b.rs", "lock.released @x"]);
    assert_eq!(names(&by_scope, 3), ["lock.acquired b.rs", "lock.released b.rs", "lock.acquired @x"]);
    assert_eq!(names(&by_agent, 2), ["lock.acquired b.rs", "lock.released b.rs"]);
    assert_eq!(names(&by_workspace, 3), ["lock.acquired a.txt", "lock.released a.txt", "lock.acquired @x"]);
}

#[test]
fn select_waits_for_several_at_once() {
    let ground = Ground::new();
    let session = ground.agent("claw-1");
    let one = session.subscribe(EventFilter::new().scope("@one").event("lock.released")).unwrap();
    let two = session.subscribe(EventFilter::new().scope("@two").event("lock.released")).unwrap();
    for (scope, expected) in [("@two", 2), ("@one", 1), ("@two", 2)] {
        rounds(&session, scope, 1);
        let heard = select! {
            recv(one) -> event => (1, event.unwrap()),
            recv(two) -> event => (2, event.unwrap()),
            default(GUARD) => panic!("nothing happens"),
        };
        assert_eq!((heard.0, heard.1.lock().unwrap().file_id.as_str()), (expected, scope));
    }
}

#[test]
fn a_subscription_goes_on_from_any_number_and_from_none_that_is_to_come() {
    let ground = Ground::new();
    let session = ground.agent("claw-1");
    let events = session.subscribe(EventFilter::new()).unwrap();
    rounds(&session, "@x", 3);
    let seqs: Vec<u64> = (0..6).map(|_| lock_event(&events).seq).collect();
    for (at, seq) in seqs.iter().enumerate() {
        let again = session.subscribe(EventFilter::new().since(*seq)).unwrap();
        let rest: Vec<u64> = (at + 1..6).map(|_| lock_event(&again).seq).collect();
        assert_eq!(rest, seqs[at + 1..]);
    }
    let error = session.subscribe(EventFilter::new().since(seqs[5] + 1)).unwrap_err();
    assert_eq!(error.code(), Some(Code::Invalid), "{error}");
    let error = session.subscribe(EventFilter::new().event("lock.stolen")).unwrap_err();
    assert!(error.to_string().contains("lock.released"), "it says which there are: {error}");
}

#[test]
fn whoever_does_not_receive_falls_behind_and_is_told_how_far() {
    let ground = Ground::new();
    let session = ground.agent("claw-1");
    let first = session.subscribe(EventFilter::new()).unwrap();
    let stalled = session.subscribe(EventFilter::new()).unwrap();
    rounds(&session, "@x", 1);
    let from = lock_event(&first).seq;
    // What is on its way to it, in channel and socket, and then as many again as are kept.
    rounds(&session, "@x", 9_000);
    let (mut heard, mut missing, mut last) = (0, 0, from - 1);
    while last < from + 18_001 {
        match stalled.recv_timeout(GUARD).unwrap() {
            Event::Lock(event) => {
                assert_eq!(event.seq, last + 1);
                (heard, last) = (heard + 1, event.seq);
            }
            Event::Gap(gap) => {
                assert_eq!((gap.from, gap.events), (last + 1, Some(gap.to - last)));
                (missing, last) = (missing + gap.to - last, gap.to);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(heard + missing, 18_002);
    assert!(missing > 0, "the channel and the socket hold {heard} events");
}

#[test]
fn a_subscription_goes_on_when_the_daemon_was_killed_or_stopped() {
    let dirs = Dirs::new();
    let _stopped = crate::daemon::Stopped(&dirs);
    let client = dirs.connect();
    let session = client.agent("claw-1").unwrap();
    let events = session.subscribe(EventFilter::new().scope("@x")).unwrap();
    let mut last = 0;
    for round in 0..6 {
        session.lock("@x").acquire().unwrap().release().unwrap();
        for name in ["lock.acquired", "lock.released"] {
            let event = lock_event(&events);
            assert_eq!(event.event, name);
            assert!(event.seq > last, "{} after {last}", event.seq);
            last = event.seq;
        }
        match round % 2 {
            0 => dirs.kill_daemon(),
            _ => assert!(dirs.flockd("daemon stop").status.success()),
        }
        // One of an agent that does not know that the daemon is gone, so that it starts.
        wait_until("the daemon serves", || dirs.flockd("--agent claw-2 lock @y").status.success());
        assert!(dirs.flockd("--agent claw-2 unlock @y").status.success());
    }
}

#[test]
fn a_subscription_goes_on_with_the_next_coordinator_of_the_home() {
    let ground = Ground::new();
    let events = ground.coordinator.client().subscribe(EventFilter::new()).unwrap();
    rounds(&ground.agent("claw-1"), "@x", 1);
    assert_eq!(names(&events, 2), ["lock.acquired @x", "lock.released @x"]);
    let Ground { coordinator, dirs } = ground;
    coordinator.close().unwrap();
    let again = flockd::Coordinator::open(dirs.home()).unwrap();
    rounds(&again.agent("claw-1").unwrap(), "@y", 1);
    assert_eq!(names(&events, 2), ["lock.acquired @y", "lock.released @y"]);
}

#[test]
fn a_write_around_a_readers_lock_is_heard_of() {
    let ground = Ground::new();
    let reader = ground.agent("claw-1").workspace(ground.dirs.work()).unwrap();
    let events = reader.subscribe(EventFilter::new().event("lock.violation")).unwrap();
    let held = reader.lock("data").shared().acquire().unwrap();
    let mut told = None;
    // A watch stands a moment after the grant: what was written before is not seen.
    wait_until("a write is heard of", || {
        std::fs::write(ground.dirs.work().join("data"), "by somebody").unwrap();
        told = events.try_recv().ok();
        told.is_some()
    });
    let Some(Event::Lock(event)) = told else { panic!("nothing is missing: {told:?}") };
    assert_eq!((event.file_id.as_str(), event.how.as_deref(), event.by), ("data", Some("written"), None));
    assert_eq!((event.lock_id.as_str(), event.acquired_by.as_str()), (held.lock_id(), "claw-1"));
}
