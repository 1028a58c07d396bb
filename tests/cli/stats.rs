//! Statistics of a real daemon: known actions, exact counts; and the texts that they are shown as.

use crate::util::{Ground, a_try, exclusive, take, until};
use flockd::client::Custodian;
use flockd::wire::{Body, Op, Request};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

fn stats(ground: &Ground) -> Value {
    ground.flockd("", "stats --json").gives(0).json()
}

/// The figures of one scope or agent.
fn named<'a>(list: &'a Value, key: &str, name: &str) -> &'a Value {
    let mut all = list.as_array().unwrap().iter();
    all.find(|one| one[key] == name).unwrap_or_else(|| panic!("{name} is not in {list}"))
}

/// Asserts that these figures are so, and that all counters that are not named are zero.
#[track_caller]
fn is_exactly(tally: &Value, expected: &[(&str, u64)]) {
    const COUNTERS: &str = "requests contended granted resumed upgraded downgraded refused timeouts deadlocks released \
                            expired session_ended silent broken";
    let found: BTreeMap<&str, u64> = COUNTERS
        .split_whitespace()
        .map(|name| (name, tally[name].as_u64().unwrap_or_else(|| panic!("no {name} in {tally}"))))
        .filter(|(_, count)| *count > 0)
        .collect();
    assert_eq!(found, expected.iter().copied().collect(), "{tally}");
}

#[test]
fn what_has_happened_is_counted_once() {
    let ground = Ground::new();
    std::fs::write(ground.work.join("data.json"), "{}").unwrap();
    // A file that exists is flocked: that is no wait.
    ground.flockd("a", "lock data.json").gives(0);
    ground.flockd("a", "lock data.json").gives(0);
    ground.flockd("b", "lock -n data.json").gives(1);
    ground.flockd("b", "wait -n data.json").gives(1);
    ground.flockd("b", "lock data.json --wait 50ms").gives(3);
    ground.flockd("b", "unlock data.json").gives(0);
    ground.flockd("a", "unlock data.json").gives(0);
    ground.flockd("b", "run data.json -- true").gives(0);
    let broken = ground.flockd("c", "lock @x --json").gives(0).json();
    let id = broken["lock_id"].as_str().unwrap();
    ground.flockd("b", &format!("break {id} --reason test")).gives(0);
    ground.flockd("c", "lock -s @y").gives(0);
    ground.flockd("c", "upgrade @y").gives(0);
    ground.flockd("c", "downgrade @y").gives(0);

    let stats = stats(&ground);
    let data = named(&stats["scopes"], "file_id", "data.json");
    let of_data = [
        ("requests", 4),
        ("contended", 2),
        ("granted", 2),
        ("refused", 2),
        ("timeouts", 1),
        ("released", 1),
        ("session_ended", 1),
    ];
    is_exactly(data, &of_data);
    assert_eq!((&data["contended_percent"], &data["held"]["count"]), (&json!(50), &json!(2)));
    assert_eq!(data["waited"]["count"], 1);
    assert!(data["waited"]["max_ms"].as_u64().unwrap() >= 50, "{data}");
    is_exactly(named(&stats["scopes"], "file_id", "@x"), &[("requests", 1), ("granted", 1), ("broken", 1)]);
    let of_y = [("requests", 2), ("granted", 1), ("upgraded", 1), ("downgraded", 1)];
    is_exactly(named(&stats["scopes"], "file_id", "@y"), &of_y);
    is_exactly(named(&stats["agents"], "agent", "a"), &[("requests", 1), ("granted", 1), ("released", 1)]);
    let of_b =
        [("requests", 3), ("contended", 2), ("granted", 1), ("refused", 2), ("timeouts", 1), ("session_ended", 1)];
    is_exactly(named(&stats["agents"], "agent", "b"), &of_b);
    assert_eq!(stats["now"]["locks"], 1);
    let events = &stats["events"];
    assert_eq!((&events["lock.acquired"], &events["lock.released"]), (&json!(6), &json!(3)), "{events}");
    assert_eq!(events["lock.waiting"], 1);
    adds_up(&stats);
}

/// What is listed and what is not are all there is.
#[track_caller]
fn adds_up(stats: &Value) {
    for (list, others) in [("scopes", "other_scopes"), ("agents", "other_agents")] {
        let parts = stats[list].as_array().unwrap().iter().chain([&stats[others]]);
        let mut sums: BTreeMap<String, u64> = BTreeMap::new();
        for part in parts {
            for (name, value) in part.as_object().unwrap() {
                let count = value.as_u64().or_else(|| value["count"].as_u64()).unwrap_or(0);
                *sums.entry(name.clone()).or_default() += count;
            }
        }
        for (name, value) in stats["total"].as_object().unwrap().iter().filter(|(name, _)| *name != "contended_percent")
        {
            let count = value.as_u64().or_else(|| value["count"].as_u64()).unwrap();
            assert_eq!(sums[name], count, "{list} {name}: {stats}");
        }
    }
}

#[test]
fn a_wait_and_a_hold_last_at_least_as_long_as_was_seen() {
    let ground = Ground::new();
    let (holder, waiter) = (ground.client("a", None), ground.client("b", None));
    take(&holder, exclusive("@hot", 60_000));
    let id = waiter.begin(exclusive("@hot", 60_000)).unwrap();
    ground.until_waiting(&["b"]);
    let begun = std::time::Instant::now();
    // Held on purpose for a moment: what is asserted is that no less is counted.
    until("a moment has passed", || (begun.elapsed() > Duration::from_millis(30)).then_some(()));
    holder.call(Request { all: true, ..Request::new(Op::Unlock) }).unwrap();
    assert!(matches!(waiter.finish(id, None).unwrap().unwrap().ok, Some(Body::Lock(lock)) if lock.acquired));
    let stats = stats(&ground);
    let hot = named(&stats["scopes"], "file_id", "@hot");
    for times in [&hot["held"], &hot["waited"]] {
        assert_eq!(times["count"], 1);
        let [p50, p99, max, sum] = ["p50_ms", "p99_ms", "max_ms", "sum_ms"].map(|key| times[key].as_u64().unwrap());
        assert!(max >= 30 && sum == max && p50 == max && p99 == max, "{times}");
    }
    let expected = [("requests", 2), ("contended", 1), ("granted", 2), ("released", 1)];
    is_exactly(hot, &expected);
    adds_up(&stats);
}

#[test]
fn leases_that_run_out_deadlocks_and_cancelled_waits_are_counted() {
    let ground = Ground::new();
    let (a, b) = (ground.client("a", None), ground.client("b", None));
    take(&a, exclusive("@one", 1));
    until("the lease has run out", || (stats(&ground)["total"]["expired"] == 1).then_some(()));
    take(&a, exclusive("@two", 60_000));
    take(&b, exclusive("@three", 60_000));
    let waiting = a.begin(exclusive("@three", 60_000)).unwrap();
    ground.until_waiting(&["a"]);
    let refused = b.lock(exclusive("@two", 60_000)).unwrap();
    assert_eq!(serde_json::to_value(refused.code).unwrap(), "deadlock");
    a.call(Request { of: Some(waiting), ..Request::new(Op::Cancel) }).unwrap();
    let own = ground.client("s", Some(Custodian::Library));
    take(&own, exclusive("@own", 60_000));
    assert!(!own.lock(a_try(exclusive("@own", 60_000))).unwrap().acquired);
    let stats = stats(&ground);
    is_exactly(
        &stats["total"],
        &[("requests", 6), ("contended", 2), ("granted", 4), ("refused", 2), ("deadlocks", 1), ("expired", 1)],
    );
    is_exactly(named(&stats["scopes"], "file_id", "@own"), &[("requests", 1), ("granted", 1), ("refused", 1)]);
    assert_eq!(stats["total"]["waited"]["count"], 1, "{stats}");
    adds_up(&stats);
}

#[test]
fn a_daemon_that_was_killed_counts_anew_and_says_so() {
    let ground = Ground::new();
    ground.flockd("a", "lock @x --ttl 1h").gives(0);
    let before = stats(&ground);
    is_exactly(&before["total"], &[("requests", 1), ("granted", 1)]);
    ground.kill_daemon();
    let after = stats(&ground);
    assert!(after["since"].as_str() > before["since"].as_str(), "{before} {after}");
    is_exactly(&after["total"], &[]);
    assert_eq!(after["now"]["locks"], 1, "what is held is in the journal");
    // How long it was held is known all the same.
    ground.flockd("a", "unlock @x").gives(0);
    let after = stats(&ground);
    is_exactly(&after["total"], &[("released", 1)]);
    let held = after["total"]["held"]["max_ms"].as_u64().unwrap();
    assert!(held >= after["uptime_ms"].as_u64().unwrap_or(0).saturating_sub(60_000) && held > 0, "{after}");
    assert_eq!(after["other_scopes"]["released"], 1, "nobody has asked this daemon for it");
    adds_up(&after);
}

#[test]
fn the_hottest_are_named_as_many_as_are_wanted_and_the_rest_is_one() {
    let ground = Ground::new();
    let client = ground.client("a", None);
    for number in 0..200 {
        let (id, _) = take(&client, exclusive(&format!("dir/{number}"), 60_000));
        client.call(Request { lock_id: Some(id), ..Request::new(Op::Unlock) }).unwrap();
    }
    for _ in 0..3 {
        let (id, _) = take(&client, exclusive("dir/7", 60_000));
        client.call(Request { lock_id: Some(id), ..Request::new(Op::Unlock) }).unwrap();
    }
    let stats = stats(&ground);
    assert_eq!(stats["scopes"].as_array().unwrap().len(), 10);
    assert_eq!((&stats["scopes"][0]["file_id"], &stats["total"]["requests"]), (&json!("dir/7"), &json!(203)));
    adds_up(&stats);
    let all = ground.flockd("", "stats --top 1000 --json").gives(0).json();
    assert_eq!(all["scopes"].as_array().unwrap().len(), 128);
    adds_up(&all);
    let narrowed = ground.flockd("", "stats dir/7 @none --json").gives(0).json();
    assert_eq!(narrowed["scopes"].as_array().unwrap().len(), 1, "{narrowed}");
    let below = ground.flockd("", "stats --glob dir/* --top 20 --json").gives(0).json();
    assert_eq!(below["scopes"].as_array().unwrap().len(), 20);
    let none = ground.flockd("", "stats other/").gives(0).out;
    assert!(none.starts_with("nothing is known of these scopes") && !none.contains("203 requests"), "{none}");
    ground.flockd("", "stats --top x").gives(2);
    ground.flockd("", "stats --json --prometheus").gives(2);
}

#[test]
fn subscribers_and_the_journal_are_counted() {
    let ground = Ground::new();
    ground.flockd("a", "lock @x").gives(0);
    let watched = ground.command("", &["on", "lock.acquired", "@x", "--once", "--since", "0", "--", "true"]).output();
    let stats = stats(&ground);
    assert!(watched.is_ok());
    let [appends, syncs] = ["appends", "syncs"].map(|what| stats["journal"][what]["count"].as_u64().unwrap());
    assert!(appends >= syncs && syncs >= 1, "{stats}");
    assert!(stats["journal"]["syncs"]["max_us"].as_u64() >= stats["journal"]["syncs"]["p50_us"].as_u64());
    assert_eq!(stats["deliveries"]["told"], 1, "{stats}");
    assert_eq!(stats["journal"]["failures"], 0);
}

#[test]
fn people_see_a_table_and_no_escape_of_a_name_reaches_the_terminal() {
    let ground = Ground::new();
    let out = ground.flockd("", "stats").gives(0).out;
    assert!(out.contains("0 requests, 0 contended") && out.contains("SCOPE: none was asked for"), "{out}");
    let client = ground.client("a", None);
    take(&client, exclusive("bad\u{1b}[31mname", 60_000));
    ground.flockd("b", "lock -n data.json").gives(0);
    let out = ground.flockd("", "stats").gives(0).out;
    let row = out.lines().find(|line| line.starts_with("data.json")).unwrap();
    assert_eq!(row.split_whitespace().take(3).collect::<Vec<_>>(), ["data.json", "1", "0"], "{out}");
    assert!(out.contains("AGENT") && !out.contains('\u{1b}'), "{out}");
}

/// A line of the text: name, labels as they stand there, value.
fn sample(line: &str) -> (&str, &str, f64) {
    let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
    let (name, labels) =
        name.split_once('{').map_or((name, ""), |(name, rest)| (name, rest.strip_suffix('}').unwrap()));
    (name, labels, value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
}

#[test]
fn what_prometheus_reads_has_every_figure_once_with_its_type() {
    let ground = Ground::new();
    let client = ground.client("a", None);
    take(&client, exclusive("with \"quotes\" and \\\\ and \n", 60_000));
    ground.flockd("b", "lock -n @x").gives(0);
    ground.flockd("c", "lock -n @x").gives(1);
    let page = ground.flockd("", "stats --prometheus").gives(0).out;
    let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for line in page.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(kinds.insert(name, kind), None, "{name} is described twice");
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (name, labels, value) = sample(line);
        let family = kinds.keys().rev().find(|family| {
            name == **family || ["_sum", "_count"].iter().any(|end| name.strip_suffix(end) == Some(family))
        });
        let kind = kinds[family.unwrap_or_else(|| panic!("{name} has no type"))];
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        assert!(value >= 0.0 || labels.contains("quantile"), "{line}");
        assert!(seen.insert((name.to_owned(), labels.to_owned())), "twice: {line}");
    }
    for line in [
        "flockd_locks 2",
        "flockd_requests_total 3",
        "flockd_refused_total{reason=\"held\"} 1",
        "flockd_agent_refused_total{agent=\"c\",reason=\"held\"} 1",
        "flockd_events_total{event=\"lock.acquired\"} 2",
    ] {
        assert!(page.lines().any(|other| other == line), "{line:?} is not in {page}");
    }
    assert!(page.contains(r#"with \"quotes\" and \\\\ and \n""#), "{page}");
}
