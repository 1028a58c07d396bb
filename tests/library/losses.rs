//! Locks that end without their guards' doing.

use crate::util::Ground;
use flockd::{Code, HoldError, LossReason};
use std::time::Duration;

#[test]
fn release_tells_who_broke_the_lock_and_why() {
    let ground = Ground::new();
    let session = ground.agent("claw-1");
    let guard = session.lock("@x").acquire().unwrap();
    let broken = ground.dirs.flockd(&format!("break {} --reason stuck --agent boss", guard.lock_id()));
    assert!(broken.status.success(), "{broken:?}");
    // Nothing was asked since, so nothing was heard.
    assert_eq!(guard.lost(), None);
    let error = guard.release().unwrap_err();
    let loss = error.loss().unwrap();
    assert_eq!(loss.reason, LossReason::Broken);
    assert_eq!((loss.by.as_deref(), loss.note.as_deref()), (Some("boss"), Some("stuck")));
    assert!(error.to_string().contains("boss broke it"), "{error}");
}

#[test]
fn any_answer_of_the_session_brings_the_loss_to_its_guard() {
    let ground = Ground::new();
    let session = ground.agent("claw-1");
    let (guard, other) = (session.lock("@x").acquire().unwrap(), session.lock("@y").acquire().unwrap());
    ground.dirs.flockd(&format!("break {} --reason stuck --agent boss", guard.lock_id()));
    let z = session.lock("@z").acquire().unwrap();
    assert_eq!(guard.lost().unwrap().reason, LossReason::Broken);
    assert_eq!((other.lost(), z.lost()), (None, None));
    assert!(matches!(guard.check(), Err(HoldError::Lost(_))));
    // The loss was the guard's: nothing is left to be noticed, and dropping it takes nothing from the next holder.
    assert_eq!(session.take_notices(), []);
    let next = ground.agent("claw-2").lock("@x").acquire().unwrap();
    drop(guard);
    next.check().unwrap();
    other.check().unwrap();
}

#[test]
fn check_finds_a_loss_that_nobody_told() {
    let ground = Ground::new();
    let session = ground.agent("claw-1");
    let guard = session.lock("@x").shared().acquire().unwrap();
    guard.check().unwrap();
    ground.dirs.flockd(&format!("break {} --reason stuck --agent boss", guard.lock_id()));
    assert_eq!(guard.check().unwrap_err().loss().unwrap().reason, LossReason::Broken);
    assert_eq!(guard.lost().unwrap().lock_id, guard.lock_id());
}

#[test]
fn a_guard_released_over_its_head_by_its_own_agent_has_lost_its_lock() {
    let ground = Ground::new();
    let session = ground.agent("claw-1");
    let guard = session.lock("@x").acquire().unwrap();
    assert!(ground.dirs.flockd("unlock @x --agent claw-1").status.success());
    drop(session.lock("@y").acquire().unwrap());
    assert_eq!(guard.lost().unwrap().reason, LossReason::Released);
    assert_eq!(guard.release().unwrap_err().loss().unwrap().reason, LossReason::Released);
    // Also by its own session: whoever has the guard, in another thread perhaps, did not do it.
    let guard = session.lock("@x").acquire().unwrap();
    assert_eq!(session.unlock("@x").unwrap()[0].lock_id, guard.lock_id());
    assert_eq!(guard.release().unwrap_err().loss().unwrap().reason, LossReason::Released);
}

#[test]
fn losses_of_what_the_agent_took_elsewhere_become_notices() {
    let ground = Ground::new();
    let session = ground.agent("claw-1");
    let one_shot = ground.dirs.json("lock @x --agent claw-1");
    let lock_id = one_shot["lock_id"].as_str().unwrap();
    ground.dirs.flockd(&format!("break {lock_id} --reason stale --agent boss"));
    drop(session.lock("@x").acquire().unwrap());
    let notices = session.take_notices();
    assert_eq!(notices.len(), 1);
    assert_eq!((notices[0].lock_id.as_str(), notices[0].reason), (lock_id, LossReason::Broken));
    assert_eq!(session.take_notices(), []);
}

#[test]
fn a_kept_lock_outlives_its_guard_and_one_without_a_ttl_cannot_be_kept() {
    let ground = Ground::new();
    let session = ground.agent("claw-1");
    let not_kept = session.lock("@x").ttl(Duration::ZERO).acquire().unwrap().keep().unwrap_err();
    assert!(not_kept.to_string().contains("ttl 0"), "{not_kept}");
    let guard = not_kept.into_guard();
    guard.check().unwrap();
    guard.release().unwrap();

    let id = session.lock("@x").acquire().unwrap().keep().unwrap();
    let error = session.lock("@x").acquire().unwrap_err();
    assert_eq!(error.refusal().unwrap().holders[0].lock_id, id);
    assert_eq!(session.unlock("@x").unwrap()[0].lock_id, id);
    let again = session.lock("@x").acquire().unwrap();
    assert_ne!(again.lock_id(), id);
    again.keep().unwrap();
    assert_eq!(session.unlock_all().unwrap().len(), 1);
    assert_eq!(session.unlock("@x").unwrap_err().code(), Some(Code::NotFound));
}
