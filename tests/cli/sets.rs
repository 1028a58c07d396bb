//! Several scopes in one request: all or none.

use crate::util::{Ground, kill_9, until};
use serde_json::Value;

#[test]
fn several_are_locked_together_or_not_at_all_and_each_is_given_back_by_itself() {
    let ground = Ground::new();
    let done = ground.flockd("a", "lock one.txt dir/ @port").gives(0);
    assert_eq!(done.out.lines().count(), 3, "{done:?}");
    let refused = ground.flockd("b", "lock -n two.txt dir/x one.txt").gives(1);
    let refused = refused.says(&["two.txt, dir/x, one.txt", "are not all free; none is locked", "a", "holds"]);
    assert_eq!(refused.err.matches(" holds ").count(), 2, "each holder once: {refused:?}");
    ground.flockd("c", "lock -n two.txt").gives(0);
    ground.flockd("a", "unlock dir/").gives(0);
    ground.flockd("b", "lock -n dir/x").gives(0);
    ground.flockd("a", "check one.txt").gives(0);
}

#[test]
fn the_json_of_several_is_one_object_and_that_of_one_is_as_ever() {
    let ground = Ground::new();
    let one = ground.flockd("a", "lock x --json").gives(0).json();
    assert_eq!((&one["acquired"], &one["file_id"], one.get("locks")), (&Value::Bool(true), &"x".into(), None));
    let two = ground.flockd("a", "lock x y y --json").gives(0).json();
    assert_eq!(two["acquired"], true);
    let locks = two["locks"].as_array().unwrap();
    let names: Vec<_> = locks.iter().map(|lock| (&lock["file_id"], &lock["already_held"])).collect();
    assert_eq!(names, [(&"x".into(), &true.into()), (&"y".into(), &false.into())], "twice is once");
    let refused = ground.flockd("b", "lock -n z y --json").gives(1).json();
    assert_eq!((&refused["acquired"], &refused["code"]), (&false.into(), &"held".into()));
    assert_eq!((refused["locks"].as_array().unwrap().len(), &refused["holders"][0]["agent"]), (0, &"a".into()));
    assert_eq!(refused["file_ids"], serde_json::json!(["z", "y"]));
}

#[test]
fn scopes_with_something_in_common_are_refused_by_name() {
    let ground = Ground::new();
    let done = ground.flockd("a", "lock dir/ dir/x").gives(2);
    done.says(&["overlap", "leave", "dir/x out"]);
    let names: Vec<String> = (0..65).map(|n| format!("f{n}")).collect();
    ground.flockd("a", &format!("lock {}", names.join(" "))).gives(2).says(&["at most 64"]);
    let long: Vec<String> = (0..64).map(|n| format!("{n}{}", "/long".repeat(250))).collect();
    ground.flockd("a", &format!("lock {}", long.join(" "))).gives(2).says(&["at most 65536", "name fewer scopes"]);
    ground.flockd("a", "lock --advisory x y").gives(2).says(&["ask for each by itself"]);
    assert!(ground.status().locks.is_empty());
}

#[test]
fn run_holds_several_for_as_long_as_its_command_lives_whatever_becomes_of_run() {
    let ground = Ground::new();
    let mut held = ground.hold("a", "x y");
    let waiting = ground.queue("b", "y z");
    until("b waits with both", || (ground.status().waiters.len() == 2).then_some(()));
    let shown = ground.flockd("", "ls").gives(0).out;
    assert!(shown.contains("1 of 2 together, behind a") && shown.contains("2 of 2 together"), "{shown}");
    ground.flockd("c", "run -n -E 75 z -- true").gives(75);
    kill_9(held.run.id());
    assert_eq!(ground.status().locks.len(), 2, "the command keeps them");
    kill_9(held.command());
    let mut waiting = waiting;
    waiting.granted();
    let status = ground.status();
    assert_eq!(status.locks.iter().map(|lock| lock.file_id.as_str()).collect::<Vec<_>>(), ["y", "z"]);
    assert_eq!(waiting.end(), Some(0));
    until("all are free", || ground.status().locks.is_empty().then_some(()));
    held.let_go();
}
