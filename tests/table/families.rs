//! Sub-agents: what they may take, who waits for whom, and where in line.

use crate::rules::Desk;
use flockd::model::*;

const NOTHING: [&str; 0] = [];

/// How the event tells of the latest grant.
fn acquired(desk: &Desk) -> Acquired {
    let mut events = desk.steps.iter().flat_map(|step| &step.records).filter_map(|record| match record {
        Record::Event(Event { kind: EventKind::Acquired(how), .. }) => Some(*how),
        _ => None,
    });
    events.next_back().expect("something was granted")
}

#[test]
fn a_sub_agent_takes_what_its_parent_holds_and_strangers_stay_out() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask("ada", "x /d/"), "granted");
    assert_eq!((desk.granted().fence, acquired(&desk)), (Fence(1), Acquired::Granted));
    assert_eq!(desk.ask("ada/x", "x /d/f"), "granted");
    let own = desk.granted();
    assert_eq!((own.id, own.fence, acquired(&desk)), (LockId(2), Fence(2), Acquired::Delegated), "a lock of its own");
    assert_eq!(desk.ask("ada/x/p", "x /d/f"), "granted", "also what only its ancestors hold");
    assert_eq!(desk.ask("bo", "x /d/f"), "held by ada ada/x ada/x/p");
    assert_eq!(desk.ask("adam", "s /d/g"), "held by ada", "a namesake is a stranger");
    assert_eq!(desk.ask("bo/x", "s /d/g"), "held by ada");
    assert_eq!(desk.ask("ada/x", "x /e"), "granted");
    assert_eq!(acquired(&desk), Acquired::Granted, "nobody held it");
    desk.unlock("ada", "all");
    assert_eq!(desk.ask("bo", "x /d/f"), "held by ada/x ada/x/p", "what a parent lets go the child still holds");
    desk.unlock("ada/x", "all");
    desk.unlock("ada/x/p", "all");
    assert_eq!(desk.ask("bo", "x /d/f"), "granted");
}

#[test]
fn siblings_exclude_each_other() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /d/");
    assert_eq!(desk.ask("ada/x", "x /d/f"), "granted");
    assert_eq!(desk.ask("ada/y", "x /d/f"), "held by ada/x");
    assert_eq!(desk.ask("ada/y", "x /d/g"), "granted");
    assert_eq!(desk.wait("ada/y", "x /d/f"), "waits");
    assert_eq!(desk.ask("ada/xy", "s /d/f"), "held by ada/x");
    desk.unlock("ada/x", "/d/f");
    assert_eq!(desk.news(), ["ada/y: granted"]);
}

#[test]
fn only_what_all_others_leave_to_the_family_is_taken() {
    let mut desk = Desk::new();
    desk.ask("ada", "s /f");
    desk.ask("bo", "s /f");
    assert_eq!(desk.ask("ada/x", "s /f"), "granted");
    assert_eq!(acquired(&desk), Acquired::Granted, "anybody may share it");
    assert_eq!(desk.ask("ada/y", "x /f"), "held by bo ada/x");
    desk.unlock("bo", "/f");
    desk.unlock("ada/x", "/f");
    assert_eq!(desk.ask("ada/y", "x /f"), "granted", "beside what its parent reads");
    assert_eq!(desk.ask("bo", "s /f"), "held by ada/y");
}

#[test]
fn what_a_child_holds_its_parent_waits_for() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask("ada/x", "x /d/f"), "granted");
    assert_eq!(desk.ask("ada", "x /d/"), "held by ada/x");
    assert_eq!(desk.wait("ada", "x /d/"), "waits");
    desk.unlock("ada/x", "all");
    assert_eq!(desk.news(), ["ada: granted"]);
    assert_eq!(desk.ask("ada/x", "s /d/f"), "granted");
    assert_eq!(desk.ask("ada", "x /d/"), "already held", "what it holds it holds");
}

#[test]
fn a_parents_lock_does_not_answer_its_childs_request() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    assert_eq!(desk.ask("ada/x", "x /f"), "granted");
    assert_eq!(desk.ask("ada/x", "x /f"), "already held");
    assert_eq!(desk.ask("ada/x", "s /f"), "already held");
    assert_eq!(desk.unlock("ada", "all"), "released 1", "its own alone");
    assert_eq!(desk.check("ada/x", "/f", None), "yes");
}

#[test]
fn the_parent_writes_again_when_the_child_has_released() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /d/");
    assert_eq!(desk.check("ada", "/d/f", None), "yes");
    for mode in ["x", "s"] {
        assert_eq!(desk.ask("ada/x", &format!("{mode} /d/f")), "granted");
        assert_eq!(desk.check("ada", "/d/f", None), "no ada/x");
        assert_eq!(desk.check("ada", "/d/f", Some(Fence(1))), "no ada/x");
        assert_eq!(desk.commit("ada", "/d/f", None), "delegated to ada/x");
        assert_eq!(desk.commit("ada", "/d/f", Some(Fence(1))), "delegated to ada/x");
        assert_eq!(desk.check("ada", "/d/g", None), "yes", "there the child holds nothing");
        desk.unlock("ada/x", "all");
        assert_eq!(desk.check("ada", "/d/f", None), "yes");
    }
    assert_eq!(desk.ask("ada/x/p", "x /d/f"), "granted");
    assert_eq!(desk.commit("ada", "/d/f", None), "delegated to ada/x/p");
    desk.ask("bo", "x /f");
    desk.ask("bo/x", "x /f");
    assert_eq!(desk.check("ada", "/f", None), "no bo bo/x", "others' families are others");
}

#[test]
fn a_child_writes_under_its_own_lock_alone() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    assert_eq!(desk.check("ada/x", "/f", None), "no ada");
    assert_eq!(desk.commit("ada/x", "/f", None), "held by ada");
    assert_eq!(desk.commit("ada/x", "/f", Some(Fence(1))), "held by ada", "not with its parent's fence either");
    desk.ask("ada/x", "x /f");
    assert_eq!(desk.check("ada/x", "/f", Some(Fence(2))), "yes");
    assert_eq!(desk.check("ada/x", "/f", Some(Fence(1))), "no ada ada/x");
    assert_eq!(desk.commit("ada/x", "/f", Some(Fence(2))), "waits", "the file system is at work");
}

#[test]
fn a_child_is_let_in_when_what_its_parent_writes_is_in_place() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    assert_eq!(desk.commit("ada", "/f", None), "waits");
    assert_eq!(desk.ask("ada/x", "x /f"), "held by ada");
    assert_eq!(desk.wait("ada/x", "x /f"), "waits");
    desk.in_place();
    assert_eq!(desk.news(), ["ada/x: granted"]);
}

// ── The line ────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_child_comes_before_strangers_who_wait_for_its_parent() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /d/");
    assert_eq!(desk.wait("bo", "x /d/f"), "waits");
    assert_eq!(desk.ask("ada/x", "x /d/f"), "granted", "else: ada waits for its work, it for bo, bo for ada");
    assert_eq!(desk.wait("ada/y", "x /d/f"), "waits");
    desk.unlock("ada", "all");
    desk.unlock("ada/x", "all");
    assert_eq!(desk.news(), ["ada/y: granted"], "a place once had is kept");
    assert_eq!(desk.ask("ada/x", "x /d/f"), "held by ada/y");
    desk.unlock("ada/y", "all");
    assert_eq!(desk.news(), ["bo: granted"]);
}

#[test]
fn a_child_that_shares_comes_before_a_writer_who_waits_for_its_parent() {
    let mut desk = Desk::new();
    desk.ask("ada", "s /f");
    assert_eq!(desk.wait("bo", "x /f"), "waits");
    assert_eq!(desk.ask("cy", "s /f"), "held by ", "behind bo");
    assert_eq!(desk.ask("ada/x", "s /f"), "granted");
    assert_eq!(desk.ask("ada/y", "x /f"), "held by ada/x", "that is more than its parent holds");
    desk.unlock("ada/x", "all");
    assert_eq!(desk.ask("ada/y", "x /f"), "held by ", "behind bo like anybody");
}

#[test]
fn members_of_the_family_take_turns_as_they_came() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /d/");
    desk.ask("ada/x", "x /d/f");
    assert_eq!(desk.wait("ada/y", "x /d/f"), "waits");
    assert_eq!(desk.wait("ada/z", "s /d/f"), "waits");
    assert_eq!(desk.ask("ada/w", "s /d/f"), "held by ada/x");
    desk.unlock("ada/x", "all");
    assert_eq!(desk.news(), ["ada/y: granted"]);
    desk.unlock("ada/y", "all");
    assert_eq!(desk.news(), ["ada/z: granted"]);
}

#[test]
fn whoever_waits_when_its_parent_is_granted_is_let_in_before_others() {
    let mut desk = Desk::new();
    desk.ask("cy", "x /f");
    assert_eq!(desk.wait("ada", "x /f"), "waits");
    assert_eq!(desk.wait("bo", "x /f"), "waits");
    assert_eq!(desk.wait("ada/x", "x /f"), "waits");
    desk.unlock("cy", "all");
    assert_eq!(desk.news(), ["ada: granted", "ada/x: granted"]);
    desk.unlock("ada", "all");
    assert_eq!(desk.news(), NOTHING, "bo waits for the child as well");
    desk.unlock("ada/x", "all");
    assert_eq!(desk.news(), ["bo: granted"]);
}

#[test]
fn whoever_waits_for_more_than_its_parent_was_granted_is_looked_at_again() {
    let mut desk = Desk::new();
    desk.ask("cy", "x /d/f");
    assert_eq!(desk.wait("ada", "x /d/f"), "waits");
    assert_eq!(desk.wait("ada/x", "x /d/"), "waits");
    desk.unlock("cy", "all");
    assert_eq!(desk.news(), ["ada: granted", "ada/x: granted"], "only its parent was in its way");
}

#[test]
fn of_two_inside_the_one_inside_the_nearer_lock_comes_first() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /d/");
    desk.ask("ada/x", "x /d/");
    assert_eq!(desk.wait("ada/y", "x /d/f"), "waits", "ada/x is in its way");
    assert_eq!(desk.ask("ada/x/p", "x /d/f"), "granted", "ada/y waits for ada/x anyway");
}

#[test]
fn a_parents_request_has_its_place_before_its_childs() {
    let mut desk = Desk::new();
    desk.ask("bo", "x /d/f");
    assert_eq!(desk.wait("ada", "x /d/"), "waits");
    assert_eq!(desk.ask("ada/x", "x /d/g"), "held by ", "the parent asked before");
    assert_eq!(desk.wait("ada/x", "x /d/g"), "waits");
    desk.unlock("bo", "all");
    assert_eq!(desk.news(), ["ada: granted", "ada/x: granted"]);
}

#[test]
fn who_waits_to_see_it_free_is_told_as_the_lock_would_be_granted() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    assert_eq!(desk.wait("bo", "x /f"), "waits");
    assert_eq!(desk.wait_free("ada/x", "x /f"), "free");
    assert_eq!(desk.ask("ada/y", "x /f"), "granted");
    assert_eq!(desk.wait_free("ada/x", "x /f"), "waits");
    assert_eq!(desk.ask("ada/y", "x /f"), "already held");
    desk.unlock("ada/y", "all");
    assert_eq!(desk.news(), ["ada/x: free"]);
}

// ── Cycles ──────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_parent_that_waits_for_its_child_closes_cycles_and_the_child_none() {
    let mut desk = Desk::new();
    desk.ask("ada/x", "x /a");
    desk.ask("bo", "x /b");
    assert_eq!(desk.wait("ada", "x /a"), "waits");
    assert_eq!(desk.wait("bo", "x /c"), "granted");
    desk.ask("ada", "x /d");
    assert_eq!(desk.wait("bo", "x /d"), "waits");
    assert_eq!(desk.wait("ada/x", "x /b"), "deadlock ada/x > bo > ada");
    assert_eq!(desk.wait("ada/x", "x /d"), "granted", "inside what ada holds");
}

#[test]
fn who_passes_others_in_line_closes_no_cycle_of_waits() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /a");
    desk.ask("bo", "x /b");
    assert_eq!(desk.wait("bo", "x /a"), "waits");
    assert_eq!(desk.wait("ada/x", "x /b"), "waits", "so far nobody waits for it");
    assert_eq!(desk.wait("ada/x", "x /a"), "deadlock ada/x > bo", "bo would wait for it, and it waits for bo");
    assert_eq!(desk.ask("ada/y", "x /a"), "granted", "another waits for nobody");
}

#[test]
fn who_is_let_in_before_others_later_closes_no_cycle_either() {
    let mut desk = Desk::new();
    desk.ask("cy", "x /a");
    desk.ask("bo", "x /b");
    assert_eq!(desk.wait("ada", "x /a"), "waits");
    assert_eq!(desk.wait("bo", "x /a"), "waits");
    assert_eq!(desk.wait("ada/x", "x /a"), "waits");
    assert_eq!(desk.wait("ada/x", "x /b"), "waits");
    desk.unlock("cy", "all");
    // Before bo, it would have bo wait for it, while it waits for bo's other lock: it keeps the place that it has.
    assert_eq!(desk.news(), ["ada: granted"]);
    desk.unlock("ada", "all");
    assert_eq!(desk.news(), ["bo: granted"]);
}

// ── Upgrades, custody, ends ─────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_parents_upgrade_waits_for_its_children_and_a_childs_goes_first_inside() {
    let mut desk = Desk::new();
    desk.ask("ada", "s /f");
    desk.ask("ada/x", "s /f");
    assert_eq!(desk.wait("ada", "x /f"), "waits");
    assert_eq!(desk.ask("ada/y", "s /f"), "granted", "inside what ada shares");
    desk.unlock("ada/x", "all");
    assert_eq!(desk.news(), NOTHING);
    desk.unlock("ada/y", "all");
    assert_eq!(desk.news(), ["ada: upgraded"]);
    assert_eq!(desk.ask("ada/x", "s /f"), "granted");
    assert_eq!(desk.wait("bo", "x /f"), "waits");
    assert_eq!(desk.ask("ada/x", "x /f"), "upgraded", "bo waits for ada anyway");
}

#[test]
fn a_child_cannot_make_exclusive_what_its_parent_waits_to_have_alone() {
    let mut desk = Desk::new();
    desk.ask("ada", "s /f");
    desk.ask("ada/x", "s /f");
    assert_eq!(desk.wait("ada", "x /f"), "waits");
    assert_eq!(desk.wait("ada/x", "x /f"), "deadlock ada/x > ada");
    desk.unlock("ada/x", "all");
    assert_eq!(desk.news(), ["ada: upgraded"]);
}

#[test]
fn what_becomes_of_the_parents_lock_does_not_touch_the_childs() {
    let mut desk = Desk::new();
    desk.ttl(1_000).ask("ada", "x /a");
    desk.ask("ada", "x /b");
    desk.ask("ada", "x /c");
    for file in ["/a", "/b", "/c"] {
        assert_eq!(desk.ask("ada/x", &format!("x {file}")), "granted");
    }
    desk.pass(2_000);
    assert_eq!(desk.break_lock("bo", LockId(2)), "broken");
    desk.downgrade("ada", "/c");
    for file in ["/a", "/b", "/c"] {
        assert_eq!(desk.check("ada/x", file, None), "yes");
        assert!(desk.ask("bo", &format!("s {file}")).contains("ada/x"));
    }
}

#[test]
fn a_parents_session_takes_its_lock_up_again_around_its_child() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    desk.ask("ada/x", "x /f");
    assert_eq!(desk.ask("ada#1", "x /f"), "resumed");
    assert_eq!(desk.granted_beside(), ["ada/x"]);
    assert_eq!(desk.check("ada#1", "/f", None), "no ada/x");
    assert_eq!(desk.ask("ada#2", "x /f"), "held by ada ada/x");
    assert_eq!(desk.ask("ada/x#1", "x /f"), "resumed");
}

#[test]
fn a_parent_is_told_what_its_sub_agents_hold_in_what_it_has() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /d/");
    assert_eq!(desk.granted_beside(), NOTHING);
    desk.ask("ada/x", "s /d/f");
    assert_eq!(desk.granted_beside(), NOTHING, "its parent is in nobody's way");
    assert_eq!(desk.ask("ada", "s /d/g"), "already held");
    assert_eq!(desk.granted_beside(), ["ada/x"]);
    assert_eq!(desk.ask("ada/y", "x /e"), "granted");
    assert_eq!(desk.granted_beside(), NOTHING);
}

#[test]
fn guards_of_one_child_exclude_each_other_inside_a_parents_lock() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    assert_eq!(desk.ask("ada/x#1", "x /f"), "granted");
    assert_eq!(desk.wait("ada/x#2", "x /f"), "waits");
    desk.end("ada/x#1");
    assert_eq!(desk.news(), ["ada/x#2: granted"]);
}

#[test]
fn after_a_restart_a_child_is_still_before_strangers() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    desk.ask("ada/x", "x /f");
    assert_eq!(desk.request("b").wait("bo", "x /f"), "waits");
    assert_eq!(desk.request("y").wait("ada/y", "x /f"), "waits");
    desk.restart(false);
    assert_eq!(desk.request("b").wait("bo", "x /f"), "waits");
    assert_eq!(desk.request("y").wait("ada/y", "x /f"), "waits");
    desk.unlock("ada/x", "all");
    assert_eq!(desk.news(), ["ada/y: granted"]);
}
