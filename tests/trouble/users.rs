//! Other users are kept out, by the home's mode and by what the kernel says of who connects.

use crate::raw::{Raw, served};
use crate::util::{Done, FLOCKD, Ground};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

const NOBODY: u32 = 65_534;

/// Only root can be somebody else.
fn is_root(ground: &Ground) -> bool {
    let is_root = fs::metadata(&ground.work).unwrap().uid() == 0;
    if !is_root {
        println!("left out: only root can call as another user");
    }
    is_root
}

/// A connection made by another user: its process connects, and then ends, so that it is ours to use.
fn connected_as(uid: u32, ground: &Ground) -> std::io::Result<UnixStream> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    let path = ground.home.join("sock");
    let mut address: libc::sockaddr_un = libc::sockaddr_un { sun_family: libc::AF_UNIX as u16, sun_path: [0; 108] };
    for (to, from) in address.sun_path.iter_mut().zip(path.as_os_str().as_bytes()) {
        *to = *from as libc::c_char;
    }
    let fd = socket.as_raw_fd();
    let mut child = Command::new("true");
    // SAFETY: between fork and exec only system calls are made, on memory that was there before.
    unsafe {
        child.pre_exec(move || {
            // The raw calls: they are for this one thread, which is all there is of the child.
            let size = size_of::<libc::sockaddr_un>() as libc::socklen_t;
            let failed = libc::syscall(libc::SYS_setresgid, uid, uid, uid) != 0
                || libc::syscall(libc::SYS_setresuid, uid, uid, uid) != 0
                || libc::connect(fd, (&raw const address).cast(), size) != 0;
            if failed { Err(std::io::Error::last_os_error()) } else { Ok(()) }
        })
    };
    child.status()?;
    Ok(socket.into())
}

#[test]
fn another_user_does_not_even_reach_the_socket() {
    let ground = served();
    if !is_root(&ground) {
        return;
    }
    let refused = connected_as(NOBODY, &ground).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied, "{refused}");
    // The program says whose the home is, before it does anything.
    let program = ground.work.join("flockd");
    assert!(Command::new("cp").args([FLOCKD.as_ref(), program.as_os_str()]).status().unwrap().success());
    for dir in [ground.work.parent().unwrap(), &ground.work] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = ground.environment(Command::new(&program), "b", &["lock", "-n", "x"]);
    command.uid(NOBODY).gid(NOBODY);
    Done::of(command).gives(5).says(&["belongs to user 0, not to 65534", "FLOCKD_HOME"]);
}

#[test]
fn another_user_who_reaches_the_socket_is_denied_by_the_daemon_and_others_notice_nothing() {
    let ground = served();
    if !is_root(&ground) {
        return;
    }
    // As if somebody had opened the home to everybody.
    for dir in [ground.work.parent().unwrap(), &ground.home] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(ground.home.join("sock"), fs::Permissions::from_mode(0o666)).unwrap();
    let mut honest = Raw::connect(&ground);
    honest.send(&crate::raw::hello(&ground, "honest", None));
    assert!(honest.read()["hello"].is_object());
    for id in 0..50 {
        let stream = connected_as(NOBODY, &ground).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut lines = BufReader::new(&stream).lines();
        let answer: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(answer["error"]["code"], "denied", "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains("belongs to another user"), "{answer}");
        assert!(lines.next().is_none_or(|line| line.is_err()), "and nothing more");
        assert_eq!(honest.ask(json!({"id": 2 * id, "op": "lock", "scope": "@x"}))["ok"]["lock"]["acquired"], true);
        assert!(honest.ask(json!({"id": 2 * id + 1, "op": "unlock", "scope": "@x"}))["ok"].is_object());
    }
}
