//! `flockd write` and `check --hash`: what is replaced, what is kept, and everything that is refused.

use crate::util::{Done, Ground};
use rustix::fs::FileType;
use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs the program with something on its stdin.
fn write(ground: &Ground, agent: &str, args: &str, content: &[u8]) -> Done {
    let args: Vec<&str> = args.split_whitespace().collect();
    let mut command = ground.command(agent, &args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Whoever is refused before it has read all is as well served.
    let _ = child.stdin.take().unwrap().write_all(content);
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Done { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_write_needs_no_lock_and_leaves_none_and_nothing_else_behind() {
    let ground = Ground::new();
    let done = write(&ground, "a", "write data.json --json", b"one").gives(0).json();
    assert_eq!((done["file_id"].as_str(), done["bytes"].as_u64()), (Some("data.json"), Some(3)));
    assert!(done["path"].as_str().unwrap().ends_with("/w/data.json"));
    assert_eq!(done["hash"].as_str().unwrap(), blake3::hash(b"one").to_hex().as_str());
    assert!(done["fence"].as_u64().unwrap() < 1 << 53);
    let quiet = write(&ground, "b", "write data.json", b"two").gives(0);
    assert_eq!((quiet.out.as_str(), quiet.err.as_str()), ("", ""));
    assert_eq!(fs::read(ground.work.join("data.json")).unwrap(), b"two");
    assert_eq!(names(&ground.work), ["data.json"]);
    assert!(ground.status().locks.is_empty());
}

#[test]
fn a_held_lock_is_used_and_others_wait_or_are_told_who_has_it() {
    let ground = Ground::new();
    let lock = ground.flockd("a", "lock data.json --json").gives(0).json();
    let done = write(&ground, "a", "write data.json --json", b"one").gives(0).json();
    assert_eq!(done["fence"], lock["fence"]);
    assert_eq!(done["lock_id"], lock["lock_id"]);
    write(&ground, "b", "write -n data.json", b"two").gives(1).says(&["a holds data.json exclusive"]);
    write(&ground, "b", "write -w 0.1 data.json", b"two").gives(3);
    assert_eq!(fs::read(ground.work.join("data.json")).unwrap(), b"one");
    assert_eq!(ground.status().locks.len(), 1, "it is still held");
    // A reader's lock is no right to write, and its agent is not let through beside it.
    ground.flockd("c", "lock -s notes").gives(0);
    let upgrade = format!("`flockd upgrade --id {}`", ground.status().locks[1].lock_id);
    write(&ground, "c", "write -n notes", b"x").gives(1).says(&["you share", &upgrade]);
    let run = ground.flockd("c", "run -n notes -- true").gives(1).says(&["you share", &upgrade]);
    assert!(!run.err.contains("release"), "{run:?}");
    ground.flockd("c", "upgrade notes").gives(0);
    write(&ground, "c", "write -n notes", b"x").gives(0);
    ground.flockd("c", "unlock notes").gives(0);
    let fence = |fence: u64| format!("write data.json --fence {fence}");
    let current = lock["fence"].as_u64().unwrap();
    write(&ground, "a", &fence(current), b"three").gives(0);
    let held = format!("you hold it under fence {current} (");
    let asked = format!(", not {}; nothing was written", current + 1);
    write(&ground, "a", &fence(current + 1), b"four").gives(1).says(&[&held, &asked]);
    write(&ground, "b", &fence(current), b"four").gives(1).says(&["you do not hold it; a holds it exclusive"]);
    assert_eq!(fs::read(ground.work.join("data.json")).unwrap(), b"three");
    // A lock on the directory covers it.
    ground.flockd("a", "unlock --all").gives(0);
    ground.flockd("d", "lock ./").gives(0);
    let done = write(&ground, "d", "write data.json --json", b"five").gives(0).json();
    assert_eq!(done["os_lock"], true, "the flock of the directory");
}

#[test]
fn an_empty_input_empties_a_file_only_if_that_is_said() {
    let ground = Ground::new();
    fs::write(ground.work.join("data"), "kept").unwrap();
    for file in ["data", "none"] {
        let refused = write(&ground, "a", &format!("write {file}"), b"").gives(2);
        refused.says(&["nothing came on stdin", &format!("--allow-empty makes {file} empty")]);
        // From a file that is empty it is the same.
        ground.flockd("a", &format!("write {file}")).gives(2).says(&["nothing came on stdin"]);
    }
    assert_eq!(
        (fs::read(ground.work.join("data")).unwrap(), names(&ground.work)),
        (b"kept".to_vec(), vec!["data".into()])
    );
    write(&ground, "a", "write data --allow-empty", b"").gives(0);
    assert_eq!(fs::read(ground.work.join("data")).unwrap(), b"");
}

#[test]
fn the_example_of_a_careful_edit_works_in_a_shell_that_ends_at_the_first_failure() {
    let ground = Ground::new();
    let help = ground.flockd("", "write --help").gives(0).out;
    let example: Vec<&str> = help.lines().skip_while(|line| !line.contains("h=$(")).take(2).collect();
    let script = example.join("\n").replace("./edit", "tr a-z A-Z").replace("flockd", crate::util::FLOCKD);
    fs::write(ground.work.join("data.json"), "one").unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-e", "-c", &script]);
    Done::of(ground.environment(shell, "a", &[])).gives(0);
    assert_eq!(fs::read(ground.work.join("data.json")).unwrap(), b"ONE", "{script}");
}

#[test]
fn who_lost_the_lock_is_told_before_it_can_write_again() {
    let ground = Ground::new();
    let lock = ground.flockd("a", "lock data.json --json").gives(0).json();
    let id = lock["lock_id"].as_str().unwrap();
    ground.flockd("b", &format!("break {id} --reason stuck")).gives(0);
    write(&ground, "b", "write data.json", b"theirs").gives(0);
    write(&ground, "a", "write data.json", b"mine").gives(1).says(&["b broke it", "stuck"]);
    assert_eq!(fs::read(ground.work.join("data.json")).unwrap(), b"theirs");
    // With the old fence for ever, without one it is a new write of one who knows.
    write(&ground, "a", &format!("write data.json --fence {}", lock["fence"]), b"mine").gives(1).says(&["b broke it"]);
    write(&ground, "a", "write data.json", b"mine").gives(0);
}

#[test]
fn a_stale_overwrite_is_refused_and_the_hash_that_is_there_is_named() {
    let ground = Ground::new();
    let (one, two) = (blake3::hash(b"one").to_hex(), blake3::hash(b"two").to_hex());
    assert_eq!(ground.flockd("a", "check data.json --hash").gives(1).out, "absent\n");
    write(&ground, "a", "write data.json --if-unchanged absent", b"one").gives(0);
    write(&ground, "a", "write data.json --if-unchanged absent", b"x").gives(1).says(&[&one]);
    let args = |hash: &str| format!("write data.json --json --if-unchanged {hash}");
    let done = write(&ground, "a", &args(&one), b"two").gives(0).json();
    assert_eq!(done["hash"].as_str(), Some(two.as_str()));
    let refused = write(&ground, "b", &args(&one), b"three").gives(1).json();
    assert_eq!(refused["error"]["code"], "changed");
    assert_eq!(refused["error"]["hash"].as_str(), Some(two.as_str()));
    assert_eq!(ground.flockd("a", "check data.json --hash").gives(1).out, format!("{two}\n"));
    ground.flockd("a", "lock data.json").gives(0);
    let check = ground.flockd("a", "check data.json --hash --json").gives(0).json();
    assert_eq!(check["hash"].as_str(), Some(two.as_str()));
    ground.flockd("a", "unlock --all").gives(0);
    fs::remove_file(ground.work.join("data.json")).unwrap();
    let refused = write(&ground, "b", &args(&two), b"three").gives(1).json();
    assert_eq!(refused["error"]["hash"], "absent");
    write(&ground, "b", "write data.json --if-unchanged cafe", b"x").gives(2).says(&["64 hexadecimal digits"]);
    assert_eq!(names(&ground.work), Vec::<String>::new());
}

#[test]
fn mode_group_and_links_stay_and_a_new_file_is_like_any_other() {
    let ground = Ground::new();
    let path = ground.work.join("tool");
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o4751)).unwrap();
    let before = fs::metadata(&path).unwrap();
    // What a program that has it open sees stays as it was.
    let mut open = fs::File::open(&path).unwrap();
    symlink("tool", ground.work.join("link")).unwrap();
    write(&ground, "a", "write link", b"new").gives(0);
    assert!(fs::symlink_metadata(ground.work.join("link")).unwrap().is_symlink(), "a link means its target");
    let after = fs::metadata(&path).unwrap();
    assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), before.uid(), before.gid()));
    assert_ne!(after.ino(), before.ino());
    assert_eq!(std::io::read_to_string(&mut open).unwrap(), "old");
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask 027; echo x | \"$0\" write made"]).arg(crate::util::FLOCKD);
    Done::of(ground.environment(shell, "a", &[])).gives(0);
    assert_eq!(fs::metadata(ground.work.join("made")).unwrap().mode() & 0o7777, 0o640);
}

#[test]
fn access_lists_and_attributes_of_users_stay() {
    let ground = Ground::new();
    let path = ground.work.join("data");
    fs::write(&path, "old").unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    if rustix::fs::setxattr(&path, "user.origin", b"here", flags).is_err() {
        // This file system keeps none.
        return;
    }
    // Version 2: user::rw-, user:12345:r--, group::r--, mask::r--, other::---
    let acl: Vec<u8> = [(1u16, 6u16, u32::MAX), (2, 4, 12_345), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)]
        .iter()
        .flat_map(|(tag, rights, id)| [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat())
        .collect();
    let acl = [&2u32.to_le_bytes()[..], &acl].concat();
    let has_acl = rustix::fs::setxattr(&path, "system.posix_acl_access", &acl, flags).is_ok();
    let before = fs::metadata(&path).unwrap().mode();
    write(&ground, "a", "write data", b"new").gives(0);
    let attribute = |name: &str| {
        let mut value = vec![0; 256];
        let length = rustix::fs::getxattr(&path, name, &mut value).unwrap();
        value.truncate(length);
        value
    };
    assert_eq!(attribute("user.origin"), b"here");
    assert!(!has_acl || attribute("system.posix_acl_access") == acl);
    assert_eq!(fs::metadata(&path).unwrap().mode(), before);
}

#[test]
fn what_cannot_be_replaced_is_refused_by_name_and_stays() {
    let ground = Ground::new();
    let at = |name: &str| ground.work.join(name);
    fs::write(at("one"), "kept").unwrap();
    fs::hard_link(at("one"), at("two")).unwrap();
    write(&ground, "a", "write one", b"x").gives(2).says(&["`one` has 2 names"]);
    assert_eq!(fs::read(at("two")).unwrap(), b"kept");
    for (name, kind, what) in [("pipe", FileType::Fifo, "a pipe"), ("sock", FileType::Socket, "a socket")] {
        rustix::fs::mknodat(rustix::fs::CWD, at(name), kind, rustix::fs::Mode::RUSR, 0).unwrap();
        write(&ground, "a", &format!("write {name}"), b"x").gives(2).says(&[name, what]);
    }
    fs::create_dir(at("dir")).unwrap();
    write(&ground, "a", "write dir", b"x").gives(2).says(&["dir is a directory"]);
    write(&ground, "a", "write @port", b"x").gives(2).says(&["@port is no file"]);
    write(&ground, "a", "write glob:*.rs", b"x").gives(2).says(&["glob:*.rs is a pattern", "./glob:*.rs would be one"]);
    write(&ground, "a", "write ./glob:*.rs", b"x").gives(0);
    write(&ground, "a", "write /proc/version", b"x").gives(2).says(&["no file can be made in /proc"]);
    write(&ground, "a", "write none/data", b"x").gives(2).says(&["does not exist; make it first"]);
    write(&ground, "a", "write new/", b"x").gives(2).says(&["no name of a file"]);
    write(&ground, "", "write data", b"x").gives(2).says(&["whose lock?"]);
    if rustix::process::geteuid().is_root() {
        fs::write(at("theirs"), "kept").unwrap();
        rustix::fs::chown(at("theirs"), Some(rustix::fs::Uid::from_raw(12_345)), None).unwrap();
        write(&ground, "a", "write theirs", b"x").gives(5).says(&["`theirs` belongs to user 12345"]);
        fs::write(at("data"), "kept").unwrap();
        assert_eq!(fs::read(at("theirs")).unwrap(), b"kept");
    }
    assert!(!names(&ground.work).iter().any(|name| name.starts_with(".flockd-")), "{:?}", names(&ground.work));
    assert!(ground.status().locks.is_empty());
}

#[test]
fn a_written_file_is_its_holders_under_every_name_that_it_is_given_later() {
    let ground = Ground::new();
    fs::write(ground.work.join("data"), "old").unwrap();
    ground.flockd("ada", "lock data --ttl 10m").gives(0);
    write(&ground, "ada", "write data", b"new").gives(0);
    fs::hard_link(ground.work.join("data"), ground.work.join("alias")).unwrap();
    ground.flockd("bob", "lock alias -n").gives(1).says(&["ada"]);
    ground.kill_daemon();
    ground.flockd("bob", "lock alias -n").gives(1).says(&["ada"]);
    ground.flockd("ada", "unlock alias").gives(0);
    ground.flockd("bob", "lock alias -n").gives(0);
}

#[test]
fn left_overs_of_the_dead_are_removed_and_those_of_the_living_are_not() {
    let ground = Ground::new();
    for name in [".flockd-dead.tmp", ".flockd-alive.tmp", ".flockd.toml", ".flockd-mine"] {
        fs::write(ground.work.join(name), "# x").unwrap();
    }
    let alive = OpenOptions::new().read(true).open(ground.work.join(".flockd-alive.tmp")).unwrap();
    write(&ground, "a", "write data", b"x").gives(0);
    crate::util::until("it is removed", || (names(&ground.work).len() == 4).then_some(()));
    assert_eq!(names(&ground.work), [".flockd-alive.tmp", ".flockd-mine", ".flockd.toml", "data"]);
    drop(alive);
}

#[test]
fn programs_that_know_only_flock_find_no_gap_between_the_old_file_and_the_new() {
    let ground = Ground::new();
    let path = ground.work.join("data");
    fs::write(&path, "0").unwrap();
    ground.flockd("a", "lock data").gives(0);
    // It tries without a pause for as long as the file is written. Whoever opened the old file just before it was
    // replaced may get a flock on that, and has to see that this is no longer the file of the name.
    let script = "while ! [ -e stop ]; do exec 9<data; flock -n 9 && [ /proc/self/fd/9 -ef data ] && echo got; done; \
                  echo done";
    let mut shell = Command::new("sh");
    shell.args(["-c", script]);
    let mut shell = ground.environment(shell, "", &[]);
    let mut foreign = shell.stdout(Stdio::piped()).spawn().unwrap();
    for round in 0..50 {
        write(&ground, "a", "write data", round.to_string().as_bytes()).gives(0);
    }
    assert!(ground.status().locks[0].os_lock);
    fs::write(ground.work.join("stop"), "").unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(foreign.stdout.as_mut().unwrap(), &mut said).unwrap();
    foreign.wait().unwrap();
    assert_eq!(said, "done\n");
    ground.flockd("a", "unlock data").gives(0);
    assert!(Command::new("flock").arg("-n").arg(&path).arg("true").status().unwrap().success());
}
