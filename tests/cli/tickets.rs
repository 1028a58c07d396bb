//! Places in the queue that are kept for commands which have waited in vain.

use crate::util::Ground;

#[test]
fn a_command_that_waited_in_vain_goes_on_in_its_place_when_it_is_repeated() {
    let ground = Ground::new();
    ground.flockd("ada", "lock x").gives(0);
    let refused = ground.flockd("bo", "lock x --wait 10ms").gives(3);
    refused.says(&["your place 1 in the queue is kept for 2m: ask again", "ask ada to release"]);
    let again = ground.flockd("bo", "lock x --wait 10ms --json").gives(3).json();
    assert_eq!(again["position"], 1);
    let ticket = again["ticket"].as_str().unwrap().to_owned();
    assert!(ticket.starts_with("tk_"), "{again}");
    // Whoever came later is behind it.
    let later = ground.flockd("cy", "lock x --wait 10ms --json").gives(3).json();
    assert_eq!(later["position"], 2);
    let shown = ground.flockd("", "status x --json").gives(0).json();
    let waiters = shown["waiters"].as_array().unwrap();
    assert_eq!(waiters.len(), 2, "{shown}");
    assert_eq!((&waiters[0]["agent"], &waiters[0]["ticket"]), (&"bo".into(), &ticket.into()));
    let kept = waiters[0]["kept_ms"].as_u64().unwrap();
    assert!(waiters[0]["absent"] == true && kept > 60_000 && kept <= 120_000, "{shown}");
    assert!(ground.flockd("", "ls").gives(0).out.contains("kept 1m "));
    ground.flockd("ada", "unlock x").gives(0);
    assert!(ground.flockd("", "ls").gives(0).out.contains("its turn, kept "));
    // It is reserved for the first of them, who has it at once.
    ground.flockd("ada", "lock x -n").gives(1);
    let refused = ground.flockd("cy", "lock x -n").gives(1);
    let refused = refused.says(&["x was asked for before", "it is the turn of bo, for whom x is kept 2", "s more"]);
    assert!(!refused.err.contains("is held"), "{refused:?}");
    let refused = ground.flockd("di", "lock x -n").gives(1);
    refused.says(&["the turn of bo, for whom", "cy has place 2 for x, kept 1m ", "others asked before you"]);
    ground.flockd("bo", "lock x -n").gives(0);
    ground.flockd("bo", "unlock x").gives(0);
    ground.flockd("cy", "lock x -n").gives(0);
}

#[test]
fn a_kept_place_outlives_the_daemon_and_ends_by_unlock() {
    let ground = Ground::new();
    ground.flockd("ada", "lock x").gives(0);
    ground.flockd("bo", "lock x --wait 10ms").gives(3);
    ground.flockd("cy", "lock x --wait 10ms").gives(3);
    ground.kill_daemon();
    let waiters = ground.status().waiters;
    let kept: Vec<&str> = waiters.iter().map(|waiter| waiter.agent.as_str()).collect();
    assert_eq!(kept, ["bo", "cy"]);
    assert!(waiters.iter().all(|waiter| waiter.kept_ms.is_some_and(|kept| kept <= 120_000)), "{waiters:?}");
    ground.flockd("ada", "unlock x").gives(0);
    ground.flockd("cy", "lock x -n").gives(1);
    assert_eq!(ground.flockd("bo", "unlock x --json").gives(0).json()["released"], serde_json::json!([]));
    ground.flockd("bo", "unlock x").gives(1);
    ground.flockd("cy", "lock x -n").gives(0);
}
