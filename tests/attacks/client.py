"""A client with a key, and what it notices of an attack."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from tests.bench.inside.chat import Connection, build_request
from tests.processes import descendants, forget_peak_memory, peak_memory

from .__main__ import KEY_VARIABLE

_REPOSITORY = Path(__file__).resolve().parents[2]
#: The attack comes from another address than the client, as an attacker does.
SOURCE = "127.0.0.66"
#: Requests a second: a twentieth of what one processor answers.
_RATE = 10.0
#: Seconds that the client keeps an idle connection: like every client's, it is less than the service does.
_KEEP = 0.5
#: Seconds that the client goes on after the attack, whose effects may last.
_AFTER = 0.5


@dataclass(slots=True)
class Service:
    """A running gateway on 127.0.0.1: its port, the pids of its main processes, a right key and a model."""

    port: int
    pids: tuple[int, ...]
    key: str
    model: str

    def processes(self) -> list[int]:
        return [each for pid in self.pids for each in descendants(pid)]

    @property
    def request(self) -> bytes:
        body = {"model": self.model, "messages": [{"role": "user", "content": "hi"}]}
        return build_request("POST", "/v1/chat/completions", json.dumps(body).encode(), self.key)


@dataclass(slots=True)
class Noticed:
    """The seconds of each answered request, and the number of failures by cause."""

    latencies: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def p99(self) -> float:
        ordered = sorted(self.latencies)
        return ordered[int(len(ordered) * 0.99)] if ordered else 0.0

    @property
    def worst(self) -> float:
        return max(self.latencies, default=0.0)


@dataclass(slots=True)
class Measured:
    """Attacks, what the client with a key noticed of them, and the growth of the service.

    Attributes:
        outcomes: by attack, the fields of `attacks.Outcome`, and as `succeeded` whether it had the effect that a
            protection prevents.
        noticed: what the client noticed meanwhile.
        growth: the largest memory of a process during the attack, as a multiple of the one before.
        peak: the sum of the largest memory of all processes in bytes.
    """

    outcomes: dict[str, dict[str, Any]]
    noticed: Noticed
    growth: float
    peak: int

    @property
    def succeeded(self) -> set[str]:
        return {name for name, outcome in self.outcomes.items() if outcome["succeeded"]}


def watch(service: Service, is_over: Callable[[], bool], rate: float = _RATE) -> Noticed:
    """Send `rate` requests a second until `is_over`: half of them on kept connections, half on new ones."""
    return uvloop.run(_watch(service, is_over, rate))


def attack(service: Service, names: Iterable[str], *options: str, rate: float = _RATE) -> Measured:
    """Run `python -m tests.attacks` in a process of its own, and a client with a key meanwhile."""
    pids = service.processes()
    forget_peak_memory(pids)
    before = peak_memory(pids)
    command = (sys.executable, "-m", "tests.attacks", "--port", str(service.port), "--source", SOURCE)
    with subprocess.Popen(
        (*command, "--attack", *names, *options),
        cwd=_REPOSITORY,
        env={**os.environ, KEY_VARIABLE: service.key},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        ended: list[float] = []

        def is_over() -> bool:
            if process.poll() is not None and not ended:
                ended.append(time.monotonic())
            return bool(ended) and time.monotonic() > ended[0] + _AFTER

        noticed = watch(service, is_over, rate)
        text, _ = process.communicate()
    outcomes = json.loads(text)
    after = peak_memory(service.processes())
    growth = max(after[pid] / before[pid] for pid in after if pid in before)
    return Measured(outcomes, noticed, growth, sum(after.values()))


async def _watch(service: Service, is_over: Callable[[], bool], rate: float) -> Noticed:
    noticed = Noticed()
    kept: list[tuple[float, Connection]] = []
    tasks: set[asyncio.Task[None]] = set()
    request, begin, number = service.request, time.monotonic(), 0
    while not is_over():
        # A late answer delays no later request: the others of a team do not wait for it either.
        task = asyncio.create_task(_ask(service.port, request, kept if number % 2 else None, noticed))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        number += 1
        await asyncio.sleep(max(0.0, begin + number / rate - time.monotonic()))
    await asyncio.gather(*tasks)
    for _, connection in kept:
        connection.close()
    return noticed


async def _ask(port: int, request: bytes, kept: list[tuple[float, Connection]] | None, noticed: Noticed) -> None:
    """Send one request, on a connection of `kept` or on a new one."""
    begin = time.monotonic()
    try:
        connection = _take_open(kept or []) or await Connection.open(port)
        await connection.ask(request)
    except (OSError, asyncio.TimeoutError) as error:
        noticed.failures[str(error) or type(error).__name__] += 1
        return
    if connection.status != 200:
        noticed.failures[f"HTTP {connection.status}"] += 1
    else:
        noticed.latencies.append(time.monotonic() - begin)
    if kept is not None and not connection.closed:
        kept.append((time.monotonic(), connection))
    else:
        connection.close()


def _take_open(kept: list[tuple[float, Connection]]) -> Connection | None:
    """A kept connection that the service is not about to close."""
    while kept:
        since, connection = kept.pop()
        if not connection.closed and time.monotonic() < since + _KEEP:
            return connection
        connection.close()
    return None
