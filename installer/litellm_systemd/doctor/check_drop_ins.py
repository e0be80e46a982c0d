"""Drop-ins that keep the service from starting or end it: conditions, dependencies, settings that systemd enforces.

Found by the result that systemd reports, without the journal. `systemctl set-property` and top-level drop-ins
(service.d) count as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from litellm_systemd import contract
from litellm_systemd.doctor.check_unit import CORRECT_LINE, drop_ins, failed_start, failed_start_times, find_exit
from litellm_systemd.doctor.engine import Cause, Finding, detects
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.doctor.start_errors import find_output
from litellm_systemd.host.effective import UnitLine
from litellm_systemd.host.layout import UNITS, Layout
from litellm_systemd.host.state import in_words
from litellm_systemd.host.systemctl import Event
from litellm_systemd.report.report import Outcome

_REQUIRES = ("host-systemd-absent", "host-systemd-silent", "files-not-installed", "unit-masked", "unit-bad")


CONDITION = Cause(
    "unit-condition",
    "A condition in a drop-in is not met, so systemd does not start the service. It reports no failure.",
    CORRECT_LINE,
    requires=_REQUIRES,
)


@detects(CONDITION)
def detect_unit_condition(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a Condition= or Assert= of a drop-in that the last start did not meet."""
    unmet = find_unmet(snapshot.service)
    if snapshot.is_active or not unmet:
        return
    lines = [each for each in drop_ins(snapshot) if each.name.startswith(unmet)]
    shown = "; ".join(f"{each.where}: {each.assignment}" for each in lines)
    if lines:
        yield CONDITION.finding(shown, where=lines[0].where)


def find_unmet(properties: Mapping[str, str]) -> str:
    """`Condition` or `Assert`, if the last start of a unit did not meet one; empty if it did, or without a start."""
    kinds = ("Condition", "Assert")
    unmet = (each for each in kinds if properties.get(f"{each}Timestamp") and properties.get(f"{each}Result") == "no")
    return next(unmet, "")


DEPENDENCY = Cause(
    "unit-dependency",
    "The service depends on a unit that is missing, does not run or does not become active, such as a mount, or a"
    " unit that runs excludes it: systemd does not start the service. A drop-in or the other unit has the reason.",
    "{remedy}",
    requires=_REQUIRES,
    caused_by=("host-unmounted",),
)
#: Settings whose units must be active, and those for which the start waits (systemd.unit(5)).
_NEEDS, _WAITS = ("Requires", "Requisite", "BindsTo"), "After"
_MAX_UNITS = 20
#: The LoadState of units that systemd cannot start.
_UNUSABLE = ("masked", "not-found", "bad-setting", "error")


@detects(DEPENDENCY)
def detect_unit_dependency(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect units that a drop-in requires and that are not active, or that the next start of the service misses."""
    if snapshot.is_active:
        yield from _missing_at_next_start(snapshot)
        return
    is_waiting, named = snapshot.service.get("Job", "0") not in ("", "0"), set[str]()
    for line, name in _named_units(snapshot, *_NEEDS, _WAITS):
        state = _state(snapshot, name)
        if line.name == _WAITS:
            is_cause = is_waiting and state == "activating"
        else:
            is_cause = state not in ("active", "reloading", "refreshing")
        if is_cause:
            evidence = f"{line.where}: {line.name}={name}, and {name} {in_words(state)}"
            yield DEPENDENCY.finding(evidence, remedy=CORRECT_LINE.format(where=line.where))
            named.add(name)
    # All that it requires, also by RequiresMountsFor= or a link in litellm.service.requires.
    for name in sorted(_units(snapshot, _NEEDS) - named):
        # A unit that is only inactive would be started with the service.
        if (state := _state(snapshot, name)) in ("failed", *_UNUSABLE):
            origin = "".join(f"{each.where}: {each.assignment}: " for each in _mount_lines(snapshot, name))
            evidence = f"{origin}{contract.SERVICE} requires {name}, and {name} {in_words(state)}"
            remedy = f"systemctl status {name}    # repair it; then: sudo litellmctl start"
            yield DEPENDENCY.finding(evidence, remedy=remedy)
    if is_waiting and not named and snapshot.service.get("ActiveState") == "inactive":
        # At boot this may be over in a moment.
        for name in snapshot.systemctl.starting_units():
            evidence = f"the start of {contract.SERVICE} waits, and {name} is still starting"
            remedy = f"systemctl status {name}    # repair it, or let the service start: sudo systemctl stop {name}"
            yield DEPENDENCY.finding(evidence, outcome=Outcome.WARNING, remedy=remedy)
    # A service that was stopped and disabled may have been replaced by the other one.
    is_wanted = snapshot.unit(contract.SERVICE).is_enabled
    for name in sorted(_units(snapshot, ("Conflicts", "ConflictedBy"))) if is_wanted else ():
        if _state(snapshot, name) in ("active", "activating"):
            evidence = f"{name} is active, and cannot run next to {contract.SERVICE} (Conflicts=)"
            remedy = f"sudo systemctl disable --now {name} && sudo litellmctl start    # or remove Conflicts= from it"
            yield DEPENDENCY.finding(evidence, remedy=remedy)


def _named_units(snapshot: Snapshot, *settings: str) -> Iterator[tuple[UnitLine, str]]:
    """The lines of drop-ins that name other units in these settings, with each unit."""
    for line in drop_ins(snapshot):
        if line.section == "[Unit]" and line.name in settings:
            for name in line.value.split()[:_MAX_UNITS]:
                yield line, name


def _missing_at_next_start(snapshot: Snapshot) -> Iterator[Finding]:
    for line, name in _named_units(snapshot, *_NEEDS):
        if (state := _state(snapshot, name)) in _UNUSABLE:
            evidence = f"{line.where}: {line.assignment}: {name} {in_words(state)}, so the next start fails"
            remedy = CORRECT_LINE.format(where=line.where)
            yield DEPENDENCY.finding(evidence, outcome=Outcome.WARNING, remedy=remedy)


def _mount_lines(snapshot: Snapshot, unit: str) -> Iterator[UnitLine]:
    """The lines of drop-ins that require the mount points of a mount unit."""
    point = "/" + unit.removesuffix(".mount").replace("-", "/")
    for each in drop_ins(snapshot):
        if each.name == "RequiresMountsFor" and any(
            f"{path}/".startswith(f"{point}/") for path in each.value.split()
        ):
            yield each


def _state(snapshot: Snapshot, unit: str) -> str:
    """The ActiveState of a unit, or its LoadState if it is not loaded."""
    found = snapshot.systemctl.show(unit, "LoadState", "ActiveState")
    load, active = found.get("LoadState", ""), found.get("ActiveState", "")
    return active if load == "loaded" else load


def _units(snapshot: Snapshot, properties: tuple[str, ...]) -> set[str]:
    """The other units that properties of the service name."""
    found = " ".join(snapshot.service.get(name, "") for name in properties)
    # The root file system is mounted, and systemctl takes its name for an option.
    return set(found.split()[:_MAX_UNITS]) - {*UNITS, "-.mount", "shutdown.target"}


SETTING = Cause(
    "unit-drop-in",
    "The service fails, and a drop-in has a setting that can make it fail in this way.",
    CORRECT_LINE,
    requires=_REQUIRES,
    caused_by=("unit-dependency", "unit-overridden", "unit-root", "environment-unloadable"),
)
#: The start of the names of the settings by systemd's result (systemd.service(5)).
_BY_RESULT = {
    "timeout": (
        *("Timeout", "JobTimeout", "RuntimeMax", "Type", "NotifyAccess", "ExecStart", "ExecStop"),
        *("CPUQuota", "AllowedCPUs", "MemoryHigh"),
    ),
    "watchdog": ("Watchdog", "CPUQuota", "AllowedCPUs", "MemoryHigh"),
    "oom-kill": ("Memory", "OOM"),
    # `environment-unloadable` judges EnvironmentFile=, by whether it can be loaded now.
    "resources": ("Tasks", "Slice", "Delegate", "PIDFile", "LoadCredential", "SetCredential"),
    "protocol": ("Type", "ExecStart", "NotifyAccess", "PIDFile", "RemainAfterExit"),
    "exec-condition": ("ExecCondition",),
}
_MOUNTS = (
    *("Protect", "Private", "RestrictNamespaces", "StateDirectory", "RuntimeDirectory", "CacheDirectory"),
    *("Root", "ReadOnly", "ReadWrite", "Inaccessible", "Exec", "NoExec", "Bind", "TemporaryFileSystem", "Mount"),
)
#: The same by exit code (systemd.exec(5), "Process exit codes").
_BY_STATUS = {
    200: ("WorkingDirectory", "Root"),
    201: ("Nice",),
    203: ("Exec", "NoExec", "Root", "Inaccessible", "Bind", "TemporaryFileSystem"),
    205: ("Limit",),
    206: ("OOMScoreAdjust",),
    209: ("Standard",),
    214: ("CPUScheduling",),
    216: ("Group", "Supplementary", "User", "DynamicUser"),
    217: ("User", "DynamicUser"),
    218: ("CapabilityBoundingSet", "AmbientCapabilities"),
    219: ("Slice", "Delegate"),
    220: ("Personality",),
    224: ("PAM",),
    225: ("PrivateNetwork", "NetworkNamespace"),
    226: _MOUNTS,
    228: ("SystemCall",),
    229: ("SELinux",),
    231: ("AppArmor",),
    233: ("RuntimeDirectory",),
    238: ("StateDirectory",),
    239: ("CacheDirectory",),
    243: ("LoadCredential", "SetCredential", "ImportCredential"),
}
#: The commands before and after that of the service.
_COMMANDS = ("ExecStartPre", "ExecStartPost")
#: A command whose failure systemd ignores; the path of a program without quotes, specifiers and variables; and the
#: interpreter in the first line of a script (execve(2)).
_MAY_FAIL = re.compile(r"[@:+!|]*-")
_PLAIN = re.compile(r"[@:+!|]*(/[^\s%$\"'\\]+)(?=\s|$)")
_SCRIPT = re.compile(rb"#![ \t]*([^ \t\n]+)")
#: In systemd's message about a job that it gave up. The process that it started may still become ready.
_GIVEN_UP = f"Job {contract.SERVICE}/start timed out"
#: As often as this, restarts are a loop: the service runs only for a moment.
_LOOP = 3


@detects(SETTING)
def detect_unit_drop_in(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect settings of drop-ins that explain the result with which the service failed, or a job without one."""
    limits = (each for each in drop_ins(snapshot) if each.name in ("JobTimeoutSec", "JobRunningTimeoutSec"))
    limit = next((each for each in limits if each.value not in ("infinity", "0")), None)
    given_up = limit and next((each for each in snapshot.recent_events if _GIVEN_UP in each.text), None)
    if limit and given_up:
        outcome = Outcome.WARNING if snapshot.is_active else Outcome.FAILED
        shown = f"{limit.where}: {limit.assignment}; {given_up.text}"
        yield SETTING.finding(shown, outcome=outcome, where=limit.where)
        return
    found = find_exit(snapshot)
    if found is None or (snapshot.is_active and int(snapshot.service.get("NRestarts") or "0") < _LOOP):
        return
    names = _BY_STATUS.get(found.status, ()) if found.result == "exit-code" else _BY_RESULT.get(found.result, ())
    if found.result in ("exit-code", "signal") and (control := failed_command(snapshot.known_events)):
        commands = [each for each in drop_ins(snapshot) if each.name in _COMMANDS and not _MAY_FAIL.match(each.value)]
        if commands:
            shown = "; ".join(f"{each.where}: {each.assignment}" for each in commands)
            output = find_output(failed_start(snapshot))
            said = f"; last output: {output}" if output else ""
            # In the order in which systemd runs them.
            faults = (_find_fault(snapshot.layout, each) for each in reversed(commands) if "203/EXEC" in control)
            culprit, fault, fix = next(filter(None, faults), (commands[0], "", ""))
            yield SETTING.finding(
                f"{shown}; {control}{said}" + (f"; {fault}" if fault else ""),
                where=culprit.where,
                instead=f"{fix} && sudo litellmctl start" if fix else "",
            )
            return
    lines = [each for each in drop_ins(snapshot) if each.section == "[Service]" and each.name.startswith(names)]
    if names and lines:
        shown = "; ".join(f"{each.where}: {each.assignment}" for each in lines)
        yield SETTING.finding(f"{shown}; {contract.SERVICE}: {found}", where=lines[0].where)


def _find_fault(layout: Layout, line: UnitLine) -> tuple[UnitLine, str, str] | None:
    """The line, why its program cannot be executed, and a command that repairs it, or an empty string; None if no
    reason is found.
    """
    if (plain := _PLAIN.match(line.value)) is None:
        return None
    program = layout.real(plain[1])
    try:
        if not program.stat().st_mode & 0o111:
            return line, f"{program} is not executable", f"sudo chmod a+x {program}"
        with program.open("rb") as file:
            script = _SCRIPT.match(file.readline(256))
        if script is None or Path(interpreter := script[1].decode(errors="replace")).exists():
            return None
        fix = f"sudo sed -i 's/\\r$//' {program}" if interpreter.endswith("\r") else ""
        return line, f"the first line of {program} names {interpreter!r}, which does not exist", fix
    except FileNotFoundError:
        return line, f"{program} does not exist", ""
    except OSError:
        return None


def failed_command(events: tuple[Event, ...]) -> str:
    """Systemd's message that a command before or after that of the service failed at the last start; may be empty."""
    begin, end = failed_start_times(events)
    failed = (event for event in events if begin <= event.when < end and " Control process exited" in event.message)
    return next((event.message for event in failed), "")
