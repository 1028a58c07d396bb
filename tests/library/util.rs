//! What these tests share: a coordinator in a directory of its own, the program, and waiting for events.

use flockd::{Coordinator, Session};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A coordinator in this process, its home, and a directory to lock files in.
pub struct Ground {
    pub coordinator: Coordinator,
    pub dirs: Dirs,
}

/// A home and a workspace that go away together.
pub struct Dirs {
    kept: TempDir,
}

impl Dirs {
    pub fn new() -> Dirs {
        // In a place without links, so that paths are as they are answered.
        let kept = TempDir::new_in("/tmp").unwrap();
        std::fs::create_dir(kept.path().join("work")).unwrap();
        Dirs { kept }
    }

    pub fn home(&self) -> PathBuf {
        self.kept.path().join("home")
    }

    pub fn work(&self) -> PathBuf {
        self.kept.path().join("work")
    }

    /// The program, asked about this home from the workspace.
    pub fn flockd(&self, args: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flockd"));
        command.args(args.split_whitespace()).env("FLOCKD_HOME", self.home()).current_dir(self.work());
        command.env_remove("FLOCKD_AGENT").env_remove("FLOCKD_WORKSPACE").env("FLOCKD_AGENT_PROGRAMS", "");
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// What the program says in JSON.
    pub fn json(&self, args: &str) -> serde_json::Value {
        let output = self.flockd(&format!("{args} --json"));
        let text = String::from_utf8(output.stdout).unwrap();
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{error}: {text:?}, {}", String::from_utf8_lossy(&output.stderr)))
    }
}

impl Ground {
    pub fn new() -> Ground {
        let dirs = Dirs::new();
        Ground { coordinator: Coordinator::open(dirs.home()).unwrap(), dirs }
    }

    pub fn agent(&self, name: &str) -> Session {
        self.coordinator.agent(name).unwrap()
    }

    /// Waits until so many requests wait.
    pub fn until_waiting(&self, count: usize) {
        wait_until("the requests wait", || self.coordinator.client().status().unwrap().waiters.len() == count);
    }
}

/// Waits for what must come; the guard is no measurement.
#[expect(clippy::disallowed_methods, reason = "bounded: a queue at the other end of a socket gives no event")]
pub fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain until {what}");
        // bounded back-off: until the hang guard above
        std::thread::sleep(Duration::from_millis(2));
    }
}
