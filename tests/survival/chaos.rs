//! Kill -9 and SIGSTOP of whatever there is at random moments: holders, waiters, `run` alone, its command alone, the
//! daemon, those who start it.

use crate::claimants::{ROLE, SCOPES, STOP, arguments, claimant};
use crate::util::{FLOCKD, Ground, StopAtEnd, scaled, until};
use crate::witness::{Random, inside, judge, seed, written};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A shell script that takes its locks by one-shots bound to itself.
const SCRIPT: &str = r#"
while [ ! -e stop ]; do
    lock=$("$0" lock "$1" --pid $$ --wait 60s --json) || exit 9
    fence=${lock#*\"fence\":}; fence=${fence%%,*}
    echo "enter $1 $fence $$ 0 0" >>log
    echo "work $1 $fence $$ 0 0" >>log
    echo "work $1 $fence $$ 0 0" >>log
    echo "leave $1 $fence $$ 0 0" >>log
    "$0" unlock "$1" || exit 9
done
exit 0
"#;

/// What a slot runs, again and again.
#[derive(Clone, Copy)]
enum Kind {
    Library,
    Run,
    Script,
}

const SLOTS: [Kind; 8] =
    [Kind::Library, Kind::Library, Kind::Library, Kind::Run, Kind::Run, Kind::Run, Kind::Script, Kind::Script];

impl Kind {
    fn command(self, ground: &Ground, agent: &str, random: &mut Random) -> Command {
        let scope = SCOPES[random.below(SCOPES.len() as u64) as usize];
        let me = std::env::current_exe().unwrap();
        let mut command = match self {
            Kind::Library => claimant(ground, agent, &format!("library {}", random.below(u64::MAX) | 1)),
            Kind::Run => {
                let mut all = vec!["run", scope, "--", me.to_str().unwrap()];
                all.extend(arguments());
                let mut command = ground.command(agent, &all);
                command.env(ROLE, format!("child {scope}"));
                command
            }
            Kind::Script => ground.environment(Command::new("sh"), agent, &["-c", SCRIPT, FLOCKD, scope]),
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }
}

/// How processes of each slot ended, and what they said, where they were not killed.
type Ends = Mutex<BTreeMap<String, usize>>;

/// Keeps one process running until the end; each has a name of its own, as two agents must.
fn keep_running(ground: &Ground, slot: usize, mut random: Random, stop: &AtomicBool, ends: &Ends) {
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let command = SLOTS[slot].command(ground, &format!("slot-{slot}-{number}"), &mut random).spawn();
        let output = command.unwrap().wait_with_output().unwrap();
        let status = output.status;
        let end = match (status.signal(), status.code()) {
            (Some(9), _) | (_, Some(137)) => "killed".to_owned(),
            (_, Some(0)) => "done".to_owned(),
            // A script whose call was killed ends, and its shell says so, perhaps behind half a line of the call's. A
            // call that failed by itself says why.
            (_, Some(9)) if is_silent_but_for_kills(&output.stderr) => "gave up".to_owned(),
            _ => format!("{status}: {}", String::from_utf8_lossy(&output.stderr)),
        };
        *ends.lock().unwrap().entry(end).or_default() += 1;
    }
}

/// Whether flockd said nothing but words about those who wait, or was cut short.
fn is_silent_but_for_kills(stderr: &[u8]) -> bool {
    let text = String::from_utf8_lossy(stderr);
    let is_word = |line: &str| line.contains(" waits for ") || line.contains("flockd: waiting: ");
    text.lines().all(|line| is_word(line) || line.trim_end().ends_with("Killed"))
}

/// What a process of the ground is; none if it has just ended, or is none of those that are killed.
fn kind_of(pid: u32) -> Option<&'static str> {
    let args = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let args: Vec<&str> = args.split(|byte| *byte == 0).filter_map(|arg| str::from_utf8(arg).ok()).collect();
    let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let role =
        |role: &str| environ.windows(ROLE.len() + 1 + role.len()).any(|it| it == format!("{ROLE}={role}").as_bytes());
    Some(match args.get(1..3)? {
        ["daemon", "run"] => "the daemon",
        ["daemon", "start"] => "a starter",
        ["run", _] => "run alone",
        ["lock" | "unlock", _] => "a one-shot",
        ["-c", _] => "a script",
        ["--exact", _] if role("library") => "a client",
        ["--exact", _] if role("child") => "a command alone",
        _ => return None,
    })
}

/// A living process of the ground of a kind, and a descriptor of it: a number could be another's by now.
fn victim(ground: &Ground, random: &mut Random) -> Option<(&'static str, OwnedFd)> {
    let wants_daemon = random.below(5) == 0;
    let everybody = ground.processes();
    // Often one of those who are inside just now.
    let inside: Vec<u32> = inside(&ground.work).into_iter().filter(|pid| everybody.contains(pid)).collect();
    let mut all = if !wants_daemon && !inside.is_empty() && random.below(3) == 0 { inside } else { everybody };
    while !all.is_empty() {
        let pid = all.swap_remove(random.below(all.len() as u64) as usize);
        let Ok(pidfd) = pidfd_open(Pid::from_raw(pid as i32).unwrap(), PidfdFlags::empty()) else { continue };
        // Looked at after it was opened: whatever has the number now is what was opened, or that one has ended.
        match kind_of(pid) {
            Some(kind) if wants_daemon == (kind == "the daemon") => return Some((kind, pidfd)),
            _ => {}
        }
    }
    None
}

/// Lets the others get on for a while, which ends soon also where nobody can.
fn let_go_on(ground: &Ground, lines: u64) {
    let (begun, before) = (Instant::now(), written(&ground.work));
    while written(&ground.work) < before + 40 * lines && begun.elapsed() < Duration::from_millis(60) {
        #[expect(clippy::disallowed_methods, reason = "bounded back-off: 60 ms in all, a moment to be killed at")]
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn whatever_is_killed_or_frozen_nobody_gets_in_twice_and_everybody_gets_on() {
    let mut random = seed("chaos");
    let ground = Ground::new();
    ground.flockd("", "daemon start").gives(0);
    let (stop, ends) = (AtomicBool::new(false), Ends::default());
    let mut done: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    std::thread::scope(|scope| {
        let ended = StopAtEnd(&stop);
        for slot in 0..SLOTS.len() {
            let (ground, stop, ends) = (&ground, &stop, &ends);
            let random = Random(random.below(u64::MAX) | 1);
            scope.spawn(move || keep_running(ground, slot, random, stop, ends));
        }
        let mut frozen: Vec<(u64, OwnedFd)> = Vec::new();
        for step in 0..scaled(400) {
            let_go_on(&ground, random.below(20));
            // A frozen one goes on after some others were killed; one that was killed meanwhile is as good.
            for (_, pidfd) in frozen.extract_if(.., |(until, _)| *until <= step) {
                let _ = pidfd_send_signal(&pidfd, Signal::CONT);
            }
            let Some((kind, pidfd)) = victim(&ground, &mut random) else { continue };
            if random.below(4) == 0 && frozen.len() < 2 {
                *done.entry((kind, "frozen")).or_default() += 1;
                let _ = pidfd_send_signal(&pidfd, Signal::STOP);
                frozen.push((step + 1 + random.below(4), pidfd));
            } else {
                *done.entry((kind, "killed")).or_default() += 1;
                let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            }
        }
        for (_, pidfd) in frozen {
            let _ = pidfd_send_signal(&pidfd, Signal::CONT);
        }
        // In peace everybody gets on.
        let before = written(&ground.work);
        until("the others get on", || (written(&ground.work) > before + 20_000).then_some(()));
        drop(ended);
        fs::write(ground.work.join(STOP), "").unwrap();
    });
    let verdict = judge(&ground.work);
    let ends = ends.into_inner().unwrap();
    eprintln!("{done:?}\n{verdict:?}\n{ends:?}");
    until("nothing is held and nobody waits", || {
        let status = ground.status();
        (status.locks.is_empty() && status.waiters.is_empty()).then_some(())
    });
    assert!(ends.keys().all(|end| ["done", "killed", "gave up"].contains(&end.as_str())), "{ends:?}");
    assert!(verdict.cut_short > 0 && verdict.holds > 100, "{verdict:?}");
    for kind in ["the daemon", "run alone", "a command alone", "a client", "a script", "a one-shot"] {
        assert!(done.contains_key(&(kind, "killed")), "{kind} was never killed: {done:?}");
    }
}
