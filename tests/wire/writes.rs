//! Commits by the protocol alone: what a prepared file must be, and what its maker may count on.

use crate::draft::{Draft, commit, put};
use crate::util::{Ground, exclusive, take};
use flockd::wire::{Code, PreparedFile, Request};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

const NAME: &str = ".flockd-x.tmp";

#[test]
fn a_prepared_file_that_a_child_still_has_open_for_writing_is_refused_until_it_is_closed() {
    let ground = Ground::new();
    let client = ground.client("a", None);
    let (_, fence) = take(&client, exclusive("data", 60_000));
    fs::write(ground.work.join("data"), "old").unwrap();
    let draft = Draft::make(&ground.work, NAME, b"new");
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec 3>>\"$0\"; echo open; read line; echo late >&3", NAME]).current_dir(&ground.work);
    let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
    let refused = put(&client, commit("data", Some(fence), &draft.file)).unwrap_err();
    assert_eq!(refused.code, Code::Denied, "{refused:?}");
    assert!(refused.message.contains("still open for writing"), "{refused:?}");
    assert_eq!(fs::read(ground.work.join("data")).unwrap(), b"old");
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    child.wait().unwrap();
    put(&client, commit("data", Some(fence), &draft.file)).unwrap();
    // All of it was written before, and nobody can write more.
    assert_eq!(fs::read(ground.work.join("data")).unwrap(), b"newlate\n");
}

#[test]
fn a_request_that_is_repeated_succeeds_where_its_file_is_in_place_already() {
    let ground = Ground::new();
    let client = ground.client("a", None);
    let (id, fence) = take(&client, exclusive("data", 60_000));
    let draft = Draft::make(&ground.work, NAME, b"new");
    assert!(!put(&client, commit("data", Some(fence), &draft.file)).unwrap().again);
    assert!(put(&client, commit("data", Some(fence), &draft.file)).unwrap().again);
    ground.kill_daemon();
    // The client starts the next one and asks again.
    let client = ground.client("a", None);
    let done = put(&client, commit("data", Some(fence), &draft.file)).unwrap();
    assert!(done.again && done.bytes == 3, "{done:?}");
    // But not once the lock is gone, or another file is in that place.
    client.unlock(&id).unwrap();
    assert_eq!(put(&client, commit("data", Some(fence), &draft.file)).unwrap_err().code, Code::Lost);
    let (_, fence) = take(&client, exclusive("data", 60_000));
    let other = Draft::make(&ground.work, ".flockd-y.tmp", b"newer");
    put(&client, commit("data", Some(fence), &other.file)).unwrap();
    let refused = put(&client, commit("data", Some(fence), &draft.file)).unwrap_err();
    assert!(refused.code == Code::Invalid && refused.message.contains("there is no `.flockd-x.tmp`"), "{refused:?}");
}

#[test]
fn what_is_not_the_prepared_file_is_not_put_in_place() {
    let ground = Ground::new();
    let client = ground.client("a", None);
    let (_, fence) = take(&client, exclusive("./", 60_000));
    fs::write(ground.work.join("data"), "old").unwrap();
    let refused = |request: Request, code: Code, says: &str| {
        let error = put(&client, request).unwrap_err();
        assert!(error.code == code && error.message.contains(says), "{says}: {error:?}");
        assert_eq!(fs::read(ground.work.join("data")).unwrap(), b"old", "{says}");
    };
    let draft = Draft::make(&ground.work, NAME, b"new");
    let with = |name: &str, file: &str| {
        commit("data", Some(fence), &PreparedFile { name: name.to_owned(), file: file.to_owned() })
    };
    refused(with(NAME, "1:2"), Code::Invalid, "is not the file that was prepared");
    refused(with(NAME, "one"), Code::Invalid, "st_dev:st_ino");
    refused(with("missing", &draft.file.file), Code::Invalid, "there is no `missing`");
    for name in ["", ".", "..", "a/b", "/etc/passwd"] {
        refused(with(name, &draft.file.file), Code::Invalid, "by its name in the directory");
    }
    refused(with("data", &Draft::of(&ground.work, "data").file.file), Code::Invalid, "is the file itself");
    refused(Request { prepared: None, ..with(NAME, "1:2") }, Code::Invalid, "needs a prepared file");
    let absent = Request { if_unchanged: Some("cafe".to_owned()), ..commit("data", Some(fence), &draft.file) };
    refused(absent, Code::Invalid, "64 hexadecimal digits");
    fs::hard_link(ground.work.join(NAME), ground.work.join("second")).unwrap();
    refused(commit("data", Some(fence), &draft.file), Code::Invalid, "has 2 names");
    fs::remove_file(ground.work.join("second")).unwrap();
    symlink(NAME, ground.work.join("link")).unwrap();
    refused(with("link", &draft.file.file), Code::Invalid, "no regular file");
    fs::create_dir(ground.work.join("dir")).unwrap();
    refused(with("dir", &Draft::of(&ground.work, "dir").file.file), Code::Invalid, "no regular file");
    refused(commit("dir", Some(fence), &draft.file), Code::Invalid, "a directory cannot be written to");
    refused(commit("@port", None, &draft.file), Code::Invalid, "a resource is no file");
    // In another directory it is not beside the file.
    let elsewhere = Draft::make(&ground.work.join("dir"), NAME, b"new");
    refused(with(NAME, &elsewhere.file.file), Code::Invalid, "is not the file that was prepared");
    let held = fs::File::open(ground.work.join(NAME)).unwrap();
    let flocked = rustix::fs::flock(&held, rustix::fs::FlockOperation::LockShared);
    assert!(flocked.is_ok());
    let under_file = take(&client, exclusive("data", 60_000)).1;
    assert!(under_file >= fence);
    drop(held);
    put(&client, commit("data", Some(fence), &draft.file)).unwrap();
    assert_eq!(fs::read(ground.work.join("data")).unwrap(), b"new");
}

#[test]
fn a_shared_lock_a_fellow_sessions_guard_and_anothers_lock_are_no_right_to_write() {
    let ground = Ground::new();
    let (one, two) = (
        ground.client("a", Some(flockd::client::Custodian::Library)),
        ground.client("a", Some(flockd::client::Custodian::Library)),
    );
    let draft = Draft::make(&ground.work, NAME, b"new");
    let (id, fence) = take(&one, exclusive("data", 0));
    // The guard of a fellow session: not by the name alone, but with its very fence.
    let refused = put(&two, commit("data", None, &draft.file)).unwrap_err();
    assert_eq!(refused.code, Code::NotHolder, "{refused:?}");
    assert_eq!(put(&two, commit("data", Some(fence + 1), &draft.file)).unwrap_err().code, Code::NotHolder);
    put(&two, commit("data", Some(fence), &draft.file)).unwrap();
    // A one-shot of the agent may.
    let draft = Draft::make(&ground.work, ".flockd-y.tmp", b"newer");
    put(&ground.client("a", None), commit("data", None, &draft.file)).unwrap();
    one.unlock(&id).unwrap();
    let reader = ground.client("b", None);
    take(&reader, crate::util::shared("data", 60_000));
    let draft = Draft::make(&ground.work, ".flockd-z.tmp", b"newest");
    assert_eq!(put(&reader, commit("data", None, &draft.file)).unwrap_err().code, Code::NotHolder);
    assert_eq!(fs::read(ground.work.join("data")).unwrap(), b"newer");
}
