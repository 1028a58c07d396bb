//! Queue on acquire: a backup claw watches what its fellows take, and works on the next free file instead of waiting.
//!
//! `cargo run --example queue_on_acquire`

use flockd::{Coordinator, Event, EventFilter, Workspace};
use std::collections::VecDeque;
use std::error::Error;
use std::sync::Barrier;

const FILES: [&str; 4] = ["a.csv", "b.csv", "c.csv", "d.csv"];

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    // In this process, so that the example needs nothing else; `Client::connect()` gives the same handles.
    let coordinator = Coordinator::open(dir.path().join("home"))?;
    let first = coordinator.agent("claw-1")?.workspace(dir.path())?;
    let backup = coordinator.agent("claw-2")?.workspace(dir.path())?;
    let taken = backup.subscribe(EventFilter::new().event("lock.acquired").agent("claw-1"))?;
    let together = Barrier::new(2);
    std::thread::scope(|scope| {
        let working = scope.spawn(|| work_on_two(&first, &together));
        let mut queue = VecDeque::from(FILES);
        // Each file that claw-1 takes is work that the backup need not do.
        while queue.len() > 2 {
            if let Event::Lock(event) = taken.recv()? {
                println!("{} has taken {}", event.acquired_by, event.file_id);
                queue.retain(|file| *file != event.file_id);
            }
        }
        for file in &queue {
            let guard = backup.lock(*file).note("as backup").try_now().acquire()?;
            println!("claw-2 takes the next one, {}, fence {}", guard.file_id(), guard.fence());
            guard.release()?;
        }
        together.wait();
        working.join().expect("claw-1 does not panic").map_err(|error| -> Box<dyn Error> { error })?;
        assert_eq!(queue, ["c.csv", "d.csv"]);
        Ok(())
    })
}

/// Takes two files and keeps both until the backup is done with the others.
fn work_on_two(claw: &Workspace, together: &Barrier) -> Result<(), Box<dyn Error + Send + Sync>> {
    let guards = [claw.lock(FILES[0]).acquire()?, claw.lock(FILES[1]).acquire()?];
    together.wait();
    for guard in guards {
        guard.release()?;
    }
    Ok(())
}
