"""How the service exited: exit code, signal, watchdog, out of memory, start limit; and whether it started at boot."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

from litellm_systemd import contract
from litellm_systemd.contract import ExitCode
from litellm_systemd.doctor.cause import Cause, Finding, detects
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.errors import PermissionDenied
from litellm_systemd.host.state import Action, Verb
from litellm_systemd.host.systemctl import Event
from litellm_systemd.report.report import Outcome

#: Causes that keep the service from starting or make it exit; the exit itself is then a consequence.
STARTUP_BLOCKERS = (
    *("host-disk-full", "host-inodes", "host-read-only", "host-python-gone"),
    *("files-release-gone", "files-gone", "files-config-gone", "files-user-gone", "files-unreadable"),
    *("environment-unusable", "configuration-unusable"),
    *("unit-masked", "unit-bad", "unit-foreign", "port-taken"),
)
_REQUIRES = ("host-systemd-absent", "host-systemd-silent", "files-not-installed", "unit-masked")

#: Message ids of systemd (catalog/systemd.catalog): a process exited; a unit failed; the OOM killer killed a process.
_PROCESS_EXIT = "98e322203f7a4ed290d09fe03c09fe15"
_FAILURE_RESULT = "d9b373ed55a64feb8242e02dbe79a49c"
_OUT_OF_MEMORY = "fe6faa94e7774663a0da52717891d8ef"
#: Seconds after which an exit that the service has recovered from is no longer reported.
_MAX_AGE = 86_400

#: Meaning of exit codes: of the service (sysexits.h) and of systemd (systemd.exec(5), "Process exit codes").
_CODES = {
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
        if self.result == "exit-code":
            return f"exit code {self.status}" + (f" ({_CODES[self.status]})" if self.status in _CODES else "")
        if self.result in ("signal", "core-dump", "watchdog", "oom-kill") and self.status in _SIGNALS:
            return f"Result={self.result}, {_SIGNALS[self.status]}"
        more = f" ({_RESULTS[self.result]})" if self.result in _RESULTS else ""
        return f"Result={self.result}{more}"


_SIGNALS = {int(number): number.name for number in signal.Signals}


def read_exit(events: tuple[Event, ...], since: float) -> ServiceExit | None:
    """The last failure that systemd logged since a Unix time; None if there is none."""
    found, status = None, 0
    for event in events:
        kind = event.fields.get("MESSAGE_ID")
        if event.when < since:
            continue
        if kind == _PROCESS_EXIT and event.message.partition(": ")[2].startswith("Main process"):
            status = int(event.fields.get("EXIT_STATUS", "0"))
        elif kind == _FAILURE_RESULT:
            found = ServiceExit(event.fields.get("UNIT_RESULT", "unknown"), status)
    return found


def find_exit(snapshot: Snapshot) -> ServiceExit | None:
    """The failure that stopped the service, or the last one that systemd restarted it after."""
    service = snapshot.service
    if not snapshot.is_active and service.get("Result", "success") != "success":
        return ServiceExit(service["Result"], int(service.get("ExecMainStatus") or "0"))
    if service.get("NRestarts", "0") == "0":
        return None
    return read_exit(snapshot.events, time.time() - _MAX_AGE)


def _describe(snapshot: Snapshot, found: ServiceExit) -> tuple[str, Outcome]:
    """The exit in words with the service's last error, and its outcome: a warning if the service runs again."""
    if snapshot.is_active:
        number = snapshot.service["NRestarts"]
        times = "once" if number == "1" else f"{number} times"
        return f"{found}; systemd restarted it {times}, and it is running", Outcome.WARNING
    return f"{found}{_last_error(snapshot)}", Outcome.FAILED


def _last_error(snapshot: Snapshot) -> str:
    """The last error of the service, to be appended to a sentence; may be empty."""
    error = snapshot.last_error
    return f"; last error: {error.splitlines()[-1][:300]}" if error else ""


def hit_start_limit(result: str, events: tuple[Event, ...]) -> bool:
    """Whether systemd no longer starts a failed unit. The unit's Result may be that of the previous failure."""
    last = [event.message for event in events[-6:]]
    return result == "start-limit-hit" or any("Start request repeated too quickly" in line for line in last)


START_LIMIT = Cause(
    "unit-start-limit",
    "The service failed so often in a row that systemd no longer starts it. The evidence and the journal (-p err)"
    " show why it failed.",
    "sudo litellmctl start    # after fixing what made it fail",
    fix="resets the failure counter and starts the service",
    requires=_REQUIRES,
    caused_by=STARTUP_BLOCKERS,
)


@detects(START_LIMIT)
def detect_unit_start_limit(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect that systemd stopped restarting the service."""
    if snapshot.service.get("ActiveState") != "failed":
        return
    result = snapshot.service.get("Result", "")
    if not hit_start_limit(result, snapshot.events):
        return
    last = read_exit(tuple(e for e in snapshot.events if e.fields.get("UNIT_RESULT") != "start-limit-hit"), 0)
    last_exit = f"; last exit: {last}" if last else ""
    evidence = f"Start request repeated too quickly{last_exit}{_last_error(snapshot)}"
    yield START_LIMIT.finding(evidence, actions=(Action(Verb.START, contract.SERVICE),))


_CAUSES_OF_EXIT = (*STARTUP_BLOCKERS, "unit-start-limit")

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
    kills = [
        event for event in snapshot.events if event.fields.get("MESSAGE_ID") == _OUT_OF_MEMORY and event.when > since
    ]
    if snapshot.service.get("Result") == "oom-kill" or kills:
        outcome = Outcome.WARNING if snapshot.is_active else Outcome.FAILED
        last = kills[-1].message if kills else "Result=oom-kill"
        yield OOM.finding(f"{last} (in the last day: {len(kills)})", outcome=outcome)


KILLED = Cause(
    "unit-killed",
    "A signal ended the main process. SIGKILL comes from kill -9, or from the kernel when memory runs out, which it"
    " does not always report to systemd. SIGSEGV and SIGABRT mean that a C library crashed.",
    "journalctl -k -n 50; sudo litellmctl start    # for a crash see: coredumpctl info litellm",
    requires=_REQUIRES,
    caused_by=(*_CAUSES_OF_EXIT, "unit-oom"),
)


@detects(KILLED)
def detect_unit_killed(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a main process that a signal has ended."""
    found = find_exit(snapshot)
    if found is not None and found.result in ("signal", "core-dump"):
        evidence, outcome = _describe(snapshot, found)
        yield KILLED.finding(evidence, outcome=outcome)


EXIT = Cause(
    "unit-exit",
    "The service exited with an error or could not be started. The evidence has the meaning of the exit code and the"
    " last error in the journal.",
    "journalctl -u litellm -n 50; sudo litellmctl start    # start it after fixing the cause",
    requires=_REQUIRES,
    caused_by=_CAUSES_OF_EXIT,
)


@detects(EXIT)
def detect_unit_exit(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect any other failure of the service."""
    found = find_exit(snapshot)
    if found is not None and found.result not in ("signal", "core-dump", "watchdog", "oom-kill", "start-limit-hit"):
        evidence, outcome = _describe(snapshot, found)
        yield EXIT.finding(evidence, outcome=outcome)


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
