"""A simulation of agents and workers: how long requests wait for each other in the event loops. Pure.

A worker is one event loop: it works on one task at a time, in the order of arrival, and never interrupts one. An
agent sends a request, reads the stream to its end, thinks, and sends the next one on the same connection, thus to the
same worker. Three kinds of tasks take the time of the worker: a request, the events of its stream, and the accounting
after the end. The upstream is never a bottleneck: it sends its events on time, whether the worker reads them or not.
Events that wait for the worker are read together, which costs less than one by one.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Cost:
    """The processor time of each task, in seconds.

    Attributes:
        request: from the request to the call of the upstream.
        event: one event that arrives alone.
        more: each further event that is read together with it.
        end: the accounting after the last event.
    """

    request: float
    event: float
    more: float
    end: float


@dataclass(frozen=True, slots=True)
class Agents:
    """What each agent does, and how many there are. Times are in seconds.

    Attributes:
        count: agents at once.
        think: the mean time from the end of a stream to the next request, with an exponential distribution.
        wait: from the call of the upstream to its first event.
        events: the events of a stream.
        pause: the time between two events.
    """

    count: int
    think: float
    wait: float
    events: int
    pause: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds that the gateway adds to the first event of each request, and the share of time in which it works."""

    added: tuple[float, ...]
    busy: float


class _Kind(NamedTuple):
    """Which task of which stream. `number` counts the requests of the agent."""

    name: str
    number: int = 0
    event: int = 0


@dataclass(slots=True)
class _Stream:
    began: float = 0.0
    #: When the request task ended and when the first event arrived at the worker.
    called: float = 0.0
    #: When the worker starts on the events that wait; those that arrive before are read together.
    starts: float = 0.0
    done: float = 0.0


def simulate(agents: Agents, cost: Cost, workers: int, seconds: float, seed: int = 1) -> Outcome:
    """Run the agents for that time, after a third of it to warm up. The same seed gives the same outcome."""
    chance = random.Random(seed)
    free = [0.0] * workers
    used = [0.0] * workers
    streams: dict[int, _Stream] = defaultdict(_Stream)
    order = itertools.count()
    queue: list[tuple[float, int, int, _Kind]] = []
    warm = seconds / 3
    added: list[float] = []

    def at(time: float, agent: int, kind: _Kind) -> None:
        heapq.heappush(queue, (time, next(order), agent, kind))

    def work(now: float, agent: int, amount: float) -> tuple[float, float]:
        """The start and the end of a task that arrives now."""
        worker = agent % workers
        start = max(now, free[worker])
        free[worker] = start + amount
        if now >= warm:
            used[worker] += amount
        return start, free[worker]

    for agent in range(agents.count):
        at(chance.expovariate(1 / agents.think), agent, _Kind("request"))
    while queue and queue[0][0] < warm + seconds:
        now, _, agent, kind = heapq.heappop(queue)
        stream = streams[agent]
        if kind.name == "request":
            stream.began = now
            _, stream.called = work(now, agent, cost.request)
            stream.starts = 0.0
            at(stream.called + agents.wait, agent, _Kind("event", kind.number))
            continue
        if stream.starts > now:
            free[agent % workers] += cost.more
            used[agent % workers] += cost.more if now >= warm else 0.0
            stream.done += cost.more
        else:
            stream.starts, stream.done = work(now, agent, cost.event)
        if kind.event == 0 and stream.began >= warm:
            added.append(stream.done - stream.began - agents.wait)
        if kind.event + 1 < agents.events:
            due = stream.called + agents.wait + (kind.event + 1) * agents.pause
            at(due, agent, _Kind("event", kind.number, kind.event + 1))
        else:
            work(stream.done, agent, cost.end)
            at(stream.done + chance.expovariate(1 / agents.think), agent, _Kind("request", kind.number + 1))
    return Outcome(tuple(added), sum(used) / workers / seconds)
