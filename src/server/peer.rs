//! One connection: bytes in become lines, answers become bytes out, and no peer is ever waited for.

use super::deliveries::Load;
use crate::limits;
use crate::model::{Agent, Moment, Process, SessionId, Workspace};
use crate::os::process;
use crate::wire::render::About;
use crate::wire::{self, Line};
use mio::net::UnixStream;
use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, Write};
use std::os::fd::OwnedFd;

/// Most bytes taken from one peer before the others have their turn.
pub(super) const READ_AT_ONCE: usize = 64 * 1024;
/// Most bytes of memory that an idle peer keeps for lines to come.
const INBOX_KEPT: usize = 4 * 1024;
/// The same for answers.
const OUTBOX_KEPT: usize = 16 * 1024;
/// Most passed descriptors kept for lines to come; with more, no more is read until some lines are taken.
const PASSED_KEPT: usize = 64;

/// Where a conversation stands.
#[derive(Debug)]
pub(super) enum Stage {
    /// Nothing was said yet; until when that may be.
    New { until: Moment },
    /// The greeting waits for the table's word on the session.
    Greeting,
    /// Requests are taken.
    Open,
    /// No more is taken; what is in the outbox is still sent.
    Closing,
}

/// Who calls and from where, as said in the greeting.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) agent: Option<Agent>,
    pub(super) cwd: Box<[u8]>,
    pub(super) workspace: Workspace,
}

/// A connection.
pub(super) struct Peer {
    pub(super) stream: UnixStream,
    pub(super) stage: Stage,
    /// The process at the other end.
    pub(super) process: Option<Process>,
    /// That process, if this connection is a reason to watch it.
    pub(super) watched: Option<Process>,
    pub(super) caller: Option<Caller>,
    pub(super) session: Option<SessionId>,
    /// The secret of a session that is being opened, for the greeting.
    pub(super) secret: Option<u128>,
    /// What is to be said with the greeting.
    pub(super) warning: Option<String>,
    pub(super) goes_by: Option<String>,
    /// It speaks another protocol: it may only ask about the daemon itself, or end it.
    pub(super) is_foreign: bool,
    /// A request of this peer is being looked up; those behind it wait, so that they stay in order.
    pub(super) is_looking_up: bool,
    /// Requests that are not answered yet and what they are about.
    pub(super) open: HashMap<u64, About>,
    /// What the messages in the outbox bring that must be put right if they do not arrive.
    pub(super) load: Load,
    /// More may be there to read.
    pub(super) is_readable: bool,
    /// The other end is closed; its last bytes may still be there to read.
    pub(super) has_hung_up: bool,
    inbox: Vec<u8>,
    /// Up to where the inbox was searched for a newline.
    searched: usize,
    outbox: Vec<u8>,
    /// All bytes that were ever sent.
    pub(super) sent: u64,
    /// All bytes that were ever received.
    arrived: u64,
    /// Descriptors that came along, each with the number of bytes up to the end of the read that brought it: its line
    /// has the byte before.
    passed: VecDeque<(u64, OwnedFd)>,
    /// Where the line that was taken last ends, in bytes received.
    line_end: u64,
    /// The process that came with the request that is being looked up or carried out.
    pub(super) passed_process: Option<(Process, OwnedFd)>,
}

/// What reading came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// There may be more.
    More,
    /// Nothing more for now.
    Drained,
    /// The peer has gone.
    Gone,
    /// A descriptor that came along could not be taken: which line lacks it is not known.
    Lossy,
}

impl Peer {
    pub(super) fn new(stream: UnixStream, process: Option<Process>, until: Moment) -> Peer {
        Peer {
            stream,
            stage: Stage::New { until },
            process,
            watched: None,
            caller: None,
            session: None,
            secret: None,
            warning: None,
            goes_by: None,
            is_foreign: false,
            is_looking_up: false,
            open: HashMap::new(),
            load: Load::default(),
            is_readable: true,
            has_hung_up: false,
            inbox: Vec::new(),
            searched: 0,
            outbox: Vec::new(),
            sent: 0,
            arrived: 0,
            passed: VecDeque::new(),
            line_end: 0,
            passed_process: None,
        }
    }

    /// Takes what has arrived, but not so much that others would wait for it.
    ///
    /// By way of `buffer`, which is one for all peers: an idle connection keeps no memory for what may come.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Read {
        let (read, result) = loop {
            match process::recv_with_fds(&self.stream, buffer) {
                Ok(received) if received.bytes == 0 => break (0, Read::Gone),
                Ok(received) => {
                    let read = received.bytes;
                    self.arrived += read as u64;
                    // The kernel ends a read behind a passed descriptor, and tells of an end only once.
                    let is_more = read == buffer.len() || !received.fds.is_empty() || self.has_hung_up;
                    self.passed.extend(received.fds.into_iter().map(|fd| (self.arrived, fd)));
                    let result = if is_more { Read::More } else { Read::Drained };
                    break (read, if received.has_lost_fds { Read::Lossy } else { result });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break (0, Read::Drained),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break (0, Read::Gone),
            }
        };
        self.inbox.extend_from_slice(&buffer[..read]);
        self.is_readable = result == Read::More;
        result
    }

    /// Whether it has so much unread that its next requests wait until it has read.
    pub(super) fn is_behind(&self) -> bool {
        self.outbox.len() > limits::OUTBOX_MAX / 2
    }

    /// Whether more may be taken: not while requests pile up behind one that is being looked up.
    pub(super) fn has_room(&self) -> bool {
        self.inbox.len() <= limits::LINE_MAX && self.passed.len() < PASSED_KEPT
    }

    /// Throws away what has arrived.
    pub(super) fn discard(&mut self) {
        self.inbox.clear();
        self.searched = 0;
    }

    /// The next whole line, without its newline.
    pub(super) fn next_line(&mut self) -> Option<Vec<u8>> {
        let found = self.inbox[self.searched..].iter().position(|&byte| byte == b'\n');
        let Some(end) = found.map(|at| self.searched + at) else {
            self.searched = self.inbox.len();
            return None;
        };
        let mut line: Vec<u8> = self.inbox.drain(..=end).collect();
        line.pop();
        self.line_end = self.arrived - self.inbox.len() as u64;
        let begin = self.line_end - line.len() as u64 - 1;
        // Nobody wanted those of lines before.
        self.passed.retain(|(end, _)| *end > begin);
        self.searched = 0;
        if self.inbox.is_empty() {
            self.inbox.shrink_to(INBOX_KEPT);
        }
        Some(line)
    }

    /// Whether the line that is still arriving is longer than any may be.
    pub(super) fn is_overlong(&self) -> bool {
        self.searched == self.inbox.len() && self.searched > limits::LINE_MAX
    }

    /// Whether descriptors have come for a line that does not end.
    pub(super) fn is_overloaded(&self) -> bool {
        self.passed.len() >= PASSED_KEPT && self.searched == self.inbox.len()
    }

    /// The descriptor that came with the line that was taken last.
    pub(super) fn passed_fd(&mut self) -> Option<OwnedFd> {
        let is_of_line = self.passed.front().is_some_and(|(end, _)| *end <= self.line_end);
        if is_of_line { self.passed.pop_front().map(|(_, fd)| fd) } else { None }
    }

    /// Puts a message into the outbox; false if the peer has left too much unread already.
    pub(super) fn push(&mut self, message: &Line) -> bool {
        if self.outbox.len() > limits::OUTBOX_MAX {
            return false;
        }
        wire::encode_into(&mut self.outbox, message);
        true
    }

    /// Puts a line that is nobody's answer into the outbox. The caller sees to it that there is room.
    pub(super) fn push_line(&mut self, line: &[u8]) {
        self.outbox.extend_from_slice(line);
    }

    /// Whether it has read so much of what it was sent that it may be told more of what happens.
    pub(super) fn takes_events(&self) -> bool {
        matches!(self.stage, Stage::Open) && self.outbox.len() < limits::EVENTS_OUTBOX
    }

    /// How many bytes will have been sent when the message pushed last is.
    pub(super) fn end(&self) -> u64 {
        self.sent + self.outbox.len() as u64
    }

    /// Sends what can be sent now.
    ///
    /// # Errors
    /// The peer has gone.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let mut sent = 0;
        let result = loop {
            if sent == self.outbox.len() {
                break Ok(());
            }
            match self.stream.write(&self.outbox[sent..]) {
                Ok(written) => sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        self.outbox.drain(..sent);
        self.sent += sent as u64;
        if self.outbox.is_empty() {
            self.outbox.shrink_to(OUTBOX_KEPT);
        }
        result
    }

    pub(super) fn has_sent_all(&self) -> bool {
        self.outbox.is_empty()
    }
}
