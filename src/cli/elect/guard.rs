//! Who ends a command that does not lead any more: a process beside `elect`, so that neither `kill -9` nor a stop of
//! `elect` leaves a command that nobody ends.
//!
//! The guard watches, `elect` waits: only one of them sends signals for a loss, so a command hears SIGTERM once. It
//! begins to watch before the command takes its first step, and ends with the command. If it is killed, `elect` starts
//! another. Rejected: a signal of the kernel at the death of the parent (`PR_SET_PDEATHSIG`), which would end a command
//! that leads, cannot come in two steps, and reaches no process group.

use super::post::{self, Post};
use super::{Exit, Failure, print};
use crate::client::{Connect, Connection, Place};
use crate::clock;
use crate::limits;
use crate::model::Moment;
use crate::os::home::Home;
use crate::os::process;
use crate::planted::{Bug, planted};
use crate::wire::LockBody;
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded, unbounded};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// The hidden command that a guard is.
const VERB: &str = "elect-guard";
/// Longest line with which a guard is charged: two locks and their notes, with all that a lock may say.
const CHARGE_MAX: usize = limits::LINE_MAX;

/// What a guard guards. The descriptor of the command's process travels with it.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Charge {
    /// The locks that must be held.
    pub(super) posts: Vec<LockBody>,
    /// The command's process, and that of its group.
    pub(super) command: i32,
    /// Between SIGTERM and SIGKILL, in milliseconds.
    pub(super) grace: u64,
}

/// What a guard says, a line each.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// From now on it looks.
    Watching,
    /// A lock is lost, and it ends the command; why, where that was said.
    Lost(Option<String>),
}

// ── As elect sees it ────────────────────────────────────────────────────────────────────────────────────────────────

/// A guard that watches.
pub(super) struct Guard {
    process: Child,
}

impl Guard {
    /// Starts a guard and waits until it watches. What it reports from then on is told, and at last, when it is gone,
    /// nothing.
    pub(super) fn start(
        charge: &Charge,
        command: BorrowedFd<'_>,
        tell: impl Fn(Option<Report>) + Send + 'static,
    ) -> io::Result<Guard> {
        let (ours, its) = UnixStream::pair()?;
        // This very program, also if its file was replaced meanwhile. In a group of its own, so that what ends the
        // group of `elect`, such as Ctrl-C on a terminal, leaves it.
        let process = Command::new("/proc/self/exe")
            .arg0("flockd")
            .arg(VERB)
            .stdin(OwnedFd::from(its))
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()?;
        // Ended when it is dropped, whatever fails from here on.
        let guard = Guard { process };
        let charge = serde_json::to_string(charge).map_err(io::Error::other)? + "\n";
        process::send_with_fd(&ours, charge.as_bytes(), command)?;
        ours.set_read_timeout(Some(Duration::from_millis(2 * limits::ELECT_UNSURE)))?;
        let mut reports = BufReader::new(ours);
        match next_report(&mut reports) {
            Some(Report::Watching) => {}
            Some(Report::Lost(why)) => return Err(io::Error::other(why.unwrap_or_else(|| "not held".to_owned()))),
            None => return Err(io::Error::other("the process that guards the command did not begin")),
        }
        reports.get_ref().set_read_timeout(None)?;
        std::thread::Builder::new().name(VERB.into()).spawn(move || {
            while let Some(report) = next_report(&mut reports) {
                tell(Some(report));
            }
            tell(None);
        })?;
        Ok(guard)
    }
}

impl Drop for Guard {
    /// It ends by itself when the command does; a stopped one does not.
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn next_report(line: &mut impl BufRead) -> Option<Report> {
    let mut text = String::new();
    line.read_line(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

// ── The guard itself ────────────────────────────────────────────────────────────────────────────────────────────────

/// What happens while a guard watches.
enum News {
    Lost(Option<String>),
    Ended,
}

/// `flockd elect-guard`: watches until the command ends, or ends it.
pub(in crate::cli) fn guard() -> Result<ExitCode, Failure> {
    let elect = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let (charge, pidfd) = charge_from(&elect)?;
    // What `ps` shows and `pkill flockd` goes by, from when there is something to guard. Without it nothing is wrong.
    let _ = std::fs::write("/proc/self/comm", VERB);
    let pidfd = Arc::new(pidfd);
    let file_id = charge.posts.first().map(|body| body.file_id.clone()).unwrap_or_default();
    let (news, heard) = unbounded();
    let (_running, done) = bounded(0);
    {
        let (news, pidfd) = (news.clone(), pidfd.clone());
        std::thread::Builder::new().name("command".into()).spawn(move || {
            until_ended(&*pidfd).expect("a pidfd can be waited for");
            news.send(News::Ended).unwrap_or_default();
        })?;
    }
    match connect() {
        Some(client) => {
            let client = Arc::new(client);
            let post = |body: &LockBody| Post { client: client.clone(), body: body.clone() };
            let posts: Vec<Post> = charge.posts.iter().map(post).collect();
            report(&elect, &Report::Watching);
            std::thread::Builder::new().name("posts".into()).spawn(move || {
                if let Some(why) = post::look_after(&posts, &done) {
                    news.send(News::Lost(why)).unwrap_or_default();
                }
            })?;
        }
        None => news.send(News::Lost(Some(post::unsure()))).unwrap_or_default(),
    }
    let group = Pid::from_raw(charge.command).ok_or_else(|| Failure::new(Exit::Usage, "no process"))?;
    let command = Watched { pidfd: &pidfd, group, grace: charge.grace };
    command.end_if_lost(&heard, |why| {
        if !report(&elect, &Report::Lost(why.clone())) {
            print::err(&super::ended_for(&file_id, why.as_deref().unwrap_or("it was broken, released or taken up")));
        }
    });
    Ok(Exit::Yes.into())
}

/// Reads the one line that comes, and the descriptor with it.
fn charge_from(elect: &UnixStream) -> Result<(Charge, OwnedFd), Failure> {
    let by_hand = |_| Failure::new(Exit::Usage, "only `flockd elect` calls this");
    let (mut line, mut fds) = (Vec::new(), Vec::new());
    while line.last() != Some(&b'\n') {
        let mut bytes = [0; 4096];
        let received = process::recv_with_fds(elect, &mut bytes).map_err(by_hand)?;
        line.extend(&bytes[..received.bytes]);
        fds.extend(received.fds);
        if received.bytes == 0 || line.len() > CHARGE_MAX {
            return Err(by_hand(io::ErrorKind::UnexpectedEof.into()));
        }
    }
    let charge = serde_json::from_slice(&line).map_err(|error| by_hand(error.into()))?;
    let pidfd = fds.pop().ok_or_else(|| by_hand(io::ErrorKind::InvalidInput.into()))?;
    Ok((charge, pidfd))
}

/// A connection in nobody's name, so that no agent's losses are told here; none if no daemon answers for as long as one
/// may be unsure.
fn connect() -> Option<Connection> {
    let until = clock::now().mono.after(limits::ELECT_UNSURE);
    loop {
        let connect = || -> Result<Connection, Failure> {
            let (place, _) = Place::here_anyway()?;
            let (home, launch) = (Home::from_env()?, super::super::launch()?);
            Ok(Connection::connect_from(Connect { home, launch, agent: None, place, session: None }, None)?)
        };
        match connect() {
            Ok(connection) => return Some(connection),
            Err(_) if until <= clock::now().mono => return None,
            Err(_) => pause(),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "bounded back-off: ELECT_UNSURE / ELECT_LOOK times at most")]
fn pause() {
    std::thread::sleep(Duration::from_millis(limits::ELECT_LOOK));
}

/// Whether it arrived: it does not if `elect` is dead.
fn report(mut elect: &UnixStream, report: &Report) -> bool {
    let mut line = serde_json::to_string(report).expect("a report is JSON");
    line.write_char('\n').expect("a string takes all");
    elect.write_all(line.as_bytes()).is_ok()
}

/// Waits for the end of a process, collected or not.
pub(super) fn until_ended(pidfd: &impl AsFd) -> io::Result<()> {
    let mut polled = [PollFd::new(pidfd, PollFlags::IN)];
    rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, None))?;
    Ok(())
}

/// A command under guard.
struct Watched<'a> {
    pidfd: &'a OwnedFd,
    group: Pid,
    grace: u64,
}

impl Watched<'_> {
    /// Waits for the end of the command, and ends it if it is not to lead any more.
    fn end_if_lost(&self, heard: &Receiver<News>, tell: impl Fn(Option<String>)) {
        let mut is_lost = false;
        let mut kill_at: Option<Moment> = None;
        loop {
            let left = kill_at.map_or(u64::MAX, |at| at.left(clock::now().mono));
            match heard.recv_timeout(Duration::from_millis(left)) {
                Ok(News::Ended) => break,
                // The locks hang on the command: without it they are gone, and the daemon may say so first.
                Ok(News::Lost(_)) if process::is_dead(self.pidfd).unwrap_or(false) => break,
                Ok(News::Lost(_)) if planted(Bug::GuardLooksAway) => {}
                Ok(News::Lost(why)) => {
                    tell(why);
                    is_lost = true;
                    self.signal(Signal::TERM);
                    // Or a stopped one would not hear of it.
                    self.signal(Signal::CONT);
                    kill_at = Some(clock::now().mono.after(self.grace));
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.signal(Signal::KILL);
                    kill_at = None;
                }
                Err(RecvTimeoutError::Disconnected) => unreachable!("the end of the command is always told"),
            }
        }
        if is_lost {
            // Whoever leads now may begin: what the command has left behind ends with it. The group's number is free
            // only if nothing is left in it, and is then given out again after all others.
            self.signal(Signal::KILL);
        }
    }

    fn signal(&self, signal: Signal) {
        // Gone already is as good, and what may not be signalled has another user's rights.
        let _ = kill_process_group(self.group, signal);
    }
}
