//! What an agent lost, and who waits for it, is told in its next answer, whatever that is about.

use crate::client::{Client, ERAS, Era};
use crate::util::{Ground, until};
use flockd::wire::{Op, Request};
use serde_json::{Value, json};
use std::collections::HashSet;

/// Calls of every tool about anything but `x`, with answers, refusals and errors, in an order in which each is right.
fn calls() -> Vec<(&'static str, Value)> {
    vec![
        ("lock_file", json!({ "path": "z" })),
        ("lock_files", json!({ "paths": ["z", "zz"] })),
        ("check_lock_status", json!({ "path": "z" })),
        ("check_lock_status", json!({})),
        ("renew_lock", json!({ "path": "z" })),
        ("write_file", json!({ "path": "z", "content": "1" })),
        ("write_file", json!({ "path": "new", "content": "1" })),
        ("lock_stats", json!({})),
        ("unlock_file", json!({ "path": "z" })),
        ("lock_file", json!({ "path": "theirs", "wait_seconds": 0 })),
        ("lock_files", json!({ "paths": ["z", "theirs"], "wait_seconds": 0 })),
        ("write_file", json!({ "path": "theirs", "content": "1", "wait_seconds": 0 })),
        ("unlock_file", json!({ "path": "theirs" })),
        ("renew_lock", json!({ "path": "nobodys" })),
        ("check_lock_status", json!({ "path": "@" })),
        ("lock_file", json!({ "path": 7 })),
    ]
}

/// What a call is answered, whether it is an error or not.
fn answered(client: &mut Client, tool: &str, arguments: &Value) -> (Value, String) {
    let id = client.begin_call(tool, arguments.clone());
    let mut answer = client.answer(id);
    let text = answer["result"]["content"][0]["text"].as_str().unwrap().to_owned();
    (answer["result"]["structuredContent"].take(), text)
}

/// A lock of the client's agent, broken by another: its id.
fn lost(ground: &Ground, client: &mut Client, path: &str) -> String {
    let (held, _) = client.call("lock_file", json!({ "path": path }));
    let id = held["lock_id"].as_str().unwrap().to_owned();
    ground.flockd("b", &format!("break {id} --reason hanging")).gives(0);
    id
}

#[test]
fn a_loss_is_told_once_with_the_next_answer_of_any_tool_about_anything() {
    let ground = Ground::new();
    ground.flockd("b", "lock theirs").gives(0);
    for era in ERAS {
        let mut client = Client::new(&ground, "a", era);
        for (tool, arguments) in calls() {
            let id = lost(&ground, &mut client, "x");
            let (value, text) = answered(&mut client, tool, &arguments);
            let told = value["lost"].as_array().map(Vec::as_slice).unwrap_or_default();
            assert_eq!(told.len(), 1, "{tool} {arguments}: {text}");
            assert_eq!((&told[0]["lock_id"], &told[0]["by"]), (&json!(id), &json!("b")), "{tool} {arguments}");
            assert!(text.contains("\nyou lost ") && text.contains("note: \"hanging\""), "{tool} {arguments}: {text}");
            let (value, text) = answered(&mut client, tool, &arguments);
            assert!(value.get("lost").is_none() && !text.contains("you lost"), "{tool} {arguments}: {text}");
        }
        client.call("unlock_file", json!({ "all": true }));
    }
}

#[test]
fn several_losses_are_told_together_and_one_that_an_error_tells_is_told_by_that_alone() {
    let ground = Ground::new();
    let mut client = Client::new(&ground, "a", Era::Newer);
    let ids = ["u", "v", "w"].map(|path| lost(&ground, &mut client, path));
    // Each was told with the lock that followed it.
    let (code, text) = client.call_fails("unlock_file", json!({ "path": "w" }));
    assert!(code == "lost" && text.contains(&ids[2]) && !text.contains("you lost"), "{text}");
    let (value, text) = client.call("check_lock_status", json!({}));
    assert!(value.get("lost").is_none(), "{text}");

    let held = ["u", "v", "w"].map(|path| client.call("lock_file", json!({ "path": path })).0["lock_id"].clone());
    for id in &held {
        ground.flockd("b", &format!("break {} --reason hanging", id.as_str().unwrap())).gives(0);
    }
    let (value, text) = client.call("lock_file", json!({ "path": "u" }));
    let told: Vec<&Value> = value["lost"].as_array().unwrap().iter().map(|loss| &loss["lock_id"]).collect();
    assert_eq!((told.len(), text.matches("\nyou lost ").count()), (3, 3), "{text}");
    assert!(held.iter().all(|id| told.contains(&id)), "{text}");
}

#[test]
fn more_losses_than_one_answer_tells_are_told_by_the_next() {
    let ground = Ground::new();
    let paths = |from: usize| (from..from + 40).map(|number| format!("file-{number}")).collect::<Vec<_>>();
    let mut client = Client::new(&ground, "a", Era::Newer);
    for from in [0, 40] {
        client.call("lock_files", json!({ "paths": paths(from) }));
    }
    for held in ground.status().locks {
        ground.flockd("b", &format!("break {} --reason hanging", held.lock_id)).gives(0);
    }
    for (count, more) in [(50, json!(30)), (30, Value::Null), (0, Value::Null)] {
        let (value, text) = client.call("lock_stats", json!({}));
        assert_eq!(value["lost"].as_array().map_or(0, Vec::len), count, "{text}");
        assert_eq!(value["more_lost"], more, "{text}");
        assert_eq!(text.contains("you lost 30 more"), !more.is_null(), "{text}");
    }
}

/// Answers that list all locks, or are about all, bring all losses with them; the agent reads a part at a time.
#[test]
fn many_losses_are_told_a_part_at_a_time_also_by_what_is_about_everything() {
    let ground = Ground::new();
    let mut client = Client::new(&ground, "a", Era::Newer);
    for from in (0..300).step_by(60) {
        let paths: Vec<String> = (from..from + 60).map(|number| format!("file-{number}")).collect();
        client.call("lock_files", json!({ "paths": paths }));
    }
    for held in ground.status().locks {
        let broken = Request { lock_id: Some(held.lock_id), reason: Some("hanging".into()), ..Request::new(Op::Break) };
        ground.client("b", None).call(broken).unwrap();
    }
    let mut told = HashSet::new();
    for round in 0..6 {
        let (tool, arguments) = match round % 2 {
            0 => ("check_lock_status", json!({})),
            _ => ("unlock_file", json!({ "all": true })),
        };
        let (value, text) = client.call(tool, arguments);
        let lost = value["lost"].as_array().unwrap_or_else(|| panic!("{round}: {text}"));
        assert_eq!((lost.len(), text.matches("\nyou lost file").count()), (50, 0), "{round}: {text}");
        told.extend(lost.iter().map(|loss| loss["lock_id"].as_str().unwrap().to_owned()));
        assert_eq!(value["more_lost"].as_u64().unwrap_or(0), 250 - 50 * round, "{round}: {text}");
    }
    assert_eq!(told.len(), 300, "each is told");
    assert!(client.call("check_lock_status", json!({})).0.get("lost").is_none(), "and once");
}

/// What came along with an answer that no tool gives may be told to the agent elsewhere before its next call.
#[test]
fn a_loss_that_was_told_elsewhere_is_not_told_again() {
    let ground = Ground::new();
    ground.flockd("b", "lock theirs").gives(0);
    for era in ERAS {
        let mut client = Client::new(&ground, "a", era);
        let told_elsewhere = || {
            let lost = ground.client("a", None).call(Request::new(Op::News)).unwrap().lost;
            assert_eq!(lost.len(), 1, "{era:?}");
        };
        lost(&ground, &mut client, "x");
        client.ask("resources/read", json!({ "uri": "locks://active" }));
        told_elsewhere();
        let (value, text) = client.call("lock_stats", json!({}));
        assert!(value.get("lost").is_none(), "{text}");

        lost(&ground, &mut client, "x");
        let arguments = json!({ "path": "theirs", "wait_seconds": 600 });
        let meta = json!({ "progressToken": 7 });
        let waits = client.begin("tools/call", json!({ "name": "lock_file", "arguments": arguments, "_meta": meta }));
        client.notice("notifications/progress");
        told_elsewhere();
        client.cancel(waits);
        ground.until_waiting(&[]);
        let (value, text) = client.call("lock_stats", json!({}));
        assert!(value.get("lost").is_none(), "{text}");
    }
}

#[test]
fn a_loss_is_told_once_though_the_daemon_is_killed_before() {
    let ground = Ground::new();
    for era in ERAS {
        let mut client = Client::new(&ground, "a", era);
        let id = lost(&ground, &mut client, "x");
        ground.kill_daemon();
        let (value, text) = client.call("lock_file", json!({ "path": "z" }));
        assert_eq!(value["lost"][0]["lock_id"], id, "{text}");
        let (value, text) = client.call("check_lock_status", json!({ "path": "x" }));
        assert!(value.get("lost").is_none(), "{text}");
        ground.stop_daemon();
        let (value, text) = client.call("check_lock_status", json!({ "path": "x" }));
        assert!(value.get("lost").is_none(), "{text}");
    }
}

#[test]
fn a_loss_that_a_cancelled_call_would_have_told_is_told_by_the_next() {
    let ground = Ground::new();
    ground.flockd("b", "lock theirs").gives(0);
    for era in ERAS {
        let mut client = Client::new(&ground, "a", era);
        let (held, _) = client.call("lock_file", json!({ "path": "x" }));
        let waits = client.begin_call("lock_file", json!({ "path": "theirs", "wait_seconds": 600 }));
        ground.until_waiting(&["a"]);
        ground.flockd("b", &format!("break {} --reason hanging", held["lock_id"].as_str().unwrap())).gives(0);
        client.cancel(waits);
        ground.until_waiting(&[]);
        let (value, text) = client.call("lock_stats", json!({}));
        assert_eq!(value["lost"][0]["lock_id"], held["lock_id"], "{text}");
    }
}

#[test]
fn a_loss_counts_as_told_when_the_client_was_told_and_not_when_the_server_was() {
    let ground = Ground::new();
    ground.flockd("b", "lock theirs").gives(0);
    let mut client = Client::new(&ground, "a", Era::Newer);
    let (held, _) = client.call("lock_file", json!({ "path": "x" }));
    client.begin_call("lock_file", json!({ "path": "theirs", "wait_seconds": 600 }));
    ground.until_waiting(&["a"]);
    ground.flockd("b", &format!("break {} --reason hanging", held["lock_id"].as_str().unwrap())).gives(0);
    let unread = client.stop_reading();
    ground.flockd("b", "unlock theirs").gives(0);
    until("the grant has gone back", || {
        let status = ground.status();
        (status.locks.is_empty() && status.waiters.is_empty()).then_some(())
    });
    drop(unread);
    let mut next = Client::new(&ground, "a", Era::Newer);
    let (value, text) = next.call("lock_stats", json!({}));
    assert_eq!(value["lost"][0]["lock_id"], held["lock_id"], "{text}");
    assert!(next.call("lock_stats", json!({})).0.get("lost").is_none(), "it was told");
    let command = ground.client("a", None).call(Request::new(Op::News)).unwrap();
    assert_eq!(command.lost, [], "neither is another client of the agent told again");
}

#[test]
fn a_sub_agent_hears_of_its_own_losses_and_its_parent_does_not() {
    let ground = Ground::new();
    let mut client = Client::new(&ground, "a", Era::Newer);
    let (held, _) = client.call("lock_file", json!({ "path": "x", "agent": "a/tests" }));
    ground.flockd("b", &format!("break {} --reason hanging", held["lock_id"].as_str().unwrap())).gives(0);
    let (value, text) = client.call("lock_file", json!({ "path": "z" }));
    assert!(value.get("lost").is_none(), "{text}");
    let (value, text) = client.call("lock_stats", json!({ "agent": "a/tests" }));
    assert_eq!(value["lost"][0]["lock_id"], held["lock_id"], "{text}");
}

#[test]
fn who_waits_for_any_lock_of_the_agents_is_told_with_the_next_answer_of_any_tool_about_anything() {
    let ground = Ground::new();
    ground.flockd("b", "lock theirs").gives(0);
    let mut client = Client::new(&ground, "a", Era::Newer);
    // More than an ordinary answer is looked through for.
    let paths: Vec<String> = (0..40).map(|number| format!("file-{number}")).collect();
    client.call("lock_files", json!({ "paths": paths }));
    client.call("lock_file", json!({ "path": "x" }));
    let waits = ground.queue("c", "--note why x");
    ground.until_waiting(&["c"]);
    for (tool, arguments) in calls() {
        let (value, text) = answered(&mut client, tool, &arguments);
        let wanted = value["wanted"].as_array().map(Vec::as_slice).unwrap_or_default();
        assert_eq!(wanted.len(), 1, "{tool} {arguments}: {text}");
        let told = (&wanted[0]["agent"], &wanted[0]["path"], &wanted[0]["note"]);
        assert_eq!(told, (&json!("c"), &json!(ground.work.join("x")), &json!("why")), "{tool} {arguments}");
        assert!(text.contains("\nc waits for ") && text.contains("note: \"why\""), "{tool} {arguments}: {text}");
    }
    let (value, text) = client.call("unlock_file", json!({ "path": "x" }));
    assert!(value.get("wanted").is_none(), "{text}");
    drop(waits);
}
