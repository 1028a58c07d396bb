//! Writes to a mount that stops answering: what was not begun does not happen, what was begun keeps its lock, and
//! nobody else is delayed.

use crate::draft::{Draft, commit};
use crate::fuse::Fuse;
use crate::hung::others_are_served;
use crate::inside::inside;
use crate::util::{Ground, a_try, exclusive, take, until};
use flockd::client::{ClientError, Connection};
use flockd::wire::{Body, Code, Op, Request, WireError};

fn refusal(client: &Connection, id: u64) -> WireError {
    match client.finish(id, None) {
        Err(ClientError::Refused(error)) => *error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_write_that_was_not_begun_on_a_hung_mount_is_called_off_and_its_lock_is_free() {
    if !inside("writes::a_write_that_was_not_begun_on_a_hung_mount_is_called_off_and_its_lock_is_free") {
        return;
    }
    let ground = Ground::new();
    let Some(mut fuse) = Fuse::mount(&ground.work.join("mounted")) else { return };
    let client = ground.client("a", None);
    let path = fuse.path.join("file").to_str().unwrap().to_owned();
    let (id, fence) = take(&client, exclusive(&path, 600_000));
    let draft = Draft::of(&fuse.path, ".flockd-x.tmp");
    fuse.hang();
    let asked = client.begin(commit(&path, Some(fence), &draft.file)).unwrap();
    until("it hangs", || (fuse.unanswered() > 0).then_some(()));
    others_are_served(&ground, "hung");
    let refused = refusal(&client, asked);
    assert!(refused.code == Code::Unavailable && refused.message.contains("nothing was"), "{refused:?}");
    client.unlock(&id).unwrap();
    assert!(ground.status().locks.is_empty());
    // Or this process would wait for it to close what it has open there.
    fuse.abort();
}

#[test]
fn a_write_that_hangs_half_way_keeps_its_lock_until_the_mount_answers_and_the_writer_is_told() {
    if !inside("writes::a_write_that_hangs_half_way_keeps_its_lock_until_the_mount_answers_and_the_writer_is_told") {
        return;
    }
    let ground = Ground::new();
    let Some(mut fuse) = Fuse::mount(&ground.work.join("mounted")) else { return };
    let (client, other) = (ground.client("a", None), ground.client("b", None));
    let path = fuse.path.join("file").to_str().unwrap().to_owned();
    let (id, fence) = take(&client, exclusive(&path, 600_000));
    let draft = Draft::of(&fuse.path, ".flockd-x.tmp");
    fuse.hang_when_renaming();
    let asked = client.begin(commit(&path, Some(fence), &draft.file)).unwrap();
    until("it hangs", || (fuse.unanswered() > 0).then_some(()));
    // Neither its holder nor anybody else can end the lock now, and nobody is granted it.
    let release = client.begin(Request { lock_id: Some(id.clone()), ..Request::new(Op::Unlock) }).unwrap();
    let reason = Some("it hangs".to_owned());
    let broken = other.begin(Request { lock_id: Some(id.clone()), reason, ..Request::new(Op::Break) }).unwrap();
    assert!(!other.lock(a_try(exclusive(&path, 60_000))).unwrap().acquired);
    others_are_served(&ground, "renaming");
    let refused = refusal(&client, asked);
    assert!(refused.code == Code::Unavailable && refused.message.contains("is not known"), "{refused:?}");
    // It has been said, and the lock is where it was.
    let locks = ground.status().locks;
    assert_eq!(locks.iter().map(|lock| lock.lock_id.as_str()).collect::<Vec<_>>(), [id.as_str()]);
    assert!(!other.lock(a_try(exclusive(&path, 60_000))).unwrap().acquired);
    fuse.abort();
    // The end of the mount is an answer: all goes on in the order in which it was asked for.
    match client.finish(release, None).unwrap().unwrap().ok {
        Some(Body::Released(locks)) => assert_eq!(locks.len(), 1),
        other => panic!("{other:?}"),
    }
    assert_eq!(refusal(&other, broken).code, Code::Lost);
    assert!(ground.status().locks.is_empty());
}
