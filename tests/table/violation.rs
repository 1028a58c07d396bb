//! Writes around the locks: whose they cannot be, on which locks they are told and how often, and what is taken back.

use crate::rules::{Desk, target};
use flockd::limits::{self, SECOND};
use flockd::model::*;
use flockd::scope::Target;
use std::sync::Arc;

/// Somebody is seen to write there; what that tells: whose locks on what were written around, and how.
fn write(desk: &mut Desk, words: &str, how: Wrote) -> Vec<String> {
    write_at(desk, target(words), how)
}

fn write_at(desk: &mut Desk, target: Target, how: Wrote) -> Vec<String> {
    assert_eq!(desk.run(Command::Wrote { target, how }), [], "nobody has asked");
    let step = desk.steps.last().expect("it was carried out");
    let told = step.records.iter().filter_map(|record| match record {
        Record::Event(Event { kind: EventKind::Violation { how }, ask, .. }) => {
            Some(format!("{} {} {}", ask.who.agent, ask.target.scope, how.as_str()))
        }
        _ => None,
    });
    told.collect()
}

const NOTHING: [String; 0] = [];

#[test]
fn what_readers_hold_and_somebody_writes_is_told_on_each_of_their_locks() {
    let mut desk = Desk::new();
    desk.ask("ada", "s /d/f");
    desk.ask("bo", "s /d/");
    desk.ask("cy", "s /d/g");
    desk.ask("di", "a /d/f");
    assert_eq!(write(&mut desk, "/d/f", Wrote::Written), ["ada /d/f written", "bo /d/ written"]);
    assert_eq!(write(&mut desk, "/d/g", Wrote::Replaced), ["cy /d/g replaced"], "bo knows already");
    assert_eq!(write(&mut desk, "/e", Wrote::Deleted), NOTHING, "nobody holds it");
}

#[test]
fn the_event_names_the_lock_that_was_written_around() {
    let mut desk = Desk::new();
    desk.ask("ada", "s /f");
    let held = desk.granted();
    desk.steps.clear();
    desk.run(Command::Wrote { target: target("/f"), how: Wrote::Deleted });
    let [Record::Event(event)] = &desk.steps[0].records[..] else { panic!("{:?}", desk.steps) };
    assert_eq!((event.lock, event.fence, &event.ask), (held.id, held.fence, &held.ask));
    assert_eq!(event.kind, EventKind::Violation { how: Wrote::Deleted });
}

#[test]
fn an_advisory_lock_alone_keeps_nobody_from_writing() {
    let mut desk = Desk::new();
    desk.ask("ada", "a /f");
    assert_eq!(write(&mut desk, "/f", Wrote::Written), NOTHING);
}

#[test]
fn who_holds_it_exclusively_may_write() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    assert_eq!(write(&mut desk, "/f", Wrote::Written), NOTHING);
    // One agent may hold both: the directory to write in, a file in it to read.
    desk.ask("bo", "s /d/f");
    desk.ask("bo", "x /d/");
    assert_eq!(write(&mut desk, "/d/f", Wrote::Written), NOTHING);
}

#[test]
fn what_the_daemon_puts_in_place_is_no_violation() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    desk.commit("ada", "/f", None);
    assert_eq!(write(&mut desk, "/f", Wrote::Replaced), NOTHING, "it is just being put there");
    desk.in_place();
    desk.unlock("ada", "/f");
    desk.ask("bo", "s /f");
    assert_eq!(write(&mut desk, "/f", Wrote::Replaced), NOTHING, "and is seen late");
}

#[test]
fn a_write_that_is_seen_after_the_release_was_the_holders() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    desk.wait("bo", "s /f");
    desk.unlock("ada", "/f");
    desk.pass(limits::VIOLATION_GRACE - 1);
    assert_eq!(write(&mut desk, "/f", Wrote::Written), NOTHING);
    desk.pass(1);
    assert_eq!(write(&mut desk, "/f", Wrote::Written), ["bo /f written"]);
}

#[test]
fn whatever_ends_an_exclusive_lock_its_holder_may_have_written_until_then() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    desk.downgrade("ada", "/f");
    assert_eq!(write(&mut desk, "/f", Wrote::Written), NOTHING, "made shared");
    desk.ttl(SECOND).ask("bo", "x /g");
    desk.ask("cy", "s /h");
    desk.wait("cy", "s /g");
    desk.pass(SECOND);
    assert_eq!(write(&mut desk, "/g", Wrote::Written), NOTHING, "its lease has run out");
    desk.ask("di", "x /d/");
    let id = desk.granted().id;
    desk.break_lock("cy", id);
    desk.ask("cy", "s /d/f");
    assert_eq!(write(&mut desk, "/d/f", Wrote::Written), NOTHING, "it was broken, and covered the file");
    assert_eq!(write(&mut desk, "/h", Wrote::Written), ["cy /h written"], "nobody has held this one so");
}

#[test]
fn another_name_of_the_file_is_the_same_file() {
    let mut desk = Desk::new();
    let linked = Target { ids: target("/f").ids, ..target("/g") };
    desk.ask("ada", "x /f");
    desk.unlock("ada", "/f");
    desk.ask_for("bo", "s", linked.clone());
    assert_eq!(write_at(&mut desk, linked.clone(), Wrote::Written), NOTHING, "ada has written it as /f");
    desk.pass(limits::VIOLATION_GRACE);
    assert_eq!(write_at(&mut desk, linked, Wrote::Written), ["bo /g written"]);
}

#[test]
fn a_lock_is_told_once_a_window_however_much_is_written() {
    let mut desk = Desk::new();
    desk.ask("ada", "s /f");
    assert_eq!(write(&mut desk, "/f", Wrote::Written), ["ada /f written"]);
    for how in [Wrote::Written, Wrote::Deleted, Wrote::Replaced] {
        assert_eq!(write(&mut desk, "/f", how), NOTHING);
    }
    desk.ask("bo", "s /f");
    assert_eq!(write(&mut desk, "/f", Wrote::Written), ["bo /f written"], "bo was told nothing yet");
    desk.pass(limits::VIOLATION_WITHIN - 1);
    assert_eq!(write(&mut desk, "/f", Wrote::Written), NOTHING);
    desk.pass(1);
    assert_eq!(write(&mut desk, "/f", Wrote::Deleted), ["ada /f deleted", "bo /f deleted"]);
}

#[test]
fn of_a_whole_tree_that_is_overwritten_only_so_much_is_told() {
    let mut desk = Desk::new();
    let names: Vec<String> = (0..=limits::VIOLATIONS_TOLD_MAX).map(|at| format!("/{at}")).collect();
    names.iter().for_each(|name| drop(desk.ask("ada", &format!("s {name}"))));
    let told: usize = names.iter().map(|name| write(&mut desk, name, Wrote::Written).len()).sum();
    assert_eq!(told, limits::VIOLATIONS_TOLD_MAX);
    desk.pass(limits::VIOLATION_WITHIN);
    assert_eq!(write(&mut desk, names.last().unwrap(), Wrote::Written).len(), 1);
}

#[test]
fn where_too_many_have_ended_to_remember_nothing_is_told() {
    let mut desk = Desk::new();
    desk.ask("ada", "s /f");
    for at in 0..=limits::VIOLATION_WRITERS_MAX {
        desk.ask("bo", &format!("x /d/{at}"));
        desk.unlock("bo", &format!("/d/{at}"));
    }
    assert_eq!(write(&mut desk, "/f", Wrote::Written), NOTHING);
    desk.pass(limits::VIOLATION_GRACE);
    assert_eq!(write(&mut desk, "/f", Wrote::Written), ["ada /f written"]);
}

#[test]
fn what_is_taken_back_was_never_told() {
    let mut desk = Desk::new();
    desk.ask("ada", "s /f");
    desk.ask("bo", "x /g");
    desk.steps.clear();
    desk.run(Command::Wrote { target: target("/f"), how: Wrote::Written });
    desk.run(Command::Unlock { caller: None, who: who("bo"), which: Which::Scope(target("/g")), leaves_loan: false });
    for step in std::mem::take(&mut desk.steps).into_iter().rev() {
        desk.table.undo(step);
    }
    assert_eq!(write(&mut desk, "/f", Wrote::Written), ["ada /f written"], "nobody was told");
    assert_eq!(desk.ask("cy", "s /g"), "held by bo", "it was not released");
}

fn who(name: &str) -> Who {
    Who { agent: Agent::new(name).unwrap(), session: None }
}

#[test]
fn readers_that_the_table_names_are_the_shared_locks_on_files() {
    let mut desk = Desk::new();
    for words in ["s /f", "x /g", "a /h", "s /d/", "s @r"] {
        desk.ask("ada", words);
    }
    let readers: Vec<(LockId, Arc<Ask>)> = desk.table.readers().map(|lock| (lock.id, lock.ask.clone())).collect();
    let [(id, ask)] = &readers[..] else { panic!("{readers:?}") };
    assert_eq!(ask.target, target("/f"));
    assert_eq!(desk.table.reader(*id).map(|lock| &lock.ask), Some(ask));
}
