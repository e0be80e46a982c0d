"""The text of /metrics: the counts of all processes and the gauges of all main processes, as one."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from litellm_systemd.runtime.metrics import store
from litellm_systemd.runtime.metrics.families import FAMILIES, PSS_MEMORY, RESIDENT_MEMORY, Family, Merge

_Labels = tuple[tuple[str, str], ...]


def render(root: Path, accept: str, report: Callable[[str], None] = lambda _path: None) -> tuple[bytes, str]:
    """The text and its content type.

    Args:
        root: the folder of all counts.
        accept: the Accept header; it chooses between OpenMetrics and the older text format.
        report: called with the path of a file that is damaged, and whose counts are left out.

    Raises:
        OSError: the folder cannot be read.
    """
    contents = store.read(root)
    for each in contents.damaged:
        report(each)
    exposition: Any = importlib.import_module("prometheus_client.exposition")
    try:
        encode, content_type = exposition.choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is no number
        encode, content_type = exposition.choose_encoder("")
    return encode(_Collected(contents)), content_type


class _Collected:
    """What prometheus_client calls a registry."""

    def __init__(self, contents: store.Contents) -> None:
        self._metrics = [*_render_gauges(_merge(contents.states)), *_render_counts(contents.values)]

    def collect(self) -> Iterator[Any]:
        yield from self._metrics


def _merge(states: Iterable[store.State]) -> list[tuple[Family, _Labels, float]]:
    """The gauges of all main processes, the newest first, as those of one."""
    families = {each.name: each for each in FAMILIES}
    found: dict[tuple[str, _Labels], float] = {}
    owners: dict[str, int] = {}
    for state in states:
        for name, labels, value in state.gauges:
            family = families.get(name)
            if family is None:
                continue  # of a newer release
            key = name, tuple(labels.items())
            if family.merge is Merge.NEWEST and owners.setdefault(name, state.serial) != state.serial:
                continue
            if key not in found or (family.merge is Merge.MAX and value > found[key]):
                found[key] = value
            elif family.merge is Merge.SUM:
                found[key] += value
    return [(families[name], labels, value) for (name, labels), value in found.items()]


def measure(folder: Path) -> None:
    """Publish the memory of the processes of one main process. No other main process may read it (ptrace(2))."""
    pids = {**store.read_state(folder).pids, "exporter": (os.getpid(),)}
    gauges: list[store.Gauge] = []
    for role, each in pids.items():
        sizes = [size for size in map(_memory, each) if size is not None]
        if sizes:
            labels = {"process": role}
            gauges.append((RESIDENT_MEMORY.name, labels, float(sum(resident for resident, _ in sizes))))
            gauges.append((PSS_MEMORY.name, labels, float(sum(shared for _, shared in sizes))))
    with contextlib.suppress(OSError):  # the values of the last time stay
        store.write_memory(folder, gauges)


def _memory(pid: int) -> tuple[int, int] | None:
    """Resident memory and PSS in bytes (smaps_rollup in proc(5)); None if the process has exited."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return None
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return sizes.get("Rss", 0), sizes.get("Pss", 0)


def _render_gauges(gauges: Iterable[tuple[Family, _Labels, float]]) -> Iterator[Any]:
    core: Any = importlib.import_module("prometheus_client.metrics_core")
    metrics: dict[str, Any] = {}
    for family, labels, value in gauges:
        if family.name not in metrics:
            metrics[family.name] = core.Metric(family.name, family.help, "gauge")
        metrics[family.name].add_sample(family.name, dict(labels), value)
    yield from metrics.values()


def _render_counts(values: tuple[store.Value, ...]) -> Iterable[Any]:
    """The metrics of prometheus_client's files. It adds up histograms and merges gauges by their modes itself."""
    core: Any = importlib.import_module("prometheus_client.metrics_core")
    collector: Any = importlib.import_module("prometheus_client.multiprocess").MultiProcessCollector
    metrics: dict[str, Any] = {}

    def add(
        kind: str, key: store.Key, labels: _Labels, value: float, at: float | None = None, mode: str = ""
    ) -> None:
        if key.metric not in metrics:
            metrics[key.metric] = core.Metric(key.metric, key.help, kind)
            metrics[key.metric]._multiprocess_mode = mode
        if metrics[key.metric].type == kind:
            metrics[key.metric].add_sample(key.sample, labels, value, at)

    for (kind, key), value in store.add_up(values).items():
        add(kind, key, key.labels, value)
    for each in values:
        if each.kind == "gauge":
            add("gauge", each.key, (*each.key.labels, ("pid", each.pid)), each.value, each.at, each.mode)
    found: Iterable[Any] = collector._accumulate_metrics(metrics, accumulate=True)
    return found
