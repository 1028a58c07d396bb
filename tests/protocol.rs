//! The conversations of PROTOCOL.md, played against a real daemon, so that the page says what is so.
#![cfg(feature = "cli")]

use flockd::limits;
use flockd::os::paths::{self, Look};
use flockd::os::process::send_with_fd;
use flockd::wire::{self, Body, Code};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::Value;
use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// The working directory that the page writes.
const CWD: &str = "/home/ada/app";
/// Ends a test that would hang; no measurement.
const HANG_GUARD: Duration = Duration::from_secs(60);

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("PROTOCOL.md");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

// ── What the page says ──────────────────────────────────────────────────────────────────────────────────────────────

#[derive(Debug)]
enum Step {
    /// `a -> {…}`, perhaps with a pidfd, or after preparing a file.
    Say {
        who: String,
        pidfd: bool,
        /// A file that is prepared before.
        prepared: Option<String>,
        text: String,
    },
    /// `a <- {…}`
    Hear {
        who: String,
        text: String,
    },
    DaemonStarts,
}

/// The steps of all conversations in their order. A line that begins with a blank goes on with the one above.
fn steps(page: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match line {
            "```conversation" => inside = true,
            "```" => inside = false,
            "<!-- the daemon is started again -->" => steps.push(Step::DaemonStarts),
            line if inside => match (line.strip_prefix("     "), steps.last_mut()) {
                (Some(rest), Some(Step::Say { text, .. } | Step::Hear { text, .. })) => text.push_str(rest),
                _ => steps.push(step(line)),
            },
            _ => {}
        }
    }
    steps
}

fn step(line: &str) -> Step {
    let (who, rest) = line.split_once(' ').unwrap_or_else(|| panic!("no step: {line}"));
    let who = who.to_owned();
    if let Some(text) = rest.strip_prefix("<- ") {
        return Step::Hear { who, text: text.to_owned() };
    }
    let text = rest.strip_prefix("-> ").unwrap_or_else(|| panic!("neither said nor heard: {line}"));
    if let Some((name, text)) = text.strip_prefix("[after preparing ").and_then(|rest| rest.split_once("] ")) {
        return Step::Say { who, pidfd: false, prepared: Some(name.to_owned()), text: text.to_owned() };
    }
    let bare = text.strip_prefix("[with a pidfd] ");
    Step::Say { who, pidfd: bare.is_some(), prepared: None, text: bare.unwrap_or(text).to_owned() }
}

// ── Playing it ──────────────────────────────────────────────────────────────────────────────────────────────────────

/// A daemon in a home of its own; ended with the test.
struct Daemon {
    dir: TempDir,
    process: Child,
}

impl Daemon {
    fn start() -> Daemon {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("app")).unwrap();
        let process = run_daemon(&home(&dir));
        Daemon { dir, process }
    }

    /// Starts it again after it was told to stop.
    fn start_again(&mut self) {
        assert!(self.process.wait().unwrap().success());
        self.process = run_daemon(&home(&self.dir));
    }

    fn connect(&self) -> Connection {
        let stream = UnixStream::connect(home(&self.dir).join("sock")).unwrap();
        stream.set_read_timeout(Some(HANG_GUARD)).unwrap();
        Connection { lines: BufReader::new(stream.try_clone().unwrap()), stream, early: VecDeque::new(), probes: 0 }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn home(dir: &TempDir) -> PathBuf {
    dir.path().join("home")
}

/// Starts the daemon in the foreground and waits until it says that it serves.
fn run_daemon(home: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flockd"));
    command.args(["daemon", "run"]).env("FLOCKD_HOME", home).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let said = BufReader::new(child.stderr.take().unwrap()).lines();
    let serves = said.map_while(Result::ok).any(|line| line.contains(" serves "));
    assert!(serves, "the daemon ended before it served");
    child
}

struct Connection {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
    /// Answers that came while a probe was waited for.
    early: VecDeque<String>,
    probes: u64,
}

impl Connection {
    fn say(&mut self, line: &str) {
        self.stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn hear(&mut self) -> String {
        self.early.pop_front().unwrap_or_else(|| self.read())
    }

    fn read(&mut self) -> String {
        let mut line = String::new();
        assert!(self.lines.read_line(&mut line).unwrap() > 0, "the daemon closed the connection");
        line
    }

    /// Waits until everything said so far was taken: requests of one connection are carried out in order.
    fn until_taken(&mut self) {
        self.probes += 1;
        let id = 1_000_000 + self.probes;
        self.say(&format!(r#"{{"id":{id},"op":"daemon"}}"#));
        loop {
            let line = self.read();
            if value(&line)["id"] == id {
                return;
            }
            self.early.push_back(line);
        }
    }
}

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// What the page's ids and secrets are in this run.
#[derive(Default)]
struct Names(HashMap<String, String>);

impl Names {
    fn put_in(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (page, real)| text.replace(page, real))
    }

    /// Compares what came with what the page says: same fields, same kinds, same values but for what differs in every
    /// run. Ids must be the same ones throughout.
    fn compare(&mut self, at: &str, page: &Value, real: &Value) -> Result<(), String> {
        let key = at.rsplit('.').next().unwrap_or(at);
        let differ = || Err(format!("{at}: the page says {page}, the daemon {real}"));
        match (page, real) {
            (Value::Object(a), Value::Object(b)) => {
                let keys = |map: &serde_json::Map<String, Value>| map.keys().cloned().collect::<Vec<_>>();
                if keys(a) != keys(b) {
                    return Err(format!("{at}: the page has {:?}, the daemon {:?}", keys(a), keys(b)));
                }
                a.iter().try_for_each(|(name, value)| self.compare(&format!("{at}.{name}"), value, &b[name]))
            }
            (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
                a.iter().zip(b).try_for_each(|(a, b)| self.compare(at, a, b))
            }
            // How long things took, and how often the disk was asked.
            (Value::Number(_), Value::Number(_)) if at.contains(".journal.") => Ok(()),
            (Value::Number(a), Value::Number(b)) => match key {
                "fence" | "pid" | "bound_pid" | "expires_in_ms" | "wait_left_ms" | "kept_ms" | "uptime_ms" | "time"
                | "took_ms" | "over_ms" | "longest_wait_ms" | "sum_ms" | "p50_ms" | "p95_ms" | "p99_ms" | "max_ms" => {
                    Ok(())
                }
                // The page names events by number as it names locks by id.
                "seq" => {
                    let known = self.0.entry(a.to_string()).or_insert_with(|| b.to_string());
                    if *known == b.to_string() { Ok(()) } else { differ() }
                }
                _ if a == b => Ok(()),
                _ => differ(),
            },
            (Value::String(a), Value::String(b)) => match key {
                "lock_id" | "ticket" | "webhook_id" | "workspace_id" | "bound" | "id" | "secret" => {
                    let known = self.0.entry(a.clone()).or_insert_with(|| b.clone());
                    if known == b { Ok(()) } else { differ() }
                }
                "since" | "created" | "timestamp" | "at" | "home" | "socket" | "version" => Ok(()),
                "message" | "advice" if without_numbers(a) == without_numbers(b) => Ok(()),
                _ if a == b => Ok(()),
                _ => differ(),
            },
            (Value::Bool(_) | Value::Null, _) if page == real => Ok(()),
            _ => differ(),
        }
    }
}

/// A sentence less its words that have a digit in them: times, ids and durations.
fn without_numbers(text: &str) -> Vec<&str> {
    text.split_whitespace().filter(|word| !word.contains(|c: char| c.is_ascii_digit())).collect()
}

#[test]
fn every_conversation_goes_as_the_page_says() {
    let steps = steps(&page());
    assert!(steps.len() > 50, "only {} steps were read from the page", steps.len());
    let mut daemon = Daemon::start();
    let app = paths::resolve(b"/", daemon.dir.path().join("app").as_os_str().as_bytes(), Look::Thorough).unwrap();
    let app = str::from_utf8(&app.path).unwrap();
    let mut bound = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let pidfd = pidfd_open(Pid::from_child(&bound), PidfdFlags::empty()).unwrap();
    let mut names = Names::default();
    let mut connections: HashMap<&str, Connection> = HashMap::new();
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::DaemonStarts => daemon.start_again(),
            Step::Say { who, pidfd: passes, prepared, text } => {
                let said = value(text);
                if let Some(name) = prepared {
                    let path = Path::new(app).join(name);
                    fs::write(&path, "{\"total\":17}\n").unwrap();
                    let made = fs::metadata(path).unwrap();
                    let page = said["prepared"]["file"].as_str().unwrap().to_owned();
                    names.0.insert(page, format!("{}:{}", made.dev(), made.ino()));
                }
                if said.get("hello").is_some() {
                    connections.insert(who, daemon.connect());
                }
                let connection = connections.get_mut(who.as_str()).expect("who speaks has said hello");
                let line = names.put_in(&text.replace(CWD, app));
                match passes {
                    true => send_with_fd(&connection.stream, format!("{line}\n").as_bytes(), pidfd.as_fd()).unwrap(),
                    false => connection.say(&line),
                }
                let is_answered = matches!(steps.get(number + 1), Some(Step::Hear { who: hears, .. }) if hears == who);
                if !is_answered {
                    connection.until_taken();
                }
            }
            Step::Hear { who, text } => {
                let heard = connections.get_mut(who.as_str()).expect("who hears has said hello").hear();
                wire::decode_line(heard.as_bytes()).unwrap();
                if let Err(how) = names.compare("", &value(&text.replace(CWD, app)), &value(&heard)) {
                    panic!("PROTOCOL.md, {who} <- {text}\nthe daemon: {heard}{how}");
                }
            }
        }
    }
    drop(bound.stdin.take());
    bound.wait().unwrap();
}

// ── What the page must not leave out ────────────────────────────────────────────────────────────────────────────────

/// The names of an enum on the wire: serde lists them all when it is given one that is none.
fn variants<T: serde::de::DeserializeOwned>(wrong: &str) -> Vec<String> {
    let error = serde_json::from_str::<T>(wrong).err().expect("there is no such variant").to_string();
    let (_, listed) = error.split_once("expected one of ").unwrap_or_else(|| panic!("no list: {error}"));
    listed.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_page_shows_every_operation_and_every_answer_and_names_every_code() {
    let page = page();
    let steps = steps(&page);
    let said: Vec<&str> = steps
        .iter()
        .filter_map(|step| if let Step::Say { text, .. } = step { Some(text.as_str()) } else { None })
        .collect();
    let heard: Vec<&str> = steps
        .iter()
        .filter_map(|step| if let Step::Hear { text, .. } = step { Some(text.as_str()) } else { None })
        .collect();
    let operations = variants::<wire::Op>("\"?\"");
    assert_eq!(operations.len(), 23, "{operations:?}");
    for name in operations {
        assert!(said.iter().any(|text| text.contains(&format!("\"op\":\"{name}\""))), "no example of {name}");
    }
    for name in variants::<Body>("{\"?\":1}") {
        assert!(heard.iter().any(|text| text.contains(&format!("\"ok\":{{\"{name}\":"))), "no answer {name}");
    }
    for name in variants::<Code>("\"?\"") {
        assert!(page.contains(&format!("\n| `{name}` | ")), "the code {name} is not in the table");
    }
    for name in variants::<wire::Request>("{\"?\":1}") {
        assert!(page.contains(&format!("\n| `{name}` | ")), "the field {name} is not in the table");
    }
    for name in flockd::model::EVENT_NAMES {
        assert!(page.contains(&format!("\n| `{name}` | ")), "the event {name} is not in the table");
    }
    let of_hello = [
        "protocol",
        "version",
        "agent",
        "cwd",
        "workspace",
        "session",
        "agent_process",
        "goes_by",
        "contention",
        "confirms",
    ];
    for name in of_hello {
        assert!(page.contains(&format!("\n| `{name}` | ")), "the field {name} of hello is not in the table");
    }
}

#[test]
fn the_page_states_the_bounds_in_force() {
    let page = page();
    let bounds = [
        ("a request's line", limits::LINE_MAX as u64),
        ("an answer's line", limits::ANSWER_MAX as u64),
        ("losses told by `news` at once", limits::NEWS_LOSSES as u64),
        ("answers that a peer has not read", limits::OUTBOX_MAX as u64),
        ("time to say hello", limits::HELLO_WITHIN),
        ("unread bytes at which events wait", limits::EVENTS_OUTBOX as u64),
        ("events kept", limits::EVENTS_KEPT),
        ("items in each list of `subscribe`", limits::FILTER_MAX as u64),
        ("webhooks", limits::WEBHOOKS_MAX as u64),
        ("scopes of a webhook", limits::WEBHOOK_SCOPES_MAX as u64),
        ("URL of a webhook", limits::WEBHOOK_URL_MAX as u64),
        ("connections", limits::CONNECTIONS_MAX as u64),
        ("sessions", limits::SESSIONS_MAX as u64),
        ("locks", limits::LOCKS_MAX as u64),
        ("scopes in one `lock`", limits::SET_MAX as u64),
        ("waiting requests", limits::WAITERS_MAX as u64),
        ("kept places", limits::TICKETS_MAX as u64),
        ("holders named in a refusal", limits::HOLDERS_NAMED as u64),
        ("agent, request id", limits::AGENT_MAX as u64),
        ("parts of an agent's name", limits::AGENT_DEPTH_MAX as u64),
        ("note, reason", limits::NOTE_MAX as u64),
        ("resource name", limits::RESOURCE_MAX as u64),
        ("path", limits::PATH_MAX as u64),
    ];
    for (what, bound) in bounds {
        assert!(page.contains(&format!("\n| {what} | {bound}")), "the bound of {what} is {bound}");
    }
    for text in [
        format!("at most {}", limits::WAIT_MAX),
        format!("takes {} without a session and {} with one", limits::TTL_ONE_SHOT, limits::TTL_SESSION),
        format!("{} if absent", limits::MAX_HOLD),
        format!("It has {} s for that", limits::SESSION_SILENCE / limits::SECOND),
        format!("keeps its place for {} s", limits::WAITER_ABSENCE / limits::SECOND),
        format!("of one agent {}", limits::TICKETS_OF_AGENT),
        format!("`kept_ms` is {} s at most", limits::TICKET_OFFERED / limits::SECOND),
        format!("keeps the newest {} events", limits::EVENTS_KEPT),
        format!("more than {} bytes wait for you", limits::EVENTS_OUTBOX),
        format!("at most {}, as of each", limits::FILTER_MAX),
        format!(
            "threshold, {} if nothing else was said, came within its window, {} ms",
            limits::CONTENTION_REQUESTS,
            limits::CONTENTION_WITHIN
        ),
        format!("at most {} are told in {} ms", limits::CONTENTION_TOLD_MAX, limits::CONTENTION_WITHIN),
        format!("At most {} scopes are counted", limits::CONTENTION_SCOPES_MAX),
        format!("the median of up to {} times", limits::CONTENTION_HOLDS),
        format!("From {} to {} ms; absent", limits::RETRY_AFTER_MIN, limits::RETRY_AFTER_MAX),
        format!("at most {} may be named", limits::SET_MAX),
        format!("named: {} if absent, {} at most", limits::STATS_TOP, limits::STATS_NAMED),
        format!("{0} scopes and {0} agents have figures of their own", limits::STATS_NAMED),
        format!("| `protocol` | {}. ", wire::PROTOCOL),
    ] {
        assert!(page.contains(&text), "the page does not say: {text}");
    }
    assert_eq!((limits::AGENT_MAX, limits::TTL_MAX), (limits::REQUEST_ID_MAX, limits::WAIT_MAX), "one number for both");
}
