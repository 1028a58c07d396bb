//! Processes that lock and unlock: the bench itself, run again with a role, told by lines what to do.
//!
//! One loop serves every kind of lock, so that all sides of a comparison are measured by the same code. Time is the
//! monotonic clock, which all processes share.

use super::asks::{NOW, ask, target};
use super::bare::{self, Keeping, Log};
use flockd::clock::monotonic_ns;
use flockd::model::{Ask, Caller, Command, Reply, Wait, Which};
use flockd::table::LockTable;
use flockd::{Client, Coordinator, LockGuard, Workspace};
use rustix::fs::FlockOperation;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The argument that makes the bench a worker.
pub const ROLE: &str = "--role";

/// A kind of locks, numbered from 0.
trait Locks {
    fn lock(&mut self, number: usize);
    fn unlock(&mut self, number: usize);
}

/// Carries a role out. The words are those of [`super::places::Worker::start`].
pub fn play(words: &[String]) -> io::Result<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["bare", socket, log, keeping] => {
            let keeping = if keeping == "synced" { Keeping::Synced } else { Keeping::Written };
            bare::serve(Path::new(socket), Path::new(log), keeping)
        }
        ["flock", dir, count] => work(&mut Kept::open(Path::new(dir), number(count))?),
        ["append", log] => work(&mut Appending(Log::create(Path::new(log))?)),
        ["table"] => work(&mut Table::new()),
        ["echo", socket, answered] => {
            work(&mut Echoing { stream: UnixStream::connect(socket)?, answered: answered == "answered" })
        }
        ["flockd", home, dir, scopes, count, ttl, answered] => {
            let client = Client::builder().home(home).start_nothing().connect().map_err(io::Error::other)?;
            work(&mut Flockd::new(&client, dir, scopes, number(count), number(ttl), answered)?)
        }
        ["embedded", home, dir, scopes, count, ttl, answered] => {
            let coordinator = Coordinator::open(home).map_err(io::Error::other)?;
            let worked =
                work(&mut Flockd::new(coordinator.client(), dir, scopes, number(count), number(ttl), answered)?);
            worked.and_then(|()| coordinator.close())
        }
        _ => Err(io::Error::other(format!("no such role: {words:?}"))),
    }
}

fn number(text: &str) -> usize {
    text.parse().expect("a number")
}

/// Does what the lines on stdin say, and answers each with a line.
fn work(locks: &mut dyn Locks) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in io::stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words[..] {
            ["pairs", count] => pairs(locks, number(count)),
            ["crowd", ms, scopes, seed] => crowd(locks, number(ms), number(scopes), number(seed) as u64).to_string(),
            ["lock", lock] => {
                locks.lock(number(lock));
                monotonic_ns().to_string()
            }
            ["unlock", lock, ms] => {
                pause(number(ms) as u64);
                let begun = monotonic_ns();
                locks.unlock(number(lock));
                begun.to_string()
            }
            _ => panic!("no such work: {line}"),
        };
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

/// Nanoseconds of each of so many pairs.
fn pairs(locks: &mut dyn Locks, count: usize) -> String {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let begun = monotonic_ns();
        locks.lock(0);
        locks.unlock(0);
        times.push((monotonic_ns() - begun).to_string());
    }
    times.join(" ")
}

/// How many pairs are done until so many milliseconds have passed, on a lock chosen anew each time.
fn crowd(locks: &mut dyn Locks, ms: usize, scopes: usize, seed: u64) -> u64 {
    let until = monotonic_ns() + ms as u64 * 1_000_000;
    let (mut count, mut random) = (0, seed * 2 + 1);
    while monotonic_ns() < until {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let lock = (random % scopes as u64) as usize;
        locks.lock(lock);
        locks.unlock(lock);
        count += 1;
    }
    count
}

/// Lets everybody fall asleep: what is measured is how they are woken.
pub fn pause(ms: u64) {
    #[expect(clippy::disallowed_methods, reason = "bounded back-off: idle processes are what is measured")]
    // bounded back-off: tens of milliseconds, as the caller says
    std::thread::sleep(Duration::from_millis(ms));
}

/// flock(2) on descriptors that stay open.
struct Kept(Vec<File>);

impl Kept {
    fn open(dir: &Path, count: usize) -> io::Result<Kept> {
        let files = (0..count).map(|lock| File::options().append(true).open(dir.join(format!("f{lock}"))));
        Ok(Kept(files.collect::<io::Result<_>>()?))
    }
}

impl Locks for Kept {
    fn lock(&mut self, number: usize) {
        rustix::fs::flock(&self.0[number], FlockOperation::LockExclusive).expect("a lock");
    }

    fn unlock(&mut self, number: usize) {
        rustix::fs::flock(&self.0[number], FlockOperation::Unlock).expect("a lock");
    }
}

/// Nothing but a synced record for each lock.
struct Appending(Log);

impl Locks for Appending {
    fn lock(&mut self, _: usize) {
        self.0.append(Log::RECORD, true).expect("a log");
    }

    fn unlock(&mut self, _: usize) {}
}

/// The table alone: no daemon, no file, no journal.
struct Table {
    table: LockTable,
    ask: Arc<Ask>,
    calls: u64,
}

impl Table {
    fn new() -> Table {
        Table { table: LockTable::new(1, 1), ask: ask("me", target("/home/repo/src/main.rs", false)), calls: 0 }
    }

    fn caller(&mut self) -> Caller {
        self.calls += 1;
        Caller { conn: 1, id: self.calls }
    }
}

impl Locks for Table {
    fn lock(&mut self, _: usize) {
        let (caller, ask) = (self.caller(), self.ask.clone());
        let step = self.table.apply(NOW, Command::Lock { caller, ask, wait: Wait::Try });
        assert!(matches!(step.replies[0].answer.reply, Reply::Granted(_)));
    }

    fn unlock(&mut self, _: usize) {
        let which = Which::Scope(self.ask.target.clone());
        let (caller, who) = (Some(self.caller()), self.ask.who.clone());
        let step = self.table.apply(NOW, Command::Unlock { caller, who, which, leaves_loan: false });
        assert!(matches!(step.replies[0].answer.reply, Reply::Released(_)));
    }
}

/// Locks of the bare daemon.
struct Echoing {
    stream: UnixStream,
    answered: bool,
}

impl Echoing {
    fn call(&mut self, what: u8, lock: usize) {
        self.send(what, lock);
        self.stream.read_exact(&mut [0; bare::MESSAGE]).expect("an answer");
    }

    fn send(&mut self, what: u8, lock: usize) {
        let lock = u32::try_from(lock).expect("a lock's number");
        self.stream.write_all(&bare::message(what, lock)).expect("the bare daemon");
    }
}

impl Locks for Echoing {
    fn lock(&mut self, number: usize) {
        self.call(bare::LOCK, number);
    }

    fn unlock(&mut self, number: usize) {
        match self.answered {
            true => self.call(bare::UNLOCK, number),
            false => self.send(bare::UNLOCK_UNANSWERED, number),
        }
    }
}

/// Locks of flockd, through its library.
struct Flockd {
    workspace: Workspace,
    names: Vec<String>,
    guards: Vec<Option<LockGuard>>,
    ttl: Duration,
    answered: bool,
}

impl Flockd {
    fn new(client: &Client, dir: &str, scopes: &str, count: usize, ttl: usize, answered: &str) -> io::Result<Flockd> {
        let session = client.agent(format!("bench-{}", std::process::id())).map_err(io::Error::other)?;
        let workspace = session.workspace(dir).map_err(io::Error::other)?;
        let names = (0..count).map(|lock| format!("{scopes}{lock}")).collect();
        let guards = (0..count).map(|_| None).collect();
        let ttl = Duration::from_secs(ttl as u64);
        Ok(Flockd { workspace, names, guards, ttl, answered: answered == "answered" })
    }
}

impl Locks for Flockd {
    fn lock(&mut self, number: usize) {
        let request = self.workspace.lock(&self.names[number]).ttl(self.ttl).wait_forever();
        self.guards[number] = Some(request.acquire().expect("a lock"));
    }

    fn unlock(&mut self, number: usize) {
        let guard = self.guards[number].take().expect("it was locked");
        match self.answered {
            true => guard.release().expect("it was held"),
            false => drop(guard),
        }
    }
}
