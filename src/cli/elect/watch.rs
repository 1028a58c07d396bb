//! A command under watch: it is ended when it does not lead any more, whoever of those that watch is killed or stopped.
//!
//! There are two processes, `elect` and its guard, and one rule for both: whoever has no guard that watches looks after
//! the locks itself, and whoever was started by nobody, or by somebody who is dead, wants a guard. So `elect` waits and
//! its guard looks; if `elect` is killed, the guard starts another and then waits as `elect` did. Only one of them
//! looks and sends SIGTERM, so that a command hears that once.
//!
//! Rejected: a signal of the kernel at the death of the parent (`PR_SET_PDEATHSIG`), which would end a command that
//! leads, cannot come in two steps, and reaches no process group.

use super::post::{self, Post, Word};
use crate::client::{self, Connect, Connection, Launch};
use crate::clock;
use crate::limits;
use crate::model::Moment;
use crate::os::home::Home;
use crate::os::process;
use crate::planted::{Bug, planted};
use crate::wire::LockBody;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::SendFlags;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// The hidden command that a guard is.
pub(super) const VERB: &str = "elect-guard";
/// How often a first guard is started that ends before it watches: somebody kills it, or the system does.
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
    /// The command was told to end already, and has so many milliseconds left.
    pub(super) kill_in: Option<u64>,
}

/// What a guard says, a line each, and each once: whoever is stopped reads it later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// It watches.
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
        // Kernels before 6.9 cannot do it, and a filter of system calls may not let it.
        if process::signal_group(&*self.pidfd, signal).is_err() && (self.is_child || !self.has_ended()) {
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
    /// Starts one and tells so, then what it reports, always with its number, and at last that it is gone.
    fn serve(number: u64, charge: &Charge, group: &Group, news: &Sender<News>) {
        let tell = |it| news.send(it).unwrap_or_default();
        match Guard::start(charge, group) {
            Err(error) => tell(News::Started(number, Err(error))),
            Ok((guard, mut reports)) => {
                tell(News::Started(number, Ok(guard)));
                while let Some(report) = next_report(&mut reports) {
                    tell(News::Report(number, report));
                }
                tell(News::Unguarded(number));
            }
        }
    }

    fn start(charge: &Charge, group: &Group) -> io::Result<(Guard, BufReader<UnixStream>)> {
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
        Ok((guard, BufReader::new(ours)))
    }

    fn is_stopped(&self) -> bool {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        matches!(waitid(WaitId::Pid(Pid::from_child(&self.process)), options), Ok(Some(_)))
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
    Started(u64, io::Result<Guard>),
    Report(u64, Report),
    Unguarded(u64),
    /// A lock is lost by our own look; why, where that was said.
    Lost(Option<String>),
    /// Whoever started this is dead.
    Alone,
    Ended,
}

/// What is told about a command while it is watched.
pub(super) enum Told {
    /// It is ended; why, where that was said.
    Lost(Option<String>),
    /// No guard can be started.
    Unguarded(io::Error),
}

/// The place of the guard.
enum Place {
    /// None is wanted: this is a guard, and whoever started it lives.
    NotOurs(UnixStream),
    /// None is there, and the next is to be started at this moment.
    Vacant(Moment),
    /// One is being started. That may take as long as it likes.
    Called,
    /// One was started, and is to say by this moment that it watches.
    Taken(Guard, Moment),
    /// One watches. It is looked at by this moment, and was found stopped last time or not.
    Watched(Guard, Moment, bool),
}

/// A command that is watched.
pub(super) struct Watch {
    charge: Charge,
    group: Group,
    /// The locks with their own sessions, where this process has them: no new connection can fail then.
    posts: Vec<Post>,
    news: Sender<News>,
    heard: Receiver<News>,
    place: Place,
    /// The number of the latest guard.
    guards: u64,
    /// Dropped when this is not to look itself any more.
    looking: Option<Sender<()>>,
    is_lost: bool,
    kill_at: Option<Moment>,
    has_ended: bool,
}

impl Watch {
    fn new(charge: Charge, group: Group, place: Place, posts: Vec<Post>) -> io::Result<Watch> {
        let (news, heard) = unbounded();
        let tell = news.clone();
        group.when_ended(move || tell.send(News::Ended).unwrap_or_default())?;
        let is_lost = charge.kill_in.is_some();
        let kill_at = charge.kill_in.map(|left| clock::now().mono.after(left));
        let (guards, looking, has_ended) = (0, None, false);
        Ok(Watch { charge, group, posts, news, heard, place, guards, looking, is_lost, kill_at, has_ended })
    }

    /// As `elect`: starts a guard and waits until it watches.
    pub(super) fn begin(charge: Charge, group: Group, posts: Vec<Post>) -> io::Result<Watch> {
        let mut watch = Watch::new(charge, group, Place::Vacant(clock::now().mono), posts)?;
        for _ in 0..STARTS {
            watch.call_guard()?;
            // Those of earlier ones are told by their number.
            while let Ok(news) = watch.heard.recv_timeout(Duration::from_millis(limits::ELECT_SILENT)) {
                match (news, watch.guards) {
                    (News::Started(number, Ok(guard)), current) if number == current => watch.is_taken(guard),
                    (News::Started(number, Err(_)) | News::Unguarded(number), current) if number == current => break,
                    (News::Report(number, _), current) if number == current => {
                        watch.is_watched();
                        return Ok(watch);
                    }
                    (News::Ended, _) => watch.has_ended = true,
                    _ => {}
                }
            }
        }
        Err(io::Error::other("the process that is to guard the command does not begin, or is killed each time"))
    }

    /// As a guard: looks itself, and reports to whoever has started it.
    pub(super) fn stand(charge: Charge, group: Group, starter: UnixStream) -> io::Result<Watch> {
        let mut end = starter.try_clone()?;
        let mut watch = Watch::new(charge, group, Place::NotOurs(starter), Vec::new())?;
        let news = watch.news.clone();
        std::thread::Builder::new().name("starter".into()).spawn(move || {
            // Nothing more comes, so that this ends with its end.
            let _ = end.read(&mut [0]);
            news.send(News::Alone).unwrap_or_default();
        })?;
        watch.look()?;
        Ok(watch)
    }

    /// Waits for the end of the command; whether it was ended since it did not lead any more. Why is told when it is
    /// known, and so is what keeps a guard from being started.
    pub(super) fn until_ended(&mut self, mut tell: impl FnMut(Told)) -> bool {
        self.report(&Report::Watching);
        // What a guard says last may still be on its way when the command has ended.
        let last = || clock::now().mono.after(limits::ELECT_LOOK);
        let mut last_word: Option<Moment> = self.has_ended.then(last);
        let mut is_told = false;
        while last_word.is_none_or(|at| matches!(self.place, Place::Watched(..)) && at > clock::now().mono) {
            let due = match &self.place {
                Place::Vacant(at) | Place::Taken(_, at) | Place::Watched(_, at, _) => Some(*at),
                Place::NotOurs(_) | Place::Called => None,
            };
            let next = [self.kill_at, last_word, due.filter(|_| last_word.is_none())].into_iter().flatten().min();
            let left = next.map_or(u64::MAX, |at| at.left(clock::now().mono));
            match self.heard.recv_timeout(Duration::from_millis(left)) {
                Ok(News::Ended) => last_word = Some(last()),
                // The locks hang on the command: without it they are gone, and the daemon may say so first.
                Ok(News::Lost(_)) if self.is_lost || self.looking.is_none() || self.group.has_ended() => {}
                Ok(News::Lost(_)) if planted(Bug::GuardLooksAway) => {}
                Ok(News::Lost(why)) => {
                    self.group.tell_to_end();
                    self.lose(self.charge.grace);
                    if !self.report(&Report::Lost(why.clone())) {
                        tell(Told::Lost(why));
                    }
                }
                Ok(News::Alone) => self.place = Place::Vacant(clock::now().mono),
                Ok(News::Started(number, Ok(guard))) if number == self.guards => self.is_taken(guard),
                Ok(News::Started(number, Err(error))) if number == self.guards => {
                    self.is_vacant();
                    if !std::mem::replace(&mut is_told, true) {
                        tell(Told::Unguarded(error));
                    }
                }
                Ok(News::Report(number, Report::Watching)) if number == self.guards => {
                    self.is_watched();
                    is_told = false;
                }
                Ok(News::Report(number, Report::Lost(why))) if number == self.guards && !self.is_lost => {
                    // The guard kills it; this is for a guard that is killed or stopped before.
                    self.lose(self.charge.grace + limits::ELECT_LOOK);
                    tell(Told::Lost(why));
                }
                Ok(News::Unguarded(number)) if number == self.guards => self.is_vacant(),
                // Of a guard that has been replaced.
                Ok(News::Started(..) | News::Report(..) | News::Unguarded(_)) => {}
                Err(_) => {
                    if let Err(error) = self.is_due() {
                        self.place = Place::Vacant(last());
                        if !std::mem::replace(&mut is_told, true) {
                            tell(Told::Unguarded(error));
                        }
                    }
                }
            }
        }
        if self.is_lost {
            // Whoever leads now may begin: what the command has left behind ends with it.
            self.group.signal(Signal::KILL);
        }
        self.is_lost
    }

    /// The command has been told to end and is killed after so long.
    fn lose(&mut self, after: u64) {
        self.is_lost = true;
        self.kill_at = Some(clock::now().mono.after(after));
        self.looking = None;
        if matches!(self.place, Place::Called | Place::Taken(..)) {
            // It would look, and tell the command once more.
            self.place = Place::Vacant(clock::now().mono);
            self.guards += 1;
        }
    }

    /// Something was to be done by now.
    fn is_due(&mut self) -> io::Result<()> {
        let now = clock::now().mono;
        if self.kill_at.is_some_and(|at| at <= now) {
            self.group.signal(Signal::KILL);
            self.kill_at = None;
        }
        match &mut self.place {
            Place::Vacant(at) if *at <= now => {
                self.look()?;
                self.call_guard()
            }
            Place::Taken(_, at) if *at <= now => {
                self.is_vacant();
                Ok(())
            }
            Place::Watched(guard, at, was_stopped) if *at <= now => {
                let is_stopped = guard.is_stopped();
                // Once may be for a moment.
                if !(is_stopped && *was_stopped) {
                    (*at, *was_stopped) = (now.after(limits::ELECT_LOOK), is_stopped);
                    return Ok(());
                }
                self.is_vacant();
                self.look()?;
                self.call_guard()
            }
            _ => Ok(()),
        }
    }

    // ── The guard ───────────────────────────────────────────────────────────────────────────────────────────────────

    fn is_taken(&mut self, guard: Guard) {
        self.place = Place::Taken(guard, clock::now().mono.after(limits::ELECT_SILENT));
    }

    fn is_watched(&mut self) {
        let at = clock::now().mono.after(limits::ELECT_LOOK);
        if let Place::Taken(guard, _) = std::mem::replace(&mut self.place, Place::Called) {
            self.place = Place::Watched(guard, at, false);
            self.looking = None;
        }
    }

    /// The next one is started a second later, so that it is not done in a circle. Until it watches this looks itself.
    fn is_vacant(&mut self) {
        self.place = Place::Vacant(clock::now().mono.after(limits::ELECT_LOOK));
        self.guards += 1;
        // Without a thread it is tried again with the next guard.
        let _ = self.look();
    }

    /// On a thread of its own: a process that is stopped before its first step keeps whoever starts it.
    fn call_guard(&mut self) -> io::Result<()> {
        self.guards += 1;
        let kill_in = self.is_lost.then(|| self.kill_at.map_or(0, |at| at.left(clock::now().mono)));
        let charge = Charge { kill_in, ..self.charge.clone() };
        let (number, group, news) = (self.guards, self.group.clone(), self.news.clone());
        let serve = move || Guard::serve(number, &charge, &group, &news);
        // Not by the name of a guard: until it is one, what is started has that of this thread.
        std::thread::Builder::new().name("start".into()).spawn(serve)?;
        self.place = Place::Called;
        Ok(())
    }

    /// Whether somebody hears it: whoever started this, if that lives.
    fn report(&self, report: &Report) -> bool {
        let Place::NotOurs(starter) = &self.place else { return false };
        let line = serde_json::to_string(report).expect("a report is JSON") + "\n";
        let sent = rustix::io::retry_on_intr(|| rustix::net::send(starter, line.as_bytes(), SendFlags::NOSIGNAL));
        sent.is_ok()
    }

    // ── Looking ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Looks after the locks from now on, on a thread of its own: an answer may be long in coming.
    fn look(&mut self) -> io::Result<()> {
        if self.is_lost || self.looking.is_some() {
            return Ok(());
        }
        let (looking, done) = bounded(0);
        let (charge, posts, news) = (self.charge.clone(), self.posts.clone(), self.news.clone());
        std::thread::Builder::new().name("posts".into()).spawn(move || {
            let mut connection = None;
            let look = || {
                if !posts.is_empty() {
                    return posts.iter().map(Post::look).find(|word| *word != Word::Held).unwrap_or(Word::Held);
                }
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
        self.looking = Some(looking);
        Ok(())
    }
}

/// A connection in nobody's name, so that no agent's losses are told here.
fn connect(charge: &Charge) -> Result<Connection, String> {
    let home = Home::from_env().map_err(|error| error.0)?;
    // What is asked for is named in full.
    let place = client::Place { cwd: b"/".to_vec(), workspace: b"/".to_vec(), config: None };
    let launch = Launch::With(charge.program.clone());
    let connect = Connect { home, launch, agent: None, place, session: None };
    Connection::connect_from(connect, None).map_err(|error| error.to_string())
}
