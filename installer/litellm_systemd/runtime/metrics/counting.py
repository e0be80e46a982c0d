"""Counts in the files of prometheus_client's multiprocess mode, ours and those of LiteLLM's callback.

prometheus_client reads PROMETHEUS_MULTIPROC_DIR when it is imported, so `start` comes before LiteLLM. Each process
counts in files of its own: after a fork the child opens new ones at its first count (`MultiProcessValue`).
"""

from __future__ import annotations

import contextlib
import importlib
import mmap
import os
import struct
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

from litellm_systemd.runtime.http.refuse import Reason
from litellm_systemd.runtime.metrics.families import (
    CLOSED_CONNECTIONS,
    FAMILIES,
    HTTP_REQUESTS,
    OTHER,
    REFUSED_REQUESTS,
    Family,
)

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_SIZE = 1 << 16
_HEADER = 8
#: Bytes of an entry besides its key: length, padding, value and time (mmap_dict.py).
_ENTRY = 4 + 8 + 16


def start(environ: MutableMapping[str, str], folder: Path, warn: Callable[[str], None]) -> Counters:
    """Let this process and its children count in `folder`. `warn` gets one line if a file cannot be written."""
    environ[FOLDER_VARIABLE] = str(folder)
    values: Any = importlib.import_module("prometheus_client.values")
    values.MmapedDict = _reserving(values.MmapedDict, warn)
    # In a process that has imported it before, such as a test.
    values.ValueClass = values.get_value_class()
    return Counters()


class Counters:
    """Our own counters, for the main process and its workers."""

    def __init__(self) -> None:
        client: Any = importlib.import_module("prometheus_client")
        counters = [each for each in FAMILIES if each.merge is None]
        self._metrics = {
            each.name: client.Counter(each.name, each.help, tuple(each.labels), registry=None) for each in counters
        }
        self._series: dict[tuple[str, tuple[str, ...]], Any] = {}
        for each in counters:
            for values in each.labels.values():
                for value in values:
                    self._find(each, (value,))  # a rate needs a zero to begin with

    def count(self, family: Family, *labels: str, amount: float = 1.0) -> None:
        """Count `amount`. `labels` are values in the order of the table; what it does not list counts as `other`."""
        series = self._series.get((family.name, labels)) or self._find(family, labels)
        series.inc(amount)

    def count_response(self, status: int) -> None:
        self.count(HTTP_REQUESTS, str(status) if 100 <= status <= 599 else OTHER)

    def count_refusal(self, reason: Reason) -> None:
        """Count a request that is refused, or a connection that is closed."""
        self.count(CLOSED_CONNECTIONS if reason.is_connection else REFUSED_REQUESTS, reason.label)

    def _find(self, family: Family, labels: tuple[str, ...]) -> Any:
        allowed = family.labels.values()
        kept = [value if not known or value in known else OTHER for value, known in zip(labels, allowed, strict=True)]
        metric = self._metrics[family.name]
        found = self._series[family.name, tuple(kept)] = metric.labels(*kept) if kept else metric
        return found


def _reserving(parent: Any, warn: Callable[[str], None]) -> Any:
    """prometheus_client's file of values, with room that the file system has promised.

    Its own files have holes. On a full file system the first write into a hole ends the process with SIGBUS. Here a
    file that cannot grow is given up: the process counts on in memory, and readers see what the file had until then.
    """

    class ReservedDict(parent):  # type: ignore[misc] # any class
        def __init__(self, filename: str, read_mode: bool = False) -> None:
            for _ in range(2):
                try:
                    _reserve(filename)
                    super().__init__(filename, read_mode)
                except (OSError, ValueError, RuntimeError, struct.error) as error:
                    warn(f"cannot count in {filename}: {getattr(error, 'strerror', None) or error}")
                    # A file of an earlier process with this pid, or a torn one, would fail again.
                    with contextlib.suppress(OSError):
                        os.unlink(filename)  # noqa: PTH108 - its name is a text
                else:
                    return
            self._f, self._fname, self._capacity = None, filename, _SIZE
            self._m = mmap.mmap(-1, _SIZE)
            self._positions: dict[str, int] = {}
            self._used = _HEADER

        def _init_value(self, key: str) -> None:
            needed = self._used + len(key.encode()) + _ENTRY
            if needed > self._capacity:
                self._grow(needed)
            super()._init_value(key)

        def _grow(self, needed: int) -> None:
            size = self._capacity
            while size < needed:
                size *= 2
            try:
                if self._f is None:
                    raise OSError
                os.posix_fallocate(self._f.fileno(), 0, size)
                self._m = mmap.mmap(self._f.fileno(), size)
            except (OSError, ValueError) as error:
                memory = mmap.mmap(-1, size)
                memory[: self._capacity] = self._m[: self._capacity]
                self._m = memory
                if self._f is not None:
                    warn(f"cannot count in {self._fname}: {getattr(error, 'strerror', None) or error}")
                    self._f.close()
                    self._f = None
            self._capacity = size

    return ReservedDict


def _reserve(filename: str) -> None:
    descriptor = os.open(filename, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, max(os.fstat(descriptor).st_size, _SIZE))
    finally:
        os.close(descriptor)
