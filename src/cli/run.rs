//! `flockd run`: hold a lock while a command runs. The command, not `run`, keeps the lock from before its first step.

use super::args::RunArgs;
use super::{Common, Exit, Failure, ask, print};
use crate::client::{ClientError, Connection, Custodian};
use crate::model::Agent;
use crate::os::process;
use crate::wire::{Body, Code, LockBody, Op, Request};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, ExitStatus};

/// The locks of the `run`s around this one, so that it does not wait for what waits for it.
const AROUND: &str = "FLOCKD_RUN_LOCKS";
/// As shells, env(1) and nice(1) say that there is no such command, or that it cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_RUNNABLE: u8 = 126;

pub(super) fn run(common: &Common, args: &RunArgs) -> Result<ExitCode, Failure> {
    let agent = match common.known_agent()? {
        Some(agent) => agent,
        None => Agent::new(&format!("run-{}", std::process::id()))?,
    };
    let client = common.connect(Some(agent.clone()), Some(Custodian::Command))?;
    let body = take(common, args, &client)?;
    let Some(lock_id) = body.lock_id.clone().filter(|_| body.acquired) else {
        if common.json {
            print::json(&body);
        } else {
            print::err(&print::refused(&body));
        }
        let own = ask::exit_of(body.code) as u8;
        return Ok(ExitCode::from(args.conflict_exit_code.unwrap_or(own)));
    };
    let ended = command(args, &agent, &client, &lock_id)?;
    release(&client, &lock_id, &body);
    match ended {
        Ok(status) => Ok(exit_code(status)),
        Err(error) => {
            print::err(&format!("flockd: cannot run {}: {error}\n", args.command[0].to_string_lossy()));
            let is_missing = error.kind() == io::ErrorKind::NotFound;
            Ok(ExitCode::from(if is_missing { NOT_FOUND } else { NOT_RUNNABLE }))
        }
    }
}

// ── The lock ────────────────────────────────────────────────────────────────────────────────────────────────────────

fn take(common: &Common, args: &RunArgs, client: &Connection) -> Result<LockBody, Failure> {
    let request = Request {
        scope: Some(ask::scope(&args.scope, args.glob)),
        mode: Some(ask::mode(args.shared)),
        wait_ms: args.patience.wait_ms(None),
        ttl_ms: Some(0),
        note: args.note.clone(),
        no_os_lock: args.no_os_lock,
        ..Request::new(Op::Lock)
    };
    let around = std::env::var(AROUND).unwrap_or_default();
    if !around.is_empty() {
        let tried = client.lock(Request { wait_ms: Some(0), ..request.clone() })?;
        let is_ours = tried.holders.iter().find(|holder| around.split(' ').any(|id| id == holder.lock_id));
        match is_ours {
            Some(holder) => return Ok(waits_for_itself(&tried, &holder.lock_id)),
            None if tried.acquired || request.wait_ms == Some(0) => return Ok(tried),
            None => {}
        }
    }
    match ask::patiently(client, request, None, !common.json)? {
        Body::Lock(body) => Ok(*body),
        other => Err(crate::client::unexpected(Some(&other)).into()),
    }
}

/// The holder is a `run` that this one runs in: it ends only after us.
fn waits_for_itself(tried: &LockBody, lock_id: &str) -> LockBody {
    let advice = format!("this command runs inside the `flockd run` that holds it ({lock_id}): run it without a lock");
    LockBody { code: Some(Code::Deadlock), advice: Some(advice), ..tried.clone() }
}

/// Releases the lock and says so if it was lost while the command ran. That the command's end released it is no loss.
fn release(client: &Connection, lock_id: &str, body: &LockBody) {
    match client.unlock(lock_id) {
        Ok(()) => {}
        Err(ClientError::Refused(error)) if error.loss.as_ref().is_some_and(|loss| loss.reason == "session_ended") => {}
        Err(error) => {
            let sentence = print::sentence(&error);
            print::err(&format!("flockd: {} was not held until the command ended: {sentence}\n", body.file_id));
        }
    }
}

// ── The command ─────────────────────────────────────────────────────────────────────────────────────────────────────

/// Starts the command behind a gate, binds the lock to it, opens the gate, and waits for its end. The inner error says
/// why there is no such command.
fn command(
    args: &RunArgs,
    agent: &Agent,
    client: &Connection,
    lock_id: &str,
) -> Result<io::Result<ExitStatus>, Failure> {
    let gate = Gate::new().map_err(|error| Failure::new(Exit::Unavailable, error.to_string()))?;
    let around = std::env::var(AROUND).ok().filter(|around| !around.is_empty());
    let mut command = Command::new(&args.command[0]);
    command.args(&args.command[1..]).env("FLOCKD_AGENT", agent.as_str());
    command.env(AROUND, around.map_or_else(|| lock_id.to_owned(), |around| format!("{around} {lock_id}")));
    let Gate { pid_out, pid_in, go_out, go_in } = gate;
    let go_in_number = go_in.as_raw_fd();
    // Before there is a command: a signal that comes at once is passed on as well, and does not end `run` alone.
    let signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2])?;
    let wait_at_gate = move || {
        // The child's copy of the other end is closed first: else it would wait for itself if `run` is killed now.
        // SAFETY: in the child nobody else uses this number, and its owner, the thread that binds, is not there.
        unsafe { rustix::io::close(go_in_number) };
        rustix::io::write(&pid_in, &rustix::process::getpid().as_raw_pid().to_ne_bytes())?;
        let mut go = [0u8; 1];
        match rustix::io::retry_on_intr(|| rustix::io::read(&go_out, &mut go))? {
            1 => Ok(()),
            _ => Err(io::Error::other("the lock could not be bound to the command")),
        }
    };
    // SAFETY: between fork and exec the closure closes, writes and reads descriptors by plain system calls and
    // allocates nothing on its way to success; its error is a value that std reports by number alone.
    unsafe { command.pre_exec(wait_at_gate) };
    std::thread::scope(|scope| {
        let bind = scope.spawn(|| bind(client, lock_id, pid_out, go_in));
        let spawned = command.spawn();
        // The command holds the closure and with it our copy of the pid pipe: without this, a failed fork would leave
        // the other thread waiting for a number that nobody writes.
        drop(command);
        let bound = bind.join().expect("the binding thread does not panic");
        match (spawned, bound) {
            (Ok(child), _) => wait_for(child, signals).map(Ok),
            (Err(_), Err(failure)) => Err(failure),
            (Err(error), Ok(())) => Ok(Err(error)),
        }
    })
}

/// Two pipes: the child's number comes out of one, leave to go on goes into the other.
struct Gate {
    pid_out: OwnedFd,
    pid_in: OwnedFd,
    go_out: OwnedFd,
    go_in: OwnedFd,
}

impl Gate {
    fn new() -> io::Result<Gate> {
        let (pid_out, pid_in) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let (go_out, go_in) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        Ok(Gate { pid_out, pid_in, go_out, go_in })
    }
}

/// Binds the lock to the child that waits at the gate, then lets it go on.
fn bind(client: &Connection, lock_id: &str, pid_out: OwnedFd, go_in: OwnedFd) -> Result<(), Failure> {
    let mut pid = [0u8; 4];
    let read = rustix::io::retry_on_intr(|| rustix::io::read(&pid_out, &mut pid));
    if read != Ok(pid.len()) {
        // No child: spawn itself says why.
        return Ok(());
    }
    let system = |error: io::Error| Failure::new(Exit::Unavailable, error.to_string());
    let pidfd = process::pidfd_of_child(u32::from_ne_bytes(pid)).map_err(system)?;
    let request = Request { lock_id: Some(lock_id.to_owned()), ..Request::new(Op::Bind) };
    client.call_with_fd(request, pidfd.as_fd())?;
    rustix::io::write(&go_in, b"!").map_err(|error| system(error.into()))?;
    Ok(())
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

/// The command's own status. If a signal ended it, the same one ends us, so that a shell stops a loop around `run` as
/// it would stop one around the command.
fn exit_code(status: ExitStatus) -> ExitCode {
    if let Some(signal @ (SIGHUP | SIGINT | SIGQUIT | SIGTERM)) = status.signal() {
        // It does not return; if it did, the status below says the same.
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}
