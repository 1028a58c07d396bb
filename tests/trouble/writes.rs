//! Writes on a disk that fails, is full or may not be written: the answer says what is so.

use crate::calls::Supervised;
use crate::draft::{Draft, commit, put};
use crate::inside::inside;
use crate::util::{Done, Ground, exclusive, take, until};
use flockd::wire::Code;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

const EIO: i32 = 5;

#[test]
fn whichever_call_of_a_write_fails_its_answer_says_what_became_of_the_file() {
    let ground = Ground::new();
    let Some(daemon) = Supervised::start(&ground) else { return };
    let client = ground.client("a", None);
    take(&client, exclusive("data", 600_000));
    let (mut refused, mut not_durable) = (0, 0);
    for spared in 0..40 {
        let before = format!("before {spared}");
        fs::write(ground.work.join("data"), &before).unwrap();
        let name = format!(".flockd-{spared}.tmp");
        let draft = Draft::make(&ground.work, &name, b"new");
        daemon.plant(spared, EIO, false);
        let answer = put(&client, commit("data", None, &draft.file));
        let failed = daemon.failed();
        daemon.heal();
        let now = fs::read_to_string(ground.work.join("data")).unwrap();
        match answer {
            Ok(_) => assert_eq!(now, "new"),
            Err(error) if error.in_place => {
                assert!(now == "new" && error.code == Code::Unavailable, "{error:?}");
                assert!(error.message.contains("could not be synced"), "{error:?}");
                not_durable += 1;
            }
            Err(error) => {
                assert!(now == before && error.code == Code::Unavailable, "{error:?}");
                refused += 1;
            }
        }
        if failed == 0 {
            break;
        }
        let _ = fs::remove_file(ground.work.join(name));
        // Where it was the journal's call, grants come back by themselves.
        until("the journal is well", || ground.daemon_status().trouble.is_none().then_some(()));
    }
    eprintln!("{refused} refused with nothing changed, {not_durable} in place and not durable");
    assert!(refused >= 2 && not_durable >= 1, "{refused} refused, {not_durable} not durable");
    daemon.kill();
}

/// Runs the program with something on its stdin.
fn write(ground: &Ground, args: &[&str], content: &[u8]) -> Done {
    let mut command = ground.command("a", args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(content);
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Done { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

#[test]
fn a_full_disk_and_one_that_may_not_be_written_are_named_and_nothing_is_lost() {
    if !inside("writes::a_full_disk_and_one_that_may_not_be_written_are_named_and_nothing_is_lost") {
        return;
    }
    let ground = Ground::new();
    let small = ground.work.join("small");
    fs::create_dir(&small).unwrap();
    let mount = |args: &[&str]| Command::new("mount").args(args).status().unwrap().success();
    let path = small.to_str().unwrap();
    assert!(mount(&["-t", "tmpfs", "-o", "size=64k", "none", path]));
    fs::write(small.join("data"), "kept").unwrap();
    write(&ground, &["write", "small/data"], &[7; 200_000]).gives(5).says(&["cannot be prepared", "No space left"]);
    assert_eq!(fs::read(small.join("data")).unwrap(), b"kept");
    assert_eq!(fs::read_dir(&small).unwrap().count(), 1, "nothing is left of it");
    // Prepared while it could be, and read-only when it is to be put in place.
    let client = ground.client("a", None);
    take(&client, exclusive("small/data", 60_000));
    let draft = Draft::make(&small, ".flockd-x.tmp", b"new");
    assert!(mount(&["-o", "remount,ro", path]));
    let refused = put(&client, commit("small/data", None, &draft.file)).unwrap_err();
    assert!(refused.code == Code::Unavailable && refused.message.contains("read-only"), "{refused:?}");
    write(&ground, &["write", "small/data"], b"x").gives(5).says(&["cannot be prepared", "Read-only"]);
    assert_eq!(fs::read(small.join("data")).unwrap(), b"kept");
    assert!(mount(&["-o", "remount,rw", path]));
    put(&client, commit("small/data", None, &draft.file)).unwrap();
    assert_eq!(fs::read(small.join("data")).unwrap(), b"new");
}
