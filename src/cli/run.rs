//! `flockd run`: hold locks while a command runs. The command, not `run`, keeps them from before its first step.

use super::args::RunArgs;
use super::child::{self, AROUND, Kept};
use super::{Common, Exit, Failure, ask, print};
use crate::client::{ClientError, Connection, Custodian};
use crate::model::Agent;
use crate::os::process;
use crate::wire::{Body, Code, Held, LockBody, LocksBody, Op, Request};
use signal_hook::iterator::Signals;
use std::io;
use std::process::{Child, Command, ExitCode, ExitStatus};

pub(super) fn run(common: &Common, args: &RunArgs) -> Result<ExitCode, Failure> {
    let agent = match common.known_agent()? {
        Some(agent) => agent,
        None => Agent::new(&format!("run-{}", std::process::id()))?,
    };
    let client = common.connect(Some(agent.clone()), Some(Custodian::Command))?;
    let request = Request {
        mode: Some(ask::mode(args.shared)),
        wait_ms: args.patience.wait_ms(None),
        ttl_ms: Some(0),
        note: args.note.clone(),
        no_os_lock: args.no_os_lock,
        ..Request::new(Op::Lock)
    };
    let request = ask::for_all(&args.scopes, args.glob, request);
    let locks = match take_any(&client, request, !common.json)? {
        Body::Lock(body) if body.acquired => vec![*body],
        Body::Locks(body) if body.acquired => body.locks,
        refused => return refuse(common, args, &client, &refused),
    };
    for (body, hint) in locks.iter().filter_map(|body| Some((body, print::hint(body)?))) {
        print::warning(&format!("{}: {hint}", body.file_id));
    }
    let below = |held: &&Held| held.agent.strip_prefix(agent.as_str()).is_some_and(|rest| rest.starts_with('/'));
    for held in locks.iter().flat_map(|body| &body.holders).filter(below) {
        print::err(&format!("flockd: {}, and works on beside this command\n", print::holder_line(held)));
    }
    let ended = command(args, &agent, &client, &locks)?;
    for body in &locks {
        release(&client, body.lock_id.as_deref().unwrap_or_default(), body);
    }
    match ended {
        Ok(status) => Ok(child::exit_code(status)),
        Err(error) => Ok(child::not_run(&args.command[0], &error)),
    }
}

fn refuse(common: &Common, args: &RunArgs, client: &Connection, refused: &Body) -> Result<ExitCode, Failure> {
    let own = match refused {
        Body::Lock(body) => ask::refused(common, client, body),
        Body::Locks(body) => ask::refused_set(common, body),
        other => return Err(crate::client::unexpected(Some(other)).into()),
    };
    Ok(ExitCode::from(args.conflict_exit_code.unwrap_or(own as u8)))
}

// ── The lock ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Asks for a lock that lives as long as a command, and waits. It is not waited for what waits for us.
pub(super) fn take(client: &Connection, request: Request, names_holders: bool) -> Result<LockBody, Failure> {
    match take_any(client, request, names_holders)? {
        Body::Lock(body) => Ok(*body),
        other => Err(crate::client::unexpected(Some(&other)).into()),
    }
}

/// The same for one scope or several.
fn take_any(client: &Connection, request: Request, names_holders: bool) -> Result<Body, Failure> {
    let around = std::env::var(AROUND).unwrap_or_default();
    if !around.is_empty() {
        let tried = client.call(Request { wait_ms: Some(0), ..request.clone() })?.ok;
        let (acquired, holders) = match &tried {
            Some(Body::Lock(body)) => (body.acquired, body.holders.as_slice()),
            Some(Body::Locks(body)) => (body.acquired, body.holders.as_slice()),
            other => return Err(crate::client::unexpected(other.as_ref()).into()),
        };
        let is_ours = holders.iter().find(|holder| around.split(' ').any(|id| id == holder.lock_id));
        let is_ours = is_ours.map(|holder| holder.lock_id.clone());
        match (is_ours, tried) {
            (Some(lock_id), Some(tried)) => return Ok(waits_for_itself(tried, &lock_id)),
            (None, Some(tried)) if acquired || request.wait_ms == Some(0) => return Ok(tried),
            _ => {}
        }
    }
    ask::patiently(client, request, None, names_holders)
}

/// The holder is a `run` that this one runs in: it ends only after us.
fn waits_for_itself(tried: Body, lock_id: &str) -> Body {
    let advice = format!("this command runs inside the `flockd run` that holds it ({lock_id}): run it without a lock");
    let (code, advice) = (Some(Code::Deadlock), Some(advice));
    match tried {
        Body::Lock(body) => Body::Lock(Box::new(LockBody { code, advice, ..*body })),
        Body::Locks(body) => Body::Locks(Box::new(LocksBody { code, advice, ..*body })),
        other => other,
    }
}

/// Releases a lock and says so if it was lost while the command ran. That the command's end released it is no loss.
/// What ran out did so right behind it, for nothing does while the command keeps it: that is its agent's loss.
pub(super) fn release(client: &Connection, lock_id: &str, body: &LockBody) {
    match client.unlock(lock_id) {
        Ok(()) => {}
        Err(ClientError::Refused(error)) if error.loss.as_ref().is_some_and(|loss| loss.reason == "session_ended") => {}
        Err(ClientError::Refused(error)) if error.loss.as_ref().is_some_and(|loss| loss.reason == "expired") => {
            error.loss.iter().for_each(|loss| print::losses(std::slice::from_ref(loss)));
        }
        Err(error) => {
            let sentence = print::sentence(&error);
            print::err(&format!("flockd: {} was not held until the command ended: {sentence}\n", body.file_id));
        }
    }
}

// ── The command ─────────────────────────────────────────────────────────────────────────────────────────────────────

/// Runs the command with the locks bound to it. The inner error says why there is no such command.
fn command(
    args: &RunArgs,
    agent: &Agent,
    client: &Connection,
    locks: &[LockBody],
) -> Result<io::Result<ExitStatus>, Failure> {
    let mut command = Command::new(&args.command[0]);
    command.args(&args.command[1..]).env("FLOCKD_AGENT", agent.as_str());
    command.envs(args.environment.iter().map(|(name, value)| (name, value)));
    let signals = child::signals()?;
    let kept: Vec<Kept<'_>> =
        locks.iter().filter_map(|body| Some(Kept { client, lock_id: body.lock_id.as_deref()? })).collect();
    match child::start(command, &kept, |_, _| Ok(()))? {
        Ok(child) => wait_for(child, signals).map(Ok),
        Err(error) => Ok(Err(error)),
    }
}

/// Waits for the command, passing on the signals that are meant for it.
fn wait_for(mut child: Child, mut signals: Signals) -> Result<ExitStatus, Failure> {
    let system = |error: io::Error| Failure::new(Exit::Unavailable, error.to_string());
    let handle = signals.handle();
    let pidfd = process::pidfd_of_child(child.id()).map_err(system)?;
    let forward = std::thread::spawn(move || {
        for signal in signals.forever() {
            // From a terminal the command has it already; twice does no more than once.
            if let Some(signal) = rustix::process::Signal::from_named_raw(signal) {
                // Gone already: nothing to pass it to.
                let _ = rustix::process::pidfd_send_signal(&pidfd, signal);
            }
        }
    });
    let status = child.wait().map_err(system);
    handle.close();
    forward.join().expect("the forwarding thread does not panic");
    status
}
