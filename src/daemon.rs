//! The daemon put together: home, lock, journal, coordinator, socket, loop; it stops in the reverse order.

use crate::clock;
use crate::coordinator::{Coordinator, Surroundings};
use crate::journal::disk::DirDisk;
use crate::journal::{Journal, JournalError};
use crate::limits;
use crate::os;
use crate::os::home::{self, DaemonLock, Home, NotTaken};
use crate::server::flocks::FileLocks;
use crate::server::{Ended, Identity, Server, wake_up};
use mio::{Poll, Waker};
use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// How a daemon is to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Milliseconds without locks, waiters, sessions and connections after which it ends; none never.
    pub idle_exit: Option<u64>,
    /// Set a journal that cannot be read aside and start without its locks.
    pub fresh: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { idle_exit: Some(limits::IDLE_EXIT), fresh: false }
    }
}

/// Why a daemon cannot run.
#[derive(Debug)]
pub enum DaemonError {
    /// Another process serves this home.
    Served {
        /// Its number, if it could be read.
        pid: Option<u32>,
        /// The home.
        home: String,
    },
    /// The journal cannot be read for certain.
    Journal(JournalError),
    /// The home or the system is unfit.
    Io(io::Error),
}

impl fmt::Display for DaemonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DaemonError::Served { pid: Some(pid), home } => {
                write!(f, "the home {home} is served by process {pid} already; `flockd daemon stop` ends it")
            }
            DaemonError::Served { pid: None, home } => {
                write!(f, "the home {home} is served by another process already")
            }
            DaemonError::Journal(error) => error.fmt(f),
            DaemonError::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DaemonError {}

impl From<JournalError> for DaemonError {
    fn from(error: JournalError) -> Self {
        DaemonError::Journal(error)
    }
}

impl From<io::Error> for DaemonError {
    fn from(error: io::Error) -> Self {
        DaemonError::Io(error)
    }
}

/// A daemon that has loaded everything and listens.
pub struct Daemon {
    server: Server,
    /// Released last: whoever gets it finds a closed journal.
    lock: Arc<DaemonLock>,
    /// What loading found, for the log.
    pub notes: Vec<String>,
}

impl Daemon {
    /// Takes the home, loads its journal and listens. From here on clients are answered.
    ///
    /// `stop` ends the daemon when it becomes readable or is closed at the other end.
    ///
    /// # Errors
    /// See [`DaemonError`]. A home that cannot be read for certain is not served.
    pub fn open(home: &Home, stop: UnixStream, options: &Options) -> Result<Daemon, DaemonError> {
        home.ensure()?;
        let lock = DaemonLock::take(home).map_err(|error| match error {
            NotTaken::Held { pid } => DaemonError::Served { pid, home: home.dir.display().to_string() },
            NotTaken::Failed(error) => DaemonError::Io(error),
        })?;
        let lock = Arc::new(lock);
        os::process::raise_descriptor_limit();
        let disk = Arc::new(DirDisk::open(&home.dir)?);
        let mut notes = Vec::new();
        let unix_seconds = clock::now().wall.0 / limits::SECOND;
        if options.fresh {
            let aside = Journal::set_aside(&*disk, unix_seconds)?;
            notes.push(format!("the old journal was set aside in {aside}; its locks are not known here"));
        }
        let (journal, loaded) = Journal::open(disk, clock::boot_id()?, os::random_u64(), unix_seconds << 20)?;
        notes.extend(loaded.cut.clone());
        if loaded.rebooted {
            notes.push("the machine was restarted: what hung on a process is over".to_owned());
        }
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), Server::waker_token())?);
        let surroundings = surroundings(&waker, &lock);
        let coordinator = Coordinator::new(journal, loaded, clock::now(), surroundings)?;
        let table = coordinator.table();
        notes.push(format!("{} locks and {} waiting requests restored", table.locks(), table.waiters()));
        let listener = home::bind(&lock)?;
        let identity = Identity {
            home: home.dir.display().to_string(),
            socket: home.socket().display().to_string(),
            idle_exit: options.idle_exit,
        };
        let looked_at = lock.clone();
        let home_look = Box::new(move || looked_at.is_in_place().unwrap_or(true));
        let server = Server::new(poll, &waker, listener, stop, coordinator, identity, home_look)?;
        Ok(Daemon { server, lock, notes })
    }

    /// Serves until told to stop, or until nobody has needed it for a while. `log` is told what whoever looks after the
    /// machine is to know.
    ///
    /// # Errors
    /// When the system refuses to wait for readiness, or the journal cannot be closed.
    pub fn run(self, log: impl FnMut(&str)) -> io::Result<Ended> {
        let (ended, connections) = self.server.run(log)?;
        drop(self.lock);
        drop(connections);
        Ok(ended)
    }
}

fn surroundings(waker: &Arc<Waker>, lock: &Arc<DaemonLock>) -> Surroundings {
    let (waker, lock) = (waker.clone(), lock.clone());
    let guard = move || match lock.still_ours() {
        true => Ok(()),
        false => Err(JournalError::Tampered { file: lock.home().daemon_lock().display().to_string() }),
    };
    Surroundings {
        os: Box::new(FileLocks::new(&waker)),
        stopwatch: Box::new(clock::monotonic_us),
        wake: Box::new(move || wake_up(&waker)),
        guard: Box::new(guard),
    }
}
