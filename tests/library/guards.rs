//! Asking, holding and giving back.

use crate::util::Ground;
use flockd::{
    Client, Code, Coordinator, KeptBy, LockError, LockGuard, LockRequest, Mode, Session, UpgradeError, Workspace,
};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const fn may_be_shared<T: Send + Sync>() {}
const _: () = may_be_shared::<Client>();
const _: () = may_be_shared::<Coordinator>();
const _: () = may_be_shared::<Session>();
const _: () = may_be_shared::<Workspace>();
const _: () = may_be_shared::<LockRequest>();
const _: () = may_be_shared::<LockGuard>();
const _: () = may_be_shared::<LockError>();

#[test]
fn guards_of_two_sessions_of_one_agent_exclude_each_other() {
    let ground = Ground::new();
    let (one, two) = (ground.agent("claw-1"), ground.agent("claw-1"));
    let guard = one.lock("@x").acquire().unwrap();
    let error = two.lock("@x").try_now().acquire().unwrap_err();
    assert_eq!(error.refusal().unwrap().code, Code::Held);
    drop(guard);
    two.lock("@x").acquire().unwrap().release().unwrap();
}

#[test]
fn a_session_that_asks_again_is_refused_at_once_and_finds_itself_named() {
    let ground = Ground::new();
    let session = ground.agent("claw-1");
    let guard = session.lock("@x").acquire().unwrap();
    let error = session.lock("@x").wait_forever().acquire().unwrap_err();
    let refusal = error.refusal().unwrap();
    assert_eq!(refusal.holders[0].lock_id, guard.lock_id());
    assert_eq!(refusal.holders[0].agent, "claw-1");
    assert!(refusal.advice.as_ref().unwrap().contains("yourself"), "{refusal}");
    guard.check().unwrap();
}

#[test]
fn a_refusal_names_every_holder_with_its_note_and_what_to_do() {
    let ground = Ground::new();
    let readers: Vec<Session> = (1..=3).map(|number| ground.agent(&format!("reader-{number}"))).collect();
    let hold = |session: &Session| {
        session.lock("@x").shared().ttl(Duration::ZERO).note(format!("reading as {}", session.agent())).acquire()
    };
    let guards: Vec<LockGuard> = readers.iter().map(|session| hold(session).unwrap()).collect();
    let error = ground.agent("writer").lock("@x").wait(Duration::from_millis(1)).acquire().unwrap_err();
    let refusal = error.refusal().unwrap();
    assert_eq!((refusal.code, refusal.mode, refusal.position), (Code::Timeout, Mode::Exclusive, Some(1)));
    for (holder, guard) in refusal.holders.iter().zip(&guards) {
        assert_eq!(holder.lock_id, guard.lock_id());
        assert_eq!(holder.fence, guard.fence());
        assert_eq!((holder.mode, holder.kept_by), (Mode::Shared, KeptBy::Session));
        assert_eq!(holder.note, Some(format!("reading as {}", holder.agent)));
        assert_eq!(holder.pid, Some(std::process::id()));
    }
    assert_eq!(refusal.holders.len(), 3);
    let text = error.to_string();
    assert!(text.contains("reader-2 holds @x shared") && text.contains("reading as reader-2"), "{text}");
    assert!(text.contains("to release lk_"), "{text}");
}

#[test]
fn a_guard_is_upgraded_and_downgraded_in_place() {
    let ground = Ground::new();
    let (one, two) = (ground.agent("claw-1"), ground.agent("claw-2"));
    let mut guard = one.lock("@x").shared().acquire().unwrap();
    let other = two.lock("@x").shared().acquire().unwrap();
    let (id, fence) = (guard.lock_id().to_owned(), guard.fence());
    let error = guard.upgrade(Duration::ZERO).unwrap_err();
    assert_eq!(error.refusal().unwrap().holders[0].lock_id, other.lock_id());
    assert_eq!((guard.mode(), guard.fence()), (Mode::Shared, fence));
    guard.check().unwrap();
    drop(other);
    guard.upgrade(None).unwrap();
    assert_eq!((guard.mode(), guard.lock_id()), (Mode::Exclusive, id.as_str()));
    assert!(guard.fence() > fence);
    guard.check().unwrap();
    assert!(one.check("@x").unwrap().allowed);
    two.lock("@x").shared().try_now().acquire().unwrap_err();
    let fence = guard.fence();
    guard.downgrade().unwrap();
    assert_eq!((guard.mode(), guard.fence()), (Mode::Shared, fence));
    two.lock("@x").shared().try_now().acquire().unwrap().release().unwrap();
    guard.release().unwrap();
}

#[test]
fn a_lock_that_was_lost_is_neither_upgraded_nor_downgraded() {
    let ground = Ground::new();
    let mut guard = ground.agent("claw-1").lock("@x").shared().acquire().unwrap();
    ground.dirs.flockd(&format!("break {} --reason stuck --agent claw-2", guard.lock_id()));
    assert!(
        matches!(guard.upgrade(None).unwrap_err(), UpgradeError::Lost(loss) if loss.by.as_deref() == Some("claw-2"))
    );
    assert!(guard.downgrade().unwrap_err().loss().is_some());
}

#[test]
fn a_dropped_guard_lets_the_next_waiter_have_the_lock() {
    let ground = Ground::new();
    let (one, two) = (ground.agent("claw-1"), ground.agent("claw-2"));
    let guard = one.lock("@x").acquire().unwrap();
    let first = guard.fence();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| two.lock("@x").wait_forever().acquire().unwrap());
        ground.until_waiting(1);
        drop(guard);
        assert!(waiter.join().unwrap().fence() > first);
    });
}

#[test]
fn a_dropped_guard_is_released_before_the_same_session_asks_again() {
    let ground = Ground::new();
    let session = ground.agent("claw-1");
    let mut fence = 0;
    for _ in 0..200 {
        // A session is refused what it holds itself, so a release that came late would fail here.
        let guard = session.lock("@x").try_now().ttl(Duration::ZERO).acquire().unwrap();
        assert!(guard.fence() > fence);
        fence = guard.fence();
    }
}

#[test]
fn many_threads_share_one_session_and_one_guard() {
    let ground = Ground::new();
    let session = ground.agent("claw-1");
    let (shared, own) = (session.lock("@shared").acquire().unwrap(), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for number in 0..16 {
            let (session, shared, own) = (&session, &shared, &own);
            scope.spawn(move || {
                for _ in 0..20 {
                    let guard = session.lock(format!("@{number}")).ttl(Duration::ZERO).acquire().unwrap();
                    shared.check().unwrap();
                    guard.release().unwrap();
                    own.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(own.into_inner(), 320);
    shared.release().unwrap();
}

#[test]
fn a_guard_may_be_dropped_in_another_thread_and_after_its_session_handle() {
    let ground = Ground::new();
    let guard = ground.agent("claw-1").lock("@x").ttl(Duration::ZERO).acquire().unwrap();
    guard.check().unwrap();
    std::thread::spawn(move || drop(guard)).join().unwrap();
    drop(ground.agent("claw-2").lock("@x").acquire().unwrap());
}

#[test]
fn names_begin_in_the_workspace_and_bytes_come_through() {
    let ground = Ground::new();
    let session = ground.agent("claw-1");
    let workspace = session.workspace(ground.dirs.work()).unwrap();
    let name = OsStr::from_bytes(b"caf\xe9\\.txt");
    let guard = workspace.lock(name).acquire().unwrap();
    assert_eq!(guard.file_id(), r"caf\xe9\\.txt");
    let other = ground.agent("claw-2");
    let refused = other.lock(ground.dirs.work().join(name)).try_now().acquire().unwrap_err();
    assert_eq!(refused.refusal().unwrap().holders[0].lock_id, guard.lock_id());
    // Everything below a directory, from whichever directory it is looked at.
    let inner = ground.dirs.work().join("inner");
    std::fs::create_dir(&inner).unwrap();
    let subtree = workspace.lock("inner").acquire().unwrap();
    assert_eq!(subtree.file_id(), "inner/");
    let refused = other.workspace(&inner).unwrap().lock("deep.txt").try_now().acquire().unwrap_err();
    assert_eq!(refused.refusal().unwrap().file_id, "deep.txt");
    assert_ne!(subtree.workspace_id(), other.workspace(&inner).unwrap().lock("@x").acquire().unwrap().workspace_id());
}

#[test]
fn what_makes_no_sense_is_rejected_with_a_sentence() {
    let ground = Ground::new();
    let session = ground.agent("claw-1");
    let invalid = |request: LockRequest, what: &str| match request.acquire().unwrap_err() {
        LockError::Failed(error) => {
            assert_eq!(error.code(), Some(Code::Invalid), "{error}");
            assert!(error.to_string().contains(what), "{error}");
        }
        LockError::Refused(refusal) => panic!("{refusal}"),
        other => panic!("{other}"),
    };
    invalid(session.lock(""), "empty");
    invalid(session.lock("@x").ttl(Duration::from_secs(86_401)), "24 h");
    invalid(session.lock("@x").ttl(Duration::MAX), "24 h");
    invalid(session.lock("@x").wait(Duration::MAX), "24 h");
    invalid(session.lock("@x").note("two\nlines"), "control character");
    invalid(session.lock("glob:[a"), "pattern");
    assert_eq!(ground.coordinator.agent("two words").unwrap_err().code(), Some(Code::Invalid));
    assert_eq!(session.workspace(ground.dirs.work().join("missing")).unwrap_err().code(), Some(Code::Invalid));
    assert_eq!(ground.coordinator.client().status().unwrap().locks, []);
}
