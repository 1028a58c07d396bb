//! A command that takes its first step only when locks hang on its process, and how `run` and `elect` end with it.

use super::{Exit, Failure};
use crate::client::Connection;
use crate::os::process;
use crate::wire::{Op, Request};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, ExitStatus};

/// The locks of the `run`s and `elect`s around this one, so that it does not wait for what waits for it.
pub(super) const AROUND: &str = "FLOCKD_RUN_LOCKS";
/// The signals that are passed on to a command.
const PASSED_ON: [i32; 6] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];
/// With what a command ends that may not begin; nobody sees it.
const NOT_LET_GO: i32 = 125;
/// As shells, env(1) and nice(1) say that there is no such command, or that it cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_RUNNABLE: u8 = 126;

/// A lock and the session that got it.
#[derive(Clone, Copy)]
pub(super) struct Kept<'a> {
    pub(super) client: &'a Connection,
    pub(super) lock_id: &'a str,
}

impl Kept<'_> {
    /// From now on the lock lives as long as this process, and no longer.
    pub(super) fn bind(&self, pidfd: BorrowedFd<'_>) -> Result<(), Failure> {
        let request = Request { lock_id: Some(self.lock_id.to_owned()), ..Request::new(Op::Bind) };
        self.client.call_with_fd(request, pidfd)?;
        Ok(())
    }
}

/// The signals that are to be passed on to a command.
///
/// # Errors
/// When the system has no descriptors left.
pub(super) fn signals() -> Result<Signals, Failure> {
    Ok(Signals::new(PASSED_ON)?)
}

/// Starts a command behind a gate, binds the locks to it, does what else has to be done `at_gate`, which is given the
/// process and its number, and opens the gate. The inner error says why there is no such command. To be called with the
/// [`signals`] taken already: one that comes at once is passed on as well, and does not end the caller alone.
pub(super) fn start(
    mut command: Command,
    locks: &[Kept<'_>],
    at_gate: impl FnOnce(OwnedFd, u32) -> io::Result<()> + Send,
) -> Result<io::Result<Child>, Failure> {
    let gate = Gate::new().map_err(|error| Failure::new(Exit::Unavailable, error.to_string()))?;
    let around = std::env::var(AROUND).ok().filter(|around| !around.is_empty());
    let around: Vec<&str> = around.as_deref().into_iter().chain(locks.iter().map(|lock| lock.lock_id)).collect();
    command.env(AROUND, around.join(" "));
    let Gate { pid_out, pid_in, go_out, go_in } = gate;
    let go_in_number = go_in.as_raw_fd();
    let wait_at_gate = move || {
        // The child's copy of the other end is closed first: else it would wait for itself if its parent is killed now.
        // SAFETY: in the child nobody else uses this number, and its owner, the thread that binds, is not there.
        unsafe { rustix::io::close(go_in_number) };
        // The caller's handlers are not the command's: what comes before its first step ends it.
        for signal in PASSED_ON {
            // SAFETY: to set the default may be done here, and no handler is named.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        rustix::io::write(&pid_in, &rustix::process::getpid().as_raw_pid().to_ne_bytes())?;
        let mut go = [0u8; 1];
        match rustix::io::retry_on_intr(|| rustix::io::read(&go_out, &mut go))? {
            1 => Ok(()),
            // The caller is dead, or knows why it does not let the command go on. An error would be told to it, and
            // std is loud about it if nobody is there to hear.
            // SAFETY: a child that has not called exec yet ends so.
            _ => unsafe { libc::_exit(NOT_LET_GO) },
        }
    };
    // SAFETY: between fork and exec the closure closes, writes and reads descriptors and sets signals by plain system
    // calls and allocates nothing on its way to success; its error is a value that std reports by number alone.
    unsafe { command.pre_exec(wait_at_gate) };
    std::thread::scope(|scope| {
        let bind = scope.spawn(|| bind(locks, at_gate, pid_out, go_in));
        let spawned = command.spawn();
        // The command holds the closure and with it our copy of the pid pipe: without this, a failed fork would leave
        // the other thread waiting for a number that nobody writes.
        drop(command);
        let bound = bind.join().expect("the binding thread does not panic");
        match (spawned, bound) {
            (Ok(child), Ok(())) => Ok(Ok(child)),
            // It was not let go; or it was killed at the gate, which is how it has ended then.
            (Ok(mut child), Err(failure)) => match was_killed(&child) {
                true => Ok(Ok(child)),
                false => child.wait().map_err(Failure::from).and(Err(failure)),
            },
            (Err(_), Err(failure)) => Err(failure),
            (Err(error), Ok(())) => Ok(Err(error)),
        }
    })
}

/// Whether a signal has ended a child that has ended or is about to. It is not collected.
fn was_killed(child: &Child) -> bool {
    let (child, options) = (WaitId::Pid(Pid::from_child(child)), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
    let status = rustix::io::retry_on_intr(|| waitid(child.clone(), options));
    matches!(status, Ok(Some(status)) if status.terminating_signal().is_some())
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

/// Binds the locks to the child that waits at the gate, then lets it go on.
fn bind(
    locks: &[Kept<'_>],
    at_gate: impl FnOnce(OwnedFd, u32) -> io::Result<()>,
    pid_out: OwnedFd,
    go_in: OwnedFd,
) -> Result<(), Failure> {
    let mut pid = [0u8; 4];
    let read = rustix::io::retry_on_intr(|| rustix::io::read(&pid_out, &mut pid));
    if read != Ok(pid.len()) {
        // No child: spawn itself says why.
        return Ok(());
    }
    let system = |error: io::Error| Failure::new(Exit::Unavailable, error.to_string());
    let pid = u32::from_ne_bytes(pid);
    let pidfd = process::pidfd_of_child(pid).map_err(system)?;
    for lock in locks {
        lock.bind(pidfd.as_fd())?;
    }
    at_gate(pidfd, pid).map_err(system)?;
    rustix::io::write(&go_in, b"!").map_err(|error| system(error.into()))?;
    Ok(())
}

/// The command's own status. If a signal ended it, the same one ends us, so that a shell stops a loop around `run` as
/// it would stop one around the command.
pub(super) fn exit_code(status: ExitStatus) -> ExitCode {
    if let Some(signal @ (SIGHUP | SIGINT | SIGQUIT | SIGTERM)) = status.signal() {
        // It does not return; if it did, the status below says the same.
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

/// Says that there is no such command; the status that shells give then.
pub(super) fn not_run(program: &std::ffi::OsStr, error: &io::Error) -> ExitCode {
    super::print::err(&format!("flockd: cannot run {}: {error}\n", program.to_string_lossy()));
    let is_missing = error.kind() == io::ErrorKind::NotFound;
    ExitCode::from(if is_missing { NOT_FOUND } else { NOT_RUNNABLE })
}
