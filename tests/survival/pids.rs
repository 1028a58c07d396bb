//! `flockd lock --pid`: a lock that ends with a process, whatever is left of its lease.

use crate::util::{Done, Ground, kill_9, signal, until};
use flockd::wire::KeptBy;
use rustix::process::Signal;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// A process to bind locks to. It is killed and collected at the end, however that comes.
pub struct Tool(pub Child);

impl Tool {
    pub fn new() -> Tool {
        Tool::of(&mut Command::new("sleep"))
    }

    fn of(command: &mut Command) -> Tool {
        Tool(command.arg("600").stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        // Dead already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn lock(ground: &Ground, agent: &str, args: &str, pid: u32) -> Done {
    ground.flockd(agent, &format!("lock {args} --pid {pid}"))
}

#[test]
fn a_bound_lock_goes_to_the_next_at_once_when_its_process_ends() {
    let ground = Ground::new();
    let tool = Tool::new();
    let told = lock(&ground, "a", "x --json --ttl 1h", tool.pid()).gives(0).json();
    assert_eq!((&told["acquired"], &told["ttl_ms"]), (&true.into(), &3_600_000.into()));
    let held = ground.status().locks.remove(0);
    assert_eq!((held.bound_pid, held.kept_by), (Some(tool.pid()), KeptBy::Lease));
    assert!(held.expires_in_ms.is_some(), "its lease runs as well");
    assert!(ground.flockd("", "ls").out.contains(&format!("ends with process {}", tool.pid())));
    // The same process: the same lock. Another or none: a lock beside it, which stays.
    assert_eq!(lock(&ground, "a", "x --json", tool.pid()).gives(0).json()["already_held"], true);
    let mut waiting = ground.queue("b", "x");
    ground.until_waiting(&["b"]);
    drop(tool);
    waiting.granted();
    assert_eq!(waiting.end(), Some(0));
    ground.flockd("a", "unlock x").gives(1).says(&["ended with process"]);
}

#[test]
fn a_bound_lock_is_as_any_other_while_its_process_lives() {
    let ground = Ground::new();
    let tool = Tool::new();
    lock(&ground, "a", "x", tool.pid()).gives(0);
    ground.flockd("a", "lock y").gives(0);
    ground.flockd("a", "renew x --ttl 20m").gives(0);
    ground.flockd("a", "check x").gives(0);
    ground.flockd("b", "lock -n x").gives(1);
    ground.flockd("a", "unlock x").gives(0);
    ground.flockd("b", "lock -n x").gives(0);
    drop(tool);
    ground.flockd("", "daemon status").gives(0);
    let scopes: Vec<String> = ground.status().locks.into_iter().map(|lock| lock.file_id).collect();
    assert_eq!(scopes, ["y", "x"], "the end of a process that nothing hangs on any more frees nothing");
}

#[test]
fn a_bound_lock_survives_the_daemon_and_does_not_survive_its_process() {
    let ground = Ground::new();
    let (lives, dies) = (Tool::new(), Tool::new());
    lock(&ground, "a", "x", lives.pid()).gives(0);
    lock(&ground, "a", "y", dies.pid()).gives(0);
    let before = ground.status().locks.remove(0);
    // Asleep, the daemon cannot see it die.
    let daemon = ground.daemon_pid();
    signal(daemon, Signal::STOP);
    drop(dies);
    kill_9(daemon);
    let after = ground.status().locks;
    assert_eq!(after.len(), 1, "{after:?}");
    assert_eq!(
        (&after[0].lock_id, after[0].fence, after[0].bound_pid),
        (&before.lock_id, before.fence, before.bound_pid)
    );
    // The new daemon watches it as well.
    let mut waiting = ground.queue("b", "x");
    ground.until_waiting(&["b"]);
    drop(lives);
    waiting.granted();
    assert_eq!(waiting.end(), Some(0));
}

#[test]
fn who_waits_for_a_bound_lock_keeps_the_place_over_a_kill_and_loses_it_with_the_process() {
    let ground = Ground::new();
    ground.flockd("holder", "lock x").gives(0);
    let (tool, other) = (Tool::new(), Tool::new());
    std::thread::scope(|scope| {
        let first = scope.spawn(|| lock(&ground, "first", "x --wait 110s", tool.pid()));
        ground.until_waiting(&["first"]);
        let second = scope.spawn(|| lock(&ground, "second", "x --wait 110s --json", other.pid()));
        ground.until_waiting(&["first", "second"]);
        ground.kill_daemon();
        ground.until_waiting(&["first", "second"]);
        kill_9(tool.pid());
        first.join().unwrap().gives(2).says(&["the process that the lock was to end with has ended"]);
        ground.until_waiting(&["second"]);
        ground.flockd("holder", "unlock x").gives(0);
        assert_eq!(second.join().unwrap().gives(0).json()["acquired"], true);
    });
    assert_eq!(ground.status().locks[0].bound_pid, Some(other.pid()));
    drop(other);
    until("it is free", || ground.status().locks.is_empty().then_some(()));
}

#[test]
fn a_process_that_is_not_there_or_somebody_elses_is_refused_by_name() {
    let ground = Ground::new();
    let gone = Tool::new().pid();
    lock(&ground, "a", "x", gone).gives(2).says(&[&format!("there is no process {gone}")]);
    lock(&ground, "a", "x", 0).gives(2).says(&["there is no process 0"]);
    ground.flockd("a", "lock x --pid self").gives(2);
    let mut zombie = Tool::new();
    zombie.0.kill().unwrap();
    until("it is dead", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", zombie.pid())).unwrap();
        stat.contains(") Z ").then_some(())
    });
    lock(&ground, "a", "x", zombie.pid()).gives(2).says(&["has ended"]);
    // To others belongs the first process, or one that only root can start.
    let theirs = (flockd::os::own_uid() == 0).then(|| Tool::of(Command::new("sleep").uid(65_534)));
    let pid = theirs.as_ref().map_or(1, Tool::pid);
    lock(&ground, "a", "x", pid).gives(2).says(&["belongs to another user"]);
    let json = lock(&ground, "a", "x --json", gone).gives(2).json();
    assert_eq!(json["error"]["code"], "invalid");
    assert!(!ground.home.join("sock").exists(), "nobody was asked");
}
