//! Contention: what is counted, when it is told and how often, what is forgotten, and what a refusal advises.

use crate::rules::{Desk, target};
use flockd::limits::{self, MINUTE, SECOND};
use flockd::model::*;
use std::sync::Arc;

/// What was told of contention since the last look, with the scope and the lock that is in the way.
fn told(desk: &mut Desk) -> Vec<(String, LockId, Contended)> {
    let records = std::mem::take(&mut desk.steps).into_iter().flat_map(|step| step.records);
    let told = records.filter_map(|record| match record {
        Record::Event(Event { kind: EventKind::Contention(contended), ask, lock, .. }) => {
            Some((ask.target.scope.to_string(), lock, contended))
        }
        _ => None,
    });
    told.collect()
}

fn say(desk: &mut Desk, requests: u32, within: u64) {
    let workspace = Workspace { root: b"/"[..].into() };
    desk.run(Command::Contention { workspace, threshold: Threshold { requests, within } });
}

#[test]
fn a_scope_is_contended_when_enough_requests_were_refused_or_have_to_wait() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    let held = desk.status("ada").0[0].id;
    assert_eq!(desk.wait("bo", "x /f"), "waits");
    for name in ["cy", "di", "ed"] {
        desk.pass(SECOND);
        assert_eq!(desk.ask(name, "s /f"), "held by ada");
    }
    assert_eq!(told(&mut desk), [], "four are not five");
    desk.pass(SECOND);
    assert_eq!(desk.wait("fay", "s /f"), "waits");
    let contended =
        Contended { refused: 3, queued: 2, over: 4 * SECOND, waiting: 2, longest_wait: 4 * SECOND, left_out: 0 };
    assert_eq!(told(&mut desk), [("/f".to_owned(), held, contended)]);
}

#[test]
fn each_scope_is_counted_by_itself_and_only_what_came_within_the_window() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /d/");
    for at in 0..20 {
        desk.ask("bo", &format!("x /d/{at}"));
        desk.ask("bo", &format!("x /d/{at}"));
    }
    assert_eq!(told(&mut desk), [], "no scope was asked for more than twice");
    for _ in 0..20 {
        desk.pass(limits::CONTENTION_WITHIN / 4);
        desk.ask("bo", "x /d/slow");
    }
    assert_eq!(told(&mut desk), [], "never five in ten seconds");
    desk.pass(limits::CONTENTION_WITHIN / 4 - 1);
    desk.ask("bo", "x /d/slow");
    assert_eq!(told(&mut desk).len(), 1, "the fifth within ten seconds, by a millisecond");
}

#[test]
fn it_is_told_once_a_window_however_many_come() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    for _ in 0..1_000 {
        desk.ask("bo", "x /f");
    }
    let first = told(&mut desk);
    assert_eq!(first.iter().map(|(.., c)| (c.refused, c.over)).collect::<Vec<_>>(), [(5, 0)]);
    desk.pass(limits::CONTENTION_WITHIN - 1);
    desk.ask("bo", "x /f");
    assert_eq!(told(&mut desk), [], "the window is not over");
    for _ in 0..4 {
        desk.ask("bo", "x /f");
    }
    desk.pass(1);
    desk.ask("bo", "x /f");
    let next: Vec<_> = told(&mut desk).into_iter().map(|(.., c)| (c.refused, c.over)).collect();
    assert_eq!(next, [(995 + 6, limits::CONTENTION_WITHIN)], "all that came since, and no window without an event");
}

#[test]
fn what_cools_down_is_counted_anew() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    for _ in 0..7 {
        desk.ask("bo", "x /f");
    }
    assert_eq!(told(&mut desk).len(), 1);
    desk.pass(2 * limits::CONTENTION_WITHIN);
    for _ in 0..4 {
        desk.ask("bo", "x /f");
    }
    assert_eq!(told(&mut desk), []);
    desk.ask("bo", "x /f");
    let again: Vec<_> = told(&mut desk).into_iter().map(|(.., c)| c.refused).collect();
    assert_eq!(again, [5], "the two that came behind the first event are long over");
}

#[test]
fn nobody_but_others_makes_a_scope_contended() {
    let mut desk = Desk::new();
    desk.wait("ada#1", "x /f");
    for _ in 0..9 {
        assert_eq!(desk.ask("ada#1", "x /f"), "own lock");
        desk.wait_free("bo", "x /f");
        desk.ask("bo", "x /g");
        desk.unlock("bo", "/g");
    }
    assert_eq!(told(&mut desk), [], "one's own lock, a wait that takes nothing, and grants");
}

#[test]
fn a_request_is_counted_once_whatever_becomes_of_it() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    for name in ["bo", "cy", "di", "ed"] {
        desk.request(name).wait_for(SECOND, name, "x /f");
        // The same request once more keeps its place.
        desk.request(name).wait_for(SECOND, name, "x /f");
    }
    desk.pass(SECOND);
    assert_eq!(desk.news(), ["bo: timeout", "cy: timeout", "di: timeout", "ed: timeout"]);
    assert_eq!(told(&mut desk), []);
    desk.ask("fay", "x /f");
    assert_eq!(told(&mut desk).len(), 1);
}

#[test]
fn a_workspace_says_what_counts_and_no_other_is_touched() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /d/");
    say(&mut desk, 2, MINUTE);
    desk.ask("bo", "x /d/f");
    desk.pass(MINUTE - 1);
    desk.ask("bo", "x /d/f");
    assert_eq!(told(&mut desk).len(), 1);
    let elsewhere = |desk: &mut Desk| {
        let caller = desk.caller("bo");
        let ask = Ask { workspace: Workspace { root: b"/w"[..].into() }, ..(*desk.request_of("bo", "x /d/g")).clone() };
        desk.run(Command::Lock { caller, ask: Arc::new(ask), wait: Wait::Try });
    };
    (0..4).for_each(|_| elsewhere(&mut desk));
    assert_eq!(told(&mut desk), []);
    elsewhere(&mut desk);
    assert_eq!(told(&mut desk).len(), 1, "there it is five");
    let Threshold { requests, within } = Threshold::default();
    say(&mut desk, requests, within);
    (0..4).for_each(|_| drop(desk.ask("bo", "x /d/h")));
    assert_eq!(told(&mut desk), [], "and here as well from now on");
}

#[test]
fn an_unused_workspace_is_forgotten_before_one_in_use() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /d/");
    let workspace = |name: &str| Workspace { root: name.as_bytes().into() };
    let greet = |desk: &mut Desk, name: &str| {
        let threshold = Threshold { requests: 2, within: MINUTE };
        desk.run(Command::Contention { workspace: workspace(name), threshold });
    };
    let ask = |desk: &mut Desk, from: &str, scope: &str| {
        let caller = desk.caller("bo");
        let ask = Ask { workspace: workspace(from), ..(*desk.request_of("bo", &format!("x {scope}"))).clone() };
        desk.run(Command::Lock { caller, ask: Arc::new(ask), wait: Wait::Try });
    };
    // By the alphabet, and by when it came, the first of them would go.
    for name in ["/asks", "/greets", "/sleeps"] {
        greet(&mut desk, name);
    }
    (3..limits::CONTENTION_WORKSPACES_MAX).for_each(|number| greet(&mut desk, &format!("/w{number}")));
    ask(&mut desk, "/asks", "/d/asks");
    greet(&mut desk, "/greets");
    greet(&mut desk, "/one-more");
    for from in ["/asks", "/greets", "/sleeps", "/one-more"] {
        let again = if from == "/asks" { 1 } else { 2 };
        (0..again).for_each(|_| ask(&mut desk, from, &format!("/d{from}")));
    }
    let told: Vec<String> = told(&mut desk).into_iter().map(|(scope, ..)| scope).collect();
    assert_eq!(told, ["/d/asks", "/d/greets", "/d/one-more"]);
}

#[test]
fn however_many_scopes_are_contended_only_some_are_told_and_the_rest_is_a_count() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /d/");
    let scopes = 3 * limits::CONTENTION_TOLD_MAX as u64;
    for at in 0..scopes {
        (0..5).for_each(|_| drop(desk.ask("bo", &format!("x /d/{at}"))));
    }
    let first = told(&mut desk);
    assert_eq!(first.len(), limits::CONTENTION_TOLD_MAX);
    assert!(first.iter().all(|(.., c)| c.left_out == 0));
    desk.pass(limits::CONTENTION_WITHIN);
    (0..5).for_each(|_| drop(desk.ask("bo", "x /d/last")));
    let left_out: Vec<_> = told(&mut desk).into_iter().map(|(.., c)| c.left_out).collect();
    assert_eq!(left_out, [scopes - limits::CONTENTION_TOLD_MAX as u64]);
}

#[test]
fn a_hot_scope_is_found_among_more_than_can_be_kept() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /d/");
    for at in 0..2 * limits::CONTENTION_SCOPES_MAX {
        desk.ask("bo", &format!("x /d/{at}"));
        if at % 2_000 == 0 {
            desk.ask("bo", "x /d/hot");
        }
        desk.steps.retain(|step| step.records.iter().any(|record| matches!(record, Record::Event(_))));
    }
    let told: Vec<String> = told(&mut desk).into_iter().map(|(scope, ..)| scope).collect();
    assert_eq!(told, ["/d/hot"]);
    // What was asked for longest ago was forgotten: four more are not five.
    (0..4).for_each(|_| drop(desk.ask("bo", "x /d/0")));
    assert_eq!(self::told(&mut desk), []);
}

#[test]
fn what_is_taken_back_was_never_counted() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    (0..4).for_each(|_| drop(desk.ask("bo", "x /f")));
    desk.steps.clear();
    (0..3).for_each(|_| drop(desk.ask("bo", "x /f")));
    assert!(desk.refused().retry_after.is_some());
    for step in std::mem::take(&mut desk.steps).into_iter().rev() {
        desk.table.undo(step);
    }
    desk.ask("bo", "x /f");
    let again: Vec<_> = told(&mut desk).into_iter().map(|(.., c)| c.refused).collect();
    assert_eq!(again, [5], "the fifth that anybody was told of");
}

#[test]
fn where_no_lock_is_in_the_way_the_event_says_nobody() {
    let mut desk = Desk::new();
    desk.ask("ada", "s /f");
    desk.wait("bo", "x /f");
    for name in ["cy", "di", "ed", "fay"] {
        desk.wait(name, "s /f");
    }
    let events: Vec<Event> = desk.steps.iter().flat_map(|step| &step.records).filter_map(event).collect();
    let [event] = &events[..] else { panic!("{events:?}") };
    assert_eq!((event.lock, event.fence, event.ask.who.agent.as_str()), (LockId::NONE, Fence(0), "(nobody)"));
    assert_eq!(event.ask.target, target("/f"));
}

fn event(record: &Record) -> Option<Event> {
    match record {
        Record::Event(event) => Some(event.clone()).filter(|event| matches!(event.kind, EventKind::Contention(_))),
        _ => None,
    }
}

#[test]
fn a_refusal_advises_when_to_come_back_by_how_long_the_scope_is_held() {
    let mut desk = Desk::new();
    desk.ttl(5 * MINUTE).ask("ada", "x /f");
    desk.ask("bo", "x /f");
    assert_eq!(desk.refused().retry_after, None, "one request is no contention");
    (0..4).for_each(|_| drop(desk.ask("bo", "x /f")));
    assert_eq!(desk.refused().retry_after, Some(5 * MINUTE), "nobody has let go yet: what is left of the lease");
    // Held for a minute, for 2 and for 6 seconds.
    for held in [MINUTE, 2 * SECOND, 6 * SECOND] {
        desk.pass(held);
        desk.unlock("ada", "/f");
        desk.ask("ada", "x /f");
    }
    (0..5).for_each(|_| drop(desk.ask("bo", "x /f")));
    assert_eq!(desk.refused().retry_after, Some(6 * SECOND), "the median");
    desk.wait("cy", "x /f");
    desk.wait("di", "x /f");
    desk.ask("bo", "x /f");
    assert_eq!(desk.refused().retry_after, Some(3 * 6 * SECOND), "two wait before it");
    desk.pass(2 * limits::CONTENTION_WITHIN);
    desk.ask("bo", "x /f");
    assert_eq!(desk.refused().retry_after, None, "it is contended no more");
}

#[test]
fn a_timeout_advises_as_a_refusal_does_and_a_deadlock_does_not() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    (0..4).for_each(|_| drop(desk.ask("bo", "x /f")));
    desk.wait_for(SECOND, "cy", "x /f");
    desk.ask("di", "x /g");
    desk.wait("ada", "x /g");
    assert!(desk.wait("di", "x /f").starts_with("deadlock"));
    assert_eq!(desk.refused().retry_after, None);
    let timeout = {
        desk.now.mono = desk.now.mono.after(SECOND);
        desk.run(Command::Tick).into_iter().find_map(|reply| match reply.answer.reply {
            Reply::Refused(refused) => Some(refused),
            _ => None,
        })
    };
    let timeout = timeout.expect("cy has waited long enough");
    assert_eq!((&timeout.why, timeout.retry_after), (&RefusedFor::Timeout, Some(MINUTE - SECOND)));
}
