//! One run: starts the claws, kills some and the daemon when it is their time, starts them again, and has the end
//! judged.

use super::claw::ClawArgs;
use super::diary::{self, Entry, Incarnation, RECORDS_PER_UPDATE};
use super::ground::{Daemon, Ground, Stage};
use super::judge::{End, Life, judge};
use super::plan::{Due, Plan, Run, schedule};
use super::report::{Outcome, Progress, Waits};
use super::writer::pause;
use super::{Failure, program};
use crate::clock::monotonic_ns;
use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How often the diaries are looked at. Far below the length of a run, far above the cost of a look.
const LOOK: Duration = Duration::from_millis(2);
/// Longest search for a claw that is amid a replacement; if none shows itself, any will do.
const SEARCH: Duration = Duration::from_millis(100);
/// Hang guard: longest time in which no claw writes anything down. A lock of a dead or silent holder is free again
/// after a minute at most.
const SILENCE: Duration = Duration::from_secs(150);
/// Hang guard: longest time that a kill may be overdue, which means that there is no daemon to be killed.
const OVERDUE: Duration = Duration::from_secs(60);

/// Does one run and judges it.
pub(super) fn run(plan: &Plan, run: Run, ground: &Ground, progress: &Progress) -> Result<Outcome, Failure> {
    let stage = ground.stage(run.name, plan.pairs)?;
    let mut herd = Herd::new(plan, run, ground, stage);
    let start = Instant::now();
    herd.work(progress)?;
    let seconds = start.elapsed().as_secs_f64();
    herd.outcome(seconds)
}

/// A claw that runs.
struct Claw {
    who: Incarnation,
    /// Updates that its earlier lives have done.
    done_before: u64,
    child: Child,
    diary: PathBuf,
}

impl Claw {
    fn done(&self) -> u64 {
        self.done_before + diary::updates_done(diary::records(&self.diary))
    }
}

/// All claws of a run, and what is still to happen to them.
struct Herd<'a> {
    plan: &'a Plan,
    run: Run,
    home: PathBuf,
    stage: Stage,
    /// In the order of their numbers; those that have ended are gone.
    claws: Vec<Claw>,
    ended: Vec<(Incarnation, End)>,
    /// Updates of the claws that have finished.
    done_by_finished: u64,
    kills: VecDeque<Due>,
    daemon_kills: VecDeque<Due>,
    last_daemon_killed: Option<u32>,
    rng: fastrand::Rng,
}

/// No claw is left behind, whatever goes wrong.
impl Drop for Herd<'_> {
    fn drop(&mut self) {
        for claw in &mut self.claws {
            // Both fail only if it has ended already.
            let _ = claw.child.kill();
            let _ = claw.child.wait();
        }
    }
}

impl<'a> Herd<'a> {
    fn new(plan: &'a Plan, run: Run, ground: &Ground, stage: Stage) -> Herd<'a> {
        let mut rng = fastrand::Rng::with_seed(plan.seed);
        let mut kills = |count| schedule(count, plan.updates_in_all(), &mut rng).into();
        Herd {
            plan,
            run,
            home: ground.home(),
            stage,
            claws: Vec::new(),
            ended: Vec::new(),
            done_by_finished: 0,
            kills: kills(run.kills),
            daemon_kills: kills(run.daemon_kills),
            last_daemon_killed: None,
            rng,
        }
    }

    /// From the first start to the last end.
    fn work(&mut self, progress: &Progress) -> Result<(), Failure> {
        let mut owed = self.owes_kills();
        if owed {
            self.stage.begin_overtime()?;
        }
        for claw in 0..self.plan.claws {
            self.start(Incarnation { claw, life: 0 }, 0)?;
        }
        let mut guard = Guard::new();
        while !self.claws.is_empty() {
            let done = self.done();
            progress.show(done, self.killed(), self.daemons_killed());
            self.kill_what_is_due(done)?;
            if owed && !self.owes_kills() {
                owed = false;
                self.stage.end_overtime()?;
            }
            self.reap()?;
            guard.check(self, done)?;
            pause(LOOK);
        }
        assert!(!self.owes_kills(), "claws work on while kills are owed");
        Ok(())
    }

    fn owes_kills(&self) -> bool {
        !self.kills.is_empty() || !self.daemon_kills.is_empty()
    }

    fn killed(&self) -> u64 {
        u64::from(self.run.kills) - self.kills.len() as u64
    }

    fn daemons_killed(&self) -> u64 {
        u64::from(self.run.daemon_kills) - self.daemon_kills.len() as u64
    }

    fn done(&self) -> u64 {
        self.done_by_finished + self.claws.iter().map(Claw::done).sum::<u64>()
    }

    fn start(&mut self, who: Incarnation, done_before: u64) -> Result<(), Failure> {
        let left = u64::from(self.plan.updates).saturating_sub(done_before);
        let args = ClawArgs {
            dir: self.stage.dir.clone(),
            parent: std::process::id(),
            who,
            seed: self.plan.seed,
            pairs: self.plan.pairs,
            updates: u32::try_from(left).expect("no more are left than were asked for"),
            think: self.plan.think,
            locks: self.run.locks,
        };
        let path = self.stage.complaints(who);
        let complaints = File::create(&path).map_err(Failure::at("create", &path))?;
        let child = Command::new(program()?)
            .args(args.command_line())
            .env("FLOCKD_HOME", &self.home)
            .env("FLOCKD_AGENT", format!("claw-{}", who.claw))
            .env_remove("FLOCKD_WORKSPACE")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(complaints)
            .spawn()
            .map_err(|error| Failure(format!("cannot start {who}: {error}")))?;
        let at = self.claws.partition_point(|claw| claw.who < who);
        self.claws.insert(at, Claw { who, done_before, child, diary: self.stage.diary(who) });
        Ok(())
    }

    fn kill_what_is_due(&mut self, done: u64) -> Result<(), Failure> {
        if let Some(due) = self.daemon_kills.front().copied().filter(|due| due.after_updates <= done)
            && let Some(daemon) = self.daemon_to_kill()
        {
            pause(Duration::from_micros(due.delay_us));
            self.last_daemon_killed = Some(daemon.pid);
            daemon.kill()?;
            self.daemon_kills.pop_front();
        }
        if let Some(due) = self.kills.front().copied().filter(|due| due.after_updates <= done) {
            self.kill_one(due)?;
            self.kills.pop_front();
        }
        Ok(())
    }

    /// None while the one that was killed last has no successor yet.
    fn daemon_to_kill(&self) -> Option<Daemon> {
        Daemon::of(&self.home).filter(|daemon| Some(daemon.pid) != self.last_daemon_killed)
    }

    /// Kills a claw and starts it again. All of them run as long as kills are owed.
    fn kill_one(&mut self, due: Due) -> Result<(), Failure> {
        let chosen = self.rng.usize(..self.claws.len());
        let index = if due.amid_writing { self.find_writer().unwrap_or(chosen) } else { chosen };
        pause(Duration::from_micros(due.delay_us));
        let mut claw = self.claws.remove(index);
        let at_ns = monotonic_ns();
        let ended = claw.child.kill().and_then(|()| claw.child.wait());
        let status = ended.map_err(|error| Failure(format!("cannot kill {}: {error}", claw.who)))?;
        if status.signal() != Some(rustix::process::Signal::KILL.as_raw()) {
            return Err(self.failed(claw.who, status));
        }
        self.ended.push((claw.who, End::Killed { at_ns }));
        let next_life = Incarnation { life: claw.who.life + 1, ..claw.who };
        self.start(next_life, claw.done())
    }

    /// Waits, busily since it is about fractions of a millisecond, for a claw between the beginning and the end of a
    /// replacement.
    fn find_writer(&self) -> Option<usize> {
        let start = Instant::now();
        while start.elapsed() < SEARCH {
            let begun = |claw: &Claw| diary::records(&claw.diary) % RECORDS_PER_UPDATE == diary::AMID_WRITING;
            if let Some(index) = self.claws.iter().position(begun) {
                return Some(index);
            }
            std::thread::yield_now();
        }
        None
    }

    /// Takes leave of the claws that have ended.
    fn reap(&mut self) -> Result<(), Failure> {
        let mut index = 0;
        while index < self.claws.len() {
            let who = self.claws[index].who;
            let ended = self.claws[index].child.try_wait();
            match ended.map_err(|error| Failure(format!("cannot wait for {who}: {error}")))? {
                None => index += 1,
                Some(status) if status.success() => {
                    let claw = self.claws.remove(index);
                    self.done_by_finished += claw.done();
                    self.ended.push((who, End::Finished));
                }
                Some(status) => return Err(self.failed(who, status)),
            }
        }
        Ok(())
    }

    /// What is known of a claw that ended by no kill of ours and not in order either.
    fn failed(&self, who: Incarnation, status: ExitStatus) -> Failure {
        let said = std::fs::read_to_string(self.stage.complaints(who)).unwrap_or_default();
        Failure(format!("{who} of the run {} the locks failed ({status}): {}", self.run.name, said.trim()))
    }

    /// Collects the evidence and has it judged.
    fn outcome(&mut self, seconds: f64) -> Result<Outcome, Failure> {
        let mut waits = Waits::new();
        let mut lives = Vec::with_capacity(self.ended.len());
        for &(who, end) in &self.ended {
            let entries = diary::read(&self.stage.diary(who))?;
            for entry in &entries {
                if let Entry::Enter { waited_ns, .. } = *entry {
                    waits.add(waited_ns);
                }
            }
            lives.push(Life { who, entries, end });
        }
        let files: Result<Vec<_>, Failure> =
            (0..self.plan.pairs).map(|number| self.stage.pair(number).read()).collect();
        let verdict = judge(&lives, &files?).map_err(|impossible| Failure(impossible.to_string()))?;
        Ok(Outcome { verdict, daemon_kills: self.daemons_killed(), seconds, waits })
    }
}

/// Ends a run that does not go on.
struct Guard {
    last_seen: u64,
    last_news: Instant,
    all_done: Option<Instant>,
}

impl Guard {
    fn new() -> Guard {
        Guard { last_seen: 0, last_news: Instant::now(), all_done: None }
    }

    fn check(&mut self, herd: &Herd<'_>, done: u64) -> Result<(), Failure> {
        if done != self.last_seen {
            (self.last_seen, self.last_news) = (done, Instant::now());
        }
        if self.last_news.elapsed() > SILENCE {
            return Err(Failure(format!("no claw has made an update for {SILENCE:?}: {}", standstill(herd))));
        }
        if done >= herd.plan.updates_in_all() && herd.owes_kills() {
            let since = self.all_done.get_or_insert_with(Instant::now);
            if since.elapsed() > OVERDUE {
                let home = herd.home.display();
                return Err(Failure(format!("no daemon that could be killed has served {home} for {OVERDUE:?}")));
            }
        }
        Ok(())
    }
}

/// What each claw wrote down last.
fn standstill(herd: &Herd<'_>) -> String {
    let last = |claw: &Claw| {
        let entries = diary::read(&claw.diary).unwrap_or_default();
        entries.last().map_or(format!("{}: nothing", claw.who), |entry| format!("{}: {entry:?}", claw.who))
    };
    herd.claws.iter().map(last).collect::<Vec<_>>().join("; ")
}
