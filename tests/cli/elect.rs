//! `flockd elect`: one command at a time, whoever is killed, stopped or broken; judged from what the commands write.

use crate::util::{Done, Ending, Ground, kill_9, scaled, signal, until};
use flockd::wire::KeptBy;
use rustix::process::Signal;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

/// What a leader does: it keeps a flock of the kernel's as long as it lives, and notes it if somebody else has it. Then
/// it says that it leads, and stays.
const LEADER: &str = "exec 9>>inside; flock -n 9 || echo two at once >>overlaps; echo $$ $FLOCKD_FENCE >>leaders; \
                      exec sleep 600";
/// The same, and it takes no notice of SIGTERM.
const STUBBORN: &str = "trap '' TERM; exec 9>>inside; flock -n 9 || echo two at once >>overlaps; \
                        echo $$ $FLOCKD_FENCE >>leaders; while :; do sleep 0.1; done";

/// A candidate, killed when it is dropped; its command is the ground's to end.
struct Candidate {
    elect: Child,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Candidate {
    fn new(ground: &Ground, agent: &str, args: &str) -> Candidate {
        Candidate::with(ground, agent, args, LEADER)
    }

    fn with(ground: &Ground, agent: &str, args: &str, script: &str) -> Candidate {
        let mut command = elect(ground, agent, args, script);
        let mut elect = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(elect.stderr.take().unwrap());
        Candidate { elect, stderr }
    }

    /// Waits for its next sentence.
    fn says(&mut self, text: &str) {
        let mut line = String::new();
        self.stderr.read_line(&mut line).unwrap();
        assert!(line.contains(text), "{line:?} does not say {text:?}");
    }

    fn end(&mut self) -> Option<i32> {
        self.elect.wait().unwrap().code()
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        // Dead already is as good.
        let _ = self.elect.kill();
        let _ = self.elect.wait();
    }
}

fn elect(ground: &Ground, agent: &str, args: &str, script: &str) -> Command {
    let mut all = vec!["elect"];
    all.extend(args.split_whitespace());
    all.extend(["--", "sh", "-c", script]);
    ground.command(agent, &all)
}

/// Process and fence of each command that has begun.
fn leaders(ground: &Ground) -> Vec<(u32, u64)> {
    let text = fs::read_to_string(ground.work.join("leaders")).unwrap_or_default();
    // The last line may be half written.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let pair = |line: &str| line.split_once(' ').map(|(pid, fence)| (pid.parse().unwrap(), fence.parse().unwrap()));
    whole.lines().map(|line| pair(line).unwrap()).collect()
}

/// Waits until so many commands have begun; the process of the last.
fn leader(ground: &Ground, number: usize) -> u32 {
    until(&format!("leader {number} leads"), || leaders(ground).get(number - 1).map(|(pid, _)| *pid))
}

fn never_two_at_once(ground: &Ground) {
    assert_eq!(fs::read_to_string(ground.work.join("overlaps")).unwrap_or_default(), "");
    let fences: Vec<u64> = leaders(ground).into_iter().map(|(_, fence)| fence).collect();
    assert!(fences.is_sorted_by(|a, b| a < b), "each leader has a larger fence: {fences:?}");
}

/// The lock by which somebody leads.
fn office(ground: &Ground) -> String {
    let found = |lock: &flockd::wire::Held| lock.file_id == "@x" && lock.kept_by == KeptBy::Process;
    until("somebody leads", || ground.status().locks.into_iter().find(found).map(|lock| lock.lock_id))
}

fn break_it(ground: &Ground) {
    Done::of(ground.command("boss", &["break", &office(ground), "--reason", "urgent"])).gives(0);
}

/// How a leadership ends.
const WAYS: [&str; 10] = [
    "command",
    "elect",
    "elect, break",
    "guard, break",
    "elect, guard, break",
    "stop, break",
    "break",
    "daemon",
    "order",
    "unlock",
];

#[test]
fn of_five_candidates_one_leads_at_a_time_through_kills_and_breaks() {
    let ground = Ground::new();
    let mut candidates: Vec<Candidate> = (0..5).map(|n| Candidate::new(&ground, &format!("c{n}"), "x")).collect();
    let mut led = 0;
    for round in 0..scaled(2) {
        for way in WAYS {
            led += 1;
            let pid = leader(&ground, led);
            let agent = ground.status().locks.iter().find(|lock| lock.file_id == "@x").unwrap().agent.clone();
            let number = agent[1..].parse::<usize>().unwrap();
            let elect = candidates[number].elect.id();
            match way {
                "command" => kill_9(pid),
                "elect" => {
                    kill_9(elect);
                    candidates[number].elect.wait().unwrap();
                    assert_eq!(leaders(&ground).len(), led, "the command leads on");
                    kill_9(pid);
                }
                "break" => break_it(&ground),
                "elect, break" => {
                    kill_9(elect);
                    break_it(&ground);
                }
                "guard, break" => {
                    kill_9(guard_of(elect));
                    break_it(&ground);
                }
                "elect, guard, break" => {
                    let guard = guard_of(elect);
                    kill_9(elect);
                    guard_of(guard);
                    kill_9(guard);
                    break_it(&ground);
                }
                "stop, break" => {
                    signal(elect, Signal::STOP);
                    break_it(&ground);
                }
                "daemon" => {
                    ground.kill_daemon();
                    kill_9(pid);
                }
                "order" => signal(elect, Signal::TERM),
                _ => drop(ground.flockd(&agent, "unlock @x").gives(0)),
            }
            until(&format!("somebody leads after {way}"), || leaders(&ground).get(led).map(|_| ()));
            candidates[number] = Candidate::new(&ground, &agent, "x");
        }
        assert_eq!(led as u64, WAYS.len() as u64 * (round + 1));
    }
    never_two_at_once(&ground);
    println!("{led} leaders, none beside another, each followed by the next");
}

#[test]
fn a_command_that_does_not_lead_any_more_is_killed_if_it_ignores_sigterm() {
    let ground = Ground::new();
    let mut first = Candidate::with(&ground, "a", "x --grace 0.2 -E 75", STUBBORN);
    let ending = Ending::of(leader(&ground, 1));
    let mut next = Candidate::new(&ground, "b", "x");
    ground.until_waiting(&["b"]);
    first.says("a leads @x");
    break_it(&ground);
    first.says("no longer leads @x, so the command is ended: you lost @x");
    ending.wait();
    assert_eq!(first.end(), Some(75));
    leader(&ground, 2);
    never_two_at_once(&ground);
    next.elect.kill().unwrap();
}

/// The process that guards the command of an `elect`.
fn guard_of(elect: u32) -> u32 {
    let read = |path: String| fs::read_to_string(path).unwrap_or_default();
    // A dead one that is not collected yet has a name, and no arguments any more.
    let is_guard = |pid: &u32| {
        read(format!("/proc/{pid}/comm")) == "elect-guard\n" && !read(format!("/proc/{pid}/cmdline")).is_empty()
    };
    until("a guard watches", || children_of(elect).into_iter().find(is_guard))
}

/// The children of all its threads; none when it is over.
fn children_of(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let read = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children")).unwrap_or_default();
    let all: String = threads.filter_map(Result::ok).map(read).collect();
    all.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

#[test]
fn a_command_of_a_killed_candidate_leads_on_and_is_ended_when_it_does_not() {
    let ground = Ground::new();
    for (led, script) in [(1, LEADER), (2, STUBBORN)] {
        let mut first = Candidate::with(&ground, &format!("a{led}"), "x --grace 0.2", script);
        let ending = Ending::of(leader(&ground, 2 * led - 1));
        first.says("leads @x");
        kill_9(first.elect.id());
        first.elect.wait().unwrap();
        let mut next = Candidate::new(&ground, "b", "x");
        ground.until_waiting(&["b"]);
        next.says("while its command runs");
        break_it(&ground);
        // A guard that does nothing says nothing either: this is what ends in time.
        ending.wait();
        first.says("no longer leads @x, so the command is ended");
        leader(&ground, 2 * led);
        signal(next.elect.id(), Signal::TERM);
        next.end();
    }
    never_two_at_once(&ground);
}

#[test]
fn a_killed_guard_is_replaced_by_whoever_started_it() {
    let ground = Ground::new();
    let mut first = Candidate::new(&ground, "a", "x");
    let ending = Ending::of(leader(&ground, 1));
    let kill = |pid: u32| {
        let gone = Ending::of(pid);
        kill_9(pid);
        gone.wait();
    };
    let elect = first.elect.id();
    for _ in 0..2 {
        kill(guard_of(elect));
    }
    let second = guard_of(elect);
    kill_9(elect);
    first.end();
    // It is now what `elect` was, and has a guard of its own.
    kill(guard_of(second));
    let third = guard_of(second);
    kill(second);
    guard_of(third);
    break_it(&ground);
    ending.wait();
}

#[test]
fn a_guard_that_is_stopped_is_replaced_and_does_not_keep_the_command() {
    let ground = Ground::new();
    let mut first = Candidate::with(&ground, "a", "x --grace 0.2 -E 75", STUBBORN);
    let ending = Ending::of(leader(&ground, 1));
    let (guard, gone) = {
        let guard = guard_of(first.elect.id());
        (guard, Ending::of(guard))
    };
    signal(guard, Signal::STOP);
    break_it(&ground);
    gone.wait();
    ending.wait();
    assert_eq!(first.end(), Some(75));
}

#[test]
fn whoever_is_killed_in_the_grace_the_command_hears_sigterm_once_and_is_killed() {
    for guard_first in [false, true] {
        let ground = Ground::new();
        let script = STUBBORN.replace("trap ''", "trap 'echo once >>heard'");
        let mut first = Candidate::with(&ground, "a", "x --grace 3", &script);
        let elect = first.elect.id();
        let ending = Ending::of(leader(&ground, 1));
        let guard = guard_of(elect);
        break_it(&ground);
        until("it is told to end", || fs::metadata(ground.work.join("heard")).ok());
        if guard_first {
            kill_9(guard);
            let next = guard_of(elect);
            kill_9(elect);
            guard_of(next);
        } else {
            kill_9(elect);
            guard_of(guard);
            kill_9(guard);
        }
        first.end();
        ending.wait();
        assert_eq!(fs::read_to_string(ground.work.join("heard")).unwrap(), "once\n");
    }
}

#[test]
fn where_no_guard_can_be_started_the_other_one_looks_itself() {
    for kills_elect in [false, true] {
        let ground = Ground::new();
        ground.flockd("", "daemon start").gives(0);
        let own = ground.work.join("flockd");
        // By a process of its own: one that another test forks meanwhile would have the file open for writing.
        assert!(Command::new("cp").arg(crate::util::FLOCKD).arg(&own).status().unwrap().success());
        let model = elect(&ground, "a", "x -E 75", LEADER);
        let mut command = Command::new(&own);
        command.args(model.get_args()).current_dir(&ground.work);
        command.envs(model.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut first = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(first.stderr.take().unwrap());
        let ending = Ending::of(leader(&ground, 1));
        let guard = guard_of(first.id());
        fs::set_permissions(&own, fs::Permissions::from_mode(0o000)).unwrap();
        let killed = if kills_elect { first.id() } else { guard };
        kill_9(killed);
        let mut said = String::new();
        while !said.contains("so this one watches alone") {
            assert!(stderr.read_line(&mut said).unwrap() > 0, "{said}");
        }
        break_it(&ground);
        ending.wait();
        let code = first.wait().unwrap().code();
        assert_eq!(code, if kills_elect { None } else { Some(75) });
    }
}

#[test]
fn nothing_in_a_guard_hangs_on_the_directory_or_on_who_reads_what_it_says() {
    let ground = Ground::new();
    let dir = ground.work.join("gone");
    fs::create_dir(&dir).unwrap();
    let mut command = elect(&ground, "a", "x --grace 0.2", "echo $$ $FLOCKD_FENCE >>../leaders; exec sleep 600");
    // A pipe that is full, and is not read.
    let (unread, stderr) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
    while rustix::io::write(&stderr, &[b'.'; 4096]).is_ok() {}
    rustix::fs::fcntl_setfl(&stderr, rustix::fs::OFlags::empty()).unwrap();
    let mut first = command.current_dir(&dir).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
    let ending = Ending::of(leader(&ground, 1));
    fs::remove_dir(&dir).unwrap();
    kill_9(guard_of(first.id()));
    let guard = guard_of(first.id());
    kill_9(first.id());
    first.wait().unwrap();
    guard_of(guard);
    break_it(&ground);
    ending.wait();
    drop(unread);
}

#[test]
fn a_command_that_is_killed_before_its_first_step_ends_as_it_would_later() {
    let ground = Ground::new();
    // Or it would be a child of the first.
    ground.flockd("", "daemon start").gives(0);
    for (verb, round) in ["elect", "run"].into_iter().flat_map(|verb| (0..20).map(move |round| (verb, round))) {
        let name = format!("{}x{round}", if verb == "run" { "@" } else { "" });
        let mut command = ground.command("a", &[verb, &name, "--", "sh", "-c", "sleep 0.1; exit 7"]);
        let mut first = command.stderr(Stdio::piped()).spawn().unwrap();
        // The first child of all is the command; its guard comes while it waits.
        let children = || children_of(first.id()).into_iter().min();
        let pid = until("it has a child", children);
        kill_9(pid);
        let code = first.wait().unwrap().code();
        let mut said = String::new();
        first.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(code, Some(137), "{verb} {round}: {said}");
    }
    assert_eq!(ground.status().locks, []);
}

#[test]
fn a_new_leader_waits_for_the_command_of_the_one_before() {
    let ground = Ground::new();
    let mut first = Candidate::new(&ground, "a", "x");
    let pid = leader(&ground, 1);
    // Nobody is left to end the command: a stopped one posts no guard again.
    let guard = guard_of(first.elect.id());
    signal(first.elect.id(), Signal::STOP);
    kill_9(guard);
    kill_9(first.elect.id());
    first.end();
    let mut next = Candidate::new(&ground, "b", "x");
    ground.until_waiting(&["b"]);
    // Its command leads; `elect` is dead.
    next.says(&format!("while its command runs, pid {pid}"));
    break_it(&ground);
    next.says(&format!("waiting: elect-{} holds @x:command", first.elect.id()));
    assert_eq!(leaders(&ground).len(), 1);
    let told = ground.flockd("", "ls @x:command --json").gives(0).json();
    assert_eq!(told["locks"][0]["pid"], pid);
    kill_9(pid);
    leader(&ground, 2);
    never_two_at_once(&ground);
}

#[test]
fn the_command_of_a_stopped_candidate_is_ended_all_the_same() {
    let ground = Ground::new();
    let mut first = Candidate::new(&ground, "a", "x -E 75");
    let pid = leader(&ground, 1);
    signal(first.elect.id(), Signal::STOP);
    // A stopped command hears of its end all the same.
    signal(pid, Signal::STOP);
    let _next = Candidate::new(&ground, "b", "x");
    ground.until_waiting(&["b"]);
    break_it(&ground);
    leader(&ground, 2);
    signal(first.elect.id(), Signal::CONT);
    first.says("a leads @x");
    first.says("no longer leads @x, so the command is ended: you lost @x");
    assert_eq!(first.end(), Some(75));
    never_two_at_once(&ground);
}

#[test]
fn a_home_that_is_taken_away_ends_the_command() {
    let ground = Ground::new();
    let mut first = Candidate::new(&ground, "a", "x");
    leader(&ground, 1);
    first.says("a leads @x");
    fs::rename(&ground.home, ground.work.join("elsewhere")).unwrap();
    first.says("no longer leads @x, so the command is ended");
    assert_eq!(first.end(), Some(1));
}

#[test]
fn the_exit_status_of_the_command_is_passed_on_and_what_it_is_told() {
    let ground = Ground::new();
    for status in [0, 7] {
        Done::of(elect(&ground, "a", "x", &format!("exit {status}"))).gives(status).says(&["a leads @x, lk_"]);
    }
    let done = Done::of(elect(&ground, "a", "@x --json", "echo $FLOCKD_AGENT $FLOCKD_FENCE")).gives(0);
    let line: serde_json::Value = serde_json::from_str(&done.err).unwrap();
    assert_eq!((&line["file_id"], &line["acquired"]), (&"@x".into(), &true.into()));
    assert_eq!(done.out, format!("a {}\n", line["fence"]));
    Done::of(ground.command("a", &["elect", "x", "--", "no-such-command"])).gives(127);
    Done::of(ground.command("a", &["elect", &"x".repeat(250), "--", "true"])).gives(2).says(&["resource name", "247"]);
    Done::of(ground.command("a", &["elect", "a b", "--", "true"])).gives(2).says(&["the resource name \"a b\" has"]);
    let nested = format!("{} elect x -- true", crate::util::FLOCKD);
    Done::of(elect(&ground, "a", "x", &nested)).gives(4);
    assert_eq!(ground.status().locks, []);
}

#[test]
fn two_candidates_of_one_name_exclude_each_other_all_the_same() {
    let ground = Ground::new();
    let first = Candidate::new(&ground, "a", "x");
    let pid = leader(&ground, 1);
    let _second = Candidate::new(&ground, "a", "x");
    ground.until_waiting(&["a"]);
    signal(first.elect.id(), Signal::INT);
    Ending::of(pid).wait();
    leader(&ground, 2);
    never_two_at_once(&ground);
}

/// A sub-agent may hold what its parent leads by; that is no end of the parent's leadership, and not yet one's own.
#[test]
fn a_sub_agent_ends_no_leadership_and_leads_only_after_the_command() {
    let ground = Ground::new();
    // Long enough for some looks: each would have ended it.
    let script = LEADER.replace("exec sleep 600", "sleep 3; exit 7");
    let mut first = Candidate::with(&ground, "a", "x", &script);
    leader(&ground, 1);
    let mut child = Candidate::new(&ground, "a/w", "x");
    child.says(&format!("waiting: elect-{} holds @x:command", first.elect.id()));
    assert_eq!(first.end(), Some(7), "the command led to its end");
    leader(&ground, 2);
    never_two_at_once(&ground);
}

#[test]
fn without_a_command_a_line_tells_of_the_leadership_that_lasts_until_the_end() {
    let ground = Ground::new();
    let start = |agent: &str, args: &[&str]| {
        let all = [&["elect", "x"], args].concat();
        let mut elect = ground.command(agent, &all).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        (BufReader::new(elect.stdout.take().unwrap()), elect)
    };
    let line = |out: &mut BufReader<_>| {
        let mut line = String::new();
        BufRead::read_line(out, &mut line).unwrap();
        line
    };
    let (mut out, mut first) = start("a", &[]);
    assert!(line(&mut out).starts_with("a leads @x, lk_"));
    let (mut next_out, mut next) = start("b", &["--json"]);
    ground.until_waiting(&["b"]);
    kill_9(first.id());
    first.wait().unwrap();
    assert!(line(&mut next_out).contains("\"agent\":\"b\""));
    break_it(&ground);
    assert_eq!(next.wait().unwrap().code(), Some(1));
    let error: serde_json::Value = serde_json::from_str(&line(&mut next_out)).unwrap();
    assert_eq!(error["error"]["code"], "lost");
}
