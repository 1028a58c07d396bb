//! What each tool does, on a thread that may wait for the daemon.

use super::agents::{Agents, Caller};
use super::answer::{self, Fault, Said};
use super::calls::Calls;
use super::tools::Kind;
use crate::client::{ClientError, Config, Connection, Draft, Expected, FilePlace, granted, unexpected};
use crate::clock::monotonic_ns;
use crate::limits;
use crate::model::Agent;
use crate::os::process;
use crate::wire::render::Likeness;
use crate::wire::{self, Answer, Body, Code, LockBody, Loss, Mode, Op, Request, Wanted};
use rmcp::model::{CallToolResult, JsonObject, RequestId, RequestMetaObject};
use rustix::fd::{AsFd, BorrowedFd};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How often a file is written anew when another call of the same agent released the lock under it.
const WRITE_TRIES: usize = 3;

// ── What is asked ───────────────────────────────────────────────────────────────────────────────────────────────────

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LockArgs {
    path: String,
    mode: Option<String>,
    wait_seconds: Option<f64>,
    ttl_seconds: Option<f64>,
    note: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LockAllArgs {
    paths: Vec<String>,
    mode: Option<String>,
    wait_seconds: Option<f64>,
    ttl_seconds: Option<f64>,
    note: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WhichArgs {
    path: Option<String>,
    lock_id: Option<String>,
    all: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RenewArgs {
    path: Option<String>,
    lock_id: Option<String>,
    all: Option<bool>,
    ttl_seconds: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StatusArgs {
    path: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WriteArgs {
    path: String,
    content: String,
    if_unchanged: Option<String>,
    fence: Option<u64>,
    wait_seconds: Option<f64>,
    note: Option<String>,
}

/// What Gemini CLI puts into each call of any tool since 0.61, for its own scheduler, and sends on to the server.
const OF_THE_CLIENT: &str = "wait_for_previous";
/// In whose name a call asks: looked at before all else.
const AGENT: &str = "agent";

fn parsed<T: DeserializeOwned>(mut arguments: JsonObject) -> Result<T, Fault> {
    arguments.remove(AGENT);
    arguments.retain(|_, value| !value.is_null());
    serde_json::from_value(arguments.into())
        .map_err(|error| Fault::invalid(format!("the arguments do not fit: {error}")))
}

/// A path as it goes over the wire.
fn scope(path: &str) -> String {
    wire::escape(path.as_bytes())
}

/// Seconds within bounds, in milliseconds.
fn milliseconds(what: &str, seconds: f64, from: u64, to: u64) -> Result<u64, Fault> {
    let ms = Duration::try_from_secs_f64(seconds).ok().and_then(|it| u64::try_from(it.as_millis()).ok());
    ms.filter(|ms| (from..=to).contains(ms)).ok_or_else(|| {
        Fault::invalid(format!("{what} is {seconds}, and must be {} to {}", from / limits::SECOND, to / limits::SECOND))
    })
}

fn wait(seconds: Option<f64>) -> Result<u64, Fault> {
    seconds.map_or(Ok(limits::WAIT_DEFAULT), |it| milliseconds("wait_seconds", it, 0, limits::MCP_WAIT_MAX))
}

fn ttl(seconds: Option<f64>) -> Result<Option<u64>, Fault> {
    seconds.map(|it| milliseconds("ttl_seconds", it, limits::SECOND, limits::TTL_MAX)).transpose()
}

fn mode(word: Option<&str>) -> Result<Mode, Fault> {
    let Some(word) = word else { return Ok(Mode::Exclusive) };
    serde_json::from_value(word.into()).map_err(|_| {
        Fault::invalid(format!("there is no mode {word:?}: exclusive to change it, shared to read it, or advisory"))
    })
}

/// A request for a lock, or for several, without what is to be locked.
fn terms(
    word: Option<&str>,
    wait_seconds: Option<f64>,
    ttl_seconds: Option<f64>,
    note: Option<String>,
) -> Result<Request, Fault> {
    let (wait_ms, ttl_ms) = (Some(wait(wait_seconds)?), ttl(ttl_seconds)?);
    Ok(Request { mode: Some(mode(word)?), wait_ms, ttl_ms, note, ..Request::new(Op::Lock) })
}

/// The request that names what is meant in exactly one way.
fn which(op: Op, path: Option<&str>, lock_id: Option<String>, all: Option<bool>) -> Result<Request, Fault> {
    let all = all == Some(true);
    if usize::from(path.is_some()) + usize::from(lock_id.is_some()) + usize::from(all) != 1 {
        return Err(Fault::invalid("name what is meant in exactly one way: by path, by lock_id, or all=true"));
    }
    Ok(Request { scope: path.map(scope), lock_id, all, ..Request::new(op) })
}

/// The arguments of a call.
enum Args {
    Lock(LockArgs),
    Unlock(WhichArgs),
    Status(StatusArgs),
    LockAll(LockAllArgs),
    Renew(RenewArgs),
    Write(WriteArgs),
    Stats(StatusArgs),
}

impl Args {
    fn of(kind: Kind, mut arguments: JsonObject) -> Result<Args, Fault> {
        arguments.remove(OF_THE_CLIENT);
        // What serde says of types are Rust's words.
        if let Some(text) = kind.misfit(&arguments) {
            return Err(Fault::invalid(text));
        }
        Ok(match kind {
            Kind::Lock => Args::Lock(parsed(arguments)?),
            Kind::Unlock => Args::Unlock(parsed(arguments)?),
            Kind::Status => Args::Status(parsed(arguments)?),
            Kind::LockAll => Args::LockAll(parsed(arguments)?),
            Kind::Renew => Args::Renew(parsed(arguments)?),
            Kind::Write => Args::Write(parsed(arguments)?),
            Kind::Stats => Args::Stats(parsed(arguments)?),
        })
    }
}

/// The agent that a call names. An empty one is what a client makes of an argument that is left out.
pub(super) fn named(arguments: &JsonObject) -> Result<Option<&str>, Fault> {
    match arguments.get(AGENT) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(agent)) => Ok(Some(agent.as_str()).filter(|agent| !agent.is_empty())),
        Some(other) => Err(Fault::invalid(format!("agent is {other}, and must be a name, as text"))),
    }
}

// ── Calls ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A call of a tool.
pub(super) struct Work {
    pub(super) kind: Kind,
    pub(super) id: RequestId,
    pub(super) arguments: JsonObject,
    pub(super) meta: RequestMetaObject,
    pub(super) agents: Arc<Agents>,
    pub(super) calls: Arc<Calls>,
}

impl Work {
    /// Does it. Waits as long as the call may.
    pub(super) fn run(self) -> CallToolResult {
        let Work { kind, id, arguments, meta, agents, calls } = self;
        let nothing = kind.nothing();
        let caller = agents.look_again().and_then(|()| named(&arguments)).and_then(|agent| match kind {
            Kind::Status | Kind::Stats => agents.reader(agent, &meta),
            _ => agents.caller(agent, &meta),
        });
        let said = match (caller, Args::of(kind, arguments)) {
            (Ok(caller), args) => {
                let mut desk = Desk {
                    agents: &agents,
                    calls: &calls,
                    id: &id,
                    caller,
                    until: monotonic_ns() + limits::MCP_ANSWER_WITHIN * 1_000_000,
                    may_wait: 0,
                    wanted: Vec::new(),
                };
                let done = args.and_then(|args| desk.carry_out(args));
                let (lost, more_lost) = desk.hear_news(done.as_ref().err());
                desk.finish(done.unwrap_or_else(|fault| answer::failed(&fault, &nothing)), lost, more_lost)
            }
            (Err(_), Err(fault)) | (Err(fault), Ok(_)) => answer::failed(&fault, &nothing),
        };
        calls.over(&id);
        said.into_result()
    }
}

/// Where one call is worked on.
struct Desk<'a> {
    agents: &'a Agents,
    calls: &'a Calls,
    id: &'a RequestId,
    caller: Arc<Caller>,
    /// When the call is answered at the latest, by the clock, beside what it may wait for a lock.
    until: u64,
    /// How long that is, in nanoseconds, once it was asked for.
    may_wait: u64,
    /// Who waits for locks of the agent, as the answers say.
    wanted: Vec<Wanted>,
}

impl Desk<'_> {
    fn carry_out(&mut self, args: Args) -> Result<Said, Fault> {
        match args {
            Args::Lock(args) => self.lock(args),
            Args::LockAll(args) => self.lock_all(args),
            Args::Unlock(args) => self.unlock(args),
            Args::Status(args) => self.status(&args),
            Args::Renew(args) => self.renew(args),
            Args::Write(args) => self.write(&args),
            Args::Stats(args) => self.stats(&args),
        }
    }

    /// Hears what the agent lost, and who waits for its locks, wherever that is; with how many more losses there are.
    /// Only this answer counts: what others brought may have been told elsewhere since. What comes too late is told
    /// with the next one.
    fn hear_news(&mut self, fault: Option<&Fault>) -> (Vec<Loss>, usize) {
        let nothing = (Vec::new(), 0);
        // Who could not be reached just now is not waited for once more.
        if self.caller.agent.is_none() || fault.is_some_and(|fault| fault.is_silence) {
            return nothing;
        }
        let Ok(connection) = self.connection() else { return nothing };
        let Ok(id) = connection.begin(Request::new(Op::News)) else { return nothing };
        match connection.finish(id, Some(Duration::from_millis(limits::MCP_NEWS_WITHIN))) {
            Ok(Some(Answer { ok: Some(Body::News(news)), lost, wanted, .. })) => {
                self.wanted = wanted;
                (lost, news.more_lost)
            }
            Ok(None) => {
                connection.abandon(id);
                nothing
            }
            Ok(Some(_)) | Err(_) => nothing,
        }
    }

    /// Adds what the agent has to hear beside.
    fn finish(self, mut said: Said, lost: Vec<Loss>, more_lost: usize) -> Said {
        let warning = self.caller.open_connection().and_then(|connection| connection.take_warning());
        let lost = self.calls.tells(self.id, &self.caller, said.loss.as_deref(), lost);
        said.add(&lost, more_lost, &self.wanted, warning.as_deref());
        said
    }

    fn connection(&self) -> Result<Arc<Connection>, Fault> {
        Ok(self.caller.connection(&self.agents.setup)?)
    }

    fn ask(&mut self, request: Request) -> Result<Body, Fault> {
        self.ask_with_fd(request, None)
    }

    /// Asks. A request that waits can be withdrawn meanwhile, and what it grants is given back if nobody hears of it.
    fn ask_with_fd(&mut self, request: Request, fd: Option<BorrowedFd<'_>>) -> Result<Body, Fault> {
        let connection = self.connection()?;
        self.may_wait = self.may_wait.max(request.wait_ms.unwrap_or(0) * 1_000_000);
        let within = self.left();
        let id = match fd {
            None => connection.begin(request)?,
            Some(fd) => connection.begin_with_fd(request, fd)?,
        };
        self.calls.waits(self.id, Some((&connection, id)));
        let answer = connection.finish(id, Some(within));
        self.calls.waits(self.id, None);
        let Some(answer) = answer? else {
            connection.abandon(id);
            return Err(Fault::silence("the daemon does not answer; `flockd daemon status` tells more"));
        };
        if !self.keeps(&connection, &answer) {
            return Err(withdrawn());
        }
        let Answer { ok, wanted, .. } = answer;
        self.wanted = wanted;
        match ok {
            Some(Body::Cancelled(_)) => Err(withdrawn()),
            Some(body) => Ok(body),
            None => Err(unexpected(None).into()),
        }
    }

    /// How long the call has still.
    fn left(&self) -> Duration {
        Duration::from_nanos((self.until + self.may_wait).saturating_sub(monotonic_ns()))
    }

    /// Whether what an answer grants is wanted still. From here on the connection has nothing to do with the lock.
    fn keeps(&self, connection: &Arc<Connection>, answer: &Answer) -> bool {
        let mut new = granted(answer).map(|(lock_id, _)| lock_id).peekable();
        if new.peek().is_none() {
            return true;
        }
        for lock_id in new {
            connection.forget(lock_id);
        }
        self.calls.granted(self.id, connection, answer)
    }

    /// Nothing is taken while what the workspace says about itself cannot be understood, as it stands now; all else is
    /// done.
    fn may_take(&self) -> Result<(), Fault> {
        let root = Path::new(OsStr::from_bytes(&self.agents.setup.place.workspace));
        Config::of(root).map(drop).map_err(|error| Fault::new(Code::Invalid, error.0))
    }

    fn lock(&mut self, args: LockArgs) -> Result<Said, Fault> {
        self.may_take()?;
        let LockArgs { path, mode, wait_seconds, ttl_seconds, note, .. } = args;
        let terms = terms(mode.as_deref(), wait_seconds, ttl_seconds, note)?;
        match self.ask(Request { scope: Some(scope(&path)), ..terms })? {
            Body::Lock(body) => Ok(answer::lock(*body)),
            other => Err(unexpected(Some(&other)).into()),
        }
    }

    fn lock_all(&mut self, args: LockAllArgs) -> Result<Said, Fault> {
        self.may_take()?;
        let LockAllArgs { paths, mode, wait_seconds, ttl_seconds, note, .. } = args;
        if paths.is_empty() {
            return Err(Fault::invalid("paths is empty: name at least one"));
        }
        let terms = terms(mode.as_deref(), wait_seconds, ttl_seconds, note)?;
        match self.ask(Request { scopes: paths.iter().map(|path| scope(path)).collect(), ..terms })? {
            Body::Locks(body) => Ok(answer::locks(*body)),
            other => Err(unexpected(Some(&other)).into()),
        }
    }

    fn unlock(&mut self, args: WhichArgs) -> Result<Said, Fault> {
        let name = args.path.clone().or_else(|| args.lock_id.clone());
        let asked = self.ask(which(Op::Unlock, args.path.as_deref(), args.lock_id, args.all)?);
        match asked.map_err(|fault| fault.about(name.as_deref()))? {
            Body::Released(locks) => Ok(answer::released(&locks, args.all == Some(true))),
            other => Err(unexpected(Some(&other)).into()),
        }
    }

    fn renew(&mut self, args: RenewArgs) -> Result<Said, Fault> {
        let name = args.path.clone().or_else(|| args.lock_id.clone());
        let request = which(Op::Renew, args.path.as_deref(), args.lock_id, args.all)?;
        let asked = self.ask(Request { ttl_ms: ttl(args.ttl_seconds)?, ..request });
        match asked.map_err(|fault| fault.about(name.as_deref()))? {
            Body::Renewed(locks) => Ok(answer::renewed(&locks)),
            other => Err(unexpected(Some(&other)).into()),
        }
    }

    fn status(&mut self, args: &StatusArgs) -> Result<Said, Fault> {
        let scope = args.path.as_deref().map(scope);
        let agent = self.caller.agent.clone();
        let may_write = match (&scope, &agent) {
            (Some(scope), Some(_)) => {
                match self.ask(Request { scope: Some(scope.clone()), ..Request::new(Op::Check) })? {
                    Body::Check(body) => Some(body.allowed),
                    other => return Err(unexpected(Some(&other)).into()),
                }
            }
            _ => None,
        };
        match self.ask(Request { scope, ..Request::new(Op::Status) })? {
            Body::Status(body) => Ok(answer::status(&body, agent.as_ref().map(Agent::as_str), may_write)),
            other => Err(unexpected(Some(&other)).into()),
        }
    }
}

impl Desk<'_> {
    fn stats(&mut self, args: &StatusArgs) -> Result<Said, Fault> {
        let scopes = args.path.as_deref().map(scope).into_iter().collect();
        match self.ask(Request { scopes, top: Some(limits::MCP_HOTTEST), ..Request::new(Op::Stats) })? {
            Body::Stats(body) => Ok(answer::stats(&body)),
            other => Err(unexpected(Some(&other)).into()),
        }
    }
}

fn withdrawn() -> Fault {
    Fault::new(Code::Unavailable, "the call was withdrawn: nothing was locked")
}

// ── Writing ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/// What came of putting a file in place.
enum Put {
    Done(Said),
    /// No lock of the agent's covers it.
    NotHeld(Box<wire::WireError>),
}

impl Desk<'_> {
    fn write(&mut self, args: &WriteArgs) -> Result<Said, Fault> {
        self.may_take()?;
        let expected = args.if_unchanged.as_deref().map(expected).transpose()?;
        let cwd = Path::new(OsStr::from_bytes(&self.agents.setup.place.cwd));
        let place = FilePlace::of(cwd, Path::new(&args.path))?;
        let like = place.likeness();
        let mut draft = Draft::make(place, |out| out.write_all(args.content.as_bytes()))?;
        let connection = self.connection()?;
        let wait_ms = wait(args.wait_seconds)?;
        for _ in 0..WRITE_TRIES {
            draft.answered_within(self.left());
            match put(&connection, &mut draft, args.fence, expected.as_ref(), like)? {
                Put::Done(said) => return Ok(said),
                Put::NotHeld(error) if args.fence.is_some() => return Ok(answer::outdated(&error)),
                Put::NotHeld(_) => {}
            }
            // Nobody of this agent's holds it: it does for the moment.
            let body = self.lock_for_now(args, wait_ms)?;
            if !body.acquired {
                return Ok(answer::not_written(body));
            }
            // A lock that another call of this agent took may be gone by now, which is no loss: its fence is not named.
            let fence = body.fence.filter(|_| !body.already_held);
            draft.answered_within(self.left());
            let done = put(&connection, &mut draft, fence, expected.as_ref(), like);
            if let Some(lock_id) = body.lock_id.as_deref().filter(|_| !body.already_held) {
                // It ends with this process in any case.
                match &done {
                    Err(fault) if fault.is_silence => connection.release_later(lock_id),
                    _ => drop(connection.unlock(lock_id)),
                }
                self.calls.settled(self.id);
            }
            match done? {
                Put::Done(said) => return Ok(said),
                // Another call of the same agent had locked it for the moment, and is done.
                Put::NotHeld(_) if body.already_held => {}
                Put::NotHeld(error) => return Ok(answer::outdated(&error)),
            }
        }
        Err(Fault::new(Code::Unavailable, "other calls of yours release this file again and again; lock_file it first"))
    }

    /// Takes a lock that ends with this process at the latest.
    fn lock_for_now(&mut self, args: &WriteArgs, wait_ms: u64) -> Result<LockBody, Fault> {
        let pidfd = process::pidfd_of_own(std::process::id()).map_err(ClientError::Io)?;
        let request = Request {
            scope: Some(scope(&args.path)),
            mode: Some(Mode::Exclusive),
            wait_ms: Some(wait_ms),
            ttl_ms: Some(limits::TTL_SESSION),
            note: Some(args.note.clone().unwrap_or_else(|| "writing it with write_file".to_owned())),
            bound: true,
            ..Request::new(Op::Lock)
        };
        match self.ask_with_fd(request, Some(pidfd.as_fd()))? {
            Body::Lock(body) => Ok(*body),
            other => Err(unexpected(Some(&other)).into()),
        }
    }
}

fn put(
    connection: &Connection,
    draft: &mut Draft,
    fence: Option<u64>,
    expected: Option<&Expected>,
    like: Option<Likeness>,
) -> Result<Put, Fault> {
    match draft.put(connection, None, fence, expected) {
        Ok(body) => Ok(Put::Done(answer::written(&body, draft.hash(), like))),
        Err(ClientError::Refused(error)) => match error.code {
            Code::NotHolder => Ok(Put::NotHeld(error)),
            Code::Changed | Code::Lost => Ok(Put::Done(answer::outdated(&error))),
            _ => Err(ClientError::Refused(error).into()),
        },
        Err(error) => Err(error.into()),
    }
}

fn expected(text: &str) -> Result<Expected, Fault> {
    match text {
        "absent" => Ok(Expected::Absent),
        hash if hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            Ok(Expected::Hash(hash.to_owned()))
        }
        _ => Err(Fault::invalid("if_unchanged is a BLAKE3 hash of 64 hexadecimal digits, or \"absent\"")),
    }
}
