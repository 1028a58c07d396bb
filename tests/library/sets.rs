//! Several locks at once: all or none, and one value that holds them.

use crate::util::Ground;
use flockd::{Code, LockError, LockGuards, Mode};
use std::time::Duration;

const fn may_be_shared<T: Send + Sync>() {}
const _: () = may_be_shared::<LockGuards>();
const _: () = may_be_shared::<flockd::LockAllRequest>();

#[test]
fn all_are_held_until_the_guards_are_dropped_and_then_none() {
    let ground = Ground::new();
    let (one, two) = (ground.agent("claw-1"), ground.agent("claw-2"));
    let guards = one.lock_all(["@a", "@b", "@c"]).ttl(Duration::ZERO).note("all of it").acquire().unwrap();
    let names: Vec<&str> = guards.iter().map(|guard| guard.file_id()).collect();
    assert_eq!(names, ["@a", "@b", "@c"]);
    assert!(guards.windows(2).all(|pair| pair[0].fence() < pair[1].fence()));
    guards.check().unwrap();
    let error = two.lock_all(["@d", "@b", "@a"]).try_now().acquire().unwrap_err();
    let refusal = error.refusal().unwrap();
    assert_eq!((refusal.code, refusal.holders.len(), refusal.mode), (Code::Held, 2, Mode::Exclusive));
    assert_eq!(refusal.file_id, "@d, @b, @a");
    let waiting = std::thread::spawn(move || two.lock_all(["@b", "@a"]).wait_forever().acquire().unwrap());
    ground.until_waiting(2);
    drop(guards);
    let theirs = waiting.join().unwrap();
    assert_eq!(theirs.len(), 2);
    theirs.release().unwrap();
    assert!(ground.coordinator.client().status().unwrap().locks.is_empty());
}

#[test]
fn each_can_be_released_and_lost_by_itself() {
    let ground = Ground::new();
    let (one, two) = (ground.agent("claw-1"), ground.agent("claw-2"));
    let guards = one.lock_all(["@a", "@b"]).acquire().unwrap();
    assert!(guards.lost().is_none());
    let [a, b]: [_; 2] = guards.into_guards().try_into().unwrap();
    a.release().unwrap();
    two.lock("@a").try_now().acquire().unwrap().release().unwrap();
    assert!(two.lock("@b").try_now().acquire().is_err());
    b.release().unwrap();
}

#[test]
fn what_makes_no_set_is_refused_with_a_sentence() {
    let ground = Ground::new();
    let session = ground.agent("claw-1");
    let none: [&str; 0] = [];
    assert!(matches!(session.lock_all(none).acquire(), Err(LockError::Failed(_))));
    let error = session.lock_all(["dir/", "dir/file"]).acquire().unwrap_err();
    assert!(error.to_string().contains("overlap"), "{error}");
    let both = session.lock_all(["@a", "@a"]).acquire().unwrap();
    assert_eq!(both.len(), 1, "what is named twice is meant once");
    let error = session.lock_all(["@b", "@a"]).acquire().unwrap_err();
    assert_eq!(error.refusal().unwrap().holders[0].lock_id, both[0].lock_id());
}
