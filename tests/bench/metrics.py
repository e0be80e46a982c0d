"""`python -m tests.bench.metrics`: what METRICS costs a request, a worker and a scrape (docs/metrics.md).

Requests of LiteLLM's mocked model, without a client and a network, so that the share is the greatest that it can be.
Each round measures all variants in turn, each in a new process that is forked as workers are. All times are processor
time.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from litellm_systemd.runtime.http.response_count import ResponseCounter
from litellm_systemd.runtime.metrics import counting, exposition
from litellm_systemd.runtime.worker import litellm_adapter, litellm_metrics
from tests.bench.profile_request import collect_from_event_loop, in_child, measure_requests, say
from tests.integration.runtime_service import KEY

_OFF, _UNCHANGED, _ON = "without METRICS", "LiteLLM's callback unchanged", "with METRICS"
_SCRAPES = 20
_Measure = Callable[..., dict[str, float]]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.metrics", description=__doc__)
    parser.add_argument("--requests", type=int, default=300, metavar="N", help="in a round")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    options = parser.parse_args(argv)
    os.environ.update(LITELLM_MASTER_KEY=KEY, AWS_EC2_METADATA_DISABLED="true")
    litellm_adapter.preload(os.environ)
    variants = {_OFF: in_child, _UNCHANGED: _with_callback, _ON: _with_metrics}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    for _ in range(options.rounds):
        for name, run in variants.items():
            rounds[name].append(run(partial(measure_requests, options.requests, collect_from_event_loop)))
    for what, unit in (("json", "ms"), ("sse", "ms"), ("memory", "MB"), ("main", "MB"), ("scrape", "ms")):
        base = statistics.median(each.get(what, 0) for each in rounds[_OFF])
        for name, found in rounds.items():
            values = sorted(each[what] for each in found if what in each)
            if values:
                middle = statistics.median(values)
                ratio = f"{100 * (middle / base - 1):+6.1f} %" if base else ""
                say(f"{what:7} {name:29} {middle:8.2f} {unit}  ({values[0]:.2f} to {values[-1]:.2f}) {ratio}")
    return 0


def _with_callback(measure: _Measure) -> dict[str, float]:
    def run() -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            counting.start(os.environ, Path(folder), say)
            importlib.import_module("litellm").callbacks.append(litellm_metrics.CALLBACK)
            return measure()

    return in_child(run)


def _with_metrics(measure: _Measure) -> dict[str, float]:
    """Measure in a child of a process that has prepared LiteLLM, as the main process does."""

    def run() -> dict[str, float]:
        with tempfile.TemporaryDirectory() as root:
            folder = Path(root) / "1-1"
            folder.mkdir()
            before = _resident_memory()
            counters = counting.start(os.environ, folder, say)
            litellm_metrics.apply()
            main = _resident_memory() - before
            found = in_child(partial(measure, wrap=partial(ResponseCounter, metrics=counters)))
            return {**found, "main": main, "scrape": _scrape(Path(root))}

    return in_child(run)


def _scrape(root: Path) -> float:
    times = []
    for _ in range(_SCRAPES):
        begin = time.process_time()
        exposition.render(root, "application/openmetrics-text")
        times.append((time.process_time() - begin) * 1000)
    return statistics.median(times)


def _resident_memory() -> float:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Rss:")) * 1024 / 1e6


if __name__ == "__main__":
    sys.exit(main())
