"""How much memory a worker may use before it is recycled, if WORKER_MEMORY_LIMIT does not say so."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

#: MiB that a worker may use on any host. A new worker has about 350, a busy one some more.
_LEAST = 512
#: The share of the memory that the workers may use together. The rest is for the main process and the system.
_SHARE = 0.8


def default_memory_limit(workers: int, total: int) -> int:
    """The limit in MiB for each of `workers` if there are `total` MiB: a share that leaves room for a successor."""
    return max(_LEAST, int(total * _SHARE / (workers + 1)))


def read_total_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """The memory in MiB that the service can use: that of the host, or the limit of a control group."""
    # Not /proc/meminfo, which ProcSubset=pid hides. sysconf(3) asks sysinfo(2).
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min((host, *_read_limits(proc, cgroups))) // 2**20


def _read_limits(proc: Path, cgroups: Path) -> Iterator[int]:
    """MemoryMax= of the control group of this process and of those above it, in bytes (cgroups(7), version 2)."""
    with contextlib.suppress(OSError):
        lines = (proc / "self/cgroup").read_text(encoding="utf-8").splitlines()
        for path in (line.removeprefix("0::/") for line in lines if line.startswith("0::/")):
            folder = cgroups / path
            for each in (folder, *folder.parents[: len(Path(path).parts)]):
                with contextlib.suppress(OSError, ValueError):  # no such file at the root; "max" is no limit
                    yield int((each / "memory.max").read_text(encoding="ascii"))
