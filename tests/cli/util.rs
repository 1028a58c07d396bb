//! A home, a working directory and a daemon of one's own for each test, and what tests do with them. The tests of the
//! socket use it as well.

use flockd::client::{Connect, Connection, Custodian, Launch, Place};
use flockd::model::Agent;
use flockd::wire::{Body, DaemonBody, LockBody, Mode, Op, Request, StatusBody};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The program under test.
pub const FLOCKD: &str = env!("CARGO_BIN_EXE_flockd");

/// What never comes is given up after this long; nothing here is measured by it.
const GUARD: Duration = Duration::from_secs(120);

/// How much more than in CI the repeated tests do.
pub fn scaled(times: u64) -> u64 {
    let scale = std::env::var("FLOCKD_SCALE").map_or(1.0, |scale| scale.parse().expect("FLOCKD_SCALE is a number"));
    ((times as f64 * scale) as u64).max(1)
}

/// Asks again and again until there is an answer. Only for what other processes do without telling anybody.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < GUARD, "waited in vain until {what}");
        // bounded back-off: 1 ms growing to 20 ms, for GUARD at most
        #[expect(clippy::disallowed_methods, reason = "bounded back-off: other processes tell us nothing")]
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Sets a flag when it is dropped: whatever fails meanwhile, those who look at the flag come to an end.
pub struct StopAtEnd<'a>(pub &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A process that is to end. Taken while it lives, or just after: its number could be somebody else's later.
pub struct Ending(Option<rustix::fd::OwnedFd>);

impl Ending {
    pub fn of(pid: u32) -> Ending {
        match pidfd_open(pid_of(pid), PidfdFlags::empty()) {
            Ok(pidfd) => Ending(Some(pidfd)),
            Err(rustix::io::Errno::SRCH) => Ending(None),
            Err(error) => panic!("no pidfd of process {pid}: {error}"),
        }
    }

    /// Waits until it is dead.
    pub fn wait(self) {
        let within = Timespec { tv_sec: GUARD.as_secs() as i64, tv_nsec: 0 };
        let Some(pidfd) = self.0 else { return };
        let mut polled = [PollFd::new(&pidfd, PollFlags::IN)];
        let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&within))).unwrap();
        assert_eq!(ready, 1, "the process does not end");
    }
}

fn pid_of(pid: u32) -> Pid {
    Pid::from_raw(pid as i32).expect("no process has number 0")
}

pub fn signal(pid: u32, signal: Signal) {
    kill_process(pid_of(pid), signal).expect("the process is ours and lives");
}

/// `kill -9`, and waits until it is dead.
pub fn kill_9(pid: u32) {
    let ending = Ending::of(pid);
    signal(pid, Signal::KILL);
    ending.wait();
}

// ── Ground ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Where a test takes place. When it is over, however it ends, no process of it is left.
pub struct Ground {
    _tmp: TempDir,
    pub home: PathBuf,
    pub work: PathBuf,
}

impl Ground {
    pub fn new() -> Ground {
        let tmp = tempfile::Builder::new().prefix("fl").tempdir().unwrap();
        let (home, work) = (tmp.path().join("h"), tmp.path().join("w"));
        fs::create_dir(&work).unwrap();
        Ground { _tmp: tmp, home, work }
    }

    /// The program in the name of `agent`, or of nobody if that is empty.
    pub fn command(&self, agent: &str, args: &[&str]) -> Command {
        self.environment(Command::new(FLOCKD), agent, args)
    }

    /// `program` with this home, in this working directory, and with nothing of what surrounds the test.
    pub fn environment(&self, mut program: Command, agent: &str, args: &[&str]) -> Command {
        program.args(args).current_dir(&self.work).stdin(Stdio::null());
        program.env("FLOCKD_HOME", &self.home).env("FLOCKD_WORKSPACE", &self.work);
        program.env_remove("FLOCKD_AGENT").env_remove("FLOCKD_RUN_LOCKS").env("FLOCKD_AGENT_PROGRAMS", "");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().ends_with("_SESSION_ID")) {
            program.env_remove(name);
        }
        if !agent.is_empty() {
            program.env("FLOCKD_AGENT", agent);
        }
        program
    }

    /// Runs the program to its end; `args` are separated by blanks.
    pub fn flockd(&self, agent: &str, args: &str) -> Done {
        let args: Vec<&str> = args.split_whitespace().collect();
        Done::of(self.command(agent, &args))
    }

    /// A client in this process, which starts the daemon if it is gone.
    pub fn client(&self, agent: &str, session: Option<Custodian>) -> Connection {
        let path = |path: &Path| path.as_os_str().as_bytes().to_vec();
        let connect = Connect {
            home: flockd::os::home::Home::at(&self.home),
            launch: Launch::With(FLOCKD.into()),
            agent: Some(agent).filter(|agent| !agent.is_empty()).map(|agent| Agent::new(agent).unwrap()),
            place: Place { cwd: path(&self.work), workspace: path(&self.work), config: None },
            session,
        };
        Connection::connect(connect).unwrap()
    }

    /// All locks and waiting requests.
    pub fn status(&self) -> StatusBody {
        match self.client("", None).call(Request::new(Op::Status)).unwrap().ok {
            Some(Body::Status(body)) => body,
            other => panic!("{other:?}"),
        }
    }

    pub fn daemon_status(&self) -> DaemonBody {
        match self.client("", None).call(Request::new(Op::Daemon)).unwrap().ok {
            Some(Body::Daemon(body)) => body,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until exactly these agents wait, in the order of arrival.
    pub fn until_waiting(&self, agents: &[&str]) {
        until(&format!("{agents:?} wait"), || {
            let waiters = self.status().waiters;
            let waiting = waiters.iter().filter(|waiter| !waiter.absent).map(|waiter| waiter.agent.as_str());
            waiting.eq(agents.iter().copied()).then_some(())
        });
    }

    /// The process that serves this home, as written in its lock file.
    pub fn daemon_pid(&self) -> u32 {
        fs::read_to_string(self.home.join("daemon.lock")).unwrap().trim().parse().unwrap()
    }

    pub fn kill_daemon(&self) {
        kill_9(self.daemon_pid());
    }

    /// Ends the daemon in order and waits until its process is gone.
    pub fn stop_daemon(&self) {
        let ending = Ending::of(self.daemon_pid());
        self.flockd("", "daemon stop").gives(0);
        ending.wait();
    }

    pub fn daemon_log(&self) -> String {
        fs::read_to_string(self.home.join("daemon.log")).unwrap_or_default()
    }

    /// Takes the lock by a `flockd run` whose command stays, and waits until it has it.
    pub fn hold(&self, agent: &str, args: &str) -> Held {
        let mut held = self.queue(agent, args);
        held.granted();
        held
    }

    /// The same without waiting.
    pub fn queue(&self, agent: &str, args: &str) -> Held {
        self.script(agent, args, "echo $$; read line; exit 0")
    }

    /// The same with a command of one's own, whose first line is its process.
    pub fn script(&self, agent: &str, args: &str, script: &str) -> Held {
        let mut all = vec!["run"];
        all.extend(args.split_whitespace());
        all.extend(["--", "sh", "-c", script]);
        let mut command = self.command(agent, &all);
        let mut run = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (stdin, out) = (run.stdin.take(), BufReader::new(run.stdout.take().unwrap()));
        Held { run, stdin, out, command: None }
    }

    /// Processes of this ground, by the home in their environment.
    pub fn processes(&self) -> Vec<u32> {
        let needle = [b"FLOCKD_HOME=", self.home.as_os_str().as_bytes(), b"\0"].concat();
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let ours = |pid: &u32| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.windows(needle.len()).any(|window| window == needle)
        };
        pids.filter(|pid| *pid != std::process::id()).filter(ours).collect()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // A client that is being killed may just start a daemon: once more, until there is nobody.
        for _ in 0..100 {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            for pid in left {
                let Ending(Some(pidfd)) = Ending::of(pid) else { continue };
                // Dead already is as good.
                let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
                Ending(Some(pidfd)).wait();
            }
        }
    }
}

// ── What a program came to ──────────────────────────────────────────────────────────────────────────────────────────

/// A program that has ended.
#[derive(Debug)]
pub struct Done {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Done {
    pub fn of(mut command: Command) -> Done {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Done { code: status.code(), out: text(stdout), err: text(stderr) }
    }

    /// Asserts the exit status.
    #[track_caller]
    pub fn gives(self, code: i32) -> Done {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// Asserts that stderr has all of these.
    #[track_caller]
    pub fn says(self, texts: &[&str]) -> Done {
        for text in texts {
            assert!(self.err.contains(text), "{text:?} is not in {self:?}");
        }
        self
    }

    /// The one JSON document on stdout.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A `flockd run` whose command stays until its input is closed.
pub struct Held {
    pub run: Child,
    stdin: Option<ChildStdin>,
    out: BufReader<std::process::ChildStdout>,
    command: Option<u32>,
}

impl Held {
    /// Waits until the command runs.
    pub fn granted(&mut self) {
        let mut line = String::new();
        let within = Timespec { tv_sec: GUARD.as_secs() as i64, tv_nsec: 0 };
        let mut polled = [PollFd::new(self.out.get_ref(), PollFlags::IN)];
        let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&within)));
        assert_eq!(ready, Ok(1), "the command was waited for in vain");
        self.out.read_line(&mut line).unwrap();
        self.command = line.trim().parse().ok();
        assert!(self.command.is_some(), "{line:?}, {}", self.rest_of_stderr());
    }

    /// The process of the command, once it runs.
    pub fn command(&self) -> u32 {
        self.command.expect("it was granted")
    }

    /// Lets the command end.
    pub fn let_go(&mut self) {
        self.stdin = None;
    }

    /// Lets the command end and waits for `run`; its exit status.
    pub fn end(mut self) -> Option<i32> {
        self.let_go();
        self.run.wait().unwrap().code()
    }

    /// Waits for the end of `run`; what it wrote after the first line.
    pub fn done(mut self) -> Done {
        let mut out = String::new();
        self.out.read_to_string(&mut out).unwrap();
        let err = self.rest_of_stderr();
        Done { code: self.run.wait().unwrap().code(), out, err }
    }

    fn rest_of_stderr(&mut self) -> String {
        self.run.stderr.take().map(|err| std::io::read_to_string(err).unwrap()).unwrap_or_default()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Dead already is as good; a zombie would stay for as long as the test program runs.
        let _ = self.run.kill();
        let _ = self.run.wait();
    }
}

// ── Requests ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A request for an exclusive lock that waits for ever.
pub fn exclusive(scope: &str, ttl_ms: u64) -> Request {
    Request { scope: Some(scope.to_owned()), ttl_ms: Some(ttl_ms), ..Request::new(Op::Lock) }
}

/// The same for a shared one.
pub fn shared(scope: &str, ttl_ms: u64) -> Request {
    Request { mode: Some(Mode::Shared), ..exclusive(scope, ttl_ms) }
}

/// The same without waiting.
pub fn a_try(request: Request) -> Request {
    Request { wait_ms: Some(0), ..request }
}

/// Takes a lock that must be granted: its id and fence.
#[track_caller]
pub fn take(client: &Connection, request: Request) -> (String, u64) {
    match client.lock(request).unwrap() {
        LockBody { acquired: true, lock_id: Some(id), fence: Some(fence), .. } => (id, fence),
        other => panic!("{other:?}"),
    }
}
