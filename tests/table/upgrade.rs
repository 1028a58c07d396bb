//! A shared lock made exclusive and back, rule by rule.

use crate::rules::{Desk, target};
use flockd::limits::{MINUTE, SECOND};
use flockd::model::*;
use flockd::scope::Target;

fn lock(desk: &mut Desk, agent: &str) -> Lock {
    let (locks, _) = desk.status("nobody");
    locks.into_iter().find(|lock| lock.ask.who.agent.as_str() == agent).expect("it holds something")
}

/// The events that the latest step has told.
fn acquired(desk: &Desk) -> Vec<(Acquired, Fence)> {
    let event = |record: &Record| match record {
        Record::Event(Event { kind: EventKind::Acquired(how), fence, .. }) => Some((*how, *fence)),
        _ => None,
    };
    desk.steps.iter().flat_map(|step| step.records.iter().filter_map(event)).collect()
}

#[test]
fn who_is_alone_is_upgraded_at_once_with_a_new_fence_and_the_same_id() {
    let mut desk = Desk::new();
    desk.ask("ada", "s /f");
    let before = lock(&mut desk, "ada");
    assert_eq!(desk.upgrade("ada", "/f", Wait::Try), "upgraded");
    let after = lock(&mut desk, "ada");
    assert!(after.id == before.id && after.fence > before.fence && after.ask.mode == Mode::Exclusive);
    assert_eq!(acquired(&desk), [(Acquired::Granted, before.fence), (Acquired::Upgraded, after.fence)]);
    assert_eq!(desk.ask("bo", "s /f"), "held by ada");
    assert_eq!(desk.check("ada", "/f", Some(after.fence)), "yes");
    assert_eq!(desk.upgrade("ada", &after.id.to_string(), Wait::Try), "already held");
    assert_eq!(lock(&mut desk, "ada").fence, after.fence);
}

#[test]
fn what_is_exclusive_already_answers_under_the_name_that_it_was_asked_by_and_tells_what_was_lost_there() {
    let mut desk = Desk::new();
    let mut other_name = target("/e/g");
    let last = other_name.ids.len() - 1;
    other_name.ids[last] = target("/d/f").own_id().expect("it exists");
    assert_eq!(desk.ask_for("ada", "s", other_name.clone()), "granted");
    desk.pass(MINUTE);
    assert_eq!(desk.ask("ada", "x /d/f"), "granted");
    let (who, caller) = (desk.who("ada"), desk.caller("ada"));
    let which = Which::Scope(other_name);
    let told = desk.run(Command::Upgrade { caller, who, which, wait: Wait::Try, request: None });
    assert!(matches!(&told[0].answer.reply, Reply::Granted(granted) if granted.already_held), "{told:?}");
    assert_eq!(told[0].answer.lost.iter().map(|lost| &lost.why).collect::<Vec<_>>(), [&EndReason::Expired]);
}

#[test]
fn an_upgrade_asked_for_by_another_name_tells_what_was_lost_under_that_at_once_or_after_a_wait() {
    for waits in [false, true] {
        let mut desk = Desk::new();
        let mut other_name = target("/e/g");
        let last = other_name.ids.len() - 1;
        other_name.ids[last] = target("/d/f").own_id().expect("it exists");
        assert_eq!(desk.ask("ada", "s /e/"), "granted");
        desk.pass(MINUTE);
        assert_eq!(desk.ask("ada", "s /d/f"), "granted");
        if waits {
            assert_eq!(desk.ask("bo", "s /d/f"), "granted");
        }
        let (who, caller, which) = (desk.who("ada"), desk.caller("ada"), Which::Scope(other_name));
        let mut told = desk.run(Command::Upgrade { caller, who, which, wait: Wait::Forever, request: None });
        if waits {
            assert!(told.is_empty(), "{told:?}");
            let (who, which) = (desk.who("bo"), Which::Scope(target("/d/f")));
            told = desk.run(Command::Unlock { caller: None, who, which, leaves_loan: false });
        }
        assert!(matches!(&told[0].answer.reply, Reply::Granted(granted) if granted.upgraded), "{told:?}");
        assert_eq!(told[0].answer.lost.iter().map(|lost| &lost.why).collect::<Vec<_>>(), [&EndReason::Expired]);
    }
}

#[test]
fn an_upgrade_comes_before_all_who_wait_there() {
    let mut desk = Desk::new();
    desk.ask("ada", "s /f");
    desk.ask("bo", "s /f");
    assert_eq!(desk.wait("cy", "x /f"), "waits");
    assert_eq!(desk.wait("di", "s /f"), "waits");
    assert_eq!(desk.upgrade("ada", "/f", Wait::Forever), "waits");
    assert_eq!(desk.ask("ed", "s /f"), "held by ");
    desk.unlock("bo", "/f");
    assert_eq!(desk.news, ["ada: upgraded"]);
    desk.unlock("ada", "/f");
    assert_eq!(desk.news, ["ada: upgraded", "cy: granted"]);
    desk.unlock("cy", "/f");
    assert_eq!(desk.news, ["ada: upgraded", "cy: granted", "di: granted"]);
}

#[test]
fn the_second_who_wants_it_alone_is_refused_at_once_by_the_name_of_the_first_and_keeps_its_shared_lock() {
    for (first, second) in [("ada", "bo"), ("ada#1", "ada#2")] {
        let mut desk = Desk::new();
        desk.ask(first, "s /f");
        let one = desk.status("nobody").0[0].id.to_string();
        desk.ask(second, "s /f");
        let two = desk.status("nobody").0[1].clone();
        assert_eq!(desk.upgrade(first, &one, Wait::Forever), "waits");
        let (a, b) =
            (&second[..second.find('#').unwrap_or(second.len())], &first[..first.find('#').unwrap_or(first.len())]);
        assert_eq!(desk.upgrade(second, &two.id.to_string(), Wait::Forever), format!("deadlock {a} > {b}"));
        let Some(Answer { reply: Reply::Refused(refused), .. }) = desk.last.clone() else { panic!("{:?}", desk.last) };
        assert_eq!(refused.kept.as_deref(), Some(&two), "it holds what it held");
        assert_eq!(refused.holders[0].id.to_string(), one);
        assert_eq!(desk.status("nobody").0[1], two);
        desk.unlock(second, &two.id.to_string());
        assert_eq!(desk.news, [format!("{first}: upgraded")]);
    }
}

#[test]
fn two_commands_of_one_agent_do_not_wait_for_each_other_for_ever() {
    // Both act as their agent, so that the search for cycles takes them for one.
    let mut desk = Desk::new();
    for id in [1, 2] {
        let (caller, agent) = (Caller { conn: 9, id }, Agent::new("ada").unwrap());
        let kind = SessionKind::Command;
        let session = Session { id: SessionId(id), secret: 1, agent, process: None, kind, away_until: None };
        desk.run(Command::OpenSession { caller, session });
    }
    let mut ids = Vec::new();
    for session in [1, 2] {
        let ask = desk.request_of("ada", "s /f");
        let who = Who { agent: ask.who.agent.clone(), session: Some(SessionId(session)) };
        let caller = desk.caller("ada");
        let ask = std::sync::Arc::new(Ask { who, ..(*ask).clone() });
        let replies = desk.run(Command::Lock { caller, ask, wait: Wait::Try });
        let Reply::Granted(granted) = &replies[0].answer.reply else { panic!("{replies:?}") };
        ids.push(granted.lock.id);
    }
    let mut upgrade = |session: u64| {
        let (caller, which) = (desk.caller("ada"), Which::Id(ids[session as usize - 1]));
        let who = Who { agent: Agent::new("ada").unwrap(), session: Some(SessionId(session)) };
        desk.run(Command::Upgrade { caller, who, which, wait: Wait::Forever, request: None })
    };
    assert_eq!(upgrade(1), []);
    let refused = upgrade(2);
    assert!(matches!(&refused[0].answer.reply, Reply::Refused(r) if matches!(r.why, RefusedFor::Deadlock(_))));
}

#[test]
fn an_upgrade_that_would_close_a_longer_cycle_is_refused() {
    let mut desk = Desk::new();
    desk.ask("ada", "s /d/a");
    desk.ask("bo", "s /d/a");
    desk.ask("cy", "x /d/b");
    // Bo waits for all below /d, only because of cy; ada's shared lock is not in the way of that.
    assert_eq!(desk.wait("bo", "s /d/"), "waits");
    // As the first in the queue ada would come before bo, for whose lock it would wait.
    assert_eq!(desk.upgrade("ada", "/d/a", Wait::Forever), "deadlock ada > bo");
    assert_eq!(desk.upgrade("ada", "/d/a", Wait::Try), "held by bo");
    desk.unlock("cy", "/d/b");
    assert_eq!(desk.news, ["bo: granted"]);
}

#[test]
fn an_upgrade_given_up_leaves_the_shared_lock() {
    let mut desk = Desk::new();
    desk.ask("ada", "s /f");
    desk.ask("bo", "s /f");
    let before = lock(&mut desk, "ada");
    assert_eq!(desk.upgrade("ada", "/f", Wait::Until(desk.now.mono.after(SECOND))), "waits");
    desk.pass(SECOND);
    assert_eq!(desk.news, ["ada: timeout"]);
    assert_eq!(lock(&mut desk, "ada"), before);
    desk.upgrade("ada", "/f", Wait::Forever);
    let waiting = desk.status("nobody").1[0].waiter.caller.expect("it listens");
    let caller = desk.caller("ada");
    desk.run(Command::Cancel { caller, waiting });
    assert_eq!(desk.queue(), Vec::<String>::new());
    assert_eq!(lock(&mut desk, "ada").ask.mode, Mode::Shared);
    assert_eq!(desk.ask("cy", "s /f"), "granted", "nothing is left of it");
}

#[test]
fn who_loses_the_lock_while_its_upgrade_waits_is_told() {
    let mut desk = Desk::new();
    desk.ask("ada", "s /f");
    desk.ask("bo", "s /f");
    let id = lock(&mut desk, "ada").id;
    desk.upgrade("ada", "/f", Wait::Forever);
    let waiting = desk.status("nobody").1[0].waiter.caller.expect("it listens");
    let caller = desk.caller("cy");
    let who = desk.who("cy");
    let replies = desk.run(Command::Break { caller, who, id, reason: "stuck".into() });
    let told = replies.iter().find(|reply| reply.to == waiting).expect("it is answered");
    assert!(matches!(&told.answer.reply, Reply::Failed(Fault::Lost(ended, _)) if ended.id == id));
}

#[test]
fn asking_for_more_than_one_holds_is_asking_for_an_upgrade() {
    let mut desk = Desk::new();
    desk.ask("ada", "s /f");
    let before = lock(&mut desk, "ada");
    desk.ask("bo", "s /f");
    assert_eq!(desk.ask("ada", "x /f"), "held by bo");
    assert_eq!(desk.wait("cy", "x /f"), "waits");
    desk.request("r1");
    assert_eq!(desk.wait("ada", "x /f"), "waits");
    desk.unlock("bo", "/f");
    assert_eq!(desk.news, ["ada: upgraded"]);
    assert_eq!(lock(&mut desk, "ada").id, before.id);
    desk.request("r1");
    assert_eq!(desk.ask("ada", "x /f"), "granted again");
    // What a session holds, only that session changes.
    let mut desk = Desk::new();
    desk.ask("ada#1", "s /f");
    assert_eq!(desk.ask("ada", "x /f"), "own lock");
    assert_eq!(desk.upgrade("ada", "/f", Wait::Try), "invalid");
    assert_eq!(desk.upgrade("ada#2", "/f", Wait::Try), "invalid");
    assert_eq!(desk.upgrade("ada#1", "/f", Wait::Try), "upgraded");
    assert_eq!(desk.downgrade("ada", "/f"), "invalid");
    assert_eq!(desk.downgrade("ada#1", "/f"), "shared");
}

#[test]
fn asking_for_more_by_another_name_of_the_file_is_asking_for_an_upgrade_of_the_lock_where_it_is() {
    let mut desk = Desk::new();
    let other_name = Target { ids: target("/d/f").ids, ..target("/e/g") };
    desk.ask("ada", "s /d/f");
    let before = lock(&mut desk, "ada");
    desk.ask("cy", "s /d/f");
    for asked in ["once", "again"] {
        desk.request("r1");
        assert_eq!(desk.wait_at("ada", other_name.clone()), "waits", "{asked}");
    }
    desk.unlock("cy", "/d/f");
    assert_eq!(desk.news(), ["ada: upgraded"]);
    desk.request("r1");
    assert_eq!(desk.ask_for("ada", "x", other_name), "granted again");
    let after = lock(&mut desk, "ada");
    assert_eq!((after.id, after.ask.mode), (before.id, Mode::Exclusive));
    assert_eq!(after.ask.target, before.ask.target);
    assert_eq!(desk.ask("bo", "x /d/"), "held by ada", "what it kept out before it keeps out still");
}

#[test]
fn a_downgrade_lets_nobody_in_between_and_lets_readers_in() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    let before = lock(&mut desk, "ada");
    assert_eq!(desk.wait("bo", "s /f"), "waits");
    assert_eq!(desk.wait("cy", "x /f"), "waits");
    assert_eq!(desk.wait("di", "s /f"), "waits");
    assert_eq!(desk.downgrade("ada", "/f"), "shared");
    assert_eq!(desk.news, ["bo: granted"], "cy was before di");
    let after = lock(&mut desk, "ada");
    assert!(after.id == before.id && after.fence == before.fence && after.ask.mode == Mode::Shared);
    assert!(acquired(&desk).contains(&(Acquired::Downgraded, before.fence)));
    assert_eq!(desk.check("ada", "/f", None), "no ada bo");
    assert_eq!(desk.downgrade("ada", "/f"), "shared", "it is so already");
    assert_eq!(desk.downgrade("ed", "/f"), "held by ada bo");
    assert_eq!(desk.downgrade("ada", "all"), "invalid");
}

#[test]
fn a_retry_of_an_upgrade_gets_the_same_grant_or_the_same_place() {
    let mut desk = Desk::new();
    desk.ask("ada", "s /f");
    desk.ask("bo", "s /f");
    desk.request("u1");
    assert_eq!(desk.upgrade("ada", "/f", Wait::Forever), "waits");
    desk.restart(false);
    assert_eq!(desk.ask("cy", "s /f"), "held by ", "its place is kept for it");
    desk.request("u1");
    assert_eq!(desk.upgrade("ada", "/f", Wait::Forever), "waits");
    desk.unlock("bo", "/f");
    assert_eq!(desk.news.last().map(String::as_str), Some("ada: upgraded"));
    let fence = lock(&mut desk, "ada").fence;
    desk.request("u1");
    assert_eq!(desk.upgrade("ada", "/f", Wait::Forever), "granted again");
    assert_eq!(lock(&mut desk, "ada").fence, fence);
    desk.downgrade("ada", "/f");
    desk.request("u1");
    assert_eq!(desk.upgrade("ada", "/f", Wait::Forever), "invalid", "that grant is over");
}

#[test]
fn an_upgrade_that_is_not_delivered_leaves_the_lock_shared() {
    let mut desk = Desk::new();
    desk.ttl(MINUTE).ask("ada", "s /f");
    desk.upgrade("ada", "/f", Wait::Try);
    let held = lock(&mut desk, "ada");
    assert_eq!(desk.wait("bo", "s /f"), "waits");
    desk.run(Command::TakeBack {
        id: held.id,
        fence: held.fence,
        what: Unheard { upgraded: true, ..Unheard::default() },
    });
    assert_eq!(desk.news, ["bo: granted"]);
    assert_eq!(lock(&mut desk, "ada").ask.mode, Mode::Shared);
}

#[test]
fn a_session_that_holds_more_than_one_there_does_not_wait_for_itself() {
    let mut desk = Desk::new();
    desk.ask("ada#1", "s /d/a");
    desk.ask("ada#1", "s /d/");
    let id = desk.status("nobody").0[0].id.to_string();
    assert_eq!(desk.upgrade("ada#1", &id, Wait::Forever), "own lock");
}
