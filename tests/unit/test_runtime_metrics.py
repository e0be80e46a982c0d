"""The files in which the workers count together for Prometheus."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import stat
from pathlib import Path

import pytest

from litellm_systemd.runtime.metrics.multiprocess import forget_live_gauges, share_metrics

NAME = "PROMETHEUS_MULTIPROC_DIR"


@pytest.fixture
def with_prometheus(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.machinery.ModuleSpec("prometheus_client", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: found)


@pytest.mark.usefixtures("with_prometheus")
def test_workers_count_in_an_empty_folder(tmp_path: Path) -> None:
    """Each start gets an empty folder that other users can't read."""
    (tmp_path / "prometheus").mkdir()
    (tmp_path / "prometheus/counter_1.db").write_text("of the last start", encoding="utf-8")
    environ: dict[str, str] = {}
    share_metrics(environ, tmp_path, 2)
    folder = Path(environ[NAME])
    assert (folder, list(folder.iterdir())) == (tmp_path / "prometheus", [])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.usefixtures("with_prometheus")
@pytest.mark.parametrize(("named", "workers"), [({NAME: "/srv/mine"}, 2), ({}, 1)], ids=["named", "one worker"])
def test_nothing_is_shared(tmp_path: Path, named: dict[str, str], workers: int) -> None:
    """A folder that the environment names is left as it is, and a single worker needs none."""
    environ = dict(named)
    share_metrics(environ, tmp_path, workers)
    assert (environ, list(tmp_path.iterdir())) == (named, [])


def test_nothing_is_shared_without_prometheus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release without prometheus_client needs no folder."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    environ: dict[str, str] = {}
    share_metrics(environ, tmp_path, 2)
    assert (environ, list(tmp_path.iterdir())) == ({}, [])


def test_requests_in_flight_of_a_killed_worker_are_forgotten(tmp_path: Path) -> None:
    """When a worker has exited, its gauges of what is live are removed, and what it has counted is kept."""
    kept = {"counter_12.db", "gauge_all_12.db", "gauge_livesum_123.db", "gauge_livesum_2.db"}
    for name in (*kept, "gauge_livesum_12.db", "gauge_liveall_12.db"):
        (tmp_path / name).touch()
    forget_live_gauges(12, {NAME: str(tmp_path)})
    assert {path.name for path in tmp_path.iterdir()} == kept
    forget_live_gauges(12, {NAME: str(tmp_path / "absent")})
    forget_live_gauges(12, {})
