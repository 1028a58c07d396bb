//! Places kept for agents that have waited in vain, and for how long they keep others waiting; one claim a test.

use crate::rules::{Desk, take_back, target};
use flockd::limits::{self, MINUTE, SECOND};
use flockd::model::*;
use flockd::scope::{Scope, Target};
use std::sync::Arc;

/// `name` waits a second for what is held, in vain; its ticket.
fn in_vain(desk: &mut Desk, name: &str, words: &str) -> Ticket {
    in_vain_with(desk, MINUTE, name, words).expect("its place is kept")
}

fn in_vain_with(desk: &mut Desk, ttl: u64, name: &str, words: &str) -> Option<Ticket> {
    assert_eq!(desk.ttl(ttl).wait_for(SECOND, name, words), "waits");
    desk.pass(SECOND);
    assert_eq!(desk.news(), [format!("{name}: timeout")]);
    refused(desk, name).ticket
}

/// The latest refusal among the answers.
fn refused(desk: &Desk, name: &str) -> Refused {
    let mut all = desk.steps.iter().rev().flat_map(|step| &step.replies);
    let found = all.find_map(|said| match &said.answer.reply {
        Reply::Refused(refused) => Some((**refused).clone()),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("{name} was refused"))
}

fn waiters(desk: &mut Desk) -> Vec<Waiter> {
    desk.status("nobody").1.into_iter().map(|queued| queued.waiter).collect()
}

#[test]
fn asking_again_goes_on_in_the_place_that_was_kept() {
    let mut desk = Desk::new();
    assert_eq!(desk.ttl(limits::HOUR).ask("ada", "x /f"), "granted");
    let ticket = in_vain(&mut desk, "bo", "x /f");
    assert_eq!(ticket.until, desk.now.mono.after(limits::TICKET_KEPT));
    assert_eq!(desk.wait("cy", "x /f"), "waits");
    assert_eq!(desk.queue(), ["bo", "cy"]);
    // As often as it likes, under whatever terms.
    for ttl in [MINUTE, 5 * SECOND] {
        desk.pass(100 * SECOND);
        assert_eq!(in_vain_with(&mut desk, ttl, "bo", "x /f").map(|again| again.id), Some(ticket.id));
        assert_eq!(desk.queue(), ["bo", "cy"]);
    }
    assert_eq!(desk.ttl(7 * SECOND).wait("bo", "x /f"), "waits");
    assert_eq!(desk.unlock("ada", "/f"), "released 1");
    assert_eq!(desk.news(), ["bo: granted"]);
    let lock = desk.status("nobody").0.remove(0);
    assert_eq!((lock.ask.who.agent.as_str(), lock.ttl), ("bo", 7 * SECOND));
    assert_eq!(desk.unlock("bo", "/f"), "released 1");
    assert_eq!(desk.news(), ["cy: granted"]);
}

#[test]
fn a_place_is_for_the_same_agent_and_the_same_thing_alone() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask("ada", "x /f"), "granted");
    in_vain(&mut desk, "bo", "x /f");
    assert_eq!(desk.wait("cy", "x /f"), "waits");
    assert_eq!(desk.wait("di", "x /f"), "waits");
    assert_eq!(desk.ttl(MINUTE).wait("bo#1", "x /f"), "waits");
    assert_eq!(desk.ask("bo", "s /f"), "held by ada");
    assert_eq!(desk.refused().ticket, None, "for another mode");
    assert_eq!(desk.bound(Process { pid: 7, start: 7 }).ask("bo", "x /f"), "held by ada");
    assert_eq!(desk.refused().ticket, None, "for another process");
    let queue = waiters(&mut desk);
    let kept: Vec<bool> = queue.iter().map(Waiter::is_kept).collect();
    assert_eq!(kept, [true, false, false, false], "{queue:?}");
}

/// The file `/f` under another name, as by a hard link.
fn other_name(name: &str) -> Target {
    let ids = target("/f").ids;
    Target { scope: target(name).scope, ids }
}

#[test]
fn a_place_is_found_under_every_name_of_the_file() {
    let mut desk = Desk::new();
    assert_eq!(desk.ttl(5 * MINUTE).ask("ada", "x /f"), "granted");
    let ticket = in_vain(&mut desk, "bo", "x /f");
    assert_eq!(desk.wait("cy", "x /f"), "waits");
    assert_eq!(desk.ask_for("bo", "x", other_name("/link")), "held by ada");
    assert_eq!(desk.refused().ticket.map(|again| again.id), Some(ticket.id));
    assert_eq!(desk.refused().position, 1);
    assert_eq!(desk.queue(), ["bo", "cy"]);
    // Given up by one name, it is so under all.
    assert_eq!(desk.free_by("bo", other_name("/third")), "released 0");
    assert_eq!(desk.queue(), ["cy"]);
}

#[test]
fn no_place_is_kept_for_a_lock_that_ends_with_the_process_that_asks() {
    let tool = Process { pid: 7, start: 7 };
    let mut desk = Desk::new();
    assert_eq!(desk.ttl(5 * MINUTE).ask("ada", "x /f"), "granted");
    for (asked_by, is_kept) in [(tool, false), (Process { pid: 8, start: 8 }, true)] {
        let caller = desk.caller("bo");
        let ask = desk.bound(tool).request_of("bo", "x /f");
        let ask = Arc::new(Ask { process: Some(asked_by), ..(*ask).clone() });
        let wait = Wait::Until(desk.now.mono.after(SECOND));
        assert_eq!(desk.command(caller, Command::Lock { caller, ask, wait }), "waits");
        desk.pass(SECOND);
        assert_eq!(refused(&desk, "bo").ticket.is_some(), is_kept);
    }
}

#[test]
fn of_two_places_that_came_to_be_one_the_earlier_is_kept() {
    let mut desk = Desk::new();
    assert_eq!(desk.ttl(5 * MINUTE).ask("ada", "x /d/"), "granted");
    let first = in_vain(&mut desk, "bo", "x /d/f");
    desk.request("r1");
    in_vain(&mut desk, "bo", "x /d/g");
    // The second name is a link to the first by now.
    let link = Target { scope: target("/d/g").scope, ids: target("/d/f").ids };
    assert_eq!(desk.request("r1").ask_for("bo", "x", link), "held by ada");
    assert_eq!(desk.refused().ticket.map(|again| again.id), Some(first.id));
    assert_eq!(desk.queue(), ["bo"]);
}

#[test]
fn a_place_is_kept_for_two_minutes_since_its_agent_was_last_seen() {
    let mut desk = Desk::new();
    assert_eq!(desk.ttl(limits::HOUR).ask("ada", "x /f"), "granted");
    in_vain(&mut desk, "bo", "x /f");
    desk.pass(limits::TICKET_KEPT - 1);
    assert_eq!(desk.queue(), ["bo"]);
    // A try is a sign of life as well.
    assert_eq!(desk.ask("bo", "x /f"), "held by ada");
    assert!(desk.refused().ticket.is_some());
    desk.pass(limits::TICKET_KEPT - 1);
    assert_eq!(desk.queue(), ["bo"]);
    desk.pass(1);
    assert_eq!(desk.queue(), [] as [&str; 0]);
}

#[test]
fn an_offer_that_nobody_comes_for_is_passed_on_after_30_seconds() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask("ada", "x /f"), "granted");
    in_vain(&mut desk, "bo", "x /f");
    assert_eq!(desk.wait("cy", "x /f"), "waits");
    assert_eq!(desk.unlock("ada", "/f"), "released 1");
    // It is nobody's, and reserved.
    assert_eq!(waiters(&mut desk)[0].kept_until(), Some(desk.now.mono.after(limits::TICKET_OFFERED)));
    assert_eq!(desk.ask("ada", "x /f"), "held by ");
    desk.pass(limits::TICKET_OFFERED - 1);
    assert_eq!(desk.news(), [] as [&str; 0]);
    desk.pass(1);
    assert_eq!(desk.news(), ["cy: granted"]);
    assert_eq!(desk.queue(), [] as [&str; 0]);
}

#[test]
fn an_offer_that_its_agent_comes_for_is_granted_at_once() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask("ada", "x /f"), "granted");
    in_vain(&mut desk, "bo", "x /f");
    assert_eq!(desk.wait("cy", "x /f"), "waits");
    assert_eq!(desk.unlock("ada", "/f"), "released 1");
    desk.pass(limits::TICKET_OFFERED - 1);
    assert_eq!(desk.ask("bo", "x /f"), "granted");
    assert_eq!(desk.queue(), ["cy"]);
}

#[test]
fn the_end_of_the_time_ends_an_offer_as_well() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask("ada", "x /f"), "granted");
    in_vain(&mut desk, "bo", "x /f");
    assert_eq!(desk.ttl(5 * MINUTE).ask("ada", "x /f"), "already held");
    desk.pass(limits::TICKET_KEPT - 1);
    assert_eq!(desk.unlock("ada", "/f"), "released 1");
    desk.pass(1);
    assert_eq!(desk.queue(), [] as [&str; 0]);
}

#[test]
fn what_is_taken_away_again_is_offered_no_longer_and_anew_when_it_is_free() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask("ada", "s /f"), "granted");
    assert_eq!(desk.ask("bo", "x /g"), "granted");
    assert_eq!(desk.wait("bo", "x /f"), "waits");
    in_vain(&mut desk, "cy", "s /f");
    assert_eq!(desk.unlock("bo", "all"), "released 1");
    desk.run(Command::CallerGone { conn: 1 });
    assert!(waiters(&mut desk)[0].offered_until.is_some(), "a reader beside a reader");
    // Whoever shares it goes before those who wait.
    desk.pass(20 * SECOND);
    assert_eq!(desk.upgrade("ada", "/f", Wait::Try), "upgraded");
    assert_eq!(waiters(&mut desk)[0].offered_until, None);
    desk.pass(20 * SECOND);
    assert_eq!(desk.downgrade("ada", "/f"), "shared");
    assert_eq!(waiters(&mut desk)[0].offered_until, Some(desk.now.mono.after(limits::TICKET_OFFERED)));
    // And so does who waits to have alone what it shares.
    assert_eq!(desk.ask("di", "s /f"), "granted");
    assert_eq!(desk.upgrade("ada", "/f", Wait::Forever), "waits");
    assert_eq!(waiters(&mut desk)[0].offered_until, None);
}

#[test]
fn only_who_has_waited_for_a_lease_keeps_a_place() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask("ada", "x /f"), "granted");
    assert_eq!(desk.ask("bo", "x /f"), "held by ada");
    assert_eq!(desk.refused().ticket, None, "a try waits for nothing");
    assert_eq!(in_vain_with(&mut desk, 0, "bo#1", "x /f"), None, "without a ttl nothing outlives the session");
    assert!(in_vain_with(&mut desk, 1, "bo#1", "x /f").is_some());
    assert_eq!(desk.ask("ada", "s /g"), "granted");
    assert_eq!(desk.ask("bo", "s /g"), "granted");
    assert_eq!(desk.upgrade("ada", "/g", Wait::Until(desk.now.mono.after(SECOND))), "waits");
    desk.pass(SECOND);
    assert_eq!(desk.news(), ["ada: timeout"]);
    assert_eq!(refused(&desk, "ada").ticket, None, "an upgrade is the first whenever it asks");
    assert_eq!(desk.queue(), ["bo"]);
}

#[test]
fn whoever_holds_it_needs_no_place() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask("ada", "x /d/f"), "granted");
    in_vain(&mut desk, "bo", "x /d/f");
    assert_eq!(desk.wait("bo", "x /d/"), "waits");
    assert_eq!(desk.unlock("ada", "/d/f"), "released 1");
    assert_eq!(desk.news(), ["bo: granted"]);
    assert_eq!(desk.queue(), [] as [&str; 0], "its subtree answers what it waited for");
}

#[test]
fn a_place_beside_a_weaker_lock_of_its_agent_is_in_nobodys_way() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask("ada", "x /f"), "granted");
    in_vain(&mut desk, "bo", "x /f");
    assert_eq!(desk.ttl(5 * MINUTE).wait("cy", "s /f"), "waits");
    assert_eq!(desk.queue(), ["bo", "cy"]);
    // What bo shares it could only make exclusive, and for that it needs no place.
    assert_eq!(desk.ttl(5 * MINUTE).wait("bo", "s /f"), "waits");
    assert_eq!(desk.downgrade("ada", "/f"), "shared");
    assert_eq!(desk.news(), ["bo: granted", "cy: granted"]);
    assert_eq!(desk.queue(), [] as [&str; 0]);
    // It is not kept in the first place where the agent came to share it while it waited.
    assert_eq!(desk.ask("ada", "x /g"), "granted");
    assert_eq!(desk.wait_for(SECOND, "bo", "x /g"), "waits");
    assert_eq!(desk.wait("bo", "s /g"), "waits");
    assert_eq!(desk.downgrade("ada", "/g"), "shared");
    desk.pass(SECOND);
    assert_eq!(desk.news(), ["bo: granted", "bo: timeout"]);
    assert_eq!((refused(&desk, "bo").ticket, desk.queue()), (None, Vec::new()));
}

#[test]
fn nothing_is_offered_while_grants_are_stopped() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask("ada", "x /f"), "granted");
    assert_eq!(desk.wait_for(SECOND, "bo", "x /f"), "waits");
    desk.table.pause("the disk is full".into());
    assert_eq!(desk.unlock("ada", "/f"), "released 1");
    desk.pass(SECOND);
    assert_eq!(desk.news(), ["bo: timeout"]);
    assert_eq!(waiters(&mut desk)[0].offered_until, None);
    desk.pass(MINUTE);
    let step = desk.table.resume(desk.now);
    assert!(step.replies.is_empty());
    assert_eq!(waiters(&mut desk)[0].offered_until, Some(desk.now.mono.after(limits::TICKET_OFFERED)));
}

#[test]
fn who_comes_for_its_place_takes_no_more_than_may_be_held() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask("ada", "x /f"), "granted");
    let ticket = in_vain(&mut desk, "bo", "x /f");
    assert_eq!(desk.unlock("ada", "/f"), "released 1");
    let ask = desk.ttl(limits::HOUR).request_of("ada", "x @n");
    for n in 0..limits::LOCKS_MAX {
        let target = Target::named(Scope::Resource(n.to_string().into()));
        let (caller, ask) = (Caller { conn: 2, id: n as u64 }, Arc::new(Ask { target, ..(*ask).clone() }));
        desk.table.apply(desk.now, Command::Lock { caller, ask, wait: Wait::Try });
    }
    assert_eq!(desk.table.locks(), limits::LOCKS_MAX);
    assert_eq!(desk.ask("bo", "x /f"), "refused");
    assert_eq!(desk.unlock("ada", "@7"), "released 1");
    assert_eq!(desk.ask("bo", "x /f"), "granted");
    assert_eq!(desk.give_up("bo", ticket.id), "cancelled false", "it is used up");
}

#[test]
fn a_place_of_its_own_is_in_no_sessions_way() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask("ada", "x /d/f"), "granted");
    assert!(in_vain_with(&mut desk, MINUTE, "bo#1", "x /d/f").is_some());
    assert_eq!(desk.unlock("ada", "/d/f"), "released 1");
    assert_eq!(desk.ask("bo#2", "x /d/"), "held by ", "a fellow session is behind it");
    assert_eq!(desk.ask("bo#1", "x /d/"), "granted");
}

#[test]
fn one_agent_has_one_place_for_one_thing() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask("ada", "x /f"), "granted");
    assert_eq!(desk.wait_for(2 * SECOND, "bo", "x /f"), "waits");
    let ticket = in_vain(&mut desk, "bo", "x /f");
    assert_eq!(desk.wait("cy", "x /f"), "waits");
    assert_eq!(desk.queue(), ["bo", "bo", "cy"]);
    // The earlier of the two is kept, under the name that is known.
    desk.pass(SECOND);
    assert_eq!(desk.news(), ["bo: timeout"]);
    assert_eq!(refused(&desk, "bo").ticket.map(|later| later.id), Some(ticket.id));
    assert_eq!(desk.queue(), ["bo", "cy"]);
}

#[test]
fn a_place_is_given_up_by_unlock_and_by_its_ticket() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask("ada", "x /f"), "granted");
    assert_eq!(desk.ask("ada", "x /g"), "granted");
    let ticket = in_vain(&mut desk, "bo", "x /f");
    in_vain(&mut desk, "bo", "x /g");
    assert_eq!(desk.wait("cy", "x /f"), "waits");
    assert_eq!(desk.give_up("cy", ticket.id), "cancelled false", "another's");
    assert_eq!(desk.unlock("cy", "/f"), "held by ada", "nobody gives up another's place");
    assert_eq!(desk.unlock("bo", "/f"), "released 0");
    assert_eq!(desk.unlock("bo", "/f"), "held by ada");
    assert_eq!(desk.queue(), ["bo", "cy"]);
    let ticket = in_vain(&mut desk, "bo", "x /f");
    assert_eq!(desk.give_up("bo", ticket.id), "cancelled true");
    assert_eq!(desk.give_up("bo", ticket.id), "cancelled false");
    in_vain(&mut desk, "bo", "x /f");
    assert_eq!(desk.unlock("bo", "all"), "released 0");
    assert_eq!(desk.queue(), ["cy"]);
    assert_eq!(desk.unlock("ada", "/f"), "released 1");
    assert_eq!(desk.news(), ["cy: granted"]);
}

#[test]
fn nothing_stays_of_a_place_whose_session_or_process_ends() {
    let mut desk = Desk::new();
    let process = Process { pid: 7, start: 7 };
    assert_eq!(desk.ask("ada", "x /f"), "granted");
    assert!(in_vain_with(&mut desk, MINUTE, "bo#1", "x /f").is_some());
    desk.bound(process);
    in_vain(&mut desk, "cy", "x /f");
    in_vain(&mut desk, "di", "x /f");
    desk.end("bo#1");
    desk.run(Command::ProcessGone(process));
    assert_eq!(desk.queue(), ["di"]);
}

#[test]
fn who_asks_again_and_is_cut_off_keeps_the_place() {
    let mut desk = Desk::new();
    assert_eq!(desk.ttl(limits::HOUR).ask("ada", "x /f"), "granted");
    let ticket = in_vain(&mut desk, "bo", "x /f");
    // Two minutes from then on, whether its client goes or wants it no more.
    for is_cancelled in [false, true] {
        desk.pass(limits::TICKET_KEPT - 1);
        assert_eq!(desk.wait("bo", "x /f"), "waits");
        let waiting = waiters(&mut desk)[0].caller.expect("it is back");
        let caller = desk.caller("bo");
        desk.run(if is_cancelled { Command::Cancel { caller, waiting } } else { Command::CallerGone { conn: 1 } });
        let kept = waiters(&mut desk).remove(0);
        assert_eq!((kept.ticket, kept.caller), (Some(ticket.id), None));
        assert_eq!(kept.absent_until, Some(desk.now.mono.after(limits::TICKET_KEPT)));
    }
    // Who has not waited in vain before leaves nothing.
    assert_eq!(desk.wait("cy", "x /f"), "waits");
    desk.run(Command::CallerGone { conn: 1 });
    assert_eq!(desk.queue(), ["bo"]);
    assert_eq!(desk.give_up("bo", ticket.id), "cancelled true");
    assert_eq!(desk.queue(), [] as [&str; 0]);
}

#[test]
fn what_a_place_became_that_nobody_heard_of_is_that_place_again() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask("ada", "x /f"), "granted");
    let before = in_vain(&mut desk, "bo", "x /f");
    assert_eq!(desk.wait("cy", "x /f"), "waits");
    assert_eq!(desk.unlock("ada", "/f"), "released 1");
    assert_eq!(desk.ask("bo", "x /f"), "granted");
    take_back(&mut desk);
    assert_eq!((desk.news(), desk.queue()), (Vec::new(), vec!["bo".to_owned(), "cy".to_owned()]));
    let kept = waiters(&mut desk).remove(0);
    assert_eq!((kept.ticket, kept.caller), (Some(before.id), None));
    assert_eq!(kept.absent_until, Some(desk.now.mono.after(limits::TICKET_KEPT)));
    assert_eq!(kept.offered_until, Some(desk.now.mono.after(limits::TICKET_OFFERED)));
    assert_eq!(desk.ask("bo", "x /f"), "granted");
    // What was granted without one leaves none.
    assert_eq!(desk.ask("bo", "x /g"), "granted");
    take_back(&mut desk);
    assert_eq!(desk.queue(), ["cy"]);
}

#[test]
fn a_place_does_not_outlive_its_session_by_way_of_a_grant() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask("ada", "x /f"), "granted");
    assert!(in_vain_with(&mut desk, MINUTE, "bo#1", "x /f").is_some());
    assert_eq!(desk.unlock("ada", "/f"), "released 1");
    assert_eq!(desk.ttl(MINUTE).ask("bo#1", "x /f"), "granted");
    desk.end("bo#1");
    take_back(&mut desk);
    assert_eq!((desk.table.locks(), desk.table.waiters()), (0, 0));
}

#[test]
fn a_try_without_a_ttl_keeps_the_place_that_is_there() {
    let mut desk = Desk::new();
    assert_eq!(desk.ttl(limits::HOUR).ask("ada", "x /f"), "granted");
    let ticket = in_vain_with(&mut desk, MINUTE, "bo#1", "x /f").expect("its place is kept");
    assert_eq!(desk.ttl(0).ask("bo#1", "x /f"), "held by ada");
    assert_eq!(desk.refused().ticket.map(|again| again.id), Some(ticket.id));
    assert_eq!(in_vain_with(&mut desk, 0, "bo#1", "x /f").map(|again| again.id), Some(ticket.id));
}

#[test]
fn whoever_is_absent_closes_no_cycle_and_is_refused_when_it_comes_back_to_one() {
    let mut desk = Desk::new();
    assert_eq!(desk.ttl(5 * MINUTE).ask("ada", "x /a"), "granted");
    assert_eq!(desk.ttl(5 * MINUTE).ask("bo", "x /b"), "granted");
    in_vain(&mut desk, "ada", "x /b");
    assert_eq!(desk.wait("bo", "x /a"), "waits", "ada waits for nothing now");
    assert_eq!(desk.wait("ada", "x /b"), "deadlock ada > bo");
    assert_eq!(desk.refused().ticket, None);
    assert_eq!(desk.queue(), ["bo"], "and its place is gone");
    // Others may wait for who is absent.
    assert_eq!(desk.ask("cy", "x /c"), "granted");
    in_vain(&mut desk, "cy", "x /b");
    assert_eq!(desk.wait("di", "x /b"), "waits");
}

/// bo has a place for `/f`, which cy is behind, and waits for `/g`, which cy holds.
fn bo_waits_for_who_is_behind_its_place() -> Desk {
    let mut desk = Desk::new();
    assert_eq!(desk.ttl(5 * MINUTE).ask("ada", "x /f"), "granted");
    in_vain(&mut desk, "bo", "x /f");
    assert_eq!(desk.ttl(5 * MINUTE).ask("cy", "x /g"), "granted");
    assert_eq!(desk.wait("cy", "x /f"), "waits");
    assert_eq!(desk.wait("bo", "x /g"), "waits");
    desk
}

#[test]
fn who_is_behind_a_kept_place_does_not_wait_for_its_agent() {
    let mut desk = bo_waits_for_who_is_behind_its_place();
    assert_eq!(desk.unlock("ada", "/f"), "released 1");
    desk.pass(limits::TICKET_OFFERED);
    assert_eq!(desk.news(), ["cy: granted"]);
    assert_eq!(desk.unlock("cy", "/g"), "released 1");
    assert_eq!(desk.news(), ["bo: granted"]);
}

#[test]
fn who_comes_back_while_it_waits_for_those_behind_its_place_is_refused() {
    let mut desk = bo_waits_for_who_is_behind_its_place();
    assert_eq!(desk.ask("bo", "x /f"), "held by ada", "who does not wait closes nothing");
    assert_eq!(desk.unlock("ada", "/f"), "released 1");
    assert_eq!(desk.ask("bo", "x /f"), "deadlock bo > cy");
    assert_eq!(desk.refused().ticket, None);
    assert_eq!(desk.news(), ["cy: granted"], "its place is gone");
    // The same for who has to wait there still.
    let mut desk = bo_waits_for_who_is_behind_its_place();
    assert_eq!(desk.wait("bo", "x /f"), "deadlock bo > cy");
    assert_eq!(desk.queue(), ["cy", "bo"]);
}

#[test]
fn a_restart_keeps_what_is_left_of_a_place_and_a_reboot_ends_it() {
    let mut desk = Desk::new();
    assert_eq!(desk.ttl(5 * MINUTE).ask("ada", "x /f"), "granted");
    let ticket = in_vain(&mut desk, "bo", "x /f");
    assert_eq!(desk.wait("cy", "x /f"), "waits");
    desk.pass(MINUTE);
    desk.restart(false);
    assert_eq!(waiters(&mut desk)[0].absent_until, Some(ticket.until));
    desk.pass(limits::WAITER_ABSENCE);
    assert_eq!(desk.queue(), ["bo"], "who waited has not come back in its 10 seconds");
    assert_eq!(desk.unlock("ada", "/f"), "released 1");
    let offered = waiters(&mut desk)[0].offered_until;
    assert!(offered.is_some());
    desk.restart(false);
    assert_eq!(waiters(&mut desk)[0].offered_until, offered);
    assert_eq!(desk.ask("bo", "x /f"), "granted");
    in_vain(&mut desk, "cy", "x /f");
    desk.restart(true);
    assert_eq!(desk.queue(), [] as [&str; 0]);
}

#[test]
fn a_place_that_its_agent_waits_in_again_outlives_a_restart_and_the_end_of_that_wait() {
    let mut desk = Desk::new();
    assert_eq!(desk.ttl(limits::HOUR).ask("ada", "x /f"), "granted");
    let ticket = in_vain(&mut desk, "bo", "x /f");
    assert_eq!(desk.wait_for(SECOND, "bo", "x /f"), "waits");
    assert_eq!(desk.wait("cy", "x /f"), "waits");
    desk.restart(false);
    desk.pass(limits::TICKET_KEPT - 1);
    assert_eq!(desk.queue(), ["bo"]);
    assert_eq!(desk.ask("bo", "x /f"), "held by ada");
    assert_eq!(desk.refused().ticket.map(|again| again.id), Some(ticket.id));
    desk.restart(false);
    desk.pass(limits::TICKET_KEPT);
    assert_eq!(desk.queue(), [] as [&str; 0]);
}

#[test]
fn a_retry_of_a_wait_in_vain_begins_to_wait_anew() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask("ada", "x /f"), "granted");
    desk.request("r1");
    in_vain(&mut desk, "bo", "x /f");
    assert_eq!(desk.wait("cy", "x /f"), "waits");
    assert_eq!(desk.request("r1").wait_for(SECOND, "bo", "s /f"), "invalid");
    assert_eq!(desk.request("r1").wait_for(SECOND, "bo", "x /f"), "waits");
    assert_eq!(desk.queue(), ["bo", "cy"]);
    desk.pass(SECOND);
    assert_eq!(desk.news(), ["bo: timeout"]);
    // Under a name of its own it is that request from then on.
    assert_eq!(desk.request("r2").wait("bo", "x /f"), "waits");
    assert_eq!(desk.unlock("ada", "/f"), "released 1");
    assert_eq!(desk.news(), ["bo: granted"]);
    assert_eq!(desk.request("r2").ask("bo", "x /f"), "granted again");
}

#[test]
fn one_agent_does_not_fill_the_queue_with_places() {
    let mut desk = Desk::new();
    assert_eq!(desk.ttl(limits::HOUR).ask("ada", "x /d/"), "granted");
    for n in 0..=limits::TICKETS_OF_AGENT {
        assert_eq!(desk.wait_for(SECOND, "bo", &format!("x /d/{n}")), "waits");
    }
    desk.pass(SECOND);
    assert_eq!(desk.news().len(), limits::TICKETS_OF_AGENT + 1);
    let said = desk.steps.last().expect("time passed").replies.iter();
    let tickets = said.filter(|said| matches!(&said.answer.reply, Reply::Refused(refused) if refused.ticket.is_some()));
    assert_eq!(tickets.count(), limits::TICKETS_OF_AGENT);
    assert_eq!(desk.queue().len(), limits::TICKETS_OF_AGENT);
    in_vain(&mut desk, "cy", "x /d/0");
}

#[test]
fn a_place_is_offered_when_its_agents_lock_there_is_no_longer_its_own_to_take_up() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask("ada", "x /f"), "granted");
    assert_eq!(desk.wait("bo", "x /f"), "waits");
    assert!(in_vain_with(&mut desk, MINUTE, "bo#1", "x /f").is_some());
    assert_eq!(desk.unlock("ada", "/f"), "released 1");
    assert_eq!(desk.news(), ["bo: granted"]);
    let lock = desk.status("bo").0[0].id;
    assert_eq!(waiters(&mut desk)[0].offered_until, None, "its session could take that up");
    // A process keeps it from now on, and keeps no session of its agent out.
    assert_eq!(desk.bind("bo", lock, Process { pid: 7, start: 7 }), "bound");
    assert_eq!(waiters(&mut desk)[0].offered_until, Some(desk.now.mono.after(limits::TICKET_OFFERED)));
}

#[test]
fn an_offer_does_not_outlive_the_level_that_it_was_made_for() {
    let mut desk = Desk::new();
    assert_eq!(desk.ttl(5 * MINUTE).ask("ada", "x /d/"), "granted");
    assert_eq!(desk.ttl(5 * MINUTE).ask("ada/y", "x /d/f"), "granted");
    assert_eq!(desk.wait("cy", "x /d/f"), "waits");
    in_vain(&mut desk, "ada/x", "x /d/f");
    assert_eq!(desk.unlock("ada", "/d/"), "released 1");
    assert_eq!(desk.unlock("ada/y", "/d/f"), "released 1");
    let is_offered = |desk: &mut Desk| waiters(desk).iter().any(|waiter| waiter.offered_until.is_some());
    assert!(is_offered(&mut desk), "inside what its parent held it comes before strangers");
    // A restart finds no lock of its parent: the stranger was there before.
    desk.restart(false);
    assert!(!is_offered(&mut desk));
}
