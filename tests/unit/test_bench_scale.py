"""The simulation of agents and the arithmetic of a fleet (tests/bench)."""

from __future__ import annotations

import re
import statistics
from dataclasses import replace

import pytest

from tests.bench.queueing import Agents, Cost, simulate
from tests.bench.sizing import STEPS, TURN_TIME, Shared, Turn, instances, monthly_cost, render_plan

_COST = Cost(request=0.010, event=0.001, more=0.0005, end=0.020)
_AGENTS = Agents(count=1, think=2.0, wait=0.5, events=100, pause=0.02)


def test_single_agent_never_waits() -> None:
    """A single agent gets each first event after the time of its own tasks."""
    outcome = simulate(_AGENTS, _COST, workers=1, seconds=300)
    assert len(outcome.added) > 10
    assert outcome.added == pytest.approx([0.011] * len(outcome.added))


@pytest.mark.parametrize("busy", [0.3, 0.6, 0.8])
def test_wait_is_that_of_theory(busy: float) -> None:
    """Requests of many agents wait as in an M/D/1 queue, by the formula of Pollaczek and Khinchine."""
    cost = Cost(request=0.010, event=0.0, more=0.0, end=0.0)
    think = 50.0
    agents = Agents(count=round(busy * think / cost.request), think=think, wait=0.0, events=1, pause=0.0)
    outcome = simulate(agents, cost, workers=1, seconds=1_000)
    # An event that costs nothing waits for the requests that arrived while its own was in the queue (Little's law).
    expected = cost.request * (1 + busy / (2 * (1 - busy))) * (1 + busy)
    assert outcome.busy == pytest.approx(busy, rel=0.03)
    assert statistics.fmean(outcome.added) == pytest.approx(expected, rel=0.06)


def test_workers_share_the_agents() -> None:
    """Two workers serve twice the agents with the same waits."""
    one = simulate(replace(_AGENTS, count=20), _COST, workers=1, seconds=200)
    two = simulate(replace(_AGENTS, count=40), _COST, workers=2, seconds=200)
    assert two.busy == pytest.approx(one.busy, rel=0.05)
    assert statistics.fmean(two.added) == pytest.approx(statistics.fmean(one.added), rel=0.2)


def test_overload_is_bounded() -> None:
    """More agents than a worker serves keep it busy, and the waits grow without the simulation taking for ever."""
    outcome = simulate(replace(_AGENTS, count=400), _COST, workers=1, seconds=60)
    assert outcome.busy == pytest.approx(1.0, abs=0.1)
    assert max(outcome.added) > 1


def test_fleet_grows_with_the_agents() -> None:
    """The instances carry the load at half of their processors, in three zones, and cost more the more there are."""
    turn = Turn("chat", request=0.02, event=0.0005)
    assert instances(10, turn, 2) == 1
    for agents, processors in ((100, 2), (1_000, 8), (10_000, 16)):
        number = instances(agents, turn, processors)
        assert number % 3 == 0
        assert agents / TURN_TIME * turn.processor <= number * processors / 2
    costs = [monthly_cost(agents, turn) for agents in STEPS]
    assert costs == sorted(costs)
    plan = render_plan([turn], Shared(0.01, 0.0001, 9), Shared(0.01, 0.001, 2))
    assert re.search(r"10,000 +\| 6,000 +\| 0.07 +\| 1,333 +\| 0.67 ", plan)
