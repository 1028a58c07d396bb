//! Contention alert: a file that many claws want at once is reported, with who holds it and how hot it is.
//!
//! `cargo run --example contention_alert`

use flockd::{Coordinator, Event, EventFilter, LockError};
use std::error::Error;
use std::fs;

const CLAWS: usize = 4;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    // Four requests that cannot have one file within a minute are too many here; each workspace says so for itself.
    fs::write(dir.path().join(".flockd.toml"), "[contention]\nrequests = 4\nwithin = \"1m\"\n")?;
    // In this process, so that the example needs nothing else; `Client::connect()` gives the same handles.
    let coordinator = Coordinator::open(dir.path().join("home"))?;
    let holder = coordinator.agent("claw-0")?.workspace(dir.path())?;
    let monitor = coordinator.agent("monitor")?.workspace(dir.path())?;
    let alerts = monitor.subscribe(EventFilter::new().event("lock.contention"))?;
    let busy = holder.lock("hot.json").note("a long merge").acquire()?;
    for number in 1..=CLAWS {
        let claw = coordinator.agent(format!("claw-{number}"))?.workspace(dir.path())?;
        // A quiet file beside it: refused once, which is nothing to report.
        let _calm = claw.lock(format!("own-{number}.json")).try_now().acquire()?;
        match claw.lock("hot.json").try_now().acquire() {
            Err(LockError::Refused(refusal)) => match refusal.retry_after {
                Some(pause) => println!("claw-{number} may try again in {pause:?}"),
                None => println!("claw-{number} is refused, as happens"),
            },
            other => return Err(format!("hot.json is held, and: {other:?}").into()),
        }
    }
    let Event::Lock(alert) = alerts.recv()? else { return Err("something was missed".into()) };
    let contention = alert.contention.ok_or("an alert has its counts")?;
    println!("{} is hot: {} refused within {:?}", alert.file_id, contention.failed, contention.over);
    println!("{} holds it: {}", alert.acquired_by, alert.note.as_deref().unwrap_or("and does not say why"));
    assert_eq!((alert.file_id.as_str(), contention.failed, contention.queued), ("hot.json", CLAWS as u64, 0));
    busy.release()?;
    Ok(())
}
