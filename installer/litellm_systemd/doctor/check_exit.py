"""How the service ended: its exit code, a signal, the watchdog, memory, and systemd's patience."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

from litellm_systemd import contract
from litellm_systemd.contract import ExitCode
from litellm_systemd.doctor.cause import Cause, Finding, looks_for
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.errors import PermissionDenied
from litellm_systemd.host.state import Action, Verb
from litellm_systemd.host.systemctl import Event
from litellm_systemd.report.report import Outcome

#: What keeps the service from starting, or ends it; a bad end is only its consequence.
GROUND = (
    *("host-disk-full", "host-inodes", "host-read-only", "host-python-gone"),
    *("files-release-gone", "files-gone", "files-config-gone", "files-user-gone", "files-unreadable"),
    *("environment-unusable", "configuration-unusable"),
    *("unit-masked", "unit-bad", "unit-foreign", "port-taken"),
)
_NEEDS = ("host-systemd-absent", "host-systemd-silent", "files-not-installed", "unit-masked")

#: Message ids of systemd (catalog/systemd.catalog): a process ended; a unit failed; the OOM killer came.
_PROCESS_EXIT = "98e322203f7a4ed290d09fe03c09fe15"
_FAILURE_RESULT = "d9b373ed55a64feb8242e02dbe79a49c"
_OUT_OF_MEMORY = "fe6faa94e7774663a0da52717891d8ef"
#: Seconds after which an end that the service has recovered from isn't news any more.
_OLD = 86_400

#: What an exit code means: those of the service (sysexits.h) and of systemd (systemd.exec(5), "Process exit codes").
_CODES = {
    int(ExitCode.CONFIG): "the configuration or the environment can't work",
    int(ExitCode.UNAVAILABLE): "the port can't be had",
    int(ExitCode.TEMPORARY): "no worker got ready",
    int(ExitCode.SOFTWARE): "a defect",
    200: "CHDIR: no working directory",
    203: "EXEC: its Python isn't there or can't be run",
    209: "STDOUT: the journal can't be reached",
    216: "GROUP: there is no such group",
    217: "USER: there is no such user",
    218: "CAPABILITIES: a container without the right to change them",
    226: "NAMESPACE: the kernel refuses the sandbox, or a path in it is missing",
    228: "SECCOMP: the kernel refuses the filter of system calls",
    233: "RUNTIME_DIRECTORY: /run/litellm can't be made",
    238: "STATE_DIRECTORY: /var/lib/litellm can't be made or given to the user",
    239: "CACHE_DIRECTORY: /var/cache/litellm can't be made or given to the user",
    243: "CREDENTIALS: a credential can't be set up",
}
_RESULTS = {
    "timeout": "it wasn't ready, or didn't stop, in time",
    "resources": "systemd can't set it up: a file that the unit names is missing, or there is no memory",
    "protocol": "it ended before it was ready",
}


@dataclass(frozen=True, slots=True)
class End:
    """How the service ended: systemd's `result` (such as exit-code, signal, watchdog), and the code or signal."""

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


def read_end(events: tuple[Event, ...], since: float) -> End | None:
    """The last bad end in what systemd logged, None if there is none since then (Unix time)."""
    end, status = None, 0
    for event in events:
        kind = event.fields.get("MESSAGE_ID")
        if event.when < since:
            continue
        if kind == _PROCESS_EXIT and event.message.partition(": ")[2].startswith("Main process"):
            status = int(event.fields.get("EXIT_STATUS", "0"))
        elif kind == _FAILURE_RESULT:
            end = End(event.fields.get("UNIT_RESULT", "unknown"), status)
    return end


def find_end(snapshot: Snapshot) -> End | None:
    """How the service ended: for good, or lately and was restarted by systemd."""
    found = snapshot.service
    if not snapshot.is_active and found.get("Result", "success") != "success":
        return End(found["Result"], int(found.get("ExecMainStatus") or "0"))
    if found.get("NRestarts", "0") == "0":
        return None
    return read_end(snapshot.events, time.time() - _OLD)


def _tell(snapshot: Snapshot, end: End) -> tuple[str, Outcome]:
    """An end in words, with what the service itself said; and how bad it is now."""
    if snapshot.is_active:
        times = snapshot.service["NRestarts"]
        return f"{end}; restarted by systemd {times} times, and it runs", Outcome.WARNING
    said = snapshot.once("last words", lambda: _last_words(snapshot))
    return f"{end}" + (f"; it said: {said}" if said else ""), Outcome.FAILED


def _last_words(snapshot: Snapshot) -> str:
    return snapshot.last_error.splitlines()[-1][:300] if snapshot.last_error else ""


def has_given_up(result: str, events: tuple[Event, ...]) -> bool:
    """Whether systemd refuses to start a failed unit any more. Its Result may be that of the last end before."""
    last = [event.message for event in events[-6:]]
    return result == "start-limit-hit" or any("Start request repeated too quickly" in line for line in last)


START_LIMIT = Cause(
    "unit-start-limit",
    "The service died so often in a row that systemd doesn't start it any more. What it died of is in the finding,"
    " and in the journal (-p err).",
    "sudo litellmctl start    # when what it died of is mended",
    fix="forgets the failures and starts it",
    needs=_NEEDS,
    follows=GROUND,
)


@looks_for(START_LIMIT)
def start_limit(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether systemd has given up."""
    if snapshot.service.get("ActiveState") != "failed":
        return
    result = snapshot.service.get("Result", "")
    if not has_given_up(result, snapshot.events):
        return
    end = read_end(tuple(e for e in snapshot.events if e.fields.get("UNIT_RESULT") != "start-limit-hit"), 0)
    died = f", the last time with {end}" if end else ""
    said = _last_words(snapshot)
    seen = f"Start request repeated too quickly{died}" + (f"; it said: {said}" if said else "")
    yield START_LIMIT.found(seen, actions=(Action(Verb.START, contract.SERVICE),))


_ENDS_FOLLOW = (*GROUND, "unit-start-limit")

WATCHDOG = Cause(
    "unit-watchdog",
    "The main process gave no sign of life for WATCHDOG_TIMEOUT seconds and was killed: the host stood still, or had"
    " no CPU or memory to give. A worker that hangs is replaced without that.",
    "journalctl -u litellm -n 50    # where it hung; a larger WATCHDOG_TIMEOUT in .env gives a slow host time",
    needs=_NEEDS,
    follows=_ENDS_FOLLOW,
)


@looks_for(WATCHDOG)
def watchdog(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the watchdog has ended the service."""
    end = find_end(snapshot)
    if end is not None and end.result == "watchdog":
        seen, outcome = _tell(snapshot, end)
        yield WATCHDOG.found(seen, outcome=outcome)


OOM = Cause(
    "unit-oom",
    "The kernel killed a process of the service for want of memory. A worker is replaced; the main process takes all"
    " requests with it.",
    "WORKER_MEMORY_LIMIT=MIB and fewer NUM_WORKERS in .env, then: sudo litellmctl install    # or more memory",
    needs=_NEEDS,
    follows=_ENDS_FOLLOW,
)


@looks_for(OOM)
def out_of_memory(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the kernel has killed a process of the service for its memory, as far as systemd was told."""
    since = time.time() - _OLD
    kills = [
        event for event in snapshot.events if event.fields.get("MESSAGE_ID") == _OUT_OF_MEMORY and event.when > since
    ]
    if snapshot.service.get("Result") == "oom-kill" or kills:
        outcome = Outcome.WARNING if snapshot.is_active else Outcome.FAILED
        last = kills[-1].message if kills else "Result=oom-kill"
        yield OOM.found(f"{last} ({len(kills)} times in the last day)", outcome=outcome)


KILLED = Cause(
    "unit-killed",
    "A signal ended the main process. SIGKILL is somebody's kill -9, or the kernel's for want of memory, of which"
    " systemd isn't always told. SIGSEGV and SIGABRT are a crash of a library in C.",
    "journalctl -k -n 50    # for a crash: coredumpctl info litellm; then: sudo litellmctl start",
    needs=_NEEDS,
    follows=(*_ENDS_FOLLOW, "unit-oom"),
)


@looks_for(KILLED)
def killed(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether a signal has ended the main process."""
    end = find_end(snapshot)
    if end is not None and end.result in ("signal", "core-dump"):
        seen, outcome = _tell(snapshot, end)
        yield KILLED.found(seen, outcome=outcome)


EXIT = Cause(
    "unit-exit",
    "The service ended by itself, or couldn't be started. The exit code is told in words; the line of the journal"
    " that tells the cause is in the finding.",
    "journalctl -u litellm -n 50    # when the cause is mended: sudo litellmctl start",
    needs=_NEEDS,
    follows=_ENDS_FOLLOW,
)


@looks_for(EXIT)
def ended(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the service has ended in any other way that systemd calls a failure."""
    end = find_end(snapshot)
    if end is not None and end.result not in ("signal", "core-dump", "watchdog", "oom-kill", "start-limit-hit"):
        seen, outcome = _tell(snapshot, end)
        yield EXIT.found(seen, outcome=outcome)


NOT_STARTED = Cause(
    "unit-not-started",
    "The service is enabled, and nothing has started it since this boot.",
    "sudo litellmctl start",
    outcome=Outcome.WARNING,
    needs=_NEEDS,
    follows=_ENDS_FOLLOW,
)


@looks_for(NOT_STARTED)
def not_started(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether a boot has left out what it should start. One that was stopped since has been started before."""
    unit = snapshot.unit(contract.SERVICE)
    never = snapshot.service.get("InactiveExitTimestampMonotonic") == "0"
    if unit.is_enabled and unit.active == "inactive" and never and snapshot.service.get("Result") == "success":
        try:
            said = [event.message for event in snapshot.events]
        except PermissionDenied:
            said = []
        yield NOT_STARTED.found(said[-1] if said else "ActiveState=inactive since boot, and no try to start it")
