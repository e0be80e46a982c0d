"""Summarize the rounds: percentiles, medians, ratios, and the targets. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

#: The measurements of one peer in one round, and the summary of all its rounds.
Round = dict[str, Any]
Summary = dict[str, Any]

#: The kind of response and the number of clients for the targets and the picture.
REFERENCE = ("json", "16")
#: The events of a service, with their names in the table.
RELOAD, RESTART, CTL_RESTART = "reload", "systemctl restart", "litellmctl restart"
KILL_MAIN, KILL_WORKER = "kill -9 of the main process", "kill -9 of a worker"
EVENTS = (RELOAD, RESTART, CTL_RESTART, KILL_MAIN, KILL_WORKER)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all values don't exceed (nearest rank). NaN without values."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def ratio(value: float | None, base: float | None) -> float | None:
    """`value` divided by `base`. None if one of them was not measured or the base is 0."""
    return value / base if value is not None and base else None


def median(values: Sequence[float | None]) -> float | None:
    """The median of the measured values. None without any."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def summarize(rounds: Sequence[Round]) -> Summary:
    """Summarize the rounds of a peer: medians of times, rates and sizes, sums of requests, maximum of waits."""
    kinds = rounds[0]["load"]
    return {
        "start_ready": median([each["start"]["ready"] for each in rounds]),
        "start_returned": median([each["start"]["returned"] for each in rounds]),
        "pss": median([each["memory"]["pss"] for each in rounds]),
        "load": {
            kind: {level: _summarize_load([each["load"][kind][level] for each in rounds]) for level in kinds[kind]}
            for kind in kinds
        },
        "events": {name: summarize_events([each["events"][name] for each in rounds]) for name in rounds[0]["events"]},
        "live": _longest([each["live"]["live"] for each in rounds if "live" in each]),
        "stale": sum(each["live"]["stale"] for each in rounds if "live" in each),
    }


def summarize_load(result: Round) -> Round:
    """Answers a second, p50 and p99 in milliseconds, of one load."""
    latencies = result["latencies"]
    return {
        "rate": result["answered"] / result["seconds"],
        "p50": percentile(latencies, 0.50) * 1000,
        "p99": percentile(latencies, 0.99) * 1000,
        "failures": result["failures"],
        "client_processor": result["client_processor"],
    }


def _summarize_load(loads: Sequence[Round]) -> Summary:
    return {
        **{name: median([load[name] for load in loads]) for name in ("rate", "p50", "p99", "client_processor")},
        "failed": sum(sum(load["failures"].values()) for load in loads),
    }


def summarize_events(sieges: Sequence[Round]) -> Summary:
    """Sums of `failed` and `answered`, the number of events, the longest waits in seconds, the slowest recovery."""
    events = [event for siege in sieges for event in siege["events"]]
    return {
        "times": len(events),
        "failed": sum(sum(siege["failures"].values()) for siege in sieges),
        "answered": sum(siege["answered"] for siege in sieges),
        "longest_wait": max(siege["longest_wait"] for siege in sieges),
        "longest_gap": max(siege["longest_gap"] for siege in sieges),
        "returned": median([event["returned"] for event in events]),
        "recovered": _longest([event["recovered"] for event in events]),
        "refused_commands": sum(event["code"] != 0 for event in events),
    }


def _longest(values: Sequence[float | None]) -> float | None:
    """The maximum. None without values, or if one of them was not measured."""
    known = [value for value in values if value is not None]
    return max(known) if known and len(known) == len(values) else None


# --- targets ---


@dataclass(frozen=True, slots=True)
class Target:
    """A target: the measured `value` and its `limit` in `unit` (x: a ratio)."""

    name: str
    value: float | None
    limit: float
    at_least: bool = False
    unit: str = "x"

    @property
    def reached(self) -> bool:
        if self.value is None:
            return False
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def verdict(self) -> str:
        """`reached`, or the difference to the limit."""
        if self.value is None:
            return "not measured"
        if self.reached:
            return "reached"
        missed = abs(self.value - self.limit)
        share = f" ({missed / self.limit:.1%})" if self.limit else ""
        return f"missed by {missed:.3g} {self.unit}{share}"


def judge(summaries: dict[str, Summary]) -> list[Target]:
    """Evaluate the targets of the project."""
    ours, one, two = summaries["ours"], summaries["plain1"], summaries["plain2"]

    def against(base: Summary, of: Callable[[Summary], float | None]) -> float | None:
        return ratio(of(ours), of(base))

    reloads, restarts = ours["twenty_reloads"], ours["ten_restarts"]
    return [
        Target("start to ready, of one plain worker", against(one, _start), 0.75),
        Target("start to ready, of two plain workers", against(two, _start), 0.5),
        Target("memory (PSS), of two plain workers", against(two, lambda each: each["pss"]), 0.55),
        Target("p99, of two plain workers", against(two, lambda each: reference(each)["p99"]), 0.35),
        Target("answers a second, of one plain worker", against(one, _rate), 1.9, at_least=True),
        Target("answers a second, of two plain workers", against(two, _rate), 1.1, at_least=True),
        Target(f"failed over {reloads['times']} reloads", reloads["failed"], 0, unit="requests"),
        Target(f"failed over {restarts['times']} restarts", restarts["failed"], 0, unit="requests"),
        Target("longest wait over `litellmctl restart`", _event(ours, CTL_RESTART, "longest_wait"), 1, unit="s"),
        Target("a new configuration is live after", ours["live"], 2, unit="s"),
        Target("a dead worker is replaced after", _event(ours, KILL_WORKER, "recovered"), 1, unit="s"),
    ]  # fmt: skip


def reference(summary: Summary) -> Summary:
    """The load for the targets and the picture."""
    kind, level = REFERENCE
    found: Summary = summary["load"][kind][level]
    return found


def _start(summary: Summary) -> float | None:
    found: float | None = summary["start_ready"]
    return found


def _rate(summary: Summary) -> float | None:
    found: float | None = reference(summary)["rate"]
    return found


def _event(summary: Summary, name: str, what: str) -> float | None:
    found: float | None = summary["events"].get(name, {}).get(what)
    return found
