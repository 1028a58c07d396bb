//! Two agents and one file: they read together, one writes alone, and whoever is refused learns whom to ask.
//!
//! `cargo run --example two_agents`

use flockd::{Code, Coordinator, LockError};
use std::error::Error;
use std::fs;
use std::time::Duration;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("data.json"), "{}")?;
    // In this process, so that the example needs nothing else; `Client::connect()` gives the same handles.
    let coordinator = Coordinator::open(dir.path().join("home"))?;
    let one = coordinator.agent("claw-1")?.workspace(dir.path())?;
    let two = coordinator.agent("claw-2")?.workspace(dir.path())?;

    let reading = one.lock("data.json").shared().note("counting the rows").acquire()?;
    let also_reading = two.lock("data.json").shared().acquire()?;
    println!("claw-1 and claw-2 read {} together", reading.file_id());

    also_reading.release()?;
    match two.lock("data.json").try_now().acquire() {
        Err(LockError::Refused(refusal)) => {
            println!("claw-2 may not write yet: {refusal}");
            assert_eq!(refusal.code, Code::Held);
            assert_eq!(refusal.holders[0].agent, "claw-1");
            assert_eq!(refusal.holders[0].note.as_deref(), Some("counting the rows"));
        }
        Err(error) => return Err(error.into()),
        Ok(guard) => panic!("{guard:?} was granted beside a reader"),
    }

    // claw-2 waits, and is woken when claw-1 has read to the end.
    let first = reading.fence();
    let waiting = std::thread::spawn(move || two.lock("data.json").wait(Duration::from_secs(20)).acquire());
    drop(reading);
    let writing = waiting.join().expect("the waiting thread does not panic")?;
    println!("claw-2 writes, fence {}", writing.fence());
    assert!(writing.fence() > first);
    fs::write(dir.path().join("data.json"), r#"{"rows": 1}"#)?;
    writing.release()?;

    let reading = one.lock("data.json").shared().acquire()?;
    println!("claw-1 reads {}", fs::read_to_string(dir.path().join("data.json"))?);
    reading.release()?;
    Ok(())
}
