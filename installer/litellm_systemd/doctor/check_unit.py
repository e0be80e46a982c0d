"""The units as systemd sees them: are they loaded, enabled, and still have the installed sandbox?

And how the service exited: exit code, signal, watchdog, out of memory, start limit; and whether it started at boot.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from litellm_systemd import contract
from litellm_systemd.contract import ExitCode
from litellm_systemd.doctor.engine import Cause, Finding, detects
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.doctor.start_errors import StartError, find_blamed, find_crash, find_start_error, read_error
from litellm_systemd.env.environment_file import read_environment_text
from litellm_systemd.env.variables import MASTER_KEY
from litellm_systemd.errors import InstallerError, PermissionDenied, Unavailable
from litellm_systemd.host.effective import UnitLine, find_drop_ins, read_lines, read_unit_lines
from litellm_systemd.host.install_lock import find_holder
from litellm_systemd.host.layout import UNITS, Layout
from litellm_systemd.host.state import Action, FileKind, FileState, Verb
from litellm_systemd.host.systemctl import Event
from litellm_systemd.instances.temporary_unit import is_left_over
from litellm_systemd.report.report import Outcome
from litellm_systemd.user_files import read_regular

#: The remedy for a line of a drop-in.
CORRECT_LINE = "Correct or remove {where}, then: sudo systemctl daemon-reload && sudo litellmctl restart"
_SYSTEMD = ("host-systemd-absent", "host-systemd-silent")
_INSTALLED = (*_SYSTEMD, "files-not-installed")

MASKED = Cause(
    "unit-masked",
    "The unit is masked, so systemd never starts it.",
    "sudo systemctl unmask {unit} && sudo litellmctl install --installed",
    requires=_SYSTEMD,
)
#: Where systemd-debug-generator(8) masks units. `systemctl unmask` does not remove these links.
_MASKS = "/run/systemd/generator.early"


@detects(MASKED)
def detect_unit_masked(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a masked unit: `systemctl mask` replaces the unit file by a link to /dev/null, a generator hides it."""
    for name in UNITS:
        unit = snapshot.unit(name)
        if "masked" in (unit.load, unit.enabled):
            evidence, remedy = f"{name}: LoadState={unit.load}, UnitFileState={unit.enabled}", ""
            file = snapshot.file(f"{snapshot.layout.units}/{name}")
            if file is not None and file.kind is FileKind.FILE and not file.content:
                evidence = f"{file.path} is empty, as after a power failure: {evidence}"
            if snapshot.file(f"{_MASKS}/{name}") is not None:
                evidence = f"a generator masks it with {_MASKS}/{name}: {evidence}"
                remedy = (
                    "grep -o 'systemd.mask=[^ ]*' /proc/cmdline; ls /etc/systemd/system-generators    # remove what"
                    " masks it from the boot loader's configuration, or the generator; then: sudo reboot"
                )
            yield MASKED.finding(evidence, unit=name, instead=remedy)


BAD = Cause(
    "unit-bad",
    "The unit or one of its drop-ins has an error, so systemd does not start it.",
    "Correct {where} (see: systemd-analyze verify {unit}), then: sudo systemctl daemon-reload && sudo litellmctl"
    " start",
    requires=(*_INSTALLED, "unit-masked"),
)


@detects(BAD)
def detect_unit_bad(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect units that systemd could not load. `files-gone` reports missing unit files."""
    for name in UNITS:
        properties = _properties(snapshot, name)
        if properties.get("LoadState") in ("error", "bad-setting"):
            complaints = snapshot.systemctl.verify(name).splitlines()
            reason = next((line for line in complaints if line.startswith(f"{name}: ")), "")
            # A setting that the message names, in the last drop-in that has it; else the first drop-in.
            named = [each.where for each in drop_ins(snapshot, name) if f" {each.name}=" in reason]
            files = (*named, *properties.get("DropInPaths", "").split(), f"{snapshot.layout.units}/{name}")
            state = f"LoadState={properties['LoadState']} {properties.get('LoadError', '')}".rstrip()
            yield BAD.finding(f"{files[0]}: {reason or name}: {state}", where=files[0], unit=name)


LINE = Cause(
    "unit-line",
    "systemd ignores a line of the unit or of a drop-in, or all of a drop-in whose section header is wrong.",
    "Correct {where}, then: sudo systemctl daemon-reload && sudo litellmctl restart",
    outcome=Outcome.WARNING,
    requires=(*_INSTALLED, "unit-masked"),
    caused_by=("unit-bad",),
)


@detects(LINE)
def detect_unit_line(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect lines of the unit and its drop-ins that systemd does not understand."""
    for name in UNITS:
        # Only then systemd reads nothing of the file, and later checks see the consequences.
        outcome = Outcome.FAILED if snapshot.unit(name).enabled == "bad" else Outcome.WARNING
        for line in unit_complaints(snapshot.systemctl.verify(name, snapshot.optional_timeout), name):
            where, _, text = line.partition(": ")
            lost = _lost_variable(snapshot, where.rpartition(":")[0])
            evidence = f"{where}: {text.rstrip('.')}: so the service lacks {lost}" if lost else line
            yield LINE.finding(evidence, outcome=Outcome.FAILED if lost else outcome, where=where)


def _lost_variable(snapshot: Snapshot, *paths: str) -> str:
    """A variable that the configuration needs, the environment lacks, and one of these units or drop-ins assigns.

    A file that a line names counts too. The name of the setting does not: systemd may ignore it. Empty without one.
    """
    try:
        needed = {MASTER_KEY.name, *(name for _, name in snapshot.gateway.references)} - snapshot.environment.keys()
    except (InstallerError, OSError):
        return ""
    assigned: set[str] = set()
    for value in (line.value for path in paths if needed for line in read_lines(snapshot.layout, path)):
        assigned.update(_ASSIGNED.findall(value))
        if (file := value.removeprefix("-")).startswith("/"):
            with contextlib.suppress(OSError, ValueError):
                text = read_regular(snapshot.layout.real(file)).decode(errors="replace")
                assigned.update(read_environment_text(text).values)
    return min(needed & assigned, default="")


_ASSIGNED = re.compile(r"(?:^|[\s\"'])(\w+)=")


def unit_complaints(text: str, name: str) -> tuple[str, ...]:
    """The lines of `systemd-analyze verify` about lines in the files of one unit, as `FILE:LINE: MESSAGE`."""
    of_unit = re.compile(rf"/\S+/{re.escape(name)}(?:\.d/[^/\s]+)?:\d+: .+")
    return tuple(dict.fromkeys(of_unit.findall(text)))


FOREIGN = Cause(
    "unit-foreign",
    "systemd loads the unit from a file that litellmctl did not install; the installed unit file has no effect.",
    "sudo rm {path} && sudo systemctl daemon-reload && sudo litellmctl restart",
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
    caused_by=("files-unfinished", "files-suspended", "unit-bad", "unit-line"),
)


@detects(STALE)
def detect_unit_stale(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect unit files and drop-ins that systemd has not loaded."""
    for name in UNITS:
        reload = (Action(Verb.DAEMON_RELOAD, "systemd"),)
        unread = _unread(snapshot, name)
        if snapshot.unit(name).need_reload:
            evidence = f"{name}: NeedDaemonReload=yes"
        elif unread:
            evidence = f"{unread} is not in DropInPaths of {name}"
        else:
            continue
        layout, outcome, remedy = snapshot.layout, Outcome.WARNING, ""
        files = (f"/{path.relative_to(layout.root)}" for path in find_drop_ins(layout, name))
        if lost := _lost_variable(snapshot, f"{layout.units}/{name}", *files):
            evidence, outcome = f"{evidence}: so the service lacks {lost}", Outcome.FAILED
            remedy = "sudo systemctl daemon-reload && sudo litellmctl restart"
        yield STALE.finding(evidence, outcome=outcome, actions=reload, instead=remedy)


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
    "A unit is disabled. Without litellm.service nothing starts at the next boot; without litellm.socket the port"
    " opens only with the service.",
    "sudo systemctl enable {units}",
    outcome=Outcome.WARNING,
    fix="enables the unit",
    requires=(*_INSTALLED, "unit-masked"),
    caused_by=("files-unfinished", "files-suspended", "files-gone", "unit-line"),
)


@detects(DISABLED)
def detect_unit_disabled(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect running units that are disabled. Units that are both stopped and disabled were taken out of service."""
    units = [snapshot.unit(name) for name in UNITS]
    if not any(unit.is_enabled or unit.is_active for unit in units):
        return
    disabled = [unit for unit in units if unit.load == "loaded" and not unit.is_enabled]
    if disabled:
        evidence = ", ".join(
            f"{unit.name}: UnitFileState={unit.enabled}, ActiveState={unit.active}" for unit in disabled
        )
        actions = tuple(Action(Verb.ENABLE, unit.name) for unit in disabled)
        yield DISABLED.finding(evidence, actions=actions, units=" ".join(unit.name for unit in disabled))


STANDBY = Cause(
    "unit-standby",
    "A restart was killed before its end. Its standby still runs next to the service: it uses as much memory, and may"
    " answer with an earlier configuration.",
    "sudo litellmctl doctor --fix",
    outcome=Outcome.WARNING,
    fix="stops the standby after its requests in flight",
    requires=(*_INSTALLED, "unit-masked"),
    caused_by=("files-unfinished", "files-suspended"),
)


@detects(STANDBY)
def detect_unit_standby(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a standby that no restart needs."""
    if not snapshot.is_root:
        raise PermissionDenied("only root can see whether a restart is in progress")
    if is_left_over(snapshot.systemctl) and find_holder(snapshot.layout) is None:
        yield STANDBY.finding(f"{contract.STANDBY} runs, {contract.SERVICE} is active, and no litellmctl is running")


ROOT = Cause(
    "unit-root",
    "A drop-in runs the service as root or as a dynamic user. As root, a vulnerability in LiteLLM or a callback"
    " exposes the whole host; as another user, the service cannot read the files of the user litellm.",
    "{remedy}",
    requires=(*_INSTALLED, "unit-masked"),
)


@detects(ROOT)
def detect_unit_root(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a drop-in that changes the user of the service."""
    user = snapshot.service.get("User", "")
    if snapshot.unit(contract.SERVICE).load == "loaded" and user != contract.SERVICE_USER:
        where = find_line(snapshot.layout, snapshot.service, "User")
        if where.partition(":")[0] == snapshot.layout.service and reporter_of_unit(snapshot) != ROOT.id:
            return
        # With the group alone, the service of the right user still cannot read its configuration.
        group = (each.where for each in reversed(drop_ins(snapshot)) if each.name == "Group")
        remedy = removal(snapshot, where, *group)
        yield ROOT.finding(f"{where}: User={user or '(unset: root)'}", remedy=remedy)
    elif snapshot.service.get("DynamicUser") == "yes":
        where = find_line(snapshot.layout, snapshot.service, "DynamicUser")
        yield ROOT.finding(f"{where}: DynamicUser=yes", remedy=removal(snapshot, where))


def removal(snapshot: Snapshot, *places: str) -> str:
    """The remedy for lines, as FILE:LINE, that a drop-in or the unit itself should not have."""
    if any(each.partition(":")[0] == snapshot.layout.service for each in places):
        return "sudo litellmctl install --installed --take-ours    # restores the unit, and keeps a copy"
    noun = "line" if len(places) == 1 else "lines"
    return f"Remove the {noun} {' and '.join(places)}, then: sudo systemctl daemon-reload && sudo litellmctl restart"


SANDBOX = Cause(
    "unit-sandbox",
    "A drop-in removes an essential part of the sandbox. Other settings may be relaxed for a callback, but not this"
    " one.",
    "{remedy}",
    outcome=Outcome.WARNING,
    requires=(*_INSTALLED, "unit-masked"),
    caused_by=("unit-overridden",),
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
            where = find_line(snapshot.layout, snapshot.service, name)
            if where.partition(":")[0] == snapshot.layout.service and reporter_of_unit(snapshot):
                continue
            yield SANDBOX.finding(f"{where}: {name}={found[:60]}", remedy=removal(snapshot, where))


OVERRIDDEN = Cause(
    "unit-overridden",
    "A drop-in, or an edit of the unit, changes how systemd starts or monitors the service, which litellmctl relies"
    " on: readiness, reload and restart without downtime may not work.",
    "{remedy}",
    outcome=Outcome.WARNING,
    requires=(*_INSTALLED, "unit-masked"),
)


@detects(OVERRIDDEN)
def detect_unit_overridden(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a drop-in that changes how the service is started."""
    if snapshot.unit(contract.SERVICE).load != "loaded":
        return
    # What keeps the service from running is a failure.
    outcome = Outcome.FAILED if not snapshot.is_active and find_exit(snapshot) else Outcome.WARNING
    of_unit, of_unit_outcome = [], outcome
    for name, where in _changed_settings(snapshot).items():
        lines = [each for each in read_unit_lines(snapshot.layout, snapshot.service) if each.name == name]
        # With another type the service is active long before it can answer.
        is_early = name == "Type" and snapshot.is_active and not control_socket(snapshot).exists()
        final = Outcome.FAILED if is_early else outcome
        assignment = lines[-1].assignment if lines else f"{name}={snapshot.service[name][:80]}"
        if where.partition(":")[0] == snapshot.layout.service:
            of_unit.append(assignment)
            if is_early:
                of_unit_outcome = final
            continue
        # An empty ExecStart=, which resets the list, must go with the others.
        of_file = [each.where for each in lines if each.path == lines[-1].path] or [where]
        yield OVERRIDDEN.finding(f"{where}: {assignment}", outcome=final, remedy=removal(snapshot, *of_file))
    if of_unit and reporter_of_unit(snapshot) == OVERRIDDEN.id:  # replaced, or edited in several lines
        path = snapshot.layout.service
        evidence = f"{path}: {', '.join(of_unit)}"
        yield OVERRIDDEN.finding(evidence, outcome=of_unit_outcome, remedy=removal(snapshot, path))
    # With Accept=yes, or for another unit, systemd keeps the port and the service gets nothing.
    changed = [each for each in drop_ins(snapshot, contract.SOCKET) if each.name in ("Accept", "Service")]
    if changed and snapshot.socket.get("Triggers", contract.SERVICE) != contract.SERVICE:
        remedy = (
            f"Remove the line {changed[0].where}, then: sudo systemctl daemon-reload && sudo systemctl stop"
            " litellm.socket litellm.service && sudo litellmctl start"
        )
        yield OVERRIDDEN.finding(f"{changed[0].where}: {changed[0].assignment}", outcome=outcome, remedy=remedy)


def _changed_settings(snapshot: Snapshot) -> dict[str, str]:
    """The settings that litellmctl relies on and that have another value, each with its FILE:LINE or FILE."""
    wanted = (
        *(("Type", "notify"), ("NotifyAccess", "main"), ("KillMode", "mixed")),
        *(("ExecStart", contract.RUNTIME), ("ExecStart", f"{snapshot.layout.current}/bin/python")),
    )
    changed = (name for name, value in wanted if value not in snapshot.service.get(name, value))
    return {name: find_line(snapshot.layout, snapshot.service, name) for name in changed}


def reporter_of_unit(snapshot: Snapshot) -> str:
    """The id of the cause that reports a replaced unit file, since it may lack all that others look for.

    Empty if the unit's own file has what litellmctl relies on.
    """
    if lacks_environment_file(snapshot):
        return "environment-unloadable"

    def is_of_unit(where: str) -> bool:
        return where.partition(":")[0] == snapshot.layout.service

    is_other = snapshot.service.get("User", contract.SERVICE_USER) != contract.SERVICE_USER
    if is_other and is_of_unit(find_line(snapshot.layout, snapshot.service, "User")):
        return ROOT.id
    return OVERRIDDEN.id if any(map(is_of_unit, _changed_settings(snapshot).values())) else ""


def lacks_environment_file(snapshot: Snapshot) -> bool:
    """Whether the unit has no EnvironmentFile= with the environment, neither in its file nor in a drop-in."""
    if snapshot.service.get("FragmentPath") != snapshot.layout.service:
        return False
    names = (each.name for each in read_unit_lines(snapshot.layout, snapshot.service))
    return "EnvironmentFile" not in names and MASTER_KEY.name not in snapshot.environment


def control_socket(snapshot: Snapshot) -> Path:
    """The socket on which the main process answers commands."""
    return snapshot.layout.real(f"{contract.RUNTIME_DIRECTORY}/{contract.CONTROL_SOCKET}")


def drop_ins(snapshot: Snapshot, unit: str = contract.SERVICE, *, empty: bool = False) -> tuple[UnitLine, ...]:
    """The assignments in the drop-ins of a unit, the last one first: it is the one that counts.

    `empty`: also those without a value, which reset a list.
    """
    properties = _properties(snapshot, unit)
    own = properties.get("FragmentPath", "")
    lines = tuple(read_unit_lines(snapshot.layout, properties))
    return tuple(each for each in reversed(lines) if each.path != own and (each.value or empty))


def find_line(layout: Layout, properties: Mapping[str, str], name: str) -> str:
    """`FILE:LINE` of the last assignment of a setting in a unit and its drop-ins; the unit's file if none assigns it.

    `properties`: the FragmentPath and DropInPaths of the unit.
    """
    found = [each.where for each in read_unit_lines(layout, properties) if each.name == name]
    return found[-1] if found else properties.get("FragmentPath") or "unknown file"


#: Causes that keep the service from starting or make it exit; the exit itself is then a consequence.
STARTUP_BLOCKERS = (
    *("host-disk-full", "host-inodes", "host-read-only", "host-unmounted", "host-python-gone"),
    *("files-release-gone", "release-damaged", "files-gone", "files-config-gone", "files-user-gone"),
    *("files-unreadable", "environment-file", "environment-undecryptable", "environment-unloadable"),
    *("environment-syntax", "environment-unusable", "environment-secrets", "configuration-unusable"),
    *("configuration-package", "database-parts"),
    *("tls-unusable", "unit-masked", "unit-bad", "unit-foreign", "unit-root", "unit-condition", "unit-dependency"),
    *("unit-drop-in", "unit-overridden", "port-taken", "port-left-over"),
)
_REQUIRES = ("host-systemd-absent", "host-systemd-silent", "files-not-installed", "unit-masked")

#: Message ids of systemd (catalog/systemd.catalog): a process exited; a unit failed; systemd restarts it; the OOM
#: killer killed a process.
_PROCESS_EXIT = "98e322203f7a4ed290d09fe03c09fe15"
_FAILURE_RESULT = "d9b373ed55a64feb8242e02dbe79a49c"
_RESTARTING = "5eb03494b6584870a536b337290809b3"
_OUT_OF_MEMORY = "fe6faa94e7774663a0da52717891d8ef"
#: systemd begins to start a unit.
_STARTING = "7d4958e842da4a758f6c1cdc7b36dcc5"
#: Seconds after which an exit that the service has recovered from is no longer reported.
_MAX_AGE = 86_400

#: Meaning of exit codes: of the service (sysexits.h) and of systemd (systemd.exec(5), "Process exit codes").
EXIT_CODES = {
    int(ExitCode.CONFIG): "the configuration or the environment has an error",
    int(ExitCode.UNAVAILABLE): "the port is not available",
    int(ExitCode.TEMPORARY): "no worker became ready",
    int(ExitCode.SOFTWARE): "internal error",
    200: "CHDIR: the working directory does not exist",
    203: "EXEC: the Python of the service is missing or cannot be executed",
    209: "STDOUT: the journal is not available",
    216: "GROUP: the group does not exist",
    217: "USER: the user does not exist",
    218: "CAPABILITIES: the container is not allowed to change capabilities",
    226: "NAMESPACE: the kernel rejects the sandbox, or a path in it is missing",
    228: "SECCOMP: the kernel rejects the system call filter",
    233: "RUNTIME_DIRECTORY: /run/litellm cannot be created",
    238: "STATE_DIRECTORY: /var/lib/litellm cannot be created or assigned to the user",
    239: "CACHE_DIRECTORY: /var/cache/litellm cannot be created or assigned to the user",
    243: "CREDENTIALS: a credential cannot be set up",
}
_RESULTS = {
    "timeout": "it did not become ready, or did not stop, in time",
    "resources": "systemd could not set it up: a file that the unit names is missing, or memory ran out",
    "protocol": "it exited before it was ready",
}


@dataclass(frozen=True, slots=True)
class ServiceExit:
    """How the service exited: systemd's `result` (such as exit-code, signal, watchdog), and the code or signal."""

    result: str
    status: int = 0

    def __str__(self) -> str:
        if self.result == "exit-code" and not self.status:
            return "another command of the unit failed, such as ExecStartPre="
        if self.result == "exit-code":
            return f"exit code {self.status}" + (f" ({EXIT_CODES[self.status]})" if self.status in EXIT_CODES else "")
        if self.result in ("signal", "core-dump", "watchdog", "oom-kill") and self.status in _SIGNALS:
            return f"Result={self.result}, {_SIGNALS[self.status]}"
        more = f" ({_RESULTS[self.result]})" if self.result in _RESULTS else ""
        return f"Result={self.result}{more}"


_SIGNALS = {int(number): number.name for number in signal.Signals}


def read_exit(events: tuple[Event, ...], since: float) -> ServiceExit | None:
    """The last failure that systemd logged since a Unix time; None without one, or after a start by a user."""
    found, status, is_restart = None, 0, False
    for event in events:
        kind = event.fields.get("MESSAGE_ID")
        if event.when < since:
            continue
        if kind == _PROCESS_EXIT and event.message.partition(": ")[2].startswith("Main process"):
            status = int(event.fields.get("EXIT_STATUS", "0"))
        elif kind == _FAILURE_RESULT:
            found, is_restart = ServiceExit(event.fields.get("UNIT_RESULT", "unknown"), status), False
        elif kind == _RESTARTING:
            is_restart = True
        elif kind == _STARTING:
            status = 0  # it may fail before there is a main process
            found, is_restart = found if is_restart else None, False
    return found


def find_exit(snapshot: Snapshot) -> ServiceExit | None:
    """The failure that stopped the service, or the last one that systemd restarted it after."""
    service = snapshot.service
    if not snapshot.is_active and service.get("Result", "success") != "success":
        return ServiceExit(service["Result"], int(service.get("ExecMainStatus") or "0"))
    # A service that was stopped after a failure is not failing any more.
    if service.get("NRestarts", "0") == "0" or service.get("ActiveState") == "inactive":
        return None
    try:
        return read_exit(snapshot.events, time.time() - _MAX_AGE)
    except Unavailable:
        if snapshot.is_active:
            raise
        return ServiceExit("unknown")  # in a loop of restarts, between two of them


def _describe(snapshot: Snapshot, found: ServiceExit) -> tuple[str, Outcome]:
    """The exit in words with the service's last error, and its outcome: a warning if the service runs again."""
    if snapshot.is_active:
        number = snapshot.service["NRestarts"]
        times = "once" if number == "1" else f"{number} times"
        return f"{found}; systemd restarted it {times}, and it is running", Outcome.WARNING
    # A signal ends a service that runs: what it logged before is about something else, unless it is a known error.
    is_any = found.result not in ("signal", "core-dump")
    return f"{found}{_last_error(snapshot, is_any=is_any)}", Outcome.FAILED


def _last_error(snapshot: Snapshot, *, is_any: bool = True) -> str:
    """The last error of the start that failed, to be appended to a sentence, and the drop-ins that may explain it.

    `is_any`: whether an unknown error counts.
    """
    settings = [f"{each.where} {each.assignment}" for each in drop_ins(snapshot)][:3]
    shown = f"; drop-ins: {', '.join(settings)}" if settings else ""
    try:
        error, crash = start_error(snapshot), _crash(snapshot)
    except Unavailable as reason:  # the journal does not have it
        return f"; {reason.message}{shown[:_MAX_DROP_INS]}"
    if error is not None and not (is_any or error.is_explained):
        error = None
    return (f"; last error: {error}" if error else "") + crash + shown[:_MAX_DROP_INS]


def _crash(snapshot: Snapshot) -> str:
    """Where a C library crashed at the start that failed, to be appended to a sentence; may be empty."""
    crash = find_crash(failed_start(snapshot), snapshot.layout.etc)
    return f"; it crashed in {crash}" if crash else ""


#: Characters of drop-ins in a sentence.
_MAX_DROP_INS = 300
#: Journal entries of a start that are read: the last ones have the cause.
_MAX_ENTRIES = 1000


def failed_start(snapshot: Snapshot) -> tuple[Mapping[str, Any], ...]:
    """The journal entries of the last start that failed, oldest first; none if the service runs or did not fail."""

    def find() -> tuple[Mapping[str, Any], ...]:
        if snapshot.is_active or find_exit(snapshot) is None:
            return ()
        begin, end = failed_start_times(snapshot.events)
        timeout = snapshot.optional_timeout
        found = snapshot.systemctl.entries(since=f"@{begin:.6f}", lines=_MAX_ENTRIES, timeout=timeout).entries
        return tuple(entry for entry in found if int(entry.get("__REALTIME_TIMESTAMP", 0)) / 1e6 < end)

    return snapshot.cached("failed start", find)  # type: ignore[no-any-return]


def failed_start_times(events: tuple[Event, ...]) -> tuple[float, float]:
    """The beginning of the last start that failed, and that of the next one, as Unix times."""
    begin, failed, end = 0.0, 0.0, math.inf
    for event in events:
        kind = event.fields.get("MESSAGE_ID")
        if kind == _STARTING:
            # The first start after the failed one: it is in progress, also fails, or succeeded.
            end = min(end, event.when) if failed else math.inf
            begin = event.when
        elif kind == _FAILURE_RESULT and event.fields.get("UNIT_RESULT") != "start-limit-hit":
            failed, end = begin, math.inf
    return failed, end


def start_error(snapshot: Snapshot) -> StartError | None:
    """The error of a start in progress, or of the last one that failed; None if the service runs, or without one."""
    status = snapshot.service.get("StatusText", "")
    if snapshot.unit(contract.SERVICE).active == "activating" and status.startswith("starting "):
        error = read_error(status, snapshot.layout.etc)
        if error.is_explained:
            return error
    return find_start_error(failed_start(snapshot), snapshot.layout.etc)


def find_missing_module(snapshot: Snapshot) -> str:
    """The Python module for lack of which the service does not start; empty if that is not the reason."""
    error = None if snapshot.is_active else start_error(snapshot)
    found = _NO_MODULE.search(error.quote) if error else None
    return found[1].replace("-", "_") if found else ""


#: Of Python, and of LiteLLM.
_NO_MODULE = re.compile(r"(?:No module named|No package metadata was found for|pip install) ['\"`]?([\w-]+)")


def hit_start_limit(result: str, events: tuple[Event, ...]) -> bool:
    """Whether systemd no longer starts a failed unit. The unit's Result may be that of the previous failure."""
    last = [event.message for event in events[-6:]]
    return result == "start-limit-hit" or any("Start request repeated too quickly" in line for line in last)


START_ERROR = Cause(
    "unit-start-error",
    "The service does not start because of this error: the last one in the journal of that start, or what a start in"
    " progress waits for (in its first minute a warning).",
    "{remedy}",
    requires=_REQUIRES,
    caused_by=STARTUP_BLOCKERS,
)


@detects(START_ERROR)
def detect_unit_start_error(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a known error in the journal of a start that failed."""
    error = start_error(snapshot)
    if error is None or not error.is_explained:
        return
    evidence, remedy = explain(snapshot, error)
    crash = _crash(snapshot)
    if own := re.search(rf" called by ({re.escape(snapshot.layout.etc)}/[^:]+):", crash):
        remedy = _EDIT.format(path=own[1])
    began = int(snapshot.service.get("InactiveExitTimestampMonotonic") or "0") / 1e6
    is_early = error.is_waiting and find_exit(snapshot) is None and time.monotonic() - began < _PATIENCE
    outcome = Outcome.WARNING if is_early else None
    yield START_ERROR.finding(f"{evidence}{crash}", outcome=outcome, remedy=remedy)


def describe_start_error(snapshot: Snapshot) -> str:
    """The error of the last start that failed, and what it means; empty if the service runs, or without one."""
    error = find_start_error(failed_start(snapshot), snapshot.layout.etc)
    return "" if error is None else f"{explain(snapshot, error)[0]}{_crash(snapshot)}"


_EDIT = "sudoedit {path}    # correct the line, or remove the callback; then: sudo litellmctl start"

#: Seconds of a start in which code that has not ended may be slow only.
_PATIENCE = 60


def explain(snapshot: Snapshot, error: StartError) -> tuple[str, str]:
    """Evidence and remedy of an explained error. If a drop-in may have caused it, its line is the cause."""
    if error.file:
        what = "has not ended" if error.is_waiting else "raised an exception"
        return f"{error.file} {what}: {error.quote}", _EDIT.format(path=error.file.rpartition(":")[0])
    if error.known is None:
        return error.quote, ""
    if (found := _folder_of(snapshot, error.quote)) is not None and found.kind is FileKind.LINK:
        target = os.path.normpath(PurePosixPath(found.path).parent / os.fsdecode(found.content))
        remedy = BIND_FOLDER.format(path=found.path, target=target)
        return f"{found.path} is a link to {target}, and systemd follows no link there: {error}", remedy
    line = find_blamed(error.known, drop_ins(snapshot), error.quote)
    values = {
        "prefix": snapshot.layout.prefix,
        "python": f"{snapshot.layout.current}/bin/python",
        "environment_file": snapshot.layout.environment_file,
        "config": snapshot.config_path,
    }
    remedy = error.known.remedy.format_map(values | dict(error.groups))
    means = error.known.means
    if "failed to map segment" in error.quote and _is_noexec(snapshot.layout.real(snapshot.layout.prefix)):
        means = f"The file system of {snapshot.layout.prefix} is mounted with noexec: a library cannot be loaded"
        return f"{means}: {error}", remedy
    if line is not None:
        means, remedy = f"{line.where}: {line.assignment}: {means}", CORRECT_LINE.format(where=line.where)
    return f"{means}: {error}", remedy


#: The remedy for a folder of the service that was replaced by a link, such as one to a larger disk.
BIND_FOLDER = (
    "sudo rm {path} && sudo mkdir {path} && echo '{target} {path} none bind' | sudo tee -a /etc/fstab && sudo mount"
    " {path} && sudo litellmctl start    # before this, mount the file system of {target} if it is missing"
)


def _folder_of(snapshot: Snapshot, quote: str) -> FileState | None:
    """What has the path of the folder that systemd could not set up."""
    folders = {"STATE": snapshot.layout.state, "CACHE": snapshot.layout.cache}
    step = re.search(r"Failed at step (STATE|CACHE)_DIRECTORY", quote)
    return snapshot.file(folders[step[1]]) if step else None


def _is_noexec(path: Path) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & os.ST_NOEXEC)
    except OSError:
        return False


START_LIMIT = Cause(
    "unit-start-limit",
    "The service failed so often in a row that systemd no longer starts it. The evidence and the journal (-p err)"
    " show why it failed.",
    "sudo litellmctl start    # after fixing what made it fail",
    fix="resets the failure counter and starts the service",
    requires=_REQUIRES,
    caused_by=(*STARTUP_BLOCKERS, "unit-start-error"),
)


@detects(START_LIMIT)
def detect_unit_start_limit(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect that systemd stopped restarting the service."""
    if snapshot.service.get("ActiveState") != "failed":
        return
    result, events = snapshot.service.get("Result", ""), snapshot.known_events
    if not hit_start_limit(result, events):
        return
    last = read_exit(tuple(e for e in events if e.fields.get("UNIT_RESULT") != "start-limit-hit"), 0)
    last_exit = f"; last exit: {last}" if last else ""
    evidence = f"Start request repeated too quickly{last_exit}{_last_error(snapshot)}"
    yield START_LIMIT.finding(evidence, actions=(Action(Verb.START, contract.SERVICE),))


_CAUSES_OF_EXIT = (*STARTUP_BLOCKERS, "unit-start-error", "unit-start-limit")

WATCHDOG = Cause(
    "unit-watchdog",
    "The main process did not notify the watchdog for WATCHDOG_TIMEOUT seconds, so systemd killed it: the host was"
    " suspended or had no CPU or memory left. A worker that hangs is replaced without this.",
    "journalctl -u litellm -n 50    # shows where it hung; on a slow host set a larger WATCHDOG_TIMEOUT in .env",
    requires=_REQUIRES,
    caused_by=_CAUSES_OF_EXIT,
)


@detects(WATCHDOG)
def detect_unit_watchdog(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a service that the watchdog has killed."""
    found = find_exit(snapshot)
    if found is not None and found.result == "watchdog":
        evidence, outcome = _describe(snapshot, found)
        yield WATCHDOG.finding(evidence, outcome=outcome)


OOM = Cause(
    "unit-oom",
    "The kernel killed a process of the service because memory ran out. A worker is replaced; if it was the main"
    " process, all requests were lost.",
    "Set WORKER_MEMORY_LIMIT=MIB and a smaller NUM_WORKERS in .env, or add memory; then: sudo litellmctl install",
    requires=_REQUIRES,
    caused_by=_CAUSES_OF_EXIT,
)


@detects(OOM)
def detect_unit_oom(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect processes of the service that the OOM killer killed, as far as the kernel notified systemd."""
    since = time.time() - _MAX_AGE
    is_result = snapshot.service.get("Result") == "oom-kill"
    events = snapshot.known_events if is_result else snapshot.events
    kills = [event for event in events if event.fields.get("MESSAGE_ID") == _OUT_OF_MEMORY and event.when > since]
    if is_result or kills:
        outcome = Outcome.WARNING if snapshot.is_active else Outcome.FAILED
        last = kills[-1].message if kills else "Result=oom-kill"
        yield OOM.finding(f"{last} (in the last day: {len(kills)})", outcome=outcome)


KILLED = Cause(
    "unit-killed",
    "A signal ended the main process. SIGKILL comes from kill -9, or from the kernel when memory runs out, which it"
    " does not always report to systemd. SIGSEGV and SIGABRT mean that a C library crashed.",
    "{remedy}",
    requires=_REQUIRES,
    caused_by=(*_CAUSES_OF_EXIT, "unit-oom"),
)


@detects(KILLED)
def detect_unit_killed(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a main process that a signal has ended."""
    found = find_exit(snapshot)
    if found is not None and found.result in ("signal", "core-dump"):
        evidence, outcome = _describe(snapshot, found)
        name = _SIGNALS.get(found.status, "")
        remedy = "journalctl -k -n 50; sudo litellmctl start"
        if name in _CRASHES:
            remedy = "sudo litellmctl releases verify    # a damaged library crashes; so may a callback"
        # Either systemd waits before it starts the service again, or it does not start it.
        restart = "RestartSec" if snapshot.service.get("SubState") == "auto-restart" else "Restart"
        names = (*_SETTINGS_OF_SIGNALS.get(name, ()), *(() if snapshot.is_active else (restart,)))
        where = next((each.where for each in drop_ins(snapshot) if each.name in names), "")
        if where:
            evidence, remedy = f"{where}: {evidence}", CORRECT_LINE.format(where=where)
        yield KILLED.finding(evidence, outcome=outcome, remedy=remedy)


#: Signals that mean that a C library crashed.
_CRASHES = ("SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT")
#: Settings of a unit by the signal that ends a process if it needs more than they allow.
_SETTINGS_OF_SIGNALS = {
    "SIGSYS": ("SystemCallErrorNumber", "SystemCallFilter", "SystemCallArchitectures"),
    "SIGXCPU": ("LimitCPU",),
    "SIGXFSZ": ("LimitFSIZE",),
    # An allocation fails, and the library that needs it ends the process.
    **dict.fromkeys(("SIGABRT", "SIGSEGV"), ("LimitAS", "LimitDATA", "LimitSTACK")),
}


EXIT = Cause(
    "unit-exit",
    "The service exited with an error or could not be started. The evidence has the meaning of the exit code and the"
    " last error in the journal.",
    "journalctl -u litellm -n 50; sudo litellmctl start    # start it after fixing the cause",
    requires=_REQUIRES,
    caused_by=_CAUSES_OF_EXIT,
)
#: systemd's message about RuntimeMaxSec= (service_dispatch_timer).
_RUNTIME_LIMIT = "Service reached runtime time limit"


@detects(EXIT)
def detect_unit_exit(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect any other failure of the service."""
    found = find_exit(snapshot)
    if found is not None and found.result not in ("signal", "core-dump", "watchdog", "oom-kill", "start-limit-hit"):
        evidence, outcome = _describe(snapshot, found)
        gap, remedy = snapshot.journal_gap, ""
        limits = [each for each in drop_ins(snapshot) if each.name == "RuntimeMaxSec"]
        if limits and gap is None and any(_RUNTIME_LIMIT in event.message for event in snapshot.events):
            evidence = f"{limits[0].where}: {limits[0].assignment}: the service ran for that long; {evidence}"
            remedy = CORRECT_LINE.format(where=limits[0].where)
        if gap is not None:
            remedy = f"{gap.remedy}; sudo litellmctl start    # doctor then finds the cause"
        yield EXIT.finding(evidence, outcome=outcome, instead=remedy)


NOT_STARTED = Cause(
    "unit-not-started",
    "The service is enabled but was not started at this boot.",
    "sudo litellmctl start",
    outcome=Outcome.WARNING,
    requires=_REQUIRES,
    caused_by=_CAUSES_OF_EXIT,
)


@detects(NOT_STARTED)
def detect_unit_not_started(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect an enabled service that the boot did not start. A service that was stopped later is not reported."""
    unit = snapshot.unit(contract.SERVICE)
    never = snapshot.service.get("InactiveExitTimestampMonotonic") == "0"
    if unit.is_enabled and unit.active == "inactive" and never and snapshot.service.get("Result") == "success":
        try:
            messages = [event.message for event in snapshot.events]
        except PermissionDenied:
            messages = []
        evidence = messages[-1] if messages else "ActiveState=inactive since boot, with no attempt to start it"
        yield NOT_STARTED.finding(evidence)
