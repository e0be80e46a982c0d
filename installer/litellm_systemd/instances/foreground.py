"""Run a rendered litellm.service in the foreground, where no systemd can run it.

The service gets from us what systemd gives it by the unit: command, environment, folders, a notify socket and a
watchdog (systemd.exec(5), sd_notify(3)). Not imitated: the user, the sandbox, the socket unit and restarts.
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from litellm_systemd.command import Child, minimal_environment, run
from litellm_systemd.env.environment_file import parse_environment_file
from litellm_systemd.env.variables import BEHIND_LOAD_BALANCER, DEREGISTRATION_DELAY, METRICS
from litellm_systemd.errors import MissingError, Unavailable
from litellm_systemd.host.layout import Layout

#: Seconds between two checks of whether the service still runs.
_TICK = 0.2
#: Bytes; systemd's own limit for a message (NOTIFY_BUFFER_MAX).
_LONGEST_MESSAGE = 4096


@dataclass(frozen=True, slots=True)
class Folders:
    """The folders for %S, %C and %t, as in a user's own systemd (systemd.unit(5), "Specifiers"), and for data.

    `runtime` is None if the user has no writable XDG_RUNTIME_DIR: a folder below /tmp is then used.
    """

    data: Path
    state: Path
    cache: Path
    runtime: Path | None

    @property
    def log(self) -> Path:
        return self.state / "litellm" / "litellm.log"


def find_folders(environ: Mapping[str, str], home: Path) -> Folders:
    """The user's folders by the XDG Base Directory Specification; a relative path in a variable is ignored."""

    def find(name: str, default: str) -> Path:
        path = Path(environ.get(name, ""))
        return path if path.is_absolute() else home / default

    runtime = Path(environ.get("XDG_RUNTIME_DIR", ""))
    return Folders(
        data=find("XDG_DATA_HOME", ".local/share"),
        state=find("XDG_STATE_HOME", ".local/state"),
        cache=find("XDG_CACHE_HOME", ".cache"),
        runtime=runtime if runtime.is_absolute() and os.access(runtime, os.W_OK | os.X_OK) else None,
    )


def check_units(layout: Layout) -> str | None:
    """What `systemd-analyze verify` reports of the rendered units, empty if nothing; None if it isn't installed."""
    with tempfile.TemporaryDirectory(prefix="litellm-units-") as folder:
        # The programs of the units are below the root, and not every path can be written in a unit.
        prefix = Path(folder, "prefix")
        prefix.symlink_to(layout.real(layout.prefix))
        copies = []
        for path in (layout.service, layout.socket, layout.metrics_socket):
            if path == layout.metrics_socket and not layout.real(path).exists():
                continue
            text = layout.real(path).read_text(encoding="utf-8")
            copies.append(Path(folder, Path(path).name))
            copies[-1].write_text(text.replace(layout.prefix, str(prefix)), encoding="utf-8")
        try:
            done = run(("systemd-analyze", "verify", "--man=no", *map(str, copies)), check=False)
        except MissingError:
            return None
        # It exits with 0 for an unknown key, so any output counts.
        report = done.stderr.strip() or (f"exit code {done.returncode}" if done.returncode else "")
        return report.replace(str(prefix), layout.prefix).replace(f"{folder}/", "")


class ForegroundService:
    """The running service. Messages are those that it sends to its notify socket."""

    def __init__(self, child: Child, notify: socket.socket, unit: Mapping[str, str], log: Path) -> None:
        self._child, self._notify, self._log = child, notify, log
        self._start_timeout = float(unit["TimeoutStartSec"])
        self._stop_timeout = float(unit["TimeoutStopSec"])
        self.watchdog_timeout = float(unit["WatchdogSec"])

    def await_ready(self, say: Callable[[str], None]) -> float:
        """Wait for READY=1; the seconds that it took. `say` gets each status on the way.

        Raises:
            Unavailable: the service exited, or isn't ready within TimeoutStartSec=.
        """
        return self._await_message("READY=1", self._start_timeout, say)

    def await_watchdog(self) -> float:
        """Wait for WATCHDOG=1; the seconds that it took.

        Raises:
            Unavailable: the service exited, or sent none within WatchdogSec=.
        """
        return self._await_message("WATCHDOG=1", self.watchdog_timeout)

    def stop(self) -> float:
        """Stop it as systemd does, by SIGTERM, and wait for STOPPING=1 and the exit code 0; the seconds that it took.

        Raises:
            Unavailable: it still runs after TimeoutStopSec=, or exits in another way.
        """
        began = time.monotonic()
        while self._receive(0):
            pass  # a full queue would block its next message
        self._child.terminate()
        self._await_message("STOPPING=1", self._stop_timeout)
        while (code := self._child.exit_code()) is None:
            if time.monotonic() - began > self._stop_timeout:
                raise Unavailable(f"the service still runs {self._stop_timeout:g} s after SIGTERM", self._hint)
            time.sleep(_TICK / 4)
        if code != 0:
            raise Unavailable(f"the service exited with code {code} when it was stopped: {self._last_line()}")
        return time.monotonic() - began

    def _await_message(self, wanted: str, seconds: float, say: Callable[[str], None] = lambda _line: None) -> float:
        began = time.monotonic()
        while True:
            exited = self._child.exit_code()
            for line in self._receive(_TICK if exited is None else 0):
                if line == wanted:
                    return time.monotonic() - began
                if line.startswith("STATUS="):
                    say(line.removeprefix("STATUS="))
            if exited is not None:
                raise Unavailable(f"the service exited with code {exited}: {self._last_line()}", self._hint)
            if time.monotonic() - began > seconds:
                raise Unavailable(f"no {wanted} from the service within {seconds:g} s", self._hint)

    def _receive(self, seconds: float) -> list[str]:
        """The lines of one message, none if nothing arrives in time."""
        self._notify.settimeout(seconds)
        try:
            return self._notify.recv(_LONGEST_MESSAGE).decode(errors="replace").splitlines()
        except (TimeoutError, BlockingIOError):
            return []

    @property
    def _hint(self) -> str:
        return f"The service's log: {self._log}"

    def _last_line(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it logged nothing"


@contextmanager
def foreground_service(layout: Layout, folders: Folders) -> Iterator[ForegroundService]:
    """The service by the unit that was rendered below the root, for the time of the block; killed at its end.

    Raises:
        Unavailable: a folder or the notify socket can't be made.
    """
    unit = _read_unit(layout)
    try:
        with tempfile.TemporaryDirectory(prefix="litellm-", dir=folders.runtime or "/tmp") as runtime:  # noqa: S108
            specifiers = {"%S": str(folders.state), "%C": str(folders.cache), "%t": runtime}
            for path in (folders.state / "litellm", folders.cache / "litellm"):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
                notify.bind(f"{runtime}/notify")
                environment = {
                    **minimal_environment(),
                    **_environment(unit, specifiers),
                    **_environment_file(layout, unit),
                    "RUNTIME_DIRECTORY": runtime,
                    "NOTIFY_SOCKET": f"{runtime}/notify",
                    "WATCHDOG_USEC": str(int(float(unit["WatchdogSec"]) * 1e6)),
                }
                folder = Path(_expand(unit["WorkingDirectory"], specifiers))
                child = Child((*_dies_with_us(), *_command(layout, unit)), environment, folder, folders.log)
                try:
                    yield ForegroundService(child, notify, unit, folders.log)
                finally:
                    child.kill()
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise Unavailable(f"can't run the service in the foreground: {error.strerror or error}{where}") from error


def _read_unit(layout: Layout) -> dict[str, str]:
    """The settings of the unit by name; the last value of a repeated setting."""
    lines = layout.real(layout.service).read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def _command(layout: Layout, unit: Mapping[str, str]) -> tuple[str, ...]:
    """ExecStart=, with each path below the root."""
    words = shlex.split(unit["ExecStart"])
    return tuple(str(layout.real(word)) if word.startswith("/") else word for word in words)


def _environment(unit: Mapping[str, str], specifiers: Mapping[str, str]) -> dict[str, str]:
    return dict(_expand(word, specifiers).split("=", 1) for word in shlex.split(unit["Environment"]))


def _environment_file(layout: Layout, unit: Mapping[str, str]) -> dict[str, str]:
    found = parse_environment_file(layout.real(unit["EnvironmentFile"]).read_bytes().decode())
    # Only systemd passes the listener of the metrics, and the address may be in use by the installed service. No load
    # balancer knows this instance.
    left_out = (METRICS.name, BEHIND_LOAD_BALANCER.name, DEREGISTRATION_DELAY.name)
    return {name: value for name, value in found.items() if name not in left_out}


def _expand(text: str, specifiers: Mapping[str, str]) -> str:
    for specifier, path in specifiers.items():
        text = text.replace(specifier, path)
    return text


def _dies_with_us() -> tuple[str, ...]:
    """A prefix by which the kernel stops the service if this process is killed (prctl(2), PR_SET_PDEATHSIG)."""
    setpriv = shutil.which("setpriv", path=minimal_environment()["PATH"])
    return () if setpriv is None else (setpriv, "--pdeathsig", "TERM", "--")
