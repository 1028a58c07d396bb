//! Frozen holders keep what they hold, the frozen daemon loses nothing, and the dead keep nothing, whoever inherits
//! their sockets.

use crate::claimants::{claimant, heard};
use crate::util::{Ending, Ground, a_try, exclusive, kill_9, signal, take, until};
use flockd::client::Custodian;
use flockd::wire::KeptBy;
use rustix::process::Signal;
use std::process::{Child, Stdio};

/// A claimant that holds a lock without a lease until its input is closed.
fn keeper(ground: &Ground, agent: &str, scope: &str) -> Child {
    let child = claimant(ground, agent, &format!("keeper {scope}")).stdin(Stdio::piped()).spawn().unwrap();
    heard(ground, child.id(), "held");
    child
}

#[test]
fn who_wants_what_a_frozen_one_holds_waits_and_all_else_is_served() {
    let ground = Ground::new();
    let mut frozen = keeper(&ground, "frozen", "x");
    let command = ground.hold("runner", "y");
    let before: Vec<_> = ground.status().locks.iter().map(|lock| (lock.lock_id.clone(), lock.fence)).collect();
    signal(frozen.id(), Signal::STOP);
    signal(command.command(), Signal::STOP);
    let mut waiting = ground.queue("waiter", "x");
    ground.until_waiting(&["waiter"]);
    // Not even a restart of the daemon, to which the frozen cannot return, changes it.
    for _ in 0..2 {
        for scope in ["x", "y"] {
            ground.flockd("other", &format!("lock -n {scope}")).gives(1);
        }
        ground.flockd("other", "lock -n z").gives(0);
        ground.flockd("other", "unlock z").gives(0);
        ground.kill_daemon();
        ground.until_waiting(&["waiter"]);
        let locks = ground.status().locks;
        assert_eq!(locks.iter().map(|lock| (lock.lock_id.clone(), lock.fence)).collect::<Vec<_>>(), before);
        assert_eq!(locks.iter().map(|lock| lock.kept_by).collect::<Vec<_>>(), [KeptBy::Session, KeptBy::Process]);
    }
    signal(frozen.id(), Signal::CONT);
    drop(frozen.stdin.take());
    heard(&ground, frozen.id(), "released");
    assert!(frozen.wait().unwrap().success(), "it had the lock to the end");
    waiting.granted();
    signal(command.command(), Signal::CONT);
    assert_eq!(command.end(), Some(0));
    assert_eq!(waiting.end(), Some(0));
}

#[test]
fn a_frozen_one_that_is_killed_holds_nothing() {
    let ground = Ground::new();
    let mut frozen = keeper(&ground, "frozen", "x");
    signal(frozen.id(), Signal::STOP);
    let mut waiting = ground.queue("waiter", "x");
    ground.until_waiting(&["waiter"]);
    frozen.kill().unwrap();
    frozen.wait().unwrap();
    waiting.granted();
    assert_eq!(waiting.end(), Some(0));
}

#[test]
fn nothing_is_lost_by_a_daemon_that_was_frozen() {
    let ground = Ground::new();
    let keeper = ground.client("keeper", Some(Custodian::Library));
    let (held, fence) = take(&keeper, exclusive("x", 0));
    let mut waiting = ground.queue("waiter", "x");
    ground.until_waiting(&["waiter"]);
    let dead = self::keeper(&ground, "dead", "y");
    let daemon = ground.daemon_pid();
    signal(daemon, Signal::STOP);
    let asked = keeper.begin(a_try(exclusive("z", 0))).unwrap();
    kill_9(dead.id());
    let mut other = ground.queue("other", "y");
    signal(daemon, Signal::CONT);
    assert!(keeper.finish(asked, None).unwrap().unwrap().ok.is_some());
    other.granted();
    assert_eq!(other.end(), Some(0));
    let lock = ground.status().locks.into_iter().find(|lock| lock.lock_id == held).unwrap();
    assert_eq!((lock.fence, ground.daemon_pid()), (fence, daemon));
    keeper.unlock(&held).unwrap();
    waiting.granted();
    assert_eq!(waiting.end(), Some(0));
    let mut dead = dead;
    dead.wait().unwrap();
}

#[test]
fn the_lock_of_a_dead_process_goes_at_once_though_a_child_keeps_its_socket_open() {
    let ground = Ground::new();
    ground.flockd("", "daemon start").gives(0);
    let mut sharer = claimant(&ground, "sharer", "sharer x").stdin(Stdio::piped()).spawn().unwrap();
    let said = heard(&ground, sharer.id(), "held");
    let heir: u32 = said.split(' ').next_back().unwrap().parse().unwrap();
    let mut waiting = ground.queue("waiter", "x");
    ground.until_waiting(&["waiter"]);
    sharer.kill().unwrap();
    sharer.wait().unwrap();
    waiting.granted();
    assert_eq!(waiting.end(), Some(0));
    until("the session is over", || (ground.daemon_status().sessions == 0).then_some(()));
    assert!(std::fs::read_dir(format!("/proc/{heir}/fd")).unwrap().count() > 3, "the child lives and has the socket");
    let ending = Ending::of(heir);
    signal(heir, Signal::KILL);
    ending.wait();
}
