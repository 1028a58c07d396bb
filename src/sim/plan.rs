//! What the simulator is asked to do: the flags, their bounds, and what follows from the seed alone.

use super::diary::Incarnation;
use clap::Args;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Claws at first, each in a first life.
const CLAWS: u16 = 8;
/// Three pairs for eight claws: crowded enough that every second update finds somebody else there.
const PAIRS: u16 = 3;
/// Enough that both runs take some ten seconds together.
const UPDATES: u32 = 600;
/// Some over the twenty and the three that the claim speaks of.
const KILLS: u32 = 24;
const DAEMON_KILLS: u32 = 4;

const HELP: &str = "\
Examples:
  flockd sim                                      the two runs, side by side
  flockd sim --claws 32 --pairs 1 --think 0..0.5  a crowd on one pair of files
  flockd sim --json | jq .with.lost               for a script
  flockd sim --keep /tmp/race                     look at the files afterwards

The status is 0 if nothing was lost, torn or held twice with locks, 1 if anything was,
5 if there is no verdict because something could not be started, read or written.";

/// Flags of `flockd sim`.
#[derive(Args, Clone, Debug)]
#[command(after_help = HELP)]
pub struct SimArgs {
    /// How many claws: real processes that update at the same time
    #[arg(long, value_name = "N", default_value_t = CLAWS, value_parser = clap::value_parser!(u16).range(1..=256))]
    claws: u16,

    /// How many pairs of JSON files they share; the two files of a pair must agree
    #[arg(long, value_name = "N", default_value_t = PAIRS, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pairs: u16,

    /// How many updates each claw makes at least; while kills are still owed it goes on
    #[arg(long, value_name = "N", default_value_t = UPDATES)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    updates: u32,

    /// Milliseconds that a claw thinks between reading and replacing
    #[arg(long, value_name = "MIN..MAX", default_value_t = Think { min_us: 500, max_us: 2_000 })]
    think: Think,

    /// How many claws are killed (kill -9) in the run with locks, and started again
    #[arg(long, value_name = "N", default_value_t = KILLS, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    kills: u32,

    /// How many times the daemon is killed (kill -9) in the run with locks
    #[arg(long, value_name = "N", default_value_t = DAEMON_KILLS)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=1_000))]
    daemon_kills: u32,

    /// Repeat the choices of an earlier run: pairs, thinking times and kills (not how the system schedules them)
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Keep the files, the diaries and the daemon's home in DIR, which must be empty or not exist
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,

    /// Print one JSON document instead of the table
    #[arg(long)]
    json: bool,

    /// Leave the locks out of the second run too, to see that the judge notices
    #[arg(long, hide = true)]
    sabotage: bool,
}

/// What the simulator will do.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub claws: u16,
    pub pairs: u16,
    /// Per claw, over all its lives.
    pub updates: u32,
    pub think: Think,
    pub kills: u32,
    pub daemon_kills: u32,
    pub seed: u64,
    pub keep: Option<PathBuf>,
    pub json: bool,
    pub sabotage: bool,
}

impl Plan {
    pub(super) fn new(args: SimArgs) -> Plan {
        // Short enough to be typed again.
        let seed = args.seed.unwrap_or_else(|| u64::from(fastrand::u32(..)));
        Plan {
            claws: args.claws,
            pairs: args.pairs,
            updates: args.updates,
            think: args.think,
            kills: args.kills,
            daemon_kills: args.daemon_kills,
            seed,
            keep: args.keep,
            json: args.json,
            sabotage: args.sabotage,
        }
    }

    /// Updates that the plan asks of all claws together.
    pub(super) fn updates_in_all(&self) -> u64 {
        u64::from(self.claws) * u64::from(self.updates)
    }

    /// The command that repeats this run, as far as a seed can.
    pub(super) fn again(&self) -> String {
        let mut line = format!("flockd sim --seed {}", self.seed);
        let mut differs = |flag: &str, given: u64, default: u64| {
            if given != default {
                line.push_str(&format!(" --{flag} {given}"));
            }
        };
        differs("claws", self.claws.into(), CLAWS.into());
        differs("pairs", self.pairs.into(), PAIRS.into());
        differs("updates", self.updates.into(), UPDATES.into());
        differs("kills", self.kills.into(), KILLS.into());
        differs("daemon-kills", self.daemon_kills.into(), DAEMON_KILLS.into());
        if self.think != (Think { min_us: 500, max_us: 2_000 }) {
            line.push_str(&format!(" --think {}", self.think));
        }
        line
    }
}

/// Whether the writers lock. Everything else about them is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Locks {
    /// They do not.
    None,
    /// An exclusive lock on the directory of the pair, for each update.
    Flockd,
}

/// One of the two runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// Names its directory and its column.
    pub name: &'static str,
    pub locks: Locks,
    pub kills: u32,
    pub daemon_kills: u32,
}

impl Run {
    pub(super) fn without() -> Run {
        Run { name: "without", locks: Locks::None, kills: 0, daemon_kills: 0 }
    }

    pub(super) fn with(plan: &Plan) -> Run {
        let locks = if plan.sabotage { Locks::None } else { Locks::Flockd };
        Run { name: "with", locks, kills: plan.kills, daemon_kills: plan.daemon_kills }
    }
}

/// How long a claw thinks between reading and replacing, in whole microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Think {
    pub min_us: u64,
    pub max_us: u64,
}

impl Think {
    /// Longer thoughts would only make the hang guard speak.
    const MAX_US: u64 = 10_000_000;

    pub(super) fn choose(self, rng: &mut fastrand::Rng) -> std::time::Duration {
        std::time::Duration::from_micros(rng.u64(self.min_us..=self.max_us))
    }
}

/// As it is typed: milliseconds, `0.5..2`.
impl fmt::Display for Think {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.min_us as f64 / 1e3, self.max_us as f64 / 1e3)
    }
}

impl FromStr for Think {
    type Err = String;

    fn from_str(text: &str) -> Result<Think, String> {
        let (min, max) = text.split_once("..").unwrap_or((text, text));
        let think = Think { min_us: microseconds(min)?, max_us: microseconds(max)? };
        if think.min_us > think.max_us {
            return Err(format!("{min} is more than {max}: give the shorter time first"));
        }
        Ok(think)
    }
}

fn microseconds(milliseconds: &str) -> Result<u64, String> {
    let number: f64 =
        milliseconds.trim().parse().map_err(|_| format!("`{milliseconds}` is no number of milliseconds"))?;
    // Written so that not-a-number fails it too.
    let usable = (0.0..=Think::MAX_US as f64 / 1e3).contains(&number);
    if usable { Ok((number * 1e3).round() as u64) } else { Err(format!("{milliseconds} ms is not in 0..10000")) }
}

/// Where in the run something is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// When this many updates of all claws are done: progress, not time, so that slow machines get every kill.
    pub after_updates: u64,
    /// Waits until some claw is between the beginning and the end of a replacement, and kills that one: left alone,
    /// chance would hit these fractions of a millisecond too seldom.
    pub amid_writing: bool,
    /// Then waits this long, so that the kill falls on no particular moment.
    pub delay_us: u64,
}

/// The kills of a run, in order: one in each of `count` equal stretches of it, at a moment that the seed chooses.
pub(super) fn schedule(count: u32, updates_in_all: u64, rng: &mut fastrand::Rng) -> Vec<Due> {
    // The first and the last tenth are left alone: claws that start and claws that are done are poor victims.
    let (start, length) = (0.1 * updates_in_all as f64, 0.8 * updates_in_all as f64);
    (0..count)
        .map(|nth| Due {
            after_updates: (start + length * (f64::from(nth) + rng.f64()) / f64::from(count)) as u64,
            amid_writing: nth % 2 == 1,
            delay_us: if nth % 2 == 1 { rng.u64(0..150) } else { rng.u64(0..3_000) },
        })
        .collect()
}

/// The random numbers of one process: the same for the same life in both runs, different for all others.
pub(super) fn rng_of(seed: u64, who: Incarnation) -> fastrand::Rng {
    let number = (u64::from(who.claw) << 16 | u64::from(who.life)) + 1;
    // The golden ratio's bits spread the small numbers over the word; neighbouring seeds stay far apart.
    fastrand::Rng::with_seed(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        sim: SimArgs,
    }

    fn plan(flags: &str) -> Result<Plan, clap::Error> {
        Line::try_parse_from(std::iter::once("sim").chain(flags.split_whitespace())).map(|line| Plan::new(line.sim))
    }

    #[test]
    fn the_defaults_are_what_the_claim_speaks_of() {
        let plan = plan("").unwrap();
        assert_eq!(plan.claws, 8);
        assert_eq!(plan.think, Think { min_us: 500, max_us: 2_000 });
        assert!((2..=4).contains(&plan.pairs));
        assert!(plan.kills >= 20 && plan.daemon_kills >= 3);
        assert!(plan.keep.is_none() && !plan.json);
    }

    #[test]
    fn the_command_to_repeat_a_run_gives_the_same_plan() {
        for flags in
            ["--seed 7", "--seed 7 --claws 3 --pairs 2 --updates 50 --kills 0 --daemon-kills 9 --think 0.25..4"]
        {
            let first = plan(flags).unwrap();
            let again = plan(first.again().strip_prefix("flockd sim").unwrap()).unwrap();
            assert_eq!(format!("{first:?}"), format!("{again:?}"));
        }
    }

    #[test]
    fn absurd_numbers_are_refused() {
        for flags in [
            "--claws 0",
            "--claws 257",
            "--pairs 0",
            "--updates 0",
            "--kills -1",
            "--think 2..1",
            "--think nan",
            "--think -1",
        ] {
            assert!(plan(flags).is_err(), "{flags}");
        }
        assert!(plan("--think 1e9").is_err());
        assert_eq!(plan("--think 3").unwrap().think, Think { min_us: 3_000, max_us: 3_000 });
    }

    #[test]
    fn kills_are_in_order_within_the_run_and_the_same_for_a_seed() {
        let kills = |seed| schedule(24, 4_000, &mut fastrand::Rng::with_seed(seed));
        assert_eq!(kills(1), kills(1));
        assert_ne!(kills(1), kills(2));
        assert_eq!(kills(1).len(), 24);
        assert!(kills(1).is_sorted_by_key(|due| due.after_updates));
        assert!(kills(1).iter().all(|due| (400..=3_600).contains(&due.after_updates)));
    }

    #[test]
    fn no_two_processes_share_their_random_numbers() {
        let mut first: Vec<u64> =
            (0..16).flat_map(|claw| (0..16).map(move |life| rng_of(42, Incarnation { claw, life }).u64(..))).collect();
        first.sort_unstable();
        first.dedup();
        assert_eq!(first.len(), 256);
    }
}
