//! What hooks ask of the daemon: the lock before an edit, its lease afterwards, its end with the turn.
//!
//! Locks that hooks took are known by their note, so that nothing has to be remembered between two calls and a lock
//! that the agent took by itself is left alone.

use super::event::Verdict;
use super::{Mode, Target, text};
use crate::client::{self, ClientError, Config, Connect, Connection, Launch, Place, agent, unexpected};
use crate::clock::monotonic_ns;
use crate::limits;
use crate::model::Agent;
use crate::os::home::Home;
use crate::os::paths::GLOB;
use crate::pattern::{self, Pattern, Typed};
use crate::planted::{Bug, planted};
use crate::scope::{self, Scope};
use crate::wire::{self, Answer, Body, Code, Held, KeptBy, LockBody, Loss, Op, Request, StatusBody, escape, unescape};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The note of a lock that lives to the end of the turn.
const NOTE: &str = "editing, until the end of the turn";
/// The same of a sub-agent whose end is told to nobody.
const NOTE_OF_UNTOLD: &str = "editing, until the end of the review";

/// Takes or looks at the locks on what is to be written: all, or the edit does not happen and none is kept.
pub(super) fn before(
    agent: &Agent,
    cwd: &Path,
    targets: &[Target],
    patience: u64,
    ends_untold: bool,
) -> Result<(Verdict, Option<Losses>), String> {
    let connection = connect(Some(agent), cwd, launch()?)?;
    let mut errand = Errand {
        until: monotonic_ns() + patience * 1_000_000,
        note: if ends_untold { NOTE_OF_UNTOLD } else { NOTE },
        taken: Vec::new(),
        locked: Vec::new(),
        lost: Vec::new(),
        lines: connection.take_warning().map(|warning| format!("flockd: {warning}")).into_iter().collect(),
        connection,
    };
    // Its parent's turns are not its own, so that it hears here of all that it has lost.
    if agent.as_str().contains('/') {
        errand.ask(Request::new(Op::News)).map_err(|error| error.to_string())?;
    }
    // A request names one workspace, which is what its locks are told of by.
    for alike in targets.chunk_by(|a, b| a.root == b.root) {
        let refused = match alike[0].mode {
            Mode::Auto => errand.take_all(alike),
            Mode::Check | Mode::Warn => one_by_one(alike, |target| errand.look(target)),
        };
        if let Some(refused) = refused.map_err(|error| error.to_string())? {
            errand.give_back().map_err(|error| error.to_string())?;
            return Ok(errand.verdict(Some(refused)));
        }
    }
    Ok(errand.verdict(None))
}

/// Asks about one after the other, until one is refused.
fn one_by_one(
    targets: &[Target],
    ask: impl FnMut(&Target) -> Result<Option<String>, ClientError>,
) -> Result<Option<String>, ClientError> {
    targets.iter().map(ask).find_map(Result::transpose).transpose()
}

/// Losses that an answer tells of. The daemon tells of them until it hears that the agent was told.
pub(crate) struct Losses {
    connection: Connection,
    /// The ids of the lost locks.
    ids: Vec<String>,
}

impl Losses {
    /// None if nothing was lost.
    fn of(connection: Connection, lost: &[Loss]) -> Option<Losses> {
        let ids: Vec<String> = lost.iter().map(|loss| loss.lock_id.clone()).collect();
        (!ids.is_empty()).then_some(Losses { connection, ids })
    }

    /// The agent was told. Waits a moment for the daemon to read it, since this process ends now.
    pub(crate) fn were_heard(self) {
        let within = Some(Duration::from_millis(limits::HOOK_HEARD_WITHIN));
        for ids in self.ids.chunks(limits::NEWS_LOSSES) {
            let asked = self.connection.begin(Request { heard: ids.to_vec(), ..Request::new(Op::News) });
            if !matches!(asked.and_then(|id| self.connection.finish(id, within)), Ok(Some(_))) {
                return;
            }
        }
    }
}

/// Adds what is not told again: until it was heard of each answer brings it.
fn add(lost: &mut Vec<Loss>, more: impl IntoIterator<Item = Loss>) {
    for loss in more {
        if lost.iter().all(|known| known.lock_id != loss.lock_id) {
            lost.push(loss);
        }
    }
}

/// What is asked for an edit, and what came of it so far.
struct Errand {
    connection: Connection,
    /// How long there is to wait, by the clock.
    until: u64,
    /// By which what it takes is known later.
    note: &'static str,
    /// The ids of what was not held before.
    taken: Vec<String>,
    /// The names of all that is held for it.
    locked: Vec<String>,
    /// What the agent lost and had not heard of.
    lost: Vec<Loss>,
    /// What else it is to be told.
    lines: Vec<String>,
}

impl Errand {
    /// Takes the locks of what is written in one workspace, all or none; why not, if they are not to be had.
    fn take_all(&mut self, targets: &[Target]) -> Result<Option<String>, ClientError> {
        for set in targets.chunks(limits::SET_MAX) {
            let refused = match set {
                [one] => self.take(one)?,
                several => self.take_set(several)?,
            };
            if refused.is_some() {
                return Ok(refused);
            }
        }
        Ok(None)
    }

    /// Takes several locks as one request, which holds none while it waits for another.
    fn take_set(&mut self, set: &[Target]) -> Result<Option<String>, ClientError> {
        let request = Request { scope: None, scopes: set.iter().map(scope_of).collect(), ..self.terms(&set[0]) };
        match self.ask(request) {
            Ok(Body::Locks(body)) if body.acquired => {
                body.locks.iter().for_each(|lock| self.has(lock));
                let below = |target: &Target| body.locks.iter().find_map(|lock| holder_below(lock, target));
                Ok(set.iter().find_map(|target| Some(text::held_below(&name_of(target), &below(target)?))))
            }
            // One by one tells which of them closes the cycle, if it does by itself.
            Ok(Body::Locks(body)) if body.code == Some(Code::Deadlock) => one_by_one(set, |target| self.take(target)),
            Ok(Body::Locks(body)) => Ok(Some(refusal(set, &body.holders, body.more_holders, body.retry_after_ms))),
            Ok(other) => Err(unexpected(Some(&other))),
            // Two of its names have something in common, or are too long together: an edit may say so, a set may not.
            Err(ClientError::Refused(error)) if error.code == Code::Invalid => {
                one_by_one(set, |target| self.take(target))
            }
            Err(error) => Err(error),
        }
    }

    /// Takes one lock; why not, if it is not to be had.
    fn take(&mut self, target: &Target) -> Result<Option<String>, ClientError> {
        match self.ask(self.terms(target))? {
            Body::Lock(body) if body.acquired => {
                self.has(&body);
                Ok(holder_below(&body, target).map(|below| text::held_below(&name_of(target), &below)))
            }
            Body::Lock(body) if body.code == Some(Code::Deadlock) => Ok(Some(text::deadlock(&body))),
            Body::Lock(body) => {
                Ok(Some(text::held(&target.path, &body.file_id, &body.holders, body.more_holders, body.retry_after_ms)))
            }
            other => Err(unexpected(Some(&other))),
        }
    }

    fn terms(&self, target: &Target) -> Request {
        Request {
            wait_ms: Some(self.until.saturating_sub(monotonic_ns()) / 1_000_000),
            ttl_ms: Some(limits::TTL_ONE_SHOT),
            max_hold_ms: Some(limits::HOOK_MAX_HOLD),
            note: Some(self.note.to_owned()),
            ..about(Op::Lock, &target.path, &target.root)
        }
    }

    /// Looks whether one could be had now; why not, if that forbids the edit.
    fn look(&mut self, target: &Target) -> Result<Option<String>, ClientError> {
        let request = Request { wait_ms: Some(0), ..about(Op::Wait, &target.path, &target.root) };
        match self.ask(request)? {
            Body::Wait(body) if body.free => Ok(None),
            Body::Wait(body) if target.mode == Mode::Warn => {
                self.lines.push(text::held_by_others(&name_of(target), &body.holders));
                Ok(None)
            }
            Body::Wait(body) => Ok(Some(text::held(&target.path, &name_of(target), &body.holders, 0, None))),
            other => Err(unexpected(Some(&other))),
        }
    }

    fn ask(&mut self, request: Request) -> Result<Body, ClientError> {
        let answer = self.connection.call(request);
        add(&mut self.lost, self.connection.take_losses());
        let Answer { ok, lost, wanted, .. } = answer?;
        add(&mut self.lost, lost);
        for line in wanted.iter().map(text::wanted) {
            if !self.lines.contains(&line) {
                self.lines.push(line);
            }
        }
        ok.ok_or_else(|| unexpected(None))
    }

    fn has(&mut self, lock: &LockBody) {
        self.locked.push(lock.path.clone());
        self.taken.extend(lock.lock_id.clone().filter(|_| !lock.already_held));
    }

    /// What was taken for an edit that does not happen goes back.
    fn give_back(&mut self) -> Result<(), ClientError> {
        self.locked.clear();
        let taken = std::mem::take(&mut self.taken);
        if planted(Bug::HalfAnEditKept) {
            return Ok(());
        }
        taken.iter().try_for_each(|id| self.connection.unlock(id))
    }

    /// What it comes to. A loss is told once, so that it is told here whatever else is said.
    fn verdict(self, refused: Option<String>) -> (Verdict, Option<Losses>) {
        let is_here = |loss: &&Loss| self.locked.iter().any(|path| meet(&loss.path, path));
        let (here, elsewhere): (Vec<&Loss>, Vec<&Loss>) =
            self.lost.iter().partition(|loss| is_here(loss) && !planted(Bug::StaleEditPasses));
        let is_denied = refused.is_some() || !here.is_empty();
        let here = here.into_iter().map(text::lost_before_writing);
        let said = refused.into_iter().chain(here).chain(elsewhere.into_iter().map(text::lost));
        let said: Vec<String> = said.chain(self.lines).collect();
        let verdict = if is_denied { Verdict::Deny(said.join("\n")) } else { Verdict::of_lines(&said) };
        (verdict, Losses::of(self.connection, &self.lost))
    }
}

/// A sub-agent of its agent that holds what is to be written, though the agent has a lock on it as well: it writes
/// there again when that one has let go.
fn holder_below(lock: &LockBody, target: &Target) -> Option<Held> {
    let path = scope_of(target);
    let is_below = |held: &&Held| held.agent.strip_prefix(&lock.agent).is_some_and(|rest| rest.starts_with('/'));
    let is_here = |held: &&Held| meet(&held.path, &path) || meet(&held.path, &format!("{path}/"));
    lock.holders.iter().filter(is_below).filter(is_here).find(|held| held.mode != wire::Mode::Advisory).cloned()
}

/// Why a set is not to be had, by the first who is in its way: where names tell it, by that file of it which he holds.
fn refusal(set: &[Target], holders: &[Held], more: usize, retry: Option<u64>) -> String {
    let Some(first) = holders.first() else { return text::held(&set[0].path, &name_of(&set[0]), holders, more, retry) };
    match set.iter().find(|target| meet(&first.path, &scope_of(target))) {
        Some(target) => text::held(&target.path, &name_of(target), holders, more, retry),
        None => {
            let path =
                unescape(&first.path).map_or_else(|| PathBuf::from(&first.path), |it| OsString::from_vec(it).into());
            text::held(&path, &first.file_id, holders, more, retry)
        }
    }
}

fn name_of(target: &Target) -> String {
    target.path.strip_prefix(&target.root).unwrap_or(&target.path).to_string_lossy().into_owned()
}

fn scope_of(target: &Target) -> String {
    escape(target.path.as_os_str().as_bytes())
}

/// Whether locks of these two names are about a file that both mean, as far as names tell.
fn meet(one: &str, other: &str) -> bool {
    match (scope_named(one), scope_named(other)) {
        (Some(one), Some(other)) => scope::Target::named(one).meets(&scope::Target::named(other)),
        _ => one == other,
    }
}

/// What a whole name in an answer means, if that is a place.
fn scope_named(name: &str) -> Option<Scope> {
    let bytes = unescape(name)?;
    if let Some(text) = bytes.strip_prefix(GLOB) {
        let Typed::Pattern { prefix, rest } = pattern::read(text).ok()? else { return None };
        return Pattern::new(without_slash(&prefix).unwrap_or(&prefix), &rest).ok().map(Scope::Pattern);
    }
    match without_slash(&bytes) {
        _ if !bytes.starts_with(b"/") => None,
        Some(path) => Some(Scope::Subtree(path.into())),
        None => Some(Scope::File(bytes.into())),
    }
}

/// A directory without the slash at its end; none if there is none. The root is one.
fn without_slash(path: &[u8]) -> Option<&[u8]> {
    if path == b"/" { Some(path) } else { path.strip_suffix(b"/") }
}

/// Starts the leases anew of locks on what was written.
pub(super) fn after(agent: &Agent, cwd: &Path, targets: &[PathBuf]) -> Result<(Verdict, Option<Losses>), String> {
    let Some(connection) = connect_if_served(Some(agent), cwd)? else { return Ok((Verdict::Silence, None)) };
    let mut lost = Vec::new();
    for path in targets {
        match connection.call(about(Op::Renew, path, &super::root_of(path, cwd))) {
            Ok(answer) => add(&mut lost, answer.lost),
            // What is not held needs no lease; it may have been lost while the tool ran.
            Err(ClientError::Refused(error)) => add(&mut lost, error.loss.map(|loss| *loss)),
            Err(_) => {}
        }
        add(&mut lost, connection.take_losses());
    }
    let lines: Vec<String> = lost.iter().map(text::lost).collect();
    Ok((Verdict::of_lines(&lines), Losses::of(connection, &lost)))
}

/// Tells the daemon by which name the agent program around goes from now on. With `starts` one is started for that:
/// the program has left a session, and what it had started in that one is told of the next by the daemon alone.
pub(super) fn goes_by(agent: &Agent, cwd: &Path, starts: bool) -> Result<(), String> {
    let Some(process) = agent::process() else { return Ok(()) };
    let launch = if starts { launch()? } else { Launch::Never };
    let said = options(Some(agent), cwd, launch).and_then(|options| client::goes_by(&options, &process, true));
    match said {
        Ok(_) | Err(ClientError::NoDaemon(_)) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// What the agent lost since it last heard, and who waits for what it holds.
pub(super) fn news(agent: &Agent, cwd: &Path) -> Result<(Vec<String>, Option<Losses>), String> {
    let Some(connection) = connect_if_served(Some(agent), cwd)? else { return Ok((Vec::new(), None)) };
    let Answer { lost, wanted, .. } = connection.call(Request::new(Op::Status)).map_err(|error| error.to_string())?;
    let lines = lost.iter().map(text::lost).chain(wanted.iter().map(text::wanted)).collect();
    Ok((lines, Losses::of(connection, &lost)))
}

/// What hooks leave behind in the daemon.
enum Left {
    /// A lock, by its id.
    Lock(String),
    /// A place in a queue that is kept after a wait in vain, by its ticket. Others would wait behind it for nobody.
    Place(String),
}

/// What ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// What is below the agent and ends without a word.
    Untold,
    Turn,
    Subagent,
    Session,
}

/// Releases what hooks took in the name of the agent, and unless only its turn ends what they took in its sub-agents';
/// for a sub-agent that ends, also what it took by itself, for nobody else can. What ends without a word has ended when
/// anything else does.
///
/// What it lost is left to be told when somebody listens: nothing here asks in its name for an answer.
pub(super) fn release(agent: &Agent, what: Ending, cwd: &Path) -> Result<(), String> {
    let Some(reader) = connect_if_served(None, cwd)? else { return Ok(()) };
    let StatusBody { locks, waiters } = match reader.call(Request::new(Op::Status)).map_err(|it| it.to_string())?.ok {
        Some(Body::Status(body)) => body,
        other => return Err(unexpected(other.as_ref()).to_string()),
    };
    let is_below = |name: &str| name.strip_prefix(agent.as_str()).is_some_and(|rest| rest.starts_with('/'));
    let is_its_own = |name: &str| name == agent.as_str() && what != Ending::Untold;
    let is_ours = |note: Option<&str>, name: &str| match what {
        Ending::Subagent => is_its_own(name) || is_below(name),
        _ if note == Some(NOTE_OF_UNTOLD) => is_below(name),
        Ending::Session => note == Some(NOTE) && (is_its_own(name) || is_below(name)),
        Ending::Turn | Ending::Untold => note == Some(NOTE) && is_its_own(name),
    };
    // What a command has on loan of it has the command's note meanwhile. What else it has it keeps.
    let note_of = |lock: &Held| lock.goes_back.as_ref().map_or(lock.note.clone(), |loan| loan.note.clone());
    let is_the_agents = |lock: &Held| lock.kept_by == KeptBy::Lease || lock.goes_back.is_some();
    let locks = locks.into_iter().filter(is_the_agents).filter(|lock| is_ours(note_of(lock).as_deref(), &lock.agent));
    let mut ours: Vec<(String, Left)> = locks.map(|lock| (lock.agent, Left::Lock(lock.lock_id))).collect();
    let places = waiters.into_iter().filter(|place| place.absent && is_ours(place.note.as_deref(), &place.agent));
    ours.extend(places.filter_map(|place| Some((place.agent, Left::Place(place.ticket?)))));
    // Children before their parents, whose locks they may stand on.
    ours.sort_by(|a, b| b.0.cmp(&a.0));
    for left in ours.chunk_by(|a, b| a.0 == b.0) {
        let name = Agent::new(&left[0].0).map_err(|error| error.0)?;
        let Some(connection) = connect_if_served(Some(&name), cwd)? else { return Ok(()) };
        if !planted(Bug::TurnEndsNothing) {
            give_up(&connection, left).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// All at once, and then the answers. What is refused is not held any more.
fn give_up(connection: &Connection, left: &[(String, Left)]) -> Result<(), ClientError> {
    let request = |left: &Left| match left {
        // A command that goes on with it keeps it until it ends.
        Left::Lock(id) => Request { lock_id: Some(id.clone()), leaves_loan: true, ..Request::new(Op::Unlock) },
        // Of a set each scope has a row, and they share one place: to give up what is given up changes nothing.
        Left::Place(ticket) => Request { ticket: Some(ticket.clone()), ..Request::new(Op::Cancel) },
    };
    let begun: Vec<u64> = left.iter().map(|(_, left)| connection.begin(request(left))).collect::<Result<_, _>>()?;
    for id in begun {
        match connection.finish(id, Some(Duration::from_millis(limits::ANSWER_WITHIN))) {
            Ok(Some(_)) | Err(ClientError::Refused(_)) => {}
            Ok(None) => connection.abandon(id),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

// ── Connections ─────────────────────────────────────────────────────────────────────────────────────────────────────

fn about(op: Op, path: &Path, root: &Path) -> Request {
    Request {
        scope: Some(escape(path.as_os_str().as_bytes())),
        workspace: Some(escape(root.as_os_str().as_bytes())),
        ..Request::new(op)
    }
}

fn launch() -> Result<Launch, String> {
    let program = std::env::current_exe().map_err(|error| format!("this program's own path is unknown: {error}"))?;
    Ok(Launch::With(program))
}

fn connect(agent: Option<&Agent>, cwd: &Path, launch: Launch) -> Result<Connection, String> {
    dial(agent, cwd, launch).map_err(|error| error.to_string())
}

/// None where no daemon serves: then nothing is held that could be released.
fn connect_if_served(agent: Option<&Agent>, cwd: &Path) -> Result<Option<Connection>, String> {
    match dial(agent, cwd, Launch::Never) {
        Ok(connection) => Ok(Some(connection)),
        Err(ClientError::NoDaemon(_)) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

fn dial(agent: Option<&Agent>, cwd: &Path, launch: Launch) -> Result<Connection, ClientError> {
    // The process is told with the name, so that two agents of one name are found out.
    let process = agent.and_then(|_| agent::process());
    Connection::connect_between(options(agent, cwd, launch)?, process)
}

fn options(agent: Option<&Agent>, cwd: &Path, launch: Launch) -> Result<Connect, ClientError> {
    let home = Home::from_env().map_err(|error| ClientError::NoAnswer(error.0))?;
    let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
    let root = Place::root_above(cwd).unwrap_or(cwd);
    // A broken `.flockd.toml` is told of by whoever reads what it wants of hooks, and locks nobody out.
    let place = Place { cwd: bytes(cwd), workspace: bytes(root), config: Config::of(root).ok() };
    Ok(Connect { home, launch, agent: agent.cloned(), place, session: None })
}
