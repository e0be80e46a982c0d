"""Drop-ins that keep the service from starting or end it: conditions, dependencies, settings that systemd enforces.

Found by the result that systemd reports, without the journal. `systemctl set-property` and top-level drop-ins
(service.d) count as well.
"""

from __future__ import annotations

from collections.abc import Iterator

from litellm_systemd import contract
from litellm_systemd.doctor.check_unit import CORRECT_LINE, drop_ins, failed_start_times, find_exit
from litellm_systemd.doctor.engine import Cause, Finding, detects
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.host.systemctl import Event

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
    kinds = [kind for kind in ("Condition", "Assert") if snapshot.service.get(f"{kind}Result") == "no"]
    asked = any(snapshot.service.get(f"{kind}Timestamp") for kind in kinds)
    if snapshot.is_active or not asked:
        return
    lines = [each for each in drop_ins(snapshot) if each.name.startswith(tuple(kinds))]
    shown = "; ".join(f"{each.where}: {each.assignment}" for each in lines)
    if lines:
        yield CONDITION.finding(shown, where=lines[0].where)


DEPENDENCY = Cause(
    "unit-dependency",
    "A drop-in makes the service depend on a unit that is missing, does not run or does not become active, so systemd"
    " does not start the service.",
    CORRECT_LINE,
    requires=_REQUIRES,
)
#: Settings whose units must be active, and those for which the start waits (systemd.unit(5)).
_NEEDS, _WAITS = ("Requires", "Requisite", "BindsTo"), "After"
_MAX_UNITS = 20


@detects(DEPENDENCY)
def detect_unit_dependency(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect units that a drop-in requires and that are not active, while the service does not run."""
    if snapshot.is_active:
        return
    is_waiting = snapshot.service.get("Job", "0") not in ("", "0")
    for each in drop_ins(snapshot):
        if each.section != "[Unit]" or each.name not in (*_NEEDS, _WAITS):
            continue
        for name in each.value.split()[:_MAX_UNITS]:
            found = snapshot.systemctl.show(name, "LoadState", "ActiveState")
            load, active = found.get("LoadState", ""), found.get("ActiveState", "")
            if each.name == _WAITS:
                is_cause = is_waiting and active == "activating"
            else:
                is_cause = active not in ("active", "reloading", "refreshing")
            if is_cause:
                state = active if load == "loaded" else load
                evidence = f"{each.where}: {each.name}={name}, and {name} is {state}"
                yield DEPENDENCY.finding(evidence, where=each.where)


SETTING = Cause(
    "unit-drop-in",
    "The service fails, and a drop-in has a setting that can make it fail in this way.",
    CORRECT_LINE,
    requires=_REQUIRES,
    caused_by=("unit-dependency", "unit-overridden", "unit-root", "unit-stop-timeout", "environment-unloadable"),
)
#: The start of the names of the settings by systemd's result (systemd.service(5)).
_BY_RESULT = {
    "timeout": (
        *("Timeout", "JobTimeout", "RuntimeMax", "Type", "NotifyAccess", "ExecStart", "ExecStop"),
        *("CPUQuota", "AllowedCPUs", "MemoryHigh"),
    ),
    "watchdog": ("Watchdog", "CPUQuota", "AllowedCPUs", "MemoryHigh"),
    "oom-kill": ("Memory", "OOM"),
    "resources": ("EnvironmentFile", "Tasks", "Slice", "Delegate", "PIDFile", "LoadCredential", "SetCredential"),
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
#: As often as this, restarts are a loop: the service runs only for a moment.
_LOOP = 3


@detects(SETTING)
def detect_unit_drop_in(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect settings of drop-ins that explain the result with which the service failed."""
    found = find_exit(snapshot)
    if found is None or (snapshot.is_active and int(snapshot.service.get("NRestarts") or "0") < _LOOP):
        return
    names = _BY_STATUS.get(found.status, ()) if found.result == "exit-code" else _BY_RESULT.get(found.result, ())
    if found.result in ("exit-code", "signal") and (control := failed_command(snapshot.events)):
        commands = [each for each in drop_ins(snapshot) if each.name in _COMMANDS and not each.value.startswith("-")]
        if commands:
            shown = "; ".join(f"{each.where}: {each.assignment}" for each in commands)
            yield SETTING.finding(f"{shown}; {control}", where=commands[0].where)
            return
    lines = [each for each in drop_ins(snapshot) if each.section == "[Service]" and each.name.startswith(names)]
    if names and lines:
        shown = "; ".join(f"{each.where}: {each.assignment}" for each in lines)
        yield SETTING.finding(f"{shown}; {contract.SERVICE}: {found}", where=lines[0].where)


def failed_command(events: tuple[Event, ...]) -> str:
    """Systemd's message that a command before or after that of the service failed at the last start; may be empty."""
    begin, end = failed_start_times(events)
    failed = (event for event in events if begin <= event.when < end and " Control process exited" in event.message)
    return next((event.message for event in failed), "")
