"""`python -m tests.bench.scale`: how many agents a worker serves, measured and simulated (docs/scale.md).

No box and no root. One worker runs on the first processor; the clients and the upstream run on the second one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import os
import random
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import box_images
import uvloop

from tests.database import Cluster, why_no_database
from tests.integration.runtime_service import KEY
from tests.processes import descendants, processor, processor_of_tree, proportional_memory
from tests.redis import Redis, why_no_redis

from .figures import percentile
from .inside.chat import build_request
from .queueing import Agents, Cost, Outcome, simulate
from .sizing import Shared, Turn, render_plan
from .stream_figures import CHAT, MESSAGES, RESPONSES, Case
from .streams import OURS_ONE, Running, Stream, run_direct, run_peer, run_upstream, settle
from .table import Rows, as_markdown, here_and_now, say, write_between_markers

#: An agent of the measured run. The upstream answers at once, as the time to a model's first event adds no work.
AGENTS = Agents(count=1, think=2.0, wait=0.0, events=100, pause=0.02)
#: The shares of the processor's time that the measured runs are meant to need.
LEVELS = (0.3, 0.6, 0.8, 0.9)
#: The share of a stream's processor time that LiteLLM spends after its end, in stream_chunk_builder.
_END_SHARE = 0.25
_PAGE = box_images.REPOSITORY / "docs/scale.md"
#: Bytes of a prompt with a long conversation: 60,000 tokens.
_LONG_PROMPT = 240_000
#: Chats over which the work of Redis and PostgreSQL is counted, with that of the health checks.
_CHATS = 100
#: Seconds over which an idle service is watched.
_IDLE = 5
#: With fewer requests, the percentile of 99 is the slowest one.
_FOR_P99 = 100
#: Seconds: LiteLLM writes spend to the database every 10 to 15.
_WRITES = 16


@dataclass(frozen=True, slots=True)
class Run:
    """A number of agents, and what was measured and simulated for them."""

    agents: int
    measured: Outcome
    simulated: Outcome
    failures: int


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. The exit code reports whether it could measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__)
    parser.add_argument("--seconds", type=float, default=40, help="seconds of each measured run (default: 40)")
    parser.add_argument("--record", action="store_true", help="write the tables in docs/scale.md")
    options = parser.parse_args(argv)
    if (missing := why_no_redis() or why_no_database()) is not None:
        parser.error(missing)
    if len(os.sched_getaffinity(0)) < 2:
        parser.error("two processors are needed: one for the worker, one for clients and upstream")
    busy = os.getloadavg()[0]
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(run_upstream())
        service = stack.enter_context(run_peer(OURS_ONE, upstream.port))
        _pin(descendants(service.pid), 0)
        _pin([upstream.pid, os.getpid()], 1)
        direct = percentile(uvloop.run(run_direct(upstream, 1)), 0.5)
        costs = {case: _calibrate(service, case, direct) for case in (CHAT, MESSAGES, RESPONSES)}
        short, prompt = _measure_alone(upstream)
        redis, database = _measure_redis(upstream), _measure_database(upstream)
        runs = [_run(service, costs[CHAT], level, options.seconds, direct) for level in LEVELS]
        memory = sum(map(proportional_memory, descendants(service.pid)))
    head = f"{here_and_now()}. Load of the machine before: {busy:.1f}.\n"
    tables = {
        "costs": f"{head}\n{_render_costs(costs, prompt, memory)}\n{_render_shared(short, redis, database)}",
        "simulation": _render_runs(runs),
        "plan": render_plan([_turn(case, cost, prompt) for case, cost in costs.items()], redis, database),
    }
    for name, text in tables.items():
        sys.stdout.write(f"{text}\n")
        if options.record:
            write_between_markers(_PAGE, text, name)
    return 0


def _pin(pids: Sequence[int], number: int) -> None:
    """Run all threads of the processes on one processor: the first or the second of those that are allowed."""
    allowed = sorted(_ALLOWED)
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {allowed[number]})


_ALLOWED = frozenset(os.sched_getaffinity(0))


# --- costs ---


def _calibrate(service: Running, case: Case, direct: float) -> Cost:
    """The cost of each task of one API, from streams of one agent, which never wait for each other."""
    say(f"* {case.title}: the cost of its tasks")
    events = AGENTS.events
    _processor_of(service, case, events=5, pause=0, times=5)
    single = _processor_of(service, case, events=1, pause=0, times=20)
    alone = _processor_of(service, case, events=events, pause=AGENTS.pause, times=5)
    together = _processor_of(service, case, events=events, pause=0, times=10)
    first = percentile([_first(service, case) for _ in range(20)], 0.5) - direct
    end = _END_SHARE * (alone - single)
    event = (alone - single - end) / (events - 1)
    more = max(0.0, (together - single - end) / (events - 1))
    return Cost(request=first - event, event=event, more=min(event, more), end=end + max(0.0, single - first))


def _processor_of(service: Running, case: Case, *, events: int, pause: float, times: int, padding: int = 0) -> float:
    """Processor seconds of one stream: the mean of several, one after the other, without those of an idle service."""
    _idle(service.pid)

    async def work() -> float:
        processes = descendants(service.pid)
        stream = await Stream.open(service.port)
        request = build_turn(case, events, pause, padding)
        before, begin = await settle(processes), time.monotonic()
        for _ in range(times):
            await _ask(stream, request, events)
        used = await settle(processes) - before
        idle = _idle(service.pid) * (time.monotonic() - begin)
        stream.close()
        return (used - idle) / times

    return uvloop.run(work())


@functools.cache
def _idle(pid: int) -> float:
    """Processor seconds that a service without requests takes in a second."""
    processes = descendants(pid)
    time.sleep(_IDLE)  # for what a start leaves to do
    before = processor(processes)
    time.sleep(_IDLE)
    return (processor(processes) - before) / _IDLE


def _measure_alone(upstream: Running) -> tuple[float, float]:
    """Processor seconds of a short chat, and what a long prompt adds, of a service that has served little."""
    say("* the cost of a prompt")
    with run_peer(OURS_ONE, upstream.port) as service:
        _pin(descendants(service.pid), 0)
        _processor_of(service, CHAT, events=1, pause=0, times=20)
        short = _processor_of(service, CHAT, events=1, pause=0, times=_CHATS)
        return short, _processor_of(service, CHAT, events=1, pause=0, times=50, padding=_LONG_PROMPT) - short


def _measure_redis(upstream: Running) -> Shared:
    """What Redis adds to a short chat with the master key."""
    say("* the cost of Redis")

    def read(name: str) -> float:
        return sum(
            float(each) for each in re.findall(rf"^{name}:([\d.]+)", redis.execute("INFO", "all"), re.MULTILINE)
        )

    with Redis() as redis, run_peer(OURS_ONE, upstream.port, **redis.variables()) as service:
        _pin(descendants(service.pid), 0)
        _processor_of(service, CHAT, events=1, pause=0, times=20)
        commands, used = read("total_commands_processed"), read("used_cpu_(?:sys|user)")
        worker = _processor_of(service, CHAT, events=1, pause=0, times=_CHATS)
        return Shared(
            worker,
            (read("used_cpu_(?:sys|user)") - used) / _CHATS,
            (read("total_commands_processed") - commands) / _CHATS,
        )


def _measure_database(upstream: Running) -> Shared:
    """What PostgreSQL adds to a short chat with the master key, with the writing of its spend.

    Without the query engine, as the tests have a stand-in for it.
    """
    say("* the cost of PostgreSQL")
    with Cluster() as cluster:
        database = cluster.create_database()

        def transactions() -> int:
            ((count,),) = database.execute(
                "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
            )
            return int(count)

        with run_peer(OURS_ONE, upstream.port, **database.variables()) as service:
            _pin(descendants(service.pid), 0)
            _processor_of(service, CHAT, events=1, pause=0, times=20)
            time.sleep(_WRITES)
            ours = [pid for pid in descendants(service.pid) if not _is_engine(pid)]
            before, begin = (processor(ours), processor_of_tree(cluster.pid), transactions()), time.monotonic()
            _processor_of(service, CHAT, events=1, pause=0, times=_CHATS)
            time.sleep(_WRITES)
            after = processor(ours), processor_of_tree(cluster.pid), transactions()
            worker, work, number = (new - old for new, old in zip(after, before, strict=True))
            worker -= _idle(service.pid) * (time.monotonic() - begin)
            return Shared(worker / _CHATS, work / _CHATS, number / _CHATS)


def _is_engine(pid: int) -> bool:
    return b"prisma_engine" in Path(f"/proc/{pid}/cmdline").read_bytes()


def _first(service: Running, case: Case) -> float:
    async def work() -> float:
        stream = await Stream.open(service.port)
        began = time.monotonic()
        first = await _ask(stream, build_turn(case, 1, 0), 1)
        stream.close()
        await asyncio.sleep(0.1)
        return first - began

    return uvloop.run(work())


def build_turn(case: Case, events: int, pause: float, padding: int = 0) -> bytes:
    """A request for a stream, with so many bytes of conversation before it."""
    prompt = f"{'word ' * (padding // 5)}STREAM {events} EVENTS" + (f" EVERY {pause * 1000:g} MS" if pause else "")
    messages = [{"role": "user", "content": prompt}]
    name = "input" if case is RESPONSES else "messages"
    body: dict[str, object] = {"model": case.model, "stream": True, "max_tokens": 4096, name: messages}
    if case is RESPONSES:
        del body["max_tokens"]
    return build_request("POST", case.path, json.dumps(body).encode(), KEY)


async def _ask(stream: Stream, request: bytes, events: int) -> float:
    """When the first event arrived. Raises ConnectionError if the stream is not complete."""
    stream.first, stream.words = None, 0
    await stream.ask(request)
    if stream.status != 200 or stream.first is None or stream.words < events:
        raise ConnectionError(f"HTTP {stream.status}, {stream.words} of {events} events: {stream.body!r}")
    return stream.first


# --- agents ---


def _run(service: Running, cost: Cost, level: float, seconds: float, direct: float) -> Run:
    """Measure and simulate so many agents that they need that share of the processor."""
    turn = AGENTS.think + AGENTS.events * AGENTS.pause
    work = cost.request + AGENTS.events * cost.event + cost.end
    agents = replace(AGENTS, count=max(1, round(level * turn / work)))
    say(f"* {agents.count} agents: measure and simulate")
    measured, failures = uvloop.run(_measure(service, agents, seconds, direct))
    simulated = simulate(agents, cost, 1, 4 * seconds)
    return Run(agents.count, measured, replace(simulated, busy=simulated.busy + _idle(service.pid)), failures)


async def _measure(service: Running, agents: Agents, seconds: float, direct: float) -> tuple[Outcome, int]:
    processes = descendants(service.pid)
    begin = time.monotonic()
    warm, end = begin + seconds / 3, begin + seconds * 4 / 3
    added: list[float] = []
    failures = 0

    async def act(number: int) -> None:
        nonlocal failures
        chance = random.Random(number)
        request = build_turn(CHAT, agents.events, agents.pause)
        stream = await Stream.open(service.port)
        while True:
            await asyncio.sleep(chance.expovariate(1 / agents.think))
            if (began := time.monotonic()) > end:
                stream.close()
                return
            try:
                first = await _ask(stream, request, agents.events)
            except (OSError, asyncio.TimeoutError):
                failures += began >= warm
                stream.close()
                stream = await Stream.open(service.port)
                continue
            if began >= warm:
                added.append(first - began - direct)

    async def watch() -> float:
        await asyncio.sleep(warm - time.monotonic())
        before = processor(processes)
        await asyncio.sleep(end - time.monotonic())
        return (processor(processes) - before) / seconds

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(act(number) for number in range(agents.count)))
    busy = await watching
    return Outcome(tuple(added), busy), failures


# --- tables ---


def _turn(case: Case, cost: Cost, prompt: float) -> Turn:
    return Turn(case.title, cost.request + prompt, cost.event + cost.end / AGENTS.events)


def _render_costs(costs: dict[Case, Cost], prompt: float, memory: float) -> str:
    rows: Rows = [["processor time (ms)", "request", "event", "further event of a read", "end of 100 events"]]
    rows += [
        [case.title, *(f"{each * 1000:.2f}" for each in (cost.request, cost.event, cost.more, cost.end))]
        for case, cost in costs.items()
    ]
    return (
        f"{as_markdown(rows)}\nA prompt of {_LONG_PROMPT // 1000} KB adds {prompt * 1000:.1f} ms to a chat."
        f" The service has {memory:.0f} MB of memory (PSS) with one worker, after the runs below.\n"
    )


def _render_shared(alone: float, redis: Shared, database: Shared) -> str:
    rows: Rows = [["of a chat with the master key", "more in the worker", "in the service", "number"]]
    for title, cost, what in (("Redis", redis, "commands"), ("PostgreSQL", database, "transactions")):
        more, work = (f"{each * 1000:.1f} ms" for each in (cost.worker - alone, cost.work))
        rows.append([title, more, work, f"{cost.number:.1f} {what}"])
    return as_markdown(rows)


def _render_runs(runs: Sequence[Run]) -> str:
    rows: Rows = [
        ["agents", "processor: measured", "simulated", "p50: measured", "simulated", "p99: measured", "simulated"]
    ]
    for run in runs:
        both = (run.measured, run.simulated)
        rows.append([str(run.agents), *(f"{each.busy:.0%}" for each in both)])
        for share in (0.5, 0.99):
            rows[-1] += [f"{percentile(each.added, share) * 1000:.0f} ms" for each in both]
        if len(run.measured.added) < _FOR_P99:
            rows[-1][-2] += " (slowest)"
    failed = sum(run.failures for run in runs)
    total = sum(len(run.measured.added) for run in runs)
    return f"{as_markdown(rows)}\nFailed: {failed} of {total + failed:,} measured requests.\n"


if __name__ == "__main__":
    sys.exit(main())
