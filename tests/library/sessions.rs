//! Sessions: what ends with them, what comes back, and who waits for whom.

use crate::util::{Ground, wait_until};
use flockd::{Code, KeptBy};
use std::time::Duration;

#[test]
fn what_a_session_kept_is_resumed_by_the_next_one_with_a_new_fence() {
    let ground = Ground::new();
    let session = ground.agent("claw-1");
    let guard = session.lock("@x").acquire().unwrap();
    let (fence, id) = (guard.fence(), guard.keep().unwrap());
    drop(session);
    let is_detached = || ground.coordinator.client().status().unwrap().locks[0].kept_by == KeptBy::Lease;
    wait_until("the session has ended", is_detached);
    let error = ground.agent("claw-2").lock("@x").try_now().acquire().unwrap_err();
    let left = error.refusal().unwrap().holders[0].expires_in.unwrap();
    assert!(left > Duration::ZERO && left <= Duration::from_secs(60), "{left:?}");

    let resumed = ground.agent("claw-1").lock("@x").acquire().unwrap();
    assert!(resumed.is_resumed());
    assert_eq!(resumed.lock_id(), id);
    assert!(resumed.fence() > fence);
    resumed.release().unwrap();
    assert!(!ground.agent("claw-1").lock("@x").acquire().unwrap().is_resumed());
}

#[test]
fn guards_are_released_with_the_last_handle_of_their_session() {
    let ground = Ground::new();
    let session = ground.agent("claw-1");
    let guards: Vec<_> = (0..20).map(|number| session.lock(format!("@{number}")).acquire().unwrap()).collect();
    drop(session);
    drop(guards);
    wait_until("nothing is held", || ground.coordinator.client().status().unwrap().locks.is_empty());
}

#[test]
fn a_deadlock_of_two_sessions_is_refused_with_its_cycle_and_the_other_goes_on() {
    let ground = Ground::new();
    let (one, two) = (ground.agent("claw-1"), ground.agent("claw-2"));
    let a = one.lock("@a").acquire().unwrap();
    let b = two.lock("@b").acquire().unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| one.lock("@b").wait_forever().acquire().unwrap());
        ground.until_waiting(1);
        let error = two.lock("@a").wait_forever().acquire().unwrap_err();
        let refusal = error.refusal().unwrap();
        assert_eq!(refusal.code, Code::Deadlock);
        assert_eq!(refusal.cycle.len(), 2, "{refusal}");
        let cycle = refusal.cycle.join("\n");
        for part in ["claw-2 wants", "claw-1 holds it", "claw-1 wants", "claw-2 holds it"] {
            assert!(cycle.contains(part), "{part}: {cycle}");
        }
        a.check().unwrap();
        drop(b);
        waiter.join().unwrap().release().unwrap();
    });
}

#[test]
fn sessions_of_one_agent_deadlock_like_strangers() {
    let ground = Ground::new();
    let (one, two) = (ground.agent("claw-1"), ground.agent("claw-1"));
    let _a = one.lock("@a").acquire().unwrap();
    let b = two.lock("@b").acquire().unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| one.lock("@b").wait_forever().acquire().unwrap());
        ground.until_waiting(1);
        let error = two.lock("@a").wait_forever().acquire().unwrap_err();
        assert_eq!(error.refusal().unwrap().code, Code::Deadlock);
        drop(b);
        drop(waiter.join().unwrap());
    });
}

#[test]
fn check_says_whether_the_agent_may_write() {
    let ground = Ground::new();
    let (one, two) = (ground.agent("claw-1"), ground.agent("claw-2"));
    let guard = one.lock("@x").acquire().unwrap();
    assert_eq!(one.check("@x").unwrap().lock.unwrap().lock_id, guard.lock_id());
    let other = two.check("@x").unwrap();
    assert!(!other.allowed);
    assert_eq!(other.holders[0].agent, "claw-1");
    let status = one.workspace(ground.dirs.work()).unwrap().status("@x").unwrap();
    assert_eq!((status.locks.len(), status.waiters.len()), (1, 0));
}
