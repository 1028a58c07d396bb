//! One-shot commands: lock, unlock, renew, check, wait, break, status; what they print and how they end.

use crate::util::{Done, Ground};
use serde_json::Value;
use std::collections::BTreeSet;
use std::os::unix::fs::symlink;

/// What a script relies on; more may be there.
const LOCK_FIELDS: &str = "acquired lock_id workspace_id file_id mode agent fence ttl_ms expires_in_ms already_held \
                           resumed os_lock holders position ticket advice";
const HOLDER_FIELDS: &str = "agent mode lock_id since expires_in_ms note pid";
const WAITER_FIELDS: &str = "agent mode workspace_id file_id since wait_left_ms position holders note pid";
const DAEMON_FIELDS: &str = "pid version home socket uptime_ms locks waiters sessions";

#[track_caller]
fn has_fields(value: &Value, fields: &str) {
    let there: BTreeSet<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    let missing: Vec<&str> = fields.split_whitespace().filter(|field| !there.contains(field)).collect();
    assert!(missing.is_empty(), "{missing:?} are missing in {value}");
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

#[test]
fn a_lock_is_told_with_the_names_that_scripts_rely_on() {
    let ground = Ground::new();
    let lock = ground.flockd("claw-1", "lock data.json --note why --ttl 5m --json").gives(0).json();
    has_fields(&lock, LOCK_FIELDS);
    assert_eq!(lock["acquired"], true);
    assert_eq!(lock["file_id"], "data.json");
    assert_eq!(lock["mode"], "exclusive");
    assert_eq!(lock["agent"], "claw-1");
    assert_eq!(lock["ttl_ms"], 300_000);
    assert!(lock["expires_in_ms"].as_u64().unwrap() <= 300_000);
    assert!(text(&lock["lock_id"]).starts_with("lk_") && text(&lock["workspace_id"]).starts_with("ws_"));
    assert!(lock["fence"].as_u64().unwrap() < 1 << 53);
    for field in ["already_held", "resumed"] {
        assert_eq!(lock[field], false, "{field}");
    }

    let refused = ground.flockd("claw-2", "lock -n data.json --json").gives(1).json();
    has_fields(&refused, LOCK_FIELDS);
    assert_eq!(refused["acquired"], false);
    assert_eq!(refused["code"], "held");
    assert_eq!(refused["position"], 1);
    assert!(text(&refused["advice"]).contains("claw-1"));
    let holder = &refused["holders"][0];
    has_fields(holder, HOLDER_FIELDS);
    for (field, value) in [("agent", "claw-1"), ("mode", "exclusive"), ("note", "why")] {
        assert_eq!(holder[field], value);
    }
    assert_eq!(holder["lock_id"], lock["lock_id"]);
}

#[test]
fn status_lists_locks_and_waiters_and_tells_of_the_daemon() {
    let ground = Ground::new();
    ground.flockd("a", "lock data.json").gives(0);
    let _waiting = ground.queue("b", "data.json");
    ground.until_waiting(&["b"]);
    for command in ["status --json", "ls --json", "status data.json --json"] {
        let status = ground.flockd("", command).gives(0).json();
        has_fields(&status["locks"][0], HOLDER_FIELDS);
        has_fields(&status["waiters"][0], WAITER_FIELDS);
        assert_eq!(status["waiters"][0]["agent"], "b");
        assert_eq!(status["waiters"][0]["holders"][0]["agent"], "a");
    }
    let elsewhere = ground.flockd("", "status other.json --json").gives(0).json();
    assert_eq!(elsewhere["locks"], Value::Array(Vec::new()));
    let daemon = ground.flockd("", "daemon status --json").gives(0).json();
    has_fields(&daemon, DAEMON_FIELDS);
    assert_eq!((&daemon["locks"], &daemon["waiters"]), (&1.into(), &1.into()));
    assert_eq!(daemon["pid"], ground.daemon_pid());
    assert_eq!(daemon["home"], ground.home.to_str().unwrap());

    let table = ground.flockd("", "ls").gives(0).out;
    for shown in ["data.json", "a", "b", "place 1", "waits for ever", "behind a"] {
        assert!(table.contains(shown), "{table}");
    }
}

#[test]
fn a_lock_asked_for_twice_is_the_same_with_its_lease_renewed_and_not_added_up() {
    let ground = Ground::new();
    let first = ground.flockd("a", "lock x --ttl 1h --json").gives(0).json();
    let second = ground.flockd("a", "lock x --ttl 10m --json").gives(0).json();
    assert_eq!(second["already_held"], true);
    for field in ["lock_id", "fence"] {
        assert_eq!(first[field], second[field]);
    }
    assert_eq!(second["ttl_ms"], 600_000);
    assert!(second["expires_in_ms"].as_u64().unwrap() <= 600_000, "{second}");
    let again = ground.flockd("a", "lock -s x --json").gives(0).json();
    assert_eq!((&again["mode"], &again["already_held"]), (&"exclusive".into(), &true.into()), "the mode in force");
}

#[test]
fn a_request_is_repeated_by_its_id_and_only_unchanged() {
    let ground = Ground::new();
    let ask = "lock x --request-id r-1 --json";
    let first = ground.flockd("a", ask).gives(0).json();
    let second = ground.flockd("a", ask).gives(0).json();
    for field in ["lock_id", "fence"] {
        assert_eq!(first[field], second[field]);
    }
    for other in ["lock y --request-id r-1 --json", "lock -s x --request-id r-1 --json"] {
        let refused = ground.flockd("a", other).gives(2).json();
        assert_eq!(refused["error"]["code"], "invalid");
    }
    ground.flockd("a", "unlock x").gives(0);
    let late = ground.flockd("a", ask).gives(1).json();
    assert_eq!(late["error"]["code"], "lost");
    assert_eq!(late["error"]["loss"]["lock_id"], first["lock_id"]);
    assert_eq!(ground.status().locks, []);
}

#[test]
fn nobody_unlocks_or_renews_what_somebody_else_holds() {
    let ground = Ground::new();
    let lock = ground.flockd("owner", "lock x --json").gives(0).json();
    for verb in ["unlock", "renew"] {
        ground.flockd("other", &format!("{verb} x")).gives(1).says(&["you do not hold it", "owner"]);
        let by_id = format!("{verb} --id {} --json", text(&lock["lock_id"]));
        let refused = ground.flockd("other", &by_id).gives(1).json();
        assert_eq!(refused["error"]["code"], "not_holder");
        assert_eq!(refused["error"]["holders"][0]["agent"], "owner");
        ground.flockd("other", &format!("{verb} --all")).gives(0);
        ground.flockd("other", &format!("{verb} y")).gives(1).says(&["no such lock"]);
    }
    assert_eq!(ground.status().locks.len(), 1);
    let released = ground.flockd("owner", "unlock x --json").gives(0).json();
    assert_eq!(released["released"][0]["lock_id"], lock["lock_id"]);
}

#[test]
fn unlock_takes_many_scopes_and_goes_on_after_one_that_fails() {
    let ground = Ground::new();
    for scope in ["x", "y", "z"] {
        ground.flockd("a", &format!("lock {scope}")).gives(0);
    }
    let done = ground.flockd("a", "unlock x nothing y").gives(1).says(&["nothing: no such lock is held"]);
    assert_eq!(done.out, "x is unlocked\ny is unlocked\n");
    assert_eq!(ground.status().locks.len(), 1);
    let done = ground.flockd("a", "renew nothing z --json").gives(1).out;
    let lines: Vec<Value> = done.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["renewed"][0]["file_id"], lines.len()), (&"z".into(), 2), "{done}");
    assert!(text(&lines[1]["error"]["message"]).starts_with("nothing: no such lock"), "{done}");
    ground.flockd("a", "unlock --all").gives(0);
    assert_eq!(ground.status().locks, []);
}

#[test]
fn a_broken_lock_is_told_to_its_holder_once() {
    let ground = Ground::new();
    let lock = ground.flockd("victim", "lock x --json").gives(0).json();
    let id = text(&lock["lock_id"]);
    ground.flockd("boss", &format!("break {id}")).gives(2);
    ground.flockd("boss", "break lk_zzzz --reason x").gives(1);
    let broken =
        Done::of(ground.command("boss", &["break", &id, "--reason", "hangs since noon", "--json"])).gives(0).json();
    assert_eq!((&broken["agent"], &broken["by"]), (&"victim".into(), &"boss".into()));

    assert_eq!(ground.flockd("boss", "ls").gives(0).err, "", "only its holder is told");
    assert_eq!(ground.flockd("victim", "lock y").gives(0).err, "", "the call is about something else");
    ground.flockd("victim", "ls").gives(0).says(&["you lost x", &id, "boss broke it: hangs since noon"]);
    assert_eq!(ground.flockd("victim", "ls").gives(0).err, "", "once");
}

#[test]
fn a_notice_of_loss_is_not_swallowed_by_json_nor_by_an_error() {
    let ground = Ground::new();
    for ask in ["ls --json", "unlock src/a.rs"] {
        let lock = ground.flockd("victim", "lock src/ --json").gives(0).json();
        ground.flockd("boss", &format!("break {} --reason r", text(&lock["lock_id"]))).gives(0);
        let done = ground.flockd("victim", ask).says(&["you lost src/"]);
        assert_eq!(done.code, Some(i32::from(ask.starts_with("unlock"))), "{done:?}");
    }
}

#[test]
fn to_release_a_lock_that_was_lost_is_an_error_that_says_when_and_to_whom() {
    let ground = Ground::new();
    let lock = ground.flockd("slow", "lock x --json").gives(0).json();
    ground.flockd("boss", &format!("break {} --reason r", text(&lock["lock_id"]))).gives(0);
    ground.flockd("next", "lock x").gives(0);
    let told = ground.flockd("slow", "unlock x").gives(1).says(&["was lost: boss broke it at 20", "next holds it"]);
    assert_eq!(told.err.matches("boss").count(), 1, "told once: {told:?}");
    let again = ground.flockd("slow", &format!("unlock --id {} --json", text(&lock["lock_id"]))).gives(1).json();
    assert_eq!(again["error"]["code"], "lost");
    assert_eq!(again["error"]["loss"]["reason"], "broken");
    assert_eq!(again["error"]["holders"][0]["agent"], "next");

    ground.flockd("slow", "lock y --ttl 0.05").gives(0);
    ground.flockd("", "wait y").gives(0);
    ground.flockd("slow", "unlock y").gives(1).says(&["its lease ran out at 20", "nobody holds it now"]);
}

#[test]
fn wait_returns_when_the_lease_of_the_holder_runs_out() {
    let ground = Ground::new();
    ground.flockd("a", "lock x --ttl 1s").gives(0);
    assert_eq!(ground.flockd("", "wait x --wait forever --json").gives(0).json()["free"], true);
    assert_eq!(ground.status().locks, []);
    ground.flockd("a", "lock -s x").gives(0);
    ground.flockd("", "wait -n -s x").gives(0);
    ground.flockd("", "wait -n x").gives(1).says(&["a holds x"]);
    ground.flockd("", "wait -w 0.01 x").gives(3);
}

#[test]
fn a_lock_waits_its_time_and_says_that_it_was_in_vain() {
    let ground = Ground::new();
    ground.flockd("a", "lock x").gives(0);
    for flag in ["-w 0.05", "--wait 50ms"] {
        ground.flockd("b", &format!("lock {flag} x")).gives(3).says(&["not free in time", "a holds x"]);
    }
    assert_eq!(ground.flockd("b", "lock -w 0.05 x --json").gives(3).json()["code"], "timeout");
    for flag in ["-n", "--wait 0"] {
        ground.flockd("b", &format!("lock {flag} x")).gives(1).says(&["is held"]);
    }
    assert_eq!(ground.status().waiters.len(), 1, "one place is kept for it");
    ground.flockd("b", "unlock x").gives(0);
    assert_eq!(ground.status().waiters, []);
}

#[test]
fn check_says_whether_this_agent_may_write_under_this_fence() {
    let ground = Ground::new();
    let fence = ground.flockd("a", "lock src/ --json").gives(0).json()["fence"].as_u64().unwrap();
    ground.flockd("a", "check src/main.rs").gives(0);
    ground.flockd("a", &format!("check src/ --fence {fence}")).gives(0);
    let other = ground.flockd("a", &format!("check src/ --fence {}", fence + 1)).gives(1);
    other.says(&["under this fence", &format!("you hold it under fence {fence} ("), &format!(", not {}", fence + 1)]);
    ground.flockd("b", "check src/main.rs").gives(1).says(&["a holds src/"]);
    let refused = ground.flockd("b", &format!("check src/ --fence {fence} --json")).gives(1).json();
    assert_eq!((&refused["allowed"], &refused["holders"][0]["agent"]), (&false.into(), &"a".into()));
    ground.flockd("a", "lock -s doc").gives(0);
    let shared = ground.status().locks[1].lock_id.clone();
    ground
        .flockd("a", "check doc")
        .gives(1)
        .says(&[&format!("you only share it ({shared}); `flockd upgrade --id {shared}`")]);
    ground.flockd("a", "check .").gives(1).says(&["you hold only a part of it, src/ ("]);
    ground.flockd("a", "lock out").gives(0);
    std::fs::create_dir(ground.work.join("out")).unwrap();
    ground.flockd("a", "check out/log").gives(1).says(&["you locked out (", "when it was no directory; lock it again"]);
    ground.flockd("a", "lock --advisory @see").gives(0);
    ground.flockd("a", "check @see").gives(1).says(&["is advisory and protects no write"]);
    ground.flockd("a", "unlock src/").gives(0);
    let free = ground.flockd("a", "check src/").gives(1);
    assert_eq!(free.err, "flockd: you do not hold src/ exclusively\n");
}

#[test]
fn a_downgrade_says_whether_it_changed_anything() {
    let ground = Ground::new();
    let id = text(&ground.flockd("a", "lock x --json").gives(0).json()["lock_id"]);
    let first = ground.flockd("a", "downgrade x").gives(0).out;
    assert!(first.starts_with("downgraded x shared, lk_"), "{first}");
    for which in ["x".to_owned(), format!("--id {id}")] {
        let again = ground.flockd("a", &format!("downgrade {which}")).gives(0).out;
        assert!(again.starts_with("shared already: x shared, lk_"), "{again}");
    }
}

#[test]
fn renew_starts_the_lease_anew_with_the_ttl_that_is_named() {
    let ground = Ground::new();
    ground.flockd("a", "lock x --ttl 5s").gives(0);
    let renewed = ground.flockd("a", "renew x --ttl 2h --json").gives(0).json();
    assert_eq!(renewed["renewed"][0]["ttl_ms"], 7_200_000);
    // The bound on how long a lock is held without a session, 60 min, stays.
    let left = renewed["renewed"][0]["expires_in_ms"].as_u64().unwrap();
    assert!(left > 3_000_000 && left <= 3_600_000, "{left}");
    ground.flockd("a", "renew x --ttl 0").gives(2);
}

#[test]
fn all_spellings_of_a_path_are_one_lock() {
    let ground = Ground::new();
    std::fs::create_dir_all(ground.work.join("dir/sub")).unwrap();
    std::fs::write(ground.work.join("dir/data.json"), "").unwrap();
    symlink("dir", ground.work.join("link")).unwrap();
    symlink("dir/data.json", ground.work.join("alias")).unwrap();
    std::fs::hard_link(ground.work.join("dir/data.json"), ground.work.join("second")).unwrap();
    ground.flockd("a", "lock dir/data.json").gives(0);
    let absolute = ground.work.join("link/data.json").display().to_string();
    let spellings = ["./dir/../dir/data.json", "link/data.json", "alias", "dir//data.json", "second", &absolute];
    for spelling in spellings {
        ground.flockd("b", &format!("lock -n {spelling}")).gives(1).says(&["a holds dir/data.json"]);
        assert_eq!(ground.flockd("a", &format!("lock {spelling} --json")).gives(0).json()["already_held"], true);
    }
    let mut below = ground.command("b", &["lock", "-n", "../data.json"]);
    below.current_dir(ground.work.join("dir/sub"));
    Done::of(below).gives(1);
    // What does not exist yet is found by its existing parent.
    ground.flockd("a", "lock link/new/file").gives(0);
    ground.flockd("b", "lock -n dir/new/file").gives(1);
}

#[test]
fn a_directory_and_what_lies_below_it_exclude_each_other() {
    let ground = Ground::new();
    std::fs::create_dir(ground.work.join("src")).unwrap();
    ground.flockd("a", "lock src/deep/file.rs").gives(0);
    assert_eq!(ground.flockd("b", "lock -n src --json").gives(1).json()["file_id"], "src/");
    ground.flockd("b", "lock -n .").gives(1);
    ground.flockd("b", "lock -n src/deep/other.rs").gives(0);
    ground.flockd("b", "lock -n srcs/").gives(0);
    ground.flockd("a", "unlock --all").gives(0);
    ground.flockd("b", "unlock --all").gives(0);
    ground.flockd("b", "lock -s -n src/").gives(0);
    ground.flockd("a", "lock -n src/deep/file.rs").gives(1);
    ground.flockd("a", "lock -s -n src/deep/file.rs").gives(0);
    ground.flockd("a", "lock -n coming/").gives(0);
    ground.flockd("b", "lock -n coming/file").gives(1);
}

#[test]
fn a_resource_is_no_file() {
    let ground = Ground::new();
    let lock = ground.flockd("a", "lock @x --json").gives(0).json();
    assert_eq!(lock["file_id"], "@x");
    assert_eq!(ground.flockd("b", "lock -n ./@x --json").gives(0).json()["file_id"], "@x");
    ground.flockd("b", "lock -n @x").gives(1).says(&["a holds @x"]);
    ground.flockd("b", "lock -n @y").gives(0);
    assert_eq!(ground.status().locks.len(), 3);
}

#[test]
fn a_name_of_any_bytes_is_locked_and_shown_harmlessly() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let ground = Ground::new();
    let name = OsStr::from_bytes(b"\xff\x1b[31m \n.txt");
    let mut command = ground.command("a", &["lock", "--json"]);
    let lock = Done::of({
        command.arg(name);
        command
    });
    assert_eq!(lock.gives(0).json()["file_id"], "\\xff\u{1b}[31m \n.txt");
    let shown = ground.flockd("", "ls").gives(0).out;
    assert!(!shown.contains('\u{1b}') && shown.lines().count() == 2, "{shown:?}");
    let mut command = ground.command("b", &["lock", "-n"]);
    command.arg(name);
    Done::of(command).gives(1);
}

#[test]
fn a_name_that_looks_like_something_else_is_locked_and_it_is_said() {
    let ground = Ground::new();
    std::fs::write(ground.work.join("is*there"), "").unwrap();
    let told = |name: &str| {
        let done = Done::of(ground.command("a", &["lock", name])).gives(0);
        let ran = Done::of(ground.command("b", &["run", "-s", &format!("{name}2"), "--", "true"])).gives(0);
        (done.out.lines().count() > 1, ran.err, done.out)
    };
    for (name, hint) in [
        ("src/*.rs", "a pattern is glob:src/*.rs"),
        ("~/notes", "write the home directory out"),
        ("file:///tmp/x", "give a path, no URL"),
    ] {
        let (is_told, by_run, text) = told(name);
        assert!(is_told && text.contains(hint), "{text}");
        assert!(by_run.contains(hint.split(' ').next_back().unwrap()), "{by_run}");
    }
    for name in ["app/[id]/page.tsx", "new{a,b}", "~x", "plain"] {
        let (is_told, by_run, _) = told(name);
        assert!(!is_told && by_run.is_empty(), "{name}: {by_run}");
    }
    assert!(!told("is*there").0);
}

#[test]
fn who_waits_for_a_lock_is_told_to_its_holder() {
    let ground = Ground::new();
    ground.flockd("a", "lock x").gives(0);
    let mut waiting = ground.queue("b", "x");
    ground.until_waiting(&["b"]);
    ground.flockd("a", "check x").gives(0).says(&["b waits for x", "flockd unlock x"]);
    // It looks at the lock before, and says it once all the same.
    let downgraded = ground.flockd("a", "downgrade x").gives(0).err;
    assert_eq!(downgraded.matches("b waits for x").count(), 1, "{downgraded}");
    ground.flockd("a", "unlock x").gives(0);
    waiting.granted();
    assert_eq!(waiting.end(), Some(0));
}
