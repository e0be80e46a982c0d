"""The files with the counts of all processes, in a folder that outlives them.

    ROOT/PID-TIME/            one main process and its workers. `lock` is locked (flock(2)) while any of them runs
    ROOT/PID-TIME/*.db        prometheus_client's files, one for each process and type (PROMETHEUS_MULTIPROC_DIR)
    ROOT/PID-TIME/state.json  the gauges of the main process, and the processes whose memory counts
    ROOT/PID-TIME/memory.json their memory
    ROOT/gone/*.db            counters of processes that have exited
    ROOT/totals.json          the sums of earlier files of `gone`, and the names of those that are about to be removed
    ROOT/scraped, refused     their times are those of the last scrape, and of the last one without a right key

A file moves in one direction: from the folder of its main process to `gone`, from there into the totals. Each step is
one rename(2). No reader holds a lock: one that meets a file which has moved reads everything again. So a sum has each
file exactly once, and no counter goes back.

No error of the file system ends a process: counts that cannot be written stay in memory, and a file that cannot be
read is left out.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import shutil
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from litellm_systemd.contract import METRICS_SCRAPED

GONE, TOTALS, STATE, MEMORY, _LOCK = "gone", "totals.json", "state.json", "memory.json", "lock"
_GAUGE = "gauge"
#: Seconds after which a folder that was never completed is removed.
_ABANDONED = 60.0
#: How often everything is read again if files move. They move a few times a second at most.
_ATTEMPTS = 20
#: Bytes. prometheus_client's header, and the value with its time behind each key.
_HEADER, _VALUE = 8, struct.Struct("dd")
_LENGTH = struct.Struct("i")
#: Characters of a key. LiteLLM's longest has a dozen labels.
_MAX_KEY = 65536
#: Errors of a file that is damaged.
_UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, struct.error)
#: The errors of a file that this process will never read. After another error, the next attempt may succeed.
_FOREIGN = (PermissionError, IsADirectoryError)
#: No counter reaches it: a larger value, or none (NaN), is of a damaged file.
_MOST = 1e100


#: Name, labels and value.
Gauge = tuple[str, dict[str, str], float]


class Key(NamedTuple):
    """What a value is of: metric, sample, labels in alphabetical order, and help."""

    metric: str
    sample: str
    labels: tuple[tuple[str, str], ...]
    help: str


class Value(NamedTuple):
    """A value of one file. `kind`: counter, gauge, histogram or summary. `mode` and `pid`: of a gauge."""

    kind: str
    key: Key
    value: float
    at: float = 0.0
    mode: str = ""
    pid: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """What a main process knows of itself: gauges, and its processes by role. `serial`: the time of its start."""

    gauges: tuple[Gauge, ...] = ()
    pids: dict[str, tuple[int, ...]] = field(default_factory=dict)
    serial: int = 0


@dataclass(frozen=True, slots=True)
class Contents:
    """All values of all processes, and the states of the main processes that run, the newest first."""

    values: tuple[Value, ...]
    states: tuple[State, ...]
    #: Files that cannot be read.
    damaged: tuple[str, ...] = ()


class Store:
    """The folder of one main process in `root`. It is in use until this process and all its children have exited.

    Raises:
        OSError: the folder cannot be created.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / GONE).mkdir(mode=0o700, exist_ok=True)
        name = f"{os.getpid()}-{time.time_ns()}"
        new = root / f".{name}"
        new.mkdir(mode=0o700)
        # It stays open: children inherit it, and with it the lock.
        self._lock = os.open(new / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.folder = root / name
        new.rename(self.folder)
        self._state = b""

    def write_state(self, state: State) -> None:
        """Publish the state of the main process. Raises OSError if it cannot be written."""
        text = json.dumps([state.gauges, state.pids]).encode()
        if text != self._state:
            _replace(self.folder / STATE, text)
            self._state = text

    def forget(self, pid: int) -> None:
        """Keep the counters of a process that has exited, and remove its gauges."""
        with contextlib.suppress(OSError):  # of a folder that belongs to another user now
            for file in self.folder.glob(f"*_{pid}.db"):
                with contextlib.suppress(OSError):
                    _retire(self.root, file)


def _retire(root: Path, file: Path) -> None:
    """Move the file of a process that has exited to `gone`, under a name that no other process gets."""
    kind = file.name.split("_", 1)[0]
    if kind == _GAUGE:
        file.unlink()
    else:
        file.rename(root / GONE / f"{kind}_{file.parent.name}-{file.stem.rpartition('_')[2]}-{time.time_ns()}.db")


def compact(root: Path) -> None:
    """Add up the counters of the processes that have exited, and remove their files. One process at a time does it.

    Raises:
        OSError: a file cannot be read now, or the sums cannot be written. Nothing is lost then, and the files stay.
    """
    with _lock_alone(root / _LOCK) as is_alone:
        if not is_alone:
            return
        for folder in _folders(root):
            if folder.name.startswith("."):
                if time.time() - folder.stat().st_mtime > _ABANDONED and not _is_running(folder):
                    shutil.rmtree(folder, ignore_errors=True)
            elif not _is_running(folder):
                for file in folder.glob("*.db"):
                    _retire(root, file)
                shutil.rmtree(folder, ignore_errors=True)
        files = {file.name: file for file in (root / GONE).glob("*.db")}
        totals, merged = _read_totals(root)
        for name in merged & files.keys():  # a compaction was interrupted after it had written the sums
            files.pop(name).unlink()
        if files:
            values = [*totals, *(value for file in files.values() for value in read_file(file, lambda _: None))]
            _replace(root / TOTALS, _render_totals(_collect(values), files))
            for file in files.values():
                file.unlink()


def add_up(values: Iterable[Value]) -> dict[tuple[str, Key], float]:
    """The sums of counters, histograms and summaries. A metric has the kind of its first value."""
    return {key: math.fsum(each) for key, each in _collect(values).items()}


def _collect(values: Iterable[Value]) -> dict[tuple[str, Key], list[float]]:
    """What to add up. A sum of floats depends on their order: only the exact sum never goes back when files move."""
    kinds: dict[str, str] = {}
    found: dict[tuple[str, Key], list[float]] = {}
    helps: dict[tuple[str, str, tuple[tuple[str, str], ...]], Key] = {}
    for each in values:
        if each.kind != _GAUGE and kinds.setdefault(each.key.metric, each.kind) == each.kind:
            # Another release may have another help text.
            key = helps.setdefault(each.key[:3], each.key)
            if abs(each.value) < _MOST:
                found.setdefault((each.kind, key), []).append(each.value)
    return found


def _shorten(values: list[float]) -> list[float]:
    """A few numbers with the same exact sum: the sum as a float, what this lacks, and so on."""
    found = [math.fsum(values)]
    while rest := math.fsum((*values, *(-each for each in found))):
        found.append(rest)
    return found


def read(root: Path) -> Contents:
    """Everything that is counted, each file once. Raises OSError if the files move faster than they can be read."""
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(FileNotFoundError):
            return _read(root)
    raise OSError(f"the files in {root} move faster than they can be read")


def _read(root: Path) -> Contents:
    # In the order in which files move, so that one which moves meanwhile is met again, and never missed.
    folders = [folder for folder in _folders(root) if not folder.name.startswith(".")]
    running = {folder: _is_running(folder) for folder in folders}
    files = [file for folder in folders for file in folder.glob("*.db")]
    gone = list((root / GONE).glob("*.db"))
    totals, merged = _read_totals(root)
    damaged: list[str] = []
    values: list[Value] = []
    for file in (*files, *(each for each in gone if each.name not in merged)):
        if file.name.startswith(_GAUGE) and not running.get(file.parent):
            continue
        values += read_file(file, damaged.append)
    states = [read_state(folder) for folder in folders if running[folder]]
    states.sort(key=lambda state: -state.serial)
    # The totals last: what runs now decides on the kind and help of a metric.
    return Contents((*values, *totals), tuple(states), tuple(damaged))


def _folders(root: Path) -> list[Path]:
    return [folder for folder in root.iterdir() if folder.name != GONE and folder.is_dir()]


def _is_running(folder: Path) -> bool:
    """Whether any process of a main process runs. A shared lock, so that two that look do not disturb each other."""
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):  # a folder of another user is none of the service
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def read_file(path: Path, report: Callable[[str], None]) -> list[Value]:
    """The values of a file of prometheus_client (mmap_dict.py). A torn file has those before the tear.

    `report`: called with the path of a file that is damaged.

    Raises:
        FileNotFoundError: it has moved.
        OSError: it cannot be read now, as with too many open files.
    """
    kind, *rest = path.stem.split("_")
    mode, pid = (rest[0], rest[-1]) if kind == _GAUGE and rest else ("", "")
    values = []
    try:
        data = path.read_bytes()
        for key, value, at in _parse(data):
            values.append(Value(kind, _parse_key(key), value, at, mode, pid))
    except _UNREADABLE as error:
        if isinstance(error, OSError) and not isinstance(error, _FOREIGN):
            raise
        report(str(path))
    return values


def _parse(data: bytes) -> Iterator[tuple[bytes, float, float]]:
    """Key, value and time of each entry. Raises ValueError or struct.error where they end too early."""
    if len(data) < _HEADER:
        return  # it was created this moment
    (used,) = _LENGTH.unpack_from(data)
    position = _HEADER
    while position < used:
        (length,) = _LENGTH.unpack_from(data, position)
        if not 0 < length <= _MAX_KEY:
            raise ValueError("no key")
        position += _LENGTH.size
        key = data[position : position + length]
        position += length + 8 - (length + 4) % 8
        value, at = _VALUE.unpack_from(data, position)
        yield key, value, at
        position += _VALUE.size


@lru_cache(maxsize=100_000)
def _parse_key(text: bytes) -> Key:
    metric, sample, labels, help_text = json.loads(text)
    if not isinstance(labels, dict):
        raise ValueError("no labels")
    return Key(
        str(metric),
        str(sample),
        tuple(sorted((str(name), str(each)) for name, each in labels.items())),
        str(help_text),
    )


def read_state(folder: Path) -> State:
    """What the processes of `folder` have published; an empty state before that."""
    serial = folder.name.rpartition("-")[2]
    pids: dict[str, tuple[int, ...]] = {}
    found: list[Gauge] = []
    # Each file is complete: it is replaced and never changed. One that is damaged is replaced soon.
    with contextlib.suppress(*_UNREADABLE):
        gauges, listed = json.loads((folder / STATE).read_bytes())
        pids = {role: tuple(map(int, each)) for role, each in listed.items()}
        found += _parse_gauges(gauges)
    with contextlib.suppress(*_UNREADABLE):
        found += _parse_gauges(json.loads((folder / MEMORY).read_bytes()))
    return State(tuple(found), pids, int(serial) if serial.isdigit() else 0)


def _parse_gauges(gauges: Any) -> list[Gauge]:
    return [(str(name), {**labels}, float(value)) for name, labels, value in gauges]


def write_memory(folder: Path, gauges: list[Gauge]) -> None:
    """Publish the memory of the processes of `folder`. Raises OSError if it cannot be written."""
    _replace(folder / MEMORY, json.dumps(gauges).encode())


def record_scrape(root: Path, outcome: str = METRICS_SCRAPED) -> None:
    """A scraper has got the metrics, or was refused: METRICS_REFUSED. Without room for the record there is none."""
    with contextlib.suppress(OSError):
        (root / outcome).touch(mode=0o600)


def last_scrape(root: Path) -> float | None:
    """When a scraper last got the metrics, in Unix time; None if none did since the folder was created."""
    try:
        return (root / METRICS_SCRAPED).stat().st_mtime
    except OSError:
        return None


def _render_totals(found: dict[tuple[str, Key], list[float]], merged: Iterable[str]) -> bytes:
    values = [[kind, key, value] for (kind, key), each in found.items() for value in _shorten(each)]
    return json.dumps({"merged": [*merged], "values": values}).encode()


def _read_totals(root: Path) -> tuple[list[Value], frozenset[str]]:
    try:
        found: Any = json.loads((root / TOTALS).read_bytes())
        values = [
            Value(kind, Key(metric, sample, tuple((name, each) for name, each in labels), help_text), float(value))
            for kind, (metric, sample, labels, help_text), value in found["values"]
        ]
        return values, frozenset(found["merged"])
    except _UNREADABLE as error:
        if isinstance(error, OSError) and not isinstance(error, (FileNotFoundError, *_FOREIGN)):
            raise  # a compaction would lose the sums
        return [], frozenset()


def _replace(path: Path, data: bytes) -> None:
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with new.open("wb") as file:
            file.write(data)
        new.rename(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _lock_alone(path: Path) -> Iterator[bool]:
    """Yield whether this process alone has the lock, which it holds until the end."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)
