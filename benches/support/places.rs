//! The ground of a measurement: directories on a real disk, daemons, and the processes that use them.

use super::workers::{ROLE, pause};
use flockd::Client;
use flockd::clock::monotonic_ns;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use tempfile::TempDir;

/// The program that is measured.
pub const FLOCKD: &str = env!("CARGO_BIN_EXE_flockd");

/// As long as anything may take to be ready.
const READY_WITHIN: u64 = 30_000_000_000;

/// A directory with files to lock and room for homes and logs, on the disk that the program was built on: what is
/// synced in memory costs nothing.
pub struct Ground {
    kept: TempDir,
}

impl Ground {
    pub fn new(files: usize) -> Ground {
        let kept = tempfile::Builder::new().prefix("b").tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let ground = Ground { kept };
        std::fs::create_dir(ground.work()).expect("a new directory");
        for number in 0..files {
            std::fs::write(ground.work().join(format!("f{number}")), "").expect("a new file");
        }
        ground
    }

    /// Where `f0`, `f1`, … are.
    pub fn work(&self) -> PathBuf {
        self.kept.path().join("w")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.kept.path().join(name)
    }

    /// The path of a name, as an argument.
    pub fn word(&self, name: &str) -> String {
        self.path(name).into_os_string().into_string().expect("a path that we chose")
    }
}

/// What is started while this lives stays on one CPU, as this thread does.
pub struct Pinned {
    before: CpuSet,
}

impl Pinned {
    /// The first CPU that this process may use.
    pub fn to_one() -> Pinned {
        let before = sched_getaffinity(None).expect("a process has CPUs");
        let first = (0..CpuSet::MAX_CPU).find(|&cpu| before.is_set(cpu)).expect("a process has a CPU");
        let mut one = CpuSet::new();
        one.set(first);
        sched_setaffinity(None, &one).expect("a CPU that this process may use");
        Pinned { before }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        sched_setaffinity(None, &self.before).expect("as it was before");
    }
}

/// A process that ends with its handle.
pub struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Running {
        Running(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Kills it, and tells when.
    pub fn kill(&mut self) -> u64 {
        let at = monotonic_ns();
        self.0.kill().expect("it runs");
        at
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until_ready(what: &str, mut is_ready: impl FnMut() -> bool) {
    let begun = monotonic_ns();
    while !is_ready() {
        assert!(monotonic_ns() - begun < READY_WITHIN, "{what} is not ready");
        pause(1);
    }
}

/// A flockd in the foreground on this home, ready.
pub fn daemon(home: &Path) -> Running {
    let mut command = Command::new(FLOCKD);
    let running = Running::start(command.args(["daemon", "run"]).env("FLOCKD_HOME", home).stderr(Stdio::null()));
    until_ready("the daemon", || Client::builder().home(home).start_nothing().connect().is_ok());
    running
}

/// The bare daemon, ready; `keeping` is `written` or `synced`.
pub fn bare(ground: &Ground, keeping: &str) -> (Running, String) {
    let (socket, log) = (ground.word(&format!("{keeping}.sock")), ground.word(&format!("{keeping}.log")));
    let running = Running::start(this_program(&["bare", &socket, &log, keeping]).stdin(Stdio::null()));
    until_ready("the bare daemon", || UnixStream::connect(&socket).is_ok());
    (running, socket)
}

fn this_program(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a running program has a file"));
    command.arg(ROLE).args(words);
    command
}

/// A process that does what it is told by lines.
pub struct Worker {
    pub process: Running,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts this program again, with these words as its role.
    pub fn start(words: &[&str]) -> Worker {
        let mut process = Running::start(this_program(words).stdin(Stdio::piped()).stdout(Stdio::piped()));
        let orders = process.0.stdin.take().expect("it is piped");
        let answers = BufReader::new(process.0.stdout.take().expect("it is piped"));
        Worker { process, orders, answers }
    }

    /// Tells it what to do.
    pub fn tell(&mut self, order: &str) {
        writeln!(self.orders, "{order}").expect("the worker reads");
    }

    /// Waits for what came of it: one number or many.
    pub fn hear(&mut self) -> Vec<u64> {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the worker answers");
        assert!(line.ends_with('\n'), "a worker ended");
        line.split_whitespace().map(|word| word.parse().expect("a number")).collect()
    }

    pub fn ask(&mut self, order: &str) -> Vec<u64> {
        self.tell(order);
        self.hear()
    }

    pub fn ask_one(&mut self, order: &str) -> u64 {
        self.ask(order)[0]
    }
}
