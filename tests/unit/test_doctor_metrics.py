"""What doctor finds about metrics, on a host with METRICS whose units are in a given state."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from litellm_systemd.contract import METRICS_REFUSED, METRICS_SCRAPED
from litellm_systemd.doctor import check_metrics
from litellm_systemd.doctor.engine import Finding
from litellm_systemd.doctor.registry import checks_of
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.env.settings import parse_dotenv
from litellm_systemd.host.layout import Layout

METRICS = "METRICS=127.0.0.1:9400\n"
HOUR = 3600.0


class Host(Snapshot):
    """A host with this .env. `open_for` is the time in seconds since the metrics socket became active."""

    dotenv: Any = None
    environment: Any = None
    is_active: Any = True
    metrics_socket: Any = None
    runtime: Any = None

    def __init__(self, root: Path, env: str = METRICS, *, open_for: float = 2 * HOUR, **unit: str) -> None:
        super().__init__(Layout(root=root))
        self.is_root = True
        self.dotenv = parse_dotenv(env, ".env")
        self.environment = self.dotenv.values
        entered = (time.clock_gettime(time.CLOCK_MONOTONIC) - open_for) * 1e6
        self.metrics_socket = {
            "LoadState": "loaded",
            "ActiveState": "active",
            "Listen": "127.0.0.1:9400 (Stream)",
            "ActiveEnterTimestampMonotonic": str(int(entered)),
            **unit,
        }
        self.runtime = {}


def find(host: Host) -> dict[str, str]:
    """The causes that are found, with their evidence; not the folder, whose owner is the user of the service."""
    detectors = [each for each in checks_of(check_metrics) if each is not check_metrics.detect_metrics_folder]
    found = [each for check in detectors for each in check.detect(host) if isinstance(each, Finding)]
    return {each.cause.id: each.evidence for each in found}


def touch(root: Path, name: str, age: float) -> None:
    path = root / "run/litellm-metrics" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, times=(time.time() - age, time.time() - age))


@contextmanager
def listening() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield f"127.0.0.1:{other.getsockname()[1]}"


def test_a_host_that_is_scraped(tmp_path: Path) -> None:
    """Metrics that Prometheus scrapes are no finding, nor is a host without METRICS."""
    touch(tmp_path, METRICS_SCRAPED, 30)
    assert find(Host(tmp_path)) == {}
    assert find(Host(tmp_path, "", LoadState="not-found", ActiveState="inactive", Listen="")) == {}


@pytest.mark.parametrize(
    ("scraped", "open_for", "found"),
    [
        (None, 2 * HOUR, False),
        (None, 25 * HOUR, True),
        (2 * HOUR, 3 * HOUR, True),
        (2 * HOUR, 60, False),
        (600, 3 * HOUR, False),
    ],
)
def test_missing_scrapes(tmp_path: Path, scraped: float | None, open_for: float, found: bool) -> None:
    """Missing scrapes are found after earlier ones, or a day without any; not on a fresh host or after a restart."""
    if scraped is not None:
        touch(tmp_path, METRICS_SCRAPED, scraped)
    assert ("metrics-not-scraped" in find(Host(tmp_path, open_for=open_for))) is found


def test_refused_scrapes(tmp_path: Path) -> None:
    """Scrapes with a wrong key are found, until one with the right key follows."""
    touch(tmp_path, METRICS_REFUSED, 60)
    assert find(Host(tmp_path)) == {"metrics-refused": "the last scrape was refused 1 min ago"}
    touch(tmp_path, METRICS_SCRAPED, 30)
    assert find(Host(tmp_path)) == {}


def test_a_socket_that_was_stopped(tmp_path: Path) -> None:
    """A metrics socket that is not active next to a running service is found, not next to a stopped one."""
    host = Host(tmp_path, "METRICS=/run/m.sock", ActiveState="inactive", Listen="/run/m.sock (Stream)")
    assert find(host) == {"metrics-socket-closed": "litellm.service is active but litellm-metrics.socket is inactive"}
    host.is_active = False
    assert find(host) == {}


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    """The process that listens on the address of METRICS is named."""
    with listening() as address:
        found = find(Host(tmp_path, f"METRICS={address}", ActiveState="failed", Listen=f"{address} (Stream)"))
    assert list(found) == ["metrics-port-taken"]
    assert f"(pid {os.getpid()})" in found["metrics-port-taken"]


@pytest.mark.parametrize(
    ("env", "unit", "evidence"),
    [
        ("", {}, "litellm-metrics.socket is active, and METRICS is not set"),
        (METRICS, {"LoadState": "not-found", "Listen": ""}, ".env:1 has METRICS=127.0.0.1:9400, and there is no "),
        ("METRICS=[::1]:9400", {}, ".env:1 has METRICS=[::1]:9400, litellm-metrics.socket has 127.0.0.1:9400"),
    ],
)
def test_a_unit_that_differs(tmp_path: Path, env: str, unit: dict[str, Any], evidence: str) -> None:
    """METRICS without its socket unit, the unit without METRICS, and different addresses are found."""
    assert find(Host(tmp_path, env, **unit))["metrics-mismatch"].startswith(evidence)


def test_metrics_without_a_key_of_their_own(tmp_path: Path) -> None:
    """Metrics that other machines reach need METRICS_KEY, also if a drop-in opened them."""
    address: dict[str, Any] = {"Listen": "10.0.0.7:9400 (Stream)"}
    assert "metrics-key" in find(Host(tmp_path, "METRICS=10.0.0.7:9400", **address))
    assert "metrics-key" in find(Host(tmp_path, METRICS, **address))
    assert find(Host(tmp_path, "METRICS=10.0.0.7:9400\nMETRICS_KEY=sk-scrape", **address)) == {}


def test_a_missing_callback(tmp_path: Path) -> None:
    """Workers without LiteLLM's callback are found by what the main process reports."""
    host = Host(tmp_path)
    host.runtime = {"metrics": {"callback": False}}
    assert list(find(host)) == ["metrics-callback"]


def test_a_folder_that_the_service_cannot_use(tmp_path: Path) -> None:
    """A folder of the counters that is missing or belongs to another user is found."""

    def evidence() -> list[str]:
        found = check_metrics.detect_metrics_folder.detect(Host(tmp_path))
        return [each.evidence for each in found if isinstance(each, Finding)]

    assert evidence() == ["/run/litellm-metrics is missing"]
    (tmp_path / "run/litellm-metrics").mkdir(parents=True, mode=0o700)
    assert evidence()[0].startswith("/run/litellm-metrics: mode 0700, owner ")
