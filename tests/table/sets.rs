//! Sets, one claim a test: many scopes are granted in one step or not at all, and wait as one request.

use crate::rules::{Desk, target};
use flockd::limits::{self, MINUTE, SECOND};
use flockd::model::*;
use flockd::pattern::Pattern;
use flockd::scope::{Scope, Target};
use std::sync::Arc;

/// The locks that the latest answer grants.
fn granted(desk: &Desk) -> Vec<Lock> {
    let answer = desk.last.as_ref().expect("it was answered");
    answer.reply.grants().iter().map(|granted| granted.lock.clone()).collect()
}

fn refused(desk: &Desk) -> Refused {
    match &desk.last.as_ref().expect("it was answered").reply {
        Reply::Refused(refused) => (**refused).clone(),
        other => panic!("{other:?}"),
    }
}

/// What is held, by name.
fn held(desk: &mut Desk) -> Vec<String> {
    desk.status("nobody").0.iter().map(|lock| lock.ask.target.scope.to_string()).collect()
}

#[test]
fn all_are_granted_in_one_step_each_with_an_id_and_a_fence_of_its_own() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask_all("ada", "x /a /d/ @port"), "granted");
    let locks = granted(&desk);
    assert_eq!(held(&mut desk), ["/a", "/d/", "@port"]);
    assert!(locks[0].fence < locks[1].fence && locks[1].fence < locks[2].fence);
    // From then on each is a lock like any other.
    assert_eq!(desk.check("ada", "/a", Some(locks[0].fence)), "yes");
    assert_eq!(desk.unlock("ada", &locks[1].id.to_string()), "released 1");
    assert_eq!(desk.ask("bob", "x /d/f"), "granted");
    assert_eq!(desk.renew("ada", "@port", Some(5 * MINUTE)), "renewed 1");
    assert_eq!(desk.unlock("ada", "all"), "released 2");
}

#[test]
fn a_set_is_granted_when_all_of_it_is_free_and_not_before() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /a");
    desk.ask("bob", "x /b");
    assert_eq!(desk.ask_all("cy", "x /b /c /a"), "held by ada bob", "one refusal names all who are in the way");
    assert_eq!(desk.ask("di", "x /c"), "granted", "of a refused set nothing is held");
    desk.unlock("di", "all");
    assert_eq!(desk.wait_all("cy", "x /b /c /a"), "waits");
    assert_eq!(held(&mut desk), ["/a", "/b"]);
    desk.unlock("bob", "all");
    assert_eq!((desk.news(), held(&mut desk)), (vec![], vec!["/a".to_owned()]));
    desk.unlock("ada", "all");
    assert_eq!((desk.news(), held(&mut desk).len()), (vec!["cy: granted".to_owned()], 3));
    assert_eq!(desk.table.waiters(), 0);
}

#[test]
fn a_waiting_set_keeps_its_place_on_every_scope_of_it() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /a");
    assert_eq!(desk.wait_all("bob", "x /a /b /c"), "waits");
    // Nobody holds /b, but whoever asks for it comes behind bob, who counts as one.
    assert_eq!(desk.ask("cy", "s /b"), "held by ");
    assert_eq!(refused(&desk).position, 2);
    assert_eq!(desk.ask_all("cy", "x /b /c"), "held by ");
    assert_eq!(refused(&desk).position, 2);
    assert_eq!(desk.ask("cy", "x /"), "held by ada");
    assert_eq!(refused(&desk).position, 2);
    desk.wait("cy", "x /b");
    desk.wait("di", "x /c");
    desk.unlock("ada", "all");
    assert_eq!(desk.news(), ["bob: granted"]);
    desk.unlock("bob", "/c");
    assert_eq!(desk.news(), ["di: granted"], "each is released by itself");
    desk.unlock("bob", "all");
    assert_eq!(desk.news(), ["cy: granted"]);
}

#[test]
fn readers_of_sets_share_what_they_have_in_common() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask_all("ada", "s /a /b"), "granted");
    assert_eq!(desk.ask_all("bob", "s /b /c"), "granted");
    assert_eq!(desk.wait_all("cy", "x /c /a"), "waits");
    assert_eq!(desk.ask_all("di", "s /a /b"), "held by ", "a reader does not overtake a set that waits");
    desk.unlock("ada", "all");
    desk.unlock("bob", "all");
    assert_eq!(desk.news(), ["cy: granted"]);
}

#[test]
fn scopes_with_something_in_common_are_no_set_and_the_sentence_says_which() {
    let mut desk = Desk::new();
    let mut why = |words: &str| {
        assert_eq!(desk.ask_all("ada", words), "invalid");
        match &desk.last.as_ref().unwrap().reply {
            Reply::Failed(Fault::Invalid(text)) => text.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(why("x /b /d/ /d/f"), "/d/ and /d/f overlap: leave /d/f out, which /d/ covers; nothing was locked");
    assert_eq!(why("s /d/f /d/"), "/d/f and /d/ overlap: leave /d/f out, which /d/ covers; nothing was locked");
    assert_eq!(why("s /a /b /a"), "/a and /a are the same; nothing was locked");
    // A file that may become a directory.
    assert!(why("x /d /d/f").contains("/d and /d/f have a file in common"));
    // Two names of one file.
    let twin = Target { ids: target("/a").ids, ..target("/z") };
    let two = [target("/a"), twin];
    assert_eq!(lock_targets(&mut desk, "ada", &two, 2), "invalid");
    let pattern = |rest: &[u8]| Target::named(Scope::Pattern(Pattern::new(b"/d", rest).unwrap()));
    assert_eq!(lock_targets(&mut desk, "ada", &[pattern(b"*.rs"), pattern(b"a*")], 2), "invalid");
    assert_eq!(lock_targets(&mut desk, "ada", &[pattern(b"*.rs"), pattern(b"*.md")], 2), "granted");
}

fn lock_targets(desk: &mut Desk, name: &str, targets: &[Target], of: u16) -> String {
    let first = desk.request_of(name, "x /");
    let member = |(index, target): (u16, &Target)| {
        Arc::new(Ask { target: target.clone(), set: Some(SetMember { index, of }), ..(*first).clone() })
    };
    let asks = (0..).zip(targets).map(member).collect();
    let caller = desk.caller(name);
    desk.command(caller, Command::LockSet { caller, asks, wait: Wait::Try })
}

#[test]
fn a_set_has_a_largest_size_and_counts_by_its_scopes() {
    let mut desk = Desk::new();
    let names = |from: usize, count: usize| {
        let names: Vec<Target> = (from..from + count).map(|n| target(&format!("/f{n}"))).collect();
        names
    };
    assert_eq!(lock_targets(&mut desk, "ada", &names(0, limits::SET_MAX), limits::SET_MAX as u16), "granted");
    let more = limits::SET_MAX + 1;
    assert_eq!(lock_targets(&mut desk, "ada", &names(100, more), more as u16), "invalid");
    assert_eq!((desk.table.locks(), lock_targets(&mut desk, "ada", &[], 0).as_str()), (limits::SET_MAX, "invalid"));
}

#[test]
fn what_an_agent_holds_of_a_set_answers_it_and_the_rest_is_granted() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /a");
    desk.ask("ada", "s /b");
    desk.ask("bob", "x /c");
    assert_eq!(desk.wait_all("ada", "x /a /b /c"), "waits");
    assert_eq!(desk.ask("cy", "s /b"), "held by ", "an upgrade in a set comes before all others, too");
    desk.unlock("bob", "all");
    assert_eq!(desk.news(), ["ada: already held, upgraded, granted"]);
    assert_eq!(desk.table.locks(), 3);
}

#[test]
fn two_sets_that_want_what_each_other_shares_alone_do_not_wait_for_each_other() {
    let mut desk = Desk::new();
    for name in ["ada", "bob"] {
        assert_eq!(desk.ask_all(name, "s /a /b"), "granted");
    }
    assert_eq!(desk.wait_all("ada", "x /a /c"), "waits");
    assert_eq!(desk.wait_all("bob", "x /b /d"), "deadlock bob > ada");
    assert_eq!(desk.ask("cy", "x /d"), "granted", "of a refused set nothing is left");
    desk.unlock("bob", "/a");
    assert_eq!(desk.news(), ["ada: upgraded, granted"]);
}

#[test]
fn a_session_takes_up_what_its_agent_left_of_a_set() {
    let mut desk = Desk::new();
    assert_eq!(desk.ttl(MINUTE).ask_all("ada#1", "x /a /b"), "granted");
    let before = granted(&desk);
    desk.end("ada#1");
    assert_eq!(desk.ttl(MINUTE).ask_all("ada#2", "x /a /c /b"), "resumed, granted, resumed");
    let now = granted(&desk);
    assert_eq!((now[0].id, now[2].id), (before[0].id, before[1].id));
    assert!(now[0].fence > before[1].fence && now[2].fence > now[1].fence);
    assert_eq!(desk.ask_all("ada#2", "x /d /c"), "own lock");
}

#[test]
fn a_set_whose_own_locks_would_be_in_its_way_is_refused_as_a_whole_and_as_it_was() {
    let mut desk = Desk::new();
    desk.ttl(MINUTE);
    assert_eq!(desk.ask_for("ada#1", "x", target("/d/f")), "granted");
    let before = desk.last.as_ref().unwrap().reply.grants()[0].lock.clone();
    desk.end("ada#1");
    let detached = desk.status("nobody").0;
    // By another name of the file it is taken up, and then it lies in the directory, which was clear before.
    let file = target("/d/f").ids;
    let set = [target("/a"), Target { ids: [file[0], file[2]].into(), ..target("/z") }, target("/d/")];
    desk.ttl(MINUTE);
    assert_eq!(lock_targets(&mut desk, "ada#2", &set, 3), "own lock");
    assert_eq!(refused(&desk).holders[0].id, before.id);
    assert_eq!(desk.status("nobody").0, detached, "it is detached as before, and nothing else is held");
}

#[test]
fn a_set_that_would_come_between_its_agents_lock_and_a_sub_agents_is_refused_as_a_whole() {
    let mut desk = Desk::new();
    desk.ttl(MINUTE);
    assert_eq!(desk.ask_for("ada", "x", target("/d/f")), "granted");
    let file = target("/d/f").ids;
    let alias = Target { ids: [file[0], file[2]].into(), ..target("/z") };
    assert_eq!(desk.ask_for("ada/x", "x", alias.clone()), "granted");
    let before = desk.status("nobody").0;
    // The directory is a guard of the session, and the lock on the file in it does not come back beside that.
    assert_eq!(lock_targets(&mut desk, "ada#2", &[target("/d/"), alias], 2), "own lock");
    assert_eq!(desk.status("nobody").0, before);
}

#[test]
fn a_set_waits_only_for_what_its_agent_does_not_hold() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    assert_eq!(desk.wait("cy", "x /f"), "waits");
    desk.ask("bob", "x /h");
    assert_eq!(desk.wait_all("ada", "x /f /h"), "waits", "for bob alone: what cy wants is ada's already");
    desk.unlock("bob", "/h");
    assert_eq!(desk.news(), ["ada: already held, granted"]);
    // With its own lock gone it waits for who is next there, and that is a cycle if they wait for ada elsewhere.
    desk.unlock("ada", "/h");
    desk.ask("bob", "x /h");
    desk.ask("ada", "x /g");
    assert_eq!(desk.wait("cy", "x /g"), "waits");
    assert_eq!(desk.wait_all("ada", "x /f /h"), "waits");
    desk.unlock("ada", "/f");
    assert_eq!(desk.news(), ["ada: deadlock ada > cy", "cy: granted"]);
}

#[test]
fn a_cycle_through_any_scope_of_a_set_is_refused() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /a");
    desk.ask("bob", "x /b");
    assert_eq!(desk.wait_all("ada", "x /c /b"), "waits");
    // Behind ada on /c, though bob holds nothing that ada lacks there.
    assert_eq!(desk.wait_all("bob", "x /e /c"), "deadlock bob > ada");
    assert_eq!(desk.wait_all("bob", "x /e /a"), "deadlock bob > ada");
    assert_eq!(desk.wait_all("bob", "x /e /f"), "granted");
    desk.unlock("bob", "all");
    assert_eq!(desk.news(), ["ada: granted"]);
}

#[test]
fn a_set_that_goes_leaves_no_row_and_no_flock_behind() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /a");
    let gone = |desk: &mut Desk| {
        assert_eq!(desk.table.waiters(), 0, "no row is left");
        assert_eq!(desk.ask("di", "x /b"), "granted");
        desk.unlock("di", "all");
    };
    desk.lock_set("bob", "x /a /b", Wait::Until(desk.now.mono.after(SECOND)));
    desk.pass(SECOND);
    assert_eq!(desk.news(), ["bob: timeout"]);
    desk.unlock("bob", "/b");
    gone(&mut desk);
    let (by, waiting) = (desk.caller("bob"), desk.caller("bob"));
    let waiting = Caller { id: waiting.id + 1, ..waiting };
    desk.wait_all("bob", "x /a /b");
    assert_eq!(desk.command(by, Command::Cancel { caller: by, waiting }), "cancelled true");
    gone(&mut desk);
    desk.wait_all("bob", "x /a /b");
    desk.run(Command::CallerGone { conn: 1 });
    gone(&mut desk);
    desk.wait_all("bob#1", "x /a /b");
    desk.end("bob#1");
    gone(&mut desk);
    let process = Process { pid: 9, start: 9 };
    desk.bound(process).wait_all("bob", "x /a /b");
    desk.run(Command::ProcessGone(process));
    gone(&mut desk);
    // The shared lock that a part of it was to upgrade is released.
    desk.ask("bob", "s /c");
    desk.wait_all("bob", "x /a /b /c");
    desk.unlock("bob", "/c");
    gone(&mut desk);
    desk.unlock("ada", "all");
    assert_eq!((desk.table.locks(), desk.news()), (0, vec![]), "nothing is granted late");
}

#[test]
fn a_retry_gets_the_locks_that_were_taken_up_in_a_stronger_mode_than_was_asked_for() {
    let mut desk = Desk::new();
    desk.ttl(MINUTE).ask("ada", "x /a");
    assert_eq!(desk.request("r").ask_all("ada#1", "s /a /b"), "resumed, granted");
    let locks = granted(&desk);
    assert_eq!(desk.request("r").ask_all("ada#1", "s /a /b"), "granted again");
    assert_eq!(granted(&desk), locks);
    assert_eq!(desk.request("r").ask_all("ada#1", "x /a /b"), "invalid");
}

#[test]
fn a_retry_gets_the_same_locks_or_the_word_that_one_is_lost() {
    let mut desk = Desk::new();
    assert_eq!(desk.request("r").ask_all("ada", "x /a /b"), "granted");
    let locks = granted(&desk);
    assert_eq!(desk.request("r").ask_all("ada", "x /a /b"), "granted again");
    assert_eq!(granted(&desk), locks);
    for other in ["x /a", "x /b /a", "x /a /c", "x /a /b /c", "s /a /b"] {
        assert_eq!(desk.request("r").ask_all("ada", other), "invalid", "{other}");
    }
    assert_eq!(desk.request("r").ask("ada", "x /a"), "invalid");
    assert_eq!(desk.request("r").upgrade("ada", "/a", Wait::Try), "invalid");
    desk.unlock("ada", "/b");
    assert_eq!(desk.request("r").ask_all("ada", "x /a /b"), "lost: Released");
    assert_eq!(desk.ask("ada", "x /a"), "already held", "what is left of it is held as before");
    assert_eq!(desk.request("s").ask("ada", "x /s"), "granted");
    assert_eq!(desk.request("s").ask_all("ada", "x /s /t"), "invalid");
}

#[test]
fn a_retry_of_a_waiting_set_keeps_its_place_and_takes_its_answer() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /a");
    desk.request("r").wait_all("bob", "x /b /a");
    desk.wait("cy", "x /b");
    desk.request("r").wait_all("bob", "x /b /a");
    desk.unlock("ada", "all");
    assert_eq!(desk.news(), ["bob: granted"]);
    desk.unlock("bob", "all");
    assert_eq!(desk.news(), ["cy: granted"]);
}

#[test]
fn a_waiting_set_survives_a_restart_as_a_whole_until_its_client_is_back_or_given_up() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /a");
    desk.request("r").wait_all("bob", "x /b /a");
    desk.restart(false);
    desk.unlock("ada", "all");
    assert_eq!((desk.news(), desk.table.waiters()), (vec![], 2), "nobody could be told");
    assert_eq!(desk.request("r").wait_all("bob", "x /b /a"), "granted");
    let mut desk = Desk::new();
    desk.ask("ada", "x /a");
    desk.request("r").wait_all("bob", "x /b /a");
    desk.restart(false);
    desk.pass(limits::WAITER_ABSENCE);
    assert_eq!(desk.table.waiters(), 0);
}

/// `name` waits a second for all of it, in vain; its ticket.
fn in_vain(desk: &mut Desk, name: &str, words: &str) -> Option<Ticket> {
    desk.lock_set(name, words, Wait::Until(desk.now.mono.after(SECOND)));
    desk.pass(SECOND);
    assert_eq!(desk.news(), [format!("{name}: timeout")]);
    let step = desk.steps.iter().rev().find(|step| !step.replies.is_empty()).expect("it was answered");
    match &step.replies.last().expect("it was answered").answer.reply {
        Reply::Refused(refused) => refused.ticket,
        other => panic!("{other:?}"),
    }
}

fn offered(desk: &mut Desk) -> Vec<bool> {
    desk.status("nobody").1.iter().map(|queued| queued.waiter.offered_until.is_some()).collect()
}

#[test]
fn a_set_that_has_waited_in_vain_keeps_one_place_and_goes_on_there() {
    let mut desk = Desk::new();
    desk.ttl(limits::HOUR).ask("ada", "x /a");
    let ticket = in_vain(&mut desk, "bob", "x /a /b").expect("its place is kept");
    assert_eq!(desk.ttl(limits::HOUR).wait("cy", "x /b"), "waits", "it keeps its place on every scope");
    // A part of it by itself does not go on there.
    assert_eq!(desk.ask("bob", "x /a"), "held by ada");
    assert_eq!((refused(&desk).ticket, desk.table.waiters()), (None, 3));
    assert_eq!(desk.ask_all("bob", "x /a /b"), "held by ada");
    assert_eq!(refused(&desk).ticket.map(|again| again.id), Some(ticket.id));
    assert_eq!(desk.wait_all("bob", "x /a /b"), "waits");
    desk.unlock("ada", "all");
    assert_eq!(desk.news(), ["bob: granted"]);
    assert_eq!(desk.table.waiters(), 1);
}

#[test]
fn the_place_of_a_set_is_offered_when_all_of_it_is_free_and_passed_on_after_that() {
    let mut desk = Desk::new();
    desk.ttl(limits::HOUR).ask("ada", "x /a");
    desk.ttl(limits::HOUR).ask("di", "x /b");
    in_vain(&mut desk, "bob", "x /a /b").expect("its place is kept");
    desk.ttl(limits::HOUR).wait("cy", "x /b");
    desk.unlock("ada", "all");
    assert_eq!(offered(&mut desk), [false; 3], "only a part of it is free");
    desk.unlock("di", "all");
    assert_eq!(offered(&mut desk), [true, true, false]);
    desk.pass(limits::TICKET_OFFERED);
    assert_eq!(desk.news(), ["cy: granted"]);
    assert_eq!(desk.table.waiters(), 0);
}

#[test]
fn what_an_own_lock_answered_of_an_offered_set_is_others_turn_when_that_has_ended() {
    let mut desk = Desk::new();
    desk.ttl(limits::HOUR).ask("ada", "x /a");
    desk.ttl(5 * SECOND).ask("bob", "x /b");
    in_vain(&mut desk, "cy", "x /b").expect("its place is kept");
    in_vain(&mut desk, "bob", "x /a /b").expect("its place is kept");
    desk.unlock("ada", "all");
    assert_eq!(offered(&mut desk), [false, true, true], "bob holds /b already");
    desk.pass(3 * SECOND);
    assert_eq!(offered(&mut desk), [true, false, false], "and is behind cy there now");
    desk.pass(limits::TICKET_OFFERED);
    assert_eq!(offered(&mut desk), [true, true]);
}

#[test]
fn whoever_gives_up_a_part_of_a_kept_set_gives_up_all_of_it() {
    let give_up: [fn(&mut Desk, Ticket) -> String; 4] = [
        |desk, _| desk.unlock("bob", "/b"),
        |desk, _| desk.unlock("bob", "/a"),
        |desk, _| desk.unlock("bob", "all"),
        |desk, ticket| desk.give_up("bob", ticket.id),
    ];
    for give_up in give_up {
        let mut desk = Desk::new();
        desk.ask("ada", "x /a");
        let ticket = in_vain(&mut desk, "bob", "x /a /b").expect("its place is kept");
        assert_eq!(desk.table.waiters(), 2);
        give_up(&mut desk, ticket);
        assert_eq!(desk.table.waiters(), 0);
    }
}

#[test]
fn a_restart_keeps_the_place_of_a_set_and_whoever_is_cut_off_keeps_it_as_well() {
    let mut desk = Desk::new();
    desk.ttl(limits::HOUR).ask("ada", "x /a");
    let ticket = in_vain(&mut desk, "bob", "x /a /b").expect("its place is kept");
    desk.wait_all("bob", "x /a /b");
    desk.run(Command::CallerGone { conn: 1 });
    assert_eq!(desk.table.waiters(), 2);
    desk.restart(false);
    assert_eq!(desk.ask_all("bob", "x /a /b"), "held by ada");
    assert_eq!(refused(&desk).ticket.map(|again| again.id), Some(ticket.id));
    // In another order it is another request.
    assert_eq!(desk.ask_all("bob", "x /b /a"), "held by ada");
    assert_eq!(refused(&desk).ticket, None);
}

#[test]
fn a_set_with_an_upgrade_in_it_keeps_no_place() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /a");
    desk.ask("bob", "s /b");
    assert_eq!(in_vain(&mut desk, "bob", "x /a /b"), None);
    assert_eq!(desk.table.waiters(), 0);
}

#[test]
fn a_set_that_was_not_heard_of_is_taken_back_and_granted_anew() {
    let mut desk = Desk::new();
    desk.request("r").ask_all("ada", "x /a /b");
    for granted in desk.last.clone().unwrap().reply.grants() {
        desk.run(granted.take_back());
    }
    assert_eq!(desk.table.locks(), 0);
    assert_eq!(desk.request("r").ask_all("ada", "x /a /b"), "granted");
}

#[test]
fn of_a_set_that_was_held_back_all_is_announced_or_nothing() {
    let mut desk = Desk::new();
    desk.ask_all("ada", "x /a /b /c");
    let mut answer = desk.last.clone().unwrap();
    let before = answer.clone();
    assert!(desk.table.bring_up_to_date(&mut answer, &[]).is_empty());
    assert_eq!(answer, before);
    let locks = granted(&desk);
    desk.break_lock("bob", locks[1].id);
    let rest = desk.table.bring_up_to_date(&mut answer, &[]);
    assert!(matches!(answer.reply, Reply::Failed(Fault::Lost(ended, _)) if ended.id == locks[1].id));
    rest.into_iter().for_each(|command| drop(desk.run(command)));
    assert_eq!(desk.table.locks(), 0);
}

#[test]
fn what_its_client_has_released_of_a_set_that_was_held_back_is_announced_as_it_was() {
    let mut desk = Desk::new();
    desk.ask_all("ada", "x /a /b /c");
    let (mut answer, locks) = (desk.last.clone().unwrap(), granted(&desk));
    let before = answer.clone();
    desk.unlock("ada", "/b");
    assert!(desk.table.bring_up_to_date(&mut answer, &[locks[1].id]).is_empty());
    assert_eq!(answer, before);
    // What another has ended is no less lost by that.
    desk.break_lock("bob", locks[2].id);
    let rest = desk.table.bring_up_to_date(&mut answer, &[locks[1].id]);
    assert!(matches!(answer.reply, Reply::Failed(Fault::Lost(ended, _)) if ended.id == locks[2].id));
    rest.into_iter().for_each(|command| drop(desk.run(command)));
    assert_eq!(desk.table.locks(), 0);
}

#[test]
fn a_set_is_no_further_in_front_than_the_least_of_its_scopes() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /a/");
    desk.ask("cy", "x /b");
    desk.wait("bob", "x /b");
    // Inside a parent's lock with one scope, and behind a stranger with the other.
    desk.wait_all("ada/x", "x /a/f /b");
    desk.unlock("cy", "all");
    assert_eq!(desk.news(), ["bob: granted"], "who came first for /b is first");
    desk.unlock("bob", "all");
    assert_eq!(desk.news(), ["ada/x: granted"]);
    desk.unlock("ada/x", "all");
    // It is let in before others as soon as all of it is inside.
    desk.ask("di", "x /b");
    desk.wait("bob", "x /b");
    desk.wait_all("ada/x", "x /a/f /b");
    desk.restart(false);
    let (_, waiters) = desk.status("nobody");
    assert_eq!(waiters.iter().map(|queued| queued.waiter.level).max(), Some(0), "nor is it after a restart");
    let mut desk = Desk::new();
    desk.ask("ada", "x /a/");
    desk.ask("di", "x /b");
    desk.wait("ada", "x /b");
    desk.wait("bob", "x /b");
    desk.wait_all("ada/x", "x /a/f /b");
    desk.unlock("di", "all");
    assert_eq!(desk.news(), ["ada: granted", "ada/x: granted"]);
}

#[test]
fn of_a_refused_set_it_is_told_what_stays_shared_and_when_to_come_back() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /a");
    desk.ask("bob", "s /b");
    assert_eq!(desk.ask_all("bob", "x /b /a"), "held by ada");
    let kept = refused(&desk).kept.map(|lock| (lock.ask.target.scope.to_string(), lock.ask.mode));
    assert_eq!(kept, Some(("/b".to_owned(), Mode::Shared)));
    assert_eq!(refused(&desk).retry_after, None, "nobody else wants it");
    for _ in 1..limits::CONTENTION_REQUESTS {
        assert_eq!(desk.ask_all("bob", "x /b /a"), "held by ada");
    }
    assert!(refused(&desk).retry_after.is_some(), "each refusal of the set was one of /a");
    assert_eq!(desk.ask("cy", "x /b"), "held by bob");
    assert_eq!(refused(&desk).retry_after, None, "and none of /b, which it shares already");
}

#[test]
fn an_undone_step_takes_the_whole_set_along() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /a");
    desk.wait_all("bob", "x /a /b");
    let rows = desk.table.rows().len();
    desk.unlock("ada", "all");
    let step = desk.steps.pop().unwrap();
    desk.table.undo(step);
    assert_eq!((desk.table.locks(), desk.table.waiters(), desk.table.rows().len()), (1, 2, rows));
}

#[test]
fn while_paused_no_set_is_granted_and_afterwards_all_of_it() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /a");
    desk.wait_all("bob", "x /a /b");
    desk.table.pause("the disk is full".into());
    assert_eq!(desk.ask_all("cy", "x /d /e"), "unavailable");
    desk.unlock("ada", "all");
    assert_eq!(desk.table.locks(), 0);
    let step = desk.table.resume(desk.now);
    assert_eq!(step.replies[0].answer.reply.grants().len(), 2);
}

#[test]
fn the_notice_of_a_loss_comes_with_a_set_that_names_its_scope() {
    let mut desk = Desk::new();
    desk.ttl(SECOND).ask("ada", "x /a");
    desk.pass(SECOND);
    assert_eq!(desk.ask_all("ada", "x /b /c"), "granted");
    assert!(desk.last.as_ref().unwrap().lost.is_empty());
    assert_eq!(desk.ask_all("ada", "x /d /a"), "granted");
    assert_eq!(desk.last.as_ref().unwrap().lost.len(), 1);
}
