//! Rounds that take turns, and what is said of them: medians, the 99th of a hundred, and ratios to a floor.
//!
//! A machine has slow moments, so the sides of a group take turns, A B A B, and a ratio is the median of the ratios
//! within each round: a slow moment hits both of its ends.

use serde_json::{Value, json};
use std::fmt::Write as _;

/// What the values of a side are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds; less is better.
    Time,
    /// Pairs a second; more is better.
    Rate,
    /// KiB; less is better.
    Memory,
}

/// What one side found in one round.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// In the side's unit.
    pub values: Vec<f64>,
    /// The smallest part of the work that one of many processes got, by the largest.
    pub share: Option<f64>,
}

impl From<Vec<u64>> for Round {
    fn from(nanoseconds: Vec<u64>) -> Round {
        Round { values: nanoseconds.into_iter().map(|value| value as f64).collect(), share: None }
    }
}

/// What is to be reached. Times in microseconds; a ratio is to the floor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Target {
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    pub longest: Option<f64>,
    pub ratio: Option<f64>,
    pub rate: Option<f64>,
    pub share: Option<f64>,
}

/// Something that is measured beside others.
pub struct Side<'a> {
    pub name: String,
    /// The side that this one is compared with; floors have none.
    pub floor: Option<&'static str>,
    pub target: Target,
    /// Measures one round.
    pub measure: Box<dyn FnMut() -> Round + 'a>,
}

impl<'a> Side<'a> {
    /// A floor: what the machine or a program without any duties takes.
    pub fn floor(name: &str, measure: impl FnMut() -> Round + 'a) -> Side<'a> {
        Side { name: name.to_owned(), floor: None, target: Target::default(), measure: Box::new(measure) }
    }

    /// Ours, beside the floor of that name.
    pub fn ours(name: &str, floor: &'static str, target: Target, measure: impl FnMut() -> Round + 'a) -> Side<'a> {
        Side { name: name.to_owned(), floor: Some(floor), target, measure: Box::new(measure) }
    }
}

/// What is known of a side after all rounds.
struct Figure {
    name: String,
    floor: Option<&'static str>,
    target: Target,
    /// Medians over the rounds.
    p50: f64,
    p99: f64,
    longest: f64,
    /// Operations a second by the mean time.
    rate: f64,
    share: Option<f64>,
    ratio: Option<f64>,
}

/// Measures the sides in turn and prints what came of it; with `json` collects it instead.
pub fn run(title: &str, unit: Unit, rounds: usize, mut sides: Vec<Side<'_>>, json: Option<&mut Vec<Value>>) {
    let mut found: Vec<Vec<Round>> = vec![Vec::new(); sides.len()];
    for _ in 0..rounds {
        for (side, found) in sides.iter_mut().zip(&mut found) {
            found.push((side.measure)());
        }
    }
    let names: Vec<String> = sides.iter().map(|side| side.name.clone()).collect();
    let figures: Vec<Figure> = sides
        .into_iter()
        .zip(&found)
        .map(|(side, mine)| {
            let floor = side.floor.map(|floor| {
                let at = names.iter().position(|name| name == floor);
                &found[at.unwrap_or_else(|| panic!("{} has no floor {floor}", side.name))]
            });
            figure(side, unit, mine, floor)
        })
        .collect();
    match json {
        None => println!("{}", table(title, unit, &figures)),
        Some(collected) => collected.extend(figures.iter().map(|figure| as_json(title, unit, figure))),
    }
}

fn figure(side: Side<'_>, unit: Unit, rounds: &[Round], floor: Option<&Vec<Round>>) -> Figure {
    let of = |part: f64| median(rounds.iter().map(|round| percentile(&round.values, part)).collect());
    let per_second = |round: &Round| match unit {
        Unit::Time => 1e9 * round.values.len() as f64 / round.values.iter().sum::<f64>(),
        Unit::Rate | Unit::Memory => percentile(&round.values, 0.5),
    };
    let ratios = floor.map(|floor| {
        let ratio = |(mine, floor): (&Round, &Round)| {
            let (mine, floor) = (percentile(&mine.values, 0.5), percentile(&floor.values, 0.5));
            if unit == Unit::Rate { floor / mine } else { mine / floor }
        };
        median(rounds.iter().zip(floor).map(ratio).collect())
    });
    let shares: Vec<f64> = rounds.iter().filter_map(|round| round.share).collect();
    Figure {
        name: side.name,
        floor: side.floor,
        target: side.target,
        p50: of(0.5),
        p99: of(0.99),
        longest: of(1.0),
        rate: median(rounds.iter().map(per_second).collect()),
        share: (!shares.is_empty()).then(|| median(shares)),
        ratio: ratios,
    }
}

/// The value below which this part of all values lies.
fn percentile(values: &[f64], part: f64) -> f64 {
    assert!(!values.is_empty(), "a round without values");
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() as f64 * part) as usize).min(sorted.len() - 1)]
}

fn median(values: Vec<f64>) -> f64 {
    percentile(&values, 0.5)
}

// ── Showing ─────────────────────────────────────────────────────────────────────────────────────────────────────────

fn table(title: &str, unit: Unit, figures: &[Figure]) -> String {
    let mut text = format!("{title}\n");
    match unit {
        Unit::Time => {
            let _ = write!(text, "  {:<44}{:>10}{:>10}{:>10}{:>10}", "", "p50", "p99", "longest", "a second");
        }
        Unit::Rate => {
            let _ = write!(text, "  {:<44}{:>12}{:>9}", "", "pairs/s", "min/max");
        }
        Unit::Memory => {
            let _ = write!(text, "  {:<44}{:>12}", "", "KiB");
        }
    }
    text.push_str("   to its floor, target\n");
    for figure in figures {
        let _ = write!(text, "  {:<44}", figure.name);
        let _ = match unit {
            Unit::Time => {
                let [p50, p99, longest] = [figure.p50, figure.p99, figure.longest].map(time);
                write!(text, "{p50:>10}{p99:>10}{longest:>10}{:>10.0}", figure.rate)
            }
            Unit::Rate => {
                let share = figure.share.map_or_else(String::new, |share| format!("{share:.2}"));
                write!(text, "{:>12.0}{share:>9}", figure.rate)
            }
            Unit::Memory => write!(text, "{:>12.0}", figure.p50),
        };
        if let (Some(ratio), Some(floor)) = (figure.ratio, figure.floor) {
            let _ = write!(text, "   {ratio:.2} x {floor}");
        }
        let checks = checks(unit, figure);
        if !checks.is_empty() {
            let said = checks.iter().map(|check| format!("{} {}", check.said, if check.is_met { "yes" } else { "NO" }));
            let _ = write!(text, "; {}", said.collect::<Vec<_>>().join(", "));
        }
        text.push('\n');
    }
    text
}

/// One part of a target.
struct Check {
    said: String,
    is_met: bool,
}

fn checks(unit: Unit, figure: &Figure) -> Vec<Check> {
    let target = &figure.target;
    let most = |what: &str, bound: Option<f64>, is: f64| {
        bound.map(|bound| Check { said: format!("{what} <= {}", time(bound * 1e3)), is_met: is <= bound * 1e3 })
    };
    let least = |what: &str, bound: Option<f64>, is: f64| {
        bound.map(|bound| Check { said: format!("{what} >= {bound}"), is_met: is >= bound })
    };
    let ratio = target.ratio.zip(figure.ratio);
    let ratio = ratio.map(|(bound, is)| Check { said: format!("<= {bound} x"), is_met: is <= bound });
    let times = unit == Unit::Time;
    [
        most("p50", target.p50.filter(|_| times), figure.p50),
        most("p99", target.p99.filter(|_| times), figure.p99),
        most("longest", target.longest.filter(|_| times), figure.longest),
        least("a second", target.rate, figure.rate),
        least("min/max", target.share, figure.share.unwrap_or(0.0)),
        ratio,
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn as_json(title: &str, unit: Unit, figure: &Figure) -> Value {
    let targets: Vec<Value> = checks(unit, figure)
        .into_iter()
        .map(|check| json!({ "target": check.said, "reached": check.is_met }))
        .collect();
    let unit = match unit {
        Unit::Time => "ns",
        Unit::Rate => "pairs/s",
        Unit::Memory => "KiB",
    };
    json!({
        "group": title, "name": figure.name, "unit": unit, "p50": figure.p50, "p99": figure.p99,
        "longest": figure.longest, "rate": figure.rate, "share": figure.share, "floor": figure.floor,
        "ratio": figure.ratio, "targets": targets,
    })
}

/// Nanoseconds for people, three digits.
fn time(ns: f64) -> String {
    let (value, unit) = match ns {
        ..1e3 => (ns, "ns"),
        ..1e6 => (ns / 1e3, "µs"),
        ..1e9 => (ns / 1e6, "ms"),
        _ => (ns / 1e9, "s"),
    };
    match value {
        ..10.0 => format!("{value:.2} {unit}"),
        ..100.0 => format!("{value:.1} {unit}"),
        _ => format!("{value:.0} {unit}"),
    }
}
