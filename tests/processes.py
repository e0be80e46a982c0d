"""Processes that a test or a benchmark watches, by /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """A process and all its children (proc_pid_task_tid_children(5)). Empty if it has exited."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        children = [each for thread in threads for each in (thread / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [pid, *(each for child in children for each in descendants(int(child)))]


def processor(pids: list[int]) -> float:
    """The processor seconds of processes (proc_pid_stat(5), utime and stime)."""
    ticks = sum(int(value) for pid in pids for value in _read_stat(Path(f"/proc/{pid}"))[11:13])
    return ticks / os.sysconf("SC_CLK_TCK")


def processor_of_tree(pid: int) -> float:
    """The processor seconds of a process, its children, and their children that have exited."""
    ticks = 0
    for each in descendants(pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            ticks += sum(map(int, _read_stat(Path(f"/proc/{each}"))[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _read_stat(folder: Path) -> list[str]:
    """The fields of proc_pid_stat(5) from the third one, the state."""
    return (folder / "stat").read_text().rpartition(")")[2].split()


def forget_peak_memory(pids: Iterable[int]) -> None:
    """Start `peak_memory` again for each process (proc_pid_clear_refs(5))."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_memory(pids: Iterable[int]) -> Mapping[int, int]:
    """The largest resident memory of each process in bytes, without those that have exited (proc_pid_status(5))."""
    found = {}
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
        found[pid] = int(peak) * 1024
    return found


def proportional_memory(pid: int) -> float:
    """MB of a process, of which pages that it shares count in part (PSS of proc_pid_smaps_rollup(5))."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6
