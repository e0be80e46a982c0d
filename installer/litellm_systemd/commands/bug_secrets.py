"""All the secrets of this host that the archive of a bug report could hold, wherever they stand or stood."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from litellm_systemd import contract
from litellm_systemd.doctor.scene import Scene
from litellm_systemd.environment_file import parse_environment_file
from litellm_systemd.errors import InstallerError
from litellm_systemd.layout import Layout
from litellm_systemd.scrub import Scrubber, learn_unit, learn_yaml

#: What systemd gives to every process (systemd.exec(5), "Environment variables in spawned processes").
_OF_SYSTEMD = frozenset(
    (
        *(
            "PATH",
            "LANG",
            "USER",
            "LOGNAME",
            "HOME",
            "SHELL",
            "INVOCATION_ID",
            "SYSTEMD_EXEC_PID",
            "MEMORY_PRESSURE_WATCH",
        ),
        *("RUNTIME_DIRECTORY", "STATE_DIRECTORY", "CACHE_DIRECTORY", "CREDENTIALS_DIRECTORY", "JOURNAL_STREAM"),
        *("NOTIFY_SOCKET", "MAINPID", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"),
    )
)


def learn_secrets(scene: Scene) -> Scrubber:
    """Who knows those of the installed environment, of configurations, units, drop-ins and of the running process.

    The journal is of two days: it also has what stood in another configuration, or in an environment that failed.
    What can't be read teaches nothing.
    """
    scrubber, layout = Scrubber(), scene.layout
    environment = layout.real(layout.environment_file)
    failed = layout.real(layout.failed).glob("*/" + layout.environment_file.strip("/").replace("/", "-"))
    for path in (environment, *sorted(failed)):
        scrubber.learn_variables(parse_environment_file(_text(path)))
    for path in _configurations(scene):
        learn_yaml(scrubber, _text(path))
    for path in unit_files(layout):
        learn_unit(scrubber, _text(path))
    # What no file of ours says: an EnvironmentFile= of a drop-in, a file that was changed since the start.
    scrubber.learn_variables(_environment_of(scene))
    return scrubber


def unit_files(layout: Layout) -> tuple[Path, ...]:
    """The units, and then the drop-ins of each place that there can be some."""
    units = (contract.SERVICE, contract.SOCKET)
    paths = [layout.real(f"{layout.units}/{unit}") for unit in units]
    for folder in (layout.units, "/run/systemd/system", "/etc/systemd/system.control"):
        for unit in units:
            paths += sorted(layout.real(f"{folder}/{unit}.d").glob("*.conf"))
    return tuple(paths)


def _configurations(scene: Scene) -> Iterator[Path]:
    layout = scene.layout
    yield layout.real(layout.config_link)
    with contextlib.suppress(InstallerError, OSError):
        yield from scene.gateway.includes
    yield from sorted(layout.real(layout.configs).glob("*"))


def _environment_of(scene: Scene) -> Mapping[str, str]:
    """The variables of the running main process."""
    try:
        pid = scene.service.get("MainPID", "0")
        entries = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except (InstallerError, OSError):
        return {}
    found = dict(entry.split("=", 1) for entry in entries if "=" in entry)
    return {name: value for name, value in found.items() if name not in _OF_SYSTEMD}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
