//! A pipeline of agents: extract, transform, load. Each stage locks what it writes alone and what it reads together
//! with others, and the order of the queue is all that keeps them in step.
//!
//! `cargo run --example etl_pipeline`

use flockd::{Coordinator, LockError, LockGuard, Workspace};
use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Barrier;

const ROWS: u64 = 100;
const READERS: usize = 3;

type Done = Result<(), Box<dyn Error + Send + Sync>>;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let coordinator = Coordinator::open(dir.path().join("home"))?;
    let agent = |name: String| Ok::<_, Box<dyn Error>>(coordinator.agent(name)?.workspace(dir.path())?);
    let extractor = agent("extractor".to_owned())?;
    let transformer = agent("transformer".to_owned())?;
    let loader = agent("loader".to_owned())?;
    let readers: Vec<Workspace> =
        (1..=READERS).map(|number| agent(format!("reader-{number}"))).collect::<Result<_, _>>()?;

    // Each stage has what it writes before the next one asks for it: whoever comes early waits in line.
    let raw = write_lock(&extractor, "raw.csv")?;
    let clean = write_lock(&transformer, "clean.csv")?;
    let report = write_lock(&loader, "report.txt")?;
    let together = Barrier::new(READERS);
    std::thread::scope(|scope| {
        let stages = [
            scope.spawn(|| load(&loader, dir.path(), report)),
            scope.spawn(|| transform(&transformer, dir.path(), clean)),
            scope.spawn(|| extract(dir.path(), raw)),
        ];
        let readers: Vec<_> =
            readers.iter().map(|reader| scope.spawn(|| read_report(reader, dir.path(), &together))).collect();
        for stage in stages.into_iter().chain(readers) {
            stage.join().expect("no stage panics").map_err(|error| -> Box<dyn Error> { error })?;
        }
        Ok(())
    })
}

fn write_lock(stage: &Workspace, file: &str) -> Result<LockGuard, LockError> {
    stage.lock(file).note(format!("writing {file}")).wait_forever().acquire()
}

fn read_lock(stage: &Workspace, file: &str) -> Result<LockGuard, LockError> {
    stage.lock(file).shared().note(format!("reading {file}")).wait_forever().acquire()
}

fn extract(dir: &Path, raw: LockGuard) -> Done {
    let rows: String = (1..=ROWS).map(|number| format!("row-{number}, {number} \n")).collect();
    fs::write(dir.join("raw.csv"), rows)?;
    println!("extracted {ROWS} rows");
    raw.release()?;
    Ok(())
}

fn transform(stage: &Workspace, dir: &Path, clean: LockGuard) -> Done {
    let raw = read_lock(stage, "raw.csv")?;
    let text = fs::read_to_string(dir.join("raw.csv"))?;
    let rows: Vec<String> = text.lines().map(|line| line.replace(' ', "")).collect();
    raw.release()?;
    fs::write(dir.join("clean.csv"), rows.join("\n"))?;
    println!("transformed {} rows", rows.len());
    clean.release()?;
    Ok(())
}

fn load(stage: &Workspace, dir: &Path, report: LockGuard) -> Done {
    let clean = read_lock(stage, "clean.csv")?;
    let text = fs::read_to_string(dir.join("clean.csv"))?;
    let values = text.lines().filter_map(|line| line.split_once(',')?.1.parse::<u64>().ok());
    let sum: u64 = values.sum();
    clean.release()?;
    fs::write(dir.join("report.txt"), sum.to_string())?;
    println!("loaded; the sum is {sum}");
    report.release()?;
    Ok(())
}

fn read_report(reader: &Workspace, dir: &Path, together: &Barrier) -> Done {
    let report = read_lock(reader, "report.txt")?;
    // Nobody passes before all readers are here, each with its lock: they do share it.
    if together.wait().is_leader() {
        println!("{READERS} readers read the report at the same time");
    }
    let sum: u64 = fs::read_to_string(dir.join("report.txt"))?.parse()?;
    assert_eq!(sum, ROWS * (ROWS + 1) / 2, "the report was read before it was written");
    report.release()?;
    Ok(())
}
