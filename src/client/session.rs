//! An agent's session and the directory it looks from: the handles that locks are asked for with.

use super::events::{Event, EventFilter};
use super::guard::LockRequest;
use super::guards::LockAllRequest;
use super::values::{Check, Error, Holder, Loss, Status};
use super::write::{self, Expected, WriteError, Written};
use super::{ClientError, Config, Connection, events, place, unexpected};
use crate::limits;
use crate::wire::stats::Stats;
use crate::wire::{self, Body, Op, Request};
use crossbeam_channel::Receiver;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One session of one agent: a connection of its own that holds guards, and is given back what it held when the
/// daemon is restarted.
///
/// Clones are the same session. Sessions exclude each other, also two of one agent; so threads that must exclude each
/// other have a session each, and threads that share one share its locks: who asks again in the same session for what
/// it holds is refused at once and finds its own lock named, instead of waiting for itself.
///
/// The session ends when the last of its handles and guards is dropped, or its process dies. Then its locks with a
/// [`ttl`](LockRequest::ttl) of zero are free, and all others are left to their leases, until which a new session of
/// the agent takes them up again.
///
/// Scopes are as in [`Workspace::lock`]; relative ones begin in the working directory at the time of
/// [`Client::agent`](super::Client::agent).
#[derive(Clone)]
pub struct Session {
    here: Workspace,
}

impl Session {
    pub(super) fn new(connection: Connection) -> Session {
        Session { here: Workspace { connection: Arc::new(connection), root: None, config: None } }
    }

    /// In whose name it asks.
    pub fn agent(&self) -> &str {
        self.here.connection.agent().map_or("", |agent| agent.as_str())
    }

    /// Its id, `se_…`.
    pub fn id(&self) -> String {
        self.here.connection.session_id().unwrap_or_default()
    }

    /// The same session, looking from another directory: relative scopes begin there, and answers and events name
    /// files from there. It does not narrow exclusion.
    ///
    /// # Errors
    /// [`Error::Rejected`] if `root` is no directory, or its `.flockd.toml` cannot be understood.
    ///
    /// # Examples
    /// ```
    /// # let kept = tempfile::tempdir()?;
    /// # let coordinator = flockd::Coordinator::open(kept.path().join("home"))?;
    /// # let root = kept.path().join("project");
    /// # std::fs::create_dir(&root)?;
    /// let workspace = coordinator.agent("claw-1")?.workspace(&root)?;
    /// assert_eq!(workspace.lock("data.json").acquire()?.file_id(), "data.json");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn workspace(&self, root: impl AsRef<Path>) -> Result<Workspace, Error> {
        let root = place::directory(root.as_ref()).map_err(|error| Error::invalid(error.0))?;
        let config = Config::of(&root).map_err(|error| Error::invalid(error.0))?;
        Ok(Workspace { connection: self.here.connection.clone(), root: Some(root), config: Some(config) })
    }

    /// Asks for a lock; see [`Workspace::lock`].
    pub fn lock(&self, scope: impl AsRef<Path>) -> LockRequest {
        self.here.lock(scope)
    }

    /// Asks for locks on all of these scopes, or none; see [`Workspace::lock_all`].
    pub fn lock_all<S: AsRef<Path>>(&self, scopes: impl IntoIterator<Item = S>) -> LockAllRequest {
        self.here.lock_all(scopes)
    }

    /// Asks whether the agent may write now; see [`Workspace::check`].
    ///
    /// # Errors
    /// See [`Error`].
    pub fn check(&self, scope: impl AsRef<Path>) -> Result<Check, Error> {
        self.here.check(scope)
    }

    /// Replaces a file by one with this content; see [`Workspace::write`].
    ///
    /// # Errors
    /// See [`WriteError`].
    pub fn write(&self, file: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Result<Written, WriteError> {
        self.here.write(file, content)
    }

    /// The same, if the file is what it is expected to be; see [`Workspace::write_if`].
    ///
    /// # Errors
    /// See [`WriteError`].
    pub fn write_if(
        &self,
        file: impl AsRef<Path>,
        expected: Expected,
        content: impl AsRef<[u8]>,
    ) -> Result<Written, WriteError> {
        self.here.write_if(file, expected, content)
    }

    /// Releases what the agent holds on exactly this scope; see [`Workspace::unlock`].
    ///
    /// # Errors
    /// See [`Error`].
    pub fn unlock(&self, scope: impl AsRef<Path>) -> Result<Vec<Holder>, Error> {
        self.here.unlock(scope)
    }

    /// Releases everything that the agent holds, in whatever session, and names it. Guards elsewhere have lost their
    /// locks then and are told so. What the agent held before a guard of this session took it over is the agent's
    /// again, as after the guard's own release; a second call releases that as well.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn unlock_all(&self) -> Result<Vec<Holder>, Error> {
        self.here.release(Request { all: true, ..Request::new(Op::Unlock) })
    }

    /// Gives up the place in the queue that was kept for a wait in vain, by its [`ticket`](super::Refusal::ticket), so
    /// that nobody waits for it; answers whether it was still kept.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn give_up(&self, ticket: &str) -> Result<bool, Error> {
        let request = Request { ticket: Some(ticket.to_owned()), ..Request::new(Op::Cancel) };
        match self.here.connection.call(request)?.ok {
            Some(Body::Cancelled(was_kept)) => Ok(was_kept),
            other => Err(unexpected(other.as_ref()).into()),
        }
    }

    /// Subscribes to what happens; see [`Workspace::subscribe`].
    ///
    /// # Errors
    /// See [`Error`].
    pub fn subscribe(&self, filter: EventFilter) -> Result<Receiver<Event>, Error> {
        self.here.subscribe(filter)
    }

    /// Who holds and who waits, in the whole home.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn status(&self) -> Result<Status, Error> {
        status(&self.here.connection, Request::new(Op::Status))
    }

    /// What has happened in the whole home since its daemon began; see [`Client::stats`](super::Client::stats).
    ///
    /// # Errors
    /// See [`Error`].
    pub fn stats(&self) -> Result<Stats, Error> {
        stats(&self.here.connection, Request::new(Op::Stats))
    }

    /// Losses that this session was told of and that belong to no guard of it: locks that the agent took elsewhere, or
    /// [kept](super::LockGuard::keep). Each is told once, or again if the connection broke meanwhile; they come with
    /// answers, so that this asks nobody.
    pub fn take_notices(&self) -> Vec<Loss> {
        self.here.connection.take_notices().into_iter().map(Loss::from).collect()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("agent", &self.agent()).field("id", &self.id()).finish()
    }
}

/// A session that looks from a directory; see [`Session::workspace`].
#[derive(Clone)]
pub struct Workspace {
    connection: Arc<Connection>,
    /// None where the greeting said it.
    root: Option<PathBuf>,
    config: Option<Config>,
}

impl Workspace {
    /// The directory, canonical; none for the place that the session itself looks from.
    pub fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// Asks for a lock on `scope`, exclusive and for at most 25 s unless said otherwise;
    /// [`acquire`](LockRequest::acquire) sends the request.
    ///
    /// A scope is a file, which need not exist yet; a directory and everything below it (one that exists, or a name
    /// that ends in `/`); `glob:src/**/*.rs`, all files that match the pattern, those to come included; or `@name`, a
    /// resource that is no file (`./@name` is the file). Names are bytes and are taken literally:
    /// `app/[id]/page.tsx` is a file.
    pub fn lock(&self, scope: impl AsRef<Path>) -> LockRequest {
        LockRequest::new(self.connection.clone(), self.about(Op::Lock, scope.as_ref()))
    }

    /// Asks for locks on all of these scopes, up to 64, in one step: all are granted or none, and they wait as one
    /// request. So nobody who takes all it needs at once waits for somebody who has one and wants another.
    ///
    /// A scope that is named twice is meant once. Scopes that have something in common, as a directory and a file in
    /// it, are refused by name.
    ///
    /// # Examples
    /// ```
    /// # let kept = tempfile::tempdir()?;
    /// # let coordinator = flockd::Coordinator::open(kept.path().join("home"))?;
    /// # let session = coordinator.agent("claw-1")?;
    /// let both = session.lock_all(["schema.sql", "src/models/"]).note("a new column").acquire()?;
    /// assert_eq!(both.len(), 2);
    /// both.release()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lock_all<S: AsRef<Path>>(&self, scopes: impl IntoIterator<Item = S>) -> LockAllRequest {
        let text = |path: &Path| wire::escape(path.as_os_str().as_bytes());
        let scopes = scopes.into_iter().map(|scope| text(scope.as_ref())).collect();
        let workspace = self.root.as_deref().map(text);
        LockAllRequest::new(self.connection.clone(), Request { scopes, workspace, ..Request::new(Op::Lock) })
    }

    /// Asks whether the agent may write to `scope` now: whether it holds it exclusively, in any session. The answer is
    /// true for the moment in which it was given; a guard's own [`fence`](super::LockGuard::fence) is what protects a
    /// write.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn check(&self, scope: impl AsRef<Path>) -> Result<Check, Error> {
        match self.connection.call(self.about(Op::Check, scope.as_ref()))?.ok {
            Some(Body::Check(body)) => Ok(body.into()),
            other => Err(unexpected(other.as_ref()).into()),
        }
    }

    /// Replaces a file by one with this content, under a lock of this session or a detached one of its agent that
    /// covers it, else under one that it takes for the moment, after waiting for at most 25 s. See [`LockGuard::write`]
    /// for what is promised, and [`LockGuard::write_if`] for how not to overwrite what somebody else has written.
    ///
    /// # Errors
    /// [`WriteError::Refused`] if others hold it, and those of [`LockGuard::write`].
    ///
    /// [`LockGuard::write`]: super::LockGuard::write
    /// [`LockGuard::write_if`]: super::LockGuard::write_if
    pub fn write(&self, file: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Result<Written, WriteError> {
        self.write_maybe(file.as_ref(), None, content.as_ref())
    }

    /// The same, if the file is what it is expected to be.
    ///
    /// # Errors
    /// [`WriteError::Changed`] if it is not, and those of [`Workspace::write`].
    pub fn write_if(
        &self,
        file: impl AsRef<Path>,
        expected: Expected,
        content: impl AsRef<[u8]>,
    ) -> Result<Written, WriteError> {
        self.write_maybe(file.as_ref(), Some(&expected), content.as_ref())
    }

    fn write_maybe(&self, file: &Path, expected: Option<&Expected>, content: &[u8]) -> Result<Written, WriteError> {
        let contention = self.config.map(|config| config.contention.into());
        write::at(&self.connection, self.root.as_deref(), contention, file, expected, |out| out.write_all(content))
    }

    /// Who holds and who waits for anything that overlaps `scope`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn status(&self, scope: impl AsRef<Path>) -> Result<Status, Error> {
        status(&self.connection, self.about(Op::Status, scope.as_ref()))
    }

    /// What has happened in the whole home since its daemon began, naming only scopes that overlap `scope`; see
    /// [`Client::stats`](super::Client::stats).
    ///
    /// # Errors
    /// See [`Error`].
    pub fn stats(&self, scope: impl AsRef<Path>) -> Result<Stats, Error> {
        let request = self.about(Op::Stats, scope.as_ref());
        stats(&self.connection, request)
    }

    /// Releases what the agent holds on exactly this scope, in whatever session, and names it. A guard whose lock is
    /// released over its head has lost it. A place that is kept in the queue there is given up.
    ///
    /// # Errors
    /// [`Error::Rejected`] with code `not_found`, `not_holder` or `lost` if the agent holds nothing there, and others
    /// of [`Error`].
    pub fn unlock(&self, scope: impl AsRef<Path>) -> Result<Vec<Holder>, Error> {
        self.release(self.about(Op::Unlock, scope.as_ref()))
    }

    /// Subscribes to what happens to locks from now on, or since a number: those that the filter wants, of anybody in
    /// any workspace of the home. Relative scopes of the filter begin here.
    ///
    /// The receiver is one of `crossbeam-channel`, for loops and `select!`. It gets each event once and in order, and
    /// in the place of events that are missing a [`Gap`](super::Gap): too old to be kept, since the daemon keeps the
    /// newest 10,000, or lost in a power cut. When the daemon is restarted, it goes on where it was. Who does not
    /// receive delays nobody and falls behind.
    ///
    /// It has a connection and a thread of its own, and outlives this handle. They end with the first event after the
    /// receiver is dropped. The receiver is disconnected when the daemon refuses to go on, or does not come back.
    ///
    /// # Errors
    /// [`Error::Rejected`] if the filter makes no sense, or no event has the number to go on from, and others of
    /// [`Error`].
    ///
    /// # Examples
    /// ```
    /// # let kept = tempfile::tempdir()?;
    /// # let coordinator = flockd::Coordinator::open(kept.path().join("home"))?;
    /// use flockd::{Event, EventFilter};
    ///
    /// let (claw, watcher) = (coordinator.agent("claw-1")?, coordinator.agent("watcher")?);
    /// let events = watcher.subscribe(EventFilter::new().event("lock.released").scope("@port-3000"))?;
    /// claw.lock("@port-3000").acquire()?.release()?;
    /// let Event::Lock(event) = events.recv()? else { panic!("nothing is missing") };
    /// assert_eq!((event.event.as_str(), event.acquired_by.as_str()), ("lock.released", "claw-1"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn subscribe(&self, filter: EventFilter) -> Result<Receiver<Event>, Error> {
        events::subscribe(&self.connection, self.root.as_deref(), filter)
    }

    fn release(&self, request: Request) -> Result<Vec<Holder>, Error> {
        match self.connection.call(request)?.ok {
            Some(Body::Released(locks)) => Ok(locks.into_iter().map(Holder::from).collect()),
            other => Err(unexpected(other.as_ref()).into()),
        }
    }

    fn about(&self, op: Op, scope: &Path) -> Request {
        let text = |path: &Path| wire::escape(path.as_os_str().as_bytes());
        let (scope, workspace) = (Some(text(scope)), self.root.as_deref().map(text));
        let contention = self.config.map(|config| config.contention.into());
        Request { scope, workspace, contention, ..Request::new(op) }
    }
}

impl fmt::Debug for Workspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let agent = self.connection.agent().map(|agent| agent.as_str());
        f.debug_struct("Workspace").field("agent", &agent).field("root", &self.root).finish()
    }
}

/// Statistics with all names that are kept: a program can leave out what it does not want.
pub(super) fn stats(connection: &Connection, request: Request) -> Result<Stats, Error> {
    let request = Request { top: Some(limits::STATS_NAMED), ..request };
    match connection.call(request).map_err(|error: ClientError| Error::from(error))?.ok {
        Some(Body::Stats(body)) => Ok(*body),
        other => Err(unexpected(other.as_ref()).into()),
    }
}

pub(super) fn status(connection: &Connection, request: Request) -> Result<Status, Error> {
    match connection.call(request).map_err(|error: ClientError| Error::from(error))?.ok {
        Some(Body::Status(body)) => Ok(body.into()),
        other => Err(unexpected(other.as_ref()).into()),
    }
}
