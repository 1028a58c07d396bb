//! The floor of everything that goes over a socket: a daemon that knows a queue for each lock and nothing else.
//!
//! Messages are 16 bytes, answers are the message sent back: uncontended it is an echo. It has no owners, names, leases
//! or fences, so what flockd takes longer is what these cost. With a log it writes, and if told so syncs, a record of
//! each batch before it answers, as flockd does.

use rustix::event::epoll;
use rustix::fs::FallocateFlags;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Bytes of a message: what is wanted, three bytes of nothing, the lock, the rest nothing.
pub const MESSAGE: usize = 16;
/// Take a lock; answered when it is held.
pub const LOCK: u8 = b'L';
/// Release it, answered.
pub const UNLOCK: u8 = b'U';
/// Release it, unanswered.
pub const UNLOCK_UNANSWERED: u8 = b'u';

/// What happens to a batch before it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// Written to a log.
    Written,
    /// Written, and synced if it grants.
    Synced,
}

/// A message about a lock.
pub fn message(what: u8, lock: u32) -> [u8; MESSAGE] {
    let mut bytes = [0; MESSAGE];
    bytes[0] = what;
    bytes[4..8].copy_from_slice(&lock.to_le_bytes());
    bytes
}

/// A file that records are appended to, with room made ahead, as the journal's log is.
pub struct Log {
    file: File,
    tail: u64,
}

impl Log {
    /// What a grant and its event take in flockd's log, about.
    pub const RECORD: usize = 256;
    const ROOM: u64 = 64 * 1024 * 1024;

    /// Makes the file anew.
    pub fn create(path: &Path) -> io::Result<Log> {
        let file = File::create(path)?;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, Log::ROOM)?;
        file.sync_all()?;
        Ok(Log { file, tail: 0 })
    }

    /// Appends so many bytes.
    pub fn append(&mut self, bytes: usize, sync: bool) -> io::Result<()> {
        if self.tail + bytes as u64 > Log::ROOM {
            self.tail = 0;
        }
        self.file.write_all_at(&vec![7; bytes], self.tail)?;
        self.tail += bytes as u64;
        if sync { self.file.sync_data() } else { Ok(()) }
    }
}

#[derive(Default)]
struct Lock {
    holder: Option<u64>,
    queue: VecDeque<u64>,
}

struct Bare {
    log: Log,
    keeping: Keeping,
    locks: HashMap<u32, Lock>,
    peers: BTreeMap<u64, UnixStream>,
    /// Who is granted or answered what, in this batch.
    out: Vec<(u64, [u8; MESSAGE])>,
    grants: usize,
    changes: usize,
}

/// Serves until the process is killed, at the latest with the one that started it.
pub fn serve(socket: &Path, log: &Path, keeping: Keeping) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let listener = UnixListener::bind(socket)?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&poll, &listener, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
    let log = Log::create(log)?;
    let (locks, peers) = (HashMap::new(), BTreeMap::new());
    let mut bare = Bare { log, keeping, locks, peers, out: Vec::new(), grants: 0, changes: 0 };
    let mut next = 1;
    let mut events = Vec::with_capacity(64);
    loop {
        events.clear();
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in &events {
            match event.data.u64() {
                0 => {
                    let (stream, _) = listener.accept()?;
                    epoll::add(&poll, &stream, epoll::EventData::new_u64(next), epoll::EventFlags::IN)?;
                    bare.peers.insert(next, stream);
                    next += 1;
                }
                peer => bare.read(peer)?,
            }
        }
        bare.answer()?;
    }
}

impl Bare {
    fn read(&mut self, peer: u64) -> io::Result<()> {
        let mut bytes = [0; 64 * MESSAGE];
        let read = match self.peers[&peer].read_here(&mut bytes) {
            Ok(0) | Err(_) => return self.gone(peer),
            Ok(read) => read,
        };
        assert!(read.is_multiple_of(MESSAGE), "messages are too short to be torn");
        for message in bytes[..read].chunks_exact(MESSAGE) {
            let lock = u32::from_le_bytes(message[4..8].try_into().expect("four bytes"));
            let message: [u8; MESSAGE] = message.try_into().expect("a chunk is a message");
            match message {
                [LOCK, ..] => self.take(peer, lock, message),
                [what, ..] => {
                    self.free(lock);
                    if what == UNLOCK {
                        self.out.push((peer, message));
                    }
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, peer: u64, lock: u32, message: [u8; MESSAGE]) {
        let state = self.locks.entry(lock).or_default();
        self.changes += 1;
        if state.holder.is_some() {
            state.queue.push_back(peer);
        } else {
            state.holder = Some(peer);
            self.grants += 1;
            self.out.push((peer, message));
        }
    }

    fn free(&mut self, lock: u32) {
        let state = self.locks.entry(lock).or_default();
        state.holder = state.queue.pop_front();
        self.changes += 1;
        if let Some(next) = state.holder {
            self.grants += 1;
            self.out.push((next, message(LOCK, lock)));
        }
    }

    fn gone(&mut self, peer: u64) -> io::Result<()> {
        self.peers.remove(&peer);
        self.locks.values_mut().for_each(|lock| lock.queue.retain(|waiting| *waiting != peer));
        let held: Vec<u32> =
            self.locks.iter().filter(|(_, lock)| lock.holder == Some(peer)).map(|(number, _)| *number).collect();
        held.into_iter().for_each(|lock| self.free(lock));
        Ok(())
    }

    fn answer(&mut self) -> io::Result<()> {
        let changes = std::mem::take(&mut self.changes);
        let grants = std::mem::take(&mut self.grants);
        if changes > 0 {
            self.log.append(changes * Log::RECORD, self.keeping == Keeping::Synced && grants > 0)?;
        }
        for (peer, message) in std::mem::take(&mut self.out) {
            if let Some(mut stream) = self.peers.get(&peer) {
                // Whoever has gone meanwhile is found gone by the next read.
                let _ = stream.write_all(&message);
            }
        }
        Ok(())
    }
}

/// Reading through a shared reference, as a stream allows.
trait ReadHere {
    fn read_here(&self, bytes: &mut [u8]) -> io::Result<usize>;
}

impl ReadHere for UnixStream {
    fn read_here(&self, bytes: &mut [u8]) -> io::Result<usize> {
        (&mut &*self).read(bytes)
    }
}
