//! The program: one function a command, and the exit statuses in one place.

mod args;
mod ask;
mod child;
mod daemon;
mod elect;
mod git;
mod git_guard;
mod hook;
mod install;
#[cfg(feature = "mcp")]
mod mcp;
mod on;
mod print;
mod prometheus;
mod run;
mod stats;
mod watch;
mod webhook;
mod write;

use crate::client::{ClientError, Connect, Connection, Custodian, Launch, Place, acting, agent};
use crate::model::{Agent, Invalid};
use crate::os::home::Home;
use crate::wire::{Code, WireError};
use args::{Cli, Verb};
use clap::Parser;
use std::io::IsTerminal;
use std::process::ExitCode;

/// The exit statuses that scripts rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It is so, or it is done.
    Yes = 0,
    /// It is not: held by others, not yours, lost.
    No = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// Waited in vain.
    Timeout = 3,
    /// To wait would have closed a cycle.
    Deadlock = 4,
    /// No daemon, or the system failed.
    Unavailable = 5,
}

impl Exit {
    /// The status that an error code of the daemon means.
    fn of(code: Code) -> Exit {
        match code {
            Code::Held | Code::NotHolder | Code::NotFound | Code::Lost | Code::Changed => Exit::No,
            Code::Timeout => Exit::Timeout,
            Code::Deadlock => Exit::Deadlock,
            Code::Invalid | Code::OutsideWorkspace => Exit::Usage,
            Code::Unavailable | Code::TooMany | Code::Version | Code::Denied => Exit::Unavailable,
        }
    }
}

impl Exit {
    /// The error code for a failure that the program itself found.
    fn code(self) -> &'static str {
        match self {
            Exit::Usage => "invalid",
            Exit::Yes | Exit::No | Exit::Timeout | Exit::Deadlock | Exit::Unavailable => "unavailable",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command failed: the status, and the sentence for people.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    /// What `--json` prints instead of the sentence.
    error: Option<Box<WireError>>,
}

impl Failure {
    fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into(), error: None }
    }

    /// The same with what it is about before it.
    fn about(&self, subject: &str) -> Failure {
        let message = format!("{subject}: {}", self.message);
        let error = self.error.clone().map(|error| Box::new(WireError { message: message.clone(), ..*error }));
        Failure { exit: self.exit, message, error }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        match error {
            ClientError::Refused(error) => {
                Failure { exit: Exit::of(error.code), message: error.message.clone(), error: Some(error) }
            }
            other => Failure::new(Exit::Unavailable, other.to_string()),
        }
    }
}

impl From<Invalid> for Failure {
    fn from(error: Invalid) -> Failure {
        Failure::new(Exit::Usage, error.0)
    }
}

/// The whole program.
pub fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let cli = match hook::is_called(&args) {
        Some(args) if hook::wants_help(&args) => Cli::parse_from(["flockd", "hook", "--help"]),
        Some(args) => return hook::hook(&args),
        None => Cli::parse(),
    };
    let json = cli.json;
    match dispatch(cli) {
        Ok(_) if print::is_cut_off() => Exit::Unavailable.into(),
        Ok(code) => code,
        Err(failure) => {
            print::failure(&failure, json);
            failure.exit.into()
        }
    }
}

fn dispatch(cli: Cli) -> Result<ExitCode, Failure> {
    let common = Common { json: cli.json, agent: cli.agent, around: args::agent_around()? };
    let exit = match cli.verb {
        Verb::Run(args) => return run::run(&common, &args),
        Verb::Elect(args) => return elect::elect(&common, &args),
        Verb::ElectGuard => return elect::guard(),
        Verb::Sim(args) => return Ok(crate::sim::run(args)),
        Verb::SimClaw(args) => return Ok(crate::sim::run_claw(args)),
        Verb::SimJanitor(args) => return Ok(crate::sim::run_janitor(args)),
        Verb::Lock(args) => ask::lock(&common, &args)?,
        Verb::Unlock(args) => ask::unlock(&common, &args)?,
        Verb::Upgrade(args) => ask::upgrade(&common, &args)?,
        Verb::Downgrade(args) => ask::downgrade(&common, &args)?,
        Verb::Renew(args) => ask::renew(&common, &args)?,
        Verb::Status(args) | Verb::Ls(args) => ask::status(&common, &args)?,
        Verb::Stats(args) => stats::stats(&common, &args)?,
        Verb::Wait(args) => ask::wait(&common, &args)?,
        Verb::Check(args) => ask::check(&common, &args)?,
        Verb::Write(args) => write::write(&common, &args)?,
        Verb::Break(args) => ask::break_lock(&common, &args)?,
        Verb::Watch(args) => watch::watch(&common, &args)?,
        Verb::On(args) => return on::on(&common, &args),
        Verb::Hook(_) => unreachable!("its arguments are read by hand before any others are"),
        Verb::Install(args) => install::install(&common, &args)?,
        Verb::Doctor => install::doctor(&common)?,
        Verb::Git(args) => return git::git(&common, &args),
        Verb::GitGuard(args) => git_guard::git_guard(&common, &args)?,
        Verb::Webhook(args) => webhook::webhook(&common, &args)?,
        #[cfg(feature = "mcp")]
        Verb::Mcp(args) => mcp::mcp(&common, &args)?,
        Verb::Daemon(args) => daemon::daemon(&common, &args)?,
        Verb::Completions { shell } => {
            // In memory first: whoever closes the pipe has read enough, and the generator would panic.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut args::for_people(), "flockd", &mut script);
            print::out(&String::from_utf8_lossy(&script));
            Exit::Yes
        }
    };
    Ok(exit.into())
}

/// What every command has.
struct Common {
    json: bool,
    /// By flag.
    agent: Option<String>,
    /// By `$FLOCKD_AGENT`.
    around: Option<String>,
}

impl Common {
    /// Whether somebody reads along while the command waits.
    fn tells_a_person(&self) -> bool {
        !self.json && std::io::stderr().is_terminal()
    }

    /// The name given by flag or `$FLOCKD_AGENT`.
    fn named_agent(&self) -> Result<Option<Agent>, Invalid> {
        let given = self.agent.as_ref().or(self.around.as_ref()).filter(|name| !name.is_empty());
        given.map(|name| Agent::new(name)).transpose()
    }

    /// The name given, or else that of the agent that this process works for.
    fn agent_around(&self) -> Result<Option<Agent>, Invalid> {
        Ok(self.named_agent()?.or_else(agent::surrounding))
    }

    /// The same, or that of the sub-agent in whose shell this runs.
    fn known_agent(&self) -> Result<Option<Agent>, Invalid> {
        self.agent_in_shell(true)
    }

    fn agent_in_shell(&self, waits: bool) -> Result<Option<Agent>, Invalid> {
        let agent = self.agent_around()?;
        if self.agent.is_some() {
            return Ok(agent);
        }
        let is_said = self.around.as_ref().is_some_and(|name| !name.is_empty());
        agent.map(|agent| acting::acting(&Home::from_env()?, agent, is_said, waits)).transpose()
    }

    /// For whoever only looks: where sub-agents cannot be told apart at once, the agent above them.
    fn agent_or_above(&self) -> Result<Option<Agent>, Invalid> {
        let above = self.agent_around()?;
        Ok(self.agent_in_shell(false).unwrap_or(above))
    }

    /// The name in which something is held: given, that of the agent around us, or that of a person at a terminal.
    /// Never a guess that two agents could share.
    fn agent(&self) -> Result<Agent, Failure> {
        self.known_agent()?.or_else(person).ok_or_else(|| {
            let text = "whose lock? give --agent NAME or set FLOCKD_AGENT, so that nobody is taken for somebody else";
            Failure::new(Exit::Usage, text)
        })
    }

    fn connect(&self, agent: Option<Agent>, session: Option<Custodian>) -> Result<Connection, Failure> {
        self.connect_from(Place::here()?, agent, session)
    }

    fn connect_from(
        &self,
        place: Place,
        agent: Option<Agent>,
        session: Option<Custodian>,
    ) -> Result<Connection, Failure> {
        let connect = Connect { home: Home::from_env()?, launch: launch()?, agent, place, session };
        let process = if connect.agent.is_some() { agent::process() } else { None };
        let connection = Connection::connect_from(connect, process)?;
        if let Some(warning) = connection.take_warning() {
            print::warning(&warning);
        }
        Ok(connection)
    }

    /// A connection in the agent's name.
    fn connect_as_agent(&self) -> Result<Connection, Failure> {
        self.connect(Some(self.agent()?), None)
    }

    /// The same for whoever takes nothing: that settings of the workspace are broken keeps nobody from it.
    fn connect_to_give_back(&self) -> Result<Connection, Failure> {
        let agent = self.agent()?;
        self.connect_from(place_anyway()?, Some(agent), None)
    }

    /// A connection that only reads, in the agent's name if there is one.
    fn connect_to_read(&self) -> Result<Connection, Failure> {
        self.connect_from(place_anyway()?, self.agent_or_above()?.or_else(person), None)
    }
}

/// Where we are; what is wrong with the settings of the workspace is a warning.
fn place_anyway() -> Result<Place, Invalid> {
    Place::here_anyway().map(warned)
}

fn warned((place, broken): (Place, Option<Invalid>)) -> Place {
    if let Some(Invalid(why)) = broken {
        print::warning(&format!("{why}; locks can be looked at and given back, and none taken until that is mended"));
    }
    place
}

/// This very program starts the daemon, so that both are of one version.
fn launch() -> Result<Launch, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(Exit::Unavailable, format!("this program's own path is unknown: {error}")))?;
    Ok(Launch::With(program))
}

/// A person at a terminal: `ada@pts-3`, without the slash that would make a sub-agent of it.
fn person() -> Option<Agent> {
    let tty = crate::os::process::terminal()?;
    let user =
        ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    let user = user.unwrap_or_else(|| format!("uid{}", crate::os::own_uid()));
    Agent::new(&format!("{user}@{tty}").replace('/', "-")).ok()
}
