//! What stands between clients and the coordinator, as `src/server` does it but without sockets: connections are
//! queues, and the simulator decides who is read when, how much of an answer leaves, and what a client has got of it.
//! What follows when an answer arrives or does not is the daemon's own code (`server/deliveries.rs`).

use crate::auditor::Auditor;
use crate::flocks::Machine;
use crate::log::Log;
use crate::webhooks::{ADMIN, Outbox};
use flockd::coordinator::Coordinator;
use flockd::model::*;
use flockd::scope::Target;
use flockd::server::deliveries::{Cargo, Deliveries, Load};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// The id under which a greeting is answered.
pub const GREETING: u64 = u64::MAX;
/// The connection over which the auditor asks for the status. No client has it.
pub const AUDITOR: u64 = 1;

/// What a client wants of a session.
#[derive(Clone, Debug)]
pub enum Wish {
    New(SessionKind),
    Return(SessionId, u128),
}

/// A request as it travels: times are relative, as on the wire.
#[derive(Clone, Debug)]
pub enum Op {
    Lock {
        target: Target,
        mode: Mode,
        lease: Lease,
        wait: Option<u64>,
        bound: Option<Process>,
        request: Option<RequestId>,
        os: bool,
    },
    LockSet {
        targets: Vec<Target>,
        mode: Mode,
        lease: Lease,
        wait: Option<u64>,
        bound: Option<Process>,
        request: Option<RequestId>,
        os: bool,
    },
    WaitFree {
        target: Target,
        mode: Mode,
        wait: Option<u64>,
    },
    Upgrade {
        which: Which,
        wait: Option<u64>,
        request: Option<RequestId>,
    },
    Downgrade(Which),
    Unlock(Which),
    Renew(Which, Option<u64>),
    Check(Target, Option<Fence>),
    Write(Target, Option<Fence>),
    Break(LockId),
    Status(Option<Target>),
    News,
    Bind(LockId, Process),
    Cancel(u64),
    GiveUp(TicketId),
}

impl Op {
    /// The process whose pidfd travels with it.
    pub fn process(&self) -> Option<Process> {
        match self {
            Op::Lock { bound, .. } | Op::LockSet { bound, .. } => *bound,
            Op::Bind(_, process) => Some(*process),
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
pub enum ToServer {
    Hello(Agent, Option<Wish>),
    Request(Option<u64>, Op),
}

#[derive(Clone, Debug)]
pub enum ToClient {
    Welcome(Option<(SessionId, u128)>),
    Refused,
    Answer(u64, Box<Answer>),
}

/// A socket: what is in the kernel's hands, both ways.
pub struct Pipe {
    pub process: Process,
    pub to_server: VecDeque<ToServer>,
    pub to_client: VecDeque<ToClient>,
    /// The client's end is closed, as far as the kernel knows.
    pub client_closed: bool,
    pub server_closed: bool,
    /// The client does not read and the kernel takes no more for it.
    pub full: bool,
}

struct Peer {
    process: Process,
    agent: Option<Agent>,
    session: Option<SessionId>,
    secret: Option<u128>,
    open: BTreeSet<u64>,
    outbox: VecDeque<ToClient>,
    /// All messages that were ever sent.
    sent: u64,
    load: Load,
    closing: bool,
}

impl Peer {
    fn push(&mut self, message: ToClient, cargo: Cargo) {
        self.outbox.push_back(message);
        self.load.put(cargo, self.sent + self.outbox.len() as u64);
    }
}

/// Where within a round the daemon is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// Everything is written and nobody is told.
    AfterTheTurn,
    /// Some are told.
    AmidTheAnswers,
}

/// The daemon without its sockets.
pub struct Server {
    pub coordinator: Coordinator,
    peers: BTreeMap<u64, Peer>,
    deliveries: Deliveries,
    /// Processes that are watched, by how many.
    watched: BTreeMap<Process, u32>,
    /// Processes of which it was told that they are dead.
    ended: BTreeSet<Process>,
    pub commands: Vec<Command>,
    /// Posts to webhooks.
    pub outbox: Outbox,
    /// Webhooks that somebody was told are there.
    pub promised: Vec<WebhookId>,
    dirty: BTreeSet<u64>,
    /// A connection was closed since it was last looked whether all grants are heard of.
    has_closed: bool,
    /// What everybody's workspace has in its `.flockd.toml`.
    threshold: Threshold,
    /// It is killed in the next turn, here.
    pub dies: Option<Death>,
    is_dead: bool,
}

/// What the server needs of the world for a round.
pub struct Around<'a> {
    pub now: Now,
    pub pipes: &'a mut BTreeMap<u64, Pipe>,
    pub machine: &'a Machine,
    pub dead: &'a BTreeSet<Process>,
    pub auditor: &'a mut Auditor,
    pub log: &'a mut Log,
    /// Gives session ids, secrets and the amount of a full pipe that still goes through.
    pub draw: &'a mut dyn FnMut() -> u64,
}

impl Server {
    /// Goes on with a loaded coordinator; what it restored is watched, and who is dead already is told.
    pub fn new(coordinator: Coordinator, dead: &BTreeSet<Process>, threshold: Threshold) -> Server {
        let restored: BTreeSet<Process> = coordinator.table().processes().collect();
        let mut server = Server {
            coordinator,
            peers: BTreeMap::new(),
            deliveries: Deliveries::default(),
            watched: BTreeMap::new(),
            ended: BTreeSet::new(),
            commands: Vec::new(),
            outbox: Outbox::default(),
            promised: Vec::new(),
            dirty: BTreeSet::new(),
            has_closed: false,
            threshold,
            dies: None,
            is_dead: false,
        };
        for process in restored {
            if dead.contains(&process) {
                server.ended.insert(process);
                server.commands.push(Command::ProcessGone(process));
            } else {
                server.watched.insert(process, 1);
            }
        }
        server
    }

    /// A file thread has an answer: a turn takes it up.
    pub fn wake(&mut self) {
        self.commands.push(Command::Tick);
    }

    /// The kernel tells of a watched process that it is dead, if there is one.
    pub fn tell_death(&mut self, dead: &BTreeSet<Process>) -> bool {
        let Some(process) = self.watched.keys().find(|process| dead.contains(process)).copied() else { return false };
        self.watched.remove(&process);
        self.ended.insert(process);
        self.commands.push(Command::ProcessGone(process));
        true
    }

    /// Reads from these connections, decides, answers: one batch, as `Server::round`.
    pub fn round(&mut self, around: &mut Around, ready: &[u64], probe: Option<u64>) {
        for &conn in ready {
            self.read_from(around, conn);
        }
        if self.coordinator.next_deadline().is_some_and(|due| due <= around.now.mono) {
            self.commands.push(Command::Tick);
        }
        if let Some(id) = probe {
            // What the file threads have answered is taken up behind all commands of a turn, and the auditor asks last.
            while !self.is_dead && around.machine.has_answered(around.now.mono) {
                self.wake();
                self.settle(around);
            }
            let caller = Caller { conn: AUDITOR, id };
            self.commands.push(Command::Status { caller, who: None, target: None });
        }
        self.settle(around);
    }

    /// Hands over what has come together, until nothing more comes of it.
    pub fn settle(&mut self, around: &mut Around) {
        while !self.is_dead {
            if !self.commands.is_empty() {
                let fed = std::mem::take(&mut self.commands);
                let mut commands = Vec::with_capacity(fed.len());
                around.auditor.turn_begins();
                for command in fed {
                    around.log.note(|| format!("  < {}", crate::log::command(&command)));
                    around.auditor.fed(around.now, &command);
                    commands.push(command);
                }
                let answers = self.coordinator.turn(around.now, commands);
                around.auditor.turned(self.coordinator.trouble().is_some());
                self.is_dead = self.dies.is_some();
                match self.dies {
                    Some(Death::AfterTheTurn) => return,
                    Some(Death::AmidTheAnswers) => return self.dies_amid(around, answers),
                    None => self.deliver(around, answers),
                }
            }
            for conn in std::mem::take(&mut self.dirty) {
                self.flush(around, conn);
            }
            if self.commands.is_empty() {
                return self.nothing_is_unheard(around);
            }
        }
    }

    /// When a connection was closed, each grant has arrived, is on its way or was taken back.
    fn nothing_is_unheard(&mut self, around: &mut Around) {
        if std::mem::take(&mut self.has_closed) {
            let answers = self.peers.values().flat_map(|peer| &peer.outbox).filter_map(|message| match message {
                ToClient::Answer(_, answer) => Some(&**answer),
                _ => None,
            });
            around.auditor.nothing_is_unheard(around.now, answers);
        }
    }

    fn dies_amid(&mut self, around: &mut Around, answers: Vec<(Caller, Answer)>) {
        self.deliver(around, answers);
        for conn in std::mem::take(&mut self.dirty) {
            if (around.draw)().is_multiple_of(2) {
                self.flush(around, conn);
            }
        }
    }

    /// Takes up a sync that was carried out.
    pub fn sync_done(&mut self, around: &mut Around) {
        around.auditor.turn_begins();
        let answers = self.coordinator.sync_done(around.now);
        around.auditor.turned(self.coordinator.trouble().is_some());
        self.deliver(around, answers);
        self.settle(around);
    }

    /// Tries again to send what a slow client has not taken.
    pub fn flush_all(&mut self, around: &mut Around) {
        self.dirty.extend(self.peers.iter().filter(|(_, peer)| !peer.outbox.is_empty()).map(|(conn, _)| *conn));
        self.settle(around);
    }

    fn read_from(&mut self, around: &mut Around, conn: u64) {
        let Some(pipe) = around.pipes.get_mut(&conn).filter(|pipe| !pipe.server_closed) else { return };
        self.peers.entry(conn).or_insert_with(|| Peer {
            process: pipe.process,
            agent: None,
            session: None,
            secret: None,
            open: BTreeSet::new(),
            outbox: VecDeque::new(),
            sent: 0,
            load: Load::default(),
            closing: false,
        });
        if pipe.to_server.is_empty() {
            if pipe.client_closed {
                self.close(around, conn);
            }
            return;
        }
        while let Some(line) = around.pipes.get_mut(&conn).and_then(|pipe| pipe.to_server.pop_front()) {
            if self.peers[&conn].closing {
                continue;
            }
            match line {
                // What follows a greeting is read when it is answered.
                ToServer::Hello(agent, wish) => {
                    self.greeting(around, conn, agent, wish);
                    return;
                }
                ToServer::Request(id, op) => self.request(around, conn, id, op),
            }
        }
    }

    fn greeting(&mut self, around: &mut Around, conn: u64, agent: Agent, wish: Option<Wish>) {
        let peer = self.peers.get_mut(&conn).expect("it was read from");
        peer.agent = Some(agent.clone());
        let workspace = Workspace { root: b"/w".as_slice().into() };
        self.commands.push(Command::Contention { workspace, threshold: self.threshold });
        let (caller, process) = (Caller { conn, id: GREETING }, Some(peer.process));
        let (id, command) = match wish {
            None => {
                peer.push(ToClient::Welcome(None), Cargo::default());
                self.dirty.insert(conn);
                return;
            }
            Some(Wish::New(kind)) => {
                let (id, secret) = (SessionId((around.draw)()), u128::from((around.draw)()));
                peer.secret = Some(secret);
                let session = Session { id, secret, agent, process, kind, away_until: None };
                (id, Command::OpenSession { caller, session })
            }
            Some(Wish::Return(id, secret)) => (id, Command::ReturnSession { caller, id, secret, process }),
        };
        peer.session = Some(id);
        let process = peer.process;
        self.commands.push(command);
        *self.watched.entry(process).or_insert(0) += 1;
    }

    fn request(&mut self, around: &mut Around, conn: u64, id: Option<u64>, op: Op) {
        let passed = match self.watch_passed(around, &op) {
            Ok(passed) => passed,
            Err(fault) => return self.fail(conn, id, fault),
        };
        let peer = self.peers.get_mut(&conn).expect("it was read from");
        if let Some(id) = id {
            assert!(peer.open.insert(id), "the workload numbers its requests upwards");
        }
        let who = Who { agent: peer.agent.clone().expect("a greeting came first"), session: peer.session };
        let process = Some(peer.process);
        let now = around.now.mono;
        let caller = id.map(|id| Caller { conn, id });
        let waits = |ms: Option<u64>| match ms {
            None => Wait::Forever,
            Some(0) => Wait::Try,
            Some(ms) => Wait::Until(now.after(ms)),
        };
        let workspace = Workspace { root: b"/w".as_slice().into() };
        let always = || caller.expect("all but a release are numbered");
        let command = match op {
            Op::Unlock(which) => Command::Unlock { caller, who, which, leaves_loan: false },
            Op::Lock { target, mode, lease, wait, bound: _, request, os } => {
                let (note, upgrades, set) = (None, None, None);
                let bound = passed;
                let ask = Ask { target, mode, who, lease, note, process, bound, request, workspace, os, upgrades, set };
                Command::Lock { caller: always(), ask: Arc::new(ask), wait: waits(wait) }
            }
            Op::LockSet { targets, mode, lease, wait, bound: _, request, os } => {
                let of = targets.len() as u16;
                let ask = |(index, target)| {
                    let (note, upgrades, set) = (None, None, Some(SetMember { index, of }));
                    let (who, bound, request) = (who.clone(), passed, request.clone());
                    let workspace = workspace.clone();
                    Arc::new(Ask {
                        target,
                        mode,
                        who,
                        lease,
                        note,
                        process,
                        bound,
                        request,
                        workspace,
                        os,
                        upgrades,
                        set,
                    })
                };
                let asks = (0..).zip(targets).map(ask).collect();
                Command::LockSet { caller: always(), asks, wait: waits(wait) }
            }
            Op::WaitFree { target, mode, wait } => {
                let lease = Lease { ttl: flockd::limits::TTL_ONE_SHOT, max_hold: None };
                let who = Who { session: None, ..who };
                let ask = Ask {
                    target,
                    mode,
                    who,
                    lease,
                    note: None,
                    process,
                    bound: None,
                    request: None,
                    workspace,
                    os: false,
                    upgrades: None,
                    set: None,
                };
                Command::WaitFree { caller: always(), ask: Arc::new(ask), wait: waits(wait) }
            }
            Op::Upgrade { which, wait, request } => {
                Command::Upgrade { caller: always(), who, which, wait: waits(wait), request }
            }
            Op::Downgrade(which) => Command::Downgrade { caller: always(), who, which },
            Op::Renew(which, ttl) => Command::Renew { caller: always(), who, which, ttl },
            Op::Check(target, fence) => Command::Check { caller: always(), who, target, fence },
            Op::Write(target, fence) => {
                let prepared =
                    Prepared { name: b".flockd-x.tmp".as_slice().into(), device: 1, inode: 9, unchanged: None };
                Command::Commit { caller: always(), who, target, fence, prepared: Arc::new(prepared) }
            }
            Op::Break(id) => Command::Break { caller: always(), who, id, reason: "in the way".into() },
            Op::Status(target) => Command::Status { caller: always(), who: Some(who), target },
            Op::News => Command::News { caller: always(), who, heard: Vec::new() },
            Op::Cancel(of) => Command::Cancel { caller: always(), waiting: Caller { conn, id: of } },
            Op::GiveUp(ticket) => Command::GiveUp { caller: always(), who, ticket },
            Op::Bind(id, process) => Command::Bind { caller: always(), who, id, process },
        };
        self.commands.push(command);
    }

    /// Watches the process that comes with a request, as `Server::watch_passed`: no lock is bound to one that is known
    /// to be dead; another may be dead, or die just then, and one that nobody has collected can still be bound.
    fn watch_passed(&mut self, around: &mut Around, op: &Op) -> Result<Option<Process>, Fault> {
        let Some(process) = op.process() else { return Ok(None) };
        let is_seen_dead = around.dead.contains(&process) && (around.draw)().is_multiple_of(2);
        if is_seen_dead || (self.ended.contains(&process) && matches!(op, Op::Lock { .. } | Op::LockSet { .. })) {
            return Err(Fault::Invalid("the process has ended".to_owned()));
        }
        *self.watched.entry(process).or_insert(0) += 1;
        Ok(Some(process))
    }

    /// Answers a request that does not reach the table.
    fn fail(&mut self, conn: u64, id: Option<u64>, fault: Fault) {
        let peer = self.peers.get_mut(&conn).expect("it was read from");
        let answer = Answer::bare(Reply::Failed(fault));
        if let Some(id) = id {
            peer.push(ToClient::Answer(id, Box::new(answer)), Cargo::default());
        }
        self.dirty.insert(conn);
    }

    /// A connection is over, as `Server::close`.
    fn close(&mut self, around: &mut Around, conn: u64) {
        let Some(peer) = self.peers.remove(&conn) else { return };
        self.has_closed = true;
        around.pipes.get_mut(&conn).expect("pipes outlive their peers").server_closed = true;
        around.log.note(|| format!("  close {conn}"));
        self.deliveries.closed(conn, peer.load, !peer.open.is_empty(), peer.session, &mut self.commands);
        if peer.session.is_some() {
            self.release_watch(peer.process);
        }
    }

    fn release_watch(&mut self, process: Process) {
        if let Some(users) = self.watched.get_mut(&process) {
            *users -= 1;
            if *users == 0 {
                self.watched.remove(&process);
            }
        }
    }

    fn flush(&mut self, around: &mut Around, conn: u64) {
        let (Some(peer), Some(pipe)) = (self.peers.get_mut(&conn), around.pipes.get_mut(&conn)) else { return };
        if peer.outbox.is_empty() {
            return;
        }
        if pipe.client_closed {
            return self.close(around, conn);
        }
        let most = if pipe.full { (around.draw)() as usize % (peer.outbox.len() + 1) } else { peer.outbox.len() };
        for message in peer.outbox.drain(..most) {
            if let ToClient::Answer(_, answer) = &message {
                around.auditor.brought(answer);
            }
            pipe.to_client.push_back(message);
        }
        peer.sent += most as u64;
        self.deliveries.sent(&mut peer.load, peer.sent, &mut self.commands);
        if peer.outbox.is_empty() && peer.closing {
            self.close(around, conn);
        }
    }

    fn deliver(&mut self, around: &mut Around, answers: Vec<(Caller, Answer)>) {
        for (to, mut answer) in answers {
            around.log.note(|| format!("  > {}/{}: {}", to.conn, to.id, crate::log::answer(&answer)));
            if to.conn == ADMIN {
                match answer.reply {
                    // Only the answer to its adding, which has its id, is a promise.
                    Reply::Webhook(webhook) if webhook.id.0 == to.id => self.promised.push(webhook.id),
                    _ => {}
                }
                continue;
            }
            around.auditor.told(around.now, to, &answer);
            if to.conn == AUDITOR {
                continue;
            }
            if to.id == GREETING {
                self.greet(to.conn, answer.reply);
                continue;
            }
            let peer = self.peers.get_mut(&to.conn);
            let load = peer.as_ref().map(|peer| &peer.load);
            let cargo = self.deliveries.pack(to.conn, &mut answer, load, &mut self.commands);
            let (Some(peer), Some(cargo)) = (peer, cargo) else { continue };
            peer.open.remove(&to.id);
            peer.push(ToClient::Answer(to.id, Box::new(answer)), cargo);
            self.dirty.insert(to.conn);
        }
    }

    fn greet(&mut self, conn: u64, reply: Reply) {
        let peer = self.peers.get_mut(&conn);
        if let Reply::SessionOpen(id) = reply {
            self.deliveries.session_opened(id, conn, peer.is_some(), &mut self.commands);
        }
        let Some(peer) = peer else { return };
        match reply {
            Reply::SessionOpen(id) => {
                let proof = peer.secret.take().map(|secret| (id, secret));
                peer.push(ToClient::Welcome(proof), Cargo::default());
            }
            _ => {
                peer.closing = true;
                peer.push(ToClient::Refused, Cargo::default());
                let process = peer.process;
                if peer.session.take().is_some() {
                    self.release_watch(process);
                }
            }
        }
        self.dirty.insert(conn);
    }
}
