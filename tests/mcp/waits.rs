//! Calls that wait: woken, withdrawn, told of, and never granted to whoever has gone.

use crate::client::{Client, ERAS, Era};
use crate::util::{Ground, scaled, until};
use serde_json::{Value, json};

fn wants(path: &str) -> Value {
    json!({ "path": path, "wait_seconds": 600 })
}

#[test]
fn a_call_waits_until_the_lock_is_free() {
    let ground = Ground::new();
    for era in ERAS {
        ground.flockd("b", "lock x").gives(0);
        let mut client = Client::new(&ground, "a", era);
        let waits = client.begin_call("lock_file", wants("x"));
        ground.until_waiting(&["a"]);
        assert_eq!(client.call("check_lock_status", json!({})).0["waiters"][0]["agent"], "a", "others are served");
        ground.flockd("b", "unlock x").gives(0);
        assert_eq!(client.called("lock_file", waits).0["acquired"], true);
        client.call("unlock_file", json!({ "all": true }));
    }
}

#[test]
fn a_wait_in_vain_keeps_its_place_for_the_next_call() {
    let ground = Ground::new();
    ground.flockd("b", "lock x").gives(0);
    let mut client = Client::new(&ground, "a", Era::Newer);
    let (refused, text) = client.call("lock_file", json!({ "path": "x", "wait_seconds": 0.05 }));
    assert_eq!(refused["code"], "timeout");
    assert!(refused["ticket"].as_str().unwrap().starts_with("tk_") && text.contains("is kept"), "{text}");
    ground.flockd("b", "unlock x").gives(0);
    ground.flockd("c", "lock -n x").gives(1);
    assert_eq!(
        client.call("lock_file", json!({ "path": "x", "wait_seconds": 0 })).0["acquired"],
        true,
        "it came first"
    );
}

#[test]
fn a_call_waits_on_when_the_daemon_was_killed() {
    let ground = Ground::new();
    ground.flockd("b", "lock x").gives(0);
    let mut client = Client::new(&ground, "a", Era::Newer);
    let waits = client.begin_call("lock_file", wants("x"));
    ground.until_waiting(&["a"]);
    ground.kill_daemon();
    ground.until_waiting(&["a"]);
    ground.flockd("b", "unlock x").gives(0);
    assert_eq!(client.called("lock_file", waits).0["acquired"], true);
}

#[test]
fn a_cancelled_call_leaves_nothing_behind_and_is_not_answered() {
    let ground = Ground::new();
    for era in ERAS {
        ground.flockd("b", "lock x").gives(0);
        let mut client = Client::new(&ground, "a", era);
        let waits = client.begin_call("lock_file", wants("x"));
        ground.until_waiting(&["a"]);
        client.cancel(waits);
        ground.until_waiting(&[]);
        ground.flockd("b", "unlock x").gives(0);
        let (status, _) = client.call("check_lock_status", json!({}));
        assert_eq!(status["locks"], json!([]), "not granted");
        assert!(client.kept().iter().all(|message| message["id"] != waits), "{:?}", client.kept());
        let (ended, rest) = client.end();
        assert_eq!((ended, rest), (Some(0), vec![]), "and not later");
    }
}

#[test]
fn a_late_cancellation_changes_nothing() {
    let ground = Ground::new();
    for era in ERAS {
        let mut client = Client::new(&ground, "a", era);
        let id = client.begin_call("lock_file", wants("x"));
        let (held, _) = client.called("lock_file", id);
        for _ in 0..3 {
            client.cancel(id);
        }
        client.cancel(4711);
        let (status, _) = client.call("check_lock_status", json!({ "path": "x" }));
        assert_eq!((&status["may_write"], &status["locks"][0]["lock_id"]), (&json!(true), &held["lock_id"]));
        client.call("unlock_file", json!({ "path": "x" }));
    }
}

/// The cancellation meets the call anywhere: on its way in, in the daemon, on its way out. Whatever comes of it, the
/// client and the daemon agree on it.
#[test]
fn a_call_that_is_cancelled_at_any_moment_is_granted_if_and_only_if_it_is_answered() {
    let ground = Ground::new();
    let mut answered = 0;
    for round in 0..scaled(40) {
        let mut client = Client::new(&ground, "a", ERAS[round as usize % 2]);
        client.call("check_lock_status", json!({}));
        let (tool, arguments, locks) = match round / 2 % 2 {
            0 => ("lock_file", wants("x"), 1),
            _ => ("lock_files", json!({ "paths": ["x", "y"], "wait_seconds": 600 }), 2),
        };
        let (id, call) = client.request("tools/call", json!({ "name": tool, "arguments": arguments }));
        let between: Vec<Value> = (0..round % 8)
            .map(|_| client.request("tools/call", json!({ "name": "check_lock_status", "arguments": {} })).1)
            .collect();
        let cancel = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": id } });
        let lines = [vec![call], between, vec![cancel]].concat();
        if round % 3 == 0 {
            let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
            client.send_text(&lines.join("\n"));
        } else {
            lines.iter().for_each(|line| client.send(line));
        }
        let (ended, messages) = client.end();
        assert_eq!(ended, Some(0));
        let is_answered = messages.iter().any(|message| message["id"] == id && message.get("result").is_some());
        answered += u64::from(is_answered);
        let held = || ground.status().locks.len();
        if is_answered {
            assert_eq!(held(), locks, "round {round}: {messages:?}");
            ground.flockd("a", "unlock --all").gives(0);
        } else {
            until("nothing is held", || (held() == 0).then_some(()));
        }
    }
    println!("{answered} of {} calls were answered before they were cancelled", scaled(40));
}

#[test]
fn what_is_granted_to_a_client_that_reads_no_more_goes_back() {
    let ground = Ground::new();
    ground.flockd("b", "lock x").gives(0);
    let mut client = Client::new(&ground, "a", Era::Newer);
    client.begin_call("lock_file", wants("x"));
    ground.until_waiting(&["a"]);
    let unread = client.stop_reading();
    ground.flockd("b", "unlock x").gives(0);
    until("the grant has gone back", || {
        let status = ground.status();
        (status.locks.is_empty() && status.waiters.is_empty()).then_some(())
    });
    ground.flockd("c", "lock -n x").gives(0);
    drop(unread);
}

#[test]
fn progress_is_told_to_whoever_asks_for_it_and_grows() {
    let ground = Ground::new();
    ground.flockd("b", "lock x --note sorting").gives(0);
    for era in ERAS {
        let mut client = Client::new(&ground, "a", era);
        let params = json!({ "name": "lock_file", "arguments": wants("x"), "_meta": { "progressToken": "my token" } });
        let waits = client.begin("tools/call", params);
        let (one, two) = (client.notice("notifications/progress"), client.notice("notifications/progress"));
        for told in [&one, &two] {
            assert_eq!((&told["progressToken"], &told["total"]), (&json!("my token"), &json!(600.0)));
            let message = told["message"].as_str().unwrap();
            assert!(message.contains("waiting for") && message.contains("b holds it"), "{message}");
        }
        assert!(two["progress"].as_f64() > one["progress"].as_f64(), "{one} {two}");
        client.cancel(waits);
        ground.until_waiting(&[]);
    }
    let mut client = Client::new(&ground, "a", Era::Newer);
    client.call("lock_file", json!({ "path": "x", "wait_seconds": 1.5 }));
    assert_eq!(client.kept(), [] as [Value; 0], "nobody asked");
}

#[test]
fn more_calls_than_there_is_room_for_are_refused_and_none_is_lost() {
    let ground = Ground::new();
    ground.flockd("b", "lock x").gives(0);
    let mut client = Client::new(&ground, "a", Era::Newer);
    client.call("check_lock_status", json!({}));
    let waits: Vec<u64> = (0..32).map(|_| client.begin_call("lock_file", wants("x"))).collect();
    let (code, text) = client.call_fails("check_lock_status", json!({}));
    assert_eq!(code, "too_many", "{text}");
    until("all wait", || (ground.status().waiters.len() == 32).then_some(()));
    ground.flockd("b", "unlock x").gives(0);
    let ids: Vec<Value> = waits.into_iter().map(|id| client.called("lock_file", id).0["lock_id"].clone()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "one agent, one lock: {ids:?}");
}

#[test]
fn a_place_in_the_queue_that_is_given_up_is_called_so() {
    let ground = Ground::new();
    ground.flockd("b", "lock x").gives(0);
    for era in ERAS {
        let mut client = Client::new(&ground, "a", era);
        client.call("lock_file", json!({ "path": "x", "wait_seconds": 0.05 }));
        assert_eq!(ground.status().waiters.len(), 1, "the place is kept");
        let (released, text) = client.call("unlock_file", json!({ "path": "x" }));
        assert_eq!(released["released"], json!([]));
        assert!(text.starts_with("the place in the queue was given up"), "{text}");
        assert_eq!(ground.status().waiters.len(), 0);
        let (_, text) = client.call("unlock_file", json!({ "all": true }));
        assert!(text.starts_with("nothing was held"), "{text}");
    }
}
