//! `watch` and `on`: what happens, told to people, programs and commands.

use crate::util::{Done, Ending, Ground, exclusive, signal, take, until};
use flockd::client::Custodian;
use flockd::limits;
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ChildStdout, Stdio};

/// A `flockd watch` or `on` that runs.
pub struct Running {
    child: Child,
    out: Option<BufReader<ChildStdout>>,
}

impl Running {
    pub fn start(ground: &Ground, args: &[&str]) -> Running {
        let subscribers = ground.daemon_status().subscribers;
        let mut command = ground.command("", args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = child.stdout.take().map(BufReader::new);
        until("it is subscribed", || (ground.daemon_status().subscribers > subscribers).then_some(()));
        Running { child, out }
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.as_mut().unwrap().read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Closes the pipe that it writes to.
    fn hang_up(&mut self) {
        self.out = None;
    }

    pub fn json(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn round(ground: &Ground, agent: &str, scope: &str) {
    ground.flockd(agent, &format!("lock {scope}")).gives(0);
    ground.flockd(agent, &format!("unlock {scope}")).gives(0);
}

#[test]
fn watch_tells_one_event_a_line_and_goes_on_over_restarts() {
    let ground = Ground::new();
    let mut watch = Running::start(&ground, &["watch", "data.json", "--json"]);
    for kills in [true, false] {
        round(&ground, "claw-1", "data.json");
        round(&ground, "claw-1", "other.json");
        let acquired = watch.json();
        assert_eq!(
            ["event", "file_id", "acquired_by"].map(|key| acquired[key].as_str().unwrap()),
            ["lock.acquired", "data.json", "claw-1"]
        );
        assert_eq!(acquired["type"], acquired["event"]);
        assert!(acquired["workspace_id"].as_str().unwrap().starts_with("ws_"));
        let released = watch.json();
        assert_eq!(
            (released["event"].as_str(), released["reason"].as_str()),
            (Some("lock.released"), Some("released"))
        );
        assert!(released["seq"].as_u64() > acquired["seq"].as_u64());
        if kills {
            ground.kill_daemon();
        } else {
            ground.stop_daemon();
        }
    }
    round(&ground, "claw-2", "data.json");
    assert_eq!(watch.json()["acquired_by"], "claw-2");
}

#[test]
fn watch_shows_people_who_does_what_and_begins_where_it_is_told() {
    let ground = Ground::new();
    round(&ground, "claw-1", "data.json");
    round(&ground, "claw-2", "src/");
    let mut watch = Running::start(&ground, &["watch", "--since", "0"]);
    let line = watch.line();
    assert!(line.contains(" acquired claw-1 data.json exclusive (lk_"), "{line}");
    assert!(!line.contains('\u{1b}'), "no colours in a pipe");
    let lines: Vec<String> = (0..3).map(|_| watch.line()).collect();
    assert!(lines[0].contains(" released claw-1 data.json"), "{lines:?}");
    assert!(lines[2].contains(" released claw-2 src/"), "{lines:?}");
    let mut by =
        Running::start(&ground, &["watch", "--since", "0", "--by", "claw-2", "--event", "lock.released", "--json"]);
    assert_eq!(by.json()["file_id"], "src/");
}

#[test]
fn watch_ends_when_nobody_reads_it_and_by_ctrl_c() {
    let ground = Ground::new();
    let mut watch = Running::start(&ground, &["watch"]);
    watch.hang_up();
    assert_eq!(watch.child.wait().unwrap().code(), Some(0), "though nothing happened");
    assert_eq!(std::io::read_to_string(watch.child.stderr.take().unwrap()).unwrap(), "", "no word in a pipe");
    let mut watch = Running::start(&ground, &["watch"]);
    signal(watch.child.id(), Signal::INT);
    assert_eq!(watch.child.wait().unwrap().signal(), Some(Signal::INT.as_raw()));
}

#[test]
fn what_no_event_can_be_is_refused_at_once() {
    let ground = Ground::new();
    for args in ["watch --event lock.stolen", "on lock.stolen -- true", "watch --since 99999999999999999"] {
        ground.flockd("", args).gives(2);
    }
    ground.flockd("", "on lock.stolen -- true").gives(2).says(&["lock.released"]);
}

#[test]
fn on_starts_the_command_with_the_event_in_environment_and_on_stdin() {
    let ground = Ground::new();
    let script = r#"echo "$FLOCKD_EVENT $FLOCKD_FILE_ID $FLOCKD_ACQUIRED_BY $FLOCKD_REASON"; cat"#;
    let mut on = Running::start(&ground, &["on", "lock.released", "data.json", "--", "sh", "-c", script]);
    for agent in ["claw-1", "claw-2"] {
        round(&ground, agent, "other.json");
        round(&ground, agent, "data.json");
        assert_eq!(on.line(), format!("lock.released data.json {agent} released"));
        let event = on.json();
        assert_eq!((&event["event"], &event["acquired_by"]), (&"lock.released".into(), &agent.into()));
    }
}

#[test]
fn on_runs_one_command_at_a_time_or_as_many_as_it_is_told() {
    let ground = Ground::new();
    let events = ["on", "lock.released"];
    // Each command says that it begins, and ends when the file is there.
    let script = "echo begin; while ! test -e go; do read x < pipe; done; echo end";
    let made = std::process::Command::new("mkfifo").arg(ground.work.join("pipe")).status().unwrap();
    assert!(made.success());
    let mut on = Running::start(&ground, &[&events[..], &["--parallel", "2", "--", "sh", "-c", script]].concat());
    (0..3).for_each(|number| round(&ground, "claw-1", &format!("@{number}")));
    assert_eq!([on.line(), on.line()], ["begin", "begin"], "two at once, the third waits");
    fs::write(ground.work.join("go"), "").unwrap();
    // Whoever reads the pipe is woken; it stays open until all have seen the file.
    let wake = fs::OpenOptions::new().read(true).write(true).open(ground.work.join("pipe")).unwrap();
    std::io::Write::write_all(&mut &wake, b"x\nx\nx\nx\n").unwrap();
    let mut rest: Vec<String> = (0..4).map(|_| on.line()).collect();
    assert_eq!(rest[0], "end", "the third begins when one has ended");
    rest.sort_unstable();
    assert_eq!(rest, ["begin", "end", "end", "end"]);
}

#[test]
fn once_passes_the_status_of_its_command_through() {
    let ground = Ground::new();
    let args = ["on", "lock.acquired", "--once", "--", "sh", "-c", "exit 7"];
    let mut on = Running::start(&ground, &args);
    round(&ground, "claw-1", "@x");
    assert_eq!(on.child.wait().unwrap().code(), Some(7));
    let mut on = Running::start(&ground, &["on", "lock.acquired", "--once", "--", "./missing"]);
    round(&ground, "claw-1", "@x");
    assert_eq!(on.child.wait().unwrap().code(), Some(127));
}

#[test]
fn a_command_that_is_just_being_written_is_waited_for() {
    let ground = Ground::new();
    let program = ground.work.join("program");
    // Who has it open for writing keeps everybody from running it.
    let mut writing = fs::OpenOptions::new().create_new(true).write(true).mode(0o755).open(&program).unwrap();
    writing.write_all(&fs::read("/bin/echo").unwrap()).unwrap();
    let mut on = Running::start(&ground, &["on", "lock.acquired", "--", "./program", "it runs"]);
    let mut said = BufReader::new(on.child.stderr.take().unwrap());
    round(&ground, "claw-1", "@x");
    let mut warning = String::new();
    said.read_line(&mut warning).unwrap();
    assert!(warning.contains("is tried again") && warning.contains("busy"), "{warning}");
    drop(writing);
    assert_eq!(on.line(), "it runs");
    round(&ground, "claw-1", "@x");
    assert_eq!(on.line(), "it runs", "and it goes on");
}

#[test]
fn a_command_that_stays_busy_ends_on_and_a_signal_is_not_kept_waiting_by_it() {
    let ground = Ground::new();
    let program = ground.work.join("program");
    let _writing = fs::OpenOptions::new().create_new(true).write(true).mode(0o755).open(program).unwrap();
    let args = ["on", "lock.acquired", "--", "./program"];
    let mut on = Running::start(&ground, &args);
    let mut ended = Running::start(&ground, &args);
    round(&ground, "claw-1", "@x");
    let mut warning = String::new();
    BufReader::new(ended.child.stderr.take().unwrap()).read_line(&mut warning).unwrap();
    signal(ended.child.id(), Signal::TERM);
    assert_eq!(ended.child.wait().unwrap().signal(), Some(Signal::TERM.as_raw()));
    assert_eq!(on.child.wait().unwrap().code(), Some(126));
}

#[test]
fn watch_says_on_a_terminal_that_it_waits() {
    let ground = Ground::new();
    let terminal = fs::OpenOptions::new().read(true).write(true).open("/dev/ptmx").unwrap();
    // SAFETY: plain calls about a descriptor that is open as long as `terminal` lives.
    let end = unsafe {
        assert_eq!((libc::grantpt(terminal.as_raw_fd()), libc::unlockpt(terminal.as_raw_fd())), (0, 0));
        libc::ioctl(terminal.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY)
    };
    assert!(end >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: it was just opened, and nobody else knows of it.
    let end = unsafe { OwnedFd::from_raw_fd(end) };
    let mut command = ground.command("", &["watch"]);
    let mut child = command.stdout(Stdio::null()).stderr(end).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(&terminal).read_line(&mut said).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(said.trim_end(), "waiting for events; Ctrl-C ends it");
}

#[test]
fn what_ends_on_ends_its_commands_too() {
    let ground = Ground::new();
    let mut on = Running::start(&ground, &["on", "lock.acquired", "--", "sh", "-c", "echo $$; exec sleep 1000"]);
    round(&ground, "claw-1", "@x");
    let command: u32 = on.line().parse().unwrap();
    let ending = Ending::of(command);
    signal(on.child.id(), Signal::TERM);
    assert_eq!(on.child.wait().unwrap().signal(), Some(Signal::TERM.as_raw()));
    ending.wait();
}

#[test]
fn what_a_watcher_missed_is_said() {
    let ground = Ground::new();
    round(&ground, "claw-1", "@x");
    let first = Done::of({
        let mut command = ground.command("", &["on", "lock.acquired", "--since", "0", "--once", "--", "cat"]);
        command.env("FLOCKD_REASON", "of another command");
        command
    })
    .gives(0);
    assert_eq!(first.json()["acquired_by"], "claw-1");
    assert_eq!(first.err, "", "nothing is missing");
    // More than is kept: what is too old is said, as a plain sentence.
    let client = ground.client("claw-1", Some(Custodian::Library));
    for _ in 0..=limits::EVENTS_KEPT / 2 {
        let (id, _) = take(&client, exclusive("@x", 0));
        client.unlock(&id).unwrap();
    }
    let command = ["on", "lock.acquired", "--since", "0", "--once", "--", "true"];
    let later = Done::of(ground.command("", &command)).gives(0);
    assert!(later.err.starts_with("flockd: ") && later.err.contains("missing"), "{later:?}");
    assert!(!later.err.contains('\\'), "{later:?}");
}
