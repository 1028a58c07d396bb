//! The nouns of flockd: ids, modes, rows of the table, what is asked of it and what it answers.
//!
//! Pure data: no I/O, no clock, no serde. Disk bytes are made in `journal/codec.rs`, wire messages in `wire/`.

use crate::limits;
use crate::scope::{FileId, Scope, Target};
use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

// ── Time ────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A point of the monotonic clock, milliseconds since boot without suspend. The only time that decides anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// The moment `ms` milliseconds later.
    pub fn after(self, ms: u64) -> Moment {
        Moment(self.0.saturating_add(ms))
    }

    /// Milliseconds from `now` until this moment; zero if it has passed.
    pub fn left(self, now: Moment) -> u64 {
        self.0.saturating_sub(now.0)
    }

    /// Milliseconds from this moment until `now`; zero if it has not come.
    pub fn till(self, now: Moment) -> u64 {
        now.0.saturating_sub(self.0)
    }
}

/// Milliseconds since 1970 by the wall clock. Shown to people, never compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Wall(pub u64);

/// The time of one turn, by both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// What decides.
    pub mono: Moment,
    /// What is shown.
    pub wall: Wall,
}

// ── Ids ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Crockford's base 32 in lower case: no letter that reads as a digit, so an id survives being read aloud.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Writes `number` in base 32 without leading zeros.
pub(crate) fn base32(mut number: u64) -> String {
    let mut digits = Vec::with_capacity(13);
    loop {
        digits.push(DIGITS[(number % 32) as usize]);
        number /= 32;
        if number == 0 {
            break;
        }
    }
    digits.reverse();
    String::from_utf8(digits).expect("the digits are ASCII")
}

fn from_base32(text: &str) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.bytes().try_fold(0u64, |number, byte| {
        let digit = DIGITS.iter().position(|&digit| digit == byte)?;
        number.checked_mul(32)?.checked_add(digit as u64)
    })
}

macro_rules! prefixed_id {
    ($name:ident, $prefix:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), base32(self.0))
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                text.strip_prefix($prefix)
                    .and_then(from_base32)
                    .map($name)
                    .ok_or_else(|| Invalid(format!(concat!("`{}` is no id: expected ", $prefix, "…"), text)))
            }
        }
    };
}

prefixed_id!(LockId, "lk_", "Names a lock for life: the number of its first fence, so no home gives it out twice.");
impl LockId {
    /// Stands where an event is about no lock: fences begin above it.
    pub const NONE: LockId = LockId(0);
}

prefixed_id!(SessionId, "se_", "Names a session; a random number, so that no other home's session is mistaken for it.");

prefixed_id!(
    TicketId,
    "tk_",
    "Names a kept place in the queue: a number of the fences, so no home gives it out twice."
);

prefixed_id!(WebhookId, "wh_", "Names a webhook; a random number.");

/// The fencing token: one counter for the whole home, growing with every grant, below 2^53.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fence(pub u64);

/// Place in the order of arrival; also names a waiting request inside the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WaiterId(pub u64);

/// Where an answer goes: a connection and the number the client gave its request. Opaque to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Caller {
    /// Number of the connection, never reused while the daemon runs.
    pub conn: u64,
    /// The client's number for the request.
    pub id: u64,
}

/// A value that a caller gave and that cannot be used; the text says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(pub String);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Invalid {}

/// Checks a word that people choose: not empty, bounded, no control characters, no spaces.
fn word(what: &str, text: &str, max: usize) -> Result<Arc<str>, Invalid> {
    if text.is_empty() {
        return Err(Invalid(format!("the {what} is empty")));
    }
    if text.len() > max {
        return Err(Invalid(format!("the {what} is {} bytes long; at most {max} are allowed", text.len())));
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(Invalid(format!("the {what} {text:?} has a space or a control character in it")));
    }
    Ok(text.into())
}

/// An actor's name, `claw-456`; that of a sub-agent says whose it is: `claw-456/worker-1`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Agent(Arc<str>);

impl Agent {
    /// Checks and takes a name: 1 to 128 bytes, no spaces, no control characters, at most 8 parts between slashes and
    /// none of them empty.
    pub fn new(name: &str) -> Result<Agent, Invalid> {
        let agent = word("agent name", name, limits::AGENT_MAX).map(Agent)?;
        if name.split('/').any(str::is_empty) {
            return Err(Invalid(format!(
                "the agent name {name:?} has an empty part: a sub-agent is named after its parent, `claw-456/worker-1`"
            )));
        }
        if name.split('/').count() > limits::AGENT_DEPTH_MAX {
            let most = limits::AGENT_DEPTH_MAX;
            return Err(Invalid(format!("the agent name {name:?} has more than {most} parts between slashes")));
        }
        Ok(agent)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `other` is a sub-agent of this one, or one of a sub-agent's.
    pub fn is_above(&self, other: &Agent) -> bool {
        other.0.strip_prefix(&*self.0).is_some_and(|rest| rest.starts_with('/'))
    }

    /// How many agents there are from the one that has no parent down to this one: 1 for that one.
    pub fn depth(&self) -> u8 {
        self.0.split('/').count() as u8
    }
}

/// As a key of maps: looked up by its name.
impl Borrow<str> for Agent {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A client's own name for a request; a retry with it gets the same grant. Meant together with the agent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// Checks and takes an id: 1 to 128 bytes, no spaces, no control characters.
    pub fn new(id: &str) -> Result<RequestId, Invalid> {
        word("request id", id, limits::REQUEST_ID_MAX).map(RequestId)
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Checks a resource name, given without its `@`.
pub fn resource(name: &str) -> Result<Scope, Invalid> {
    word("resource name", name, limits::RESOURCE_MAX).map(|name| Scope::Resource((*name).into()))
}

/// Checks a note: at most 500 bytes, no control characters.
pub fn note(text: &str) -> Result<Arc<str>, Invalid> {
    if text.len() > limits::NOTE_MAX {
        return Err(Invalid(format!(
            "the note is {} bytes long; at most {} are allowed",
            text.len(),
            limits::NOTE_MAX
        )));
    }
    if text.chars().any(char::is_control) {
        return Err(Invalid("the note has a control character in it".into()));
    }
    Ok(text.into())
}

// ── Who ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A process that cannot be mistaken for a later one with its number, as long as the boot is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot, field 22 of `/proc/PID/stat`.
    pub start: u64,
}

/// What kind of client a session belongs to; it decides who counts as waiting in a deadlock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionKind {
    /// A library client: its threads hold guards, so each session is an actor of its own.
    Library,
    /// `flockd run` and the like: the agent itself is the actor.
    Command,
}

/// One live connection that holds guards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// Proof that a reconnecting client is the same one.
    pub secret: u128,
    /// Whose locks it holds.
    pub agent: Agent,
    /// The process at the other end, as the kernel told it.
    pub process: Option<Process>,
    /// Actor or not.
    pub kind: SessionKind,
    /// Set after a restart until the client is back: when the session is given up.
    pub away_until: Option<Moment>,
}

/// Who asks: an agent, and the session if the request belongs to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// The owner.
    pub agent: Agent,
    /// The custodian; none for a one-shot.
    pub session: Option<SessionId>,
}

/// Who waits or is waited for, in the search for deadlocks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Actor {
    /// One-shots, commands and detached locks of this agent.
    Agent(Agent),
    /// The guards of one library session.
    Session(SessionId),
}

/// A named directory tree. It names things and groups events; it does not narrow exclusion.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Workspace {
    /// Canonical path of its root.
    pub root: Arc<[u8]>,
}

impl Workspace {
    /// Stable id of the root path, by FNV-1a: the same tree has the same id in every home and release.
    pub fn id(&self) -> String {
        let hash = self
            .root
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        format!("ws_{}", base32(hash))
    }
}

// ── Locks ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/// How a lock excludes others. Modes have no order: which lock is as good as which is [`Mode::answers`], and which may
/// become which [`Mode::is_weaker_than`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Many readers.
    Shared,
    /// One holder, nobody beside it but advisory ones.
    Exclusive,
    /// Known to all and in nobody's way: granted at once beside whatever is held, ranked by the first grant.
    Advisory,
}

impl Mode {
    /// The mode matrix: advisory goes with all, and of the others only shared with shared.
    pub fn excludes(self, other: Mode) -> bool {
        let is_alone = self == Mode::Exclusive || other == Mode::Exclusive;
        is_alone && self != Mode::Advisory && other != Mode::Advisory
    }

    /// Whether whoever holds a scope in this mode has what a request for `asked` is about. An advisory lock is about
    /// its rank, which no other has, and gives no right that another would ask for.
    pub fn answers(self, asked: Mode) -> bool {
        self == asked || (self == Mode::Exclusive && asked == Mode::Shared)
    }

    /// Whether a lock in this mode would have to become one in `other`, by an upgrade, to have as much.
    pub fn is_weaker_than(self, other: Mode) -> bool {
        self == Mode::Shared && other == Mode::Exclusive
    }

    /// Its word on the wire and in the CLI.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Shared => "shared",
            Mode::Exclusive => "exclusive",
            Mode::Advisory => "advisory",
        }
    }
}

/// How long a lock outlives whoever keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Milliseconds that the lock lives on after its session, or, for a one-shot, after its last renewal.
    pub ttl: u64,
    /// Milliseconds after which a lock without a session ends, renewed or not.
    pub max_hold: Option<u64>,
}

/// A request for a lock, kept with the lock it becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// What.
    pub target: Target,
    /// How.
    pub mode: Mode,
    /// For whom.
    pub who: Who,
    /// For how long.
    pub lease: Lease,
    /// Why, in the holder's words.
    pub note: Option<Arc<str>>,
    /// The process that asked, as the kernel told it.
    pub process: Option<Process>,
    /// A process that the lock must not outlive, whatever else keeps it. Only without a session, which has other ways.
    pub bound: Option<Process>,
    /// The client's name for this request.
    pub request: Option<RequestId>,
    /// What names the scope in answers and events.
    pub workspace: Workspace,
    /// Whether programs that know only flock(2) are to be kept out as well, where there is a file to flock.
    pub os: bool,
    /// The shared lock of its own agent that this request makes exclusive; none in what is held.
    pub upgrades: Option<LockId>,
    /// Which part of a set it is, if it is one: all of that is granted in one step, or nothing.
    pub set: Option<SetMember>,
}

/// One of the scopes that are asked for together. Those of a waiting set have consecutive [`WaiterId`]s. Once granted,
/// each is a lock like any other; the mark tells a retry which of the scopes it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetMember {
    /// Which one, from 0.
    pub index: u16,
    /// How many there are.
    pub of: u16,
}

/// What keeps a lock alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Custody {
    /// Only its lease.
    Detached,
    /// A live session.
    Session(SessionId),
    /// A process: the command of `flockd run`, which may outlive `run` itself.
    Process(Process),
}

/// Somebody who holds a flock(2) on our file and does not know us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreigner {
    /// Its process, if the system could tell.
    pub pid: Option<u32>,
    /// Its command, if the system could tell.
    pub command: Option<Arc<str>>,
    /// How it holds the file.
    pub mode: Mode,
    /// When it was first found there.
    pub seen: Wall,
}

/// What a lock has of the operating system. Not kept in the journal: a new daemon takes it anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OsLock {
    /// Nothing: not wanted, no such file, or no way to lock it.
    None,
    /// Being taken again after a restart.
    Asked,
    /// A flock that keeps others out.
    Held,
    /// After a restart somebody else had it: told, and tried again when the time comes.
    Contested {
        /// Who.
        by: Foreigner,
        /// When it is tried again.
        again: Moment,
    },
}

/// How far a waiting request is with the operating system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OsWait {
    /// Not there yet: somebody of ours is in the way.
    Idle,
    /// Ours have let it through, the flock is being tried. The lock will have this id.
    Asked {
        /// The lock to be.
        lock: LockId,
        /// How long was waited before this try, in milliseconds.
        pause: u64,
    },
    /// The flock of a member of a set was tried; that of another still is. The lock will have this id.
    Had {
        /// The lock to be.
        lock: LockId,
        /// It is held; if not, there is none to be had, and the lock goes without.
        held: bool,
    },
    /// A foreigner holds the file; it is tried again when the time comes.
    Busy {
        /// Who.
        by: Foreigner,
        /// When it is tried again.
        again: Moment,
        /// How long was waited for that, in milliseconds.
        pause: u64,
    },
}

/// A granted request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Its name for life.
    pub id: LockId,
    /// What was asked. Replaced as a whole when a session resumes the lock.
    pub ask: Arc<Ask>,
    /// The token of its latest grant.
    pub fence: Fence,
    /// What keeps it alive.
    pub custody: Custody,
    /// When it was first granted.
    pub since: Now,
    /// The ttl in force, in milliseconds; the one of its request until it is renewed with another.
    pub ttl: u64,
    /// When its lease runs out; none while something keeps it alive.
    pub expires: Option<Moment>,
    /// When it ends however often it is renewed, unless something keeps it alive.
    pub hold_until: Option<Moment>,
    /// What its agent has of it, having taken it without a session, while one has it on loan; none if it is detached.
    pub lent: Option<Box<Loan>>,
    /// What keeps foreign programs out.
    pub os: OsLock,
    /// Files that are being put in place under it; none most of the time. Not kept in the journal: they end with the
    /// daemon that does it.
    pub in_flight: Option<Box<InFlight>>,
}

/// Commits that are on their way under a lock, and what has to wait for them: a lock does not end, and goes to nobody,
/// while the file system may still act for its holder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InFlight {
    /// The commits, by age; at least one.
    pub commits: Vec<Commit>,
    /// What ended the lock meanwhile, if its session or process did. It ends when the last commit is over.
    pub ending: Option<EndReason>,
    /// Commands that would end the lock, or put another file in the same place; carried out then, in order.
    pub waiting: Vec<Command>,
}

impl InFlight {
    /// Whether the lock ends, or is changed, when the commits are over.
    pub fn is_ending(&self) -> bool {
        let ends = |command: &Command| {
            matches!(
                command,
                Command::FinishUnlock(_) | Command::Break { .. } | Command::TakeBack { .. } | Command::Downgrade { .. }
            )
        };
        self.ending.is_some() || self.waiting.iter().any(ends)
    }
}

/// Names a commit as long as the daemon runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommitId(pub u64);

/// A commit on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its name.
    pub id: CommitId,
    /// Where its answer goes; none once it was answered.
    pub caller: Option<Caller>,
    /// Who writes.
    pub who: Who,
    /// What is written.
    pub target: Target,
}

/// A file that is ready to be put in the place of another, and what that other one must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Its name in the directory of the target.
    pub name: Box<[u8]>,
    /// Its device number, as `st_dev`: with the inode it is recognised where it is in place already.
    pub device: u64,
    /// Its inode number, as `st_ino`.
    pub inode: u64,
    /// What must be in its place before; none for whatever there is.
    pub unchanged: Option<Unchanged>,
}

/// What the target of a commit must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unchanged {
    /// There must be no such file.
    Absent,
    /// The content with this BLAKE3 hash.
    Hash([u8; 32]),
}

/// What came of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitAnswer {
    /// The prepared file is the target now, durably.
    InPlace(Placed),
    /// It is the target now, but a power cut may undo that; why.
    NotDurable(Placed, String),
    /// Nothing was changed.
    Refused(Fault),
    /// The file system has not answered for long, and nothing can be called back: it may still happen.
    Late,
}

/// A file that was put in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its size in bytes.
    pub bytes: u64,
    /// Its identity, if it could be told: what stands in that place from now on.
    pub file: Option<FileId>,
    /// It is flocked for the lock.
    pub flocked: bool,
    /// It had been put in place before, by an earlier try.
    pub again: bool,
}

impl Lock {
    /// The processes whose end is to be told to the table for this lock's sake: one that keeps it, one that it must not
    /// outlive.
    pub fn hangs_on(&self) -> impl Iterator<Item = Process> + use<> {
        let keeper = match self.custody {
            Custody::Process(process) => Some(process),
            Custody::Detached | Custody::Session(_) => None,
        };
        keeper.into_iter().chain(self.bound().filter(|bound| Some(*bound) != keeper))
    }

    /// The process that it must not outlive; of what is on loan, what its agent has of it.
    pub fn bound(&self) -> Option<Process> {
        self.lent.as_ref().map_or(self.ask.bound, |loan| loan.promised.bound)
    }

    /// Whether a reboot ends it: nothing is left that kept it, or that it was not to outlive.
    pub fn is_void_after_reboot(&self) -> bool {
        let is_kept = self.lent.is_none() && (self.ttl == 0 || matches!(self.custody, Custody::Process(_)));
        is_kept || self.bound().is_some() || self.ask.mode == Mode::Advisory
    }

    /// What was on loan as its agent's again, but for when its lease runs out.
    pub fn returned(mut self) -> Lock {
        if let Some(loan) = self.lent.take() {
            let Loan { promised: Promised { lease, ttl, hold_until, bound }, note, process } = *loan;
            let who = Who { session: None, ..self.ask.who.clone() };
            let ask = Ask { who, lease, bound, note, process, request: None, set: None, ..(*self.ask).clone() };
            (self.ask, self.ttl, self.hold_until) = (Arc::new(ask), ttl, hold_until);
        }
        self
    }

    /// The session whose guard this lock is, if any: the one that keeps it, or `run` whose command keeps it.
    pub fn keeper(&self) -> Option<SessionId> {
        match self.custody {
            Custody::Detached => None,
            Custody::Session(session) => Some(session),
            Custody::Process(_) => self.ask.who.session,
        }
    }
}

/// Where an advisory lock stands among those on its scope, as of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its place by first grant, from 1.
    pub rank: usize,
    /// Whose lock has rank 1.
    pub leader: Agent,
}

/// A request in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// Its place in the order of arrival.
    pub id: WaiterId,
    /// It would be refused if it could not be had at once; only the system is asked meanwhile.
    pub at_once: bool,
    /// What it waits for.
    pub ask: Arc<Ask>,
    /// False for `flockd wait`, which takes nothing and keeps nobody waiting.
    pub takes: bool,
    /// When it began.
    pub since: Now,
    /// When it gives up; none for ever.
    pub deadline: Option<Moment>,
    /// Where its answer goes; none after a restart until the client asks again.
    pub caller: Option<Caller>,
    /// Set while `caller` is none: when the place is given up.
    pub absent_until: Option<Moment>,
    /// It has waited in vain before: the name under which its place is kept whenever its client is not there.
    pub ticket: Option<TicketId>,
    /// Nothing is in the way of a ticket: until when its agent may come for it, else it is the next one's turn.
    pub offered_until: Option<Moment>,
    /// How far it is with the operating system.
    pub os: OsWait,
    /// It was counted among those that could not have their scope at once: each is, once.
    pub is_counted: bool,
    /// How deep in its family the agent is inside whose lock it waits, 0 for nobody's: it comes before all requests of
    /// a lower level. Not kept in the journal: a restart sees it anew.
    pub level: u8,
}

impl Waiter {
    /// The foreigner in its way, if one is.
    pub fn foreigner(&self) -> Option<&Foreigner> {
        match &self.os {
            OsWait::Busy { by, .. } => Some(by),
            OsWait::Idle | OsWait::Asked { .. } | OsWait::Had { .. } => None,
        }
    }

    /// Whether this is a place alone, kept for an agent that has waited in vain and may ask again.
    pub fn is_kept(&self) -> bool {
        self.ticket.is_some() && self.caller.is_none()
    }

    /// Until when a place is kept for a client that is not there.
    pub fn kept_until(&self) -> Option<Moment> {
        [self.absent_until, self.offered_until].into_iter().flatten().min()
    }

    /// The place that is kept for it whenever its client is not there.
    pub fn place(&self) -> Option<KeptPlace> {
        let Waiter { id, since, level, .. } = *self;
        self.ticket.map(|ticket| KeptPlace { id, ticket, since, level })
    }

    /// Whether this place is kept for whoever asks so, if it is for the same thing, which the names alone do not tell:
    /// for the same agent or session, in the same mode.
    pub fn is_kept_for(&self, ask: &Ask) -> bool {
        let own = &*self.ask;
        self.is_kept() && own.who == ask.who && own.mode == ask.mode && own.bound == ask.bound && own.set == ask.set
    }

    /// What names the whole request: its first row, where it is for a set.
    pub fn first(&self) -> WaiterId {
        WaiterId(self.id.0 - self.ask.set.map_or(0, |member| u64::from(member.index)))
    }

    /// The rows of the whole request.
    pub fn rows(&self) -> impl Iterator<Item = WaiterId> + use<> {
        let first = self.first().0;
        (first..first + self.ask.set.map_or(1, |member| u64::from(member.of))).map(WaiterId)
    }
}

/// Why a lock ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// Its agent released it.
    Released,
    /// Its lease ran out.
    Expired,
    /// Its session, or the process it was bound to, ended.
    SessionEnded,
    /// Somebody broke it.
    Broken {
        /// Who.
        by: Agent,
        /// Why.
        reason: Arc<str>,
    },
    /// After a restart of the daemon its session stayed silent.
    Silent,
    /// The machine was restarted.
    Rebooted,
}

/// A lock that was: kept so that retries are recognised, late releases answered and losses told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which lock.
    pub id: LockId,
    /// What it was.
    pub ask: Arc<Ask>,
    /// Its last fence.
    pub fence: Fence,
    /// Why it ended.
    pub why: EndReason,
    /// When it ended.
    pub at: Now,
    /// The agent does not know yet and is to be told.
    pub untold: bool,
}

// ── Events ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Number of an event; reserved like fences, so none is used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventSeq(pub u64);

impl EventSeq {
    /// The event's id, `ev_…`: the same in every telling of it.
    pub fn id(self) -> String {
        format!("ev_{}", base32(self.0))
    }
}

/// How a lock came to be held as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// A new lock.
    Granted,
    /// A session took up its agent's detached lock; with a new fence.
    Resumed,
    /// A shared lock became exclusive; with a new fence.
    Upgraded,
    /// An exclusive lock became shared. That is no new right: it keeps its fence.
    Downgraded,
    /// A new lock of a sub-agent, where its parent, or a parent of that, holds one that keeps others out.
    Delegated,
}

impl Acquired {
    /// Its word in events.
    pub fn as_str(self) -> &'static str {
        match self {
            Acquired::Granted => "granted",
            Acquired::Resumed => "resumed",
            Acquired::Upgraded => "upgraded",
            Acquired::Downgraded => "downgraded",
            Acquired::Delegated => "delegated",
        }
    }
}

/// When a scope counts as contended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold {
    /// So many requests for it were refused or had to wait,
    pub requests: u32,
    /// within so many milliseconds.
    pub within: u64,
}

impl Default for Threshold {
    fn default() -> Threshold {
        Threshold { requests: limits::CONTENTION_REQUESTS, within: limits::CONTENTION_WITHIN }
    }
}

impl Threshold {
    /// Whether it is within its bounds.
    ///
    /// # Errors
    /// It is not; what is.
    pub fn check(self) -> Result<(), Invalid> {
        if !(1..=limits::CONTENTION_REQUESTS_MAX).contains(&self.requests) {
            let (said, most) = (self.requests, limits::CONTENTION_REQUESTS_MAX);
            return Err(Invalid(format!("contention.requests is {said}, and may be 1 to {most}")));
        }
        if !(limits::CONTENTION_WITHIN_MIN..=limits::CONTENTION_WITHIN_MAX).contains(&self.within) {
            let text = format!("contention.within is {} ms, and may be 1000 ms (1s) to 3600000 ms (1h)", self.within);
            return Err(Invalid(text));
        }
        Ok(())
    }
}

/// What came together on a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contended {
    /// Requests that were refused,
    pub refused: u64,
    /// and those that had to wait,
    pub queued: u64,
    /// in so many milliseconds: since this was last told, or as far as they count.
    pub over: u64,
    /// How many wait now for something that overlaps it.
    pub waiting: u64,
    /// Milliseconds that the one of them has waited that began first.
    pub longest_wait: u64,
    /// Other contended scopes that were not told since the event of this kind before, because there were too many.
    pub left_out: u64,
}

/// How a file was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrote {
    /// Its content was changed, or it was made.
    Written,
    /// Another file was put in its place.
    Replaced,
    /// It was deleted, or moved away.
    Deleted,
}

impl Wrote {
    /// Its word in events.
    pub fn as_str(self) -> &'static str {
        match self {
            Wrote::Written => "written",
            Wrote::Replaced => "replaced",
            Wrote::Deleted => "deleted",
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A lock was granted, or is held in another way from now on.
    Acquired(Acquired),
    /// Somebody queues behind this lock.
    Waiting {
        /// Who.
        waiter: Agent,
    },
    /// The session ended, the lease is running.
    Detached,
    /// The lock is gone.
    Released(EndReason),
    /// This advisory lock has rank 1 from now on.
    Leader {
        /// Who had it before, if anybody did.
        former: Option<Agent>,
    },
    /// Many asked for this scope and could not have it at once. The lock is the oldest that is in the way; its request
    /// stands in the event with the scope that was asked for.
    Contention(Contended),
    /// A webhook is sent nothing more until somebody asks for it. This is about no lock: its request stands for the
    /// webhook, see [`Webhook::as_ask`].
    WebhookDisabled(Disabled),
    /// Somebody wrote to a file under this shared lock, while nobody was allowed to. Nothing tells who.
    Violation {
        /// What was done to it.
        how: Wrote,
    },
}

/// A webhook that is given up, for the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disabled {
    /// Which.
    pub webhook: WebhookId,
    /// Where it was.
    pub url: Arc<str>,
    /// It wants nothing more (410), rather than that nothing arrives.
    pub is_gone: bool,
    /// What came of the last attempt, for people.
    pub why: Arc<str>,
}

/// The names of all events there are, as [`EventKind::name`] gives them.
pub const EVENT_NAMES: &[&str] = &[
    "lock.acquired",
    "lock.waiting",
    "lock.released",
    "lock.detached",
    "lock.leader",
    "lock.contention",
    "lock.violation",
    "webhook.disabled",
];

impl EventKind {
    /// Its name on the wire and in the CLI: one of [`EVENT_NAMES`].
    pub fn name(&self) -> &'static str {
        match self {
            EventKind::Acquired(_) => "lock.acquired",
            EventKind::Waiting { .. } => "lock.waiting",
            EventKind::Released(_) => "lock.released",
            EventKind::Detached => "lock.detached",
            EventKind::Leader { .. } => "lock.leader",
            EventKind::Contention(_) => "lock.contention",
            EventKind::WebhookDisabled(_) => "webhook.disabled",
            EventKind::Violation { .. } => "lock.violation",
        }
    }
}

/// A change that others may want to hear of, about one lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its number.
    pub seq: EventSeq,
    /// The event that was told before it, zero if there was none: numbers are skipped, so that they alone do not tell
    /// whether anything is missing. None where the one before may be lost. Set by the bus, when the event is written.
    pub after: Option<EventSeq>,
    /// When.
    pub time: Wall,
    /// What.
    pub kind: EventKind,
    /// Which lock.
    pub lock: LockId,
    /// The lock's request: scope, mode, agent, workspace.
    pub ask: Arc<Ask>,
    /// The lock's fence at the time.
    pub fence: Fence,
}

// ── Webhooks ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// What posts to a webhook are signed with. Told to whoever asks for it by name, and never printed by chance.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    /// The secret with these bytes.
    pub fn new(bytes: &[u8]) -> Secret {
        Secret(bytes.into())
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// One place that hears of events by HTTP, and how far it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Its name.
    pub id: WebhookId,
    /// Where to.
    pub url: Arc<str>,
    /// Names of the events that are wanted; none for all.
    pub names: Box<[&'static str]>,
    /// Scopes whose events are wanted; none for all. By name only: a webhook outlives the files of today.
    pub scopes: Box<[Scope]>,
    /// What posts are signed with.
    pub secret: Secret,
    /// Whether it may be in a private network.
    pub allow_private: bool,
    /// Who added it.
    pub agent: Agent,
    /// When.
    pub created: Wall,
    /// The process with whose end it goes.
    pub until: Option<Process>,
    /// All events up to this number are delivered, or not wanted.
    pub passed: EventSeq,
    /// How many posts have arrived.
    pub delivered: u64,
    /// What is wrong, while the next event cannot be delivered.
    pub failing: Option<Failing>,
}

/// Attempts in vain to deliver one event. Those behind it wait, so that they stay in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// How many there were.
    pub attempts: u32,
    /// When the first one was.
    pub since: Wall,
    /// What came of the last one, for people.
    pub why: Arc<str>,
    /// When the next one is; none if there is none: the webhook is disabled.
    pub again: Option<Moment>,
}

impl Webhook {
    /// Whether nothing is sent any more, until somebody says so.
    pub fn is_disabled(&self) -> bool {
        self.failing.as_ref().is_some_and(|failing| failing.again.is_none())
    }

    /// What stands in an event about it in the place of a lock's request: its id as a resource, and who added it. So
    /// filters by scope and by agent find it.
    pub fn as_ask(&self) -> Ask {
        let name = self.id.to_string().into();
        Ask {
            target: Target::named(Scope::Resource(name)),
            mode: Mode::Shared,
            who: Who { agent: self.agent.clone(), session: None },
            lease: Lease { ttl: 0, max_hold: None },
            note: None,
            process: None,
            bound: None,
            request: None,
            workspace: Workspace { root: b"/".as_slice().into() },
            os: false,
            upgrades: None,
            set: None,
        }
    }
}

/// What is asked of the webhooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebhookCommand {
    /// A new one, from the next event on. Id and secret are random numbers of the caller's.
    Add {
        /// Where the answer goes.
        caller: Caller,
        /// The webhook; what has come of it so far is filled in.
        webhook: Box<Webhook>,
    },
    /// Which there are.
    List {
        /// Where the answer goes.
        caller: Caller,
        /// Only this one.
        id: Option<WebhookId>,
    },
    /// It goes.
    Remove {
        /// Where the answer goes.
        caller: Caller,
        /// Which.
        id: WebhookId,
    },
    /// It goes, since whoever added it was not told that it is there.
    TakeBack(WebhookId),
    /// It is tried again now, also if it was disabled.
    Retry {
        /// Where the answer goes.
        caller: Caller,
        /// Which.
        id: WebhookId,
    },
    /// An attempt to deliver has ended.
    Posted {
        /// To which.
        id: WebhookId,
        /// The event, or the last one that is missing.
        event: EventSeq,
        /// What came of it.
        result: PostResult,
        /// A random number, so that not all try again at the same moment.
        random: u32,
    },
    /// No event up to this one is wanted or undelivered.
    Passed {
        /// By which.
        id: WebhookId,
        /// The event.
        event: EventSeq,
    },
}

/// What came of one attempt to deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PostResult {
    /// The receiver took it.
    Delivered {
        /// Its status, 2xx.
        status: u16,
    },
    /// It did not: another status, or no answer.
    Failed {
        /// In a sentence, for people.
        why: Arc<str>,
        /// Milliseconds that the receiver wants to be left alone.
        retry_after: Option<u64>,
    },
    /// The receiver wants nothing more, ever (410).
    Gone,
}

// ── Rows ────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// One change of state. The table is the fold of its records: loading, applying and undoing are the same fold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A lock is as given, or gone.
    Lock(LockId, Option<Lock>),
    /// A waiter is as given, or gone.
    Waiter(WaiterId, Option<Waiter>),
    /// A session is as given, or gone.
    Session(SessionId, Option<Session>),
    /// An ended lock is remembered as given, or forgotten.
    Ended(LockId, Option<Ended>),
    /// Something happened. Not part of the table's state.
    Event(Event),
    /// A webhook is as given, or gone.
    Webhook(WebhookId, Option<Webhook>),
    /// Fences and event numbers below these may be given out from now on.
    Reserve {
        /// First fence that is not reserved.
        fences: u64,
        /// First event number that is not reserved.
        events: u64,
    },
}

// ── Commands and answers ────────────────────────────────────────────────────────────────────────────────────────────

/// How long a request waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    Try,
    /// Until this moment.
    Until(Moment),
    /// For ever.
    Forever,
}

/// Which locks are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one with this id.
    Id(LockId),
    /// The agent's own on exactly this scope.
    Scope(Target),
    /// All of the agent's.
    All,
}

/// What is asked of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A client wants a session. Id and secret are random numbers of the caller's.
    OpenSession {
        /// Where the answer goes.
        caller: Caller,
        /// The session to be.
        session: Session,
    },
    /// A client is back after a restart.
    ReturnSession {
        /// Where the answer goes.
        caller: Caller,
        /// Which session.
        id: SessionId,
        /// Proof.
        secret: u128,
        /// The process at the other end; it must be the session's.
        process: Option<Process>,
    },
    /// The connection of a session closed or its process died.
    EndSession(SessionId),
    /// Lock it.
    Lock {
        /// Where the answer goes.
        caller: Caller,
        /// What.
        ask: Arc<Ask>,
        /// How long to wait.
        wait: Wait,
    },
    /// Lock all of these, in one step, or nothing.
    LockSet {
        /// Where the answer goes.
        caller: Caller,
        /// What; each says which part of the set it is. They differ in nothing but that and their targets.
        asks: Vec<Arc<Ask>>,
        /// How long to wait.
        wait: Wait,
    },
    /// Tell me when I could have it; take nothing.
    WaitFree {
        /// Where the answer goes.
        caller: Caller,
        /// What would be taken.
        ask: Arc<Ask>,
        /// How long to wait.
        wait: Wait,
    },
    /// Release.
    Unlock {
        /// Where the answer goes; none if nobody listens for it.
        caller: Option<Caller>,
        /// Who releases.
        who: Who,
        /// What.
        which: Which,
        /// What a session has on loan stays with it as its own: only what would go back is given up.
        leaves_loan: bool,
    },
    /// The rest of an [`Command::Unlock`], once nothing is in flight under one of its locks any more.
    FinishUnlock(Box<Unlocking>),
    /// Make a shared lock exclusive.
    Upgrade {
        /// Where the answer goes.
        caller: Caller,
        /// Who holds it.
        who: Who,
        /// Which; by its scope, if not by its id.
        which: Which,
        /// How long to wait for the others to leave.
        wait: Wait,
        /// The client's name for this request.
        request: Option<RequestId>,
    },
    /// Make an exclusive lock shared. Nobody comes in between, and whoever waits to share it is let in.
    Downgrade {
        /// Where the answer goes.
        caller: Caller,
        /// Who holds it.
        who: Who,
        /// Which; by its scope, if not by its id.
        which: Which,
    },
    /// A grant did not reach its client: it is taken back, and its request may be granted anew.
    TakeBack {
        /// Which lock.
        id: LockId,
        /// The fence of that grant: a later one is not meant.
        fence: Fence,
        /// What is to be undone.
        what: Unheard,
    },
    /// The notices of these losses have reached their agents.
    LossesTold(Vec<LockId>),
    /// Start the lease anew.
    Renew {
        /// Where the answer goes.
        caller: Caller,
        /// Who renews.
        who: Who,
        /// What.
        which: Which,
        /// New ttl; none keeps the old one.
        ttl: Option<u64>,
    },
    /// May this agent write now?
    Check {
        /// Where the answer goes.
        caller: Caller,
        /// Who asks.
        who: Who,
        /// Where.
        target: Target,
        /// Under which fence, if it matters.
        fence: Option<Fence>,
    },
    /// Put a prepared file in the place of the target, if this agent may write now.
    Commit {
        /// Where the answer goes.
        caller: Caller,
        /// Who writes.
        who: Who,
        /// Where.
        target: Target,
        /// Under which fence, if it matters.
        fence: Option<Fence>,
        /// What.
        prepared: Arc<Prepared>,
    },
    /// The answer to [`Effect::Commit`].
    CommitDone {
        /// Which commit.
        commit: CommitId,
        /// Under which lock.
        lock: LockId,
        /// What came of it.
        answer: CommitAnswer,
    },
    /// End somebody's lock.
    Break {
        /// Where the answer goes.
        caller: Caller,
        /// Who breaks.
        who: Who,
        /// Which lock, exactly.
        id: LockId,
        /// Why, for the holder.
        reason: Arc<str>,
    },
    /// Who holds, who waits.
    Status {
        /// Where the answer goes.
        caller: Caller,
        /// Who asks, if it says; its losses are told.
        who: Option<Who>,
        /// Only what overlaps this.
        target: Option<Target>,
    },
    /// The lock lives as long as this process from now on.
    Bind {
        /// Where the answer goes.
        caller: Caller,
        /// Who holds it.
        who: Who,
        /// Which lock.
        id: LockId,
        /// The process.
        process: Process,
    },
    /// A process that keeps locks alive is dead.
    ProcessGone(Process),
    /// A connection closed: its waiting requests are cancelled.
    CallerGone {
        /// Number of the connection.
        conn: u64,
    },
    /// The client does not want this waiting request any more.
    Cancel {
        /// Where the answer of the cancel goes.
        caller: Caller,
        /// The waiting request, by its own caller.
        waiting: Caller,
    },
    /// The agent does not want its kept place any more.
    GiveUp {
        /// Where the answer goes.
        caller: Caller,
        /// Whose place it is.
        who: Who,
        /// Which.
        ticket: TicketId,
    },
    /// What the agent lost and has not been told of, and who waits for its locks, wherever that is.
    News {
        /// Where the answer goes.
        caller: Caller,
        /// Who asks.
        who: Who,
        /// The losses of which it says that it has heard.
        heard: Vec<LockId>,
    },
    /// The system's answer to [`Effect::WantOs`].
    Os {
        /// The lock, or the lock to be.
        lock: LockId,
        /// What it said.
        answer: OsAnswer,
    },
    /// About webhooks.
    Webhook(WebhookCommand),
    /// A workspace says when a scope in it counts as contended. Nobody is answered, and nothing is written: whoever
    /// greets says it again.
    Contention {
        /// Which workspace.
        workspace: Workspace,
        /// When.
        threshold: Threshold,
    },
    /// Somebody was seen to write to a file, a while ago. Nobody is answered.
    Wrote {
        /// Which file.
        target: Target,
        /// What was done to it.
        how: Wrote,
    },
    /// Nothing is asked; what is due is done.
    Tick,
}

/// A release of which a part has to wait. It is about the locks that were meant when it was asked for: whatever its
/// agent is granted meanwhile it keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlocking {
    /// Where the answer goes; none if nobody listens for it.
    pub caller: Option<Caller>,
    /// Who releases.
    pub who: Who,
    /// What was asked for.
    pub which: Which,
    /// See [`Command::Unlock`].
    pub leaves_loan: bool,
    /// What of it is released.
    pub released: Vec<Lock>,
    /// What is to be.
    pub left: Vec<LockId>,
}

/// What grants did to a lock of which nobody heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unheard {
    /// They made it: it goes as if it had not been.
    pub is_new: bool,
    /// They gave it a keeper: it goes on as the lease that it was, without one.
    pub resumed: Option<Promised>,
    /// They made it exclusive: it is shared again.
    pub upgraded: bool,
    /// It was made in a kept place: that is kept again.
    pub place: Option<KeptPlace>,
}

/// The terms of a detached lock, which its agent was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promised {
    /// What it was asked for with.
    pub lease: Lease,
    /// See [`Lock::ttl`].
    pub ttl: u64,
    /// See [`Lock::hold_until`].
    pub hold_until: Option<Moment>,
    /// See [`Ask::bound`].
    pub bound: Option<Process>,
}

impl Promised {
    /// What this lock promises.
    pub fn by(lock: &Lock) -> Promised {
        let Ask { lease, bound, .. } = *lock.ask;
        Promised { lease, ttl: lock.ttl, hold_until: lock.hold_until, bound }
    }
}

/// What an agent has of a lock that a session has taken up: it took that without a session, and gets it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loan {
    /// The terms, as they are again then.
    pub promised: Promised,
    /// See [`Ask::note`].
    pub note: Option<Arc<str>>,
    /// See [`Ask::process`].
    pub process: Option<Process>,
}

impl Loan {
    /// What its agent has of a lock that no session has.
    pub fn of(lock: &Lock) -> Loan {
        Loan { promised: Promised::by(lock), note: lock.ask.note.clone(), process: lock.ask.process }
    }
}

/// A place in the queue that was kept and has become a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptPlace {
    /// Where it stood in the order of arrival.
    pub id: WaiterId,
    /// Its name.
    pub ticket: TicketId,
    /// When its agent began to wait.
    pub since: Now,
    /// See [`Waiter::level`].
    pub level: u8,
}

impl Unheard {
    /// What this and an earlier one did. What was promised was so before both.
    pub fn and(self, earlier: Unheard) -> Unheard {
        Unheard {
            is_new: self.is_new || earlier.is_new,
            resumed: earlier.resumed.or(self.resumed),
            upgraded: self.upgraded || earlier.upgraded,
            place: self.place.or(earlier.place),
        }
    }

    /// What is left of it when somebody has heard of `known`.
    pub fn without(self, known: Unheard) -> Unheard {
        Unheard {
            is_new: self.is_new && !known.is_new,
            resumed: self.resumed.filter(|_| known.resumed.is_none()),
            upgraded: self.upgraded && !known.upgraded,
            place: self.place.filter(|_| !known.is_new),
        }
    }
}

/// What the operating system says to a wish for a flock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OsAnswer {
    /// It is held now.
    Held,
    /// A foreigner holds the file.
    Busy(Foreigner),
    /// The file is gone, or may not or cannot be locked. Ours is granted all the same and says so.
    Unable,
}

/// What the table wants done in the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Try to flock this for a lock, without waiting; the answer comes back as [`Command::Os`]. The scope is reserved
    /// meanwhile.
    WantOs {
        /// The lock, or the lock to be.
        lock: LockId,
        /// What.
        target: Target,
        /// How.
        mode: Mode,
    },
    /// Put a prepared file in place, once the records of this step are written; the answer comes back as
    /// [`Command::CommitDone`]. The lock does not end before.
    Commit {
        /// Its name.
        commit: CommitId,
        /// Under which lock.
        lock: LockId,
        /// Where.
        target: Target,
        /// Whether the new file is to be flocked for the lock before it is in place.
        flock: bool,
        /// What.
        prepared: Arc<Prepared>,
    },
    /// The lock is no more, or was not granted: its flock is not wanted any longer. Done after all wishes of its turn,
    /// so that a flock passes from one holder to the next without a gap.
    DropOs {
        /// Which lock.
        lock: LockId,
    },
    /// The flock that was taken under the one name is that of a lock which is held from now on; whatever flock that
    /// had before is not wanted any longer. In order with [`Effect::DropOs`].
    PassOs {
        /// The name it was asked for under.
        from: LockId,
        /// The lock.
        to: LockId,
    },
    /// The lock wants a shared flock from now on, in the place of an exclusive one. In order with [`Effect::DropOs`].
    ShareOs {
        /// Which lock.
        lock: LockId,
    },
}

/// What a granted request is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The lock as it is.
    pub lock: Lock,
    /// It was held before by the same agent.
    pub already_held: bool,
    /// It is a detached lock, taken up again, with what that had promised.
    pub resumed: Option<Promised>,
    /// It is a shared lock, made exclusive.
    pub upgraded: bool,
    /// The same request was granted before; this repeats the answer.
    pub again: bool,
    /// Others' locks there that are not in its way and that it should know of, or they of it: to an advisory lock all,
    /// to any other the advisory ones, and what sub-agents hold in what their parent has. Those that exclude others
    /// first, each kind by age, at most [`limits::HOLDERS_NAMED`].
    pub beside: Vec<Lock>,
    /// How many more of these there are.
    pub more: usize,
    /// The kept place that it came for and that is over with this.
    pub place: Option<KeptPlace>,
}

impl Granted {
    /// Whether this answer is the first to tell of this fence: if it cannot be delivered, the grant is to be taken
    /// back. For a lock that was taken up again that means its lease runs on.
    pub fn is_new(&self) -> bool {
        !(self.already_held || self.again)
    }

    /// What takes this grant back.
    pub fn take_back(&self) -> Command {
        Command::TakeBack { id: self.lock.id, fence: self.lock.fence, what: self.unheard() }
    }

    /// What is to be undone if this answer is the first to tell of its grant and cannot be delivered.
    pub fn unheard(&self) -> Unheard {
        let is_new = !(self.resumed.is_some() || self.upgraded);
        Unheard { is_new, resumed: self.resumed, upgraded: self.upgraded, place: self.place }
    }
}

/// Why a request was not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefusedFor {
    /// It would have to wait, and was not to.
    Held,
    /// The agent or session itself holds what is in the way; waiting would be for itself.
    OwnLock,
    /// It waited in vain.
    Timeout,
    /// To wait would close this cycle: each waits for the next, the last for the first. The first is the requester.
    Deadlock(Vec<Link>),
}

/// One step of a cycle of waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Who waits.
    pub waits: Agent,
    /// For what scope.
    pub wants: Scope,
    /// Whose lock or earlier request is in the way.
    pub behind: Agent,
    /// Whether `behind` holds it, or is queued before.
    pub held: bool,
}

/// A place in the queue that is kept for an agent which has waited in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Its name.
    pub id: TicketId,
    /// Until when.
    pub until: Moment,
}

/// A refusal: an answer, not an error. It names everybody in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub why: RefusedFor,
    /// Holders in the way, by age, at most [`limits::HOLDERS_NAMED`].
    pub holders: Vec<Lock>,
    /// How many more there are.
    pub more: usize,
    /// A foreign program in the way.
    pub foreigner: Option<Foreigner>,
    /// Place in the queue that it had or would have had, from 1.
    pub position: usize,
    /// The place is kept for its agent.
    pub ticket: Option<Ticket>,
    /// The shared lock that was to be upgraded: it is held as before.
    pub kept: Option<Box<Lock>>,
    /// Milliseconds after which another try may have a chance, where many want the same and it can be told.
    pub retry_after: Option<u64>,
}

/// A waiting request as `status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    /// The request.
    pub waiter: Waiter,
    /// Its place, from 1: one more than the earlier requests it waits behind.
    pub position: usize,
    /// Holders in the way, by age, at most [`limits::HOLDERS_NAMED`].
    pub behind: Vec<Lock>,
}

/// Why a command that needs a certain lock or session failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Such a lock, or one on that scope, does not exist.
    NotFound,
    /// There is no such webhook.
    NoWebhook(WebhookId),
    /// It exists and belongs to others.
    NotHolder(Vec<Lock>),
    /// The agent's own lock there is advisory and protects no write; and those who keep others out.
    OnlyAdvisory(Box<Lock>, Vec<Lock>),
    /// The agent holds it, but its sub-agents hold these in it.
    Delegated(Vec<Lock>),
    /// It was lost or had ended before.
    Lost(Box<Ended>, Vec<Lock>),
    /// What was given does not fit.
    Invalid(String),
    /// A bound of [`limits`] is reached; the text says which.
    TooMany(String),
    /// The session or its secret is unknown.
    UnknownSession,
    /// The journal cannot be written; grants stop until it can.
    Unavailable(String),
    /// The agent, or the daemon for it, may not do that.
    Denied(String),
    /// The file is not what it was to be; its BLAKE3 hash, or none if there is no such file.
    Changed(Option<[u8; 32]>),
    /// The file is in place, but a power cut may undo that; why.
    NotDurable(String),
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The session is open, or known again.
    SessionOpen(SessionId),
    /// The lock is held.
    Granted(Box<Granted>),
    /// The locks of a set are held, in the order in which they were asked for.
    GrantedSet(Vec<Granted>),
    /// The lock is not held.
    Refused(Box<Refused>),
    /// Nothing is in the way.
    Free,
    /// These were released; none if only a place in the queue was given up.
    Released(Vec<Lock>),
    /// These were renewed.
    Renewed(Vec<Lock>),
    /// The lock is shared now.
    Downgraded(Box<Lock>),
    /// `check`: the lock that allows it, or those in the way.
    Checked(Result<Box<Lock>, Vec<Lock>>),
    /// The file is in place, under this lock.
    Committed(Box<Lock>, Placed),
    /// The lock was broken.
    Broken(Box<Ended>),
    /// Who holds, who waits.
    Status {
        /// Locks by age.
        locks: Vec<Lock>,
        /// Waiting requests by arrival.
        waiters: Vec<Queued>,
    },
    /// What the agent has to hear stands beside.
    News {
        /// How many more of its losses there are.
        more: usize,
    },
    /// The lock is bound to the process.
    Bound(LockId),
    /// All webhooks by age.
    Webhooks(Vec<Webhook>),
    /// The webhook that was asked for, added or changed.
    Webhook(Box<Webhook>),
    /// The webhook was removed.
    WebhookRemoved(Box<Webhook>),
    /// The waiting request or kept place is gone, or was before. The request itself is answered with true as well.
    Cancelled(bool),
    /// It could not be done.
    Failed(Fault),
}

impl Reply {
    /// What this answer grants: one lock, or those of a set.
    pub fn grants(&self) -> &[Granted] {
        match self {
            Reply::Granted(granted) => std::slice::from_ref(granted),
            Reply::GrantedSet(all) => all,
            _ => &[],
        }
    }

    /// The same, to be corrected.
    pub fn grants_mut(&mut self) -> &mut [Granted] {
        match self {
            Reply::Granted(granted) => std::slice::from_mut(granted),
            Reply::GrantedSet(all) => all,
            _ => &mut [],
        }
    }
}

/// A reply with what its agent should hear along with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The reply.
    pub reply: Reply,
    /// Locks that the agent lost and has not been told of.
    pub lost: Vec<Ended>,
    /// Waiting requests that one of the agent's locks is in the way of.
    pub wanted: Vec<Waiter>,
    /// Where the advisory locks stand that a grant or a status names.
    pub standings: BTreeMap<LockId, Standing>,
}

impl Answer {
    /// A reply with nothing along with it.
    pub fn bare(reply: Reply) -> Answer {
        Answer { reply, lost: Vec::new(), wanted: Vec::new(), standings: BTreeMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_it_was_written() {
        for number in [0, 1, 31, 32, 1 << 20, (1 << 53) - 1, u64::MAX] {
            assert_eq!(LockId(number).to_string().parse(), Ok(LockId(number)));
        }
        for text in ["", "lk_", "se_1", "lk_u", "lk_zzzzzzzzzzzzzzzz", "1"] {
            assert!(text.parse::<LockId>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_with_spaces_or_too_long_are_refused_by_name() {
        assert!(Agent::new("claw-456/worker-1").is_ok());
        assert!(Agent::new("1/2/3/4/5/6/7/8").is_ok());
        for bad in ["/", "a/", "/a", "a//b", "1/2/3/4/5/6/7/8/9"] {
            assert!(Agent::new(bad).unwrap_err().0.contains("part"), "{bad}");
        }
        for bad in ["", "two words", "tab\t", &"x".repeat(129)] {
            assert!(Agent::new(bad).unwrap_err().0.contains("agent name"), "{bad}");
        }
        assert!(note("why, in a sentence").is_ok());
        assert!(note("two\nlines").is_err());
    }

    #[test]
    fn a_family_is_told_by_whole_parts_of_names() {
        let agent = |name| Agent::new(name).unwrap();
        assert!(agent("a").is_above(&agent("a/x")) && agent("a").is_above(&agent("a/x/p")));
        assert!(agent("a/x").is_above(&agent("a/x/p")));
        for (one, other) in [("a", "a"), ("a/x", "a"), ("a", "ab"), ("a", "ab/x"), ("a/x", "a/y"), ("a/x", "a/xy")] {
            assert!(!agent(one).is_above(&agent(other)), "{one} {other}");
        }
        assert_eq!((agent("a").depth(), agent("a/x/p").depth()), (1, 3));
    }

    #[test]
    fn only_shared_goes_with_shared_and_advisory_with_all() {
        assert!(!Mode::Shared.excludes(Mode::Shared));
        assert!(Mode::Shared.excludes(Mode::Exclusive));
        assert!(Mode::Exclusive.excludes(Mode::Shared));
        assert!(Mode::Exclusive.excludes(Mode::Exclusive));
        for mode in [Mode::Shared, Mode::Exclusive, Mode::Advisory] {
            assert!(!mode.excludes(Mode::Advisory) && !Mode::Advisory.excludes(mode));
            assert_eq!(mode.answers(Mode::Advisory), mode == Mode::Advisory);
            assert_eq!(Mode::Advisory.answers(mode), mode == Mode::Advisory);
            assert!(!mode.is_weaker_than(Mode::Advisory) && !Mode::Advisory.is_weaker_than(mode));
        }
    }
}
