//! `flockd daemon run|start|stop|status`.

use super::args::{DaemonArgs, DaemonOptions, DaemonVerb};
use super::{Common, Exit, Failure, print};
use crate::client::{ClientError, Connect, Connection, Launch, Place, unexpected};
use crate::daemon::{Daemon, DaemonError, Options};
use crate::limits;
use crate::os::home::{self, DaemonLock, Home, NotTaken, StartLock};
use crate::os::process;
use crate::server::{Ended, HOME_LOST};
use crate::wire::{Body, DaemonBody, Op, Request};
use rustix::event::{PollFd, PollFlags, Timespec};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// How often a daemon is started that ends without a word: somebody kills it, or the system does.
const STARTS: usize = 10;
/// Seconds that a daemon which does not listen may take to end.
const STOPPED_WITHIN: i64 = 10;
/// What a started daemon says when it listens.
const READY: &str = "ready";

pub(super) fn daemon(common: &Common, args: &DaemonArgs) -> Result<Exit, Failure> {
    match &args.verb {
        DaemonVerb::Run { options, detached: false } => run_here(options),
        DaemonVerb::Run { options, detached: true } => run_detached(options),
        DaemonVerb::Start { options } => start(common, options),
        DaemonVerb::Stop => stop(common),
        DaemonVerb::Status => status(common),
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::new(Exit::Unavailable, error.to_string())
    }
}

impl From<DaemonError> for Failure {
    fn from(error: DaemonError) -> Failure {
        Failure::new(Exit::Unavailable, error.to_string())
    }
}

// ── Run ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

fn options_of(options: &DaemonOptions) -> Options {
    Options { idle_exit: options.idle_exit.0, fresh: options.fresh }
}

/// A stream that becomes readable at the first signal to stop.
fn stop_signal() -> io::Result<UnixStream> {
    let (stop, write) = UnixStream::pair()?;
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
    }
    // A write beyond a limit on file sizes must be an error that is handled, not the end of the daemon.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    Ok(stop)
}

fn run_here(options: &DaemonOptions) -> Result<Exit, Failure> {
    let home = Home::from_env()?;
    let daemon = Daemon::open(&home, stop_signal()?, &options_of(options))?;
    for note in &daemon.notes {
        print::err(&format!("flockd: {note}\n"));
    }
    print::err(&format!("flockd: process {} serves {}\n", std::process::id(), home.dir.display()));
    match daemon.run(|text| print::err(&format!("flockd: {text}\n")))? {
        Ended::HomeLost => Err(Failure::new(Exit::Unavailable, HOME_LOST)),
        Ended::Stopped | Ended::Idle => Ok(Exit::Yes),
    }
}

/// Serves in the background. Whoever started us reads from stdout whether we are ready, or else why not.
fn run_detached(options: &DaemonOptions) -> Result<Exit, Failure> {
    process::close_inherited()?;
    process::leave_terminal()?;
    rustix::process::chdir("/").map_err(io::Error::from)?;
    let home = Home::from_env()?;
    let stop = stop_signal()?;
    let opened = patiently(|| Daemon::open(&home, stop.try_clone()?, &options_of(options)));
    let mut log = Log::open(&home)?;
    // Whoever is told that the daemon is ready finds in its log how it became so.
    let said = match &opened {
        Ok(daemon) => {
            log.line(&format!("flockd {} serves as process {}", crate::wire::VERSION, std::process::id()));
            daemon.notes.iter().for_each(|note| log.line(note));
            READY.to_owned()
        }
        Err(error) => {
            log.line(&format!("not started: {error}"));
            error.to_string()
        }
    };
    // Whoever started us may be gone by now; then nobody needs the word.
    let _ = writeln!(io::stdout(), "{said}");
    let _ = io::stdout().flush();
    let null = File::open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null).map_err(io::Error::from)?;
    let daemon = opened?;
    let ended = daemon.run(|text| log.line(text));
    match &ended {
        Ok(Ended::HomeLost) => log.line(&format!("ended: {HOME_LOST}")),
        Ok(Ended::Stopped) => log.line("ended: it was told to stop"),
        Ok(Ended::Idle) => log.line("ended: nobody needed it"),
        Err(error) => log.line(&format!("ended with an error: {error}")),
    }
    ended?;
    Ok(Exit::Yes)
}

/// Opens the daemon; while another one that does not listen any more still has the home, that one is ending: it is
/// waited for.
fn patiently(mut open: impl FnMut() -> Result<Daemon, DaemonError>) -> Result<Daemon, DaemonError> {
    let give_up_at = crate::clock::monotonic_ns() + limits::READY_WITHIN / 2 * 1_000_000;
    loop {
        match open() {
            Err(DaemonError::Served { .. }) if crate::clock::monotonic_ns() < give_up_at => {
                let pause = Duration::from_millis(5);
                #[expect(clippy::disallowed_methods, reason = "bounded back-off: nothing tells that a flock ends")]
                std::thread::sleep(pause);
            }
            result => return result,
        }
    }
}

/// The daemon's log: lines with the time, in a file that stays small.
struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    fn open(home: &Home) -> io::Result<Log> {
        let path = home.daemon_log();
        let file = open_log(&path)?;
        let log = Log { path, file };
        log.become_stderr()?;
        Ok(log)
    }

    /// What is written to stderr, by a panic for one, belongs into the log.
    fn become_stderr(&self) -> io::Result<()> {
        Ok(rustix::stdio::dup2_stderr(&self.file)?)
    }

    /// Writes a line. A log that cannot be written must not end the daemon.
    fn line(&mut self, text: &str) {
        let _ = self.roll_over();
        let now = crate::clock::now().wall.0;
        let time = humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + Duration::from_millis(now));
        let _ = writeln!(self.file, "{time} {text}");
    }

    /// Begins a new file when this one is full; one old one is kept.
    fn roll_over(&mut self) -> io::Result<()> {
        if self.file.metadata()?.len() < limits::DAEMON_LOG_MAX {
            return Ok(());
        }
        std::fs::rename(&self.path, self.path.with_extension("log.1"))?;
        self.file = open_log(&self.path)?;
        self.become_stderr()
    }
}

fn open_log(path: &std::path::Path) -> io::Result<File> {
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC).bits();
    let flags = i32::try_from(flags).expect("open flags are small");
    OpenOptions::new().create(true).append(true).mode(0o600).custom_flags(flags).open(path)
}

// ── Start ───────────────────────────────────────────────────────────────────────────────────────────────────────────

fn start(common: &Common, options: &DaemonOptions) -> Result<Exit, Failure> {
    #[derive(Serialize)]
    struct Started {
        /// Not if one ran already.
        started: bool,
        #[serde(flatten)]
        daemon: DaemonBody,
    }
    let home = Home::from_env()?;
    home.ensure()?;
    let _one_at_a_time = StartLock::take(&home)?;
    let runs_already = home::connect(&home).is_ok();
    if !runs_already {
        start_anew(&home, options)?;
    }
    if common.json {
        print::json(&Started { started: !runs_already, daemon: ask(&home)? });
    }
    Ok(Exit::Yes)
}

fn start_anew(home: &Home, options: &DaemonOptions) -> Result<(), Failure> {
    for _ in 0..STARTS {
        if let Some(result) = spawn(home, options)? {
            return result;
        }
    }
    let text = format!("the daemon ended before it was ready; see {}", home.daemon_log().display());
    Err(Failure::new(Exit::Unavailable, text))
}

/// Starts a daemon and waits for its word. None if it ended without one: it was killed, and may be started again.
fn spawn(home: &Home, options: &DaemonOptions) -> io::Result<Option<Result<(), Failure>>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["daemon", "run", "--detached", "--idle-exit"]);
    command.arg(options.idle_exit.0.map_or_else(|| "never".to_owned(), |ms| format!("{ms}ms")));
    if options.fresh {
        command.arg("--fresh");
    }
    command.env("FLOCKD_HOME", &home.dir).stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(open_log(&home.daemon_log())?);
    let mut child = command.spawn()?;
    let mut out = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
    let within = Timespec { tv_sec: i64::try_from(limits::READY_WITHIN / limits::SECOND).unwrap_or(30), tv_nsec: 0 };
    let mut polled = [PollFd::new(out.get_ref(), PollFlags::IN)];
    if rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&within)))? == 0 {
        let text = format!("the daemon is not ready after 30 s; see {}", home.daemon_log().display());
        return Ok(Some(Err(Failure::new(Exit::Unavailable, text))));
    }
    let mut said = String::new();
    out.read_to_string(&mut said)?;
    Ok(match said.trim_end() {
        "" => {
            child.wait()?;
            None
        }
        READY => Some(Ok(())),
        said => Some(Err(Failure::new(Exit::Unavailable, said))),
    })
}

// ── Stop and status ─────────────────────────────────────────────────────────────────────────────────────────────────

fn connect(home: &Home) -> Result<Connection, ClientError> {
    let place = Place { cwd: b"/".to_vec(), workspace: b"/".to_vec(), config: None };
    Connection::connect(Connect { home: home.clone(), launch: Launch::Never, agent: None, place, session: None })
}

fn stop(common: &Common) -> Result<Exit, Failure> {
    #[derive(Serialize)]
    struct Stopped {
        /// Not if none ran.
        stopped: bool,
    }
    let home = Home::from_env()?;
    let stopped = match connect(&home) {
        Ok(client) => {
            client.call(Request::new(Op::Stop))?;
            client.wait_until_closed();
            true
        }
        Err(ClientError::NoDaemon(_) | ClientError::NoAnswer(_)) => stop_process(&home)?,
        Err(error) => return Err(error.into()),
    };
    if common.json {
        print::json(&Stopped { stopped });
    }
    Ok(Exit::Yes)
}

/// Ends a daemon that does not listen or answer: whoever holds the daemon lock. Whether there was one.
fn stop_process(home: &Home) -> Result<bool, Failure> {
    let pid = match DaemonLock::take(home) {
        Err(NotTaken::Held { pid: Some(pid) }) => pid,
        Err(NotTaken::Held { pid: None }) => {
            return Err(Failure::new(Exit::Unavailable, "a process whose number is not known holds the home"));
        }
        // Nobody has the home, or there is none.
        Ok(_) | Err(NotTaken::Failed(_)) => return Ok(false),
    };
    let pidfd = process::pidfd_of_child(pid)?;
    rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::TERM).map_err(io::Error::from)?;
    let mut polled = [PollFd::new(&pidfd, PollFlags::IN)];
    let within = Timespec { tv_sec: STOPPED_WITHIN, tv_nsec: 0 };
    match rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&within))).map_err(io::Error::from)? {
        0 => {
            let text = format!(
                "process {pid} serves the home and does not end; kill -9 {pid} ends it, its locks stay in the journal"
            );
            Err(Failure::new(Exit::Unavailable, text))
        }
        _ => Ok(true),
    }
}

fn status(common: &Common) -> Result<Exit, Failure> {
    let body = ask(&Home::from_env()?)?;
    if common.json {
        print::json(&body);
    } else {
        print::out(&print::daemon(&body));
    }
    Ok(Exit::Yes)
}

/// What the daemon says about itself.
fn ask(home: &Home) -> Result<DaemonBody, Failure> {
    match connect(home)?.call(Request::new(Op::Daemon))?.ok {
        Some(Body::Daemon(body)) => Ok(body),
        other => Err(unexpected(other.as_ref()).into()),
    }
}
