//! Advisory locks as people and programs take them: real claws that die, and the next leader told.

use crate::events::Running;
use crate::util::{Ground, kill_9};
use serde_json::Value;
use std::fs;
use std::process::{Child, Command, Stdio};

/// A process that lives until it is killed, or the test is over.
struct Claw(Child);

impl Claw {
    fn new() -> Claw {
        Claw(Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Claw {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whose advisory locks there are, by rank, and whom each has for its leader.
fn ranks(ground: &Ground) -> Vec<(u64, String, String)> {
    let status = ground.flockd("", "status @team --json").gives(0).json();
    let row = |lock: &Value| {
        let text = |key: &str| lock[key].as_str().unwrap().to_owned();
        (lock["rank"].as_u64().unwrap(), text("agent"), text("leader"))
    };
    status["locks"].as_array().unwrap().iter().map(row).collect()
}

#[test]
fn when_the_leader_is_killed_the_next_is_told_and_a_killed_daemon_changes_no_rank() {
    let ground = Ground::new();
    let mut watch = Running::start(&ground, &["watch", "@team", "--event", "lock.leader", "--json"]);
    let mut claws: Vec<Claw> = (0..4).map(|_| Claw::new()).collect();
    for (number, claw) in claws.iter().enumerate() {
        let lock = format!("lock --advisory @team --pid {} --json", claw.0.id());
        let granted = ground.flockd(&format!("claw-{number}"), &lock).gives(0).json();
        assert_eq!((granted["mode"].as_str(), granted["rank"].as_u64()), (Some("advisory"), Some(number as u64 + 1)));
        assert_eq!(granted["leader"], "claw-0");
        let beside = granted["holders"].as_array().unwrap().iter().map(|holder| holder["agent"].as_str().unwrap());
        let before: Vec<String> = (0..number).map(|number| format!("claw-{number}")).collect();
        assert!(beside.eq(before.iter().map(String::as_str)), "{granted}");
    }
    let first = watch.json();
    assert_eq!((first["acquired_by"].as_str(), first.get("former_leader")), (Some("claw-0"), None));
    for number in 0..3 {
        kill_9(claws.remove(0).0.id());
        let next = watch.json();
        let (leader, former) = (format!("claw-{}", number + 1), format!("claw-{number}"));
        assert_eq!((next["acquired_by"].as_str(), next["former_leader"].as_str()), (Some(&*leader), Some(&*former)));
        ground.kill_daemon();
        let left: Vec<_> = (number + 1..4).map(|at| (at - number, format!("claw-{at}"), leader.clone())).collect();
        assert_eq!(ranks(&ground), left);
    }
}

#[test]
fn it_is_granted_beside_a_holder_that_it_names_and_keeps_nobody_waiting() {
    let ground = Ground::new();
    ground.flockd("claw-1", "lock data.json --note merging").gives(0);
    let granted = ground.flockd("claw-2", "lock --advisory data.json").gives(0);
    assert!(granted.out.contains("advisory, lk_") && granted.out.contains("rank 1: claw-2 leads"), "{granted:?}");
    assert!(granted.out.contains("claw-1 holds data.json exclusive"), "{granted:?}");
    ground.flockd("claw-1", "unlock data.json").gives(0);
    let exclusive = ground.flockd("claw-3", "lock -n data.json").gives(0);
    assert!(exclusive.out.contains("claw-2 holds data.json advisory"), "{exclusive:?}");
    let listed = ground.flockd("", "ls").gives(0);
    assert!(listed.out.contains("advisory #1") && listed.out.contains("exclusive"), "{listed:?}");
    ground.flockd("claw-2", "lock -n data.json").gives(1).says(&["claw-3 holds data.json exclusive"]);
    ground.flockd("claw-2", "lock --advisory -s data.json").gives(2);
}

#[test]
fn it_protects_no_write_and_says_so() {
    let ground = Ground::new();
    fs::write(ground.work.join("data.json"), "old").unwrap();
    let granted = ground.flockd("claw-1", "lock --advisory data.json --json").gives(0).json();
    assert!(granted["advice"].as_str().unwrap().contains("protects no write") && granted["os_lock"] == false);
    ground.flockd("claw-1", "check data.json").gives(1).says(&["is advisory and protects no write"]);
    let fence = granted["fence"].as_u64().unwrap();
    let refused = ground.flockd("claw-1", &format!("write data.json --allow-empty --fence {fence}")).gives(1);
    refused.says(&["is advisory and protects no write; lock it exclusively"]);
    assert_eq!(fs::read_to_string(ground.work.join("data.json")).unwrap(), "old");
    ground.flockd("claw-1", "upgrade data.json").gives(2).says(&["is advisory"]);
    ground.flockd("claw-1", "unlock data.json").gives(0);
    ground.flockd("claw-1", "unlock data.json").gives(1).says(&["no such lock is held"]);
}
