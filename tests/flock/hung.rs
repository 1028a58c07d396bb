//! A mount that does not answer delays nobody else.

use crate::fuse::Fuse;
use crate::inside::inside;
use crate::util::{Ending, Ground, a_try, exclusive, scaled, shared, take, until};
use flockd::client::{ClientError, Connection};
use flockd::limits;
use flockd::wire::{Body, Code, Request};
use std::fs;

/// Locks and unlocks beside the mount: what is in the kernel's memory, what a file thread must look for, and what is no
/// file at all.
pub fn others_are_served(ground: &Ground, round: &str) {
    let client = ground.client("honest", None);
    fs::write(ground.work.join("known"), "").unwrap();
    for number in 0..scaled(100) {
        for scope in ["known".to_owned(), format!("new-{round}-{number}/deep/name"), format!("@{number}")] {
            let body = client.lock(a_try(exclusive(&scope, 60_000))).unwrap();
            assert!(body.acquired, "{body:?}");
            assert_eq!(body.os_lock, scope == "known");
            client.unlock(&body.lock_id.unwrap()).unwrap();
        }
    }
}

fn ask_all(askers: &[Connection], fuse: &Fuse) -> Vec<u64> {
    let ask = |(number, asker): (usize, &Connection)| {
        let file = fuse.path.join(format!("file-{number}"));
        asker.begin(exclusive(file.to_str().unwrap(), 60_000)).unwrap()
    };
    askers.iter().enumerate().map(ask).collect()
}

/// All are told why there is no answer, and not one is granted.
fn all_are_refused(askers: &[Connection], asked: Vec<u64>, says: &[&str]) {
    for (asker, id) in askers.iter().zip(asked) {
        match asker.finish(id, None) {
            Err(ClientError::Refused(error)) => {
                assert_eq!(error.code, Code::Unavailable, "{error:?}");
                assert!(says.iter().any(|says| error.message.contains(says)), "{error:?}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_mount_that_never_answers_delays_nobody_else_however_many_ask_there() {
    if !inside("hung::a_mount_that_never_answers_delays_nobody_else_however_many_ask_there") {
        return;
    }
    let ground = Ground::new();
    let Some(mut hung) = Fuse::mount(&ground.work.join("hung")) else { return };
    let Some(healthy) = Fuse::mount(&ground.work.join("healthy")) else { return };
    hung.hang();
    ground.flockd("", "daemon start").gives(0);
    // More than there are threads for it, than there are threads at all, and than are put aside.
    let count = limits::FILE_THREADS_A_MOUNT + limits::FILE_THREADS + limits::FILE_ASIDE;
    let askers: Vec<Connection> = (0..count).map(|number| ground.client(&format!("asker-{number}"), None)).collect();
    for is_first in [true, false] {
        // The second time all that hung the first time still hangs.
        let round = if is_first { "first" } else { "second" };
        let asked = ask_all(&askers, &hung);
        until("it hangs", || (hung.unanswered() > 0).then_some(()));
        others_are_served(&ground, round);
        let client = ground.client("beside", None);
        // One file again and again: what was let go is free although a thread has to close it first.
        let again = healthy.path.join("again");
        for _ in 0..scaled(50) {
            let body = client.lock(a_try(exclusive(again.to_str().unwrap(), 60_000))).unwrap();
            assert!(body.acquired && body.os_lock, "{body:?}");
            client.unlock(&body.lock_id.unwrap()).unwrap();
        }
        for number in 0..scaled(20) {
            let file = healthy.path.join(format!("{round}-{number}"));
            let (id, _) = take(&client, a_try(exclusive(file.to_str().unwrap(), 60_000)));
            assert!(ground.status().locks.iter().any(|lock| lock.lock_id == id && lock.os_lock));
            client.unlock(&id).unwrap();
        }
        assert!(hung.unanswered() <= limits::FILE_THREADS_A_MOUNT, "{} are inside", hung.unanswered());
        if is_first {
            all_are_refused(&askers, asked, &["does not answer"]);
        } else {
            // Its end is an answer.
            hung.abort();
            all_are_refused(&askers, asked, &["does not answer", "looking up", "failed"]);
        }
    }
    until("its threads are back", || {
        let gone = ground.client("late", None).lock(a_try(exclusive(hung.path.join("x").to_str().unwrap(), 60_000)));
        match gone {
            Err(ClientError::Refused(error)) => (!error.message.contains("does not answer")).then_some(()),
            other => panic!("it is gone: {other:?}"),
        }
    });
    assert!(ground.status().locks.is_empty());
}

#[test]
fn a_mount_that_hangs_while_its_files_are_locked_delays_no_release_and_no_stop() {
    if !inside("hung::a_mount_that_hangs_while_its_files_are_locked_delays_no_release_and_no_stop") {
        return;
    }
    let ground = Ground::new();
    let Some(mut fuse) = Fuse::mount(&ground.work.join("mounted")) else { return };
    let client = ground.client("holder", None);
    let count = 3 * limits::FILE_THREADS_A_MOUNT;
    let path = |number: usize| fuse.path.join(format!("file-{number}")).to_str().unwrap().to_owned();
    let held: Vec<String> = (0..count).map(|number| take(&client, exclusive(&path(number), 600_000)).0).collect();
    let read: Vec<String> = (0..4).map(|_| take(&client, shared(&path(count), 600_000)).0).collect();
    let kept = take(&client, exclusive(&path(count + 1), 600_000)).0;
    let status = ground.status();
    assert!(status.locks.iter().all(|lock| lock.os_lock), "{status:?}");
    fuse.hang();
    for id in held.iter().chain(&read[..1]) {
        client.unlock(id).unwrap();
    }
    until("closing hangs", || (fuse.unanswered() > 0).then_some(()));
    others_are_served(&ground, "hung");
    assert_eq!(ground.status().locks.iter().map(|lock| lock.lock_id.as_str()).collect::<Vec<_>>(), [kept.as_str()]);

    // The daemon ends in order, although the kernel keeps the process until the mount answers, and the next one serves.
    let (pid, old) = (ground.daemon_pid(), Ending::of(ground.daemon_pid()));
    ground.flockd("", "daemon stop").gives(0);
    // It says so after its connections are closed.
    until("it has ended in order", || ground.daemon_log().contains("ended: it was told to stop").then_some(()));
    others_are_served(&ground, "after");
    assert_ne!(ground.daemon_pid(), pid);
    // It has the lock, and its flock as soon as the mount answers or is given up.
    assert_eq!(ground.status().locks.iter().map(|lock| lock.lock_id.as_str()).collect::<Vec<_>>(), [kept.as_str()]);
    client.unlock(&kept).unwrap();
    fuse.abort();
    old.wait();
}

/// What a waiting request behind a hung open comes to: its own mount alone is late.
#[test]
fn a_file_that_cannot_be_opened_in_time_is_locked_without_its_flock() {
    if !inside("hung::a_file_that_cannot_be_opened_in_time_is_locked_without_its_flock") {
        return;
    }
    let ground = Ground::new();
    let Some(fuse) = Fuse::mount(&ground.work.join("mounted")) else { return };
    let client = ground.client("a", None);
    let path = fuse.path.join("file").to_str().unwrap().to_owned();
    let (id, _) = take(&client, exclusive(&path, 600_000));
    client.unlock(&id).unwrap();
    // Looked up from the kernel's memory of the mount by a file thread; opening it asks the server.
    fuse.hang();
    let asked = client.begin(Request { wait_ms: None, ..exclusive(&path, 600_000) }).unwrap();
    until("opening hangs", || (fuse.unanswered() > 0).then_some(()));
    others_are_served(&ground, "opening");
    match client.finish(asked, None).unwrap().unwrap().ok {
        Some(Body::Lock(body)) => assert!(body.acquired && !body.os_lock, "{body:?}"),
        other => panic!("{other:?}"),
    }
    others_are_served(&ground, "opened");
}
