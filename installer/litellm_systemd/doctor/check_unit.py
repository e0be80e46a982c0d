"""The units as systemd has them: loaded, enabled, and with the sandbox that was installed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from litellm_systemd import contract
from litellm_systemd.doctor.cause import Cause, Finding, looks_for
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.host.layout import UNITS
from litellm_systemd.host.state import Action, Verb
from litellm_systemd.report.report import Outcome

_SYSTEMD = ("host-systemd-absent", "host-systemd-silent")
_INSTALLED = (*_SYSTEMD, "files-not-installed")

MASKED = Cause(
    "unit-masked",
    "Somebody has forbidden systemd to start the unit, which so isn't started by anything.",
    "systemctl unmask {unit} && sudo litellmctl install --installed",
    needs=_SYSTEMD,
)


@looks_for(MASKED)
def masked(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether a unit is masked. `systemctl mask` puts a link to /dev/null in the place of its file."""
    for name in UNITS:
        unit = snapshot.unit(name)
        if "masked" in (unit.load, unit.enabled):
            yield MASKED.found(f"{name}: LoadState={unit.load}, UnitFileState={unit.enabled}", unit=name)


BAD = Cause(
    "unit-bad",
    "systemd can't make sense of the unit or of a drop-in of it, and doesn't start it.",
    "systemd-analyze verify {path}    # then mend the line, and: systemctl daemon-reload",
    needs=(*_INSTALLED, "unit-masked"),
)


@looks_for(BAD)
def bad(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether each unit is loaded. A unit that is gone is told as a file that is gone."""
    for name in UNITS:
        properties = _properties(snapshot, name)
        if properties.get("LoadState") in ("error", "bad-setting"):
            seen = f"{name}: LoadState={properties['LoadState']}"
            yield BAD.found(
                f"{seen} {properties.get('LoadError', '')}".strip(), path=f"{snapshot.layout.units}/{name}"
            )


FOREIGN = Cause(
    "unit-foreign",
    "systemd takes the unit from a file that litellmctl didn't write; the one that it wrote has no effect.",
    "rm {path} && systemctl daemon-reload && systemctl restart litellm",
    needs=(*_INSTALLED, "unit-masked"),
)


@looks_for(FOREIGN)
def foreign(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether systemd has the units from where they were written."""
    for name in UNITS:
        fragment = snapshot.unit(name).fragment
        if fragment and fragment != f"{snapshot.layout.units}/{name}":
            yield FOREIGN.found(f"{name}: FragmentPath={fragment}", path=fragment)


STALE = Cause(
    "unit-stale",
    "A unit or drop-in was changed since systemd read it: the change has no effect yet.",
    "systemctl daemon-reload    # then, for the running service: sudo litellmctl restart",
    outcome=Outcome.WARNING,
    fix="has systemd read the units again",
    needs=(*_SYSTEMD, "unit-masked"),
    follows=("unit-bad",),
)


@looks_for(STALE)
def stale(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether systemd knows the files as they are."""
    for name in UNITS:
        reload = (Action(Verb.DAEMON_RELOAD, "systemd"),)
        unread = _unread(snapshot, name)
        if snapshot.unit(name).need_reload:
            yield STALE.found(f"{name}: NeedDaemonReload=yes", actions=reload)
        elif unread:
            yield STALE.found(f"{unread} isn't in DropInPaths of {name}", actions=reload)


def _unread(snapshot: Snapshot, name: str) -> str | None:
    """A drop-in that systemd hasn't read. It doesn't see those in a folder that is new (unit_path_cache)."""
    read = _properties(snapshot, name).get("DropInPaths", "").split()
    folder = snapshot.layout.real(f"{snapshot.layout.units}/{name}.d")
    # An empty one, or one that leads to /dev/null, is masked and is never read (systemd.unit(5)).
    found = (path for path in sorted(folder.glob("*.conf")) if path.exists() and path.stat().st_size)
    return next((str(path) for path in found if str(path) not in read), None)


def _properties(snapshot: Snapshot, name: str) -> Mapping[str, str]:
    return snapshot.service if name == contract.SERVICE else snapshot.socket


DISABLED = Cause(
    "unit-disabled",
    "The service runs now and isn't started at the next boot.",
    "systemctl enable {unit}",
    outcome=Outcome.WARNING,
    fix="enables it",
    needs=(*_INSTALLED, "unit-masked"),
    follows=("files-gone",),
)


@looks_for(DISABLED)
def disabled(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether a boot starts what runs now. Both units stopped and disabled is somebody's decision."""
    units = [snapshot.unit(name) for name in UNITS]
    if not any(unit.is_enabled or unit.is_active for unit in units):
        return
    for unit in units:
        if unit.load == "loaded" and not unit.is_enabled:
            seen = f"{unit.name}: UnitFileState={unit.enabled}"
            yield DISABLED.found(seen, actions=(Action(Verb.ENABLE, unit.name),), unit=unit.name)


ROOT = Cause(
    "unit-root",
    "The service runs as root, or as a user that systemd makes up: a hole in LiteLLM or in a callback is a hole in"
    " the whole host, and files of the user litellm can't be read.",
    "remove that line ({where}), then: systemctl daemon-reload && sudo litellmctl restart",
    needs=(*_INSTALLED, "unit-masked"),
)


@looks_for(ROOT)
def runs_as_root(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether a drop-in gives the service another user."""
    user = snapshot.service.get("User", "")
    if snapshot.unit(contract.SERVICE).load == "loaded" and user != contract.SERVICE_USER:
        where = find_line(_sources(snapshot), "User")
        yield ROOT.found(f"{where}: User={user or 'root, since none is set'}", where=where)
    elif snapshot.service.get("DynamicUser") == "yes":
        where = find_line(_sources(snapshot), "DynamicUser")
        yield ROOT.found(f"{where}: DynamicUser=yes", where=where)


SANDBOX = Cause(
    "unit-sandbox",
    "A drop-in takes away what the sandbox rests on. A single line that a callback needs may be loosened; not these.",
    "remove that line ({where}), then: systemctl daemon-reload && sudo litellmctl restart",
    outcome=Outcome.WARNING,
    needs=(*_INSTALLED, "unit-masked"),
)
#: What each of them is with the sandbox in place, as `systemctl show` has it.
_SANDBOX = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
}


@looks_for(SANDBOX)
def sandbox(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the service can gain privileges, or write to the system."""
    if snapshot.unit(contract.SERVICE).load != "loaded":
        return
    for name, wanted in _SANDBOX.items():
        found = snapshot.service.get(name, wanted)
        # Full instead of strict still keeps it from writing to /usr and /etc.
        if found not in (wanted, "full"):
            where = find_line(_sources(snapshot), name)
            yield SANDBOX.found(f"{where}: {name}={found[:60]}", where=where)


OVERRIDDEN = Cause(
    "unit-overridden",
    "A drop-in changes how the service is started or watched, which litellmctl relies on: readiness, reload and"
    " restart without a pause may not work.",
    "remove that line ({where}), then: systemctl daemon-reload && sudo litellmctl restart",
    outcome=Outcome.WARNING,
    needs=(*_INSTALLED, "unit-masked"),
)


@looks_for(OVERRIDDEN)
def overridden(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the service is still started as it was installed."""
    if snapshot.unit(contract.SERVICE).load != "loaded":
        return
    wanted = {"Type": "notify", "NotifyAccess": "main", "ExecStart": "litellm_systemd.runtime", "KillMode": "mixed"}
    for name, value in wanted.items():
        found = snapshot.service.get(name, value)
        if value not in found:
            where = find_line(_sources(snapshot), name)
            yield OVERRIDDEN.found(f"{where}: {name}={found[:80]}", where=where)


def _sources(snapshot: Snapshot) -> tuple[Path, ...]:
    """The files that the service's unit is put together from, in systemd's order."""
    paths = (snapshot.service.get("FragmentPath", ""), *snapshot.service.get("DropInPaths", "").split())
    return tuple(snapshot.layout.real(path) for path in paths if path)


def find_line(sources: tuple[Path, ...], name: str) -> str:
    """`FILE:LINE` of the last assignment of a setting in unit files; the first file if none of them has one."""
    found = str(sources[0]) if sources else "the unit"
    for path in sources:
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:  # a drop-in that has gone since systemd read it
            continue
        for number, line in enumerate(lines, 1):
            if line.partition("=")[0].strip() == name:
                found = f"{path}:{number}"
    return found
