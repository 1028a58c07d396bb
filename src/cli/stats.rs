//! `flockd stats`: what has happened since the daemon began, for people; for Prometheus see `prometheus.rs`.

use super::args::StatsArgs;
use super::print::{columns, heading, name, shown};
use super::{Common, Exit, Failure, ask, print, prometheus};
use crate::client::unexpected;
use crate::wire::render::duration;
use crate::wire::stats::{Latency, Stats, Tally, Times};
use crate::wire::{Body, Op, Request};
use std::fmt::Write as _;

pub(super) fn stats(common: &Common, args: &StatsArgs) -> Result<Exit, Failure> {
    let client = common.connect_to_read()?;
    let request = Request {
        scopes: args.scopes.iter().map(|scope| ask::scope(scope, args.glob)).collect(),
        top: args.top,
        ..Request::new(Op::Stats)
    };
    match ask::ask(&client, request)? {
        Body::Stats(body) => {
            match (common.json, args.prometheus) {
                (true, _) => print::json(&body),
                (false, true) => print::out(&prometheus::page(&body)),
                (false, false) if !args.scopes.is_empty() && body.scopes.is_empty() => print::out(UNKNOWN),
                (false, false) => print::out(&for_people(&body)),
            }
            Ok(Exit::Yes)
        }
        other => Err(unexpected(Some(&other)).into()),
    }
}

/// What is said of scopes that have no figures of their own.
const UNKNOWN: &str = "nothing is known of these scopes: none was asked for since the daemon started, or none is among \
                       the hottest, which alone are counted by name; `flockd stats` shows those\n";

/// A few lines on everything, then scopes and agents in columns.
fn for_people(body: &Stats) -> String {
    let Stats { now, total, deliveries, journal, .. } = body;
    let mut text = String::new();
    let _ = writeln!(text, "since the daemon started, {} ago ({}):", duration(body.uptime_ms), body.since);
    let _ = writeln!(
        text,
        "  asked    {} requests, {} contended ({} %), {} refused: {} after a wait, {} deadlocks",
        total.requests, total.contended, total.contended_percent, total.refused, total.timeouts, total.deadlocks
    );
    let _ = writeln!(
        text,
        "  locks    {} granted, {} resumed, {} upgraded, {} downgraded",
        total.granted, total.resumed, total.upgraded, total.downgraded
    );
    let _ = writeln!(
        text,
        "  ended    {} released, {} expired, {} with their session, {} silent, {} broken",
        total.released, total.expired, total.session_ended, total.silent, total.broken
    );
    let _ = writeln!(text, "  around   {} writes around locks", total.violations);
    let told: Vec<String> = body.events.iter().map(|(name, count)| format!("{count} {name}")).collect();
    let _ = writeln!(text, "  events   {}", told.join(", "));
    let _ = writeln!(
        text,
        "  told     {} to subscribers, {} gaps, {} posted, {} posts failed",
        deliveries.told, deliveries.gaps, deliveries.posted, deliveries.posts_failed
    );
    let _ = writeln!(
        text,
        "  journal  {}; {}; {} failures",
        disk("appends", &journal.appends),
        disk("syncs", &journal.syncs),
        journal.failures
    );
    let _ = writeln!(
        text,
        "now: locks {}, waiting {}, sessions {}, connections {}, subscribers {}, webhooks {}",
        now.locks, now.waiters, now.sessions, now.connections, now.subscribers, now.webhooks
    );
    let scopes = body.scopes.iter().map(|one| (name(&one.path), &one.tally));
    let _ = write!(text, "\n{}", table("SCOPE", scopes.collect(), &body.other_scopes));
    let agents = body.agents.iter().map(|one| (shown(&one.agent), &one.tally));
    let _ = write!(text, "\n{}", table("AGENT", agents.collect(), &body.other_agents));
    text
}

fn disk(what: &str, latency: &Latency) -> String {
    let Latency { count, p50_us, p95_us, p99_us, max_us, .. } = *latency;
    match count {
        0 => format!("0 {what}"),
        _ => format!("{count} {what}, 50 % {p50_us}, 95 % {p95_us}, 99 % {p99_us}, longest {max_us} µs"),
    }
}

fn table(of: &str, named: Vec<(String, &Tally)>, others: &Tally) -> String {
    let head = [
        of,
        "ASKED",
        "CONTENDED",
        "REFUSED",
        "EXPIRED",
        "BROKEN",
        "HELD 50%",
        "95%",
        "99%",
        "MAX",
        "WAITED 50%",
        "95%",
        "99%",
        "MAX",
    ];
    if named.is_empty() && others.requests == 0 {
        return format!("{}\n", heading(&format!("{of}: none was asked for")));
    }
    let mut rows: Vec<[String; 14]> = vec![head.map(str::to_owned)];
    rows.extend(named.into_iter().map(|(name, tally)| row(name, tally)));
    if others.requests > 0 {
        rows.push(row("(all others)".to_owned(), others));
    }
    columns(&rows)
}

fn row(name: String, tally: &Tally) -> [String; 14] {
    let percent = tally.contended_percent;
    let contended = if tally.contended == 0 { "0".to_owned() } else { format!("{} ({percent} %)", tally.contended) };
    let [held, waited] = [&tally.held, &tally.waited].map(durations);
    let [held_50, held_95, held_99, held_max] = held;
    let [waited_50, waited_95, waited_99, waited_max] = waited;
    [
        name,
        tally.requests.to_string(),
        contended,
        tally.refused.to_string(),
        tally.expired.to_string(),
        tally.broken.to_string(),
        held_50,
        held_95,
        held_99,
        held_max,
        waited_50,
        waited_95,
        waited_99,
        waited_max,
    ]
}

/// Percentiles and the longest; a dash where nothing was measured.
fn durations(times: &Times) -> [String; 4] {
    let Times { p50_ms, p95_ms, p99_ms, max_ms, .. } = *times;
    [p50_ms, p95_ms, p99_ms, max_ms].map(|ms| match times.count {
        0 => "-".to_owned(),
        _ => duration(ms),
    })
}
