//! The guard: a process beside `elect` that looks after its locks, and ends its command when one is lost.
//!
//! It begins before the command takes its first step and ends with it. Only the guard looks and sends SIGTERM, so that
//! a command hears that once; whoever started the guard kills what did not end. Rejected: a signal of the kernel at
//! the death of the parent (`PR_SET_PDEATHSIG`), which would end a command that leads, cannot come in two steps, and
//! reaches no process group.

use super::post::{self, Word};
use super::watch::{Charge, Group, Report, Told, VERB, Watch};
use super::{Exit, Failure, print};
use crate::client::{ClientError, Connect, Connection, Launch, Place};
use crate::clock;
use crate::limits;
use crate::model::Moment;
use crate::os::home::Home;
use crate::os::process;
use crate::planted::{Bug, planted};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::SendFlags;
use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// What happens while a guard watches.
enum News {
    /// A lock is lost; why, where that was said.
    Lost(Option<String>),
    /// Whoever started this guard is dead.
    Alone,
    /// The command has ended.
    Ended,
}

/// `flockd elect-guard`: watches until the command ends, or ends it.
pub(in crate::cli) fn guard() -> Result<ExitCode, Failure> {
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        // It ends with the command, which they were meant for. SIGHUP comes from the kernel when `elect` is killed
        // while this process is stopped.
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    let starter = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let Some((charge, pidfd)) = charge_from(&starter)? else { return Ok(Exit::Yes.into()) };
    // What `ps` shows and `pkill flockd` goes by, from when there is something to guard. Without it nothing is wrong.
    let _ = std::fs::write("/proc/self/comm", VERB);
    let group = Group::new(pidfd, charge.command, false)?;
    let (news, heard) = unbounded();
    let (running, done) = bounded(0);
    look(&charge, news.clone(), done)?;
    {
        let (news, mut starter) = (news.clone(), starter.try_clone()?);
        std::thread::Builder::new().name("starter".into()).spawn(move || {
            // Nothing more comes, so that this ends with its end.
            let _ = starter.read(&mut [0]);
            news.send(News::Alone).unwrap_or_default();
        })?;
    }
    group.when_ended(move || news.send(News::Ended).unwrap_or_default())?;
    let mut watch = Guarding { charge, group, starter, speaker: None };
    if watch.until_ended_or_alone(&heard) == Left::Alone {
        drop(running);
        watch.lead_on();
    }
    watch.finish_speaking();
    Ok(Exit::Yes.into())
}

/// Reads the one line that comes, and the descriptor with it; none if whoever started this is dead already.
fn charge_from(starter: &UnixStream) -> Result<Option<(Charge, OwnedFd)>, Failure> {
    let by_hand = |_| Failure::new(Exit::Usage, "only `flockd elect` calls this");
    let (mut line, mut fds) = (Vec::new(), Vec::new());
    while line.last() != Some(&b'\n') {
        let mut bytes = [0; 4096];
        let received = process::recv_with_fds(starter, &mut bytes).map_err(by_hand)?;
        if received.bytes == 0 {
            return Ok(None);
        }
        line.extend(&bytes[..received.bytes]);
        fds.extend(received.fds);
        if line.len() > limits::LINE_MAX {
            return Err(by_hand(io::ErrorKind::InvalidData.into()));
        }
    }
    let charge = serde_json::from_slice(&line).map_err(|error| by_hand(error.into()))?;
    let pidfd = fds.pop().ok_or_else(|| by_hand(io::ErrorKind::InvalidInput.into()))?;
    Ok(Some((charge, pidfd)))
}

/// Looks after the locks, on a thread of its own: an answer may be long in coming.
fn look(charge: &Charge, news: Sender<News>, done: Receiver<()>) -> io::Result<()> {
    let charge = charge.clone();
    std::thread::Builder::new().name("posts".into()).spawn(move || {
        let mut connection = None;
        let look = || {
            let client = match connection.take().map_or_else(|| connect(&charge), Ok) {
                Ok(client) => connection.insert(client),
                Err(why) => return Word::None(why),
            };
            let mut words = charge.posts.iter().map(|lock| post::look(client, lock));
            words.find(|word| *word != Word::Held).unwrap_or(Word::Held)
        };
        if let Some(why) = post::look_after(look, &done) {
            news.send(News::Lost(why)).unwrap_or_default();
        }
    })?;
    Ok(())
}

/// A connection in nobody's name, so that no agent's losses are told here.
fn connect(charge: &Charge) -> Result<Connection, String> {
    let home = Home::from_env().map_err(|error| error.0)?;
    // What is asked for is named in full.
    let place = Place { cwd: b"/".to_vec(), workspace: b"/".to_vec(), config: None };
    let launch = Launch::With(charge.program.clone());
    let connect = Connect { home, launch, agent: None, place, session: None };
    Connection::connect_from(connect, None).map_err(|error: ClientError| error.to_string())
}

/// A guard at work.
struct Guarding {
    charge: Charge,
    group: Group,
    /// Whoever started it.
    starter: UnixStream,
    /// Closed when all is said.
    speaker: Option<Receiver<()>>,
}

/// Why a guard does not watch any more.
#[derive(PartialEq, Eq)]
enum Left {
    Ended,
    Alone,
}

impl Guarding {
    /// Waits for the end of the command, and ends it if it is not to lead any more; or until a command that leads has
    /// nobody but this guard.
    fn until_ended_or_alone(&mut self, heard: &Receiver<News>) -> Left {
        let mut lost: Option<Report> = None;
        let mut kill_at: Option<Moment> = None;
        self.report(&Report::Watching);
        loop {
            let left = kill_at.map_or(limits::ELECT_LOOK, |at| at.left(clock::now().mono).min(limits::ELECT_LOOK));
            match heard.recv_timeout(Duration::from_millis(left)) {
                Ok(News::Ended) => break,
                // The locks hang on the command: without it they are gone, and the daemon may say so first.
                Ok(News::Lost(_)) if self.group.has_ended() => break,
                Ok(News::Lost(_)) if planted(Bug::GuardLooksAway) => {}
                Ok(News::Lost(why)) => {
                    self.group.tell_to_end();
                    kill_at = Some(clock::now().mono.after(self.charge.grace));
                    if !self.report(&Report::Lost(why.clone())) {
                        self.say_lost(why.clone());
                    }
                    lost = Some(Report::Lost(why));
                }
                Ok(News::Alone) if lost.is_none() => return Left::Alone,
                Ok(News::Alone) => {}
                Err(RecvTimeoutError::Timeout) => {
                    if kill_at.is_some_and(|at| at <= clock::now().mono) {
                        self.group.signal(Signal::KILL);
                        kill_at = None;
                    }
                    self.report(lost.as_ref().unwrap_or(&Report::Watching));
                }
                Err(RecvTimeoutError::Disconnected) => unreachable!("the end of the command is always told"),
            }
        }
        if lost.is_some() {
            // Whoever leads now may begin: what the command has left behind ends with it.
            self.group.signal(Signal::KILL);
        }
        Left::Ended
    }

    /// Takes the place of whoever started it and is dead: another guard watches from now on.
    fn lead_on(&mut self) {
        loop {
            match Watch::begin(self.charge.clone(), self.group.clone()) {
                Ok(mut watch) => {
                    watch.until_ended(|told| match told {
                        Told::Lost(why) => self.say_lost(why),
                        Told::Unguarded(error) => self.say(super::unguarded(&error)),
                    });
                    return;
                }
                Err(_) if self.group.has_ended() => return,
                Err(_) => pause(),
            }
        }
    }

    /// Whether it arrived: it does not if `elect` is dead. A stopped one hears of it later; where that has filled the
    /// socket, what is lost is said again each second.
    fn report(&self, report: &Report) -> bool {
        let line = serde_json::to_string(report).expect("a report is JSON") + "\n";
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = rustix::io::retry_on_intr(|| rustix::net::send(&self.starter, line.as_bytes(), flags));
        sent.is_ok() || sent == Err(rustix::io::Errno::AGAIN)
    }

    fn say_lost(&mut self, why: Option<String>) {
        let file_id = self.charge.posts.first().map_or("", |lock| &lock.file_id);
        let why = why.unwrap_or_else(|| "it was broken, released or taken up".to_owned());
        self.say(super::ended_for(file_id, &why));
    }

    /// On a thread of its own: whoever reads stderr may not read it, and that keeps nobody from ending the command.
    fn say(&mut self, text: String) {
        let (saying, said) = bounded(0);
        std::thread::spawn(move || {
            print::err(&text);
            drop(saying);
        });
        self.speaker = Some(said);
    }

    fn finish_speaking(&self) {
        if let Some(said) = &self.speaker {
            let _ = said.recv_timeout(Duration::from_millis(limits::ELECT_LOOK));
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "bounded back-off: no guard can be started, until the command ends")]
fn pause() {
    std::thread::sleep(Duration::from_millis(limits::ELECT_LOOK));
}
