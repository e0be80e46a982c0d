"""doctor --bundle: one archive for a bug report, without secrets."""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from litellm_systemd import contract
from litellm_systemd.commands.doctor import find_any_layout
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.env.dotenv import parse_environment_file
from litellm_systemd.env.secrets import Scrubber, is_secret_variable
from litellm_systemd.errors import CannotCreate, InstallerError, MissingError
from litellm_systemd.host.layout import Layout
from litellm_systemd.releases.inventory import current_release
from litellm_systemd.report.report import Report

#: Variables that systemd sets for every process (systemd.exec(5), "Environment variables in spawned processes").
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


def learn_secrets(snapshot: Snapshot) -> Scrubber:
    """A scrubber that knows the secrets of the environment, of configurations, units, drop-ins and the main process.

    The journal of two days may also have secrets of other configurations, and of environments whose start failed. A
    file that can't be read is skipped.
    """
    scrubber, layout = Scrubber(), snapshot.layout
    environment = layout.real(layout.environment_file)
    failed = layout.real(layout.failed).glob("*/" + layout.environment_file.strip("/").replace("/", "-"))
    for path in (environment, *sorted(failed)):
        scrubber.learn_variables(parse_environment_file(_text(path)))
    for path in _configurations(snapshot):
        scrubber.learn_yaml(_text(path))
    for path in unit_files(layout):
        scrubber.learn_unit(_text(path))
    # From no file of ours: an EnvironmentFile= of a drop-in, a file that was changed since the start.
    scrubber.learn_variables(_environment_of(snapshot))
    return scrubber


def unit_files(layout: Layout) -> tuple[Path, ...]:
    """The units, then their drop-ins from each folder that systemd reads."""
    units = (contract.SERVICE, contract.SOCKET)
    paths = [layout.real(f"{layout.units}/{unit}") for unit in units]
    for folder in (layout.units, "/run/systemd/system", "/etc/systemd/system.control"):
        for unit in units:
            paths += sorted(layout.real(f"{folder}/{unit}.d").glob("*.conf"))
    return tuple(paths)


def _configurations(snapshot: Snapshot) -> Iterator[Path]:
    layout = snapshot.layout
    yield layout.real(layout.config_link)
    with contextlib.suppress(InstallerError, OSError):
        yield from snapshot.gateway.includes
    yield from sorted(path for path in layout.real(layout.configs).rglob("*") if path.is_file())


def _environment_of(snapshot: Snapshot) -> Mapping[str, str]:
    """The variables of the running main process."""
    try:
        pid = snapshot.service.get("MainPID", "0")
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


#: The part of the journal: since when, and at most how many lines.
_SINCE, _LINES = "-2d", 5000
_NAME = "litellm-bug-report"


def require_place(path: Path) -> None:
    """Raise CannotCreate if the archive can't be written: before the host is examined or repaired, not after it."""
    if os.path.lexists(path):
        raise _exists(path)
    if not path.parent.is_dir():
        raise CannotCreate(f"{path}: there is no folder {path.parent}", "Create it first.")
    if not os.access(path.parent, os.W_OK):
        raise CannotCreate(f"{path}: {path.parent} is not writable", "Name another path.")


def _exists(path: Path) -> CannotCreate:
    return CannotCreate(f"{path} exists already", "Name another path, or remove it.")


def write_bundle(report: Report, path: Path) -> Report:
    """Write a diagnosis and its evidence to a tar.gz that only its owner can read; the report names it.

    Raises:
        CannotCreate: `path` exists already, or its folder does not exist or is not writable.
    """
    snapshot = Snapshot(find_any_layout())
    scrubber, parts, missing = learn_secrets(snapshot), dict[str, str](), list[str]()
    for name, find in (*_parts(snapshot, scrubber), ("findings.json", report.as_json)):
        try:
            parts[name] = find()
        except (InstallerError, OSError) as error:
            missing.append(f"{name}: {error}")
    parts["missing.txt"] = "".join(f"{line}\n" for line in missing)
    # A first round over all texts: a secret that is recognized in the last text may be in the first one.
    for text in parts.values():
        scrubber.scrub(text)
    _write(path, {name: scrubber.scrub(text) for name, text in parts.items()})
    note = (
        f"{path}: {len(parts)} files for a bug report, without the secrets that were recognized. Check it before you"
        " send it."
    )
    return replace(report, notes=(*report.notes, note))


def _write(path: Path, parts: dict[str, str]) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise CannotCreate(f"{path}: {error.strerror}", "Name another path.") from None
    with os.fdopen(handle, "wb") as stream, tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, text in sorted(parts.items()):
            content = text.encode()
            member = tarfile.TarInfo(f"{_NAME}/{name}")
            member.size, member.mode, member.mtime = len(content), 0o600, int(time.time())
            archive.addfile(member, io.BytesIO(content))


def _parts(snapshot: Snapshot, scrubber: Scrubber) -> Iterator[tuple[str, Callable[[], str]]]:
    """Each file of the archive, and the function that returns its text."""
    config = snapshot.layout.real(snapshot.layout.config_link)
    yield "environment.txt", lambda: _environment(snapshot, scrubber)
    yield "config.yaml", lambda: config.read_text(encoding="utf-8", errors="replace")
    with contextlib.suppress(InstallerError, OSError):
        for path in snapshot.gateway.includes:
            yield f"included/{path.name}", partial(path.read_text, encoding="utf-8", errors="replace")
    yield "units.txt", lambda: _units(snapshot)
    yield "properties.json", lambda: _json({contract.SERVICE: snapshot.service, contract.SOCKET: snapshot.socket})
    yield "runtime.json", lambda: _json(snapshot.runtime)
    yield "versions.json", lambda: _json(_versions(snapshot))
    yield "files.txt", lambda: _files(snapshot)
    yield "journal.txt", lambda: _journal(snapshot)


def _json(found: Any) -> str:
    return json.dumps(found, indent=1, ensure_ascii=False, default=str) + "\n"


def _environment(snapshot: Snapshot, scrubber: Scrubber) -> str:
    """The variables without secret values, those included that are too short to be searched for elsewhere."""
    rows = {
        name: scrubber.placeholder(value) if is_secret_variable(name, value) else value
        for name, value in snapshot.environment.items()
    }
    return "".join(f"{name}={value}\n" for name, value in rows.items())


def _units(snapshot: Snapshot) -> str:
    found = []
    for path in unit_files(snapshot.layout):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            text = f"{error.strerror}\n"
        found.append(f"# {path}\n{text}")
    return "\n".join(found)


def _versions(snapshot: Snapshot) -> dict[str, Any]:
    known: dict[str, Any] = {
        "litellmctl": version("litellm-systemd"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "release": current_release(snapshot.layout),
    }
    release = Path("/etc/os-release")
    known["system"] = release.read_text(encoding="utf-8").splitlines() if release.exists() else None
    packages = snapshot.layout.real(snapshot.layout.current).glob("lib/python*/site-packages/*.dist-info")
    known["packages"] = sorted(path.name.removesuffix(".dist-info") for path in packages)
    try:
        known["systemd"] = snapshot.systemctl.version()
    except InstallerError as error:
        known["systemd"] = error.message
    return known


def _files(snapshot: Snapshot) -> str:
    lines = []
    for path in sorted(snapshot.records):
        found = snapshot.file(path)
        state = f"{found.kind.value} {found.mode:04o} {found.owner}:{found.group}" if found else "gone"
        lines.append(f"{path}: {state}\n")
    return "".join(lines)


def _journal(snapshot: Snapshot) -> str:
    # PermissionDenied ends it: secrets that are not known can't be removed.
    with contextlib.suppress(MissingError):
        _ = snapshot.environment
    entries = snapshot.systemctl.entries(since=_SINCE, timeout=30)[-_LINES:]
    return "".join(
        f"{int(each.get('__REALTIME_TIMESTAMP', 0)) / 1e6:.6f} <{each.get('PRIORITY', '')}>"
        f" {each.get('SYSLOG_IDENTIFIER', '')}[{each.get('_PID', '')}]: {_message(each.get('MESSAGE'))}\n"
        for each in entries
    )


def _message(message: Any) -> str:
    # journalctl gives a message with bytes that are not UTF-8 as a list of numbers.
    return bytes(message).decode(errors="replace") if isinstance(message, list) else str(message)
