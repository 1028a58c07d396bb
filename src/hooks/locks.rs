//! What hooks ask of the daemon: the lock before an edit, its lease afterwards, its end with the turn.
//!
//! Locks that hooks took are known by their note, so that nothing has to be remembered between two calls and a lock
//! that the agent took by itself is left alone.

use super::event::Verdict;
use super::{Mode, Target, text};
use crate::client::{Connect, Connection, Launch, Place, agent, unexpected};
use crate::clock::monotonic_ns;
use crate::limits;
use crate::model::Agent;
use crate::os::home::Home;
use crate::planted::{Bug, planted};
use crate::wire::{Answer, Body, Code, LockBody, Op, Request, StatusBody, escape};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The note of a lock that lives to the end of the turn.
const NOTE: &str = "editing, until the end of the turn";

/// What an agent is to be told beside what was asked.
#[derive(Default)]
struct Heard {
    /// Losses of what was to be written.
    here: Vec<String>,
    /// Everything else.
    lines: Vec<String>,
}

/// Takes or looks at the locks on what is to be written.
pub(super) fn before(agent: &Agent, cwd: &Path, targets: &[Target], patience: u64) -> Result<Verdict, String> {
    let connection = connect(Some(agent), cwd, launch()?)?;
    let mut heard = Heard::default();
    heard.lines.extend(connection.take_warning().map(|warning| format!("flockd: {warning}")));
    let until = monotonic_ns() + patience * 1_000_000;
    let mut taken = Vec::new();
    for target in targets {
        let left = until.saturating_sub(monotonic_ns()) / 1_000_000;
        let refused = match target.mode {
            Mode::Auto => take(&connection, target, left, &mut taken, &mut heard)?,
            Mode::Check | Mode::Warn => look(&connection, target, &mut heard)?,
        };
        if let Some(refused) = refused {
            // All or nothing: what this call took for an edit that does not happen goes back.
            if planted(Bug::HalfAnEditKept) {
                taken.clear();
            }
            taken.iter().try_for_each(|id| connection.unlock(id)).map_err(|error| error.to_string())?;
            return Ok(Verdict::Deny(refused));
        }
    }
    Ok(match (heard.here.is_empty(), heard.lines.is_empty()) {
        (false, _) => Verdict::Deny([heard.here, heard.lines].concat().join("\n")),
        (true, false) => Verdict::Tell(heard.lines.join("\n")),
        (true, true) => Verdict::Silence,
    })
}

/// Takes one lock; why not, if it is not to be had.
fn take(
    connection: &Connection,
    target: &Target,
    wait: u64,
    taken: &mut Vec<String>,
    heard: &mut Heard,
) -> Result<Option<String>, String> {
    let request = Request {
        wait_ms: Some(wait),
        ttl_ms: Some(limits::TTL_ONE_SHOT),
        max_hold_ms: Some(limits::HOOK_MAX_HOLD),
        note: Some(NOTE.to_owned()),
        ..about(Op::Lock, &target.path, &target.root)
    };
    let Answer { ok, lost, wanted, .. } = connection.call(request).map_err(|error| error.to_string())?;
    let body = match ok {
        Some(Body::Lock(body)) => body,
        other => return Err(unexpected(other.as_ref()).to_string()),
    };
    for loss in &lost {
        match covers(&loss.path, &body.path) && !planted(Bug::StaleEditPasses) {
            true => heard.here.push(text::lost_before_writing(loss)),
            false => heard.lines.push(text::lost(loss)),
        }
    }
    heard.note_wanted(&wanted);
    match *body {
        LockBody { acquired: true, lock_id: Some(id), already_held, .. } => {
            taken.extend((!already_held).then_some(id));
            Ok(None)
        }
        body if body.code == Some(Code::Deadlock) => Ok(Some(text::deadlock(&body))),
        body => Ok(Some(text::held(&target.path, &body.file_id, &body.holders, body.more_holders))),
    }
}

/// Looks whether one could be had now; why not, if that forbids the edit.
fn look(connection: &Connection, target: &Target, heard: &mut Heard) -> Result<Option<String>, String> {
    let request = Request { wait_ms: Some(0), ..about(Op::Wait, &target.path, &target.root) };
    let Answer { ok, lost, wanted, .. } = connection.call(request).map_err(|error| error.to_string())?;
    heard.lines.extend(lost.iter().map(text::lost));
    heard.note_wanted(&wanted);
    let name = target.path.strip_prefix(&target.root).unwrap_or(&target.path).to_string_lossy();
    match ok {
        Some(Body::Wait(body)) if body.free => Ok(None),
        Some(Body::Wait(body)) if target.mode == Mode::Warn => {
            heard.lines.push(text::held_by_others(&name, &body.holders));
            Ok(None)
        }
        Some(Body::Wait(body)) => Ok(Some(text::held(&target.path, &name, &body.holders, 0))),
        other => Err(unexpected(other.as_ref()).to_string()),
    }
}

impl Heard {
    fn note_wanted(&mut self, wanted: &[crate::wire::Wanted]) {
        for line in wanted.iter().map(text::wanted) {
            if !self.lines.contains(&line) {
                self.lines.push(line);
            }
        }
    }
}

/// Whether a lock of the one name was about a file of the other.
fn covers(lock: &str, path: &str) -> bool {
    lock == path || lock.ends_with('/') && path.starts_with(lock)
}

/// Starts the leases anew of locks on what was written.
pub(super) fn after(agent: &Agent, cwd: &Path, targets: &[PathBuf]) -> Result<Verdict, String> {
    let Some(connection) = connect_if_served(Some(agent), cwd)? else { return Ok(Verdict::Silence) };
    for path in targets {
        // What is not held needs no lease.
        let _ = connection.call(about(Op::Renew, path, &super::root_of(path, cwd)));
    }
    let lines: Vec<String> = connection.take_losses().iter().map(text::lost).collect();
    Ok(if lines.is_empty() { Verdict::Silence } else { Verdict::Tell(lines.join("\n")) })
}

/// What the agent lost since it last heard.
pub(super) fn losses(agent: &Agent, cwd: &Path) -> Result<Vec<String>, String> {
    let Some(connection) = connect_if_served(Some(agent), cwd)? else { return Ok(Vec::new()) };
    let answer = connection.call(Request::new(Op::Status)).map_err(|error| error.to_string())?;
    Ok(answer.lost.iter().map(text::lost).collect::<Vec<String>>())
}

/// Releases what hooks took in the name of the agent, and with `also_below` of its sub-agents.
///
/// What it lost is left to be told when somebody listens: nothing here asks in its name for an answer.
pub(super) fn end_turn(agent: &Agent, also_below: bool, cwd: &Path) -> Result<(), String> {
    let Some(reader) = connect_if_served(None, cwd)? else { return Ok(()) };
    let held = match reader.call(Request::new(Op::Status)).map_err(|error| error.to_string())?.ok {
        Some(Body::Status(StatusBody { locks, .. })) => locks,
        other => return Err(unexpected(other.as_ref()).to_string()),
    };
    let is_below = |name: &str| name.strip_prefix(agent.as_str()).is_some_and(|rest| rest.starts_with('/'));
    let is_meant = |name: &str| name == agent.as_str() || also_below && is_below(name);
    let mut ours: Vec<_> = held
        .into_iter()
        .filter(|lock| lock.note.as_deref() == Some(NOTE) && is_meant(&lock.agent))
        .map(|lock| (lock.agent, lock.lock_id))
        .collect();
    // Children before their parents, whose locks they may stand on.
    ours.sort_by(|a, b| b.cmp(a));
    for locks in ours.chunk_by(|a, b| a.0 == b.0) {
        let name = Agent::new(&locks[0].0).map_err(|error| error.0)?;
        let Some(connection) = connect_if_served(Some(&name), cwd)? else { return Ok(()) };
        if !planted(Bug::TurnEndsNothing) {
            locks.iter().for_each(|(_, id)| connection.release_later(id));
        }
        // Its answer shows that the releases before it were read.
        connection.call(Request::new(Op::Daemon)).map_err(|error| error.to_string())?;
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
        Err(crate::client::ClientError::NoDaemon(_)) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

fn dial(agent: Option<&Agent>, cwd: &Path, launch: Launch) -> Result<Connection, crate::client::ClientError> {
    use crate::client::ClientError::NoAnswer;
    let home = Home::from_env().map_err(|error| NoAnswer(error.0))?;
    let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
    let place = Place { cwd: bytes(cwd), workspace: bytes(Place::root_above(cwd).unwrap_or(cwd)) };
    // The process is told with the name, so that two agents of one name are found out.
    let process = agent.and_then(|_| agent::process());
    Connection::connect_from(Connect { home, launch, agent: agent.cloned(), place, session: None }, process)
}
