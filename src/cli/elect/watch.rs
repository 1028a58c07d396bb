//! A command under watch: there is a guard that ends it when it does not lead any more, and whoever has started the
//! guard sees to it that there is one, and that the end comes.
//!
//! That is `elect` first. If it is killed, its guard starts another one and is then what `elect` was, so that there are
//! always two processes of which each may be killed or stopped.

use crate::clock;
use crate::limits;
use crate::model::Moment;
use crate::os::process;
use crate::wire::LockBody;
use crossbeam_channel::{Receiver, Sender, unbounded};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// The hidden command that a guard is.
pub(super) const VERB: &str = "elect-guard";
/// How often a guard is started that ends before it watches: somebody kills it, or the system does.
const STARTS: usize = 3;

/// What a guard guards. The descriptor of the command's process travels with it.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Charge {
    /// The locks that must be held.
    pub(super) posts: Vec<LockBody>,
    /// The command's process, and that of its group.
    pub(super) command: i32,
    /// Between SIGTERM and SIGKILL, in milliseconds.
    pub(super) grace: u64,
    /// The program that starts a daemon. Its file may have been replaced since.
    pub(super) program: PathBuf,
}

/// What a guard says, a line each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// It watches, once a second.
    Watching,
    /// A lock is lost, and the command has been told to end; why, where that was said.
    Lost(Option<String>),
}

// ── The command ─────────────────────────────────────────────────────────────────────────────────────────────────────

/// A command and all that it has started in its process group.
#[derive(Clone)]
pub(super) struct Group {
    pidfd: Arc<OwnedFd>,
    number: Pid,
    /// It is ours to collect, and as long as it is not collected its number is nobody else's.
    is_child: bool,
}

impl Group {
    pub(super) fn new(pidfd: OwnedFd, number: i32, is_child: bool) -> io::Result<Group> {
        let number = Pid::from_raw(number).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no process"))?;
        Ok(Group { pidfd: Arc::new(pidfd), number, is_child })
    }

    pub(super) fn has_ended(&self) -> bool {
        process::is_dead(&*self.pidfd).unwrap_or(false)
    }

    /// What is gone already is as good, and what may not be signalled has another user's rights.
    pub(super) fn signal(&self, signal: Signal) {
        let by_number = || self.is_child || !self.has_ended();
        if process::signal_group(&*self.pidfd, signal).is_err_and(|error| error.kind() == io::ErrorKind::InvalidInput)
            && by_number()
        {
            let _ = kill_process_group(self.number, signal);
        }
    }

    /// It is to end by itself, also if it is stopped.
    pub(super) fn tell_to_end(&self) {
        self.signal(Signal::TERM);
        self.signal(Signal::CONT);
    }

    /// Calls when the command has ended, collected or not.
    pub(super) fn when_ended(&self, tell: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let pidfd = self.pidfd.clone();
        std::thread::Builder::new().name("command".into()).spawn(move || {
            let mut polled = [PollFd::new(&*pidfd, PollFlags::IN)];
            rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, None)).expect("a pidfd can be waited for");
            tell();
        })?;
        Ok(())
    }
}

// ── A guard, as whoever started it sees it ──────────────────────────────────────────────────────────────────────────

/// A guard that was started. It is ended when it is dropped: by itself it ends with the command, but a stopped one does
/// not.
struct Guard {
    process: Child,
}

impl Guard {
    /// Its reports are told with its number, and at last that it is gone.
    fn start(number: u64, charge: &Charge, group: &Group, news: Sender<News>) -> io::Result<Guard> {
        let (ours, its) = UnixStream::pair()?;
        // This very program, also if its file was replaced meanwhile. In a group of its own, so that what ends the
        // group of `elect`, such as Ctrl-C on a terminal, leaves it.
        let process = Command::new("/proc/self/exe")
            .arg0("flockd")
            .arg(VERB)
            .stdin(OwnedFd::from(its))
            .stdout(Stdio::null())
            // The directory may go meanwhile, and nothing that a guard does is relative to it.
            .current_dir("/")
            .process_group(0)
            .spawn()?;
        let guard = Guard { process };
        let charge = serde_json::to_string(charge).map_err(io::Error::other)? + "\n";
        process::send_with_fd(&ours, charge.as_bytes(), group.pidfd.as_fd())?;
        std::thread::Builder::new().name(VERB.into()).spawn(move || {
            let mut reports = BufReader::new(ours);
            while let Some(report) = next_report(&mut reports) {
                news.send(News::Report(number, report)).unwrap_or_default();
            }
            news.send(News::Unguarded(number)).unwrap_or_default();
        })?;
        Ok(guard)
    }
}

impl Drop for Guard {
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

// ── Watching ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// What happens while a command is watched; of a guard, with its number.
enum News {
    Report(u64, Report),
    Unguarded(u64),
    Ended,
}

/// A command that is watched by a guard.
pub(super) struct Watch {
    charge: Charge,
    group: Group,
    news: Sender<News>,
    heard: Receiver<News>,
    guard: Option<Guard>,
    guards: u64,
    /// When the guard must have been heard of, or without one when the next is to be started.
    look_up: Moment,
    /// It was silent too long. So it may seem after this process was stopped itself: it is given another second.
    is_suspect: bool,
}

impl Watch {
    /// Starts a guard and waits until it watches.
    pub(super) fn begin(charge: Charge, group: Group) -> io::Result<Watch> {
        let (news, heard) = unbounded();
        let now = clock::now().mono;
        let mut watch = Watch { charge, group, news, heard, guard: None, guards: 0, look_up: now, is_suspect: false };
        for _ in 0..STARTS {
            watch.post_guard()?;
            let within = Duration::from_millis(limits::ELECT_SILENT);
            // Later ones than the first are asked for by their number.
            while let Ok(news) = watch.heard.recv_timeout(within) {
                match news {
                    News::Report(number, _) if number == watch.guards => {
                        watch.end_with_command()?;
                        return Ok(watch);
                    }
                    News::Unguarded(number) if number == watch.guards => break,
                    _ => {}
                }
            }
        }
        Err(io::Error::other("the process that is to guard the command does not begin, or is killed each time"))
    }

    fn end_with_command(&self) -> io::Result<()> {
        let news = self.news.clone();
        self.group.when_ended(move || news.send(News::Ended).unwrap_or_default())
    }

    fn post_guard(&mut self) -> io::Result<()> {
        self.guards += 1;
        self.is_suspect = false;
        self.look_up = clock::now().mono.after(limits::ELECT_SILENT);
        self.guard = None;
        self.guard = Some(Guard::start(self.guards, &self.charge, &self.group, self.news.clone())?);
        Ok(())
    }

    /// Waits for the end of the command; whether it was ended since it did not lead any more. Why is told when it is
    /// known, and so is once what keeps a guard from being started.
    pub(super) fn until_ended(&mut self, mut tell: impl FnMut(Told)) -> bool {
        let (mut is_lost, mut is_told) = (false, false);
        let mut kill_at: Option<Moment> = None;
        let mut last_word: Option<Moment> = None;
        while last_word.is_none_or(|at| self.guard.is_some() && at > clock::now().mono) {
            let next = [kill_at, last_word, Some(self.look_up).filter(|_| !is_lost && last_word.is_none())];
            let left = next.into_iter().flatten().min().map_or(u64::MAX, |at| at.left(clock::now().mono));
            match self.heard.recv_timeout(Duration::from_millis(left)) {
                // The guard's last word may still be on its way.
                Ok(News::Ended) => last_word = Some(clock::now().mono.after(limits::ELECT_LOOK)),
                Ok(News::Report(number, _) | News::Unguarded(number)) if number != self.guards => {}
                Ok(News::Report(_, Report::Watching)) => {
                    self.look_up = clock::now().mono.after(limits::ELECT_SILENT);
                    self.is_suspect = false;
                }
                Ok(News::Report(_, Report::Lost(why))) if !is_lost => {
                    is_lost = true;
                    // The guard kills it; this is for a guard that is killed or stopped before.
                    kill_at = Some(clock::now().mono.after(self.charge.grace).after(limits::ELECT_LOOK));
                    tell(Told::Lost(why));
                }
                Ok(News::Report(..)) => {}
                Ok(News::Unguarded(_)) => {
                    self.guard = None;
                    // Not in a circle, if it is killed each time.
                    self.look_up = clock::now().mono.after(limits::ELECT_LOOK);
                }
                Err(_) if kill_at.is_some_and(|at| at <= clock::now().mono) => {
                    self.group.signal(Signal::KILL);
                    kill_at = None;
                }
                Err(_) if is_lost || last_word.is_some() => {}
                Err(_) if self.guard.is_some() && !self.is_suspect => {
                    self.is_suspect = true;
                    self.look_up = clock::now().mono.after(limits::ELECT_LOOK);
                }
                Err(_) => {
                    if let Err(error) = self.post_guard() {
                        self.look_up = clock::now().mono.after(limits::ELECT_LOOK);
                        if !std::mem::replace(&mut is_told, true) {
                            tell(Told::Unguarded(error));
                        }
                    }
                }
            }
        }
        if is_lost {
            // The guard does that as well, if it is there.
            self.group.signal(Signal::KILL);
        }
        is_lost
    }
}

/// What is told about a command while it is watched.
pub(super) enum Told {
    /// It is ended; why, where that was said.
    Lost(Option<String>),
    /// No guard can be started.
    Unguarded(io::Error),
}
