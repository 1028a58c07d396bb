//! `flockd run`: whose end releases the lock, whose does not, and which exit status it has.

use crate::util::{Done, Ending, Ground, kill_9, signal, until};
use flockd::wire::KeptBy;
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::process::{Command, Stdio};

/// `flockd run ARGS -- sh -c SCRIPT`, run to its end.
fn run(ground: &Ground, agent: &str, args: &str, script: &str) -> Done {
    Done::of(command(ground, agent, args, script))
}

fn command(ground: &Ground, agent: &str, args: &str, script: &str) -> Command {
    let mut all = vec!["run"];
    all.extend(args.split_whitespace());
    all.extend(["--", "sh", "-c", script]);
    ground.command(agent, &all)
}

#[test]
fn the_exit_status_of_the_command_is_passed_on() {
    let ground = Ground::new();
    for status in [0, 1, 7, 255] {
        run(&ground, "a", "x", &format!("exit {status}")).gives(status);
    }
    for (name, number) in [("KILL", 9), ("USR1", 10)] {
        run(&ground, "a", "x", &format!("kill -{name} $$")).gives(128 + number);
    }
    assert_eq!(run(&ground, "a", "x", "kill -TERM $$").code, None, "the same signal ends us, for the shell to see");
    assert_eq!(run(&ground, "a", "x", "echo out; echo err >&2").gives(0).out, "out\n");
    assert_eq!(ground.status().locks, []);
}

#[test]
fn a_refusal_has_its_own_status_or_the_one_that_was_asked_for() {
    let ground = Ground::new();
    let _held = ground.hold("a", "x");
    run(&ground, "b", "-n x", "true").gives(1).says(&["x is held", "a holds x", "while its command runs"]);
    run(&ground, "b", "-w 0.05 x", "true").gives(3).says(&["not free in time"]);
    run(&ground, "b", "-n -E 75 x", "true").gives(75);
    run(&ground, "b", "-w 0.05 -E 76 x", "true").gives(76);
    run(&ground, "b", "-n -s x", "true").gives(1);
    assert_eq!(run(&ground, "b", "-n x --json", "true").gives(1).json()["code"], "held");
    assert_eq!(ground.status().waiters, []);
}

#[test]
fn readers_run_together_and_a_writer_does_not_run_with_them() {
    let ground = Ground::new();
    let (_one, _two) = (ground.hold("a", "-s x"), ground.hold("b", "-s x"));
    run(&ground, "c", "-s -n x", "true").gives(0);
    run(&ground, "c", "-n x", "true").gives(1);
    assert_eq!(ground.status().locks.len(), 2);
}

#[test]
fn what_its_agent_held_before_it_holds_again_however_run_ends() {
    let ground = Ground::new();
    ground.flockd("a", "lock x --ttl 5m").gives(0);
    let lease = || {
        let held = &ground.status().locks[0];
        (held.agent.clone(), held.ttl_ms, held.kept_by)
    };
    let before = lease();
    run(&ground, "a", "x", &format!("{} check x", env!("CARGO_BIN_EXE_flockd"))).gives(0);
    assert_eq!(lease(), before);
    // A second one waits for the first, for both are guards.
    let mut first = ground.hold("a", "x");
    run(&ground, "a", "-n x", "").gives(1);
    first.run.kill().unwrap();
    first.run.wait().unwrap();
    assert_eq!(ground.status().locks[0].kept_by, KeptBy::Process);
    kill_9(first.command());
    until("it is on its lease", || (lease() == before).then_some(()));
    ground.flockd("b", "lock -n x").gives(1);
    ground.flockd("a", "unlock x").gives(0);
    assert_eq!(ground.status().locks, []);
}

#[test]
fn a_parent_is_told_who_works_in_what_it_has_already() {
    let ground = Ground::new();
    ground.flockd("a", "lock d/").gives(0);
    ground.flockd("a/x", "lock d/f").gives(0);
    run(&ground, "a", "-n d/", "").gives(0).says(&["a/x holds ", "d/f", "works on"]);
    let again = ground.flockd("a", "lock d/").gives(0);
    assert!(again.out.contains("already held") && again.out.contains("a/x holds d/f"), "{again:?}");
}

#[test]
fn a_command_that_cannot_be_run_releases_the_lock_and_is_named() {
    let ground = Ground::new();
    Done::of(ground.command("a", &["run", "x", "--", "no-such-command"]))
        .gives(127)
        .says(&["cannot run no-such-command"]);
    assert_eq!(ground.status().locks, []);
    Done::of(ground.command("a", &["run", "x"])).gives(2);
    Done::of(ground.command("a", &["run", "x", "echo"])).gives(2);
}

#[test]
fn without_a_name_each_run_is_an_agent_of_its_own() {
    let ground = Ground::new();
    let mut held = ground.hold("", "x");
    let lock = &ground.status().locks[0];
    assert_eq!(lock.agent, format!("run-{}", held.run.id()));
    run(&ground, "", "-n x", "true").gives(1);
    held.let_go();
    assert_eq!(run(&ground, "", "x", "echo $FLOCKD_AGENT").gives(0).out.trim_end().split('-').next(), Some("run"));
    assert_eq!(run(&ground, "me", "x", "echo $FLOCKD_AGENT").gives(0).out, "me\n");
}

#[test]
fn kill_9_of_run_alone_frees_nothing_until_the_command_ends() {
    let ground = Ground::new();
    let mut held = ground.hold("a", "x");
    let before = ground.status().locks.remove(0);
    assert_eq!(before.kept_by, KeptBy::Process);
    let mut waiting = ground.queue("b", "x");
    ground.until_waiting(&["b"]);
    held.run.kill().unwrap();
    held.run.wait().unwrap();
    // Whoever closes the session is seen by the daemon before whoever asks after it.
    run(&ground, "c", "-n x", "true").gives(1);
    let after = ground.status();
    assert_eq!((&after.locks[0].lock_id, after.locks.len()), (&before.lock_id, 1));
    ground.until_waiting(&["b"]);
    held.let_go();
    waiting.granted();
    assert_eq!(waiting.end(), Some(0));
}

#[test]
fn what_its_agent_unlocks_after_a_kill_9_of_run_is_no_loss_and_refusals_name_the_command() {
    let ground = Ground::new();
    let mut held = ground.hold("a", "x");
    kill_9(held.run.id());
    until("it is kept by its command", || {
        let lock = ground.status().locks.remove(0);
        (lock.kept_by == KeptBy::Process && lock.pid == Some(held.command())).then_some(())
    });
    ground.flockd("b", "lock -n x").gives(1).says(&[&format!("pid {}", held.command())]);
    let done = ground.flockd("a", "unlock x").gives(0);
    assert_eq!((done.out.as_str(), done.err.as_str()), ("", ""));
    assert_eq!(ground.flockd("a", "ls").gives(0).err, "", "nor later");
    assert_eq!(ground.status().locks, []);
    held.let_go();
}

#[test]
fn the_end_of_the_command_releases_the_lock_however_it_comes() {
    let ground = Ground::new();
    let mut held = ground.hold("a", "x");
    // The first who waits is served by the command's death, the second by an orderly end.
    let mut second = ground.queue("b", "x");
    ground.until_waiting(&["b"]);
    let mut third = ground.queue("c", "x");
    ground.until_waiting(&["b", "c"]);
    kill_9(held.command());
    assert_eq!(held.run.wait().unwrap().code(), Some(137));
    second.granted();
    assert_eq!(second.end(), Some(0));
    third.granted();
}

#[test]
fn a_process_left_in_the_background_does_not_keep_the_lock() {
    let ground = Ground::new();
    let done = run(&ground, "a", "x", "sleep 600 >/dev/null 2>&1 & echo $!").gives(0);
    let background = Ending::of(done.out.trim().parse().unwrap());
    run(&ground, "b", "-n x", "true").gives(0);
    assert_eq!(ground.processes().len(), 2, "the daemon and what was left in the background");
    kill_9(done.out.trim().parse().unwrap());
    background.wait();
}

#[test]
fn whoever_waits_for_more_than_a_second_is_told_for_whom() {
    let ground = Ground::new();
    let held = ground.hold("slow", "x");
    let mut waiting = ground.queue("b", "x");
    let mut line = String::new();
    BufReader::new(waiting.run.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("waiting: slow holds x exclusive") && line.contains("while its command runs"), "{line}");
    assert_eq!(held.end(), Some(0));
    waiting.granted();
    assert_eq!(waiting.end(), Some(0));
}

#[test]
fn a_run_within_the_run_that_holds_the_lock_is_refused() {
    let ground = Ground::new();
    let program = crate::util::FLOCKD;
    for (agent, inner) in [("a", ""), ("a", "--agent b"), ("", "")] {
        let nested = run(&ground, agent, "x", &format!("{program} run {inner} x -- true"));
        nested.gives(4).says(&["this command runs inside the `flockd run` that holds it"]);
    }
    run(&ground, "a", "src/", &format!("{program} run -w 60 src/x -- true")).gives(4);
    run(&ground, "a", "-s x", &format!("{program} run -s x -- true")).gives(0);
    run(&ground, "a", "x", &format!("{program} run y -- true")).gives(0);
    assert_eq!(ground.status().locks, []);
}

#[test]
fn signals_are_passed_on_to_the_command() {
    let ground = Ground::new();
    let ended_by = |number| ExitStatus::from_raw(number);
    let ways = [(Signal::TERM, ended_by(15)), (Signal::INT, ended_by(2)), (Signal::HUP, ended_by(1))];
    for (sent, status) in ways.into_iter().chain([(Signal::USR1, ExitStatus::from_raw((128 + 10) << 8))]) {
        let mut held = ground.hold("a", "x");
        let command = Ending::of(held.command());
        signal(held.run.id(), sent);
        assert_eq!(held.run.wait().unwrap(), status);
        command.wait();
    }
    assert_eq!(ground.status().locks, []);
}

#[test]
fn a_waiting_client_that_is_killed_leaves_nothing_behind() {
    let ground = Ground::new();
    let held = ground.hold("a", "x");
    let mut first = ground.queue("b", "x");
    ground.until_waiting(&["b"]);
    let mut second = ground.queue("c", "x");
    ground.until_waiting(&["b", "c"]);
    first.run.kill().unwrap();
    first.run.wait().unwrap();
    ground.until_waiting(&["c"]);
    assert_eq!(ground.status().waiters[0].position, 1);
    assert_eq!(held.end(), Some(0));
    second.granted();
    let locks = ground.status().locks;
    assert_eq!((locks.len(), locks[0].agent.as_str()), (1, "c"));
    assert_eq!(second.end(), Some(0));
    assert_eq!(ground.daemon_status().sessions, 0);
}

#[test]
fn a_run_whose_lock_was_broken_says_so_at_its_end() {
    let ground = Ground::new();
    let mut held = ground.hold("a", "x");
    let id = ground.status().locks[0].lock_id.clone();
    Done::of(ground.command("boss", &["break", &id, "--reason", "urgent"])).gives(0);
    let _next = ground.hold("next", "x");
    held.let_go();
    let mut said = String::new();
    held.run.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("x was not held until the command ended") && said.contains("boss broke it"), "{said}");
    assert_eq!(held.run.wait().unwrap().code(), Some(0), "the command's own");
}

#[test]
fn the_standard_streams_of_the_command_are_its_own() {
    let ground = Ground::new();
    let mut command = command(&ground, "a", "x", "cat");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let text = "x".repeat(200_000);
    let mut input = child.stdin.take().unwrap();
    let sent = text.clone();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut input, sent.as_bytes()));
    assert_eq!(std::io::read_to_string(child.stdout.take().unwrap()).unwrap(), text);
    writer.join().unwrap().unwrap();
    assert!(child.wait().unwrap().success());
}
