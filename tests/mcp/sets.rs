//! Several locks in one call: all or none, whatever becomes of it.

use crate::client::{Client, ERAS, Era};
use crate::util::{Ground, until};
use serde_json::{Value, json};

fn wants(paths: &[&str]) -> Value {
    json!({ "paths": paths, "wait_seconds": 600 })
}

/// Who holds what.
fn held(ground: &Ground) -> Vec<(String, String)> {
    ground.status().locks.into_iter().map(|lock| (lock.agent, lock.file_id)).collect()
}

#[test]
fn several_are_locked_together_seen_and_released_one_by_one() {
    let ground = Ground::new();
    for era in ERAS {
        let mut client = Client::new(&ground, "a", era);
        let arguments = json!({ "paths": ["x", "sub/", "@port", "x"], "ttl_seconds": 60, "note": "all of it" });
        let (taken, text) = client.call("lock_files", arguments.clone());
        let locks = taken["locks"].as_array().unwrap();
        let files: Vec<&str> = locks.iter().filter_map(|lock| lock["file_id"].as_str()).collect();
        assert_eq!((&taken["acquired"], files), (&json!(true), vec!["x", "sub/", "@port"]), "twice is once");
        assert!(locks.iter().all(|lock| lock["ttl_ms"] == 60_000 && lock["already_held"] == false), "{taken}");
        for common in ["acquired", "agent", "workspace_id", "holders", "cycle", "more_holders"] {
            assert!(locks.iter().all(|lock| lock.get(common).is_none()), "{common} in each of {taken}");
        }
        assert!(taken["agent"] == "a" && taken["workspace_id"].is_string(), "{taken}");
        assert!(locks.windows(2).all(|pair| pair[0]["fence"].as_u64() < pair[1]["fence"].as_u64()), "{taken}");
        assert_eq!(text.lines().count(), 4, "{text}");
        for (lock, line) in locks.iter().zip(text.lines()) {
            let (path, id) = (lock["path"].as_str().unwrap(), lock["lock_id"].as_str().unwrap());
            assert!(line.starts_with(&format!("locked: {path} exclusive, {id}, fence ")), "{text}");
        }
        assert!(text.ends_with("\nunlock_file each as soon as you are done"), "{text}");
        let note = &client.call("check_lock_status", json!({ "path": "sub/deep/file" })).0["locks"][0]["note"];
        assert_eq!(note, "all of it");

        let (again, text) = client.call("lock_files", arguments);
        let held: Vec<&Value> = again["locks"].as_array().unwrap().iter().map(|lock| &lock["already_held"]).collect();
        assert_eq!(held, [true, true, true], "{text}");
        client.call("unlock_file", json!({ "path": "x" }));
        assert_eq!(ground.status().locks.len(), 2);
        client.call("unlock_file", json!({ "all": true }));
    }
}

#[test]
fn readers_share_several() {
    let ground = Ground::new();
    let shared = json!({ "paths": ["x", "y"], "mode": "shared", "wait_seconds": 0 });
    for agent in ["a", "b"] {
        let (taken, text) = Client::new(&ground, agent, Era::Newer).call("lock_files", shared.clone());
        assert_eq!((&taken["acquired"], &taken["locks"][1]["mode"]), (&json!(true), &json!("shared")), "{text}");
    }
    let mut client = Client::new(&ground, "c", Era::Newer);
    let (refused, text) = client.call("lock_files", json!({ "paths": ["z", "y"], "wait_seconds": 0 }));
    assert_eq!((&refused["acquired"], refused["holders"].as_array().map(Vec::len)), (&json!(false), Some(2)), "{text}");
}

#[test]
fn a_refusal_is_one_for_all_and_says_who_why_and_what_to_do() {
    let ground = Ground::new();
    ground.flockd("b", "lock y --note sorting").gives(0);
    for era in ERAS {
        let mut client = Client::new(&ground, "a", era);
        let (refused, text) = client.call("lock_files", json!({ "paths": ["x", "y"], "wait_seconds": 0 }));
        assert_eq!((&refused["acquired"], &refused["code"]), (&json!(false), &json!("held")));
        assert_eq!((&refused["locks"], &refused["position"]), (&json!([]), &json!(1)));
        let holder = &refused["holders"][0];
        assert_eq!((&holder["agent"], &holder["note"]), (&json!("b"), &json!("sorting")));
        let advice = refused["advice"].as_str().unwrap();
        for said in ["none is locked: they are not all free\nb holds ", "note: \"sorting\"", advice] {
            assert!(text.contains(said), "{said:?} is not in {text}");
        }
        assert_eq!(held(&ground), [("b".to_owned(), "y".to_owned())]);
    }
}

#[test]
fn a_wait_in_vain_keeps_one_place_for_all() {
    let ground = Ground::new();
    ground.flockd("b", "lock y").gives(0);
    let mut client = Client::new(&ground, "a", Era::Newer);
    let (refused, text) = client.call("lock_files", json!({ "paths": ["x", "y"], "wait_seconds": 0.05 }));
    assert_eq!(refused["code"], "timeout");
    assert!(refused["ticket"].as_str().unwrap().starts_with("tk_") && text.contains("is kept"), "{text}");
    ground.flockd("b", "unlock y").gives(0);
    ground.flockd("c", "lock -n x").gives(1);
    let (taken, _) = client.call("lock_files", json!({ "paths": ["x", "y"], "wait_seconds": 0 }));
    assert_eq!(taken["acquired"], true, "it came first");
}

#[test]
fn a_call_waits_as_one_and_holds_nothing_until_it_has_all() {
    let ground = Ground::new();
    for era in ERAS {
        ground.flockd("b", "lock y --note sorting").gives(0);
        let mut client = Client::new(&ground, "a", era);
        let meta = json!({ "progressToken": 7 });
        let params = json!({ "name": "lock_files", "arguments": wants(&["x", "y"]), "_meta": meta });
        let waits = client.begin("tools/call", params);
        ground.until_waiting(&["a", "a"]);
        assert_eq!(held(&ground), [("b".to_owned(), "y".to_owned())]);
        let told = client.notice("notifications/progress");
        let message = told["message"].as_str().unwrap();
        assert!(message.contains("y: b holds it"), "whichever is not free is named: {message}");
        ground.flockd("b", "unlock y").gives(0);
        let (taken, text) = client.called("lock_files", waits);
        assert_eq!(taken["locks"].as_array().unwrap().len(), 2, "{text}");
        client.call("unlock_file", json!({ "all": true }));
    }
}

#[test]
fn a_wait_that_would_never_end_is_refused_with_its_cycle() {
    let ground = Ground::new();
    let (mut a, mut b) = (Client::new(&ground, "a", Era::Newer), Client::new(&ground, "b", Era::Newer));
    a.call("lock_file", json!({ "path": "x" }));
    b.call("lock_file", json!({ "path": "y" }));
    let waits = b.begin_call("lock_file", json!({ "path": "x", "wait_seconds": 600 }));
    ground.until_waiting(&["b"]);
    let (refused, text) = a.call("lock_files", wants(&["w", "y"]));
    assert_eq!((&refused["acquired"], &refused["code"]), (&json!(false), &json!("deadlock")), "{text}");
    assert_eq!(refused["cycle"].as_array().unwrap().len(), 2, "{text}");
    assert!(text.starts_with("none is locked: to wait for them would never end"), "{text}");
    assert!(text.contains("release what you hold"), "{text}");
    a.call("unlock_file", json!({ "all": true }));
    assert_eq!(b.called("lock_file", waits).0["acquired"], true);
}

#[test]
fn a_cancelled_call_leaves_nothing_behind_and_a_late_cancellation_changes_nothing() {
    let ground = Ground::new();
    for era in ERAS {
        ground.flockd("b", "lock y").gives(0);
        let mut client = Client::new(&ground, "a", era);
        let waits = client.begin_call("lock_files", wants(&["x", "y"]));
        ground.until_waiting(&["a", "a"]);
        client.cancel(waits);
        ground.until_waiting(&[]);
        ground.flockd("b", "unlock y").gives(0);
        assert_eq!(client.call("check_lock_status", json!({})).0["locks"], json!([]), "not granted");
        assert!(client.kept().iter().all(|message| message["id"] != waits), "{:?}", client.kept());
        let taken = client.begin_call("lock_files", wants(&["x", "y"]));
        client.called("lock_files", taken);
        client.cancel(taken);
        let (status, _) = client.call("check_lock_status", json!({}));
        assert_eq!(status["locks"].as_array().unwrap().len(), 2);
        client.call("unlock_file", json!({ "all": true }));
    }
}

#[test]
fn what_is_granted_to_a_client_that_reads_no_more_goes_back() {
    let ground = Ground::new();
    ground.flockd("a", "lock w").gives(0);
    ground.flockd("b", "lock y").gives(0);
    let mut client = Client::new(&ground, "a", Era::Newer);
    client.begin_call("lock_files", wants(&["x", "y", "w"]));
    ground.until_waiting(&["a", "a", "a"]);
    let unread = client.stop_reading();
    ground.flockd("b", "unlock y").gives(0);
    let before = [("a".to_owned(), "w".to_owned())];
    until("the grant has gone back", || (ground.status().waiters.is_empty() && held(&ground) == before).then_some(()));
    drop(unread);
}

#[test]
fn what_makes_no_set_is_an_error_in_plain_words() {
    let ground = Ground::new();
    let mut client = Client::new(&ground, "a", Era::Newer);
    let many: Vec<String> = (0..65).map(|number| format!("f{number}")).collect();
    let long: Vec<String> = (0..64).map(|number| format!("{number}{}", "/long".repeat(250))).collect();
    for (arguments, code, says) in [
        (json!({}), "invalid", "paths"),
        (json!({ "paths": [] }), "invalid", "at least one"),
        (json!({ "paths": "x" }), "invalid", "a list of strings"),
        (json!({ "path": "x" }), "invalid", "path"),
        (json!({ "paths": ["x", 7] }), "invalid", "string"),
        (json!({ "paths": ["x", ""] }), "invalid", ""),
        (json!({ "paths": ["dir/", "dir/x"] }), "invalid", "overlap: leave "),
        (json!({ "paths": many }), "invalid", "at most 64"),
        (json!({ "paths": long }), "invalid", "name fewer scopes"),
        (json!({ "paths": ["x", "y"], "mode": "advisory" }), "invalid", "ask for each by itself"),
        (json!({ "paths": ["x", "y"], "mode": "mine" }), "invalid", "exclusive"),
        (json!({ "paths": ["x", "y"], "wait_seconds": 601 }), "invalid", "600"),
        (json!({ "paths": ["x", "y"], "ttl_seconds": 0 }), "invalid", "ttl_seconds"),
    ] {
        let (found, text) = client.call_fails("lock_files", arguments.clone());
        assert_eq!(found, code, "{arguments}: {text}");
        assert!(text.contains(says), "{arguments}: {text}");
    }
    assert!(ground.status().locks.is_empty());
}
