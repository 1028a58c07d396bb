//! `flockd sim` as its user runs it: real claws, real kills, and nothing left behind.
#![cfg(feature = "cli")]

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A simulation whose directory is made in `tmp`.
fn sim(tmp: &Path, flags: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flockd"));
    command.arg("sim").args(flags.split_whitespace()).env("TMPDIR", tmp).stdin(Stdio::null());
    command
}

fn document(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{error}: {text:?}, status {:?}, {}", output.status, String::from_utf8_lossy(&output.stderr))
    })
}

/// Waits for what must come; the guard is no measurement.
fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < Duration::from_secs(120), "waited in vain until {what}");
        // bounded back-off: 5 ms, for two minutes at most
        #[expect(clippy::disallowed_methods, reason = "bounded back-off: other processes tell us nothing")]
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).map_or(Vec::new(), |entries| entries.flatten().map(|entry| entry.path()).collect())
}

/// Processes that have this path in their command line or environment: claws, janitor and daemon all do.
fn processes_of(dir: &Path) -> Vec<String> {
    let needle = dir.to_str().unwrap();
    let mentions = |process: &Path, file| {
        fs::read(process.join(file)).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(needle))
    };
    let found = entries(Path::new("/proc")).into_iter();
    found
        .filter(|process| mentions(process, "cmdline") || mentions(process, "environ"))
        .map(|process| process.display().to_string())
        .collect()
}

#[test]
fn the_run_without_locks_loses_and_the_run_with_locks_does_not_whatever_is_killed() {
    let tmp = TempDir::new().unwrap();
    let flags = "--claws 6 --pairs 2 --updates 60 --kills 9 --daemon-kills 2 --seed 1 --json";
    let output = sim(tmp.path(), flags).output().unwrap();
    let document = document(&output);
    let (without, with) = (&document["without"], &document["with"]);
    assert!(without["lost"].as_u64() > Some(0), "{document}");
    assert!(without["overlaps"].as_u64() > Some(0), "{document}");
    assert_eq!(without["updates"], 360);
    for name in ["kills", "daemon_kills", "unknown"] {
        assert_eq!(without[name], 0, "{name}");
    }
    for name in ["lost", "torn", "overlaps"] {
        assert_eq!(with[name], 0, "{name}: {document}");
    }
    assert_eq!((&with["kills"], &with["daemon_kills"]), (&9.into(), &2.into()));
    assert!(with["updates"].as_u64().unwrap() + with["unknown"].as_u64().unwrap() >= 360, "{document}");
    assert!(with["wait_ms"]["max"].as_f64() > Some(0.0), "{document}");
    assert!(output.status.success());
    assert_eq!(entries(tmp.path()), [] as [PathBuf; 0]);
}

/// What `flockd sim` claims for itself: with its defaults it kills at least twenty claws and three daemons.
#[test]
fn with_its_defaults_it_shows_losses_without_locks_and_none_with_them() {
    let tmp = TempDir::new().unwrap();
    let kept = tmp.path().join("kept");
    let output = sim(tmp.path(), &format!("--json --keep {}", kept.display())).output().unwrap();
    let document = document(&output);
    assert_eq!(output.status.code(), Some(0), "{document}");
    let count = |run: &str, name: &str| document[run][name].as_u64().unwrap();
    for name in ["lost", "torn", "overlaps"] {
        assert!(count("without", name) > 0, "{name}: {document}");
        assert_eq!(count("with", name), 0, "{name}: {document}");
    }
    assert!(count("with", "kills") >= 20 && count("with", "daemon_kills") >= 3, "{document}");
    assert!(count("with", "updates") > 1_000, "{document}");
    // The log of the daemons tells how many there were, and that only the last one ended in order.
    let log = fs::read_to_string(kept.join("home/daemon.log")).unwrap();
    assert_eq!(log.matches("serves as process").count() as u64, count("with", "daemon_kills") + 1, "{log}");
    assert_eq!(log.matches("ended: it was told to stop").count(), 1, "{log}");
}

#[test]
fn a_second_run_whose_locks_are_left_out_is_found_guilty() {
    let tmp = TempDir::new().unwrap();
    let flags = "--claws 6 --pairs 1 --updates 60 --kills 6 --daemon-kills 0 --sabotage --json";
    let output = sim(tmp.path(), flags).output().unwrap();
    let document = document(&output);
    assert_eq!(output.status.code(), Some(1), "{document}");
    for name in ["lost", "overlaps"] {
        assert!(document["with"][name].as_u64() > Some(0), "{name}: {document}");
    }
    assert_eq!(document["with"]["kills"], 6);
}

#[test]
fn every_kill_is_made_even_when_there_is_hardly_any_work() {
    let tmp = TempDir::new().unwrap();
    let flags = "--claws 2 --pairs 1 --updates 1 --kills 12 --daemon-kills 12 --json";
    let output = sim(tmp.path(), flags).output().unwrap();
    let document = document(&output);
    assert_eq!((&document["with"]["kills"], &document["with"]["daemon_kills"]), (&12.into(), &12.into()));
    assert!(output.status.success());
}

#[test]
fn kept_files_tell_the_same_story_and_a_full_directory_is_not_written_to() {
    let tmp = TempDir::new().unwrap();
    let kept = tmp.path().join("kept");
    let flags = format!("--claws 1 --pairs 1 --updates 5 --kills 0 --daemon-kills 0 --keep {}", kept.display());
    let output = sim(tmp.path(), &flags).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for run in ["without", "with"] {
        let read = |side: &str| fs::read_to_string(kept.join(run).join("pair-0").join(side)).unwrap();
        assert_eq!(read("left.json"), read("right.json"));
        let tally: Value = serde_json::from_str(&read("left.json")).unwrap();
        assert_eq!(tally["version"], 5);
        assert_eq!(tally["scores"]["claw-0.0"]["count"], 5);
    }
    assert_eq!(processes_of(tmp.path()), [] as [String; 0]);

    let again = sim(tmp.path(), &flags).output().unwrap();
    assert_eq!(again.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&again.stderr).contains("is not empty"));
}

/// Starts a simulation that would kill claws for minutes, and waits until it does.
fn long_simulation(tmp: &Path) -> Child {
    let mut command = sim(tmp, "--claws 3 --pairs 1 --updates 1 --kills 10000 --daemon-kills 1000");
    let child = command.process_group(0).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let wrote = |dir: PathBuf| {
        entries(&dir.join("with/diaries")).iter().any(|diary| fs::metadata(diary).is_ok_and(|about| about.len() > 0))
    };
    wait_until("claws work", || entries(tmp).into_iter().any(wrote));
    child
}

#[test]
fn ctrl_c_leaves_neither_files_nor_processes_behind() {
    let tmp = TempDir::new().unwrap();
    let mut child = long_simulation(tmp.path());
    kill_process_group(Pid::from_child(&child), Signal::INT).unwrap();
    assert!(!child.wait().unwrap().success());
    wait_until("the directory is cleared away", || entries(tmp.path()).is_empty());
    wait_until("all processes are gone", || processes_of(tmp.path()).is_empty());
}

#[test]
fn kill_9_of_the_simulator_leaves_neither_files_nor_processes_behind() {
    let tmp = TempDir::new().unwrap();
    let mut child = long_simulation(tmp.path());
    kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    child.wait().unwrap();
    wait_until("the directory is cleared away", || entries(tmp.path()).is_empty());
    wait_until("all processes are gone", || processes_of(tmp.path()).is_empty());
}
