//! The one readiness loop: it owns the sockets and the coordinator, and waits for nothing but readiness.
//!
//! Each round reads what has arrived, turns lines into commands, hands all of them to the coordinator as one batch,
//! and writes the answers out. Workspace files are looked up from the kernel's memory here, or else by file threads;
//! the loop itself never waits for a disk that is not the journal's, nor for a peer.

mod agents;
mod commits;
pub mod deliveries;
pub mod flocks;
mod peer;
pub mod postings;
mod request;
mod stats;
mod subscribers;
mod watch;
mod webhooks;
mod writes;

use crate::clock;
use crate::coordinator::{Addressed, Coordinator};
use crate::events::Ahead;
use crate::limits;
use crate::model::*;
use crate::os::files::{self, FilePool, Looked, Lookup};
use crate::os::paths::{self, Look, PathError};
use crate::os::{self, process};
use crate::scope::Target;
use crate::webhook::Courier;
use crate::wire::render::{self, About};
use crate::wire::{self, Answer as Message, Body, Code, DaemonBody, Hello, Line, Op, Request, SessionWish, Welcome};
use agents::Agents;
use crossbeam_channel::{Receiver, bounded};
use deliveries::{Cargo, Deliveries};
use mio::net::UnixListener;
use mio::{Events, Interest, Poll, Token, Waker};
use peer::{Peer, READ_AT_ONCE, Read, Stage};
use request::{Sender, Unfit, Wish};
use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;
use subscribers::Subscribers;
use watch::Watches;
use webhooks::Webhooks;
use writes::Writes;

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
const STOP: Token = Token(2);
/// Tokens of connections and watches begin here and are never used twice.
const FIRST_FREE: usize = 16;
/// The id under which the table answers a greeting; clients may not use it.
const GREETING: u64 = u64::MAX;
/// Most requests taken from one peer before it is answered: answers are bounded by what was asked at once.
const LINES_AT_ONCE: usize = 16;
/// Out of descriptors: when to try to accept again. Somebody has to close one first, which nothing tells us.
const ACCEPT_AGAIN: u64 = 100;
/// The same for processes that could not be watched.
const WATCH_AGAIN: u64 = limits::SECOND;

/// What a server is told about itself.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its home, for people.
    pub home: String,
    /// Its socket, for people.
    pub socket: String,
    /// Milliseconds without locks, waiters and connections after which it ends; none never.
    pub idle_exit: Option<u64>,
}

/// Said to everybody by a daemon that ends in order.
const STOPPED: &str = "the daemon stops; locks stay in its journal";
/// Said to everybody, and to the log, by a daemon whose home is not its own any more.
pub const HOME_LOST: &str = "the home of the daemon was moved, removed or replaced while it ran, so the daemon ends; \
                             its locks are over unless its journal is put back";

/// Why a server ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to, by signal or by a client.
    Stopped,
    /// Nobody needed it for a while.
    Idle,
    /// Its home is not its own any more.
    HomeLost,
}

/// Whether the home is still the server's own; true where that cannot be found out.
pub type HomeLook = Box<dyn Fn() -> bool + Send>;

/// The connections of a server that has ended. They close when this is dropped: a client that sees its own close
/// finds the home free.
pub struct Connections {
    _peers: HashMap<u64, Peer>,
}

/// A request whose scopes are looked up.
struct Looking {
    request: Request,
    cwd: Box<[u8]>,
    /// The scopes, as typed.
    raws: Vec<Vec<u8>>,
    /// The first of them, looked up.
    found: Vec<Target>,
}

/// A request that waits for a path.
struct Pending {
    conn: u64,
    looking: Looking,
    until: Moment,
}

/// The loop and all that it owns.
pub struct Server {
    poll: Poll,
    listener: UnixListener,
    /// Open as long as the loop runs: what is closed tells nothing.
    _stop: mio::net::UnixStream,
    coordinator: Coordinator,
    about: Identity,
    files: FilePool<Lookup>,
    looked: Receiver<Looked>,
    peers: HashMap<u64, Peer>,
    watches: Watches,
    agents: Agents,
    deliveries: Deliveries,
    pending: HashMap<u64, Pending>,
    /// Peers that have not said hello, in the order of their deadlines.
    silent: VecDeque<(Moment, u64)>,
    /// Peers with something to read or in the inbox.
    ready: Vec<u64>,
    /// Peers with something to send.
    dirty: Vec<u64>,
    /// What is read comes through here.
    buffer: Box<[u8]>,
    commands: Vec<Command>,
    /// Questions about the daemon itself, answered after the batch they came with.
    own_questions: Vec<(u64, Request, Vec<Target>)>,
    /// Whoever wants to be told what happens, or no more; after the batch as well.
    wishes: Vec<(u64, u64, Wish)>,
    subscribers: Subscribers,
    webhooks: Webhooks,
    writes: Writes,
    /// A subscriber has read what it was told, and there is more.
    has_more_to_tell: bool,
    /// The newest event that subscribers have been told of.
    told_through: u64,
    next_token: usize,
    accept_again: Option<Moment>,
    /// Processes that could not be watched yet, and when that is tried again.
    unwatched: Vec<Process>,
    watch_again: Option<Moment>,
    begun: Moment,
    idle_since: Option<Moment>,
    home_look: HomeLook,
    look_at_home: Moment,
    stopping: bool,
}

impl Server {
    /// Builds the loop. The caller brings everything: a bound listener, a stream that becomes readable when it is
    /// time to stop, the coordinator, made with a wake from `waker`, and a look at the home.
    ///
    /// # Errors
    /// When the system gives no more descriptors.
    pub fn new(
        poll: Poll,
        waker: &Arc<Waker>,
        listener: std::os::unix::net::UnixListener,
        stop: UnixStream,
        coordinator: Coordinator,
        about: Identity,
        home_look: HomeLook,
    ) -> io::Result<Server> {
        listener.set_nonblocking(true)?;
        stop.set_nonblocking(true)?;
        let mut listener = UnixListener::from_std(listener);
        let mut stop = mio::net::UnixStream::from_std(stop);
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        poll.registry().register(&mut stop, STOP, Interest::READABLE)?;
        let (wake, wake_for_posts) = (waker.clone(), waker.clone());
        // A full channel makes file threads wait for the loop, which never waits for them.
        let (answers, looked) = bounded(limits::FILE_QUEUE);
        let files = files::lookups(limits::FILE_THREADS, limits::FILE_QUEUE, answers, move || wake_up(&wake));
        let writes = Writes::new(waker, &coordinator);
        let now = clock::now().mono;
        Ok(Server {
            poll,
            listener,
            _stop: stop,
            coordinator,
            about,
            files,
            looked,
            peers: HashMap::new(),
            watches: Watches::default(),
            agents: Agents::default(),
            deliveries: Deliveries::default(),
            pending: HashMap::new(),
            silent: VecDeque::new(),
            ready: Vec::new(),
            dirty: Vec::new(),
            buffer: vec![0; READ_AT_ONCE].into(),
            commands: Vec::new(),
            own_questions: Vec::new(),
            wishes: Vec::new(),
            subscribers: Subscribers::default(),
            webhooks: Webhooks::new(Courier::new(move || wake_up(&wake_for_posts))),
            writes,
            has_more_to_tell: false,
            told_through: 0,
            next_token: FIRST_FREE,
            accept_again: None,
            unwatched: Vec::new(),
            watch_again: None,
            begun: now,
            idle_since: Some(now),
            home_look,
            look_at_home: now.after(limits::HOME_LOOK),
            stopping: false,
        })
    }

    /// The token under which a [`Waker`] for this loop is to be registered.
    pub const fn waker_token() -> Token {
        WAKER
    }

    /// Serves until told to stop, then ends in order. `log` is told what whoever looks after the machine is to know.
    ///
    /// # Errors
    /// When the system refuses to wait for readiness, or the journal cannot be closed.
    pub fn run(mut self, mut log: impl FnMut(&str)) -> io::Result<(Ended, Connections)> {
        self.watch_restored();
        let mut events = Events::with_capacity(1024);
        let ended = loop {
            let now = clock::now();
            self.round(now);
            self.writes.take_troubles(now.mono).iter().for_each(|trouble| log(trouble));
            if self.stopping && self.commands.is_empty() {
                break Ended::Stopped;
            }
            if self.stopping {
                // Answers that did not arrive have become releases.
                continue;
            }
            if self.is_idle_for_long(clock::now().mono) {
                break Ended::Idle;
            }
            if self.has_lost_home(clock::now().mono) {
                break Ended::HomeLost;
            }
            match self.poll.poll(&mut events, self.timeout(clock::now().mono)) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            for event in &events {
                self.take_event(event.token(), event.is_readable(), event.is_read_closed());
            }
        };
        self.farewell(if ended == Ended::HomeLost { HOME_LOST } else { STOPPED });
        match self.coordinator.close() {
            Err(error) if ended != Ended::HomeLost => return Err(io::Error::other(error.to_string())),
            _ => {}
        }
        Ok((ended, Connections { _peers: self.peers }))
    }

    // ── Rounds ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Reads, decides, answers: one batch.
    fn round(&mut self, now: Now) {
        for conn in std::mem::take(&mut self.ready) {
            self.read_from(conn, now);
        }
        self.give_up_on_silent(now.mono);
        self.give_up_on_lookups(now.mono);
        if self.watch_again.is_some_and(|again| again <= now.mono) {
            self.watch_unwatched();
        }
        if self.writes.next_deadline().is_some_and(|again| again <= now.mono) {
            self.writes.take(now.mono, &mut self.commands);
        }
        let is_due = self.coordinator.next_deadline().is_some_and(|due| due <= now.mono);
        if is_due {
            self.commands.push(Command::Tick);
        }
        if !self.commands.is_empty() {
            let commands = std::mem::take(&mut self.commands);
            let answers = self.coordinator.turn(now, commands);
            self.deliver(answers, now);
        }
        for (conn, request, targets) in std::mem::take(&mut self.own_questions) {
            self.answer_myself(conn, &request, &targets, now);
        }
        for (conn, id, wish) in std::mem::take(&mut self.wishes) {
            self.subscribe(conn, id, wish);
        }
        self.tell();
        self.writes.follow(&self.coordinator);
        self.webhooks.go_on(&self.coordinator, now, &mut self.commands);
        let mut dirty = std::mem::take(&mut self.dirty);
        // Grants first: somebody has waited for them, and to wake whoever released costs as much as all before.
        dirty.sort_by_key(|conn| !self.peers.get(conn).is_some_and(|peer| peer.load.brings_a_grant()));
        for conn in dirty {
            self.flush(conn);
        }
    }

    fn take_event(&mut self, token: Token, is_readable: bool, is_read_closed: bool) {
        match token {
            LISTENER => self.accept(clock::now().mono),
            WAKER => self.take_results(clock::now()),
            STOP => self.stopping = true,
            Token(number) => {
                let conn = number as u64;
                if let Some(peer) = self.peers.get_mut(&conn) {
                    peer.is_readable |= is_readable || is_read_closed;
                    peer.has_hung_up |= is_read_closed;
                    self.ready.push(conn);
                    self.dirty.push(conn);
                } else if let Some(process) = self.watches.ended(self.poll.registry(), token) {
                    self.agents.gone(process);
                    self.commands.push(Command::ProcessGone(process));
                }
            }
        }
    }

    fn timeout(&self, now: Moment) -> Option<Duration> {
        if !self.ready.is_empty() || !self.commands.is_empty() || self.has_more_to_tell {
            return Some(Duration::ZERO);
        }
        let idle = self.about.idle_exit.and_then(|ms| Some(self.idle_since?.after(ms)));
        let silent = self.silent.front().map(|(until, _)| *until);
        let lookup = self.pending.values().map(|pending| pending.until).min();
        let webhook = self.webhooks.next_deadline(&self.coordinator);
        let next = [
            webhook,
            self.writes.next_deadline(),
            self.coordinator.next_deadline(),
            idle,
            silent,
            lookup,
            self.accept_again,
            self.watch_again,
        ];
        let next = next.into_iter().flatten().min().map_or(self.look_at_home, |next| next.min(self.look_at_home));
        // A millisecond more: the clock is cut to milliseconds, and to wake early is to wake twice.
        Some(Duration::from_millis(next.left(now) + u64::from(next > now)))
    }

    fn is_idle_for_long(&mut self, now: Moment) -> bool {
        if !self.peers.is_empty() || !self.coordinator.is_idle() || !self.webhooks.is_idle(&self.coordinator) {
            self.idle_since = None;
            return false;
        }
        let since = *self.idle_since.get_or_insert(now);
        self.about.idle_exit.is_some_and(|ms| since.after(ms) <= now)
    }

    /// Looks now and then whether the home is still there: nothing tells that it was deleted.
    fn has_lost_home(&mut self, now: Moment) -> bool {
        if self.look_at_home > now {
            return false;
        }
        self.look_at_home = now.after(limits::HOME_LOOK);
        !(self.home_look)()
    }

    /// Results of other threads.
    fn take_results(&mut self, now: Now) {
        let answers = self.coordinator.sync_done(now);
        self.deliver(answers, now);
        for (caller, posted) in self.webhooks.take_results(&mut self.commands) {
            self.answer_body(caller.conn, caller.id, Body::Posted(wire::webhooks::posted(&posted.result, posted.took)));
        }
        self.writes.take(now.mono, &mut self.commands);
        // A turn takes up the answers of file threads.
        self.commands.push(Command::Tick);
        while let Ok(looked) = self.looked.try_recv() {
            if let Some(pending) = self.pending.remove(&looked.token) {
                self.lookup_ended(pending, looked.result, now);
            }
        }
    }

    // ── Connections ─────────────────────────────────────────────────────────────────────────────────────────────────

    fn accept(&mut self, now: Moment) {
        self.accept_again = None;
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => self.welcome(stream, now),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(_) => {
                    self.accept_again = Some(now.after(ACCEPT_AGAIN));
                    return;
                }
            }
        }
    }

    fn welcome(&mut self, stream: mio::net::UnixStream, now: Moment) {
        let known = process::peer(&stream);
        let conn = self.fresh_token();
        let process = known.as_ref().ok().and_then(|peer| peer.process.as_ref().map(|(process, _)| *process));
        let mut peer = Peer::new(stream, process, now.after(limits::HELLO_WITHIN));
        let registered = self.poll.registry().register(&mut peer.stream, conn, Interest::READABLE | Interest::WRITABLE);
        if registered.is_err() {
            return;
        }
        let refusal = match known {
            Ok(peer) if peer.uid != os::own_uid() => {
                Some((Code::Denied, "this home belongs to another user; set FLOCKD_HOME to one of your own".to_owned()))
            }
            Ok(_) if self.peers.len() >= limits::CONNECTIONS_MAX => {
                let text = format!("{} clients are connected, the most that may; try again", limits::CONNECTIONS_MAX);
                Some((Code::TooMany, text))
            }
            Ok(_) => None,
            Err(error) => Some((Code::Unavailable, format!("the kernel does not say who calls: {error}"))),
        };
        let conn = conn.0 as u64;
        self.silent.push_back((now.after(limits::HELLO_WITHIN), conn));
        self.peers.insert(conn, peer);
        self.ready.push(conn);
        if let Some((code, text)) = refusal {
            self.refuse_and_close(conn, code, text);
        }
    }

    fn fresh_token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token)
    }

    fn read_from(&mut self, conn: u64, now: Now) {
        let Some(peer) = self.peers.get_mut(&conn) else { return };
        let read = if peer.is_readable && peer.has_room() { peer.read(&mut self.buffer) } else { Read::Drained };
        if read == Read::Gone {
            self.take_lines(conn, now);
            self.close(conn);
            return;
        }
        if read == Read::Lossy {
            let text = "a descriptor was lost on the way: the daemon has no room for it, or too many came at once";
            return self.refuse_and_close(conn, Code::Unavailable, text.to_owned());
        }
        self.take_lines(conn, now);
        let Some(peer) = self.peers.get_mut(&conn) else { return };
        if matches!(peer.stage, Stage::Closing) {
            // It is only waited for that it takes what was said last, or goes.
            peer.discard();
        }
        if peer.is_readable && peer.has_room() {
            self.ready.push(conn);
        }
        let is_closing = matches!(peer.stage, Stage::Closing);
        if !is_closing && peer.is_overlong() {
            let text = format!("a line is longer than {} bytes", limits::LINE_MAX);
            self.refuse_and_close(conn, Code::Invalid, text);
        } else if !is_closing && peer.is_overloaded() {
            let text = "too many descriptors came along with a line".to_owned();
            self.refuse_and_close(conn, Code::Invalid, text);
        }
    }

    fn take_lines(&mut self, conn: u64, now: Now) {
        for _ in 0..LINES_AT_ONCE {
            let Some(peer) = self.peers.get_mut(&conn) else { return };
            if peer.is_behind() {
                // It goes on when it has read what it asked for.
                return;
            }
            let is_open = match peer.stage {
                Stage::New { .. } => false,
                Stage::Open if !peer.is_looking_up => true,
                Stage::Open | Stage::Greeting | Stage::Closing => return,
            };
            let Some(line) = peer.next_line() else { return };
            if line.len() > limits::LINE_MAX {
                let text = format!("a line is longer than {} bytes", limits::LINE_MAX);
                self.refuse_and_close(conn, Code::Invalid, text);
            } else if is_open {
                let is_long = self.take_request(conn, &line, now);
                if is_long {
                    break;
                }
            } else {
                self.take_hello(conn, &line);
            }
        }
        // The others have their turn, and this one its answers, before it goes on.
        self.ready.push(conn);
    }

    fn give_up_on_silent(&mut self, now: Moment) {
        while let Some((until, conn)) = self.silent.front().copied().filter(|(until, _)| *until <= now) {
            self.silent.pop_front();
            let is_new = |peer: &Peer| matches!(peer.stage, Stage::New { until: mine } if mine == until);
            if self.peers.get(&conn).is_some_and(is_new) {
                self.refuse_and_close(conn, Code::Invalid, "no hello came within 10 s".to_owned());
            }
        }
        if self.accept_again.is_some_and(|again| again <= now) {
            self.accept(now);
        }
    }

    /// Says why and takes nothing more from this peer.
    fn refuse_and_close(&mut self, conn: u64, code: Code, text: String) {
        self.send(conn, &Line::Answer(Box::new(render::failure(None, code, text))));
        if let Some(peer) = self.peers.get_mut(&conn) {
            peer.stage = Stage::Closing;
        }
        self.dirty.push(conn);
    }

    /// A connection is over: what waited is withdrawn, what was not delivered is taken back, its session ends.
    fn close(&mut self, conn: u64) {
        let Some(mut peer) = self.peers.remove(&conn) else { return };
        // Closing the descriptor ends the registration anyway.
        let _ = self.poll.registry().deregister(&mut peer.stream);
        let has_open_requests = !peer.open.is_empty();
        self.subscribers.remove(conn);
        self.deliveries.closed(conn, peer.load, has_open_requests, peer.session, &mut self.commands);
        if let Some(process) = peer.watched {
            self.watches.release(self.poll.registry(), process);
        }
    }

    fn flush(&mut self, conn: u64) {
        let Some(peer) = self.peers.get_mut(&conn) else { return };
        let was_behind = peer.is_behind();
        let result = peer.flush();
        self.deliveries.sent(&mut peer.load, peer.sent, &mut self.commands);
        if was_behind && !peer.is_behind() {
            self.ready.push(conn);
        }
        self.has_more_to_tell |= peer.takes_events() && self.subscribers.is_behind(conn, self.coordinator.bus());
        let is_over = matches!(peer.stage, Stage::Closing) && peer.has_sent_all();
        if result.is_err() || is_over {
            self.close(conn);
        }
    }

    fn send(&mut self, conn: u64, line: &Line) {
        self.send_with(conn, line, Cargo::default());
    }

    /// Sends a message with what it is the first to tell of.
    fn send_with(&mut self, conn: u64, line: &Line, cargo: Cargo) {
        let Some(peer) = self.peers.get_mut(&conn) else { return };
        let has_room = peer.push(line);
        peer.load.put(cargo, peer.end());
        self.dirty.push(conn);
        if !has_room {
            // It does not read: nobody waits for it.
            self.close(conn);
        }
    }

    /// Tells subscribers what has happened, each as far as it reads.
    fn tell(&mut self) {
        let bus = self.coordinator.bus();
        if !std::mem::take(&mut self.has_more_to_tell) && bus.newest() == self.told_through {
            return;
        }
        self.told_through = bus.newest();
        for conn in self.subscribers.behind(bus) {
            let peer = self.peers.get_mut(&conn).expect("a subscription ends with its connection");
            if self.subscribers.fill(conn, bus, peer) {
                self.dirty.push(conn);
            }
        }
    }

    /// Sends an answer that is not the table's.
    fn answer_body(&mut self, conn: u64, id: u64, body: Body) {
        let message = Message { id: Some(id), ok: Some(body), error: None, lost: vec![], wanted: vec![] };
        self.send(conn, &Line::Answer(Box::new(message)));
    }

    fn fail(&mut self, conn: u64, id: Option<u64>, (code, text): Unfit) {
        self.send(conn, &Line::Answer(Box::new(render::failure(id, code, text))));
    }

    /// Tells everybody that the daemon ends, so that clients do not start it again at once.
    fn farewell(&mut self, why: &str) {
        let bye = Line::Bye(why.to_owned());
        for conn in self.peers.keys().copied().collect::<Vec<_>>() {
            self.send(conn, &bye);
            self.flush(conn);
        }
    }

    // ── Hello ───────────────────────────────────────────────────────────────────────────────────────────────────────

    fn take_hello(&mut self, conn: u64, line: &[u8]) {
        let hello = match wire::decode_hello(line) {
            Ok(line) => line.hello,
            Err(text) => return self.refuse_and_close(conn, Code::Invalid, text),
        };
        let Some(peer) = self.peers.get_mut(&conn) else { return };
        match caller_of(&hello) {
            Ok(caller) => peer.caller = Some(caller),
            Err((code, text)) => return self.refuse_and_close(conn, code, text),
        }
        let caller = peer.caller.as_ref().expect("it was set just now");
        match request::threshold(hello.contention, &caller.workspace) {
            Ok(said) => self.commands.extend(said),
            Err((code, text)) => return self.refuse_and_close(conn, code, text),
        }
        peer.load.confirms = hello.confirms;
        peer.is_foreign = hello.protocol != wire::PROTOCOL;
        if hello.agent_process {
            self.take_agent_process(conn, hello.goes_by);
        }
        let peer = self.peers.get_mut(&conn).expect("it has just said hello");
        match hello.session.filter(|_| hello.protocol == wire::PROTOCOL) {
            None => {
                peer.stage = Stage::Open;
                let welcome = welcome(None, peer);
                self.send(conn, &Line::Hello(welcome));
            }
            Some(wish) => self.wish_session(conn, wish),
        }
    }

    /// Notes under which name an agent process calls, and what there is to say about it.
    fn take_agent_process(&mut self, conn: u64, goes_by: bool) {
        let Some(peer) = self.peers.get_mut(&conn) else { return };
        let agent = peer.caller.as_ref().and_then(|caller| caller.agent.clone());
        let Some(pidfd) = peer.passed_fd() else { return };
        let Ok(process) = process::process_of_pidfd(&pidfd) else { return };
        // A process that has ended, or cannot be watched, is not remembered.
        if let Some(agent) = agent.filter(|_| self.watch(process, pidfd).is_ok()) {
            let other = self.agents.says(process, &agent, clock::now().mono);
            if goes_by {
                self.agents.goes_by(process, &agent);
            }
            let warning = other.map(|other| {
                format!(
                    "another agent, process {}, calls itself {agent} as well: they share their locks, so nothing \
                     keeps them apart; give each a name of its own by --agent or FLOCKD_AGENT",
                    other.pid
                )
            });
            self.peers.get_mut(&conn).expect("it was there just now").warning = warning;
        }
        let goes_by = self.agents.name_of(process).map(Agent::to_string);
        self.peers.get_mut(&conn).expect("it was there just now").goes_by = goes_by;
    }

    fn wish_session(&mut self, conn: u64, wish: SessionWish) {
        let caller = Caller { conn, id: GREETING };
        let peer = self.peers.get_mut(&conn).expect("the greeting came from a peer");
        let agent = peer.caller.as_ref().and_then(|caller| caller.agent.clone());
        let Some(agent) = agent else {
            let text = "a session belongs to an agent: give --agent NAME or set FLOCKD_AGENT".to_owned();
            return self.refuse_and_close(conn, Code::Invalid, text);
        };
        let (id, kind) = match wish {
            SessionWish::Library => (SessionId(os::random_u64()), SessionKind::Library),
            SessionWish::Command => (SessionId(os::random_u64()), SessionKind::Command),
            SessionWish::Return(proof) => {
                let id = proof.id.parse::<SessionId>();
                let secret = u128::from_str_radix(&proof.secret, 16);
                let (Ok(id), Ok(secret)) = (id, secret) else {
                    let text = "the session's id or secret is malformed".to_owned();
                    return self.refuse_and_close(conn, Code::Invalid, text);
                };
                peer.stage = Stage::Greeting;
                peer.session = Some(id);
                let process = peer.process;
                self.commands.push(Command::ReturnSession { caller, id, secret, process });
                self.watch_peer(conn);
                return;
            }
        };
        let (secret, process) = (os::random_u128(), peer.process);
        peer.stage = Stage::Greeting;
        peer.session = Some(id);
        peer.secret = Some(secret);
        let session = Session { id, secret, agent, process, kind, away_until: None };
        self.commands.push(Command::OpenSession { caller, session });
        self.watch_peer(conn);
    }

    /// Watches the process of a session's connection, so that its death counts even where a child keeps the socket.
    fn watch_peer(&mut self, conn: u64) {
        let peer = &self.peers[&conn];
        let Some(process) = peer.process else { return };
        let is_watched = match process::peer(&peer.stream) {
            Ok(process::Peer { process: Some((found, pidfd)), .. }) => {
                found == process && self.watch(process, pidfd).is_ok()
            }
            _ => false,
        };
        if is_watched {
            self.peers.get_mut(&conn).expect("it was there just now").watched = Some(process);
        } else if !self.unwatched.contains(&process) {
            // Out of descriptors, most likely. The end of the connection tells of most deaths meanwhile.
            self.unwatched.push(process);
            self.watch_again = Some(clock::now().mono.after(WATCH_AGAIN));
        }
    }

    fn watch(&mut self, process: Process, pidfd: OwnedFd) -> io::Result<()> {
        let token = self.fresh_token();
        self.watches.add(self.poll.registry(), process, pidfd, token)
    }

    /// Finds the processes that restored locks and sessions hang on; those that are dead end now.
    fn watch_restored(&mut self) {
        self.unwatched = self.coordinator.table().processes().collect();
        self.watch_unwatched();
    }

    /// Tries to watch what could not be watched so far. Death that cannot be proved is life, until it can.
    fn watch_unwatched(&mut self) {
        self.watch_again = None;
        for process in std::mem::take(&mut self.unwatched) {
            let is_watched = match process::open_process(process) {
                Ok(Some(pidfd)) => self.watch(process, pidfd).is_ok(),
                Ok(None) => {
                    self.commands.push(Command::ProcessGone(process));
                    true
                }
                Err(_) => false,
            };
            if !is_watched {
                self.unwatched.push(process);
                self.watch_again = Some(clock::now().mono.after(WATCH_AGAIN));
            }
        }
    }

    // ── Requests ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Takes one request; true if its answer may be long, so that no other is taken before it is sent.
    fn take_request(&mut self, conn: u64, line: &[u8], now: Now) -> bool {
        let request = match wire::decode_request(line) {
            Ok(request) => request,
            Err((id, text)) => {
                self.fail(conn, id, (Code::Invalid, text));
                return false;
            }
        };
        if let Err(unfit) = self.take_passed(conn, &request) {
            self.fail(conn, request.id, unfit);
            return false;
        }
        let is_long = matches!(request.op, Op::Status | Op::Stats | Op::News);
        let peer = &self.peers[&conn];
        if let Some(id) = request.id
            && (id == GREETING || peer.open.contains_key(&id))
        {
            self.fail(conn, Some(id), (Code::Invalid, "this id is in use; number requests upwards".to_owned()));
            return false;
        }
        let greeted = peer.caller.as_ref().expect("requests come after the greeting");
        let place = request::place(&request, greeted);
        match place.and_then(|place| Ok((place.cwd, request::scopes_bytes(&request)?))) {
            Err(unfit) => self.fail(conn, request.id, unfit),
            Ok((cwd, raws)) => self.look_at(conn, Looking { request, cwd, raws, found: Vec::new() }, now),
        }
        is_long
    }

    /// Looks a request's scopes up, one after the other, and carries it out when the last one is found.
    fn look_at(&mut self, conn: u64, mut looking: Looking, now: Now) {
        while let Some(raw) = looking.raws.get(looking.found.len()) {
            match paths::target(&looking.cwd, raw, Look::CachedOnly) {
                Ok(target) => looking.found.push(target),
                Err(PathError::WouldBlock) => return self.look_up(conn, looking, now),
                Err(error) => return self.not_found(conn, looking.request.id, &error),
            }
        }
        self.carry_out(conn, looking.request, looking.found, now);
    }

    /// Gives a path to the file threads; the peer's later requests wait behind it.
    fn look_up(&mut self, conn: u64, looking: Looking, now: Now) {
        let peer = self.peers.get_mut(&conn).expect("the request came from a peer");
        let token = self.next_token as u64;
        self.next_token += 1;
        let raw = looking.raws[looking.found.len()].as_slice().into();
        if self.files.submit(Lookup { token, cwd: looking.cwd.clone(), raw }).is_err() {
            let text = "too many path look-ups wait: a file system does not answer".to_owned();
            return self.fail(conn, looking.request.id, (Code::Unavailable, text));
        }
        peer.is_looking_up = true;
        let until = now.mono.after(limits::FILE_WITHIN);
        self.pending.insert(token, Pending { conn, looking, until });
    }

    fn lookup_ended(&mut self, pending: Pending, result: Result<Target, PathError>, now: Now) {
        let Pending { conn, mut looking, .. } = pending;
        if let Some(peer) = self.peers.get_mut(&conn) {
            peer.is_looking_up = false;
            match result {
                Ok(target) => {
                    looking.found.push(target);
                    self.look_at(conn, looking, now);
                }
                Err(error) => self.not_found(conn, looking.request.id, &error),
            }
            self.ready.push(conn);
        }
    }

    fn give_up_on_lookups(&mut self, now: Moment) {
        let late = self.pending.iter().filter(|(_, pending)| pending.until <= now).map(|(token, _)| *token);
        for token in late.collect::<Vec<_>>() {
            let pending = self.pending.remove(&token).expect("it was found just now");
            let text = "the file system of this path does not answer; nothing was locked".to_owned();
            let now = Now { mono: now, ..clock::now() };
            self.lookup_ended(pending, Err(PathError::Io(text)), now);
        }
    }

    fn not_found(&mut self, conn: u64, id: Option<u64>, error: &PathError) {
        let code = match error {
            PathError::Invalid(_) => Code::Invalid,
            PathError::Denied(_) => Code::Denied,
            PathError::Io(_) | PathError::WouldBlock => Code::Unavailable,
        };
        self.fail(conn, id, (code, error.to_string()));
    }

    fn carry_out(&mut self, conn: u64, request: Request, targets: Vec<Target>, now: Now) {
        if matches!(request.op, Op::Stats | Op::Daemon | Op::Stop | Op::WebhookTest) {
            self.own_questions.push((conn, request, targets));
            return;
        }
        let peer = self.peers.get_mut(&conn).expect("the request came from a peer");
        if peer.is_foreign {
            let text = format!(
                "this daemon, flockd {}, speaks protocol {}, which the client does not: it may only `stop` it",
                wire::VERSION,
                wire::PROTOCOL
            );
            return self.fail(conn, request.id, (Code::Version, text));
        }
        if matches!(request.op, Op::Subscribe | Op::Unsubscribe) {
            match request::wish(&request, targets) {
                Ok((id, wish)) => self.wishes.push((conn, id, wish)),
                Err(unfit) => self.fail(conn, request.id, unfit),
            }
            return;
        }
        let caller = request.id.map(|id| Caller { conn, id });
        let greeted = peer.caller.as_ref().expect("requests come after the greeting");
        let info = match request::place(&request, greeted) {
            Ok(info) => info,
            Err(unfit) => return self.fail(conn, request.id, unfit),
        };
        match request::threshold(request.contention, &info.workspace) {
            Ok(said) => self.commands.extend(said),
            Err(unfit) => return self.fail(conn, request.id, unfit),
        }
        let (session, process) = (peer.session, peer.process);
        let passed = match self.watch_passed(conn, request.op) {
            Ok(passed) => passed,
            Err(unfit) => return self.fail(conn, request.id, unfit),
        };
        let sender = Sender { info, session, process, passed };
        let made = match request.op {
            Op::Bind => match caller {
                Some(caller) => bind(caller, &sender, &request),
                None => Err((Code::Invalid, "bind needs an id".to_owned())),
            },
            _ => request::command(&request, caller, &sender, targets, now),
        };
        match made {
            Ok((command, about)) => {
                if let (Some(id), Some(peer)) = (request.id, self.peers.get_mut(&conn)) {
                    peer.open.insert(id, about);
                }
                self.commands.push(command);
            }
            Err(unfit) => self.fail(conn, request.id, unfit),
        }
    }

    /// Takes the pidfd that comes with a request, if one is to: a number would prove nothing.
    fn take_passed(&mut self, conn: u64, request: &Request) -> Result<(), Unfit> {
        let is_wanted = request.op == Op::Bind || matches!(request.op, Op::Lock | Op::WebhookAdd) && request.bound;
        let peer = self.peers.get_mut(&conn).expect("the request came from a peer");
        peer.passed_process = None;
        if !is_wanted {
            return Ok(());
        }
        let Some(pidfd) = peer.passed_fd() else {
            return match request.op {
                // What else may be wrong with it is said first.
                Op::Bind => Ok(()),
                _ => Err((Code::Invalid, "`bound` needs a pidfd, passed along with the line".to_owned())),
            };
        };
        let process = process::process_of_pidfd(&pidfd).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::InvalidInput => {
                (Code::Invalid, format!("the descriptor passed along is no living process: {error}"))
            }
            _ => (Code::Unavailable, format!("the process cannot be looked at: {error}")),
        })?;
        peer.passed_process = Some((process, pidfd));
        Ok(())
    }

    /// Watches the process that came with a request that is carried out now. Not before: an end that is told before
    /// there is a lock would release nothing.
    fn watch_passed(&mut self, conn: u64, op: Op) -> Result<Option<Process>, Unfit> {
        let peer = self.peers.get_mut(&conn).expect("the request came from a peer");
        let Some((process, pidfd)) = peer.passed_process.take() else { return Ok(None) };
        // It may have died while the path was looked up, and keeps its number until it is collected. What is bound to
        // it afterwards ends in order; a lock that would end at once is not given out.
        if op != Op::Bind && process::is_dead(&pidfd).unwrap_or(false) {
            let text = match op {
                Op::WebhookAdd => "the process that the webhook was to go with has ended; nothing was added",
                _ => "the process that the lock was to end with has ended; nothing was locked",
            };
            return Err((Code::Invalid, text.to_owned()));
        }
        self.watch(process, pidfd)
            .map_err(|error| (Code::Unavailable, format!("the process cannot be watched: {error}")))?;
        Ok(Some(process))
    }

    // ── Answers ─────────────────────────────────────────────────────────────────────────────────────────────────────

    fn deliver(&mut self, answers: Vec<Addressed>, now: Now) {
        for (to, mut answer) in answers {
            if to.id == GREETING {
                self.greet(to.conn, &answer.reply, now);
                continue;
            }
            let peer = self.peers.get_mut(&to.conn);
            let load = peer.as_ref().map(|peer| &peer.load);
            let cargo = self.deliveries.pack(to.conn, &mut answer, load, &mut self.commands);
            let (Some(peer), Some(cargo)) = (peer, cargo) else { continue };
            let about = peer.open.remove(&to.id).unwrap_or(About::Other);
            let message = render::answer(to.id, &answer, &about, now);
            self.send_with(to.conn, &Line::Answer(Box::new(message)), cargo);
        }
    }

    fn greet(&mut self, conn: u64, reply: &Reply, now: Now) {
        let peer = self.peers.get_mut(&conn);
        if let Reply::SessionOpen(id) = reply {
            self.deliveries.session_opened(*id, conn, peer.is_some(), &mut self.commands);
        }
        let Some(peer) = peer else { return };
        match reply {
            Reply::SessionOpen(id) => {
                peer.stage = Stage::Open;
                let proof = peer
                    .secret
                    .take()
                    .map(|secret| wire::SessionProof { id: id.to_string(), secret: format!("{secret:032x}") });
                let welcome = welcome(proof, peer);
                self.send(conn, &Line::Hello(welcome));
                self.ready.push(conn);
            }
            reply => {
                let fault = Answer::bare(reply.clone());
                let mut message = render::answer(0, &fault, &About::Other, now);
                message.id = None;
                peer.stage = Stage::Closing;
                peer.session = None;
                if let Some(process) = peer.watched.take() {
                    self.watches.release(self.poll.registry(), process);
                }
                self.send(conn, &Line::Answer(Box::new(message)));
            }
        }
    }

    /// Begins or ends a subscription.
    fn subscribe(&mut self, conn: u64, id: u64, wish: Wish) {
        if !self.peers.contains_key(&conn) {
            return;
        }
        let body = match wish {
            Wish::Nothing => Ok(Body::Unsubscribed(self.subscribers.remove(conn))),
            Wish::Events { .. } if self.subscribers.has(conn) => {
                let text = "this connection has a subscription; unsubscribe first, or use another connection";
                Err((Code::Invalid, text.to_owned()))
            }
            Wish::Events { since, filter } => match self.coordinator.bus().cursor(since) {
                Ok(cursor) => {
                    self.subscribers.add(conn, cursor, filter);
                    self.has_more_to_tell = true;
                    Ok(Body::Subscribed(wire::SubscribedBody { seq: self.coordinator.bus().newest() }))
                }
                Err(Ahead { newest }) => {
                    let text = format!("there is no event with that number yet: the newest number is {newest}");
                    Err((Code::Invalid, text))
                }
            },
        };
        match body {
            Ok(body) => self.answer_body(conn, id, body),
            Err(unfit) => self.fail(conn, Some(id), unfit),
        }
    }

    /// Sends a test to a webhook. It is answered when that has arrived, or has not.
    fn test_webhook(&mut self, caller: Caller, request: &Request, now: Now) -> Result<(), Unfit> {
        let id = webhooks::webhook_id(request)?;
        match self.coordinator.table().webhook_named(id) {
            Some(webhook) => self.webhooks.test(webhook, caller, now),
            None => {
                let text = format!("there is no webhook {id}; `flockd webhook list` shows those there are");
                Err((Code::NotFound, text))
            }
        }
    }

    /// What only the server knows.
    fn answer_myself(&mut self, conn: u64, request: &Request, targets: &[Target], now: Now) {
        let Some(id) = request.id else { return };
        let body = match request.op {
            Op::Daemon => {
                let table = self.coordinator.table();
                Ok(Body::Daemon(DaemonBody {
                    pid: std::process::id(),
                    version: wire::VERSION.to_owned(),
                    home: self.about.home.clone(),
                    socket: self.about.socket.clone(),
                    uptime_ms: now.mono.0.saturating_sub(self.begun.0),
                    locks: table.locks(),
                    waiters: table.waiters(),
                    sessions: table.sessions(),
                    connections: self.peers.len(),
                    subscribers: self.subscribers.count(),
                    trouble: self.coordinator.trouble().map(str::to_owned),
                }))
            }
            Op::Stop => match &request.version {
                Some(version) if !wire::is_newer(version, wire::VERSION) => {
                    let text = format!("flockd {version} is not newer than this daemon, {}", wire::VERSION);
                    Err((Code::Version, text))
                }
                _ => {
                    self.stopping = true;
                    Ok(Body::Stopping(true))
                }
            },
            Op::Stats => Ok(self.stats(request, targets, now)),
            Op::WebhookTest => match self.test_webhook(Caller { conn, id }, request, now) {
                Ok(()) => return,
                Err(unfit) => Err(unfit),
            },
            op => unreachable!("{op:?} is the table's"),
        };
        match body {
            Ok(body) => self.answer_body(conn, id, body),
            Err(unfit) => self.fail(conn, Some(id), unfit),
        }
    }
}

/// A lock is bound to the process whose pidfd came with the request.
fn bind(caller: Caller, sender: &Sender, request: &Request) -> Result<(Command, About), Unfit> {
    let id = request::lock_id(request)?;
    let invalid = |text: &str| (Code::Invalid, text.to_owned());
    let who = match (&sender.info.agent, sender.session) {
        (Some(agent), Some(session)) => Who { agent: agent.clone(), session: Some(session) },
        _ => return Err(invalid("only a session binds locks to processes")),
    };
    let process = sender.passed.ok_or_else(|| invalid("bind needs a pidfd, passed along with the line"))?;
    Ok((Command::Bind { caller, who, id, process }, About::Other))
}

/// Wakes a loop from another thread.
pub fn wake_up(waker: &Waker) {
    waker.wake().expect("an eventfd takes a wake at any time");
}

fn welcome(session: Option<wire::SessionProof>, peer: &mut Peer) -> Welcome {
    let (protocol, version) = (wire::PROTOCOL, wire::VERSION.to_owned());
    let (warning, goes_by) = (peer.warning.take(), peer.goes_by.take());
    Welcome { protocol, version, pid: std::process::id(), session, warning, goes_by }
}

/// Who calls, checked.
fn caller_of(hello: &Hello) -> Result<peer::Caller, Unfit> {
    let invalid = |text: String| (Code::Invalid, text);
    let agent = hello.agent.as_deref().map(Agent::new).transpose().map_err(|error| invalid(error.0))?;
    let cwd = request::absolute("working directory", &hello.cwd)?;
    let root = match &hello.workspace {
        Some(text) => request::absolute("workspace", text)?,
        None => cwd.clone(),
    };
    Ok(peer::Caller { agent, cwd: cwd.into(), workspace: Workspace { root: root.into() } })
}
