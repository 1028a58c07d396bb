//! The daemon as a process: one for each home, started by whoever needs it, gone when nobody does.

use crate::util::{Done, Ending, FLOCKD, Ground, signal, until};
use rustix::process::Signal;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn a_second_daemon_says_who_serves_the_home() {
    let ground = Ground::new();
    let started = ground.flockd("", "daemon start --json").gives(0).json();
    let pid = ground.daemon_pid();
    assert_eq!((&started["started"], &started["pid"]), (&true.into(), &pid.into()));
    let says = [&format!("is served by process {pid} already") as &str, "`flockd daemon stop` ends it"];
    ground.flockd("", "daemon run").gives(5).says(&says);
    let started = ground.flockd("", "daemon start --json").gives(0).json();
    assert_eq!((&started["started"], &started["pid"]), (&false.into(), &pid.into()));
    assert_eq!(ground.daemon_pid(), pid);
    assert_eq!(ground.flockd("", "daemon status").gives(0).out.lines().count(), 3);
}

#[test]
fn status_and_stop_start_no_daemon() {
    let ground = Ground::new();
    ground.flockd("", "daemon status").gives(5).says(&["no daemon serves", "`flockd daemon start` starts one"]);
    ground.flockd("", "daemon stop").gives(0);
    assert!(!ground.home.exists());
}

#[test]
fn in_the_foreground_it_serves_until_a_signal_ends_it_in_order() {
    let ground = Ground::new();
    for sent in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut daemon = ground.command("", &["daemon", "run"]);
        let mut daemon = daemon.stderr(Stdio::piped()).spawn().unwrap();
        until("it serves", || ground.home.join("sock").exists().then_some(()));
        ground.flockd("a", "lock x").gives(0);
        assert_eq!(ground.daemon_pid(), daemon.id());
        signal(daemon.id(), sent);
        let said = std::io::read_to_string(daemon.stderr.take().unwrap()).unwrap();
        assert!(daemon.wait().unwrap().success(), "{said}");
        assert!(said.contains(&format!("process {} serves", daemon.id())), "{said}");
        fs::remove_file(ground.home.join("sock")).unwrap_or_default();
    }
    assert_eq!(ground.status().locks.len(), 1);
}

#[test]
fn it_goes_when_nobody_needs_it_and_stays_while_a_lock_is_held() {
    let ground = Ground::new();
    ground.flockd("", "daemon start --idle-exit 300ms").gives(0);
    Ending::of(ground.daemon_pid()).wait();
    assert!(ground.daemon_log().contains("ended: nobody needed it"), "{}", ground.daemon_log());

    ground.flockd("a", "lock x --ttl 2s").gives(0);
    ground.kill_daemon();
    let begun = Instant::now();
    ground.flockd("", "daemon start --idle-exit 20ms").gives(0);
    Ending::of(ground.daemon_pid()).wait();
    // The lease began anew after `begun` and lasts for two seconds: no end before that.
    assert!(begun.elapsed() >= Duration::from_secs(2), "it left a lock behind");
    assert_eq!(ground.status().locks, []);
}

#[test]
fn a_home_deeper_than_a_socket_address_is_served() {
    let mut ground = Ground::new();
    for _ in 0..4 {
        ground.home.push("a-directory-name-of-forty-characters-____");
    }
    assert!(ground.home.join("sock").as_os_str().len() > 160);
    ground.flockd("a", "lock x").gives(0);
    let held = ground.hold("b", "y");
    ground.kill_daemon();
    ground.flockd("c", "lock -n x").gives(1);
    ground.flockd("c", "lock -n y").gives(1);
    assert_eq!(held.end(), Some(0));
    ground.stop_daemon();
}

#[test]
fn what_the_starter_had_open_is_not_kept_open() {
    let ground = Ground::new();
    let path = ground.work.join("held-by-the-starter");
    for start in ["daemon start", "lock x --agent a"] {
        let file = fs::File::create(&path).unwrap();
        fs4::FileExt::lock(&file).unwrap();
        // The same open file as descriptor 9 of the program, so that the lock lives while anybody has it.
        let script = format!("exec 9<&0 </dev/null; exec {FLOCKD} {start}");
        let mut command = ground.environment(Command::new("sh"), "", &["-c", &script]);
        // With the command goes this process's own copy of it.
        command.stdin(file);
        Done::of(command).gives(0);
        let again = fs::File::open(&path).unwrap();
        // What other tests start has it as well, up to its exec; the daemon would have it for ever.
        until("nobody has it", || fs4::FileExt::try_lock(&again).ok());
        ground.stop_daemon();
    }
}

#[test]
fn it_leaves_the_directory_and_the_session_of_its_starter() {
    let ground = Ground::new();
    ground.flockd("", "daemon start").gives(0);
    let pid = ground.daemon_pid();
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/"));
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    assert_eq!(fields[3], pid.to_string(), "the leader of a session of its own");
    assert_eq!(fields[4], "0", "without a terminal");
}

#[test]
fn a_full_log_is_put_aside_once_and_begun_anew() {
    let ground = Ground::new();
    ground.flockd("", "daemon start").gives(0);
    ground.stop_daemon();
    let log = ground.home.join("daemon.log");
    for _ in 0..2 {
        let mut file = fs::OpenOptions::new().append(true).open(&log).unwrap();
        file.write_all(&vec![b'x'; 1024 * 1024]).unwrap();
        ground.flockd("", "daemon start").gives(0);
        ground.stop_daemon();
        let begun_anew = ground.daemon_log();
        assert!(begun_anew.len() < 10_000 && begun_anew.contains("serves as process"), "{}", begun_anew.len());
        assert!(fs::metadata(ground.home.join("daemon.log.1")).unwrap().len() >= 1024 * 1024);
    }
    let logs = fs::read_dir(&ground.home).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(logs.filter(|name| name.starts_with("daemon.log")).count(), 2);
}

#[test]
fn the_files_of_the_home_are_its_owners_alone() {
    let ground = Ground::new();
    ground.flockd("a", "lock x").gives(0);
    let mode = |path: &std::path::Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&ground.home), 0o700);
    for entry in fs::read_dir(&ground.home).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path) & 0o077, 0, "{path:?}");
    }
}

#[test]
fn a_home_that_is_open_to_others_or_a_link_is_refused() {
    let mut ground = Ground::new();
    fs::create_dir(&ground.home).unwrap();
    fs::set_permissions(&ground.home, fs::Permissions::from_mode(0o755)).unwrap();
    for args in ["daemon start", "daemon run", "lock x --agent a"] {
        ground.flockd("", args).gives(5).says(&["has mode 755", "chmod 700"]);
    }
    fs::set_permissions(&ground.home, fs::Permissions::from_mode(0o700)).unwrap();
    ground.flockd("", "daemon start").gives(0);
    ground.stop_daemon();

    let real = ground.home.clone();
    ground.home = real.with_file_name("link");
    symlink(&real, &ground.home).unwrap();
    ground.flockd("a", "lock x").gives(5).says(&["is a symbolic link", "FLOCKD_HOME"]);
    ground.home = real.with_file_name("file");
    fs::write(&ground.home, "").unwrap();
    ground.flockd("a", "lock x").gives(5).says(&["is no directory"]);
}
