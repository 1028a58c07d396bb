//! What each tool answers.

use crate::client::{Client, ERAS, Era};
use crate::util::{Ground, signal, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::time::Instant;

#[test]
fn a_lock_is_taken_renewed_seen_and_released() {
    let ground = Ground::new();
    for era in ERAS {
        let mut client = Client::new(&ground, "a", era);
        let (held, text) = client.call("lock_file", json!({ "path": "x", "ttl_seconds": 60, "note": "sorting" }));
        assert_eq!(
            (&held["acquired"], &held["mode"], &held["ttl_ms"]),
            (&json!(true), &json!("exclusive"), &json!(60_000))
        );
        let id = held["lock_id"].as_str().unwrap();
        assert!(text.contains(id) && text.contains("unlock_file"), "{text}");
        assert_eq!(held["path"], json!(ground.work.join("x")), "relative to the working directory");

        let (again, text) = client.call("lock_file", json!({ "path": "x", "ttl_seconds": 60 }));
        assert_eq!((&again["already_held"], &again["fence"]), (&json!(true), &held["fence"]), "{text}");

        let (status, text) = client.call("check_lock_status", json!({ "path": "x" }));
        assert_eq!((&status["may_write"], &status["held_by_others"]), (&json!(true), &json!(false)));
        assert_eq!(status["locks"][0]["note"], "sorting");
        assert!(text.contains("note: \"sorting\""), "{text}");

        let (renewed, _) = client.call("renew_lock", json!({ "lock_id": id, "ttl_seconds": 120 }));
        assert_eq!(renewed["renewed"][0]["ttl_ms"], 120_000);
        let (released, _) = client.call("unlock_file", json!({ "path": "x" }));
        assert_eq!(released["released"][0]["lock_id"], id);
        let (status, text) = client.call("check_lock_status", json!({ "path": "x" }));
        assert_eq!((&status["may_write"], &status["held_by_you"]), (&json!(false), &json!(false)), "{text}");
    }
}

#[test]
fn what_gemini_adds_to_each_call_is_ignored_and_nothing_else_is() {
    let ground = Ground::new();
    for era in ERAS {
        let mut client = Client::new(&ground, "a", era);
        for (tool, arguments) in [
            ("lock_file", json!({ "path": "x" })),
            ("lock_files", json!({ "paths": ["x", "y"] })),
            ("check_lock_status", json!({ "path": "x" })),
            ("renew_lock", json!({ "path": "x" })),
            ("lock_stats", json!({})),
            ("write_file", json!({ "path": "x", "content": "1" })),
            ("unlock_file", json!({ "all": true })),
        ] {
            let with = |name: &str| {
                let mut arguments = arguments.clone();
                arguments[name] = true.into();
                arguments
            };
            let (code, text) = client.call_fails(tool, with("wait_for_next"));
            assert_eq!(code, "invalid", "{tool}");
            assert!(text.contains("wait_for_next"), "{tool}: {text}");
            client.call(tool, with("wait_for_previous"));
        }
    }
}

#[test]
fn a_refusal_is_an_answer_that_says_who_why_how_long_and_what_to_do() {
    let ground = Ground::new();
    ground.flockd("b", "lock x --note sorting --ttl 5m").gives(0);
    for era in ERAS {
        let mut client = Client::new(&ground, "a", era);
        let (refused, text) = client.call("lock_file", json!({ "path": "x", "wait_seconds": 0 }));
        assert_eq!(
            (&refused["acquired"], &refused["code"], &refused["position"]),
            (&json!(false), &json!("held"), &json!(1))
        );
        let holder = &refused["holders"][0];
        assert_eq!((&holder["agent"], &holder["note"]), (&json!("b"), &json!("sorting")));
        assert!(holder["expires_in_ms"].as_u64().unwrap() <= 300_000 && holder["since"].is_string(), "{holder}");
        let advice = refused["advice"].as_str().unwrap();
        for said in ["not locked", "b holds", "sorting", "4m", advice] {
            assert!(text.contains(said), "{said:?} is not in {text}");
        }
        let (_, text) = client.call("check_lock_status", json!({ "path": "x" }));
        assert!(text.starts_with("you may not write: others hold it\nb holds"), "{text}");
        let (timed_out, _) = client.call("lock_file", json!({ "path": "x", "wait_seconds": 0.05 }));
        assert_eq!((&timed_out["acquired"], &timed_out["code"]), (&json!(false), &json!("timeout")));
    }
}

#[test]
fn readers_share_and_one_of_them_can_make_it_exclusive_when_alone() {
    let ground = Ground::new();
    let (mut a, mut b) = (Client::new(&ground, "a", Era::Newer), Client::new(&ground, "b", Era::Older));
    for client in [&mut a, &mut b] {
        assert_eq!(client.call("lock_file", json!({ "path": "x", "mode": "shared" })).0["mode"], "shared");
    }
    let (refused, text) = a.call("lock_file", json!({ "path": "x", "wait_seconds": 0 }));
    assert_eq!((&refused["acquired"], &refused["mode"]), (&json!(false), &json!("shared")), "{text}");
    assert!(text.contains("you share it as before"), "{text}");
    b.call("unlock_file", json!({ "path": "x" }));
    let (upgraded, _) = a.call("lock_file", json!({ "path": "x" }));
    assert_eq!((&upgraded["upgraded"], &upgraded["mode"]), (&json!(true), &json!("exclusive")));
}

#[test]
fn an_advisory_lock_is_granted_beside_others_and_names_them() {
    let ground = Ground::new();
    ground.flockd("b", "lock x --note sorting").gives(0);
    let mut client = Client::new(&ground, "a", Era::Newer);
    let (held, text) = client.call("lock_file", json!({ "path": "x", "mode": "advisory" }));
    assert_eq!(
        (&held["acquired"], &held["rank"], &held["holders"][0]["agent"]),
        (&json!(true), &json!(1), &json!("b"))
    );
    assert!(text.contains("rank 1") && text.contains("b holds"), "{text}");
    assert_eq!(client.call("check_lock_status", json!({ "path": "x" })).0["may_write"], false);
}

#[test]
fn a_wait_that_would_never_end_is_refused_with_its_cycle() {
    let ground = Ground::new();
    let (mut a, mut b) = (Client::new(&ground, "a", Era::Newer), Client::new(&ground, "b", Era::Newer));
    a.call("lock_file", json!({ "path": "x" }));
    b.call("lock_file", json!({ "path": "y" }));
    let waits = a.begin_call("lock_file", json!({ "path": "y", "wait_seconds": 600 }));
    ground.until_waiting(&["a"]);
    let (refused, text) = b.call("lock_file", json!({ "path": "x", "wait_seconds": 600 }));
    assert_eq!((&refused["acquired"], &refused["code"]), (&json!(false), &json!("deadlock")));
    assert_eq!(refused["cycle"].as_array().unwrap().len(), 2, "{text}");
    b.call("unlock_file", json!({ "all": true }));
    assert_eq!(a.called("lock_file", waits).0["acquired"], true);
}

#[test]
fn statistics_are_short_and_name_what_is_asked_for_most() {
    let ground = Ground::new();
    for number in 0..9 {
        ground.flockd("b", &format!("lock file-{number}")).gives(0);
    }
    ground.flockd("c", "lock -n file-3").gives(1);
    for era in ERAS {
        let mut client = Client::new(&ground, "", era);
        let (stats, text) = client.call("lock_stats", json!({}));
        assert_eq!((&stats["locks"], &stats["requests"], &stats["refused"]), (&json!(9), &json!(10), &json!(1)));
        let hottest = stats["hottest"].as_array().unwrap();
        assert_eq!(hottest.len(), 5, "{text}");
        assert_eq!((&hottest[0]["path"], &hottest[0]["contended"]), (&json!(ground.work.join("file-3")), &json!(1)));
        assert!(text.starts_with("9 locks are held, 0 requests wait\nsince 20"), "{text}");
        assert!(text.contains("10 requests, 1 contended (10 %), 1 refused, 0 expired, 0 broken\nhottest:"), "{text}");
        assert_eq!(text.lines().count(), 8, "{text}");
        let (one, text) = client.call("lock_stats", json!({ "path": "file-5" }));
        assert_eq!(one["hottest"].as_array().unwrap().len(), 1, "{text}");
    }
}

#[test]
fn what_makes_no_sense_is_an_error_in_plain_words() {
    let ground = Ground::new();
    let mut client = Client::new(&ground, "a", Era::Newer);
    for (tool, arguments, code, says) in [
        ("lock_file", json!({}), "invalid", "path"),
        ("lock_file", json!({ "path": "" }), "invalid", ""),
        (
            "lock_file",
            json!({ "file": "x" }),
            "invalid",
            "lock_file has no argument file, but path, mode, wait_seconds, ttl_seconds, note, agent",
        ),
        ("lock_file", json!({ "paths": ["x"] }), "invalid", "several paths are for lock_files"),
        ("lock_files", json!({ "path": "x" }), "invalid", "one path is for lock_file"),
        ("lock_file", json!({ "path": null }), "invalid", "missing field `path`"),
        ("lock_file", json!({ "path": 7 }), "invalid", "path is 7, and must be a string"),
        (
            "lock_file",
            json!({ "path": "x", "ttl_seconds": "60" }),
            "invalid",
            "ttl_seconds is \"60\", and must be a number, without quotes",
        ),
        ("renew_lock", json!({ "all": "true" }), "invalid", "all is \"true\", and must be true or false"),
        ("lock_files", json!({ "paths": "x" }), "invalid", "paths is \"x\", and must be a list of strings"),
        ("lock_files", json!({ "paths": ["x", 7] }), "invalid", "paths is a list, and must be a list of strings"),
        (
            "write_file",
            json!({ "path": "x", "content": "", "fence": 1.5 }),
            "invalid",
            "fence is 1.5, and must be a whole",
        ),
        ("lock_file", json!({ "path": "x", "agent": 7 }), "invalid", "agent is 7, and must be"),
        ("lock_file", json!({ "path": "x", "pth": "y" }), "invalid", "pth"),
        ("lock_file", json!({ "path": "x", "mode": "write" }), "invalid", "exclusive"),
        ("lock_file", json!({ "path": "x", "wait_seconds": -1 }), "invalid", "wait_seconds"),
        ("lock_file", json!({ "path": "x", "wait_seconds": 601 }), "invalid", "600"),
        ("lock_file", json!({ "path": "x", "ttl_seconds": 0 }), "invalid", "ttl_seconds"),
        ("lock_file", json!({ "path": "x\0y" }), "invalid", ""),
        ("lock_file", json!({ "path": "glob:[" }), "invalid", ""),
        ("lock_file", json!({ "path": "x", "note": "n".repeat(501) }), "invalid", "500"),
        ("unlock_file", json!({}), "invalid", "exactly one"),
        ("unlock_file", json!({ "path": "x", "all": true }), "invalid", "exactly one"),
        ("unlock_file", json!({ "lock_id": "x" }), "invalid", "lk_"),
        ("unlock_file", json!({ "path": "x" }), "not_found", ""),
        ("renew_lock", json!({ "lock_id": "lk_zzz" }), "not_found", ""),
        ("check_lock_status", json!({ "path": "@" }), "invalid", ""),
        ("lock_stats", json!({ "path": "@" }), "invalid", ""),
        ("lock_stats", json!({ "top": 3 }), "invalid", "top"),
        ("write_file", json!({ "path": "x" }), "invalid", "content"),
        ("write_file", json!({ "path": ".", "content": "" }), "invalid", "directory"),
        ("write_file", json!({ "path": "no/such/x", "content": "" }), "invalid", "does not exist"),
        ("write_file", json!({ "path": "x", "content": "", "if_unchanged": "abc" }), "invalid", "BLAKE3"),
    ] {
        let (found, text) = client.call_fails(tool, arguments.clone());
        assert_eq!(found, code, "{tool} {arguments}: {text}");
        assert!(text.contains(says), "{tool} {arguments}: {text}");
    }
    assert!(!ground.work.join("x").exists() && ground.status().locks.is_empty());
    let (held, _) = client.call("lock_file", json!({ "path": "x", "mode": null, "wait_seconds": null, "agent": "" }));
    assert_eq!(held["acquired"], true, "what is null or empty is left out");
}

#[test]
fn broken_settings_keep_an_agent_from_taking_and_not_from_looking_and_giving_back() {
    let ground = Ground::new();
    let config = ground.work.join(".flockd.toml");
    ground.flockd("a", "lock x").gives(0);
    std::fs::write(&config, "\nenforcement = 'maybe'\n").unwrap();
    let mut client = Client::new(&ground, "a", Era::Newer);
    let takes = [
        ("lock_file", json!({ "path": "y" })),
        ("lock_files", json!({ "paths": ["y", "z"] })),
        ("write_file", json!({ "path": "x", "content": "new" })),
    ];
    for (tool, arguments) in takes {
        let (code, text) = client.call_fails(tool, arguments);
        assert!(code == "invalid" && text.contains(".flockd.toml") && text.contains("line 2"), "{text}");
    }
    assert_eq!(client.call("check_lock_status", json!({ "path": "x" })).0["may_write"], true);
    client.call("renew_lock", json!({ "path": "x" }));
    client.call("unlock_file", json!({ "path": "x" }));
    assert!(!ground.work.join("x").exists() && ground.status().locks.is_empty());
    std::fs::remove_file(&config).unwrap();
    client.call("lock_file", json!({ "path": "y" }));
}

#[test]
fn nobody_releases_what_is_not_theirs_and_a_loss_is_told_once_for_certain() {
    let ground = Ground::new();
    let mut client = Client::new(&ground, "a", Era::Newer);
    let theirs = ground.flockd("b", "lock x --json").gives(0).json();
    let (code, text) = client.call_fails("unlock_file", json!({ "lock_id": theirs["lock_id"] }));
    assert_eq!(code, "not_holder");
    assert!(text.contains("b holds"), "{text}");

    let (mine, _) = client.call("lock_file", json!({ "path": "y" }));
    let id = mine["lock_id"].as_str().unwrap();
    ground.flockd("b", &format!("break {id} --reason hanging")).gives(0);
    let (code, text) = client.call_fails("unlock_file", json!({ "path": "y" }));
    assert!(code == "lost" || code == "not_found", "{text}");

    let (mine, _) = client.call("lock_file", json!({ "path": "z" }));
    let id = mine["lock_id"].as_str().unwrap();
    ground.flockd("b", &format!("break {id} --reason hanging")).gives(0);
    let (other, text) = client.call("check_lock_status", json!({}));
    assert_eq!((&other["lost"][0]["lock_id"], &other["lost"][0]["by"]), (&json!(id), &json!("b")), "{text}");
    assert!(
        text.contains("you lost") && text.contains("note: \"hanging\"") && text.contains("read it again"),
        "{text}"
    );
    assert!(client.call("check_lock_status", json!({})).0.get("lost").is_none(), "it was told");
}

#[test]
fn who_waits_is_told_with_the_next_answer() {
    let ground = Ground::new();
    let mut client = Client::new(&ground, "a", Era::Newer);
    client.call("lock_file", json!({ "path": "x" }));
    let waits = ground.queue("b", "--note why x");
    ground.until_waiting(&["b"]);
    let (renewed, text) = client.call("renew_lock", json!({ "path": "x" }));
    assert_eq!((&renewed["wanted"][0]["agent"], &renewed["wanted"][0]["note"]), (&json!("b"), &json!("why")));
    assert!(text.contains("b waits for") && text.contains("unlock_file"), "{text}");
    client.call("unlock_file", json!({ "path": "x" }));
    drop(waits);
}

// ── Writing ─────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_file_is_written_under_the_agents_lock_or_one_for_the_moment_and_not_under_others() {
    let ground = Ground::new();
    let mut client = Client::new(&ground, "a", Era::Newer);
    let content = |text: &str| json!({ "path": "x", "content": text, "wait_seconds": 0 });
    let read = || fs::read_to_string(ground.work.join("x")).unwrap();

    let (written, text) = client.call("write_file", content("one\n"));
    assert_eq!((&written["written"], &written["bytes"], read().as_str()), (&json!(true), &json!(4), "one\n"), "{text}");
    assert!(ground.status().locks.is_empty(), "it was for the moment");

    let (held, _) = client.call("lock_file", json!({ "path": "x" }));
    let (written, _) = client.call("write_file", content("two\n"));
    assert_eq!((&written["fence"], read().as_str()), (&held["fence"], "two\n"));
    let mut stale = content("three\n");
    stale["fence"] = json!(held["fence"].as_u64().unwrap() - 1);
    let (refused, text) = client.call("write_file", stale);
    assert_eq!((&refused["written"], &refused["code"]), (&json!(false), &json!("not_holder")), "{text}");
    client.call("unlock_file", json!({ "path": "x" }));

    ground.flockd("b", "lock x --note sorting").gives(0);
    let (refused, text) = client.call("write_file", content("three\n"));
    assert_eq!((&refused["written"], &refused["code"]), (&json!(false), &json!("held")));
    assert!(text.starts_with("nothing was written; not locked") && text.contains("b holds"), "{text}");
    assert_eq!(read(), "two\n");
}

#[test]
fn a_file_that_is_not_what_was_read_is_not_overwritten() {
    let ground = Ground::new();
    let mut client = Client::new(&ground, "a", Era::Older);
    let write = |client: &mut Client, text: &str, unchanged: &str| {
        client.call("write_file", json!({ "path": "x", "content": text, "if_unchanged": unchanged })).0
    };
    let first = write(&mut client, "one", "absent");
    let hash = first["hash"].as_str().unwrap();
    assert_eq!(first["written"], true);
    let refused = write(&mut client, "two", "absent");
    assert_eq!(
        (&refused["written"], &refused["code"], &refused["hash"]),
        (&json!(false), &json!("changed"), &json!(hash))
    );
    assert_eq!(write(&mut client, "two", hash)["written"], true);
    assert_eq!(write(&mut client, "three", hash)["written"], false);
    assert_eq!(fs::read_to_string(ground.work.join("x")).unwrap(), "two");
}

#[test]
fn calls_of_one_agent_that_write_one_file_at_once_all_write_it() {
    let ground = Ground::new();
    let mut client = Client::new(&ground, "a", Era::Newer);
    client.call("check_lock_status", json!({}));
    let begun: Vec<u64> =
        (0..8).map(|n| client.begin_call("write_file", json!({ "path": "x", "content": format!("{n}") }))).collect();
    for id in begun {
        let (written, text) = client.called("write_file", id);
        assert_eq!(written["written"], true, "{text}");
    }
    assert!(ground.status().locks.is_empty());
    assert_eq!(fs::read_dir(&ground.work).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn a_holder_that_lost_its_lock_overwrites_nothing() {
    let ground = Ground::new();
    let mut client = Client::new(&ground, "a", Era::Newer);
    let (held, _) = client.call("lock_file", json!({ "path": "x" }));
    ground.flockd("b", &format!("break {} --reason slow", held["lock_id"].as_str().unwrap())).gives(0);
    let late = json!({ "path": "x", "content": "late", "fence": held["fence"] });
    let id = client.begin_call("write_file", late);
    let (refused, text) = client.called("write_file", id);
    assert_eq!(refused["written"], false, "{text}");
    assert!(!ground.work.join("x").exists());
}

#[test]
fn the_server_goes_on_when_the_daemon_was_stopped_or_killed() {
    let ground = Ground::new();
    let mut client = Client::new(&ground, "a", Era::Newer);
    let (held, _) = client.call("lock_file", json!({ "path": "x" }));
    ground.kill_daemon();
    assert_eq!(client.call("lock_file", json!({ "path": "x" })).0["lock_id"], held["lock_id"]);
    ground.stop_daemon();
    assert_eq!(client.call("check_lock_status", json!({ "path": "x" })).0["may_write"], true);
}

#[test]
fn without_a_daemon_a_call_says_so_and_the_server_serves_on() {
    let ground = Ground::new();
    fs::DirBuilder::new().mode(0o700).create(&ground.home).unwrap();
    fs::write(ground.home.join("journal.redb"), "not ours").unwrap();
    let mut client = Client::new(&ground, "a", Era::Newer);
    let (code, text) = client.call_fails("lock_file", json!({ "path": "x" }));
    assert_eq!(code, "unavailable", "{text}");
    assert!(text.contains("journal"), "{text}");
    fs::remove_file(ground.home.join("journal.redb")).unwrap();
    let held = until("the daemon starts", || {
        let id = client.begin_call("lock_file", json!({ "path": "x" }));
        Some(client.answer(id)["result"]["structuredContent"].take()).filter(|held: &Value| held["acquired"] == true)
    });
    assert!(held["lock_id"].is_string());
}

#[test]
fn a_daemon_that_is_stopped_is_answered_for_before_clients_cut_the_call() {
    let ground = Ground::new();
    let mut client = Client::new(&ground, "a", Era::Newer);
    client.call("lock_file", json!({ "path": "x" }));
    let daemon = ground.daemon_pid();
    signal(daemon, Signal::STOP);
    let begun = Instant::now();
    let calls = [
        client.begin_call("lock_file", json!({ "path": "y", "wait_seconds": 0 })),
        client.begin_call("check_lock_status", json!({ "path": "x" })),
        client.begin_call("write_file", json!({ "path": "z", "content": "1", "wait_seconds": 0 })),
    ];
    for id in calls {
        let answer = client.answer(id);
        let value = &answer["result"]["structuredContent"];
        assert_eq!(value["code"], "unavailable", "{answer}");
        assert!(value["message"].as_str().unwrap().contains("does not answer"), "{answer}");
    }
    assert!(begun.elapsed().as_secs() < 25, "it took {:?}", begun.elapsed());
    signal(daemon, Signal::CONT);
    assert_eq!(client.call("check_lock_status", json!({ "path": "x" })).0["may_write"], true);
    assert!(!ground.work.join("z").exists());
}

#[test]
fn a_name_that_looks_like_something_else_is_said_by_every_tool_that_takes_it() {
    let ground = Ground::new();
    let mut client = Client::new(&ground, "a", Era::Newer);
    let (held, text) = client.call("lock_files", json!({ "paths": ["plain", "*.rs", "~/x"] }));
    assert!(text.contains("a pattern is glob:*.rs") && text.contains("write the home directory out"), "{text}");
    assert_eq!(held["locks"][0].get("advice"), None, "{held}");
    client.call("unlock_file", json!({ "all": true }));
    for (path, says) in [
        ("~/x", "~ is a part of this name"),
        ("file:///tmp/x", "give a path, no URL"),
        ("src/*/x", "name the one file"),
        ("none/x", "make it first"),
    ] {
        let (code, text) = client.call_fails("write_file", json!({ "path": path, "content": "1" }));
        assert!(code == "invalid" && text.contains(says) && text.contains("does not exist"), "{path}: {text}");
    }
    let (written, text) = client.call("write_file", json!({ "path": "*.rs", "content": "1" }));
    assert_eq!(written["written"], true);
    assert!(written["advice"].as_str().unwrap().contains("* is a part of this name"), "{written}");
    assert!(text.contains("name the one file"), "{text}");
    let (written, _) = client.call("write_file", json!({ "path": "*.rs", "content": "2" }));
    assert_eq!(written.get("advice"), None, "it is there now");
}

#[test]
fn what_to_do_is_said_in_tools_where_there_is_one() {
    let ground = Ground::new();
    let mut client = Client::new(&ground, "a", Era::Newer);
    for tool in ["unlock_file", "renew_lock"] {
        let (code, text) = client.call_fails(tool, json!({ "path": "nobodys" }));
        assert_eq!(code, "not_found");
        assert_eq!(text, "nobodys: no such lock is held; check_lock_status shows what is", "{tool}");
    }
    fs::create_dir(ground.work.join("dir")).unwrap();
    fs::write(ground.work.join("dir/f"), "1").unwrap();
    client.call("lock_file", json!({ "path": "dir", "mode": "shared" }));
    let arguments = json!({ "path": "dir/f", "content": "1", "fence": 1 });
    let (_, text) = client.call("write_file", arguments);
    assert!(text.contains("lock_file and mode exclusive makes it yours alone"), "{text}");
    assert_eq!(client.call("lock_file", json!({ "path": "dir" })).0["upgraded"], true, "it does");
    let (_, text) = client.call_fails("unlock_file", json!({ "path": "dir/f" }));
    assert!(text.contains("name the lock itself: lock_id lk_") && !text.contains('`'), "{text}");
}
