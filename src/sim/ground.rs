//! Where the simulation takes place: its directory, its own daemon, and the janitor that clears both away.

use super::Failure;
use super::diary::Incarnation;
use super::writer::Pair;
use clap::Args;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::time::Timespec;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

/// How long the daemon may take to stop in order before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// The directory of a simulation. A janitor clears it away when this process is gone, by whatever way: it has a
/// process group of its own, so Ctrl-C does not reach it, and it waits for the end of a pipe that only we hold.
pub(super) struct Ground {
    dir: PathBuf,
    janitor: Child,
}

impl Ground {
    /// Makes the directory: a fresh temporary one, or the one to keep.
    pub(super) fn prepare(keep: Option<&Path>) -> Result<Ground, Failure> {
        let dir = match keep {
            Some(dir) => empty_directory(dir)?,
            None => {
                let made = tempfile::Builder::new().prefix("flockd-sim-").tempdir();
                made.map_err(Failure::at("create a directory in", &std::env::temp_dir()))?.keep()
            }
        };
        let spawned = spawn_janitor(&dir, keep.is_some());
        if spawned.is_err() && keep.is_none() {
            // Nobody else will; it is empty still.
            let _ = fs::remove_dir(&dir);
        }
        Ok(Ground { janitor: spawned?, dir })
    }

    /// The home of the simulation's own daemon.
    pub(super) fn home(&self) -> PathBuf {
        home_in(&self.dir)
    }

    /// Makes the directory of one run, with its pairs in it.
    pub(super) fn stage(&self, name: &str, pairs: u16) -> Result<Stage, Failure> {
        let stage = Stage::at(self.dir.join(name));
        for dir in [stage.dir.clone(), stage.dir.join(DIARIES)] {
            fs::create_dir(&dir).map_err(Failure::at("create", &dir))?;
        }
        for number in 0..pairs {
            stage.pair(number).create()?;
        }
        Ok(stage)
    }

    /// Lets the janitor do its work and waits for it.
    pub(super) fn clear(mut self) -> Result<(), Failure> {
        drop(self.janitor.stdin.take());
        let status = self.janitor.wait().map_err(|error| Failure(format!("cannot wait for the janitor: {error}")))?;
        let left = || Failure(format!("the simulation could not be cleared away; see {}", self.dir.display()));
        if status.success() { Ok(()) } else { Err(left()) }
    }
}

fn home_in(dir: &Path) -> PathBuf {
    dir.join("home")
}

/// Makes `dir` or finds it empty; answers its absolute path.
fn empty_directory(dir: &Path) -> Result<PathBuf, Failure> {
    fs::create_dir_all(dir).map_err(Failure::at("create", dir))?;
    let mut entries = fs::read_dir(dir).map_err(Failure::at("read", dir))?;
    if entries.next().is_some() {
        return Err(Failure(format!("{} is not empty: name a directory to be made for --keep", dir.display())));
    }
    std::path::absolute(dir).map_err(Failure::at("find", dir))
}

const DIARIES: &str = "diaries";

/// The directory of one run.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    pub dir: PathBuf,
}

impl Stage {
    pub(super) fn at(dir: PathBuf) -> Stage {
        Stage { dir }
    }

    pub(super) fn pair(&self, number: u16) -> Pair {
        Pair::new(&self.dir, number)
    }

    pub(super) fn diary(&self, who: Incarnation) -> PathBuf {
        self.dir.join(DIARIES).join(who.to_string())
    }

    /// Where a claw's standard error goes: it is shown if the claw fails.
    pub(super) fn complaints(&self, who: Incarnation) -> PathBuf {
        self.dir.join(DIARIES).join(format!("{who}.stderr"))
    }

    fn unfinished(&self) -> PathBuf {
        self.dir.join("kills-are-owed")
    }

    /// From now on nobody stops working, even when its updates are done: a claw that is gone can not be killed.
    pub(super) fn begin_overtime(&self) -> Result<(), Failure> {
        let path = self.unfinished();
        fs::write(&path, "").map_err(Failure::at("create", &path))
    }

    pub(super) fn end_overtime(&self) -> Result<(), Failure> {
        let path = self.unfinished();
        fs::remove_file(&path).map_err(Failure::at("remove", &path))
    }

    /// Whether a claw works on although its updates are done.
    pub(super) fn work_goes_on(&self) -> bool {
        self.unfinished().exists()
    }
}

/// The daemon of a home, held by a descriptor of the process, so that no other process is ever hit.
pub(super) struct Daemon {
    pub pid: u32,
    process: OwnedFd,
}

impl Daemon {
    /// The daemon that serves `home`, if it is alive.
    pub(super) fn of(home: &Path) -> Option<Daemon> {
        let pid = daemon_pid(home)?;
        let raw = Pid::from_raw(i32::try_from(pid).ok()?)?;
        let process = pidfd_open(raw, PidfdFlags::empty()).ok()?;
        // The number outlives its process in the file, and may belong to anybody by now.
        (is_this_program(pid) && daemon_pid(home) == Some(pid)).then_some(Daemon { pid, process })
    }

    /// `kill -9`; returns when the process is gone.
    pub(super) fn kill(self) -> Result<(), Failure> {
        self.signal(Signal::KILL)?;
        if self.is_gone_within(STOP_WITHIN)? { Ok(()) } else { Err(Failure(format!("{} survived kill -9", self.pid))) }
    }

    /// Asks it to stop, then makes it.
    fn stop(self) -> Result<(), Failure> {
        self.signal(Signal::TERM)?;
        if self.is_gone_within(STOP_WITHIN)? { Ok(()) } else { self.kill() }
    }

    fn signal(&self, signal: Signal) -> Result<(), Failure> {
        match pidfd_send_signal(&self.process, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(Failure(format!("cannot signal the daemon with the pid {}: {error}", self.pid))),
        }
    }

    fn is_gone_within(&self, time: Duration) -> Result<bool, Failure> {
        let limit = Timespec::try_from(time).expect("some seconds fit in a Timespec");
        let mut ended = [PollFd::new(&self.process, PollFlags::IN)];
        let ready = rustix::io::retry_on_intr(|| poll(&mut ended, Some(&limit)));
        ready.map(|count| count > 0).map_err(|error| Failure(format!("cannot wait for the daemon to end: {error}")))
    }
}

/// The pid that stands in the lock file of a home. It stays there when the daemon is killed.
fn daemon_pid(home: &Path) -> Option<u32> {
    fs::read_to_string(home.join("daemon.lock")).ok()?.split_whitespace().next()?.parse().ok()
}

/// Whether the process runs the same executable file as this one.
fn is_this_program(pid: u32) -> bool {
    let file =
        |process: &str| fs::metadata(format!("/proc/{process}/exe")).map(|about| (about.dev(), about.ino())).ok();
    let ours = file("self");
    ours.is_some() && ours == file(&pid.to_string())
}

/// Flags of the hidden `flockd sim-janitor`, which only the simulator calls.
#[derive(Args, Clone, Debug)]
pub struct JanitorArgs {
    #[arg(long)]
    dir: PathBuf,
    /// Stop the daemon, but leave the files
    #[arg(long)]
    keep: bool,
}

fn spawn_janitor(dir: &Path, keep: bool) -> Result<Child, Failure> {
    let mut command = Command::new(super::program()?);
    command.arg("sim-janitor").arg("--dir").arg(dir);
    if keep {
        command.arg("--keep");
    }
    command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
    command.spawn().map_err(|error| Failure(format!("cannot start the janitor: {error}")))
}

/// `flockd sim-janitor`: waits until the simulator is gone or lets go, then stops its daemon and removes its files.
pub fn tidy_up(args: JanitorArgs) -> ExitCode {
    // An error means that nobody holds the other end any more, just as the end does.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    match clear_away(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn clear_away(args: &JanitorArgs) -> Result<(), Failure> {
    // Claws die with the simulator, but one of them may just have started another daemon.
    for _ in 0..ROUNDS {
        while let Some(daemon) = Daemon::of(&home_in(&args.dir)) {
            daemon.stop()?;
        }
        if !args.keep && args.dir.exists() {
            // A process that is about to die can still add a file; the next round finds it.
            let _ = fs::remove_dir_all(&args.dir);
        }
        super::writer::pause(BETWEEN_ROUNDS);
    }
    if args.keep || !args.dir.exists() {
        Ok(())
    } else {
        fs::remove_dir_all(&args.dir).map_err(Failure::at("remove", &args.dir))
    }
}

/// A killed process is gone in far less than these rounds take together.
const ROUNDS: u32 = 3;
const BETWEEN_ROUNDS: Duration = Duration::from_millis(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_of_another_program_is_no_daemon_of_ours() {
        let home = tempfile::tempdir().unwrap();
        let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(Daemon::of(home.path()).is_none(), "no lock file");
        fs::write(home.path().join("daemon.lock"), format!("{}\n", stranger.id())).unwrap();
        assert_eq!(daemon_pid(home.path()), Some(stranger.id()));
        assert!(Daemon::of(home.path()).is_none());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }

    #[test]
    fn a_directory_to_keep_must_be_empty() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(empty_directory(&dir.path().join("a/b")).unwrap(), dir.path().join("a/b"));
        assert!(empty_directory(dir.path()).unwrap_err().to_string().contains("not empty"));
    }
}
