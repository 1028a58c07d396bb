//! The guard: a process beside `elect` that watches its command, and ends it when it does not lead any more.
//!
//! It begins before the command takes its first step and ends with it. What it does is [`super::watch`].

use super::watch::{Charge, Group, Told, VERB, Watch};
use super::{Exit, Failure, print};
use crate::limits;
use crate::os::process;
use crossbeam_channel::{Receiver, bounded};
use rustix::fd::{AsFd, OwnedFd};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use std::io;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// `flockd elect-guard`: watches until the command ends, or ends it.
pub(in crate::cli) fn guard() -> Result<ExitCode, Failure> {
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        // It ends with the command, which they were meant for. SIGHUP comes from the kernel when `elect` is killed
        // while this process is stopped.
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    let starter = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let Some((charge, pidfd)) = charge_from(&starter)? else { return Ok(Exit::Yes.into()) };
    // What `ps` shows and `pkill flockd` goes by, from when there is something to guard. Without it nothing is wrong.
    let _ = std::fs::write("/proc/self/comm", VERB);
    let file_id = charge.posts.first().map(|lock| lock.file_id.clone()).unwrap_or_default();
    let group = Group::new(pidfd, charge.command, false)?;
    let mut speaker = None;
    Watch::stand(charge, group, starter)?.until_ended(|told| {
        speaker = Some(say(match told {
            Told::Lost(why) => {
                let why = why.unwrap_or_else(|| "it was broken, released or taken up".to_owned());
                super::ended_for(&file_id, &why)
            }
            Told::Unguarded(error) => super::unguarded(&error),
        }));
    });
    if let Some(said) = speaker {
        let _ = said.recv_timeout(Duration::from_millis(limits::ELECT_LOOK));
    }
    Ok(Exit::Yes.into())
}

/// On a thread of its own: whoever reads stderr may not read it, and that keeps nobody from ending the command. What is
/// returned is closed when all is said.
fn say(text: String) -> Receiver<()> {
    let (saying, said) = bounded(0);
    std::thread::spawn(move || {
        print::err(&text);
        drop(saying);
    });
    said
}

/// Reads the one line that comes, and the descriptor with it; none if whoever started this is dead already.
fn charge_from(starter: &UnixStream) -> Result<Option<(Charge, OwnedFd)>, Failure> {
    let by_hand = |_| Failure::new(Exit::Usage, "only `flockd elect` calls this");
    let (mut line, mut fds) = (Vec::new(), Vec::new());
    while line.last() != Some(&b'\n') {
        let mut bytes = [0; 4096];
        let received = process::recv_with_fds(starter, &mut bytes).map_err(by_hand)?;
        if received.bytes == 0 {
            return Ok(None);
        }
        line.extend(&bytes[..received.bytes]);
        fds.extend(received.fds);
        if line.len() > limits::LINE_MAX {
            return Err(by_hand(io::ErrorKind::InvalidData.into()));
        }
    }
    let charge = serde_json::from_slice(&line).map_err(|error| by_hand(error.into()))?;
    let pidfd = fds.pop().ok_or_else(|| by_hand(io::ErrorKind::InvalidInput.into()))?;
    Ok(Some((charge, pidfd)))
}
