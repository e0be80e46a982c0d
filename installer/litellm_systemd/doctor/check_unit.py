"""The units as systemd sees them: are they loaded, enabled, and still have the installed sandbox?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from litellm_systemd import contract
from litellm_systemd.doctor.cause import Cause, Finding, detects
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.host.layout import UNITS
from litellm_systemd.host.state import Action, Verb
from litellm_systemd.report.report import Outcome

_SYSTEMD = ("host-systemd-absent", "host-systemd-silent")
_INSTALLED = (*_SYSTEMD, "files-not-installed")

MASKED = Cause(
    "unit-masked",
    "The unit is masked, so systemd never starts it.",
    "sudo systemctl unmask {unit} && sudo litellmctl install --installed",
    requires=_SYSTEMD,
)


@detects(MASKED)
def detect_unit_masked(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a masked unit: `systemctl mask` replaces the unit file by a link to /dev/null."""
    for name in UNITS:
        unit = snapshot.unit(name)
        if "masked" in (unit.load, unit.enabled):
            yield MASKED.finding(f"{name}: LoadState={unit.load}, UnitFileState={unit.enabled}", unit=name)


BAD = Cause(
    "unit-bad",
    "The unit or one of its drop-ins has an error, so systemd does not start it.",
    "systemd-analyze verify {path}    # correct the line that it names, then: sudo systemctl daemon-reload",
    requires=(*_INSTALLED, "unit-masked"),
)


@detects(BAD)
def detect_unit_bad(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect units that systemd could not load. `files-gone` reports missing unit files."""
    for name in UNITS:
        properties = _properties(snapshot, name)
        if properties.get("LoadState") in ("error", "bad-setting"):
            evidence = f"{name}: LoadState={properties['LoadState']} {properties.get('LoadError', '')}"
            yield BAD.finding(evidence.strip(), path=f"{snapshot.layout.units}/{name}")


FOREIGN = Cause(
    "unit-foreign",
    "systemd loads the unit from a file that litellmctl did not install; the installed unit file has no effect.",
    "sudo rm {path} && sudo systemctl daemon-reload && sudo systemctl restart litellm",
    requires=(*_INSTALLED, "unit-masked"),
)


@detects(FOREIGN)
def detect_unit_foreign(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect units that systemd loads from another path than the installed one."""
    for name in UNITS:
        fragment = snapshot.unit(name).fragment
        if fragment and fragment != f"{snapshot.layout.units}/{name}":
            yield FOREIGN.finding(f"{name}: FragmentPath={fragment}", path=fragment)


STALE = Cause(
    "unit-stale",
    "A unit or drop-in was changed after systemd loaded it: the change has no effect yet.",
    "sudo systemctl daemon-reload    # to apply it to the running service: sudo litellmctl restart",
    outcome=Outcome.WARNING,
    fix="reloads the units (daemon-reload)",
    requires=(*_SYSTEMD, "unit-masked"),
    caused_by=("unit-bad",),
)


@detects(STALE)
def detect_unit_stale(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect unit files and drop-ins that systemd has not loaded."""
    for name in UNITS:
        reload = (Action(Verb.DAEMON_RELOAD, "systemd"),)
        unread = _unread(snapshot, name)
        if snapshot.unit(name).need_reload:
            yield STALE.finding(f"{name}: NeedDaemonReload=yes", actions=reload)
        elif unread:
            yield STALE.finding(f"{unread} is not in DropInPaths of {name}", actions=reload)


def _unread(snapshot: Snapshot, name: str) -> str | None:
    """A drop-in that systemd has not read. NeedDaemonReload misses those in a new folder (unit_path_cache)."""
    read = _properties(snapshot, name).get("DropInPaths", "").split()
    folder = snapshot.layout.real(f"{snapshot.layout.units}/{name}.d")
    # An empty file, or a link to /dev/null, is masked and never read (systemd.unit(5)).
    found = (path for path in sorted(folder.glob("*.conf")) if path.exists() and path.stat().st_size)
    return next((str(path) for path in found if str(path) not in read), None)


def _properties(snapshot: Snapshot, name: str) -> Mapping[str, str]:
    return snapshot.service if name == contract.SERVICE else snapshot.socket


DISABLED = Cause(
    "unit-disabled",
    "The service is running but will not start at the next boot.",
    "sudo systemctl enable {unit}",
    outcome=Outcome.WARNING,
    fix="enables the unit",
    requires=(*_INSTALLED, "unit-masked"),
    caused_by=("files-gone",),
)


@detects(DISABLED)
def detect_unit_disabled(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect running units that are disabled. Units that are both stopped and disabled were taken out of service."""
    units = [snapshot.unit(name) for name in UNITS]
    if not any(unit.is_enabled or unit.is_active for unit in units):
        return
    for unit in units:
        if unit.load == "loaded" and not unit.is_enabled:
            evidence = f"{unit.name}: UnitFileState={unit.enabled}"
            yield DISABLED.finding(evidence, actions=(Action(Verb.ENABLE, unit.name),), unit=unit.name)


ROOT = Cause(
    "unit-root",
    "A drop-in runs the service as root or as a dynamic user. As root, a vulnerability in LiteLLM or a callback"
    " exposes the whole host; as another user, the service cannot read the files of the user litellm.",
    "Remove the line {where}, then: sudo systemctl daemon-reload && sudo litellmctl restart",
    requires=(*_INSTALLED, "unit-masked"),
)


@detects(ROOT)
def detect_unit_root(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a drop-in that changes the user of the service."""
    user = snapshot.service.get("User", "")
    if snapshot.unit(contract.SERVICE).load == "loaded" and user != contract.SERVICE_USER:
        where = find_line(_sources(snapshot), "User")
        yield ROOT.finding(f"{where}: User={user or '(unset: root)'}", where=where)
    elif snapshot.service.get("DynamicUser") == "yes":
        where = find_line(_sources(snapshot), "DynamicUser")
        yield ROOT.finding(f"{where}: DynamicUser=yes", where=where)


SANDBOX = Cause(
    "unit-sandbox",
    "A drop-in removes an essential part of the sandbox. Other settings may be relaxed for a callback, but not this"
    " one.",
    "Remove the line {where}, then: sudo systemctl daemon-reload && sudo litellmctl restart",
    outcome=Outcome.WARNING,
    requires=(*_INSTALLED, "unit-masked"),
)
#: Essential settings of the sandbox, with their values as `systemctl show` prints them.
_SANDBOX = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
}


@detects(SANDBOX)
def detect_unit_sandbox(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a drop-in that lets the service gain privileges or write to the system."""
    if snapshot.unit(contract.SERVICE).load != "loaded":
        return
    for name, wanted in _SANDBOX.items():
        found = snapshot.service.get(name, wanted)
        # ProtectSystem=full still makes /usr and /etc read-only.
        if found not in (wanted, "full"):
            where = find_line(_sources(snapshot), name)
            yield SANDBOX.finding(f"{where}: {name}={found[:60]}", where=where)


OVERRIDDEN = Cause(
    "unit-overridden",
    "A drop-in changes how systemd starts or monitors the service, which litellmctl relies on: readiness, reload and"
    " restart without downtime may not work.",
    "Remove the line {where}, then: sudo systemctl daemon-reload && sudo litellmctl restart",
    outcome=Outcome.WARNING,
    requires=(*_INSTALLED, "unit-masked"),
)


@detects(OVERRIDDEN)
def detect_unit_overridden(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a drop-in that changes how the service is started."""
    if snapshot.unit(contract.SERVICE).load != "loaded":
        return
    wanted = {"Type": "notify", "NotifyAccess": "main", "ExecStart": contract.RUNTIME, "KillMode": "mixed"}
    for name, value in wanted.items():
        found = snapshot.service.get(name, value)
        if value not in found:
            where = find_line(_sources(snapshot), name)
            yield OVERRIDDEN.finding(f"{where}: {name}={found[:80]}", where=where)


def _sources(snapshot: Snapshot) -> tuple[Path, ...]:
    """The unit file of the service and its drop-ins, in systemd's order."""
    paths = (snapshot.service.get("FragmentPath", ""), *snapshot.service.get("DropInPaths", "").split())
    return tuple(snapshot.layout.real(path) for path in paths if path)


def find_line(sources: tuple[Path, ...], name: str) -> str:
    """`FILE:LINE` of the last assignment of a setting in unit files; the first file if none assigns it."""
    found = str(sources[0]) if sources else "unknown file"
    for path in sources:
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:  # the drop-in was removed after systemd loaded it
            continue
        for number, line in enumerate(lines, 1):
            if line.partition("=")[0].strip() == name:
                found = f"{path}:{number}"
    return found
