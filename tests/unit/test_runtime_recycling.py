"""When a worker is due for recycling. No process is forked here."""

from __future__ import annotations

from pathlib import Path

import pytest

from litellm_systemd.runtime.activity import Activity
from litellm_systemd.runtime.channel import Heartbeat, open_channel
from litellm_systemd.runtime.journal import Journal
from litellm_systemd.runtime.master.worker_pool import (
    Generation,
    Recycling,
    WorkerHandle,
    render_reason,
    select_worker,
)
from litellm_systemd.runtime.options import Configuration, Options

CONFIG = Path("/etc/litellm/config.yaml")


def worker(
    requests: int = 0, memory: int = 300, *, initial: int = 300, started_at: float = 0.0, jitter: float = 0.0
) -> WorkerHandle:
    process = WorkerHandle(1, 71, open_channel()[0], Activity(), started_at)
    process.record(Heartbeat(True, 0, 0, 0, initial), started_at)
    process.record(Heartbeat(True, 0, 0, requests, memory), started_at)
    process.jitter_fraction = jitter
    return process


@pytest.mark.parametrize(
    ("requests", "jitter", "reason"),
    [
        (999, 0.0, ""),
        (1000, 0.0, "after 1000 requests"),
        (1049, 0.5, ""),
        (1050, 0.5, "after 1050 requests"),
        (1099, 0.9999, ""),
        (1100, 0.9999, "after 1100 requests"),
    ],
)
def test_request_limit(requests: int, jitter: float, reason: str) -> None:
    """A worker is due when it has served the limit plus its share of the jitter, and not before."""
    options = Options(config=CONFIG, max_requests=1000, jitter=100)
    assert render_reason(worker(requests, jitter=jitter), options) == reason


@pytest.mark.parametrize(
    ("memory", "initial", "reason"), [(500, 300, ""), (501, 300, "at 501 MiB of memory"), (600, 500, ""), (0, 0, "")]
)
def test_memory_limit(memory: int, initial: int, reason: str) -> None:
    """A worker is due above the limit, unless it started above it: its successor would be as large."""
    assert render_reason(worker(0, memory, initial=initial), Options(config=CONFIG, memory_limit=500)) == reason


@pytest.mark.parametrize(("seconds", "reason"), [(60.0, ""), (61.0, "after failing its health check for 61 s")])
def test_failed_health_checks(seconds: float, reason: str) -> None:
    """A worker whose event loop runs but that passes no health check is recycled, not killed."""
    unhealthy = worker()
    unhealthy.record(Heartbeat(True, 0, 0, 0, 300, seconds), 0.0)
    assert render_reason(unhealthy, Options(config=CONFIG, watchdog_timeout=30)) == reason


def test_no_limits() -> None:
    """Without limits no worker is recycled."""
    assert select_worker([worker(10**9, 10**6)], Options(config=CONFIG)) is None


def test_oldest_worker_is_first() -> None:
    """Of several workers that are due, the oldest is recycled first."""
    young, old = worker(50, started_at=20.0), worker(20, started_at=10.0)
    assert select_worker([young, old], Options(config=CONFIG, max_requests=10)) == (old, "after 20 requests")


def test_low_memory_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory limit that a new worker exceeds recycles no worker and logs one warning."""
    lines: list[str] = []
    monkeypatch.setattr(Journal, "line", lambda _self, _priority, text: lines.append(text))
    generation = Generation(1, Configuration(CONFIG, "0" * 64, 1, {}), 1, lambda *_: worker(), 0.0)
    generation.fill(0.0)
    recycling = Recycling(Options(config=CONFIG, memory_limit=200), Journal(), lambda *_: None, lambda *_: None)
    for _ in range(2):
        recycling.begin(generation, 1.0)
    assert recycling.replacement is None
    assert lines == ["WORKER_MEMORY_LIMIT=200 has no effect: a new worker already uses 300 MiB"]
