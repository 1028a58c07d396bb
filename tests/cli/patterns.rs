//! Patterns at the command line: quoted, refused by name, in every verb, and names that become directories.

use crate::util::Ground;
use std::fs;

fn args(ground: &Ground, agent: &str, args: &[&str]) -> crate::util::Done {
    crate::util::Done::of(ground.command(agent, args))
}

#[test]
fn a_pattern_is_locked_checked_shown_renewed_and_released_as_any_scope() {
    let ground = Ground::new();
    fs::create_dir(ground.work.join("src")).unwrap();
    let lock = ground.flockd("a", "lock glob:src/**/*.rs --json").gives(0).json();
    assert_eq!((&lock["file_id"], &lock["os_lock"]), (&"glob:src/**/*.rs".into(), &false.into()));
    assert!(lock["advice"].as_str().unwrap().contains("flocked"), "{lock}");
    for held in
        ["lock -n src/main.rs", "lock -n src/new/x.rs", "lock -n src/", "wait -n src", "run -n src/a.rs -- true"]
    {
        assert!(ground.flockd("b", held).gives(1).err.contains("glob:src/**/*.rs"), "{held}");
    }
    let refused = ground.flockd("b", "lock -n --glob src/m* --json").gives(1).json();
    assert!(refused["advice"].as_str().unwrap().ends_with("; both match src/m.rs"), "{refused}");
    for free in
        ["lock -n src/main.md", "lock -n --glob src/*.md", "lock -n @src/a.rs", "lock --glob -n @x", "lock -n app/[id]"]
    {
        ground.flockd("b", free).gives(0);
    }
    for mine in ["check src/a/b.rs", "check --glob src/a/*.rs", "renew --glob src/**/*.rs", "check glob:src/**/*.rs"] {
        ground.flockd("a", mine).gives(0);
    }
    ground.flockd("a", "check src/a/b.md").gives(1);
    let again = ground.flockd("a", "lock src/a.rs --json").gives(0).json();
    assert_eq!((&again["already_held"], &again["lock_id"]), (&true.into(), &lock["lock_id"]));
    let shown = ground.flockd("", "ls --glob src/*.rs").gives(0).out;
    assert!(shown.contains("glob:src/**/*.rs") && !shown.contains("main.md"), "{shown}");
    assert!(ground.flockd("b", "unlock glob:src/**/*.rs").gives(1).err.contains("you do not hold it"));
    ground.flockd("a", "unlock --glob src/**/*.rs").gives(0);
    ground.flockd("b", "lock -n src/main.rs").gives(0);
}

#[test]
fn only_what_says_so_is_a_pattern_and_bad_ones_are_refused_by_name() {
    let ground = Ground::new();
    ground.flockd("a", "lock *.rs").gives(0);
    ground.flockd("b", "lock -n main.rs").gives(0);
    ground.flockd("b", "lock -n ./glob:x").gives(0);
    assert!(ground.flockd("b", "lock -n --glob \\*.rs").gives(1).err.contains("*.rs"), "escaped, it is that file");
    for (text, word) in
        [("a[b", "`[`"), ("{a,b", "`{`"), ("a**", "whole component"), ("src/*/", "slash"), ("*/..", "`..`")]
    {
        let refused = args(&ground, "b", &["lock", "--glob", text]).gives(2);
        assert!(refused.err.contains(word), "{text}: {}", refused.err);
    }
    assert_eq!(ground.flockd("", "ls --json").gives(0).json()["locks"].as_array().unwrap().len(), 3);
}

#[test]
fn a_pattern_survives_the_daemon() {
    let ground = Ground::new();
    let lock = ground.flockd("a", "lock glob:d/{a,b}/**/*.txt --json").gives(0).json();
    crate::util::kill_9(ground.daemon_status().pid);
    let held = ground.flockd("", "ls --json").gives(0).json();
    assert_eq!(held["locks"][0]["lock_id"], lock["lock_id"]);
    assert_eq!(held["locks"][0]["path"], lock["path"]);
    ground.flockd("b", "lock -n d/b/c/x.txt").gives(1);
    ground.flockd("b", "lock -n d/c/x.txt").gives(0);
    ground.flockd("a", "unlock glob:d/{a,b}/**/*.txt").gives(0);
}

#[test]
fn a_name_that_became_a_directory_is_still_kept_and_found() {
    let ground = Ground::new();
    let lock = ground.flockd("a", "lock new --json").gives(0).json();
    fs::create_dir(ground.work.join("new")).unwrap();
    for held in
        ["lock -n new", "lock -n new/", "lock -n new/x", "lock -n new/deep/x", "lock -n --glob new/*", "wait -n new/x"]
    {
        ground.flockd("b", held).gives(1);
    }
    let said = ground.flockd("a", "check new/x").gives(1).err;
    assert!(said.contains("lock it again"), "{said}");
    let renewed = ground.flockd("a", "renew new --json").gives(0).json();
    assert_eq!(renewed["renewed"][0]["lock_id"], lock["lock_id"]);
    let again = ground.flockd("a", "lock new --json").gives(0).json();
    assert_eq!((&again["file_id"], &again["already_held"]), (&"new/".into(), &false.into()));
    ground.flockd("a", "check new/x").gives(0);
    let released = ground.flockd("a", "unlock new --json").gives(0).json();
    assert_eq!(released["released"].as_array().unwrap().len(), 2, "both, or the name would stay locked: {released}");
    ground.flockd("b", "lock -n new/x").gives(0);
}
