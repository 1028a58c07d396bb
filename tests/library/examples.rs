//! The three workflows of the examples, run as whoever reads the documentation runs them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs an example to its end; the lines that it prints.
fn lines(name: &str) -> Vec<String> {
    let program = built(name);
    let output = Command::new(&program).stdin(Stdio::null()).output().unwrap();
    let (out, err) = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).into();
    assert!(output.status.success() && err.is_empty(), "{}: {}\n{out}{err}", program.display(), output.status);
    out.lines().map(str::to_owned).collect()
}

/// Where an example is. Cargo builds all of them for `cargo test`, and none where one target is named.
fn built(name: &str) -> PathBuf {
    let profile = Path::new(env!("CARGO_BIN_EXE_flockd")).parent().unwrap();
    let program = profile.join("examples").join(name);
    if !program.exists() {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--locked", "--offline", "--quiet", "--example", name]);
        cargo.args(Some("--release").filter(|_| profile.ends_with("release")));
        cargo.arg("--target-dir").arg(profile.parent().unwrap()).current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(cargo.status().unwrap().success(), "{name} cannot be built");
    }
    program
}

#[test]
fn queue_on_acquire_a_backup_claw_takes_the_next_file() {
    let lines = lines("queue_on_acquire");
    let (taken, fences): (Vec<&str>, Vec<Option<&str>>) = lines
        .iter()
        .map(|line| line.split_once(", fence ").map_or((&**line, None), |(line, f)| (line, Some(f))))
        .unzip();
    assert_eq!(
        taken,
        [
            "claw-1 has taken a.csv",
            "claw-1 has taken b.csv",
            "claw-2 takes the next one, c.csv",
            "claw-2 takes the next one, d.csv"
        ]
    );
    let fences: Vec<u64> = fences.into_iter().flatten().map(|fence| fence.parse().unwrap()).collect();
    assert!(fences.len() == 2 && fences[0] < fences[1], "{fences:?}");
}

#[test]
fn notify_on_release_the_analyzer_never_sees_half_a_report() {
    let lines = lines("notify_on_release");
    let (told, analyzed): (Vec<&String>, Vec<&String>) = lines.iter().partition(|line| line.contains("released"));
    assert_eq!(told, ["writer has released report.txt"; 3]);
    let rounds: Vec<u64> = analyzed
        .iter()
        .map(|line| {
            let (round, sum) = line.strip_prefix("analyzed report ").unwrap().split_once(": sum ").unwrap();
            let [round, sum] = [round, sum].map(|number| number.parse::<u64>().unwrap());
            assert_eq!(sum, 100 * round, "{line}");
            round
        })
        .collect();
    assert_eq!(rounds, [1, 2, 3], "each report is read before the next one is written");
}

#[test]
fn contention_alert_reports_the_hot_file_and_no_other() {
    let lines = lines("contention_alert");
    // Its holder has let go of nothing yet and has no lease: nothing tells when another try may have a chance.
    let refused: Vec<String> = (1..=4).map(|number| format!("claw-{number} is refused, as happens")).collect();
    assert_eq!(lines[..4], refused);
    let (told, over) = lines[4].split_once(" within ").unwrap();
    assert_eq!(told, "hot.json is hot: 4 refused");
    assert!(!over.is_empty());
    assert_eq!(lines[5..], ["claw-0 holds it: a long merge"]);
}
