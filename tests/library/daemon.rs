//! Clients of a real daemon process: started by them, and killed under their hands.

use crate::util::{Dirs, wait_until};
use flockd::Client;
use rustix::process::{Pid, Signal, kill_process};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

impl Dirs {
    pub fn connect(&self) -> Client {
        Client::builder().home(self.home()).program(env!("CARGO_BIN_EXE_flockd")).connect().unwrap()
    }

    fn daemon(&self) -> Pid {
        let pid = self.json("daemon status")["pid"].as_i64().unwrap();
        Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
    }

    pub fn kill_daemon(&self) {
        kill_process(self.daemon(), Signal::KILL).unwrap();
    }
}

/// Leaves no daemon behind, however a test ends.
pub struct Stopped<'a>(pub &'a Dirs);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.flockd("daemon stop");
    }
}

#[test]
fn connecting_starts_the_daemon_and_many_at_once_start_one() {
    let dirs = Dirs::new();
    let _stopped = Stopped(&dirs);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let dirs = &dirs;
            scope.spawn(move || {
                let session = dirs.connect().agent(format!("claw-{number}")).unwrap();
                session.lock("@x").wait_forever().acquire().unwrap().release().unwrap();
            });
        }
    });
    assert_eq!(dirs.json("status")["locks"].as_array().unwrap().len(), 0);
}

#[test]
fn guards_survive_the_kill_of_the_daemon_and_waiters_are_served_after_it() {
    let dirs = Dirs::new();
    let _stopped = Stopped(&dirs);
    let client = dirs.connect();
    let (one, two) = (client.agent("claw-1").unwrap(), client.agent("claw-2").unwrap());
    let held = one.lock("@x").acquire().unwrap();
    let brief = one.lock("@y").ttl(Duration::ZERO).acquire().unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| two.lock("@x").wait_forever().acquire().unwrap());
        wait_until("claw-2 waits", || client.status().unwrap().waiters.len() == 1);
        dirs.kill_daemon();
        held.check().unwrap();
        brief.check().unwrap();
        let fence = held.fence();
        held.release().unwrap();
        assert!(waiter.join().unwrap().fence() > fence);
    });
    assert_eq!(brief.lost(), None);
    brief.release().unwrap();
    assert!(client.status().unwrap().locks.is_empty());
}

#[test]
fn no_release_is_forgotten_however_often_the_daemon_is_killed() {
    let dirs = Dirs::new();
    let _stopped = Stopped(&dirs);
    let client = dirs.connect();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|number| {
                let (client, is_over) = (&client, &is_over);
                scope.spawn(move || {
                    let session = client.agent(format!("claw-{number}")).unwrap();
                    let mut rounds = 0u32;
                    while !is_over.load(Ordering::Relaxed) {
                        // A release that got lost would be found as one's own lock, and refused.
                        let own = session.lock(format!("@own-{number}")).ttl(Duration::ZERO).acquire().unwrap();
                        let all = session.lock("@all").ttl(Duration::ZERO).wait_forever().acquire().unwrap();
                        drop((own, all));
                        rounds += 1;
                    }
                    rounds
                })
            })
            .collect();
        for _ in 0..5 {
            // Started again by whoever asks first, this one included.
            wait_until("the daemon serves again", || dirs.flockd("daemon status").status.success());
            dirs.kill_daemon();
        }
        is_over.store(true, Ordering::Relaxed);
        for worker in workers {
            assert!(worker.join().unwrap() > 0);
        }
    });
    wait_until("nothing is held", || client.status().unwrap().locks.is_empty());
}
