//! Writes around the locks, by programs that do not ask: told where readers hold the file, and nowhere else.

use crate::events::Running;
use crate::util::{Done, Ground, until};
use serde_json::{Value, json};
use std::fs;
use std::io::Write as _;

fn append(ground: &Ground, name: &str) {
    let file = fs::OpenOptions::new().create(true).append(true).open(ground.work.join(name));
    file.unwrap().write_all(b"x").unwrap();
}

fn violations(ground: &Ground) -> u64 {
    ground.flockd("", "stats --json").gives(0).json()["total"]["violations"].as_u64().unwrap()
}

/// A ground with these files whose directory is watched by now, and whoever is told from now on. A watch stands a
/// moment after the grant: a hint is no promise. What was written before it is not seen, and taken for nothing later.
fn watched(names: &[&str]) -> (Ground, Running) {
    let ground = Ground::new();
    append(&ground, "first");
    names.iter().for_each(|name| append(&ground, name));
    ground.flockd("reader", "lock -s first").gives(0);
    until("a write is seen", || {
        append(&ground, "first");
        (violations(&ground) > 0).then_some(())
    });
    let watch = Running::start(&ground, &["watch", "--json", "--event", "lock.violation"]);
    (ground, watch)
}

fn held_by_readers(ground: &Ground, names: &[&str]) {
    for name in names {
        ground.flockd("reader", &format!("lock -s {name}")).gives(0);
    }
}

/// The next that is told: which file, and how.
fn next(watch: &mut Running) -> (String, String) {
    let event = watch.json();
    let word = |key: &str| event[key].as_str().unwrap_or_else(|| panic!("no {key} in {event}")).to_owned();
    (word("file_id"), word("how"))
}

fn is(file: &str, how: &str) -> (String, String) {
    (file.to_owned(), how.to_owned())
}

#[test]
fn whoever_writes_what_readers_hold_is_told_once_with_the_lock() {
    let (ground, mut watch) = watched(&["data", "next"]);
    let lock = ground.flockd("reader", "lock -s data --note why --json").gives(0).json();
    append(&ground, "data");
    append(&ground, "data");
    let event = watch.json();
    let told = ["event", "type", "file_id", "acquired_by", "mode", "how", "note"].map(|key| event[key].clone());
    assert_eq!(
        Value::from(told.to_vec()),
        json!(["lock.violation", "lock.violation", "data", "reader", "shared", "written", "why"])
    );
    assert_eq!((&event["lock_id"], &event["fence"]), (&lock["lock_id"], &lock["fence"]));
    assert_eq!(event.get("by"), None, "nothing tells who it was");
    held_by_readers(&ground, &["next"]);
    append(&ground, "next");
    assert_eq!(next(&mut watch), is("next", "written"), "the second write was not told");
}

#[test]
fn what_was_done_to_the_file_is_told_apart() {
    const FILES: [&str; 5] = ["appended", "cut", "replaced", "deleted", "moved"];
    let (ground, mut watch) = watched(&FILES);
    held_by_readers(&ground, &FILES);
    ground.flockd("reader", "lock -s made").gives(0);
    let at = |name: &str| ground.work.join(name);
    append(&ground, "appended");
    fs::File::create(at("cut")).unwrap();
    fs::write(at("new"), "new").unwrap();
    fs::rename(at("new"), at("replaced")).unwrap();
    fs::remove_file(at("deleted")).unwrap();
    fs::rename(at("moved"), at("elsewhere")).unwrap();
    append(&ground, "made");
    let told: Vec<(String, String)> = (0..6).map(|_| next(&mut watch)).collect();
    let expected = [
        is("appended", "written"),
        is("cut", "written"),
        is("replaced", "replaced"),
        is("deleted", "deleted"),
        is("moved", "deleted"),
        is("made", "written"),
    ];
    assert_eq!(told, expected);
}

#[test]
fn whoever_may_write_violates_nothing() {
    let (ground, mut watch) = watched(&["upgraded", "last"]);
    held_by_readers(&ground, &["upgraded", "last"]);
    append(&ground, "held");
    Done::of(ground.command("writer", &["run", "held", "--", "sh", "-c", "echo >> held"])).gives(0);
    ground.flockd("reader", "lock -s held").gives(0);
    let mut write = ground.command("writer", &["write", "put"]);
    write.stdin(fs::File::open(ground.work.join("held")).unwrap());
    Done::of(write).gives(0);
    ground.flockd("reader", "lock -s put").gives(0);
    ground.flockd("reader", "upgrade upgraded").gives(0);
    append(&ground, "upgraded");
    ground.flockd("reader", "downgrade upgraded").gives(0);
    // What nobody holds, and what is read and not written.
    append(&ground, "free");
    fs::read(ground.work.join("last")).unwrap();
    append(&ground, "last");
    assert_eq!(next(&mut watch), is("last", "written"));
}

#[test]
fn writes_around_locks_are_counted_and_shown_to_people() {
    let (ground, _watch) = watched(&[]);
    let stats = ground.flockd("", "stats --json").gives(0).json();
    assert_eq!((&stats["total"]["violations"], &stats["events"]["lock.violation"]), (&json!(1), &json!(1)));
    assert_eq!((&stats["scopes"][0]["file_id"], &stats["scopes"][0]["violations"]), (&json!("first"), &json!(1)));
    let text = ground.flockd("", "stats").gives(0).out;
    assert!(text.contains("1 writes around locks"), "{text}");
    let mut watch = Running::start(&ground, &["watch", "--since", "0", "--event", "lock.violation"]);
    let line = watch.line();
    assert!(line.contains("violation reader") && line.contains("first shared"), "{line}");
    assert!(line.ends_with(": the file was written around the lock"), "{line}");
}

#[test]
fn readers_are_watched_for_again_after_a_restart() {
    let (ground, watch) = watched(&[]);
    drop(watch);
    ground.kill_daemon();
    until("a write is seen by the next daemon", || {
        append(&ground, "first");
        (violations(&ground) > 0).then_some(())
    });
}

#[test]
fn a_directory_that_moved_away_is_not_taken_for_the_one_made_anew() {
    let (ground, mut watch) = watched(&[]);
    let at = |name: &str| ground.work.join(name);
    let make = || {
        // Nothing in `above` itself is locked: no watch there tells of what moves in it.
        fs::create_dir_all(at("above/dir")).unwrap();
        ["above/dir/data", "above/dir/last"].iter().for_each(|name| append(&ground, name));
    };
    let mut probes = 0;
    // A lock in it is what has it watched, and watched again where the watcher has heard that it has moved.
    let mut until_watched = || {
        let before = violations(&ground);
        until("a write is seen", || {
            probes += 1;
            let name = format!("above/dir/probe-{probes}");
            held_by_readers(&ground, &[&name]);
            append(&ground, &name);
            (violations(&ground) > before).then_some(())
        });
    };
    make();
    until_watched();
    fs::rename(at("above/dir"), at("above/away")).unwrap();
    make();
    until_watched();
    held_by_readers(&ground, &["above/dir/data", "above/dir/last"]);
    append(&ground, "above/away/data");
    append(&ground, "above/dir/last");
    let told = std::iter::from_fn(|| Some(next(&mut watch)).filter(|told| *told != is("above/dir/last", "written")));
    let others: Vec<(String, String)> = told.filter(|(name, _)| !name.starts_with("above/dir/probe-")).collect();
    assert_eq!(others, []);
}
