//! Asking for a lock, and the guard that holds it.

use super::values::{Error, HoldError, Holder, LockError, Loss, LossReason, UpgradeError, holders};
use super::write::{self, Draft, Expected, WriteError, Written};
use super::{ClientError, Connection, unexpected};
use crate::limits;
use crate::wire::{Body, Code, LockBody, Mode, Op, Request};
use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

// ── Asking ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A request for a lock, to be made more precise and then sent by [`acquire`](LockRequest::acquire).
///
/// # Examples
/// ```
/// use std::time::Duration;
/// # let kept = tempfile::tempdir()?;
/// # let coordinator = flockd::Coordinator::open(kept.path().join("home"))?;
/// # let session = coordinator.agent("claw-1")?;
/// let guard = session
///     .lock("data.json")
///     .shared()
///     .wait(Duration::from_secs(5))
///     .ttl(Duration::from_secs(60))
///     .note("counting the rows")
///     .acquire()?;
/// assert!(guard.lost().is_none());
/// guard.release()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[must_use = "nothing is asked for until `acquire` is called"]
pub struct LockRequest {
    connection: Arc<Connection>,
    request: Request,
}

impl LockRequest {
    pub(super) fn new(connection: Arc<Connection>, request: Request) -> LockRequest {
        LockRequest { connection, request: Request { wait_ms: Some(limits::WAIT_DEFAULT), ..request } }
    }

    pub(super) fn into_parts(self) -> (Arc<Connection>, Request) {
        (self.connection, self.request)
    }

    /// Many readers at once.
    pub fn shared(self) -> LockRequest {
        self.mode(Mode::Shared)
    }

    /// One holder and nobody beside it. This is what is asked for if nothing is said.
    pub fn exclusive(self) -> LockRequest {
        self.mode(Mode::Exclusive)
    }

    /// Only known to others: granted at once whatever is held, in nobody's way, and no protection for writes. Those on
    /// one scope are [ranked](LockGuard::rank) by who came first, and the event `lock.leader` tells whoever comes to be
    /// first. Nothing is synced for it, so a power cut may take it, and a reboot always does.
    ///
    /// # Examples
    /// ```
    /// # let kept = tempfile::tempdir()?;
    /// # let coordinator = flockd::Coordinator::open(kept.path().join("home"))?;
    /// let first = coordinator.agent("claw-1")?.lock("@review").advisory().acquire()?;
    /// let second = coordinator.agent("claw-2")?.lock("@review").advisory().acquire()?;
    /// assert_eq!((first.rank(), second.rank()), (Some(1), Some(2)));
    /// assert_eq!(second.leader(), Some("claw-1"));
    /// assert_eq!(second.beside()[0].agent, "claw-1");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn advisory(self) -> LockRequest {
        self.mode(Mode::Advisory)
    }

    /// In this mode.
    pub fn mode(self, mode: Mode) -> LockRequest {
        LockRequest { request: Request { mode: Some(mode), ..self.request }, ..self }
    }

    /// Waits at most so long, up to 24 h; 25 s if nothing is said. Fractions of a millisecond count as a whole one.
    pub fn wait(self, most: Duration) -> LockRequest {
        LockRequest { request: Request { wait_ms: Some(milliseconds(most)), ..self.request }, ..self }
    }

    /// Waits until the lock is granted or refused for another reason.
    pub fn wait_forever(self) -> LockRequest {
        LockRequest { request: Request { wait_ms: None, ..self.request }, ..self }
    }

    /// Does not wait: what is not free now is refused.
    pub fn try_now(self) -> LockRequest {
        self.wait(Duration::ZERO)
    }

    /// How long the lock outlives its session, up to 24 h; 60 s if nothing is said. While the session lives there is
    /// nothing to renew.
    ///
    /// With a ttl the lock waits for a killed process to come back, and is synced to disk before it is granted. With
    /// zero it is free as soon as the session ends, and nothing is synced.
    pub fn ttl(self, ttl: Duration) -> LockRequest {
        LockRequest { request: Request { ttl_ms: Some(milliseconds(ttl)), ..self.request }, ..self }
    }

    /// Why, in a sentence for whoever waits: at most 500 bytes, no control characters.
    pub fn note(self, note: impl Into<String>) -> LockRequest {
        LockRequest { request: Request { note: Some(note.into()), ..self.request }, ..self }
    }

    /// Leaves the file's own flock(2) alone, for programs that take it themselves while they hold ours.
    pub fn no_os_lock(self) -> LockRequest {
        LockRequest { request: Request { no_os_lock: true, ..self.request }, ..self }
    }

    /// Takes the scope for a pattern, as with `glob:` before it; see [`Workspace::lock`](super::Workspace::lock).
    pub fn glob(self) -> LockRequest {
        LockRequest { request: Request { glob: true, ..self.request }, ..self }
    }

    /// Asks, and waits for as long as was said.
    ///
    /// A restart of the daemon meanwhile is not noticed: the request is sent again and keeps its place.
    ///
    /// # Errors
    /// [`LockError::Refused`] names who is in the way, or the cycle that waiting would have closed;
    /// [`LockError::Failed`] if there is no answer. Either way nothing of the request is left behind.
    pub fn acquire(self) -> Result<LockGuard, LockError> {
        let body = self.connection.lock(self.request)?;
        if !body.acquired {
            return Err(LockError::Refused(Box::new(body.into())));
        }
        LockGuard::new(self.connection, body).ok_or_else(|| {
            LockError::Failed(Error::Protocol("the daemon granted a lock without an id or a fence".to_owned()))
        })
    }
}

impl fmt::Debug for LockRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockRequest").field("request", &self.request).finish_non_exhaustive()
    }
}

/// Whole milliseconds, rounded up: a short wait is not none.
fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

// ── Holding ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A lock that is held. It may be sent to and used by other threads.
///
/// Dropping it releases the lock without waiting for the daemon: the release travels with whatever is asked next.
/// [`release`](LockGuard::release) waits and tells whether the lock was held until then.
///
/// A lock can be lost while it is held: somebody breaks it, another call of the agent releases it, or this process is
/// stopped for more than a minute while the daemon is restarted. [`lost`](LockGuard::lost) tells what is known here,
/// [`check`](LockGuard::check) asks. Neither can promise that it is still held a moment later: what must not be
/// overwritten by a holder that lost its lock compares [fences](LockGuard::fence).
#[must_use = "the lock is released when its guard is dropped"]
pub struct LockGuard {
    connection: Arc<Connection>,
    body: Box<LockBody>,
    lock_id: String,
    fence: u64,
    /// The lock was not given back or away yet.
    is_held: bool,
}

impl LockGuard {
    pub(super) fn new(connection: Arc<Connection>, body: LockBody) -> Option<LockGuard> {
        let (lock_id, fence) = (body.lock_id.clone()?, body.fence?);
        Some(LockGuard { connection, body: Box::new(body), lock_id, fence, is_held: true })
    }

    /// The lock's id, `lk_…`.
    pub fn lock_id(&self) -> &str {
        &self.lock_id
    }

    /// The fencing token: larger than that of every grant before it in this home, whatever was locked. A store that
    /// remembers the largest it has seen and refuses smaller ones cannot be overwritten by a holder that lost its
    /// lock and has not noticed.
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// The mode in force.
    pub fn mode(&self) -> Mode {
        self.body.mode
    }

    /// What is locked: relative to the workspace, else absolute; a subtree ends in `/`, a resource begins with `@`.
    pub fn file_id(&self) -> &str {
        &self.body.file_id
    }

    /// The workspace that names it, `ws_…`.
    pub fn workspace_id(&self) -> &str {
        &self.body.workspace_id
    }

    /// Whose lock it is.
    pub fn agent(&self) -> &str {
        &self.body.agent
    }

    /// How long the lock outlives its session.
    pub fn ttl(&self) -> Duration {
        Duration::from_millis(self.body.ttl_ms.unwrap_or(0))
    }

    /// Whether programs that only know flock(1) are kept out, too.
    pub fn has_os_lock(&self) -> bool {
        self.body.os_lock
    }

    /// Of an advisory lock, its place by first grant among those on its scope, from 1, as it was when it was granted.
    /// The event `lock.leader` tells when it comes to be first.
    pub fn rank(&self) -> Option<usize> {
        self.body.rank
    }

    /// Of an advisory lock, whose lock had rank 1 when it was granted.
    pub fn leader(&self) -> Option<&str> {
        self.body.leader.as_deref()
    }

    /// Who else held something there when it was granted and was not in its way: to an advisory lock everybody, those
    /// that keep others out first, and to any other the advisory ones and sub-agents. At most 64.
    pub fn beside(&self) -> Vec<Holder> {
        holders(self.body.holders.clone())
    }

    /// Whether it is a lock that the agent held before and that no session kept: what was begun under it may be half
    /// done. Its id is the old one, its fence is new.
    pub fn is_resumed(&self) -> bool {
        self.body.resumed
    }

    /// The loss of the lock, if this session has heard of it. It hears with each answer, so that this asks nobody and
    /// takes no time; none means that nothing was heard yet.
    pub fn lost(&self) -> Option<Loss> {
        if let Some(loss) = self.connection.loss(&self.lock_id) {
            return Some(loss.into());
        }
        self.connection.why_over().map(|why| self.loss_of_unknown_kind(why))
    }

    /// Asks the daemon whether the lock is held: one round trip.
    ///
    /// # Errors
    /// [`HoldError::Lost`] if it is not, [`HoldError::Unknown`] if that could not be asked.
    pub fn check(&self) -> Result<(), HoldError> {
        if let Some(loss) = self.lost() {
            return Err(HoldError::Lost(Box::new(loss)));
        }
        // To renew a lock that a session keeps changes nothing and is answered for it alone.
        let request = Request { lock_id: Some(self.lock_id.clone()), ..Request::new(Op::Renew) };
        let answer = self.connection.call(request).map_err(|error| self.hold_error(error))?;
        match answer.ok {
            Some(Body::Renewed(locks)) if locks.iter().any(|lock| lock.fence == self.fence) => Ok(()),
            Some(Body::Renewed(_)) => {
                let why = "another session of its agent has taken it up".to_owned();
                Err(HoldError::Lost(Box::new(self.loss_of_unknown_kind(why))))
            }
            other => Err(HoldError::Unknown(unexpected(other.as_ref()).into())),
        }
    }

    /// Makes a shared lock exclusive, and waits at most so long for the others to leave; none waits for ever. The lock
    /// keeps its id and has a new [fence](LockGuard::fence). An exclusive one stays as it is.
    ///
    /// It comes before all others that wait there. Two who share a scope and both want it alone would wait for each
    /// other for ever, so the second is refused at once.
    ///
    /// # Errors
    /// [`UpgradeError::Refused`] names who is in the way: the lock is held shared as before.
    /// [`UpgradeError::Lost`] if it was lost; [`UpgradeError::Unknown`] if no answer came.
    pub fn upgrade(&mut self, most: impl Into<Option<Duration>>) -> Result<(), UpgradeError> {
        let wait_ms = most.into().map(milliseconds);
        let request = Request { lock_id: Some(self.lock_id.clone()), wait_ms, ..Request::new(Op::Upgrade) };
        let body = self.change(request)?;
        if !body.acquired {
            return Err(UpgradeError::Refused(Box::new((*body).into())));
        }
        self.take_over(body);
        Ok(())
    }

    /// Makes an exclusive lock shared, with the fence that it has. Nobody comes in between; whoever waits to share it
    /// is let in. A shared one stays as it is.
    ///
    /// # Errors
    /// [`HoldError::Lost`] if it was lost, [`HoldError::Unknown`] if no answer came.
    pub fn downgrade(&mut self) -> Result<(), HoldError> {
        let request = Request { lock_id: Some(self.lock_id.clone()), ..Request::new(Op::Downgrade) };
        let body = self.change(request)?;
        self.take_over(body);
        Ok(())
    }

    fn change(&self, request: Request) -> Result<Box<LockBody>, HoldError> {
        if let Some(loss) = self.lost() {
            return Err(HoldError::Lost(Box::new(loss)));
        }
        match self.connection.call(request).map_err(|error| self.hold_error(error))?.ok {
            Some(Body::Lock(body)) => Ok(body),
            other => Err(HoldError::Unknown(unexpected(other.as_ref()).into())),
        }
    }

    /// The lock is as the daemon says from now on.
    fn take_over(&mut self, body: Box<LockBody>) {
        self.fence = body.fence.unwrap_or(self.fence);
        // What the guard says of how it came to be stays as it was.
        let resumed = self.body.resumed;
        *self.body = LockBody { resumed, ..*body };
    }

    /// Replaces the locked file by one with this content, if the lock is still held: the daemon itself puts the new
    /// file in place, so that no holder overwrites anything that lost its lock, however long it was paused.
    ///
    /// Everybody sees the old file or the new one, and a power cut undoes nothing that was answered. Mode, group,
    /// access list and attributes of users are kept; a file that did not exist is made as this process makes files. A
    /// symbolic link means its target.
    ///
    /// # Errors
    /// [`WriteError::Lost`] if the lock was lost; see there for others. [`WriteError::Failed`] with a sentence for what
    /// cannot be replaced so: files with several names, of other users, and what is no regular file.
    ///
    /// # Examples
    /// ```
    /// # let kept = tempfile::tempdir()?;
    /// # let coordinator = flockd::Coordinator::open(kept.path().join("home"))?;
    /// # let session = coordinator.agent("claw-1")?;
    /// # let file = kept.path().join("data.json");
    /// let guard = session.lock(&file).acquire()?;
    /// let first = guard.write("{}")?;
    /// let second = guard.write_if(flockd::Expected::Hash(first.hash), "[]")?;
    /// assert_eq!(second.bytes, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn write(&self, content: impl AsRef<[u8]>) -> Result<Written, WriteError> {
        self.write_with(|out| out.write_all(content.as_ref()))
    }

    /// The same, if the file is what it is expected to be: what somebody has written around the locks is not lost.
    ///
    /// # Errors
    /// [`WriteError::Changed`] if it is not, and those of [`LockGuard::write`].
    pub fn write_if(&self, expected: Expected, content: impl AsRef<[u8]>) -> Result<Written, WriteError> {
        write::under(&self.connection, &self.body, self.fence, Some(&expected), |place| {
            Draft::make(place, |out| out.write_all(content.as_ref()))
        })
    }

    /// The same for content that is made bit by bit. Nobody sees it before it is whole.
    ///
    /// # Errors
    /// Those of [`LockGuard::write`], and whatever `make` fails with, as [`WriteError::Failed`].
    pub fn write_with(&self, make: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<Written, WriteError> {
        write::under(&self.connection, &self.body, self.fence, None, |place| Draft::make(place, make))
    }

    /// The same with a file that the caller has made in the same directory: it takes the place of the locked one, under
    /// whose name it is from then on. It must not be open for writing any more, and have one name. On an error it stays
    /// where it is. Where there was no file before it keeps its own mode.
    ///
    /// # Errors
    /// Those of [`LockGuard::write`].
    pub fn replace(&self, prepared: impl AsRef<Path>) -> Result<Written, WriteError> {
        let prepared = prepared.as_ref();
        write::under(&self.connection, &self.body, self.fence, None, |place| Draft::of(place, prepared))
    }

    /// Releases the lock and waits for the word that it was held until then.
    ///
    /// # Errors
    /// [`HoldError::Lost`] if it was lost before: what was done under it may have met others' writes.
    /// [`HoldError::Unknown`] if no word came; the release is on its way all the same.
    pub fn release(mut self) -> Result<(), HoldError> {
        self.is_held = false;
        if let Some(loss) = self.lost() {
            self.connection.forget(&self.lock_id);
            return Err(HoldError::Lost(Box::new(loss)));
        }
        self.connection.unlock(&self.lock_id).map_err(|error| self.hold_error(error))
    }

    /// Leaves the lock to the session: it is held as long as the session lives and for its ttl longer, until somebody
    /// takes it up or releases it. This is how a program hands a lock to its next run; its id is given back.
    ///
    /// The session itself can release it by [`Workspace::unlock`](super::Workspace::unlock), and is refused if it asks
    /// for it again.
    ///
    /// # Errors
    /// [`NotKept`], which has the guard, if the ttl is zero: such a lock would end with the session, and nobody could
    /// take it up.
    pub fn keep(mut self) -> Result<String, NotKept> {
        if self.ttl().is_zero() {
            return Err(NotKept(self));
        }
        self.is_held = false;
        self.connection.forget(&self.lock_id);
        Ok(std::mem::take(&mut self.lock_id))
    }

    fn hold_error(&self, error: ClientError) -> HoldError {
        match error {
            ClientError::Refused(error) => match (error.loss, error.code) {
                (Some(loss), _) => HoldError::Lost(Box::new((*loss).into())),
                (None, Code::NotFound | Code::NotHolder | Code::Lost) => {
                    HoldError::Lost(Box::new(self.loss_of_unknown_kind(error.message)))
                }
                (None, code) => {
                    HoldError::Unknown(Error::Rejected { code, message: error.message, holders: Vec::new() })
                }
            },
            ClientError::SessionLost(why) => HoldError::Lost(Box::new(self.loss_of_unknown_kind(why))),
            error => HoldError::Unknown(error.into()),
        }
    }

    fn loss_of_unknown_kind(&self, why: String) -> Loss {
        Loss {
            lock_id: self.lock_id.clone(),
            file_id: self.body.file_id.clone(),
            agent: self.body.agent.clone(),
            fence: self.fence,
            reason: LossReason::Unknown,
            by: None,
            note: Some(why),
            at: None,
        }
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        if self.is_held {
            self.connection.release_later(&self.lock_id);
        }
    }
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard")
            .field("lock_id", &self.lock_id)
            .field("file_id", &self.body.file_id)
            .field("mode", &self.body.mode)
            .field("agent", &self.body.agent)
            .field("fence", &self.fence)
            .finish_non_exhaustive()
    }
}

/// A guard that could not be [kept](LockGuard::keep), since its ttl is zero. The lock is still held.
#[derive(Debug)]
pub struct NotKept(LockGuard);

impl NotKept {
    /// The guard, to go on with.
    pub fn into_guard(self) -> LockGuard {
        self.0
    }
}

impl fmt::Display for NotKept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, file) = (&self.0.lock_id, &self.0.body.file_id);
        write!(f, "{id} on {file} has ttl 0 and would end with its session: ask for it with a ttl above 0 to keep it")
    }
}

impl std::error::Error for NotKept {}
