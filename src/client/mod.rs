//! The library's side of the socket: a connection to the daemon, and on top of it the handles that programs use.
//!
//! [`Connection`] sends requests and hands out answers; it is shared by threads and goes on by itself when the daemon
//! was restarted. The handles ([`Client`], [`Session`], [`Workspace`], [`LockRequest`], [`LockGuard`]) know nothing of
//! sockets.
//!
//! Nobody reads for others while nobody waits: of the threads that wait for answers one reads the socket and hands
//! the others theirs. So a request costs two switches between processes and none between threads. A client with a
//! session has one more thread, which sleeps until the connection breaks and then makes a new one, so that the
//! daemon does not take the holder of a lock for gone.

#[cfg(feature = "cli")]
pub(crate) mod acting;
#[cfg(feature = "cli")]
pub(crate) mod agent;
pub(crate) mod config;
mod events;
mod guard;
mod guards;
mod handle;
mod launch;
mod ledger;
mod place;
mod session;
mod values;
mod write;

pub use config::Config;
#[cfg(feature = "cli")]
pub(crate) use config::Enforcement;
pub use events::{Contention, Event, EventFilter, Gap, Heard, LockEvent, Subscription};
pub use guard::{LockGuard, LockRequest, NotKept};
pub use guards::{LockAllRequest, LockGuards};
pub use handle::{Client, ClientBuilder};
pub use launch::Launch;
#[cfg(feature = "mcp")]
pub(crate) use ledger::granted;
pub use place::Place;
pub use session::{Session, Workspace};
pub use values::{Check, Error, HoldError, Holder, LockError, Loss, LossReason, Refusal, Status, UpgradeError, Waiter};
#[cfg(feature = "cli")]
pub(crate) use write::{Draft, Place as FilePlace, hash_of};
pub use write::{Expected, WriteError, Written};

use crate::limits;
use crate::model::Agent;
use crate::os;
use crate::os::home::Home;
use crate::wire::{
    self, Answer, Code, Hello, Line, LockBody, LocksBody, Op, Request, SessionProof, SessionWish, WireError,
};
use launch::{connect, is_broken, read_line};
use ledger::Ledger;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufReader, ErrorKind, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a broken connection is tried to be made again: well above what any start of the daemon takes.
const RECONNECT_WITHIN: u64 = 60 * limits::SECOND;
/// How long to wait between two tries, in milliseconds, where the first could not start the daemon: the home may not
/// be writable for the moment.
const RECONNECT_EVERY: u64 = 100;
/// The same after the daemon said good-bye, as long as nothing is asked of it: it was stopped on purpose.
const LOOK_AGAIN_EVERY: u64 = 1_000;

/// Why a request has no answer.
#[derive(Debug)]
pub enum ClientError {
    /// There is no daemon, and none could be started.
    NoDaemon(String),
    /// The daemon refused the connection, the session or the request.
    Refused(Box<WireError>),
    /// The daemon said what no daemon says.
    Protocol(String),
    /// No answer came in time.
    NoAnswer(String),
    /// The session ended while we were away: what it held is lost.
    SessionLost(String),
    /// The system failed.
    Io(io::Error),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::NoDaemon(text)
            | ClientError::Protocol(text)
            | ClientError::NoAnswer(text)
            | ClientError::SessionLost(text) => f.write_str(text),
            ClientError::Refused(error) => f.write_str(&error.message),
            ClientError::Io(error) => write!(f, "the daemon cannot be reached: {error}"),
        }
    }
}

impl std::error::Error for ClientError {}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        ClientError::Io(error)
    }
}

/// How to connect.
#[derive(Clone, Debug)]
pub struct Connect {
    /// Whose daemon.
    pub home: Home,
    /// Whether it may be started.
    pub launch: Launch,
    /// In whose name; reading needs none.
    pub agent: Option<Agent>,
    /// From where.
    pub place: Place,
    /// Whether the client holds guards: then it gets a session, and its locks live as long as it does.
    pub session: Option<Custodian>,
}

/// What kind of session a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Custodian {
    /// Its threads hold guards: the session is an actor of its own.
    Library,
    /// It runs a command for its agent: the agent is the actor.
    Command,
}

/// A connection to the daemon, made again when it breaks.
pub struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    connect: Connect,
    /// The agent's own process, if it is known; it is told with each greeting.
    agent_process: Option<OwnedFd>,
    /// See [`Hello::confirms`].
    confirms: bool,
    state: Mutex<State>,
    /// Told when an answer came, the reader's place became free, or the connection changed.
    changed: Condvar,
    /// Wakes the thread that sleeps until the connection breaks, when nobody needs it any more.
    closing: OwnedFd,
}

struct State {
    link: Link,
    /// Counts connections, so that who saw one break does not break the next.
    generation: u64,
    /// Somebody reads.
    is_reading: bool,
    pending: BTreeMap<u64, Pending>,
    next_id: u64,
    session: Option<SessionProof>,
    ledger: Ledger,
    /// See [`Connection::take_losses`].
    losses: Vec<wire::Loss>,
    /// What the daemon had to say with its first greeting.
    warning: Option<String>,
    /// The daemon said good-bye: it is not started again before it is needed.
    said_bye: bool,
    closed: bool,
}

enum Link {
    Up(Arc<Socket>),
    /// Somebody is making a new one.
    Renewing,
    /// Given up; why.
    Down(String),
}

struct Socket {
    stream: UnixStream,
    lines: Mutex<BufReader<UnixStream>>,
}

struct Pending {
    op: Op,
    line: Vec<u8>,
    /// What goes with the line, also when it is sent again.
    fd: Option<OwnedFd>,
    /// If it is a release, what it names.
    release: Release,
    /// It was sent on an earlier connection, too, and may have been carried out then.
    is_repeated: bool,
    answer: Option<Result<Answer, ClientError>>,
}

/// What a release names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Release {
    /// One lock.
    Lock,
    /// Whatever is held on a scope, or anywhere.
    Scope,
}

impl Pending {
    /// Sends it. A failure to write shows when the answer is read, and it is sent again then.
    fn send(&self, socket: &Socket) {
        let _ = match &self.fd {
            None => (&socket.stream).write_all(&self.line),
            Some(fd) => os::process::send_with_fd(&socket.stream, &self.line, fd.as_fd()),
        };
    }
}

impl Connection {
    /// Connects, and starts the daemon if there is none and `connect` allows it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn connect(connect: Connect) -> Result<Connection, ClientError> {
        Connection::connect_from(connect, None)
    }

    /// The same for an agent whose own process is known, by its pidfd: if another live one calls under the same name,
    /// [`Connection::take_warning`] has a sentence on it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn connect_from(connect: Connect, agent_process: Option<OwnedFd>) -> Result<Connection, ClientError> {
        Connection::make(connect, agent_process, false)
    }

    /// The same for a client that hands on what it is told of losses: none counts as told before
    /// [`Connection::heard_of`].
    #[cfg(feature = "cli")]
    pub(crate) fn connect_between(connect: Connect, agent_process: Option<OwnedFd>) -> Result<Connection, ClientError> {
        Connection::make(connect, agent_process, true)
    }

    fn make(connect: Connect, agent_process: Option<OwnedFd>, confirms: bool) -> Result<Connection, ClientError> {
        let dialled = dial(&connect, None, agent_process.as_ref(), confirms)?;
        let Dialled { socket, session, warning } = dialled;
        let inner = Arc::new(Inner {
            connect,
            agent_process,
            confirms,
            state: Mutex::new(State {
                link: Link::Up(Arc::new(socket)),
                generation: 0,
                is_reading: false,
                pending: BTreeMap::new(),
                next_id: 1,
                session,
                ledger: Ledger::default(),
                losses: Vec::new(),
                warning,
                said_bye: false,
                closed: false,
            }),
            changed: Condvar::new(),
            closing: eventfd(0, EventfdFlags::CLOEXEC).map_err(io::Error::from)?,
        });
        if inner.connect.session.is_some() {
            let inner = inner.clone();
            std::thread::Builder::new().name("flockd-client".into()).spawn(move || inner.keep())?;
        }
        Ok(Connection { inner })
    }

    /// Sends a request and waits for its answer, for as long as the request itself may wait and a little more.
    ///
    /// # Errors
    /// See [`ClientError`]. A refusal of a lock is an answer; the daemon's `error` is [`ClientError::Refused`].
    pub fn call(&self, request: Request) -> Result<Answer, ClientError> {
        let bound = bound_of(&request);
        self.call_within(request, bound)
    }

    /// The same, and waits so long.
    pub(crate) fn call_within(&self, request: Request, within: Option<Duration>) -> Result<Answer, ClientError> {
        let id = self.begin(request)?;
        match self.finish(id, within)? {
            Some(answer) => Ok(answer),
            None => {
                self.abandon(id);
                Err(ClientError::NoAnswer("the daemon does not answer; `flockd daemon status` tells more".to_owned()))
            }
        }
    }

    /// Sends a request; [`Connection::finish`] gets its answer.
    ///
    /// # Errors
    /// When the connection was given up.
    pub fn begin(&self, request: Request) -> Result<u64, ClientError> {
        self.inner.begin(request, None)
    }

    /// Sends a request that comes with a descriptor, which is sent again with it if the connection breaks.
    ///
    /// # Errors
    /// As [`Connection::begin`], and when there are no descriptors left.
    pub fn begin_with_fd(&self, request: Request, fd: BorrowedFd<'_>) -> Result<u64, ClientError> {
        self.inner.begin(request, Some(fd.try_clone_to_owned()?))
    }

    /// Sends a request that comes with a descriptor and waits for its answer.
    ///
    /// # Errors
    /// As [`Connection::call`] and [`Connection::begin_with_fd`].
    pub fn call_with_fd(&self, request: Request, fd: BorrowedFd<'_>) -> Result<Answer, ClientError> {
        let bound = bound_of(&request);
        let id = self.begin_with_fd(request, fd)?;
        let answer = self.finish(id, bound)?;
        answer.ok_or_else(|| {
            self.abandon(id);
            ClientError::NoAnswer("the daemon does not answer".to_owned())
        })
    }

    /// Waits for the answer to a request, at most `within`; none if it has not come by then and may still come.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn finish(&self, id: u64, within: Option<Duration>) -> Result<Option<Answer>, ClientError> {
        self.inner.finish(id, within)
    }

    /// Forgets a request. One that waits is withdrawn; a lock that it is granted all the same is given back.
    pub fn abandon(&self, id: u64) {
        let mut state = self.inner.lock();
        match state.pending.remove(&id) {
            Some(Pending { answer: Some(Ok(answer)), .. }) => state.nobody_waits_for(&answer),
            Some(Pending { op: Op::Lock | Op::Upgrade | Op::Wait, answer: None, .. }) => {
                let number = state.take_number();
                state.send(&Request { id: Some(number), of: Some(id), ..Request::new(Op::Cancel) });
            }
            _ => {}
        }
    }

    /// Withdraws a request for whose answer another thread waits: it is answered at once, with the word that it was
    /// withdrawn unless something else was decided before.
    #[cfg(feature = "mcp")]
    pub(crate) fn withdraw(&self, id: u64) {
        let mut state = self.inner.lock();
        let number = state.take_number();
        state.send(&Request { id: Some(number), of: Some(id), ..Request::new(Op::Cancel) });
    }

    /// Gives back what an answer grants, without waiting for the word that it is given back: nobody hears of it.
    #[cfg(feature = "mcp")]
    pub(crate) fn decline(&self, answer: &Answer) {
        self.inner.lock().nobody_waits_for(answer);
    }

    /// Releases a lock without waiting for the word that it is released. If the connection breaks before the daemon
    /// has read it, it is sent again.
    pub fn release_later(&self, lock_id: &str) {
        let mut state = self.inner.lock();
        match state.ledger.loss(lock_id) {
            Some(_) => state.ledger.forget(lock_id),
            None => state.give_back(lock_id),
        }
    }

    /// Leaves a lock to whatever else keeps it.
    pub(crate) fn forget(&self, lock_id: &str) {
        self.inner.lock().ledger.forget(lock_id);
    }

    /// What was heard of the loss of a lock that was granted here.
    pub(crate) fn loss(&self, lock_id: &str) -> Option<wire::Loss> {
        self.inner.lock().ledger.loss(lock_id).cloned()
    }

    /// Why the session is over, if it is.
    pub(crate) fn why_over(&self) -> Option<String> {
        match &self.inner.lock().link {
            Link::Down(why) => Some(why.clone()),
            Link::Up(_) | Link::Renewing => None,
        }
    }

    /// The losses of locks that were not granted here, told since this was last asked.
    pub(crate) fn take_notices(&self) -> Vec<wire::Loss> {
        self.inner.lock().ledger.take_notices()
    }

    /// Says that the agent has heard of these losses, without waiting for an answer. Where that does not arrive it is
    /// told of them again.
    #[cfg(feature = "mcp")]
    pub(crate) fn heard_of(&self, losses: Vec<String>) {
        let mut state = self.inner.lock();
        let id = Some(state.take_number());
        state.send(&Request { id, heard: losses, ..Request::new(Op::News) });
    }

    /// Waits until the daemon closes the connection, which it does when it has ended in order.
    pub fn wait_until_closed(&self) {
        let socket = match &self.inner.lock().link {
            Link::Up(socket) => socket.clone(),
            Link::Renewing | Link::Down(_) => return,
        };
        wait_for_hang_up(&socket.stream, None);
    }

    /// The losses that came along with refusals since this was last asked: the daemon tells each of them once, and
    /// [`ClientError::Refused`] has no place for them.
    pub fn take_losses(&self) -> Vec<wire::Loss> {
        std::mem::take(&mut self.inner.lock().losses)
    }

    /// What the daemon warned of when it greeted, once.
    pub fn take_warning(&self) -> Option<String> {
        self.inner.lock().warning.take()
    }

    /// The session, if the client has one.
    pub fn session_id(&self) -> Option<String> {
        self.inner.lock().session.as_ref().map(|proof| proof.id.clone())
    }

    /// How it was connected.
    pub(crate) fn options(&self) -> &Connect {
        &self.inner.connect
    }

    /// From where it looks.
    pub(crate) fn place(&self) -> &Place {
        &self.inner.connect.place
    }

    /// In whose name it speaks.
    pub fn agent(&self) -> Option<&Agent> {
        self.inner.connect.agent.as_ref()
    }

    /// Asks for a lock and waits for it as long as the request says. A refusal is an answer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn lock(&self, request: Request) -> Result<LockBody, ClientError> {
        match self.call(Request { op: Op::Lock, ..request })?.ok {
            Some(wire::Body::Lock(body)) => Ok(*body),
            other => Err(unexpected(other.as_ref())),
        }
    }

    /// Asks for the locks of several scopes, all or none. A refusal is an answer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn lock_all(&self, request: Request) -> Result<LocksBody, ClientError> {
        match self.call(Request { op: Op::Lock, ..request })?.ok {
            Some(wire::Body::Locks(body)) => Ok(*body),
            other => Err(unexpected(other.as_ref())),
        }
    }

    /// Releases a lock and waits for the word that it is released.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with code `lost` if it was lost before; the others of [`ClientError`]. After any other
    /// error the release is still on its way.
    pub fn unlock(&self, lock_id: &str) -> Result<(), ClientError> {
        let request = Request { lock_id: Some(lock_id.to_owned()), ..Request::new(Op::Unlock) };
        let result = self.call(request);
        let mut state = self.inner.lock();
        match &result {
            Ok(_) | Err(ClientError::Refused(_)) => state.ledger.forget(lock_id),
            Err(_) => state.give_back(lock_id),
        }
        result.map(|_| ())
    }
}

impl Drop for Connection {
    /// Ends the connection, and with it the session. Waits for nothing: where releases may not have arrived, the
    /// connection's thread sees to it and ends the session then.
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        state.closed = true;
        if self.inner.connect.session.is_none() || state.has_said_all() {
            state.close();
        }
        self.inner.changed.notify_all();
        // It counts from zero, so that there is room for one more.
        let _ = rustix::io::write(&self.inner.closing, &1u64.to_ne_bytes());
    }
}

/// The error for an answer of the wrong kind.
pub fn unexpected(body: Option<&wire::Body>) -> ClientError {
    ClientError::Protocol(format!("the daemon's answer is of the wrong kind: {body:?}"))
}

/// How long an answer may take: what the request waits, and the time any answer may take. None for ever.
fn bound_of(request: &Request) -> Option<Duration> {
    let waits = match request.op {
        Op::Lock | Op::Upgrade | Op::Wait => request.wait_ms?,
        _ => 0,
    };
    Some(Duration::from_millis(waits.saturating_add(limits::ANSWER_WITHIN)))
}

/// The name by which an agent program's process goes, if somebody has said so. With an agent and `says` that is its
/// name from now on. A program may begin another session, which what it started before is not told of.
///
/// # Errors
/// When there is no daemon, or it does not greet.
#[cfg(any(feature = "mcp", feature = "cli"))]
pub(crate) fn goes_by(options: &Connect, process: &OwnedFd, says: bool) -> Result<Option<String>, ClientError> {
    let hello = Hello { goes_by: says, ..hello_of(options, None, true) };
    let greeted = connect(&options.home, &options.launch, &hello, Some(process.as_fd()))?;
    Ok(greeted.welcome.goes_by)
}

/// A new connection, and what came with its greeting.
struct Dialled {
    socket: Socket,
    session: Option<SessionProof>,
    warning: Option<String>,
}

/// Makes a connection, with the session if there is to be one.
fn dial(
    options: &Connect,
    session: Option<&SessionProof>,
    agent_process: Option<&OwnedFd>,
    confirms: bool,
) -> Result<Dialled, ClientError> {
    let wish = match (options.session, session) {
        (None, _) => None,
        (Some(_), Some(proof)) => Some(SessionWish::Return(proof.clone())),
        (Some(Custodian::Library), None) => Some(SessionWish::Library),
        (Some(Custodian::Command), None) => Some(SessionWish::Command),
    };
    let hello = Hello { confirms, ..hello_of(options, wish, agent_process.is_some()) };
    let greeted = connect(&options.home, &options.launch, &hello, agent_process.map(AsFd::as_fd))?;
    let stream = greeted.lines.get_ref().try_clone()?;
    let session = greeted.welcome.session.or_else(|| session.cloned());
    let socket = Socket { stream, lines: Mutex::new(greeted.lines) };
    Ok(Dialled { socket, session, warning: greeted.welcome.warning })
}

fn hello_of(options: &Connect, session: Option<SessionWish>, agent_process: bool) -> Hello {
    Hello {
        protocol: wire::PROTOCOL,
        version: wire::VERSION.to_owned(),
        agent: options.agent.as_ref().map(Agent::to_string),
        cwd: wire::escape(&options.place.cwd),
        workspace: Some(wire::escape(&options.place.workspace)),
        session,
        agent_process,
        goes_by: false,
        contention: options.place.config.map(|config| config.contention.into()),
        confirms: false,
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is changed in small steps that cannot panic half-way; a poisoned one is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, mut request: Request, fd: Option<OwnedFd>) -> Result<u64, ClientError> {
        let mut state = self.lock();
        let id = state.take_number();
        request.id = Some(id);
        if matches!(request.op, Op::Lock | Op::Upgrade) && request.request_id.is_none() {
            // Named by us, so that it can be asked again after a restart and is the same request.
            request.request_id = Some(format!("c-{:016x}", os::random_u64()));
        }
        let line = wire::encode(&request);
        if line.len() > limits::LINE_MAX {
            let (bytes, most) = (line.len(), limits::LINE_MAX);
            let text = format!("the request is {bytes} bytes long, and at most {most} are taken; nothing was asked");
            let text = text + ": name fewer scopes at once, or lock the directory that they are in";
            return Err(ClientError::Refused(Box::new(WireError::new(Code::Invalid, text))));
        }
        let release = if request.lock_id.is_some() { Release::Lock } else { Release::Scope };
        let pending = Pending { op: request.op, line, fd, release, is_repeated: false, answer: None };
        match &state.link {
            Link::Up(socket) => pending.send(socket),
            // Whoever makes the connection may have had no reason to hurry until now.
            Link::Renewing => self.changed.notify_all(),
            Link::Down(why) => return Err(ClientError::SessionLost(why.clone())),
        }
        state.pending.insert(id, pending);
        Ok(id)
    }

    fn finish(&self, id: u64, within: Option<Duration>) -> Result<Option<Answer>, ClientError> {
        let until = within.map(|within| crate::clock::monotonic_ns().saturating_add(nanos(within)));
        let mut state = self.lock();
        loop {
            let pending = state.pending.get_mut(&id).expect("a request is finished once, after it was begun");
            if let Some(answer) = pending.answer.take() {
                let repeated = (pending.op == Op::Unlock && pending.is_repeated).then_some(pending.release);
                state.pending.remove(&id);
                return state.result(answer?, repeated).map(Some);
            }
            let left = match until.map(|until| until.saturating_sub(crate::clock::monotonic_ns())) {
                Some(0) => return Ok(None),
                left => left.map(Duration::from_nanos),
            };
            state = match &state.link {
                Link::Up(socket) if !state.is_reading => {
                    let (socket, generation) = (socket.clone(), state.generation);
                    state.is_reading = true;
                    drop(state);
                    self.read_one(&socket, generation, left)
                }
                _ => self.wait(state, left),
            };
        }
    }

    fn wait<'a>(&'a self, state: MutexGuard<'a, State>, within: Option<Duration>) -> MutexGuard<'a, State> {
        match within {
            None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(within) => self.changed.wait_timeout(state, within).unwrap_or_else(PoisonError::into_inner).0,
        }
    }

    /// Reads one line as the one reader, and gives it to whom it belongs.
    fn read_one(&self, socket: &Socket, generation: u64, within: Option<Duration>) -> MutexGuard<'_, State> {
        let read = {
            let mut lines = socket.lines.lock().unwrap_or_else(PoisonError::into_inner);
            wait_readable(&mut lines, within).and_then(|is_there| match is_there {
                true => read_line(&mut *lines).map(Some),
                false => Ok(None),
            })
        };
        let mut state = self.lock();
        state.is_reading = false;
        self.changed.notify_all();
        match read {
            // Time is up; whoever still waits reads on.
            Ok(None) => state,
            Ok(Some(Some(Line::Answer(answer)))) => {
                state.take_answer(*answer);
                state
            }
            Ok(Some(Some(Line::Bye(_)))) => {
                state.said_bye = true;
                state
            }
            // Subscriptions have connections of their own; what nobody asked for here is nobody's.
            Ok(Some(Some(Line::Event(_) | Line::Gap(_)))) => state,
            Ok(Some(Some(Line::Hello(_)))) => self.give_up(state, "the daemon greeted twice".to_owned()),
            Ok(Some(None)) => self.renew(state, generation),
            Err(ClientError::Io(error)) if is_broken(&error) => self.renew(state, generation),
            Err(error) => self.give_up(state, error.to_string()),
        }
    }

    /// Makes a new connection in the place of a broken one and sends again what has no answer yet.
    fn renew<'a>(&'a self, mut state: MutexGuard<'a, State>, generation: u64) -> MutexGuard<'a, State> {
        if state.generation != generation {
            return state;
        }
        state.generation += 1;
        state.link = Link::Renewing;
        let give_up_at = crate::clock::monotonic_ns().saturating_add(RECONNECT_WITHIN * 1_000_000);
        loop {
            let session = state.session.clone();
            let is_needed = !state.said_bye || state.pending.values().any(|pending| pending.answer.is_none());
            let launch = match is_needed && !state.closed {
                true => self.connect.launch.clone(),
                false => Launch::Never,
            };
            let is_patient = launch == Launch::Never && self.connect.launch != Launch::Never && !state.closed;
            drop(state);
            let connect = Connect { launch, ..self.connect.clone() };
            let dialled = dial(&connect, session.as_ref(), self.agent_process.as_ref(), self.confirms);
            state = self.lock();
            match dialled {
                Ok(Dialled { socket, session, .. }) => return self.take_up(state, socket, session),
                // Whoever holds locks does not give them up because the daemon has no room for the moment.
                Err(ClientError::Refused(error)) if !matches!(error.code, Code::TooMany | Code::Unavailable) => {
                    return self.give_up(state, error.message);
                }
                Err(_) if is_patient || crate::clock::monotonic_ns() < give_up_at => {
                    let pause = if is_patient { LOOK_AGAIN_EVERY } else { RECONNECT_EVERY };
                    state = self.wait(state, Some(Duration::from_millis(pause)));
                }
                Err(error) => return self.give_up(state, error.to_string()),
            }
        }
    }

    fn take_up<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        socket: Socket,
        session: Option<SessionProof>,
    ) -> MutexGuard<'a, State> {
        // First, as they were: what waits for these locks here must not find them held. A failure to send anything
        // shows when an answer is read, as above.
        for lock_id in state.ledger.leaving() {
            let _ = (&socket.stream).write_all(&wire::encode(&release_of(lock_id)));
        }
        for pending in state.pending.values_mut().filter(|pending| pending.answer.is_none()) {
            pending.is_repeated = true;
            pending.send(&socket);
        }
        state.session = session;
        state.said_bye = false;
        state.link = Link::Up(Arc::new(socket));
        self.changed.notify_all();
        state
    }

    fn give_up<'a>(&'a self, mut state: MutexGuard<'a, State>, why: String) -> MutexGuard<'a, State> {
        for pending in state.pending.values_mut().filter(|pending| pending.answer.is_none()) {
            pending.answer = Some(Err(ClientError::SessionLost(why.clone())));
        }
        state.link = Link::Down(why);
        self.changed.notify_all();
        state
    }

    /// Sleeps until the connection breaks, then makes a new one; until nobody needs it.
    fn keep(&self) {
        let mut state = self.lock();
        loop {
            if state.closed {
                return self.part(state);
            }
            state = match &state.link {
                Link::Down(_) => return,
                Link::Renewing => self.wait(state, None),
                Link::Up(socket) => {
                    let (socket, generation) = (socket.clone(), state.generation);
                    drop(state);
                    wait_for_hang_up(&socket.stream, Some(&self.closing));
                    let mut state = self.lock();
                    if state.closed {
                        state
                    } else if state.is_reading {
                        // Whoever reads finds the break as well.
                        self.wait(state, None)
                    } else {
                        // What came before the break is taken first: a good-bye says that the daemon was stopped on
                        // purpose.
                        state.is_reading = true;
                        drop(state);
                        self.read_one(&socket, generation, None)
                    }
                }
            };
        }
    }

    /// Nobody needs the connection any more. Where the daemon is away it is returned to once, or it would wait for the
    /// session, and where releases may not have arrived it is asked something: its answer shows that they have.
    fn part<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        while !state.has_said_all() {
            state = match &state.link {
                Link::Down(_) => return,
                Link::Up(socket) if has_hung_up(&socket.stream) => {
                    let generation = state.generation;
                    self.renew(state, generation)
                }
                Link::Up(_) | Link::Renewing => {
                    drop(state);
                    let within = Some(Duration::from_millis(limits::ANSWER_WITHIN));
                    let asked = self.begin(Request::new(Op::Daemon), None);
                    if !matches!(asked.and_then(|id| self.finish(id, within)), Ok(Some(_))) {
                        return self.lock().close();
                    }
                    self.lock()
                }
            };
        }
        state.close();
    }
}

impl State {
    /// Whether the daemon is there and has read all that nobody waits for.
    fn has_said_all(&self) -> bool {
        let is_there = matches!(&self.link, Link::Up(socket) if !has_hung_up(&socket.stream));
        is_there && self.ledger.leaving().next().is_none()
    }

    fn close(&mut self) {
        if let Link::Up(socket) = &self.link {
            // The only failure is that it is closed already.
            let _ = socket.stream.shutdown(Shutdown::Both);
        }
        self.link = Link::Down("the connection was closed".to_owned());
    }

    fn take_number(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// Sends what is not kept for another try. A break is found by whoever reads or keeps.
    fn send(&self, request: &Request) {
        if let Link::Up(socket) = &self.link {
            let _ = (&socket.stream).write_all(&wire::encode(request));
        }
    }

    /// Sends a release that nobody waits for, now and, as long as it may not have arrived, on each new connection.
    fn give_back(&mut self, lock_id: &str) {
        if let Link::Down(_) = self.link {
            // The session is over, and with it its custody.
            self.ledger.forget(lock_id);
            return;
        }
        self.ledger.leave(lock_id, self.next_id);
        self.send(&release_of(lock_id));
    }

    /// Gives an answer to whom it belongs.
    fn take_answer(&mut self, answer: Answer) {
        let Some(id) = answer.id else { return };
        self.ledger.note(id, &answer);
        match self.pending.get_mut(&id) {
            Some(pending) => pending.answer = Some(Ok(answer)),
            None => self.nobody_waits_for(&answer),
        }
    }

    /// What an answer means to whoever asked.
    fn result(&mut self, answer: Answer, repeated: Option<Release>) -> Result<Answer, ClientError> {
        let Answer { error: Some(error), lost, .. } = answer else { return Ok(answer) };
        self.losses.extend(lost);
        let over = self.losses.len().saturating_sub(limits::CLIENT_NOTICES_MAX);
        self.losses.drain(..over);
        // Sent twice across a restart of the daemon: the first one did it.
        let is_done = match repeated {
            None => false,
            Some(Release::Lock) => error.loss.as_ref().is_some_and(|loss| loss.reason == "released"),
            Some(Release::Scope) => matches!(error.code, Code::NotFound | Code::NotHolder),
        };
        if is_done {
            let ok = Some(wire::Body::Released(Vec::new()));
            return Ok(Answer { id: answer.id, ok, error: None, lost: Vec::new(), wanted: answer.wanted });
        }
        Err(ClientError::Refused(Box::new(error)))
    }

    /// What came too late goes back.
    fn nobody_waits_for(&mut self, answer: &Answer) {
        for (lock_id, is_upgrade) in ledger::granted(answer) {
            if is_upgrade {
                // What was shared before is shared again.
                let number = self.take_number();
                let lock_id = Some(lock_id.to_owned());
                self.send(&Request { id: Some(number), lock_id, ..Request::new(Op::Downgrade) });
            } else {
                self.give_back(lock_id);
            }
        }
    }
}

/// A release without an answer.
fn release_of(lock_id: &str) -> Request {
    Request { lock_id: Some(lock_id.to_owned()), ..Request::new(Op::Unlock) }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Waits until there is something to read, at most `within`; false if that time is over. The read that follows has a
/// bound of its own, set when the connection was made: what has begun to arrive comes whole or is broken.
fn wait_readable(lines: &mut BufReader<UnixStream>, within: Option<Duration>) -> Result<bool, ClientError> {
    if !lines.buffer().is_empty() {
        return Ok(true);
    }
    let within = within.map(|within| Timespec {
        tv_sec: i64::try_from(within.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(within.subsec_nanos()),
    });
    let mut polled = [PollFd::new(lines.get_ref(), PollFlags::IN)];
    match rustix::event::poll(&mut polled, within.as_ref()) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(errno) => Err(ClientError::Io(errno.into())),
    }
}

/// Whether the other end of a connection is closed.
fn has_hung_up(stream: &UnixStream) -> bool {
    let mut polled = [PollFd::new(stream, PollFlags::RDHUP)];
    rustix::event::poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

/// Waits until the other end of a connection is closed, or `or` is readable; what arrives on it wakes nobody.
fn wait_for_hang_up(stream: &UnixStream, or: Option<&OwnedFd>) {
    let hang_up = PollFd::new(stream, PollFlags::RDHUP);
    let mut polled: Vec<PollFd<'_>> =
        or.map(|or| PollFd::new(or, PollFlags::IN)).into_iter().chain([hang_up]).collect();
    loop {
        match rustix::event::poll(&mut polled, None) {
            Ok(_) => return,
            Err(error) if io::Error::from(error).kind() == ErrorKind::Interrupted => {}
            // A descriptor that cannot be polled is as good as closed: the next use of it tells.
            Err(_) => return,
        }
    }
}
