//! What programs are told: holders, refusals, losses and errors as plain values, each with a sentence for people.

use super::ClientError;
use crate::wire::render::duration;
use crate::wire::{self, Code, KeptBy, LockBody, LocksBody, Mode, WireError};
use std::fmt;
use std::io;
use std::time::Duration;

// ── Locks and waiters ───────────────────────────────────────────────────────────────────────────────────────────────

/// A lock as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// Whose it is.
    pub agent: String,
    /// How it excludes others.
    pub mode: Mode,
    /// Its id, `lk_…`.
    pub lock_id: String,
    /// The workspace that names it, `ws_…`.
    pub workspace_id: String,
    /// What is locked: relative to its workspace, else absolute; a subtree ends in `/`, a resource begins with `@`.
    pub file_id: String,
    /// Its fencing token.
    pub fence: u64,
    /// When it was granted: RFC 3339, UTC.
    pub since: String,
    /// How long it outlives what keeps it.
    pub ttl: Duration,
    /// What is left of its lease; none while something keeps it alive.
    pub expires_in: Option<Duration>,
    /// Why, in its holder's words.
    pub note: Option<String>,
    /// The process that asked for it.
    pub pid: Option<u32>,
    /// What keeps it alive. A foreign program that holds the file's own flock(2) is [`KeptBy::Flock`].
    pub kept_by: KeptBy,
    /// Programs that only know flock(1) are kept out, too.
    pub os_lock: bool,
    /// A foreign program that had flocked the file when the daemon came back, and still has.
    pub contested_by: Option<String>,
    /// Of an advisory lock, where a status or a guard names it: its place by first grant on its scope, from 1.
    pub rank: Option<usize>,
    /// With `rank`: whose lock has rank 1.
    pub leader: Option<String>,
}

impl From<wire::Held> for Holder {
    fn from(held: wire::Held) -> Holder {
        Holder {
            agent: held.agent,
            mode: held.mode,
            lock_id: held.lock_id,
            workspace_id: held.workspace_id,
            file_id: held.file_id,
            fence: held.fence,
            since: held.since,
            ttl: Duration::from_millis(held.ttl_ms),
            expires_in: held.expires_in_ms.map(Duration::from_millis),
            note: held.note,
            pid: held.pid,
            kept_by: held.kept_by,
            os_lock: held.os_lock,
            contested_by: held.contested_by,
            rank: held.rank,
            leader: held.leader,
        }
    }
}

/// `claw-2 holds data.json exclusive (lk_7f) since 2026-01-01T00:00:00.000Z: rewriting the index`
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Holder { agent, file_id, mode, lock_id, since, .. } = self;
        write!(f, "{agent} holds {file_id} {mode} ({lock_id}) since {since}")?;
        if let Some(left) = self.expires_in {
            let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            write!(f, ", {} of its lease left", duration(left))?;
        }
        match &self.note {
            Some(note) => write!(f, ": {note}"),
            None => Ok(()),
        }
    }
}

pub(super) fn holders(held: Vec<wire::Held>) -> Vec<Holder> {
    held.into_iter().map(Holder::from).collect()
}

/// A request that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiter {
    /// Who waits.
    pub agent: String,
    /// How it wants to lock.
    pub mode: Mode,
    /// The workspace that names it, `ws_…`.
    pub workspace_id: String,
    /// What it wants, as in [`Holder::file_id`].
    pub file_id: String,
    /// Since when: RFC 3339, UTC.
    pub since: String,
    /// How long it goes on waiting; none for ever.
    pub wait_left: Option<Duration>,
    /// Its place in the queue, from 1.
    pub position: usize,
    /// Who is in its way.
    pub holders: Vec<Holder>,
    /// Why, in its own words.
    pub note: Option<String>,
    /// The process that asked.
    pub pid: Option<u32>,
    /// It is not there: for how long its place is kept. See [`Refusal::ticket`].
    pub kept: Option<Duration>,
    /// Its place is kept and its turn has come: it would be granted if it asked again.
    pub offered: bool,
}

impl From<wire::WaiterBody> for Waiter {
    fn from(body: wire::WaiterBody) -> Waiter {
        Waiter {
            agent: body.agent,
            mode: body.mode,
            workspace_id: body.workspace_id,
            file_id: body.file_id,
            since: body.since,
            wait_left: body.wait_left_ms.map(Duration::from_millis),
            position: body.position,
            holders: holders(body.holders),
            note: body.note,
            pid: body.pid,
            kept: body.kept_ms.map(Duration::from_millis),
            offered: body.offered,
        }
    }
}

/// Who holds and who waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Locks by age.
    pub locks: Vec<Holder>,
    /// Waiting requests by arrival.
    pub waiters: Vec<Waiter>,
}

impl From<wire::StatusBody> for Status {
    fn from(body: wire::StatusBody) -> Status {
        let waiters = body.waiters.into_iter().map(Waiter::from).collect();
        Status { locks: holders(body.locks), waiters }
    }
}

/// Whether this agent may write now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Check {
    /// It may: it holds the scope exclusively.
    pub allowed: bool,
    /// The lock that allows it.
    pub lock: Option<Holder>,
    /// Who holds something of the scope otherwise.
    pub holders: Vec<Holder>,
    /// What to do, where that is not plain: a sub-agent has to release first, or a parent's lock is not one's own.
    pub advice: Option<String>,
}

impl From<wire::CheckBody> for Check {
    fn from(body: wire::CheckBody) -> Check {
        let (lock, holders) = (body.lock.map(Holder::from), holders(body.holders));
        Check { allowed: body.allowed, lock, holders, advice: body.advice }
    }
}

// ── Refusals ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Why a lock was not granted: an answer, not an error. Nothing of the request is left behind but the place of one that
/// has waited in vain, see [`Refusal::ticket`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// [`Code::Held`], [`Code::Timeout`] or [`Code::Deadlock`].
    pub code: Code,
    /// Who asked.
    pub agent: String,
    /// How.
    pub mode: Mode,
    /// For what, as in [`Holder::file_id`]; several are separated by commas.
    pub file_id: String,
    /// Who is in the way, by age. A session that asks again for what it holds finds its own lock here.
    pub holders: Vec<Holder>,
    /// How many more there are than are named.
    pub more_holders: usize,
    /// The place in the queue that the request had or would have had, from 1.
    pub position: Option<usize>,
    /// With [`Code::Timeout`], the name of the place in the queue that is kept for two minutes, if the lock was asked
    /// for with a [`ttl`](super::LockRequest::ttl): whoever asks again in the same session goes on there. While it is
    /// kept, others wait behind it, for 30 s at most when its turn has come.
    /// [`Session::give_up`](super::Session::give_up) and the end of the session end it.
    pub ticket: Option<String>,
    /// With [`Code::Deadlock`], the cycle that waiting would have closed: one sentence a step.
    pub cycle: Vec<String>,
    /// What to do, in a sentence or two.
    pub advice: Option<String>,
    /// When another try may have a chance, where many want the same and it can be told.
    pub retry_after: Option<Duration>,
}

impl From<LockBody> for Refusal {
    fn from(body: LockBody) -> Refusal {
        Refusal {
            code: body.code.unwrap_or(Code::Held),
            agent: body.agent,
            mode: body.mode,
            file_id: body.file_id,
            holders: holders(body.holders),
            more_holders: body.more_holders,
            position: body.position,
            ticket: body.ticket,
            cycle: body.cycle,
            advice: body.advice,
            retry_after: body.retry_after_ms.map(Duration::from_millis),
        }
    }
}

impl From<LocksBody> for Refusal {
    fn from(body: LocksBody) -> Refusal {
        Refusal {
            code: body.code.unwrap_or(Code::Held),
            agent: body.agent,
            mode: body.mode,
            file_id: body.file_ids.join(", "),
            holders: holders(body.holders),
            more_holders: body.more_holders,
            position: body.position,
            ticket: body.ticket,
            cycle: body.cycle,
            advice: body.advice,
            retry_after: body.retry_after_ms.map(Duration::from_millis),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { agent, file_id, mode, .. } = self;
        match self.code {
            Code::Timeout => write!(f, "{agent} waited in vain for {file_id} ({mode})")?,
            Code::Deadlock => write!(f, "{agent} would wait for itself for {file_id} ({mode})")?,
            _ => write!(f, "{agent} cannot have {file_id} ({mode}) now")?,
        }
        for holder in &self.holders {
            write!(f, "; {holder}")?;
        }
        if self.more_holders > 0 {
            write!(f, "; and {} more", self.more_holders)?;
        }
        for step in &self.cycle {
            write!(f, "; {step}")?;
        }
        match &self.advice {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

/// Why there is no guard.
#[derive(Debug)]
#[non_exhaustive]
pub enum LockError {
    /// Others have it; who, and what to do.
    Refused(Box<Refusal>),
    /// There is no answer, or the request makes no sense.
    Failed(Error),
}

impl LockError {
    /// The refusal, if it is one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            LockError::Refused(refusal) => Some(refusal),
            LockError::Failed(_) => None,
        }
    }
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockError::Refused(refusal) => refusal.fmt(f),
            LockError::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for LockError {}

impl From<ClientError> for LockError {
    fn from(error: ClientError) -> LockError {
        LockError::Failed(error.into())
    }
}

// ── Losses ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// How a lock ended without its guard's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LossReason {
    /// Its lease ran out.
    Expired,
    /// Somebody broke it; see [`Loss::by`] and [`Loss::note`].
    Broken,
    /// Another call of the same agent released it.
    Released,
    /// What kept it alive was gone.
    SessionEnded,
    /// Its session did not return in time after a restart of the daemon.
    Silent,
    /// The machine was restarted.
    Rebooted,
    /// This session is over; what became of the lock since is not known here.
    Unknown,
}

/// A lock that ended without its guard's doing. What was written since may have met others' writes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loss {
    /// Which, `lk_…`.
    pub lock_id: String,
    /// What was locked, as in [`Holder::file_id`].
    pub file_id: String,
    /// Whose it was.
    pub agent: String,
    /// Its last fencing token.
    pub fence: u64,
    /// How it ended.
    pub reason: LossReason,
    /// Who broke it.
    pub by: Option<String>,
    /// Why, in words: of whoever broke it, or of what went wrong.
    pub note: Option<String>,
    /// When: RFC 3339, UTC; none if that is not known.
    pub at: Option<String>,
}

impl From<wire::Loss> for Loss {
    fn from(loss: wire::Loss) -> Loss {
        let reason = match loss.reason.as_str() {
            "expired" => LossReason::Expired,
            "broken" => LossReason::Broken,
            "released" => LossReason::Released,
            "session_ended" => LossReason::SessionEnded,
            "silent" => LossReason::Silent,
            "rebooted" => LossReason::Rebooted,
            _ => LossReason::Unknown,
        };
        Loss {
            lock_id: loss.lock_id,
            file_id: loss.file_id,
            agent: loss.agent,
            fence: loss.fence,
            reason,
            by: loss.by,
            note: loss.note,
            at: Some(loss.at),
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Loss { lock_id, file_id, .. } = self;
        write!(f, "{lock_id} on {file_id} was lost: ")?;
        match self.reason {
            LossReason::Expired => write!(f, "its lease ran out")?,
            LossReason::Broken => write!(f, "{} broke it", self.by.as_deref().unwrap_or("somebody"))?,
            LossReason::Released => write!(f, "another call of its agent released it")?,
            LossReason::SessionEnded => write!(f, "its session ended")?,
            LossReason::Silent => write!(f, "its session did not return after a restart of the daemon")?,
            LossReason::Rebooted => write!(f, "the machine was restarted")?,
            LossReason::Unknown => write!(f, "nothing is known of it any more")?,
        }
        if let Some(at) = &self.at {
            write!(f, " at {at}")?;
        }
        match &self.note {
            Some(note) => write!(f, " ({note})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Loss {}

/// Why a lock cannot be said to be held, or to have been held until its release.
#[derive(Debug)]
#[non_exhaustive]
pub enum HoldError {
    /// It was lost before.
    Lost(Box<Loss>),
    /// It could not be asked: the lock may be held or not.
    Unknown(Error),
}

impl HoldError {
    /// The loss, if it is known to be one.
    pub fn loss(&self) -> Option<&Loss> {
        match self {
            HoldError::Lost(loss) => Some(loss),
            HoldError::Unknown(_) => None,
        }
    }
}

impl fmt::Display for HoldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HoldError::Lost(loss) => loss.fmt(f),
            HoldError::Unknown(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for HoldError {}

/// Why a shared lock could not be made exclusive.
#[derive(Debug)]
#[non_exhaustive]
pub enum UpgradeError {
    /// Others share it; who, and what to do. It is held shared as before.
    Refused(Box<Refusal>),
    /// It was lost before.
    Lost(Box<Loss>),
    /// It could not be asked: the lock may be held in either mode, or not.
    Unknown(Error),
}

impl UpgradeError {
    /// The refusal, if it is one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            UpgradeError::Refused(refusal) => Some(refusal),
            UpgradeError::Lost(_) | UpgradeError::Unknown(_) => None,
        }
    }
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpgradeError::Refused(refusal) => refusal.fmt(f),
            UpgradeError::Lost(loss) => loss.fmt(f),
            UpgradeError::Unknown(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for UpgradeError {}

impl From<HoldError> for UpgradeError {
    fn from(error: HoldError) -> UpgradeError {
        match error {
            HoldError::Lost(loss) => UpgradeError::Lost(loss),
            HoldError::Unknown(error) => UpgradeError::Unknown(error),
        }
    }
}

// ── Errors ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Why something could not be asked or done. The text says what happened and what to do next.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// There is no daemon, and none could be started.
    NoDaemon(String),
    /// The request makes no sense, or cannot be carried out.
    Rejected {
        /// For programs; stable.
        code: Code,
        /// For people.
        message: String,
        /// Who holds it, where that is the reason.
        holders: Vec<Holder>,
    },
    /// The session is over: its locks are left to their leases. A new one goes on.
    SessionLost(String),
    /// No answer came in time.
    NoAnswer(String),
    /// The daemon said what no daemon says.
    Protocol(String),
    /// The system failed.
    Io(io::Error),
}

impl Error {
    pub(super) fn invalid(message: impl Into<String>) -> Error {
        Error::Rejected { code: Code::Invalid, message: message.into(), holders: Vec::new() }
    }

    /// The daemon's stable code, if the daemon answered.
    pub fn code(&self) -> Option<Code> {
        match self {
            Error::Rejected { code, .. } => Some(*code),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NoDaemon(text) | Error::SessionLost(text) | Error::NoAnswer(text) | Error::Protocol(text) => {
                f.write_str(text)
            }
            Error::Rejected { message, .. } => f.write_str(message),
            Error::Io(error) => write!(f, "the daemon cannot be reached: {error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Error {
        Error::Rejected { code: error.code, message: error.message, holders: holders(error.holders) }
    }
}

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Error {
        match error {
            ClientError::NoDaemon(text) => Error::NoDaemon(text),
            ClientError::Refused(error) => Error::from(*error),
            ClientError::Protocol(text) => Error::Protocol(text),
            ClientError::NoAnswer(text) => Error::NoAnswer(text),
            ClientError::SessionLost(text) => Error::SessionLost(text),
            ClientError::Io(error) => Error::Io(error),
        }
    }
}
