//! What has to wait while a file is being put in place under a lock.

use crate::rules::{Desk, target};
use flockd::model::*;
use flockd::pattern::Pattern;
use flockd::scope::{FileId, Scope, Target};
use flockd::wire::Body;
use flockd::wire::render::{self, About};
use std::sync::Arc;

#[test]
fn nothing_is_granted_for_a_process_that_ends_while_a_write_holds_its_request_up() {
    let tool = Process { pid: 9, start: 9 };
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    let (id, who, caller) = (desk.status("ada").0[0].id, desk.who("ada"), desk.caller("ada"));
    let prepared = Arc::new(Prepared { name: b".x".as_slice().into(), device: 1, inode: 9, unchanged: None });
    desk.run(Command::Commit { caller, who, target: target("/f"), fence: None, prepared });
    let ordered = desk.steps.last().expect("it has just run").effects.last();
    let Some(Effect::Commit { commit, .. }) = ordered.cloned() else { panic!("{ordered:?}") };
    assert_eq!(desk.unlock("ada", "/f"), "waits", "until the file is in place");
    assert_eq!(desk.bound(tool).wait("ada", "s /f"), "waits", "behind that");
    let told = desk.run(Command::ProcessGone(tool));
    let is_refused = |reply: &Reply| matches!(reply, Reply::Failed(Fault::Invalid(text)) if text.contains("has ended"));
    assert!(told.len() == 1 && is_refused(&told[0].answer.reply), "{told:?}");
    let answer = CommitAnswer::Refused(Fault::Unavailable("the disk is full".to_owned()));
    desk.run(Command::CommitDone { commit, lock: id, answer });
    assert_eq!(desk.table.locks(), 0, "nobody is left who would release it");
}

fn id(inode: u64) -> FileId {
    FileId { device: 1, inode, birth: 0 }
}

#[test]
fn a_lock_means_the_file_that_was_put_in_its_place() {
    let named = |name, inode| Target { scope: target(name).scope, ids: [id(1), id(inode)].into() };
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    let old = target("/f").own_id().expect("it is there").inode;
    assert_eq!(desk.wait("bob", "x /f"), "waits");
    assert_eq!(desk.wait_at("cleo", named("/alias", old)), "waits", "the same file under another name");
    desk.commit("ada", "/f", None);
    desk.in_place_as(Some(id(99)));
    assert_eq!(desk.news(), ["cleo: granted"], "the old file is nobody's any more");
    assert_eq!(desk.wait_at("dan", named("/link", 99)), "waits", "the new one is ada's");
    desk.unlock("ada", "/f");
    assert_eq!(desk.news(), ["bob: granted"], "who waits by name waits for what stands there");
    desk.unlock("bob", "/f");
    assert_eq!(desk.news(), ["dan: granted"]);
}

#[test]
fn a_prepared_file_that_somebody_asked_for_by_its_own_name_stays_theirs() {
    let prepared = Target { scope: target("/new").scope, ids: [id(1), id(99)].into() };
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    assert_eq!(desk.wait_at("bob", prepared), "granted");
    desk.commit("ada", "/f", None);
    desk.in_place_as(Some(id(99)));
    let (locks, _) = desk.status("cleo");
    assert_eq!(locks.len(), 2, "both hold what they held: {locks:?}");
    assert_eq!(desk.wait("cleo", "x /f"), "waits");
}

#[test]
fn whoever_takes_up_what_is_its_own_is_woken_by_the_end_of_a_parents_write_wherever_it_stands_in_line() {
    let mut desk = Desk::new();
    // All right below `/d`, which is in no child's way and covers no directory there.
    let pattern = Pattern::new(b"/d", b"*").expect("a pattern");
    let right_below = Target { scope: Scope::Pattern(pattern), ids: target("/d/").ids };
    assert_eq!(desk.ask_for("ada", "x", right_below), "granted");
    assert_eq!(desk.ask("ada/x", "x /d/sub/"), "granted");
    assert_eq!(desk.wait("cy", "x /d/sub/"), "waits");
    assert_eq!(desk.wait("di", "x /d/sub/"), "waits");
    assert_eq!(desk.commit("ada", "/d/f", None), "waits");
    assert_eq!(desk.wait("ada/x#1", "x /d/sub/"), "waits", "no guard is taken while a file goes into place");
    desk.in_place();
    assert_eq!(desk.news(), ["ada/x#1: resumed"]);
}

#[test]
fn a_child_that_a_parents_write_keeps_out_is_told_that_it_is_over_soon() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask("ada", "x /d/"), "granted");
    assert_eq!(desk.commit("ada", "/d/f", None), "waits");
    assert_eq!(desk.ask("ada/x", "x /d/g"), "held by ada");
    let about = About::Ask { ask: desk.request_of("ada/x", "x /d/g"), takes: true };
    let answer = render::answer(1, desk.last.as_ref().expect("it was answered"), &about, desk.now);
    let Some(Body::Lock(lock)) = answer.ok else { panic!("{answer:?}") };
    let advice = "ada is putting a file in place there, which is over in a moment: ask again";
    assert_eq!(lock.advice.as_deref(), Some(advice));
    desk.in_place();
    assert_eq!(desk.ask("ada/x", "x /d/g"), "granted");
}

#[test]
fn a_lock_that_is_to_have_no_flock_has_none_after_a_write_whatever_the_file_system_says() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    desk.commit("ada", "/f", None);
    let ordered = desk.steps.last().expect("it has just run").effects.last().cloned();
    let Some(Effect::Commit { commit, lock, flock: false, .. }) = ordered else { panic!("{ordered:?}") };
    let answer = CommitAnswer::InPlace(Placed { bytes: 3, file: Some(id(99)), flocked: true, again: false });
    desk.run(Command::CommitDone { commit, lock, answer });
    assert_eq!(desk.status("ada").0[0].os, OsLock::None);
}
