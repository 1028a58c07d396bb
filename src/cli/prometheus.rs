//! Statistics as Prometheus reads them: its text format, version 0.0.4.
//!
//! Written by hand: the format is three kinds of lines, and a crate would bring registries and atomics for figures that
//! are here already. A parser that is not ours judges it in `.ci/run`.

use crate::wire::stats::{Latency, Stats, Tally, Times};
use std::fmt::{Display, Write as _};

/// The whole page. All others that have no figures of their own are not on it: what they come to falls whenever one of
/// them gets some, and Prometheus takes a counter that falls for one that began anew. They are the total less the
/// named.
pub(super) fn page(stats: &Stats) -> String {
    let mut page = Page::default();
    let now = &stats.now;
    page.one("uptime_seconds", "gauge", "Time since the daemon began to count.", seconds(stats.uptime_ms));
    page.one("locks", "gauge", "Locks held now.", now.locks);
    page.one("waiters", "gauge", "Requests that wait now, kept places included.", now.waiters);
    page.one("sessions", "gauge", "Sessions open or expected back.", now.sessions);
    page.one("connections", "gauge", "Connections.", now.connections);
    page.one("subscribers", "gauge", "Connections that are told what happens.", now.subscribers);
    page.one("webhooks", "gauge", "Webhooks.", now.webhooks);
    page.tallies("", &[(Vec::new(), &stats.total)]);
    let mut scopes: Vec<(Labels<'_>, &Tally)> = Vec::new();
    for one in &stats.scopes {
        scopes.push((vec![("scope", &one.path), ("workspace", &one.workspace_id)], &one.tally));
    }
    page.tallies("scope_", &scopes);
    let agents = stats.agents.iter().map(|one| (vec![("agent", one.agent.as_str())], &one.tally));
    page.tallies("agent_", &agents.collect::<Vec<_>>());
    page.family("events_total", "counter", "Events by name.");
    for (event, count) in &stats.events {
        page.sample("events_total", &[("event", event)], count);
    }
    let told = &stats.deliveries;
    page.one("events_told_total", "counter", "Events that subscribers were sent.", told.told);
    page.one("event_gaps_total", "counter", "Gaps that subscribers were sent.", told.gaps);
    page.family("webhook_posts_total", "counter", "Attempts to post to webhooks.");
    page.sample("webhook_posts_total", &[("result", "arrived")], told.posted);
    page.sample("webhook_posts_total", &[("result", "failed")], told.posts_failed);
    let journal = &stats.journal;
    page.latency("journal_append_seconds", "Time to write a batch to the journal.", &journal.appends);
    page.latency("journal_sync_seconds", "Time to sync the journal.", &journal.syncs);
    page.one("journal_failures_total", "counter", "How often the journal could not be written.", journal.failures);
    page.text
}

type Labels<'a> = Vec<(&'a str, &'a str)>;

/// Figures of a tally that only go up: name, help, and each with its reason if there are several.
type Counters = [(&'static str, &'static str, &'static [(&'static str, fn(&Tally) -> u64)]); 8];

const COUNTERS: Counters = [
    ("requests_total", "Requests for locks.", &[("", |tally| tally.requests)]),
    ("contended_total", "Requests that could not have their lock at once.", &[("", |tally| tally.contended)]),
    ("granted_total", "New locks.", &[("", |tally| tally.granted)]),
    ("resumed_total", "Detached locks that a session took up again.", &[("", |tally| tally.resumed)]),
    (
        "changed_total",
        "Locks whose mode was changed.",
        &[("upgraded", |tally| tally.upgraded), ("downgraded", |tally| tally.downgraded)],
    ),
    (
        "refused_total",
        "Requests that were refused.",
        &[
            ("held", |tally| tally.refused - tally.timeouts - tally.deadlocks),
            ("timeout", |tally| tally.timeouts),
            ("deadlock", |tally| tally.deadlocks),
        ],
    ),
    (
        "ended_total",
        "Locks that have ended.",
        &[
            ("released", |tally| tally.released),
            ("expired", |tally| tally.expired),
            ("session_ended", |tally| tally.session_ended),
            ("silent", |tally| tally.silent),
            ("broken", |tally| tally.broken),
        ],
    ),
    ("violations_total", "Writes around locks.", &[("", |tally| tally.violations)]),
];

/// Durations of a tally: name, help, and which.
type Durations = (&'static str, &'static str, fn(&Tally) -> &Times);

const TIMES: [Durations; 2] = [
    ("held", "for which locks were held that have ended", |tally| &tally.held),
    ("waited", "for which requests waited that wait no more", |tally| &tally.waited),
];

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    /// Begins a metric; its samples follow.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP flockd_{name} {help}\n# TYPE flockd_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", quoted(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.text, "flockd_{name}{labels} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// All figures of these, under names that begin so.
    fn tallies(&mut self, prefix: &str, tallies: &[(Labels<'_>, &Tally)]) {
        for (name, help, figures) in COUNTERS {
            let name = format!("{prefix}{name}");
            self.family(&name, "counter", help);
            for (labels, tally) in tallies {
                for (reason, figure) in figures {
                    let reason = Some(("reason", *reason)).filter(|(_, reason)| !reason.is_empty());
                    let labels: Labels<'_> = labels.iter().copied().chain(reason).collect();
                    self.sample(&name, &labels, figure(tally));
                }
            }
        }
        for (what, help, figures) in TIMES {
            let name = format!("{prefix}{what}_seconds");
            self.family(&name, "summary", &format!("Time {help}."));
            for (labels, tally) in tallies {
                let Times { count, sum_ms, p50_ms, p95_ms, p99_ms, .. } = *figures(tally);
                self.summary(&name, labels, [p50_ms, p95_ms, p99_ms, sum_ms].map(seconds), count);
            }
            let name = format!("{prefix}{what}_max_seconds");
            self.family(&name, "gauge", &format!("Longest time {help}."));
            for (labels, tally) in tallies {
                self.sample(&name, labels, seconds(figures(tally).max_ms));
            }
        }
    }

    fn latency(&mut self, name: &str, help: &str, latency: &Latency) {
        let Latency { count, sum_us, p50_us, p95_us, p99_us, .. } = *latency;
        self.family(name, "summary", help);
        self.summary(name, &[], [p50_us, p95_us, p99_us, sum_us].map(|us| us as f64 / 1e6), count);
    }

    fn summary(&mut self, name: &str, labels: &[(&str, &str)], [p50, p95, p99, sum]: [f64; 4], count: u64) {
        for (quantile, value) in [("0.5", p50), ("0.95", p95), ("0.99", p99)] {
            let labels: Labels<'_> = labels.iter().copied().chain([("quantile", quantile)]).collect();
            match count {
                // Of nothing there is no percentile: that is how the format says so.
                0 => self.sample(name, &labels, "NaN"),
                _ => self.sample(name, &labels, value),
            }
        }
        self.sample(&format!("{name}_sum"), labels, sum);
        self.sample(&format!("{name}_count"), labels, count);
    }
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1e3
}

/// The value of a label, without its quotes.
fn quoted(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
