"""How the benchmark summarizes its measurements. The measurements themselves are never asserted."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.bench.figures import Target, judge, median, percentile, ratio, summarize, summarize_events, summarize_load


def build_round(start: float = 5.0, latency: float = 0.1, failed: int = 0) -> dict[str, Any]:
    load = {"latencies": [latency] * 100, "answered": 100, "failures": {}, "seconds": 2.0, "client_processor": 0.1}
    event = {"returned": 1.0, "recovered": 0.5, "code": 0}
    siege = {
        "answered": 50,
        "failures": {"refused": failed} if failed else {},
        "longest_wait": 0.8,
        "longest_gap": 0.9,
        "events": [event],
    }
    return {
        "start": {"ready": start, "returned": start},
        "memory": {"pss": 400.0},
        "load": {"json": {"16": summarize_load(load)}},
        "live": {"live": 1.5, "stale": 0},
        "events": {"litellmctl restart": siege, "kill -9 of a worker": siege},
    }


def build_summaries(**ours: Any) -> dict[str, Any]:
    plain = summarize([build_round()])
    mine = summarize([build_round(**ours)])
    siege = mine["events"]["litellmctl restart"]
    return {"plain1": plain, "plain2": plain, "ours": mine | {"twenty_reloads": siege, "ten_restarts": siege}}


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.0, 1)])
def test_percentile_is_a_measured_value(share: float, expected: int) -> None:
    """A percentile is the smallest measured value that is not exceeded by that share of all values, in any order."""
    assert percentile(list(range(100, 0, -1)), share) == expected


def test_missing_measurement() -> None:
    """A missing measurement is never 0: a percentile of it is NaN, a median or a ratio None."""
    assert math.isnan(percentile([], 0.5))
    assert (median([None]), ratio(None, 2.0), ratio(2.0, None), ratio(2.0, 0.0)) == (None, None, None, None)


def test_rounds_are_summarized() -> None:
    """Of several rounds, times are medians, failed requests are sums, and waits are maxima."""
    found = summarize([build_round(start=4), build_round(start=9, failed=3), build_round(start=5, failed=1)])
    event = found["events"]["litellmctl restart"]
    assert (found["start_ready"], event["failed"], event["answered"], event["times"]) == (5, 4, 150, 3)
    assert (event["longest_wait"], found["load"]["json"]["16"]["rate"]) == (0.8, 50)


def test_never_recovered_has_no_time() -> None:
    """If the service did not recover from one event, there is no recovery time, however short the others were."""
    sieges = [build_round()["events"]["litellmctl restart"] for _ in range(2)]
    sieges[1]["events"] = [{"returned": 1.0, "recovered": None, "code": 1}]
    found = summarize_events(sieges)
    assert (found["recovered"], found["refused_commands"]) == (None, 1)


@pytest.mark.parametrize(
    ("target", "verdict"),
    [
        (Target("t", 0.75, 0.75), "reached"),
        (Target("t", 0.9, 0.75), "missed by 0.15 x (20.0%)"),
        (Target("t", 1.9, 1.9, at_least=True), "reached"),
        (Target("t", 1.71, 1.9, at_least=True), "missed by 0.19 x (10.0%)"),
        (Target("t", 3, 0, unit="requests"), "missed by 3 requests"),
        (Target("t", None, 1), "not measured"),
    ],
)
def test_verdict_has_the_difference(target: Target, verdict: str) -> None:
    """A target is reached at its limit, a missed one has the difference, and an unmeasured one is not reached."""
    assert (target.verdict, target.reached) == (verdict, verdict == "reached")


def test_targets_are_relative_to_the_peers() -> None:
    """A start in half the time reaches its targets, equal figures miss them, and a lost request counts."""
    verdicts = {target.name: target.reached for target in judge(build_summaries(start=2.5, failed=1))}
    assert verdicts == {
        "start to ready, of one plain worker": True,
        "start to ready, of two plain workers": True,
        "memory (PSS), of two plain workers": False,
        "p99, of two plain workers": False,
        "answers a second, of one plain worker": False,
        "answers a second, of two plain workers": False,
        "failed over 1 reloads": False,
        "failed over 1 restarts": False,
        "longest wait over `litellmctl restart`": True,
        "a new configuration is live after": True,
        "a dead worker is replaced after": True,
    }
