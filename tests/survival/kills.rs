//! The daemon dies again and again under load: every lease is back each time, nobody gets in twice, fences grow.

use crate::claimants::{STOP, claimant};
use crate::util::{Ground, StopAtEnd, a_try, exclusive, scaled, shared, take, until};
use crate::witness::{judge, seed, written};
use flockd::client::{Connection, Custodian};
use flockd::wire::{Held, Mode};
use std::collections::BTreeMap;
use std::fs;
use std::process::Child;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const ONE_SHOTS: u64 = 120;
const READERS: u64 = 20;
const GUARDED: u64 = 30;
const BRIEF: u64 = 24;
const RUNS: u64 = 6;

/// What must be the same before and after, by lock id.
type Leases = BTreeMap<String, Lease>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Lease {
    scope: String,
    agent: String,
    mode: Mode,
    fence: u64,
}

fn leases(locks: &[Held]) -> Leases {
    let lease = |lock: &Held| Lease {
        scope: lock.file_id.clone(),
        agent: lock.agent.clone(),
        mode: lock.mode,
        fence: lock.fence,
    };
    locks.iter().map(|lock| (lock.lock_id.clone(), lease(lock))).collect()
}

/// 200 live leases of every kind: one-shots, readers, guards with a lease and without, commands.
struct Standing {
    keepers: Vec<Connection>,
    _runs: Vec<crate::util::Held>,
    expected: Leases,
}

impl Standing {
    fn new(ground: &Ground) -> Standing {
        let owner = ground.client("owner", None);
        for number in 0..ONE_SHOTS {
            take(&owner, exclusive(&format!("standing/{number}"), 600_000));
        }
        for number in 0..READERS {
            take(&ground.client(&format!("reader-{number}"), None), shared("read", 600_000));
        }
        let keepers: Vec<Connection> =
            (0..3).map(|number| ground.client(&format!("keeper-{number}"), Some(Custodian::Library))).collect();
        for number in 0..GUARDED + BRIEF {
            let ttl = if number < GUARDED { 600_000 } else { 0 };
            take(&keepers[number as usize % 3], exclusive(&format!("kept/{number}"), ttl));
        }
        let runs = (0..RUNS).map(|number| ground.hold(&format!("runner-{number}"), &format!("run/{number}"))).collect();
        let expected = leases(&ground.status().locks);
        assert_eq!(expected.len() as u64, ONE_SHOTS + READERS + GUARDED + BRIEF + RUNS);
        assert_eq!(expected.len(), 200);
        Standing { keepers, _runs: runs, expected }
    }
}

#[test]
fn a_hundred_daemon_kills_under_load_lose_no_lease_and_grant_nothing_twice() {
    let mut random = seed("daemon kills");
    let ground = Ground::new();
    let Standing { keepers, _runs, expected } = Standing::new(&ground);
    let mut workers: Vec<Child> = (0..3)
        .map(|number| {
            let role = format!("library {}", random.below(u64::MAX) | 1);
            claimant(&ground, &format!("worker-{number}"), &role).spawn().unwrap()
        })
        .collect();
    let (stop, attempts, kills) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let taken = Mutex::new(Leases::new());
    std::thread::scope(|scope| {
        // Whatever fails below, the others end.
        let _ended = StopAtEnd(&stop);
        for number in 0..2 {
            let (ground, stop, attempts) = (&ground, &stop, &attempts);
            scope.spawn(move || contend(ground, number, stop, attempts));
        }
        scope.spawn(|| take_more(&ground, &taken, &kills, &stop));
        let mut resumed = 0;
        for kill in 0..scaled(100) {
            let (lines, tries) = (written(&ground.work), attempts.load(Ordering::Relaxed));
            let (more, others) = (random.below(2_000), random.below(30));
            until("the load goes on", || {
                let goes_on = written(&ground.work) > lines + more && attempts.load(Ordering::Relaxed) > tries + others;
                goes_on.then_some(())
            });
            ground.kill_daemon();
            let answered = taken.lock().unwrap().clone();
            let back = leases(&ground.status().locks);
            for (id, lease) in expected.iter().chain(&answered) {
                assert_eq!(back.get(id), Some(lease), "{id} after kill {kill}");
            }
            resumed = take_up_again(&ground, resumed);
            kills.fetch_add(1, Ordering::Relaxed);
        }
    });
    fs::write(ground.work.join(STOP), "").unwrap();
    for worker in workers.drain(..) {
        let output = worker.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let verdict = judge(&ground.work);
    assert_eq!(verdict.cut_short, 0, "nobody but the daemon was killed");
    let (kills, more) = (kills.into_inner(), taken.into_inner().unwrap().len());
    eprintln!("{kills} kills, {} leases and {more} more, {} holds beside them", expected.len(), verdict.holds);
    assert!(more as u64 > kills && verdict.holds as u64 > kills);
    assert!(ground.daemon_log().matches("serves as process").count() as u64 > kills);
    for (id, lease) in expected.iter().filter(|(_, lease)| lease.scope.starts_with("kept/")) {
        assert!(keepers.iter().any(|keeper| keeper.unlock(id).is_ok()), "{lease:?} is still its keeper's");
    }
}

/// A new session takes up what the last one left to its lease, across the kill: the same lock, a larger fence.
fn take_up_again(ground: &Ground, before: u64) -> u64 {
    let heir = ground.client("heir", Some(Custodian::Library));
    let body = heir.lock(exclusive("inherited", 600_000)).unwrap();
    assert!(body.acquired && body.resumed == (before > 0), "{body:?}");
    let fence = body.fence.unwrap();
    assert!(fence > before, "{fence} after {before}");
    drop(heir);
    until("the lease runs", || {
        let locks = ground.status().locks;
        locks.iter().find(|lock| lock.agent == "heir")?.expires_in_ms.map(|_| ())
    });
    fence
}

/// Tries for what others hold, as fast as it can.
fn contend(ground: &Ground, number: u64, stop: &AtomicBool, attempts: &AtomicU64) {
    let client = ground.client(&format!("contender-{number}"), None);
    for number in number.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let scope = match number % 8 {
            0 => format!("kept/{}", number / 8 % (GUARDED + BRIEF)),
            1 => format!("run/{}", number / 8 % RUNS),
            2 => "read".to_owned(),
            _ => format!("standing/{}", number % ONE_SHOTS),
        };
        let is_reader = number % 3 == 0 && scope != "read";
        let request = if is_reader { shared(&scope, 60_000) } else { exclusive(&scope, 60_000) };
        let body = client.lock(a_try(request)).unwrap();
        assert!(!body.acquired, "{body:?}");
        attempts.fetch_add(1, Ordering::Relaxed);
    }
}

/// Takes a few more leases between any two kills; what was answered must be there after the next one.
fn take_more(ground: &Ground, taken: &Mutex<Leases>, kills: &AtomicU64, stop: &AtomicBool) {
    let client = ground.client("taker", None);
    let mut last = 0;
    for number in 0.. {
        until("the next kill or the end", || {
            let is_due = number < 5 * (kills.load(Ordering::Relaxed) + 1);
            (is_due || stop.load(Ordering::Relaxed)).then_some(())
        });
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let scope = format!("more/{number}");
        let (id, fence) = take(&client, exclusive(&scope, 600_000));
        assert!(fence > last, "{fence} after {last}");
        last = fence;
        let lease = Lease { scope, agent: "taker".to_owned(), mode: Mode::Exclusive, fence };
        taken.lock().unwrap().insert(id, lease);
    }
}
