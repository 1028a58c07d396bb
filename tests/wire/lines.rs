//! Lines as they should not be, and lines in an order that matters.

use crate::raw::{Raw, hello, served};
use crate::util::{Ground, signal, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::io::Write;
use std::net::Shutdown;

/// A client beside the misbehaving one is served as ever.
#[track_caller]
fn others_are_served(ground: &Ground) {
    let mut honest = Raw::greeted(ground, "honest");
    let answer = honest.ask(json!({"id": 1, "op": "lock", "scope": "@honest", "wait_ms": 0}));
    assert_eq!(answer["ok"]["lock"]["acquired"], true, "{answer}");
    assert_eq!(honest.ask(json!({"id": 2, "op": "unlock", "scope": "@honest"}))["id"], 2);
}

#[test]
fn malformed_lines_are_answered_and_the_next_one_is_served() {
    let ground = served();
    let mut raw = Raw::greeted(&ground, "a");
    let nested = "[".repeat(20_000);
    for line in ["", "{", "null", "[]", "\"lock\"", "{\"id\":1}", "lock x", "{\"op\":\"lock\"}}", &nested, "\u{0}"] {
        raw.send_text(line);
        let id = if line == "{\"id\":1}" { json!(1) } else { Value::Null };
        let sentence = raw.fails(id, "invalid");
        assert!(sentence.contains("cannot be read") || sentence.contains("one JSON object"), "{line:.40}: {sentence}");
    }
    raw.stream.write_all(b"{\"id\":7,\"op\":\"lock\",\"scope\":\"\xff\"}\n").unwrap();
    raw.fails(Value::Null, "invalid");
    assert_eq!(raw.ask(json!({"id": 8, "op": "status"}))["id"], 8);
    others_are_served(&ground);
}

#[test]
fn unknown_operations_fields_and_values_are_refused_by_name() {
    let ground = served();
    let mut raw = Raw::greeted(&ground, "a");
    let cases = [
        (json!({"id": 1, "op": "fly"}), "fly"),
        (json!({"id": 2, "op": "lock", "scope": "x", "colour": "red"}), "colour"),
        (json!({"id": 3, "op": "lock", "scope": "x", "mode": "greedy"}), "greedy"),
        (json!({"id": 4, "op": "lock", "scope": "x", "wait_ms": -1}), "-1"),
        (json!({"id": 5, "op": "lock", "scope": "x", "ttl_ms": 1.5}), "1.5"),
        (json!({"id": 6, "op": "lock", "scope": 7}), "7"),
        (json!({"id": 7, "op": "lock"}), "scope"),
        (json!({"id": 8, "op": "lock", "scope": "a\\b"}), "backslash"),
        (json!({"id": 9, "op": "lock", "scope": "x", "ttl_ms": 86_400_001}), "24 h"),
        (json!({"id": 10, "op": "lock", "scope": "x", "wait_ms": 86_400_001}), "24 h"),
        (json!({"id": 11, "op": "lock", "scope": "x", "ttl_ms": 0}), "without a session"),
        (json!({"id": 12, "op": "unlock"}), "exactly one"),
        (json!({"id": 13, "op": "unlock", "scope": "x", "all": true}), "exactly one"),
        (json!({"id": 14, "op": "break", "lock_id": "lk_1"}), "reason"),
        (json!({"id": 15, "op": "bind", "lock_id": "lk_1"}), "session"),
        (json!({"id": 16, "op": "cancel"}), "of"),
        (json!({"id": 17, "op": "lock", "scope": "x", "request_id": ""}), "request id"),
    ];
    for (request, says) in cases {
        raw.send(&request);
        let message = raw.fails(request["id"].clone(), "invalid");
        assert!(message.contains(says), "{request}: {message}");
    }
    assert_eq!(ground.status().locks, []);
}

#[test]
fn a_half_line_is_no_request() {
    let ground = served();
    let mut raw = Raw::greeted(&ground, "a");
    raw.stream.write_all(b"{\"id\":1,\"op\":\"lock\",\"scope\":\"@half\"}").unwrap();
    raw.stream.shutdown(Shutdown::Write).unwrap();
    raw.is_closed();
    assert_eq!(ground.status().locks, []);
    Raw::connect(&ground).stream.write_all(b"{\"hello\":").unwrap();
    others_are_served(&ground);
}

#[test]
fn a_line_may_come_in_any_pieces() {
    let ground = served();
    let mut raw = Raw::connect(&ground);
    let lines = format!("{}\n{}\n", hello(&ground, "a", None), json!({"id": 1, "op": "lock", "scope": "@x"}));
    for piece in lines.as_bytes().chunks(7) {
        raw.stream.write_all(piece).unwrap();
    }
    assert!(raw.read()["hello"].is_object());
    assert_eq!(raw.read()["ok"]["lock"]["acquired"], true);
}

#[test]
fn a_line_of_ten_megabytes_is_refused_and_costs_nobody_anything() {
    let ground = served();
    for is_greeted in [true, false] {
        let mut raw = if is_greeted { Raw::greeted(&ground, "a") } else { Raw::connect(&ground) };
        let mut writing = raw.stream.try_clone().unwrap();
        // The daemon closes before it has read all of it.
        let writer = std::thread::spawn(move || writing.write_all(&vec![b'x'; 10 * 1024 * 1024]));
        assert!(raw.fails(Value::Null, "invalid").contains("longer than 65536 bytes"));
        raw.is_closed();
        assert!(writer.join().unwrap().is_err());
    }
    others_are_served(&ground);
    // A line of exactly that length is read, and refused for what it says.
    let mut raw = Raw::greeted(&ground, "a");
    let line = json!({"id": 1, "op": "lock", "scope": ""}).to_string();
    let padding = 65_536 - line.len();
    raw.send_text(&line.replace("\"scope\":\"\"", &format!("\"scope\":\"{}\"", "n".repeat(padding))));
    raw.fails(json!(1), "invalid");
    assert_eq!(raw.ask(json!({"id": 2, "op": "status"}))["id"], 2);
}

#[test]
fn a_request_before_the_greeting_ends_the_conversation() {
    let ground = served();
    for line in [json!({"id": 1, "op": "lock", "scope": "@x"}), json!({"hello": {}}), json!(1)] {
        let mut raw = Raw::connect(&ground);
        raw.send(&line);
        assert!(raw.fails(Value::Null, "invalid").contains("the first line must be a hello"));
        raw.is_closed();
    }
    assert_eq!(ground.status().locks, []);
}

#[test]
fn a_greeting_that_does_not_fit_is_refused() {
    let ground = served();
    let cases = [
        ("cwd", json!("relative"), "invalid", "no absolute path"),
        ("workspace", json!("relative"), "invalid", "no absolute path"),
        ("agent", json!("two words"), "invalid", "two words"),
    ];
    for (field, value, code, says) in cases {
        let mut raw = Raw::connect(&ground);
        let mut greeting = hello(&ground, "a", None);
        greeting["hello"][field] = value;
        raw.send(&greeting);
        let message = raw.fails(Value::Null, code);
        assert!(message.contains(says), "{field}: {message}");
        raw.is_closed();
    }
    // Whoever speaks another protocol is greeted all the same, and may do one thing: replace the daemon.
    let mut raw = Raw::connect(&ground);
    let mut greeting = hello(&ground, "a", None);
    greeting["hello"]["protocol"] = json!(2);
    raw.send(&greeting);
    assert_eq!(raw.read()["hello"]["protocol"], 1);
    raw.send(&json!({"id": 1, "op": "lock", "scope": "@x"}));
    assert!(raw.fails(json!(1), "version").contains("speaks protocol 1"));
    assert_eq!(raw.ask(json!({"id": 2, "op": "daemon"}))["ok"]["daemon"]["locks"], 0);
    // What a later version adds to its greeting is no reason not to talk.
    let mut raw = Raw::connect(&ground);
    let mut greeting = hello(&ground, "a", None);
    greeting["hello"]["colour"] = json!("red");
    raw.send(&greeting);
    assert!(raw.read()["hello"].is_object());
}

#[test]
fn an_id_is_used_by_one_open_request_at_a_time() {
    let ground = served();
    let mut holder = Raw::greeted(&ground, "holder");
    holder.ask(json!({"id": 1, "op": "lock", "scope": "@x"}));
    let mut raw = Raw::greeted(&ground, "a");
    raw.send(&json!({"id": 1, "op": "lock", "scope": "@x"}));
    raw.send(&json!({"id": 1, "op": "status"}));
    assert!(raw.fails(json!(1), "invalid").contains("this id is in use"));
    // The first one goes on waiting and is answered.
    holder.ask(json!({"id": 2, "op": "unlock", "scope": "@x"}));
    assert_eq!(raw.read()["ok"]["lock"]["acquired"], true);
    assert_eq!(raw.ask(json!({"id": 1, "op": "status"}))["id"], 1, "it is free again");
}

#[test]
fn every_id_but_the_last_is_answered() {
    let ground = served();
    let mut raw = Raw::greeted(&ground, "a");
    for id in [0, 1, u64::from(u32::MAX), 1 << 53, u64::MAX - 1] {
        assert_eq!(raw.ask(json!({"id": id, "op": "status"}))["id"], id);
    }
    raw.send(&json!({"id": u64::MAX, "op": "status"}));
    raw.fails(json!(u64::MAX), "invalid");
    for id in ["18446744073709551616", "-1", "\"one\"", "1.0"] {
        raw.send_text(&format!("{{\"id\":{id},\"op\":\"status\"}}"));
        raw.fails(Value::Null, "invalid");
    }
}

#[test]
fn what_is_sent_together_is_done_in_order() {
    let ground = served();
    let mut raw = Raw::greeted(&ground, "a");
    let mut together = String::new();
    for id in 0..300 {
        // A path that must be looked up, and names that need not be.
        let scope = ["dir/file", "@x", "./file"][id / 3 % 3];
        let op = ["lock", "unlock", "check"][id % 3];
        together += &format!("{}\n", json!({"id": id, "op": op, "scope": scope}));
    }
    raw.stream.write_all(together.as_bytes()).unwrap();
    let mut last = 0;
    // What waits for the disk is answered later than what need not; each answer carries its number.
    let answers: std::collections::BTreeMap<u64, Value> =
        (0..300).map(|_| raw.read()).map(|answer| (answer["id"].as_u64().unwrap(), answer)).collect();
    for id in 0..300 {
        let answer = &answers[&id];
        match id % 3 {
            0 => {
                let lock = &answer["ok"]["lock"];
                assert_eq!((&lock["acquired"], &lock["already_held"]), (&true.into(), &false.into()), "{answer}");
                assert!(lock["fence"].as_u64() > Some(last));
                last = lock["fence"].as_u64().unwrap();
            }
            1 => assert_eq!(answer["ok"]["released"][0]["fence"], last),
            _ => assert_eq!(answer["ok"]["check"]["allowed"], false),
        }
    }
}

#[test]
fn only_a_release_goes_without_an_id_and_is_not_answered() {
    let ground = served();
    let mut raw = Raw::greeted(&ground, "a");
    raw.ask(json!({"id": 1, "op": "lock", "scope": "@x"}));
    raw.send(&json!({"op": "unlock", "scope": "@x"}));
    raw.send(&json!({"op": "unlock", "scope": "@never-held"}));
    let status = raw.ask(json!({"id": 2, "op": "status"}));
    assert_eq!((&status["id"], &status["ok"]["status"]["locks"]), (&2.into(), &json!([])));
    raw.send(&json!({"op": "lock", "scope": "@y"}));
    raw.fails(Value::Null, "invalid");
    assert_eq!(ground.status().locks, []);
}

#[test]
fn a_cancelled_request_leaves_nothing_behind() {
    let ground = served();
    let (mut holder, mut raw) = (Raw::greeted(&ground, "holder"), Raw::greeted(&ground, "a"));
    holder.ask(json!({"id": 1, "op": "lock", "scope": "@x"}));
    raw.send(&json!({"id": 1, "op": "lock", "scope": "@x"}));
    raw.send(&json!({"id": 2, "op": "cancel", "of": 1}));
    for id in [1, 2] {
        assert_eq!(raw.read(), json!({"id": id, "ok": {"cancelled": true}}));
    }
    assert_eq!(ground.status().waiters, []);
    assert_eq!(raw.ask(json!({"id": 3, "op": "cancel", "of": 1})), json!({"id": 3, "ok": {"cancelled": false}}));
    holder.ask(json!({"id": 2, "op": "unlock", "scope": "@x"}));
    assert_eq!(ground.status().locks, []);
}

#[test]
fn a_connection_that_closes_takes_its_waiting_requests_with_it() {
    let ground = served();
    let (mut holder, mut raw) = (Raw::greeted(&ground, "holder"), Raw::greeted(&ground, "a"));
    holder.ask(json!({"id": 1, "op": "lock", "scope": "@x"}));
    for id in 0..20 {
        raw.send(&json!({"id": id, "op": "lock", "scope": "@x", "ttl_ms": 1000 + id}));
    }
    until("all wait", || (ground.status().waiters.len() == 20).then_some(()));
    drop(raw);
    until("nobody waits", || ground.status().waiters.is_empty().then_some(()));
    holder.ask(json!({"id": 2, "op": "unlock", "scope": "@x"}));
    assert_eq!(ground.status().locks, []);
}

#[test]
fn a_connection_that_closes_right_behind_its_last_line_is_noticed() {
    let ground = served();
    let mut holder = Raw::greeted(&ground, "holder");
    holder.ask(json!({"id": 1, "op": "lock", "scope": "@x"}));
    let lines = [
        json!({"id": 1, "op": "lock", "scope": "@x"}),
        json!({"id": 1, "op": "lock", "scope": "@free"}),
        json!({"op": "unlock", "scope": "@x"}),
    ];
    for line in lines {
        let mut raw = Raw::greeted(&ground, "a");
        // Asleep, the daemon is told of both at once.
        signal(ground.daemon_pid(), Signal::STOP);
        raw.send(&line);
        drop(raw);
        signal(ground.daemon_pid(), Signal::CONT);
        until("it is gone", || (ground.daemon_status().connections == 2).then_some(()));
        let status = ground.status();
        assert_eq!((status.locks.len(), status.waiters.len()), (1, 0), "{line}");
    }
}

#[test]
fn an_older_or_equal_version_does_not_replace_the_daemon_and_a_newer_one_does() {
    let ground = served();
    let mut raw = Raw::greeted(&ground, "a");
    for (id, version) in ["0.0.9", env!("CARGO_PKG_VERSION"), "nonsense", ""].into_iter().enumerate() {
        raw.send(&json!({"id": id, "op": "stop", "version": version}));
        assert!(raw.fails(json!(id), "version").contains("is not newer than this daemon"));
    }
    let mut beside = Raw::greeted(&ground, "b");
    let daemon = crate::util::Ending::of(ground.daemon_pid());
    raw.send(&json!({"id": 9, "op": "stop", "version": "999.0.0"}));
    assert_eq!(raw.read(), json!({"id": 9, "ok": {"stopping": true}}));
    for peer in [&mut raw, &mut beside] {
        assert!(peer.read()["bye"].as_str().unwrap().contains("the daemon stops"));
        peer.is_closed();
    }
    daemon.wait();
}
