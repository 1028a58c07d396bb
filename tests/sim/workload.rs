//! Clients: they dial, ask, wait, hold, forget, stall, die and come back as `src/client` does, and know nothing of how
//! they are judged.

use crate::mem_disk::Random;
use crate::server::{Op, Pipe, ToClient, ToServer, Wish};
use crate::world::World;
use flockd::limits;
use flockd::model::*;
use flockd::pattern::Pattern;
use flockd::scope::{FileId, Scope, Target};
use std::collections::{BTreeMap, VecDeque};

/// Most requests that a client has open at once.
const OPEN_AT_ONCE: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It holds guards in a session.
    Session(SessionKind),
    /// It asks and goes.
    OneShot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It has no connection and wants none yet.
    Away,
    /// It dials until somebody answers.
    Dialling,
    Greeting,
    Ready,
}

/// A lock that a client believes it holds.
#[derive(Clone, Debug)]
struct Belief {
    id: LockId,
    target: Target,
    fence: Fence,
}

pub struct Client {
    pub agent: Agent,
    pub kind: Kind,
    pub process: Process,
    pub alive: bool,
    pub stalled_until: u64,
    pub conn: Option<u64>,
    stage: Stage,
    session: Option<(SessionId, u128)>,
    pending: BTreeMap<u64, Op>,
    held: Vec<Belief>,
    /// Requests with an id of their own, to be asked again now and then.
    asked: VecDeque<Op>,
    /// The last place that was kept for it.
    ticket: Option<TicketId>,
    next_id: u64,
}

impl Client {
    pub fn new(agent: Agent, kind: Kind, process: Process) -> Client {
        Client {
            agent,
            kind,
            process,
            alive: true,
            stalled_until: 0,
            conn: None,
            stage: Stage::Away,
            session: None,
            pending: BTreeMap::new(),
            held: Vec::new(),
            asked: VecDeque::new(),
            ticket: None,
            next_id: 1,
        }
    }

    /// Its connection broke under it: it makes a new one and asks again what has no answer.
    pub fn connection_broke(&mut self) {
        (self.conn, self.stage) = (None, Stage::Dialling);
        // A descriptor cannot be sent again, so neither is its line.
        self.pending.retain(|_, op| op.process().is_none());
    }

    fn hang_up(&mut self, pipes: &mut BTreeMap<u64, Pipe>) {
        if let Some(pipe) = self.conn.take().and_then(|conn| pipes.get_mut(&conn)) {
            pipe.client_closed = true;
        }
        self.stage = Stage::Away;
        self.pending.clear();
    }
}

/// What is fought for: few files, a hard link, directories above them, a name that becomes a directory, patterns of all
/// these, a resource.
pub fn targets() -> Vec<Target> {
    let id = |inode| FileId { device: 1, inode, birth: 0 };
    let file = |path: &str, ids: &[u64]| Target {
        scope: Scope::File(path.as_bytes().into()),
        ids: ids.iter().map(|inode| id(*inode)).collect(),
    };
    let tree = |path: &str, ids: &[u64]| Target {
        scope: Scope::Subtree(path.as_bytes().into()),
        ids: ids.iter().map(|inode| id(*inode)).collect(),
    };
    let pattern = |prefix: &str, ids: &[u64], rest: &str| Target {
        scope: Scope::Pattern(Pattern::new(prefix.as_bytes(), rest.as_bytes()).expect("it is well formed")),
        ids: ids.iter().map(|inode| id(*inode)).collect(),
    };
    vec![
        file("/w/a", &[1, 2, 10]),
        file("/w/a", &[1, 2, 10]),
        file("/w/b", &[1, 2, 11]),
        file("/v/linked", &[1, 4, 11]),
        file("/w/d/x", &[1, 2, 3, 12]),
        file("/w/d/new", &[1, 2, 3]),
        tree("/w/d/new", &[1, 2, 3, 13]),
        file("/w/d/new/x", &[1, 2, 3, 13]),
        pattern("/w", &[1, 2], "[ab]"),
        pattern("/w", &[1, 2], "**/x"),
        pattern("/w/d", &[1, 2, 3], "*"),
        tree("/w/d", &[1, 2, 3]),
        tree("/w", &[1, 2]),
        Target::named(Scope::Resource("port".into())),
    ]
}

fn choose<'a, T>(random: &mut Random, of: &'a [T]) -> Option<&'a T> {
    if of.is_empty() { None } else { of.get(random.below(of.len() as u64) as usize) }
}

fn mode(random: &mut Random) -> Mode {
    match random.below(100) {
        0..=9 => Mode::Advisory,
        10..=63 => Mode::Exclusive,
        _ => Mode::Shared,
    }
}

fn lease(random: &mut Random, kind: Kind) -> Lease {
    let long = [200, 3_000, limits::TTL_SESSION, limits::TTL_ONE_SHOT][random.below(4) as usize];
    match kind {
        Kind::Session(_) => Lease { ttl: if random.chance(40) { 0 } else { long }, max_hold: None },
        Kind::OneShot => {
            let most = if random.chance(30) { 5_000 } else { limits::MAX_HOLD };
            Lease { ttl: long, max_hold: Some(most) }
        }
    }
}

fn wait(random: &mut Random) -> Option<u64> {
    match random.below(10) {
        0 | 1 => Some(0),
        2..=4 => Some(1 + random.below(2_000)),
        5..=7 => Some(limits::WAIT_DEFAULT),
        _ => None,
    }
}

impl World {
    /// One client does one thing: it reads an answer, dials, or asks something.
    pub fn client_acts(&mut self, at: usize) {
        let client = &self.clients[at];
        if !client.alive || client.stalled_until > self.now.mono.0 {
            return;
        }
        match client.stage {
            Stage::Away if self.random.chance(80) => self.wants_to_connect(at),
            Stage::Away => {}
            Stage::Dialling => self.dial(at),
            Stage::Greeting => self.read_one(at),
            Stage::Ready => {
                if self.random.chance(70) && self.has_to_read(at) {
                    return self.read_one(at);
                }
                self.ask_something(at);
            }
        }
    }

    fn wants_to_connect(&mut self, at: usize) {
        self.clients[at].stage = Stage::Dialling;
        self.dial(at);
    }

    /// A connection is made if a daemon listens; what has no answer yet is asked again over it.
    pub fn dial(&mut self, at: usize) {
        if self.server.is_none() {
            return;
        }
        self.next_conn += 1;
        let conn = self.next_conn;
        let client = &mut self.clients[at];
        let wish = match (client.kind, client.session) {
            (Kind::OneShot, _) => None,
            (Kind::Session(kind), None) => Some(Wish::New(kind)),
            (Kind::Session(_), Some((id, secret))) => Some(Wish::Return(id, secret)),
        };
        let hello = ToServer::Hello(client.agent.clone(), wish);
        let pipe = Pipe {
            process: client.process,
            to_server: VecDeque::from([hello]),
            to_client: VecDeque::new(),
            client_closed: false,
            server_closed: false,
            full: false,
        };
        self.pipes.insert(conn, pipe);
        client.conn = Some(conn);
        client.stage = Stage::Greeting;
        self.log.note(|| format!("{} ({at}) dials as {conn}", client.agent));
    }

    pub fn has_to_read(&self, at: usize) -> bool {
        let client = &self.clients[at];
        let pipe = client.conn.and_then(|conn| self.pipes.get(&conn));
        client.alive && pipe.is_some_and(|pipe| !pipe.to_client.is_empty() || pipe.server_closed)
    }

    /// Reads one message, or finds that the other end is closed.
    pub fn read_one(&mut self, at: usize) {
        let client = &mut self.clients[at];
        let Some(pipe) = client.conn.and_then(|conn| self.pipes.get_mut(&conn)) else { return };
        match pipe.to_client.pop_front() {
            Some(ToClient::Welcome(proof)) => {
                client.session = proof.or(client.session);
                client.stage = Stage::Ready;
                let again: Vec<(u64, Op)> = client.pending.iter().map(|(id, op)| (*id, op.clone())).collect();
                for (id, op) in again {
                    pipe.to_server.push_back(ToServer::Request(Some(id), op));
                }
            }
            Some(ToClient::Refused) => {
                // The session is over: the program starts anew.
                client.hang_up(&mut self.pipes);
                (client.session, client.held) = (None, Vec::new());
            }
            Some(ToClient::Answer(id, answer)) => {
                self.auditor.read(&answer);
                self.take_answer(at, id, *answer);
            }
            None if pipe.server_closed => {
                let agent = &client.agent;
                self.log.note(|| format!("{agent} ({at}) finds its connection closed"));
                client.connection_broke();
            }
            None => {}
        }
    }

    fn take_answer(&mut self, at: usize, id: u64, answer: Answer) {
        let client = &mut self.clients[at];
        let asked = client.pending.remove(&id);
        client.held.retain(|belief| answer.lost.iter().all(|ended| ended.id != belief.id));
        match answer.reply {
            Reply::Granted(_) | Reply::GrantedSet(_) => {
                for lock in answer.reply.grants().iter().map(|granted| &granted.lock) {
                    let client = &mut self.clients[at];
                    client.held.retain(|belief| belief.id != lock.id);
                    let belief = Belief { id: lock.id, target: lock.ask.target.clone(), fence: lock.fence };
                    client.held.push(belief);
                    self.rumour(lock.id);
                }
            }
            Reply::Released(locks) => client.held.retain(|belief| locks.iter().all(|lock| lock.id != belief.id)),
            Reply::Refused(refused) => {
                client.ticket = refused.ticket.map(|ticket| ticket.id).or(client.ticket);
                if refused.ticket.is_some() && client.asked.len() < 8 {
                    // It may ask again, as the same request or another one.
                    let again = asked.map(|op| match op {
                        Op::Lock { target, mode, lease, wait, bound, os, .. } => {
                            Op::Lock { target, mode, lease, wait, bound, os, request: None }
                        }
                        Op::LockSet { targets, mode, lease, wait, bound, os, .. } => {
                            Op::LockSet { targets, mode, lease, wait, bound, os, request: None }
                        }
                        other => other,
                    });
                    client.asked.extend(again);
                }
                for holder in &refused.holders {
                    self.rumour(holder.id);
                }
            }
            Reply::Failed(Fault::Unavailable(_))
                if matches!(asked, Some(Op::Lock { .. } | Op::LockSet { .. } | Op::Upgrade { .. })) =>
            {
                if let Some(op) = asked.filter(|_| client.asked.len() < 8) {
                    client.asked.push_back(op);
                }
            }
            _ => {}
        }
    }

    /// Lock ids that people have heard of.
    fn rumour(&mut self, id: LockId) {
        self.rumours.push_back(id);
        if self.rumours.len() > 12 {
            self.rumours.pop_front();
        }
    }

    fn ask_something(&mut self, at: usize) {
        let is_one_shot = self.clients[at].kind == Kind::OneShot;
        if self.clients[at].pending.len() >= OPEN_AT_ONCE {
            return;
        }
        if is_one_shot && self.clients[at].pending.is_empty() && self.random.chance(25) {
            return self.clients[at].hang_up(&mut self.pipes);
        }
        let Some((op, is_numbered)) = self.wish(at) else { return };
        let client = &mut self.clients[at];
        let id = client.next_id;
        client.next_id += 1;
        if is_numbered {
            client.pending.insert(id, op.clone());
        }
        let is_named = matches!(
            &op,
            Op::Lock { request: Some(_), .. }
                | Op::LockSet { request: Some(_), .. }
                | Op::Upgrade { request: Some(_), .. }
        );
        if is_named && self.random.chance(40) {
            client.asked.push_back(op.clone());
            if client.asked.len() > 8 {
                client.asked.pop_front();
            }
        }
        self.log.note(|| format!("{} ({at}) asks {id}", client.agent));
        let pipe = client.conn.and_then(|conn| self.pipes.get_mut(&conn)).expect("who is ready has a connection");
        pipe.to_server.push_back(ToServer::Request(is_numbered.then_some(id), op));
        if self.random.chance(4) {
            // What it sent arrives, what is answered does not.
            pipe.client_closed = true;
            client.connection_broke();
            self.seen.dropped += 1;
            self.log.note(|| "and its connection breaks".to_owned());
        }
    }

    /// What this client asks next, and whether it wants an answer.
    fn wish(&mut self, at: usize) -> Option<(Op, bool)> {
        let what = self.random.below(100);
        let bound = if what <= 40 { self.bound_to(at) } else { None };
        let random = &mut self.random;
        let client = &mut self.clients[at];
        let target = choose(random, &self.targets)?.clone();
        let belief = choose(random, &client.held).cloned();
        // Where it holds something itself, its question renews that.
        let place = match &belief {
            Some(belief) if random.chance(60) => belief.target.clone(),
            _ => target.clone(),
        };
        if let Some(belief) = belief.as_ref().filter(|_| random.chance(20)) {
            // A lock on a directory covers the files in it.
            let file = match belief.target.scope {
                Scope::File(_) => belief.target.clone(),
                _ => target,
            };
            return Some((Op::Write(file, random.chance(70).then_some(belief.fence)), true));
        }
        let op = match what {
            0..=10 if belief.is_some() => {
                let belief = belief?;
                self.next_request += 1;
                let request = (client.kind != Kind::OneShot || random.chance(40))
                    .then(|| RequestId::new(&format!("r{}", self.next_request)).expect("it is short"));
                let which = if random.chance(70) { Which::Id(belief.id) } else { Which::Scope(belief.target) };
                match random.chance(70) {
                    true => Op::Upgrade { which, wait: wait(random), request },
                    false => Op::Downgrade(which),
                }
            }
            0..=40 => {
                self.next_request += 1;
                let request = (client.kind != Kind::OneShot || random.chance(40))
                    .then(|| RequestId::new(&format!("r{}", self.next_request)).expect("it is short"));
                let (mode, lease) = (mode(random), lease(random, client.kind));
                // A rank among many says more than one among nobody.
                let target = match mode {
                    Mode::Advisory if random.chance(70) => self.targets.last()?.clone(),
                    _ => target,
                };
                self.seen.bound_asked += u64::from(bound.is_some());
                let (wait, os) = (wait(random), random.chance(70));
                if random.chance(88) || mode == Mode::Advisory {
                    return Some((Op::Lock { target, mode, lease, wait, bound, request, os }, true));
                }
                // Two or three at once, now and then some with something in common.
                let mut targets = vec![target];
                for _ in 0..1 + random.below(2) {
                    let other = choose(random, &self.targets)?;
                    if targets.iter().all(|target| target.scope != other.scope) {
                        targets.push(other.clone());
                    }
                }
                Op::LockSet { targets, mode, lease, wait, bound, request, os }
            }
            41..=60 => {
                let belief = belief?;
                let is_numbered = random.chance(70);
                let which = if random.chance(70) { Which::Id(belief.id) } else { Which::Scope(belief.target) };
                if !is_numbered {
                    client.held.retain(|other| other.id != belief.id);
                }
                return Some((Op::Unlock(which), is_numbered));
            }
            61..=65 => {
                let ttl = random.chance(50).then(|| 200 + random.below(60_000));
                Op::Renew(belief.map_or(Which::All, |belief| Which::Id(belief.id)), ttl)
            }
            66..=70 => match belief {
                Some(belief) => Op::Check(belief.target, Some(belief.fence)),
                None => Op::Check(target, None),
            },
            71..=75 => Op::Status(random.chance(70).then_some(place)),
            76..=79 => Op::WaitFree { target: place, mode: mode(random), wait: wait(random) },
            80..=82 => {
                let waiting = client.pending.iter().find(|(_, op)| {
                    matches!(op, Op::Lock { .. } | Op::LockSet { .. } | Op::Upgrade { .. } | Op::WaitFree { .. })
                });
                Op::Cancel(*waiting?.0)
            }
            83 => Op::Break(*choose(random, self.rumours.make_contiguous())?),
            84 => Op::Unlock(Which::All),
            85..=88 if client.kind == Kind::Session(SessionKind::Command) => {
                let process = self.next_process();
                return self.clients[at].held.last().map(|belief| (Op::Bind(belief.id, process), true)).inspect(|_| {
                    self.children.push(process);
                });
            }
            89..=96 => client.asked.get(random.below(8) as usize).cloned()?,
            98 => Op::GiveUp(client.ticket.take()?),
            99 => Op::News,
            97 => {
                // Done: everything it holds goes with it.
                client.hang_up(&mut self.pipes);
                (client.session, client.held) = (None, Vec::new());
                return None;
            }
            _ => return None,
        };
        Some((op, true))
    }

    /// The process that a lock of this client is to end with: a command of somebody's, a new one, or a fellow program.
    fn bound_to(&mut self, at: usize) -> Option<Process> {
        if self.clients[at].kind != Kind::OneShot || self.random.chance(40) {
            return None;
        }
        let fellow = &self.clients[self.random.below(self.clients.len() as u64) as usize];
        match self.random.below(10) {
            0..=1 if fellow.alive => return Some(fellow.process),
            0..=6 if !self.children.is_empty() => return choose(&mut self.random, &self.children).copied(),
            _ => {}
        }
        let process = self.next_process();
        self.children.push(process);
        Some(process)
    }

    fn next_process(&mut self) -> Process {
        self.next_pid += 1;
        Process { pid: 1_000 + self.next_pid, start: self.now.mono.0 / 10 }
    }

    /// A new program of the same agent takes the place of one that has died.
    pub fn starts_anew(&mut self, at: usize) {
        let process = self.next_process();
        let Client { agent, kind, asked, .. } = &mut self.clients[at];
        let (agent, kind, asked) = (agent.clone(), *kind, std::mem::take(asked));
        self.log.note(|| format!("{agent} ({at}) starts anew as {}", process.pid));
        self.clients[at] = Client { asked, ..Client::new(agent, kind, process) };
    }
}
