//! What people and programs get to see: the progress bar, the two runs side by side, the JSON, the exit status.

use super::judge::Verdict;
use super::plan::Plan;
use anstyle::{AnsiColor, Style};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::process::ExitCode;

/// How long claws waited for their locks.
pub(super) struct Waits {
    nanoseconds: Histogram<u64>,
}

/// An hour; the hang guard ends a run long before. A longer wait would be counted as this.
const WAIT_MAX_NS: u64 = 3_600_000_000_000;

impl Waits {
    pub(super) fn new() -> Waits {
        let bounded = Histogram::new_with_bounds(1, WAIT_MAX_NS, 3);
        Waits { nanoseconds: bounded.expect("the bounds are in order and three digits are allowed") }
    }

    pub(super) fn add(&mut self, waited_ns: u64) {
        self.nanoseconds.saturating_record(waited_ns);
    }

    fn ms(&self, quantile: f64) -> f64 {
        self.nanoseconds.value_at_quantile(quantile) as f64 / 1e6
    }
}

/// A run and what the judge found.
pub(super) struct Outcome {
    pub verdict: Verdict,
    pub daemon_kills: u64,
    pub seconds: f64,
    pub waits: Waits,
}

/// The JSON of a run. Scripts rely on the names.
#[derive(Serialize)]
struct Row {
    updates: u64,
    lost: u64,
    torn: u64,
    overlaps: u64,
    unknown: u64,
    kills: u64,
    daemon_kills: u64,
    seconds: f64,
    wait_ms: WaitMs,
}

#[derive(Serialize)]
struct WaitMs {
    p50: f64,
    p99: f64,
    max: f64,
}

#[derive(Serialize)]
struct Document {
    seed: u64,
    claws: u16,
    pairs: u16,
    without: Row,
    with: Row,
}

impl Outcome {
    fn row(&self) -> Row {
        let Verdict { updates, lost, torn, overlaps, unknown, kills } = self.verdict;
        let wait_ms =
            WaitMs { p50: round(self.waits.ms(0.5)), p99: round(self.waits.ms(0.99)), max: round(self.waits.ms(1.0)) };
        let seconds = round(self.seconds);
        Row { updates, lost, torn, overlaps, unknown, kills, daemon_kills: self.daemon_kills, seconds, wait_ms }
    }

    fn throughput(&self) -> f64 {
        self.verdict.updates as f64 / self.seconds
    }
}

/// To three decimals: more would only look exact.
fn round(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

/// The document of `--json`, on one line.
pub(super) fn json(plan: &Plan, without: &Outcome, with: &Outcome) -> String {
    let document =
        Document { seed: plan.seed, claws: plan.claws, pairs: plan.pairs, without: without.row(), with: with.row() };
    serde_json::to_string(&document).expect("numbers under string keys can be written as JSON")
}

/// 1 if the run with locks lost, tore or overlapped anything. What happened without locks is no matter.
pub(super) fn status(with: &Outcome) -> ExitCode {
    if with.verdict.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default();

/// The table for people, with colours in it; the stream takes them out where they do not belong.
pub(super) fn table(plan: &Plan, without: &Outcome, with: &Outcome) -> String {
    let (a, b) = (without.row(), with.row());
    let mut text = format!(
        "{} claws on {} pairs of files that must agree, each {} updates\n\n\
         {BOLD}{:LABEL$}{:>COLUMN$}{:>COLUMN$}{BOLD:#}\n",
        plan.claws, plan.pairs, plan.updates, "", "without locks", "with flockd",
    );
    for (label, left, right) in
        [("updates lost", a.lost, b.lost), ("pairs torn", a.torn, b.torn), ("double holders", a.overlaps, b.overlaps)]
    {
        let (left, right) = (coloured(left), coloured(right));
        let _ = writeln!(text, "{label:LABEL$}{left}{right}");
    }
    let mut plain = |label: &str, left: String, right: String, remark: &str| {
        let _ = write!(text, "{label:LABEL$}{left:>COLUMN$}{right:>COLUMN$}");
        let _ = if remark.is_empty() { writeln!(text) } else { writeln!(text, "  {DIM}{remark}{DIM:#}") };
    };
    let ms = |number: f64| format!("{number:.1} ms");
    let remark = if a.unknown + b.unknown > 0 { "cut off by a kill: may or may not be there" } else { "" };
    plain("unknown", a.unknown.to_string(), b.unknown.to_string(), remark);
    plain("updates done", a.updates.to_string(), b.updates.to_string(), "");
    plain("claws killed", a.kills.to_string(), b.kills.to_string(), "");
    plain("daemons killed", a.daemon_kills.to_string(), b.daemon_kills.to_string(), "");
    plain("wait, median", ms(a.wait_ms.p50), ms(b.wait_ms.p50), "");
    plain("wait, 99th of 100", ms(a.wait_ms.p99), ms(b.wait_ms.p99), "");
    plain("wait, longest", ms(a.wait_ms.max), ms(b.wait_ms.max), "");
    plain("time", format!("{:.1} s", a.seconds), format!("{:.1} s", b.seconds), "");
    plain("throughput", format!("{:.0}/s", without.throughput()), format!("{:.0}/s", with.throughput()), "");
    format!("{text}\n{}\n{DIM}Again: {}{DIM:#}\n", conclusion(without, with), plan.again())
}

const LABEL: usize = 18;
const COLUMN: usize = 15;

/// A number that ought to be zero. The width goes inside: escape sequences would count as letters.
fn coloured(number: u64) -> String {
    let style = if number == 0 { GOOD } else { BAD };
    format!("{style}{number:>COLUMN$}{style:#}")
}

/// What it showed, in a sentence.
fn conclusion(without: &Outcome, with: &Outcome) -> String {
    let kills = format!(
        "over {} and {}",
        counted(with.verdict.kills, "killed claw"),
        counted(with.daemon_kills, "killed daemon")
    );
    let safe = with.verdict.is_clean();
    let with_flockd = if safe {
        format!("With flockd nothing was lost, torn or held twice, {kills}.")
    } else {
        format!("{BAD}With flockd {}, {kills}: the locks failed.{BAD:#}", damage(&with.verdict))
    };
    let without_locks = if without.verdict.is_clean() {
        "Without locks nothing went wrong this time: give it more claws or updates.".to_owned()
    } else {
        format!("Without locks {}.", damage(&without.verdict))
    };
    format!("{without_locks} {with_flockd}")
}

fn damage(verdict: &Verdict) -> String {
    format!(
        "{} of {} updates were lost, {} seen torn, and two claws were inside at once {}",
        verdict.lost,
        verdict.updates,
        counted(verdict.torn, "pair"),
        counted(verdict.overlaps, "time")
    )
}

fn counted(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// A bar on standard error while a run goes on; nothing if that is no terminal.
pub(super) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    pub(super) fn new(title: &'static str, updates_in_all: u64) -> Progress {
        let target =
            if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar =
            ProgressBar::with_draw_target(Some(updates_in_all), target).with_prefix(title).with_message("updates");
        let style = ProgressStyle::with_template("{prefix:13} [{bar:20}] {pos}/{len} {wide_msg}");
        bar.set_style(style.expect("the template is well-formed").progress_chars("=> "));
        Progress { bar }
    }

    /// Claws that owe their kills work on, so more may be done than was planned.
    pub(super) fn show(&self, done: u64, kills: u64, daemon_kills: u64) {
        self.bar.set_position(done.min(self.bar.length().unwrap_or(done)));
        if kills + daemon_kills > 0 {
            let message = format!("updates, killed {}, {}", counted(kills, "claw"), counted(daemon_kills, "daemon"));
            self.bar.set_message(message);
        }
    }
}

/// The bar goes when the run is over; the table says the rest.
impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::plan::SimArgs;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        sim: SimArgs,
    }

    fn plan() -> Plan {
        Plan::new(Line::parse_from(["sim", "--seed", "5"]).sim)
    }

    fn outcome(verdict: Verdict) -> Outcome {
        let mut waits = Waits::new();
        for ms in [1, 2, 2, 4, 400] {
            waits.add(ms * 1_000_000);
        }
        Outcome { verdict, daemon_kills: 4, seconds: 2.5, waits }
    }

    fn bad() -> Outcome {
        outcome(Verdict { updates: 4_800, lost: 1_234, torn: 56, overlaps: 789, unknown: 0, kills: 0 })
    }

    fn good() -> Outcome {
        outcome(Verdict { updates: 4_810, unknown: 7, kills: 24, ..Verdict::default() })
    }

    #[test]
    fn the_names_in_the_document_are_fixed() {
        let document: serde_json::Value = serde_json::from_str(&json(&plan(), &bad(), &good())).unwrap();
        for run in ["without", "with"] {
            let names: Vec<&str> = document[run].as_object().unwrap().keys().map(String::as_str).collect();
            for name in
                ["updates", "lost", "torn", "overlaps", "unknown", "kills", "daemon_kills", "seconds", "wait_ms"]
            {
                assert!(names.contains(&name), "{run}.{name}");
            }
            for name in ["p50", "p99", "max"] {
                assert!(document[run]["wait_ms"][name].is_number(), "{run}.wait_ms.{name}");
            }
        }
        assert_eq!(document["without"]["lost"], 1_234);
        assert_eq!(document["with"]["kills"], 24);
        assert_eq!(document["with"]["wait_ms"]["p50"].as_f64().unwrap().round(), 2.0);
    }

    #[test]
    fn the_table_stands_in_columns_and_ends_with_what_it_showed_and_how_to_repeat_it() {
        let text = anstream::adapter::strip_str(&table(&plan(), &bad(), &good())).to_string();
        assert!(text.contains("\nupdates lost                 1234              0\n"), "{text}");
        assert!(text.contains("\nclaws killed                    0             24\n"), "{text}");
        assert!(text.contains("Without locks 1234 of 4800 updates were lost"), "{text}");
        assert!(
            text.contains("nothing was lost, torn or held twice, over 24 killed claws and 4 killed daemons."),
            "{text}"
        );
        assert!(text.ends_with("Again: flockd sim --seed 5\n"), "{text}");
        assert!(text.lines().all(|line| line == line.trim_end()), "{text}");
    }

    #[test]
    fn only_the_run_with_locks_decides_the_status_and_any_one_fault_is_enough() {
        let code = |verdict| format!("{:?}", status(&outcome(verdict)));
        let clean = format!("{:?}", ExitCode::SUCCESS);
        assert_eq!(format!("{:?}", status(&good())), clean);
        for fault in [
            Verdict { lost: 1, ..Verdict::default() },
            Verdict { torn: 1, ..Verdict::default() },
            Verdict { overlaps: 1, ..Verdict::default() },
        ] {
            assert_eq!(code(fault), format!("{:?}", ExitCode::from(1)));
        }
        assert!(table(&plan(), &good(), &bad()).contains("the locks failed"));
    }
}
