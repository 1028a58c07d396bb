//! An agent is killed while it holds a lock. The lock waits for it, nobody else gets it, and the agent's next life
//! takes it up again with a new fence.
//!
//! `cargo run --example crash_and_resume`

use flockd::{Client, Coordinator, KeptBy, LockError};
use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args_os().nth(1) {
        Some(home) => first_life(Path::new(&home)),
        None => story(),
    }
}

/// The agent's first life, a process of its own: takes the lock, says so, and works until it is killed.
fn first_life(home: &Path) -> Result<(), Box<dyn Error>> {
    let session = Client::builder().home(home).start_nothing().connect()?.agent("claw-1")?;
    let guard = session.lock("@report").ttl(Duration::from_secs(60)).note("writing the report").acquire()?;
    println!("{} {}", guard.fence(), guard.lock_id());
    io::stdout().flush()?;
    // Until the story ends, if nobody kills it.
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn story() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let home = dir.path().join("home");
    let coordinator = Coordinator::open(&home)?;

    let mut life =
        Command::new(std::env::current_exe()?).arg(&home).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(life.stdout.take().expect("stdout is a pipe")).read_line(&mut line)?;
    let (fence, lock_id) = line.trim_end().split_once(' ').ok_or("the first life took no lock")?;
    let fence: u64 = fence.parse()?;
    println!("claw-1 holds {lock_id} with fence {fence}, in process {}", life.id());
    // As `kill -9` does.
    life.kill()?;
    life.wait()?;

    // The kernel told of the death before this is asked, so that it is known long before the wait is over.
    let (other, again) = (coordinator.agent("claw-2")?, coordinator.agent("claw-1")?);
    match other.lock("@report").wait(Duration::from_millis(200)).acquire() {
        Err(LockError::Refused(refusal)) => {
            let holder = &refusal.holders[0];
            println!("claw-2 is refused, the lock waits for claw-1: {refusal}");
            assert_eq!((holder.lock_id.as_str(), holder.kept_by), (lock_id, KeptBy::Lease));
            assert!(holder.expires_in.is_some_and(|left| left <= Duration::from_secs(60)));
        }
        Err(error) => return Err(error.into()),
        Ok(guard) => panic!("{guard:?} was granted while the agent could still come back"),
    }

    let guard = again.lock("@report").acquire()?;
    println!("claw-1 is back: {} with fence {}, resumed: {}", guard.lock_id(), guard.fence(), guard.is_resumed());
    assert!(guard.is_resumed(), "the next life begins where the first one ended");
    assert_eq!(guard.lock_id(), lock_id);
    assert!(guard.fence() > fence, "what the first life still has on its way can be told from the second's");
    guard.release()?;
    drop(other.lock("@report").acquire()?);
    println!("and when it is done, claw-2 gets it");
    Ok(())
}
