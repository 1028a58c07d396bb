//! Process numbers that come again: in a small pid namespace, where a number can be had on purpose, the process that
//! has it now is never taken for the one that had it.

use crate::pids::Tool;
use crate::util::{Done, Ending, Ground, kill_9, signal};
use rustix::process::Signal;
use std::fs;
use std::process::{Command, Stdio};

/// Set inside the namespace.
const INSIDE: &str = "FLOCKD_TEST_INSIDE";

/// Runs a test of this program as the first process of a pid namespace of its own; false if none can be made here.
fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let unshare = |program: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child", program]);
        command.stdin(Stdio::null());
        command
    };
    let probe = unshare("sh").args(["-c", "echo 300 >/proc/sys/kernel/ns_last_pid"]).output();
    if !probe.as_ref().is_ok_and(|output| output.status.success()) {
        eprintln!("left out: no pid namespace can be made here: {probe:?}");
        return false;
    }
    let me = std::env::current_exe().unwrap();
    let mut command = unshare(me.to_str().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(INSIDE, "1");
    let done = Done::of(command);
    assert!(done.code == Some(0) && done.out.contains("1 passed"), "{}\n{}", done.out, done.err);
    false
}

/// A process as it is told from others: by its number and the clock tick in which it began.
#[derive(Clone, Copy)]
struct Known {
    pid: u32,
    began: u64,
}

impl Known {
    /// A living one.
    fn of(pid: u32) -> Known {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let after_name = stat.rsplit_once(") ").unwrap().1;
        Known { pid, began: after_name.split(' ').nth(19).unwrap().parse().unwrap() }
    }
}

/// A living process with the number of a dead one. It begins in a later tick: within one, which is a hundredth of a
/// second, not even the kernel tells the two apart.
fn in_place_of(dead: Known) -> Tool {
    // Threads take numbers as well, and a tick may have to pass: once more, until it fits.
    for _ in 0..10_000 {
        fs::write("/proc/sys/kernel/ns_last_pid", (dead.pid - 1).to_string()).unwrap();
        let tool = Tool::new();
        if tool.pid() == dead.pid && Known::of(tool.pid()).began > dead.began {
            return tool;
        }
    }
    panic!("number {} was not to be had", dead.pid);
}

#[test]
fn a_process_with_the_number_of_a_dead_one_does_not_keep_its_lock() {
    if !inside("reuse::a_process_with_the_number_of_a_dead_one_does_not_keep_its_lock") {
        return;
    }
    let ground = Ground::new();
    let tool = Tool::new();
    let pid = tool.pid();
    ground.flockd("a", &format!("lock x --pid {pid} --ttl 1h")).gives(0);
    ground.flockd("a", "lock stays").gives(0);
    let first = Known::of(pid);
    drop(tool);
    let second = in_place_of(first);
    ground.flockd("b", "lock -n x").gives(0);
    ground.flockd("b", "unlock x").gives(0);
    // The other way round: what hangs on the second one is not freed by the first one's end.
    ground.flockd("a", &format!("lock x --pid {pid} --ttl 1h")).gives(0);
    ground.flockd("b", "lock -n x").gives(1);

    // The same while nobody serves: frozen, the daemon sees neither the end nor the new one.
    let daemon = ground.daemon_pid();
    signal(daemon, Signal::STOP);
    let known = Known::of(pid);
    drop(second);
    let third = in_place_of(known);
    kill_9(daemon);
    let locks = ground.status().locks;
    assert_eq!(locks.iter().map(|lock| lock.file_id.as_str()).collect::<Vec<_>>(), ["stays"]);
    ground.flockd("b", &format!("lock -n x --pid {pid}")).gives(0);
    assert_eq!(ground.status().locks.len(), 2);
    drop(third);
    ground.flockd("c", "lock -n x").gives(0);
}

#[test]
fn neither_the_command_of_a_run_nor_a_session_is_mistaken_for_a_later_process_of_its_number() {
    if !inside("reuse::neither_the_command_of_a_run_nor_a_session_is_mistaken_for_a_later_process_of_its_number") {
        return;
    }
    let ground = Ground::new();
    let mut held = ground.hold("runner", "x");
    let mut waiting = ground.queue("waits", "x");
    ground.until_waiting(&["waits"]);
    let command = held.command();
    let known = [held.run.id(), command, waiting.run.id()].map(Known::of);
    let daemon = ground.daemon_pid();
    signal(daemon, Signal::STOP);
    // The first process of a namespace inherits whoever loses its parent, and has to collect it.
    held.run.kill().unwrap();
    held.run.wait().unwrap();
    let ending = Ending::of(command);
    signal(command, Signal::KILL);
    ending.wait();
    collect(command);
    waiting.run.kill().unwrap();
    waiting.run.wait().unwrap();
    let _later = known.map(in_place_of);
    kill_9(daemon);
    collect(daemon);
    let status = ground.status();
    assert_eq!((status.locks.len(), status.waiters.len()), (0, 0), "{status:?}");
    assert_eq!(ground.daemon_status().sessions, 0);
    ground.flockd("next", "lock -n x").gives(0);
}

/// Collects a dead process that became ours by the death of its parent.
fn collect(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32);
    // Somebody else's already: then its parent has collected it.
    let _ = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty());
}
