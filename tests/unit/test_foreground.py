"""A unit's service in the foreground: its environment, its notifications and its exit, with real processes."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
import textwrap
import time
from pathlib import Path

import pytest

from litellm_systemd.errors import Unavailable
from litellm_systemd.host.layout import Layout
from litellm_systemd.instances.foreground import (
    Folders,
    ForegroundService,
    check_units,
    find_folders,
    foreground_service,
)
from litellm_systemd.user_files import find_home

UNIT = """\
[Unit]
Description=LiteLLM Proxy

[Service]
Type=notify
ExecStart=/service --config /etc/litellm/config.yaml
EnvironmentFile=/etc/litellm/litellm.env
Environment=HOME=%S/litellm XDG_CACHE_HOME=%C/litellm
WorkingDirectory=%S/litellm
RuntimeDirectory=litellm
TimeoutStartSec={start}
TimeoutStopSec={stop}
WatchdogSec={watchdog}
"""
SOCKET = "[Socket]\nListenStream=127.0.0.1:4000\n"

#: The first lines of each service of these tests.
PRELUDE = """\
import os, signal, socket, subprocess, sys, time

def notify(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])

"""
GOOD = """\
def stop(number, frame):
    notify("STOPPING=1\\nSTATUS=draining")
    sys.exit(0)

signal.signal(signal.SIGTERM, stop)
notify("STATUS=importing")
notify("READY=1\\nSTATUS=serving")
while True:
    notify("WATCHDOG=1")
    time.sleep(0.05)
"""


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(root=tmp_path / "a root")


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path / "data", tmp_path / "state", tmp_path / "cache", None)


ENVIRONMENT = 'GREETING="hello world"\nMETRICS="127.0.0.1:9400"\n'


def make(layout: Layout, program: str, *, start: float = 20, stop: float = 20, watchdog: float = 20) -> None:
    """A unit below the root whose service is that Python code."""
    unit = UNIT.format(start=start, stop=stop, watchdog=watchdog)
    files = {layout.service: unit, layout.socket: SOCKET, layout.environment_file: ENVIRONMENT}
    for path, text in {**files, "/service": f"#!{sys.executable}\n{PRELUDE}{textwrap.dedent(program)}"}.items():
        layout.real(path).parent.mkdir(parents=True, exist_ok=True)
        layout.real(path).write_text(text, encoding="utf-8")
    layout.real("/service").chmod(0o755)


def run_through(service: ForegroundService) -> list[str]:
    """Start a service, await its watchdog and stop it. Returns each status on the way."""
    statuses: list[str] = []
    service.await_ready(statuses.append)
    service.await_watchdog()
    service.stop()
    return statuses


def test_from_start_to_stop(layout: Layout, folders: Folders) -> None:
    """A service that sends READY=1, WATCHDOG=1 and STOPPING=1 and exits with 0 passes; its statuses are reported."""
    make(layout, GOOD)
    with foreground_service(layout, folders) as service:
        assert run_through(service) == ["importing"]


def test_environment_of_the_service(layout: Layout, folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """Command, folder and environment are those of the unit, below the root and the user's folders, but METRICS."""
    monkeypatch.setenv("AWS_PROFILE", "mine")
    make(layout, f"print(sys.argv, os.getcwd(), dict(os.environ), flush=True)\n{GOOD}", watchdog=30)
    with foreground_service(layout, folders) as service:
        run_through(service)
        log = folders.log.read_text(encoding="utf-8")
        runtime = Path(log.split("'RUNTIME_DIRECTORY': '")[1].split("'")[0])
        assert (runtime.stat().st_mode & 0o777, runtime.stat().st_uid) == (0o700, os.geteuid())
    assert not runtime.exists()
    root, state = str(layout.root), str(folders.state / "litellm")
    assert log.startswith(f"['{root}/service', '--config', '{root}/etc/litellm/config.yaml'] {state} ")
    assert f"'HOME': '{state}', 'XDG_CACHE_HOME': '{folders.cache / 'litellm'}'" in log
    assert "'GREETING': 'hello world'" in log
    assert "'WATCHDOG_USEC': '30000000'" in log
    assert "AWS_PROFILE" not in log
    assert "METRICS" not in log
    assert folders.log.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("program", "limits", "message"),
    [
        ("print('no such model', flush=True); sys.exit(78)", {}, "exited with code 78: no such model"),
        ("os.kill(os.getpid(), signal.SIGKILL)", {}, "exited with code -9: it logged nothing"),
        ("time.sleep(60)", {"start": 0.3}, "no READY=1 from the service within 0.3 s"),
        ("notify('READY=1'); time.sleep(60)", {"watchdog": 0.3}, "no WATCHDOG=1 from the service within 0.3 s"),
        ("notify('READY=1'); notify('WATCHDOG=1'); time.sleep(60)", {}, "exited with code -15"),
        (GOOD.replace("sys.exit(0)", "sys.exit(3)"), {}, "exited with code 3 when it was stopped"),
        (GOOD.replace("sys.exit(0)", "pass"), {"stop": 0.5}, "still runs 0.5 s after SIGTERM"),
    ],
)
def test_failures(layout: Layout, folders: Folders, program: str, limits: dict[str, float], message: str) -> None:
    """A service that exits, is late, misses a watchdog or does not stop cleanly is an error that says so."""
    make(layout, program, **limits)
    with pytest.raises(Unavailable, match=message), foreground_service(layout, folders) as service:
        run_through(service)


def test_an_exit_before_the_stop(layout: Layout, folders: Folders) -> None:
    """A service that exits before it is stopped is an error, even with exit code 0."""
    make(layout, "notify('READY=1'); notify('WATCHDOG=1')")
    with foreground_service(layout, folders) as service:
        service.await_ready(lambda _line: None)
        service.await_watchdog()
        # The first one waits for the exit.
        for call in (service.await_watchdog, service.stop):
            with pytest.raises(Unavailable, match="exited with code 0: it logged nothing"):
                call()


def test_nothing_is_left(layout: Layout, folders: Folders) -> None:
    """However the block ends, the service and its child processes have exited."""
    make(layout, f"print(os.getpid(), subprocess.Popen(('sleep', '60')).pid, flush=True)\n{GOOD}")

    def fail() -> None:
        with foreground_service(layout, folders) as service:
            service.await_ready(lambda _line: None)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    for pid in folders.log.read_text(encoding="utf-8").split():
        assert_gone(int(pid))


def assert_gone(pid: int) -> None:
    """Fail unless the process exits soon. A zombie counts as exited."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z":
                return
        except (FileNotFoundError, ProcessLookupError):
            return
        time.sleep(0.05)
    pytest.fail(f"process {pid} still runs")


def test_a_folder_that_cannot_be_created(layout: Layout, folders: Folders) -> None:
    """A state folder that cannot be created is an error with its path."""
    make(layout, GOOD)
    folders.state.write_text("in the way", encoding="utf-8")
    with pytest.raises(Unavailable, match=str(folders.state)), foreground_service(layout, folders):
        pass


@pytest.mark.parametrize("environ", [{}, {"HOME": ""}, {"HOME": "relative"}])
def test_home_is_absolute(environ: dict[str, str]) -> None:
    """Without HOME, or with a relative one, it is the folder of the user database, not / or the current folder."""
    folders = {each.pw_uid: each.pw_dir for each in pwd.getpwall()}
    assert find_home(environ) == Path(folders.get(os.geteuid(), "/"))
    assert find_home({"HOME": "/a home"}) == Path("/a home")


def test_folders_by_xdg(tmp_path: Path) -> None:
    """The folders are those of the XDG variables; without one, or with a relative path, the defaults of the
    specification.
    """
    given = {"XDG_DATA_HOME": "/d", "XDG_STATE_HOME": "/s", "XDG_CACHE_HOME": "/c", "XDG_RUNTIME_DIR": str(tmp_path)}
    assert find_folders(given, tmp_path) == Folders(Path("/d"), Path("/s"), Path("/c"), tmp_path)
    usual = Folders(tmp_path / ".local/share", tmp_path / ".local/state", tmp_path / ".cache", None)
    assert find_folders({}, tmp_path) == usual
    relative = {"XDG_DATA_HOME": "d", "XDG_STATE_HOME": "", "XDG_RUNTIME_DIR": str(tmp_path / "none")}
    assert find_folders(relative, tmp_path) == usual


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_check_of_units(layout: Layout) -> None:
    """Units that systemd understands have no finding, and an unknown key or a missing program has one."""
    make(layout, GOOD)
    unit = layout.real(layout.service)
    program = f"{layout.current}/bin/python"
    layout.real(program).parent.mkdir(parents=True)
    layout.real(program).symlink_to(sys.executable)
    unit.write_text(unit.read_text(encoding="utf-8").replace("/service", program), encoding="utf-8")
    assert check_units(layout) == ""
    unit.write_text(unit.read_text(encoding="utf-8") + "Restarts=always\n", encoding="utf-8")
    complaint = check_units(layout) or ""
    assert "litellm.service" in complaint
    assert "Restarts" in complaint
    layout.real(program).unlink()
    assert f"{program} is not executable" in (check_units(layout) or "")


def test_units_without_systemd(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without systemd the units have no findings."""
    make(layout, GOOD)
    monkeypatch.setattr("litellm_systemd.command.minimal_environment", lambda: {"PATH": "/nowhere"})
    assert check_units(layout) is None
