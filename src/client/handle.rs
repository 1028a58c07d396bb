//! The way in: a handle on the daemon of a home, found or started, that opens sessions for agents.

use super::events::{self, Event, EventFilter};
use super::session::{stats, status};
use super::values::{Error, Status};
use super::{ClientError, Connect, Connection, Custodian, Launch, Place, Session, launch};
use crate::model::Agent;
use crate::os::home::Home;
use crate::wire::stats::Stats;
use crate::wire::{Op, Request};
use crossbeam_channel::Receiver;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A handle on the daemon of a home. Cheap to clone, shared by threads, and it goes on by itself when the daemon was
/// restarted.
///
/// # Examples
/// ```no_run
/// let client = flockd::Client::connect()?;
/// let guard = client.agent("claw-1")?.lock("data.json").acquire()?;
/// println!("{} is ours, fence {}", guard.file_id(), guard.fence());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    home: Home,
    launch: Launch,
    connection: Connection,
}

impl Client {
    /// Finds the daemon of this user, or starts it.
    ///
    /// The home is `$FLOCKD_HOME`, else `$XDG_STATE_HOME/flockd`, else `~/.local/state/flockd`. What is started is the
    /// `flockd` that lies beside this program, else the first in `$PATH`; it goes on when this program ends, as long
    /// as anybody needs it. [`Client::builder`] says otherwise.
    ///
    /// # Errors
    /// [`Error::NoDaemon`] if none runs and none could be started, and others of [`Error`].
    pub fn connect() -> Result<Client, Error> {
        Client::builder().connect()
    }

    /// To connect to another home, or to decide what may be started.
    pub fn builder() -> ClientBuilder {
        ClientBuilder { home: None, start: Start::Found }
    }

    /// Opens a session for an agent: a connection with one sleeping thread. Each call opens another one, and sessions
    /// exclude each other; see [`Session`].
    ///
    /// A name is 1 to 128 bytes without spaces and control characters; a sub-agent is `claw-1/worker-1`. The working
    /// directory and its workspace are taken as they are now.
    ///
    /// # Errors
    /// [`Error::Rejected`] if the name cannot be one, and others of [`Error`].
    pub fn agent(&self, name: impl AsRef<str>) -> Result<Session, Error> {
        let invalid = |error: crate::model::Invalid| Error::invalid(error.0);
        let connect = Connect {
            home: self.shared.home.clone(),
            launch: self.shared.launch.clone(),
            agent: Some(Agent::new(name.as_ref()).map_err(invalid)?),
            place: Place::here().map_err(invalid)?,
            session: Some(Custodian::Library),
        };
        Ok(Session::new(dial(connect)?))
    }

    /// Who holds and who waits, in the whole home.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn status(&self) -> Result<Status, Error> {
        status(&self.shared.connection, Request::new(Op::Status))
    }

    /// What has happened in the whole home since its daemon began, with as many scopes and agents by name as there are.
    ///
    /// # Errors
    /// See [`Error`].
    ///
    /// # Examples
    /// ```
    /// # let kept = tempfile::tempdir()?;
    /// # let coordinator = flockd::Coordinator::open(kept.path().join("home"))?;
    /// let claw = coordinator.agent("claw-1")?;
    /// claw.lock("@port-3000").acquire()?.release()?;
    ///
    /// let stats = coordinator.client().stats()?;
    /// assert_eq!((stats.total.granted, stats.total.contended), (1, 0));
    /// assert_eq!((stats.scopes[0].path.as_str(), stats.scopes[0].tally.held.count), ("@port-3000", 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stats(&self) -> Result<Stats, Error> {
        stats(&self.shared.connection, Request::new(Op::Stats))
    }

    /// Subscribes to what happens in the whole home; see [`Workspace::subscribe`](super::Workspace::subscribe).
    /// Relative scopes begin in `/`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn subscribe(&self, filter: EventFilter) -> Result<Receiver<Event>, Error> {
        events::subscribe(&self.shared.connection, None, filter)
    }

    /// The directory of the daemon's state.
    pub fn home(&self) -> &Path {
        &self.shared.home.dir
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("home", &self.shared.home.dir).field("launch", &self.shared.launch).finish()
    }
}

/// How to connect; see [`Client::builder`].
#[derive(Clone, Debug)]
#[must_use = "nothing is connected until `connect` is called"]
pub struct ClientBuilder {
    home: Option<PathBuf>,
    start: Start,
}

/// What may be started where no daemon runs.
#[derive(Clone, Debug)]
enum Start {
    /// The `flockd` that is found.
    Found,
    /// This one.
    This(PathBuf),
    /// None.
    Nothing,
}

impl ClientBuilder {
    /// The directory of the daemon's state, instead of the user's own.
    pub fn home(self, dir: impl Into<PathBuf>) -> ClientBuilder {
        ClientBuilder { home: Some(dir.into()), ..self }
    }

    /// The `flockd` that is started if no daemon runs.
    pub fn program(self, path: impl Into<PathBuf>) -> ClientBuilder {
        ClientBuilder { start: Start::This(path.into()), ..self }
    }

    /// Starts nothing: a daemon runs or there is none.
    pub fn start_nothing(self) -> ClientBuilder {
        ClientBuilder { start: Start::Nothing, ..self }
    }

    /// Finds the daemon, or starts it if it may.
    ///
    /// # Errors
    /// [`Error::NoDaemon`] if none runs and none could be started, [`Error::Rejected`] if the home cannot be told, and
    /// others of [`Error`].
    pub fn connect(self) -> Result<Client, Error> {
        let home = match &self.home {
            Some(dir) => Home::at(&std::path::absolute(dir).map_err(Error::Io)?),
            None => Home::from_env().map_err(|error| Error::invalid(error.0))?,
        };
        let launch = match &self.start {
            Start::Found => launch::find_program().map_or(Launch::Never, Launch::With),
            Start::This(program) => Launch::With(program.clone()),
            Start::Nothing => Launch::Never,
        };
        // It only asks about everything, so that it looks from everywhere.
        let place = Place { cwd: b"/".to_vec(), workspace: b"/".to_vec(), config: None };
        let connect = Connect { home: home.clone(), launch: launch.clone(), agent: None, place, session: None };
        let connection = dial(connect).map_err(|error| match (error, &self.start, &launch) {
            (Error::NoDaemon(_), Start::Found, Launch::Never) => Error::NoDaemon(nothing_to_start(&home)),
            (error, ..) => error,
        })?;
        Ok(Client { shared: Arc::new(Shared { home, launch, connection }) })
    }
}

fn dial(connect: Connect) -> Result<Connection, Error> {
    Connection::connect(connect).map_err(|error: ClientError| error.into())
}

fn nothing_to_start(home: &Home) -> String {
    format!(
        "no daemon serves {}, and there is no `flockd` to start beside this program or in $PATH: install it, name it \
         with `Client::builder().program(…)`, or serve the home yourself with `Coordinator::open`",
        home.dir.display()
    )
}
