//! The daemon inside the caller's own process: the same home, socket and journal, on a thread instead of a process.

use crate::client::{Client, Error, Session};
use crate::clock;
use crate::daemon::{Daemon, DaemonError, Options};
use crate::limits;
use crate::os::home::Home;
use crate::server::{Ended, HOME_LOST};
use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

/// A coordinator in this process: it serves a home as a daemon would, on one thread, and other processes reach it by
/// the home's socket, the `flockd` program included.
///
/// The handles that it gives are the same as those of a daemon, and code that has them cannot tell which. Locks are in
/// the journal of the home: a later coordinator or daemon of this home goes on with them.
///
/// Dropping it stops it in order, so drop it last: sessions that are still open wait for up to a minute for somebody
/// else to serve the home, and fail then.
///
/// # Examples
/// ```
/// let kept = tempfile::tempdir()?;
/// let coordinator = flockd::Coordinator::open(kept.path().join("home"))?;
/// let guard = coordinator.agent("claw-1")?.lock("@port-3000").acquire()?;
/// assert_eq!(coordinator.client().status()?.locks[0].lock_id, guard.lock_id());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Coordinator {
    client: Client,
    thread: Thread,
}

/// The serving thread; told to stop and waited for when it is dropped.
struct Thread {
    /// Closed to stop.
    stop: Option<UnixStream>,
    handle: Option<JoinHandle<io::Result<Ended>>>,
}

impl Coordinator {
    /// Takes the home, which is created if it is missing, loads its journal and serves it.
    ///
    /// # Errors
    /// [`OpenError::Served`] with the process that serves this home already, and others of [`OpenError`].
    pub fn open(home: impl AsRef<Path>) -> Result<Coordinator, OpenError> {
        let home = Home::at(&std::path::absolute(home)?);
        let (stop, stopped) = UnixStream::pair()?;
        let daemon = open_patiently(&home, &stopped)?;
        drop(stopped);
        let handle = std::thread::Builder::new().name("flockd-loop".into()).spawn(move || daemon.run(|_| {}))?;
        let thread = Thread { stop: Some(stop), handle: Some(handle) };
        let client = reach(&home).map_err(OpenError::Unreachable)?;
        Ok(Coordinator { client, thread })
    }

    /// Opens a session for an agent; see [`Client::agent`].
    ///
    /// # Errors
    /// As [`Client::agent`].
    pub fn agent(&self, name: impl AsRef<str>) -> Result<Session, Error> {
        self.client.agent(name)
    }

    /// A handle on this coordinator, as on any daemon.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Stops in order and waits until the home is free.
    ///
    /// # Errors
    /// When the journal could not be closed, or the serving thread panicked. What was answered is in the journal all
    /// the same.
    pub fn close(self) -> io::Result<()> {
        let Coordinator { client, mut thread } = self;
        drop(client);
        thread.end()
    }
}

fn reach(home: &Home) -> Result<Client, Error> {
    Client::builder().home(&home.dir).start_nothing().connect()
}

/// Opens the daemon. While somebody has the home who does not answer, it is waited for: a daemon that is ending, or a
/// process that was just forked from one and has its lock and socket until it runs its own program.
fn open_patiently(home: &Home, stopped: &UnixStream) -> Result<Daemon, OpenError> {
    let give_up_at = clock::monotonic_ns() + limits::READY_WITHIN * 1_000_000;
    // Whoever opened it says when it ends.
    let options = Options { idle_exit: None, fresh: false };
    loop {
        match Daemon::open(home, stopped.try_clone()?, &options) {
            Err(DaemonError::Served { .. }) if clock::monotonic_ns() < give_up_at && reach(home).is_err() => {
                let pause = Duration::from_millis(5);
                #[expect(clippy::disallowed_methods, reason = "bounded back-off: nothing tells that a flock ends")]
                std::thread::sleep(pause);
            }
            result => return Ok(result?),
        }
    }
}

impl Thread {
    fn end(&mut self) -> io::Result<()> {
        drop(self.stop.take());
        match self.handle.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(Ok(Ended::HomeLost))) => Err(io::Error::other(HOME_LOST)),
            Some(Ok(ended)) => ended.map(|_| ()),
            Some(Err(_)) => Err(io::Error::other("the thread that served the home panicked")),
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // Whoever wants to know calls `close`; what a failure leaves behind is replayed by the next one.
        let _ = self.end();
    }
}

impl fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coordinator").field("home", &self.client.home()).finish_non_exhaustive()
    }
}

/// Why a home is not served.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// Somebody else serves it; [`Client::connect`] reaches whoever that is.
    Served {
        /// The process, if it could be read.
        pid: Option<u32>,
        /// The home.
        home: String,
    },
    /// Its journal cannot be read for certain. Nothing was changed.
    Journal(String),
    /// It is served, but does not answer.
    Unreachable(Error),
    /// The home or the system is unfit.
    Io(io::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Served { pid: Some(pid), home } => {
                write!(f, "the home {home} is served by process {pid} already: connect to it, or end it first")
            }
            OpenError::Served { pid: None, home } => {
                write!(f, "the home {home} is served by another process already: connect to it, or end it first")
            }
            OpenError::Journal(text) => f.write_str(text),
            OpenError::Unreachable(error) => error.fmt(f),
            OpenError::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            OpenError::Io(error) => Some(error),
            OpenError::Unreachable(error) => Some(error),
            OpenError::Served { .. } | OpenError::Journal(_) => None,
        }
    }
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> OpenError {
        OpenError::Io(error)
    }
}

impl From<DaemonError> for OpenError {
    fn from(error: DaemonError) -> OpenError {
        match error {
            DaemonError::Served { pid, home } => OpenError::Served { pid, home },
            DaemonError::Journal(error) => OpenError::Journal(error.to_string()),
            DaemonError::Io(error) => OpenError::Io(error),
        }
    }
}
