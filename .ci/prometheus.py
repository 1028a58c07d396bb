"""Reads `flockd stats --prometheus` with the parser of Prometheus's own client for Python, which is not ours, and
compares each figure with that of `flockd stats --json`.

Usage: prometheus.py FLOCKD; FLOCKD_HOME is the home to use. Fails with a sentence if anything is not as it should be.
"""

import json
import math
import os
import subprocess
import sys
import tempfile

from prometheus_client.parser import text_string_to_metric_families

FLOCKD = os.path.abspath(sys.argv[1])
WITHIN = 60  # seconds; a guard, no measurement
# The hardest name that a file may have: quotes, a backslash, a line end, and what is no UTF-8.
HARD = b'a "quoted\\" name,\n{of="two"} lines \xff'


def check(fact, *said):
    if not fact:
        sys.exit(f"prometheus.py: not so: {' '.join(map(str, said))}")


def flockd(place, agent, *arguments, status=0):
    environment = {**os.environ, "FLOCKD_AGENT": agent, "FLOCKD_AGENT_PROGRAMS": ""}
    done = subprocess.run([FLOCKD, *arguments], cwd=place, env=environment, capture_output=True, timeout=WITHIN)
    check(done.returncode == status, arguments, "ended with", done.returncode, done.stderr)
    return done.stdout.decode()


def seconds(ms):
    return ms / 1000


def of_tally(tally):
    """What the samples of a tally must be, by name and what more there is of labels."""
    held_at_once = tally["refused"] - tally["timeouts"] - tally["deadlocks"]
    plain = ("requests", "contended", "granted", "resumed", "violations")
    figures = {(f"{name}_total", ()): tally[name] for name in plain}
    reasons = {
        "changed_total": {name: tally[name] for name in ("upgraded", "downgraded")},
        "refused_total": {"held": held_at_once, "timeout": tally["timeouts"], "deadlock": tally["deadlocks"]},
        "ended_total": {name: tally[name] for name in ("released", "expired", "session_ended", "silent", "broken")},
    }
    for name, values in reasons.items():
        figures |= {(name, (("reason", reason),)): value for reason, value in values.items()}
    for name in ("held", "waited"):
        times = tally[name]
        figures[f"{name}_seconds_count", ()] = times["count"]
        figures[f"{name}_seconds_sum", ()] = seconds(times["sum_ms"])
        figures[f"{name}_max_seconds", ()] = seconds(times["max_ms"])
        for quantile, key in (("0.5", "p50_ms"), ("0.95", "p95_ms"), ("0.99", "p99_ms")):
            value = seconds(times[key]) if times["count"] else math.nan
            figures[f"{name}_seconds", (("quantile", quantile),)] = value
    return figures


def main():
    with tempfile.TemporaryDirectory() as place:
        bytes_place = os.fsencode(place)
        # One that counts from here on.
        flockd(bytes_place, "", "daemon", "stop")
        for name in ("data.json", HARD):
            flockd(bytes_place, "claw-1", "lock", name)
            flockd(bytes_place, "claw-2", "lock", "-n", name, status=1)
        flockd(bytes_place, "claw-2", "lock", "--wait", "20ms", "data.json", status=3)
        flockd(bytes_place, "claw-1", "unlock", "data.json")
        # Of the many nothing is named; both texts are of a daemon that nobody else asks for a lock meanwhile.
        for number in range(20):
            flockd(bytes_place, "claw-3", "run", f"@name-{number}", "--", "true")
        stats = json.loads(flockd(bytes_place, "", "stats", "--json"))
        page = flockd(bytes_place, "", "stats", "--prometheus")

    samples, kinds = {}, {}
    for family in text_string_to_metric_families(page):
        check(family.documentation and family.type != "unknown", family.name, "has no help or no type")
        check(family.name not in kinds, family.name, "comes twice")
        kinds[family.name] = family.type
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            check(key not in samples, key, "comes twice")
            samples[key] = sample.value
    check(set(kinds.values()) == {"gauge", "counter", "summary"}, kinds)

    def is_so(name, labels, value):
        found = samples.pop((f"flockd_{name}", tuple(sorted(labels))), None)
        same = found is not None and (found == value or math.isnan(found) and math.isnan(value))
        check(same, f"flockd_{name}", labels, "is", found, "and not", value)

    rows = [("", [], stats["total"])]
    rows += [("scope_", [("scope", one["path"]), ("workspace", one["workspace_id"])], one) for one in stats["scopes"]]
    rows += [("agent_", [("agent", one["agent"])], one) for one in stats["agents"]]
    for prefix, labels, tally in rows:
        for (name, more), value in of_tally(tally).items():
            is_so(prefix + name, [*labels, *more], value)
    for event, count in stats["events"].items():
        is_so("events_total", [("event", event)], count)
    now, told = stats["now"], stats["deliveries"]
    for name in ("locks", "waiters", "sessions", "connections", "subscribers", "webhooks"):
        is_so(name, [], now[name])
    is_so("events_told_total", [], told["told"])
    is_so("event_gaps_total", [], told["gaps"])
    is_so("webhook_posts_total", [("result", "arrived")], told["posted"])
    is_so("webhook_posts_total", [("result", "failed")], told["posts_failed"])
    is_so("journal_failures_total", [], stats["journal"]["failures"])
    left = {name for name, _ in samples if not name.startswith(("flockd_journal_", "flockd_uptime_"))}
    check(not left, left, "are not in the JSON")
    check(samples["flockd_journal_sync_seconds_count", ()] >= 1, "nothing was synced")
    check(any(one["file_id"].startswith('a "quoted') for one in stats["scopes"]), "the hard name was not judged")
    print(f"{len(kinds)} metrics read by prometheus_client, all as in the JSON")


if __name__ == "__main__":
    main()
