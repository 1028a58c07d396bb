//! The end of stdin is the end of the server, and of nothing else.

use crate::client::{Client, ERAS, Era, server};
use crate::util::Ground;
use serde_json::json;

#[test]
fn the_server_ends_with_stdin_and_its_locks_live_on() {
    let ground = Ground::new();
    for era in ERAS {
        let mut client = Client::new(&ground, "a", era);
        let (held, _) = client.call("lock_file", json!({ "path": "x" }));
        let (ended, rest) = client.end();
        assert_eq!((ended, rest), (Some(0), vec![]));
        let status = ground.status();
        assert_eq!(json!(status.locks[0].lock_id), held["lock_id"]);
        let mut next = Client::new(&ground, "a", era);
        assert_eq!(next.call("lock_file", json!({ "path": "x" })).0["already_held"], true, "the same agent, restarted");
        next.call("unlock_file", json!({ "path": "x" }));
    }
}

#[test]
fn a_client_that_says_nothing_or_only_discovers_ends_the_server_as_well() {
    let ground = Ground::new();
    assert_eq!(Client::silent(server(&ground, "a"), Era::Older).end(), (Some(0), vec![]));
    assert_eq!(Client::new(&ground, "a", Era::Newer).end(), (Some(0), vec![]));
    assert!(ground.processes().is_empty(), "no daemon was needed");
}

#[test]
fn what_was_asked_before_the_end_is_answered_and_what_waits_is_withdrawn() {
    let ground = Ground::new();
    ground.flockd("b", "lock x").gives(0);
    for era in ERAS {
        let mut client = Client::new(&ground, "a", era);
        let waits = client.begin_call("lock_file", json!({ "path": "x", "wait_seconds": 600 }));
        ground.until_waiting(&["a"]);
        let quick = client.begin_call("lock_file", json!({ "path": "y" }));
        let (ended, messages) = client.end();
        assert_eq!(ended, Some(0));
        let result = |id: u64| messages.iter().find(|message| message["id"] == id).map(|it| &it["result"]);
        assert_eq!(result(quick).map(|it| &it["structuredContent"]["acquired"]), Some(&json!(true)));
        assert!(result(waits).is_none_or(|it| it["structuredContent"]["acquired"] == false), "{messages:?}");
        ground.until_waiting(&[]);
        ground.flockd("a", "unlock y").gives(0);
    }
    ground.flockd("b", "unlock x").gives(0);
    assert!(ground.status().locks.is_empty());
}
