//! Sets: whoever is killed, all of a set is held or nothing; and who takes all it needs at once never starves.

use crate::util::{Ground, StopAtEnd, kill_9, scaled, until};
use crate::witness::{Random, seed};
use flockd::client::Custodian;
use flockd::wire::{Op, Request, StatusBody};
use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What each of four agents wants at once: any two have something in common.
const SETS: [[&str; 3]; 4] = [["a", "b", "c"], ["b", "c", "d"], ["c", "d", "a"], ["d", "a", "b"]];

/// Takes its set by a one-shot and gives it back in one step, again and again; now and then the one-shot is killed.
fn take_and_give(ground: &Ground, slot: usize, mut random: Random, stop: &AtomicBool, held: &AtomicU64) {
    let agent = format!("claw-{slot}");
    let [one, two, three] = SETS[slot];
    while !stop.load(Ordering::Relaxed) {
        let mut command = ground.command(&agent, &["lock", one, two, three, "--ttl", "60s", "--wait", "60s"]);
        let mut lock = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        if random.below(6) == 0 {
            for _ in 0..random.below(3_000) {
                std::thread::yield_now();
            }
            let _ = lock.kill();
        }
        let is_held = lock.wait().unwrap().success();
        held.fetch_add(u64::from(is_held), Ordering::Relaxed);
        until("it is given back", || {
            let done = ground.flockd(&agent, "unlock --all");
            (done.code == Some(0)).then_some(())
        });
    }
}

/// Of each agent all three locks are there or none, and of each request that waits all three rows.
fn is_whole(status: &StatusBody) {
    let mut held: BTreeMap<&str, usize> = BTreeMap::new();
    let mut waiting: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    for lock in &status.locks {
        *held.entry(&lock.agent).or_default() += 1;
    }
    for row in &status.waiters {
        let set = row.set.expect("nobody asks for one alone");
        waiting.entry(&row.agent).or_default()[usize::from(set.number) - 1] += 1;
    }
    assert!(held.values().all(|count| *count == SETS[0].len()), "a part of a set is held: {status:#?}");
    let is_even = |rows: &[usize; 3]| rows[0] == rows[1] && rows[1] == rows[2];
    assert!(waiting.values().all(is_even), "a part of a set waits: {status:#?}");
}

#[test]
fn whoever_is_killed_all_of_a_set_is_held_or_nothing() {
    let mut random = seed("sets");
    let ground = Ground::new();
    for name in ["a", "b", "c", "d"] {
        fs::write(ground.work.join(name), "").unwrap();
    }
    ground.flockd("", "daemon start").gives(0);
    let (stop, held, looks) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    // Few: the place of whoever is killed along with the daemon is kept for ten seconds.
    let kills = scaled(8);
    std::thread::scope(|scope| {
        let ended = StopAtEnd(&stop);
        for slot in 0..SETS.len() {
            let (ground, stop, held) = (&ground, &stop, &held);
            let random = Random(random.below(u64::MAX) | 1);
            scope.spawn(move || take_and_give(ground, slot, random, stop, held));
        }
        let (ground, stop, looks) = (&ground, &stop, &looks);
        scope.spawn(move || {
            let _ended = StopAtEnd(stop);
            while !stop.load(Ordering::Relaxed) {
                is_whole(&ground.status());
                looks.fetch_add(1, Ordering::Relaxed);
            }
        });
        for _ in 0..kills {
            // At a moment of its own, after somebody has got on.
            let (before, more) = (held.load(Ordering::Relaxed), random.below(12));
            until("somebody gets on", || {
                (stop.load(Ordering::Relaxed) || held.load(Ordering::Relaxed) >= before + more).then_some(())
            });
            for _ in 0..random.below(3_000) {
                std::thread::yield_now();
            }
            // A new one writes its number when it serves.
            let daemon = fs::read_to_string(ground.home.join("daemon.lock")).ok();
            if let Some(pid) = daemon.and_then(|text| text.trim().parse().ok()).filter(|pid| is_daemon(*pid)) {
                kill_9(pid);
            }
        }
        drop(ended);
    });
    let (held, looks) = (held.into_inner(), looks.into_inner());
    eprintln!("{held} sets were held over {kills} kills of the daemon; the state was looked at {looks} times");
    is_whole(&ground.status());
    assert!(held >= kills && looks > kills);
}

fn is_daemon(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|args| args.windows(10).any(|it| it == b"daemon\0run"))
}

/// How many sit at the table.
const PHILOSOPHERS: usize = 64;

#[test]
fn philosophers_who_take_both_forks_at_once_all_eat_and_never_wait_for_themselves() {
    let ground = Ground::new();
    ground.flockd("", "daemon start").gives(0);
    let forks: Vec<AtomicBool> = (0..PHILOSOPHERS).map(|_| AtomicBool::new(false)).collect();
    for fork in 0..PHILOSOPHERS {
        fs::write(ground.work.join(format!("fork-{fork}")), "").unwrap();
    }
    let (meals, begun) = (scaled(2_000), AtomicU64::new(0));
    let start = std::time::Instant::now();
    let eaten: Vec<u64> = std::thread::scope(|scope| {
        let seats: Vec<_> = (0..PHILOSOPHERS)
            .map(|seat| {
                let (ground, forks, begun) = (&ground, &forks, &begun);
                scope.spawn(move || dine(ground, seat, forks, begun, meals))
            })
            .collect();
        seats.into_iter().map(|seat| seat.join().expect("nobody waits for ever")).collect()
    });
    let (least, most) = (eaten.iter().min().copied().unwrap_or(0), eaten.iter().max().copied().unwrap_or(0));
    let took = start.elapsed();
    eprintln!("{meals} meals of {PHILOSOPHERS} philosophers in {took:.1?}, {least} to {most} each");
    assert_eq!(eaten.iter().sum::<u64>(), meals);
    assert!(least > 0, "somebody has starved: {eaten:?}");
}

/// Takes both forks, eats, lays them down, until the meals are over; how often.
fn dine(ground: &Ground, seat: usize, forks: &[AtomicBool], begun: &AtomicU64, meals: u64) -> u64 {
    let client = ground.client(&format!("philosopher-{seat}"), Some(Custodian::Library));
    // Every second reaches for the other one first.
    let pair = [seat, (seat + 1) % forks.len()];
    let pair = if seat.is_multiple_of(2) { pair } else { [pair[1], pair[0]] };
    let scopes: Vec<String> = pair.iter().map(|fork| format!("fork-{fork}")).collect();
    let mut eaten = 0;
    while begun.fetch_add(1, Ordering::Relaxed) < meals {
        let request = Request { scopes: scopes.clone(), ttl_ms: Some(0), ..Request::new(Op::Lock) };
        let granted = client.lock_all(request).unwrap();
        assert!(granted.acquired, "{granted:?}");
        for fork in pair {
            assert!(!forks[fork].swap(true, Ordering::SeqCst), "fork {fork} is in two hands");
        }
        eaten += 1;
        for fork in pair {
            forks[fork].store(false, Ordering::SeqCst);
        }
        for lock in granted.locks {
            client.release_later(&lock.lock_id.expect("it is held"));
        }
    }
    eaten
}
