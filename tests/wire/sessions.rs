//! Sessions on the wire: opened, returned to with the secret, lost without it, and ended with the connection.

use crate::raw::{Raw, hello, served};
use crate::util::{Ground, signal, until};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};
use serde_json::{Value, json};

/// A connection with a session, and the proof of it.
fn open(ground: &Ground, agent: &str, wish: &str) -> (Raw, Value) {
    let mut raw = Raw::connect(ground);
    raw.send(&hello(ground, agent, Some(json!(wish))));
    let proof = raw.read()["hello"]["session"].clone();
    assert!(proof["id"].as_str().unwrap().starts_with("se_"));
    assert_eq!(proof["secret"].as_str().unwrap().len(), 32);
    (raw, proof)
}

fn returning(ground: &Ground, agent: &str, proof: &Value) -> Raw {
    let mut raw = Raw::connect(ground);
    raw.send(&hello(ground, agent, Some(json!({ "return": proof }))));
    raw
}

#[test]
fn a_lock_without_ttl_lives_as_long_as_the_connection_of_its_session() {
    let ground = served();
    for wish in ["library", "command"] {
        let (mut raw, _) = open(&ground, "a", wish);
        let lock = raw.ask(json!({"id": 1, "op": "lock", "scope": "@x", "ttl_ms": 0}));
        assert_eq!(lock["ok"]["lock"]["expires_in_ms"], Value::Null);
        assert_eq!(ground.daemon_status().sessions, 1);
        drop(raw);
        until("the session is over", || (ground.daemon_status().sessions == 0).then_some(()));
        assert_eq!(ground.status().locks, []);
    }
}

#[test]
fn only_the_right_secret_returns_to_a_session() {
    let ground = served();
    let (mut raw, proof) = open(&ground, "a", "library");
    raw.ask(json!({"id": 1, "op": "lock", "scope": "@x", "ttl_ms": 0}));
    let with = |field: &str, value: &str| {
        let mut changed = proof.clone();
        changed[field] = json!(value);
        changed
    };
    let wrong = [(with("secret", &"0".repeat(32)), "lost"), (with("id", "se_1"), "lost")];
    let malformed = [(with("secret", "xyz"), "invalid"), (with("id", "nonsense"), "invalid")];
    for (proof, code) in wrong.into_iter().chain(malformed) {
        let mut thief = returning(&ground, "a", &proof);
        thief.fails(Value::Null, code);
        thief.is_closed();
    }
    assert_eq!(ground.status().locks.len(), 1, "its owner noticed nothing");
    assert_eq!(raw.ask(json!({"id": 2, "op": "unlock", "scope": "@x"}))["id"], 2);

    // Without an agent there is no session.
    let mut nobody = Raw::connect(&ground);
    let mut greeting = hello(&ground, "", Some(json!("library")));
    greeting["hello"].as_object_mut().unwrap().remove("agent");
    nobody.send(&greeting);
    nobody.fails(Value::Null, "invalid");
}

#[test]
fn a_session_goes_on_over_a_new_connection_and_the_old_one_ends_nothing() {
    let ground = served();
    let (mut old, proof) = open(&ground, "a", "library");
    old.ask(json!({"id": 1, "op": "lock", "scope": "@x", "ttl_ms": 0}));
    let mut new = returning(&ground, "a", &proof);
    assert!(new.read()["hello"].is_object());
    drop(old);
    let (mut other, _) = open(&ground, "b", "library");
    let refused = other.ask(json!({"id": 1, "op": "lock", "scope": "@x", "wait_ms": 0}));
    assert_eq!(refused["ok"]["lock"]["acquired"], false, "{refused}");
    assert_eq!(ground.daemon_status().sessions, 2);
    assert!(new.ask(json!({"id": 1, "op": "unlock", "scope": "@x"}))["ok"]["released"].is_array());
}

#[test]
fn a_session_that_is_over_is_not_returned_to() {
    let ground = served();
    let (mut raw, proof) = open(&ground, "a", "library");
    raw.ask(json!({"id": 1, "op": "lock", "scope": "@x", "ttl_ms": 60_000}));
    drop(raw);
    until("the session is over", || (ground.daemon_status().sessions == 0).then_some(()));
    returning(&ground, "a", &proof).fails(Value::Null, "lost");
    // Its lock with a lease is there for the agent's next session.
    let (mut heir, _) = open(&ground, "a", "library");
    let lock = heir.ask(json!({"id": 1, "op": "lock", "scope": "@x", "ttl_ms": 60_000}));
    assert_eq!(lock["ok"]["lock"]["resumed"], true, "{lock}");
}

#[test]
fn a_session_is_returned_to_after_the_daemon_was_killed() {
    let ground = served();
    let (mut raw, proof) = open(&ground, "a", "library");
    raw.ask(json!({"id": 1, "op": "lock", "scope": "@x", "ttl_ms": 0}));
    ground.kill_daemon();
    raw.is_closed();
    ground.status();
    let mut back = returning(&ground, "a", &proof);
    assert!(back.read()["hello"].is_object());
    assert_eq!(back.ask(json!({"id": 1, "op": "check", "scope": "@x"}))["ok"]["check"]["allowed"], true);
}

#[test]
fn a_session_does_not_lock_twice_what_it_holds() {
    let ground = served();
    let (mut raw, _) = open(&ground, "a", "library");
    raw.ask(json!({"id": 1, "op": "lock", "scope": "@x", "ttl_ms": 0}));
    let refused = raw.ask(json!({"id": 2, "op": "lock", "scope": "@x", "ttl_ms": 0}));
    assert_eq!(refused["ok"]["lock"]["code"], "held", "{refused}");
    assert!(refused["ok"]["lock"]["advice"].as_str().unwrap().contains("you hold @x (lk_"));
}

#[test]
fn bind_needs_the_descriptor_of_a_process() {
    let ground = served();
    let (mut raw, _) = open(&ground, "a", "command");
    let lock = raw.ask(json!({"id": 1, "op": "lock", "scope": "@x", "ttl_ms": 0}));
    let bind = json!({"id": 2, "op": "bind", "lock_id": lock["ok"]["lock"]["lock_id"]});
    raw.send(&bind);
    assert!(raw.fails(json!(2), "invalid").contains("needs a pidfd"));
    let null = std::fs::File::open("/dev/null").unwrap();
    let line = format!("{bind}\n");
    let fd = std::os::fd::AsFd::as_fd(&null);
    flockd::os::process::send_with_fd(&raw.stream, line.as_bytes(), fd).unwrap();
    assert!(raw.fails(json!(2), "invalid").contains("no living process"));
    // A line right behind a descriptor is read as well.
    signal(ground.daemon_pid(), Signal::STOP);
    flockd::os::process::send_with_fd(&raw.stream, line.as_bytes(), fd).unwrap();
    raw.send(&json!({"id": 3, "op": "status"}));
    signal(ground.daemon_pid(), Signal::CONT);
    raw.fails(json!(2), "invalid");
    assert_eq!(raw.read()["id"], 3);
    assert_eq!(ground.status().locks.len(), 1);
}

#[test]
fn no_lock_is_given_out_for_a_process_that_is_dead_and_not_collected() {
    let ground = served();
    let mut raw = Raw::greeted(&ground, "a");
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let pidfd = flockd::os::process::pidfd_of_child(child.id()).unwrap();
    let is_dead = waitid(WaitId::Pid(Pid::from_child(&child)), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
    assert!(is_dead.is_some());
    let lock = json!({"id": 1, "op": "lock", "scope": "@x", "bound": true});
    let fd = std::os::fd::AsFd::as_fd(&pidfd);
    flockd::os::process::send_with_fd(&raw.stream, format!("{lock}\n").as_bytes(), fd).unwrap();
    assert!(raw.fails(json!(1), "invalid").contains("has ended; nothing was locked"));
    assert_eq!(ground.status().locks, []);
    child.wait().unwrap();
}

#[test]
fn a_descriptor_belongs_to_the_line_that_it_came_with_and_to_no_other() {
    let ground = served();
    let mut raw = Raw::greeted(&ground, "a");
    let sleepers: Vec<Sleeper> = (0..10).map(|_| Sleeper::new()).collect();
    let pidfds: Vec<_> =
        sleepers.iter().map(|sleeper| flockd::os::process::pidfd_of_child(sleeper.0.id()).unwrap()).collect();
    let send = |raw: &Raw, line: serde_json::Value, at: usize| {
        let fd = std::os::fd::AsFd::as_fd(&pidfds[at]);
        flockd::os::process::send_with_fd(&raw.stream, format!("{line}\n").as_bytes(), fd).unwrap();
    };
    // All of it is there before any of it is read.
    signal(ground.daemon_pid(), Signal::STOP);
    send(&raw, json!({"id": 100, "op": "status"}), 9);
    raw.send(&json!({"id": 101, "op": "lock", "scope": "@none", "bound": true}));
    send(&raw, json!({"id": 102, "op": "nonsense"}), 8);
    for at in 0..10 {
        send(&raw, json!({"id": at, "op": "lock", "scope": format!("@{at}"), "bound": true}), at);
        raw.send(&json!({"op": "unlock", "scope": "@nothing"}));
    }
    signal(ground.daemon_pid(), Signal::CONT);
    assert_eq!(raw.read()["id"], 100);
    assert!(raw.fails(json!(101), "invalid").contains("needs a pidfd"), "not the one that nobody wanted");
    raw.fails(json!(102), "invalid");
    for at in 0..10 {
        assert_eq!(raw.read()["id"], at);
    }
    let mut bound: Vec<_> = ground.status().locks.into_iter().map(|lock| (lock.file_id, lock.bound_pid)).collect();
    bound.sort();
    let each = sleepers.iter().enumerate().map(|(at, sleeper)| (format!("@{at}"), Some(sleeper.0.id())));
    assert_eq!(bound, each.collect::<Vec<_>>());
    drop(sleepers);
    until("the locks of the dead are free", || ground.status().locks.is_empty().then_some(()));
}

/// A process that lives until it is dropped.
struct Sleeper(std::process::Child);

impl Sleeper {
    fn new() -> Sleeper {
        let mut sleep = std::process::Command::new("sleep");
        Sleeper(sleep.arg("1000").stdout(std::process::Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn whoever_says_itself_what_it_has_heard_is_told_until_it_does() {
    let ground = served();
    for confirms in [true, false] {
        let mut raw = Raw::connect(&ground);
        let mut greeting = hello(&ground, "a", None);
        greeting["hello"]["confirms"] = confirms.into();
        raw.send(&greeting);
        raw.read();
        let id = raw.ask(json!({"id": 1, "op": "lock", "scope": "@x"}))["ok"]["lock"]["lock_id"].clone();
        ground.flockd("b", &format!("break {} --reason hanging", id.as_str().unwrap())).gives(0);
        let first = raw.ask(json!({"id": 2, "op": "status", "scope": "@x"}));
        assert_eq!(first["lost"][0]["lock_id"], id, "{first}");
        // As often as it asks, though each answer has arrived.
        for number in 3..6 {
            let again = raw.ask(json!({"id": number, "op": "news"}));
            assert_eq!(again["lost"][0]["lock_id"], if confirms { id.clone() } else { Value::Null }, "{again}");
        }
        let heard = raw.ask(json!({"id": 6, "op": "news", "heard": [id]}));
        assert_eq!(heard, json!({"id": 6, "ok": {"news": {"more_lost": 0}}}));
        raw.send(&json!({"id": 7, "op": "news", "heard": ["x"]}));
        assert!(raw.fails(json!(7), "invalid").contains("lk_"));
        raw.send(&json!({"id": 8, "op": "news", "scope": "@x"}));
        raw.fails(json!(8), "invalid");
    }
}
