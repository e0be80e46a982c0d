"""Arithmetic from the cost of a request to a fleet: processors, instances, quotas and cost a month. Pure.

The prices are rounded list prices of us-east-1 for Linux on demand in 2026, written down and not fetched: check them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .table import Rows, as_markdown

#: What an agent does in a turn: it waits for the first event, reads the stream, and runs tools.
_WAIT, _EVENTS, _RATE, _TOOLS = 2.0, 400, 50.0, 5.0
#: Seconds of a turn.
TURN_TIME = _WAIT + _EVENTS / _RATE + _TOOLS
#: Tokens of a turn that count for Bedrock's quota: the prompt without what is read from its cache, and the answer,
#: of which each token counts five times (Claude 3.7 and later).
_QUOTA_TOKENS = 3_000 + 5 * _EVENTS
#: Bytes of a turn through the load balancer: the conversation in, the events out.
_BYTES = 240_000 + _EVENTS * 300
#: The share of the processors that is busy with all zones; with one of three lost it is three quarters.
BUSY = 0.5
_ZONES = 3
_HOURS = 730
STEPS = (10, 100, 1_000, 10_000)


@dataclass(frozen=True, slots=True)
class Turn:
    """An API: processor seconds of a request with a long prompt, and of an event with its part of the end."""

    title: str
    request: float
    event: float

    @property
    def processor(self) -> float:
        """Processor seconds of a whole turn."""
        return self.request + _EVENTS * self.event


@dataclass(frozen=True, slots=True)
class Shared:
    """Of one chat with Redis or PostgreSQL: processor seconds of the worker, and of the service, and its commands or
    transactions.
    """

    worker: float
    work: float
    number: float


@dataclass(frozen=True, slots=True)
class _Step:
    """What a number of agents gets. `services`: dollars an hour of Redis and PostgreSQL, each in two zones."""

    instance: str
    processors: int
    price: float
    services: str
    services_price: float
    bottleneck: str


#: By number of agents: the instance type, its vCPUs and price an hour; Redis and PostgreSQL; what fails first.
_STEPS = {
    10: _Step("m7g.large", 2, 0.08, "none", 0.0, "Bedrock's quota of a new account"),
    100: _Step("m7g.large", 2, 0.08, "cache.t4g.small, db.t4g.medium", 0.18, "Bedrock's tokens a minute"),
    1_000: _Step("m7g.2xlarge", 8, 0.33, "cache.m7g.large, db.m7g.large", 0.60, "Bedrock's tokens a minute"),
    10_000: _Step(
        "m7g.4xlarge", 16, 0.65, "cache.m7g.xlarge, db.m7g.2xlarge", 1.85, "Bedrock: several accounts or regions"
    ),
}
#: Dollars: a load balancer an hour; a GB through it, and a GB through the VPC endpoint of Bedrock.
_BALANCER, _BALANCER_GB, _ENDPOINT_GB = 0.0225, 0.008, 0.01


def instances(agents: int, turn: Turn, processors: int) -> int:
    """The number of instances: one for a few agents, else a multiple of the zones."""
    needed = agents / TURN_TIME * turn.processor / BUSY / processors
    if agents <= STEPS[0]:
        return max(1, math.ceil(needed))
    return _ZONES * max(1, math.ceil(needed / _ZONES))


def monthly_cost(agents: int, turn: Turn) -> float:
    """Dollars a month for instances, load balancer, traffic, Redis and PostgreSQL, without the models."""
    step = _STEPS[agents]
    hourly = instances(agents, turn, step.processors) * step.price + step.services_price
    if agents > STEPS[0]:
        traffic = agents / TURN_TIME * _BYTES * 3600 / 1e9
        hourly += _BALANCER + traffic * (_BALANCER_GB + _ENDPOINT_GB)
    return hourly * _HOURS


def render_plan(turns: Sequence[Turn], redis: Shared, database: Shared) -> str:
    """Three tables: processors by API, the load of what the instances share, and the fleet for the first API."""
    load: Rows = [
        ["agents", "requests a second", "events a second", *(f"busy processors, {each.title}" for each in turns)]
    ]
    shared: Rows = [["agents", "commands a second", "busy processor", "transactions a second", "busy processors"]]
    fleet: Rows = [
        [
            "agents",
            "instances",
            "Redis, PostgreSQL",
            "tokens a minute of the quota",
            "dollars a month",
            "first bottleneck",
        ]
    ]
    for agents in STEPS:
        rate, step = agents / TURN_TIME, _STEPS[agents]
        load.append(
            [
                f"{agents:,}",
                f"{rate:,.1f}",
                f"{rate * _EVENTS:,.0f}",
                *(f"{rate * each.processor:,.1f}" for each in turns),
            ]
        )
        numbers = [(f"{rate * each.number:,.0f}", f"{rate * each.work:,.2f}") for each in (redis, database)]
        shared.append([f"{agents:,}", *(cell for pair in numbers for cell in pair)])
        count = instances(agents, turns[0], step.processors)
        tokens = rate * 60 * _QUOTA_TOKENS / 1e6
        cost = f"{monthly_cost(agents, turns[0]):,.0f}"
        fleet.append(
            [
                f"{agents:,}",
                f"{count} x {step.instance}",
                step.services,
                f"{tokens:,.1f} million",
                cost,
                step.bottleneck,
            ]
        )
    return (
        f"{as_markdown(load)}\nRedis (the first two columns) and PostgreSQL (the others):\n\n{as_markdown(shared)}\n"
        f"The fleet for {turns[0].title}:\n\n{as_markdown(fleet)}"
    )
