//! `flockd sim`: many claws race for the same files, first without locks, then with them; a judge counts the damage.
//!
//! Each claw is a real process. It updates pairs of JSON files that must agree: reads both, thinks, replaces both. The
//! writer (`writer`) is the same in both runs; what stands around it (`claw`) is the only difference. In the second
//! run claws and the daemon are killed now and then (`herd`). What happened is told by the claws' diaries (`diary`)
//! and the files alone (`judge`), never by the locks themselves.

mod claw;
mod diary;
mod ground;
mod herd;
mod judge;
mod plan;
mod report;
mod writer;

pub use claw::{ClawArgs, run as run_claw};
pub use ground::{JanitorArgs, tidy_up as run_janitor};
pub use plan::SimArgs;

use ground::Ground;
use plan::{Plan, Run};
use report::Outcome;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Status of what is neither a yes nor a no: something could not be read, written or started.
const STATUS_FAILED: u8 = 5;

/// `flockd sim`. The status is 1 if the run with locks lost, tore or overlapped anything, 5 if there is no verdict.
///
/// Call it from a thread that outlives it: the claws die with the thread that started them.
pub fn run(args: SimArgs) -> ExitCode {
    let plan = Plan::new(args);
    match simulate(&plan) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

fn simulate(plan: &Plan) -> Result<ExitCode, Failure> {
    let ground = Ground::prepare(plan.keep.as_deref())?;
    let outcomes = both_runs(plan, &ground);
    let cleared = ground.clear();
    let (without, with) = outcomes?;
    cleared?;
    let text =
        if plan.json { report::json(plan, &without, &with) + "\n" } else { report::table(plan, &without, &with) };
    // Whoever closed the pipe does not want to read it; the status still tells.
    let _ = anstream::stdout().write_all(text.as_bytes());
    Ok(report::status(&with))
}

fn both_runs(plan: &Plan, ground: &Ground) -> Result<(Outcome, Outcome), Failure> {
    let one = |title, run| herd::run(plan, run, ground, &report::Progress::new(title, plan.updates_in_all()));
    Ok((one("without locks", Run::without())?, one("with flockd", Run::with(plan))?))
}

/// Why there is no verdict, in a sentence.
#[derive(Debug)]
struct Failure(String);

impl Failure {
    /// Adds to an error of the file system what was tried, and where.
    fn at(verb: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
        move |error| Failure(format!("cannot {verb} {}: {error}", path.display()))
    }

    fn report(&self) -> ExitCode {
        let _ = writeln!(anstream::stderr(), "flockd sim: {self}");
        ExitCode::from(STATUS_FAILED)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// This program, to be started again in another part.
fn program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| Failure(format!("cannot find this program's own file: {error}")))
}
