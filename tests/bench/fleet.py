"""`sudo .venv/bin/python -m tests.bench.fleet`: three instances behind HAProxy, quiet and during rolling restarts.

The instances, HAProxy, Redis, PostgreSQL, the fake Amazon Bedrock and the clients share the processors of this
machine: more instances do not make it faster, and a start takes the processor from all others.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import box_images
from box import Box, Namespaces
from fleet import Fleet, started
from fleet_load import Outcome, loaded
from service import ctl

from .command_line import run
from .table import as_markdown, here_and_now, say

_INSTANCES = 3
#: Seconds of a load, unless an event takes longer.
_SECONDS = 60
#: Seconds between two requests of a client.
_PAUSE = 1.0
#: Events of the shortest stream, in one and a half seconds.
_LENGTH = 15
#: How many times longer the slowest percent of requests may take during a rolling restart.
_TARGET = 3


def main(argv: Sequence[str] | None = None) -> int:
    return run("fleet", __doc__.partition("\n")[0], 1, _measure, argv)


def _measure(rounds: int) -> str:
    with Namespaces() as namespaces, tempfile.TemporaryDirectory() as scratch:
        say("* an image with a database")
        with Box(namespaces, box_images.host_image()) as box:
            box_images.install_demo(box)
            installed = box.save()
        with Box(namespaces, installed) as box:
            box_images.install_database(box, Path(scratch) / "query-engine")
            base = box.save()
        rates, percentiles = [["instances", "chats a second"]], [["", "chats, p99", "streams, p99", "failed"]]
        with started(namespaces, base, {}, 1) as fleet:
            bearer = fleet.generate_key()
            for count in range(1, _INSTANCES + 1):
                say(f"* {count} instances")
                rates.append([str(count), f"{_rate(fleet, bearer):.0f}"])
                if count < _INSTANCES:
                    fleet.servers.wait_for(*fleet.boxes, *fleet.add())
            quiet: dict[bool, float] = {}
            for title, event in _EVENTS * rounds:
                say(f"* {title}")
                percentiles.append(_row(title, _observe(fleet, bearer, event), quiet))
    return "\n".join((here_and_now(), "", as_markdown(rates), as_markdown(percentiles)))


def _rate(fleet: Fleet, bearer: str) -> float:
    """The correct chats a second of 32 clients, each of which sends the next one at once."""
    with loaded(fleet, bearer, pause=0, streams=False, events=_LENGTH) as load:
        begin, before = time.monotonic(), len(load.outcomes)
        time.sleep(_SECONDS / 2)
        seconds, outcomes = time.monotonic() - begin, load.outcomes[before:]
    return sum(not each.failure for each in outcomes) / seconds


def _observe(fleet: Fleet, bearer: str, event: Callable[[Fleet], None]) -> list[Outcome]:
    """The requests that begin during an event, and for at least a minute."""
    with loaded(fleet, bearer, pause=_PAUSE, events=_LENGTH) as load:
        begin = time.monotonic()
        event(fleet)
        time.sleep(max(0, begin + _SECONDS - time.monotonic()))
        end = time.monotonic()
    return [each for each in load.outcomes if begin <= each.began <= end]


def _drain_each(fleet: Fleet) -> None:
    for box in fleet.boxes.values():
        box.systemctl("restart", "litellm")
        fleet.servers.wait_for(*fleet.boxes)


def _restart_each(fleet: Fleet) -> None:
    for box in fleet.boxes.values():
        ctl(box, "restart")


#: The first one is what the others are compared with.
_EVENTS: tuple[tuple[str, Callable[[Fleet], None]], ...] = (
    ("quiet", lambda _: None),
    ("`systemctl restart` of each in turn", _drain_each),
    ("`litellmctl restart` of each in turn", _restart_each),
)


def _row(title: str, outcomes: Sequence[Outcome], quiet: dict[bool, float]) -> list[str]:
    cells = [title]
    for streamed in (False, True):
        slowest = _p99(each.ended - each.began for each in outcomes if each.streamed is streamed and not each.failure)
        base = quiet.setdefault(streamed, slowest)
        ratio = slowest / base
        cells.append(f"{slowest:.2f} s, {ratio:.1f} x" + ("" if ratio <= _TARGET else f" (target: {_TARGET} x)"))
    return [*cells, f"{sum(bool(each.failure) for each in outcomes)} of {len(outcomes)}"]


def _p99(seconds: Iterable[float]) -> float:
    return statistics.quantiles(seconds, n=100)[-1]


if __name__ == "__main__":
    sys.exit(main())
