//! Two agents count in one file under a lock of flockd, and none of their steps is lost.
//!
//! `cargo build && cargo run --example two_agents`

use flockd::client::{Client, Connect, Custodian, Launch, Place};
use flockd::model::Agent;
use flockd::os::home::Home;
use flockd::wire::{Op, Request};
use std::error::Error;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const STEPS: u32 = 200;

fn main() -> Outcome<()> {
    let flockd = program()?;
    let dir = tempfile::tempdir()?;
    // A home of its own, so that nothing of yours is touched; a program would say Home::from_env().
    let home = Home::at(&dir.path().join("home"));
    let connect = |agent| connect(&home, &flockd, dir.path(), agent);
    let file = dir.path().join("count");
    fs::write(&file, "0")?;

    let (ada, bob) = (connect("ada")?, connect("bob")?);
    std::thread::scope(|scope| -> Outcome<()> {
        let counts = [&ada, &bob].map(|agent| scope.spawn(|| count(agent, &file)));
        counts.into_iter().try_for_each(|thread| thread.join().expect("counting does not panic"))
    })?;
    let counted = fs::read_to_string(&file)?;
    println!("two agents, {STEPS} steps each: {counted}");
    assert_eq!(counted.parse(), Ok(2 * STEPS), "a step was lost");

    let held = ada.lock(Request { note: Some("looking at the result".into()), ..lock_of_count() })?;
    let refused = bob.lock(Request { wait_ms: Some(0), ..lock_of_count() })?;
    assert!(held.acquired && !refused.acquired);
    println!("bob is refused: {}", refused.advice.unwrap_or_default());

    // The clients first: a session that is still open is a reason to have a daemon.
    drop((ada, bob));
    Command::new(&flockd).args(["daemon", "stop"]).env("FLOCKD_HOME", &home.dir).status()?;
    Ok(())
}

/// The program that starts the daemon: `target/<profile>/flockd`, beside the directory of the examples.
fn program() -> Outcome<PathBuf> {
    let example = std::env::current_exe()?;
    let flockd = example.ancestors().nth(2).unwrap_or(Path::new("/")).join("flockd");
    if flockd.is_file() {
        return Ok(flockd);
    }
    Err(format!("{} is not there: run `cargo build` first, with the same profile", flockd.display()).into())
}

/// A client with a session: its locks live as long as it does.
fn connect(home: &Home, flockd: &Path, workspace: &Path, agent: &str) -> Outcome<Client> {
    let workspace = workspace.as_os_str().as_bytes().to_vec();
    Ok(Client::connect(Connect {
        home: home.clone(),
        launch: Launch::With(flockd.to_owned()),
        agent: Some(Agent::new(agent)?),
        // A program that works where it was started would say Place::here().
        place: Place { cwd: workspace.clone(), workspace },
        session: Some(Custodian::Library),
    })?)
}

/// A request for `count`: exclusive, waits for ever, and with ttl 0 the lock ends with the client.
fn lock_of_count() -> Request {
    Request { scope: Some("count".into()), ttl_ms: Some(0), ..Request::new(Op::Lock) }
}

fn count(agent: &Client, file: &Path) -> Outcome<()> {
    for _ in 0..STEPS {
        let lock = agent.lock(lock_of_count())?;
        let lock_id = lock.lock_id.ok_or("a request that waits for ever is granted or fails")?;
        let number: u32 = fs::read_to_string(file)?.parse()?;
        fs::write(file, (number + 1).to_string())?;
        agent.unlock(&lock_id)?;
    }
    Ok(())
}
