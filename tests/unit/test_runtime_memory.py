"""The memory above which a worker is recycled by default."""

from __future__ import annotations

from pathlib import Path

import pytest

from litellm_systemd.runtime.memory import default_memory_limit, read_total_memory
from litellm_systemd.runtime.options import read_options

CONFIG = Path("/etc/litellm/config.yaml")


@pytest.mark.parametrize(
    ("workers", "total", "limit"),
    [(1, 900, 512), (2, 1900, 512), (2, 3900, 1040), (4, 16000, 2560), (64, 16000, 512)],
)
def test_share_of_a_worker(workers: int, total: int, limit: int) -> None:
    """A worker may use its share of the memory, which leaves room for a successor, and at least 512 MiB."""
    assert default_memory_limit(workers, total) == limit


def test_memory_of_the_control_group(tmp_path: Path) -> None:
    """MemoryMax= of the service, or of a slice above it, counts if it is less than the memory of the host."""
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    host = read_total_memory(proc, cgroups)
    assert host > 64
    (proc / "self").mkdir(parents=True)
    (proc / "self/cgroup").write_text("1:name=systemd:/other\n0::/system.slice/litellm.service\n")
    unit = cgroups / "system.slice/litellm.service"
    unit.mkdir(parents=True)
    (unit / "memory.max").write_text("max\n")
    assert read_total_memory(proc, cgroups) == host
    (unit / "memory.max").write_text(f"{64 * 2**20}\n")
    assert read_total_memory(proc, cgroups) == 64
    (unit.parent / "memory.max").write_text(f"{32 * 2**20}\n")
    assert read_total_memory(proc, cgroups) == 32


def test_options() -> None:
    """Without WORKER_MEMORY_LIMIT the service computes the limit from the number of workers."""
    share = default_memory_limit(3, read_total_memory())
    assert read_options(CONFIG, {"NUM_WORKERS": "3"}).memory_limit == share
    assert read_options(CONFIG, {"NUM_WORKERS": "3", "WORKER_MEMORY_LIMIT": "700"}).memory_limit == 700
