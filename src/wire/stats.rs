//! Statistics as a message: what has happened since the daemon began.
//!
//! In each list `total` is the sum of what is listed and of the others: nothing is left out.

use super::render::{name_within, path, time};
use crate::model::Now;
use crate::scope::Target;
use crate::{limits, stats};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What has happened since the daemon began, and how things stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Stats {
    /// When the daemon began to count, RFC 3339, UTC: when it started.
    pub since: String,
    /// Milliseconds since then.
    pub uptime_ms: u64,
    /// How things stand.
    pub now: Standing,
    /// All together.
    pub total: Tally,
    /// The scopes that are asked for most, the hottest first.
    pub scopes: Vec<ScopeStats>,
    /// All scopes that are not listed, together.
    pub other_scopes: Tally,
    /// The agents that ask most, the busiest first.
    pub agents: Vec<AgentStats>,
    /// All agents that are not listed, together.
    pub other_agents: Tally,
    /// How many events of each name were written.
    pub events: BTreeMap<String, u64>,
    /// Who was told of them.
    pub deliveries: Deliveries,
    /// The journal.
    pub journal: Journal,
}

/// How many there are right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Standing {
    /// Locks held.
    pub locks: usize,
    /// Requests waiting, kept places included.
    pub waiters: usize,
    /// Sessions open or expected back.
    pub sessions: usize,
    /// Connections, the one that asks included.
    pub connections: usize,
    /// Connections that are told what happens.
    pub subscribers: usize,
    /// Webhooks.
    pub webhooks: usize,
}

/// Counts and durations of one scope, of one agent, or of many together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Tally {
    /// Requests for locks, each once, but not those that were refused because of the agent's own lock alone.
    pub requests: u64,
    /// Of these, those that were refused at once or had to wait because of others.
    pub contended: u64,
    /// The same as so many of a hundred: the contention rate.
    pub contended_percent: u64,
    /// New locks.
    pub granted: u64,
    /// Detached locks that a session took up again.
    pub resumed: u64,
    /// Shared locks made exclusive.
    pub upgraded: u64,
    /// Exclusive locks made shared.
    pub downgraded: u64,
    /// Refusals, for whatever reason.
    pub refused: u64,
    /// Of these, those after a wait in vain.
    pub timeouts: u64,
    /// Of these, those that kept a cycle of waits from closing.
    pub deadlocks: u64,
    /// Locks that their agents released.
    pub released: u64,
    /// Locks whose lease ran out.
    pub expired: u64,
    /// Locks that ended with their session or process.
    pub session_ended: u64,
    /// Locks whose session stayed silent after a restart of the daemon.
    pub silent: u64,
    /// Locks that somebody broke.
    pub broken: u64,
    /// Writes around locks, as told by `lock.violation`. With an agent they are writes around its locks: nothing tells
    /// whose.
    #[serde(default)]
    pub violations: u64,
    /// For how long locks were held that have ended.
    pub held: Times,
    /// For how long requests waited that do not wait any more, with success or not.
    pub waited: Times,
}

/// How long something took, in milliseconds. Percentiles are right to two digits, and tell apart what is not longer
/// than a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Times {
    /// How often.
    pub count: u64,
    /// All together.
    pub sum_ms: u64,
    /// Half of them took no longer.
    pub p50_ms: u64,
    /// 95 of a hundred took no longer.
    pub p95_ms: u64,
    /// 99 of a hundred took no longer.
    pub p99_ms: u64,
    /// The longest, exactly.
    pub max_ms: u64,
}

/// How long the disk took, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Latency {
    /// How often.
    pub count: u64,
    /// All together.
    pub sum_us: u64,
    /// Half of them took no longer.
    pub p50_us: u64,
    /// 95 of a hundred took no longer.
    pub p95_us: u64,
    /// 99 of a hundred took no longer.
    pub p99_us: u64,
    /// The longest, exactly.
    pub max_us: u64,
}

/// One scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ScopeStats {
    /// `ws_…`: the workspace in which it was first asked for.
    pub workspace_id: String,
    /// The scope within that workspace, or absolute.
    pub file_id: String,
    /// The whole name, escaped: absolute, a subtree ends in `/`, a resource begins with `@`, a pattern with `glob:`.
    pub path: String,
    /// Since it was last among those asked for most.
    #[serde(flatten)]
    pub tally: Tally,
}

/// One agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AgentStats {
    /// Its name.
    pub agent: String,
    /// Since it was last among those that ask most.
    #[serde(flatten)]
    pub tally: Tally,
}

/// Who was told of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Deliveries {
    /// Events that subscribers were sent, each as often as it was.
    pub told: u64,
    /// Gaps that subscribers were sent: events that they could not be told of.
    pub gaps: u64,
    /// Posts to webhooks that arrived.
    pub posted: u64,
    /// Attempts to post that failed.
    pub posts_failed: u64,
}

/// What went to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Journal {
    /// Batches that were written.
    pub appends: Latency,
    /// Syncs, each for all that was written before.
    pub syncs: Latency,
    /// How often it could not be written or synced, so that nothing was granted for a while.
    pub failures: u64,
}

/// Which of the many are to be named.
pub struct Selection<'a> {
    /// So many scopes and so many agents.
    pub top: usize,
    /// Only scopes that meet one of these, by name; none for all.
    pub targets: &'a [Target],
}

/// Statistics as a message.
pub fn stats(
    stats: &stats::Stats,
    selection: &Selection<'_>,
    standing: Standing,
    (told, gaps): (u64, u64),
    now: Now,
) -> Stats {
    let Selection { top, targets } = selection;
    let top = (*top).min(limits::STATS_NAMED);
    let (scopes, other_scopes) = stats.scopes.top(top, |scope| {
        let named = Target::named(scope.clone());
        targets.is_empty() || targets.iter().any(|target| Target::named(target.scope.clone()).meets(&named))
    });
    let scopes = scopes.into_iter().map(|(scope, workspace, figures)| ScopeStats {
        workspace_id: workspace.id(),
        file_id: name_within(scope, workspace),
        path: path(scope),
        tally: tally(figures),
    });
    let (agents, other_agents) = stats.agents.top(top, |_| true);
    let agents =
        agents.into_iter().map(|(agent, (), figures)| AgentStats { agent: agent.to_string(), tally: tally(figures) });
    Stats {
        since: time(stats.since.wall),
        uptime_ms: stats.since.mono.till(now.mono),
        now: standing,
        total: tally(&stats.total),
        scopes: scopes.collect(),
        other_scopes: tally(&other_scopes),
        agents: agents.collect(),
        other_agents: tally(&other_agents),
        events: stats.events().map(|(name, count)| (name.to_owned(), count)).collect(),
        deliveries: Deliveries { told, gaps, posted: stats.posts, posts_failed: stats.posts_failed },
        journal: Journal {
            appends: latency(&stats.appends),
            syncs: latency(&stats.syncs),
            failures: stats.journal_failures,
        },
    }
}

fn tally(tally: &stats::Tally) -> Tally {
    let &stats::Tally { requests, contended, granted, resumed, upgraded, downgraded, .. } = tally;
    let &stats::Tally { refused_held, refused_timeout, refused_deadlock, .. } = tally;
    let &stats::Tally { released, expired, session_ended, silent, broken, violations, .. } = tally;
    Tally {
        requests,
        contended,
        contended_percent: (contended * 100).checked_div(requests).unwrap_or(0),
        granted,
        resumed,
        upgraded,
        downgraded,
        refused: refused_held + refused_timeout + refused_deadlock,
        timeouts: refused_timeout,
        deadlocks: refused_deadlock,
        released,
        expired,
        session_ended,
        silent,
        broken,
        violations,
        held: times(&tally.held),
        waited: times(&tally.waited),
    }
}

fn times(times: &stats::Times) -> Times {
    Times {
        count: times.count(),
        sum_ms: times.sum(),
        p50_ms: times.quantile(0.5),
        p95_ms: times.quantile(0.95),
        p99_ms: times.quantile(0.99),
        max_ms: times.max(),
    }
}

fn latency(times: &stats::Times) -> Latency {
    Latency {
        count: times.count(),
        sum_us: times.sum(),
        p50_us: times.quantile(0.5),
        p95_us: times.quantile(0.95),
        p99_us: times.quantile(0.99),
        max_us: times.max(),
    }
}
