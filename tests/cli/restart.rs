//! What survives the daemon: kill -9 at any moment, an orderly stop, and a process that died while nobody served.

use crate::util::{Ending, Ground, StopAtEnd, a_try, exclusive, kill_9, scaled, shared, signal, take, until};
use flockd::client::{ClientError, Connection, Custodian};
use flockd::wire::{Held, KeptBy, Op, Request};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What must be the same before and after.
fn identity(lock: &Held) -> (String, String, u64, String) {
    (lock.lock_id.clone(), lock.file_id.clone(), lock.fence, lock.agent.clone())
}

#[test]
fn after_kill_9_every_lock_is_back_and_nobody_else_got_in() {
    const STANDING: u64 = 200;
    let ground = Ground::new();
    let owner = ground.client("owner", None);
    let keeper = ground.client("keeper", Some(Custodian::Library));
    let mut standing = BTreeMap::new();
    for number in 0..STANDING {
        let (id, fence) = take(&owner, exclusive(&format!("standing/{number}"), 600_000));
        standing.insert(id, fence);
    }
    for ttl in [0, 60_000] {
        let (id, fence) = take(&keeper, exclusive(&format!("kept/{ttl}"), ttl));
        standing.insert(id, fence);
    }
    let run = ground.hold("runner", "run/1");
    let found = ground.status().locks.into_iter().find(|lock| lock.agent == "runner").unwrap();
    standing.insert(found.lock_id, found.fence);

    let (stop, attempts) = (AtomicBool::new(false), AtomicU64::new(0));
    // Taken while the daemon is being killed, as they were answered.
    let taken = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        // Whatever fails below, the others end.
        let _ended = StopAtEnd(&stop);
        for contender in 0..3 {
            let (ground, stop, attempts) = (&ground, &stop, &attempts);
            scope.spawn(move || contend(ground, contender, STANDING, stop, attempts));
        }
        scope.spawn(|| take_more(&ground, &taken, &stop));
        for _ in 0..scaled(10) {
            let (so_far, more) = (attempts.load(Ordering::Relaxed), taken.lock().unwrap().len());
            until("the others work", || {
                let works = attempts.load(Ordering::Relaxed) > so_far + 20 && taken.lock().unwrap().len() > more;
                works.then_some(())
            });
            ground.kill_daemon();
            standing.extend(taken.lock().unwrap().clone());
            let locks: BTreeMap<String, u64> =
                ground.status().locks.iter().map(|lock| (lock.lock_id.clone(), lock.fence)).collect();
            for (id, fence) in &standing {
                assert_eq!(locks.get(id), Some(fence), "{id}");
            }
        }
    });
    let agents: Vec<String> = ground.status().locks.into_iter().map(|lock| lock.agent).collect();
    assert!(!agents.iter().any(|agent| agent.starts_with("contender")), "{agents:?}");
    assert_eq!(run.end(), Some(0));
    keeper.unlock(standing.keys().find(|id| owns(&keeper, id)).unwrap()).unwrap();
}

/// Whether the lock is this client's: it can be renewed by it.
fn owns(client: &Connection, id: &str) -> bool {
    client.call(Request { lock_id: Some(id.to_owned()), ..Request::new(Op::Renew) }).is_ok()
}

/// Tries for what others hold, as fast as it can.
fn contend(ground: &Ground, contender: u64, standing: u64, stop: &AtomicBool, attempts: &AtomicU64) {
    let client = ground.client(&format!("contender-{contender}"), None);
    let mut number = contender;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let scope = match number % 10 {
            0 => "kept/0".to_owned(),
            1 => "kept/60000".to_owned(),
            2 => "run/1".to_owned(),
            _ => format!("standing/{}", number % standing),
        };
        let request = if number.is_multiple_of(2) { exclusive(&scope, 60_000) } else { shared(&scope, 60_000) };
        let body = client.lock(a_try(request)).unwrap();
        assert!(!body.acquired, "{body:?}");
        attempts.fetch_add(1, Ordering::Relaxed);
    }
}

/// Takes ever more locks; their fences grow whatever happens to the daemon.
fn take_more(ground: &Ground, taken: &Mutex<BTreeMap<String, u64>>, stop: &AtomicBool) {
    let client = ground.client("taker", None);
    let mut last = 0;
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let (id, fence) = take(&client, exclusive(&format!("more/{number}"), 600_000));
        assert!(fence > last, "{fence} after {last}");
        last = fence;
        taken.lock().unwrap().insert(id, fence);
    }
}

#[test]
fn whoever_waits_keeps_the_place_when_the_daemon_is_killed() {
    let ground = Ground::new();
    let held = ground.hold("holder", "x");
    let before = ground.status().locks.remove(0);
    let names = ["w1", "w2", "w3", "w4"];
    let mut waiting = Vec::new();
    for (number, name) in names.iter().enumerate() {
        waiting.push(ground.queue(name, "x"));
        ground.until_waiting(&names[..=number]);
    }
    for _ in 0..2 {
        ground.kill_daemon();
        ground.until_waiting(&names);
        let status = ground.status();
        assert_eq!(status.locks.iter().map(identity).collect::<Vec<_>>(), [identity(&before)]);
        assert_eq!(status.locks[0].kept_by, KeptBy::Process);
        assert!(status.waiters.iter().map(|waiter| waiter.position).eq(1..=4));
    }
    assert_eq!(held.end(), Some(0), "it noticed nothing");
    let mut last = before.fence;
    for (mut next, name) in waiting.into_iter().zip(names) {
        next.granted();
        let lock = ground.status().locks.remove(0);
        assert_eq!(lock.agent, name);
        assert!(lock.fence > last);
        last = lock.fence;
        assert_eq!(next.end(), Some(0));
    }
    assert_eq!(ground.daemon_status().sessions, 0);
}

#[test]
fn one_shots_that_wait_keep_their_place_when_the_daemon_is_killed() {
    let ground = Ground::new();
    ground.flockd("holder", "lock x").gives(0);
    std::thread::scope(|scope| {
        let ask = |agent| {
            scope.spawn({
                let ground = &ground;
                move || ground.flockd(agent, "lock x --wait 110s")
            })
        };
        let first = ask("w1");
        ground.until_waiting(&["w1"]);
        let second = ask("w2");
        ground.until_waiting(&["w1", "w2"]);
        ground.kill_daemon();
        ground.until_waiting(&["w1", "w2"]);
        ground.flockd("holder", "unlock x").gives(0);
        first.join().unwrap().gives(0);
        ground.until_waiting(&["w2"]);
        ground.flockd("w1", "unlock x").gives(0);
        second.join().unwrap().gives(0);
    });
}

#[test]
fn a_waiter_that_does_not_come_back_gives_up_its_place() {
    let ground = Ground::new();
    ground.flockd("holder", "lock x").gives(0);
    let gone = ground.queue("gone", "x");
    ground.until_waiting(&["gone"]);
    // The daemon must not see its client die.
    let daemon = ground.daemon_pid();
    signal(daemon, Signal::STOP);
    drop(gone);
    kill_9(daemon);
    // Its session hung on its process, which is dead for certain: nobody has to wait for it.
    let mut next = ground.queue("next", "x");
    ground.until_waiting(&["next"]);
    ground.flockd("holder", "unlock x").gives(0);
    next.granted();
}

#[test]
fn a_daemon_that_was_stopped_in_order_comes_back_with_its_locks() {
    let ground = Ground::new();
    ground.flockd("a", "lock x --note why").gives(0);
    let held = ground.hold("b", "y");
    let before: Vec<_> = ground.status().locks.iter().map(identity).collect();
    ground.stop_daemon();
    ground.flockd("", "daemon stop").gives(0);
    let after = ground.flockd("", "ls --json").gives(0).json();
    assert_eq!(after["locks"].as_array().unwrap().len(), 2);
    assert_eq!(ground.status().locks.iter().map(identity).collect::<Vec<_>>(), before);
    assert_eq!(ground.status().locks[0].note.as_deref(), Some("why"));
    ground.flockd("c", "lock -n x").gives(1);
    ground.flockd("c", "lock -n y").gives(1);
    assert_eq!(held.end(), Some(0));
    until("the run's lock is released", || (ground.status().locks.len() == 1).then_some(()));
}

#[test]
fn an_orderly_end_leaves_an_empty_log_and_says_so() {
    let ground = Ground::new();
    for number in 0..20 {
        ground.flockd("a", &format!("lock f{number}")).gives(0);
    }
    let daemon = ground.daemon_pid();
    let ending = Ending::of(daemon);
    signal(daemon, Signal::TERM);
    ending.wait();
    assert!(ground.daemon_log().contains("ended: it was told to stop"), "{}", ground.daemon_log());
    let segments = fs::read_dir(&ground.home).unwrap().map(|entry| entry.unwrap().path());
    for segment in segments.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("log.")) {
        let bytes = fs::read(&segment).unwrap();
        assert!(bytes[32.min(bytes.len())..].iter().all(|byte| *byte == 0), "{segment:?} still holds batches");
    }
    assert_eq!(ground.status().locks.len(), 20);
    assert!(ground.daemon_log().contains("20 locks and 0 waiting requests restored"));
}

#[test]
fn a_lock_without_ttl_whose_process_died_meanwhile_is_released_at_the_restart() {
    let ground = Ground::new();
    let mut run = ground.hold("runner", "x");
    let child = ground.hold("library", "y");
    ground.flockd("one-shot", "lock z").gives(0);
    // Asleep, the daemon cannot see them die.
    let daemon = ground.daemon_pid();
    signal(daemon, Signal::STOP);
    run.run.kill().unwrap();
    kill_9(run.command());
    run.run.wait().unwrap();
    kill_9(daemon);
    let agents: Vec<String> = ground.status().locks.into_iter().map(|lock| lock.agent).collect();
    assert_eq!(agents, ["library", "one-shot"]);
    ground.flockd("next", "lock -n x").gives(0);
    ground.flockd("next", "lock -n y").gives(1);
    assert_eq!(child.end(), Some(0));
}

#[test]
fn a_session_goes_on_through_restarts_and_its_ttl_lock_outlives_it() {
    let ground = Ground::new();
    let keeper = ground.client("keeper", Some(Custodian::Library));
    let session = keeper.session_id().unwrap();
    let (held, _) = take(&keeper, exclusive("x", 0));
    let (leased, fence) = take(&keeper, exclusive("y", 60_000));
    for _ in 0..scaled(3) {
        ground.kill_daemon();
        ground.status();
        // Its keeper comes back by itself: nothing is asked here.
        until("the session is back", || {
            let locks = ground.status().locks;
            (locks.len() == 2
                && locks.iter().all(|lock| lock.kept_by == KeptBy::Session && lock.expires_in_ms.is_none()))
            .then_some(())
        });
    }
    assert_eq!(keeper.session_id().unwrap(), session);
    keeper.unlock(&held).unwrap();
    drop(keeper);
    until("the lease runs", || ground.status().locks[0].expires_in_ms.filter(|left| *left <= 60_000));
    ground.kill_daemon();
    let heir = ground.client("keeper", Some(Custodian::Library));
    let body = heir.lock(a_try(exclusive("y", 60_000))).unwrap();
    assert!(body.acquired && body.resumed, "{body:?}");
    assert_eq!(body.lock_id.as_deref(), Some(leased.as_str()));
    assert!(body.fence > Some(fence), "a new fence");
}

#[test]
fn an_unlock_across_a_kill_is_done_once_and_is_no_error() {
    let ground = Ground::new();
    let keeper = ground.client("keeper", Some(Custodian::Library));
    let mut last = 0;
    for _ in 0..scaled(5) {
        let (id, fence) = take(&keeper, exclusive("x", 0));
        assert!(fence > last);
        last = fence;
        let request = Request { lock_id: Some(id), ..Request::new(Op::Unlock) };
        let sent = keeper.begin(request).unwrap();
        ground.kill_daemon();
        match keeper.finish(sent, None) {
            Ok(Some(_)) => {}
            // Done by the first one; the second one says so.
            Err(ClientError::Refused(error)) => assert_eq!(error.loss.unwrap().reason, "released"),
            other => panic!("{other:?}"),
        }
        assert_eq!(ground.status().locks, []);
    }
}
