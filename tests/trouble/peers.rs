//! Peers as nobody wants them, many at once, with an honest client beside them that notices nothing.

use crate::Random;
use crate::raw::{Raw, hello, served};
use crate::util::{Ground, scaled, until};
use serde_json::{Value, json};
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Locks and unlocks a thousand times, and every answer is the one it should be.
fn honest(ground: &Ground, name: &str, pairs: u64) {
    let mut raw = Raw::greeted(ground, name);
    let mut last = 0;
    for id in 0..pairs {
        let scope = format!("@{name}-{}", id % 7);
        let lock = raw.ask(json!({"id": 2 * id, "op": "lock", "scope": scope, "wait_ms": 0}));
        assert_eq!((&lock["id"], &lock["ok"]["lock"]["acquired"]), (&json!(2 * id), &json!(true)), "{lock}");
        let fence = lock["ok"]["lock"]["fence"].as_u64().unwrap();
        assert!(fence > last, "fence {fence} after {last}");
        last = fence;
        let unlock = raw.ask(json!({"id": 2 * id + 1, "op": "unlock", "scope": scope}));
        assert_eq!(unlock["ok"]["released"][0]["fence"], fence, "{unlock}");
    }
}

/// One peer's misbehaviour from connect to end. What the daemon answers, if anything, is a typed error.
fn misbehave(ground: &Ground, random: &mut Random) {
    let greets = random.below(2) == 0;
    let mut raw = if greets { Raw::greeted(ground, "bad") } else { Raw::connect(ground) };
    match random.below(9) {
        0 => noise(&mut raw, random),
        1 => mutilated(ground, &mut raw, random),
        // Half a line, then the end, of writing or of everything.
        2 => {
            let line = json!({"id": 1, "op": "lock", "scope": "@half", "note": "n".repeat(900)}).to_string();
            let _ = raw.stream.write_all(&line.as_bytes()[..random.below(line.len() as u64) as usize]);
            if random.below(2) == 0 {
                let _ = raw.stream.shutdown(Shutdown::Write);
            }
        }
        3 => too_long(raw),
        // Too early, or the greeting twice.
        4 => {
            let line = if greets { hello(ground, "again", None) } else { json!({"id": 1, "op": "status"}) };
            typed(&mut raw, &line.to_string());
        }
        5 => typed(&mut raw, &json!({"id": 1, "op": "explode", "scope": "@x"}).to_string()),
        6 => typed(&mut raw, &["[", "{\"a\":"][random.below(2) as usize].repeat(10_000)),
        7 => typed(&mut raw, "{\"id\":1,\"op\":\"lock\",\"scope\":\"@a\u{0}b\"}"),
        // Connects and goes.
        _ => {}
    }
}

/// Sends a line that is to be answered with an error of a known code.
fn typed(raw: &mut Raw, line: &str) {
    raw.send_text(line);
    let answer = raw.read();
    let codes = ["invalid", "version", "too_many", "denied", "unavailable", "not_found"];
    assert!(answer["error"]["code"].as_str().is_some_and(|code| codes.contains(&code)), "{answer}");
    assert!(answer["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{answer}");
}

/// Random bytes, lines and zeros among them.
fn noise(raw: &mut Raw, random: &mut Random) {
    for _ in 0..random.below(20) {
        let bytes: Vec<u8> =
            (0..random.below(300)).map(|_| [b'\n', 0, b'{', b'"', 0xff][random.below(5) as usize]).collect();
        if raw.stream.write_all(&bytes).is_err() {
            return;
        }
    }
}

/// A good request with some of its bytes changed, cut out or doubled.
fn mutilated(ground: &Ground, raw: &mut Raw, random: &mut Random) {
    let mut bytes =
        json!({"id": 3, "op": "wait", "scope": "@m", "wait_ms": 0, "mode": "shared"}).to_string().into_bytes();
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len() as u64) as usize;
        match random.below(3) {
            0 => bytes[at] = random.next() as u8,
            1 => drop(bytes.remove(at)),
            _ => bytes.insert(at, bytes[at]),
        }
    }
    bytes.retain(|byte| *byte != b'\n');
    bytes.push(b'\n');
    if raw.stream.write_all(&bytes).is_ok()
        && let Some(line) = raw.line()
    {
        let answer: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(answer["ok"].is_object() || answer["error"]["code"].is_string(), "{answer}");
    }
    assert!(ground.home.exists());
}

/// Ten megabytes without an end of line. The daemon closes before it has read all of it.
fn too_long(mut raw: Raw) {
    let mut writing = raw.stream.try_clone().unwrap();
    let writer = std::thread::spawn(move || writing.write_all(&vec![b'x'; 10 << 20]));
    assert!(raw.fails(Value::Null, "invalid").contains("longer than"));
    raw.is_closed();
    assert!(writer.join().unwrap().is_err());
}

/// Asks for long answers for as long as the daemon takes requests, and reads none.
fn never_read(ground: &Ground) -> Raw {
    let mut deaf = Raw::greeted(ground, "deaf");
    deaf.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    for id in 0u64.. {
        if deaf.stream.write_all(format!("{}\n", json!({"id": id, "op": "status"})).as_bytes()).is_err() {
            break;
        }
    }
    deaf
}

#[test]
fn honest_clients_notice_nothing_of_bad_peers() {
    let ground = served();
    let mut filler = Raw::greeted(&ground, "filler");
    for number in 0..100 {
        let lock = json!({"id": number, "op": "lock", "scope": format!("@{number}"), "note": "n".repeat(400)});
        assert_eq!(filler.ask(lock)["ok"]["lock"]["acquired"], true);
    }
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let stopped = crate::util::StopAtEnd(&stop);
        for seed in 0..3 {
            let (ground, stop, done) = (&ground, &stop, &done);
            scope.spawn(move || {
                let mut random = Random::new(100 + seed);
                while !stop.load(Ordering::Relaxed) {
                    misbehave(ground, &mut random);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let deaf = scope.spawn(|| [never_read(&ground), never_read(&ground)]);
        let others = ["one", "two"].map(|name| scope.spawn(|| honest(&ground, name, 1000 * scaled(1))));
        for other in others {
            other.join().unwrap();
        }
        // Also when there was little time for it.
        until("enough has gone wrong", || (done.load(Ordering::Relaxed) >= 60 * scaled(1)).then_some(()));
        drop(deaf.join().unwrap());
        drop(stopped);
    });
    assert!(filler.ask(json!({"id": 1, "op": "unlock", "all": true}))["ok"]["released"].is_array());
    until("the bad ones are gone", || (ground.daemon_status().connections == 2).then_some(()));
    assert!(ground.status().locks.is_empty() && ground.status().waiters.is_empty());
}

/// Memory of the daemon in use, in bytes.
fn memory(ground: &Ground) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", ground.daemon_pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn two_thousand_idle_connections_are_in_nobodys_way_and_cost_little() {
    const COUNT: u64 = 2_000;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        rustix::process::Rlimit { current: limit.maximum, ..limit }
    })
    .unwrap();
    let room = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    if room < COUNT + 500 {
        return println!("left out: this process may open {room} files only");
    }
    let ground = served();
    honest(&ground, "before", 100);
    let before = memory(&ground);
    // Some have said hello and asked for something, some have not; some have sent half a line.
    let idle: Vec<UnixStream> = (0..COUNT)
        .map(|number| match number % 4 {
            0 => {
                let mut raw = Raw::greeted(&ground, &format!("idle-{number}"));
                assert_eq!(raw.ask(json!({"id": 1, "op": "check", "scope": "@x"}))["id"], 1);
                raw.stream
            }
            1 => {
                let mut raw = Raw::greeted(&ground, &format!("idle-{number}"));
                raw.stream.write_all(b"{\"id\":1,").unwrap();
                raw.stream
            }
            _ => Raw::greeted(&ground, &format!("idle-{number}")).stream,
        })
        .collect();
    until("all are there", || (ground.daemon_status().connections == COUNT as usize + 1).then_some(()));
    let each = memory(&ground).saturating_sub(before) / COUNT;
    assert!(each < 8 * 1024, "an idle connection costs {each} bytes");
    std::thread::scope(|scope| {
        for name in ["one", "two"] {
            let ground = &ground;
            scope.spawn(move || honest(ground, name, 500 * scaled(1)));
        }
    });
    // They are left alone; that others have gone is noticed a little later.
    until("they alone are there", || (ground.daemon_status().connections == COUNT as usize + 1).then_some(()));
    drop(idle);
    until("they are gone", || (ground.daemon_status().connections == 1).then_some(()));
}

#[test]
fn silent_connections_are_sent_away_in_time_and_keep_nobody_out() {
    let ground = served();
    let mut silent: Vec<Raw> = (0..100).map(|_| Raw::connect(&ground)).collect();
    honest(&ground, "beside", 200);
    for raw in &mut silent {
        assert!(raw.fails(Value::Null, "invalid").contains("no hello came within 10 s"));
        raw.is_closed();
    }
}
