//! The foreign programs: flock(1), Python's `fcntl.flock` and Rust's `File::lock`, each trying and holding.

use crate::util::{Ending, until};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// How a foreign program locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Shared,
    Exclusive,
}

pub const BOTH: [How; 2] = [How::Shared, How::Exclusive];

impl How {
    /// Whether two go together.
    pub fn fits(self, other: How) -> bool {
        self == How::Shared && other == How::Shared
    }

    /// The flag of `flockd lock`.
    pub fn flag(self) -> &'static str {
        match self {
            How::Shared => "-s",
            How::Exclusive => "",
        }
    }
}

/// A program that asks nobody but the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Flock,
    Python,
    Rust,
}

/// Those that this machine has; Rust's is this test itself.
pub fn programs() -> Vec<Program> {
    let has = |name: &str, arg: &str| Command::new(name).arg(arg).output().is_ok_and(|done| done.status.success());
    let mut all = vec![Program::Rust];
    if has("flock", "--version") {
        all.push(Program::Flock);
    } else {
        println!("left out: this machine has no flock(1) of util-linux");
    }
    if has("python3", "--version") {
        all.push(Program::Python);
    } else {
        println!("left out: this machine has no python3");
    }
    all
}

const PYTHON_TRY: &str = "
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
try:
    fcntl.flock(fd, fcntl.LOCK_NB | (fcntl.LOCK_SH if sys.argv[2] == '-s' else fcntl.LOCK_EX))
except BlockingIOError:
    sys.exit(1)
";

const PYTHON_HOLD: &str = "
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(fd, fcntl.LOCK_SH if sys.argv[2] == '-s' else fcntl.LOCK_EX)
print('held', flush=True)
sys.stdin.read()
";

impl Program {
    /// Whether it gets the file at once.
    pub fn gets(self, path: &Path, how: How) -> bool {
        let flag = if how == How::Shared { "-s" } else { "-x" };
        let status = match self {
            Program::Rust => {
                let file = File::open(path).unwrap();
                let tried = if how == How::Shared { file.try_lock_shared() } else { file.try_lock() };
                return tried.is_ok();
            }
            Program::Flock => Command::new("flock").args(["-n", flag]).arg(path).arg("true").status(),
            Program::Python => Command::new("python3").args(["-c", PYTHON_TRY]).arg(path).arg(flag).status(),
        };
        let code = status.unwrap().code();
        assert!(matches!(code, Some(0 | 1)), "{self:?} failed otherwise: {code:?}");
        code == Some(0)
    }

    /// Gets the file, waiting if need be, and says so on its stdout; it holds it until its stdin is closed.
    pub fn ask(self, path: &Path, how: How) -> Foreigner {
        let flag = if how == How::Shared { "-s" } else { "-x" };
        let mut command = match self {
            Program::Rust => {
                let file = File::open(path).unwrap();
                if how == How::Shared {
                    file.lock_shared().unwrap()
                } else {
                    file.lock().unwrap()
                }
                return Foreigner { file: Some(file), child: None };
            }
            Program::Flock => {
                let mut command = Command::new("flock");
                command.arg(flag).arg(path).args(["sh", "-c", "echo held; exec cat"]);
                command
            }
            Program::Python => {
                let mut command = Command::new("python3");
                command.args(["-c", PYTHON_HOLD]).arg(path).arg(flag);
                command
            }
        };
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        Foreigner { file: None, child: Some(child) }
    }

    /// The same, and waits until it has it.
    pub fn hold(self, path: &Path, how: How) -> Foreigner {
        let mut foreigner = self.ask(path, how);
        foreigner.granted();
        foreigner
    }
}

/// A foreign program that holds a file, or waits for it.
pub struct Foreigner {
    file: Option<File>,
    child: Option<Child>,
}

impl Foreigner {
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or_else(std::process::id, Child::id)
    }

    /// As the kernel calls it.
    pub fn command(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/comm", self.pid())).unwrap().trim_end().to_owned()
    }

    /// Waits until it has the file.
    pub fn granted(&mut self) {
        let Some(child) = &mut self.child else { return };
        let mut word = [0; 5];
        child.stdout.as_mut().unwrap().read_exact(&mut word).unwrap();
        assert_eq!(&word, b"held\n");
    }

    /// Waits until the kernel lists it as waiting.
    pub fn until_waiting(&self) {
        let pid = self.pid().to_string();
        until("the foreign program waits", || {
            let table = std::fs::read_to_string("/proc/locks").unwrap();
            let waits = |line: &str| line.contains("-> FLOCK") && line.split_ascii_whitespace().any(|word| word == pid);
            table.lines().any(waits).then_some(())
        });
    }

    /// Lets the file go and waits until it has.
    pub fn let_go(mut self) {
        self.file = None;
        if let Some(child) = &mut self.child {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        let child = self.child.as_mut().expect("it is a process");
        let ending = Ending::of(child.id());
        child.kill().unwrap();
        ending.wait();
    }
}

impl Drop for Foreigner {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Ended already is as good. Its input goes first: what it started ends with that.
            drop(child.stdin.take());
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
