"""When a worker is due for a successor. Nothing is forked here."""

from __future__ import annotations

from pathlib import Path

import pytest

from litellm_systemd.runtime.channel import Beat, open_channel
from litellm_systemd.runtime.configuration import Configuration
from litellm_systemd.runtime.journal import Journal
from litellm_systemd.runtime.master.generation import Generation
from litellm_systemd.runtime.master.recycling import Recycling, choose, render_wear
from litellm_systemd.runtime.master.worker_handle import WorkerHandle
from litellm_systemd.runtime.options import Options

CONFIG = Path("/etc/litellm/config.yaml")


def worker(
    requests: int = 0, memory: int = 300, *, base: int = 300, born: float = 0.0, luck: float = 0.0
) -> WorkerHandle:
    process = WorkerHandle(1, 71, open_channel()[0], born)
    process.note(Beat(True, 0, 0, 0, base), born)
    process.note(Beat(True, 0, 0, requests, memory), born)
    process.luck = luck
    return process


@pytest.mark.parametrize(
    ("requests", "luck", "words"),
    [
        (999, 0.0, ""),
        (1000, 0.0, "after 1000 requests"),
        (1049, 0.5, ""),
        (1050, 0.5, "after 1050 requests"),
        (1099, 0.9999, ""),
        (1100, 0.9999, "after 1100 requests"),
    ],
)
def test_requests(requests: int, luck: float, words: str) -> None:
    """A worker is due at the limit and its own part of the jitter, and not before."""
    options = Options(config=CONFIG, max_requests=1000, jitter=100)
    assert render_wear(worker(requests, luck=luck), options) == words


@pytest.mark.parametrize(
    ("memory", "base", "words"),
    [(500, 300, ""), (501, 300, "at 501 MiB of memory"), (600, 500, ""), (0, 0, "")],
)
def test_memory(memory: int, base: int, words: str) -> None:
    """A worker is due above the limit, unless it began there: then a successor would be no smaller."""
    assert render_wear(worker(0, memory, base=base), Options(config=CONFIG, memory_limit=500)) == words


def test_never_unless_asked() -> None:
    """Without limits a worker stays for good."""
    assert choose([worker(10**9, 10**6)], Options(config=CONFIG)) is None


def test_the_oldest_goes_first() -> None:
    """Of several that are due it is the one that has served longest, whatever its place."""
    young, old = worker(50, born=20.0), worker(20, born=10.0)
    assert choose([young, old], Options(config=CONFIG, max_requests=10)) == (old, "after 20 requests")


def test_low_limit_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory limit that a fresh worker exceeds recycles nothing, and one warning says so."""
    said: list[str] = []
    monkeypatch.setattr(Journal, "line", lambda _self, _priority, text: said.append(text))
    generation = Generation(1, Configuration(CONFIG, "0" * 64, 1, {}), 1, lambda *_: worker(), 0.0)
    generation.fill(0.0)
    recycling = Recycling(Options(config=CONFIG, memory_limit=200), Journal(), lambda *_: None, lambda *_: None)
    for _ in range(2):
        recycling.begin(generation, 1.0)
    assert recycling.spare is None
    assert said == ["WORKER_MEMORY_LIMIT=200 is too low to recycle anything: a fresh worker has 300 MiB already"]
