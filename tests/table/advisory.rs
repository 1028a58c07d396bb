//! Advisory locks, claim by claim: in nobody's way, ranked, with a leader, protecting nothing.

use crate::rules::{Desk, target};
use flockd::limits::{self, MINUTE, SECOND};
use flockd::model::*;
use flockd::scope::{FileId, Scope, Target};
use std::sync::Arc;

/// Whom the latest grant names beside itself, each with its mode's first letter.
fn beside(desk: &Desk) -> Vec<String> {
    let Reply::Granted(granted) = &desk.last.as_ref().expect("it was answered").reply else { panic!("not granted") };
    let name = |lock: &Lock| format!("{} {}", &lock.ask.mode.as_str()[..1], lock.ask.who.agent);
    granted.beside.iter().map(name).collect()
}

/// Rank and leader of the latest grant.
fn standing(desk: &Desk) -> (usize, String) {
    let standings = &desk.last.as_ref().expect("it was answered").standings;
    let standing = &standings[&desk.granted().id];
    (standing.rank, standing.leader.to_string())
}

/// The advisory locks as `status` lists them: whose, rank, leader.
fn listed(desk: &mut Desk) -> Vec<(String, usize, String)> {
    let (locks, _) = desk.status("nobody");
    let standings = &desk.last.as_ref().expect("it was answered").standings;
    let row = |lock: Lock| {
        let Standing { rank, leader } = standings.get(&lock.id)?;
        Some((lock.ask.who.agent.to_string(), *rank, leader.to_string()))
    };
    locks.into_iter().filter_map(row).collect()
}

/// Everything told since the last look: `ada acquired`, `bo leads after ada`.
fn told(desk: &mut Desk) -> Vec<String> {
    let tell = |record: &Record| {
        let Record::Event(event) = record else { return None };
        let agent = &event.ask.who.agent;
        Some(match &event.kind {
            EventKind::Leader { former: Some(former) } => format!("{agent} leads after {former}"),
            EventKind::Leader { former: None } => format!("{agent} leads"),
            EventKind::Acquired(how) => format!("{agent} {}", how.as_str()),
            kind => format!("{agent} {}", kind.name().strip_prefix("lock.").unwrap_or_default()),
        })
    };
    std::mem::take(&mut desk.steps).iter().flat_map(|step| step.records.iter().filter_map(tell)).collect()
}

// ── The matrix ──────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn each_cell_of_the_mode_matrix() {
    for (held, asked, outcome, names) in [
        ("s", "s", "granted", &[][..]),
        ("s", "x", "held by ada", &[]),
        ("s", "a", "granted", &["s ada"]),
        ("x", "s", "held by ada", &[]),
        ("x", "x", "held by ada", &[]),
        ("x", "a", "granted", &["e ada"]),
        ("a", "s", "granted", &["a ada"]),
        ("a", "x", "granted", &["a ada"]),
        ("a", "a", "granted", &["a ada"]),
    ] {
        for (first, second) in [("ada", "bo"), ("ada#1", "bo#1")] {
            let mut desk = Desk::new();
            desk.ask(first, &format!("{held} /f"));
            assert_eq!(desk.ask(second, &format!("{asked} /f")), outcome, "{held} held, {asked} asked");
            if outcome == "granted" {
                assert_eq!(beside(&desk), names, "{held} held, {asked} asked");
            }
            let mut desk = Desk::new();
            desk.ask(first, &format!("{held} /f"));
            let waits = if outcome == "granted" { "granted" } else { "waits" };
            assert_eq!(desk.wait(second, &format!("{asked} /f")), waits, "{held} held, {asked} asked and waited for");
        }
    }
}

#[test]
fn nobody_waits_for_an_advisory_lock() {
    let mut desk = Desk::new();
    for (agent, scope) in [("ada#1", "a /d/f"), ("ada#2", "a /d/f"), ("bo", "a /d/"), ("bo", "a /")] {
        assert_eq!(desk.ask(agent, scope), "granted");
    }
    assert_eq!(desk.wait("cy", "x /d/f"), "granted");
    assert_eq!(beside(&desk), ["a ada", "a ada", "a bo", "a bo"], "each is named");
    assert_eq!(desk.ask("di", "s /d/f"), "held by cy", "nobody else is in the way");
    assert_eq!(desk.wait("di", "x /d/"), "waits");
    let waiting = desk.status("nobody").1;
    assert!(waiting[0].behind.iter().all(|lock| lock.ask.mode == Mode::Exclusive), "{waiting:?}");
    assert!(!told(&mut desk).contains(&"ada waiting".to_owned()), "nobody is told to be waited for in vain");
    assert_eq!(desk.wait_free("ed", "s /g"), "free", "under an advisory lock on all there is");
    desk.unlock("cy", "all");
    assert_eq!(desk.news(), ["di: granted"]);
}

#[test]
fn an_advisory_lock_is_granted_at_once_whatever_is_held_and_whoever_waits() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    assert_eq!(desk.wait("bo", "x /f"), "waits");
    assert_eq!(desk.wait("cy", "s /f"), "waits");
    assert_eq!(desk.ask("di", "a /f"), "granted");
    assert_eq!(beside(&desk), ["e ada"]);
    assert_eq!(desk.wait("bo", "a /f"), "granted", "though the same agent waits there");
    assert_eq!(desk.ask("ed#1", "a /"), "granted");
    assert_eq!(beside(&desk), ["e ada", "a di", "a bo"], "what excludes others comes first");
    assert_eq!(desk.queue(), ["bo", "cy"]);
    desk.unlock("ada", "/f");
    assert_eq!(desk.news(), ["bo: granted"], "the queue is as it was");
}

#[test]
fn no_advisory_lock_is_part_of_a_cycle_of_waits() {
    let mut desk = Desk::new();
    desk.ask("ada", "a /f");
    desk.ask("ada", "x /g");
    desk.ask("bo", "a /g");
    desk.ask("bo", "x /f");
    assert_eq!(desk.wait("ada", "x /f"), "waits");
    assert_eq!(desk.wait("ada", "a /f"), "already held");
    assert_eq!(desk.wait("cy", "x /g"), "waits");
    assert_eq!(desk.wait("bo", "x /g"), "deadlock bo > ada", "that is for its exclusive lock alone");
}

#[test]
fn a_scope_with_more_advisory_locks_than_can_be_named_says_how_many_more() {
    let mut desk = Desk::new();
    desk.ask("first", "x /f");
    let crowd = limits::HOLDERS_NAMED + 5;
    for agent in 0..crowd {
        assert_eq!(desk.ask(&format!("claw-{agent}"), "a /f"), "granted");
        assert_eq!(standing(&desk), (agent + 1, "claw-0".to_owned()));
    }
    desk.ask("last", "a /f");
    let Reply::Granted(granted) = &desk.last.as_ref().expect("it was answered").reply else { panic!("not granted") };
    assert_eq!((granted.beside.len(), granted.more), (limits::HOLDERS_NAMED, crowd + 1 - limits::HOLDERS_NAMED));
    assert_eq!(granted.beside[0].ask.who.agent.as_str(), "first");
    let ranks: Vec<usize> = listed(&mut desk).iter().map(|(_, rank, _)| *rank).collect();
    assert_eq!(ranks, (1..=crowd + 1).collect::<Vec<_>>());
}

// ── One's own ───────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn only_an_advisory_lock_on_exactly_the_scope_answers_an_advisory_request() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /d/f");
    assert_eq!(desk.ask("ada", "a /d/f"), "granted", "the exclusive one has no rank");
    let first = desk.granted();
    desk.pass(30 * SECOND);
    assert_eq!(desk.ask("ada", "a /d/f"), "already held");
    assert_eq!((desk.granted().id, desk.granted().fence), (first.id, first.fence));
    assert_eq!(desk.granted().expires, Some(desk.now.mono.after(MINUTE)), "now + ttl, never added up");
    desk.ask("ada", "a /d/");
    assert_eq!(desk.ask("ada", "a /d/g"), "granted", "a rank above is not one here");
    assert_eq!(standing(&desk), (1, "ada".to_owned()));
}

#[test]
fn beside_an_advisory_lock_of_ones_own_any_other_is_granted_and_is_no_upgrade() {
    for (agent, mode) in [("ada", "s"), ("ada", "x"), ("ada#1", "s"), ("ada#1", "x")] {
        let mut desk = Desk::new();
        desk.ask(agent, "a /f");
        let advisory = desk.granted();
        assert_eq!(desk.ask(agent, &format!("{mode} /f")), "granted", "{mode}");
        assert_ne!(desk.granted().id, advisory.id);
        assert_eq!(beside(&desk), [""; 0], "one's own is known");
        assert_eq!(desk.status("nobody").0.len(), 2);
    }
}

#[test]
fn each_guard_has_a_rank_of_its_own_two_of_one_agent_and_of_one_session_as_well() {
    let mut desk = Desk::new();
    for (agent, rank, names) in [("ada#1", 1, &[][..]), ("ada#2", 2, &["a ada"]), ("ada#1", 3, &["a ada"])] {
        assert_eq!(desk.ask(agent, "a /f"), "granted");
        assert_eq!(standing(&desk), (rank, "ada".to_owned()));
        assert_eq!(beside(&desk), names, "the other session's");
    }
}

#[test]
fn an_advisory_lock_is_neither_upgraded_nor_downgraded_and_a_shared_one_beside_it_is() {
    let mut desk = Desk::new();
    desk.ask("ada", "a /f");
    let id = desk.granted().id.to_string();
    for which in ["/f", &id] {
        assert_eq!(desk.upgrade("ada", which, Wait::Forever), "invalid");
        assert_eq!(desk.downgrade("ada", which), "invalid");
        let Reply::Failed(Fault::Invalid(text)) = &desk.last.as_ref().expect("it was answered").reply else { panic!() };
        assert!(text.contains("is advisory"), "{text}");
    }
    desk.ask("ada", "s /f");
    assert_eq!(desk.upgrade("ada", "/f", Wait::Try), "upgraded");
    assert_eq!(desk.upgrade("ada", &id, Wait::Try), "invalid");
    assert_eq!(desk.downgrade("ada", "/f"), "shared");
    assert_eq!(desk.ask("ada", "x /f"), "upgraded", "asked for by a one-shot it is the shared one's upgrade");
    assert_eq!(listed(&mut desk), [("ada".to_owned(), 1, "ada".to_owned())]);
}

#[test]
fn an_advisory_request_does_not_wait_for_a_write_of_its_own_agent() {
    let mut desk = Desk::new();
    desk.ask("ada", "x /f");
    let id = desk.granted().id;
    let (caller, who) = (desk.caller("ada"), desk.who("ada"));
    let prepared = Arc::new(Prepared { name: b"new"[..].into(), device: 1, inode: 99, unchanged: None });
    let commit = Command::Commit { caller, who, target: target("/f"), fence: None, prepared };
    assert_eq!(desk.command(caller, commit), "waits");
    assert_eq!(desk.unlock("ada", "/f"), "waits", "it is being written");
    assert_eq!(desk.ask("ada", "a /f"), "granted");
    assert_eq!(desk.wait("bo", "a /f"), "granted");
    assert_eq!(desk.ask("ada#1", "x /f"), "waits", "that is another matter");
    let placed = Placed { bytes: 3, file: None, flocked: false, again: false };
    desk.run(Command::CommitDone { commit: CommitId(1), lock: id, answer: CommitAnswer::InPlace(placed) });
    assert_eq!(desk.news(), ["ada#1: granted"]);
    assert_eq!(listed(&mut desk).len(), 2, "what was released is what was held then");
}

// ── Protection, disk, bounds ────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn an_advisory_lock_allows_no_write() {
    let mut desk = Desk::new();
    desk.ask("ada", "a /f");
    let fence = desk.granted().fence;
    assert_eq!(desk.check("ada", "/f", None), "no ada", "its own is named: that is why it may have thought so");
    assert_eq!(desk.check("ada", "/f", Some(fence)), "no ada");
    assert_eq!(desk.check("bo", "/f", None), "no", "another's is in nobody's way");
    for (agent, fence, word) in
        [("ada", None, "only advisory"), ("ada", Some(fence), "only advisory"), ("bo", None, "held by ")]
    {
        let (caller, who) = (desk.caller(agent), desk.who(agent));
        let prepared = Arc::new(Prepared { name: b"new"[..].into(), device: 1, inode: 99, unchanged: None });
        let commit = Command::Commit { caller, who, target: target("/f"), fence, prepared };
        assert_eq!(desk.command(caller, commit), word, "{agent}");
    }
    desk.ask("bo", "x /f");
    assert_eq!(desk.check("bo", "/f", None), "yes", "under the eyes of ada");
}

#[test]
fn an_advisory_grant_waits_for_no_disk() {
    let mut desk = Desk::new();
    for agent in ["ada", "ada#1", "ada"] {
        desk.ttl(MINUTE).ask(agent, "a /f");
        let step = desk.steps.last().expect("a step was taken");
        assert!(step.replies.iter().all(|reply| !reply.synced), "{agent}");
    }
    desk.ttl(MINUTE).ask("ada", "x /f");
    assert!(desk.steps.last().expect("a step was taken").replies[0].synced);
}

#[test]
fn an_advisory_lock_takes_no_flock() {
    let mut desk = Desk::new();
    let caller = desk.caller("ada");
    let ask = desk.request_of("ada", "a /f");
    let ask = Arc::new(Ask { os: true, ..(*ask).clone() });
    assert_eq!(desk.command(caller, Command::Lock { caller, ask, wait: Wait::Forever }), "granted");
    assert!(desk.steps.iter().all(|step| step.effects.is_empty()));
    desk.restart(false);
    desk.unlock("ada", "/f");
    assert!(desk.steps.iter().all(|step| step.effects.is_empty()));
}

#[test]
fn while_the_journal_cannot_be_written_no_advisory_lock_is_granted_and_who_leads_is_told() {
    let mut desk = Desk::new();
    desk.ask("ada", "a /f");
    desk.ask("bo", "a /f");
    desk.table.pause("the disk is full".into());
    assert_eq!(desk.ask("cy", "a /f"), "unavailable");
    told(&mut desk);
    desk.unlock("ada", "/f");
    assert_eq!(told(&mut desk), ["ada released", "bo leads after ada"]);
}

#[test]
fn after_a_reboot_every_advisory_lock_is_void_and_after_a_restart_none() {
    let mut desk = Desk::new();
    desk.ttl(10 * MINUTE).ask("ada", "a /f");
    desk.ttl(10 * MINUTE).ask("bo#1", "a /f");
    desk.ttl(10 * MINUTE).ask("cy", "x /g");
    desk.restart(false);
    let both = [("ada".to_owned(), 1, "ada".to_owned()), ("bo".to_owned(), 2, "ada".to_owned())];
    assert_eq!(listed(&mut desk), both);
    desk.restart(true);
    let locks = desk.status("nobody").0;
    assert!(locks.len() == 1 && locks[0].ask.mode == Mode::Exclusive, "{locks:?}");
    assert_eq!(desk.unlock("ada", "/f"), "lost: Rebooted");
    assert_eq!(told(&mut desk), [""; 0], "nobody leads who is lost in the same moment");
}

// ── Ranks and leaders ───────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn whoever_comes_to_lead_is_told_and_nobody_else() {
    let mut desk = Desk::new();
    desk.ask("ada", "a /f");
    assert_eq!(told(&mut desk), ["ada granted", "ada leads"]);
    desk.ask("bo", "a /f");
    desk.ask("cy", "a /f");
    assert_eq!(told(&mut desk), ["bo granted", "cy granted"]);
    desk.unlock("bo", "/f");
    assert_eq!(told(&mut desk), ["bo released"], "the leader is the same");
    desk.unlock("ada", "/f");
    assert_eq!(told(&mut desk), ["ada released", "cy leads after ada"]);
    desk.unlock("cy", "/f");
    assert_eq!(told(&mut desk), ["cy released"], "nobody is left to be told");
    desk.ask("bo", "a /f");
    assert_eq!(told(&mut desk), ["bo granted", "bo leads"]);
    desk.ask("ada", "a /d/");
    desk.ask("bo", "a /d/f");
    let other = ["ada granted", "ada leads", "bo granted", "bo leads"];
    assert_eq!(told(&mut desk), other, "overlapping is not the same scope");
}

#[test]
fn however_a_leader_ends_the_next_is_told() {
    let mut desk = Desk::new();
    desk.ttl(5 * SECOND).ask("ada", "a /f");
    for agent in ["bo#1", "cy", "di", "ed"] {
        desk.ask(agent, "a /f");
    }
    told(&mut desk);
    desk.pass(6 * SECOND);
    assert_eq!(told(&mut desk), ["ada released", "bo leads after ada"], "its lease ran out");
    desk.end("bo#1");
    assert_eq!(told(&mut desk), ["bo released", "cy leads after bo"], "its session ended");
    let lock = desk.status("nobody").0[0].clone();
    desk.break_lock("ed", lock.id);
    assert_eq!(told(&mut desk), ["cy released", "di leads after cy"], "it was broken");
    let lock = desk.status("nobody").0[0].clone();
    let what = Unheard { is_new: true, ..Unheard::default() };
    desk.run(Command::TakeBack { id: lock.id, fence: lock.fence, what });
    assert_eq!(told(&mut desk), ["di released", "ed leads after di"], "its grant never arrived");
}

#[test]
fn nobody_is_told_to_lead_that_ends_in_the_same_moment() {
    let mut desk = Desk::new();
    for agent in ["ada#1", "ada#1", "bo#1", "cy"] {
        desk.ask(agent, "a /f");
    }
    told(&mut desk);
    desk.end("ada#1");
    assert_eq!(told(&mut desk), ["ada released", "ada released", "bo leads after ada"]);
}

#[test]
fn the_rank_is_kept_when_a_new_session_takes_the_lock_up() {
    let mut desk = Desk::new();
    desk.ttl(MINUTE).ask("ada#1", "a /f");
    let before = desk.granted();
    desk.ask("bo", "a /f");
    desk.end("ada#1");
    assert_eq!(desk.ask("cy", "a /f"), "granted");
    assert_eq!(standing(&desk), (3, "ada".to_owned()), "who is away for a moment leads until its lease is over");
    told(&mut desk);
    assert_eq!(desk.ttl(MINUTE).ask("ada#2", "a /f"), "resumed");
    assert_eq!(standing(&desk), (1, "ada".to_owned()));
    let after = desk.granted();
    assert!(after.id == before.id && after.since == before.since && after.fence > before.fence);
    assert_eq!(told(&mut desk), ["ada resumed"], "the leader is the same");
    desk.unlock("ada#2", "/f");
    desk.ask("ada", "a /f");
    assert_eq!(standing(&desk), (3, "bo".to_owned()), "who has let go begins anew");
}

#[test]
fn a_session_that_asks_for_another_mode_takes_no_advisory_lock_up_nor_the_other_way_round() {
    for (first, second) in [("a", "s"), ("a", "x"), ("s", "a"), ("x", "a")] {
        let mut desk = Desk::new();
        desk.ttl(MINUTE).ask("ada#1", &format!("{first} /f"));
        desk.end("ada#1");
        assert_eq!(desk.ask("ada#2", &format!("{second} /f")), "granted", "{first} then {second}");
        assert_eq!(desk.status("nobody").0.len(), 2);
    }
}

#[test]
fn two_names_of_one_file_are_ranked_as_one_and_a_replaced_file_as_its_name() {
    let [root, old, new] = [1, 2, 3].map(|inode| FileId { device: 1, inode, birth: 0 });
    let named = |path: &str, ids: &[FileId]| Target { scope: Scope::File(path.as_bytes().into()), ids: ids.into() };
    let mut desk = Desk::new();
    desk.ask_for("ada", "a", named("/f", &[root, old]));
    desk.ask_for("bo", "a", named("/link", &[root, old]));
    assert_eq!(standing(&desk), (2, "ada".to_owned()));
    // The file behind `/f` is replaced: its name goes on, and the link is another object from then on.
    desk.ask_for("cy", "a", named("/f", &[root, new]));
    assert_eq!(standing(&desk), (2, "ada".to_owned()));
    told(&mut desk);
    desk.free_by("ada", named("/f", &[root, new]));
    let mut both = told(&mut desk);
    both.sort();
    assert_eq!(both, ["ada released", "bo leads after ada", "cy leads after ada"], "each leads under its name");
}

#[test]
fn a_retry_gets_the_same_advisory_grant_and_its_standing_of_now() {
    let mut desk = Desk::new();
    desk.ask("ada", "a /f");
    assert_eq!(desk.request("r1").ask("bo", "a /f"), "granted");
    let before = desk.granted();
    desk.unlock("ada", "/f");
    assert_eq!(desk.request("r1").ask("bo", "a /f"), "granted again");
    assert_eq!((desk.granted().id, desk.granted().fence), (before.id, before.fence));
    assert_eq!(standing(&desk), (1, "bo".to_owned()));
    assert_eq!(desk.request("r1").ask("bo", "x /f"), "invalid", "in another mode it is another request");
}

#[test]
fn whoever_leads_under_one_name_only_when_a_second_of_another_has_ended_is_told() {
    let [root, old, new] = [1, 2, 3].map(|inode| FileId { device: 1, inode, birth: 0 });
    let named = |path: &str, ids: &[FileId]| Target { scope: Scope::File(path.as_bytes().into()), ids: ids.into() };
    let mut desk = Desk::new();
    desk.ask_for("ada", "a", named("/f", &[root, old]));
    desk.ask_for("bo", "a", named("/f", &[root, new]));
    desk.ask_for("cy", "a", named("/link", &[root, new]));
    assert_eq!(standing(&desk), (2, "bo".to_owned()), "of the file that both mean");
    told(&mut desk);
    desk.free_by("bo", named("/f", &[root, new]));
    assert_eq!(told(&mut desk), ["bo released", "cy leads after bo"]);
    desk.free_by("ada", named("/f", &[root, old]));
    assert_eq!(told(&mut desk), ["ada released"]);
}

#[test]
fn a_request_inside_an_advisory_lock_of_its_parent_has_no_place_in_any_line() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask("ada", "a /f"), "granted");
    assert_eq!(desk.ask("ada/x", "a /f"), "granted");
    assert_eq!(desk.wait("ada/x", "a /f"), "already held");
}
