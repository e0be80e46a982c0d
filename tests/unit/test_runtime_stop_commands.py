"""ExecStop= and ExecStopPost=: whether the port closes when the service stops."""

from __future__ import annotations

from pathlib import Path

import pytest

from litellm_systemd.runtime.systemd.port import closes_port, find_job, stopped_main, stopping_main


@pytest.mark.parametrize(
    ("exit_status", "job", "closes"),
    [
        ("0", "stop", True),
        ("78", "", True),
        ("78", "start", True),
        ("KILL", "stop", True),
        ("0", "restart", False),
        ("0", "", False),
        ("KILL", "", False),
        ("69", "", False),
        ("", "", False),
    ],
)
def test_closes_port(exit_status: str, job: str, closes: bool) -> None:
    """The port closes after a stop and after a configuration error, and stays open otherwise."""
    assert closes_port(exit_status, job) is closes


@pytest.mark.parametrize(
    ("jobs", "job"),
    [
        ("1204 litellm.service stop running\n", "stop"),
        (" 7 other.service  start waiting\n 8 litellm.service restart running\n", "restart"),
        ("7 litellm.service.d start running\n", ""),
        ("", ""),
        ("No jobs running.\n", ""),
    ],
)
def test_find_job(jobs: str, job: str) -> None:
    """The job of the service is found in the output of systemctl among other jobs."""
    assert find_job(jobs) == job


@pytest.mark.parametrize(("job", "calls"), [("stop", 4), ("restart", 2)])
def test_socket_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str, calls: int) -> None:
    """A stop of the service stops its sockets, without waiting for them, and a restart does not."""
    log = tmp_path / "log"
    fake = tmp_path / "systemctl"
    fake.write_text(f'#!/bin/sh\necho "$@" >>{log}\n[ $1 = list-jobs ] && echo "5 litellm.service {job} running"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert stopping_main() == 0
    assert stopped_main({"EXIT_STATUS": "0"}) == 0
    lines = log.read_text().splitlines()
    assert len(lines) == calls
    if job == "stop":
        sockets = "litellm.socket litellm-metrics.socke[t]"
        assert lines[1] == f"stop --no-block {sockets}"
        assert lines[3] == f"stop --no-block --job-mode=ignore-dependencies {sockets}"
