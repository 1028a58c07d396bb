//! What has to wait while a file is being put in place under a lock.

use crate::rules::{Desk, target};
use flockd::model::*;
use flockd::scope::{FileId, Target};
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
