//! Plants every fault of `src/planted.rs`, one after the other, and runs the test that must notice it.
//!
//! In an ordinary build this only looks whether the tests that are named there exist. Where the faults are built in,
//! it does the rest: `RUSTFLAGS="--cfg planted" cargo test --target-dir target/planted --test planted -- --nocapture`,
//! or `just planted`.

use flockd::planted::{ALL, Row};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The file or folder of a target's sources.
fn sources(target: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    match target {
        "lib" => root.join("src"),
        target => root.join("tests").join(target),
    }
}

/// The file in which a test stands, by the modules in its name.
fn file_of(row: &Row) -> Option<PathBuf> {
    let (modules, _) = row.test.rsplit_once("::").unwrap_or(("", row.test));
    let modules: Vec<&str> = modules.split("::").filter(|module| !["", "tests"].contains(module)).collect();
    let place = sources(row.target);
    let within = modules.iter().fold(place.clone(), |path, module| path.join(module));
    let candidates = [within.with_extension("rs"), within.join("main.rs"), within.join("mod.rs")];
    candidates.into_iter().find(|path| path.is_file())
}

#[test]
fn every_fault_names_a_test_that_exists() {
    for row in ALL {
        let file = file_of(row).unwrap_or_else(|| panic!("{} names {} in no file", row.name, row.test));
        let name = row.test.rsplit("::").next().expect("a split has a last part");
        let text = fs::read_to_string(&file).expect("it is a file of text");
        assert!(text.contains(&format!("fn {name}()")), "{} has no test {name}", file.display());
    }
    let names: BTreeSet<&str> = ALL.iter().map(|row| row.name).collect();
    assert_eq!(names.len(), ALL.len());
}

#[cfg(planted)]
mod run {
    //! Build, check that the tests pass as they are, plant.

    use super::*;
    use std::collections::BTreeMap;
    use std::io::{Read, Seek};
    use std::process::{Child, Command, ExitStatus, Stdio};
    use std::time::{Duration, Instant};

    /// Longest run of a test with a fault in it. One that only hangs has caught nothing that it could name.
    const AT_MOST: Duration = Duration::from_secs(200);

    /// The test programs by target. They are built with the flags that this one was built with.
    fn build() -> BTreeMap<String, PathBuf> {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["test", "--no-run", "--message-format=json"]).stderr(Stdio::inherit());
        let own = std::env::current_exe().expect("a running program has a path");
        let target_dir = own.ancestors().nth(3).expect("a test lies in TARGET/PROFILE/deps");
        cargo.arg("--target-dir").arg(target_dir).current_dir(env!("CARGO_MANIFEST_DIR"));
        for target in ALL.iter().map(|row| row.target).collect::<BTreeSet<_>>() {
            match target {
                "lib" => cargo.arg("--lib"),
                target => cargo.args(["--test", target]),
            };
        }
        let output = cargo.output().expect("cargo runs this test");
        assert!(output.status.success(), "the tests cannot be built");
        let lines = output.stdout.split(|&byte| byte == b'\n');
        let artifacts = lines.filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok());
        let programs = artifacts.filter_map(|artifact| {
            let program = artifact["executable"].as_str()?;
            let is_lib = artifact["target"]["kind"][0] == "lib";
            let name = if is_lib { "lib" } else { artifact["target"]["name"].as_str()? };
            Some((name.to_owned(), program.into()))
        });
        programs.collect()
    }

    fn ended(child: &mut Child) -> Option<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("it is ours") {
                return Some(status);
            }
            if begun.elapsed() > AT_MOST {
                // It ends with its guard; what it started ends when it sees that.
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
            // bounded back-off: a child cannot be waited for with a bound otherwise; AT_MOST in all
            #[expect(clippy::disallowed_methods, reason = "bounded back-off: see above")]
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Runs the test of a row, with its fault or without; whether it failed, how long it took, what it said.
    fn run(program: &Path, row: &Row, with: bool) -> (Option<bool>, Duration, String) {
        let mut said = tempfile::tempfile().expect("a file for what the test says");
        let mut command = Command::new(program);
        command.args(["--exact", row.test]).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
        command.stdout(said.try_clone().expect("a descriptor")).stderr(said.try_clone().expect("a descriptor"));
        // What is repeated is repeated as often as in CI.
        command.env_remove("FLOCKD_PLANT").env_remove("FLOCKD_SCALE").env("RUST_BACKTRACE", "0");
        // That it fails is enough; the smallest case of it is not looked for.
        command.env("PROPTEST_MAX_SHRINK_ITERS", "0");
        if with {
            command.env("FLOCKD_PLANT", row.name);
        }
        let begun = Instant::now();
        let status = ended(&mut command.spawn().expect("a test that was built can be run"));
        let took = begun.elapsed();
        let mut text = String::new();
        said.rewind().expect("a file can be rewound");
        let _ = said.read_to_string(&mut text);
        let ran_one = text.contains("running 1 test");
        (status.filter(|_| ran_one).map(|status| !status.success()), took, text)
    }

    #[test]
    fn every_planted_fault_is_caught() {
        let programs = build();
        let begun = Instant::now();
        let mut whole = BTreeSet::new();
        for row in ALL {
            if whole.insert((row.target, row.test)) {
                let (failed, _, text) = run(&programs[row.target], row, false);
                assert_eq!(failed, Some(false), "{} fails without a fault: {text}", row.test);
            }
        }
        println!("{} tests pass as they are\n", whole.len());
        let mut missed = Vec::new();
        println!("{:<24} {:>7}  caught by", "fault", "seconds");
        for row in ALL {
            let (failed, took, text) = run(&programs[row.target], row, true);
            let by = format!("{} {}", row.target, row.test);
            let word = if failed == Some(true) { by } else { format!("NOT by {by}") };
            println!("{:<24} {:>7.1}  {word}", row.name, took.as_secs_f64());
            if failed != Some(true) {
                missed.push((row.name, text));
            }
        }
        println!("\n{} of {} in {:.0} s", ALL.len() - missed.len(), ALL.len(), begun.elapsed().as_secs_f64());
        assert!(missed.is_empty(), "not caught: {missed:?}");
    }
}
