//! One claw: a process of its own that updates pairs, under a lock or without, until it is done or killed.

use super::Failure;
use super::diary::{Diary, Entry, Incarnation};
use super::ground::Stage;
use super::plan::{Locks, Think, rng_of};
use super::writer::{Pair, update};
use crate::client::{Connect, Connection, Custodian, Launch, Place};
use crate::clock::monotonic_ns;
use crate::model::Agent;
use crate::os::home::Home;
use crate::wire::{self, Op, Request};
use clap::Args;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Flags of the hidden `flockd sim-claw`, which only the simulator calls.
#[derive(Args, Clone, Debug)]
pub struct ClawArgs {
    /// The directory of the run
    #[arg(long)]
    pub(super) dir: PathBuf,
    /// The process id of the simulator
    #[arg(long)]
    pub(super) parent: u32,
    #[arg(long)]
    pub(super) who: Incarnation,
    #[arg(long)]
    pub(super) seed: u64,
    #[arg(long)]
    pub(super) pairs: u16,
    /// How many are left for this life
    #[arg(long)]
    pub(super) updates: u32,
    #[arg(long)]
    pub(super) think: Think,
    #[arg(long)]
    pub(super) locks: Locks,
}

impl ClawArgs {
    /// The command line that is parsed as these flags.
    pub(super) fn command_line(&self) -> Vec<OsString> {
        let locks = match self.locks {
            Locks::None => "none",
            Locks::Flockd => "flockd",
        };
        vec![
            "sim-claw".into(),
            "--dir".into(),
            self.dir.clone().into(),
            format!("--parent={}", self.parent).into(),
            format!("--who={}", self.who).into(),
            format!("--seed={}", self.seed).into(),
            format!("--pairs={}", self.pairs).into(),
            format!("--updates={}", self.updates).into(),
            format!("--think={}", self.think).into(),
            format!("--locks={locks}").into(),
        ]
    }
}

/// `flockd sim-claw`: works until its updates are done and no kill is owed any more.
pub fn run(args: ClawArgs) -> ExitCode {
    match work(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn work(args: &ClawArgs) -> Result<(), Failure> {
    die_with(args.parent)?;
    let stage = Stage::at(args.dir.clone());
    let mut diary = Diary::create(&stage.diary(args.who))?;
    let mut guarded = Guarded::new(args.locks)?;
    let mut rng = rng_of(args.seed, args.who);
    for number in 1.. {
        if number > args.updates && !stage.work_goes_on() {
            break;
        }
        let pair = Pair::new(&args.dir, rng.u16(0..args.pairs));
        let think = args.think.choose(&mut rng);
        guarded.hold(&pair, &mut diary, |diary| update(&pair, args.who, number, think, diary))?;
    }
    Ok(())
}

/// Asks the kernel to kill this process when the simulator is gone, however that went: nobody is left to judge.
fn die_with(parent: u32) -> Result<(), Failure> {
    let failed = |error| Failure(format!("cannot ask to die with the simulator: {error}"));
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).map_err(failed)?;
    // It may have gone before the kernel was asked.
    if std::os::unix::process::parent_id() == parent { Ok(()) } else { Err(Failure("the simulator is gone".into())) }
}

/// The one place where the two runs differ: what stands around an update.
enum Guarded {
    None,
    Flockd(Connection),
}

impl Guarded {
    fn new(locks: Locks) -> Result<Guarded, Failure> {
        if locks == Locks::None {
            return Ok(Guarded::None);
        }
        let program = std::env::current_exe().map_err(|error| Failure(format!("our own path is unknown: {error}")))?;
        let agent = std::env::var("FLOCKD_AGENT").map_err(|error| Failure(format!("FLOCKD_AGENT: {error}")))?;
        let connect = Connect {
            home: Home::from_env().map_err(|error| Failure(error.to_string()))?,
            launch: Launch::With(program),
            agent: Some(Agent::new(&agent).map_err(|error| Failure(error.to_string()))?),
            place: Place::here().map_err(|error| Failure(error.to_string()))?,
            session: Some(Custodian::Library),
        };
        Connection::connect(connect).map(Guarded::Flockd).map_err(|error| Failure(format!("cannot connect: {error}")))
    }

    /// Does `work` inside the pair. The greeting is written after the lock is granted and the farewell before it is
    /// released, so that the time between them was certainly covered by the lock.
    fn hold(
        &mut self,
        pair: &Pair,
        diary: &mut Diary,
        work: impl FnOnce(&mut Diary) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let asked_ns = monotonic_ns();
        let lock = match self {
            Guarded::None => None,
            Guarded::Flockd(client) => Some(take(client, &pair.dir)?),
        };
        let at_ns = monotonic_ns();
        diary.append(Entry::Enter { pair: pair.number, at_ns, waited_ns: at_ns - asked_ns })?;
        work(diary)?;
        diary.append(Entry::Leave { pair: pair.number, at_ns: monotonic_ns() })?;
        if let (Guarded::Flockd(client), Some(lock)) = (self, lock) {
            // Waits for the answer: a lock that was lost on the way must not go unnoticed.
            client.unlock(&lock).map_err(|error| Failure(format!("{lock} was not ours to release: {error}")))?;
        }
        Ok(())
    }
}

/// Takes the lock on the directory of a pair, however long that takes; its id.
fn take(client: &Connection, dir: &Path) -> Result<String, Failure> {
    let request = Request {
        scope: Some(format!("{}/", wire::escape(dir.as_os_str().as_bytes()))),
        ttl_ms: Some(0),
        ..Request::new(Op::Lock)
    };
    let body = client.lock(request).map_err(|error| Failure(format!("no answer about {}: {error}", dir.display())))?;
    match body.lock_id {
        Some(id) if body.acquired => Ok(id),
        _ => Err(Failure(format!("{} was refused: {:?} {:?}", dir.display(), body.code, body.advice))),
    }
}
