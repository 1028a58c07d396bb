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

/// A living process with exactly this number, which is free.
fn with_number(pid: u32) -> Tool {
    // Threads take numbers as well: once more, if somebody was faster.
    for _ in 0..100 {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
        let tool = Tool::new();
        if tool.pid() == pid {
            return tool;
        }
    }
    panic!("number {pid} was not to be had");
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
    drop(tool);
    let second = with_number(pid);
    ground.flockd("b", "lock -n x").gives(0);
    ground.flockd("b", "unlock x").gives(0);
    // The other way round: what hangs on the second one is not freed by the first one's end.
    ground.flockd("a", &format!("lock x --pid {pid} --ttl 1h")).gives(0);
    ground.flockd("b", "lock -n x").gives(1);

    // The same while nobody serves: frozen, the daemon sees neither the end nor the new one.
    let daemon = ground.daemon_pid();
    signal(daemon, Signal::STOP);
    drop(second);
    let third = with_number(pid);
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
    let (run, command, waiter) = (held.run.id(), held.command(), waiting.run.id());
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
    let _later: Vec<Tool> = [run, command, waiter].into_iter().map(with_number).collect();
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
