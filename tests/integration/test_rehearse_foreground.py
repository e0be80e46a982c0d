"""rehearse --foreground: the real release, units and service, in folders of the user."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from litellm_systemd.env.database import own_url
from tests.bundle import own_bundle
from tests.ports import free_port


@dataclass(frozen=True)
class Trial:
    """Folders and a `.env` for rehearsals, and the report of the first."""

    folder: Path
    port: int
    report: dict[str, Any]

    @property
    def root(self) -> Path:
        return self.folder / "data/litellm-systemd/root"


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start `litellmctl rehearse --foreground` in that folder, with a home of its own and without a network."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "LITELLM_", "XDG_"))}
    xdg = {f"XDG_{name.upper()}_HOME": str(folder / name) for name in ("data", "state", "cache")}
    runtime = folder / "run"
    runtime.mkdir(exist_ok=True)
    env |= {**xdg, "XDG_RUNTIME_DIR": str(runtime), "HOME": str(folder), "AWS_EC2_METADATA_DISABLED": "true"}
    env |= {"UV_OFFLINE": "1", "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache/uv"))}
    argv = (sys.executable, "-m", "litellm_systemd", "rehearse", "--foreground", "--bundle", str(own_bundle()))
    return subprocess.Popen(
        (*argv, *arguments), cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def write_env(folder: Path, port: int) -> None:
    """A `.env` with that port, the demo configuration, and a database that `install --with-postgres` sets up."""
    lines = (f"PORT={port}", "NUM_WORKERS=1", "CONFIG_FILE=demo.yml", f"DATABASE_URL={own_url()}", "")
    (folder / ".env").write_text("\n".join(lines), encoding="utf-8")


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """The files and the report of the first rehearsal in new folders."""
    # The path of a control socket is limited to 107 bytes, and a user's runtime folder is short.
    folder, port = tmp_path_factory.mktemp("fg"), free_port()
    write_env(folder, port)
    process = start(folder, "--json")
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, output + errors
    return Trial(folder, port, json.loads(output))


def test_report(trial: Trial) -> None:
    """The report has the release, the units, READY=1, WATCHDOG=1, the endpoints, the stop and what was not tested."""
    checks = {check["name"]: check for check in trial.report["checks"]}
    assert list(checks)[:4] == ["release", "units", "start", "watchdog"]
    assert list(checks)[-3:] == ["stop", "not rehearsed: database", "not rehearsed: systemd"]
    assert checks["start"]["detail"] == "READY=1"
    assert checks["start"]["seconds"] > 0
    assert checks["watchdog"]["detail"] == "WATCHDOG=1, WatchdogSec=30"
    assert checks["stop"]["detail"] == "STOPPING=1, exit code 0"
    assert checks["chat claude-sonnet-5-5 (/v1/chat/completions)"]["outcome"] == "ok"
    assert {check["outcome"] for check in checks.values()} <= {"ok", "skipped"}
    assert "13 checks passed" in trial.report["title"]


def test_files_and_permissions(trial: Trial) -> None:
    """Units, environment and configurations are below the data folder, only the user can read the keys, and the
    runtime folder is empty afterwards.
    """
    modes = {
        name: stat.S_IMODE((trial.root / name).stat().st_mode)
        for name in ("etc/litellm/litellm.env", "etc/litellm/configs/demo.yml", "etc/systemd/system/litellm.service")
    }
    assert list(modes.values()) == [0o600, 0o640, 0o644]
    assert (trial.root / "etc/litellm/config.yaml").readlink() == Path("configs/demo.yml")
    listen = f"ListenStream=127.0.0.1:{trial.port}"
    assert listen in (trial.root / "etc/systemd/system/litellm.socket").read_text(encoding="utf-8")
    assert f"serving on 127.0.0.1:{trial.port}" in (trial.folder / "state/litellm/litellm.log").read_text("utf-8")
    assert list((trial.folder / "run").iterdir()) == []


def test_an_occupied_port(trial: Trial, tmp_path: Path) -> None:
    """A port that another process listens on is an error before anything is built."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        write_env(tmp_path, port)
        process = start(tmp_path)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (69, "")
    assert f"127.0.0.1:{port}" in errors
    assert "PORT is set in .env." in errors
    assert not (tmp_path / "data/litellm-systemd/root/opt").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_end_by_a_signal(trial: Trial, number: signal.Signals, code: int) -> None:
    """A second rehearsal builds nothing, and any signal that ends it, also SIGKILL, ends the service as well."""
    process = start(trial.folder)
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line.strip())
        if "starting 1 worker" in line:
            break
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code, lines
    assert not any(line.startswith("building the release") for line in lines)
    deadline = time.monotonic() + 60
    while runtimes(trial.root) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert runtimes(trial.root) == []


def runtimes(root: Path) -> list[int]:
    """The processes that run the Python of a release below the root."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(root) in (process / "cmdline").read_text(encoding="utf-8", errors="replace"):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def test_invalid_options(tmp_path: Path) -> None:
    """--foreground together with --installed is a usage error."""
    process = start(tmp_path, "--installed")
    assert process.communicate(timeout=60)[1].startswith("litellmctl: --foreground takes no --installed")
    assert process.returncode == 64
