//! Notify on release: an analyzer starts when the writer is done, and not before.
//!
//! `cargo run --example notify_on_release`

use flockd::{Coordinator, Event, EventFilter, Workspace};
use std::error::Error;
use std::fs;
use std::path::Path;

const ROUNDS: usize = 3;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    // In this process, so that the example needs nothing else; `Client::connect()` gives the same handles.
    let coordinator = Coordinator::open(dir.path().join("home"))?;
    let writer = coordinator.agent("writer")?.workspace(dir.path())?;
    let analyzer = coordinator.agent("analyzer")?.workspace(dir.path())?;
    let done = analyzer.subscribe(EventFilter::new().event("lock.released").scope("report.txt").agent("writer"))?;
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| write(&writer, dir.path()));
        for _ in 0..ROUNDS {
            match done.recv()? {
                Event::Lock(event) => {
                    println!("{} has released {}", event.acquired_by, event.file_id);
                    assert_eq!((event.event.as_str(), event.acquired_by.as_str()), ("lock.released", "writer"));
                }
                // Something was missed: the file may have changed, so it is looked at as well.
                other => println!("{other:?}"),
            }
            let guard = analyzer.lock("report.txt").shared().wait_forever().note("analyzing").acquire()?;
            let text = fs::read_to_string(dir.path().join("report.txt"))?;
            let (head, sum) = text.split_once('\n').ok_or("half a report was read")?;
            println!("analyzed {head}: {sum}");
            guard.release()?;
        }
        writing.join().expect("the writer does not panic").map_err(|error| -> Box<dyn Error> { error })?;
        Ok(())
    })
}

/// Writes the report in two steps, so that whoever reads in between gets half of it.
fn write(writer: &Workspace, dir: &Path) -> Result<(), Box<dyn Error + Send + Sync>> {
    let read = writer.subscribe(EventFilter::new().event("lock.released").scope("report.txt").agent("analyzer"))?;
    for round in 1..=ROUNDS {
        let guard = writer.lock("report.txt").wait_forever().note("writing the report").acquire()?;
        fs::write(dir.join("report.txt"), format!("report {round}"))?;
        fs::write(dir.join("report.txt"), format!("report {round}\nsum {}", round * 100))?;
        guard.release()?;
        // The next report is for who has read this one.
        read.recv()?;
    }
    Ok(())
}
