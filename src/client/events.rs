//! Subscriptions: a connection and a thread each, which go on by themselves when the daemon was restarted.

use super::launch::{self, is_broken, read_line};
use super::values::Error;
use super::{ClientError, Connect, Connection, Launch, RECONNECT_WITHIN, wait_readable};
use crate::clock;
use crate::limits;
use crate::model::Workspace;
use crate::wire::{self, Body, Code, ContentionBody, EventBody, GapBody, Hello, Line, Mode, Op, Request};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::io::{BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The first pause before a daemon is looked for again, in milliseconds; each is twice the last.
const PAUSE_FIRST: u64 = 20;
/// The longest.
const PAUSE_MAX: u64 = 1_000;

// ── What is wanted ──────────────────────────────────────────────────────────────────────────────────────────────────

/// Which events are wanted. Nothing said, all are; each kind of condition narrows, several of one kind are
/// alternatives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "a filter is for `subscribe`"]
pub struct EventFilter {
    events: Vec<String>,
    scopes: Vec<PathBuf>,
    agents: Vec<String>,
    in_workspace: bool,
    since: Option<u64>,
}

impl EventFilter {
    /// All events from now on.
    pub fn new() -> EventFilter {
        EventFilter::default()
    }

    /// Only events of this name, such as `lock.released`.
    pub fn event(mut self, name: impl Into<String>) -> EventFilter {
        self.events.push(name.into());
        self
    }

    /// Only what is about something that overlaps this scope: a file, a directory and all below it, `@name`.
    pub fn scope(mut self, scope: impl Into<PathBuf>) -> EventFilter {
        self.scopes.push(scope.into());
        self
    }

    /// Only what is about locks of this agent, or waits of it.
    pub fn agent(mut self, name: impl Into<String>) -> EventFilter {
        self.agents.push(name.into());
        self
    }

    /// Only locks that were asked for in the workspace of whoever subscribes, not in others that see the same files.
    pub fn in_workspace(mut self) -> EventFilter {
        self.in_workspace = true;
        self
    }

    /// Not from now on but from behind this number: that of the last event that the program has, which
    /// [`Event::seq`] gives.
    pub fn since(mut self, seq: u64) -> EventFilter {
        self.since = Some(seq);
        self
    }

    fn request(&self, root: &[u8]) -> Request {
        let workspace = Workspace { root: root.into() };
        Request {
            id: Some(1),
            events: self.events.clone(),
            scopes: self.scopes.iter().map(|scope| wire::escape(scope.as_os_str().as_bytes())).collect(),
            agents: self.agents.clone(),
            workspaces: if self.in_workspace { vec![workspace.id()] } else { Vec::new() },
            ..Request::new(Op::Subscribe)
        }
    }
}

// ── What is told ────────────────────────────────────────────────────────────────────────────────────────────────────

/// What a subscriber is told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Something happened to a lock.
    Lock(Box<LockEvent>),
    /// Events are missing here.
    Gap(Gap),
}

impl Event {
    /// The number to go on from behind this.
    pub fn seq(&self) -> u64 {
        match self {
            Event::Lock(event) => event.seq,
            Event::Gap(gap) => gap.to,
        }
    }

    /// The event, if it is not a gap.
    pub fn lock(&self) -> Option<&LockEvent> {
        match self {
            Event::Lock(event) => Some(event),
            Event::Gap(_) => None,
        }
    }
}

/// Something that happened to a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockEvent {
    /// Its number, larger than that of every event before. Numbers are skipped; what is missing is a [`Gap`].
    pub seq: u64,
    /// Its id, `ev_…`: the same in every telling.
    pub id: String,
    /// What happened: `lock.acquired`, `lock.waiting`, `lock.released`, `lock.detached`, `lock.leader`,
    /// `lock.contention`, `lock.violation`, `webhook.disabled`; later versions add others.
    pub event: String,
    /// When: RFC 3339, UTC.
    pub timestamp: String,
    /// The workspace in which the lock was asked for, `ws_…`.
    pub workspace_id: String,
    /// What is locked: relative to that workspace, else absolute; a subtree ends in `/`, a resource begins with `@`.
    pub file_id: String,
    /// Which lock, `lk_…`.
    pub lock_id: String,
    /// Whose it is, or was.
    pub acquired_by: String,
    /// How it excludes others.
    pub mode: Mode,
    /// Its fencing token at the time.
    pub fence: u64,
    /// How it came to that: `resumed`, `upgraded`, `downgraded`; `released`, `expired`, `session_ended`, `broken`,
    /// `silent` or `rebooted`; with `webhook.disabled` `gone` or `failing`.
    pub reason: Option<String>,
    /// Who waits, with `lock.waiting`.
    pub waiter: Option<String>,
    /// Who broke it.
    pub by: Option<String>,
    /// Why it was broken, else why it was taken; with `webhook.disabled` what came of the last attempt.
    pub note: Option<String>,
    /// With `lock.leader`: who had rank 1 before, if anybody had.
    pub former_leader: Option<String>,
    /// What came together, with `lock.contention`.
    pub contention: Option<Contention>,
    /// What was done to the file, with `lock.violation`: `written`, `replaced` or `deleted`. Nothing tells by whom.
    pub how: Option<String>,
    /// Which webhook, `wh_…`, with `webhook.disabled`: this is about no lock then. `file_id` is `@` and the same id,
    /// `acquired_by` who added it.
    pub webhook_id: Option<String>,
    /// Where that webhook was.
    pub url: Option<String>,
}

/// Requests for one scope that could not have it at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Contention {
    /// How many were refused.
    pub failed: u64,
    /// How many had to wait.
    pub queued: u64,
    /// The time in which they came: since this was last told of the scope, or as far as they count.
    pub over: Duration,
    /// How many wait now for something that overlaps the scope.
    pub waiting: u64,
    /// How long the first of them has waited.
    pub longest_wait: Duration,
    /// Other contended scopes of which nothing was told since the last such event, because there were too many.
    pub left_out: u64,
}

impl From<ContentionBody> for Contention {
    fn from(body: ContentionBody) -> Contention {
        Contention {
            failed: body.failed,
            queued: body.queued,
            over: Duration::from_millis(body.over_ms),
            waiting: body.waiting,
            longest_wait: Duration::from_millis(body.longest_wait_ms),
            left_out: body.left_out,
        }
    }
}

/// Events that cannot be told any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gap {
    /// The first number that may be missing.
    pub from: u64,
    /// The last one. Lower than `from` only if the home was put back from an older copy meanwhile.
    pub to: u64,
    /// How many events are missing, whether the filter wants them or not; none where that is not known, and it may be
    /// that none are.
    pub events: Option<u64>,
}

/// What is told, as it came over the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Something happened.
    Event(Box<EventBody>),
    /// Events are missing.
    Gap(GapBody),
}

impl From<Heard> for Event {
    fn from(heard: Heard) -> Event {
        match heard {
            Heard::Gap(GapBody { from, to, events }) => Event::Gap(Gap { from, to, events }),
            Heard::Event(body) => Event::Lock(Box::new(LockEvent {
                seq: body.seq,
                id: body.id,
                event: body.event,
                timestamp: body.timestamp,
                workspace_id: body.workspace_id,
                file_id: body.file_id,
                lock_id: body.lock_id,
                acquired_by: body.acquired_by,
                mode: body.mode,
                fence: body.fence,
                reason: body.reason,
                waiter: body.waiter,
                by: body.by,
                note: body.note,
                former_leader: body.former_leader,
                contention: body.contention.map(Contention::from),
                how: body.how,
                webhook_id: body.webhook_id,
                url: body.url,
            })),
        }
    }
}

// ── How it is told ──────────────────────────────────────────────────────────────────────────────────────────────────

/// Subscribes where a connection stands, or where `root` says.
pub(super) fn subscribe(
    connection: &Connection,
    root: Option<&Path>,
    filter: EventFilter,
) -> Result<Receiver<Event>, Error> {
    let mut connect = Connect { session: None, ..connection.options().clone() };
    if let Some(root) = root {
        let root = root.as_os_str().as_bytes().to_vec();
        connect.place.cwd.clone_from(&root);
        connect.place.workspace = root;
        connect.place.config = None;
    }
    let request = filter.request(&connect.place.workspace);
    Ok(Subscription::begin(connect, request, filter.since)?.into_channel()?)
}

/// One that is told what happens, whatever becomes of the daemon.
pub struct Subscription {
    connect: Connect,
    /// What is wanted; the number is put in each time.
    request: Request,
    lines: BufReader<UnixStream>,
    /// All up to this number was told.
    reached: u64,
    said_bye: bool,
}

impl Subscription {
    /// Connects, and starts the daemon if there is none and `connect` allows it, and subscribes with this request.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn begin(connect: Connect, request: Request, since: Option<u64>) -> Result<Subscription, ClientError> {
        for _ in 0..limits::CONNECT_ATTEMPTS {
            if let Some((lines, seq)) = open(&connect, &connect.launch, &request, since)? {
                let reached = since.unwrap_or(seq);
                return Ok(Subscription { connect, request, lines, reached, said_bye: false });
            }
        }
        Err(ClientError::NoDaemon("the daemon ends as soon as it is asked for events; see its daemon.log".to_owned()))
    }

    /// Gives what is told to a bounded channel, from a thread of its own. Who does not receive falls behind in the
    /// daemon, which notices nothing of it.
    ///
    /// # Errors
    /// There can be no more threads.
    pub fn into_channel<T: From<Heard> + Send + 'static>(mut self) -> Result<Receiver<T>, ClientError> {
        let (sender, receiver) = bounded(limits::SUBSCRIBER_QUEUE);
        let run = move || self.run(&sender);
        std::thread::Builder::new().name("flockd-events".into()).spawn(run)?;
        Ok(receiver)
    }

    fn run<T: From<Heard>>(&mut self, sender: &Sender<T>) {
        loop {
            let heard = match self.next() {
                Ok(Some(heard)) => heard,
                Ok(None) => match self.go_on() {
                    Ok(None) => continue,
                    Ok(Some(gap)) => Heard::Gap(gap),
                    Err(_) => return,
                },
                Err(_) => return,
            };
            if sender.send(heard.into()).is_err() {
                return;
            }
        }
    }

    /// The next that is told; none if the connection is over.
    fn next(&mut self) -> Result<Option<Heard>, ClientError> {
        loop {
            let line = match wait_readable(&mut self.lines, None) {
                Ok(false) => continue,
                Ok(true) => read_line(&mut self.lines),
                Err(error) => Err(error),
            };
            match line {
                Ok(Some(Line::Event(body))) => {
                    self.reached = body.seq;
                    return Ok(Some(Heard::Event(body)));
                }
                Ok(Some(Line::Gap(body))) => {
                    self.reached = body.to;
                    return Ok(Some(Heard::Gap(body)));
                }
                Ok(Some(Line::Bye(_))) => self.said_bye = true,
                Ok(Some(Line::Hello(_) | Line::Answer(_))) => {}
                Ok(None) => return Ok(None),
                // One that was stopped amid a line is left: what it was telling is told again.
                Err(ClientError::Io(_)) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Subscribes again, from where it was. Whoever is only told does not start a daemon that was stopped on purpose;
    /// one that was killed has leases to end.
    fn go_on(&mut self) -> Result<Option<GapBody>, ClientError> {
        let give_up_at = clock::monotonic_ns().saturating_add(RECONNECT_WITHIN * 1_000_000);
        let mut pause = PAUSE_FIRST;
        loop {
            let is_patient = self.said_bye && self.connect.launch != Launch::Never;
            let launch = if self.said_bye { Launch::Never } else { self.connect.launch.clone() };
            match open(&self.connect, &launch, &self.request, Some(self.reached)) {
                Ok(Some((lines, _))) => {
                    (self.lines, self.said_bye) = (lines, false);
                    return Ok(None);
                }
                Ok(None) => {}
                // The daemon has not come so far: it is another home, or an older copy of it.
                Err(ClientError::Refused(error)) if error.code == Code::Invalid => return self.start_over().map(Some),
                Err(ClientError::Refused(error)) if !matches!(error.code, Code::TooMany | Code::Unavailable) => {
                    return Err(ClientError::Refused(error));
                }
                Err(error) if !is_patient && clock::monotonic_ns() >= give_up_at => return Err(error),
                Err(_) => {}
            }
            wait(pause);
            pause = PAUSE_MAX.min(2 * pause);
        }
    }

    /// Goes on from what is the newest now.
    fn start_over(&mut self) -> Result<GapBody, ClientError> {
        let fresh = Subscription::begin(self.connect.clone(), self.request.clone(), None)?;
        let gap = GapBody { from: self.reached + 1, to: fresh.reached, events: None };
        *self = fresh;
        Ok(gap)
    }
}

/// Connects and subscribes: what is read from there on, and the newest number. None if the daemon ended meanwhile.
fn open(
    connect: &Connect,
    launch: &Launch,
    request: &Request,
    since: Option<u64>,
) -> Result<Option<(BufReader<UnixStream>, u64)>, ClientError> {
    let hello = Hello {
        protocol: wire::PROTOCOL,
        version: wire::VERSION.to_owned(),
        agent: None,
        cwd: wire::escape(&connect.place.cwd),
        workspace: Some(wire::escape(&connect.place.workspace)),
        session: None,
        agent_process: false,
        goes_by: false,
        contention: connect.place.config.map(|config| config.contention.into()),
        confirms: false,
    };
    let mut lines = launch::connect(&connect.home, launch, &hello, None)?.lines;
    let line = wire::encode(&Request { since, ..request.clone() });
    if line.len() > limits::LINE_MAX {
        return Err(ClientError::Protocol(format!("the request is longer than {} bytes", limits::LINE_MAX)));
    }
    if lines.get_ref().write_all(&line).is_err() {
        return Ok(None);
    }
    loop {
        let answer = match read_line(&mut lines) {
            Ok(Some(Line::Answer(answer))) => answer,
            Ok(Some(_)) => continue,
            Ok(None) => return Ok(None),
            Err(ClientError::Io(error)) if is_broken(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        return match (answer.ok, answer.error) {
            (Some(Body::Subscribed(body)), _) => Ok(Some((lines, body.seq))),
            (_, Some(error)) => Err(ClientError::Refused(Box::new(error))),
            (other, None) => Err(super::unexpected(other.as_ref())),
        };
    }
}

fn wait(pause: u64) {
    #[expect(clippy::disallowed_methods, reason = "bounded back-off: nothing tells that a daemon listens again")]
    std::thread::sleep(Duration::from_millis(pause));
}
