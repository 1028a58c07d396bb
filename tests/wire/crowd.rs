//! Many connections, idle ones, and ones that do not read: nobody waits for them.

use crate::raw::{Raw, served};
use crate::util::{scaled, until};
use serde_json::json;
use std::io::Write;

#[test]
fn a_peer_that_never_reads_is_served_no_further_and_a_hundred_others_notice_nothing() {
    let ground = served();
    // Long answers: what it does not read grows quickly.
    let mut filler = Raw::greeted(&ground, "filler");
    for number in 0..200 {
        let lock = json!({"id": number, "op": "lock", "scope": format!("@{number}"), "note": "n".repeat(400)});
        assert_eq!(filler.ask(lock)["ok"]["lock"]["acquired"], true);
    }
    let deaf = Raw::greeted(&ground, "deaf");
    let mut asking = deaf.stream.try_clone().unwrap();
    // The daemon takes no more from it than it can keep answers for: so there comes a line that does not fit.
    asking.set_write_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
    let cut_off = std::thread::spawn(move || {
        let mut asked = 0;
        for id in 0u64.. {
            if asking.write_all(format!("{}\n", json!({"id": id, "op": "status"})).as_bytes()).is_err() {
                break;
            }
            asked = id;
        }
        asked
    });
    std::thread::scope(|scope| {
        for thread in 0..10 {
            let ground = &ground;
            scope.spawn(move || {
                let mut peers: Vec<Raw> =
                    (0..10).map(|peer| Raw::greeted(ground, &format!("peer-{thread}-{peer}"))).collect();
                for round in 0..scaled(20) {
                    // All ten ask, then all ten read, so that a hundred are at it together.
                    for op in ["lock", "unlock"] {
                        for (number, peer) in peers.iter_mut().enumerate() {
                            peer.send(&json!({"id": round, "op": op, "scope": format!("@own-{thread}-{number}")}));
                        }
                        for peer in &mut peers {
                            let answer = peer.read();
                            assert!(answer["ok"].is_object() && answer["id"] == round, "{answer}");
                        }
                    }
                }
            });
        }
    });
    assert!(cut_off.join().unwrap() > 0);
    drop(deaf);
    until("it is gone", || (ground.daemon_status().connections == 2).then_some(()));
    assert_eq!(ground.status().locks.len(), 200);
    assert_eq!(filler.ask(json!({"id": 1, "op": "unlock", "all": true}))["id"], 1);
}

#[test]
fn a_grant_that_nobody_reads_is_taken_back() {
    let ground = served();
    let mut filler = Raw::greeted(&ground, "filler");
    for number in 0..200 {
        filler.ask(json!({"id": number, "op": "lock", "scope": format!("@{number}"), "note": "n".repeat(400)}));
    }
    let mut deaf = Raw::greeted(&ground, "deaf");
    // So much is unread that the answer to what comes last is certainly still with the daemon, and not so much that
    // the daemon gives up on this peer.
    for id in 0..5 {
        deaf.send(&json!({"id": id, "op": "status"}));
    }
    deaf.send(&json!({"id": 99, "op": "lock", "scope": "@granted-to-the-deaf"}));
    until("it is granted", || (ground.status().locks.len() == 201).then_some(()));
    drop(deaf);
    until("it is taken back", || (ground.status().locks.len() == 200).then_some(()));
}

#[test]
fn five_hundred_idle_connections_are_in_nobodys_way() {
    let ground = served();
    let idle: Vec<Raw> = (0..500).map(|number| Raw::greeted(&ground, &format!("idle-{number}"))).collect();
    assert_eq!(ground.daemon_status().connections, 501);
    let mut honest = Raw::greeted(&ground, "honest");
    for id in 0..scaled(200) {
        assert_eq!(honest.ask(json!({"id": id, "op": "lock", "scope": "@x"}))["ok"]["lock"]["acquired"], true);
        assert!(honest.ask(json!({"id": id, "op": "unlock", "scope": "@x"}))["ok"]["released"].is_array());
    }
    drop(idle);
    until("they are gone", || (ground.daemon_status().connections == 2).then_some(()));
}
