//! Whatever a path is called, the same object is always the same lock and another one never: through the real program
//! and the real daemon, for every verb.
#![cfg(feature = "cli")]

#[path = "../flock/inside.rs"]
mod inside;
mod spellings;
#[path = "../cli/util.rs"]
#[expect(dead_code, reason = "the tests of the program need more of it")]
mod util;

use flockd::client::{ClientError, Connect, Connection, Launch, Place};
use flockd::model::Agent;
use flockd::wire::{self, Body, Code, Op, Request};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use spellings::{Spelling, World, from, here};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use util::{Done, FLOCKD, Ground};

/// The program, asked in the name of `agent` about a spelling from where it is typed.
fn program(ground: &Ground, agent: &str, args: &[&str], spelling: &Spelling) -> Done {
    let mut command = ground.environment(Command::new(FLOCKD), agent, args);
    command.current_dir(&spelling.cwd).arg("--").arg(OsStr::from_bytes(&spelling.text));
    Done::of(command)
}

/// The daemon, asked in the name of `agent` for the same on the socket.
fn ask(ground: &Ground, agent: &str, op: Op, spelling: &Spelling) -> Result<Body, Code> {
    let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
    let connection = Connection::connect(Connect {
        home: flockd::os::home::Home::at(&ground.home),
        launch: Launch::With(FLOCKD.into()),
        agent: Some(Agent::new(agent).unwrap()),
        place: Place { cwd: bytes(&spelling.cwd), workspace: bytes(&ground.work), config: None },
        session: None,
    });
    let wait_ms = matches!(op, Op::Lock | Op::Wait).then_some(0);
    let request = Request { scope: Some(wire::escape(&spelling.text)), wait_ms, ..Request::new(op) };
    match connection.unwrap().call(request) {
        Ok(answer) => Ok(answer.ok.unwrap()),
        Err(ClientError::Refused(error)) => Err(error.code),
        Err(error) => panic!("{spelling}: {error}"),
    }
}

/// Takes the lock by one spelling and lets every verb find it by the next, all round.
fn all_are_one(ground: &Ground, spellings: &[Spelling]) {
    for (at, first) in spellings.iter().enumerate() {
        let second = &spellings[(at + 1) % spellings.len()];
        let lock = program(ground, "ada", &["lock", "-n", "--json"], first).gives(0).json();
        let id = lock["lock_id"].as_str().unwrap();
        let pair = format!("{first} and {second} are one");
        let refused = program(ground, "bo", &["lock", "-n", "--json"], second).gives(1).json();
        assert_eq!(refused["holders"][0]["lock_id"], id, "{pair}");
        let again = ask(ground, "ada", Op::Lock, second);
        assert!(matches!(&again, Ok(Body::Lock(body)) if body.already_held), "{pair}: {again:?}");
        let check = ask(ground, "ada", Op::Check, second);
        assert!(matches!(&check, Ok(Body::Check(body)) if body.allowed), "{pair}: {check:?}");
        let check = ask(ground, "bo", Op::Check, second);
        assert!(matches!(&check, Ok(Body::Check(body)) if !body.allowed), "{pair}: {check:?}");
        let wait = ask(ground, "bo", Op::Wait, second);
        assert!(matches!(&wait, Ok(Body::Wait(body)) if !body.free), "{pair}: {wait:?}");
        let renewed = ask(ground, "ada", Op::Renew, second);
        assert!(matches!(&renewed, Ok(Body::Renewed(locks)) if locks[0].lock_id == id), "{pair}: {renewed:?}");
        let status = ask(ground, "bo", Op::Status, second);
        assert!(matches!(&status, Ok(Body::Status(body)) if body.locks[0].lock_id == id), "{pair}: {status:?}");
        // Its mode is changed by either name, also by asking for more than is held.
        for (verb, name) in [("downgrade", second), ("upgrade", first), ("downgrade", first), ("lock", second)] {
            let changed = program(ground, "ada", &[verb, "--json"], name).gives(0).json();
            let mode = if verb == "downgrade" { "shared" } else { "exclusive" };
            assert_eq!((&changed["lock_id"], &changed["mode"]), (&id.into(), &mode.into()), "{pair}: {verb}");
        }
        assert_eq!(ask(ground, "bo", Op::Unlock, second), Err(Code::NotHolder), "{pair}");
        program(ground, "ada", &["unlock"], second).gives(0);
        assert!(ground.status().locks.is_empty(), "{pair}");
    }
}

#[test]
fn every_spelling_of_an_object_is_one_lock_for_every_verb() {
    let ground = Ground::new();
    let world = World::new(&ground);
    let count: usize = world.objects.iter().map(Vec::len).sum();
    for spellings in &world.objects {
        all_are_one(&ground, spellings);
    }
    println!("{count} spellings of {} objects", world.objects.len());
    assert!(count >= 60, "only {count} spellings");
}

#[test]
fn different_objects_are_different_locks_however_alike_they_look() {
    let ground = Ground::new();
    let world = World::new(&ground);
    for (number, spelling) in world.apart.iter().enumerate() {
        let agent = format!("agent{number}");
        let lock = program(&ground, &agent, &["lock", "-n", "--json"], spelling).gives(0).json();
        assert_eq!(lock["already_held"], false, "{spelling}");
    }
    for (number, spelling) in world.apart.iter().enumerate() {
        let checks = |agent: &str| matches!(ask(&ground, agent, Op::Check, spelling), Ok(Body::Check(c)) if c.allowed);
        assert!(checks(&format!("agent{number}")), "{spelling}");
        assert!(!checks(&format!("agent{}", (number + 1) % world.apart.len())), "{spelling}");
    }
    assert_eq!(ground.status().locks.len(), world.apart.len());
}

#[test]
fn a_write_by_any_name_lands_in_the_object_while_another_agent_is_kept_out() {
    let ground = Ground::new();
    let world = World::new(&ground);
    for (number, spelling) in world.written.iter().enumerate() {
        let write = |agent: &str, text: &str| {
            let mut command = ground.environment(Command::new(FLOCKD), agent, &["write", "-n", "--"]);
            command.current_dir(&spelling.cwd).arg(OsStr::from_bytes(&spelling.text)).stdin(Stdio::piped());
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
            let done = child.wait_with_output().unwrap();
            (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
        };
        let plain = from(&ground.work, "d/e/f");
        program(&ground, "ada", &["lock", "-n"], &plain).gives(0);
        assert_eq!(write("bo", "bo's").0, Some(1), "{spelling}");
        let text = format!("written as {number}");
        assert_eq!(write("ada", &text), (Some(0), String::new()), "{spelling}");
        assert_eq!(fs::read_to_string(ground.work.join("d/e/f")).unwrap(), text, "{spelling}");
        program(&ground, "ada", &["unlock"], &plain).gives(0);
    }
    assert!(fs::symlink_metadata(ground.work.join("last")).unwrap().is_symlink(), "a link means its target");
}

#[test]
fn what_names_nothing_is_refused_by_name_and_locks_nothing() {
    let ground = Ground::new();
    let world = World::new(&ground);
    for (spelling, word) in &world.refused {
        for verb in ["lock", "unlock", "renew", "check", "status", "wait"] {
            let done = program(&ground, "ada", &[verb], spelling);
            assert_eq!(done.code, Some(2), "{verb} {spelling}: {done:?}");
            assert!(done.err.contains(word), "{verb} {spelling}: {}", done.err);
        }
    }
    assert!(ground.status().locks.is_empty());
}

#[test]
fn a_file_that_is_replaced_while_it_is_held_keeps_its_lock() {
    let ground = Ground::new();
    let name = from(&ground.work, "data");
    for kind in ["file", "gone", "link"] {
        fs::write(ground.work.join("data"), "old").unwrap();
        program(&ground, "ada", &["lock"], &name).gives(0);
        match kind {
            "file" => {
                fs::write(ground.work.join("new"), "new").unwrap();
                fs::rename(ground.work.join("new"), ground.work.join("data")).unwrap();
            }
            "gone" => fs::remove_file(ground.work.join("data")).unwrap(),
            _ => {
                fs::remove_file(ground.work.join("data")).unwrap();
                fs::hard_link(here(&ground.work, "other"), ground.work.join("data")).unwrap();
            }
        }
        program(&ground, "bo", &["lock", "-n"], &name).gives(1);
        program(&ground, "ada", &["check"], &name).gives(0);
        program(&ground, "ada", &["renew"], &name).gives(0);
        program(&ground, "ada", &["unlock"], &name).gives(0);
        assert!(ground.status().locks.is_empty(), "{kind}");
        let _ = fs::remove_file(ground.work.join("data"));
    }
}

#[test]
fn a_link_that_is_turned_means_its_new_target_and_the_old_one_stays_locked() {
    let ground = Ground::new();
    let (one, two, current) = (from(&ground.work, "v1"), from(&ground.work, "v2"), from(&ground.work, "current"));
    symlink("v1", ground.work.join("current")).unwrap();
    program(&ground, "ada", &["lock", "-n"], &current).gives(0);
    fs::remove_file(ground.work.join("current")).unwrap();
    symlink("v2", ground.work.join("current")).unwrap();
    program(&ground, "bo", &["lock", "-n"], &one).gives(1);
    program(&ground, "bo", &["lock", "-n"], &current).gives(0);
    program(&ground, "ada", &["lock", "-n"], &two).gives(1);
    program(&ground, "ada", &["check"], &current).gives(1);
    program(&ground, "ada", &["unlock"], &one).gives(0);
}

#[test]
fn from_a_directory_that_is_gone_nothing_is_guessed() {
    let ground = Ground::new();
    let gone = ground.work.join("gone");
    for name in ["f", "./f", "/absolute", "@name"] {
        fs::create_dir(&gone).unwrap();
        let script = format!("cd gone && rmdir ../gone && exec {FLOCKD} lock -n {name}");
        let done = Done::of(ground.environment(Command::new("sh"), "ada", &["-c", &script]));
        assert!(done.code != Some(0) && done.err.contains("working directory"), "{name}: {done:?}");
    }
    assert!(!ground.home.exists(), "nobody was asked");
}

#[test]
fn a_directory_that_is_mounted_twice_is_one() {
    if !inside::inside("a_directory_that_is_mounted_twice_is_one") {
        return;
    }
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    let ground = Ground::new();
    World::new(&ground);
    fs::create_dir(ground.work.join("m")).unwrap();
    fs::create_dir_all(ground.work.join("n/deep")).unwrap();
    mount_bind(ground.work.join("d"), ground.work.join("m")).unwrap();
    mount_bind(ground.work.join("d/e"), ground.work.join("n/deep")).unwrap();
    let of = |texts: &[&str]| texts.iter().map(|text| from(&ground.work, text)).collect::<Vec<_>>();
    all_are_one(&ground, &of(&["d/e/f", "m/e/f", "n/deep/f", "n/deep/../deep/f", "way/e/f"]));
    all_are_one(&ground, &of(&["d/e", "m/e/", "n/deep", "m/./e/."]));
    all_are_one(&ground, &of(&["d/e/new", "m/e/new", "n/deep/new"]));
    all_are_one(&ground, &of(&["glob:d/e/*.rs", "glob:m/e/*.rs", "glob:n/deep/*.rs"]));
    let held = [("m", "d/e/f"), ("glob:m/**/f", "d/e/f"), ("n/deep/", "m/e/f"), ("glob:n/deep/*", "glob:d/e/[a-f]")];
    for (first, second) in held {
        program(&ground, "ada", &["lock", "-n"], &from(&ground.work, first)).gives(0);
        program(&ground, "bo", &["lock", "-n"], &from(&ground.work, second)).gives(1);
        program(&ground, "bo", &["lock", "-n"], &from(&ground.work, "n/other")).gives(0);
        Done::of(ground.command("ada", &["unlock", "--all"])).gives(0);
        Done::of(ground.command("bo", &["unlock", "--all"])).gives(0);
    }
}
