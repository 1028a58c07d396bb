//! `flockd on`: a command for each event, with the event in its environment and on its stdin.

use super::args::OnArgs;
use super::child::{exit_code, not_run};
use super::{Common, Failure, print, watch};
use crate::client::Heard;
use crate::limits;
use crate::wire::{self, EventBody};
use crossbeam_channel::{Receiver, Sender, bounded, select};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::collections::HashSet;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(super) fn on(common: &Common, args: &OnArgs) -> Result<ExitCode, Failure> {
    let told = watch::subscribe(&args.which, args.events.0.clone())?;
    let running = Running::default();
    let signalled = signalled()?;
    let (give, jobs) = bounded::<Box<EventBody>>(0);
    let (report, ended) = bounded(args.parallel);
    let outcome = std::thread::scope(|scope| {
        for _ in 0..if args.once { 1 } else { args.parallel } {
            let (jobs, report, running) = (jobs.clone(), report.clone(), &running);
            scope.spawn(move || work(&args.command, &jobs, &report, running));
        }
        let result = hand_out(common, args, &told, &give, &ended, &signalled);
        if let Ok(Outcome::Signalled(signal)) = &result {
            running.pass_on(*signal);
        }
        // Commands that run are waited for. Their ends are reported to nobody, or a worker would wait for a reader.
        drop((give, ended));
        result
    })?;
    Ok(match outcome {
        Outcome::Ended(Ended { result: Ok(status), .. }) => exit_code(status),
        Outcome::Ended(Ended { result: Err(error), .. }) => not_run(&args.command[0], &error),
        Outcome::Signalled(signal) => {
            // It does not return; if it did, the status says the same.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
            ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX))
        }
    })
}

/// Why no more commands are started.
enum Outcome {
    /// The one command of `--once` has ended, or the command cannot be started at all.
    Ended(Ended),
    /// We are to end.
    Signalled(i32),
}

/// A command that has ended.
struct Ended {
    event: String,
    result: io::Result<ExitStatus>,
}

/// Gives each event to whoever is free. While nobody is, events wait in the channel of the subscription, and then in
/// the daemon.
fn hand_out(
    common: &Common,
    args: &OnArgs,
    told: &Receiver<Heard>,
    give: &Sender<Box<EventBody>>,
    ended: &Receiver<Ended>,
    signalled: &Receiver<i32>,
) -> Result<Outcome, Failure> {
    let mut next: Option<Box<EventBody>> = None;
    let mut is_given = false;
    loop {
        let ended = match next.take() {
            // The one event of `--once` is given.
            None if args.once && is_given => select! {
                recv(ended) -> end => Some(end),
                recv(signalled) -> signal => return Ok(Outcome::Signalled(signal.map_err(|_| watch::gone())?)),
            },
            None => select! {
                recv(told) -> heard => {
                    match heard.map_err(|_| watch::gone())? {
                        Heard::Event(event) => next = Some(event),
                        Heard::Gap(gap) => print::warning(&print::missing(&gap)),
                    }
                    None
                }
                recv(ended) -> end => Some(end),
                recv(signalled) -> signal => return Ok(Outcome::Signalled(signal.map_err(|_| watch::gone())?)),
            },
            Some(event) => {
                next = Some(event.clone());
                select! {
                    send(give, event) -> given => {
                        given.expect("workers live as long as there may be events");
                        (next, is_given) = (None, true);
                        None
                    }
                    recv(ended) -> end => Some(end),
                    recv(signalled) -> signal => return Ok(Outcome::Signalled(signal.map_err(|_| watch::gone())?)),
                }
            }
        };
        let Some(end) = ended else { continue };
        let end = end.expect("a worker lives as long as there may be events");
        match &end.result {
            Ok(status) if !args.once => report_failure(common, &end.event, *status),
            _ => return Ok(Outcome::Ended(end)),
        }
    }
}

fn report_failure(common: &Common, event: &str, status: ExitStatus) {
    if !status.success() && !common.json {
        print::warning(&format!("the command for {event} failed: {status}"));
    }
}

// ── Commands ────────────────────────────────────────────────────────────────────────────────────────────────────────

fn work(command: &[OsString], jobs: &Receiver<Box<EventBody>>, report: &Sender<Ended>, running: &Running) {
    for event in jobs {
        let result = run(command, &event, running);
        if report.send(Ended { event: event.id, result }).is_err() {
            return;
        }
    }
}

/// Runs the command for an event to its end.
fn run(command: &[OsString], event: &EventBody, running: &Running) -> io::Result<ExitStatus> {
    let (program, arguments) = command.split_first().expect("the command line has a command");
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped());
    for (name, value) in environment(event) {
        match value {
            Some(value) => command.env(name, value),
            // Not one of a command around us.
            None => command.env_remove(name),
        };
    }
    let mut child = start(&mut command, event, running)?;
    if let Some(mut stdin) = child.stdin.take() {
        // Most commands do not read it.
        let _ = stdin.write_all(&wire::encode(event));
    }
    running.wait(child)
}

/// Starts the command; where that fails for a reason that may pass, again after a while, with a word on the first time.
fn start(command: &mut Command, event: &EventBody, running: &Running) -> io::Result<Child> {
    for (nth, pause) in limits::SPAWN_PAUSES.into_iter().enumerate() {
        match running.start(command) {
            Err(error) if may_pass(&error) && nth == 0 => print::warning(&format!(
                "the command for {} cannot be started yet, and is tried again for some seconds: {error}",
                event.id
            )),
            Err(error) if may_pass(&error) => {}
            done => return done,
        }
        running.pause(Duration::from_millis(pause));
    }
    running.start(command)
}

/// No more processes or memory just now, or the program is being written.
fn may_pass(error: &io::Error) -> bool {
    use io::ErrorKind::{ExecutableFileBusy, OutOfMemory, WouldBlock};
    matches!(error.kind(), ExecutableFileBusy | OutOfMemory | WouldBlock)
}

/// What the event says, as variables. Names of files are the bytes that they are.
fn environment(event: &EventBody) -> Vec<(&'static str, Option<OsString>)> {
    let text = |text: &str| Some(OsString::from(text));
    let bytes = |escaped: &str| Some(wire::unescape(escaped).map_or_else(|| escaped.into(), OsString::from_vec));
    vec![
        ("FLOCKD_EVENT", text(&event.event)),
        ("FLOCKD_EVENT_ID", text(&event.id)),
        ("FLOCKD_EVENT_SEQ", text(&event.seq.to_string())),
        ("FLOCKD_EVENT_TIME", text(&event.timestamp)),
        ("FLOCKD_WORKSPACE_ID", text(&event.workspace_id)),
        ("FLOCKD_FILE_ID", bytes(&event.file_id)),
        ("FLOCKD_PATH", bytes(&event.path)),
        ("FLOCKD_LOCK_ID", text(&event.lock_id)),
        ("FLOCKD_ACQUIRED_BY", text(&event.acquired_by)),
        ("FLOCKD_MODE", text(&event.mode.to_string())),
        ("FLOCKD_FENCE", text(&event.fence.to_string())),
        ("FLOCKD_REASON", event.reason.as_ref().map(OsString::from)),
        ("FLOCKD_WAITER", event.waiter.as_ref().map(OsString::from)),
        ("FLOCKD_FORMER_LEADER", event.former_leader.as_ref().map(OsString::from)),
        ("FLOCKD_REFUSED", event.contention.as_ref().map(|body| body.failed.to_string().into())),
        ("FLOCKD_QUEUED", event.contention.as_ref().map(|body| body.queued.to_string().into())),
        ("FLOCKD_WAITING", event.contention.as_ref().map(|body| body.waiting.to_string().into())),
        ("FLOCKD_HOW", event.how.as_ref().map(OsString::from)),
        ("FLOCKD_NOTE", event.note.as_ref().map(OsString::from)),
        ("FLOCKD_WEBHOOK_ID", event.webhook_id.as_ref().map(OsString::from)),
        ("FLOCKD_URL", event.url.as_ref().map(OsString::from)),
    ]
}

/// The commands that run, to pass a signal on to.
#[derive(Default)]
struct Running {
    state: Mutex<State>,
    /// Tells that no more are started.
    over: Condvar,
}

#[derive(Default)]
struct State {
    /// Processes that are not reaped: their numbers can be nobody else's.
    pids: HashSet<Pid>,
    /// No more are started.
    is_over: bool,
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Changed in steps that cannot panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, command: &mut Command) -> io::Result<Child> {
        let mut state = self.lock();
        if state.is_over {
            return Err(io::Error::other("flockd on was told to end"));
        }
        let child = command.spawn()?;
        state.pids.insert(Pid::from_child(&child));
        Ok(child)
    }

    /// Waits for the end of a command.
    fn wait(&self, mut child: Child) -> io::Result<ExitStatus> {
        let pid = Pid::from_child(&child);
        // Not reaped before it is taken out: no signal goes to whoever has its number then.
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        // If that cannot be waited for, the wait below says so.
        let _ = rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::Pid(pid), ended));
        self.lock().pids.remove(&pid);
        child.wait()
    }

    /// Waits so long, or until no more are started.
    fn pause(&self, pause: Duration) {
        let waited = self.over.wait_timeout_while(self.lock(), pause, |state| !state.is_over);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Passes a signal on to all; from a terminal they have it already, and twice does no more than once.
    fn pass_on(&self, signal: i32) {
        let mut state = self.lock();
        let Some(signal) = Signal::from_named_raw(signal) else { return };
        state.is_over = true;
        self.over.notify_all();
        for pid in &state.pids {
            // Gone already: nothing to pass it to.
            let _ = rustix::process::kill_process(*pid, signal);
        }
    }
}

/// The signals by which we are to end.
fn signalled() -> Result<Receiver<i32>, Failure> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    let (tell, signalled) = bounded(1);
    std::thread::Builder::new().name("flockd-signals".into()).spawn(move || {
        for signal in signals.forever() {
            if tell.send(signal).is_err() {
                return;
            }
        }
    })?;
    Ok(signalled)
}
