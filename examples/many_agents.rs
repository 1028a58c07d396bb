//! Many agents in one process: each a session of its own, all of them adding to the same counters, and nothing is lost.
//!
//! `cargo run --example many_agents`

use flockd::{Coordinator, Workspace};
use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::Duration;

const AGENTS: usize = 50;
const FILES: usize = 5;
const ROUNDS: usize = 10;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    for number in 0..FILES {
        fs::write(counter(dir.path(), number), "0")?;
    }
    let coordinator = Coordinator::open(dir.path().join("home"))?;
    let agents: Vec<Workspace> = (0..AGENTS)
        .map(|number| coordinator.agent(format!("claw-{number}"))?.workspace(dir.path()))
        .collect::<Result<_, _>>()?;

    std::thread::scope(|scope| {
        let agents: Vec<_> = agents.iter().map(|agent| scope.spawn(|| work(agent, dir.path()))).collect();
        agents.into_iter().try_for_each(|agent| agent.join().expect("no agent panics"))
    })
    .map_err(|error| -> Box<dyn Error> { error })?;

    for number in 0..FILES {
        let count = fs::read_to_string(counter(dir.path(), number))?;
        println!("counter {number}: {count}");
        assert_eq!(count, (AGENTS * ROUNDS).to_string(), "an update was lost");
    }
    println!("{AGENTS} agents made {} updates, and none was lost", AGENTS * ROUNDS * FILES);
    Ok(())
}

fn counter(dir: &Path, number: usize) -> std::path::PathBuf {
    dir.join(format!("counter-{number}.txt"))
}

fn work(agent: &Workspace, dir: &Path) -> Result<(), Box<dyn Error + Send + Sync>> {
    for _ in 0..ROUNDS {
        for number in 0..FILES {
            let file = counter(dir, number);
            // Nothing has to outlive this process, so nothing has to be synced.
            let guard = agent.lock(&file).ttl(Duration::ZERO).wait_forever().acquire()?;
            let count: usize = fs::read_to_string(&file)?.parse()?;
            fs::write(&file, (count + 1).to_string())?;
            // The release travels with the next request.
            drop(guard);
        }
    }
    Ok(())
}
